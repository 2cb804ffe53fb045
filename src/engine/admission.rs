//! An admitted request on its way through the stages: the slot it holds, the stage it is in, the seconds each stage
//! took.
//!
//! This file owns admission, the deadline and the ways to wait for work. [`extraction`](super::extraction) and
//! [`segment`](super::segment) decide which stages a request passes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use strum::VariantArray;

use super::host::ModelHost;
use super::model_state::{ModelState, ModelStatus};
use super::request::{FeatureFields, SegmentError, Surroundings, Timings};
use super::slots::Slot;
use super::worker::{Job, JobError, Ticket};
use super::{Engine, Stage};
use crate::labeller::ModelInfo;
use crate::support::{catch_panic, run_blocking};
use crate::telemetry::first_line;

impl Engine {
    /// Returns the model's description if the model can answer a request now, or is being loaded again after a panic:
    /// that takes a moment, and a request that waits for it notices nothing of the panic. Those that wait take at most
    /// half of the slots, so that other models have the rest.
    ///
    /// # Errors
    /// [`SegmentError::Unavailable`] while the engine drains, [`SegmentError::ModelUnavailable`] while no worker has the
    /// model.
    pub(super) fn ready_model(&self, host: &ModelHost) -> Result<Arc<ModelInfo>, SegmentError> {
        let answers = match host.state() {
            ModelState::Ready => true,
            ModelState::Recovering => host.queue.len() < self.slots.capacity().div_ceil(2),
            ModelState::Starting | ModelState::Failed => false,
        };
        match host.info() {
            Some(model) if answers && !self.draining.load(Ordering::Relaxed) => Ok(model),
            _ => Err(self.unavailable(host)),
        }
    }

    /// Returns why a model does not answer.
    pub(super) fn unavailable(&self, host: &ModelHost) -> SegmentError {
        if self.draining.load(Ordering::Relaxed) {
            return SegmentError::Unavailable("the server is going down");
        }
        let ModelStatus {
            name,
            state,
            next_attempt,
            ..
        } = host.status();
        SegmentError::ModelUnavailable {
            model: name,
            state,
            next_attempt: next_attempt.unwrap_or_default(),
        }
    }

    /// Returns the instant at which the deadline of a request that arrives now passes.
    ///
    /// # Errors
    /// [`SegmentError::Field`] when `deadline_seconds` is out of its range.
    pub(super) fn deadline(&self, fields: &FeatureFields) -> Result<Instant, SegmentError> {
        let seconds = fields.deadline_seconds(&self.settings)?;
        Ok(Instant::now() + Duration::from_secs_f64(seconds))
    }

    /// Returns the settings and the model against which the fields of a request are resolved.
    pub(super) fn surroundings<'a>(&'a self, host: &'a ModelHost) -> Surroundings<'a> {
        Surroundings {
            settings: &self.settings,
            model: (&host.name, host.kind),
        }
    }

    pub(super) fn take_slot(&self) -> Result<Arc<Slot>, SegmentError> {
        self.slots.take().ok_or(SegmentError::Overloaded {
            capacity: self.slots.capacity(),
        })
    }
}

/// Returns the error of a request whose model failed: one line with the model's name. What libtorch says below its first
/// line, its call stack, is for the level debug.
pub(super) fn model_failed(model: &str, error: &str) -> SegmentError {
    tracing::debug!(model, error, "the whole error of the model");
    SegmentError::Internal(format!("the model {model}: {}", first_line(error)))
}

/// The stage that a request is in. The engine reads it when the deadline cuts the request off.
#[derive(Default)]
pub(super) struct CurrentStage(AtomicU8);

impl CurrentStage {
    /// Runs a request that reports its stage here. Returns its result, or [`SegmentError::DeadlineExceeded`] with the
    /// current stage if the deadline passes first.
    pub(super) async fn until<T>(
        &self,
        deadline: Instant,
        run: impl Future<Output = Result<T, SegmentError>>,
    ) -> Result<T, SegmentError> {
        let start = Instant::now();
        let mut unfinished = Unfinished(Some(self));
        let ended = tokio::time::timeout_at(deadline.into(), run).await;
        unfinished.0 = None;
        match ended {
            Ok(result) => result,
            Err(_) => Err(SegmentError::DeadlineExceeded {
                seconds: start.elapsed().as_secs_f64(),
                stage: self.stage().name(),
            }),
        }
    }

    fn enter(&self, stage: Stage) {
        self.0.store(stage as u8, Ordering::Relaxed);
    }

    fn stage(&self) -> Stage {
        Stage::VARIANTS[usize::from(self.0.load(Ordering::Relaxed))]
    }
}

/// Says in the caller's span, where that has a field `stage`, in which stage a request was that is given up.
struct Unfinished<'stage>(Option<&'stage CurrentStage>);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(current) = self.0 {
            tracing::Span::current().record("stage", current.stage().name());
        }
    }
}

/// A request that the engine has admitted, with all it needs on its way through the stages.
pub(super) struct AdmittedRequest<'engine> {
    pub(super) engine: &'engine Engine,
    pub(super) host: &'engine ModelHost,
    pub(super) model: Arc<ModelInfo>,
    pub(super) slot: Arc<Slot>,
    pub(super) timings: Timings,
    stage: &'engine CurrentStage,
    wanted: Wanted,
}

/// Says while it lives that somebody waits for the result of a request.
struct Wanted(Arc<AtomicBool>);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

impl<'engine> AdmittedRequest<'engine> {
    /// Admits a request to a model. Never waits.
    ///
    /// # Errors
    /// [`SegmentError::Unavailable`] when the model is not ready, [`SegmentError::Overloaded`] when no slot is free.
    pub(super) fn admit(
        engine: &'engine Engine,
        host: &'engine ModelHost,
        stage: &'engine CurrentStage,
    ) -> Result<Self, SegmentError> {
        Ok(Self {
            engine,
            host,
            model: engine.ready_model(host)?,
            slot: engine.take_slot()?,
            timings: Timings::default(),
            stage,
            wanted: Wanted(Arc::new(AtomicBool::new(true))),
        })
    }

    /// Returns the settings and the model against which the fields of the request are resolved.
    pub(super) fn surroundings(&self) -> Surroundings<'engine> {
        self.engine.surroundings(self.host)
    }

    /// Returns a check for long work: whether the request was given up, so that nobody waits for the work's result.
    pub(super) fn is_abandoned(&self) -> impl Fn() -> bool + Send + use<> {
        let wanted = Arc::clone(&self.wanted.0);
        move || !wanted.load(Ordering::Relaxed)
    }

    pub(super) fn enter(&self, stage: Stage) {
        self.stage.enter(stage);
    }

    pub(super) fn record(&mut self, stage: Stage, elapsed: Duration) {
        self.engine.metrics.stage(&self.host.name, stage, elapsed);
        self.timings.set(stage, elapsed);
    }

    /// Runs the work of a stage on the blocking pool and records its time.
    pub(super) async fn stage<T: Send + 'static>(
        &mut self,
        stage: Stage,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, SegmentError> {
        self.enter(stage);
        let start = Instant::now();
        let result = self.blocking(stage.name(), work).await?;
        self.record(stage, start.elapsed());
        Ok(result)
    }

    /// Runs work on the blocking pool. Running work holds the slot until it ends, so a request that was given up still
    /// counts until then. Work that has not begun by then never does.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, SegmentError> {
        let slot = Arc::downgrade(&self.slot);
        let done = run_blocking(move || {
            let Some(slot) = slot.upgrade() else {
                return Err("the request was given up".to_owned());
            };
            let result = catch_panic(work);
            drop(slot);
            result
        });
        done.await
            .map_err(|panic| SegmentError::Internal(format!("{name} panicked: {panic}")))
    }

    /// Pushes a job to the model's workers and waits for its answer. Records the stages queue and model.
    pub(super) async fn on_worker<T>(&mut self, job: impl FnOnce(Ticket<T>) -> Job) -> Result<T, SegmentError> {
        self.enter(Stage::Queue);
        let (ticket, waiting) = Ticket::new(Arc::clone(&self.slot));
        if self.host.queue.push(job(ticket)).is_err() {
            return Err(self.engine.unavailable(self.host));
        }
        // A job that is refused has no start.
        if let Ok(waited) = waiting.started.await {
            self.record(Stage::Queue, waited);
            self.enter(Stage::Model);
        }
        let start = Instant::now();
        let name = &self.host.name;
        let answer = match waiting.answer.await {
            Ok(Ok(answer)) => answer,
            Ok(Err(JobError::Refused)) => return Err(self.engine.unavailable(self.host)),
            Ok(Err(JobError::Failed(error))) => {
                return Err(SegmentError::Internal(format!("the model {name}: {error}")));
            }
            // The worker dropped the job.
            Err(_) => return Err(SegmentError::Internal(format!("the model {name} panicked"))),
        };
        self.record(Stage::Model, start.elapsed());
        Ok(answer)
    }
}
