//! Finds the files of a model. The only place that decides what a name or a path means.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

use super::student::StudentFiles;
use crate::clip::{CheckpointError, checkpoint};
use crate::weights::{EmbeddedModel, PublishedModel};

/// Why a model cannot be used as the settings ask.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The name is neither a known name nor a path.
    #[error(
        "{0:?} is no file, no folder, and no model known by name (demo, demo-vit, or one that `maskclip fetch --list` lists)"
    )]
    NotFound(String),
    /// A published model has not been downloaded.
    #[error(
        "the model {name} is not in {folder} (model.folder): `maskclip fetch {name}` gets it ({licence})",
        folder = folder.display()
    )]
    NotFetched {
        /// The published model's name.
        name: &'static str,
        /// The folder that it would be in.
        folder: PathBuf,
        /// The licence of its publisher.
        licence: &'static str,
    },
    /// The folder holds no weights.
    #[error(transparent)]
    NoWeights(#[from] CheckpointError),
    /// The settings ask for a CUDA device that does not exist.
    #[error(
        "the device is cuda:{index}, but libtorch sees {count} CUDA devices here: use --device cpu, or a build with \
         LIBTORCH_FLAVOUR=cuda on a machine with a GPU"
    )]
    NoCuda {
        /// Index of the CUDA device.
        index: usize,
        /// Number of CUDA devices that exist.
        count: usize,
    },
    /// The device does not support the precision.
    #[error("the precision is float16, which is for CUDA: on a CPU use float32 or bfloat16")]
    Float16OnCpu,
}

/// What a name or a path in the settings stands for.
#[derive(Debug, Clone)]
pub(super) enum ModelSource {
    Clip(ClipSource),
    Student(StudentFiles),
}

/// Where the weights of a CLIP are.
#[derive(Debug, Clone)]
pub(super) enum ClipSource {
    Embedded(&'static EmbeddedModel),
    /// The path of a checkpoint's file or folder.
    Path(PathBuf),
}

impl ModelSource {
    /// Finds a model: first an embedded one by name, then a published one by name in `folder`, then a student or a
    /// checkpoint by path. Names come before paths, so a folder called "demo" does not hide the embedded model.
    ///
    /// # Errors
    /// [`ModelError`] when the model does not exist.
    pub(super) fn find(name: &str, folder: &Path) -> Result<Self, ModelError> {
        if let Some(model) = EmbeddedModel::named(name) {
            return Ok(Self::Clip(ClipSource::Embedded(model)));
        }
        if let Some(model) = PublishedModel::named(name) {
            return match model.find_in(folder) {
                Some(path) => Ok(Self::Clip(ClipSource::Path(path))),
                None => Err(ModelError::NotFetched {
                    name: model.name,
                    folder: folder.to_owned(),
                    licence: model.licence,
                }),
            };
        }
        let path = Path::new(name);
        if let Some(files) = StudentFiles::find(path) {
            return Ok(Self::Student(files));
        }
        if !path.exists() {
            return Err(ModelError::NotFound(name.to_owned()));
        }
        checkpoint::weights_file(path)?;
        Ok(Self::Clip(ClipSource::Path(path.to_owned())))
    }
}

impl ClipSource {
    /// Returns the bytes of the files with the weights.
    pub(super) fn file_bytes(&self) -> Result<u64, CheckpointError> {
        match self {
            Self::Embedded(model) => Ok(model.weights.len() as u64),
            Self::Path(path) => checkpoint::file_bytes(path),
        }
    }

    /// Returns the model's name in requests. A file gives its name without the ending. A file with a generic name such
    /// as `model.safetensors` and a folder give the folder's name, which for the cache of Hugging Face's hub is that of
    /// the repository.
    pub(super) fn model_name(&self) -> String {
        let path = match self {
            Self::Embedded(model) => return model.name.to_owned(),
            // Absolute, because "." and "folder/.." have no name of their own.
            Self::Path(path) => std::path::absolute(path).unwrap_or_else(|_| path.clone()),
        };
        let is_generic = |name: &OsStr| checkpoint::WEIGHTS_FILES.iter().any(|generic| name == *generic);
        let folder = match path.file_name() {
            Some(file) if is_generic(file) => path.parent(),
            _ => Some(path.as_path()).filter(|path| path.is_dir()),
        };
        if let Some(name) = folder.and_then(checkpoint::hub_model_name) {
            return name.to_owned();
        }
        let name = folder.and_then(Path::file_name).or_else(|| path.file_stem());
        name.unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
    }
}

impl fmt::Display for ClipSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded(model) => write!(formatter, "the embedded model {:?}", model.name),
            Self::Path(path) => write!(formatter, "{}", path.display()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn clip(name: &str) -> Result<ClipSource, ModelError> {
        match ModelSource::find(name, Path::new(""))? {
            ModelSource::Clip(source) => Ok(source),
            ModelSource::Student(files) => panic!("{files:?} is a student"),
        }
    }

    #[test]
    fn a_model_is_named_after_its_file_or_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("ViT-B-16.v2");
        std::fs::create_dir(&folder).unwrap();
        let find = |path: &Path| clip(path.to_str().unwrap());
        assert!(matches!(find(&folder), Err(ModelError::NoWeights(_))));
        assert!(matches!(find(&folder.join("RN50.pt")), Err(ModelError::NotFound(_))));

        for name in ["model.safetensors", "RN50.pt"] {
            std::fs::write(folder.join(name), "").unwrap();
        }
        let named = |path: &Path| find(path).unwrap().model_name();
        assert_eq!(named(&folder.join("RN50.pt")), "RN50");
        assert_eq!(named(&folder.join("model.safetensors")), "ViT-B-16.v2");
        assert_eq!(named(&folder), "ViT-B-16.v2");
        for name in ["demo", "demo-vit"] {
            assert_eq!(clip(name).unwrap().model_name(), name);
        }
    }
}
