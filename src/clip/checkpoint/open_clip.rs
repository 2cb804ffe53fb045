//! open_clip's safetensors files. Their names are the ones the towers use, so nothing is translated.

use std::collections::HashMap;

use safetensors::tensor::{Dtype, SafeTensors};
use tch::{Kind, Tensor};

use super::CheckpointError;

/// How many batches a batch normalisation has seen: of use to training alone.
const TRAINING_COUNTER: &str = ".num_batches_tracked";

/// Copies every tensor out of a safetensors file, in the kind it is stored in.
pub(super) fn read(bytes: &[u8]) -> Result<HashMap<String, Tensor>, CheckpointError> {
    let damaged = |error: safetensors::SafeTensorError| CheckpointError::Damaged(error.to_string());
    let file = SafeTensors::deserialize(bytes).map_err(damaged)?;
    let mut tensors = HashMap::with_capacity(file.len());
    for (name, view) in file.iter().filter(|(name, _)| !name.ends_with(TRAINING_COUNTER)) {
        let Some(kind) = kind_of(view.dtype()) else {
            return Err(CheckpointError::Damaged(format!(
                "{name} holds {:?}, which no CLIP does",
                view.dtype()
            )));
        };
        let shape: Vec<i64> = view
            .shape()
            .iter()
            .map(|&length| i64::try_from(length).expect("the file holds that many elements"))
            .collect();
        let tensor = Tensor::f_from_data_size(view.data(), &shape, kind)
            .map_err(|error| CheckpointError::Damaged(format!("{name}: {error}")))?;
        tensors.insert(name.to_owned(), tensor);
    }
    Ok(tensors)
}

fn kind_of(dtype: Dtype) -> Option<Kind> {
    match dtype {
        Dtype::F32 => Some(Kind::Float),
        Dtype::F16 => Some(Kind::Half),
        Dtype::BF16 => Some(Kind::BFloat16),
        Dtype::F64 => Some(Kind::Double),
        _ => None,
    }
}
