//! An admitted request on its way through the stages: the slot and the bytes it holds, the stage it is in, the seconds
//! each stage took.
//!
//! This file owns the deadline and the ways to wait for work. [`extraction`](super::extraction) and
//! [`segment`](super::segment) decide which stages a request passes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use strum::VariantArray;
use tokio::sync::OwnedSemaphorePermit;

use super::admission::{Arrival, whole_seconds};
use super::budget::HeldBytes;
use super::cost::CostError;
use super::estimate::{ImageTurn, Workload};
use super::footprint::Footprint;
use super::host::ModelHost;
use super::job::{Job, JobError, Ticket};
use super::queue::{Queued, Turn};
use super::request::{EngineError, Surroundings, Timings};
use super::slots::Slot;
use super::{Caller, Engine, Stage};
use crate::labeller::ModelInfo;
use crate::support::{catch_panic, run_blocking};
use crate::telemetry::{first_line, note, note_stage};
use crate::vocabulary::TemplateSet;

/// Bytes of a reply that does not wait until they can be reserved.
const SMALL_REPLY_BYTES: u64 = 64 * 1024;

/// The stage that a request is in. The engine reads it when the deadline cuts the request off.
#[derive(Default)]
pub(super) struct CurrentStage(AtomicU8);

impl CurrentStage {
    /// Runs a request that reports its stage here. Returns its result, or [`EngineError::DeadlineExceeded`] with the
    /// current stage if the deadline passes first.
    pub(super) async fn until<T>(
        &self,
        arrived: Instant,
        deadline: Instant,
        run: impl Future<Output = Result<T, EngineError>>,
    ) -> Result<T, EngineError> {
        let mut unfinished = Unfinished(Some(self));
        let ended = tokio::time::timeout_at(deadline.into(), run).await;
        unfinished.0 = None;
        match ended {
            Ok(result) => result,
            Err(_) => Err(EngineError::DeadlineExceeded {
                seconds: arrived.elapsed().as_secs_f64(),
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
            note("stage", current.stage().name());
        }
    }
}

/// A request that the engine has admitted, with all it needs on its way through the stages.
pub(super) struct AdmittedRequest<'engine> {
    pub(super) engine: &'engine Engine,
    pub(super) host: &'engine ModelHost,
    pub(super) model: Arc<ModelInfo>,
    pub(super) caller: Caller,
    pub(super) slot: Arc<Slot>,
    pub(super) timings: Timings,
    /// The bytes that the request may use, once it has reserved them.
    work: HeldBytes,
    /// The request's place at the work, where callers take turns. It lasts to the request's end.
    place: Option<OwnedSemaphorePermit>,
    /// How long the request waited for both.
    waited: Duration,
    /// The image's place among those that the model has still to do.
    turn: Option<ImageTurn>,
    /// The work that the request makes, known once it has reserved its bytes.
    pub(super) workload: Workload,
    stage: &'engine CurrentStage,
    deadline: Instant,
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
    /// [`EngineError::Unavailable`] when the model is not ready, [`EngineError::Overloaded`] when no slot is free.
    pub(super) fn admit(
        engine: &'engine Engine,
        host: &'engine ModelHost,
        stage: &'engine CurrentStage,
        arrival: Arrival,
        deadline: Instant,
    ) -> Result<Self, EngineError> {
        let model = engine.ready_model(host)?;
        let slot = engine.slots.take(&arrival.caller, arrival.body);
        Ok(Self {
            engine,
            host,
            model,
            slot: slot.ok_or_else(|| engine.overloaded(&arrival.caller))?,
            timings: Timings::default(),
            work: engine.work.empty(),
            place: None,
            waited: Duration::ZERO,
            turn: None,
            workload: Workload::default(),
            stage,
            deadline,
            wanted: Wanted(Arc::new(AtomicBool::new(true))),
            caller: arrival.caller,
        })
    }

    /// Returns the settings and the model against which the fields of the request are resolved.
    pub(super) fn surroundings(&self) -> Surroundings<'_> {
        Surroundings {
            own: Some(&self.model.options),
            ..self.engine.surroundings(self.host)
        }
    }

    /// Returns a check for long work: whether the request was given up, so that nobody waits for the work's result.
    pub(super) fn is_abandoned(&self) -> impl Fn() -> bool + Send + use<> {
        let wanted = Arc::clone(&self.wanted.0);
        move || !wanted.load(Ordering::Relaxed)
    }

    /// Checks that the bytes of a request can be reserved at all.
    ///
    /// # Errors
    /// [`CostError::WorkBytes`].
    pub(super) fn check_footprint(&self, footprint: &Footprint) -> Result<(), CostError> {
        let (bytes, limit) = (footprint.total(), self.engine.work.bytes());
        if bytes > limit {
            return Err(CostError::WorkBytes { bytes, limit });
        }
        Ok(())
    }

    /// Checks by the measured times of the model that new texts can be embedded before the deadline.
    ///
    /// # Errors
    /// [`EngineError::TooManyNewTexts`] when they alone take too long, [`EngineError::TooBusy`] when they do after
    /// what waits already.
    pub(super) fn check_text_time(&self, new_texts: usize, templates: TemplateSet) -> Result<(), EngineError> {
        let Some(prompt_seconds) = self.host.times.prompt_seconds().filter(|_| new_texts > 0) else {
            return Ok(());
        };
        let seconds_of = |texts: usize| (texts * templates.templates().len()) as f64 * prompt_seconds;
        let (seconds, left) = (seconds_of(new_texts), self.seconds_left());
        if seconds > left {
            return Err(EngineError::TooManyNewTexts {
                texts: new_texts,
                seconds,
                left,
            });
        }
        // Those who wait take turns, so each other delays this one by as much as this one takes, at most.
        let others = self.host.queue.count(|job| job.turn() == Turn::Texts);
        let waiting = self.engine.embeddings.waiting();
        let ahead = seconds_of(waiting.min(others * new_texts)) / self.engine.settings.queue.workers as f64;
        self.check_time(ahead + seconds)
    }

    /// Checks by the measured times of the model that the request can be answered before the deadline.
    ///
    /// # Errors
    /// [`EngineError::TooMuchWork`] when it alone takes too long, [`EngineError::TooBusy`] when it does after what waits
    /// already.
    fn check_turn(&self, footprint: &Footprint, workload: &Workload) -> Result<(), EngineError> {
        let times = &self.host.times;
        let (seconds, left) = (times.seconds(workload), self.seconds_left());
        if seconds > left {
            return Err(EngineError::TooMuchWork { seconds, left });
        }
        let for_bytes = self.engine.work.wait_seconds(footprint.total()).unwrap_or(0.0);
        let workers = self.engine.settings.queue.workers;
        self.check_time(for_bytes.max(times.seconds_behind_images(&self.caller, workload, workers)))
    }

    fn check_time(&self, seconds: f64) -> Result<(), EngineError> {
        let left = self.seconds_left();
        if seconds <= left {
            return Ok(());
        }
        Err(EngineError::TooBusy {
            seconds,
            left,
            retry_seconds: whole_seconds(seconds - left),
        })
    }

    fn seconds_left(&self) -> f64 {
        self.deadline.saturating_duration_since(Instant::now()).as_secs_f64()
    }

    /// Reserves the bytes of the request, all at once. Waits for its turn: callers take turns, and the requests of each
    /// in their order.
    ///
    /// # Errors
    /// [`EngineError::TooMuchWork`] or [`EngineError::TooBusy`] when the request would not be answered before its
    /// deadline.
    pub(super) async fn reserve(&mut self, footprint: &Footprint, workload: Workload) -> Result<(), EngineError> {
        self.check_turn(footprint, &workload)?;
        self.turn = Some(self.host.times.image(&self.caller, workload));
        self.workload = workload;
        self.enter(Stage::Queue);
        let start = Instant::now();
        if self.caller.has_rivals() {
            self.place = Some(self.caller.place(&self.engine.places).await);
        }
        self.work = self.engine.work.reserve(&self.caller, footprint.total()).await;
        self.waited = start.elapsed();
        Ok(())
    }

    /// Reserves the bytes of a reply for which no image is read. A small one takes what is free and never waits: it would
    /// stand behind images.
    ///
    /// # Errors
    /// [`EngineError::TooBusy`] when the request would not get its turn before its deadline.
    pub(super) async fn reserve_reply(&mut self, bytes: u64) -> Result<(), EngineError> {
        if self.work.try_grow(bytes) || bytes <= SMALL_REPLY_BYTES {
            return Ok(());
        }
        self.check_time(self.engine.work.wait_seconds(bytes).unwrap_or(0.0))?;
        self.enter(Stage::Queue);
        self.work = self.engine.work.reserve(&self.caller, bytes).await;
        Ok(())
    }

    /// Gives back what the request has reserved and needs no more: from now on it needs at most `bytes`.
    pub(super) fn shrink_to(&self, bytes: u64) {
        self.work.shrink_to(bytes);
    }

    /// Returns the bytes that the request has reserved, for as long as its result lives.
    pub(super) fn held_bytes(&self) -> HeldBytes {
        self.work.clone()
    }

    pub(super) fn enter(&self, stage: Stage) {
        self.stage.enter(stage);
    }

    /// Notes how long a stage took: in the metrics, in the reply's timings, and in the caller's span, where that has a
    /// field for it.
    pub(super) fn record(&mut self, stage: Stage, elapsed: Duration) {
        note_stage(stage.name(), stage.seconds_field(), elapsed);
        self.engine.metrics.stage(&self.host.name, stage, elapsed);
        self.timings.set(stage, elapsed);
    }

    /// Runs the work of a stage on the blocking pool and records its time.
    pub(super) async fn stage<T: Send + 'static>(
        &mut self,
        stage: Stage,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, EngineError> {
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
    ) -> Result<T, EngineError> {
        let (slot, work_bytes) = (Arc::downgrade(&self.slot), self.work.clone());
        let done = run_blocking(move || {
            let Some(slot) = slot.upgrade() else {
                return Err("the request was given up".to_owned());
            };
            let result = catch_panic(work);
            drop((slot, work_bytes));
            result
        });
        done.await
            .map_err(|panic| EngineError::Internal(format!("{name} panicked: {panic}")))
    }

    /// Pushes a job to the model's workers and waits for its answer. Records the stages queue and model.
    pub(super) async fn on_worker<T>(&mut self, job: impl FnOnce(Ticket<T>) -> Job) -> Result<T, EngineError> {
        self.enter(Stage::Queue);
        let (slot, bytes) = (Arc::downgrade(&self.slot), Some(self.work.clone()));
        let (ticket, waiting) = Ticket::new(self.caller.clone(), slot, bytes, self.workload);
        if self.host.queue.push(job(ticket)).is_err() {
            return Err(self.engine.unavailable(self.host));
        }
        // A job that is refused has no start.
        if let Ok(waited) = waiting.started.await {
            self.record(Stage::Queue, self.waited + waited);
            self.enter(Stage::Model);
        }
        let start = Instant::now();
        let name = &self.host.name;
        let answer = match waiting.answer.await {
            Ok(Ok(answer)) => answer,
            Ok(Err(JobError::Refused)) => return Err(self.engine.unavailable(self.host)),
            Ok(Err(JobError::Failed(error))) => return Err(model_failed(name, &error.to_string())),
            // The worker dropped the job.
            Err(_) => return Err(EngineError::Internal(format!("the model {name} panicked"))),
        };
        self.record(Stage::Model, start.elapsed());
        self.turn = None;
        Ok(answer)
    }
}

/// Returns the error of a request whose model failed: one line with the model's name. What libtorch says below its
/// first line, its call stack, is for the level debug.
pub(super) fn model_failed(model: &str, error: &str) -> EngineError {
    tracing::debug!(model, error, "the whole error of the model");
    EngineError::Internal(format!("the model {model}: {}", first_line(error)))
}
