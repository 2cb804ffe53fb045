//! Worker threads: each owns a model, takes jobs from the queue and answers them.
//!
//! libtorch blocks and its tensors are not `Sync`, so models live on threads of their own, never on
//! the async pool. A panic (tch panics where libtorch throws) is caught at the job's edge; the model
//! is then loaded anew, and until that is done the worker does not count as live. The requests that the
//! panic concerns learn of it after the worker's state is published, so that a client whose request
//! failed finds readiness and metrics up to date.
//!
//! Jobs are answered in the order they came, but that images which wait may share the pass of an earlier one of their shape, when
//! [`batching`](super::batching) has found that to be faster.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};

use super::batching::{Batching, PassShape};
use super::metrics::EngineMetrics;
use super::queue::JobQueue;
use super::slots::Slot;
use crate::dense::{DenseOptions, FeatureOptions};
use crate::image::{ModelInput, NormalisedImage};
use crate::labeller::{ImageFeatures, Labeller, LabellerError, LabellerFactory, ModelInfo};
use crate::scores::DenseScores;
use crate::scores::QueryOwner;
use crate::support::catch_panic;
use crate::vocabulary::{Classifier, TemplateSet, TextEmbedding};

/// Pause before a model that failed to load a second time is tried again.
const RELOAD_PAUSE: Duration = Duration::from_secs(1);

/// Work for a model, with the channel its answer goes to. A job whose receiver is gone is skipped.
pub enum Job {
    /// Compute an image's features.
    Extract(ExtractJob),
    /// Score an image.
    Score(ScoreJob),
    /// Embed texts.
    Embed(EmbedJob),
}

/// An image whose features are wanted.
pub struct ExtractJob {
    /// The model's input.
    pub input: ModelInput,
    /// Which features.
    pub options: FeatureOptions,
    /// Where the features go.
    pub ticket: Ticket<Arc<dyn ImageFeatures>>,
}

/// An image to be scored.
pub struct ScoreJob {
    /// What there is of it.
    pub input: FeatureInput,
    /// What to compare it with.
    pub classifier: Arc<Classifier>,
    /// How.
    pub options: DenseOptions,
    /// Where the answer goes.
    pub ticket: Ticket<Scored>,
}

/// What there is of an image for its scores.
pub enum FeatureInput {
    /// Its pixels: features are extracted first.
    Pixels(ModelInput),
    /// Features that were extracted before.
    Cached {
        /// The features.
        features: Arc<dyn ImageFeatures>,
        /// The pixels, where a refinement needs them.
        pixels: Option<ModelInput>,
    },
}

/// Scores, and what they were made of.
pub struct Scored {
    /// The scores, refined as asked.
    pub scores: DenseScores,
    /// The image's features, for other texts.
    pub features: Arc<dyn ImageFeatures>,
}

/// Carries an answer to whoever waits for it.
type Reply<T> = oneshot::Sender<Result<T, LabellerError>>;

/// What a request that waits for a worker is told.
pub struct Ticket<T> {
    /// When its job joined the queue.
    queued: Instant,
    /// Told how long the job waited, when a worker takes it; none once that is done.
    started: Option<oneshot::Sender<Duration>>,
    /// Where the answer goes, and the request's slot, held until the job is done; none once the answer is sent.
    reply: Option<(Reply<T>, Arc<Slot>)>,
}

/// Where a request waits for what its [`Ticket`] tells.
pub struct Waiting<T> {
    /// How long the job waited for a worker.
    pub started: oneshot::Receiver<Duration>,
    /// The answer.
    pub answer: oneshot::Receiver<Result<T, LabellerError>>,
}

impl<T> Ticket<T> {
    /// A ticket for a job that joins the queue now.
    pub fn new(slot: Arc<Slot>) -> (Self, Waiting<T>) {
        let (reply, answer) = oneshot::channel();
        let (started, has_started) = oneshot::channel();
        let ticket = Self {
            queued: Instant::now(),
            started: Some(started),
            reply: Some((reply, slot)),
        };
        let waiting = Waiting {
            started: has_started,
            answer,
        };
        (ticket, waiting)
    }

    /// Whether anybody still waits for the answer.
    fn is_wanted(&self) -> bool {
        self.reply.as_ref().is_some_and(|(reply, _)| !reply.is_closed())
    }

    /// Says that the work begins.
    fn begin(&mut self) {
        if let Some(started) = self.started.take() {
            // Here and below: a receiver that has gone meanwhile does not want the answer.
            let _ = started.send(self.queued.elapsed());
        }
    }

    /// Sends the answer. The job's hold on the slot ends before that, so that whoever has the answer finds the slot free.
    fn answer(&mut self, answer: Result<T, LabellerError>) {
        if let Some((reply, slot)) = self.reply.take() {
            drop(slot);
            let _ = reply.send(answer);
        }
    }
}

/// Texts to be embedded.
pub struct EmbedJob {
    /// The texts, without templates.
    pub texts: Vec<String>,
    /// The templates they are put into.
    pub templates: TemplateSet,
    /// Where the embeddings go.
    pub ticket: Ticket<Vec<TextEmbedding>>,
}

/// What is known of a model's workers as a whole.
#[derive(Debug, Clone)]
pub enum WorkersState {
    /// No worker has been ready yet.
    Loading,
    /// The first load failed: the server cannot start.
    Failed(Arc<LabellerError>),
    /// The model has been loaded, and this many workers are live.
    Loaded {
        /// The model.
        model: Arc<ModelInfo>,
        /// Workers with a warm model.
        live: usize,
    },
}

/// What every worker of a model shares.
pub struct WorkerContext {
    /// What requests call the model.
    pub model: String,
    /// Where jobs come from.
    pub queue: Arc<JobQueue<Job>>,
    /// Makes the model.
    pub factory: LabellerFactory,
    /// Where the state is published.
    pub state: watch::Sender<WorkersState>,
    /// Live workers are counted here.
    pub metrics: EngineMetrics,
    /// Images that may share a pass: `engine.max_batch`.
    pub max_batch: usize,
}

/// Starts `count` worker threads. They end when the queue is closed and empty.
pub fn spawn(context: &Arc<WorkerContext>, count: usize) {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    for _ in 0..count {
        let context = Arc::clone(context);
        std::thread::Builder::new()
            .name(format!("labeller-{}", NUMBER.fetch_add(1, Ordering::Relaxed)))
            .spawn(move || work(&context))
            .expect("the system has a thread for each worker");
    }
}

/// One worker's life: load, warm, answer jobs; after a panic again from the start.
fn work(context: &WorkerContext) {
    loop {
        match catch_panic(|| load_and_warm(context)) {
            Ok(Ok(mut labeller)) => {
                context.worker_is_live(labeller.info());
                let outcome = answer_jobs(context, labeller.as_mut());
                context.worker_is_gone();
                match outcome {
                    WorkerExit::QueueClosed => return,
                    WorkerExit::Panicked { message, unanswered } => {
                        tracing::error!(model = context.model, %message, "the model panicked; loading it anew");
                        drop(unanswered);
                    }
                }
            }
            Ok(Err(error)) => {
                if context.load_failed(error) {
                    return;
                }
                std::thread::sleep(RELOAD_PAUSE);
            }
            Err(message) => {
                if context.load_failed(LabellerError::Load(message)) {
                    return;
                }
                std::thread::sleep(RELOAD_PAUSE);
            }
        }
    }
}

/// Why a worker answers no more jobs.
enum WorkerExit {
    QueueClosed,
    Panicked {
        message: String,
        /// The jobs in hand. Their receivers learn of the panic when these jobs are dropped.
        unanswered: VecDeque<Job>,
    },
}

fn answer_jobs(context: &WorkerContext, labeller: &mut dyn Labeller) -> WorkerExit {
    let mut batching = Batching::new(context.max_batch);
    while let Some(job) = context.queue.pop() {
        let mut jobs = VecDeque::from([job]);
        if let Err(message) = catch_panic(|| answer(context, labeller, &mut batching, &mut jobs)) {
            return WorkerExit::Panicked {
                message,
                unanswered: jobs,
            };
        }
    }
    WorkerExit::QueueClosed
}

/// Answers the one job in `jobs`, and those from the queue that share its pass. `jobs` owns them meanwhile, so that a panic drops
/// none: an answered job leaves `jobs` before the next one is begun.
fn answer(context: &WorkerContext, labeller: &mut dyn Labeller, batching: &mut Batching, jobs: &mut VecDeque<Job>) {
    let Some(shape) = jobs[0].shape() else {
        return answer_without_a_pass(labeller, &mut jobs[0]);
    };
    let is_alike = |other: &Job| other.shape().as_ref() == Some(&shape);
    let images = batching.images(&shape, 1 + context.queue.count(is_alike));
    jobs.extend(context.queue.take(images - 1, is_alike));
    jobs.retain(Job::is_wanted);
    if jobs.is_empty() {
        return;
    }
    context.metrics.pass(&context.model, jobs.len());
    jobs.iter_mut().for_each(Job::begin);
    let start = Instant::now();
    match features(labeller, jobs.make_contiguous()) {
        Ok(features) => {
            batching.record(shape, jobs.len(), start.elapsed());
            for features in features {
                jobs[0].finish(labeller, Ok(features));
                jobs.pop_front();
            }
        }
        Err(error) if jobs.len() == 1 => jobs[0].finish(labeller, Err(error)),
        // One image's failure is not the others'.
        Err(_) => {
            while let Some(job) = jobs.front_mut() {
                let features = features(labeller, std::slice::from_ref(job)).map(|mut features| features.remove(0));
                job.finish(labeller, features);
                jobs.pop_front();
            }
        }
    }
}

/// What the model makes of the pixels of jobs of one shape, in one pass.
fn features(labeller: &mut dyn Labeller, jobs: &[Job]) -> Result<Vec<Arc<dyn ImageFeatures>>, LabellerError> {
    let pixels: Vec<_> = jobs.iter().filter_map(Job::pixels).collect();
    let inputs: Vec<_> = pixels.iter().map(|(input, _)| *input).collect();
    let (_, options) = pixels.first().expect("jobs of a shape have pixels");
    labeller.features(&inputs, options)
}

fn answer_without_a_pass(labeller: &mut dyn Labeller, job: &mut Job) {
    job.begin();
    match job {
        Job::Score(ScoreJob {
            input: FeatureInput::Cached { features, pixels },
            classifier,
            options,
            ticket,
        }) if ticket.is_wanted() => {
            ticket.answer(score(
                labeller,
                Arc::clone(features),
                pixels.as_ref(),
                classifier,
                options,
            ));
        }
        Job::Embed(job) if job.ticket.is_wanted() => {
            job.ticket.answer(labeller.embed_texts(&job.texts, job.templates));
        }
        Job::Extract(_) | Job::Score(_) | Job::Embed(_) => {}
    }
}

impl Job {
    /// The pixels that the model has to look at, and how.
    fn pixels(&self) -> Option<(&ModelInput, &FeatureOptions)> {
        match self {
            Self::Extract(ExtractJob { input, options, .. }) => Some((input, options)),
            Self::Score(ScoreJob {
                input: FeatureInput::Pixels(input),
                options,
                ..
            }) => Some((input, &options.features)),
            Self::Score(ScoreJob {
                input: FeatureInput::Cached { .. },
                ..
            })
            | Self::Embed(_) => None,
        }
    }

    /// The shape of the pass that it needs, if it needs one.
    fn shape(&self) -> Option<PassShape> {
        self.pixels().map(|(input, options)| PassShape::of(input, options))
    }

    fn is_wanted(&self) -> bool {
        match self {
            Self::Extract(job) => job.ticket.is_wanted(),
            Self::Score(job) => job.ticket.is_wanted(),
            Self::Embed(job) => job.ticket.is_wanted(),
        }
    }

    fn begin(&mut self) {
        match self {
            Self::Extract(job) => job.ticket.begin(),
            Self::Score(job) => job.ticket.begin(),
            Self::Embed(job) => job.ticket.begin(),
        }
    }

    /// What becomes of the features of its pixels.
    fn finish(&mut self, labeller: &mut dyn Labeller, features: Result<Arc<dyn ImageFeatures>, LabellerError>) {
        match self {
            Self::Extract(job) => job.ticket.answer(features),
            Self::Score(ScoreJob {
                input: FeatureInput::Pixels(input),
                classifier,
                options,
                ticket,
            }) => {
                let scored = features.and_then(|features| score(labeller, features, Some(input), classifier, options));
                ticket.answer(scored);
            }
            Self::Score(_) | Self::Embed(_) => unreachable!("a job without pixels shares no pass"),
        }
    }
}

fn score(
    labeller: &mut dyn Labeller,
    features: Arc<dyn ImageFeatures>,
    input: Option<&ModelInput>,
    classifier: &Classifier,
    options: &DenseOptions,
) -> Result<Scored, LabellerError> {
    let mut scores = features.score(classifier, &options.scoring)?;
    if let Some(input) = input {
        scores.map = labeller.refine(scores.map, input, classifier, &options.refinement)?;
    }
    Ok(Scored { scores, features })
}

/// A model that has answered once: allocators, thread pools and kernels are in place.
fn load_and_warm(context: &WorkerContext) -> Result<Box<dyn Labeller>, LabellerError> {
    let start = Instant::now();
    let mut labeller = (context.factory)()?;
    let embedding = labeller
        .embed_texts(&["warm-up".to_owned()], TemplateSet::Simple)?
        .remove(0);
    let info = labeller.info().clone();
    let side = info.short_side as usize;
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
            // A student has none, and looks at none.
            attention: info.attentions.first().copied().unwrap_or_default(),
            ..FeatureOptions::default()
        },
        ..DenseOptions::default()
    };
    labeller.score(&input, &classifier, &options)?;
    tracing::info!(
        model = context.model,
        architecture = info.architecture,
        device = info.device,
        precision = info.precision.name(),
        seconds = start.elapsed().as_secs_f64(),
        "the model is loaded and warm"
    );
    Ok(labeller)
}

impl WorkerContext {
    fn worker_is_live(&self, model: &ModelInfo) {
        let model = ModelInfo {
            name: self.model.clone(),
            ..model.clone()
        };
        self.metrics.workers_live(&self.model).inc();
        self.metrics.model_loaded(&model);
        self.state.send_modify(|state| {
            *state = match state {
                WorkersState::Loaded { model, live } => WorkersState::Loaded {
                    model: Arc::clone(model),
                    live: *live + 1,
                },
                WorkersState::Loading | WorkersState::Failed(_) => WorkersState::Loaded {
                    model: Arc::new(model.clone()),
                    live: 1,
                },
            };
        });
    }

    fn worker_is_gone(&self) {
        self.metrics.workers_live(&self.model).dec();
        self.state.send_modify(|state| {
            if let WorkersState::Loaded { live, .. } = state {
                *live -= 1;
            }
        });
    }

    /// Publishes a failed load. True when no worker has ever been ready, so that trying again is
    /// pointless: the checkpoint or the settings are wrong.
    fn load_failed(&self, error: LabellerError) -> bool {
        tracing::error!(model = self.model, %error, "the model could not be loaded");
        let error = Arc::new(error);
        self.state.send_if_modified(|state| match state {
            WorkersState::Loading => {
                *state = WorkersState::Failed(Arc::clone(&error));
                true
            }
            WorkersState::Failed(_) | WorkersState::Loaded { .. } => false,
        });
        matches!(*self.state.borrow(), WorkersState::Failed(_))
    }
}
