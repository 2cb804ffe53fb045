//! GEM: a parallel path of generalised self-self attention runs beside the unchanged path over the last six blocks.
//!
//! Bousselham et al., "Grounding Everything: Emerging Localization Properties in Vision-Language Transformers", CVPR
//! 2024, arXiv 2312.00878. The blocks of the path keep the residual and have no MLP. The features are those of the
//! release. The release's output protocol, which stretches scores to 0 to 1 over the image, is not part of them.

use tch::{Kind, Tensor};

use super::last_block::{Heads, attend_at_scale};
use super::trunk::{Depth, Trunk};
use crate::dense::tensors::unit_rows;

/// Number of blocks of the parallel path, both in towers of 12 and in towers of 24 blocks.
const BLOCKS: usize = 6;

/// Returns how many of the last blocks' inputs the path reads.
pub(super) fn blocks_read(depth: Depth) -> usize {
    depth.scale(BLOCKS, BLOCKS).max(1)
}

/// Returns the tokens at the end of the path, the class token first, `[batch, 1 + cells, width]`. The path starts from
/// the input of its first block, and every block does `g <- g + Out(A)`.
pub(super) fn tokens(trunk: &Trunk) -> Tensor {
    let start = trunk.after(trunk.depth().0 - blocks_read(trunk.depth()));
    trunk.blocks().fold(start.shallow_clone(), |path, (block, input)| {
        let heads = Heads::of(block, input);
        let length = block.ln_1.forward(input).norm_scalaropt_dim(2, [2], false); // [batch, 1 + cells]
        let length = length.mean_dim(1, false, Kind::Float); // [batch]
        path + block.attn.project_heads(&mix(&heads, &length))
    })
}

/// Mixes the values by `A = (A_q + A_k + A_v) / 3` with `A_y = sm(tau y y^T)`: `[batch, heads, tokens, head_width]`.
/// `tau` is the mean length of the tokens, `[batch]`, over `sqrt d`. The rows of `y` have unit length, and before that
/// `y` is replaced once by `sm(tau y y^T) y`.
fn mix(Heads { query, key, value }: &Heads, length: &Tensor) -> Tensor {
    let head_width = query.size()[3];
    let tau = (length / (head_width as f64).sqrt()).view([-1, 1, 1, 1]);
    let unit = |part: &Tensor| unit_rows(part).to_kind(value.kind());
    let self_attended = |part: &Tensor, value: &Tensor| {
        let asking = part * tau.to_kind(part.kind());
        attend_at_scale(&asking, part, value, None, Some(1.0))
    };
    let [by_query, by_key, by_value] = [query, key, value].map(|part| {
        let part = unit(part);
        let part = unit(&self_attended(&part, &part));
        self_attended(&part, value)
    });
    (by_query + by_key + by_value) / 3.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dense::attention::testing::{assert_close, heads, row_sums};

    fn length() -> Tensor {
        Tensor::from_slice(&[5f32])
    }

    #[test]
    fn rows_sum_to_one() {
        assert_close(&row_sums(|heads| mix(heads, &length())), &Tensor::from(1f32));
    }

    #[test]
    fn the_lengths_of_queries_and_keys_are_of_no_consequence() {
        let mut heads = heads(6);
        let before = mix(&heads, &length());
        heads.query = &heads.query * 7.0;
        heads.key = &heads.key * 0.1;
        assert_close(&mix(&heads, &length()), &before);
    }

    #[test]
    fn equal_tokens_give_the_mean_of_the_values() {
        let mut heads = heads(6);
        heads.query = heads.query.ones_like();
        heads.key = heads.key.ones_like();
        heads.value = heads.value.mean_dim(2, true, None).expand_as(&heads.value);
        assert_close(&mix(&heads, &length()), &heads.value);
    }
}
