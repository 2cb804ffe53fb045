//! Text embeddings through the worker queue.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use super::queue::JobQueue;
use super::slots::Slot;
use super::worker::{EmbedJob, Job};
use crate::vocabulary::{EmbeddingError, TemplateSet, TextEmbedder};

/// Embeds chunks of texts on a worker. Holds its request's slot for as long as the store works with
/// it, so that texts that outlive their request still count against `engine.queue_capacity`.
pub struct QueueEmbedder {
    /// The workers' queue.
    pub queue: Arc<JobQueue<Job>>,
    /// The slot of the request that asked first.
    pub slot: Arc<Slot>,
}

impl TextEmbedder for QueueEmbedder {
    fn embed(&self, texts: Vec<String>, templates: TemplateSet) -> BoxFuture<'static, Result<Vec<Vec<f32>>, EmbeddingError>> {
        let (reply, answer) = oneshot::channel();
        let job = Job::Embed(EmbedJob { texts, templates, reply, slot: Arc::clone(&self.slot) });
        let pushed = self.queue.push(job).is_ok();
        Box::pin(async move {
            if !pushed {
                return Err(EmbeddingError::new("the server is going down"));
            }
            match answer.await {
                Ok(embeddings) => embeddings.map_err(|error| EmbeddingError::new(error.to_string())),
                Err(_) => Err(EmbeddingError::new("the worker stopped while it embedded texts")),
            }
        })
    }
}
