//! Compares one image scored at several sizes with a plain Python version. tools/golden/scales.py wrote the arrays.

use std::collections::HashMap;

use maskclip::dense::{self, FeatureOptions, KeySmoothing, ScoreOptions, Window};
use maskclip::label_map;
use tch::Tensor;

use crate::arrays::{OWNERS, TOLERANCE, golden, load_tower};

/// The towers with temperatures at which some classes are certain somewhere and others nowhere.
const TOWERS: [(&str, f32); 2] = [("vit_quick_gelu", 8.0), ("resnet", 20.0)];

/// Height and width in pixels of the image that is labelled.
const SIZE: (usize, usize) = (29, 43);

const WINDOW: Window = Window { side: 64, stride: 48 };

/// Dropped classes have logits of -800 and less, whose last digits in float32 exceed the tolerance. All other logits
/// are far above this bound.
const DROPPED: f64 = -100.0;

#[test]
fn scores_of_several_sizes_are_averaged_at_that_of_the_image() {
    let arrays = arrays();
    for (name, temperature) in TOWERS {
        let tower = load_tower(&format!("visual_{name}"));
        let sizes: Vec<_> = (0..)
            .map_while(|index| arrays.get(&format!("{name}.image.{index}")))
            .map(Tensor::shallow_clone)
            .collect();
        assert!(sizes.len() > 1, "{name}");
        let plain = ScoreOptions {
            temperature,
            ..ScoreOptions::default()
        };
        let denoised = ScoreOptions {
            prompt_denoising: Some(0.5),
            ..plain
        };
        let likeness = ScoreOptions {
            key_smoothing: KeySmoothing::Likeness,
            ..plain
        };
        for (case, window, scoring) in [
            ("whole", None, plain),
            ("windows", Some(WINDOW), plain),
            ("denoised", Some(WINDOW), denoised),
            ("likeness", Some(WINDOW), likeness),
        ] {
            let features = FeatureOptions {
                window,
                keys: scoring.key_smoothing.keys(),
                ..FeatureOptions::default()
            };
            let text = &arrays[&format!("{name}.text")];
            let scores = dense::score(&tower, &sizes, text, &OWNERS, &features, &scoring)
                .expect("every tower computes MaskCLIP");
            assert_eq!(scores.map.grids.len(), sizes.len());
            let enlarged = label_map::enlarge(&scores.map, SIZE.0, SIZE.1);
            for (array, found) in [
                ("logits", &enlarged.grids[0].values),
                ("similarity", &scores.similarity),
                ("image_probability", &scores.image_probability),
            ] {
                let array = format!("{name}.{case}.{array}");
                let expected = arrays[&array].clamp_min(DROPPED);
                let found = Tensor::from_slice(found).view_as(&expected).clamp_min(DROPPED);
                let difference = (found - expected).abs().max().double_value(&[]);
                println!("{difference:9.2e}  {array}");
                // This form fails for NaN; "greater than" would not.
                assert!(difference <= TOLERANCE, "{array} is {difference:e} off");
            }
        }
    }
}

fn arrays() -> HashMap<String, Tensor> {
    let arrays = Tensor::read_safetensors(golden("scales.safetensors")).expect("the golden arrays are committed");
    arrays.into_iter().collect()
}
