//! One checkpoint as named tensors, whatever file it came in.
//!
//! Owns reading weights and handing each tensor out once, with its shape checked. The names are open_clip's; a file form
//! with names of its own translates them in its own module, so that the towers know one vocabulary. Which form a file
//! has is told by its content, never by its name. Leaves to the towers what the tensors mean.

mod config;
mod open_clip;

pub use config::ModelConfig;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

/// The tensors of one checkpoint under open_clip's names, each taken once.
///
/// A model is complete when every tower has taken what it needs and [`Weights::finish`] finds nothing left: a checkpoint
/// of another architecture never loads halfway.
#[derive(Debug)]
pub struct Weights {
    /// As stored in the file; converted as they are taken, so that both copies of all of them never exist at once.
    tensors: HashMap<String, Tensor>,
    device: Device,
    kind: Kind,
    sha256: String,
}

impl Weights {
    /// Reads a checkpoint whose tensors will be handed out as `kind` on `device`.
    ///
    /// # Errors
    /// When the file cannot be read, has none of the supported forms, or is damaged.
    pub fn load(path: &Path, device: Device, kind: Kind) -> Result<Self, CheckpointError> {
        let cannot_read = |source| CheckpointError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(cannot_read)?;
        // SAFETY: the mapping is read-only, private to this function and gone when it returns. As with any mapping,
        // somebody who shortens the file in these moments ends the process; the tensors are copies and stay valid.
        #[allow(unsafe_code)]
        let bytes = unsafe { Mmap::map(&file) }.map_err(cannot_read)?;
        Self::from_bytes(&bytes, device, kind)
    }

    /// The same from a checkpoint's bytes in memory.
    ///
    /// # Errors
    /// When the bytes have none of the supported forms or are damaged.
    pub fn from_bytes(bytes: &[u8], device: Device, kind: Kind) -> Result<Self, CheckpointError> {
        let tensors = match FileForm::of(bytes) {
            FileForm::SafeTensors => open_clip::read(bytes)?,
            FileForm::ZipArchive => return Err(CheckpointError::UnsupportedForm("a PyTorch archive")),
            FileForm::Pickle => return Err(CheckpointError::UnsupportedForm("a Python pickle")),
            FileForm::Unknown => return Err(CheckpointError::UnsupportedForm("of no known form")),
        };
        Ok(Self {
            tensors,
            device,
            kind,
            sha256: sha256_hexadecimal(bytes),
        })
    }

    /// The shape of a tensor that has not been taken yet; `None` when there is none of that name.
    pub fn shape(&self, name: &str) -> Option<Vec<i64>> {
        self.tensors.get(name).map(Tensor::size)
    }

    /// One dimension's length of a tensor that has not been taken yet, to read a model's sizes from. 1 when there is no such
    /// tensor or dimension: taking it then reports what is wrong.
    pub fn size(&self, name: &str, dimension: usize) -> i64 {
        self.shape(name)
            .and_then(|shape| shape.get(dimension).copied())
            .unwrap_or(1)
    }

    /// Hands out a tensor, which must have exactly this shape, in the kind and on the device of these weights.
    ///
    /// # Errors
    /// When the checkpoint has no such tensor, or has it in another shape.
    pub fn take(&mut self, name: &str, shape: &[i64]) -> Result<Tensor, CheckpointError> {
        self.take_as(name, shape, self.kind)
    }

    /// As [`Weights::take`], in a kind of the caller's choice: for tensors that are computed with once at load (a batch
    /// normalisation folded into its convolution) and rounded afterwards.
    ///
    /// # Errors
    /// As [`Weights::take`].
    pub fn take_as(&mut self, name: &str, shape: &[i64], kind: Kind) -> Result<Tensor, CheckpointError> {
        let Some(tensor) = self.tensors.remove(name) else {
            return Err(CheckpointError::MissingTensor {
                name: name.to_owned(),
                expected: shape.to_vec(),
            });
        };
        if tensor.size() != shape {
            return Err(CheckpointError::WrongShape {
                name: name.to_owned(),
                expected: shape.to_vec(),
                found: tensor.size(),
            });
        }
        Ok(tensor.to_device(self.device).to_kind(kind))
    }

    /// Element type of the tensors handed out.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// SHA-256 of the checkpoint's bytes, lower-case hexadecimal.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// When tensors are left that nobody took: the checkpoint is of an architecture that is not computed here.
    pub fn finish(self) -> Result<(), CheckpointError> {
        if self.tensors.is_empty() {
            return Ok(());
        }
        let mut names: Vec<String> = self.tensors.into_keys().collect();
        names.sort_unstable();
        Err(CheckpointError::LeftOver { names })
    }
}

/// Why a checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The operating system refused the file.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// None of the forms weights are read from.
    #[error("the weights file is {0}; weights are read from safetensors files with open_clip's tensor names")]
    UnsupportedForm(&'static str),
    /// The right form with a defect.
    #[error("the weights file is damaged: {0}")]
    Damaged(String),
    /// A tensor the model needs is not there.
    #[error("the checkpoint has no tensor {name} (expected {expected:?})")]
    MissingTensor {
        /// Its name.
        name: String,
        /// The shape it should have.
        expected: Vec<i64>,
    },
    /// A tensor's shape does not fit the others'.
    #[error("the checkpoint's tensor {name} is {found:?}, expected {expected:?}")]
    WrongShape {
        /// Its name.
        name: String,
        /// The shape it should have.
        expected: Vec<i64>,
        /// The shape it has.
        found: Vec<i64>,
    },
    /// The width cannot be divided into heads.
    #[error("a width of {width} cannot be divided into heads of {head_width}")]
    UnevenHeads {
        /// Channels of the attention.
        width: i64,
        /// Channels of one head.
        head_width: i64,
    },
    /// The configuration beside the weights cannot be used.
    #[error("{}: {reason}", path.display())]
    Configuration {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The activation is nowhere to be read.
    #[error(
        "whether {} uses QuickGELU or the exact GELU cannot be read off the weights: put open_clip's configuration beside \
         it, as {} or open_clip_config.json",
        weights.display(),
        weights.with_extension("json").display()
    )]
    UnknownActivation {
        /// The weights file.
        weights: PathBuf,
    },
    /// Tensors that no part of the model uses.
    #[error("the checkpoint is of another architecture: nothing uses its {} tensors {}", names.len(), first_few(names))]
    LeftOver {
        /// All of their names, sorted.
        names: Vec<String>,
    },
}

fn first_few(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let mut text = names
        .iter()
        .take(SHOWN)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > SHOWN {
        text.push_str(", ...");
    }
    text
}

/// The containers weights come in, by their first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileForm {
    /// Eight bytes of header length, a JSON header, the tensors' bytes.
    SafeTensors,
    /// What `torch.save` and `torch.jit.save` write: a zip file.
    ZipArchive,
    /// What `torch.save` wrote before version 1.6.
    Pickle,
    Unknown,
}

impl FileForm {
    fn of(bytes: &[u8]) -> Self {
        match bytes {
            [b'P', b'K', 3, 4, ..] => Self::ZipArchive,
            [0x80, 2..=5, ..] if bytes.get(8) != Some(&b'{') => Self::Pickle,
            [_, _, _, _, _, _, _, _, b'{', ..] => Self::SafeTensors,
            _ => Self::Unknown,
        }
    }
}

fn sha256_hexadecimal(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::with_capacity(64), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a string cannot fail");
            text
        })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    use safetensors::tensor::{Dtype, TensorView, serialize};

    /// A file with `a` = [[1, 2, 3], [4, 5, 6]] and a batch normalisation's counter.
    fn small_file() -> Vec<u8> {
        let values: Vec<u8> = [1f32, 2., 3., 4., 5., 6.]
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let count = 7i64.to_le_bytes();
        let tensors = [
            ("a", TensorView::new(Dtype::F32, vec![2, 3], &values).unwrap()),
            (
                "bn1.num_batches_tracked",
                TensorView::new(Dtype::I64, vec![], &count).unwrap(),
            ),
        ];
        serialize(tensors, None).unwrap()
    }

    fn small_weights(kind: Kind) -> Weights {
        Weights::from_bytes(&small_file(), Device::Cpu, kind).unwrap()
    }

    #[test]
    fn a_tensor_is_taken_once_with_its_values_and_in_the_kind_asked_for() {
        let mut weights = small_weights(Kind::BFloat16);
        assert_eq!(weights.shape("a"), Some(vec![2, 3]));
        let a = weights.take("a", &[2, 3]).unwrap();
        assert_eq!(a.kind(), Kind::BFloat16);
        assert_eq!(
            Vec::<f32>::try_from(a.to_kind(Kind::Float).view(-1)).unwrap(),
            [1., 2., 3., 4., 5., 6.]
        );
        assert_eq!(weights.shape("a"), None);
        weights.finish().unwrap();
    }

    #[test]
    fn a_missing_tensor_is_named() {
        let error = small_weights(Kind::Float).take("visual.proj", &[4, 2]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the checkpoint has no tensor visual.proj (expected [4, 2])"
        );
    }

    #[test]
    fn a_wrong_shape_is_named_with_both_shapes() {
        let error = small_weights(Kind::Float).take("a", &[3, 2]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the checkpoint's tensor a is [2, 3], expected [3, 2]"
        );
    }

    #[test]
    fn tensors_left_over_are_named() {
        let error = small_weights(Kind::Float).finish().unwrap_err();
        assert_eq!(
            error.to_string(),
            "the checkpoint is of another architecture: nothing uses its 1 tensors a"
        );
    }

    #[test]
    fn other_forms_are_told_by_their_content() {
        let refused = |bytes: &[u8]| {
            Weights::from_bytes(bytes, Device::Cpu, Kind::Float)
                .unwrap_err()
                .to_string()
        };
        assert!(refused(b"PK\x03\x04rest").contains("is a PyTorch archive;"));
        assert!(refused(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j").contains("is a Python pickle;"));
        assert!(refused(b"").contains("is of no known form;"));
        assert!(refused(b"<!DOCTYPE html>").contains("is of no known form;"));
    }

    #[test]
    fn a_truncated_file_is_damaged() {
        let file = small_file();
        for length in [9, 40, file.len() - 1] {
            let error = Weights::from_bytes(&file[..length], Device::Cpu, Kind::Float).unwrap_err();
            assert!(matches!(error, CheckpointError::Damaged(_)), "{length} bytes: {error}");
        }
    }

    #[test]
    fn a_file_gives_what_its_bytes_give() {
        let folder = std::env::temp_dir().join(format!("maskclip-weights-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("no-extension-needed");
        std::fs::write(&path, small_file()).unwrap();
        let mut weights = Weights::load(&path, Device::Cpu, Kind::Float).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        // sha256sum of the same bytes, by the standard's test for the digest itself below.
        assert_eq!(weights.sha256(), sha256_hexadecimal(&small_file()));
        assert_eq!(weights.take("a", &[2, 3]).unwrap().double_value(&[1, 2]), 6.);

        let missing = Weights::load(&path, Device::Cpu, Kind::Float).unwrap_err().to_string();
        assert!(
            missing.contains("no-extension-needed cannot be read: No such file"),
            "{missing}"
        );
    }

    #[test]
    fn the_digest_is_sha_256_in_lower_case() {
        // FIPS 180-2, appendix B.1.
        assert_eq!(
            sha256_hexadecimal(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
