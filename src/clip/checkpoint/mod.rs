//! One checkpoint as named tensors, whatever file or files it comes in.
//!
//! Owns the reading of weights. It hands each tensor out once, after checking its shape. Names are open_clip's. A form
//! with other names translates them in its own module, so that the towers know only one set of names. A file's content,
//! never its name, tells which form it has. Leaves the meaning of the tensors to the towers.

mod archive;
mod config;
mod container;
mod error;
mod files;
mod hub;
mod hugging_face;
mod names;
mod pickle;
mod safetensors;
mod shards;
mod stored;

pub use config::ModelConfig;
pub use error::CheckpointError;
pub use files::{file_bytes, weights_file};
pub use hub::hub_model_name;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

use self::stored::Stored;

/// The names that model hubs give to weights in their folders, in the order in which they are looked for.
pub const WEIGHTS_FILES: [&str; 6] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

/// The last steps of the towers of either architecture. One of zeros makes every embedding zero, which has no
/// direction.
const PROJECTIONS: [&str; 4] = [
    "text_projection",
    "visual.proj",
    "visual.attnpool.v_proj.weight",
    "visual.attnpool.c_proj.weight",
];

/// The format of a checkpoint: whose names its tensors have. The format determines where the model's configuration is
/// found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointFormat {
    /// A TorchScript archive written by OpenAI.
    OpenAi,
    /// A state dict with open_clip's names, in a safetensors file or a PyTorch archive.
    OpenClip,
    /// A state dict with Hugging Face's names, in a safetensors file or a PyTorch archive.
    HuggingFace,
}

/// The tensors of one checkpoint under open_clip's names. Each can be taken once.
///
/// A model is complete when every tower has taken its tensors and [`Weights::finish`] finds none left. A checkpoint of
/// another architecture therefore never loads halfway.
#[derive(Debug)]
pub struct Weights {
    /// The files of the checkpoint, usually one that is mapped into memory.
    files: Vec<Bytes>,
    /// The place of each tensor in the files. A tensor is read when it is taken, so the unconverted copies never exist
    /// all at once.
    tensors: HashMap<String, Stored>,
    /// What stands before the names of these tensors in the files, such as `module.`; often empty.
    prefix: String,
    /// Names and shapes of the files' other tensors, which have no such prefix, sorted.
    others: Vec<(String, Vec<i64>)>,
    format: CheckpointFormat,
    device: Device,
    kind: Kind,
    /// The digest, computed on a thread of its own while the tensors are read. In sequence it would take a quarter of a
    /// model's start.
    sha256: Arc<OnceLock<String>>,
}

impl Weights {
    /// Opens the checkpoint at `path`: a file, the index of several files, or a folder that contains one of these. The
    /// tensors will be handed out in the element type `kind` on `device`.
    ///
    /// # Errors
    /// Fails when a file cannot be read, has no supported form, or is damaged.
    pub fn load(path: &Path, device: Device, kind: Kind) -> Result<Self, CheckpointError> {
        let files = files::map_files(&weights_file(path)?)?;
        Self::from_files(files, device, kind)
    }

    /// Opens a checkpoint from its bytes in memory, as [`Weights::load`] does from a file.
    ///
    /// # Errors
    /// Fails when the bytes have no supported form or are damaged.
    pub fn from_bytes(bytes: impl Into<Bytes>, device: Device, kind: Kind) -> Result<Self, CheckpointError> {
        Self::from_files(vec![bytes.into()], device, kind)
    }

    fn from_files(files: Vec<Bytes>, device: Device, kind: Kind) -> Result<Self, CheckpointError> {
        let mut tensors = HashMap::new();
        let mut format = CheckpointFormat::OpenClip;
        for (number, file) in files.iter().enumerate() {
            let (tensors_of_file, format_of_file) = container::read(file)?;
            format = format_of_file;
            for (name, tensor) in tensors_of_file {
                if tensors.insert(name.clone(), tensor.in_file(number)).is_some() {
                    return Err(CheckpointError::Damaged(format!("{name} is in several of its files")));
                }
            }
        }
        let names::Unwrapped {
            tensors,
            prefix,
            copies_left_out,
            others,
        } = names::unwrap(weights_among(tensors)?)?;
        if !copies_left_out.is_empty() {
            tracing::info!(taken = prefix, left_out = ?copies_left_out, "the checkpoint has several copies of its model");
        }
        let (tensors, format) = if hugging_face::is_form_of(&tensors) {
            (hugging_face::translate(tensors)?, CheckpointFormat::HuggingFace)
        } else {
            (tensors, format)
        };
        Ok(Self {
            sha256: digest_aside(&files),
            files,
            tensors,
            prefix,
            others,
            format,
            device,
            kind,
        })
    }

    /// Returns these weights, to be handed out as `kind`.
    pub fn in_kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    /// Returns the format of the checkpoint.
    pub fn format(&self) -> CheckpointFormat {
        self.format
    }

    /// Returns the shape of a tensor that has not been taken yet, or `None` when there is no tensor of that name.
    pub fn shape(&self, name: &str) -> Option<Vec<i64>> {
        self.tensors.get(name).map(|tensor| tensor.shape().to_vec())
    }

    /// Returns the length of one dimension of a tensor that has not been taken yet, for working out a model's sizes.
    /// Returns 1 when there is no such tensor or dimension: taking the tensor then reports the error.
    pub fn size(&self, name: &str, dimension: usize) -> i64 {
        self.shape(name)
            .and_then(|shape| shape.get(dimension).copied())
            .unwrap_or(1)
    }

    /// Hands out the tensor `name`, which must have exactly the shape `shape`, in the element type and on the device of
    /// these weights.
    ///
    /// # Errors
    /// Fails when the checkpoint has no such tensor, has it in another shape, or with values that give no numbers.
    pub fn take(&mut self, name: &str, shape: &[i64]) -> Result<Tensor, CheckpointError> {
        self.take_as(name, shape, self.kind)
    }

    /// Does the same as [`Weights::take`] in an element type that the caller chooses. Use it for tensors that are
    /// computed with once while loading and rounded afterwards, such as a batch normalisation that is folded into its
    /// convolution.
    ///
    /// # Errors
    /// Fails as [`Weights::take`] does.
    pub fn take_as(&mut self, name: &str, shape: &[i64], kind: Kind) -> Result<Tensor, CheckpointError> {
        let Some(tensor) = self.tensors.remove(name) else {
            let (name, expected) = self.in_file(name, shape);
            return Err(CheckpointError::MissingTensor { name, expected });
        };
        if tensor.shape() != shape {
            let (_, found) = self.in_file(name, tensor.shape());
            let (name, expected) = self.in_file(name, shape);
            return Err(CheckpointError::WrongShape { name, expected, found });
        }
        let taken = tensor.read(&self.files).to_device(self.device).to_kind(kind);
        // An infinity or NaN anywhere makes the sum one. In float16 a value may have become infinite just now.
        if !taken.sum(Kind::Float).double_value(&[]).is_finite() {
            let (name, _) = self.in_file(name, shape);
            return Err(CheckpointError::NotFinite { name, kind });
        }
        if PROJECTIONS.contains(&name) && !bool::try_from(taken.any()).unwrap_or(true) {
            let (name, _) = self.in_file(name, shape);
            return Err(CheckpointError::AllZero { name });
        }
        Ok(taken)
    }

    /// Returns a tensor's name and shape as the file has them.
    fn in_file(&self, name: &str, shape: &[i64]) -> (String, Vec<i64>) {
        let (name, shape) = match self.format {
            CheckpointFormat::HuggingFace => hugging_face::in_file(name, shape),
            CheckpointFormat::OpenAi | CheckpointFormat::OpenClip => (name.to_owned(), shape.to_vec()),
        };
        (format!("{}{name}", self.prefix), shape)
    }

    /// Returns names and shapes of the tensors that have not been taken yet, as the file has them, sorted.
    pub(super) fn left(&self) -> Vec<(String, Vec<i64>)> {
        let mut left: Vec<_> = self
            .tensors
            .iter()
            .map(|(name, tensor)| self.in_file(name, tensor.shape()))
            .chain(self.others.iter().cloned())
            .collect();
        left.sort_unstable();
        left
    }

    /// Returns the element type of the tensors that are handed out.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the device of the tensors that are handed out.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Returns the SHA-256 of the checkpoint's bytes in lower-case hexadecimal. Several files count as one, in their
    /// order. Waits until the digest is computed.
    pub fn sha256(&self) -> &str {
        self.sha256.wait()
    }

    /// Checks that every tensor has been taken.
    ///
    /// # Errors
    /// Fails when tensors are left: the checkpoint then has an architecture that is not implemented here.
    pub fn finish(self) -> Result<(), CheckpointError> {
        if self.tensors.is_empty() && self.others.is_empty() {
            return Ok(());
        }
        Err(CheckpointError::LeftOver { tensors: self.left() })
    }
}

/// Entries that are not weights, by the last part of their names. They serve training, or their content is known
/// elsewhere.
const NO_WEIGHTS: [&str; 7] = [
    "num_batches_tracked", // of a batch normalisation
    "n_averaged",          // of PyTorch's AveragedModel
    "attn_mask",           // the causal mask of the text tower
    "position_ids",        // 0, 1, 2, ..., in older files from Hugging Face
    "input_resolution",    // this and the next two: in OpenAI's archives, known from shapes
    "context_length",
    "vocab_size",
];

/// Leaves out entries that are not weights. All others must have a floating-point type.
fn weights_among(tensors: HashMap<String, Stored>) -> Result<HashMap<String, Stored>, CheckpointError> {
    let is_weight = |name: &str| {
        let last = name.rsplit_once('.').map_or(name, |(_, last)| last);
        !NO_WEIGHTS.contains(&last)
    };
    let floating = |kind| matches!(kind, Kind::Float | Kind::Half | Kind::BFloat16 | Kind::Double);
    let tensors: HashMap<_, _> = tensors.into_iter().filter(|(name, _)| is_weight(name)).collect();
    match tensors.iter().find(|(_, tensor)| !floating(tensor.kind())) {
        Some((name, tensor)) => Err(CheckpointError::Damaged(format!(
            "{name} holds {:?}, which no CLIP does",
            tensor.kind()
        ))),
        None => Ok(tensors),
    }
}

/// Starts a thread that computes the digest of the files. The result is set when the thread is done.
fn digest_aside(files: &[Bytes]) -> Arc<OnceLock<String>> {
    let digest = Arc::new(OnceLock::new());
    let (to_set, files) = (Arc::clone(&digest), files.to_vec());
    std::thread::spawn(move || to_set.get_or_init(|| sha256_hexadecimal(&files)).len());
    digest
}

fn sha256_hexadecimal(files: &[impl AsRef<[u8]>]) -> String {
    let digest = files.iter().fold(Sha256::new(), Sha256::chain_update);
    hex::encode(digest.finalize())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    use ::safetensors::tensor::{Dtype, TensorView, serialize};

    /// A file with `a` = [[1, 2, 3], [4, 5, 6]] and the counter of a batch normalisation.
    fn small_file() -> Vec<u8> {
        file_of([1., 2., 3., 4., 5., 6.])
    }

    /// A file with `a`, `[2, 3]`, and the counter of a batch normalisation.
    fn file_of(values: [f32; 6]) -> Vec<u8> {
        file_called("a", values)
    }

    fn file_called(name: &str, values: [f32; 6]) -> Vec<u8> {
        let values: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let count = 7i64.to_le_bytes();
        let tensors = [
            (name, TensorView::new(Dtype::F32, vec![2, 3], &values).unwrap()),
            (
                "bn1.num_batches_tracked",
                TensorView::new(Dtype::I64, vec![], &count).unwrap(),
            ),
        ];
        serialize(tensors, None).unwrap()
    }

    fn small_weights(kind: Kind) -> Weights {
        Weights::from_bytes(small_file(), Device::Cpu, kind).unwrap()
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
    fn a_value_that_is_not_finite_is_refused_with_its_tensors_name() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let file = file_of([1., 2., 3., 4., 5., value]);
            let mut weights = Weights::from_bytes(file, Device::Cpu, Kind::Float).unwrap();
            assert_eq!(
                weights.take("a", &[2, 3]).unwrap_err().to_string(),
                "the checkpoint's tensor a has infinities or NaN among its values as Float"
            );
        }
        // Too large for float16, whose largest value is 65504.
        let mut weights = Weights::from_bytes(file_of([7e4; 6]), Device::Cpu, Kind::Half).unwrap();
        let error = weights.take("a", &[2, 3]).unwrap_err().to_string();
        assert!(error.ends_with("as Half"), "{error}");
    }

    #[test]
    fn a_projection_of_zeros_is_refused_by_name() {
        let take = |name, values| {
            let weights = Weights::from_bytes(file_called(name, values), Device::Cpu, Kind::Float);
            weights.unwrap().take(name, &[2, 3])
        };
        assert!(take("visual.proj", [0., 0., 0., 0., 0., -1.]).is_ok());
        assert!(take("a", [0.; 6]).is_ok());
        assert_eq!(
            take("visual.proj", [0.; 6]).unwrap_err().to_string(),
            "the checkpoint's tensor visual.proj is all zero, so every embedding would be, too"
        );
    }

    #[test]
    fn tensors_left_over_are_named() {
        let error = small_weights(Kind::Float).finish().unwrap_err();
        assert_eq!(
            error.to_string(),
            "the checkpoint is of another architecture: nothing uses its 1 tensors a [2, 3]"
        );
    }

    #[test]
    fn bytes_of_no_form_are_refused() {
        let refused = |bytes: &'static [u8]| {
            Weights::from_bytes(bytes, Device::Cpu, Kind::Float)
                .unwrap_err()
                .to_string()
        };
        assert!(refused(b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j").contains("is a bare Python pickle;"));
        assert!(refused(b"{\"weight_map\": {}}").contains("is JSON where tensors should be;"));
        assert!(refused(b"").contains("is of no known form;"));
        assert!(refused(b"<!DOCTYPE html>").contains("is of no known form;"));
    }

    #[test]
    fn a_file_gives_what_its_bytes_give() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("no-extension-needed");
        std::fs::write(&path, small_file()).unwrap();
        let mut weights = Weights::load(&path, Device::Cpu, Kind::Float).unwrap();
        // The test below checks the digest itself against the standard.
        assert_eq!(weights.sha256(), sha256_hexadecimal(&[small_file()]));
        assert_eq!(weights.take("a", &[2, 3]).unwrap().double_value(&[1, 2]), 6.);

        let refused = |path: &Path| Weights::load(path, Device::Cpu, Kind::Float).unwrap_err().to_string();
        let missing = refused(&path.with_file_name("elsewhere"));
        assert!(missing.contains("elsewhere cannot be read: No such file"), "{missing}");
        let empty = refused(folder.path());
        assert!(empty.contains("has no weights: none of model.safetensors, "), "{empty}");
    }

    #[test]
    fn the_digest_is_sha_256_in_lower_case() {
        // The example is from FIPS 180-2, appendix B.1.
        assert_eq!(
            sha256_hexadecimal(&["a", "bc"]),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
