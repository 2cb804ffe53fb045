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

/// Once this many texts wait to be embedded, lists with unseen texts are refused. Requests that gave up leave their
/// texts waiting, so the limit on requests does not bound them.
const MAX_PENDING_TEXTS: usize = 4096;

/// What a text embedding belongs to beside its text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EmbeddingSpace {
    /// SHA-256 of the model's weights file, lower-case hexadecimal.
    pub weights_sha256: Arc<str>,
    /// The prompts each text is put into.
    pub templates: TemplateSet,
}

/// What [`TextEmbedder::embed`] promises: one unit embedding per text, in the texts' order.
pub type EmbeddingFuture = Pin<Box<dyn Future<Output = Result<Vec<Vec<f32>>, EmbeddingError>> + Send>>;

/// Something that computes text embeddings of one model.
pub trait TextEmbedder: Send + Sync + 'static {
    /// Embeds a few texts in one go.
    fn embed(&self, texts: Vec<String>, templates: TemplateSet) -> EmbeddingFuture;
}

/// Why there are no embeddings. The same error goes to everybody who waited for the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddingError {
    /// Too many texts wait already; those that wait will be held later.
    #[error("{pending} texts wait to be embedded, {limit} are the most")]
    Overloaded {
        /// Texts that wait.
        pending: usize,
        /// The limit.
        limit: usize,
    },
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
    /// When a computation that one of the texts needs fails, or there are too many waiting. What had been computed by
    /// then is held, nothing else is left behind.
    pub async fn resolve(
        self: &Arc<Self>,
        space: &EmbeddingSpace,
        texts: &[String],
        embedder: Arc<dyn TextEmbedder>,
    ) -> Result<Vec<Arc<[f32]>>, EmbeddingError> {
        let (found, claims) = self.find(space, texts)?;
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
    fn find(
        self: &Arc<Self>,
        space: &EmbeddingSpace,
        texts: &[String],
    ) -> Result<(Vec<Found>, Vec<Claim>), EmbeddingError> {
        let mut state = self.state();
        let waiting = state.pending.len();
        let mut found = Vec::with_capacity(texts.len());
        let mut claims = Vec::new();
        for text in texts {
            let key = Key::new(space, text);
            if let Some(embedding) = state.held.get(&key) {
                found.push(Found::Held(embedding.clone()));
            } else if let Some(receiver) = state.pending.get(&key) {
                found.push(Found::Pending(receiver.clone()));
            } else if waiting >= MAX_PENDING_TEXTS {
                return Err(EmbeddingError::Overloaded {
                    pending: waiting,
                    limit: MAX_PENDING_TEXTS,
                });
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
        Ok((found, claims))
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
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    use tokio::sync::Semaphore;

    /// Embeds a text as its first byte, as often as it is let.
    struct FirstByte {
        /// Chunks that may still be embedded; others wait.
        permits: Semaphore,
        /// What each chunk does, in order; afterwards all succeed.
        script: Mutex<Vec<Behaviour>>,
        calls: Mutex<Vec<Vec<String>>>,
    }

    #[derive(Clone, Copy)]
    enum Behaviour {
        Succeed,
        Fail,
        Panic,
        LoseOne,
    }

    impl FirstByte {
        fn gated(script: &[Behaviour]) -> Arc<Gated> {
            let script = Mutex::new(script.iter().rev().copied().collect());
            Arc::new(Gated(Arc::new(Self {
                permits: Semaphore::new(0),
                script,
                calls: Mutex::default(),
            })))
        }

        fn open(script: &[Behaviour]) -> Arc<Gated> {
            let gated = Self::gated(script);
            gated.0.permits.add_permits(1000);
            gated
        }
    }

    struct Gated(Arc<FirstByte>);

    impl Gated {
        fn calls(&self) -> Vec<Vec<String>> {
            self.0.calls.lock().unwrap().clone()
        }

        /// Until that many chunks have been asked for.
        async fn called(&self, times: usize) {
            while self.calls().len() < times {
                tokio::task::yield_now().await;
            }
        }
    }

    impl TextEmbedder for Gated {
        fn embed(&self, texts: Vec<String>, _: TemplateSet) -> EmbeddingFuture {
            let inner = self.0.clone();
            Box::pin(async move {
                inner.calls.lock().unwrap().push(texts.clone());
                inner.permits.acquire().await.unwrap().forget();
                let behaviour = inner.script.lock().unwrap().pop().unwrap_or(Behaviour::Succeed);
                let mut embeddings: Vec<_> = texts.iter().map(|text| vec![f32::from(text.as_bytes()[0])]).collect();
                match behaviour {
                    Behaviour::Succeed => Ok(embeddings),
                    Behaviour::Fail => Err(EmbeddingError::Failed("no luck".into())),
                    Behaviour::Panic => panic!("a defect of the embedder"),
                    Behaviour::LoseOne => {
                        embeddings.pop();
                        Ok(embeddings)
                    }
                }
            })
        }
    }

    const ROOMY: u64 = 1 << 20;

    fn space(weights: &str) -> EmbeddingSpace {
        EmbeddingSpace {
            weights_sha256: weights.into(),
            templates: TemplateSet::Simple,
        }
    }

    fn texts(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    async fn resolve(
        store: &Arc<EmbeddingStore>,
        embedder: &Arc<Gated>,
        names: &[&str],
    ) -> Result<Vec<f32>, EmbeddingError> {
        let embeddings = store.resolve(&space("w"), &texts(names), embedder.clone()).await?;
        Ok(embeddings.iter().map(|embedding| embedding[0]).collect())
    }

    /// Runs a request on its own, up to where it waits.
    async fn started(
        store: &Arc<EmbeddingStore>,
        embedder: &Arc<Gated>,
        names: &'static [&'static str],
    ) -> tokio::task::JoinHandle<Result<Vec<f32>, EmbeddingError>> {
        let (store, embedder) = (store.clone(), embedder.clone());
        let task = tokio::spawn(async move { resolve(&store, &embedder, names).await });
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        task
    }

    fn pending(store: &EmbeddingStore) -> usize {
        store.state().pending.len()
    }

    #[tokio::test]
    async fn texts_are_computed_once_and_come_back_in_order() {
        let (store, embedder) = (EmbeddingStore::new(ROOMY), FirstByte::open(&[]));
        assert_eq!(resolve(&store, &embedder, &["a", "b"]).await.unwrap(), [97., 98.]);
        assert_eq!(
            resolve(&store, &embedder, &["c", "b", "a", "c"]).await.unwrap(),
            [99., 98., 97., 99.]
        );
        assert_eq!(embedder.calls(), [vec!["a", "b"], vec!["c"]]);
        let statistics = store.statistics();
        assert_eq!((statistics.hits, statistics.misses, statistics.texts), (2, 4, 3));
        assert_eq!(pending(&store), 0);
    }

    #[tokio::test]
    async fn another_model_or_template_set_is_another_space() {
        let (store, embedder) = (EmbeddingStore::new(ROOMY), FirstByte::open(&[]));
        resolve(&store, &embedder, &["a"]).await.unwrap();
        let other_templates = EmbeddingSpace {
            templates: TemplateSet::Maskclip85,
            ..space("w")
        };
        for other in [space("v"), other_templates] {
            assert_eq!(store.embedded(&other, &texts(&["a"])), 0);
            store.resolve(&other, &texts(&["a"]), embedder.clone()).await.unwrap();
            assert_eq!(store.embedded(&other, &texts(&["a"])), 1);
        }
        assert_eq!(embedder.calls().len(), 3);
    }

    #[tokio::test]
    async fn requests_at_the_same_time_share_the_texts_they_have_in_common() {
        let (store, embedder) = (EmbeddingStore::new(ROOMY), FirstByte::gated(&[]));
        let first = started(&store, &embedder, &["a", "b"]).await;
        let second = started(&store, &embedder, &["b", "c"]).await;
        let third = started(&store, &embedder, &["a", "b"]).await;
        embedder.called(2).await;
        embedder.0.permits.add_permits(2);
        assert_eq!(first.await.unwrap().unwrap(), [97., 98.]);
        assert_eq!(second.await.unwrap().unwrap(), [98., 99.]);
        assert_eq!(third.await.unwrap().unwrap(), [97., 98.]);
        assert_eq!(embedder.calls(), [vec!["a", "b"], vec!["c"]]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn many_threads_compute_every_text_once() {
        let (store, embedder) = (EmbeddingStore::new(ROOMY), FirstByte::open(&[]));
        let names: &[&str] = &["a", "b", "c", "d", "e"];
        let requests = (0..200).map(|number| {
            let (store, embedder) = (store.clone(), embedder.clone());
            tokio::spawn(async move { resolve(&store, &embedder, &names[number % 4..]).await.unwrap().len() })
        });
        for (number, request) in requests.collect::<Vec<_>>().into_iter().enumerate() {
            assert_eq!(request.await.unwrap(), 5 - number % 4);
        }
        let mut computed = embedder.calls().concat();
        computed.sort();
        assert_eq!(computed, names);
    }

    #[tokio::test]
    async fn a_long_list_goes_in_chunks_and_what_is_done_is_held() {
        let (store, embedder) = (EmbeddingStore::new(ROOMY), FirstByte::gated(&[]));
        let names: Vec<String> = (0..40).map(|number| format!("text {number}")).collect();
        let request = {
            let (store, embedder, names) = (store.clone(), embedder.clone(), names.clone());
            tokio::spawn(async move { store.resolve(&space("w"), &names, embedder).await })
        };
        embedder.0.permits.add_permits(1);
        embedder.called(2).await;
        assert_eq!(store.embedded(&space("w"), &names), 16);
        embedder.0.permits.add_permits(2);
        assert_eq!(request.await.unwrap().unwrap().len(), 40);
        assert_eq!(embedder.calls().iter().map(Vec::len).collect::<Vec<_>>(), [16, 16, 8]);
    }

    #[tokio::test]
    async fn a_dropped_request_leaves_its_texts_embedded() {
        let (store, embedder) = (EmbeddingStore::new(ROOMY), FirstByte::gated(&[]));
        let request = started(&store, &embedder, &["a"]).await;
        embedder.called(1).await;
        request.abort();
        assert!(request.await.unwrap_err().is_cancelled());
        embedder.0.permits.add_permits(1);
        while pending(&store) > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(store.embedded(&space("w"), &texts(&["a"])), 1);
        assert_eq!(resolve(&store, &embedder, &["a"]).await.unwrap(), [97.]);
        assert_eq!(embedder.calls().len(), 1);
    }

    #[tokio::test]
    async fn a_failure_reaches_everybody_who_waits_and_leaves_nothing_behind() {
        let (store, embedder) = (EmbeddingStore::new(ROOMY), FirstByte::gated(&[Behaviour::Fail]));
        let first = started(&store, &embedder, &["a", "b"]).await;
        let second = started(&store, &embedder, &["b"]).await;
        embedder.0.permits.add_permits(1);
        let expected = Err(EmbeddingError::Failed("no luck".into()));
        assert_eq!(first.await.unwrap(), expected);
        assert_eq!(second.await.unwrap(), expected);
        assert_eq!(
            (pending(&store), store.statistics().texts, store.statistics().bytes),
            (0, 0, 0)
        );

        embedder.0.permits.add_permits(1);
        assert_eq!(resolve(&store, &embedder, &["a", "b"]).await.unwrap(), [97., 98.]);
    }

    #[tokio::test]
    async fn chunks_after_a_failure_are_not_tried_and_those_before_it_are_held() {
        let script = [Behaviour::Succeed, Behaviour::Fail];
        let (store, embedder) = (EmbeddingStore::new(ROOMY), FirstByte::open(&script));
        let names: Vec<String> = (0..40).map(|number| format!("text {number}")).collect();
        store.resolve(&space("w"), &names, embedder.clone()).await.unwrap_err();
        assert_eq!(embedder.calls().len(), 2);
        assert_eq!(store.embedded(&space("w"), &names), 16);
        assert_eq!(pending(&store), 0);
    }

    #[tokio::test]
    async fn a_panic_of_the_embedder_wakes_the_waiters() {
        let (store, embedder) = (EmbeddingStore::new(ROOMY), FirstByte::open(&[Behaviour::Panic]));
        assert_eq!(
            resolve(&store, &embedder, &["a"]).await,
            Err(EmbeddingError::Interrupted)
        );
        assert_eq!(pending(&store), 0);
        assert_eq!(resolve(&store, &embedder, &["a"]).await.unwrap(), [97.]);
    }

    #[tokio::test]
    async fn an_answer_of_the_wrong_length_is_a_failure() {
        let (store, embedder) = (EmbeddingStore::new(ROOMY), FirstByte::open(&[Behaviour::LoseOne]));
        let error = resolve(&store, &embedder, &["a", "b"]).await.unwrap_err();
        assert_eq!(
            error,
            EmbeddingError::Failed("1 embeddings came back for 2 texts".into())
        );
    }

    #[tokio::test]
    async fn the_least_recently_used_texts_go_first_when_it_is_full() {
        let one = Key::new(&space("w"), "a").bytes_with(&[0.0]);
        let (store, embedder) = (EmbeddingStore::new(2 * one), FirstByte::open(&[]));
        resolve(&store, &embedder, &["a", "b"]).await.unwrap();
        resolve(&store, &embedder, &["a"]).await.unwrap();
        // Asking how many are held is no use: "b" stays the oldest.
        assert_eq!(store.embedded(&space("w"), &texts(&["b"])), 1);
        resolve(&store, &embedder, &["c"]).await.unwrap();
        let held = |name| store.embedded(&space("w"), &texts(&[name]));
        assert_eq!((held("a"), held("b"), held("c")), (1, 0, 1));
        assert_eq!((store.statistics().texts, store.statistics().bytes), (2, 2 * one));
    }

    #[tokio::test]
    async fn a_list_larger_than_the_store_is_answered_all_the_same() {
        let (store, embedder) = (EmbeddingStore::new(0), FirstByte::open(&[]));
        assert_eq!(
            resolve(&store, &embedder, &["a", "b", "c"]).await.unwrap(),
            [97., 98., 99.]
        );
        assert_eq!((store.statistics().texts, store.statistics().bytes), (0, 0));
    }

    #[tokio::test]
    async fn unseen_texts_are_refused_while_too_many_wait() {
        let (store, embedder) = (EmbeddingStore::new(ROOMY), FirstByte::gated(&[]));
        let many: Vec<String> = (0..MAX_PENDING_TEXTS).map(|number| format!("text {number}")).collect();
        let abandoned = {
            let (store, embedder, many) = (store.clone(), embedder.clone(), many.clone());
            tokio::spawn(async move { store.resolve(&space("w"), &many, embedder).await })
        };
        embedder.called(1).await;
        abandoned.abort();
        let refused = EmbeddingError::Overloaded {
            pending: MAX_PENDING_TEXTS,
            limit: MAX_PENDING_TEXTS,
        };
        assert_eq!(resolve(&store, &embedder, &["unseen"]).await, Err(refused));
        // What waits already may be waited for.
        let request = {
            let (store, embedder) = (store.clone(), embedder.clone());
            tokio::spawn(async move { resolve(&store, &embedder, &["text 0"]).await })
        };
        embedder.0.permits.add_permits(MAX_PENDING_TEXTS);
        assert_eq!(request.await.unwrap().unwrap(), [116.]);
    }
}
