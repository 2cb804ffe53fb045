//! Text embeddings, each computed once: held in memory, and on disk below it when there is a [`DiskStore`].
//!
//! Owns which embeddings are held in memory, for how long, and that two requests for one unseen text share its
//! computation. The work outlives whoever asked for it: a request that is dropped leaves a text embedded for the next
//! one. Leaves the computing to a [`TextEmbedder`], and deadlines to the caller. A disk that fails costs time, never an
//! answer.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use tokio::sync::watch;

use super::TemplateSet;
use super::disk::DiskStore;
use super::embedding::{EmbeddingKey, EmbeddingSpace, TextEmbedding};
use crate::support::{ByteLru, run_blocking};

/// Tokens beyond their templates' own that a chunk of texts may come to: what is handed to the embedder at once, so that
/// images get their turn between the chunks of a long vocabulary. A chunk is some 20 class names in 85 templates, or 1,800
/// in one.
const CHUNK_TOKENS: usize = 16_384;

/// What [`TextEmbedder::embed`] promises: one embedding per text, in the texts' order.
pub type EmbeddingFuture<'a> = Pin<Box<dyn Future<Output = Result<Vec<TextEmbedding>, EmbeddingError>> + Send + 'a>>;

/// Something that computes text embeddings of one model.
pub trait TextEmbedder: Send + Sync + 'static {
    /// Embeds a few texts in one go.
    fn embed(&self, texts: Vec<String>, templates: TemplateSet) -> EmbeddingFuture<'_>;
}

/// Why there are no embeddings. The same error goes to everybody who waited for the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddingError {
    /// There is no worker to compute them.
    #[error("{0}")]
    Unavailable(&'static str),
    /// The model failed; the log has the detail.
    #[error("the texts could not be embedded: {0}")]
    Failed(String),
    /// The computation ended without a result: it panicked, or the server is going down.
    #[error("embedding the texts was interrupted")]
    Interrupted,
}

/// What the store has done and holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreStatistics {
    /// Texts asked for that were held in memory, or on their way for another request, since the start.
    pub hits: u64,
    /// Texts asked for that were on disk, since the start.
    pub disk_hits: u64,
    /// Texts asked for that had to be computed, since the start.
    pub misses: u64,
    /// Texts held in memory now.
    pub texts: usize,
    /// Bytes they take with their index, estimated.
    pub bytes: u64,
    /// Bytes of the file on disk.
    pub disk_bytes: u64,
}

/// The store. Cheap to share, see [`EmbeddingStore::resolve`].
#[derive(Debug)]
pub struct EmbeddingStore {
    disk: Option<Arc<DiskStore>>,
    hits: AtomicU64,
    disk_hits: AtomicU64,
    misses: AtomicU64,
    state: Mutex<State>,
}

/// Held and pending change together, so that a text is never computed twice nor missed.
#[derive(Debug)]
struct State {
    held: ByteLru<EmbeddingKey, TextEmbedding>,
    pending: HashMap<EmbeddingKey, watch::Receiver<Option<EmbeddingResult>>>,
}

type EmbeddingResult = Result<TextEmbedding, EmbeddingError>;

/// A text as [`EmbeddingStore::resolve`] finds it.
enum Found {
    Held(TextEmbedding),
    Pending(watch::Receiver<Option<EmbeddingResult>>),
}

impl EmbeddingStore {
    /// A store that holds at most this many bytes in memory, where the least recently used texts go first, and knows
    /// what is on disk.
    pub fn new(capacity_bytes: u64, disk: Option<Arc<DiskStore>>) -> Arc<Self> {
        Arc::new(Self {
            disk,
            hits: AtomicU64::new(0),
            disk_hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            state: Mutex::new(State {
                held: ByteLru::new(capacity_bytes),
                pending: HashMap::new(),
            }),
        })
    }

    /// The embeddings of some texts, in their order. Texts that are neither held nor on their way are read from the disk
    /// or, chunk by chunk, computed by `embedder`, in a task of their own: dropping this future does not stop it.
    ///
    /// Call it inside a tokio runtime.
    ///
    /// # Errors
    /// When a computation that one of the texts needs fails. What had been computed by
    /// then is held, nothing else is left behind.
    pub async fn resolve(
        self: &Arc<Self>,
        space: &EmbeddingSpace,
        texts: &[String],
        embedder: Arc<dyn TextEmbedder>,
    ) -> Result<Vec<TextEmbedding>, EmbeddingError> {
        let (found, claims) = self.find(space, texts);
        if !claims.is_empty() {
            tokio::spawn(provide(Arc::clone(self), claims, space.templates, embedder));
        }
        let mut embeddings = Vec::with_capacity(found.len());
        for text in found {
            embeddings.push(match text {
                Found::Held(embedding) => embedding,
                Found::Pending(mut receiver) => match receiver.wait_for(Option::is_some).await {
                    Ok(outcome) => outcome.clone().expect("it was waited for")?,
                    Err(_) => return Err(EmbeddingError::Interrupted),
                },
            });
        }
        Ok(embeddings)
    }

    /// How many of the texts are held in memory or on disk. Asking does not count as use.
    pub async fn embedded(&self, space: &EmbeddingSpace, texts: &[String]) -> usize {
        let mut missing: Vec<EmbeddingKey> = texts.iter().map(|text| EmbeddingKey::new(space, text)).collect();
        {
            let state = self.state();
            missing.retain(|key| !state.held.contains(key));
        }
        let held = texts.len() - missing.len();
        match self.disk.clone() {
            Some(disk) if !missing.is_empty() => held + run_blocking(move || disk.count(&missing)).await.unwrap_or(0),
            _ => held,
        }
    }

    /// What the store has done and holds.
    pub fn statistics(&self) -> StoreStatistics {
        let state = self.state();
        StoreStatistics {
            hits: self.hits.load(Ordering::Relaxed),
            disk_hits: self.disk_hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            texts: state.held.len(),
            bytes: state.held.bytes(),
            disk_bytes: self.disk.as_ref().map_or(0, |disk| disk.bytes()),
        }
    }

    /// Finds every text and claims those that nobody provides yet.
    fn find(self: &Arc<Self>, space: &EmbeddingSpace, texts: &[String]) -> (Vec<Found>, Vec<Claim>) {
        let mut state = self.state();
        let mut found = Vec::with_capacity(texts.len());
        let mut claims = Vec::new();
        for text in texts {
            let key = EmbeddingKey::new(space, text);
            if let Some(embedding) = state.held.get(&key) {
                found.push(Found::Held(embedding.clone()));
            } else if let Some(receiver) = state.pending.get(&key) {
                found.push(Found::Pending(receiver.clone()));
            } else {
                let (sender, receiver) = watch::channel(None);
                state.pending.insert(key.clone(), receiver.clone());
                found.push(Found::Pending(receiver));
                claims.push(Claim {
                    store: self.clone(),
                    key,
                    sender,
                });
            }
        }
        drop(state);
        self.hits
            .fetch_add((found.len() - claims.len()) as u64, Ordering::Relaxed);
        (found, claims)
    }

    fn hold(&self, key: EmbeddingKey, embedding: TextEmbedding) {
        let bytes = entry_bytes(&key, &embedding);
        self.state().held.insert(key, embedding, bytes);
    }

    /// Settles the claims whose texts are on disk; gives back the others.
    async fn settle_from_disk(&self, claims: Vec<Claim>) -> Vec<Claim> {
        let Some(disk) = self.disk.clone() else {
            return claims;
        };
        let keys: Vec<EmbeddingKey> = claims.iter().map(|claim| claim.key.clone()).collect();
        let read = run_blocking(move || disk.read(&keys, SystemTime::now())).await;
        let read = read.unwrap_or_else(|error| {
            tracing::warn!(%error, "the store on disk cannot be read");
            vec![None; claims.len()]
        });
        let mut others = Vec::new();
        for (claim, embedding) in claims.into_iter().zip(read) {
            match embedding {
                Some(embedding) => {
                    self.disk_hits.fetch_add(1, Ordering::Relaxed);
                    claim.settle(Ok(embedding));
                }
                None => others.push(claim),
            }
        }
        others
    }

    /// Settles a chunk with its embeddings once they are on disk: what is said to be embedded outlives the process.
    async fn settle_and_keep(&self, chunk: Vec<Claim>, embeddings: Vec<TextEmbedding>) {
        if let Some(disk) = self.disk.clone() {
            let keys = chunk.iter().map(|claim| claim.key.clone());
            let entries: Vec<_> = keys.zip(embeddings.iter().cloned()).collect();
            if let Err(error) = run_blocking(move || disk.write(&entries, SystemTime::now())).await {
                tracing::warn!(%error, "text embeddings could not be written to disk");
            }
        }
        for (claim, embedding) in chunk.into_iter().zip(embeddings) {
            claim.settle(Ok(embedding));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it has the store's lock")
    }
}

/// Bytes of an entry with its text and its floats.
fn entry_bytes(key: &EmbeddingKey, embedding: &TextEmbedding) -> u64 {
    ByteLru::<EmbeddingKey, TextEmbedding>::entry_bytes(key.text.len() + size_of_val(&*embedding.vector))
}

/// The duty to provide a text. While it lives the text is pending; when it goes, whatever the reason, it is not.
struct Claim {
    store: Arc<EmbeddingStore>,
    key: EmbeddingKey,
    sender: watch::Sender<Option<EmbeddingResult>>,
}

impl Claim {
    fn settle(self, outcome: EmbeddingResult) {
        if let Ok(embedding) = &outcome {
            // Before it stops being pending, so that nobody finds it missing in between.
            self.store.hold(self.key.clone(), embedding.clone());
        }
        self.sender.send_replace(Some(outcome));
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.store.state().pending.remove(&self.key);
    }
}

/// Provides what all claims are for, from the disk or by computing it, chunk by chunk; the first failure ends them all.
async fn provide(
    store: Arc<EmbeddingStore>,
    claims: Vec<Claim>,
    templates: TemplateSet,
    embedder: Arc<dyn TextEmbedder>,
) {
    let mut claims = store.settle_from_disk(claims).await;
    store.misses.fetch_add(claims.len() as u64, Ordering::Relaxed);
    while !claims.is_empty() {
        let rest = claims.split_off(chunk_length(claims.iter().map(|claim| &*claim.key.text), templates));
        let chunk = std::mem::replace(&mut claims, rest);
        let texts = chunk.iter().map(|claim| claim.key.text.clone()).collect();
        match embedder.embed(texts, templates).await {
            Ok(embeddings) if embeddings.len() == chunk.len() => store.settle_and_keep(chunk, embeddings).await,
            Ok(embeddings) => {
                let error = format!("{} embeddings came back for {} texts", embeddings.len(), chunk.len());
                return fail(chunk, claims, &EmbeddingError::Failed(error));
            }
            Err(error) => return fail(chunk, claims, &error),
        }
    }
}

/// How many of the texts go into the next chunk, at least one.
fn chunk_length<'a>(texts: impl Iterator<Item = &'a str>, templates: TemplateSet) -> usize {
    // No token is shorter than a byte; a prompt has about two more for what ends its sentence.
    let most_tokens = |text: &str| templates.templates().len() * (text.len() + 2);
    let totals = texts.scan(0, |total, text| {
        *total += most_tokens(text);
        Some(*total)
    });
    totals.take_while(|total| *total <= CHUNK_TOKENS).count().max(1)
}

fn fail(chunk: Vec<Claim>, rest: Vec<Claim>, error: &EmbeddingError) {
    tracing::warn!(%error, texts = chunk.len() + rest.len(), "texts were not embedded");
    chunk
        .into_iter()
        .chain(rest)
        .for_each(|claim| claim.settle(Err(error.clone())));
}

#[cfg(test)]
mod tests;
