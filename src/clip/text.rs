//! CLIP's text tower (Radford et al. 2021, section 2.4): tokens to one text feature.
//!
//! Owns the tower as published and the averaging of a text's prompts. Attention is causal and the feature is read at the
//! end of the text, so what stands after it never matters: prompts are run in batches of like length, each only as far
//! as its longest prompt goes. The result is the same as over the whole context.

use tch::{Kind, Tensor};

use super::checkpoint::{CheckpointError, Weights};
use super::tokenizer::{END_OF_TEXT, Tokens, VOCABULARY_SIZE};
use super::transformer::{Activation, LayerNorm, Mask, ResidualAttentionBlock};

/// Positions that are run at once, padding included: enough to keep the cores busy, few enough that the MLP's hidden
/// layer stays at some megabytes.
const BATCH_POSITIONS: usize = 2048;

/// The text tower. Fields are named after the checkpoint's keys.
#[derive(Debug)]
pub struct TextTower {
    /// `[VOCABULARY_SIZE, width]`
    token_embedding: Tensor,
    /// `[context length, width]`
    positional_embedding: Tensor,
    /// In the order they run; never empty.
    resblocks: Vec<ResidualAttentionBlock>,
    ln_final: LayerNorm,
    /// `[width, embedding]`, without bias.
    text_projection: Tensor,
}

impl TextTower {
    /// Takes the tower's tensors; every size but the heads' is read off them.
    ///
    /// # Errors
    /// When a tensor is missing or does not fit the others, or the vocabulary is not CLIP's.
    pub fn load(weights: &mut Weights, activation: Activation, head_width: i64) -> Result<Self, CheckpointError> {
        let size = |name: &str, dimension: usize| {
            // A missing tensor is reported when it is taken, whatever the size asked for.
            weights
                .shape(name)
                .and_then(|shape| shape.get(dimension).copied())
                .unwrap_or(1)
        };
        let width = size("token_embedding.weight", 1);
        // Even an empty text has two tokens.
        let context_length = size("positional_embedding", 0).max(2);
        let embedding = size("text_projection", 1);
        let layers = (0..)
            .take_while(|layer| weights.shape(&format!("{}.ln_1.weight", block_name(*layer))).is_some())
            .count();
        if width % head_width != 0 {
            return Err(CheckpointError::UnevenHeads { width, head_width });
        }
        let heads = width / head_width;
        Ok(Self {
            token_embedding: weights.take("token_embedding.weight", &[VOCABULARY_SIZE, width])?,
            positional_embedding: weights.take("positional_embedding", &[context_length, width])?,
            // At least one, so that a checkpoint without any is told which tensor is missing.
            resblocks: (0..layers.max(1))
                .map(|layer| ResidualAttentionBlock::load(weights, &block_name(layer), width, heads, activation))
                .collect::<Result<_, _>>()?,
            ln_final: LayerNorm::load(weights, "ln_final", width)?,
            text_projection: weights.take("text_projection", &[width, embedding])?,
        })
    }

    /// Tokens of a text that the tower reads; its [`Tokenizer`](super::Tokenizer) is built with this number.
    pub fn context_length(&self) -> usize {
        usize::try_from(self.positional_embedding.size()[0]).expect("sizes are not negative")
    }

    /// Length of a text feature.
    pub fn embedding_dimension(&self) -> usize {
        usize::try_from(self.text_projection.size()[1]).expect("sizes are not negative")
    }

    /// CLIP's text features of prompts of at most [`context_length`](Self::context_length) tokens each, `[prompts,
    /// embedding]` in the order given, not of unit length.
    pub fn encode(&self, prompts: &[Tokens]) -> Tensor {
        let mut order: Vec<usize> = (0..prompts.len()).collect();
        order.sort_by_key(|&prompt| read_ids(&prompts[prompt]).len());
        let sorted: Vec<&[i64]> = order.iter().map(|&prompt| read_ids(&prompts[prompt])).collect();

        let none = Tensor::empty(
            [0, self.text_projection.size()[1]],
            (self.text_projection.kind(), self.device()),
        );
        let batches = batches(&sorted).map(|batch| self.encode_batch(batch));
        let features = Tensor::cat(&std::iter::once(none).chain(batches).collect::<Vec<_>>(), 0);

        let mut place = vec![0; order.len()];
        for (sorted_place, prompt) in (0..).zip(order) {
            place[prompt] = sorted_place;
        }
        features.index_select(0, &Tensor::from_slice::<i64>(&place).to_device(self.device()))
    }

    /// Unit text embeddings averaged over `ensemble` consecutive prompts each and scaled to unit length again, in float32:
    /// `[prompts / ensemble, embedding]` (Radford et al. 2021, section 3.1.4). `ensemble` divides the number of prompts.
    pub fn encode_ensembles(&self, prompts: &[Tokens], ensemble: usize) -> Tensor {
        let ensemble = i64::try_from(ensemble).expect("an ensemble has few prompts");
        let units = unit(&self.encode(prompts).to_kind(Kind::Float));
        // [texts * ensemble, embedding] -> [texts, ensemble, embedding] -> [texts, embedding]
        let means = units.unflatten(0, [-1, ensemble]).mean_dim(1, false, Kind::Float);
        unit(&means)
    }

    /// Features of one batch, shortest prompt first: `[prompts, embedding]`.
    fn encode_batch(&self, prompts: &[&[i64]]) -> Tensor {
        let longest = prompts.last().map_or(0, |ids| ids.len());
        // Padding stands after the end of a text, where the causal mask hides it.
        let ids: Vec<i64> = prompts.iter().flat_map(|ids| padded(ids, longest)).collect();
        // [prompts * longest] -> [prompts, longest]
        let ids = Tensor::from_slice(&ids)
            .to_device(self.device())
            .unflatten(0, [-1, to_i64(longest)]);
        let tokens = Tensor::embedding(&self.token_embedding, &ids, -1, false, false)
            + self.positional_embedding.narrow(0, 0, to_i64(longest));
        let tokens = self
            .resblocks
            .iter()
            .fold(tokens, |tokens, block| block.forward(&tokens, Mask::Causal));

        let ends: Vec<i64> = prompts.iter().map(|ids| to_i64(ids.len() - 1)).collect();
        let prompt = Tensor::arange(to_i64(prompts.len()), (Kind::Int64, self.device()));
        let end = Tensor::from_slice(&ends).to_device(self.device());
        let ends = tokens.index(&[Some(prompt), Some(end)]); // [prompts, longest, width] -> [prompts, width]
        self.ln_final.forward(&ends).matmul(&self.text_projection)
    }

    fn device(&self) -> tch::Device {
        self.text_projection.device()
    }
}

fn block_name(layer: usize) -> String {
    format!("transformer.resblocks.{layer}")
}

/// The ids up to the first end of text, where the feature is read; a text may spell the token out.
fn read_ids(prompt: &Tokens) -> &[i64] {
    let end = prompt.ids.iter().position(|&id| id == END_OF_TEXT);
    end.map_or(&prompt.ids, |end| &prompt.ids[..=end])
}

/// Cuts prompts, sorted by length, into runs of at most [`BATCH_POSITIONS`] positions when each is padded to the run's
/// longest; a run has at least one prompt.
fn batches<'a, 'ids>(mut sorted: &'a [&'ids [i64]]) -> impl Iterator<Item = &'a [&'ids [i64]]> {
    std::iter::from_fn(move || {
        let fits = sorted
            .iter()
            .zip(1..)
            .take_while(|(ids, count)| ids.len() * count <= BATCH_POSITIONS)
            .count();
        let (batch, rest) = sorted.split_at(fits.max(1).min(sorted.len()));
        sorted = rest;
        (!batch.is_empty()).then_some(batch)
    })
}

fn padded(ids: &[i64], length: usize) -> impl Iterator<Item = i64> {
    ids.iter().copied().chain(std::iter::repeat(0)).take(length)
}

fn to_i64(size: usize) -> i64 {
    i64::try_from(size).expect("sizes of tensors fit")
}

/// Each row scaled to unit length, `[rows, columns]`.
fn unit(rows: &Tensor) -> Tensor {
    rows / rows.norm_scalaropt_dim(2, [-1], true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_read_up_to_its_first_end_of_text() {
        let ids = vec![49_406, 320, END_OF_TEXT, 1_125, END_OF_TEXT];
        assert_eq!(read_ids(&Tokens { ids, truncated: false }), [49_406, 320, END_OF_TEXT]);
    }

    #[test]
    fn batches_hold_all_prompts_in_order_and_stay_bounded_with_their_padding() {
        let lengths = [vec![4; 700], vec![7; 3], vec![77; 30]].concat();
        let ids = vec![0; 77];
        let prompts: Vec<&[i64]> = lengths.iter().map(|&length| &ids[..length]).collect();
        let batches: Vec<_> = batches(&prompts).collect();
        assert!(
            batches
                .iter()
                .all(|batch| batch.len() * batch[batch.len() - 1].len() <= BATCH_POSITIONS)
        );
        assert_eq!(batches[0].len(), 512);
        assert_eq!(batches.concat(), prompts);
    }

    #[test]
    fn a_prompt_longer_than_a_batch_is_run_alone() {
        let ids = vec![0; BATCH_POSITIONS + 1];
        let prompts: [&[i64]; 2] = [&ids, &ids];
        assert_eq!(batches(&prompts).map(<[_]>::len).collect::<Vec<_>>(), [1, 1]);
    }
}
