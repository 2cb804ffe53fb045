//! Compares bfloat16 with float32, where the reference is this program itself. `model.precision: auto` may choose
//! either, so both must give the same labels.

use std::path::Path;

use maskclip::clip::{Clip, ModelConfig, Weights};
use maskclip::dense::{self, DenseFeatures, FeatureOptions, ScoreOptions};
use maskclip::image::{self, Normalisation, Orientation, Resize};
use maskclip::scores::{QueryOwner, ScoreMap};
use maskclip::vocabulary::TemplateSet;
use maskclip::weights::EmbeddedModel;
use tch::{Device, Kind, Tensor};

use crate::arrays::golden;

/// Least share of the scenes' pixels that have the same label in both precisions.
const AGREEMENT: f64 = 0.99;

/// Every sixteenth scene of each style is used, which makes half a million pixels.
const SCENES_APART: usize = 16;

#[test]
fn the_embedded_models_label_the_example_scenes_alike_in_both_precisions() {
    for name in ["demo", "demo-vit"] {
        let model = EmbeddedModel::named(name).expect("the model is embedded");
        let [in_float32, in_bfloat16] = [Kind::Float, Kind::BFloat16].map(|kind| labels(model, kind));
        let same = in_float32.iter().zip(&in_bfloat16).filter(|(a, b)| a == b).count();
        let agreement = same as f64 / in_float32.len() as f64;
        println!("{name}: {agreement:.4} of {} pixels", in_float32.len());
        assert_eq!(in_float32.len(), in_bfloat16.len());
        assert!(agreement >= AGREEMENT, "{name}: {agreement} of the pixels");
    }
}

/// Returns the best query of all pixels of the scenes, one scene after the other.
fn labels(model: &EmbeddedModel, kind: Kind) -> Vec<i64> {
    let weights = Weights::from_bytes(model.weights, Device::Cpu, kind).expect("the embedded weights can be read");
    let config = ModelConfig::parse(model.config).expect("the embedded configuration can be read");
    let clip = Clip::load(weights, &config).expect("the embedded weights are a whole model");
    let scenes = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/scenes");
    let names = |file: &str| std::fs::read_to_string(scenes.join(file)).expect("the scenes' names are committed");
    let (classes, background) = (names("classes.txt"), names("backgrounds.txt"));
    // The names in backgrounds.txt compete with the classes as the background, so the classes' own entry "background"
    // is left out.
    let classes: Vec<&str> = classes.lines().filter(|name| *name != "background").collect();
    let owners: Vec<QueryOwner> = (0..classes.len())
        .map(|id| QueryOwner::Class(u16::try_from(id).expect("there are few classes")))
        .chain(background.lines().map(|_| QueryOwner::Background))
        .collect();
    let prompts: Vec<_> = classes
        .iter()
        .copied()
        .chain(background.lines())
        .flat_map(|name| TemplateSet::Simple.prompts(name))
        .map(|prompt| clip.tokenizer.encode(&prompt))
        .collect();
    let text = tch::no_grad(|| clip.text.encode_ensembles(&prompts, 1));

    let options: serde_json::Value = serde_json::from_str(model.options).expect("the model's options are JSON");
    let short_side = options["short_side"].as_u64().and_then(|side| side.try_into().ok());
    let short_side = short_side.expect("the model says its short side");
    let mut labels = Vec::new();
    for style in ["in-style", "openmoji"] {
        for number in (0..64).step_by(SCENES_APART) {
            let file = scenes.join(style).join(format!("{number:02}.png"));
            let bytes = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            let pixels = image::decode(&bytes, Orientation::Exif, 1 << 24).expect("a scene is a picture");
            let (width, height) = pixels.dimensions();
            let patch = u32::try_from(clip.visual.patch_pixels()).expect("a patch is some pixels wide");
            let size = Resize::Bicubic.working_size(width, height, short_side, patch, 1 << 24);
            let size = size.expect("a scene is within the limit");
            let input = image::preprocess(&pixels, size.0, size.1, Resize::Bicubic, &Normalisation::CLIP);
            // [3 * height * width] -> [3, height, width]
            let input = Tensor::from_slice(&input.values).view([3, size.1.into(), size.0.into()]);
            let (features, scoring) = (FeatureOptions::default(), ScoreOptions::default());
            let scores = dense::score(
                &clip.visual,
                &[input.to_kind(kind)],
                &text,
                &owners,
                &features,
                &scoring,
            );
            let scores = scores.expect("every tower computes MaskCLIP");
            labels.extend(best_queries(&scores.map, (height, width)));
        }
    }
    labels
}

/// Returns the query with the largest logit at each pixel of an image of the given height and width. libtorch does this
/// in milliseconds, where the label map of a debug build takes a second.
fn best_queries(map: &ScoreMap, (height, width): (u32, u32)) -> Vec<i64> {
    let [grid] = map.grids.as_slice() else {
        panic!("one scale has one grid");
    };
    let grid = Tensor::from_slice(&grid.values).view([1, map.queries as i64, grid.height as i64, grid.width as i64]);
    let pixels = grid.upsample_bilinear2d([i64::from(height), i64::from(width)], false, None, None);
    let best = pixels.argmax(1, false).flatten(0, -1);
    best.try_into().expect("the queries are whole numbers")
}

/// Largest change of a cosine in bfloat16. A cell whose best text leads by more than twice this keeps its label.
const COSINE_TOLERANCE: f64 = 0.02;

#[test]
fn a_random_towers_cosines_move_by_less_than_the_tolerance() {
    for name in ["visual_vit_quick_gelu", "visual_vit_gelu", "visual_resnet"] {
        let [in_float32, in_bfloat16] = [Kind::Float, Kind::BFloat16].map(|kind| random_cosines(name, kind));
        let moved = (in_float32 - in_bfloat16).abs().max().double_value(&[]);
        println!("{name}: {moved:.4}");
        assert!(moved > 0.0 && moved < COSINE_TOLERANCE, "{name}: {moved}");
    }
}

/// Returns the cosines of a golden tower's cells with random directions: `[cells, texts]`.
fn random_cosines(name: &str, kind: Kind) -> Tensor {
    let path = golden(&format!("{name}.safetensors"));
    let mut weights = Weights::load(&path, Device::Cpu, kind).expect("the golden weights are committed");
    let config = ModelConfig::find(weights.format(), &path).expect("the configuration is committed beside");
    let tower = maskclip::clip::VisualTower::load(&mut weights, &config).expect("the weights are a whole tower");
    let wave = |shape: &[i64], seed: f64| {
        let count: i64 = shape.iter().product();
        let angle = (Tensor::arange(count, (Kind::Double, Device::Cpu)) + 1.0) * seed;
        angle.sin().to_kind(Kind::Float).view(shape)
    };
    let side = tower.patch_pixels() * 6;
    let image = wave(&[3, side, side], 12.9) * 2.0;
    let features = DenseFeatures::extract(&tower, &image.to_kind(kind), &FeatureOptions::default());
    let unit = |rows: Tensor| &rows / rows.norm_scalaropt_dim(2, [-1], true);
    let cells = unit(
        features
            .expect("every tower computes MaskCLIP")
            .cells
            .to_kind(Kind::Float),
    );
    let text = unit(wave(&[5, tower.embedding_dimension()], 7.3));
    tch::no_grad(|| cells.matmul(&text.transpose(0, 1)))
}
