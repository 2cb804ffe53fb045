//! Compares the tokenizer and the text tower with open_clip. `tools/golden/text.py` makes the files.

use std::collections::HashMap;
use std::io::BufReader;

use flate2::read::GzDecoder;
use maskclip::clip::{Activation, TextTower, Tokenizer, Tokens, VOCABULARY_SIZE, Weights};
use maskclip::vocabulary::TemplateSet;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use crate::arrays::golden;

/// Largest difference from open_clip's float32 results.
const TOLERANCE: f32 = 1e-4;

/// Channels per head of the towers in the files.
const HEAD_WIDTH: i64 = 16;

#[derive(Deserialize)]
struct TokenList {
    text: String,
    context_length: usize,
    ids: Vec<i64>,
}

#[test]
fn tokens_are_open_clips() {
    let file = std::fs::read(golden("tokens.json")).expect("the golden is committed");
    let lists: Vec<TokenList> = serde_json::from_slice(&file).expect("the golden is well-formed");
    assert!(lists.len() > 300);
    compare_tokens(&lists);
}

#[test]
fn tokens_of_hostile_texts_are_open_clips() {
    let file = std::fs::read(golden("tokens_hostile.json.gz")).expect("the golden is committed");
    let file = BufReader::new(GzDecoder::new(file.as_slice()));
    let lists: Vec<TokenList> = serde_json::from_reader(file).expect("the golden is well-formed");
    assert_eq!(lists.len(), 2_000);
    compare_tokens(&lists);
}

fn compare_tokens(lists: &[TokenList]) {
    let mut tokenizers = HashMap::new();
    let mut others = Vec::new();
    for list in lists {
        let tokenizer = tokenizers
            .entry(list.context_length)
            .or_insert_with(|| Tokenizer::new(list.context_length));
        let found = tokenizer.encode(&list.text).ids;
        let same = found
            .iter()
            .zip(&list.ids)
            .take_while(|(found, expected)| found == expected);
        let same = same.count();
        if found.len() != same || list.ids.len() != same {
            others.push(format!(
                "{:?} in {} tokens, number {same}: {:?}, expected {:?}",
                list.text,
                list.context_length,
                found.get(same),
                list.ids.get(same)
            ));
        }
    }
    assert!(
        others.is_empty(),
        "{} texts have other tokens:\n{}",
        others.len(),
        others.join("\n")
    );
}

/// A tiny text tower and open_clip's results with it.
struct Golden {
    tower: TextTower,
    prompts: Vec<String>,
    ensemble_names: Vec<String>,
    /// The features of the prompts, `[prompts, embedding]`.
    features: Vec<Vec<f32>>,
    /// The embeddings of the ensembles, `[ensemble names, embedding]`.
    ensembles: Vec<Vec<f32>>,
}

impl Golden {
    fn load(name: &str, activation: Activation) -> Self {
        let bytes = std::fs::read(golden(name)).expect("the golden is committed");
        let (_, header) = SafeTensors::read_metadata(&bytes).expect("the golden is well-formed");
        let metadata = header.metadata().clone().expect("the golden has metadata");
        let list = |key: &str| serde_json::from_str(&metadata[key]).expect("the golden lists texts");

        let file = SafeTensors::deserialize(&bytes).expect("the golden is well-formed");
        let checkpoint = with_whole_embedding(&file);
        let mut weights =
            Weights::from_bytes(checkpoint, Device::Cpu, Kind::Float).expect("the golden is a checkpoint");
        let tower = TextTower::load(&mut weights, activation, HEAD_WIDTH).expect("the golden is a text tower");
        weights.finish().expect("the tower uses every tensor");
        Self {
            tower,
            prompts: list("prompts"),
            ensemble_names: list("ensemble_names"),
            features: rows(&file, "golden.features"),
            ensembles: rows(&file, "golden.ensembles"),
        }
    }

    fn tokens(&self, texts: impl IntoIterator<Item = String>) -> Vec<Tokens> {
        let tokenizer = Tokenizer::new(self.tower.context_length());
        texts.into_iter().map(|text| tokenizer.encode(&text)).collect()
    }

    fn check_features(&self) {
        let tokens = self.tokens(self.prompts.iter().cloned());
        assert_close(&self.tower.encode(&tokens), &self.features);
    }

    fn check_ensembles(&self) {
        let templates = TemplateSet::Maskclip85;
        let tokens = self.tokens(self.ensemble_names.iter().flat_map(|name| templates.prompts(name)));
        assert_close(
            &self.tower.encode_ensembles(&tokens, templates.templates().len()),
            &self.ensembles,
        );
    }
}

#[test]
fn features_and_ensembles_are_open_clips_with_quick_gelu() {
    let golden = Golden::load("text_quick_gelu.safetensors", Activation::QuickGelu);
    golden.check_features();
    golden.check_ensembles();
}

#[test]
fn features_and_ensembles_are_open_clips_with_gelu() {
    let golden = Golden::load("text_gelu.safetensors", Activation::Gelu);
    golden.check_features();
    golden.check_ensembles();
}

#[test]
fn the_activation_shows() {
    let golden = Golden::load("text_gelu.safetensors", Activation::QuickGelu);
    let tokens = golden.tokens(golden.prompts.iter().cloned());
    assert!(largest_difference(&golden.tower.encode(&tokens), &golden.features) > 10.0 * TOLERANCE);
}

#[test]
fn a_prompt_has_the_same_feature_alone_and_among_others() {
    let golden = Golden::load("text_gelu.safetensors", Activation::Gelu);
    for (prompt, expected) in golden.prompts.iter().zip(&golden.features) {
        let tokens = golden.tokens([prompt.clone()]);
        assert_close(&golden.tower.encode(&tokens), std::slice::from_ref(expected));
    }
}

#[test]
fn no_prompts_have_no_features() {
    let golden = Golden::load("text_gelu.safetensors", Activation::Gelu);
    let width = i64::try_from(golden.tower.embedding_dimension()).expect("a small number");
    assert_eq!(golden.tower.encode(&[]).size(), [0, width]);
}

#[test]
fn a_tower_with_another_vocabulary_is_refused() {
    let bytes = std::fs::read(golden("text_gelu.safetensors")).expect("the golden is committed");
    let file = SafeTensors::deserialize(&bytes).expect("the golden is well-formed");
    let values = file
        .tensor("token_embedding.values")
        .expect("the golden has the embedding's values");
    let tensors = file.iter().filter(|(name, _)| !name.starts_with("token_embedding"));
    let tensors: Vec<_> = tensors.map(|(name, view)| (name.to_owned(), view)).collect();
    let short = tensors
        .into_iter()
        .chain([("token_embedding.weight".to_owned(), values)]);
    let bytes = safetensors::serialize(short, None).expect("the views are valid");
    let mut weights = Weights::from_bytes(bytes, Device::Cpu, Kind::Float).expect("the tensors are a checkpoint");
    let error = TextTower::load(&mut weights, Activation::Gelu, HEAD_WIDTH).expect_err("the vocabulary is too small");
    assert!(error.to_string().ends_with("expected [49408, 32]"), "{error}");
}

/// Returns the golden's tower as a checkpoint. The rows of its token embedding that no text uses are so large that a
/// feature in which one takes part is far from the golden's.
fn with_whole_embedding(file: &SafeTensors) -> Vec<u8> {
    let used = file
        .tensor("token_embedding.rows")
        .expect("the golden has the embedding's rows");
    let used = used
        .data()
        .chunks_exact(8)
        .map(|bytes| i64::from_le_bytes(bytes.try_into().expect("8 bytes")));
    let values = file
        .tensor("token_embedding.values")
        .expect("the golden has the embedding's values");
    let width = values.shape()[1];
    let row_bytes = width * size_of::<f32>();
    let vocabulary = usize::try_from(VOCABULARY_SIZE).expect("a small number");
    let mut whole = 1e30_f32.to_le_bytes().repeat(vocabulary * width);
    for (row, value) in used.zip(values.data().chunks_exact(row_bytes)) {
        let start = usize::try_from(row).expect("ids are not negative") * row_bytes;
        whole[start..start + row_bytes].copy_from_slice(value);
    }
    let embedding = TensorView::new(Dtype::F32, vec![vocabulary, width], &whole).expect("the sizes agree");
    let others = file
        .iter()
        .filter(|(name, _)| !name.starts_with("golden.") && !name.starts_with("token_embedding."));
    let tensors: Vec<_> = others.chain([("token_embedding.weight", embedding)]).collect();
    safetensors::serialize(tensors, None).expect("the views are valid")
}

/// Returns a matrix of the golden, row by row.
fn rows(file: &SafeTensors, name: &str) -> Vec<Vec<f32>> {
    let view = file.tensor(name).expect("the golden has the matrix");
    let values = view
        .data()
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().expect("4 bytes")));
    values
        .collect::<Vec<_>>()
        .chunks(view.shape()[1])
        .map(<[f32]>::to_vec)
        .collect()
}

fn largest_difference(computed: &Tensor, expected: &[Vec<f32>]) -> f32 {
    let computed: Vec<Vec<f32>> = computed.try_into().expect("a matrix of floats");
    assert_eq!(computed.len(), expected.len());
    let pairs = computed.iter().flatten().zip(expected.iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, |largest, difference| {
        assert!(!difference.is_nan());
        difference.max(largest)
    })
}

fn assert_close(computed: &Tensor, expected: &[Vec<f32>]) {
    let difference = largest_difference(computed, expected);
    assert!(difference <= TOLERANCE, "differs by {difference}");
}
