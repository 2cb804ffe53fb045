//! Models known by a name, and their download: the embedded ones, and those that others published.
//!
//! Owns the table of published models and how their files come into the folder of models. Leaves what a checkpoint means to
//! [`clip`](crate::clip).

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
