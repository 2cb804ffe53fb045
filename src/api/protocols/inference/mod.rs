//! `/v2`: the Open Inference Protocol, version 2, as KServe and Triton speak it over HTTP, with the binary tensor
//! extension.

mod infer;
mod metadata;
mod tensors;

use serde::Deserialize;

use crate::api::AppState;
use crate::api::error::ApiError;
use crate::engine::ModelState;

pub(in crate::api) use infer::*;
pub(in crate::api) use metadata::*;

/// The only version of every model.
const MODEL_VERSION: &str = "1";

/// The name of a model in a path, and its version if the path names one.
#[derive(Debug, Deserialize)]
pub(in crate::api) struct ModelPath {
    model: String,
    version: Option<String>,
}

impl ModelPath {
    /// The state of the model.
    ///
    /// # Errors
    /// [`ApiError::ModelNotFound`] when there is no such model, or no such version of it.
    fn state(&self, state: &AppState) -> Result<ModelState, ApiError> {
        let models = state.engine.model_states();
        let found = models.iter().find(|model| model.name == self.model);
        let found = found.filter(|_| self.version.as_deref().is_none_or(|version| version == MODEL_VERSION));
        found.map(|model| model.state).ok_or_else(|| ApiError::ModelNotFound {
            model: self.model.clone(),
            version: self.version.clone(),
            served: models.iter().map(|model| model.name.clone()).collect(),
        })
    }
}
