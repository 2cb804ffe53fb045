//! Compares the visual towers and the dense scores with open_clip and an independent Python computation.
//! tools/golden/visual.py wrote the arrays. checkpoints.rs tests whole models in every form.

use maskclip::clip::{CheckpointError, ModelConfig, VisualTower};
use maskclip::dense::{self, Attention, DenseFeatures, FeatureOptions, KeySmoothing, ScoreOptions};
use maskclip::scores::ScoreKind;
use tch::{Device, Kind, Tensor};

use crate::arrays::{Arrays, Comparison, OWNERS, load_tower, open_tower};
use crate::checkpoints::{Checkpoint, FORMS};

const MODELS: [&str; 3] = ["vit_quick_gelu", "vit_gelu", "resnet"];

const REFERENCE: KeySmoothing = KeySmoothing::Reference { threshold: 0.7 };

/// The arrays of scores, with the prompt denoising and key smoothing of each.
const SCORES: [(&str, Option<f32>, KeySmoothing); 8] = [
    ("logits", None, KeySmoothing::None),
    ("denoised", Some(0.5), KeySmoothing::None),
    ("formula", None, KeySmoothing::Formula),
    ("reference", None, REFERENCE),
    ("denoised_formula", Some(0.5), KeySmoothing::Formula),
    ("denoised_reference", Some(0.5), REFERENCE),
    ("likeness", None, KeySmoothing::Likeness),
    ("denoised_likeness", Some(0.5), KeySmoothing::Likeness),
];

#[test]
fn every_array_is_the_python_references() {
    let mut comparison = Comparison::default();
    for model in MODELS {
        let arrays = Arrays::read(model, &format!("visual_{model}_arrays.safetensors"));
        compare(&load(model), &arrays, &mut comparison);
    }
    comparison.conclude();
}

/// Returns MaskCLIP's own attentions that the tower can compute; attention.rs tests its successors'.
fn maskclips(tower: &VisualTower) -> Vec<Attention> {
    let own = [
        Attention::Clip,
        Attention::ClipNoPositions,
        Attention::Maskclip,
        Attention::MaskclipNoResidual,
    ];
    let possible = dense::attentions(tower);
    own.into_iter()
        .filter(|attention| possible.contains(attention))
        .collect()
}

#[test]
fn every_form_of_a_model_gives_the_same_arrays() {
    let mut comparison = Comparison::default();
    for (model, file, ..) in FORMS {
        let form = format!("{model}/{file}");
        let clip = Checkpoint::unpack(model, file).load();
        let clip = clip.unwrap_or_else(|error| panic!("{form}: {error}"));
        let arrays = Arrays::read(&form, &format!("forms/{model}/dense.safetensors"));
        compare(&clip.visual, &arrays, &mut comparison);
    }
    comparison.conclude();
}

fn compare(tower: &VisualTower, arrays: &Arrays, comparison: &mut Comparison) {
    for size in arrays.sizes() {
        let image = arrays.get(&format!("{size}.image"));
        let feature = tower.encode_image(&image.unsqueeze(0)).squeeze_dim(0);
        comparison.add(arrays, &format!("{size}.image_feature"), &feature);
        for attention in maskclips(tower) {
            compare_features(tower, arrays, size, attention, comparison);
            compare_scores(tower, arrays, size, attention, comparison);
        }
    }
}

fn compare_features(
    tower: &VisualTower,
    arrays: &Arrays,
    size: &str,
    attention: Attention,
    comparison: &mut Comparison,
) {
    let image = arrays.get(&format!("{size}.image"));
    let options = FeatureOptions {
        attention,
        ..FeatureOptions::default()
    };
    let features = DenseFeatures::extract(tower, image, &options).expect("the tower lists this attention");
    comparison.add(arrays, &format!("{size}.image_feature"), &features.pooled);
    comparison.add(arrays, &format!("{size}.{}.cells", attention.name()), &features.cells);
}

fn compare_scores(tower: &VisualTower, arrays: &Arrays, size: &str, attention: Attention, comparison: &mut Comparison) {
    let image = arrays.get(&format!("{size}.image"));
    let text = arrays.get("text");
    let temperature = arrays.get("temperature").double_value(&[]) as f32;
    let prefix = format!("{size}.{}", attention.name());
    for (array, prompt_denoising, key_smoothing) in SCORES {
        let features = FeatureOptions {
            attention,
            keys: key_smoothing.keys(),
            ..FeatureOptions::default()
        };
        let scoring = ScoreOptions {
            temperature,
            prompt_denoising,
            key_smoothing,
        };
        let scores = dense::score(tower, std::slice::from_ref(image), text, &OWNERS, &features, &scoring)
            .expect("the tower lists this attention");

        let grid = &scores.map.grids[0];
        assert_eq!(
            format!("{}x{}", grid.height, grid.width),
            cells_of(size, tower.patch_pixels())
        );
        // [queries, height, width] -> [queries, cells]
        let values = Tensor::from_slice(&grid.values).view([text.size()[0], -1]);
        let array = format!("{prefix}.{array}");
        let kind = match key_smoothing {
            KeySmoothing::None | KeySmoothing::Likeness => ScoreKind::Logits,
            KeySmoothing::Formula | KeySmoothing::Reference { .. } => ScoreKind::Weights,
        };
        assert_eq!(scores.map.kind, kind);
        match key_smoothing {
            KeySmoothing::None => comparison.add(arrays, &array, &values),
            _ => comparison.add_sums(arrays, &array, &values),
        }
        comparison.add(
            arrays,
            &format!("{prefix}.similarity"),
            &Tensor::from_slice(&scores.similarity),
        );
        let image_probability = Tensor::from_slice(&scores.image_probability);
        comparison.add(arrays, &format!("{size}.image_probability"), &image_probability);
    }
}

/// The paper's released pool adds no positions, CLIP's own does. Both are compared with Python above.
#[test]
fn the_papers_baseline_and_clips_own_pool_are_two_attentions() {
    let (tower, arrays) = (
        load("resnet"),
        Arrays::read("resnet", "visual_resnet_arrays.safetensors"),
    );
    for size in arrays.sizes() {
        let image = arrays.get(&format!("{size}.image"));
        let cells = |attention| {
            let options = FeatureOptions {
                attention,
                ..FeatureOptions::default()
            };
            let features = DenseFeatures::extract(&tower, image, &options).expect("a ResNet computes both");
            features.cells
        };
        let difference = cells(Attention::Clip) - cells(Attention::ClipNoPositions);
        let difference = difference.abs().max().double_value(&[]);
        assert!(difference > 1e-2, "{size}: {difference:e}");
    }
}

#[test]
fn sizes_are_read_off_the_shapes() {
    let described = MODELS.map(|model| {
        let tower = load(model);
        (
            tower.architecture(),
            tower.patch_pixels(),
            tower.training_pixels(),
            tower.embedding_dimension(),
        )
    });
    assert_eq!(
        described,
        [
            ("ViT (3 layers of width 128, patch 16)".to_owned(), 16, 64, 48),
            ("ViT (2 layers of width 96, patch 16)".to_owned(), 16, 64, 32),
            ("ModifiedResNet (1, 2, 1, 1) width 16".to_owned(), 32, 96, 48),
        ]
    );
}

#[test]
fn a_resnet_refuses_the_attention_that_needs_a_residual() {
    let tower = load("resnet");
    let image = Tensor::zeros([3, 96, 96], (Kind::Float, Device::Cpu));
    let options = FeatureOptions {
        attention: Attention::MaskclipNoResidual,
        ..FeatureOptions::default()
    };
    let refused = DenseFeatures::extract(&tower, &image, &options);
    assert_eq!(
        refused.expect_err("a ResNet has no residual to leave out").to_string(),
        "ModifiedResNet (1, 2, 1, 1) width 16 cannot compute the attention maskclip-no-residual; it can: clip, \
         clip-no-positions, maskclip"
    );
}

/// The weights are those of `resnet`.
#[test]
fn a_last_stage_without_a_stride_is_the_python_references() {
    let (mut weights, config) = open_tower("visual_resnet");
    let config = ModelConfig {
        last_stride: 1,
        ..config
    };
    let tower = VisualTower::load(&mut weights, &config).expect("the golden weights are a whole tower");
    assert_eq!((tower.patch_pixels(), tower.training_pixels()), (16, 48));
    assert_eq!(
        tower.architecture(),
        "ModifiedResNet (1, 2, 1, 1) width 16, last stride 1"
    );
    let arrays = Arrays::read("resnet_fine", "visual_resnet_fine_arrays.safetensors");
    let mut comparison = Comparison::default();
    compare(&tower, &arrays, &mut comparison);
    comparison.conclude();
}

#[test]
fn heads_that_do_not_divide_the_width_are_refused() {
    let (mut weights, config) = open_tower("visual_vit_gelu");
    let config = ModelConfig {
        visual_head_width: 64,
        ..config
    };
    let error = VisualTower::load(&mut weights, &config).expect_err("96 channels are not heads of 64");
    assert!(
        matches!(
            error,
            CheckpointError::UnevenHeads {
                width: 96,
                head_width: 64
            }
        ),
        "{error}"
    );
}

fn load(model: &str) -> VisualTower {
    load_tower(&format!("visual_{model}"))
}

/// Converts a size in pixels, such as "96x128", to a size in cells, such as "6x8".
fn cells_of(size: &str, patch: i64) -> String {
    let sides: Vec<i64> = size
        .split('x')
        .map(|side| side.parse().expect("a size is two numbers"))
        .collect();
    format!("{}x{}", sides[0] / patch, sides[1] / patch)
}
