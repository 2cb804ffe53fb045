//! The registry's definitions in common with other replicas.
//!
//! The shared state has the last word on what is defined. This replica's copy, in memory and on disk, answers while it
//! cannot be reached; changes are refused then, so that what was answered to a client holds on all replicas. Should the
//! shared state lose what replicas know, they write it back: of two states of a name the one of the greater version is
//! the later one, whoever has it.
//!
//! This file owns what a replica has seen of the shared state. `exchange` compares the two, `changes` changes it.

mod changes;
mod exchange;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use super::{NamedVocabulary, VocabularyRegistry};
use crate::shared::{Entry, Mark, SharedError, SharedState, remembered};
use crate::support::lock;
use crate::vocabulary::disk::{Definition, Deletion, Learned};

/// The shared state, and what this replica has seen of it.
#[derive(Debug)]
pub(super) struct Shared {
    state: Arc<SharedState>,
    /// The state that this replica knows. Its own change leaves none: should the shared state come back as it was just
    /// before that change, the replica must not take it for what it knows.
    seen: Mutex<Option<Seen>>,
    /// Whether all was taken over the last time that somebody wanted to.
    is_in_step: AtomicBool,
    /// Locked by whoever changes what is defined, or takes over what others have changed.
    others: tokio::sync::Mutex<Others>,
}

/// A state of the shared state that a replica has taken over, and on which connection.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    connection: u64,
    mark: Mark,
}

/// What a replica knows of names besides their definitions.
#[derive(Debug, Default)]
struct Others {
    /// The deletions, those of an earlier process included.
    deleted: BTreeMap<String, Entry>,
    /// The states of names whose definitions are missing in the shared state, or cannot be read. A change starts from
    /// them.
    unread: BTreeMap<String, Entry>,
    /// Number of names in the shared state that no vocabulary can have.
    strange: usize,
}

impl Shared {
    /// Creates the shared state of a registry that knows of some deletions.
    pub(super) fn new(state: Arc<SharedState>, deletions: Vec<Deletion>) -> Self {
        let deletion = |Deletion { name, version }| (name, Entry { version, digest: None });
        let others = Others {
            deleted: deletions.into_iter().map(deletion).collect(),
            ..Others::default()
        };
        Self {
            state,
            seen: Mutex::default(),
            is_in_step: AtomicBool::new(false),
            others: tokio::sync::Mutex::new(others),
        }
    }

    /// Returns whether this replica knows what others have defined, as far as it could see the last time.
    pub(super) fn is_in_step(&self) -> bool {
        self.is_in_step.load(Ordering::Relaxed)
    }

    fn seen(&self) -> MutexGuard<'_, Option<Seen>> {
        lock(&self.seen)
    }

    /// Looks which state the shared state is in. If the connection is lost meanwhile, all is taken over once more.
    async fn look(&self) -> Result<Seen, SharedError> {
        let connection = self.state.connections();
        let mark = self.state.mark().await?;
        Ok(Seen { connection, mark })
    }

    fn has_seen(&self, present: &Seen) -> bool {
        self.seen().as_ref() == Some(present)
    }
}

impl Others {
    /// Returns the names whose deletions are remembered, of all that this replica and the others know of.
    fn remembered(&self, common: &BTreeMap<String, Entry>, now: u64) -> BTreeSet<String> {
        let theirs = common.iter().filter(|(_, state)| state.digest.is_none());
        let all: BTreeMap<&str, u64> = (self.deleted.iter().chain(theirs))
            .map(|(name, state)| (&**name, state.version))
            .collect();
        let names = remembered(all.into_iter(), now).into_iter();
        names.map(str::to_owned).collect()
    }

    /// Takes note of definitions that were taken over, and of names whose definitions are deleted by the common `entries`.
    /// Remembers the deletions of the names in `kept` alone. Returns what changes in memory and on disk.
    fn learn(
        &mut self,
        defined: Vec<Definition>,
        dropped: Vec<String>,
        entries: &BTreeMap<String, Entry>,
        kept: &BTreeSet<String>,
    ) -> Learned {
        let mut deleted = Vec::with_capacity(dropped.len());
        for name in dropped {
            let state = entries[&name].clone();
            let version = state.version;
            self.deleted.insert(name.clone(), state);
            deleted.push(Deletion { name, version });
        }
        for definition in &defined {
            self.deleted.remove(&definition.name);
        }
        let forgotten = self.deleted.keys().filter(|name| !kept.contains(*name));
        let forgotten = forgotten.cloned().collect();
        self.deleted.retain(|name, _| kept.contains(name));
        Learned {
            defined,
            deleted,
            forgotten,
        }
    }

    /// Logs how many names are passed over, whenever that changes.
    fn tell_strange(&mut self, names: usize) {
        if names > self.strange {
            tracing::warn!(
                names,
                "the shared state has names that no vocabulary can have; leaving them there"
            );
        }
        self.strange = names;
    }

    /// Logs the names whose definitions cannot be taken over, each when that is news.
    fn tell_unread(&self, unread: &BTreeMap<String, Entry>) {
        for name in unread.keys().filter(|name| !self.unread.contains_key(*name)) {
            tracing::warn!(
                name,
                "a shared vocabulary is missing, damaged, of another version, or larger than this replica's limits allow; \
                 the next change of it replaces it"
            );
        }
    }

    /// Returns the state that the shared state has of a name with this definition here; `None` if it has none.
    fn state(&self, name: &str, current: Option<&Arc<NamedVocabulary>>) -> Option<Entry> {
        let unread = self.unread.get(name).cloned();
        unread.or_else(|| current.map(|current| entry(current)))
    }
}

impl VocabularyRegistry {
    /// Takes over what other replicas have defined and deleted since the last time. Returns at once where nothing is
    /// shared.
    ///
    /// # Errors
    /// [`SharedError`] when the shared state cannot be reached. The registry then answers from what it knows.
    pub async fn take_over_shared(&self) -> Result<(), SharedError> {
        let Some(shared) = &self.shared else { return Ok(()) };
        let taken_over = self.take_over_from(shared).await;
        shared.is_in_step.store(taken_over.is_ok(), Ordering::Relaxed);
        taken_over
    }

    async fn take_over_from(&self, shared: &Shared) -> Result<(), SharedError> {
        let present = shared.look().await?;
        if shared.has_seen(&present) {
            return Ok(());
        }
        let mut others = shared.others.lock().await;
        // Another request may have done it meanwhile.
        if shared.has_seen(&present) {
            return Ok(());
        }
        self.exchange(shared, &mut others, present.connection).await
    }

    /// Takes definitions over, and drops others, in memory and on disk.
    async fn apply(&self, learned: Learned) {
        if learned.is_empty() {
            return;
        }
        {
            let mut defined = self.defined();
            defined.changes += 1;
            for Definition {
                name,
                vocabulary,
                defined_at,
            } in &learned.defined
            {
                let vocabulary = NamedVocabulary::new(name, vocabulary.clone(), false, *defined_at);
                defined.by_name.insert(name.clone(), vocabulary);
            }
            for Deletion { name, .. } in &learned.deleted {
                defined.by_name.remove(name);
            }
        }
        self.copy_to_disk(learned).await;
    }
}

/// Returns the state of a name with this definition. The time of a shared definition is its version.
fn entry(vocabulary: &NamedVocabulary) -> Entry {
    Entry {
        version: seconds(vocabulary.defined_at),
        digest: Some(vocabulary.digest.clone()),
    }
}

fn seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

fn time(version: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deleted(names: &[(&str, u64)]) -> BTreeMap<String, Entry> {
        let state = |&(name, version): &(&str, u64)| (name.to_owned(), Entry { version, digest: None });
        names.iter().map(state).collect()
    }

    const NOW: u64 = 1_764_471_234;
    const LONG_AGO: u64 = NOW - 40 * 24 * 3600;

    #[test]
    fn a_deletion_that_redis_has_forgotten_is_forgotten_here_and_on_disk() {
        let mut others = Others {
            deleted: deleted(&[("old", LONG_AGO), ("own", NOW - 9)]),
            ..Others::default()
        };
        let common = deleted(&[("theirs", NOW - 3), ("forgotten next", LONG_AGO + 1)]);
        let kept = others.remembered(&common, NOW);
        assert_eq!(kept, ["own", "theirs"].map(str::to_owned).into());

        let dropped = vec!["forgotten next".to_owned(), "theirs".to_owned()];
        let learned = others.learn(Vec::new(), dropped, &common, &kept);
        assert_eq!(others.deleted, deleted(&[("own", NOW - 9), ("theirs", NOW - 3)]));
        let names: Vec<&str> = learned.deleted.iter().map(|deletion| &*deletion.name).collect();
        assert_eq!(names, ["forgotten next", "theirs"], "both are undefined from now on");
        assert_eq!(learned.forgotten, ["forgotten next", "old"]);
    }
}
