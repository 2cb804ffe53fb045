//! The last block of a ViT taken apart, for methods to put together in another way.

use tch::Tensor;

use crate::clip::{self, ResidualAttentionBlock, VisionTransformer};
use crate::dense::SmoothingKeys;

/// The last block and what it reads.
pub(super) struct LastBlock<'tower> {
    block: &'tower ResidualAttentionBlock,
    /// `u`, the block's input, `[batch, 1 + cells, width]`.
    tokens: Tensor,
    /// The same after the block's first normalisation.
    normalised: Tensor,
    /// `[batch, 1 + cells, width]`, heads side by side.
    key: Tensor,
    /// `[batch, 1 + cells, width]`, heads side by side.
    value: Tensor,
}

/// Queries, keys and values of one block, each `[batch, heads, tokens, head_width]`.
pub(super) struct Heads {
    pub(super) query: Tensor,
    pub(super) key: Tensor,
    pub(super) value: Tensor,
}

impl Heads {
    /// Of a block that reads `[batch, tokens, width]`.
    pub(super) fn of(block: &ResidualAttentionBlock, tokens: &Tensor) -> Self {
        let parts = block.attn.query_key_value(&block.ln_1.forward(tokens));
        let [query, key, value] = parts.map(|part| block.attn.split_heads(&part));
        Self { query, key, value }
    }
}

impl<'tower> LastBlock<'tower> {
    /// On its input, `[batch, 1 + cells, width]`, the class token first.
    pub(super) fn of(tower: &'tower VisionTransformer, tokens: Tensor) -> Self {
        let block = tower.last_block();
        let normalised = block.ln_1.forward(&tokens);
        let [key, value] = block.attn.key_value(&normalised);
        Self {
            block,
            tokens,
            normalised,
            key,
            value,
        }
    }

    /// The parts of its attention, the class token's among them.
    pub(super) fn heads(&self) -> Heads {
        let split = |part: &Tensor| self.block.attn.split_heads(part);
        Heads {
            query: split(&self.block.attn.query(&self.normalised)),
            key: split(&self.key),
            value: split(&self.value),
        }
    }

    /// `Out(A)` alone, the block's residual and MLP left out: what the heads made of the values,
    /// `[batch, heads, cells, head_width]`, to `[batch, cells, width]`.
    pub(super) fn alone(&self, mixed: &Tensor) -> Tensor {
        self.block.attn.project_heads(mixed)
    }

    /// `Out(A)` and all that follows in the block. Shapes as in [`LastBlock::alone`].
    pub(super) fn with_residual(&self, mixed: &Tensor) -> Tensor {
        self.completed(&self.alone(mixed))
    }

    /// What the cells' own values are projected to: `Out(I)`, `[batch, cells, width]`.
    pub(super) fn projected_values(&self) -> Tensor {
        self.block.attn.out_proj.forward(&cells_of(&self.value))
    }

    /// The block's residual and MLP on an output of its attention for the cells, `[batch, cells, width]`.
    pub(super) fn completed(&self, attended: &Tensor) -> Tensor {
        self.block.complete(&cells_of(&self.tokens), attended)
    }

    /// What the block's own attention gives the cells, `[batch, cells, width]`.
    pub(super) fn attended(&self) -> Tensor {
        self.attended_by(&cells_of(&self.normalised))
    }

    /// The class token after the unchanged block, `[batch, 1, width]`: CLIP's own answer, whatever the cells do.
    pub(super) fn class_token(&self) -> Tensor {
        let class_of = |tokens: &Tensor| tokens.narrow(1, 0, 1); // [batch, 1 + cells, width] -> [batch, 1, width]
        let attended = self.attended_by(&class_of(&self.normalised));
        self.block.complete(&class_of(&self.tokens), &attended)
    }

    fn attended_by(&self, asking: &Tensor) -> Tensor {
        let attention = &self.block.attn;
        attention.attend(&attention.query(asking), &self.key, &self.value)
    }

    /// The keys that are to be kept for key smoothing, `[batch, cells, width]`.
    pub(super) fn keys(&self, kept: Option<SmoothingKeys>) -> Option<Tensor> {
        let key = cells_of(&self.key);
        match kept? {
            SmoothingKeys::Plain => Some(key),
            SmoothingKeys::Projected => Some(self.block.attn.out_proj.forward(&key)),
        }
    }
}

/// All but the class token, which is the first of the last dimension but one:
/// `[..., 1 + cells, width]` to `[..., cells, width]`.
pub(super) fn cells_of(tokens: &Tensor) -> Tensor {
    tokens.narrow(-2, 1, tokens.size()[tokens.dim() - 2] - 1)
}

/// `sm(query key^T / sqrt(head_width) + bias) value`, per head: queries `[batch, heads, asking, head_width]`, keys and
/// values `[batch, heads, tokens, head_width]`, bias broadcast to `[batch, heads, asking, tokens]`. The matrix itself does
/// not exist at once.
pub(super) fn attend(query: &Tensor, key: &Tensor, value: &Tensor, bias: Option<&Tensor>) -> Tensor {
    attend_at_scale(query, key, value, bias, None)
}

/// [`attend`] with another factor than `1 / sqrt(head_width)`.
pub(super) fn attend_at_scale(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    bias: Option<&Tensor>,
    scale: Option<f64>,
) -> Tensor {
    let Some(bias) = bias else {
        return clip::attend(query, key, value, scale);
    };
    let bias = bias.to_kind(query.kind());
    Tensor::scaled_dot_product_attention(query, key, value, Some(bias), 0.0, false, scale, false)
}
