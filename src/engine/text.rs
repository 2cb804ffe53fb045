//! Text embeddings: what is not held is computed on a worker.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::queue::JobQueue;
use super::request::SegmentError;
use super::slots::Slot;
use super::worker::{EmbedJob, Job};
use super::{Engine, ModelInfo};
use crate::vocabulary::{
    ClassList, EmbeddingError, EmbeddingFuture, EmbeddingSpace, TemplateSet, TextEmbedder, TextEmbedding,
};

impl Engine {
    /// The embeddings of a class list's texts, in the order of [`ClassList::texts`].
    pub(super) async fn embed(
        &self,
        list: &ClassList,
        templates: TemplateSet,
        model: &ModelInfo,
        slot: &Arc<Slot>,
    ) -> Result<Vec<TextEmbedding>, EmbeddingError> {
        let embedder = QueueEmbedder {
            queue: Arc::clone(&self.queue),
            slot: Arc::clone(slot),
        };
        self.embeddings
            .resolve(&embedding_space(model, templates), &list.texts(), Arc::new(embedder))
            .await
    }

    /// Embeds a class list's texts before they are needed; what is held already is not computed again.
    ///
    /// # Errors
    /// When no worker is ready, the engine has no slot free, or the model fails.
    pub async fn embed_ahead(&self, list: &ClassList, templates: TemplateSet) -> Result<(), SegmentError> {
        let (model, slot) = (self.ready_model()?, self.take_slot()?);
        self.embed(list, templates, &model, &slot).await?;
        Ok(())
    }

    /// How many of a class list's texts are embedded for a model, in memory or on disk, and how many there are.
    pub async fn embedded(&self, model: &ModelInfo, list: &ClassList, templates: TemplateSet) -> (usize, usize) {
        let texts = list.texts();
        let space = embedding_space(model, templates);
        (self.embeddings.embedded(&space, &texts).await, texts.len())
    }
}

fn embedding_space(model: &ModelInfo, templates: TemplateSet) -> EmbeddingSpace {
    EmbeddingSpace {
        weights_sha256: model.weights_sha256.as_str().into(),
        precision: model.precision.name(),
        templates,
    }
}

/// Embeds texts on a worker. Holds its request's slot for as long as the store works with it, so
/// that texts that outlive their request still count against `engine.queue_capacity`.
struct QueueEmbedder {
    queue: Arc<JobQueue<Job>>,
    slot: Arc<Slot>,
}

impl TextEmbedder for QueueEmbedder {
    fn embed(&self, texts: Vec<String>, templates: TemplateSet) -> EmbeddingFuture<'_> {
        let (reply, answer) = oneshot::channel();
        let job = Job::Embed(EmbedJob {
            texts,
            templates,
            reply,
            _slot: Arc::clone(&self.slot),
        });
        let pushed = self.queue.push(job);
        Box::pin(async move {
            if pushed.is_err() {
                return Err(EmbeddingError::Unavailable("the server is going down"));
            }
            match answer.await {
                Ok(embeddings) => embeddings.map_err(|error| EmbeddingError::Failed(error.to_string())),
                // The worker panicked, and its channels with it.
                Err(_) => Err(EmbeddingError::Interrupted),
            }
        })
    }
}

impl From<EmbeddingError> for SegmentError {
    fn from(error: EmbeddingError) -> Self {
        match error {
            EmbeddingError::Unavailable(reason) => Self::Unavailable(reason),
            EmbeddingError::Failed(_) | EmbeddingError::Interrupted => Self::Internal(error.to_string()),
        }
    }
}
