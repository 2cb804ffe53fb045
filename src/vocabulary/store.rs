//! Text embeddings held in memory, each computed once.
//!
//! Owns which embeddings are held, for how long, and that two requests for one unseen text share its computation. The
//! work outlives whoever asked for it: a request that is dropped leaves a text embedded for the next one. Leaves the
//! computing to a [`TextEmbedder`], and deadlines to the caller.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use lru::LruCache;
use tokio::sync::watch;

use super::TemplateSet;

/// Texts handed to the embedder at once: few, so that images get their turn between the chunks of a long vocabulary.
const CHUNK_TEXTS: usize = 16;

/// What a text embedding belongs to beside its text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EmbeddingSpace {
    /// SHA-256 of the model's weights file, lower-case hexadecimal.
    pub weights_sha256: Arc<str>,
    /// The prompts each text is put into.
    pub templates: TemplateSet,
}

/// What [`TextEmbedder::embed`] promises: one unit embedding per text, in the texts' order.
pub type EmbeddingFuture<'a> = Pin<Box<dyn Future<Output = Result<Vec<Vec<f32>>, EmbeddingError>> + Send + 'a>>;

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
    /// Texts asked for that were held, since the start.
    pub hits: u64,
    /// Texts asked for that had to be computed or waited for, since the start.
    pub misses: u64,
    /// Texts held now.
    pub texts: usize,
    /// Bytes they take with their index, estimated.
    pub bytes: u64,
}

/// The store. Cheap to share, see [`EmbeddingStore::resolve`].
#[derive(Debug)]
pub struct EmbeddingStore {
    capacity_bytes: u64,
    hits: AtomicU64,
    misses: AtomicU64,
    state: Mutex<State>,
}

/// Held and pending change together, so that a text is never computed twice nor missed.
#[derive(Debug)]
struct State {
    /// Bounded by `bytes`, not by count.
    held: LruCache<Key, Arc<[f32]>>,
    bytes: u64,
    pending: HashMap<Key, watch::Receiver<Option<Outcome>>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    space: EmbeddingSpace,
    text: String,
}

type Outcome = Result<Arc<[f32]>, EmbeddingError>;

/// A text as [`EmbeddingStore::resolve`] finds it.
enum Found {
    Held(Arc<[f32]>),
    Pending(watch::Receiver<Option<Outcome>>),
}

impl EmbeddingStore {
    /// An empty store that holds at most this many bytes; the least recently used texts go first.
    pub fn new(capacity_bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            capacity_bytes,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            state: Mutex::new(State {
                held: LruCache::unbounded(),
                bytes: 0,
                pending: HashMap::new(),
            }),
        })
    }

    /// The embeddings of some texts, in their order. Texts that are neither held nor being computed are computed by
    /// `embedder` in a task of their own, chunk by chunk: dropping this future does not stop it.
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
    ) -> Result<Vec<Arc<[f32]>>, EmbeddingError> {
        let (found, claims) = self.find(space, texts);
        if !claims.is_empty() {
            tokio::spawn(compute(claims, space.templates, embedder));
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

    /// How many of the texts are held. Asking does not count as use.
    pub fn embedded(&self, space: &EmbeddingSpace, texts: &[String]) -> usize {
        let state = self.state();
        texts
            .iter()
            .filter(|text| state.held.contains(&Key::new(space, text)))
            .count()
    }

    /// What the store has done and holds.
    pub fn statistics(&self) -> StoreStatistics {
        let state = self.state();
        StoreStatistics {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            texts: state.held.len(),
            bytes: state.bytes,
        }
    }

    /// Finds every text and claims those that nobody computes yet.
    fn find(self: &Arc<Self>, space: &EmbeddingSpace, texts: &[String]) -> (Vec<Found>, Vec<Claim>) {
        let mut state = self.state();
        let mut found = Vec::with_capacity(texts.len());
        let mut claims = Vec::new();
        for text in texts {
            let key = Key::new(space, text);
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
        let hits = found.iter().filter(|text| matches!(text, Found::Held(_))).count() as u64;
        self.hits.fetch_add(hits, Ordering::Relaxed);
        self.misses.fetch_add(found.len() as u64 - hits, Ordering::Relaxed);
        (found, claims)
    }

    fn hold(&self, key: Key, embedding: Arc<[f32]>) {
        let mut state = self.state();
        state.bytes += key.bytes_with(&embedding);
        state.held.put(key, embedding);
        while state.bytes > self.capacity_bytes
            && let Some((key, embedding)) = state.held.pop_lru()
        {
            state.bytes -= key.bytes_with(&embedding);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it has the store's lock")
    }
}

impl Key {
    fn new(space: &EmbeddingSpace, text: &str) -> Self {
        Self {
            space: space.clone(),
            text: text.to_owned(),
        }
    }

    /// Bytes of an entry: its text, its floats, and its part of the index with two links and a hash table's slot.
    fn bytes_with(&self, embedding: &[f32]) -> u64 {
        let index = size_of::<(Key, Arc<[f32]>)>() + 4 * size_of::<usize>();
        (index + self.text.len() + size_of_val(embedding)) as u64
    }
}

/// The duty to compute a text. While it lives the text is pending; when it goes, whatever the reason, it is not.
struct Claim {
    store: Arc<EmbeddingStore>,
    key: Key,
    sender: watch::Sender<Option<Outcome>>,
}

impl Claim {
    fn settle(self, outcome: Result<Vec<f32>, EmbeddingError>) {
        let outcome = outcome.map(Arc::<[f32]>::from);
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

/// Computes all claims, chunk by chunk; the first failure ends them all.
async fn compute(mut claims: Vec<Claim>, templates: TemplateSet, embedder: Arc<dyn TextEmbedder>) {
    while !claims.is_empty() {
        let rest = claims.split_off(claims.len().min(CHUNK_TEXTS));
        let chunk = std::mem::replace(&mut claims, rest);
        let texts = chunk.iter().map(|claim| claim.key.text.clone()).collect();
        match embedder.embed(texts, templates).await {
            Ok(embeddings) if embeddings.len() == chunk.len() => {
                chunk
                    .into_iter()
                    .zip(embeddings)
                    .for_each(|(claim, embedding)| claim.settle(Ok(embedding)));
            }
            Ok(embeddings) => {
                let error = format!("{} embeddings came back for {} texts", embeddings.len(), chunk.len());
                return fail(chunk, claims, &EmbeddingError::Failed(error));
            }
            Err(error) => return fail(chunk, claims, &error),
        }
    }
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
