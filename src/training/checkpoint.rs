//! Tensors in files: the state of a run, from which it resumes exactly, and the finished student.
//!
//! This file owns the format of the files. The run writes them.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::{TrainError, file_error};
use crate::models::student::{Plan, StepReport};
use crate::support::{read_regular_file, to_i64, to_usize};

/// The only key of the state's metadata. Several keys would be written in no fixed order.
const METADATA: &str = "maskclip-training";

/// Tensors by name.
pub(super) type Tensors = HashMap<String, Tensor>;

/// What a run's state holds besides its tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct StateHeader {
    /// Everything that decides the run.
    pub plan: Plan,
    /// The report of the last step that was made.
    pub last: StepReport,
}

/// Returns the bytes of a safetensors file with these tensors, all as 32-bit floats.
pub(super) fn to_bytes<'a>(
    tensors: impl IntoIterator<Item = (String, &'a Tensor)>,
    header: Option<&StateHeader>,
) -> Vec<u8> {
    let tensors: Vec<_> = tensors
        .into_iter()
        .map(|(name, tensor)| {
            let tensor = tensor.detach().to_kind(Kind::Float).contiguous();
            let shape: Vec<usize> = tensor.size().into_iter().map(to_usize).collect();
            let elements = tensor.numel();
            let mut bytes = vec![0; elements * Kind::Float.elt_size_in_bytes()];
            tensor.copy_data_u8(&mut bytes, elements);
            (name, shape, bytes)
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes).expect("four bytes per element");
        (name.as_str(), view)
    });
    let metadata = header.map(|header| {
        let text = serde_json::to_string(header).expect("a header is plain data");
        HashMap::from([(METADATA.to_owned(), text)])
    });
    safetensors::serialize(views, metadata).expect("tensors of known shapes and bytes are a file")
}

/// A run's state: its tensors by name and its header.
pub(super) type State = (Tensors, StateHeader);

/// Reads a run's state from a file.
///
/// # Errors
/// [`TrainError`] when the file cannot be read or is damaged.
pub(super) fn read_state(path: &Path) -> Result<State, TrainError> {
    let damaged = |reason: String| TrainError::Damaged {
        path: path.to_owned(),
        reason,
    };
    let bytes = read_regular_file(path).map_err(file_error(path))?;
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|error| damaged(error.to_string()))?;
    let header = metadata.metadata().as_ref().and_then(|metadata| metadata.get(METADATA));
    let header = header.ok_or_else(|| damaged("it is not the state of a training run".to_owned()))?;
    let header = serde_json::from_str(header).map_err(|error| damaged(error.to_string()))?;
    let stored = SafeTensors::deserialize(&bytes).map_err(|error| damaged(error.to_string()))?;
    let tensors = stored.tensors().into_iter().map(|(name, view)| {
        if view.dtype() != Dtype::F32 {
            return Err(damaged(format!("{name} holds {}", view.dtype())));
        }
        let shape: Vec<i64> = view.shape().iter().map(|&length| to_i64(length)).collect();
        Ok((name, Tensor::from_data_size(view.data(), &shape, Kind::Float)))
    });
    Ok((tensors.collect::<Result<_, TrainError>>()?, header))
}
