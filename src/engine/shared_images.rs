//! Held images in common with other replicas.
//!
//! This replica's images are its near copy: an image that another replica took is read once, and held here from then on
//! for as long as there. What was deleted on another replica is not used here, unless the shared state cannot be
//! reached. Features are never shared: each replica computes its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use super::caller::CallerId;
use super::features::ImageDigest;
use super::images::{Displaced, EncodedImage, HeldImageStatus, HeldPlace};
use super::request::EngineError;
use super::{Caller, Engine};
use crate::shared::{ImageState, SharedError, SharedImage, SharedState};
use crate::support::{lock, run_blocking};

/// Number of hexadecimal digits of an id.
const ID_DIGITS: usize = 32;

/// Held images that are asked about at once.
const ASKED_AT_ONCE: usize = 500;

/// The images that are being read from the shared state: one who wants an image reads it for all who do.
#[derive(Debug, Default)]
pub(super) struct Fetching(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl Fetching {
    /// Returns what the one holds who reads an image.
    fn turn(&self, owner: &str, id: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut fetching = lock(&self.0);
        fetching.retain(|_, turn| turn.strong_count() > 0);
        let turn = fetching.entry(format!("{owner}/{id}")).or_default();
        turn.upgrade().unwrap_or_else(|| {
            let new = Arc::default();
            *turn = Arc::downgrade(&new);
            new
        })
    }
}

impl Engine {
    /// Shares an image that was taken here with other replicas. Returns whether they know it now; `None` where nothing is
    /// shared.
    pub(super) async fn share_image(
        &self,
        caller: &Caller,
        id: &str,
        image: &EncodedImage,
        size: (u32, u32),
    ) -> Option<bool> {
        let shared = self.shared.as_ref()?;
        let lifetime = self.images.lifetime();
        let image = SharedImage {
            size,
            digest: image.digest.0,
            bytes: image.bytes.clone(),
        };
        let written = shared.write_image(owner(caller), id, &image, lifetime).await;
        let is_shared = written.unwrap_or(false);
        if is_shared && self.images.status(caller.id(), id, Instant::now()).is_none() {
            // Other images needed the room meanwhile.
            self.unshare_images(vec![(caller.id(), id.into())]).await;
            return Some(false);
        }
        Some(is_shared)
    }

    /// Takes images that this replica took, and no longer holds, out of the shared state, so that this has no more than
    /// replicas hold: what makes room is the same as where nothing is shared. Copies of other replicas stay.
    pub(super) async fn unshare_images(&self, displaced: Displaced) {
        let Some(shared) = &self.shared else { return };
        let owned = displaced
            .iter()
            .filter_map(|(caller, id)| Some((self.callers.numbered(*caller)?, id)));
        let owned: Vec<_> = owned.collect();
        let images: Vec<_> = owned.iter().map(|(caller, id)| (owner(caller), &***id)).collect();
        for images in images.chunks(ASKED_AT_ONCE) {
            // What cannot be dropped ends by itself.
            let _ = shared.unshare_images(images).await;
        }
    }

    /// Returns the caller's image with this id, whichever replica took it.
    ///
    /// # Errors
    /// [`EngineError::ImageNotHeld`] when no image of the caller is held under the id, and [`EngineError::ImageNotKnown`]
    /// when none is here and others cannot be asked for.
    pub(super) async fn find_image(&self, caller: &Caller, id: &str) -> Result<EncodedImage, EngineError> {
        let here = || self.images.get(caller.id(), id, Instant::now());
        let Some(shared) = self.shared.as_ref().filter(|_| is_id(id)) else {
            return here().ok_or(EngineError::ImageNotHeld);
        };
        match shared.look_at_image(owner(caller), id).await {
            Ok(ImageState::Deleted) => {
                self.forget_image(caller.id(), id);
                Err(EngineError::ImageNotHeld)
            }
            Ok(ImageState::There { bytes, expires_in, .. }) => match here() {
                Some(image) => Ok(image),
                None if bytes > shared.max_image_bytes() => Err(EngineError::ImageNotHeld),
                None => self.fetch_image(shared, caller, id, expires_in).await,
            },
            Ok(ImageState::Unknown) => here().ok_or(EngineError::ImageNotHeld),
            Err(error) => here().ok_or(EngineError::ImageNotKnown(error)),
        }
    }

    /// Reads an image that another replica took, and holds it here if there is room.
    async fn fetch_image(
        &self,
        shared: &SharedState,
        caller: &Caller,
        id: &str,
        expires_in: Duration,
    ) -> Result<EncodedImage, EngineError> {
        let turn = self.fetching.turn(owner(caller), id);
        let _turn = turn.lock().await;
        if let Some(image) = self.images.get(caller.id(), id, Instant::now()) {
            return Ok(image);
        }
        let read = shared.read_image(owner(caller), id).await;
        let read = read.map_err(EngineError::ImageNotKnown)?;
        let SharedImage { size, digest, bytes } = read.ok_or(EngineError::ImageNotHeld)?;
        let hashed = bytes.clone();
        let image = EncodedImage {
            digest: run_blocking(move || ImageDigest::of(&hashed)).await,
            bytes,
        };
        if image.digest != ImageDigest(digest) {
            tracing::warn!("an image in the shared state is damaged; going on without it");
            return Err(EngineError::ImageNotHeld);
        }
        if self.images.check(&image.bytes).is_ok() {
            let now = Instant::now();
            let times = (now, now + expires_in);
            let displaced = self.images.hold_as(caller.id(), id.into(), image.clone(), size, times);
            self.unshare_images(displaced).await;
        }
        Ok(image)
    }

    /// Returns what is known of an image that the caller left, on whichever replica. Does not count as use.
    ///
    /// # Errors
    /// [`EngineError::ImageNotHeld`] when no image of the caller is held under the id, and [`EngineError::ImageNotKnown`]
    /// when none is here and others cannot be asked for.
    pub async fn held_image(&self, caller: &Caller, id: &str) -> Result<HeldImageStatus, EngineError> {
        let here = || self.images.status(caller.id(), id, Instant::now());
        let Some(shared) = self.shared.as_ref().filter(|_| is_id(id)) else {
            return here().ok_or(EngineError::ImageNotHeld);
        };
        match shared.look_at_image(owner(caller), id).await {
            Ok(ImageState::Deleted) => Err(EngineError::ImageNotHeld),
            Ok(ImageState::There {
                size: (width, height),
                digest,
                bytes,
                expires_in,
            }) => Ok(HeldImageStatus {
                width,
                height,
                bytes,
                expires_in,
                sha256: ImageDigest(digest).to_string(),
            }),
            Ok(ImageState::Unknown) => here().ok_or(EngineError::ImageNotHeld),
            Err(error) => here().ok_or(EngineError::ImageNotKnown(error)),
        }
    }

    /// Drops an image that the caller left, on whichever replica, and all features computed here from its bytes for the
    /// caller. Those of other replicas go when the id is used there.
    ///
    /// # Errors
    /// [`EngineError::ImageNotHeld`] when no image of the caller is held under the id, and [`EngineError::NotShared`] when
    /// it is dropped here, and other replicas cannot know.
    pub async fn drop_image(&self, caller: &Caller, id: &str) -> Result<(), EngineError> {
        // The mark of the deletion lasts as long as any copy may: longer than here where another replica holds images for
        // longer.
        let held = self.images.status(caller.id(), id, Instant::now());
        let left = held.map_or(Duration::ZERO, |held| held.expires_in);
        let was_here = self.forget_image(caller.id(), id);
        let was_there = match self.shared.as_ref().filter(|_| is_id(id)) {
            None => false,
            Some(shared) => {
                let lifetime = self.images.lifetime().max(left);
                let dropped = shared.drop_image(owner(caller), id, lifetime, was_here);
                dropped.await?
            }
        };
        match was_here || was_there {
            true => Ok(()),
            false => Err(EngineError::ImageNotHeld),
        }
    }

    /// Drops images that are held here and were deleted on another replica, so that they do not stay until somebody asks
    /// for them, or until the mark of the deletion is gone. Looks at those behind `last`, and returns the last of them;
    /// `None` for a look from the first again.
    pub(super) async fn drop_deleted_images(&self, last: Option<HeldPlace>) -> Option<HeldPlace> {
        let shared = self.shared.as_ref()?;
        let mut held = self.images.behind(last.as_ref(), ASKED_AT_ONCE, Instant::now());
        let ids: Vec<_> = held
            .iter()
            .filter_map(|(_, caller, id)| Some((self.callers.numbered(*caller)?, &**id)))
            .collect();
        if ids.is_empty() {
            return None;
        }
        let images: Vec<_> = ids.iter().map(|(caller, id)| (owner(caller), *id)).collect();
        let is_last = held.len() < ASKED_AT_ONCE;
        // Where it fails, the shared state's own task says so.
        let Ok(deleted) = shared.which_are_deleted(&images).await else {
            return last;
        };
        for ((caller, id), is_deleted) in ids.iter().zip(deleted) {
            if is_deleted {
                self.forget_image(caller.id(), id);
            }
        }
        held.pop().filter(|_| !is_last)
    }

    /// Drops an image and its features here. Returns whether it was held.
    fn forget_image(&self, caller: CallerId, id: &str) -> bool {
        let image = self.images.remove(caller, id, Instant::now());
        let digest = image.map(|image| image.digest);
        if let Some(digest) = digest {
            self.features.drop_image(caller, digest);
        }
        digest.is_some()
    }
}

/// Returns whose image it is, in the shared state. Numbers of callers are those of one engine, and names of all.
fn owner(caller: &Caller) -> &str {
    caller.name().unwrap_or_default()
}

/// Returns whether a text can be the id of an image. Others are not asked for, whatever they say.
fn is_id(text: &str) -> bool {
    text.len() == ID_DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl From<SharedError> for EngineError {
    fn from(error: SharedError) -> Self {
        Self::NotShared(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_want_one_image_at_once_take_turns_and_others_do_not_wait() {
        let fetching = Fetching::default();
        let first = fetching.turn("alice", "1");
        assert!(Arc::ptr_eq(&first, &fetching.turn("alice", "1")));
        assert!(!Arc::ptr_eq(&first, &fetching.turn("bob", "1")));
        drop(first);
        fetching.turn("alice", "2");
        assert_eq!(
            fetching.0.lock().expect("nobody panics").len(),
            1,
            "the others are done"
        );
    }

    #[test]
    fn only_ids_are_asked_for() {
        assert!(is_id("0123456789abcdef0123456789abcdef"));
        for text in [
            "",
            "0123",
            "0123456789ABCDEF0123456789abcdef",
            "bob/56789abcdef0123456789abcdef01",
        ] {
            assert!(!is_id(text), "{text}");
        }
    }
}
