//! Features of images, each computed once: held in memory, and found again by the image's bytes and how it was looked at.
//!
//! Owns which are held and for how long. Leaves computing them to the workers. Nothing here outlives the process: features are of
//! use to the models that are loaded.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use sha2::{Digest as _, Sha256};

use super::request::InputOptions;
use crate::dense::{FeatureOptions, SmoothingKeys};
use crate::image::Resize;
use crate::labeller::ImageFeatures;
use crate::support::ByteLru;

/// SHA-256 of an encoded image's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ImageDigest([u8; 32]);

impl ImageDigest {
    /// Of these bytes. Takes milliseconds for some megabytes.
    pub(super) fn of(image: &[u8]) -> Self {
        Self(Sha256::digest(image).into())
    }
}

/// What features depend on, their keys aside.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct FeatureKey {
    digest: ImageDigest,
    model: String,
    /// In pixels.
    short_side: u32,
    /// The bits of each scale.
    scales: Vec<u64>,
    resize: Resize,
    /// Without keys: features that have some serve requests that need none.
    options: FeatureOptions,
}

impl FeatureKey {
    /// Of an image, and how a model looks at it whose own short side is `model_short_side` pixels.
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
            options: FeatureOptions { keys: None, ..*options },
        }
    }
}

/// Features, and what a reply says of their image.
#[derive(Clone)]
pub(super) struct HeldFeatures {
    pub(super) features: Arc<dyn ImageFeatures>,
    /// The keys among them.
    pub(super) keys: Option<SmoothingKeys>,
    /// Width and height of the image in pixels, after orientation.
    pub(super) size: (u32, u32),
}

/// What the cache has done and holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FeatureStatistics {
    /// Images asked for whose features were held, since the start.
    pub(super) hits: u64,
    /// Images asked for whose features had to be computed, since the start.
    pub(super) misses: u64,
    /// Images held now, each as often as it was looked at in another way.
    pub(super) entries: usize,
    /// Bytes they take.
    pub(super) bytes: u64,
}

/// The cache.
pub(super) struct FeatureCache {
    hits: AtomicU64,
    misses: AtomicU64,
    held: Mutex<ByteLru<FeatureKey, HeldFeatures>>,
}

impl FeatureCache {
    /// A cache that holds at most this many bytes, where the least recently used features go first.
    pub(super) fn new(capacity_bytes: u64) -> Self {
        Self {
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            held: Mutex::new(ByteLru::new(capacity_bytes)),
        }
    }

    /// Whether it holds anything at all.
    pub(super) fn is_on(&self) -> bool {
        self.held().capacity_bytes() > 0
    }

    /// The features of a key, with the keys that smoothing needs: those that have keys serve where none are needed, too.
    pub(super) fn get(&self, key: &FeatureKey, keys: Option<SmoothingKeys>) -> Option<HeldFeatures> {
        let found = self.held().get(key).cloned();
        let found = found.filter(|held| keys.is_none() || held.keys == keys);
        let count = if found.is_some() { &self.hits } else { &self.misses };
        count.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Holds features in place of those with other keys or none; not those that are larger than the cache.
    pub(super) fn hold(&self, key: FeatureKey, features: HeldFeatures) {
        let scales = size_of_val(key.scales.as_slice());
        let heap = key.model.len() + scales + features.features.bytes();
        let bytes = ByteLru::<FeatureKey, HeldFeatures>::entry_bytes(heap);
        let mut held = self.held();
        // Two requests may have computed them at once; the one without keys must not take the other's away.
        let has_keys = |held: &HeldFeatures| held.keys.is_some();
        if features.keys.is_some() || !held.get(&key).is_some_and(has_keys) {
            held.insert(key, features, bytes);
        }
    }

    /// Lets go of all features of an image.
    pub(super) fn drop_image(&self, digest: ImageDigest) {
        let mut held = self.held();
        let of_image: Vec<_> = held.keys().filter(|key| key.digest == digest).cloned().collect();
        for key in of_image {
            held.remove(&key);
        }
    }

    /// What the cache has done and holds.
    pub(super) fn statistics(&self) -> FeatureStatistics {
        let held = self.held();
        FeatureStatistics {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            entries: held.len(),
            bytes: held.bytes(),
        }
    }

    fn held(&self) -> MutexGuard<'_, ByteLru<FeatureKey, HeldFeatures>> {
        self.held.lock().expect("nothing panics while it has the cache's lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dense::{Attention, ScoreOptions};
    use crate::labeller::LabellerError;
    use crate::scores::DenseScores;
    use crate::vocabulary::Classifier;

    /// Features of so many bytes.
    struct Weight(usize);

    impl ImageFeatures for Weight {
        fn bytes(&self) -> usize {
            self.0
        }

        fn score(&self, _: &Classifier, _: &ScoreOptions) -> Result<DenseScores, LabellerError> {
            unreachable!("nothing is scored here")
        }
    }

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
            FeatureKey::new(ImageDigest::of(b"a"), ("n", 8), &FeatureOptions::default(), &input()),
            FeatureKey::new(ImageDigest::of(b"a"), ("m", 8), &dense, &input()),
        ] {
            assert_ne!(other, key("a"));
        }
    }

    #[test]
    fn features_with_keys_serve_without_and_take_the_place_of_those_without() {
        let cache = FeatureCache::new(1 << 20);
        let keys_held = |keys| cache.get(&key("a"), keys).map(|held| held.keys);
        assert_eq!(keys_held(None), None);
        cache.hold(key("a"), features(10, None));
        assert_eq!([keys_held(None), keys_held(PLAIN)], [Some(None), None]);
        cache.hold(key("a"), features(20, PLAIN));
        assert_eq!([keys_held(None), keys_held(PLAIN)], [Some(PLAIN), Some(PLAIN)]);
        cache.hold(key("a"), features(10, None));
        assert_eq!([keys_held(PLAIN), keys_held(PROJECTED)], [Some(PLAIN), None]);
        cache.hold(key("a"), features(20, PROJECTED));
        assert_eq!([keys_held(PROJECTED), keys_held(PLAIN)], [Some(PROJECTED), None]);
        let statistics = cache.statistics();
        assert_eq!((statistics.hits, statistics.misses, statistics.entries), (5, 4, 1));
    }

    #[test]
    fn the_least_recently_used_go_first_and_what_is_too_large_is_not_held() {
        let cache = FeatureCache::new(2500);
        for (image, bytes) in [("a", 700), ("b", 700)] {
            cache.hold(key(image), features(bytes, None));
        }
        let is_held = |image: &str| cache.get(&key(image), None).is_some();
        assert!(is_held("a"));
        cache.hold(key("c"), features(700, None));
        assert_eq!(["a", "b", "c"].map(is_held), [true, false, true]);
        assert!((1400..=2500).contains(&cache.statistics().bytes));
        cache.hold(key("d"), features(2500, None));
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
            cache.hold(key, features(10, None));
        }
        cache.drop_image(ImageDigest::of(b"a"));
        assert_eq!(cache.statistics().entries, 1);
        assert!(cache.get(&key("b"), None).is_some());
    }
}
