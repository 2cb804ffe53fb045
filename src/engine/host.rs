//! One served model: its queue, its workers, and their state.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use super::EngineSettings;
use super::estimate::ServiceTimes;
use super::job::Job;
use super::metrics::EngineMetrics;
use super::model_state::{ModelState, ModelStatus};
use super::queue::JobQueue;
use super::supervision::{self, LoadFailure, WorkerContext, WorkersState};
use super::worker::JobContext;
use crate::labeller::{LabellerError, ModelInfo, ModelKind, ServedModel};

/// A model with its queue and its workers. Dropping the host ends the workers. A failure here does not touch other
/// models.
pub(super) struct ModelHost {
    pub(super) name: String,
    pub(super) kind: ModelKind,
    /// Returns how many tokens the model reads of a text.
    pub(super) count_tokens: fn(&str) -> usize,
    pub(super) queue: Arc<JobQueue<Job>>,
    /// The times of the model's work.
    pub(super) times: Arc<ServiceTimes>,
    workers: watch::Receiver<WorkersState>,
}

impl ModelHost {
    /// Starts the workers and returns at once.
    pub(super) fn start(model: ServedModel, settings: &EngineSettings, metrics: &EngineMetrics) -> Self {
        let ServedModel {
            name,
            kind,
            factory,
            count_tokens,
        } = model;
        metrics.declare_model(&name);
        let queue = Arc::new(JobQueue::new(metrics.queue_depth(&name)));
        let times = Arc::default();
        let (state, workers) = watch::channel(WorkersState::Loading);
        let context = Arc::new(WorkerContext {
            jobs: JobContext {
                model: name.clone(),
                queue: Arc::clone(&queue),
                times: Arc::clone(&times),
                metrics: metrics.clone(),
                max_batch: settings.queue.max_batch,
            },
            factory,
            state,
        });
        supervision::spawn(&context, settings.queue.workers);
        Self {
            name,
            kind,
            count_tokens,
            queue,
            times,
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

    /// Returns a receiver that notices every change of [`ModelHost::state`]. It does not keep the host alive.
    pub(super) fn changes(&self) -> StateChanges {
        StateChanges(self.workers.clone())
    }

    /// Returns whether a worker can answer. Ignores whether the engine drains.
    pub(super) fn state(&self) -> ModelState {
        state_of(&self.workers.borrow())
    }

    /// Returns the state with what led to it.
    pub(super) fn status(&self) -> ModelStatus {
        let workers = self.workers.borrow();
        let (error, next_attempt) = match &*workers {
            WorkersState::Failed(error) => (Some(Arc::clone(error)), None),
            WorkersState::Loaded {
                live: 0,
                failure: Some(LoadFailure { error, next_attempt }),
                ..
            } => {
                let wait = next_attempt.saturating_duration_since(Instant::now());
                (Some(Arc::clone(error)), Some(wait))
            }
            WorkersState::Loading | WorkersState::Loaded { .. } => (None, None),
        };
        ModelStatus {
            name: self.name.clone(),
            state: state_of(&workers),
            error,
            next_attempt,
        }
    }

    /// Returns the model's description, or `None` before the first load.
    pub(super) fn info(&self) -> Option<Arc<ModelInfo>> {
        match &*self.workers.borrow() {
            WorkersState::Loaded { model, .. } => Some(Arc::clone(model)),
            WorkersState::Loading | WorkersState::Failed(_) => None,
        }
    }

    /// Ends the workers after their present job, and answers the jobs that wait.
    pub(super) fn close(&self) {
        self.queue.close();
        self.queue.refuse().into_iter().for_each(Job::refuse);
    }
}

impl Drop for ModelHost {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// Notices every change of a model's state.
pub(super) struct StateChanges(watch::Receiver<WorkersState>);

impl StateChanges {
    /// Returns whether the model is ready. Changes up to now are noticed herewith.
    pub(super) fn is_ready_now(&mut self) -> bool {
        state_of(&self.0.borrow_and_update()) == ModelState::Ready
    }

    /// Waits for a change that is not noticed yet. Returns false if there will be none, because the engine is gone.
    pub(super) async fn next(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}

fn state_of(workers: &WorkersState) -> ModelState {
    match workers {
        WorkersState::Loading => ModelState::Starting,
        WorkersState::Failed(_) => ModelState::Failed,
        WorkersState::Loaded {
            live: 0, failure: None, ..
        } => ModelState::Recovering,
        WorkersState::Loaded { live: 0, .. } => ModelState::Failed,
        WorkersState::Loaded { .. } => ModelState::Ready,
    }
}
