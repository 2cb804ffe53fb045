//! The place of a tensor in a checkpoint's files. It is checked against the files at once and read on demand.

use std::ops::Range;

use bytes::Bytes;
use tch::{Kind, Tensor};

use crate::support::to_i64;

/// One tensor of a checkpoint, as pieces that are joined along the first dimension. Nearly all tensors have one piece.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    kind: Kind,
    shape: Vec<i64>,
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone)]
struct Piece {
    shape: Vec<i64>,
    /// For each dimension, the number of elements from one index to the next.
    strides: Vec<i64>,
    /// The number of the checkpoint's file that holds the piece.
    file: usize,
    /// The bytes of that file from the first element to the last.
    bytes: Range<usize>,
}

impl Stored {
    /// Describes a tensor whose elements lie row by row in `bytes`. The error says what does not fit.
    pub(super) fn contiguous(kind: Kind, shape: Vec<i64>, bytes: Range<usize>) -> Result<Self, String> {
        let mut strides = vec![1; shape.len()];
        for dimension in (1..shape.len()).rev() {
            strides[dimension - 1] = shape[dimension].saturating_mul(strides[dimension]);
        }
        Self::strided(kind, shape, strides, bytes, 0)
    }

    /// Describes a tensor whose first element is element number `offset` of `storage`. The error says what does not
    /// fit.
    pub(super) fn strided(
        kind: Kind,
        shape: Vec<i64>,
        strides: Vec<i64>,
        storage: Range<usize>,
        offset: i64,
    ) -> Result<Self, String> {
        let span = span(&shape, &strides).ok_or_else(|| format!("{shape:?} with strides {strides:?} is no tensor"))?;
        let bytes = bytes_of(kind, &storage, offset, span).ok_or_else(|| {
            format!(
                "{shape:?} with strides {strides:?} from element {offset} on does not fit its {} bytes",
                storage.len()
            )
        })?;
        Ok(Self {
            kind,
            shape: shape.clone(),
            pieces: vec![Piece {
                shape,
                strides,
                file: 0,
                bytes,
            }],
        })
    }

    /// Moves the tensor's place to the checkpoint's file with this number. New tensors are placed in file 0.
    pub(super) fn in_file(mut self, number: usize) -> Self {
        for piece in &mut self.pieces {
            piece.file = number;
        }
        self
    }

    /// Joins several tensors along the first dimension. Returns `None` when their shapes or types do not fit each
    /// other.
    pub(super) fn joined(parts: impl IntoIterator<Item = Self>) -> Option<Self> {
        parts.into_iter().map(Some).reduce(|joined, part| {
            let (mut joined, part) = (joined?, part?);
            let (rows, columns) = joined.shape.split_first_mut()?;
            let (more_rows, same_columns) = part.shape.split_first()?;
            if columns != same_columns || joined.kind != part.kind {
                return None;
            }
            *rows += more_rows;
            joined.pieces.extend(part.pieces);
            Some(joined)
        })?
    }

    /// Exchanges rows and columns without moving any element. The tensor must have one piece.
    pub(super) fn transposed(mut self) -> Self {
        self.shape.reverse();
        for piece in &mut self.pieces {
            piece.shape.reverse();
            piece.strides.reverse();
        }
        self
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn shape(&self) -> &[i64] {
        &self.shape
    }

    /// Copies the tensor out of the checkpoint's files.
    pub(super) fn read(&self, files: &[Bytes]) -> Tensor {
        let pieces: Vec<Tensor> = self
            .pieces
            .iter()
            .map(|piece| {
                let bytes = &files[piece.file][piece.bytes.clone()];
                let elements = bytes.len() / self.kind.elt_size_in_bytes();
                Tensor::from_data_size(bytes, &[to_i64(elements)], self.kind)
                    .as_strided(&piece.shape, &piece.strides, 0)
                    .contiguous()
            })
            .collect();
        match <[Tensor; 1]>::try_from(pieces) {
            Ok([whole]) => whole,
            Err(pieces) => Tensor::cat(&pieces, 0),
        }
    }
}

/// Returns the number of elements from the first to the last, both included. Returns `None` when sizes are negative or
/// overflow, and when elements overlap, because a small file could then ask for a large tensor.
fn span(shape: &[i64], strides: &[i64]) -> Option<i64> {
    if shape.len() != strides.len() || shape.iter().chain(strides).any(|&size| size < 0) {
        return None;
    }
    let elements = shape
        .iter()
        .try_fold(1i64, |product, &size| product.checked_mul(size))?;
    if elements == 0 {
        return Some(0);
    }
    let last = shape.iter().zip(strides).try_fold(0i64, |last, (&size, &stride)| {
        last.checked_add((size - 1).checked_mul(stride)?)
    })?;
    let span = last.checked_add(1)?;
    (elements <= span).then_some(span)
}

/// Returns the bytes of `span` elements from number `offset` on, or `None` when `storage` does not hold them all.
fn bytes_of(kind: Kind, storage: &Range<usize>, offset: i64, span: i64) -> Option<Range<usize>> {
    let in_bytes = |elements: i64| usize::try_from(elements).ok()?.checked_mul(kind.elt_size_in_bytes());
    let start = storage.start.checked_add(in_bytes(offset)?)?;
    let end = start.checked_add(in_bytes(span)?)?;
    (end <= storage.end).then_some(start..end)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A file with three other bytes and then the numbers 0 to 5 in float32.
    fn files() -> [Bytes; 1] {
        let values = [0f32, 1., 2., 3., 4., 5.];
        let values = values.iter().flat_map(|value| value.to_le_bytes());
        [[b'x'; 3].into_iter().chain(values).collect()]
    }

    fn rows(tensor: &Tensor) -> Vec<Vec<f32>> {
        tensor.try_into().unwrap()
    }

    #[test]
    fn rows_lie_one_after_another() {
        let stored = Stored::contiguous(Kind::Float, vec![2, 3], 3..27).unwrap();
        assert_eq!(rows(&stored.read(&files())), [[0., 1., 2.], [3., 4., 5.]]);
        assert_eq!(
            rows(&stored.transposed().read(&files())),
            [[0., 3.], [1., 4.], [2., 5.]]
        );
    }

    #[test]
    fn strides_and_the_offset_are_followed() {
        let stored = Stored::strided(Kind::Float, vec![2, 2], vec![1, 3], 3..27, 1).unwrap();
        assert_eq!(rows(&stored.read(&files())), [[1., 4.], [2., 5.]]);
    }

    #[test]
    fn pieces_are_joined_row_by_row_where_they_fit() {
        let stored = |shape: &[i64], bytes| Stored::contiguous(Kind::Float, shape.to_vec(), bytes).unwrap();
        let joined = Stored::joined([stored(&[1, 2], 19..27), stored(&[2, 2], 3..19)]).unwrap();
        assert_eq!(joined.shape(), [3, 2]);
        assert_eq!(rows(&joined.read(&files())), [[4., 5.], [0., 1.], [2., 3.]]);
        assert!(Stored::joined([stored(&[1, 2], 3..11), stored(&[1, 3], 11..23)]).is_none());
        assert!(Stored::joined([stored(&[], 3..7), stored(&[], 7..11)]).is_none());
    }

    #[test]
    fn pieces_may_lie_in_several_files() {
        let stored = |bytes| Stored::contiguous(Kind::Float, vec![1, 2], bytes).unwrap();
        let joined = Stored::joined([stored(0..8).in_file(1), stored(3..11)]).unwrap();
        let [first] = files();
        let second = [7f32, 8.].iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(rows(&joined.read(&[first, second])), [[7., 8.], [0., 1.]]);
    }

    #[test]
    fn a_tensor_beyond_its_bytes_or_onto_itself_is_refused() {
        let refused = |shape: &[i64], strides: &[i64], offset| {
            Stored::strided(Kind::Float, shape.to_vec(), strides.to_vec(), 3..27, offset).unwrap_err()
        };
        assert_eq!(
            refused(&[2, 3], &[3, 1], 1),
            "[2, 3] with strides [3, 1] from element 1 on does not fit its 24 bytes"
        );
        assert_eq!(
            refused(&[1 << 40], &[0], 0),
            "[1099511627776] with strides [0] is no tensor"
        );
        for (shape, strides) in [
            (&[1 << 40, 1 << 40][..], &[1 << 40, 1][..]),
            (&[2, 2], &[i64::MAX, 1]),
            (&[-1], &[1]),
            (&[2], &[-1]),
            (&[2], &[]),
        ] {
            refused(shape, strides, 0);
        }
        refused(&[1], &[1], -1);
        refused(&[1], &[1], i64::MAX);
    }
}
