//! The registry's definitions in common with other replicas.
//!
//! The shared state has the last word on what is defined. This replica's copy, in memory and on disk, answers while it
//! cannot be reached; changes are refused then, so that what was answered to a client holds on all replicas. Should the
//! shared state lose what replicas know, they write it back: of two states of a name the one of the greater version is
//! the later one, whoever has it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use super::super::disk::Definition;
use super::super::text_form::{parse_vocabulary, write_vocabulary};
use super::super::{VocabularyDefinition, VocabularyError};
use super::disk::definition;
use super::{NamedVocabulary, Stored, VocabularyRegistry, check, is_name};
use crate::shared::{Catalogue, Entry, PutOutcome, SharedError, SharedState, Value};

/// The shared state, and what this replica has seen of it.
#[derive(Debug)]
pub(super) struct Shared {
    state: Arc<SharedState>,
    /// The mark of the state that this replica knows. The outer `None` knows none.
    seen: Mutex<Option<Option<Vec<u8>>>>,
    /// The deletions that this replica knows. Locked by whoever takes over what others have changed.
    deleted: tokio::sync::Mutex<BTreeMap<String, Entry>>,
}

impl Shared {
    pub(super) fn new(state: Arc<SharedState>) -> Self {
        Self {
            state,
            seen: Mutex::default(),
            deleted: tokio::sync::Mutex::default(),
        }
    }

    fn seen(&self) -> MutexGuard<'_, Option<Option<Vec<u8>>>> {
        self.seen.lock().expect("nothing panics while it has the mark's lock")
    }
}

/// What two states of all names come to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Exchange {
    /// Names whose definitions this replica takes over.
    take: Vec<String>,
    /// Names whose definitions are deleted.
    drop: Vec<String>,
    /// Names whose states the shared state has lost.
    give: Vec<String>,
}

impl Exchange {
    /// Compares what a replica knows with what the replicas have in common. Where a name has two states of one version,
    /// the common one holds.
    fn between(known: &BTreeMap<String, Entry>, common: &BTreeMap<String, Entry>) -> Self {
        let mut exchange = Self::default();
        for (name, theirs) in common {
            match known.get(name) {
                Some(ours) if ours.version > theirs.version || ours == theirs => {}
                _ if theirs.digest.is_none() => exchange.drop.push(name.clone()),
                _ => exchange.take.push(name.clone()),
            }
        }
        let is_lost = |(name, ours): &(&String, &Entry)| {
            let theirs = common.get(*name);
            theirs.is_none_or(|theirs| theirs.version < ours.version)
        };
        exchange.give = known.iter().filter(is_lost).map(|(name, _)| name.clone()).collect();
        exchange
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
        let mark = shared.state.mark().await?;
        if *shared.seen() == Some(mark.clone()) {
            return Ok(());
        }
        let mut deleted = shared.deleted.lock().await;
        // Another request may have done it meanwhile.
        if *shared.seen() == Some(mark) {
            return Ok(());
        }
        self.exchange(shared, &mut deleted).await
    }

    async fn exchange(&self, shared: &Shared, deleted: &mut BTreeMap<String, Entry>) -> Result<(), SharedError> {
        let Catalogue { mark, entries } = shared.state.catalogue().await?;
        let mut known = self.known();
        for (name, deletion) in deleted.iter() {
            known.entry(name.clone()).or_insert_with(|| deletion.clone());
        }
        let Exchange { take, drop, give } = Exchange::between(&known, &entries);
        let values = shared.state.values(&take).await?;
        let mut taken = Vec::new();
        for (name, value) in take.into_iter().zip(values) {
            // What was deleted since has changed the mark, so it is found the next time.
            let Some(value) = value else { continue };
            match read(&value) {
                Some(vocabulary) => taken.push(Definition {
                    name,
                    vocabulary,
                    defined_at: time(value.version),
                }),
                None => tracing::warn!(
                    name,
                    "a shared vocabulary is damaged or of another version; leaving it there"
                ),
            }
        }
        for definition in &taken {
            deleted.remove(&definition.name);
        }
        deleted.extend(drop.iter().map(|name| (name.clone(), entries[name].clone())));
        // Redis remembers no more deletions than these.
        deleted.retain(|name, _| entries.contains_key(name) || give.contains(name));
        self.apply(taken, drop).await;
        self.give_back(shared, deleted, give).await?;
        *shared.seen() = Some(mark);
        Ok(())
    }

    /// Writes states that the shared state has lost.
    async fn give_back(
        &self,
        shared: &Shared,
        deleted: &BTreeMap<String, Entry>,
        names: Vec<String>,
    ) -> Result<(), SharedError> {
        let mut restored = 0;
        for name in names {
            let known = self.defined().by_name.get(&name).cloned();
            let done = match (known, deleted.get(&name)) {
                (Some(known), _) => {
                    let text = write_vocabulary(&known.list, &known.options);
                    shared.state.restore_definition(&name, &entry(&known), &text).await?
                }
                (None, Some(deletion)) => shared.state.restore_definition(&name, deletion, "").await?,
                (None, None) => false,
            };
            restored += usize::from(done);
        }
        if restored > 0 {
            tracing::warn!(
                restored,
                "wrote known vocabularies to the shared state, which lacked them"
            );
        }
        Ok(())
    }

    /// Returns the states of the names that are defined here.
    fn known(&self) -> BTreeMap<String, Entry> {
        let defined = self.defined();
        let known = defined.by_name.iter();
        known.map(|(name, known)| (name.clone(), entry(known))).collect()
    }

    /// Takes definitions over, and drops others, in memory and on disk.
    async fn apply(&self, taken: Vec<Definition>, dropped: Vec<String>) {
        if taken.is_empty() && dropped.is_empty() {
            return;
        }
        {
            let mut defined = self.defined();
            defined.changes += 1;
            for Definition {
                name,
                vocabulary,
                defined_at,
            } in &taken
            {
                let vocabulary = NamedVocabulary::new(name, vocabulary.clone(), false, *defined_at);
                defined.by_name.insert(name.clone(), vocabulary);
            }
            for name in &dropped {
                defined.by_name.remove(name);
            }
        }
        self.copy_to_disk(taken, dropped).await;
    }

    /// Defines a vocabulary for all replicas, as [`VocabularyRegistry::put`] does for this one.
    pub(super) async fn put_shared(
        &self,
        name: &str,
        vocabulary: &VocabularyDefinition,
        condition: impl Fn(Option<&str>) -> bool,
        deadline: Instant,
    ) -> Result<(Arc<NamedVocabulary>, Stored), VocabularyError> {
        if !is_name(name) {
            return Err(VocabularyError::InvalidName { name: name.to_owned() });
        }
        self.refuse_shipped(name)?;
        let text = write_vocabulary(&vocabulary.list, &vocabulary.options);
        let digest = vocabulary.digest();
        let limit = self.limits.max_vocabularies;
        loop {
            let (shared, current) = self.current_shared(name).await?;
            check(&condition, name, current.as_ref())?;
            let wanted = NamedVocabulary::new(name, vocabulary.clone(), false, SystemTime::UNIX_EPOCH);
            self.check_room(&wanted, current.is_none())?;
            let expected = current.as_deref().map(entry);
            let put = shared
                .state
                .put_definition(name, expected.as_ref(), (&digest, &text), limit);
            match put.await.map_err(|error| not_shared(name, error))? {
                PutOutcome::Done(version) => {
                    let stored = current.map_or(Stored::Created, |_| Stored::Replaced);
                    let made = NamedVocabulary::new(name, vocabulary.clone(), false, time(version));
                    self.apply(vec![definition(&made)], Vec::new()).await;
                    return Ok((made, stored));
                }
                PutOutcome::TooMany => return Err(VocabularyError::TooMany { limit }),
                PutOutcome::Changed if Instant::now() > deadline => return Err(self.busy(name)),
                PutOutcome::Changed => {}
            }
        }
    }

    /// Deletes a vocabulary for all replicas, as [`VocabularyRegistry::delete`] does for this one.
    pub(super) async fn delete_shared(
        &self,
        name: &str,
        condition: impl Fn(Option<&str>) -> bool,
        deadline: Instant,
    ) -> Result<(), VocabularyError> {
        self.refuse_shipped(name)?;
        loop {
            let (shared, current) = self.current_shared(name).await?;
            let Some(current) = current else {
                return Err(VocabularyError::NotFound { name: name.to_owned() });
            };
            check(&condition, name, Some(&current))?;
            let deleted = shared.state.delete_definition(name, &entry(&current)).await;
            if let Some(version) = deleted.map_err(|error| not_shared(name, error))? {
                // Should the shared state lose the deletion, this replica still knows it.
                let deletion = Entry { version, digest: None };
                shared.deleted.lock().await.insert(name.to_owned(), deletion);
                self.apply(Vec::new(), vec![name.to_owned()]).await;
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(self.busy(name));
            }
        }
    }

    /// Returns the shared state, and the definition that it has under a name.
    async fn current_shared(&self, name: &str) -> Result<(&Shared, Option<Arc<NamedVocabulary>>), VocabularyError> {
        let shared = self.shared.as_ref().expect("asked where definitions are shared alone");
        let taken_over = self.take_over_shared().await;
        taken_over.map_err(|error| not_shared(name, error))?;
        Ok((shared, self.defined().by_name.get(name).cloned()))
    }
}

/// Returns a definition that was read, unless it is another than the one that was written.
fn read(value: &Value) -> Option<VocabularyDefinition> {
    let vocabulary = VocabularyDefinition::trusted(parse_vocabulary(&value.text).ok()?);
    (vocabulary.digest() == value.digest).then_some(vocabulary)
}

/// Returns the state of a name with this definition. The time of a shared definition is its version.
fn entry(vocabulary: &NamedVocabulary) -> Entry {
    let since = vocabulary.defined_at.duration_since(SystemTime::UNIX_EPOCH);
    Entry {
        version: since.map_or(0, |since| since.as_secs()),
        digest: Some(vocabulary.digest.clone()),
    }
}

fn time(version: u64) -> SystemTime {
    // A version that no clock reaches is nobody's time.
    SystemTime::UNIX_EPOCH + Duration::from_secs(version.min(u64::from(u32::MAX)))
}

fn not_shared(name: &str, error: SharedError) -> VocabularyError {
    let name = name.to_owned();
    match error {
        SharedError::Unreachable => VocabularyError::NotShared { name },
        SharedError::Full => VocabularyError::SharedFull { name },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(states: &[(&str, u64, Option<&str>)]) -> BTreeMap<String, Entry> {
        let state = |&(name, version, digest): &(&str, u64, Option<&str>)| {
            let digest = digest.map(str::to_owned);
            (name.to_owned(), Entry { version, digest })
        };
        states.iter().map(state).collect()
    }

    fn exchange(known: &[(&str, u64, Option<&str>)], common: &[(&str, u64, Option<&str>)]) -> [Vec<String>; 3] {
        let Exchange { take, drop, give } = Exchange::between(&states(known), &states(common));
        [take, drop, give]
    }

    const NONE: Vec<String> = Vec::new();

    #[test]
    fn equal_states_exchange_nothing() {
        let all = [("a", 5, Some("x")), ("b", 6, None)];
        assert_eq!(exchange(&all, &all), [NONE; 3]);
    }

    #[test]
    fn the_later_state_of_a_name_holds_whoever_has_it() {
        let known = [("newer", 5, Some("x")), ("older", 5, Some("x")), ("same", 5, Some("x"))];
        let common = [("newer", 4, Some("y")), ("older", 6, Some("y")), ("same", 5, Some("y"))];
        let [take, drop, give] = exchange(&known, &common);
        assert_eq!(take, ["older", "same"]);
        assert_eq!((drop, give), (NONE, vec!["newer".to_owned()]));
    }

    #[test]
    fn what_was_deleted_later_goes_and_does_not_come_back() {
        let known = [("gone", 5, Some("x")), ("made again", 7, Some("x")), ("old", 3, None)];
        let common = [("gone", 6, None), ("made again", 6, None), ("old", 2, Some("x"))];
        let [take, drop, give] = exchange(&known, &common);
        assert_eq!((take, drop), (NONE, vec!["gone".to_owned()]));
        assert_eq!(give, ["made again", "old"]);
    }

    #[test]
    fn a_shared_state_that_lost_all_gets_all_back_and_a_new_replica_takes_all() {
        let all = [("a", 5, Some("x")), ("b", 6, None)];
        assert_eq!(exchange(&all, &[]), [NONE, NONE, vec!["a".to_owned(), "b".to_owned()]]);
        assert_eq!(exchange(&[], &all), [vec!["a".to_owned()], vec!["b".to_owned()], NONE]);
    }
}
