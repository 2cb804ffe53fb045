//! The attentions that came after MaskCLIP against an independent Python writing of their formulas: see
//! tools/golden/attention.py, which wrote the arrays.

#![allow(clippy::disallowed_types)] // Golden arrays are compared as the layers below the engine make them: tensors.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use maskclip::clip::{ModelConfig, Origin, VisualTower, Weights};
use maskclip::dense::{self, Attention, DenseFeatures, DenseOptions, KeySmoothing};
use maskclip::label_map::QueryOwner;
use tch::{Device, Kind, Tensor};

/// Largest absolute difference allowed, in 32 bits.
const TOLERANCE: f64 = 1e-4;

/// The two published depths, and one that is not.
const MODELS: [&str; 3] = ["vit_12", "vit_24", "vit_7"];

const SQUARE: [&str; 2] = ["64x64", "56x56"];
const OBLONG: [&str; 2] = ["48x80", "80x40"];

const TEMPERATURE: f32 = 20.0;

#[test]
fn sclip() {
    agrees_on_every_grid(Attention::Sclip);
}

#[test]
fn clearclip() {
    agrees_on_every_grid(Attention::Clearclip);
}

#[test]
fn naclip() {
    agrees_on_every_grid(Attention::Naclip);
}

#[test]
fn pearl() {
    agrees_on_every_grid(Attention::Pearl);
}

#[test]
fn pearl_newton_schulz() {
    agrees_on_every_grid(Attention::PearlNewtonSchulz);
}

#[test]
fn sc_clip() {
    agrees(Attention::ScClip, &SQUARE);
}

#[test]
fn sc_clip_refuses_what_is_no_square_of_31_cells() {
    let tower = load("vit_12");
    for (rows, columns) in [(8, 7), (5, 5)] {
        let image = Tensor::zeros([3, 8 * rows, 8 * columns], (Kind::Float, Device::Cpu));
        let refused = DenseFeatures::extract(&tower, &image, Attention::ScClip, KeySmoothing::None);
        let error = refused.expect_err("it is not defined there").to_string();
        assert!(error.contains(&format!("not at {rows} rows of {columns}")), "{error}");
    }
}

/// Its features depend on the texts, so that its logits alone can be compared.
#[test]
fn resclip() {
    agrees_in_logits_alone(Attention::Resclip);
}

#[test]
fn resclip_repaired() {
    agrees_in_logits_alone(Attention::ResclipRepaired);
}

#[test]
fn gem() {
    agrees_on_every_grid(Attention::Gem);
}

fn agrees_on_every_grid(attention: Attention) {
    agrees(attention, &SQUARE);
    agrees(attention, &OBLONG);
}

/// Features and logits are Python's, on every tower.
fn agrees(attention: Attention, sizes: &[&str]) {
    for model in MODELS {
        let tower = load(model);
        let arrays = Arrays::read(model);
        for size in sizes {
            let image = arrays.get(&format!("{size}.image"));
            let features = DenseFeatures::extract(&tower, image, attention, KeySmoothing::None)
                .expect("a ViT computes this attention");
            arrays.compare(&format!("{size}.{}.cells", attention.name()), &features.cells);
            let pooled = tower.encode_image(&image.unsqueeze(0)).squeeze_dim(0);
            let difference = (&features.pooled - pooled).abs().max().double_value(&[]);
            assert!(difference <= TOLERANCE, "CLIP's own answer is {difference} off");
            agrees_in_logits(attention, &tower, &arrays, size);
        }
    }
}

fn agrees_in_logits_alone(attention: Attention) {
    for model in MODELS {
        let (tower, arrays) = (load(model), Arrays::read(model));
        for size in SQUARE.into_iter().chain(OBLONG) {
            agrees_in_logits(attention, &tower, &arrays, size);
        }
    }
}

fn agrees_in_logits(attention: Attention, tower: &VisualTower, arrays: &Arrays, size: &str) {
    let text = arrays.get("text");
    let owners: Vec<_> = (0..).map(QueryOwner::Class).take(text.size()[0] as usize).collect();
    let options = DenseOptions {
        attention,
        temperature: TEMPERATURE,
        prompt_denoising: None,
        key_smoothing: KeySmoothing::None,
        ..DenseOptions::default()
    };
    let image = arrays.get(&format!("{size}.image"));
    let scores = dense::score(tower, std::slice::from_ref(image), text, &owners, &options)
        .expect("a ViT computes this attention");
    // [queries, height, width] -> [queries, cells]
    let logits = Tensor::from_slice(&scores.map.grids[0].values).view([text.size()[0], -1]);
    arrays.compare(&format!("{size}.{}.logits", attention.name()), &logits);
}

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file)
}

fn load(model: &str) -> VisualTower {
    let path = golden(&format!("attention_{model}.safetensors"));
    let mut weights = Weights::load(&path, Device::Cpu, Kind::Float).expect("the golden weights are committed");
    let config = ModelConfig::find(Origin::OpenClip, &path).expect("the configuration is committed beside");
    VisualTower::load(&mut weights, &config).expect("the golden weights are a whole tower")
}

struct Arrays {
    model: &'static str,
    by_name: HashMap<String, Tensor>,
}

impl Arrays {
    fn read(model: &'static str) -> Self {
        let path = golden(&format!("attention_{model}_arrays.safetensors"));
        let arrays = Tensor::read_safetensors(path).expect("the golden arrays are committed");
        Self {
            model,
            by_name: arrays.into_iter().collect(),
        }
    }

    fn get(&self, name: &str) -> &Tensor {
        let found = self.by_name.get(name);
        found.unwrap_or_else(|| panic!("the arrays of {} have no {name}", self.model))
    }

    fn compare(&self, name: &str, found: &Tensor) {
        let expected = self.get(name);
        assert_eq!(found.size(), expected.size(), "{} {name}", self.model);
        let difference = (found - expected).abs().max().double_value(&[]);
        println!("{difference:9.2e}  {} {name}", self.model);
        // Not "greater than": that does not hold for a NaN.
        assert!(difference <= TOLERANCE, "{} {name} is {difference:e} off", self.model);
    }
}
