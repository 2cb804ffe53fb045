//! Worker threads. Each owns a model, takes jobs from the queue and answers them.
//!
//! libtorch calls block and its tensors are not `Sync`, so models live on their own threads, never on the async pool. A
//! worker catches a panic at the edge of the job, because tch panics where libtorch throws. The worker then loads the
//! model again and does not count as live until that is done. It publishes its state before the affected requests learn
//! of the panic. So a client whose request failed finds readiness and metrics up to date.
//!
//! Jobs are answered in the order they came, with one exception: a waiting image may share the pass of an earlier image
//! of the same shape, if [`batching`](super::batching) has found that to be faster.

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

/// Pause before another attempt to load a model, after an attempt that followed a panic has failed.
const RELOAD_PAUSE: Duration = Duration::from_secs(1);

/// A job for a model, with the channel for its answer. A worker skips a job whose receiver is gone.
pub enum Job {
    /// Compute an image's features.
    Extract(ExtractJob),
    /// Score an image.
    Score(ScoreJob),
    /// Embed texts.
    Embed(EmbedJob),
}

/// A request for an image's features.
pub struct ExtractJob {
    /// The model's input.
    pub input: ModelInput,
    /// The options that decide which features to compute.
    pub options: FeatureOptions,
    /// The channel for the features.
    pub ticket: Ticket<Arc<dyn ImageFeatures>>,
}

/// A request for an image's scores.
pub struct ScoreJob {
    /// The image's pixels or its cached features.
    pub input: FeatureInput,
    /// The text embeddings to score the image against.
    pub classifier: Arc<Classifier>,
    /// The options of features, scoring and refinement.
    pub options: DenseOptions,
    /// The channel for the scores.
    pub ticket: Ticket<Scored>,
}

/// The parts of an image that its scores are computed from.
pub enum FeatureInput {
    /// The pixels. The model computes the features first.
    Pixels(ModelInput),
    /// Cached features.
    Cached {
        /// The features.
        features: Arc<dyn ImageFeatures>,
        /// The pixels, if a refinement needs them.
        pixels: Option<ModelInput>,
    },
}

/// The scores of an image, with the features they were computed from.
pub struct Scored {
    /// The scores, refined as the request asked.
    pub scores: DenseScores,
    /// The image's features, for use with other texts.
    pub features: Arc<dyn ImageFeatures>,
}

/// The channel for the answer to a job.
type Reply<T> = oneshot::Sender<Result<T, LabellerError>>;

/// The sending half of a job: tells the request that its job has started, then its answer.
pub struct Ticket<T> {
    /// When its job joined the queue.
    queued: Instant,
    /// Sends how long the job waited in the queue, once a worker takes it. `None` afterwards.
    started: Option<oneshot::Sender<Duration>>,
    /// The channel for the answer, with the request's slot, which is held until the job is done. `None` once the answer
    /// is sent.
    reply: Option<(Reply<T>, Arc<Slot>)>,
}

/// The receiving half of a job, held by the request.
pub struct Waiting<T> {
    /// Receives how long the job waited for a worker.
    pub started: oneshot::Receiver<Duration>,
    /// Receives the answer.
    pub answer: oneshot::Receiver<Result<T, LabellerError>>,
}

impl<T> Ticket<T> {
    /// Creates the two halves for a job that joins the queue now.
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

    /// Returns whether somebody still waits for the answer.
    fn is_wanted(&self) -> bool {
        self.reply.as_ref().is_some_and(|(reply, _)| !reply.is_closed())
    }

    /// Tells the request that its job has started.
    fn begin(&mut self) {
        if let Some(started) = self.started.take() {
            // Here and below, sending fails only if the receiver is gone and nobody wants the message.
            let _ = started.send(self.queued.elapsed());
        }
    }

    /// Sends the answer. Releases the job's hold on the slot first, so that whoever gets the answer finds the slot
    /// free.
    fn answer(&mut self, answer: Result<T, LabellerError>) {
        if let Some((reply, slot)) = self.reply.take() {
            drop(slot);
            let _ = reply.send(answer);
        }
    }
}

/// A request for text embeddings.
pub struct EmbedJob {
    /// The texts, without templates.
    pub texts: Vec<String>,
    /// The templates that the texts are put into.
    pub templates: TemplateSet,
    /// The channel for the embeddings.
    pub ticket: Ticket<Vec<TextEmbedding>>,
}

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
    },
}

/// What all workers of a model share.
pub struct WorkerContext {
    /// The model's name in requests.
    pub model: String,
    /// The queue that jobs come from.
    pub queue: Arc<JobQueue<Job>>,
    /// Creates the model.
    pub factory: LabellerFactory,
    /// The channel on which the workers' state is published.
    pub state: watch::Sender<WorkersState>,
    /// The metrics, which count live workers and passes.
    pub metrics: EngineMetrics,
    /// Images that may share a pass, setting `engine.max_batch`.
    pub max_batch: usize,
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

/// The life of one worker: load the model, warm it up, answer jobs; after a panic, start again.
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
                        tracing::error!(model = context.model, %message, "the model panicked; loading it again");
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

/// Why a worker stopped answering jobs.
enum WorkerExit {
    QueueClosed,
    Panicked {
        message: String,
        /// The jobs that the worker had taken. Dropping them tells their receivers of the panic.
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

/// Answers the one job in `jobs`, together with jobs from the queue that share its pass. `jobs` owns all of them, so a
/// panic loses none. An answered job leaves `jobs` before the next one starts.
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
        // One image's failure must not fail the others, so each image gets a pass of its own.
        Err(_) => {
            while let Some(job) = jobs.front_mut() {
                let features = features(labeller, std::slice::from_ref(job)).map(|mut features| features.remove(0));
                job.finish(labeller, features);
                jobs.pop_front();
            }
        }
    }
}

/// Computes the features of jobs of one shape in one pass, in the order of the jobs.
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
    /// Returns the pixels that the model must process and the options for it, or `None` if the job needs no pass.
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

    /// Returns the shape of the pass that the job needs, or `None` if the job needs no pass.
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

    /// Finishes a job with the features of its pixels: sends them, or the scores computed from them.
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

/// Loads a model and lets it score once, so that allocators, thread pools and kernels are ready.
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
            // A student has no attention and ignores this option.
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

    /// Publishes a failed load. Returns true if no worker has ever been ready. Trying again is pointless then, because
    /// the checkpoint or the settings are wrong.
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
