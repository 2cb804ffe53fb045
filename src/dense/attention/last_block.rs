//! The last block of a ViT taken apart, so that methods can put it together in another way.

use tch::Tensor;

use crate::clip::{self, ResidualAttentionBlock, VisionTransformer};
use crate::dense::SmoothingKeys;

/// The last block of a tower, with its input and the parts of its attention.
pub(super) struct LastBlock<'tower> {
    block: &'tower ResidualAttentionBlock,
    /// `u`, the input of the block, `[batch, 1 + cells, width]`.
    tokens: Tensor,
    /// The input after the block's first normalisation.
    normalised: Tensor,
    /// The keys, `[batch, 1 + cells, width]`, with the heads side by side.
    key: Tensor,
    /// The values, `[batch, 1 + cells, width]`, with the heads side by side.
    value: Tensor,
}

/// Queries, keys and values of one block, each `[batch, heads, tokens, head_width]`.
pub(super) struct Heads {
    pub(super) query: Tensor,
    pub(super) key: Tensor,
    pub(super) value: Tensor,
}

impl Heads {
    /// Computes queries, keys and values of a block with the input `tokens`, `[batch, tokens, width]`.
    pub(super) fn of(block: &ResidualAttentionBlock, tokens: &Tensor) -> Self {
        let parts = block.attn.query_key_value(&block.ln_1.forward(tokens));
        let [query, key, value] = parts.map(|part| block.attn.split_heads(&part));
        Self { query, key, value }
    }
}

impl<'tower> LastBlock<'tower> {
    /// Prepares the last block of `tower` for its input, `[batch, 1 + cells, width]`, the class token first.
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

    /// Returns the queries, keys and values of all tokens, with those of the class token.
    pub(super) fn heads(&self) -> Heads {
        let split = |part: &Tensor| self.block.attn.split_heads(part);
        Heads {
            query: split(&self.block.attn.query(&self.normalised)),
            key: split(&self.key),
            value: split(&self.value),
        }
    }

    /// Computes `Out(A)` without the block's residual and MLP. `mixed` are the values mixed by the heads,
    /// `[batch, heads, cells, head_width]`; the result is `[batch, cells, width]`.
    pub(super) fn alone(&self, mixed: &Tensor) -> Tensor {
        self.block.attn.project_heads(mixed)
    }

    /// Computes `Out(A)` and the rest of the block, residual and MLP. Shapes are those of [`LastBlock::alone`].
    pub(super) fn with_residual(&self, mixed: &Tensor) -> Tensor {
        self.completed(&self.alone(mixed))
    }

    /// Returns the projection of the cells' own values, `Out(I)`: `[batch, cells, width]`.
    pub(super) fn projected_values(&self) -> Tensor {
        self.block.attn.out_proj.forward(&cells_of(&self.value))
    }

    /// Applies the block's residual and MLP to an output of its attention for the cells, `[batch, cells, width]`.
    pub(super) fn completed(&self, attended: &Tensor) -> Tensor {
        self.block.complete(&cells_of(&self.tokens), attended)
    }

    /// Returns the output of the block's own attention for the cells, `[batch, cells, width]`.
    pub(super) fn attended(&self) -> Tensor {
        self.attended_by(&cells_of(&self.normalised))
    }

    /// Returns the class token after the unchanged block, `[batch, 1, width]`. It is CLIP's own answer and does not
    /// depend on what happens to the cells.
    pub(super) fn class_token(&self) -> Tensor {
        let class_of = |tokens: &Tensor| tokens.narrow(1, 0, 1); // [batch, 1 + cells, width] -> [batch, 1, width]
        let attended = self.attended_by(&class_of(&self.normalised));
        self.block.complete(&class_of(&self.tokens), &attended)
    }

    fn attended_by(&self, asking: &Tensor) -> Tensor {
        let attention = &self.block.attn;
        attention.attend(&attention.query(asking), &self.key, &self.value)
    }

    /// Returns the cells' keys that key smoothing needs, `[batch, cells, width]`, or `None` if it needs none.
    pub(super) fn keys(&self, kept: Option<SmoothingKeys>) -> Option<Tensor> {
        let key = cells_of(&self.key);
        match kept? {
            SmoothingKeys::Plain => Some(key),
            SmoothingKeys::Projected => Some(self.block.attn.out_proj.forward(&key)),
        }
    }
}

/// Returns all tokens except the class token, which is the first along the last dimension but one:
/// `[..., 1 + cells, width]` to `[..., cells, width]`.
pub(super) fn cells_of(tokens: &Tensor) -> Tensor {
    tokens.narrow(-2, 1, tokens.size()[tokens.dim() - 2] - 1)
}

/// Computes `sm(query key^T / sqrt(head_width) + bias) value` for each head. Queries are
/// `[batch, heads, asking, head_width]`, keys and values `[batch, heads, tokens, head_width]`. The bias is broadcast to
/// `[batch, heads, asking, tokens]`. The attention matrix is never held in memory as a whole.
pub(super) fn attend(query: &Tensor, key: &Tensor, value: &Tensor, bias: Option<&Tensor>) -> Tensor {
    attend_at_scale(query, key, value, bias, None)
}

/// Does the same as [`attend`] with the factor `scale` in place of `1 / sqrt(head_width)`.
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
