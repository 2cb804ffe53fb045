//! Measures the text tower at ViT-B/16's size on random weights. It encodes a chunk of a vocabulary as the engine
//! passes it, a single class, and a single prompt, in both precisions of a CPU. docs/experiments.md has the figures
//! beside open_clip's.
#![allow(clippy::disallowed_types)] // A tower consists of tensors.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use maskclip::clip::{Activation, TextTower, Tokenizer, Tokens, VOCABULARY_SIZE, Weights};
use maskclip::vocabulary::TemplateSet;
use tch::{Device, Kind, Tensor};

const CONTEXT_LENGTH: i64 = 77;
const WIDTH: i64 = 512;
const EMBEDDING: i64 = 512;
const HEAD_WIDTH: i64 = 64;
const LAYERS: usize = 12;

/// The class names of COCO-Stuff.
const NAMES: &str = include_str!("../config/vocabularies/coco-stuff-171.txt");

/// Number of names in a chunk when each name has 85 prompts.
const CHUNK_NAMES: usize = 16;

/// Writes a checkpoint of random weights that are as small as a fresh model's.
fn checkpoint() -> tempfile::NamedTempFile {
    tch::manual_seed(0);
    let normal = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu)) * 0.02;
    let mut tensors = vec![
        ("token_embedding.weight".to_owned(), normal(&[VOCABULARY_SIZE, WIDTH])),
        ("positional_embedding".to_owned(), normal(&[CONTEXT_LENGTH, WIDTH])),
        ("text_projection".to_owned(), normal(&[WIDTH, EMBEDDING])),
        ("ln_final.weight".to_owned(), normal(&[WIDTH]) + 1.0),
        ("ln_final.bias".to_owned(), normal(&[WIDTH])),
    ];
    for layer in 0..LAYERS {
        let layers = [
            ("attn.in_proj_", 3 * WIDTH, WIDTH),
            ("attn.out_proj.", WIDTH, WIDTH),
            ("mlp.c_fc.", 4 * WIDTH, WIDTH),
            ("mlp.c_proj.", WIDTH, 4 * WIDTH),
        ];
        let mut push = |name: String, tensor| tensors.push((format!("transformer.resblocks.{layer}.{name}"), tensor));
        for (name, outputs, inputs) in layers {
            push(format!("{name}weight"), normal(&[outputs, inputs]));
            push(format!("{name}bias"), normal(&[outputs]));
        }
        for norm in ["ln_1", "ln_2"] {
            push(format!("{norm}.weight"), normal(&[WIDTH]) + 1.0);
            push(format!("{norm}.bias"), normal(&[WIDTH]));
        }
    }
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let views: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    Tensor::write_safetensors(&views, file.path()).expect("the temporary file can be written");
    file
}

fn text_tower(criterion: &mut Criterion) {
    let checkpoint = checkpoint();
    let tokenizer = Tokenizer::new(77);
    let templates = TemplateSet::Maskclip85;
    let tokens = |names: usize| -> Vec<Tokens> {
        let prompts = NAMES.lines().take(names).flat_map(|name| templates.prompts(name));
        prompts.map(|prompt| tokenizer.encode(&prompt)).collect()
    };
    criterion.bench_function("tokens of a chunk", |bencher| bencher.iter(|| tokens(CHUNK_NAMES)));
    let chunk = tokens(CHUNK_NAMES);
    for (kind, precision) in [(Kind::Float, "float32"), (Kind::BFloat16, "bfloat16")] {
        let mut weights = Weights::load(checkpoint.path(), Device::Cpu, kind).expect("a checkpoint");
        let tower = TextTower::load(&mut weights, Activation::QuickGelu, HEAD_WIDTH).expect("a text tower");
        let mut group = criterion.benchmark_group(precision);
        group.sample_size(10).measurement_time(Duration::from_secs(15));
        for (name, prompts) in [
            ("a chunk", chunk.len()),
            ("a class", templates.templates().len()),
            ("a prompt", 1),
        ] {
            group.bench_function(name, |bencher| {
                bencher.iter(|| black_box(tower.encode(&chunk[..prompts])))
            });
        }
    }
}

criterion_group!(benches, text_tower);
criterion_main!(benches);
