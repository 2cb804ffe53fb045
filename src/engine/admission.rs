//! Admission: whether a request may come in, and when it is worth a repeat.
//!
//! What an admitted request holds and waits for is in [`admitted`](super::admitted).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::budget::HeldBytes;
use super::caller::{Scarce, Share};
use super::estimate::Workload;
use super::host::ModelHost;
use super::metrics::Refusal;
use super::model_state::{ModelState, ModelStatus};
use super::request::{EngineError, SegmentFields, Surroundings, deadline_seconds};
use super::{Caller, Engine};
use crate::labeller::ModelInfo;
use crate::vocabulary::{TooManyWaiting, VocabularyOptions};

impl Engine {
    /// Returns the model's description if the model can answer a request now, or is being loaded again after a panic:
    /// that takes a moment, and a request that waits for it notices nothing of the panic. Those that wait take at most
    /// half of the slots, so that other models have the rest.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] while the engine drains, [`EngineError::ModelUnavailable`] while no worker has
    /// the model.
    pub(super) fn ready_model(&self, host: &ModelHost) -> Result<Arc<ModelInfo>, EngineError> {
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
    pub(super) fn unavailable(&self, host: &ModelHost) -> EngineError {
        if self.draining.load(Ordering::Relaxed) {
            return EngineError::Unavailable("the server is going down");
        }
        let ModelStatus {
            name,
            state,
            next_attempt,
            ..
        } = host.status();
        EngineError::ModelUnavailable {
            model: name,
            state,
            next_attempt: next_attempt.unwrap_or_default(),
        }
    }

    /// Takes note of a caller's request whose head has arrived, before its body is read. Never waits.
    ///
    /// A free slot is looked for and not yet taken: whoever sends a body slowly would hold it for as long. The bytes of
    /// bodies have a budget of their own.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] while the engine drains, [`EngineError::Overloaded`] when all slots are taken.
    pub fn arrive(&self, caller: &Caller) -> Result<Arrival, EngineError> {
        let refused = if self.draining.load(Ordering::Relaxed) {
            Some(EngineError::Unavailable("the server is going down"))
        } else {
            self.slots.are_taken(caller).then(|| self.overloaded(caller))
        };
        match refused {
            Some(error) => Err(self.counted(error)),
            None => Ok(Arrival {
                at: Instant::now(),
                caller: caller.clone(),
                body: self.body(caller),
            }),
        }
    }

    /// Returns a reservation for the body of a caller's request that is about to be read. It grows with the body within
    /// `engine.body_bytes`, and within the caller's share of that.
    pub fn body(&self, caller: &Caller) -> HeldBytes {
        self.bodies.empty_for(caller)
    }

    /// Returns the refusal of a body for whose bytes there is no room.
    pub fn body_refused(&self) -> EngineError {
        self.counted(EngineError::BodyBytes {
            limit: self.bodies.bytes(),
        })
    }

    /// Resolves while requests wait for bytes of `engine.work_bytes`, which results hold that nobody has taken yet. For one
    /// listener at a time.
    pub async fn work_is_wanted(&self) {
        self.work.is_wanted().await;
    }

    /// Counts a refusal in the metrics, and estimates when a repeat is worth a try.
    pub(super) fn counted(&self, mut error: EngineError) -> EngineError {
        match &mut error {
            EngineError::Overloaded { retry_seconds, .. } | EngineError::ShareTaken { retry_seconds, .. } => {
                *retry_seconds = whole_seconds(self.images_seconds());
            }
            EngineError::TooManyTexts { error, retry_seconds } => {
                *retry_seconds = whole_seconds(self.texts_seconds(error.waiting));
            }
            _ => {}
        }
        if let Some(refusal) = Refusal::of(&error) {
            self.metrics.refused(refusal);
        }
        error
    }

    /// Counts new texts that a caller has wait until the share is dropped.
    ///
    /// # Errors
    /// [`EngineError::TooManyTexts`] when the caller's texts would take more than is left for all.
    pub(super) fn take_text_share(&self, caller: &Caller, new_texts: usize) -> Result<Share, EngineError> {
        let (waiting, limit) = (self.embeddings.waiting(), self.settings.queue.max_waiting_texts);
        let (more, left) = (new_texts as u64, limit.saturating_sub(waiting) as u64);
        if new_texts > 0 && !caller.may_take(Scarce::WaitingTexts, more, left) {
            let texts = new_texts;
            return Err(TooManyWaiting { texts, waiting, limit }.into());
        }
        Ok(caller.take(Scarce::WaitingTexts, more))
    }

    /// Returns the instant at which the deadline of a request passes that arrived at `arrived`.
    ///
    /// # Errors
    /// [`EngineError::Field`] when the request names seconds out of their range.
    pub(super) fn deadline(&self, named_seconds: Option<f64>, arrived: Instant) -> Result<Instant, EngineError> {
        let seconds = deadline_seconds(named_seconds, &self.settings.queue)?;
        Ok(arrived + Duration::from_secs_f64(seconds))
    }

    /// Returns the model and the deadline of a request to label that arrived at `arrived`. Checks all that its fields say
    /// whatever its vocabulary is, so that what is wrong with it is told before it costs anything.
    ///
    /// # Errors
    /// [`EngineError`] when there is no such model, or a field is refused.
    pub(super) fn check_request(
        &self,
        fields: &SegmentFields,
        arrived: Instant,
    ) -> Result<(&ModelHost, Instant), EngineError> {
        let deadline = self.deadline(fields.features.deadline_seconds, arrived)?;
        let host = self.find_host(fields.features.model.as_deref())?;
        fields.resolve(self.surroundings(host), &VocabularyOptions::default())?;
        Ok((host, deadline))
    }

    /// Returns the settings and the model against which the fields of a request are resolved.
    pub(super) fn surroundings<'a>(&'a self, host: &'a ModelHost) -> Surroundings<'a> {
        Surroundings {
            settings: &self.settings,
            model: (&host.name, host.kind),
            // Values are checked before the model is known to be loaded.
            own: None,
        }
    }

    /// Returns why a caller gets no slot.
    pub(super) fn overloaded(&self, caller: &Caller) -> EngineError {
        let (capacity, retry_seconds) = (self.slots.capacity(), 1);
        let held = caller.held(Scarce::Slots) as usize;
        match self.slots.are_all_taken() {
            true => EngineError::Overloaded {
                capacity,
                retry_seconds,
            },
            false => EngineError::ShareTaken {
                held,
                capacity,
                retry_seconds,
            },
        }
    }

    /// Returns about how many whole seconds it takes to embed so many texts with the default templates, at least 1; 1 while
    /// that is not known.
    pub fn embedding_seconds(&self, texts: usize) -> u64 {
        whole_seconds(self.texts_seconds(texts))
    }

    /// Returns about how many seconds the model that has most to do takes for its images; 0 while that is not known.
    fn images_seconds(&self) -> f64 {
        let workers = self.settings.queue.workers;
        let nobody = Caller::default();
        let models = self.models.iter();
        let nothing = Workload::default();
        let seconds = models.map(|host| host.times.seconds_behind_images(&nobody, &nothing, workers));
        seconds.fold(0.0, f64::max)
    }

    /// Returns about how many seconds it takes to embed so many texts with the default templates; 0 while that is not
    /// known.
    fn texts_seconds(&self, texts: usize) -> f64 {
        let prompts = texts * self.settings.defaults.templates.templates().len();
        let seconds = self.models.iter().filter_map(|host| host.times.prompt_seconds());
        prompts as f64 * seconds.fold(0.0, f64::max)
    }
}

/// Returns whole seconds for a client to wait: at least one, at most an hour.
pub(super) fn whole_seconds(seconds: f64) -> u64 {
    seconds.ceil().clamp(1.0, 3600.0) as u64
}

/// A request whose head has arrived, from [`Engine::arrive`]. Its deadline counts from then on.
#[derive(Debug)]
pub struct Arrival {
    pub(super) at: Instant,
    pub(super) caller: Caller,
    pub(super) body: HeldBytes,
}

impl Arrival {
    /// Returns the reservation for the bytes of the request's body. They count until the request is done.
    pub fn body(&self) -> &HeldBytes {
        &self.body
    }
}
