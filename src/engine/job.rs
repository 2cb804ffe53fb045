//! Jobs for the workers of a model, and the tickets by which the requests behind them wait for the answers.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::batching::PassShape;
use super::budget::HeldBytes;
use super::caller::Caller;
use super::estimate::{Part, Workload};
use super::queue::{Queued, Turn};
use super::slots::Slot;
use crate::dense::{DenseOptions, FeatureOptions};
use crate::image::ModelInput;
use crate::labeller::{ImageFeatures, LabellerError};
use crate::scores::{DenseScores, ScoreMap};
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

impl Job {
    /// Returns the pixels that the model must process and the options for it, or `None` if the job needs no pass.
    pub(super) fn pixels(&self) -> Option<(&ModelInput, &FeatureOptions)> {
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

    /// Returns the shape of the pass that the job needs, or `None` if the job needs no pass.
    pub(super) fn shape(&self) -> Option<PassShape> {
        self.pixels().map(|(input, options)| PassShape::of(input, options))
    }

    /// Returns whether somebody still waits for the answer, and, of texts, whether anybody is interested in them.
    pub(super) fn is_wanted(&self) -> bool {
        let is_of_interest = match self {
            Self::Embed(job) => job.interest.urgency() > Urgency::Nobody,
            Self::Extract(_) | Self::EmbedImage(_) | Self::Score(_) | Self::Similar(_) => true,
        };
        self.ticket().is_wanted() && is_of_interest
    }

    /// Returns the job's ticket.
    pub(super) fn ticket(&self) -> &dyn AnyTicket {
        match self {
            Self::Extract(job) => &job.ticket,
            Self::EmbedImage(job) => &job.ticket,
            Self::Score(job) => &job.ticket,
            Self::Similar(job) => &job.ticket,
            Self::Embed(job) => &job.ticket,
        }
    }

    /// Returns the job's ticket to change it.
    pub(super) fn ticket_mut(&mut self) -> &mut dyn AnyTicket {
        match self {
            Self::Extract(job) => &mut job.ticket,
            Self::EmbedImage(job) => &mut job.ticket,
            Self::Score(job) => &mut job.ticket,
            Self::Similar(job) => &mut job.ticket,
            Self::Embed(job) => &mut job.ticket,
        }
    }

    /// Answers a job that no worker will do.
    pub fn refuse(mut self) {
        self.ticket_mut().refuse();
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
        self.ticket().caller()
    }
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

    /// Sends the answer. Releases the job's hold on the slot first, so that whoever gets the answer finds the slot
    /// free.
    pub(super) fn answer(&mut self, answer: Result<T, LabellerError>) {
        self.reply(answer.map_err(JobError::Failed));
    }

    fn reply(&mut self, answer: Result<T, JobError>) {
        self.held_slot = None;
        if let Some(reply) = self.reply.take() {
            // Here and below, sending fails only if the receiver is gone and nobody wants the message.
            let _ = reply.send(answer);
        }
    }
}

/// What a ticket knows and does whatever its answer is.
pub(super) trait AnyTicket {
    /// Returns whose job it is.
    fn caller(&self) -> &Caller;

    /// Returns whether somebody still waits for the answer.
    fn is_wanted(&self) -> bool;

    /// Returns how much of a part the job's request has to do.
    fn amount(&self, part: Part) -> f64;

    /// Tells the request that its job has started.
    fn begin(&mut self);

    /// Answers that no worker will do the job.
    fn refuse(&mut self);
}

impl<T> AnyTicket for Ticket<T> {
    fn caller(&self) -> &Caller {
        &self.caller
    }

    fn is_wanted(&self) -> bool {
        self.reply.as_ref().is_some_and(|reply| !reply.is_closed())
    }

    fn amount(&self, part: Part) -> f64 {
        self.workload.amount(part)
    }

    fn begin(&mut self) {
        self.held_slot = self.slot.upgrade();
        if let Some(started) = self.started.take() {
            let _ = started.send(self.queued.elapsed());
        }
    }

    fn refuse(&mut self) {
        self.reply(Err(JobError::Refused));
    }
}
