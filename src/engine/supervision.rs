//! The life of a model's worker threads: load the model, warm it up, answer jobs, and after a panic start again.
//!
//! A worker publishes its state before the affected requests learn of a panic. So a client whose request failed finds
//! readiness and metrics up to date. While no worker has a model and loading fails, the queue refuses jobs: requests to
//! this model are answered at once, and those to other models do not notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::job::Job;
use super::worker::{self, JobContext, WorkerExit};
use crate::dense::{DenseOptions, FeatureOptions};
use crate::image::{ModelInput, NormalisedImage};
use crate::labeller::{Labeller, LabellerError, LabellerFactory, ModelInfo};
use crate::scores::QueryOwner;
use crate::support::catch_panic;
use crate::telemetry::first_line;
use crate::vocabulary::{Classifier, TemplateSet};

/// Pause after the first failed attempt to load a model again. It doubles with each further failure.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);

/// The longest pause after attempts that fail quickly, so that a model serves again within a second after the cause of
/// the failures is gone.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Attempts that take long, such as those that read gigabytes before they fail, pause for this many times their own
/// duration, so that a model that is down takes little from the others.
const PAUSE_PER_ATTEMPT: u32 = 4;

/// The longest pause of all.
const LONGEST_PAUSE_OF_ALL: Duration = Duration::from_secs(30);

/// Least time between two log lines about failures with the same cause.
const LOG_PAUSE: Duration = Duration::from_secs(30);

/// The state of all workers of a model together.
#[derive(Debug, Clone)]
pub enum WorkersState {
    /// No worker has been ready yet.
    Loading,
    /// The first load failed, so the server cannot start.
    Failed(Arc<LabellerError>),
    /// The model has been loaded.
    Loaded {
        /// The model's description.
        model: Arc<ModelInfo>,
        /// Number of workers that have a warm model.
        live: usize,
        /// The latest failed attempt to load the model again; `None` once an attempt has succeeded.
        failure: Option<LoadFailure>,
    },
}

/// A failed attempt to load a model again.
#[derive(Debug, Clone)]
pub struct LoadFailure {
    /// The cause.
    pub error: Arc<LabellerError>,
    /// When the next attempt begins.
    pub next_attempt: Instant,
}

/// What all workers of a model share.
pub struct WorkerContext {
    /// Where the jobs come from.
    pub jobs: JobContext,
    /// Creates the model.
    pub factory: LabellerFactory,
    /// The channel on which the workers' state is published.
    pub state: watch::Sender<WorkersState>,
}

/// Starts `count` worker threads. They end once the queue is closed and empty.
pub fn spawn(context: &Arc<WorkerContext>, count: usize) {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    for _ in 0..count {
        let context = Arc::clone(context);
        std::thread::Builder::new()
            .name(format!("labeller-{}", NUMBER.fetch_add(1, Ordering::Relaxed)))
            .spawn(move || work(&context))
            .expect("the system can start a thread for each worker");
    }
}

/// The life of one worker.
fn work(context: &WorkerContext) {
    let mut attempts = Attempts::default();
    loop {
        let start = Instant::now();
        match load(context) {
            Ok(mut labeller) => {
                context.worker_is_live(labeller.info(), attempts.are_reloads());
                attempts = Attempts::after_a_panic();
                match worker::answer_jobs(&context.jobs, labeller.as_mut()) {
                    WorkerExit::QueueClosed => return context.worker_is_gone(),
                    WorkerExit::Panicked { message, mut jobs } => {
                        let message = first_line(&message);
                        tracing::error!(
                            model = context.jobs.model,
                            message,
                            "the model panicked; loading it again"
                        );
                        context.worker_is_gone();
                        let culprit = jobs.pop_front();
                        context.jobs.queue.put_back(jobs.into_iter());
                        // Tells its receiver of the panic.
                        drop(culprit);
                    }
                }
            }
            Err(error) => {
                let pause = attempts.fail(start.elapsed());
                if !context.load_failed(error, &mut attempts, pause) || context.jobs.queue.is_closed_within(pause) {
                    return;
                }
            }
        }
        if context.jobs.queue.is_closed_within(Duration::ZERO) {
            return context.refuse_waiting();
        }
    }
}

/// The attempts of one worker to load its model, since it last had one.
#[derive(Debug, Default)]
struct Attempts {
    /// Whether the worker has had a model before, or an attempt has failed.
    are_reloads: bool,
    failed: u32,
    /// The last failure in the log, with its time.
    logged: Option<(String, Instant)>,
}

impl Attempts {
    fn after_a_panic() -> Self {
        Self {
            are_reloads: true,
            ..Self::default()
        }
    }

    fn are_reloads(&self) -> bool {
        self.are_reloads
    }

    /// Counts a failed attempt. Returns the pause before the next one.
    fn fail(&mut self, took: Duration) -> Duration {
        let doubled = SHORTEST_PAUSE.saturating_mul(2_u32.saturating_pow(self.failed));
        self.failed = self.failed.saturating_add(1);
        let for_long_attempts = (took * PAUSE_PER_ATTEMPT).min(LONGEST_PAUSE_OF_ALL);
        doubled.min(LONGEST_PAUSE).max(for_long_attempts)
    }

    /// Returns whether a failure belongs in the log: it has a new cause, or the last line is long ago.
    fn is_news(&mut self, error: &LabellerError, now: Instant) -> bool {
        let text = error.to_string();
        let is_known = |(logged, at): &(String, Instant)| *logged == text && now.duration_since(*at) < LOG_PAUSE;
        if self.logged.as_ref().is_some_and(is_known) {
            return false;
        }
        self.logged = Some((text, now));
        true
    }
}

/// Loads and warms a model. The error is one line and names the model; what libtorch says below its first line is for
/// the level debug.
fn load(context: &WorkerContext) -> Result<Box<dyn Labeller>, LabellerError> {
    let model = &context.jobs.model;
    let (what, reason) = match catch_panic(|| load_and_warm(context)) {
        Ok(Ok(labeller)) => return Ok(labeller),
        Ok(Err(LabellerError::Load(reason))) => ("", reason),
        Ok(Err(LabellerError::Model(reason))) => ("it failed while it was warmed up: ", reason),
        Ok(Err(error @ LabellerError::Stopped)) => ("it failed while it was warmed up: ", error.to_string()),
        Err(panic) => ("it panicked while it was loaded: ", panic),
    };
    tracing::debug!(model, reason, "the whole reason why the model cannot be loaded");
    let reason = first_line(&reason);
    Err(LabellerError::Load(format!("the model {model}: {what}{reason}")))
}

/// Loads a model and lets it score once, so that allocators, thread pools and kernels are ready. Refuses a model that
/// is not the one which was loaded first, and a model whose answer is no number.
fn load_and_warm(context: &WorkerContext) -> Result<Box<dyn Labeller>, LabellerError> {
    let start = Instant::now();
    let mut labeller = (context.factory)()?;
    let info = labeller.info().clone();
    context.refuse_other_weights(&info)?;
    let embedding = labeller
        .embed_texts(&["warm-up".to_owned()], TemplateSet::Simple)?
        .remove(0);
    refuse_non_finite(&embedding.vector, "text tower")?;
    let side = info.options.short_side as usize;
    let input = ModelInput {
        image_height: side,
        image_width: side,
        sizes: vec![NormalisedImage {
            height: side,
            width: side,
            values: vec![0.0; 3 * side * side],
        }],
    };
    let classifier = Classifier {
        queries: 1,
        dimension: embedding.vector.len(),
        embeddings: embedding.vector.to_vec(),
        owners: vec![QueryOwner::Class(0)],
    };
    let options = DenseOptions {
        features: FeatureOptions {
            // A student has no attention and ignores this option.
            attention: info.attentions.first().copied().unwrap_or_default(),
            ..FeatureOptions::default()
        },
        ..DenseOptions::default()
    };
    let scores = labeller.score(&input, &classifier, &options)?;
    for grid in &scores.map.grids {
        refuse_non_finite(&grid.values, "network for images")?;
    }
    tracing::info!(
        model = context.jobs.model,
        architecture = info.architecture,
        device = info.device,
        precision = info.precision.name(),
        seconds = start.elapsed().as_secs_f64(),
        "the model is loaded and warm"
    );
    Ok(labeller)
}

/// Refuses a model that answers its warm-up with infinities or NaN: every request would fail.
fn refuse_non_finite(answer: &[f32], part: &str) -> Result<(), LabellerError> {
    if answer.iter().all(|value| value.is_finite()) {
        return Ok(());
    }
    let reason = format!("its {part} answers a warm-up with values that are not finite; its weights are damaged");
    Err(LabellerError::Load(reason))
}

impl WorkerContext {
    fn worker_is_live(&self, model: &ModelInfo, is_reload: bool) {
        let model = ModelInfo {
            name: self.jobs.model.clone(),
            ..model.clone()
        };
        if is_reload {
            self.jobs.metrics.reloaded(&self.jobs.model, true);
        }
        self.jobs.metrics.workers_live(&self.jobs.model).inc();
        self.jobs.metrics.model_loaded(&model);
        self.state.send_modify(|state| {
            let (model, live) = match state {
                WorkersState::Loaded { model, live, .. } => (Arc::clone(model), *live + 1),
                WorkersState::Loading | WorkersState::Failed(_) => (Arc::new(model.clone()), 1),
            };
            *state = WorkersState::Loaded {
                model,
                live,
                failure: None,
            };
            self.jobs.queue.accept();
        });
    }

    fn worker_is_gone(&self) {
        self.jobs.metrics.workers_live(&self.jobs.model).dec();
        self.state.send_modify(|state| {
            if let WorkersState::Loaded { live, .. } = state {
                *live -= 1;
            }
        });
    }

    /// Refuses a model whose weights are not those that were loaded first, or whose text tower computes otherwise. Their
    /// digest stands in replies, and caches hold what they computed.
    fn refuse_other_weights(&self, found: &ModelInfo) -> Result<(), LabellerError> {
        let state = self.state.borrow();
        let WorkersState::Loaded { model: first, .. } = &*state else {
            return Ok(());
        };
        for (part, [first, found]) in [
            ("weights", [first, found].map(|model| model.weights_sha256.as_str())),
            (
                "text tower's weights",
                [first, found].map(|model| model.text_tower().weights_sha256),
            ),
        ] {
            if first != found {
                return Err(LabellerError::Load(format!(
                    "its {part} have changed on disk: their SHA-256 is {found}, and was {first} when the server started; put \
                     the first file back, or restart the server"
                )));
            }
        }
        if first.text_tower().variant != found.text_tower().variant {
            return Err(LabellerError::Load(
                "the configuration of its text tower has changed on disk since the server started; put the first file back, \
                 or restart the server"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    /// Publishes a failed load. If no worker has a model, refuses the jobs that wait and all further ones. Returns
    /// false if no worker has ever been ready: trying again is pointless then, because the checkpoint or the settings
    /// are wrong.
    fn load_failed(&self, error: LabellerError, attempts: &mut Attempts, pause: Duration) -> bool {
        let now = Instant::now();
        let error = Arc::new(error);
        let has_been_loaded = matches!(*self.state.borrow(), WorkersState::Loaded { .. });
        if attempts.is_news(&error, now) {
            let seconds = has_been_loaded.then_some(pause.as_secs_f64());
            tracing::error!(model = self.jobs.model, %error, next_attempt_seconds = seconds, "cannot load the model");
        }
        if has_been_loaded {
            self.jobs.metrics.reloaded(&self.jobs.model, false);
        }
        attempts.are_reloads = true;
        let mut refused = Vec::new();
        self.state.send_modify(|state| match state {
            WorkersState::Loading | WorkersState::Failed(_) => *state = WorkersState::Failed(Arc::clone(&error)),
            WorkersState::Loaded { live, failure, .. } => {
                *failure = Some(LoadFailure {
                    error: Arc::clone(&error),
                    next_attempt: now + pause,
                });
                if *live == 0 {
                    refused = self.jobs.queue.refuse();
                }
            }
        });
        // Whoever learns that its job is refused finds the state published.
        refused.into_iter().for_each(Job::refuse);
        matches!(*self.state.borrow(), WorkersState::Loaded { .. })
    }

    /// Answers the jobs that wait in a closed queue: nobody will do them.
    fn refuse_waiting(&self) {
        self.jobs.queue.refuse().into_iter().for_each(Job::refuse);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_stay_short_where_attempts_are_cheap() {
        let mut attempts = Attempts::default();
        let pauses = [(); 6].map(|()| attempts.fail(Duration::from_millis(1)).as_millis());
        assert_eq!(pauses, [50, 100, 200, 400, 500, 500]);
        for _ in 0..100 {
            assert_eq!(attempts.fail(Duration::ZERO), LONGEST_PAUSE);
        }
    }

    #[test]
    fn attempts_that_take_long_pause_for_longer_but_not_for_ever() {
        let mut attempts = Attempts::default();
        assert_eq!(attempts.fail(Duration::from_secs(2)), Duration::from_secs(8));
        assert_eq!(attempts.fail(Duration::from_secs(3600)), LONGEST_PAUSE_OF_ALL);
    }

    #[test]
    fn a_failure_is_logged_when_its_cause_is_new_or_its_last_line_is_old() {
        let (mut attempts, start) = (Attempts::default(), Instant::now());
        let [first, second] = ["a", "b"].map(|reason| LabellerError::Load(reason.to_owned()));
        assert!(attempts.is_news(&first, start));
        assert!(!attempts.is_news(&first, start + LOG_PAUSE / 2));
        assert!(attempts.is_news(&second, start + LOG_PAUSE / 2));
        assert!(!attempts.is_news(&second, start + LOG_PAUSE));
        assert!(attempts.is_news(&second, start + LOG_PAUSE * 2));
    }
}
