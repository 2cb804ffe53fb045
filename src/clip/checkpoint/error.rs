//! The reasons why a checkpoint cannot be used. Each message names the part of the file to look at.

use std::io;
use std::path::PathBuf;

use tch::Kind;

/// The reason why a checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The operating system could not read the file.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable {
        /// The path of the file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The folder contains none of the files that hold weights.
    #[error("the folder {} has no weights: none of {}", path.display(), super::WEIGHTS_FILES.join(", "))]
    NoWeights {
        /// The path of the folder.
        path: PathBuf,
    },
    /// The file has none of the forms that weights are read from.
    #[error(
        "the weights file is {0}; weights are read from OpenAI's TorchScript archives, PyTorch archives (torch.save since \
         1.6) and safetensors files"
    )]
    UnsupportedForm(&'static str),
    /// The file has a supported form, but its content is damaged.
    #[error("the weights file is damaged: {0}")]
    Damaged(String),
    /// The pickle asks for more than tensors.
    #[error("the weights file's pickle calls {name}: it is refused, only tensors are read from pickles")]
    ForbiddenCall {
        /// The name of the callable that the pickle would call, with its Python module.
        name: String,
    },
    /// The archive holds no state dict, neither as a whole nor under a usual name.
    #[error(
        "the weights file has no state dict, neither as a whole nor under {}; it has {}",
        keys.join(", "), first_few_names(names)
    )]
    NoStateDict {
        /// The keys under which a state dict is looked for.
        keys: &'static [&'static str],
        /// The first names that it has instead, in their order.
        names: Vec<String>,
    },
    /// The checkpoint has several copies of a model, and nothing says which one to take.
    #[error("the checkpoint has several models, under {}: keep one of them", prefixes.join(" and "))]
    SeveralModels {
        /// What stands before the names of each model's tensors, sorted; at most the first eight.
        prefixes: Vec<String>,
    },
    /// The checkpoint lacks a tensor that the model needs.
    #[error("the checkpoint has no tensor {name} (expected {expected:?})")]
    MissingTensor {
        /// The tensor's name in the file.
        name: String,
        /// The shape that the tensor should have.
        expected: Vec<i64>,
    },
    /// The shape of a tensor does not fit the others.
    #[error("the checkpoint's tensor {name} is {found:?}, expected {expected:?}")]
    WrongShape {
        /// The tensor's name in the file.
        name: String,
        /// The shape that the tensor should have.
        expected: Vec<i64>,
        /// The shape that the tensor has.
        found: Vec<i64>,
    },
    /// A tensor has values that are infinite or NaN, in the file or in the element type of the model.
    #[error("the checkpoint's tensor {name} has infinities or NaN among its values as {kind:?}")]
    NotFinite {
        /// The tensor's name in the file.
        name: String,
        /// The element type that was asked for.
        kind: Kind,
    },
    /// A projection into the embedding space is all zero.
    #[error("the checkpoint's tensor {name} is all zero, so every embedding would be, too")]
    AllZero {
        /// The tensor's name in the file.
        name: String,
    },
    /// The width of an attention cannot be divided into heads.
    #[error("a width of {width} cannot be divided into heads of {head_width}")]
    UnevenHeads {
        /// The number of channels of the attention.
        width: i64,
        /// The number of channels of one head.
        head_width: i64,
    },
    /// The configuration beside the weights cannot be used.
    #[error("{}: {reason}", path.display())]
    Configuration {
        /// The path of the configuration.
        path: PathBuf,
        /// What is wrong with the configuration.
        reason: String,
    },
    /// No file says which activation the model uses.
    #[error(
        "whether {} uses QuickGELU or the exact GELU cannot be read off the weights: put {configuration} beside it",
        weights.display()
    )]
    UnknownActivation {
        /// The path of the weights file.
        weights: PathBuf,
        /// The configuration that should lie beside the weights file.
        configuration: String,
    },
    /// Tensors are left that no part of the model uses.
    #[error("the checkpoint is of another architecture: nothing uses its {} tensors {}", tensors.len(), first_few(tensors))]
    LeftOver {
        /// The names and shapes of all these tensors, sorted.
        tensors: Vec<(String, Vec<i64>)>,
    },
    /// The checkpoint has neither of CLIP's visual towers.
    #[error(
        "the checkpoint is of another architecture: it has none of the tensors CLIP's image towers begin with; it has {} \
         tensors, {}",
        tensors.len(), first_few(tensors)
    )]
    OtherArchitecture {
        /// The names and shapes of all its tensors, sorted.
        tensors: Vec<(String, Vec<i64>)>,
    },
}

fn first_few(tensors: &[(String, Vec<i64>)]) -> String {
    let shown = tensors.iter().map(|(name, shape)| format!("{name} {shape:?}"));
    first_of(shown)
}

fn first_few_names(names: &[String]) -> String {
    match names {
        [] => "nothing".to_owned(),
        _ => first_of(names.iter().cloned()),
    }
}

/// Returns the first parts of a list, with dots where there are more.
fn first_of(parts: impl ExactSizeIterator<Item = String>) -> String {
    const SHOWN: usize = 5;
    let more = (parts.len() > SHOWN).then(|| "...".to_owned());
    parts.take(SHOWN).chain(more).collect::<Vec<_>>().join(", ")
}
