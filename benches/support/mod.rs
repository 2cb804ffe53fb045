//! Inputs that several benchmarks share. They are the same in every run.

use maskclip::label_map::LabelMapOptions;
use maskclip::scores::{QueryOwner, ScoreGrid, ScoreKind, ScoreMap, UNLABELLED};

/// A stream of numbers from 0 to 1 (SplitMix64).
pub struct Uniform(u64);

impl Uniform {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 40) as f32 / (1 << 24) as f32
    }
}

/// Returns logits spread like CLIP's: 100 times cosines of mean 0.2 and deviation 0.025, independent in every cell.
pub fn scores(classes: usize, height: usize, width: usize) -> ScoreMap {
    let mut uniform = Uniform::new(7);
    let mut normal = || (0..12).map(|_| uniform.next()).sum::<f32>() - 6.0;
    ScoreMap {
        kind: ScoreKind::Logits,
        queries: classes,
        grids: vec![ScoreGrid {
            height,
            width,
            windows: None,
            values: (0..classes * height * width).map(|_| 20.0 + 2.5 * normal()).collect(),
        }],
    }
}

/// Returns one class for every query.
pub fn owners(classes: usize) -> Vec<QueryOwner> {
    (0..classes).map(|id| QueryOwner::Class(id as u16)).collect()
}

/// Returns the options of a label map with confidence and without any other choice.
pub fn options(classes: usize, width: u32, height: u32) -> LabelMapOptions {
    LabelMapOptions {
        width,
        height,
        classes,
        background_label: UNLABELLED,
        background_threshold: 0.0,
        smallest_area: 0.0,
        confidence_map: true,
    }
}
