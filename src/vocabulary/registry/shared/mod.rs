//! The registry's definitions in common with other replicas.
//!
//! The shared state has the last word on what is defined. This replica's copy, in memory and on disk, answers while it
//! cannot be reached; changes are refused then, so that what was answered to a client holds on all replicas. Should the
//! shared state lose what replicas know, they write it back: of two states of a name the one of the greater version is
//! the later one, whoever has it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use super::super::disk::Definition;
use super::super::text_form::{parse_vocabulary, write_vocabulary};
use super::super::{VocabularyDefinition, VocabularyError, VocabularyLimits};
use super::disk::definition;
use super::{NamedVocabulary, Stored, VocabularyRegistry, check, is_name, local};
use crate::shared::{Catalogue, Entry, Mark, PutOutcome, SharedError, SharedState, Value};

/// The shortest pause before a change is tried again that another replica was faster with. The longest is five times as
/// long: it is drawn by chance, so that replicas do not meet again.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

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
    /// The deletions.
    deleted: BTreeMap<String, Entry>,
    /// The states of names whose definitions are missing in the shared state, or cannot be read. A change starts from
    /// them.
    unread: BTreeMap<String, Entry>,
    /// Number of names in the shared state that no vocabulary can have.
    strange: usize,
}

impl Shared {
    pub(super) fn new(state: Arc<SharedState>) -> Self {
        Self {
            state,
            seen: Mutex::default(),
            is_in_step: AtomicBool::new(false),
            others: tokio::sync::Mutex::default(),
        }
    }

    /// Returns whether this replica knows what others have defined, as far as it could see the last time.
    pub(super) fn is_in_step(&self) -> bool {
        self.is_in_step.load(Ordering::Relaxed)
    }

    fn seen(&self) -> MutexGuard<'_, Option<Seen>> {
        self.seen.lock().expect("nothing panics while it has the mark's lock")
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
    /// the common one holds. Of the `missing` names, the replicas have the state in common, and no definition.
    fn between(known: &BTreeMap<String, Entry>, common: &BTreeMap<String, Entry>, missing: &BTreeSet<String>) -> Self {
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
            let is_missing = || missing.contains(*name) && theirs == Some(*ours);
            theirs.is_none_or(|theirs| theirs.version < ours.version) || is_missing()
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

    async fn exchange(&self, shared: &Shared, others: &mut Others, connection: u64) -> Result<(), SharedError> {
        let catalogue = shared.state.catalogue().await?;
        let mut known = self.known();
        for (name, deletion) in &others.deleted {
            known.entry(name.clone()).or_insert_with(|| deletion.clone());
        }
        let missing = missing(shared, &known, &catalogue).await?;
        let Catalogue { mark, mut entries } = catalogue;
        let all = entries.len();
        entries.retain(|name, _| is_name(name) && !self.shipped.contains_key(local(name)));
        others.tell_strange(all - entries.len());
        let Exchange { take, drop, give } = Exchange::between(&known, &entries, &missing);
        let values = shared.state.values(&take).await?;
        let (taken, unread) = read_all(take, values, &entries, &self.limits.definition);
        for (name, _) in unread.iter().filter(|state| !others.unread.contains_key(state.0)) {
            tracing::warn!(
                name,
                "a shared vocabulary is missing, damaged, of another version, or larger than this replica's limits allow; \
                 the next change of it replaces it"
            );
        }
        others.unread = unread;
        for definition in &taken {
            others.deleted.remove(&definition.name);
        }
        let deletions = drop.iter().map(|name| (name.clone(), entries[name].clone()));
        others.deleted.extend(deletions);
        // Redis remembers no more deletions than these.
        let is_remembered = |name: &String| entries.contains_key(name) || give.contains(name);
        others.deleted.retain(|name, _| is_remembered(name));
        self.apply(taken, drop).await;
        self.give_back(shared, &others.deleted, give).await?;
        *shared.seen() = Some(Seen { connection, mark });
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
        let shared = self.shared_state();
        loop {
            let mut others = self.in_step(shared, name).await?;
            let current = self.defined().by_name.get(name).cloned();
            check(&condition, name, current.as_ref())?;
            let wanted = NamedVocabulary::new(name, vocabulary.clone(), false, SystemTime::UNIX_EPOCH);
            self.check_room(&wanted, current.is_none())?;
            let expected = others.state(name, current.as_ref());
            *shared.seen() = None;
            let put = shared
                .state
                .put_definition(name, expected.as_ref(), (&digest, &text), limit);
            match put.await.map_err(|error| not_shared(name, error))? {
                PutOutcome::Done(version) => {
                    let stored = current.map_or(Stored::Created, |_| Stored::Replaced);
                    let made = NamedVocabulary::new(name, vocabulary.clone(), false, time(version));
                    others.unread.remove(name);
                    others.deleted.remove(name);
                    self.apply(vec![definition(&made)], Vec::new()).await;
                    return Ok((made, stored));
                }
                PutOutcome::TooMany => return Err(VocabularyError::TooMany { limit }),
                PutOutcome::Changed => {}
            }
            drop(others);
            self.pause_before(name, deadline).await?;
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
        let shared = self.shared_state();
        loop {
            let mut others = self.in_step(shared, name).await?;
            let current = self.defined().by_name.get(name).cloned();
            let Some(expected) = others.state(name, current.as_ref()) else {
                return Err(VocabularyError::NotFound { name: name.to_owned() });
            };
            check(&condition, name, current.as_ref())?;
            *shared.seen() = None;
            let deleted = shared.state.delete_definition(name, &expected).await;
            if let Some(version) = deleted.map_err(|error| not_shared(name, error))? {
                // Should the shared state lose the deletion, this replica still knows it.
                let deletion = Entry { version, digest: None };
                others.unread.remove(name);
                others.deleted.insert(name.to_owned(), deletion);
                self.apply(Vec::new(), vec![name.to_owned()]).await;
                return Ok(());
            }
            drop(others);
            self.pause_before(name, deadline).await?;
        }
    }

    fn shared_state(&self) -> &Shared {
        self.shared.as_ref().expect("asked where definitions are shared alone")
    }

    /// Takes over what others have changed, for a change of a name. Nothing else is taken over until the lock is dropped.
    async fn in_step<'a>(
        &self,
        shared: &'a Shared,
        name: &str,
    ) -> Result<tokio::sync::MutexGuard<'a, Others>, VocabularyError> {
        let mut others = shared.others.lock().await;
        let taken_over = async {
            let present = shared.look().await?;
            match shared.has_seen(&present) {
                true => Ok(()),
                false => self.exchange(shared, &mut others, present.connection).await,
            }
        };
        taken_over.await.map_err(|error| not_shared(name, error))?;
        Ok(others)
    }

    /// Waits a little before a change is tried again, unless it is time to give up.
    async fn pause_before(&self, name: &str, deadline: Instant) -> Result<(), VocabularyError> {
        if Instant::now() > deadline {
            return Err(VocabularyError::SharedBusy {
                name: name.to_owned(),
                waited: self.limits.wait,
            });
        }
        let drawn = getrandom::u32().unwrap_or(u32::MAX / 2);
        tokio::time::sleep(SHORTEST_PAUSE.mul_f64(1.0 + 4.0 * f64::from(drawn) / f64::from(u32::MAX))).await;
        Ok(())
    }
}

impl Others {
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

    /// Returns the state that the shared state has of a name with this definition here; `None` if it has none.
    fn state(&self, name: &str, current: Option<&Arc<NamedVocabulary>>) -> Option<Entry> {
        let unread = self.unread.get(name).cloned();
        unread.or_else(|| current.map(|current| entry(current)))
    }
}

/// Returns the known names whose definitions the shared state has lost, and not their states.
async fn missing(
    shared: &Shared,
    known: &BTreeMap<String, Entry>,
    catalogue: &Catalogue,
) -> Result<BTreeSet<String>, SharedError> {
    if catalogue.is_whole() {
        return Ok(BTreeSet::new());
    }
    let is_common = |(name, state): &(&String, &Entry)| {
        let is_defined = state.digest.is_some();
        is_defined && catalogue.entries.get(*name) == Some(*state)
    };
    let names: Vec<String> = known.iter().filter(is_common).map(|(name, _)| name.clone()).collect();
    let bytes = shared.state.definition_bytes(&names).await?;
    let missing = names.into_iter().zip(bytes).filter(|(_, bytes)| *bytes == 0);
    Ok(missing.map(|(name, _)| name).collect())
}

/// Reads the definitions of some names. Returns those of the others by their states. What was deleted since has changed
/// the mark, so it is found the next time.
fn read_all(
    names: Vec<String>,
    values: Vec<Option<Value>>,
    entries: &BTreeMap<String, Entry>,
    limits: &VocabularyLimits,
) -> (Vec<Definition>, BTreeMap<String, Entry>) {
    let (mut taken, mut unread) = (Vec::new(), BTreeMap::new());
    for (name, value) in names.into_iter().zip(values) {
        match value.and_then(|value| Some((read(&value, limits)?, value.version))) {
            Some((vocabulary, version)) => taken.push(Definition {
                name,
                vocabulary,
                defined_at: time(version),
            }),
            None => {
                let state = entries[&name].clone();
                unread.insert(name, state);
            }
        }
    }
    (taken, unread)
}

/// Returns a definition that was read, unless it is another than the one that was written, or exceeds a limit.
fn read(value: &Value, limits: &VocabularyLimits) -> Option<VocabularyDefinition> {
    let text = parse_vocabulary(&value.text).ok()?;
    let vocabulary = VocabularyDefinition::new(text, limits).ok()?;
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
    SystemTime::UNIX_EPOCH + Duration::from_secs(version)
}

fn not_shared(name: &str, error: SharedError) -> VocabularyError {
    let name = name.to_owned();
    match error {
        SharedError::Full => VocabularyError::SharedFull { name },
        SharedError::Unreachable | SharedError::Damaged => VocabularyError::NotShared { name, error },
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::classes::tests::list;
    use super::*;

    fn states(states: &[(&str, u64, Option<&str>)]) -> BTreeMap<String, Entry> {
        let state = |&(name, version, digest): &(&str, u64, Option<&str>)| {
            let digest = digest.map(str::to_owned);
            (name.to_owned(), Entry { version, digest })
        };
        states.iter().map(state).collect()
    }

    fn exchange(known: &[(&str, u64, Option<&str>)], common: &[(&str, u64, Option<&str>)]) -> [Vec<String>; 3] {
        let Exchange { take, drop, give } = Exchange::between(&states(known), &states(common), &BTreeSet::new());
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

    #[test]
    fn a_definition_that_is_missing_under_a_known_state_is_given_back() {
        let known = states(&[("here", 5, Some("x")), ("there", 5, Some("x")), ("older", 4, Some("x"))]);
        let common = states(&[("here", 5, Some("x")), ("there", 5, Some("x")), ("older", 5, Some("y"))]);
        let missing = ["here", "older"].map(str::to_owned).into();
        let exchange = Exchange::between(&known, &common, &missing);
        assert_eq!(
            (exchange.give, exchange.take),
            (vec!["here".to_owned()], vec!["older".to_owned()])
        );
    }

    #[test]
    fn a_definition_beyond_the_limits_of_this_replica_is_not_read() {
        let whole = VocabularyDefinition::from(list(&["cat", "dog"], &[]));
        let value = Value {
            version: 6,
            digest: whole.digest(),
            text: write_vocabulary(&whole.list, &whole.options),
        };
        let limits = |max_classes| VocabularyLimits {
            max_classes,
            ..VocabularyLimits::for_testing()
        };
        assert_eq!(read(&value, &limits(2)), Some(whole));
        assert_eq!(read(&value, &limits(1)), None);
    }

    #[test]
    fn what_cannot_be_read_keeps_its_state_for_the_change_that_replaces_it() {
        let whole = VocabularyDefinition::from(list(&["cat"], &[]));
        let value = |digest: &str| Value {
            version: 6,
            digest: digest.to_owned(),
            text: "cat\n".to_owned(),
        };
        let entries = states(&[
            ("whole", 6, Some(&whole.digest())),
            ("damaged", 6, Some("y")),
            ("gone", 7, Some("z")),
        ]);
        let names = ["damaged", "gone", "whole"].map(str::to_owned).to_vec();
        let values = vec![Some(value("y")), None, Some(value(&whole.digest()))];
        let (taken, unread) = read_all(names, values, &entries, &VocabularyLimits::for_testing());
        assert_eq!(taken.iter().map(|taken| &*taken.name).collect::<Vec<_>>(), ["whole"]);
        assert_eq!(unread, states(&[("damaged", 6, Some("y")), ("gone", 7, Some("z"))]));
        let others = Others {
            unread,
            ..Others::default()
        };
        let older = NamedVocabulary::new("damaged", whole, false, time(5));
        assert_eq!(others.state("damaged", Some(&older)), Some(entries["damaged"].clone()));
        assert_eq!(others.state("whole", Some(&older)), Some(entry(&older)));
        assert_eq!(others.state("whole", None), None);
    }
}
