//! Compares the attentions of MaskCLIP's successors with an independent Python version of their formulas.
//! tools/golden/attention.py wrote the arrays.

use maskclip::clip::VisualTower;
use maskclip::dense::{
    self, Attention, AttentionConstants, DenseFeatures, FeatureOptions, ResclipConstants, ScoreOptions,
};
use maskclip::scores::QueryOwner;
use tch::{Device, Kind, Tensor};

use crate::arrays::{Arrays, Comparison, TOLERANCE, load_tower};

/// The two published depths and another one.
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
        let refused = DenseFeatures::extract(&tower, &image, &options(Attention::ScClip));
        let error = refused.expect_err("SC-CLIP is not defined on this grid").to_string();
        assert!(error.contains(&format!("not at {rows} rows of {columns}")), "{error}");
    }
}

/// ResCLIP's features depend on the texts, so only its logits can be compared.
#[test]
fn resclip() {
    agrees_in_logits_alone(Attention::Resclip);
}

#[test]
fn resclip_repaired() {
    agrees_in_logits_alone(Attention::ResclipRepaired);
}

/// The released first pass looks at the colours of the whole input, this one at whole patches alone; docs/options.md
/// says so.
#[test]
fn pixels_that_fill_no_patch_do_not_count_in_resclips_first_pass() {
    let (tower, arrays) = (load("vit_12"), read("vit_12"));
    let image = arrays.get("64x64.image");
    let wider = image.constant_pad_nd([0, 5, 0, 3]);
    let text = arrays.get("text");
    let owners: Vec<_> = (0..).map(QueryOwner::Class).take(text.size()[0] as usize).collect();
    let scores = |image: &Tensor| {
        let (options, scoring) = (options(Attention::Resclip), ScoreOptions::default());
        let scores = dense::score(&tower, std::slice::from_ref(image), text, &owners, &options, &scoring);
        let grid = &scores.expect("a ViT computes this attention").map.grids[0];
        Tensor::from_slice(&grid.values)
    };
    let difference = (scores(image) - scores(&wider)).abs().max().double_value(&[]);
    assert!(difference <= TOLERANCE, "{difference:e}");
}

#[test]
fn gem() {
    agrees_on_every_grid(Attention::Gem);
}

/// GEM's release interpolates positions with antialiasing, CLIP's towers here without. Off the trained grid of
/// 8 x 8 cells that makes another answer of the whole tower; Python has the same above.
#[test]
fn gem_interpolates_positions_with_antialiasing_and_so_only_off_the_trained_grid() {
    let (tower, arrays) = (load("vit_12"), read("vit_12"));
    let difference = |size: &str| {
        let image = arrays.get(&format!("{size}.image"));
        let features = DenseFeatures::extract(&tower, image, &options(Attention::Gem)).expect("a ViT computes gem");
        let clips = tower.encode_image(&image.unsqueeze(0)).squeeze_dim(0);
        (features.pooled - clips).abs().max().double_value(&[])
    };
    assert!(difference("64x64") <= TOLERANCE, "{:e}", difference("64x64"));
    assert!(difference("56x56") > 10.0 * TOLERANCE, "{:e}", difference("56x56"));
}

/// Returns the constants that tools/golden/attention.py uses. Each differs from its default.
fn other_constants(attention: Attention) -> FeatureOptions {
    let resclip = ResclipConstants {
        threshold: 0.5,
        middle_share: 0.6,
        score_scale: 2.2,
        layout_share: 0.6,
    };
    FeatureOptions {
        constants: AttentionConstants {
            resclip,
            pearl_key_weight: 0.3,
        },
        ..options(attention)
    }
}

#[test]
fn constants_other_than_the_default_reach_the_attentions() {
    let mut comparison = Comparison::default();
    for model in MODELS {
        let (tower, arrays) = (load(model), read(model));
        for size in arrays.sizes() {
            for attention in [Attention::Resclip, Attention::PearlNewtonSchulz] {
                let name = format!("{size}.{}.other.logits", attention.name());
                compare_logits(
                    &name,
                    &other_constants(attention),
                    &tower,
                    &arrays,
                    size,
                    &mut comparison,
                );
            }
        }
    }
    comparison.conclude();
}

fn agrees_on_every_grid(attention: Attention) {
    agrees(attention, &[SQUARE, OBLONG].concat());
}

/// Asserts that features and logits equal Python's on every tower, and that the pooled feature stays CLIP's own. That
/// of gem is CLIP's with positions that are interpolated as GEM's are.
fn agrees(attention: Attention, sizes: &[&str]) {
    let mut comparison = Comparison::default();
    for model in MODELS {
        let (tower, arrays) = (load(model), read(model));
        for size in sizes {
            let image = arrays.get(&format!("{size}.image"));
            let features = DenseFeatures::extract(&tower, image, &options(attention));
            let features = features.expect("a ViT computes this attention");
            comparison.add(&arrays, &format!("{size}.{}.cells", attention.name()), &features.cells);
            if attention == Attention::Gem {
                comparison.add(&arrays, &format!("{size}.gem.image_feature"), &features.pooled);
            } else {
                let pooled = tower.encode_image(&image.unsqueeze(0)).squeeze_dim(0);
                let difference = (&features.pooled - pooled).abs().max().double_value(&[]);
                assert!(difference <= TOLERANCE, "CLIP's own answer is {difference} off");
            }
            let name = format!("{size}.{}.logits", attention.name());
            compare_logits(&name, &options(attention), &tower, &arrays, size, &mut comparison);
        }
    }
    comparison.conclude();
}

fn agrees_in_logits_alone(attention: Attention) {
    let mut comparison = Comparison::default();
    for model in MODELS {
        let (tower, arrays) = (load(model), read(model));
        for size in arrays.sizes() {
            let name = format!("{size}.{}.logits", attention.name());
            compare_logits(&name, &options(attention), &tower, &arrays, size, &mut comparison);
        }
    }
    comparison.conclude();
}

fn options(attention: Attention) -> FeatureOptions {
    FeatureOptions {
        attention,
        ..FeatureOptions::default()
    }
}

fn compare_logits(
    name: &str,
    options: &FeatureOptions,
    tower: &VisualTower,
    arrays: &Arrays,
    size: &str,
    comparison: &mut Comparison,
) {
    let text = arrays.get("text");
    let owners: Vec<_> = (0..).map(QueryOwner::Class).take(text.size()[0] as usize).collect();
    let image = arrays.get(&format!("{size}.image"));
    let scoring = ScoreOptions {
        temperature: TEMPERATURE,
        ..ScoreOptions::default()
    };
    let scores = dense::score(tower, std::slice::from_ref(image), text, &owners, options, &scoring)
        .expect("a ViT computes this attention");
    // [queries, height, width] -> [queries, cells]
    let logits = Tensor::from_slice(&scores.map.grids[0].values).view([text.size()[0], -1]);
    comparison.add(arrays, name, &logits);
}

fn load(model: &str) -> VisualTower {
    load_tower(&format!("attention_{model}"))
}

fn read(model: &str) -> Arrays {
    Arrays::read(model, &format!("attention_{model}_arrays.safetensors"))
}
