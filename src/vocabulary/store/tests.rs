//! Tests of the store under concurrency, failure, cancellation and memory pressure.
#![allow(clippy::unwrap_used)]

use super::provision::{CHUNK_TOKENS, chunk_length};
use super::*;
use crate::shared::{Claimed, FakeTexts, Token};

use tokio::sync::Semaphore;

/// Embeds a text as its first byte. Each chunk takes a permit.
struct FirstByte {
    permits: Semaphore,
    /// What the next chunks do, in reverse order. Chunks after the script succeed.
    script: Mutex<Vec<Behaviour>>,
    calls: Mutex<Vec<Vec<String>>>,
    /// The interest in each chunk.
    interests: Mutex<Vec<Interest>>,
}

#[derive(Clone, Copy)]
enum Behaviour {
    Succeed,
    Fail,
    FindItUnwanted,
    Panic,
    LoseOne,
    GiveNoNumber,
}

impl FirstByte {
    fn with_permits(permits: usize, script: &[Behaviour]) -> Arc<Self> {
        Arc::new(Self {
            permits: Semaphore::new(permits),
            script: Mutex::new(script.iter().rev().copied().collect()),
            calls: Mutex::default(),
            interests: Mutex::default(),
        })
    }

    /// Creates an embedder whose chunks wait for permits.
    fn gated(script: &[Behaviour]) -> Arc<Self> {
        Self::with_permits(0, script)
    }

    /// Creates an embedder whose chunks never wait.
    fn open(script: &[Behaviour]) -> Arc<Self> {
        Self::with_permits(1000, script)
    }

    /// Returns how urgently the latest chunk is wanted now.
    fn urgency(&self) -> Urgency {
        self.interests.lock().unwrap().last().unwrap().urgency()
    }

    fn calls(&self) -> Vec<Vec<String>> {
        self.calls.lock().unwrap().clone()
    }

    /// Waits until this many chunks have been requested.
    async fn called(&self, times: usize) {
        while self.calls().len() < times {
            tokio::task::yield_now().await;
        }
    }
}

impl TextEmbedder for FirstByte {
    fn embed(&self, texts: Vec<String>, _: TemplateSet, interest: Interest) -> EmbeddingFuture<'_> {
        Box::pin(async move {
            self.calls.lock().unwrap().push(texts.clone());
            self.interests.lock().unwrap().push(interest);
            self.permits.acquire().await.unwrap().forget();
            let behaviour = self.script.lock().unwrap().pop().unwrap_or(Behaviour::Succeed);
            let mut embeddings: Vec<_> = texts.iter().map(|text| embedding(text)).collect();
            match behaviour {
                Behaviour::Succeed => Ok(Some(embeddings)),
                Behaviour::FindItUnwanted => Ok(None),
                Behaviour::Fail => Err(EmbeddingError::Failed("no luck".into())),
                Behaviour::Panic => panic!("a defect of the embedder"),
                Behaviour::LoseOne => {
                    embeddings.pop();
                    Ok(Some(embeddings))
                }
                Behaviour::GiveNoNumber => {
                    embeddings[0].vector = [f32::NAN].into();
                    Ok(Some(embeddings))
                }
            }
        })
    }
}

/// Returns the embedding of a text: its first byte. Texts of more than ten characters count as truncated.
fn embedding(text: &str) -> TextEmbedding {
    TextEmbedding {
        vector: [f32::from(text.as_bytes()[0])].into(),
        truncated: text.len() > 10,
    }
}

const ROOMY: u64 = 1 << 20;

/// Returns a text with a number, long enough that a chunk holds exactly 16 such texts with one template.
fn a_sixteenth_of_a_chunk(number: usize) -> String {
    format!("{number:0width$}", width = CHUNK_TOKENS / 16 - 2)
}

fn space(weights: &str) -> EmbeddingSpace {
    EmbeddingSpace {
        weights_sha256: weights.into(),
        precision: "float32",
        variant: "".into(),
        templates: TemplateSet::Simple,
        dimension: 1,
    }
}

fn texts(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

async fn resolve(
    store: &Arc<EmbeddingStore>,
    embedder: &Arc<FirstByte>,
    names: &[&str],
) -> Result<Vec<f32>, EmbeddingError> {
    let embeddings = store
        .resolve(&space("w"), &texts(names), embedder.clone(), Urgency::Request)
        .await?;
    Ok(embeddings.iter().map(|embedding| embedding.vector[0]).collect())
}

/// Starts a request in its own task and lets it run until it waits.
async fn started(
    store: &Arc<EmbeddingStore>,
    embedder: &Arc<FirstByte>,
    names: &'static [&'static str],
) -> tokio::task::JoinHandle<Result<Vec<f32>, EmbeddingError>> {
    let (store, embedder) = (store.clone(), embedder.clone());
    let task = tokio::spawn(async move { resolve(&store, &embedder, names).await });
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    task
}

/// Starts to resolve some numbered texts in a task of its own, and lets it run until it waits.
async fn started_numbers(
    store: &Arc<EmbeddingStore>,
    embedder: &Arc<FirstByte>,
    numbers: std::ops::Range<usize>,
    urgency: Urgency,
) -> tokio::task::JoinHandle<Result<Vec<TextEmbedding>, EmbeddingError>> {
    let (store, embedder) = (store.clone(), embedder.clone());
    let names: Vec<String> = numbers.map(a_sixteenth_of_a_chunk).collect();
    let task = tokio::spawn(async move { store.resolve(&space("w"), &names, embedder, urgency).await });
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    task
}

/// Ends a task, as a client that leaves ends its request.
async fn ended<T>(task: tokio::task::JoinHandle<T>) {
    task.abort();
    assert!(task.await.is_err_and(|error| error.is_cancelled()));
}

/// Waits until no text is pending.
async fn quiet(store: &EmbeddingStore) {
    while pending(store) > 0 {
        tokio::task::yield_now().await;
    }
}

fn pending(store: &EmbeddingStore) -> usize {
    store.state().pending.len()
}

#[tokio::test]
async fn texts_are_computed_once_and_come_back_in_order() {
    let (store, embedder) = (EmbeddingStore::new(ROOMY, 1000, None), FirstByte::open(&[]));
    assert_eq!(resolve(&store, &embedder, &["a", "b"]).await.unwrap(), [97., 98.]);
    assert_eq!(
        resolve(&store, &embedder, &["c", "b", "a", "c"]).await.unwrap(),
        [99., 98., 97., 99.]
    );
    assert_eq!(embedder.calls(), [vec!["a", "b"], vec!["c"]]);
    let statistics = store.statistics();
    assert_eq!((statistics.hits, statistics.misses, statistics.texts), (3, 3, 3));
    assert_eq!(pending(&store), 0);
}

#[tokio::test]
async fn another_model_or_template_set_is_another_space() {
    let (store, embedder) = (EmbeddingStore::new(ROOMY, 1000, None), FirstByte::open(&[]));
    resolve(&store, &embedder, &["a"]).await.unwrap();
    let other_templates = EmbeddingSpace {
        templates: TemplateSet::Maskclip85,
        ..space("w")
    };
    for other in [space("v"), other_templates] {
        assert_eq!(store.embedded(&other, &texts(&["a"])).await, 0);
        store
            .resolve(&other, &texts(&["a"]), embedder.clone(), Urgency::Request)
            .await
            .unwrap();
        assert_eq!(store.embedded(&other, &texts(&["a"])).await, 1);
    }
    assert_eq!(embedder.calls().len(), 3);
}

#[tokio::test]
async fn requests_at_the_same_time_share_the_texts_they_have_in_common() {
    let (store, embedder) = (EmbeddingStore::new(ROOMY, 1000, None), FirstByte::gated(&[]));
    let first = started(&store, &embedder, &["a", "b"]).await;
    let second = started(&store, &embedder, &["b", "c"]).await;
    let third = started(&store, &embedder, &["a", "b"]).await;
    embedder.called(2).await;
    embedder.permits.add_permits(2);
    assert_eq!(first.await.unwrap().unwrap(), [97., 98.]);
    assert_eq!(second.await.unwrap().unwrap(), [98., 99.]);
    assert_eq!(third.await.unwrap().unwrap(), [97., 98.]);
    assert_eq!(embedder.calls(), [vec!["a", "b"], vec!["c"]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_threads_compute_every_text_once() {
    let (store, embedder) = (EmbeddingStore::new(ROOMY, 1000, None), FirstByte::open(&[]));
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
    let (store, embedder) = (EmbeddingStore::new(ROOMY, 1000, None), FirstByte::gated(&[]));
    let names: Vec<String> = (0..40).map(a_sixteenth_of_a_chunk).collect();
    let request = {
        let (store, embedder, names) = (store.clone(), embedder.clone(), names.clone());
        tokio::spawn(async move { store.resolve(&space("w"), &names, embedder, Urgency::Request).await })
    };
    embedder.permits.add_permits(1);
    embedder.called(2).await;
    assert_eq!(store.embedded(&space("w"), &names).await, 16);
    embedder.permits.add_permits(2);
    assert_eq!(request.await.unwrap().unwrap().len(), 40);
    assert_eq!(embedder.calls().iter().map(Vec::len).collect::<Vec<_>>(), [16, 16, 8]);
}

#[test]
fn a_chunk_has_as_many_texts_as_their_lengths_and_templates_allow() {
    let names = |text: &str| vec![text.to_owned(); 5_000];
    let length = |texts: &[String], templates| chunk_length(texts.iter().map(String::as_str), templates);
    assert_eq!(length(&names("traffic light"), TemplateSet::Maskclip85), 12);
    assert_eq!(length(&names("cat"), TemplateSet::Maskclip85), 38);
    assert_eq!(length(&names("cat"), TemplateSet::Simple), 3_276);
    // The text exceeds a whole chunk but still has to be embedded.
    assert_eq!(length(&names(&"cat ".repeat(50)), TemplateSet::Maskclip85), 1);
    assert_eq!(length(&names("cat")[..3], TemplateSet::Maskclip85), 3);
}

#[tokio::test]
async fn a_dropped_request_leaves_its_present_chunk_embedded() {
    let (store, embedder) = (EmbeddingStore::new(ROOMY, 1000, None), FirstByte::gated(&[]));
    let request = started(&store, &embedder, &["a"]).await;
    embedder.called(1).await;
    ended(request).await;
    embedder.permits.add_permits(1);
    quiet(&store).await;
    assert_eq!(store.embedded(&space("w"), &texts(&["a"])).await, 1);
    assert_eq!(resolve(&store, &embedder, &["a"]).await.unwrap(), [97.]);
    assert_eq!(embedder.calls().len(), 1);
}

#[tokio::test]
async fn chunks_that_nobody_waits_for_are_not_computed() {
    let (store, embedder) = (EmbeddingStore::new(ROOMY, 1000, None), FirstByte::gated(&[]));
    let request = started_numbers(&store, &embedder, 0..40, Urgency::Request).await;
    embedder.called(1).await;
    assert_eq!((embedder.urgency(), store.statistics().waiting), (Urgency::Request, 40));
    ended(request).await;
    assert_eq!(embedder.urgency(), Urgency::Nobody);
    embedder.permits.add_permits(1000);
    quiet(&store).await;
    assert_eq!(embedder.calls().len(), 1);
    assert_eq!((store.statistics().texts, store.statistics().waiting), (16, 0));
}

#[tokio::test]
async fn what_another_request_waits_for_goes_on_without_the_first() {
    let (store, embedder) = (EmbeddingStore::new(ROOMY, 1000, None), FirstByte::gated(&[]));
    let first = started_numbers(&store, &embedder, 0..40, Urgency::Request).await;
    let second = started_numbers(&store, &embedder, 30..32, Urgency::Request).await;
    embedder.called(1).await;
    ended(first).await;
    embedder.permits.add_permits(1000);
    assert_eq!(second.await.unwrap().unwrap().len(), 2);
    quiet(&store).await;
    assert_eq!(embedder.calls().iter().map(Vec::len).collect::<Vec<_>>(), [16, 2]);
}

#[tokio::test]
async fn what_a_request_waits_for_goes_before_what_is_embedded_ahead() {
    let (store, embedder) = (EmbeddingStore::new(ROOMY, 1000, None), FirstByte::gated(&[]));
    let ahead = started_numbers(&store, &embedder, 0..48, Urgency::Background).await;
    embedder.called(1).await;
    assert_eq!(embedder.urgency(), Urgency::Background);
    let request = started_numbers(&store, &embedder, 46..48, Urgency::Request).await;
    // The request's texts come in the next chunk, so the present one is as urgent.
    assert_eq!(embedder.urgency(), Urgency::Request);
    embedder.permits.add_permits(2);
    assert_eq!(request.await.unwrap().unwrap().len(), 2);
    assert_eq!(embedder.calls()[1][..2], [46, 47].map(a_sixteenth_of_a_chunk));
    embedder.permits.add_permits(1);
    assert_eq!(ahead.await.unwrap().unwrap().len(), 48);
}

#[tokio::test]
async fn a_text_that_is_wanted_again_is_computed_after_all() {
    let script = [Behaviour::FindItUnwanted];
    let (store, embedder) = (EmbeddingStore::new(ROOMY, 1000, None), FirstByte::open(&script));
    assert_eq!(resolve(&store, &embedder, &["a", "b"]).await.unwrap(), [97., 98.]);
    assert_eq!(embedder.calls().len(), 2);
}

#[tokio::test]
async fn more_texts_than_may_wait_are_refused_and_leave_nothing_behind() {
    let (store, embedder) = (EmbeddingStore::new(ROOMY, 3, None), FirstByte::gated(&[]));
    let first = started(&store, &embedder, &["a", "b"]).await;
    embedder.called(1).await;
    let refused = TooManyWaiting {
        texts: 2,
        waiting: 2,
        limit: 3,
    };
    // The text that somebody waits for already is none of the new ones.
    let error = resolve(&store, &embedder, &["b", "c", "d"]).await.unwrap_err();
    assert_eq!(error, EmbeddingError::TooManyWaiting(refused));
    assert!(error.to_string().contains("engine.max_waiting_texts = 3"), "{error}");
    assert_eq!((store.check_room(1), store.check_room(2)), (Ok(()), Err(refused)));
    assert_eq!((pending(&store), store.statistics().waiting), (2, 2));
    embedder.permits.add_permits(2);
    assert_eq!(first.await.unwrap().unwrap(), [97., 98.]);
    assert_eq!(resolve(&store, &embedder, &["c", "d"]).await.unwrap(), [99., 100.]);
    assert_eq!(store.statistics().waiting, 0);
}

#[tokio::test]
async fn what_is_embedded_ahead_waits_for_room() {
    let (store, embedder) = (EmbeddingStore::new(ROOMY, 3, None), FirstByte::gated(&[]));
    let first = started(&store, &embedder, &["a", "b"]).await;
    embedder.called(1).await;
    let ahead = started_numbers(&store, &embedder, 0..2, Urgency::Background).await;
    assert_eq!(store.statistics().waiting, 2);
    embedder.permits.add_permits(2);
    first.await.unwrap().unwrap();
    assert_eq!(
        ahead.await.unwrap().unwrap(),
        [0, 1].map(a_sixteenth_of_a_chunk).map(|text| embedding(&text))
    );
    // A list that can never find room is refused all the same.
    let too_long = started_numbers(&store, &embedder, 10..14, Urgency::Background).await;
    assert!(matches!(
        too_long.await.unwrap(),
        Err(EmbeddingError::TooManyWaiting(_))
    ));
}

#[tokio::test]
async fn a_failure_reaches_everybody_who_waits_and_leaves_nothing_behind() {
    let (store, embedder) = (
        EmbeddingStore::new(ROOMY, 1000, None),
        FirstByte::gated(&[Behaviour::Fail]),
    );
    let first = started(&store, &embedder, &["a", "b"]).await;
    let second = started(&store, &embedder, &["b"]).await;
    embedder.permits.add_permits(1);
    let expected = Err(EmbeddingError::Failed("no luck".into()));
    assert_eq!(first.await.unwrap(), expected);
    assert_eq!(second.await.unwrap(), expected);
    assert_eq!(
        (pending(&store), store.statistics().texts, store.statistics().bytes),
        (0, 0, 0)
    );

    embedder.permits.add_permits(1);
    assert_eq!(resolve(&store, &embedder, &["a", "b"]).await.unwrap(), [97., 98.]);
}

#[tokio::test]
async fn chunks_after_a_failure_are_not_tried_and_those_before_it_are_held() {
    let script = [Behaviour::Succeed, Behaviour::Fail];
    let (store, embedder) = (EmbeddingStore::new(ROOMY, 1000, None), FirstByte::open(&script));
    let names: Vec<String> = (0..40).map(a_sixteenth_of_a_chunk).collect();
    store
        .resolve(&space("w"), &names, embedder.clone(), Urgency::Request)
        .await
        .unwrap_err();
    assert_eq!(embedder.calls().len(), 2);
    assert_eq!(store.embedded(&space("w"), &names).await, 16);
    assert_eq!(pending(&store), 0);
}

#[tokio::test]
async fn a_panic_of_the_embedder_wakes_the_waiters() {
    let (store, embedder) = (
        EmbeddingStore::new(ROOMY, 1000, None),
        FirstByte::open(&[Behaviour::Panic]),
    );
    assert_eq!(
        resolve(&store, &embedder, &["a"]).await,
        Err(EmbeddingError::Interrupted)
    );
    assert_eq!(pending(&store), 0);
    assert_eq!(resolve(&store, &embedder, &["a"]).await.unwrap(), [97.]);
}

#[tokio::test]
async fn an_answer_of_the_wrong_length_is_a_failure() {
    let (store, embedder) = (
        EmbeddingStore::new(ROOMY, 1000, None),
        FirstByte::open(&[Behaviour::LoseOne]),
    );
    let error = resolve(&store, &embedder, &["a", "b"]).await.unwrap_err();
    assert_eq!(
        error,
        EmbeddingError::Failed("1 embeddings came back for 2 texts".into())
    );
}

#[tokio::test]
async fn the_least_recently_used_texts_go_first_when_it_is_full() {
    let one = entry_bytes(&EmbeddingKey::new(&space("w"), "a"), &embedding("a"));
    let (store, embedder) = (EmbeddingStore::new(2 * one, 1000, None), FirstByte::open(&[]));
    resolve(&store, &embedder, &["a", "b"]).await.unwrap();
    resolve(&store, &embedder, &["a"]).await.unwrap();
    // Counting embedded texts is not a use, so "b" stays the oldest.
    assert_eq!(store.embedded(&space("w"), &texts(&["b"])).await, 1);
    resolve(&store, &embedder, &["c"]).await.unwrap();
    for (name, held) in [("a", 1), ("b", 0), ("c", 1)] {
        assert_eq!(store.embedded(&space("w"), &texts(&[name])).await, held, "{name}");
    }
    assert_eq!((store.statistics().texts, store.statistics().bytes), (2, 2 * one));
}

#[tokio::test]
async fn a_list_larger_than_the_store_is_answered_all_the_same() {
    let (store, embedder) = (EmbeddingStore::new(0, 1000, None), FirstByte::open(&[]));
    assert_eq!(
        resolve(&store, &embedder, &["a", "b", "c"]).await.unwrap(),
        [97., 98., 99.]
    );
    assert_eq!((store.statistics().texts, store.statistics().bytes), (0, 0));
}

/// Waits until nothing waits to be written to disk.
fn written(store: &EmbeddingStore) {
    let disk = store.disk.as_ref().unwrap();
    disk.wait_until_written(std::time::Duration::from_secs(60));
}

#[tokio::test]
async fn a_disk_that_another_process_holds_costs_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let disk = DiskStore::open(&path, ROOMY).unwrap();
    let holder = rusqlite::Connection::open(folder.path().join("store.embeddings")).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (store, embedder) = (EmbeddingStore::new(ROOMY, 1000, Some(disk)), FirstByte::open(&[]));
    for name in ["a", "b", "c"] {
        let first = resolve(&store, &embedder, &[name]).await.unwrap();
        assert_eq!(first, [f32::from(name.as_bytes()[0])]);
    }
    // A text counts once it is known whether it can be written.
    written(&store);
    assert_eq!(store.embedded(&space("w"), &texts(&["a", "b", "c", "d"])).await, 3);
    assert_eq!(store.statistics().unwritten, 3);
}

#[tokio::test]
async fn what_is_on_disk_is_read_not_computed_and_waited_for_by_all_who_want_it() {
    let folder = tempfile::tempdir().unwrap();
    let disk = || Some(DiskStore::open(&folder.path().join("store"), ROOMY).unwrap());
    let embedder = FirstByte::open(&[]);
    let names = ["a", "a long text", "b"];
    let first = EmbeddingStore::new(ROOMY, 1000, disk());
    let computed = first
        .resolve(&space("w"), &texts(&names), embedder.clone(), Urgency::Request)
        .await
        .unwrap();
    assert_eq!(computed, names.map(embedding));
    written(&first);
    drop(first);

    let store = EmbeddingStore::new(ROOMY, 1000, disk());
    let asked = texts(&["b", "c", "a long text"]);
    assert_eq!(store.embedded(&space("w"), &asked).await, 2);
    let read = store
        .resolve(&space("w"), &asked, embedder.clone(), Urgency::Request)
        .await
        .unwrap();
    assert_eq!(read, ["b", "c", "a long text"].map(embedding));
    assert_eq!(embedder.calls(), [names.to_vec(), vec!["c"]]);
    resolve(&store, &embedder, &["b"]).await.unwrap();
    let statistics = store.statistics();
    assert_eq!((statistics.hits, statistics.disk_hits, statistics.misses), (1, 2, 1));
    assert!(statistics.disk_bytes > 0);
    assert_eq!(pending(&store), 0);
}

#[tokio::test]
async fn what_the_memory_has_no_room_for_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let disk = DiskStore::open(&folder.path().join("store"), ROOMY).unwrap();
    let (store, embedder) = (EmbeddingStore::new(0, 1000, Some(disk)), FirstByte::open(&[]));
    for _ in 0..2 {
        assert_eq!(resolve(&store, &embedder, &["a", "b"]).await.unwrap(), [97., 98.]);
        written(&store);
    }
    assert_eq!(embedder.calls().len(), 1);
    assert_eq!((store.statistics().disk_hits, store.statistics().texts), (2, 0));
}

/// Returns two stores that share their embeddings, as two replicas do, and what they have in common.
fn replicas() -> ([Arc<EmbeddingStore>; 2], Arc<FakeTexts>) {
    let common = Arc::new(FakeTexts::default());
    let stores = [(); 2].map(|()| EmbeddingStore::with_shared(ROOMY, 1000, None, Some(common.clone())));
    (stores, common)
}

/// Returns the texts that a store had from others, and those that it computed.
fn shared_and_computed(store: &EmbeddingStore) -> (u64, u64) {
    let statistics = store.statistics();
    (statistics.shared_hits, statistics.misses)
}

#[tokio::test]
async fn replicas_that_are_asked_for_a_text_at_once_compute_it_once() {
    let ([here, there], common) = replicas();
    let (first, second) = (FirstByte::gated(&[]), FirstByte::open(&[]));
    let computing = started(&here, &first, &["a", "b"]).await;
    first.called(1).await;
    let waiting = started(&there, &second, &["b", "c"]).await;
    second.called(1).await;
    assert_eq!(second.calls(), [["c"]], "what nobody computes is computed meanwhile");
    first.permits.add_permits(1);
    assert_eq!(computing.await.unwrap(), Ok(vec![97., 98.]));
    assert_eq!(waiting.await.unwrap(), Ok(vec![98., 99.]));
    assert_eq!(
        (shared_and_computed(&here), shared_and_computed(&there)),
        ((0, 2), (1, 1))
    );
    quiet(&here).await;
    assert_eq!(resolve(&here, &first, &["c"]).await, Ok(vec![99.]));
    assert_eq!((shared_and_computed(&here), common.counts()), ((1, 2), (3, 0)));
}

#[tokio::test]
async fn what_others_have_shared_counts_as_embedded_and_is_held() {
    let ([here, there], common) = replicas();
    let embedder = FirstByte::open(&[]);
    resolve(&here, &embedder, &["a", "b"]).await.unwrap();
    while common.counts() != (2, 0) {
        tokio::task::yield_now().await;
    }
    assert_eq!(there.embedded(&space("w"), &texts(&["a", "b", "c"])).await, 2);
    assert_eq!(there.embedded(&space("v"), &texts(&["a"])).await, 0, "other weights");
    common.set_down(true);
    assert_eq!(resolve(&there, &embedder, &["b", "a"]).await, Ok(vec![98., 97.]));
    assert_eq!(embedder.calls(), [["a", "b"]]);
}

#[tokio::test]
async fn without_the_shared_state_each_replica_computes_what_it_needs() {
    let ([here, there], common) = replicas();
    let embedder = FirstByte::open(&[]);
    common.set_down(true);
    for store in [&here, &there] {
        assert_eq!(resolve(store, &embedder, &["a"]).await, Ok(vec![97.]));
        assert_eq!(shared_and_computed(store), (0, 1));
    }
    common.set_down(false);
    assert_eq!(common.counts(), (0, 0));
    resolve(&here, &embedder, &["b"]).await.unwrap();
    assert_eq!(resolve(&there, &embedder, &["b"]).await, Ok(vec![98.]));
    assert_eq!(shared_and_computed(&there), (1, 1));
}

#[tokio::test]
async fn a_replica_that_fails_or_is_not_wanted_gives_its_duty_back() {
    let ([here, there], common) = replicas();
    let failing = FirstByte::open(&[Behaviour::Fail]);
    assert!(resolve(&here, &failing, &["a"]).await.is_err());
    assert_eq!(common.counts(), (0, 0));
    let unwanted = FirstByte::open(&[Behaviour::FindItUnwanted]);
    assert_eq!(resolve(&there, &unwanted, &["a"]).await, Ok(vec![97.]));
    assert_eq!(unwanted.calls().len(), 2);
}

#[tokio::test]
async fn the_duty_of_a_replica_that_is_gone_ends_and_another_computes() {
    let ([here, _], common) = replicas();
    let key = EmbeddingKey::new(&space("w"), "a").digest();
    let claimed = crate::shared::SharedTexts::claim(&*common, &[key], Token::new()).await;
    assert_eq!(claimed, Ok(vec![Claimed::Ours]));
    let embedder = FirstByte::open(&[]);
    let waiting = started(&here, &embedder, &["a"]).await;
    assert!(embedder.calls().is_empty() && !waiting.is_finished());
    common.end_duties();
    assert_eq!(waiting.await.unwrap(), Ok(vec![97.]));
}

#[tokio::test]
async fn damaged_embeddings_of_others_are_computed_again_and_replaced() {
    let ([here, there], common) = replicas();
    let embedder = FirstByte::open(&[]);
    resolve(&here, &embedder, &["a"]).await.unwrap();
    quiet(&here).await;
    while common.counts() != (1, 0) {
        tokio::task::yield_now().await;
    }
    common.damage();
    assert_eq!(there.embedded(&space("w"), &texts(&["a"])).await, 0);
    assert_eq!(resolve(&there, &embedder, &["a"]).await, Ok(vec![97.]));
    assert_eq!(shared_and_computed(&there), (0, 1));
}

#[tokio::test]
async fn what_cannot_be_an_embedding_of_the_model_is_neither_taken_over_nor_kept_nor_shared() {
    let folder = tempfile::tempdir().unwrap();
    let common = Arc::new(FakeTexts::default());
    let disk = DiskStore::open(&folder.path().join("store"), ROOMY).unwrap();
    let store = EmbeddingStore::with_shared(ROOMY, 1000, Some(Arc::clone(&disk)), Some(common.clone()));
    let unsound = [&[97.0, 0.0][..], &[0.0], &[f32::NAN], &[1e38]].map(|values| TextEmbedding {
        vector: values.into(),
        truncated: false,
    });
    let names = ["a", "b", "c", "d"];
    let entries = names.iter().zip(&unsound).map(|(name, embedding)| {
        let key = EmbeddingKey::new(&space("w"), name).digest();
        (key, embedding.to_bytes(&key))
    });
    let entries: Vec<_> = entries.collect();
    let shared = crate::shared::SharedTexts::write(&*common, &entries, Token::new()).await;
    assert_eq!(shared, Ok(()));
    assert_eq!(store.embedded(&space("w"), &texts(&names)).await, 0);
    let embedder = FirstByte::open(&[]);
    assert_eq!(resolve(&store, &embedder, &names).await, Ok(vec![97., 98., 99., 100.]));
    assert_eq!((shared_and_computed(&store), embedder.calls().len()), ((0, 4), 1));
    // Those on a disk are computed again, too.
    let keys = ["e", "f"].map(|name| EmbeddingKey::new(&space("w"), name));
    disk.write_behind(keys.into_iter().zip(unsound).collect());
    written(&store);
    assert_eq!(resolve(&store, &embedder, &["e"]).await, Ok(vec![101.]));
    // And a model that fails is not believed.
    while common.counts() != (5, 0) {
        tokio::task::yield_now().await;
    }
    let failing = FirstByte::open(&[Behaviour::GiveNoNumber]);
    let refused = resolve(&store, &failing, &["g"]).await;
    assert!(matches!(refused, Err(EmbeddingError::Failed(_))), "{refused:?}");
    assert_eq!(common.counts(), (5, 0));
    assert_eq!(resolve(&store, &embedder, &["g"]).await, Ok(vec![103.]));
}
