//! Models with names and their download: models embedded in the program, and models that others publish.
//!
//! Owns the table of published models and the download of their files into the folder of models. Leaves the meaning of
//! a checkpoint to [`clip`](crate::clip).

mod catalogue;
mod embedded;
mod fetch;
mod settings;

pub use catalogue::{
    Architecture, DownloadSource, HUB_FILES, PUBLISHED, PublishedModel, TrainingNormalisation, VisualSizes,
};
pub use embedded::{DEMO, EmbeddedModel};
pub use fetch::{DownloadProgress, Fetch, FetchError, Fetched, HttpError, Supply, Vouched};
pub use settings::FetchSettings;
