//! The work of a worker thread: jobs, and how a model answers them.
//!
//! libtorch calls block and its tensors are not `Sync`, so models live on their own threads, never on the async pool. A
//! worker catches a panic at the edge of the job, because tch panics where libtorch throws. A panic of a pass that
//! several images share says nothing about each of them, so each is then tried alone with the same model. A panic over
//! one job alone ends the model's life; [`supervision`](super::supervision) then loads it again.
//!
//! Jobs are answered in the order of the queue, with one exception: a waiting image may share the pass of an earlier
//! image of the same shape and caller, if [`batching`](super::batching) has found that to be faster.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::batching::{Batching, PassShape};
use super::budget::HeldBytes;
use super::caller::Caller;
use super::estimate::{Part, ServiceTimes, Workload};
use super::metrics::EngineMetrics;
use super::queue::{JobQueue, Queued, Turn};
use super::slots::Slot;
use crate::dense::{DenseOptions, FeatureOptions};
use crate::image::ModelInput;
use crate::labeller::{ImageFeatures, Labeller, LabellerError};
use crate::scores::{DenseScores, ScoreMap};
use crate::support::catch_panic;
use crate::telemetry::first_line;
use crate::vocabulary::{Classifier, Interest, TemplateSet, TextEmbedding, Urgency};

/// A job for a model, with the channel for its answer. A worker skips a job whose receiver is gone.
pub enum Job {
    /// Compute an image's features.
    Extract(ExtractJob),
    /// Compute the embedding of an image as a whole.
    EmbedImage(EmbedImageJob),
    /// Score an image.
    Score(ScoreJob),
    /// Compare an image with one of its points.
    Similar(SimilarJob),
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

/// A request for the embedding of an image as a whole.
pub struct EmbedImageJob {
    /// The model's input.
    pub input: ModelInput,
    /// The options that decide which features to compute.
    pub options: FeatureOptions,
    /// The channel for the embedding, `[embedding_dimension]`, of unit length.
    pub ticket: Ticket<Vec<f32>>,
}

/// A request for an image's scores.
pub struct ScoreJob {
    /// The image's pixels or its cached features.
    pub input: FeatureInput,
    /// The text embeddings to score the image against.
    pub classifier: Classifier,
    /// The options of features, scoring and refinement.
    pub options: DenseOptions,
    /// The channel for the scores.
    pub ticket: Ticket<Scored>,
}

/// A request for the cosines of an image's cells with one of them.
pub struct SimilarJob {
    /// The image's features.
    pub features: Arc<dyn ImageFeatures>,
    /// The place of the cell, as shares of the image's width and height.
    pub place: (f64, f64),
    /// The channel for the cosines.
    pub ticket: Ticket<ScoreMap>,
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

/// Why a job has no result.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The model failed.
    #[error(transparent)]
    Failed(#[from] LabellerError),
    /// No worker has a model, and loading it fails; or the engine is closing.
    #[error("no worker can answer")]
    Refused,
}

/// The channel for the answer to a job.
type Reply<T> = oneshot::Sender<Result<T, JobError>>;

/// The sending half of a job: tells the request that its job has started, then its answer.
pub struct Ticket<T> {
    /// Whose job it is.
    caller: Caller,
    /// When its job joined the queue.
    queued: Instant,
    /// Sends how long the job waited in the queue, once a worker takes it. `None` afterwards.
    started: Option<oneshot::Sender<Duration>>,
    /// The channel for the answer. `None` once the answer is sent.
    reply: Option<Reply<T>>,
    /// The slot of the job's request. A job that waits does not hold it.
    slot: Weak<Slot>,
    /// The same slot from the start of the job to its answer, also if the request is given up meanwhile.
    held_slot: Option<Arc<Slot>>,
    /// The work of the job's request.
    workload: Workload,
    /// The bytes that the job's request has reserved. A job holds them for as long as it exists, wanted or not.
    _bytes: Option<HeldBytes>,
}

/// The receiving half of a job, held by the request.
pub struct Waiting<T> {
    /// Receives how long the job waited for a worker.
    pub started: oneshot::Receiver<Duration>,
    /// Receives the answer.
    pub answer: oneshot::Receiver<Result<T, JobError>>,
}

impl<T> Ticket<T> {
    /// Creates the two halves for a caller's job that joins the queue now. Texts have no slot.
    pub fn new(caller: Caller, slot: Weak<Slot>, bytes: Option<HeldBytes>, workload: Workload) -> (Self, Waiting<T>) {
        let (reply, answer) = oneshot::channel();
        let (started, has_started) = oneshot::channel();
        let ticket = Self {
            caller,
            queued: Instant::now(),
            started: Some(started),
            reply: Some(reply),
            slot,
            held_slot: None,
            workload,
            _bytes: bytes,
        };
        let waiting = Waiting {
            started: has_started,
            answer,
        };
        (ticket, waiting)
    }

    /// Returns whether somebody still waits for the answer.
    fn is_wanted(&self) -> bool {
        self.reply.as_ref().is_some_and(|reply| !reply.is_closed())
    }

    /// Tells the request that its job has started.
    fn begin(&mut self) {
        self.held_slot = self.slot.upgrade();
        if let Some(started) = self.started.take() {
            // Here and below, sending fails only if the receiver is gone and nobody wants the message.
            let _ = started.send(self.queued.elapsed());
        }
    }

    /// Sends the answer. Releases the job's hold on the slot first, so that whoever gets the answer finds the slot
    /// free.
    fn answer(&mut self, answer: Result<T, LabellerError>) {
        self.reply(answer.map_err(JobError::Failed));
    }

    fn reply(&mut self, answer: Result<T, JobError>) {
        self.held_slot = None;
        if let Some(reply) = self.reply.take() {
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
    /// How urgently the texts are wanted.
    pub interest: Interest,
    /// The channel for the embeddings, or for `None` when nobody wanted the texts any more.
    pub ticket: Ticket<Option<Vec<TextEmbedding>>>,
}

/// Where a worker's jobs come from, and what it records about them.
pub struct JobContext {
    /// The model's name in requests.
    pub model: String,
    /// The queue that jobs come from.
    pub queue: Arc<JobQueue<Job>>,
    /// The times of the model's work.
    pub times: Arc<ServiceTimes>,
    /// The metrics, which count live workers, passes, panics and reloads.
    pub metrics: EngineMetrics,
    /// Images that may share a pass, setting `engine.max_batch`.
    pub max_batch: usize,
}

/// Why a worker stopped answering jobs.
pub enum WorkerExit {
    /// The queue is closed, and nothing waits in it.
    QueueClosed,
    /// The model panicked over one job.
    Panicked {
        /// The panic's message.
        message: String,
        /// The job at the front, and behind it other jobs that the worker had taken, in their order. The model can do
        /// those once it is loaded again.
        jobs: VecDeque<Job>,
    },
}

/// Answers jobs until the queue is closed or the model panics over one job alone.
pub fn answer_jobs(context: &JobContext, labeller: &mut dyn Labeller) -> WorkerExit {
    let mut batching = Batching::new(context.max_batch);
    while let Some(job) = context.queue.pop() {
        let mut jobs = VecDeque::from([job]);
        if let Err(message) = catch_panic(|| answer(context, labeller, &mut batching, &mut jobs)) {
            context.metrics.worker_panicked(&context.model);
            return WorkerExit::Panicked { message, jobs };
        }
    }
    WorkerExit::QueueClosed
}

/// Answers the one job in `jobs`, together with jobs from the queue that share its pass. `jobs` owns all of them, so a
/// panic loses none. An answered job leaves `jobs` before the next one starts, so the front job is the one to blame for
/// a panic.
fn answer(context: &JobContext, labeller: &mut dyn Labeller, batching: &mut Batching, jobs: &mut VecDeque<Job>) {
    let Some(shape) = jobs[0].shape() else {
        return answer_without_a_pass(context, labeller, &mut jobs[0]);
    };
    let caller = jobs[0].caller().clone();
    // Whoever takes turns with others does not wait for the images of others as well.
    let is_alike = |other: &Job| other.caller() == &caller && other.shape().as_ref() == Some(&shape);
    let images = batching.images(&shape, 1 + context.queue.count(is_alike));
    jobs.extend(context.queue.take(images - 1, is_alike));
    jobs.retain(Job::is_wanted);
    if jobs.is_empty() {
        return;
    }
    context.metrics.pass(&context.model, jobs.len());
    jobs.iter_mut().for_each(Job::begin);
    let start = Instant::now();
    let images = jobs.len();
    if images > 1 {
        if let Some(features) = shared_features(context, labeller, jobs.make_contiguous()) {
            batching.record(shape, images, start.elapsed());
            for features in features {
                jobs[0].finish(context, labeller, Ok(features));
                jobs.pop_front();
            }
            return;
        }
        return answer_one_by_one(context, labeller, jobs);
    }
    let features = features(context, labeller, jobs.make_contiguous()).map(|mut features| features.remove(0));
    if features.is_ok() {
        batching.record(shape, 1, start.elapsed());
    }
    jobs[0].finish(context, labeller, features);
    jobs.pop_front();
}

/// Computes the features of several jobs of one shape in one pass. Returns `None` if the pass fails or panics, which it
/// may do over one of the images, or because together they need more memory than there is.
fn shared_features(
    context: &JobContext,
    labeller: &mut dyn Labeller,
    jobs: &[Job],
) -> Option<Vec<Arc<dyn ImageFeatures>>> {
    let (model, images) = (&context.model, jobs.len());
    match catch_panic(|| features(context, labeller, jobs)) {
        Ok(Ok(features)) => Some(features),
        Ok(Err(LabellerError::Stopped)) => None,
        Ok(Err(error)) => {
            let error = error.to_string();
            let error = first_line(&error);
            tracing::warn!(model, images, error, "a shared pass failed; trying each image alone");
            None
        }
        Err(message) => {
            context.metrics.worker_panicked(model);
            let message = first_line(&message);
            tracing::warn!(
                model,
                images,
                message,
                "a shared pass panicked; trying each image alone"
            );
            None
        }
    }
}

/// Answers jobs of one shape, each with a pass of its own. One image's failure does not fail the others.
fn answer_one_by_one(context: &JobContext, labeller: &mut dyn Labeller, jobs: &mut VecDeque<Job>) {
    while let Some(job) = jobs.front_mut() {
        let features = features(context, labeller, std::slice::from_ref(job)).map(|mut features| features.remove(0));
        job.finish(context, labeller, features);
        jobs.pop_front();
    }
}

/// Computes the features of jobs of one shape in one pass, in the order of the jobs. The pass stops once none of the jobs
/// is wanted any more.
fn features(
    context: &JobContext,
    labeller: &mut dyn Labeller,
    jobs: &[Job],
) -> Result<Vec<Arc<dyn ImageFeatures>>, LabellerError> {
    let pixels: Vec<_> = jobs.iter().filter_map(Job::pixels).collect();
    let inputs: Vec<_> = pixels.iter().map(|(input, _)| *input).collect();
    let (_, options) = pixels.first().expect("jobs of a shape have pixels");
    let amount = jobs.iter().map(|job| job.workload().amount(Part::Features)).sum();
    timed(context, Part::Features, amount, || {
        labeller.features(&inputs, options, &|| !jobs.iter().any(Job::is_wanted))
    })
}

/// Does a part of a request's work and records how long so much of it took.
fn timed<T>(
    context: &JobContext,
    part: Part,
    amount: f64,
    work: impl FnOnce() -> Result<T, LabellerError>,
) -> Result<T, LabellerError> {
    let start = Instant::now();
    let result = work();
    match &result {
        Ok(_) => context.times.record(part, amount, start.elapsed()),
        Err(LabellerError::Stopped) => context.times.record_stopped(part, amount, start.elapsed()),
        Err(_) => {}
    }
    result
}

fn answer_without_a_pass(context: &JobContext, labeller: &mut dyn Labeller, job: &mut Job) {
    let is_wanted = job.is_wanted();
    job.begin();
    match job {
        Job::Score(ScoreJob {
            input: FeatureInput::Cached { features, pixels },
            classifier,
            options,
            ticket,
        }) if is_wanted => {
            let features = Arc::clone(features);
            let scored = score(
                context,
                labeller,
                features,
                pixels.as_ref(),
                (classifier, options),
                ticket,
            );
            ticket.answer(scored);
        }
        Job::Similar(job) if is_wanted => job.ticket.answer(job.features.similar_to(job.place)),
        Job::Embed(job) if is_wanted => {
            let start = Instant::now();
            let embeddings = labeller.embed_texts(&job.texts, job.templates);
            let prompts = job.texts.len() * job.templates.templates().len();
            context.times.record_prompts(prompts, start.elapsed());
            job.ticket.answer(embeddings.map(Some));
        }
        Job::Embed(job) => job.ticket.answer(Ok(None)),
        Job::Extract(_) | Job::EmbedImage(_) | Job::Score(_) | Job::Similar(_) => {}
    }
}

impl Job {
    /// Returns the pixels that the model must process and the options for it, or `None` if the job needs no pass.
    fn pixels(&self) -> Option<(&ModelInput, &FeatureOptions)> {
        match self {
            Self::Extract(ExtractJob { input, options, .. })
            | Self::EmbedImage(EmbedImageJob { input, options, .. }) => Some((input, options)),
            Self::Score(ScoreJob {
                input: FeatureInput::Pixels(input),
                options,
                ..
            }) => Some((input, &options.features)),
            Self::Score(ScoreJob {
                input: FeatureInput::Cached { .. },
                ..
            })
            | Self::Similar(_)
            | Self::Embed(_) => None,
        }
    }

    fn workload(&self) -> Workload {
        match self {
            Self::Extract(job) => job.ticket.workload,
            Self::EmbedImage(job) => job.ticket.workload,
            Self::Score(job) => job.ticket.workload,
            Self::Similar(job) => job.ticket.workload,
            Self::Embed(job) => job.ticket.workload,
        }
    }

    /// Returns the shape of the pass that the job needs, or `None` if the job needs no pass.
    fn shape(&self) -> Option<PassShape> {
        self.pixels().map(|(input, options)| PassShape::of(input, options))
    }

    fn is_wanted(&self) -> bool {
        match self {
            Self::Extract(job) => job.ticket.is_wanted(),
            Self::EmbedImage(job) => job.ticket.is_wanted(),
            Self::Score(job) => job.ticket.is_wanted(),
            Self::Similar(job) => job.ticket.is_wanted(),
            Self::Embed(job) => job.ticket.is_wanted() && job.interest.urgency() > Urgency::Nobody,
        }
    }

    /// Answers a job that no worker will do.
    pub fn refuse(mut self) {
        match &mut self {
            Self::Extract(job) => job.ticket.reply(Err(JobError::Refused)),
            Self::EmbedImage(job) => job.ticket.reply(Err(JobError::Refused)),
            Self::Score(job) => job.ticket.reply(Err(JobError::Refused)),
            Self::Similar(job) => job.ticket.reply(Err(JobError::Refused)),
            Self::Embed(job) => job.ticket.reply(Err(JobError::Refused)),
        }
    }

    fn begin(&mut self) {
        match self {
            Self::Extract(job) => job.ticket.begin(),
            Self::EmbedImage(job) => job.ticket.begin(),
            Self::Score(job) => job.ticket.begin(),
            Self::Similar(job) => job.ticket.begin(),
            Self::Embed(job) => job.ticket.begin(),
        }
    }

    /// Finishes a job with the features of its pixels: sends them, or the scores computed from them.
    fn finish(
        &mut self,
        context: &JobContext,
        labeller: &mut dyn Labeller,
        features: Result<Arc<dyn ImageFeatures>, LabellerError>,
    ) {
        match self {
            Self::Extract(job) => job.ticket.answer(features),
            Self::EmbedImage(job) => job.ticket.answer(features.and_then(|features| features.pooled())),
            Self::Score(ScoreJob {
                input: FeatureInput::Pixels(input),
                classifier,
                options,
                ticket,
            }) => {
                let score = |features| score(context, labeller, features, Some(input), (classifier, options), ticket);
                let scored = features.and_then(score);
                ticket.answer(scored);
            }
            Self::Score(_) | Self::Similar(_) | Self::Embed(_) => unreachable!("a job without pixels shares no pass"),
        }
    }
}

impl Queued for Job {
    fn turn(&self) -> Turn {
        match self {
            _ if !self.is_wanted() => Turn::Unwanted,
            Self::Extract(_) | Self::EmbedImage(_) | Self::Score(_) | Self::Similar(_) => Turn::Image,
            Self::Embed(job) if job.interest.urgency() == Urgency::Request => Turn::Texts,
            Self::Embed(_) => Turn::TextsAhead,
        }
    }

    fn caller(&self) -> &Caller {
        match self {
            Self::Extract(job) => &job.ticket.caller,
            Self::EmbedImage(job) => &job.ticket.caller,
            Self::Score(job) => &job.ticket.caller,
            Self::Similar(job) => &job.ticket.caller,
            Self::Embed(job) => &job.ticket.caller,
        }
    }
}

/// Scores an image's features and refines the scores, as long as somebody waits for the answer.
fn score(
    context: &JobContext,
    labeller: &mut dyn Labeller,
    features: Arc<dyn ImageFeatures>,
    input: Option<&ModelInput>,
    (classifier, options): (&Classifier, &DenseOptions),
    ticket: &Ticket<Scored>,
) -> Result<Scored, LabellerError> {
    let stop = || !ticket.is_wanted();
    let amount = |part| ticket.workload.amount(part);
    let mut scores = timed(context, Part::Scores, amount(Part::Scores), || {
        features.score(classifier, &options.scoring, &stop)
    })?;
    let part = Part::of_refinement(options.refinement.refinement());
    if let (Some(input), Some(part)) = (input, part) {
        scores.map = timed(context, part, amount(part), || {
            labeller.refine(scores.map, input, classifier, &options.refinement, &stop)
        })?;
    }
    Ok(Scored { scores, features })
}
