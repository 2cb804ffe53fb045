//! CLIP's text tower (Radford et al. 2021, section 2.4): tokens to one text feature.
//!
//! Owns the tower as published and the averaging of a text's prompts. Attention is causal and the feature is read at
//! the end of the text. Tokens after that end therefore never matter, and prompts with a common beginning share the
//! values of that beginning. The tower runs each node of the prompts' prefix trees
//! ([`prefix_tree`](super::prefix_tree)) once. The result is the same as that of running each prompt over the whole
//! context.

use tch::{Device, Kind, Tensor};

use super::activation::Activation;
use super::checkpoint::{CheckpointError, Weights};
use super::prefix_tree::PrefixBatch;
use super::tokenizer::{END_OF_TEXT, Tokens, VOCABULARY_SIZE};
use super::transformer::{LayerNorm, MultiHeadAttention, ResidualAttentionBlock, join_heads};
use crate::support::{to_i64, to_usize};

/// The text tower. Its fields are named after the checkpoint's keys.
#[derive(Debug)]
pub struct TextTower {
    /// One vector for each token of the vocabulary, `[VOCABULARY_SIZE, width]`.
    token_embedding: Tensor,
    /// One vector for each position, `[context length, width]`.
    positional_embedding: Tensor,
    /// The blocks in the order in which they run; there is at least one.
    resblocks: Vec<ResidualAttentionBlock>,
    ln_final: LayerNorm,
    /// The projection into the embedding space, `[width, embedding]`, without bias.
    text_projection: Tensor,
}

impl TextTower {
    /// Takes the tower's tensors from `weights`. Every size but the heads' width comes from their shapes.
    ///
    /// # Errors
    /// Fails when a tensor is missing or does not fit the others, or when the vocabulary does not have CLIP's size.
    pub fn load(weights: &mut Weights, activation: Activation, head_width: i64) -> Result<Self, CheckpointError> {
        let size = |name: &str, dimension: usize| {
            // If the tensor is missing, any size will do: `take` reports the missing name.
            weights
                .shape(name)
                .and_then(|shape| shape.get(dimension).copied())
                .unwrap_or(1)
        };
        let width = size("token_embedding.weight", 1);
        // An empty text still has two tokens: start and end.
        let context_length = size("positional_embedding", 0).max(2);
        let embedding = size("text_projection", 1);
        let layers = (0..)
            .take_while(|layer| weights.shape(&format!("{}.ln_1.weight", block_name(*layer))).is_some())
            .count();
        // Taken before the heads are counted: a missing tensor has no width.
        let token_embedding = weights.take("token_embedding.weight", &[VOCABULARY_SIZE, width])?;
        if width % head_width != 0 {
            return Err(CheckpointError::UnevenHeads { width, head_width });
        }
        let heads = width / head_width;
        Ok(Self {
            token_embedding,
            positional_embedding: weights.take("positional_embedding", &[context_length, width])?,
            // At least one block is asked for: a checkpoint without blocks then fails with the name of the missing
            // tensor.
            resblocks: (0..layers.max(1))
                .map(|layer| ResidualAttentionBlock::load(weights, &block_name(layer), width, heads, activation))
                .collect::<Result<_, _>>()?,
            ln_final: LayerNorm::load(weights, "ln_final", width)?,
            text_projection: weights.take("text_projection", &[width, embedding])?,
        })
    }

    /// Returns the most tokens of a text that the tower reads. Build its [`Tokenizer`](super::Tokenizer) with this
    /// number.
    pub fn context_length(&self) -> usize {
        to_usize(self.positional_embedding.size()[0])
    }

    /// Returns the length of a text feature.
    pub fn embedding_dimension(&self) -> usize {
        to_usize(self.text_projection.size()[1])
    }

    /// Encodes prompts of at most [`context_length`](Self::context_length) tokens each. Returns CLIP's text features,
    /// `[prompts, embedding]` in the order given, which are not of unit length.
    pub fn encode(&self, prompts: &[Tokens]) -> Tensor {
        let mut order: Vec<usize> = (0..prompts.len()).collect();
        order.sort_by_key(|&prompt| read_ids(&prompts[prompt]));
        let sorted: Vec<&[i64]> = order.iter().map(|&prompt| read_ids(&prompts[prompt])).collect();

        let none = Tensor::empty(
            [0, self.text_projection.size()[1]],
            (self.text_projection.kind(), self.device()),
        );
        let batches = PrefixBatch::of(&sorted).map(|batch| self.encode_batch(&batch));
        let features = Tensor::cat(&std::iter::once(none).chain(batches).collect::<Vec<_>>(), 0);

        let mut place = vec![0; order.len()];
        for (sorted_place, prompt) in (0..).zip(order) {
            place[prompt] = sorted_place;
        }
        features.index_select(0, &Tensor::from_slice::<i64>(&place).to_device(self.device()))
    }

    /// Encodes each text as an ensemble of `ensemble` consecutive prompts: scales the prompts' features to unit length,
    /// averages them and scales the mean to unit length (Radford et al. 2021, section 3.1.4). Returns float32
    /// `[prompts / ensemble, embedding]`. `ensemble` must divide the number of prompts.
    pub fn encode_ensembles(&self, prompts: &[Tokens], ensemble: usize) -> Tensor {
        let ensemble = to_i64(ensemble);
        let units = unit(&self.encode(prompts).to_kind(Kind::Float));
        // [texts * ensemble, embedding] -> [texts, ensemble, embedding] -> [texts, embedding]
        let means = units.unflatten(0, [-1, ensemble]).mean_dim(1, false, Kind::Float);
        unit(&means)
    }

    /// Returns the features of the prompts in one batch, `[prompts, embedding]`.
    fn encode_batch(&self, batch: &PrefixBatch) -> Tensor {
        let device = self.device();
        let [ids, positions, ends] =
            [&batch.ids, &batch.positions, &batch.ends].map(|indices| Tensor::from_slice(indices).to_device(device));
        let mask = TileMask::new(batch, device, self.text_projection.kind());

        let nodes = Tensor::embedding(&self.token_embedding, &ids, -1, false, false)
            + self.positional_embedding.index_select(0, &positions); // [nodes, width]
        let (last, others) = self.resblocks.split_last().expect("a tower has at least one block");
        let nodes = others.iter().fold(nodes, |nodes, block| {
            let mixed = mask.mix(&block.attn, &block.ln_1.forward(&nodes));
            block.complete_mixed(&nodes, &mixed)
        });
        // No later block reads the last block's other nodes, so only the ends go on. [nodes, width] -> [prompts, width]
        let mixed = mask.mix(&last.attn, &last.ln_1.forward(&nodes)).index_select(0, &ends);
        let ends = last.complete_mixed(&nodes.index_select(0, &ends), &mixed);
        self.ln_final.forward(&ends).matmul(&self.text_projection)
    }

    fn device(&self) -> Device {
        self.text_projection.device()
    }
}

/// Says which nodes of a batch each node may attend to.
struct TileMask {
    tiles: i64,
    /// Indices of the nodes that each tile attends to, `[tiles * keys]`.
    keys: Tensor,
    /// The attention's bias, 0 or minus infinity, `[tiles, 1, nodes / tiles, keys]`.
    bias: Tensor,
}

impl TileMask {
    fn new(batch: &PrefixBatch, device: Device, kind: Kind) -> Self {
        let tiles = to_i64(batch.tiles);
        let keys = to_i64(batch.keys.len()) / tiles;
        // [nodes * keys] -> [tiles, 1, nodes / tiles, keys]
        let bias = Tensor::from_slice(&batch.bias).view([tiles, 1, -1, keys]);
        Self {
            tiles,
            keys: Tensor::from_slice(&batch.keys).to_device(device),
            bias: bias.to_device(device).to_kind(kind),
        }
    }

    /// Attends from each node to the nodes that it sees. Returns the outputs of the heads, joined but not projected:
    /// `[nodes, width]` to the same shape.
    fn mix(&self, attention: &MultiHeadAttention, x: &Tensor) -> Tensor {
        let [query, key, value] = attention.query_key_value(x);
        let [key, value] = [key, value].map(|part| part.index_select(0, &self.keys)); // [tiles * keys, width]
        let [query, key, value] = [query, key, value].map(|part| {
            // [tiles * tokens, width] -> [tiles, tokens, width] -> [tiles, heads, tokens, head_width]
            attention.split_heads(&part.unflatten(0, [self.tiles, -1]))
        });
        let mixed =
            Tensor::scaled_dot_product_attention(&query, &key, &value, Some(&self.bias), 0.0, false, None, false);
        // [tiles, heads, nodes / tiles, head_width] -> [tiles, nodes / tiles, width] -> [nodes, width]
        join_heads(&mixed).flatten(0, 1)
    }
}

fn block_name(layer: usize) -> String {
    format!("transformer.resblocks.{layer}")
}

/// Returns the ids up to and including the first end of text, where the feature is read. A text may contain further
/// ends, because it can spell the token out.
fn read_ids(prompt: &Tokens) -> &[i64] {
    let end = prompt.ids.iter().position(|&id| id == END_OF_TEXT);
    end.map_or(&prompt.ids, |end| &prompt.ids[..=end])
}

/// Scales each row of `[rows, columns]` to unit length.
fn unit(rows: &Tensor) -> Tensor {
    rows / rows.norm_scalaropt_dim(2, [-1], true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clip::START_OF_TEXT;

    const CONTEXT_LENGTH: i64 = 77;

    /// Builds a tower with two heads and three blocks. Its random weights are larger than a fresh model's, so that
    /// every part affects the result.
    fn tower(activation: Activation) -> TextTower {
        const WIDTH: i64 = 32;
        tch::manual_seed(5);
        let normal = |shape: &[i64], scale: f64| Tensor::randn(shape, (Kind::Float, Device::Cpu)) * scale;
        let mut tensors = vec![
            (
                "token_embedding.weight".to_owned(),
                normal(&[VOCABULARY_SIZE, WIDTH], 0.3),
            ),
            ("positional_embedding".to_owned(), normal(&[CONTEXT_LENGTH, WIDTH], 0.3)),
            ("text_projection".to_owned(), normal(&[WIDTH, 24], 0.2)),
        ];
        for name in (0..3).map(block_name) {
            for (part, outputs, inputs) in [
                ("attn.in_proj_", 3 * WIDTH, WIDTH),
                ("attn.out_proj.", WIDTH, WIDTH),
                ("mlp.c_fc.", 4 * WIDTH, WIDTH),
                ("mlp.c_proj.", WIDTH, 4 * WIDTH),
            ] {
                tensors.push((format!("{name}.{part}weight"), normal(&[outputs, inputs], 0.2)));
                tensors.push((format!("{name}.{part}bias"), normal(&[outputs], 0.3)));
            }
        }
        let norms = (0..3).flat_map(|layer| [1, 2].map(|norm| format!("{}.ln_{norm}", block_name(layer))));
        for norm in norms.chain(["ln_final".to_owned()]) {
            tensors.push((format!("{norm}.weight"), normal(&[WIDTH], 0.3) + 1.0));
            tensors.push((format!("{norm}.bias"), normal(&[WIDTH], 0.3)));
        }
        let views = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        Tensor::write_safetensors(&views.collect::<Vec<_>>(), file.path()).expect("the temporary file can be written");
        let mut weights = Weights::load(file.path(), Device::Cpu, Kind::Float).expect("a checkpoint");
        TextTower::load(&mut weights, activation, WIDTH / 2).expect("a text tower")
    }

    /// Computes the feature as CLIP defines it: one prompt alone, over the whole context, with every position seeing
    /// those before it.
    fn encode_plainly(tower: &TextTower, prompt: &Tokens) -> Tensor {
        let mut ids = prompt.ids.clone();
        ids.resize(77, 0);
        let context = [CONTEXT_LENGTH, CONTEXT_LENGTH];
        let later = Tensor::ones(context, (Kind::Bool, Device::Cpu)).triu(1);
        let tokens = tower.token_embedding.index_select(0, &Tensor::from_slice(&ids)) + &tower.positional_embedding;
        let tokens = tower.resblocks.iter().fold(tokens.unsqueeze(0), |tokens, block| {
            let parts = block.attn.query_key_value(&block.ln_1.forward(&tokens));
            let [query, key, value] = parts.map(|part| block.attn.split_heads(&part));
            let likeness = query.matmul(&key.transpose(2, 3)) / 4.0; // 4 is the square root of a head's 16 channels
            let weights = likeness.masked_fill(&later, f64::NEG_INFINITY).softmax(-1, Kind::Float);
            block.complete(&tokens, &block.attn.project_heads(&weights.matmul(&value)))
        });
        let end = to_i64(read_ids(prompt).len() - 1);
        tower
            .ln_final
            .forward(&tokens.select(1, end))
            .matmul(&tower.text_projection)
    }

    fn prompt(words: impl IntoIterator<Item = i64>) -> Tokens {
        let ids = [START_OF_TEXT].into_iter().chain(words).chain([END_OF_TEXT]);
        Tokens {
            ids: ids.collect(),
            truncated: false,
        }
    }

    fn assert_same_as_plainly(prompts: &[Tokens]) {
        for activation in [Activation::QuickGelu, Activation::Gelu] {
            let tower = tower(activation);
            let features = tower.encode(prompts);
            let plain = prompts.iter().map(|prompt| encode_plainly(&tower, prompt));
            let plain = Tensor::cat(&plain.collect::<Vec<_>>(), 0);
            assert!(
                plain.abs().max().double_value(&[]) > 1.0,
                "the features are large enough to compare"
            );
            let difference = (features - plain).abs().max().double_value(&[]);
            assert!(difference <= 1e-5, "differs by {difference}");
        }
    }

    #[test]
    fn a_prompt_is_read_up_to_its_first_end_of_text() {
        let ids = vec![49_406, 320, END_OF_TEXT, 1_125, END_OF_TEXT];
        assert_eq!(read_ids(&Tokens { ids, truncated: false }), [49_406, 320, END_OF_TEXT]);
    }

    #[test]
    fn an_ensemble_in_any_order_is_as_each_prompt_alone() {
        // Twelve beginnings, 40 middles of up to three tokens and two endings, in another order than the tree's.
        let prompts = (0..960).map(|number| (number * 577) % 960).map(|number: i64| {
            let (beginning, middle, ending) = (number % 12, number / 12 % 40, number / 480);
            prompt(
                (0..beginning)
                    .chain((0..=middle % 3).map(|word| 100 + middle * word))
                    .chain([900 + ending]),
            )
        });
        assert_same_as_plainly(&prompts.collect::<Vec<_>>());
    }

    #[test]
    fn a_prompt_that_begins_another_is_as_it_is_alone() {
        let whole = prompt(0..20);
        let part = |length: usize| Tokens {
            // Without an end of text, which no tokenizer produces, the prompt ends inside the tree.
            ids: whole.ids[..length].to_vec(),
            truncated: false,
        };
        assert_same_as_plainly(&[whole.clone(), part(5), part(21), prompt(0..5), part(1), part(5)]);
    }

    #[test]
    fn equal_prompts_have_equal_features() {
        let cat = prompt([320, 1_125, 539, 320, 2_368]);
        assert_same_as_plainly(&vec![cat; 50]);
    }

    #[test]
    fn prompts_as_long_as_the_context_are_as_each_alone() {
        // The prompts differ at the first, the middle or the last word, and they fill more than one batch.
        let apart_at =
            |place: i64, other: i64| prompt((0..75).map(move |word| if word == place { other } else { word }));
        let prompts = (0..30).flat_map(|other| [0, 37, 74].map(|place| apart_at(place, 1_000 + other)));
        assert_same_as_plainly(&prompts.collect::<Vec<_>>());
    }

    #[test]
    fn empty_texts_and_ends_inside_are_as_each_alone() {
        let inside = prompt([320, END_OF_TEXT, 1_125]);
        assert_same_as_plainly(&[prompt([320, 1_125]), prompt([]), inside, prompt([320]), prompt([])]);
    }

    #[test]
    fn a_template_alone_is_as_each_prompt_alone() {
        let prompts = (0..100).map(|class| prompt([320, 1_125, 539, 320, 2_000 + class, 269]));
        assert_same_as_plainly(&prompts.collect::<Vec<_>>());
        assert_same_as_plainly(&[prompt([320, 1_125])]);
    }
}
