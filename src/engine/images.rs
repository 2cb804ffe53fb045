//! Encoded images that clients have left here, to ask of them again and again.
//!
//! Owns their ids and how long each is held. An id is all that it takes to use an image, so ids are not to be guessed and are
//! listed nowhere. What models make of images is [`features`](super::features)' to hold.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use uuid::Uuid;

use super::features::ImageDigest;
use super::request::SegmentError;
use crate::support::ByteLru;

/// An encoded image.
#[derive(Debug, Clone)]
pub(super) struct EncodedImage {
    pub(super) bytes: Bytes,
    /// Of the bytes.
    pub(super) digest: ImageDigest,
}

/// Images with what they are called.
#[derive(Debug)]
pub(super) struct HeldImages {
    lifetime: Duration,
    state: Mutex<State>,
}

/// Images and their ends change together.
#[derive(Debug)]
struct State {
    held: ByteLru<Arc<str>, Held>,
    /// The same images by when they expire.
    ends: BTreeSet<(Instant, Arc<str>)>,
}

#[derive(Debug)]
struct Held {
    image: EncodedImage,
    end: Instant,
}

/// What is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ImageStatistics {
    /// Images.
    pub(super) images: usize,
    /// Bytes they take.
    pub(super) bytes: u64,
}

impl HeldImages {
    /// Holds at most this many bytes, where the least recently used images go first, and each for no longer than the lifetime.
    pub(super) fn new(capacity_bytes: u64, lifetime: Duration) -> Self {
        Self {
            lifetime,
            state: Mutex::new(State {
                held: ByteLru::new(capacity_bytes),
                ends: BTreeSet::new(),
            }),
        }
    }

    /// How long an image is held.
    pub(super) fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// Whether an image of so many bytes can be held at all.
    ///
    /// # Errors
    /// [`SegmentError::ImageTooLargeToHold`].
    pub(super) fn check(&self, image: &Bytes) -> Result<(), SegmentError> {
        let (bytes, limit) = (entry_bytes(image), self.state().held.capacity_bytes());
        if bytes > limit {
            return Err(SegmentError::ImageTooLargeToHold { bytes, limit });
        }
        Ok(())
    }

    /// Holds an image that can be held; its id.
    pub(super) fn hold(&self, image: EncodedImage, now: Instant) -> Arc<str> {
        // 122 bits of the operating system's random numbers.
        let id: Arc<str> = Uuid::new_v4().simple().to_string().into();
        // An upload's buffer may be larger than what is in it.
        let image = EncodedImage {
            bytes: Bytes::copy_from_slice(&image.bytes),
            ..image
        };
        let (bytes, end) = (entry_bytes(&image.bytes), now + self.lifetime);
        let mut state = self.state();
        state.expire(now);
        state.ends.insert((end, Arc::clone(&id)));
        for (id, held) in state.held.insert(Arc::clone(&id), Held { image, end }, bytes) {
            state.ends.remove(&(held.end, id));
        }
        id
    }

    /// The image of an id, which counts as use and does not make it stay longer.
    pub(super) fn get(&self, id: &str, now: Instant) -> Option<EncodedImage> {
        let mut state = self.state();
        state.expire(now);
        Some(state.held.get(&id.into())?.image.clone())
    }

    /// Lets go of an image, if it is held.
    pub(super) fn remove(&self, id: &str, now: Instant) -> Option<EncodedImage> {
        let mut state = self.state();
        state.expire(now);
        let id = id.into();
        let Held { image, end } = state.held.remove(&id)?;
        state.ends.remove(&(end, id));
        Some(image)
    }

    /// What is held.
    pub(super) fn statistics(&self, now: Instant) -> ImageStatistics {
        let mut state = self.state();
        state.expire(now);
        ImageStatistics {
            images: state.held.len(),
            bytes: state.held.bytes(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it has the images' lock")
    }
}

impl State {
    /// Lets go of what has expired.
    fn expire(&mut self, now: Instant) {
        while self.ends.first().is_some_and(|(end, _)| *end <= now)
            && let Some((_, id)) = self.ends.pop_first()
        {
            self.held.remove(&id);
        }
    }
}

/// Bytes of an image with its id and its place among the ends.
fn entry_bytes(image: &Bytes) -> u64 {
    let id = Uuid::nil().simple().to_string().len();
    ByteLru::<Arc<str>, Held>::entry_bytes(id + size_of::<(Instant, Arc<str>)>() + image.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFETIME: Duration = Duration::from_secs(60);

    fn image(bytes: &'static [u8]) -> EncodedImage {
        EncodedImage {
            bytes: Bytes::from_static(bytes),
            digest: ImageDigest::of(bytes),
        }
    }

    /// Room for so many images of one byte.
    fn images(count: u64) -> HeldImages {
        HeldImages::new(count * entry_bytes(&Bytes::from_static(b"a")), LIFETIME)
    }

    #[test]
    fn an_image_is_there_under_its_id_until_it_is_removed() {
        let (images, now) = (images(2), Instant::now());
        let [a, again] = [(); 2].map(|()| images.hold(image(b"a"), now));
        assert_ne!(a, again);
        assert_eq!(a.len(), 32);
        assert_eq!(images.get(&a, now).map(|held| held.bytes), Some("a".into()));
        assert!(images.get("a", now).is_none());
        assert_eq!(
            images.remove(&a, now).map(|held| held.digest),
            Some(ImageDigest::of(b"a"))
        );
        assert!(images.get(&a, now).is_none() && images.remove(&a, now).is_none());
        assert!(images.get(&again, now).is_some());
        assert_eq!(images.statistics(now).images, 1);
    }

    #[test]
    fn an_image_expires_however_often_it_is_used() {
        let (images, start) = (images(2), Instant::now());
        let id = images.hold(image(b"a"), start);
        let just_before = start + LIFETIME - Duration::from_nanos(1);
        let later = images.hold(image(b"b"), just_before);
        assert!(images.get(&id, just_before).is_some());
        assert!(images.get(&id, start + LIFETIME).is_none());
        assert!(images.get(&later, start + LIFETIME).is_some());
        assert_eq!(images.statistics(start + LIFETIME).images, 1);
        assert_eq!(
            images.statistics(just_before + LIFETIME),
            ImageStatistics { images: 0, bytes: 0 }
        );
    }

    #[test]
    fn the_least_recently_used_image_goes_first() {
        let (images, now) = (images(2), Instant::now());
        let [a, b] = [b"a", b"b"].map(|bytes| images.hold(image(bytes), now));
        assert!(images.get(&a, now).is_some());
        let c = images.hold(image(b"c"), now);
        assert!(images.get(&b, now).is_none());
        assert!(images.get(&a, now).is_some() && images.get(&c, now).is_some());
        assert_eq!(images.state().ends.len(), 2);
    }

    #[test]
    fn an_image_larger_than_all_that_may_be_held_is_refused_and_the_limit_named() {
        let images = images(1);
        assert!(images.check(&Bytes::from_static(b"a")).is_ok());
        let refused = images
            .check(&Bytes::from_static(b"aa"))
            .map_err(|error| error.to_string());
        assert!(refused.is_err_and(|error| error.contains("images.held_bytes")));
    }
}
