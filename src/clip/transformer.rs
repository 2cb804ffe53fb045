//! The pre-norm transformer block of CLIP's text and image towers.
//!
//! Owns the computation of one block, its weights, which are named after the checkpoint's keys, and the choice of the
//! fastest attention kernel. Leaves the input and output to the towers. The crate can use the block's parts, so that
//! MaskCLIP can take the last block apart.

use tch::Tensor;

use super::activation::Activation;
use super::checkpoint::{CheckpointError, Weights};
use super::linear::Linear;
use super::native::{self, Pointwise};

/// Every LayerNorm of CLIP adds this to the variance.
const LAYER_NORM_EPSILON: f64 = 1e-5;

/// The factor of x inside QuickGELU's sigmoid.
const QUICK_GELU_FACTOR: f64 = 1.702;

/// Layer normalisation over the last dimension.
#[derive(Debug)]
pub(crate) struct LayerNorm {
    /// The scale of each channel, `[width]`.
    pub(crate) weight: Tensor,
    /// The shift of each channel, `[width]`.
    pub(crate) bias: Tensor,
}

impl LayerNorm {
    /// Takes `{name}.weight` and `{name}.bias`, both `[width]`, from `weights`.
    pub(crate) fn load(weights: &mut Weights, name: &str, width: i64) -> Result<Self, CheckpointError> {
        Ok(Self {
            weight: weights.take(&format!("{name}.weight"), &[width])?,
            bias: weights.take(&format!("{name}.bias"), &[width])?,
        })
    }

    /// Returns a second owner of the same weights; nothing is copied.
    pub(crate) fn share(&self) -> Self {
        Self {
            weight: self.weight.shallow_clone(),
            bias: self.bias.shallow_clone(),
        }
    }

    /// Normalises `[..., width]` and keeps the shape.
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

/// Multi-head self-attention. The checkpoint has one projection for queries, keys and values. It is kept as two,
/// because in the last block there may be fewer queries than keys.
#[derive(Debug)]
pub(crate) struct MultiHeadAttention {
    /// Weight `[width, width]` and bias `[width]`.
    query: Linear,
    /// The keys' projection above the values': weight `[2 width, width]` and bias `[2 width]`.
    key_value: Linear,
    /// Weight `[width, width]` and bias `[width]`.
    pub(crate) out_proj: Linear,
    heads: i64,
}

impl MultiHeadAttention {
    fn load(weights: &mut Weights, name: &str, width: i64, heads: i64) -> Result<Self, CheckpointError> {
        // This is the only layer whose keys join "proj" and "weight" or "bias" by an underscore.
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

    /// Computes queries, keys and values of `x`. Each is `[batch, tokens, width]` like `x`, with the heads side by
    /// side.
    pub(crate) fn query_key_value(&self, x: &Tensor) -> [Tensor; 3] {
        let [key, value] = self.key_value(x);
        [self.query(x), key, value]
    }

    /// Computes the queries alone, in the shape of `x`, for callers with fewer queries than keys.
    pub(crate) fn query(&self, x: &Tensor) -> Tensor {
        self.query.forward(x)
    }

    /// Computes keys and values alone, each in the shape of `x`.
    pub(crate) fn key_value(&self, x: &Tensor) -> [Tensor; 2] {
        let width = self.out_proj.outputs();
        let fused = self.key_value.forward(x); // [batch, tokens, width] -> [batch, tokens, 2 width]
        [0, 1].map(|part| fused.narrow(-1, part * width, width))
    }

    /// Splits queries, keys or values by heads: `[batch, tokens, width]` to `[batch, heads, tokens, head_width]`.
    pub(crate) fn split_heads(&self, part: &Tensor) -> Tensor {
        split_heads(part, self.heads)
    }

    /// Joins the outputs of the heads and projects them: `[batch, heads, tokens, head_width]` to
    /// `[batch, tokens, width]`.
    pub(crate) fn project_heads(&self, mixed: &Tensor) -> Tensor {
        self.out_proj.forward(&join_heads(mixed))
    }

    /// Attends from `query` to `key` and `value` and projects the result: `[batch, queries, width]`.
    pub(crate) fn attend(&self, query: &Tensor, key: &Tensor, value: &Tensor) -> Tensor {
        self.out_proj
            .forward(&multi_head_attention(query, key, value, self.heads))
    }

    /// Attends from `x` to itself and adds `residual`; both and the result are `[batch, tokens, width]`.
    fn forward_added(&self, x: &Tensor, residual: &Tensor) -> Tensor {
        let [query, key, value] = self.query_key_value(x);
        let mixed = multi_head_attention(&query, &key, &value, self.heads);
        self.out_proj.forward_added(&mixed, residual)
    }
}

/// Computes scaled dot-product attention over `heads` slices of the last dimension. Queries are
/// `[batch, queries, width]`, keys and values `[batch, tokens, width]`; the result has the queries' shape.
pub(crate) fn multi_head_attention(query: &Tensor, key: &Tensor, value: &Tensor, heads: i64) -> Tensor {
    let [query, key, value] = [query, key, value].map(|part| split_heads(part, heads));
    join_heads(&attend(&query, &key, &value, None))
}

/// Computes `softmax(scale query key^T) value` for each head. Queries are `[batch, heads, asking, head_width]`, keys
/// and values `[batch, heads, tokens, head_width]`. The default scale is `1 / sqrt(head_width)`. The attention matrix
/// is never held in memory as a whole.
pub(crate) fn attend(query: &Tensor, key: &Tensor, value: &Tensor, scale: Option<f64>) -> Tensor {
    let factor = scale.unwrap_or_else(|| 1.0 / (query.size()[3] as f64).sqrt());
    native::attention(query, key, value, factor).unwrap_or_else(|| {
        Tensor::scaled_dot_product_attention::<&Tensor>(query, key, value, None, 0.0, false, scale, false)
    })
}

/// Splits `[batch, tokens, width]` into `[batch, heads, tokens, head_width]`.
fn split_heads(part: &Tensor, heads: i64) -> Tensor {
    part.unflatten(-1, [heads, -1]).transpose(1, 2)
}

/// Joins `[batch, heads, tokens, head_width]` into `[batch, tokens, width]`.
pub(super) fn join_heads(mixed: &Tensor) -> Tensor {
    mixed.transpose(1, 2).flatten(2, 3)
}

/// Two linear layers with an activation between them.
///
/// With `f = 1.702`, QuickGELU is `silu(f x) / f`. Both factors are multiplied into the layers' weights when they are
/// loaded, so the activation itself is SiLU.
#[derive(Debug)]
struct Mlp {
    /// Weight `[hidden, width]`; `hidden` is usually `4 width`.
    c_fc: Linear,
    /// Weight `[width, hidden]`.
    c_proj: Linear,
    between: Pointwise,
}

impl Mlp {
    fn load(weights: &mut Weights, name: &str, width: i64, activation: Activation) -> Result<Self, CheckpointError> {
        // If the tensor is missing, any size will do: `take` reports the missing name.
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

    /// Computes the MLP of `x` and adds `residual`; both and the result are `[..., width]`.
    fn forward_added(&self, x: &Tensor, residual: &Tensor) -> Tensor {
        let hidden = self.c_fc.forward_then(x, self.between);
        self.c_proj.forward_added(&hidden, residual)
    }
}

/// One pre-norm block: `x + attn(ln_1(x))`, then `x + mlp(ln_2(x))`.
#[derive(Debug)]
pub(crate) struct ResidualAttentionBlock {
    /// The normalisation before the attention.
    pub(crate) ln_1: LayerNorm,
    /// The attention, which mixes positions.
    pub(crate) attn: MultiHeadAttention,
    /// The normalisation before the MLP.
    ln_2: LayerNorm,
    /// The MLP, which acts on each position alone.
    mlp: Mlp,
}

impl ResidualAttentionBlock {
    /// Takes the tensors of the block called `name`, such as `transformer.resblocks.0`. `heads` must divide `width`.
    ///
    /// # Errors
    /// Fails when a tensor is missing or has another shape.
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

    /// Runs the block on `[batch, tokens, width]` and keeps the shape. Every token attends to all tokens, as in the
    /// image tower.
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        self.with_mlp(&self.attn.forward_added(&self.ln_1.forward(x), x))
    }

    /// Computes the rest of the block after its attention: both residual connections and the MLP. `x` is the block's
    /// input and `attended` the projected output of its attention, each `[batch, tokens, width]`.
    pub(crate) fn complete(&self, x: &Tensor, attended: &Tensor) -> Tensor {
        self.with_mlp(&(x + attended))
    }

    /// Does the same as [`Self::complete`] from the joined but unprojected output of the heads. The projection adds the
    /// residual in the same step.
    pub(crate) fn complete_mixed(&self, x: &Tensor, mixed: &Tensor) -> Tensor {
        self.with_mlp(&self.attn.out_proj.forward_added(mixed, x))
    }

    fn with_mlp(&self, x: &Tensor) -> Tensor {
        self.mlp.forward_added(&self.ln_2.forward(x), x)
    }
}
