//! Held images in Redis: the bytes of each under its owner and its id, for as long as it is held.
//!
//! An image that was deleted leaves a mark of one byte for as long, so that replicas with a copy of their own learn of
//! it.

use std::time::Duration;

use bytes::Bytes;
use redis::Script;

use super::error::SharedError;
use super::link::SharedState;
use super::metrics::Operation;

/// What is known of an image before its bytes: width, height, digest.
const HEADER_BYTES: usize = 4 + 4 + 32;

/// What stands in place of an image that was deleted.
const DELETED: &str = "-";

/// An encoded image that replicas share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedImage {
    /// Width and height in pixels.
    pub size: (u32, u32),
    /// SHA-256 of the bytes.
    pub digest: [u8; 32],
    /// The encoded image.
    pub bytes: Bytes,
}

/// What is known of an image's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageState {
    /// Nothing: it was never shared, or has expired, or Redis has dropped it.
    Unknown,
    /// It was deleted.
    Deleted,
    /// It is there.
    There {
        /// Width and height in pixels.
        size: (u32, u32),
        /// SHA-256 of its bytes.
        digest: [u8; 32],
        /// Number of its bytes.
        bytes: u64,
        /// How long it is still there.
        expires_in: Duration,
    },
}

/// Arguments: the mark of a deletion, milliseconds, whether the caller has the image.
/// Returns 1 if the image was there or is the caller's, and not deleted yet. The mark stays as long as any copy may.
const DROP: &str = "
local bytes = redis.call('STRLEN', KEYS[1])
if bytes == 1 or (bytes == 0 and ARGV[3] == '0') then return 0 end
local lifetime = math.max(tonumber(ARGV[2]), redis.call('PTTL', KEYS[1]))
redis.call('SET', KEYS[1], ARGV[1], 'PX', string.format('%.0f', lifetime))
return 1";

/// Keys: those of images. Drops them without a mark. What was deleted keeps its own.
const UNSHARE: &str = "
for i = 1, #KEYS do
    local bytes = redis.pcall('STRLEN', KEYS[i])
    if type(bytes) == 'number' and bytes > 1 then redis.call('DEL', KEYS[i]) end
end";

/// Keys: those of images. Returns for each 1 if it was deleted, else 0. What is no image counts as not deleted.
const WHICH_ARE_DELETED: &str = "
local deleted = {}
for i = 1, #KEYS do deleted[i] = redis.pcall('STRLEN', KEYS[i]) == 1 and 1 or 0 end
return deleted";

impl SharedState {
    /// Shares an image for so long, two at once. Returns false for one larger than `shared.max_image_bytes`.
    ///
    /// # Errors
    /// [`SharedError`].
    pub async fn write_image(
        &self,
        owner: &str,
        id: &str,
        image: &SharedImage,
        lifetime: Duration,
    ) -> Result<bool, SharedError> {
        if image.bytes.len() as u64 > self.settings.max_image_bytes {
            return Ok(false);
        }
        let permit = self.images_at_once.acquire().await;
        let _permit = permit.expect("nobody closes the semaphore");
        let bytes = image.bytes.len() as u64;
        let mut value = header(image.size, &image.digest);
        value.extend_from_slice(&image.bytes);
        let mut write = redis::cmd("SET");
        write.arg(self.image_key(owner, id)).arg(value);
        write.arg("PX").arg(milliseconds(lifetime));
        let work = async |mut connection| write.query_async::<()>(&mut connection).await;
        self.run_with(Operation::WriteImage, bytes, work).await?;
        Ok(true)
    }

    /// Looks whether an image is there, without reading its bytes.
    ///
    /// # Errors
    /// [`SharedError`].
    pub async fn look_at_image(&self, owner: &str, id: &str) -> Result<ImageState, SharedError> {
        let key = self.image_key(owner, id);
        let mut look = redis::pipe();
        look.cmd("STRLEN").arg(&key);
        look.cmd("GETRANGE").arg(&key).arg(0).arg(HEADER_BYTES - 1);
        look.cmd("PTTL").arg(&key);
        let work = async |mut connection| look.query_async::<(u64, Vec<u8>, i64)>(&mut connection).await;
        let (bytes, head, expires) = match self.run(Operation::LookAtImage, work).await {
            // What is no image is none.
            Err(SharedError::Damaged) => return Ok(ImageState::Unknown),
            looked => looked?,
        };
        Ok(match (bytes, read_header(&head)) {
            (1, _) => ImageState::Deleted,
            (_, Some((size, digest))) => ImageState::There {
                size,
                digest,
                bytes: bytes - HEADER_BYTES as u64,
                expires_in: Duration::from_millis(expires.max(0).cast_unsigned()),
            },
            (_, None) => ImageState::Unknown,
        })
    }

    /// Drops images, given by their owners and ids, and lets the copies of replicas be.
    ///
    /// # Errors
    /// [`SharedError`].
    pub async fn unshare_images(&self, images: &[(&str, &str)]) -> Result<(), SharedError> {
        let script = Script::new(UNSHARE);
        let mut unshare = script.prepare_invoke();
        for (owner, id) in images {
            unshare.key(self.image_key(owner, id));
        }
        let work = async |mut connection| unshare.invoke_async::<()>(&mut connection).await;
        self.run(Operation::DropImage, work).await
    }

    /// Returns for some images, given by their owners and ids, whether each was deleted.
    ///
    /// # Errors
    /// [`SharedError`].
    pub async fn which_are_deleted(&self, images: &[(&str, &str)]) -> Result<Vec<bool>, SharedError> {
        let script = Script::new(WHICH_ARE_DELETED);
        let mut look = script.prepare_invoke();
        for (owner, id) in images {
            look.key(self.image_key(owner, id));
        }
        let work = async |mut connection| look.invoke_async::<Vec<bool>>(&mut connection).await;
        self.run(Operation::LookAtImage, work).await
    }

    /// Returns the bytes of the largest image that is read or written.
    pub fn max_image_bytes(&self) -> u64 {
        self.settings.max_image_bytes
    }

    /// Reads an image. Two are read or written at once. Returns `None` for one that is not there, or is larger than
    /// `shared.max_image_bytes`, of which no more is read.
    ///
    /// # Errors
    /// [`SharedError`].
    pub async fn read_image(&self, owner: &str, id: &str) -> Result<Option<SharedImage>, SharedError> {
        let permit = self.images_at_once.acquire().await;
        let _permit = permit.expect("nobody closes the semaphore");
        let most = HEADER_BYTES as u64 + self.settings.max_image_bytes;
        let mut read = redis::cmd("GETRANGE");
        // One byte more tells a larger one.
        read.arg(self.image_key(owner, id)).arg(0).arg(most);
        let work = async |mut connection| read.query_async::<Vec<u8>>(&mut connection).await;
        let value = match self.run_with(Operation::ReadImage, most, work).await {
            Err(SharedError::Damaged) => return Ok(None),
            read => read?,
        };
        if value.len() as u64 > most {
            return Ok(None);
        }
        Ok(read_header(&value).map(|(size, digest)| SharedImage {
            size,
            digest,
            bytes: Bytes::from(value).slice(HEADER_BYTES..),
        }))
    }

    /// Drops an image, and has replicas with a copy of their own know of it for so long. `is_held` says whether the
    /// caller has one. Returns false if there was no image.
    ///
    /// # Errors
    /// [`SharedError`].
    pub async fn drop_image(
        &self,
        owner: &str,
        id: &str,
        lifetime: Duration,
        is_held: bool,
    ) -> Result<bool, SharedError> {
        let script = Script::new(DROP);
        let mut drop = script.prepare_invoke();
        drop.key(self.image_key(owner, id)).arg(DELETED);
        drop.arg(milliseconds(lifetime)).arg(u8::from(is_held));
        let work = async |mut connection| drop.invoke_async::<bool>(&mut connection).await;
        self.run(Operation::DropImage, work).await
    }

    /// Returns an image's key. Ids have no slash, so no owner's key is another's.
    fn image_key(&self, owner: &str, id: &str) -> String {
        self.key("image", &format!("{owner}/{id}"))
    }
}

fn milliseconds(lifetime: Duration) -> u64 {
    u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX).max(1)
}

fn header((width, height): (u32, u32), digest: &[u8; 32]) -> Vec<u8> {
    [&width.to_le_bytes()[..], &height.to_le_bytes(), digest].concat()
}

/// Reads what is known of an image from the beginning of its value.
fn read_header(value: &[u8]) -> Option<((u32, u32), [u8; 32])> {
    let (width, rest) = value.split_first_chunk()?;
    let (height, rest) = rest.split_first_chunk()?;
    let digest = rest.first_chunk()?;
    Some(((u32::from_le_bytes(*width), u32::from_le_bytes(*height)), *digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_of_an_image_is_read_as_it_was_written() {
        let mut value = header((640, 480), &[7; 32]);
        assert_eq!(value.len(), HEADER_BYTES);
        value.extend_from_slice(b"image");
        assert_eq!(read_header(&value), Some(((640, 480), [7; 32])));
        assert_eq!(read_header(&value[..HEADER_BYTES - 1]), None);
        assert_eq!(read_header(DELETED.as_bytes()), None);
    }
}
