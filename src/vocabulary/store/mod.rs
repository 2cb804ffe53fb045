//! Text embeddings, each computed once. They are held in memory and, with a [`DiskStore`], on disk. Replicas that share
//! them compute each once over all of them.
//!
//! This file owns which embeddings are held in memory and for how long, and how many texts may wait to be computed.
//! Those who need the same new text share one computation. A computation goes from chunk to chunk for as long as
//! anybody waits: what a dropped request has had embedded by then stays. A [`TextEmbedder`] computes the embeddings,
//! and the caller keeps the deadline. A failing disk or shared state costs time, never an answer.

mod pending;
mod provision;
mod shared;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Notify, oneshot};

use super::TemplateSet;
use super::disk::DiskStore;
use super::embedding::{EmbeddingKey, EmbeddingSpace, TextEmbedding};
use crate::shared::SharedTexts;
use crate::support::{ByteLru, lock, run_blocking};

pub use pending::{Interest, Urgency};

use pending::{Pending, Waiter};
use provision::Provision;

/// Least time that a store on disk has to write its log back.
const CLOSING_LIMIT: Duration = Duration::from_secs(2);

/// The result of [`TextEmbedder::embed`]: one embedding per text, in the order of the texts. `None` when nobody wanted
/// the chunk any more before it was computed.
pub type EmbeddingFuture<'a> =
    Pin<Box<dyn Future<Output = Result<Option<Vec<TextEmbedding>>, EmbeddingError>> + Send + 'a>>;

/// Computes text embeddings with one model.
pub trait TextEmbedder: Send + Sync + 'static {
    /// Embeds a chunk of texts. `interest` says how urgently they are wanted.
    fn embed(&self, texts: Vec<String>, templates: TemplateSet, interest: Interest) -> EmbeddingFuture<'_>;
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
    /// As many texts as may wait do so already.
    #[error(transparent)]
    TooManyWaiting(#[from] TooManyWaiting),
}

/// The store has no room for so many texts that are to be computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{texts} new texts find {waiting} waiting to be embedded; together they are more than engine.max_waiting_texts = {limit}"
)]
pub struct TooManyWaiting {
    /// Texts that were to be computed.
    pub texts: usize,
    /// Texts that wait already.
    pub waiting: usize,
    /// The largest number of texts that wait.
    pub limit: usize,
}

/// Counts of the store since its start, and its present size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreStatistics {
    /// Requested texts since the start that were in memory, or already being computed for another request.
    pub hits: u64,
    /// Requested texts since the start that were on disk.
    pub disk_hits: u64,
    /// Requested texts since the start that another replica had shared.
    pub shared_hits: u64,
    /// Requested texts since the start that had to be computed.
    pub misses: u64,
    /// Texts that wait to be computed, or are being computed now.
    pub waiting: usize,
    /// The largest number of such texts.
    pub max_waiting: usize,
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
    /// What replicas have in common, if this is one of several.
    shared: Option<Arc<dyn SharedTexts>>,
    hits: AtomicU64,
    disk_hits: AtomicU64,
    shared_hits: AtomicU64,
    misses: AtomicU64,
    max_waiting: usize,
    /// Wakes those who wait for room when some texts wait no more.
    has_room: Notify,
    state: Mutex<State>,
}

/// Held and pending texts, under one lock so that no text is computed twice or missed.
#[derive(Debug)]
struct State {
    held: ByteLru<EmbeddingKey, TextEmbedding>,
    pending: HashMap<EmbeddingKey, Arc<Pending>>,
    /// Number of claims whose texts are to be computed.
    waiting: usize,
}

type EmbeddingResult = Result<TextEmbedding, EmbeddingError>;

/// The state of a text when [`EmbeddingStore::resolve`] looks it up.
enum Found {
    Held(TextEmbedding),
    Pending(Waiter),
}

impl EmbeddingStore {
    /// Creates a store that holds at most `capacity_bytes` bytes in memory and also uses the embeddings on disk. The
    /// least recently used texts are dropped from memory first. At most `max_waiting` texts wait to be computed.
    pub fn new(capacity_bytes: u64, max_waiting: usize, disk: Option<Arc<DiskStore>>) -> Arc<Self> {
        Self::with_shared(capacity_bytes, max_waiting, disk, None)
    }

    /// Creates a store like [`EmbeddingStore::new`] that shares its embeddings with those of other replicas.
    pub fn with_shared(
        capacity_bytes: u64,
        max_waiting: usize,
        disk: Option<Arc<DiskStore>>,
        shared: Option<Arc<dyn SharedTexts>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            disk,
            shared,
            hits: AtomicU64::new(0),
            disk_hits: AtomicU64::new(0),
            shared_hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            max_waiting,
            has_room: Notify::new(),
            state: Mutex::new(State {
                held: ByteLru::new(capacity_bytes),
                pending: HashMap::new(),
                waiting: 0,
            }),
        })
    }

    /// Returns the embeddings of some texts in their order. Texts that are neither held nor being computed are read
    /// from disk or computed by `embedder`, chunk by chunk, the most urgent first. This happens in a task of its own.
    /// When the future is dropped, the present chunk is finished, and the others are computed only if somebody else
    /// waits for them.
    ///
    /// Where there is no room for the texts, a request fails at once, and [`Urgency::Background`] waits for room.
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
        urgency: Urgency,
    ) -> Result<Vec<TextEmbedding>, EmbeddingError> {
        let (found, claims) = self.find(space, texts, urgency);
        let (refuse, refused) = oneshot::channel();
        if !claims.is_empty() {
            let provision = Provision::new(Arc::clone(self), claims, space.templates, embedder, urgency);
            tokio::spawn(provision.run(refuse));
        }
        // A refusal does not wait for texts that others compute.
        tokio::select! {
            embeddings = outcomes(found) => embeddings,
            Ok(error) = refused => Err(error.into()),
        }
    }

    /// Checks that there is room for so many texts to wait.
    ///
    /// # Errors
    /// [`TooManyWaiting`] when there is not.
    pub fn check_room(&self, texts: usize) -> Result<(), TooManyWaiting> {
        self.room(self.waiting(), texts)
    }

    /// Returns how many texts wait to be computed, or are being computed now.
    pub fn waiting(&self) -> usize {
        self.state().waiting
    }

    fn room(&self, waiting: usize, texts: usize) -> Result<(), TooManyWaiting> {
        let limit = self.max_waiting;
        if texts > limit.saturating_sub(waiting) {
            return Err(TooManyWaiting { texts, waiting, limit });
        }
        Ok(())
    }

    /// Returns how many of the texts are held in memory or on disk, or shared by other replicas; those that are shared
    /// are held from then on. A text that is still to be written to disk does not count, so that what counts outlives
    /// the process where that is possible. Does not count as use.
    pub async fn embedded(&self, space: &EmbeddingSpace, texts: &[String]) -> usize {
        let keys = texts.iter().map(|text| EmbeddingKey::new(space, text));
        let (held, missing): (Vec<_>, Vec<_>) = {
            let state = self.state();
            keys.partition(|key| state.held.contains(key))
        };
        let unwritten = self.disk.as_ref().map_or(0, |disk| disk.count_unwritten(held.iter()));
        let kept = held.len() - unwritten;
        if missing.is_empty() {
            return kept;
        }
        let (missing, on_disk) = self.count_on_disk(missing).await;
        if on_disk == missing.len() || self.shared.is_none() {
            return kept + on_disk;
        }
        let missing = self.hold_shared(missing).await;
        let shared = texts.len() - held.len() - missing.len();
        kept + shared + self.count_on_disk(missing).await.1
    }

    /// Returns the keys with how many of them are on disk.
    async fn count_on_disk(&self, keys: Vec<EmbeddingKey>) -> (Vec<EmbeddingKey>, usize) {
        match self.disk.clone() {
            None => (keys, 0),
            Some(disk) => {
                run_blocking(move || {
                    let count = disk.count(&keys);
                    (keys, count)
                })
                .await
            }
        }
    }

    /// Returns whether no text is being read or computed.
    pub fn is_idle(&self) -> bool {
        self.state().pending.is_empty()
    }

    /// Writes the log of the store on disk back into its file, and stops using the store. Gives up at `until`, or after
    /// two seconds if that is later: the log is complete and the next start reads it.
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
            shared_hits: self.shared_hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            waiting: state.waiting,
            max_waiting: self.max_waiting,
            texts: state.held.len(),
            bytes: state.held.bytes(),
            disk_bytes: self.disk.as_ref().map_or(0, |disk| disk.bytes()),
            unwritten: self.disk.as_ref().map_or(0, |disk| disk.given_up()),
        }
    }

    /// Looks up every text, and claims those that nobody provides yet.
    fn find(self: &Arc<Self>, space: &EmbeddingSpace, texts: &[String], urgency: Urgency) -> (Vec<Found>, Vec<Claim>) {
        let mut state = self.state();
        let mut found = Vec::with_capacity(texts.len());
        let mut claims = Vec::new();
        for text in texts {
            let key = EmbeddingKey::new(space, text);
            if let Some(embedding) = state.held.get(&key) {
                found.push(Found::Held(embedding.clone()));
            } else if let Some(pending) = state.pending.get(&key) {
                found.push(Found::Pending(pending.wait(urgency)));
            } else {
                let pending = Pending::new();
                state.pending.insert(key.clone(), Arc::clone(&pending));
                found.push(Found::Pending(pending.wait(urgency)));
                claims.push(Claim {
                    store: self.clone(),
                    key,
                    pending,
                    is_counted: false,
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

    /// Settles the claims whose texts are on disk. Returns the other claims, with those whose embeddings there cannot be
    /// this model's.
    async fn settle_from_disk(&self, claims: Vec<Claim>) -> Vec<Claim> {
        let Some(disk) = self.disk.clone() else {
            return claims;
        };
        let keys: Vec<EmbeddingKey> = claims.iter().map(|claim| claim.key.clone()).collect();
        let read = run_blocking(move || disk.read(&keys, SystemTime::now())).await;
        let mut others = Vec::new();
        for (claim, embedding) in claims.into_iter().zip(read) {
            match embedding.filter(|embedding| claim.key.fits(embedding)) {
                Some(embedding) => {
                    self.disk_hits.fetch_add(1, Ordering::Relaxed);
                    claim.settle(Ok(embedding));
                }
                None => others.push(claim),
            }
        }
        others
    }

    /// Settles the claims of a chunk. Its embeddings are written to disk behind the requests that wait for them. Returns
    /// them for other replicas.
    fn settle_and_keep(&self, chunk: Vec<Claim>, embeddings: Vec<TextEmbedding>) -> Vec<(EmbeddingKey, TextEmbedding)> {
        self.misses.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        let keys = chunk.iter().map(|claim| claim.key.clone());
        let entries: Vec<_> = keys.zip(embeddings.iter().cloned()).collect();
        if let Some(disk) = &self.disk {
            disk.write_behind(entries.clone());
        }
        for (claim, embedding) in chunk.into_iter().zip(embeddings) {
            claim.settle(Ok(embedding));
        }
        entries
    }

    /// Counts claims among the texts that wait. Where there is no room for all of them, none is counted.
    fn take_room(&self, claims: &mut [Claim]) -> Result<(), TooManyWaiting> {
        let mut state = self.state();
        self.room(state.waiting, claims.len())?;
        state.waiting += claims.len();
        claims.iter_mut().for_each(|claim| claim.is_counted = true);
        Ok(())
    }

    /// Gives up the claims that nobody waits for. Returns the others.
    fn drop_unwanted(&self, claims: Vec<Claim>) -> Vec<Claim> {
        let mut state = self.state();
        let is_wanted = |claim: &Claim| claim.pending.urgency() > Urgency::Nobody;
        let (wanted, unwanted): (Vec<_>, Vec<_>) = claims.into_iter().partition(is_wanted);
        // Nobody can join them once they are not pending.
        for claim in &unwanted {
            state.pending.remove(&claim.key);
        }
        drop(state);
        drop(unwanted);
        wanted
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// Waits for the embeddings of all texts.
async fn outcomes(texts: Vec<Found>) -> Result<Vec<TextEmbedding>, EmbeddingError> {
    let mut embeddings = Vec::with_capacity(texts.len());
    for text in texts {
        embeddings.push(match text {
            Found::Held(embedding) => embedding,
            Found::Pending(waiter) => waiter.outcome().await?,
        });
    }
    Ok(embeddings)
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
    pending: Arc<Pending>,
    /// Whether the claim counts among the texts that wait to be computed.
    is_counted: bool,
}

impl Claim {
    fn settle(self, outcome: EmbeddingResult) {
        if let Ok(embedding) = &outcome {
            // The embedding is held before the text stops being pending, so that nobody finds it missing.
            self.store.hold(self.key.clone(), embedding.clone());
        }
        self.pending.settle(outcome);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        {
            let mut state = self.store.state();
            let is_own = |pending: &Arc<Pending>| Arc::ptr_eq(pending, &self.pending);
            if state.pending.get(&self.key).is_some_and(is_own) {
                state.pending.remove(&self.key);
            }
            state.waiting -= usize::from(self.is_counted);
        }
        if self.is_counted {
            self.store.has_room.notify_waiters();
        }
        self.pending.settle(Err(EmbeddingError::Interrupted));
    }
}

#[cfg(test)]
mod tests;
