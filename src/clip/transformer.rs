//! The pre-norm transformer block of CLIP's towers, text and image alike.
//!
//! Owns one block's computation and its weights, named after the checkpoint's keys. Leaves to the
//! towers what goes in and comes out; its parts are open to the crate, so that MaskCLIP can take
//! the last block apart.

use tch::Tensor;

use super::checkpoint::{CheckpointError, Weights};

/// Added to the variance in every LayerNorm of CLIP.
const LAYER_NORM_EPSILON: f64 = 1e-5;

/// The non-linearity inside the MLPs. It cannot be read off the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(1.702 x)`: OpenAI's weights and those marked quickgelu.
    QuickGelu,
    /// The exact GELU: most LAION and DataComp weights.
    Gelu,
}

impl Activation {
    fn forward(self, x: &Tensor) -> Tensor {
        match self {
            Self::QuickGelu => x * (x * 1.702).sigmoid(),
            Self::Gelu => x.gelu("none"),
        }
    }
}

/// Layer normalisation over the last dimension.
#[derive(Debug)]
pub(crate) struct LayerNorm {
    /// `[width]`
    pub(crate) weight: Tensor,
    /// `[width]`
    pub(crate) bias: Tensor,
}

impl LayerNorm {
    /// Takes `{name}.weight` and `{name}.bias`, both `[width]`.
    pub(crate) fn load(weights: &mut Weights, name: &str, width: i64) -> Result<Self, CheckpointError> {
        Ok(Self {
            weight: weights.take(&format!("{name}.weight"), &[width])?,
            bias: weights.take(&format!("{name}.bias"), &[width])?,
        })
    }

    /// The same weights under another owner; nothing is copied.
    pub(crate) fn share(&self) -> Self {
        Self {
            weight: self.weight.shallow_clone(),
            bias: self.bias.shallow_clone(),
        }
    }

    /// `[..., width]` to the same shape.
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        x.layer_norm(
            self.weight.size(),
            Some(&self.weight),
            Some(&self.bias),
            LAYER_NORM_EPSILON,
            true,
        )
    }
}

/// `x W^T + b`.
#[derive(Debug)]
pub(crate) struct Linear {
    /// `[outputs, inputs]`
    pub(crate) weight: Tensor,
    /// `[outputs]`
    pub(crate) bias: Tensor,
}

impl Linear {
    /// Takes `{name}.weight`, `[outputs, inputs]`, and `{name}.bias`, `[outputs]`.
    pub(crate) fn load(weights: &mut Weights, name: &str, outputs: i64, inputs: i64) -> Result<Self, CheckpointError> {
        Ok(Self {
            weight: weights.take(&format!("{name}.weight"), &[outputs, inputs])?,
            bias: weights.take(&format!("{name}.bias"), &[outputs])?,
        })
    }

    /// The same weights under another owner; nothing is copied.
    pub(crate) fn share(&self) -> Self {
        Self {
            weight: self.weight.shallow_clone(),
            bias: self.bias.shallow_clone(),
        }
    }

    /// `[..., inputs]` to `[..., outputs]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, Some(&self.bias))
    }
}

/// Which positions an attention may look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mask {
    /// All of them: the image tower.
    None,
    /// Itself and those before it: the text tower.
    Causal,
}

/// Multi-head self-attention with one fused projection for queries, keys and values.
#[derive(Debug)]
pub(crate) struct Attention {
    /// Queries, keys, values, in this order: `[3 width, width]` and `[3 width]`.
    pub(crate) in_proj: Linear,
    /// `[width, width]` and `[width]`
    pub(crate) out_proj: Linear,
    heads: i64,
}

impl Attention {
    fn load(weights: &mut Weights, name: &str, width: i64, heads: i64) -> Result<Self, CheckpointError> {
        Ok(Self {
            // The one projection whose keys join the parts with an underscore.
            in_proj: Linear {
                weight: weights.take(&format!("{name}.in_proj_weight"), &[3 * width, width])?,
                bias: weights.take(&format!("{name}.in_proj_bias"), &[3 * width])?,
            },
            out_proj: Linear::load(weights, &format!("{name}.out_proj"), width, width)?,
            heads,
        })
    }

    /// Queries, keys and values of `x`, each `[batch, tokens, width]` like `x`, heads side by side.
    pub(crate) fn query_key_value(&self, x: &Tensor) -> [Tensor; 3] {
        let width = self.out_proj.weight.size()[0];
        let fused = self.in_proj.forward(x); // [batch, tokens, width] -> [batch, tokens, 3 width]
        [0, 1, 2].map(|part| fused.narrow(-1, part * width, width))
    }

    /// Queries alone, for when fewer tokens ask than are looked at; same shape as `x`.
    pub(crate) fn query(&self, x: &Tensor) -> Tensor {
        let width = self.out_proj.weight.size()[0];
        x.linear(
            &self.in_proj.weight.narrow(0, 0, width),
            Some(&self.in_proj.bias.narrow(0, 0, width)),
        )
    }

    /// Keys and values alone, each the shape of `x`.
    pub(crate) fn key_value(&self, x: &Tensor) -> [Tensor; 2] {
        let width = self.out_proj.weight.size()[0];
        let fused = x.linear(
            &self.in_proj.weight.narrow(0, width, 2 * width),
            Some(&self.in_proj.bias.narrow(0, width, 2 * width)),
        ); // [batch, tokens, width] -> [batch, tokens, 2 width]
        [0, 1].map(|part| fused.narrow(-1, part * width, width))
    }

    /// A part of a fused projection apart by heads: `[batch, tokens, width]` to `[batch, heads, tokens, head_width]`.
    pub(crate) fn split_heads(&self, part: &Tensor) -> Tensor {
        split_heads(part, self.heads)
    }

    /// What the heads made of the values, side by side again and projected: `[batch, heads, tokens, head_width]` to
    /// `[batch, tokens, width]`.
    pub(crate) fn project_heads(&self, mixed: &Tensor) -> Tensor {
        self.out_proj.forward(&join_heads(mixed))
    }

    /// Values mixed by the likeness of queries and keys, then projected: `[batch, queries, width]`.
    pub(crate) fn attend(&self, query: &Tensor, key: &Tensor, value: &Tensor, mask: Mask) -> Tensor {
        self.out_proj
            .forward(&multi_head_attention(query, key, value, self.heads, mask))
    }

    /// `[batch, tokens, width]` to the same shape.
    pub(crate) fn forward(&self, x: &Tensor, mask: Mask) -> Tensor {
        let [query, key, value] = self.query_key_value(x);
        self.attend(&query, &key, &value, mask)
    }
}

/// Scaled dot-product attention over `heads` slices of the last dimension: queries
/// `[batch, queries, width]`, keys and values `[batch, tokens, width]`, result like the queries.
pub(crate) fn multi_head_attention(query: &Tensor, key: &Tensor, value: &Tensor, heads: i64, mask: Mask) -> Tensor {
    let [query, key, value] = [query, key, value].map(|part| split_heads(part, heads));
    let causal = mask == Mask::Causal;
    let mixed = Tensor::scaled_dot_product_attention::<&Tensor>(&query, &key, &value, None, 0.0, causal, None, false);
    join_heads(&mixed)
}

/// `[batch, tokens, width]` to `[batch, heads, tokens, head_width]`.
fn split_heads(part: &Tensor, heads: i64) -> Tensor {
    part.unflatten(-1, [heads, -1]).transpose(1, 2)
}

/// `[batch, heads, tokens, head_width]` to `[batch, tokens, width]`.
pub(super) fn join_heads(mixed: &Tensor) -> Tensor {
    mixed.transpose(1, 2).flatten(2, 3)
}

/// Two layers with an activation between them.
#[derive(Debug)]
pub(crate) struct Mlp {
    /// `[hidden, width]`, hidden usually 4 width.
    pub(crate) c_fc: Linear,
    /// `[width, hidden]`
    pub(crate) c_proj: Linear,
    activation: Activation,
}

impl Mlp {
    fn load(weights: &mut Weights, name: &str, width: i64, activation: Activation) -> Result<Self, CheckpointError> {
        // A missing key is reported by `take`, whatever the size asked for.
        let hidden = weights
            .shape(&format!("{name}.c_fc.weight"))
            .and_then(|shape| shape.first().copied())
            .unwrap_or(4 * width);
        Ok(Self {
            c_fc: Linear::load(weights, &format!("{name}.c_fc"), hidden, width)?,
            c_proj: Linear::load(weights, &format!("{name}.c_proj"), width, hidden)?,
            activation,
        })
    }

    /// `[..., width]` to the same shape.
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        self.c_proj.forward(&self.activation.forward(&self.c_fc.forward(x)))
    }
}

/// `x + attn(ln_1(x))`, then `x + mlp(ln_2(x))`.
#[derive(Debug)]
pub(crate) struct ResidualAttentionBlock {
    /// Before the attention.
    pub(crate) ln_1: LayerNorm,
    /// Mixes positions.
    pub(crate) attn: Attention,
    /// Before the MLP.
    pub(crate) ln_2: LayerNorm,
    /// Acts on each position alone.
    pub(crate) mlp: Mlp,
}

impl ResidualAttentionBlock {
    /// Takes the block called `name` (`transformer.resblocks.0`). `width` is a multiple of `heads`.
    ///
    /// # Errors
    /// When a tensor is missing or has another shape.
    pub(crate) fn load(
        weights: &mut Weights,
        name: &str,
        width: i64,
        heads: i64,
        activation: Activation,
    ) -> Result<Self, CheckpointError> {
        Ok(Self {
            ln_1: LayerNorm::load(weights, &format!("{name}.ln_1"), width)?,
            attn: Attention::load(weights, &format!("{name}.attn"), width, heads)?,
            ln_2: LayerNorm::load(weights, &format!("{name}.ln_2"), width)?,
            mlp: Mlp::load(weights, &format!("{name}.mlp"), width, activation)?,
        })
    }

    /// `[batch, tokens, width]` to the same shape.
    pub(crate) fn forward(&self, x: &Tensor, mask: Mask) -> Tensor {
        self.complete(x, &self.attn.forward(&self.ln_1.forward(x), mask))
    }

    /// What the block does after its attention: both residual connections and the MLP, on `x` as it
    /// came in and what the attention made of it, `[batch, tokens, width]` each.
    pub(crate) fn complete(&self, x: &Tensor, attended: &Tensor) -> Tensor {
        let x = x + attended;
        &x + self.mlp.forward(&self.ln_2.forward(&x))
    }
}
