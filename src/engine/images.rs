//! Encoded images that clients uploaded for several requests.
//!
//! This file owns their ids and how long each is held. An image is its caller's alone. Whoever knows an id and is the
//! same caller may use the image, so ids are random and never listed. [`features`](super::features) holds what models compute from images.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use uuid::Uuid;

use super::caller::CallerId;
use super::features::ImageDigest;
use super::request::EngineError;
use crate::support::{ByteLru, SharedLru, lock};

/// An encoded image with its digest.
#[derive(Debug, Clone)]
pub(super) struct EncodedImage {
    pub(super) bytes: Bytes,
    /// Digest of `bytes`.
    pub(super) digest: ImageDigest,
}

/// The images that are held, by id.
#[derive(Debug)]
pub(super) struct HeldImages {
    lifetime: Duration,
    state: Mutex<State>,
}

/// The images and their expiry times, which change together.
#[derive(Debug)]
struct State {
    held: SharedLru<CallerId, Arc<str>, Held>,
    /// When each image expires, earliest first.
    ends: BTreeSet<HeldPlace>,
}

/// When a held image expires, whose it is, and its id.
pub(super) type HeldPlace = (Instant, CallerId, Arc<str>);

/// Images that this replica took and that made room for another, with whose they were.
pub(super) type Displaced = Vec<(CallerId, Arc<str>)>;

#[derive(Debug)]
struct Held {
    image: EncodedImage,
    /// Width and height in pixels, after the orientation with which the image was left.
    size: (u32, u32),
    end: Instant,
    /// Whether this replica took the image, and did not read it from another's.
    is_own: bool,
}

/// What is known of a held image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldImageStatus {
    /// Width of the image in pixels, after the orientation with which it was left.
    pub width: u32,
    /// Height of the image in pixels, after the orientation with which it was left.
    pub height: u32,
    /// Bytes of the encoded image.
    pub bytes: u64,
    /// How long the image is still held, unless other images need the room.
    pub expires_in: Duration,
    /// SHA-256 of the bytes in lower-case hexadecimal digits.
    pub sha256: String,
}

/// The present size of the held images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ImageStatistics {
    /// Number of images.
    pub(super) images: usize,
    /// Bytes that the images take.
    pub(super) bytes: u64,
}

impl HeldImages {
    /// Holds at most `capacity_bytes` bytes, each image for at most `lifetime`. The least recently used images of
    /// the caller that holds most are dropped first.
    pub(super) fn new(capacity_bytes: u64, lifetime: Duration) -> Self {
        Self {
            lifetime,
            state: Mutex::new(State {
                held: SharedLru::new(capacity_bytes),
                ends: BTreeSet::new(),
            }),
        }
    }

    /// Returns how long an image is held at most.
    pub(super) fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// Checks that an image of this size can be held at all.
    ///
    /// # Errors
    /// [`EngineError::ImageTooLargeToHold`] when the image alone exceeds the capacity.
    pub(super) fn check(&self, image: &Bytes) -> Result<(), EngineError> {
        let (bytes, limit) = (entry_bytes(image), self.state().held.capacity_bytes());
        if bytes > limit {
            return Err(EngineError::ImageTooLargeToHold { bytes, limit });
        }
        Ok(())
    }

    /// Holds an image of a caller that passed [`HeldImages::check`], with its width and height in pixels. Returns its new
    /// id, and what made room for it.
    pub(super) fn hold(
        &self,
        caller: CallerId,
        image: EncodedImage,
        size: (u32, u32),
        now: Instant,
    ) -> (Arc<str>, Displaced) {
        // 122 random bits from the operating system.
        let id: Arc<str> = Uuid::new_v4().simple().to_string().into();
        let held = Held {
            image,
            size,
            end: now + self.lifetime,
            is_own: true,
        };
        let displaced = self.insert(caller, Arc::clone(&id), held, now);
        (id, displaced)
    }

    /// Holds an image under an id that another replica has given it, from now until `end`. Returns what made room for it.
    pub(super) fn hold_as(
        &self,
        caller: CallerId,
        id: Arc<str>,
        image: EncodedImage,
        size: (u32, u32),
        (now, end): (Instant, Instant),
    ) -> Displaced {
        let held = Held {
            image,
            size,
            end,
            is_own: false,
        };
        self.insert(caller, id, held, now)
    }

    fn insert(&self, caller: CallerId, id: Arc<str>, mut held: Held, now: Instant) -> Displaced {
        // An upload's buffer may be larger than the image in it, so the bytes are copied.
        held.image.bytes = Bytes::copy_from_slice(&held.image.bytes);
        let bytes = entry_bytes(&held.image.bytes);
        let mut state = self.state();
        state.expire(now);
        state.ends.insert((held.end, caller, Arc::clone(&id)));
        let mut displaced = Vec::new();
        for (of, id, held) in state.held.insert(caller, id, held, bytes) {
            state.ends.remove(&(held.end, of, Arc::clone(&id)));
            if held.is_own {
                displaced.push((of, id));
            }
        }
        displaced
    }

    /// Returns the caller's image with this id. Counts as use, but does not extend the image's lifetime.
    pub(super) fn get(&self, caller: CallerId, id: &str, now: Instant) -> Option<EncodedImage> {
        let mut state = self.state();
        state.expire(now);
        Some(state.held.get(&caller, &id.into())?.image.clone())
    }

    /// Returns what is known of the caller's image with this id. Does not count as use.
    pub(super) fn status(&self, caller: CallerId, id: &str, now: Instant) -> Option<HeldImageStatus> {
        let mut state = self.state();
        state.expire(now);
        let Held { image, size, end, .. } = state.held.peek(&caller, &id.into())?;
        Some(HeldImageStatus {
            width: size.0,
            height: size.1,
            bytes: image.bytes.len() as u64,
            expires_in: *end - now,
            sha256: image.digest.to_string(),
        })
    }

    /// Returns at most so many images in the order in which they expire, from behind `last` on, or from the first.
    pub(super) fn behind(&self, last: Option<&HeldPlace>, most: usize, now: Instant) -> Vec<HeldPlace> {
        let mut state = self.state();
        state.expire(now);
        let start = last.map_or(Bound::Unbounded, Bound::Excluded);
        let behind = state.ends.range((start, Bound::Unbounded));
        behind.take(most).cloned().collect()
    }

    /// Removes an image of the caller and returns it, if it is held.
    pub(super) fn remove(&self, caller: CallerId, id: &str, now: Instant) -> Option<EncodedImage> {
        let mut state = self.state();
        state.expire(now);
        let id = id.into();
        let Held { image, end, .. } = state.held.remove(&caller, &id)?;
        state.ends.remove(&(end, caller, id));
        Some(image)
    }

    /// Returns the number and the bytes of the images that have not expired.
    pub(super) fn statistics(&self, now: Instant) -> ImageStatistics {
        let mut state = self.state();
        state.expire(now);
        ImageStatistics {
            images: state.held.len(),
            bytes: state.held.bytes(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    /// Drops all images that have expired.
    fn expire(&mut self, now: Instant) {
        while self.ends.first().is_some_and(|(end, ..)| *end <= now)
            && let Some((_, caller, id)) = self.ends.pop_first()
        {
            self.held.remove(&caller, &id);
        }
    }
}

/// Returns the bytes that an image takes with its id and its entry among the expiry times.
fn entry_bytes(image: &Bytes) -> u64 {
    let id = Uuid::nil().simple().to_string().len();
    ByteLru::<Arc<str>, Held>::entry_bytes(id + size_of::<(Instant, CallerId, Arc<str>)>() + image.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: CallerId = CallerId(1);
    const BOB: CallerId = CallerId(2);
    const LIFETIME: Duration = Duration::from_secs(60);
    const SIZE: (u32, u32) = (4, 3);

    fn image(bytes: &'static [u8]) -> EncodedImage {
        EncodedImage {
            bytes: Bytes::from_static(bytes),
            digest: ImageDigest::of(bytes),
        }
    }

    /// Returns a holder with room for `count` images of one byte each.
    fn images(count: u64) -> HeldImages {
        HeldImages::new(count * entry_bytes(&Bytes::from_static(b"a")), LIFETIME)
    }

    fn hold(images: &HeldImages, caller: CallerId, image: EncodedImage, size: (u32, u32), now: Instant) -> Arc<str> {
        images.hold(caller, image, size, now).0
    }

    #[test]
    fn an_image_is_there_under_its_id_until_it_is_removed() {
        let (images, now) = (images(2), Instant::now());
        let [a, again] = [(); 2].map(|()| hold(&images, ALICE, image(b"a"), SIZE, now));
        assert_ne!(a, again);
        assert_eq!(a.len(), 32);
        assert_eq!(images.get(ALICE, &a, now).map(|held| held.bytes), Some("a".into()));
        assert!(images.get(ALICE, "a", now).is_none());
        assert_eq!(
            images.remove(ALICE, &a, now).map(|held| held.digest),
            Some(ImageDigest::of(b"a"))
        );
        assert!(images.get(ALICE, &a, now).is_none() && images.remove(ALICE, &a, now).is_none());
        assert!(images.get(ALICE, &again, now).is_some());
        assert_eq!(images.statistics(now).images, 1);
    }

    #[test]
    fn an_image_expires_however_often_it_is_used() {
        let (images, start) = (images(2), Instant::now());
        let id = hold(&images, ALICE, image(b"a"), SIZE, start);
        let just_before = start + LIFETIME - Duration::from_nanos(1);
        let later = hold(&images, ALICE, image(b"b"), SIZE, just_before);
        assert!(images.get(ALICE, &id, just_before).is_some());
        assert!(images.get(ALICE, &id, start + LIFETIME).is_none());
        assert!(images.get(ALICE, &later, start + LIFETIME).is_some());
        assert_eq!(images.statistics(start + LIFETIME).images, 1);
        assert_eq!(
            images.statistics(just_before + LIFETIME),
            ImageStatistics { images: 0, bytes: 0 }
        );
    }

    #[test]
    fn the_least_recently_used_image_goes_first() {
        let (images, now) = (images(2), Instant::now());
        let [a, b] = [b"a", b"b"].map(|bytes| hold(&images, ALICE, image(bytes), SIZE, now));
        assert!(images.get(ALICE, &a, now).is_some());
        let c = hold(&images, ALICE, image(b"c"), SIZE, now);
        assert!(images.get(ALICE, &b, now).is_none());
        assert!(images.get(ALICE, &a, now).is_some() && images.get(ALICE, &c, now).is_some());
        assert_eq!(images.state().ends.len(), 2);
    }

    #[test]
    fn what_makes_room_is_told_if_it_was_taken_here() {
        let (images, now) = (images(2), Instant::now());
        let (own, displaced) = images.hold(ALICE, image(b"a"), SIZE, now);
        assert_eq!(displaced, []);
        let copy = || images.hold_as(ALICE, "copy".into(), image(b"b"), SIZE, (now, now + LIFETIME));
        assert_eq!(copy(), []);
        let (_, displaced) = images.hold(BOB, image(b"c"), SIZE, now);
        assert_eq!(displaced, [(ALICE, own)]);
        let (_, displaced) = images.hold(ALICE, image(b"d"), SIZE, now);
        assert_eq!(displaced, [], "the copy of another replica's is that one's");
        assert_eq!(images.statistics(now).images, 2);
    }

    #[test]
    fn one_part_after_the_other_is_all_that_is_held_in_the_order_of_its_end() {
        let (images, start) = (images(9), Instant::now());
        let hold = |(second, caller)| {
            let now = start + Duration::from_secs(second);
            (caller, hold(&images, caller, image(b"a"), SIZE, now))
        };
        let held: Vec<_> = [(0, BOB), (1, ALICE), (2, BOB)].into_iter().map(hold).collect();
        let behind = |last: Option<&HeldPlace>, now| images.behind(last, 2, now);
        let first = behind(None, start);
        let second = behind(first.last(), start);
        assert_eq!((first.len(), second.len()), (2, 1));
        let all: Vec<_> = [first, second.clone()]
            .concat()
            .into_iter()
            .map(|(_, of, id)| (of, id))
            .collect();
        assert_eq!(all, held);
        assert_eq!(behind(second.last(), start), []);
        // What has expired is not in the way.
        assert_eq!(behind(None, start + LIFETIME + Duration::from_secs(1)), second);
    }

    #[test]
    fn what_is_known_of_an_image_is_told_to_its_caller_without_counting_as_use() {
        let (images, start) = (images(2), Instant::now());
        let id = hold(&images, ALICE, image(b"a"), SIZE, start);
        let later = start + Duration::from_secs(20);
        let status = HeldImageStatus {
            width: 4,
            height: 3,
            bytes: 1,
            expires_in: Duration::from_secs(40),
            sha256: ImageDigest::of(b"a").to_string(),
        };
        assert_eq!(images.status(ALICE, &id, later), Some(status.clone()));
        assert_eq!(images.status(BOB, &id, later), None);
        hold(&images, ALICE, image(b"b"), SIZE, later);
        assert_eq!(images.status(ALICE, &id, later), Some(status));
        hold(&images, ALICE, image(b"c"), SIZE, later);
        assert_eq!(images.status(ALICE, &id, later), None);
    }

    #[test]
    fn an_image_is_its_callers_alone_and_stays_while_another_fills_the_rest() {
        let (images, now) = (images(3), Instant::now());
        let id = hold(&images, BOB, image(b"a"), SIZE, now);
        assert!(images.get(ALICE, &id, now).is_none() && images.remove(ALICE, &id, now).is_none());
        for _ in 0..10 {
            hold(&images, ALICE, image(b"a"), SIZE, now);
        }
        assert_eq!(images.statistics(now).images, 3);
        assert!(images.remove(BOB, &id, now).is_some());
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
