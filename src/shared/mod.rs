//! What all replicas of a server have in common, in Redis: named vocabularies, text embeddings and held images.
//!
//! This room owns the connection, the keys, how long each lives, and what happens while Redis is out of reach: every
//! operation then fails at once, and the caller goes on with what it has. It knows bytes under names, with their owners,
//! versions and digests. What they mean, and what a replica keeps for itself, is for others to say.

mod definitions;
mod error;
mod images;
mod link;
mod metrics;
mod settings;
mod texts;

pub use definitions::{Catalogue, Entry, Mark, PutOutcome, Value, remembered};
pub use error::{SharedError, StartError};
pub use images::{ImageState, SharedImage};
pub use link::SharedState;
pub use settings::SharedSettings;
#[cfg(test)]
pub(crate) use texts::fake::FakeTexts;
pub use texts::{Claimed, SharedFuture, SharedTexts, TextKey, Token};
