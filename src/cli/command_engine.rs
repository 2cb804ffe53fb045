//! The engine of a command that labels images in its own process.

use std::sync::Arc;

use super::disk::OpenStore;
use crate::engine::{Engine, EngineSettings};
use crate::labeller::{LabellerError, ModelInfo, ServedModel};
use crate::telemetry::MetricsRegistry;

/// Starts an engine with one model and waits until the model is loaded. Returns the engine with the model's description.
///
/// # Errors
/// When the model cannot be loaded.
pub async fn start_engine(
    settings: EngineSettings,
    model: ServedModel,
    store: &OpenStore,
) -> Result<(Arc<Engine>, Arc<ModelInfo>), Arc<LabellerError>> {
    let engine = Engine::start(
        settings.for_commands(),
        vec![model],
        store.get(),
        &MetricsRegistry::new(),
    );
    let model = engine.ready().await?.remove(0);
    Ok((engine, model))
}
