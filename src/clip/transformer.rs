//! The pre-norm transformer block of CLIP's towers, text and image alike.
//!
//! Owns one block's computation and its weights, named after the checkpoint's keys, and attention by the fastest kernel there
//! is. Leaves to the towers what goes in and comes out; its parts are open to the crate, so that MaskCLIP can take
//! the last block apart.

use tch::Tensor;

use super::activation::Activation;
use super::checkpoint::{CheckpointError, Weights};
use super::linear::Linear;
use super::native::{self, Pointwise};

/// Added to the variance in every LayerNorm of CLIP.
const LAYER_NORM_EPSILON: f64 = 1e-5;

/// What QuickGELU multiplies by inside the sigmoid.
const QUICK_GELU_FACTOR: f64 = 1.702;

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

/// Multi-head self-attention. The checkpoint's one projection for queries, keys and values is kept as two, since the last block
/// asks with fewer tokens than it looks at.
#[derive(Debug)]
pub(crate) struct MultiHeadAttention {
    /// `[width, width]` and `[width]`
    query: Linear,
    /// Keys, then values: `[2 width, width]` and `[2 width]`.
    key_value: Linear,
    /// `[width, width]` and `[width]`
    pub(crate) out_proj: Linear,
    heads: i64,
}

impl MultiHeadAttention {
    fn load(weights: &mut Weights, name: &str, width: i64, heads: i64) -> Result<Self, CheckpointError> {
        // The one projection whose keys join the parts with an underscore.
        let weight = weights.take(&format!("{name}.in_proj_weight"), &[3 * width, width])?;
        let bias = weights.take(&format!("{name}.in_proj_bias"), &[3 * width])?;
        let part = |first: i64, length: i64| {
            let [weight, bias] = [&weight, &bias].map(|tensor| tensor.narrow(0, first, length));
            Linear::new(weight, Some(bias))
        };
        Ok(Self {
            query: part(0, width),
            key_value: part(width, 2 * width),
            out_proj: Linear::load(weights, &format!("{name}.out_proj"), width, width)?,
            heads,
        })
    }

    /// Queries, keys and values of `x`, each `[batch, tokens, width]` like `x`, heads side by side.
    pub(crate) fn query_key_value(&self, x: &Tensor) -> [Tensor; 3] {
        let [key, value] = self.key_value(x);
        [self.query(x), key, value]
    }

    /// Queries alone, for when fewer tokens ask than are looked at; same shape as `x`.
    pub(crate) fn query(&self, x: &Tensor) -> Tensor {
        self.query.forward(x)
    }

    /// Keys and values alone, each the shape of `x`.
    pub(crate) fn key_value(&self, x: &Tensor) -> [Tensor; 2] {
        let width = self.out_proj.outputs();
        let fused = self.key_value.forward(x); // [batch, tokens, width] -> [batch, tokens, 2 width]
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
    pub(crate) fn attend(&self, query: &Tensor, key: &Tensor, value: &Tensor) -> Tensor {
        self.out_proj
            .forward(&multi_head_attention(query, key, value, self.heads))
    }

    /// The attention of `x` to itself added to `residual`; all are `[batch, tokens, width]`.
    fn forward_added(&self, x: &Tensor, residual: &Tensor) -> Tensor {
        let [query, key, value] = self.query_key_value(x);
        let mixed = multi_head_attention(&query, &key, &value, self.heads);
        self.out_proj.forward_added(&mixed, residual)
    }
}

/// Scaled dot-product attention over `heads` slices of the last dimension: queries
/// `[batch, queries, width]`, keys and values `[batch, tokens, width]`, result like the queries.
pub(crate) fn multi_head_attention(query: &Tensor, key: &Tensor, value: &Tensor, heads: i64) -> Tensor {
    let [query, key, value] = [query, key, value].map(|part| split_heads(part, heads));
    join_heads(&attend(&query, &key, &value, None))
}

/// `sm(scale query key^T) value`, per head, the scale `1 / sqrt(head_width)` unless given: queries
/// `[batch, heads, asking, head_width]`, keys and values `[batch, heads, tokens, head_width]`. The matrix does not exist at once.
pub(crate) fn attend(query: &Tensor, key: &Tensor, value: &Tensor, scale: Option<f64>) -> Tensor {
    let factor = scale.unwrap_or_else(|| 1.0 / (query.size()[3] as f64).sqrt());
    native::attention(query, key, value, factor).unwrap_or_else(|| {
        Tensor::scaled_dot_product_attention::<&Tensor>(query, key, value, None, 0.0, false, scale, false)
    })
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
///
/// With `f = 1.702`, QuickGELU is `silu(f x) / f`: both factors are in the layers' weights, and SiLU does the rest.
#[derive(Debug)]
struct Mlp {
    /// `[hidden, width]`, hidden usually 4 width.
    c_fc: Linear,
    /// `[width, hidden]`
    c_proj: Linear,
    between: Pointwise,
}

impl Mlp {
    fn load(weights: &mut Weights, name: &str, width: i64, activation: Activation) -> Result<Self, CheckpointError> {
        // A missing key is reported by `take`, whatever the size asked for.
        let hidden = weights
            .shape(&format!("{name}.c_fc.weight"))
            .and_then(|shape| shape.first().copied())
            .unwrap_or(4 * width);
        let (c_fc, c_proj) = (format!("{name}.c_fc"), format!("{name}.c_proj"));
        Ok(match activation {
            Activation::QuickGelu => Self {
                c_fc: Linear::load_scaled(weights, &c_fc, hidden, width, [QUICK_GELU_FACTOR; 2])?,
                c_proj: Linear::load_scaled(weights, &c_proj, width, hidden, [1.0 / QUICK_GELU_FACTOR, 1.0])?,
                between: Pointwise::Silu,
            },
            Activation::Gelu => Self {
                c_fc: Linear::load(weights, &c_fc, hidden, width)?,
                c_proj: Linear::load(weights, &c_proj, width, hidden)?,
                between: Pointwise::Gelu,
            },
        })
    }

    /// What it makes of `x`, added to `residual`; both are `[..., width]`.
    fn forward_added(&self, x: &Tensor, residual: &Tensor) -> Tensor {
        let hidden = self.c_fc.forward_then(x, self.between);
        self.c_proj.forward_added(&hidden, residual)
    }
}

/// `x + attn(ln_1(x))`, then `x + mlp(ln_2(x))`.
#[derive(Debug)]
pub(crate) struct ResidualAttentionBlock {
    /// Before the attention.
    pub(crate) ln_1: LayerNorm,
    /// Mixes positions.
    pub(crate) attn: MultiHeadAttention,
    /// Before the MLP.
    ln_2: LayerNorm,
    /// Acts on each position alone.
    mlp: Mlp,
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
            attn: MultiHeadAttention::load(weights, &format!("{name}.attn"), width, heads)?,
            ln_2: LayerNorm::load(weights, &format!("{name}.ln_2"), width)?,
            mlp: Mlp::load(weights, &format!("{name}.mlp"), width, activation)?,
        })
    }

    /// `[batch, tokens, width]` to the same shape; every token looks at all of them, as in the image tower.
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        self.with_mlp(&self.attn.forward_added(&self.ln_1.forward(x), x))
    }

    /// What the block does after its attention: both residual connections and the MLP, on `x` as it
    /// came in and what the attention made of it, `[batch, tokens, width]` each.
    pub(crate) fn complete(&self, x: &Tensor, attended: &Tensor) -> Tensor {
        self.with_mlp(&(x + attended))
    }

    /// The same from what the heads made of the values, side by side and not yet projected: the projection adds as it goes.
    pub(crate) fn complete_mixed(&self, x: &Tensor, mixed: &Tensor) -> Tensor {
        self.with_mlp(&self.attn.out_proj.forward_added(mixed, x))
    }

    fn with_mlp(&self, x: &Tensor) -> Tensor {
        self.mlp.forward_added(&self.ln_2.forward(x), x)
    }
}
