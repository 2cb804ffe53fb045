//! Whether a model answers requests, and why not.

use std::sync::Arc;
use std::time::Duration;

use crate::labeller::LabellerError;

/// Whether a model answers requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
pub enum ModelState {
    /// No worker has been ready yet.
    Starting,
    /// At least one worker has a warm model.
    Ready,
    /// All workers panicked and are loading the model again.
    Recovering,
    /// The latest attempt to load the model failed. If the model has been ready before, it is tried again.
    Failed,
}

impl ModelState {
    /// Returns the name in replies.
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// A served model with its state.
#[derive(Debug, Clone)]
pub struct ModelStatus {
    /// The model's name in requests.
    pub name: String,
    /// Whether it answers requests.
    pub state: ModelState,
    /// Why it could not be loaded; only in the state [`ModelState::Failed`].
    pub error: Option<Arc<LabellerError>>,
    /// How long until the next attempt to load it; only in the state [`ModelState::Failed`], and `None` if there is
    /// none.
    pub next_attempt: Option<Duration>,
}
