//! The work of a worker thread: how a model answers jobs.
//!
//! libtorch calls block and its tensors are not `Sync`, so models live on their own threads, never on the async pool. A
//! worker catches a panic at the edge of the job, because tch panics where libtorch throws. A panic of a pass that
//! several images share says nothing about each of them, so each is then tried alone with the same model. A panic over
//! one job alone ends the model's life; [`supervision`](super::supervision) then loads it again.
//!
//! Jobs are answered in the order of the queue, with one exception: a waiting image may share the pass of an earlier
//! image of the same shape and caller, if [`batching`](super::batching) has found that to be faster.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::batching::Batching;
use super::estimate::{Part, ServiceTimes};
use super::job::{AnyTicket, FeatureInput, Job, ScoreJob, Scored, Ticket};
use super::metrics::EngineMetrics;
use super::queue::{JobQueue, Queued};
use crate::dense::DenseOptions;
use crate::image::ModelInput;
use crate::labeller::{ImageFeatures, Labeller, LabellerError};
use crate::support::catch_panic;
use crate::telemetry::first_line;
use crate::vocabulary::Classifier;

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
    jobs.iter_mut().for_each(|job| job.ticket_mut().begin());
    let start = Instant::now();
    let images = jobs.len();
    if images > 1 {
        if let Some(features) = shared_features(context, labeller, jobs.make_contiguous()) {
            batching.record(shape, images, start.elapsed());
            for features in features {
                finish(&mut jobs[0], context, labeller, Ok(features));
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
    finish(&mut jobs[0], context, labeller, features);
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
        finish(job, context, labeller, features);
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
    let amount = jobs.iter().map(|job| job.ticket().amount(Part::Features)).sum();
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
    job.ticket_mut().begin();
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

/// Finishes a job with the features of its pixels: sends them, or the scores computed from them.
fn finish(
    job: &mut Job,
    context: &JobContext,
    labeller: &mut dyn Labeller,
    features: Result<Arc<dyn ImageFeatures>, LabellerError>,
) {
    match job {
        Job::Extract(job) => job.ticket.answer(features),
        Job::EmbedImage(job) => job.ticket.answer(features.and_then(|features| features.pooled())),
        Job::Score(ScoreJob {
            input: FeatureInput::Pixels(input),
            classifier,
            options,
            ticket,
        }) => {
            let score = |features| score(context, labeller, features, Some(input), (classifier, options), ticket);
            let scored = features.and_then(score);
            ticket.answer(scored);
        }
        Job::Score(_) | Job::Similar(_) | Job::Embed(_) => unreachable!("a job without pixels shares no pass"),
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
    let amount = |part| ticket.amount(part);
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
