//! Safetensors files: a JSON header with the place of every tensor, then the tensors' bytes.

use std::collections::HashMap;

use safetensors::tensor::{Dtype, SafeTensors};
use tch::Kind;

use super::CheckpointError;
use super::stored::Stored;
use crate::support::to_i64;

/// Number of bytes before the header; they hold the header's length.
const LENGTH_BYTES: usize = 8;

/// Returns the place of every tensor in the file.
pub(super) fn read(bytes: &[u8]) -> Result<HashMap<String, Stored>, CheckpointError> {
    let damaged = |reason: String| CheckpointError::Damaged(reason);
    let (header_bytes, header) = SafeTensors::read_metadata(bytes).map_err(|error| damaged(error.to_string()))?;
    let start = LENGTH_BYTES + header_bytes;
    header
        .tensors()
        .into_iter()
        .map(|(name, tensor)| {
            let kind = kind_of(tensor.dtype)
                .ok_or_else(|| damaged(format!("{name} holds {}, which no CLIP does", tensor.dtype)))?;
            let shape = tensor.shape.iter().map(|&length| to_i64(length)).collect();
            let (first, end) = tensor.data_offsets;
            let stored = Stored::contiguous(kind, shape, start + first..start + end)
                .map_err(|reason| damaged(format!("{name}: {reason}")))?;
            Ok((name, stored))
        })
        .collect()
}

fn kind_of(dtype: Dtype) -> Option<Kind> {
    match dtype {
        Dtype::F32 => Some(Kind::Float),
        Dtype::F16 => Some(Kind::Half),
        Dtype::BF16 => Some(Kind::BFloat16),
        Dtype::F64 => Some(Kind::Double),
        Dtype::I64 => Some(Kind::Int64),
        Dtype::I32 => Some(Kind::Int),
        _ => None,
    }
}
