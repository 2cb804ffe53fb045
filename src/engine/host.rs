//! One served model: its queue, its workers, and their state.

use std::sync::Arc;

use tokio::sync::watch;

use super::metrics::EngineMetrics;
use super::queue::JobQueue;
use super::worker::{self, Job, WorkerContext, WorkersState};
use super::{EngineSettings, Readiness};
use crate::labeller::{LabellerError, ModelInfo, ModelKind, ServedModel};

/// A model with its queue and its workers. Dropping the host ends the workers. A failure here does not touch other
/// models.
pub(super) struct ModelHost {
    pub(super) name: String,
    pub(super) kind: ModelKind,
    pub(super) queue: Arc<JobQueue<Job>>,
    workers: watch::Receiver<WorkersState>,
}

impl ModelHost {
    /// Starts the workers and returns at once.
    pub(super) fn start(model: ServedModel, settings: &EngineSettings, metrics: &EngineMetrics) -> Self {
        let ServedModel { name, kind, factory } = model;
        metrics.declare_model(&name);
        let queue = Arc::new(JobQueue::new(metrics.queue_depth(&name)));
        let (state, workers) = watch::channel(WorkersState::Loading);
        let context = Arc::new(WorkerContext {
            model: name.clone(),
            queue: Arc::clone(&queue),
            factory,
            state,
            metrics: metrics.clone(),
            max_batch: settings.queue.max_batch,
        });
        worker::spawn(&context, settings.queue.workers);
        Self {
            name,
            kind,
            queue,
            workers,
        }
    }

    /// Waits until the first worker is ready. Returns the model's description.
    ///
    /// # Errors
    /// The error of the first load, when it failed.
    pub(super) async fn ready(&self) -> Result<Arc<ModelInfo>, Arc<LabellerError>> {
        let mut workers = self.workers.clone();
        let state = workers
            .wait_for(|state| !matches!(state, WorkersState::Loading))
            .await
            .expect("workers publish their state for as long as the engine lives");
        match &*state {
            WorkersState::Loaded { model, .. } => Ok(Arc::clone(model)),
            WorkersState::Failed(error) => Err(Arc::clone(error)),
            WorkersState::Loading => unreachable!("just waited for another state"),
        }
    }

    /// Returns whether a worker can answer. Ignores whether the engine drains.
    pub(super) fn readiness(&self) -> Readiness {
        match &*self.workers.borrow() {
            WorkersState::Loading | WorkersState::Failed(_) => Readiness::Starting,
            WorkersState::Loaded { live: 0, .. } => Readiness::Recovering,
            WorkersState::Loaded { .. } => Readiness::Ready,
        }
    }

    /// Returns the model's description, or `None` before the first load.
    pub(super) fn info(&self) -> Option<Arc<ModelInfo>> {
        match &*self.workers.borrow() {
            WorkersState::Loaded { model, .. } => Some(Arc::clone(model)),
            WorkersState::Loading | WorkersState::Failed(_) => None,
        }
    }
}

impl Drop for ModelHost {
    fn drop(&mut self) {
        self.queue.close();
    }
}
