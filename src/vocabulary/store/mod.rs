//! Text embeddings, each computed once. They are held in memory and, with a [`DiskStore`], on disk.
//!
//! This file owns which embeddings are held in memory and for how long. Requests that need the same new text share one
//! computation. The computation outlives its request: a dropped request leaves the text embedded for the next one. A
//! [`TextEmbedder`] computes the embeddings, and the caller keeps the deadline. A failing disk costs time, never an
//! answer.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;

use super::TemplateSet;
use super::disk::DiskStore;
use super::embedding::{EmbeddingKey, EmbeddingSpace, TextEmbedding};
use crate::support::{ByteLru, run_blocking};

/// Largest number of tokens in a chunk, without the tokens of the templates' own words. The embedder gets one chunk at
/// a time, so that images get their turn between the chunks of a long vocabulary. A chunk holds about 20 class names
/// with 85 templates, or 1,800 with one template.
const CHUNK_TOKENS: usize = 16_384;

/// Least time that a store on disk has to write its log back.
const CLOSING_LIMIT: Duration = Duration::from_secs(2);

/// The result of [`TextEmbedder::embed`]: one embedding per text, in the order of the texts.
pub type EmbeddingFuture<'a> = Pin<Box<dyn Future<Output = Result<Vec<TextEmbedding>, EmbeddingError>> + Send + 'a>>;

/// Computes text embeddings with one model.
pub trait TextEmbedder: Send + Sync + 'static {
    /// Embeds a chunk of texts.
    fn embed(&self, texts: Vec<String>, templates: TemplateSet) -> EmbeddingFuture<'_>;
}

/// Why there are no embeddings. Everybody who waits for the text gets the same error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddingError {
    /// No worker can compute the embeddings.
    #[error("{0}")]
    Unavailable(&'static str),
    /// The model failed. The log has the details.
    #[error("the texts could not be embedded: {0}")]
    Failed(String),
    /// The computation ended without a result: it panicked, or the server is shutting down.
    #[error("embedding the texts was interrupted")]
    Interrupted,
}

/// Counts of the store since its start, and its present size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreStatistics {
    /// Requested texts since the start that were in memory, or already being computed for another request.
    pub hits: u64,
    /// Requested texts since the start that were on disk.
    pub disk_hits: u64,
    /// Requested texts since the start that had to be computed.
    pub misses: u64,
    /// Number of texts held in memory now.
    pub texts: usize,
    /// Estimated bytes of these texts, including their keys.
    pub bytes: u64,
    /// Bytes of the store's files on disk.
    pub disk_bytes: u64,
    /// Embeddings since the start that could not be written to disk.
    pub unwritten: u64,
}

/// The store of text embeddings, shared behind an `Arc`.
#[derive(Debug)]
pub struct EmbeddingStore {
    disk: Option<Arc<DiskStore>>,
    hits: AtomicU64,
    disk_hits: AtomicU64,
    misses: AtomicU64,
    state: Mutex<State>,
}

/// Held and pending texts, under one lock so that no text is computed twice or missed.
#[derive(Debug)]
struct State {
    held: ByteLru<EmbeddingKey, TextEmbedding>,
    pending: HashMap<EmbeddingKey, watch::Receiver<Option<EmbeddingResult>>>,
}

type EmbeddingResult = Result<TextEmbedding, EmbeddingError>;

/// The state of a text when [`EmbeddingStore::resolve`] looks it up.
enum Found {
    Held(TextEmbedding),
    Pending(watch::Receiver<Option<EmbeddingResult>>),
}

impl EmbeddingStore {
    /// Creates a store that holds at most `capacity_bytes` bytes in memory and also uses the embeddings on disk. The
    /// least recently used texts are dropped from memory first.
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

    /// Returns the embeddings of some texts in their order. Texts that are neither held nor being computed are read
    /// from disk or computed by `embedder`, chunk by chunk. This happens in a task of its own, so dropping the future
    /// does not stop it.
    ///
    /// Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`EmbeddingError`] when the computation of one of the texts fails. Embeddings computed before are held.
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
                    Ok(outcome) => outcome.clone().expect("the wait ends with an outcome")?,
                    Err(_) => return Err(EmbeddingError::Interrupted),
                },
            });
        }
        Ok(embeddings)
    }

    /// Returns how many of the texts are held in memory or on disk. A text that is still to be written to disk does not
    /// count, so that what counts outlives the process where that is possible. Does not count as use.
    pub async fn embedded(&self, space: &EmbeddingSpace, texts: &[String]) -> usize {
        let keys = texts.iter().map(|text| EmbeddingKey::new(space, text));
        let (held, missing): (Vec<_>, Vec<_>) = {
            let state = self.state();
            keys.partition(|key| state.held.contains(key))
        };
        let Some(disk) = self.disk.clone() else {
            return held.len();
        };
        let kept = held.len() - disk.count_unwritten(held.iter());
        match missing.is_empty() {
            true => kept,
            false => kept + run_blocking(move || disk.count(&missing)).await,
        }
    }

    /// Returns whether no text is being read or computed.
    pub fn is_idle(&self) -> bool {
        self.state().pending.is_empty()
    }

    /// Writes the log of the store on disk back into its file, and stops using the store. Gives up at `until`, or after
    /// [`CLOSING_LIMIT`] if that is later: the log is complete and the next start reads it.
    pub async fn close_disk(&self, until: Instant) {
        let Some(disk) = self.disk.clone() else { return };
        let until = until.max(Instant::now() + CLOSING_LIMIT);
        if tokio::time::timeout_at(until.into(), run_blocking(move || disk.close()))
            .await
            .is_err()
        {
            tracing::warn!("the log of the store on disk was not written back in time; the next start does it");
        }
    }

    /// Returns the counts of the store and its present size.
    pub fn statistics(&self) -> StoreStatistics {
        let state = self.state();
        StoreStatistics {
            hits: self.hits.load(Ordering::Relaxed),
            disk_hits: self.disk_hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            texts: state.held.len(),
            bytes: state.held.bytes(),
            disk_bytes: self.disk.as_ref().map_or(0, |disk| disk.bytes()),
            unwritten: self.disk.as_ref().map_or(0, |disk| disk.given_up()),
        }
    }

    /// Looks up every text, and claims those that nobody provides yet.
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

    /// Settles the claims whose texts are on disk. Returns the other claims.
    async fn settle_from_disk(&self, claims: Vec<Claim>) -> Vec<Claim> {
        let Some(disk) = self.disk.clone() else {
            return claims;
        };
        let keys: Vec<EmbeddingKey> = claims.iter().map(|claim| claim.key.clone()).collect();
        let read = run_blocking(move || disk.read(&keys, SystemTime::now())).await;
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

    /// Settles the claims of a chunk. Its embeddings are written to disk behind the requests that wait for them.
    fn settle_and_keep(&self, chunk: Vec<Claim>, embeddings: Vec<TextEmbedding>) {
        if let Some(disk) = &self.disk {
            let keys = chunk.iter().map(|claim| claim.key.clone());
            disk.write_behind(keys.zip(embeddings.iter().cloned()).collect());
        }
        for (claim, embedding) in chunk.into_iter().zip(embeddings) {
            claim.settle(Ok(embedding));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it has the store's lock")
    }
}

/// Returns the bytes of an entry with its text and its floats.
fn entry_bytes(key: &EmbeddingKey, embedding: &TextEmbedding) -> u64 {
    ByteLru::<EmbeddingKey, TextEmbedding>::entry_bytes(key.text.len() + size_of_val(&*embedding.vector))
}

/// The duty to provide a text. The text is pending while the claim lives, and no longer when the claim is dropped for
/// any reason.
struct Claim {
    store: Arc<EmbeddingStore>,
    key: EmbeddingKey,
    sender: watch::Sender<Option<EmbeddingResult>>,
}

impl Claim {
    fn settle(self, outcome: EmbeddingResult) {
        if let Ok(embedding) = &outcome {
            // The embedding is held before the text stops being pending, so that nobody finds it missing.
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

/// Provides the texts of all claims from the disk, or computes them chunk by chunk. The first failure ends all
/// remaining claims.
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
            Ok(embeddings) if embeddings.len() == chunk.len() => store.settle_and_keep(chunk, embeddings),
            Ok(embeddings) => {
                let error = format!("{} embeddings came back for {} texts", embeddings.len(), chunk.len());
                return fail(chunk, claims, &EmbeddingError::Failed(error));
            }
            Err(error) => return fail(chunk, claims, &error),
        }
    }
}

/// Returns how many of the texts form the next chunk, at least one.
fn chunk_length<'a>(texts: impl Iterator<Item = &'a str>, templates: TemplateSet) -> usize {
    // A token is at least one byte long, and a prompt has about two more tokens for the end of its sentence.
    let most_tokens = |text: &str| templates.templates().len() * (text.len() + 2);
    let totals = texts.scan(0, |total, text| {
        *total += most_tokens(text);
        Some(*total)
    });
    totals.take_while(|total| *total <= CHUNK_TOKENS).count().max(1)
}

fn fail(chunk: Vec<Claim>, rest: Vec<Claim>, error: &EmbeddingError) {
    tracing::warn!(%error, texts = chunk.len() + rest.len(), "could not embed texts");
    chunk
        .into_iter()
        .chain(rest)
        .for_each(|claim| claim.settle(Err(error.clone())));
}

#[cfg(test)]
mod tests;
