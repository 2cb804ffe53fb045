//! CLIP's VisionTransformer (Radford et al. 2021, section 2.4): patches to tokens to one image feature.
//!
//! Owns the tower as published. Its stages are open to the crate one by one, so that `dense` can put another ending to
//! them; this module knows of none but its own.

use tch::{Device, Kind, Tensor};

use super::activation::Activation;
use super::checkpoint::{CheckpointError, Weights};
use super::linear::Linear;
use super::positions::PositionalEmbedding;
use super::transformer::{LayerNorm, ResidualAttentionBlock, join_heads};

/// The visual tower of CLIP's ViT models. Fields are named after the checkpoint's keys.
#[derive(Debug)]
pub struct VisionTransformer {
    /// The checkpoint's convolution `[width, 3, patch, patch]`, without overlap and without bias, as a layer that reads the
    /// `3 patch patch` values of one patch.
    conv1: Linear,
    /// Side of a patch in pixels.
    patch: i64,
    /// `[width]`, the token that comes first.
    class_embedding: Tensor,
    positional_embedding: PositionalEmbedding,
    ln_pre: LayerNorm,
    /// In the order they run; never empty.
    resblocks: Vec<ResidualAttentionBlock>,
    ln_post: LayerNorm,
    /// Width to embedding, without bias.
    proj: Linear,
}

impl VisionTransformer {
    /// Takes the tower's tensors, `visual.…`; every size but the heads' is read off them.
    ///
    /// # Errors
    /// When a tensor is missing or does not fit the others.
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
            // At least one, so that a checkpoint without any is told which tensor is missing.
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

    /// CLIP's image feature, `[batch, 3, height, width]` to `[batch, embedding]`, not of unit length. Sides are whole
    /// multiples of the patch.
    pub fn encode_image(&self, image: &Tensor) -> Tensor {
        let tokens = self.before_last_block(image);
        let tokens = self.last_block().forward(&tokens);
        self.project(&tokens.select(1, 0)) // [batch, tokens, width] -> [batch, width] -> [batch, embedding]
    }

    /// What the last block reads: `[batch, 3, height, width]` to `[batch, 1 + cells, width]`, the class token first,
    /// then the grid's rows.
    pub(crate) fn before_last_block(&self, image: &Tensor) -> Tensor {
        self.block_inputs(image)
            .last()
            .expect("there is a block for each input")
    }

    /// What each block reads, from the first block to the last; the input of a block is the output of the one before it.
    /// Shapes as in [`VisionTransformer::before_last_block`]. Nothing is kept that the caller does not keep.
    pub(crate) fn block_inputs(&self, image: &Tensor) -> impl Iterator<Item = Tensor> {
        let (_last, others) = self.resblocks.split_last().expect(NEVER_EMPTY);
        let mut others = others.iter();
        std::iter::successors(Some(self.embed(image)), move |tokens| {
            others.next().map(|block| block.forward(tokens))
        })
    }

    /// The blocks in the order they run; never empty.
    pub(crate) fn blocks(&self) -> &[ResidualAttentionBlock] {
        &self.resblocks
    }

    /// The block that runs last.
    pub(crate) fn last_block(&self) -> &ResidualAttentionBlock {
        self.resblocks.last().expect(NEVER_EMPTY)
    }

    /// Tokens into the space shared with texts: `[..., width]` to `[..., embedding]`.
    pub(crate) fn project(&self, tokens: &Tensor) -> Tensor {
        self.proj.forward(&self.ln_post.forward(tokens))
    }

    /// What follows the last attention where neither residual nor MLP does, to be used later than the tower.
    pub(crate) fn readout(&self) -> Readout {
        Readout {
            out_proj: self.last_block().attn.out_proj.share(),
            ln_post: self.ln_post.share(),
            proj: self.proj.share(),
        }
    }

    /// Patches with the class token before them and positions added: `[batch, 3, height, width]` to
    /// `[batch, 1 + cells, width]`.
    fn embed(&self, image: &Tensor) -> Tensor {
        let (batch, _, height, width) = image.size4().expect("images are [batch, 3, height, width]");
        let (rows, columns) = (height / self.patch, width / self.patch);
        // [batch, 3, rows patch, columns patch] -> [batch, rows, columns, 3, patch, patch] -> [batch, cells, 3 patch patch]
        let patches = image
            .unflatten(3, [columns, self.patch])
            .unflatten(2, [rows, self.patch])
            .permute([0, 2, 4, 1, 3, 5])
            .reshape([batch, rows * columns, -1]);
        let patches = self.conv1.forward(&patches); // [batch, cells, width]
        let class = self.class_embedding.expand([batch, 1, -1], false); // [width] -> [batch, 1, width]
        let tokens = Tensor::cat(&[class, patches], 1) + self.positional_embedding.at(rows, columns);
        self.ln_pre.forward(&tokens)
    }

    /// Side of a patch in pixels.
    pub fn patch_pixels(&self) -> i64 {
        self.patch
    }

    /// Side in pixels of the square images the model was trained on.
    pub fn training_pixels(&self) -> i64 {
        self.positional_embedding.side() * self.patch_pixels()
    }

    /// Length of the image feature.
    pub fn embedding_dimension(&self) -> i64 {
        self.proj.outputs()
    }

    /// Element type it computes in.
    pub(crate) fn kind(&self) -> Kind {
        self.proj.kind()
    }

    /// Device its weights are on.
    pub(crate) fn device(&self) -> Device {
        self.proj.device()
    }

    /// "ViT-B/16" for the published sizes, else the sizes themselves.
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

/// From the heads of the last attention to the space shared with texts. Weights are the tower's.
#[derive(Debug)]
pub(crate) struct Readout {
    out_proj: Linear,
    ln_post: LayerNorm,
    proj: Linear,
}

impl Readout {
    /// `[batch, heads, tokens, head_width]` to `[batch, tokens, embedding]`.
    pub(crate) fn read(&self, mixed: &Tensor) -> Tensor {
        let tokens = self.out_proj.forward(&join_heads(mixed));
        self.proj.forward(&self.ln_post.forward(&tokens))
    }
}

const NEVER_EMPTY: &str = "a tower is loaded with at least one block";

/// How many heads an attention has.
pub(super) fn heads(width: i64, head_width: i64) -> Result<i64, CheckpointError> {
    if width % head_width != 0 {
        return Err(CheckpointError::UnevenHeads { width, head_width });
    }
    Ok(width / head_width)
}

/// What a checkpoint calls a block.
pub(super) fn block_name(layer: usize) -> String {
    format!("visual.transformer.resblocks.{layer}")
}
