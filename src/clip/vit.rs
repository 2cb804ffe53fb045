//! CLIP's VisionTransformer (Radford et al. 2021, section 2.4): patches to tokens to one image feature.
//!
//! Owns the tower as published. The crate can call its stages one by one, so that `dense` can replace the last ones.
//! This module knows only the published ending.

use tch::{Device, Kind, Tensor};

use super::activation::Activation;
use super::checkpoint::{CheckpointError, Weights};
use super::linear::Linear;
use super::positions::{PositionResampling, PositionalEmbedding};
use super::transformer::{LayerNorm, ResidualAttentionBlock, join_heads};

/// The visual tower of CLIP's ViT models. Its fields are named after the checkpoint's keys.
#[derive(Debug)]
pub struct VisionTransformer {
    /// Maps one patch of `3 patch patch` values to `[width]`. The checkpoint stores this layer as a convolution
    /// `[width, 3, patch, patch]` without overlap and without bias.
    conv1: Linear,
    /// Side of a patch in pixels.
    patch: i64,
    /// The first token of every sequence, `[width]`.
    class_embedding: Tensor,
    positional_embedding: PositionalEmbedding,
    ln_pre: LayerNorm,
    /// The blocks in the order in which they run; there is at least one.
    resblocks: Vec<ResidualAttentionBlock>,
    ln_post: LayerNorm,
    /// Maps a token `[width]` to `[embedding]`, without bias.
    proj: Linear,
}

impl VisionTransformer {
    /// Takes the tower's tensors, `visual.…`, from `weights`. Every size but the heads' width comes from their shapes.
    ///
    /// # Errors
    /// Fails when a tensor is missing or does not fit the others.
    pub fn load(weights: &mut Weights, activation: Activation, head_width: i64) -> Result<Self, CheckpointError> {
        let width = weights.size("visual.conv1.weight", 0);
        let patch = weights.size("visual.conv1.weight", 2);
        let embedding = weights.size("visual.proj", 1);
        let layers = (0..)
            .take_while(|layer| weights.shape(&format!("{}.ln_1.weight", block_name(*layer))).is_some())
            .count();
        let conv1 = weights.take("visual.conv1.weight", &[width, 3, patch, patch])?;
        let heads = heads(width, head_width)?;
        Ok(Self {
            conv1: Linear::new(conv1.flatten(1, 3), None), // [width, 3, patch, patch] -> [width, 3 patch patch]
            patch,
            class_embedding: weights.take("visual.class_embedding", &[width])?,
            positional_embedding: PositionalEmbedding::load(weights, "visual.positional_embedding", width)?,
            ln_pre: LayerNorm::load(weights, "visual.ln_pre", width)?,
            // At least one block is asked for: a checkpoint without blocks then fails with the name of the missing
            // tensor.
            resblocks: (0..layers.max(1))
                .map(|layer| ResidualAttentionBlock::load(weights, &block_name(layer), width, heads, activation))
                .collect::<Result<_, _>>()?,
            ln_post: LayerNorm::load(weights, "visual.ln_post", width)?,
            // [width, embedding] -> [embedding, width]
            proj: Linear::new(
                weights.take("visual.proj", &[width, embedding])?.tr().contiguous(),
                None,
            ),
        })
    }

    /// Encodes images `[batch, 3, height, width]` as CLIP's image features `[batch, embedding]`, which are not of unit
    /// length. `height` and `width` must be whole multiples of the patch side.
    pub fn encode_image(&self, image: &Tensor) -> Tensor {
        let tokens = self.before_last_block(image);
        let tokens = self.last_block().forward(&tokens);
        self.project(&tokens.select(1, 0)) // [batch, tokens, width] -> [batch, width] -> [batch, embedding]
    }

    /// Computes the input of the last block: `[batch, 3, height, width]` to `[batch, 1 + cells, width]`. The class
    /// token comes first, then the cells of the grid row by row.
    pub(crate) fn before_last_block(&self, image: &Tensor) -> Tensor {
        self.block_inputs(image, PositionResampling::Plain)
            .last()
            .expect("there is one input for each block")
    }

    /// Computes the input of each block, from the first block to the last. The input of a block is the output of the
    /// block before it. Shapes are those of [`VisionTransformer::before_last_block`]. The iterator keeps only the
    /// tensor that it gave last.
    pub(crate) fn block_inputs(&self, image: &Tensor, resampling: PositionResampling) -> impl Iterator<Item = Tensor> {
        let (_last, others) = self.resblocks.split_last().expect(NEVER_EMPTY);
        let mut others = others.iter();
        std::iter::successors(Some(self.embed(image, resampling)), move |tokens| {
            others.next().map(|block| block.forward(tokens))
        })
    }

    /// Returns the blocks in the order in which they run; there is at least one.
    pub(crate) fn blocks(&self) -> &[ResidualAttentionBlock] {
        &self.resblocks
    }

    /// Returns the block that runs last.
    pub(crate) fn last_block(&self) -> &ResidualAttentionBlock {
        self.resblocks.last().expect(NEVER_EMPTY)
    }

    /// Projects tokens into the space that images share with texts: `[..., width]` to `[..., embedding]`.
    pub(crate) fn project(&self, tokens: &Tensor) -> Tensor {
        self.proj.forward(&self.ln_post.forward(tokens))
    }

    /// Returns the layers that follow the last attention when the residual connection and the MLP are left out. The
    /// result shares the tower's weights and may outlive the tower.
    pub(crate) fn readout(&self) -> Readout {
        Readout {
            out_proj: self.last_block().attn.out_proj.share(),
            ln_post: self.ln_post.share(),
            proj: self.proj.share(),
        }
    }

    /// Embeds the patches, puts the class token first and adds the positions: `[batch, 3, height, width]` to
    /// `[batch, 1 + cells, width]`.
    fn embed(&self, image: &Tensor, resampling: PositionResampling) -> Tensor {
        let (batch, _, height, width) = image.size4().expect("images are [batch, 3, height, width]");
        let (rows, columns) = (height / self.patch, width / self.patch);
        // [batch, 3, rows patch, columns patch] -> [batch, rows, columns, 3, patch, patch] -> [batch, cells, 3 patch
        // patch]
        let patches = image
            .unflatten(3, [columns, self.patch])
            .unflatten(2, [rows, self.patch])
            .permute([0, 2, 4, 1, 3, 5])
            .reshape([batch, rows * columns, -1]);
        let patches = self.conv1.forward(&patches); // [batch, cells, width]
        let class = self.class_embedding.expand([batch, 1, -1], false); // [width] -> [batch, 1, width]
        let tokens = Tensor::cat(&[class, patches], 1) + self.positional_embedding.at(rows, columns, resampling);
        self.ln_pre.forward(&tokens)
    }

    /// Returns the side of a patch in pixels.
    pub fn patch_pixels(&self) -> i64 {
        self.patch
    }

    /// Returns the side in pixels of the square images that the model was trained on.
    pub fn training_pixels(&self) -> i64 {
        self.positional_embedding.side() * self.patch_pixels()
    }

    /// Returns the length of the image feature.
    pub fn embedding_dimension(&self) -> i64 {
        self.proj.outputs()
    }

    /// Returns the element type in which the tower computes.
    pub(crate) fn kind(&self) -> Kind {
        self.proj.kind()
    }

    /// Returns the device that holds the tower's weights.
    pub(crate) fn device(&self) -> Device {
        self.proj.device()
    }

    /// Returns a name such as "ViT-B/16" for published sizes, otherwise the sizes themselves.
    pub fn architecture(&self) -> String {
        let patch = self.patch_pixels();
        let (layers, width) = (self.resblocks.len(), self.conv1.outputs());
        let letter = match (layers, width) {
            (12, 384) => "S",
            (12, 768) => "B",
            (24, 1024) => "L",
            (32, 1280) => "H",
            (40, 1408) => "g",
            (48, 1664) => "bigG",
            _ => return format!("ViT ({layers} layers of width {width}, patch {patch})"),
        };
        format!("ViT-{letter}/{patch}")
    }
}

/// Maps the output of the last attention's heads into the space that images share with texts. It shares the tower's
/// weights.
#[derive(Debug)]
pub(crate) struct Readout {
    out_proj: Linear,
    ln_post: LayerNorm,
    proj: Linear,
}

impl Readout {
    /// Projects what the heads computed: `[batch, heads, tokens, head_width]` to `[batch, tokens, embedding]`.
    pub(crate) fn read(&self, mixed: &Tensor) -> Tensor {
        let tokens = self.out_proj.forward(&join_heads(mixed));
        self.proj.forward(&self.ln_post.forward(&tokens))
    }
}

const NEVER_EMPTY: &str = "a tower is loaded with at least one block";

/// Returns how many heads of `head_width` channels an attention of `width` channels has.
///
/// # Errors
/// Fails when `head_width` does not divide `width`.
pub(super) fn heads(width: i64, head_width: i64) -> Result<i64, CheckpointError> {
    if width % head_width != 0 {
        return Err(CheckpointError::UnevenHeads { width, head_width });
    }
    Ok(width / head_width)
}

/// Returns the name of a visual block in a checkpoint, without the names of its tensors.
pub(super) fn block_name(layer: usize) -> String {
    format!("visual.transformer.resblocks.{layer}")
}
