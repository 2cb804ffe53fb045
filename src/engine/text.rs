//! Text embeddings. Workers compute those that are not cached.

use std::sync::{Arc, Weak};

use super::admitted::model_failed;
use super::estimate::Workload;
use super::host::ModelHost;
use super::job::{EmbedJob, Job, JobError, Ticket};
use super::model_state::ModelState;
use super::queue::JobQueue;
use super::request::{EngineError, SegmentFields};
use super::{Caller, Engine};
use crate::labeller::ModelInfo;
use crate::vocabulary::{
    ClassList, EmbeddedTexts, EmbeddingError, EmbeddingFuture, EmbeddingSpace, Interest, TemplateSet, TextEmbedder,
    TooManyWaiting, Urgency,
};

impl Engine {
    /// Returns the embeddings of texts for a caller and a model. Texts that wait to be embedded hold no slot.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] or [`EngineError::ModelUnavailable`] when no worker can compute them,
    /// [`EngineError::TooManyTexts`] when there is no room for them, [`EngineError::Internal`] when the model fails.
    pub(super) async fn embed(
        &self,
        caller: &Caller,
        texts: &[String],
        templates: TemplateSet,
        host: &ModelHost,
        model: &ModelInfo,
        urgency: Urgency,
    ) -> Result<EmbeddedTexts, EngineError> {
        let mut embeddings = EmbeddedTexts::new();
        for (space, texts) in spaces(model, templates, texts) {
            let embedder = Arc::new(QueueEmbedder {
                caller: caller.clone(),
                queue: Arc::clone(&host.queue),
            });
            let resolve = || self.embeddings.resolve(&space, &texts, embedder.clone(), urgency);
            let mut resolved = resolve().await;
            // A model with the same text tower had promised some of the texts, and is down now.
            if matches!(resolved, Err(EmbeddingError::Unavailable(_))) && host.state() == ModelState::Ready {
                resolved = resolve().await;
            }
            let resolved = resolved.map_err(|error| match error {
                EmbeddingError::Unavailable(_) => self.unavailable(host),
                EmbeddingError::TooManyWaiting(error) => error.into(),
                EmbeddingError::Failed(_) | EmbeddingError::Interrupted => model_failed(&host.name, &error.to_string()),
            })?;
            embeddings.extend(texts.into_iter().zip(resolved));
        }
        Ok(embeddings)
    }

    /// Embeds the texts of a class list for a model ahead of the first request, when no request waits for others.
    /// Cached embeddings are not computed again.
    ///
    /// # Errors
    /// When no model has that name, none of its workers is ready, more texts are new than may wait, or the model fails.
    pub async fn embed_ahead(&self, model: &str, list: &ClassList, templates: TemplateSet) -> Result<(), EngineError> {
        let host = self.host(model)?;
        let model = self.ready_model(host)?;
        let texts = list.texts();
        self.embed(&Caller::default(), &texts, templates, host, &model, Urgency::Background)
            .await?;
        Ok(())
    }

    /// Embeds the texts of a request of the caller without a name ahead of its images, so that no image waits for them.
    ///
    /// # Errors
    /// The same as [`Engine::segment`], except for errors about the image.
    pub async fn embed_for(&self, fields: &SegmentFields) -> Result<(), EngineError> {
        let host = self.find_host(fields.features.model.as_deref())?;
        let vocabulary = self.find_vocabulary(&Caller::default(), fields.choice()?).await?;
        let options = fields.resolve(self.surroundings(host), &vocabulary.options)?;
        let background = options.background.names.as_deref();
        let list = self.class_list(&Caller::default(), vocabulary, background, options.templates)?;
        self.embed_ahead(&host.name, &list, options.templates).await
    }

    /// Returns how many of some texts a model has no embeddings for, neither in memory nor on disk.
    pub(super) async fn missing_texts(&self, model: &ModelInfo, texts: &[String], templates: TemplateSet) -> usize {
        let mut missing = texts.len();
        for (space, texts) in spaces(model, templates, texts) {
            missing -= self.embeddings.embedded(&space, &texts).await;
        }
        missing
    }

    /// Returns how many texts of a class list have embeddings for a model, in memory or on disk, and how many texts
    /// there are.
    pub async fn embedded(&self, model: &ModelInfo, list: &ClassList, templates: TemplateSet) -> (usize, usize) {
        let all = list.texts();
        let missing = self.missing_texts(model, &all, templates).await;
        (all.len() - missing, all.len())
    }
}

/// Groups texts by the weights that embed them. The text tower embeds most texts, and a student shares these embeddings
/// with its teacher. A student's own weights embed the text of a learned background.
fn spaces(
    model: &ModelInfo,
    templates: TemplateSet,
    texts: &[String],
) -> impl Iterator<Item = (EmbeddingSpace, Vec<String>)> {
    let (own, towers): (Vec<_>, Vec<_>) = texts.iter().cloned().partition(|text| model.has_own_embedding(text));
    let tower = model.text_tower();
    let space = |weights_sha256: &str, variant: &str| EmbeddingSpace {
        weights_sha256: weights_sha256.into(),
        precision: tower.precision.name(),
        variant: variant.into(),
        templates,
        dimension: model.embedding_dimension,
    };
    let spaces = [
        (space(tower.weights_sha256, tower.variant), towers),
        (space(&model.weights_sha256, ""), own),
    ];
    spaces.into_iter().filter(|(_, texts)| !texts.is_empty())
}

/// Embeds texts on a worker.
struct QueueEmbedder {
    /// For whom. Others who want the same texts get them with this caller's turns.
    caller: Caller,
    queue: Arc<JobQueue<Job>>,
}

impl TextEmbedder for QueueEmbedder {
    fn embed(&self, texts: Vec<String>, templates: TemplateSet, interest: Interest) -> EmbeddingFuture<'_> {
        let (ticket, waiting) = Ticket::new(self.caller.clone(), Weak::new(), None, Workload::default());
        let job = Job::Embed(EmbedJob {
            texts,
            templates,
            interest,
            ticket,
        });
        let pushed = self.queue.push(job);
        Box::pin(async move {
            if pushed.is_err() {
                return Err(EmbeddingError::Unavailable("no worker can embed texts"));
            }
            match waiting.answer.await {
                Ok(Ok(embeddings)) => Ok(embeddings),
                Ok(Err(JobError::Failed(error))) => Err(EmbeddingError::Failed(error.to_string())),
                Ok(Err(JobError::Refused)) => Err(EmbeddingError::Unavailable("no worker can embed texts")),
                // The worker panicked and dropped the reply's channel.
                Err(_) => Err(EmbeddingError::Interrupted),
            }
        })
    }
}

impl From<TooManyWaiting> for EngineError {
    fn from(error: TooManyWaiting) -> Self {
        Self::TooManyTexts {
            error,
            retry_seconds: 1,
        }
    }
}
