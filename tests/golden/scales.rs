//! One image scored at several sizes together, against a plain Python writing: see tools/golden/scales.py, which wrote the arrays.

use std::collections::HashMap;
use std::path::Path;

use maskclip::clip::{ModelConfig, VisualTower, Weights};
use maskclip::dense::{self, DenseOptions, KeySmoothing, Window};
use maskclip::label_map::{self, QueryOwner};
use tch::{Device, Kind, Tensor};

/// Largest absolute difference of logits, cosines and probabilities allowed, in 32 bits.
const TOLERANCE: f64 = 1e-4;

/// Towers, with temperatures at which some classes are sure somewhere and others nowhere.
const TOWERS: [(&str, f32); 2] = [("vit_quick_gelu", 8.0), ("resnet", 20.0)];

/// Of the image that is labelled, in pixels.
const SIZE: (usize, usize) = (29, 43);

const WINDOW: Window = Window { side: 64, stride: 48 };

/// Dropped classes have logits of -800 and less, whose last digits in 32 bits are beyond the tolerance; all else is far above this.
const DROPPED: f64 = -100.0;

const OWNERS: [QueryOwner; 7] = [
    QueryOwner::Class(0),
    QueryOwner::Class(0),
    QueryOwner::Class(1),
    QueryOwner::Class(2),
    QueryOwner::Class(3),
    QueryOwner::Class(4),
    QueryOwner::Background,
];

#[test]
fn scores_of_several_sizes_are_averaged_at_that_of_the_image() {
    let arrays = arrays();
    for (name, temperature) in TOWERS {
        let tower = tower(name);
        let sizes: Vec<_> = (0..)
            .map_while(|index| arrays.get(&format!("{name}.image.{index}")))
            .map(Tensor::shallow_clone)
            .collect();
        assert!(sizes.len() > 1, "{name}");
        let plain = DenseOptions {
            temperature,
            ..DenseOptions::default()
        };
        let windows = DenseOptions {
            window: Some(WINDOW),
            ..plain
        };
        let denoised = DenseOptions {
            prompt_denoising: Some(0.5),
            ..windows
        };
        let likeness = DenseOptions {
            key_smoothing: KeySmoothing::Likeness,
            ..windows
        };
        for (case, options) in [
            ("whole", plain),
            ("windows", windows),
            ("denoised", denoised),
            ("likeness", likeness),
        ] {
            let text = &arrays[&format!("{name}.text")];
            let scores = dense::score(&tower, &sizes, text, &OWNERS, &options).expect("every tower computes MaskCLIP");
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
                // Not "greater than": that does not hold for a NaN.
                assert!(difference <= TOLERANCE, "{array} is {difference:e} off");
            }
        }
    }
}

fn arrays() -> HashMap<String, Tensor> {
    let arrays =
        Tensor::read_safetensors(folder().join("scales.safetensors")).expect("the golden arrays are committed");
    arrays.into_iter().collect()
}

fn tower(name: &str) -> VisualTower {
    let weights = folder().join(format!("visual_{name}.safetensors"));
    let mut weights = Weights::load(&weights, Device::Cpu, Kind::Float).expect("the tower is committed");
    let config =
        std::fs::read_to_string(folder().join(format!("visual_{name}.json"))).expect("so is its configuration");
    let config = ModelConfig::parse(&config).expect("which is open_clip's");
    VisualTower::load(&mut weights, &config).expect("and of which the weights are")
}

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}
