//! Loads a finished student from its folder: its card, its network, and its learned background.
//!
//! This file owns how to tell a student from other models by a file's contents. It also checks that card and tensors
//! belong together.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use safetensors::tensor::SafeTensors;
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

use super::card::{CARD_FILE, STUDENT_FILE, StudentCard};
use super::network::{Network, Parameters};
use crate::support::{open_regular_file, read_regular_file, to_i64};

/// Name of the tensor with the text embeddings that the student was trained on.
const CLASSIFIER: &str = "classifier";

/// Name of the tensor with the learned background's embedding, if the student has one.
const BACKGROUND: &str = "background";

/// Prefixes of the names of the network's tensors.
const LAYERS: [&str; 2] = ["backbone.", "head."];

/// Why a student cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A file cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is not a card, or a card of another format.
    #[error("{} is no student's card: {reason}", path.display())]
    Card {
        /// The file.
        path: PathBuf,
        /// The cause.
        reason: String,
    },
    /// The tensors are not the ones that the card describes.
    #[error("{} is not the student that its card is about: {reason}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// The cause.
        reason: String,
    },
}

/// The two files of a student: its card and its tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StudentFiles {
    card: PathBuf,
    weights: PathBuf,
}

/// A loaded student: its network and its learned background.
#[derive(Debug)]
pub struct StoredStudent {
    /// The network.
    pub network: Network,
    /// The embedding of the learned background, `[embedding]`, if the student has one.
    pub background: Option<Vec<f32>>,
}

impl StudentFiles {
    /// Returns the files that a path stands for: a student's folder, its tensors or its card. `None` if the path is
    /// something else.
    pub fn find(path: &Path) -> Option<Self> {
        let inside = |folder: &Path| Self {
            card: folder.join(CARD_FILE),
            weights: folder.join(STUDENT_FILE),
        };
        if path.is_dir() {
            return [CARD_FILE, STUDENT_FILE]
                .iter()
                .any(|file| path.join(file).is_file())
                .then(|| inside(path));
        }
        let folder = path.parent()?;
        if path.is_file() && (path.ends_with(CARD_FILE) || path.ends_with(STUDENT_FILE)) {
            return Some(inside(folder));
        }
        // The file has another name, so its contents decide.
        if is_card(path) {
            return Some(Self {
                card: path.to_owned(),
                ..inside(folder)
            });
        }
        holds_a_network(path).then(|| Self {
            weights: path.to_owned(),
            ..inside(folder)
        })
    }

    /// Returns the student's own name, which is the name of its folder.
    pub fn name(&self) -> String {
        // Absolute, because "." and "folder/.." have no name of their own.
        let path = std::path::absolute(&self.weights).unwrap_or_else(|_| self.weights.clone());
        let folder = path.parent().and_then(Path::file_name);
        folder.unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
    }

    /// Returns the path of the file with the tensors.
    pub fn weights(&self) -> &Path {
        &self.weights
    }

    /// Reads the card.
    ///
    /// # Errors
    /// [`LoadError`] when the file cannot be read, is not a card, or has a format that this program does not read.
    pub fn card(&self) -> Result<StudentCard, LoadError> {
        let refuse = |reason| LoadError::Card {
            path: self.card.clone(),
            reason,
        };
        let bytes = read(&self.card)?;
        let card: serde_json::Value = serde_json::from_slice(&bytes).map_err(|error| refuse(error.to_string()))?;
        match card["format"].as_str() {
            Some(StudentCard::FORMAT) => {}
            Some(other) => {
                return Err(refuse(format!(
                    "its format is {other:?}, and this program reads {:?}",
                    StudentCard::FORMAT
                )));
            }
            None => return Err(refuse("it names no format".to_owned())),
        }
        serde_json::from_value(card).map_err(|error| refuse(error.to_string()))
    }

    /// Loads the tensors that the card describes.
    ///
    /// # Errors
    /// [`LoadError`] when the file cannot be read, or the tensors are not those of the card.
    pub fn load(&self, card: &StudentCard, device: Device) -> Result<StoredStudent, LoadError> {
        let refuse = |reason| LoadError::Weights {
            path: self.weights.clone(),
            reason,
        };
        let [mean, std] = card.plan.normalisation;
        let is_usable =
            mean.iter().all(|value| value.is_finite()) && std.iter().all(|value| value.is_finite() && *value > 0.0);
        if !is_usable {
            return Err(LoadError::Card {
                path: self.card.clone(),
                reason: format!(
                    "plan.normalisation is {mean:?} and {std:?}: a deviation must be above 0, and all values finite"
                ),
            });
        }
        let bytes = read(&self.weights)?;
        let digest = hex::encode(Sha256::digest(&bytes));
        if digest != card.weights_sha256 {
            let expected = &card.weights_sha256;
            return Err(refuse(format!("its SHA-256 is {digest}, and the card says {expected}")));
        }
        let mut tensors = tensors(&bytes).map_err(refuse)?;
        let embedding = card.plan.network.embedding;
        let texts = tensors.remove(CLASSIFIER).map(|texts| texts.size());
        if texts.as_ref().and_then(|size| size.get(1)) != Some(&embedding) {
            return Err(refuse(format!("{CLASSIFIER} is {texts:?}, not [texts, {embedding}]")));
        }
        let background = match tensors.remove(BACKGROUND) {
            Some(vector) if vector.size() != [embedding] => {
                return Err(refuse(format!(
                    "{BACKGROUND} is {:?}, not [{embedding}]",
                    vector.size()
                )));
            }
            vector => vector.map(|vector| Vec::try_from(vector).expect("a 32-bit tensor of one dimension is a vector")),
        };
        let mut parameters = Parameters::stored(tensors, device);
        let network = Network::new(&mut parameters, &card.plan.network).map_err(|error| refuse(error.to_string()))?;
        parameters.finish().map_err(|error| refuse(error.to_string()))?;
        Ok(StoredStudent { network, background })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    read_regular_file(path).map_err(|source| LoadError::Unreadable {
        path: path.to_owned(),
        source,
    })
}

/// Returns all tensors of a safetensors file. Only 32-bit floats are accepted.
fn tensors(bytes: &[u8]) -> Result<HashMap<String, Tensor>, String> {
    let stored = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    let tensors = stored.tensors().into_iter().map(|(name, view)| {
        let kind = match view.dtype() {
            safetensors::Dtype::F32 => Kind::Float,
            other => return Err(format!("{name} holds {other}")),
        };
        let shape: Vec<i64> = view.shape().iter().map(|&length| to_i64(length)).collect();
        let tensor = Tensor::from_data_size(view.data(), &shape, kind);
        // An infinity or NaN anywhere makes the sum one.
        if !tensor.sum(Kind::Float).double_value(&[]).is_finite() {
            return Err(format!("{name} has infinities or NaN among its values"));
        }
        Ok((name, tensor))
    });
    tensors.collect()
}

/// Returns whether a file is a student's card of any format version: JSON whose `format` says so.
fn is_card(path: &Path) -> bool {
    /// Largest size of a card in bytes.
    const LONGEST: u64 = 1 << 24;
    let is_short = path
        .metadata()
        .is_ok_and(|file| file.is_file() && file.len() <= LONGEST);
    let is_json = path.extension().is_some_and(|ending| ending == "json");
    if !is_short || !is_json {
        return false;
    }
    let card: Option<serde_json::Value> = std::fs::read(path)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok());
    card.is_some_and(|card| {
        card["format"]
            .as_str()
            .is_some_and(|format| format.starts_with("maskclip-student-"))
    })
}

/// Returns whether a safetensors file has the texts and the layers of a student. Reads only the header.
fn holds_a_network(path: &Path) -> bool {
    /// Largest size of a student's header in bytes.
    const LONGEST: u64 = 1 << 24;
    let header = || {
        let mut file = open_regular_file(path).ok()?;
        let mut length = [0; 8];
        file.read_exact(&mut length).ok()?;
        let mut header = Vec::new();
        let length = Some(u64::from_le_bytes(length)).filter(|&length| length <= LONGEST)?;
        file.take(length).read_to_end(&mut header).ok()?;
        serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&header).ok()
    };
    header().is_some_and(|header| {
        let has_layers = |layers: &str| header.keys().any(|name| name.starts_with(layers));
        header.contains_key(CLASSIFIER) && LAYERS.into_iter().all(has_layers)
    })
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::{Dtype, TensorView, serialize};

    use super::*;

    #[test]
    fn a_tensor_with_a_value_that_is_not_finite_is_refused_by_name() {
        let file = |value: f32| {
            let bytes: Vec<u8> = [1.0, value].iter().flat_map(|value| value.to_le_bytes()).collect();
            let view = TensorView::new(Dtype::F32, vec![2], &bytes).expect("two floats");
            serialize([("head.bias", view)], None).expect("a small file")
        };
        assert_eq!(tensors(&file(2.0)).expect("two numbers").len(), 1);
        assert_eq!(
            tensors(&file(f32::NAN)).expect_err("no number"),
            "head.bias has infinities or NaN among its values"
        );
    }
}
