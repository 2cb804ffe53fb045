//! Writes embeddings behind the requests that computed them. What another process or a full disk keeps from being
//! written within a second is given up: the embeddings stay in memory and can be computed again.

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::super::embedding::{EmbeddingKey, TextEmbedding};
use super::DiskStore;
use super::embeddings::{Changes, KeyDigest};
use crate::support::lock;

/// Bytes of embeddings that may wait to be written. More are not written.
const MAX_WAITING_BYTES: usize = 32 << 20;

/// The changes that wait to be written, and the thread that writes them.
#[derive(Debug, Default)]
pub(super) struct WriteBehind {
    state: Mutex<State>,
    written: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: Changes,
    waiting_bytes: usize,
    /// The embeddings that wait or are being written.
    unwritten: HashSet<KeyDigest>,
    /// Whether a thread writes. It ends when nothing is left.
    is_writing: bool,
    /// Number of embeddings that were given up since the start.
    given_up: u64,
}

impl WriteBehind {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl DiskStore {
    /// Returns the embeddings of some keys in their order, `None` for those that are not on the disk or cannot be read
    /// now. Waits for no other process.
    pub(in crate::vocabulary) fn read(
        self: &Arc<Self>,
        keys: &[EmbeddingKey],
        now: SystemTime,
    ) -> Vec<Option<TextEmbedding>> {
        let (found, changes) = self.embeddings.read(&digests(keys), now);
        if !changes.is_empty() {
            self.change_behind(changes);
        }
        found
    }

    /// Returns how many of the keys are on the disk.
    pub(in crate::vocabulary) fn count(&self, keys: &[EmbeddingKey]) -> usize {
        self.embeddings.count(&digests(keys))
    }

    /// Starts to write embeddings and returns at once. Gives them up if they cannot be written soon.
    pub(in crate::vocabulary) fn write_behind(self: &Arc<Self>, entries: Vec<(EmbeddingKey, TextEmbedding)>) {
        let entries = entries.into_iter().map(|(key, embedding)| (key.digest(), embedding));
        self.change_behind(Changes {
            entries: entries.collect(),
            ..Changes::default()
        });
    }

    /// Returns how many of the keys wait to be written.
    pub(in crate::vocabulary) fn count_unwritten<'a>(&self, keys: impl Iterator<Item = &'a EmbeddingKey>) -> usize {
        if self.behind.state().unwritten.is_empty() {
            return 0;
        }
        let digests: Vec<KeyDigest> = keys.map(EmbeddingKey::digest).collect();
        let state = self.behind.state();
        digests
            .iter()
            .filter(|digest| state.unwritten.contains(*digest))
            .count()
    }

    /// Returns the number of embeddings since the start that could not be written.
    pub fn given_up(&self) -> u64 {
        self.behind.state().given_up
    }

    /// Waits until no embeddings wait to be written, but no longer than `limit`.
    pub fn wait_until_written(&self, limit: Duration) {
        let busy = |state: &mut State| state.is_writing;
        let waited = self.behind.written.wait_timeout_while(self.behind.state(), limit, busy);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn change_behind(self: &Arc<Self>, changes: Changes) {
        let bytes = changes
            .entries
            .iter()
            .map(|(_, embedding)| bytes_of(embedding))
            .sum::<usize>();
        let mut state = self.behind.state();
        if state.waiting_bytes + bytes > MAX_WAITING_BYTES {
            state.given_up += changes.entries.len() as u64;
            tracing::warn!(
                texts = changes.entries.len(),
                "too many text embeddings wait to be written to disk"
            );
            return;
        }
        state.waiting_bytes += bytes;
        state
            .unwritten
            .extend(changes.entries.iter().map(|(digest, _)| *digest));
        state.waiting.entries.extend(changes.entries);
        state.waiting.used.extend(changes.used);
        state.waiting.damaged.extend(changes.damaged);
        if !state.is_writing {
            let store = Arc::clone(self);
            let writer = std::thread::Builder::new().name("store-writer".to_owned());
            match writer.spawn(move || store.write_what_waits()) {
                Ok(_) => state.is_writing = true,
                Err(error) => {
                    tracing::warn!(%error, "cannot start a thread that writes to the store on disk");
                    state.give_up_what_waits();
                }
            }
        }
    }

    /// Writes what waits until nothing is left.
    fn write_what_waits(&self) {
        loop {
            let changes = {
                let mut state = self.behind.state();
                if state.waiting.is_empty() {
                    state.is_writing = false;
                    self.behind.written.notify_all();
                    return;
                }
                state.waiting_bytes = 0;
                std::mem::take(&mut state.waiting)
            };
            let written = self.embeddings.write(&changes, SystemTime::now());
            let mut state = self.behind.state();
            for (digest, _) in &changes.entries {
                state.unwritten.remove(digest);
            }
            if let Err(error) = written {
                state.given_up += changes.entries.len() as u64;
                tracing::warn!(%error, texts = changes.entries.len(), "could not write text embeddings to disk");
            }
        }
    }
}

impl State {
    fn give_up_what_waits(&mut self) {
        self.given_up += self.waiting.entries.len() as u64;
        self.waiting = Changes::default();
        self.waiting_bytes = 0;
        self.unwritten.clear();
    }
}

fn digests(keys: &[EmbeddingKey]) -> Vec<KeyDigest> {
    keys.iter().map(EmbeddingKey::digest).collect()
}

fn bytes_of(embedding: &TextEmbedding) -> usize {
    size_of::<(KeyDigest, TextEmbedding)>() + size_of_val(&*embedding.vector)
}
