//! One request on its way through the stages: what it holds, where it is, how long each stage took.
//!
//! Owns admission, the deadline and the ways work is waited for. Which stages a request passes is for [`extraction`](super::extraction) and [`segment`](super::segment) to say.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use strum::VariantArray;

use super::host::ModelHost;
use super::request::{FeatureFields, SegmentError, Surroundings, Timings};
use super::slots::Slot;
use super::worker::{Job, Ticket};
use super::{Engine, Readiness, Stage};
use crate::labeller::ModelInfo;
use crate::support::{catch_panic, run_blocking};

impl Engine {
    /// What a model is, if a request to it can be answered now, whatever becomes of the others.
    pub(super) fn ready_model(&self, host: &ModelHost) -> Result<Arc<ModelInfo>, SegmentError> {
        if self.draining.load(Ordering::Relaxed) {
            return Err(SegmentError::Unavailable("the server is going down"));
        }
        match (host.readiness(), host.info()) {
            (Readiness::Ready, Some(model)) => Ok(model),
            (Readiness::Recovering, _) => Err(SegmentError::Unavailable(
                "the model is being loaded anew after a failure",
            )),
            (Readiness::Starting | Readiness::Ready | Readiness::Draining, _) => {
                Err(SegmentError::Unavailable("the model is being loaded"))
            }
        }
    }

    /// When the answer to a request that comes now stops being of use.
    pub(super) fn deadline(&self, fields: &FeatureFields) -> Result<Instant, SegmentError> {
        let seconds = fields.deadline_seconds(&self.settings)?;
        Ok(Instant::now() + Duration::from_secs_f64(seconds))
    }

    /// What the fields of a request to a model are resolved against.
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

/// The stage a request is in, readable from outside when the deadline cuts it off.
#[derive(Default)]
pub(super) struct CurrentStage(AtomicU8);

impl CurrentStage {
    /// The result of a request that reports here, if the result comes before the deadline.
    pub(super) async fn until<T>(
        &self,
        deadline: Instant,
        run: impl Future<Output = Result<T, SegmentError>>,
    ) -> Result<T, SegmentError> {
        let start = Instant::now();
        match tokio::time::timeout_at(deadline.into(), run).await {
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

/// One request on its way.
pub(super) struct AdmittedRequest<'engine> {
    pub(super) engine: &'engine Engine,
    pub(super) host: &'engine ModelHost,
    pub(super) model: Arc<ModelInfo>,
    pub(super) slot: Arc<Slot>,
    pub(super) timings: Timings,
    stage: &'engine CurrentStage,
}

impl<'engine> AdmittedRequest<'engine> {
    /// Admits a request to a model. Never waits.
    ///
    /// # Errors
    /// When the model is not ready, or there is no slot.
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
        })
    }

    /// What the fields of the request are resolved against.
    pub(super) fn surroundings(&self) -> Surroundings<'engine> {
        self.engine.surroundings(self.host)
    }

    pub(super) fn enter(&self, stage: Stage) {
        self.stage.enter(stage);
    }

    pub(super) fn record(&mut self, stage: Stage, elapsed: Duration) {
        self.engine.metrics.stage(&self.host.name, stage, elapsed);
        self.timings.set(stage, elapsed);
    }

    /// Runs a stage on the blocking pool.
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

    /// Runs work on the blocking pool. The slot goes along, so that work whose request was given up still counts until it ends.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, SegmentError> {
        let slot = Arc::clone(&self.slot);
        let done = run_blocking(move || {
            let result = catch_panic(work);
            drop(slot);
            result
        });
        done.await
            .map_err(|panic| SegmentError::Internal(format!("{name} panicked: {panic}")))
    }

    /// Has a worker do a job: the stages queue and model.
    pub(super) async fn on_worker<T>(&mut self, job: impl FnOnce(Ticket<T>) -> Job) -> Result<T, SegmentError> {
        self.enter(Stage::Queue);
        let (ticket, waiting) = Ticket::new(Arc::clone(&self.slot));
        if self.host.queue.push(job(ticket)).is_err() {
            return Err(SegmentError::Unavailable("the server is going down"));
        }
        let stopped = |_| SegmentError::Internal("the worker stopped before it answered".to_owned());
        let waited = waiting.started.await.map_err(stopped)?;
        self.record(Stage::Queue, waited);
        self.enter(Stage::Model);
        let start = Instant::now();
        let answer = waiting.answer.await.map_err(stopped)?;
        let answer = answer.map_err(|error| SegmentError::Internal(error.to_string()))?;
        self.record(Stage::Model, start.elapsed());
        Ok(answer)
    }
}
