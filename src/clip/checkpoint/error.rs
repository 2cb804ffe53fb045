//! Why a checkpoint cannot be used, in words that name the file's part to look at.

use std::io;
use std::path::PathBuf;

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
    /// A folder without any of the files that hold weights.
    #[error("the folder {} has no weights: none of {}", path.display(), super::WEIGHTS_FILES.join(", "))]
    NoWeights {
        /// The folder.
        path: PathBuf,
    },
    /// None of the forms weights are read from.
    #[error(
        "the weights file is {0}; weights are read from OpenAI's TorchScript archives, PyTorch archives (torch.save since \
         1.6) and safetensors files"
    )]
    UnsupportedForm(&'static str),
    /// The right form with a defect.
    #[error("the weights file is damaged: {0}")]
    Damaged(String),
    /// A pickle that asks for more than tensors.
    #[error("the weights file's pickle calls {name}: it is refused, only tensors are read from pickles")]
    ForbiddenCall {
        /// What it would call, with its Python module.
        name: String,
    },
    /// A tensor the model needs is not there.
    #[error("the checkpoint has no tensor {name} (expected {expected:?})")]
    MissingTensor {
        /// Its name in the file.
        name: String,
        /// The shape it should have.
        expected: Vec<i64>,
    },
    /// A tensor's shape does not fit the others'.
    #[error("the checkpoint's tensor {name} is {found:?}, expected {expected:?}")]
    WrongShape {
        /// Its name in the file.
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
        "whether {} uses QuickGELU or the exact GELU cannot be read off the weights: put {configuration} beside it",
        weights.display()
    )]
    UnknownActivation {
        /// The weights file.
        weights: PathBuf,
        /// What to put beside it.
        configuration: String,
    },
    /// Tensors that no part of the model uses.
    #[error("the checkpoint is of another architecture: nothing uses its {} tensors {}", tensors.len(), first_few(tensors))]
    LeftOver {
        /// All of their names and shapes, sorted.
        tensors: Vec<(String, Vec<i64>)>,
    },
    /// Neither of CLIP's visual towers.
    #[error(
        "the checkpoint is of another architecture: it has none of the tensors CLIP's image towers begin with; it has {} \
         tensors, {}",
        tensors.len(), first_few(tensors)
    )]
    OtherArchitecture {
        /// All of its tensors' names and shapes, sorted.
        tensors: Vec<(String, Vec<i64>)>,
    },
}

fn first_few(tensors: &[(String, Vec<i64>)]) -> String {
    const SHOWN: usize = 5;
    let shown = tensors
        .iter()
        .take(SHOWN)
        .map(|(name, shape)| format!("{name} {shape:?}"));
    let more = (tensors.len() > SHOWN).then(|| "...".to_owned());
    shown.chain(more).collect::<Vec<_>>().join(", ")
}
