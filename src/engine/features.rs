//! Cache of image features. Features are found again by the image's bytes and by everything else they depend on, and by
//! the caller they were computed for alone: another must not learn that the image has been here.
//!
//! This file owns which features are kept and for how long; workers compute them. Features live in memory only, because
//! they are of use to the loaded models alone.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use sha2::{Digest as _, Sha256};

use super::caller::CallerId;
use super::request::InputOptions;
use crate::dense::{FeatureOptions, SmoothingKeys};
use crate::image::{Orientation, Resize};
use crate::labeller::ImageFeatures;
use crate::support::{ByteLru, SharedLru, lock};

/// SHA-256 of an encoded image's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ImageDigest(pub(super) [u8; 32]);

/// Lower-case hexadecimal digits, as `sha256sum` prints them.
impl fmt::Display for ImageDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(self.0))
    }
}

impl ImageDigest {
    /// Returns the digest of the bytes. Takes milliseconds for a few megabytes.
    pub(super) fn of(image: &[u8]) -> Self {
        Self(Sha256::digest(image).into())
    }
}

/// Everything that features depend on, except for the smoothing keys they contain.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct FeatureKey {
    digest: ImageDigest,
    model: String,
    /// Short side of the model's input in pixels.
    short_side: u32,
    /// The bit pattern of each scale, because `f64` has no `Hash`.
    scales: Vec<u64>,
    resize: Resize,
    orientation: Orientation,
    /// The options without smoothing keys, because features with keys also serve requests that need none.
    options: FeatureOptions,
}

impl FeatureKey {
    /// Returns the key for an image, a model given by its name and its own short side in pixels, and the request's
    /// options.
    pub(super) fn new(
        digest: ImageDigest,
        (model, model_short_side): (&str, u32),
        options: &FeatureOptions,
        input: &InputOptions,
    ) -> Self {
        Self {
            digest,
            model: model.to_owned(),
            short_side: input.short_side.unwrap_or(model_short_side),
            scales: input.scales.iter().map(|scale| scale.to_bits()).collect(),
            resize: input.resize,
            orientation: input.orientation,
            options: FeatureOptions { keys: None, ..*options },
        }
    }
}

/// Cached features, with what a reply says of their image.
#[derive(Clone)]
pub(super) struct HeldFeatures {
    pub(super) features: Arc<dyn ImageFeatures>,
    /// The smoothing keys that the features contain.
    pub(super) keys: Option<SmoothingKeys>,
    /// Width and height of the image in pixels, after orientation.
    pub(super) size: (u32, u32),
}

/// Counts of the cache since its start, and its present size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FeatureStatistics {
    /// Look-ups since the start that found features.
    pub(super) hits: u64,
    /// Look-ups since the start that found none, so that the features had to be computed.
    pub(super) misses: u64,
    /// Entries held now. An image has one entry for each set of options it was computed with.
    pub(super) entries: usize,
    /// Bytes that the entries take.
    pub(super) bytes: u64,
}

/// The cache of image features.
pub(super) struct FeatureCache {
    hits: AtomicU64,
    misses: AtomicU64,
    held: Mutex<SharedLru<CallerId, FeatureKey, HeldFeatures>>,
}

impl FeatureCache {
    /// Creates a cache of at most this many bytes. The least recently used features of the
    /// caller that holds most are dropped first.
    pub(super) fn new(capacity_bytes: u64) -> Self {
        Self {
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            held: Mutex::new(SharedLru::new(capacity_bytes)),
        }
    }

    /// Returns whether the cache keeps features at all.
    pub(super) fn is_on(&self) -> bool {
        self.held().capacity_bytes() > 0
    }

    /// Returns the caller's cached features with the smoothing keys that the request needs. `keys: None` accepts any
    /// features.
    pub(super) fn get(&self, caller: CallerId, key: &FeatureKey, keys: Option<SmoothingKeys>) -> Option<HeldFeatures> {
        let found = self.held().get(&caller, key).cloned();
        let found = found.filter(|held| keys.is_none() || held.keys == keys);
        let count = if found.is_some() { &self.hits } else { &self.misses };
        count.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Caches features for a caller and replaces those with other keys or none. Features larger than the whole cache are not kept.
    pub(super) fn hold(&self, caller: CallerId, key: FeatureKey, features: HeldFeatures) {
        let scales = size_of_val(key.scales.as_slice());
        let heap = key.model.len() + scales + features.features.bytes();
        let bytes = ByteLru::<FeatureKey, HeldFeatures>::entry_bytes(heap);
        let mut held = self.held();
        // Two requests may have computed the features at once. Features without keys must not replace those with keys.
        let has_keys = |held: &HeldFeatures| held.keys.is_some();
        if features.keys.is_some() || !held.get(&caller, &key).is_some_and(has_keys) {
            held.insert(caller, key, features, bytes);
        }
    }

    /// Drops all features that a caller has of an image.
    pub(super) fn drop_image(&self, caller: CallerId, digest: ImageDigest) {
        let mut held = self.held();
        let of_image: Vec<_> = held.keys(&caller).filter(|key| key.digest == digest).cloned().collect();
        for key in of_image {
            held.remove(&caller, &key);
        }
    }

    /// Returns the counts of the cache and its present size.
    pub(super) fn statistics(&self) -> FeatureStatistics {
        let held = self.held();
        FeatureStatistics {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            entries: held.len(),
            bytes: held.bytes(),
        }
    }

    fn held(&self) -> MutexGuard<'_, SharedLru<CallerId, FeatureKey, HeldFeatures>> {
        lock(&self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dense::{Attention, ScoreOptions};
    use crate::labeller::LabellerError;
    use crate::scores::{DenseScores, ScoreMap};
    use crate::vocabulary::Classifier;

    /// Features that claim this many bytes.
    struct Weight(usize);

    impl ImageFeatures for Weight {
        fn bytes(&self) -> usize {
            self.0
        }

        fn score(&self, _: &Classifier, _: &ScoreOptions, _: &dyn Fn() -> bool) -> Result<DenseScores, LabellerError> {
            unreachable!("nothing is scored here")
        }

        fn similar_to(&self, _: (f64, f64)) -> Result<ScoreMap, LabellerError> {
            unreachable!("nothing is compared here")
        }

        fn pooled(&self) -> Result<Vec<f32>, LabellerError> {
            unreachable!("no image is embedded here")
        }
    }

    const ALICE: CallerId = CallerId(1);
    const BOB: CallerId = CallerId(2);
    const PLAIN: Option<SmoothingKeys> = Some(SmoothingKeys::Plain);
    const PROJECTED: Option<SmoothingKeys> = Some(SmoothingKeys::Projected);

    fn features(bytes: usize, keys: Option<SmoothingKeys>) -> HeldFeatures {
        HeldFeatures {
            features: Arc::new(Weight(bytes)),
            keys,
            size: (4, 3),
        }
    }

    fn input() -> InputOptions {
        InputOptions {
            short_side: None,
            scales: vec![1.0],
            resize: Resize::Bicubic,
            orientation: Orientation::Exif,
        }
    }

    fn key(image: &str) -> FeatureKey {
        let digest = ImageDigest::of(image.as_bytes());
        FeatureKey::new(digest, ("m", 8), &FeatureOptions::default(), &input())
    }

    #[test]
    fn a_key_is_of_the_image_the_model_and_how_it_looks() {
        let other_input = |change: fn(&mut InputOptions)| {
            let mut input = input();
            change(&mut input);
            FeatureKey::new(ImageDigest::of(b"a"), ("m", 8), &FeatureOptions::default(), &input)
        };
        let dense = FeatureOptions {
            attention: Attention::Clip,
            ..FeatureOptions::default()
        };
        assert_eq!(other_input(|input| input.short_side = Some(8)), key("a"));
        for other in [
            key("b"),
            other_input(|input| input.short_side = Some(9)),
            other_input(|input| input.scales = vec![2.0]),
            other_input(|input| input.resize = Resize::Mmcv),
            other_input(|input| input.orientation = Orientation::Stored),
            FeatureKey::new(ImageDigest::of(b"a"), ("n", 8), &FeatureOptions::default(), &input()),
            FeatureKey::new(ImageDigest::of(b"a"), ("m", 8), &dense, &input()),
        ] {
            assert_ne!(other, key("a"));
        }
    }

    #[test]
    fn features_with_keys_serve_without_and_take_the_place_of_those_without() {
        let cache = FeatureCache::new(1 << 20);
        let keys_held = |keys| cache.get(ALICE, &key("a"), keys).map(|held| held.keys);
        assert_eq!(keys_held(None), None);
        cache.hold(ALICE, key("a"), features(10, None));
        assert_eq!([keys_held(None), keys_held(PLAIN)], [Some(None), None]);
        cache.hold(ALICE, key("a"), features(20, PLAIN));
        assert_eq!([keys_held(None), keys_held(PLAIN)], [Some(PLAIN), Some(PLAIN)]);
        cache.hold(ALICE, key("a"), features(10, None));
        assert_eq!([keys_held(PLAIN), keys_held(PROJECTED)], [Some(PLAIN), None]);
        cache.hold(ALICE, key("a"), features(20, PROJECTED));
        assert_eq!([keys_held(PROJECTED), keys_held(PLAIN)], [Some(PROJECTED), None]);
        let statistics = cache.statistics();
        assert_eq!((statistics.hits, statistics.misses, statistics.entries), (5, 4, 1));
    }

    #[test]
    fn the_least_recently_used_go_first_and_what_is_too_large_is_not_held() {
        let cache = FeatureCache::new(2500);
        for (image, bytes) in [("a", 700), ("b", 700)] {
            cache.hold(ALICE, key(image), features(bytes, None));
        }
        let is_held = |image: &str| cache.get(ALICE, &key(image), None).is_some();
        assert!(is_held("a"));
        cache.hold(ALICE, key("c"), features(700, None));
        assert_eq!(["a", "b", "c"].map(is_held), [true, false, true]);
        assert!((1400..=2500).contains(&cache.statistics().bytes));
        cache.hold(ALICE, key("d"), features(2500, None));
        assert_eq!(["a", "c", "d"].map(is_held), [true, true, false]);
    }

    #[test]
    fn a_dropped_image_leaves_nothing_of_its_own_and_all_of_others() {
        let cache = FeatureCache::new(1 << 20);
        let other_model = FeatureKey {
            model: "n".to_owned(),
            ..key("a")
        };
        for key in [key("a"), other_model, key("b")] {
            cache.hold(ALICE, key, features(10, None));
        }
        cache.drop_image(ALICE, ImageDigest::of(b"a"));
        assert_eq!(cache.statistics().entries, 1);
        assert!(cache.get(ALICE, &key("b"), None).is_some());
    }

    #[test]
    fn features_are_the_callers_they_were_computed_for() {
        let cache = FeatureCache::new(1 << 20);
        for caller in [ALICE, BOB] {
            assert!(cache.get(caller, &key("a"), None).is_none());
            cache.hold(caller, key("a"), features(10, None));
        }
        cache.drop_image(ALICE, ImageDigest::of(b"a"));
        assert!(cache.get(ALICE, &key("a"), None).is_none());
        assert!(cache.get(BOB, &key("a"), None).is_some());
    }
}
