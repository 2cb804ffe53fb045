//! Named vocabularies: those shipped with the server and those that clients define.
//!
//! This file owns their names and the rules for changes. Definitions live in memory, and with a [`DiskStore`] also on
//! disk, where other processes may change them. Every call looks for such changes, which takes a short read and waits
//! for nobody: what cannot be read now is answered from memory. A change takes turns with other changes, and may wait
//! for another process that holds the file. Replicas that share their definitions have them in common instead, and the
//! file is a copy. [`store`](super::store) owns the embeddings. The caller provides the time.

mod disk;
mod shared;

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Instant, SystemTime};

use super::disk::{ChangeMark, DiskStore};
use super::shipped::shipped;
use super::{ClassList, RegistryLimits, VocabularyDefinition, VocabularyError, VocabularyOptions};
use crate::shared::SharedState;
use crate::support::{is_plain_name, lock, run_blocking};

use shared::Shared;

/// Number of attempts at a change while other processes are faster.
const ATTEMPTS: usize = 10;

/// A vocabulary under a name.
#[derive(Debug)]
pub struct NamedVocabulary {
    /// The name, `SPACE/NAME` for one in a space of its own. No other space sees it.
    pub name: String,
    /// The classes, with a background if the definition has one.
    pub list: Arc<ClassList>,
    /// Options that replace the server's defaults.
    pub options: VocabularyOptions,
    /// Digest of the definition, 32 hexadecimal digits. Equal definitions have equal digests.
    pub digest: String,
    /// Whether the vocabulary is shipped with the server and thus read-only.
    pub shipped: bool,
    /// When the definition was made, to the second if it has been on disk or shared. For a shipped vocabulary, when the
    /// server started.
    pub defined_at: SystemTime,
    /// Estimated bytes that the definition takes in memory.
    pub bytes: u64,
    hits: AtomicU64,
}

impl NamedVocabulary {
    fn new(name: &str, definition: VocabularyDefinition, shipped: bool, now: SystemTime) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            bytes: (size_of::<Self>() + name.len() + definition.list.bytes()) as u64,
            digest: definition.digest(),
            list: Arc::new(definition.list),
            options: definition.options,
            shipped,
            defined_at: now,
            hits: AtomicU64::new(0),
        })
    }

    /// Returns the name in its space, which requests use.
    pub fn local_name(&self) -> &str {
        local(&self.name)
    }

    /// Returns the number of requests that used this definition.
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }
}

/// The result of [`VocabularyRegistry::put`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// The name was not in use before.
    Created,
    /// The name had another definition before.
    Replaced,
}

/// All named vocabularies.
#[derive(Debug)]
pub struct VocabularyRegistry {
    shipped: BTreeMap<String, Arc<NamedVocabulary>>,
    /// Never locked while anybody waits for the disk.
    defined: Mutex<Defined>,
    /// The state of the file on disk that the definitions come from. Locked by whoever reads the file.
    seen: Mutex<Option<ChangeMark>>,
    /// Held by the change whose turn it is, also while it waits for another process.
    turn: tokio::sync::Mutex<()>,
    limits: RegistryLimits,
    disk: Option<Arc<DiskStore>>,
    /// What replicas have in common, if this is one of several.
    shared: Option<Shared>,
}

/// The vocabularies that clients have defined.
#[derive(Debug, Default)]
struct Defined {
    by_name: BTreeMap<String, Arc<NamedVocabulary>>,
    /// Number of changes by this process, so that what was read from the disk before a change does not undo it.
    changes: u64,
}

impl Defined {
    /// Returns the bytes of all definitions but the one with this name.
    fn bytes_without(&self, name: &str) -> u64 {
        let others = self.by_name.values().filter(|vocabulary| vocabulary.name != name);
        others.map(|vocabulary| vocabulary.bytes).sum()
    }
}

impl VocabularyRegistry {
    /// Creates a registry of the shipped vocabularies and those on disk. The limits hold for new definitions, not for
    /// those that are on disk already.
    pub fn new(limits: RegistryLimits, disk: Option<Arc<DiskStore>>, now: SystemTime) -> Self {
        Self::with_shared(limits, disk, None, now)
    }

    /// Creates a registry like [`VocabularyRegistry::new`] that shares its definitions with those of other replicas.
    pub fn with_shared(
        limits: RegistryLimits,
        disk: Option<Arc<DiskStore>>,
        shared: Option<Arc<SharedState>>,
        now: SystemTime,
    ) -> Self {
        let shipped =
            shipped().map(|(name, definition)| (name.to_owned(), NamedVocabulary::new(name, definition, true, now)));
        let mut registry = Self {
            shipped: shipped.collect(),
            defined: Mutex::default(),
            seen: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            limits,
            disk,
            shared: None,
        };
        // Later readers do not wait for one who reads the disk. The first of them must not find nothing.
        registry.refresh_now();
        registry.shared = shared.map(|state| Shared::new(state, registry.deletions_on_disk()));
        registry
    }

    /// Returns whether definitions outlive the process: replicas share them, or there is a store on disk, and its file
    /// is open.
    pub fn is_durable(&self) -> bool {
        self.shared.is_some() || self.disk.as_ref().is_some_and(|disk| disk.definitions().is_open())
    }

    /// Returns the number of vocabularies that clients have defined and the sum of their bytes, as far as this process
    /// knows them.
    pub fn size(&self) -> (usize, u64) {
        let defined = self.defined();
        (defined.by_name.len(), defined.bytes_without(""))
    }

    /// Returns a vocabulary without counting a hit.
    ///
    /// # Errors
    /// [`VocabularyError::NotFound`] when no vocabulary has the name, and [`VocabularyError::NotKnown`] when replicas share
    /// their vocabularies, and this one is not known here and cannot be asked for.
    pub fn get(&self, name: &str) -> Result<Arc<NamedVocabulary>, VocabularyError> {
        if let Some(vocabulary) = self.shipped.get(local(name)) {
            return Ok(Arc::clone(vocabulary));
        }
        let vocabulary = self.refreshed().by_name.get(name).cloned();
        vocabulary.ok_or_else(|| {
            let name = name.to_owned();
            match self.shared.as_ref().is_none_or(Shared::is_in_step) {
                true => VocabularyError::NotFound { name },
                false => VocabularyError::NotKnown { name },
            }
        })
    }

    /// Returns a vocabulary for labelling an image and counts a hit.
    ///
    /// # Errors
    /// Those of [`VocabularyRegistry::get`].
    pub fn get_for_request(&self, name: &str) -> Result<Arc<NamedVocabulary>, VocabularyError> {
        let vocabulary = self.get(name)?;
        vocabulary.hits.fetch_add(1, Ordering::Relaxed);
        Ok(vocabulary)
    }

    /// Returns the shipped vocabularies, and behind them those of a space, or those of none. Each part is sorted by name.
    pub fn list_of(&self, wanted: Option<&str>) -> Vec<Arc<NamedVocabulary>> {
        let mut all = self.list();
        all.retain(|vocabulary| vocabulary.shipped || space(&vocabulary.name) == wanted);
        all
    }

    /// Returns all vocabularies: shipped ones first, each part sorted by name.
    pub fn list(&self) -> Vec<Arc<NamedVocabulary>> {
        self.shipped
            .values()
            .chain(self.refreshed().by_name.values())
            .cloned()
            .collect()
    }

    /// Defines a vocabulary, new or in place of an older definition. `condition` decides whether the caller wants the
    /// change, from the digest of the present definition, or `None` if there is none. It is called again if another
    /// process or replica changes the definition in the meantime. Changes take turns, and only the one whose turn it is
    /// takes a thread of the blocking pool. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`VocabularyError`] when the name is not allowed or shipped, the condition does not hold, there is no room for
    /// the definition, or it cannot be written to disk or shared with other replicas.
    pub async fn put(
        self: &Arc<Self>,
        name: String,
        definition: VocabularyDefinition,
        condition: impl Fn(Option<&str>) -> bool + Send + 'static,
        now: SystemTime,
    ) -> Result<(Arc<NamedVocabulary>, Stored), VocabularyError> {
        self.in_turn(name, async move |registry, name, deadline| {
            if registry.shared.is_some() {
                return registry.put_shared(&name, &definition, condition, deadline).await;
            }
            run_blocking(move || registry.put_now(&name, &definition, condition, now, deadline)).await
        })
        .await
    }

    /// Deletes a vocabulary. `condition` is that of [`put`](Self::put).
    ///
    /// # Errors
    /// [`VocabularyError`] when no vocabulary has the name, it is shipped, the condition does not hold, or the change
    /// cannot be written to disk or shared with other replicas.
    pub async fn delete(
        self: &Arc<Self>,
        name: String,
        condition: impl Fn(Option<&str>) -> bool + Send + 'static,
    ) -> Result<(), VocabularyError> {
        self.in_turn(name, async move |registry, name, deadline| {
            if registry.shared.is_some() {
                return registry.delete_shared(&name, condition, deadline).await;
            }
            run_blocking(move || registry.delete_now(&name, condition, deadline)).await
        })
        .await
    }

    /// Runs a change once it is its turn.
    async fn in_turn<T: Send + 'static, F: Future<Output = Result<T, VocabularyError>> + Send>(
        self: &Arc<Self>,
        name: String,
        change: impl FnOnce(Arc<Self>, String, Instant) -> F + Send + 'static,
    ) -> Result<T, VocabularyError> {
        let deadline = self.deadline();
        let registry = Arc::clone(self);
        // The turn belongs to the change, which goes on though its caller may be gone.
        let change = tokio::spawn(async move {
            let Ok(_turn) = tokio::time::timeout_at(deadline.into(), registry.turn.lock()).await else {
                return Err(registry.busy(&name));
            };
            change(Arc::clone(&registry), name, deadline).await
        });
        match change.await {
            Ok(changed) => changed,
            // Nobody cancels such a task, so the error is a panic.
            Err(error) => resume_unwind(error.into_panic()),
        }
    }

    fn put_now(
        &self,
        name: &str,
        vocabulary: &VocabularyDefinition,
        condition: impl Fn(Option<&str>) -> bool,
        now: SystemTime,
        deadline: Instant,
    ) -> Result<(Arc<NamedVocabulary>, Stored), VocabularyError> {
        self.check_name(name)?;
        let vocabulary = NamedVocabulary::new(name, vocabulary.clone(), false, now);
        self.change(name, |current| {
            check(&condition, name, current)?;
            self.check_room(&vocabulary, current.is_none())?;
            if !self.put_on_disk(&vocabulary, current, deadline)? {
                return Ok(None);
            }
            let mut defined = self.defined();
            defined.changes += 1;
            let replaced = defined.by_name.insert(name.to_owned(), Arc::clone(&vocabulary));
            let stored = replaced.map_or(Stored::Created, |_| Stored::Replaced);
            Ok(Some((Arc::clone(&vocabulary), stored)))
        })
    }

    fn delete_now(
        &self,
        name: &str,
        condition: impl Fn(Option<&str>) -> bool,
        deadline: Instant,
    ) -> Result<(), VocabularyError> {
        self.refuse_shipped(name)?;
        self.change(name, |current| {
            let Some(current) = current else {
                return Err(VocabularyError::NotFound { name: name.to_owned() });
            };
            check(&condition, name, Some(current))?;
            if !self.delete_on_disk(current, deadline)? {
                return Ok(None);
            }
            let mut defined = self.defined();
            defined.changes += 1;
            defined.by_name.remove(name);
            Ok(Some(()))
        })
    }

    /// Changes the definition with this name, starting from its present state on disk. If `attempt` returns `None`,
    /// another process has changed that state, and `attempt` is called again.
    ///
    /// # Errors
    /// The error of `attempt`, and [`VocabularyError::NotStored`] when all attempts failed.
    fn change<T>(
        &self,
        name: &str,
        mut attempt: impl FnMut(Option<&Arc<NamedVocabulary>>) -> Result<Option<T>, VocabularyError>,
    ) -> Result<T, VocabularyError> {
        for _ in 0..ATTEMPTS {
            self.refresh_now();
            let current = self.defined().by_name.get(name).cloned();
            if let Some(changed) = attempt(current.as_ref())? {
                return Ok(changed);
            }
        }
        tracing::warn!(
            name,
            "other processes keep changing a vocabulary on disk, or its definition cannot be read"
        );
        Err(VocabularyError::NotStored {
            name: name.to_owned(),
            is_full: false,
        })
    }

    /// Refuses a definition that the limits have no room for.
    fn check_room(&self, vocabulary: &NamedVocabulary, is_new: bool) -> Result<(), VocabularyError> {
        let defined = self.defined();
        let limit = self.limits.max_vocabularies;
        if is_new && defined.by_name.len() >= limit {
            return Err(VocabularyError::TooMany { limit });
        }
        let limit = self.limits.definitions_bytes;
        let bytes = defined.bytes_without(&vocabulary.name) + vocabulary.bytes;
        if bytes > limit {
            return Err(VocabularyError::TooManyBytes { bytes, limit });
        }
        match space(&vocabulary.name) {
            Some(_) => self.check_share(&defined, vocabulary),
            None => Ok(()),
        }
    }

    /// Refuses a definition with which its space would have more than is left for all.
    fn check_share(&self, defined: &Defined, vocabulary: &NamedVocabulary) -> Result<(), VocabularyError> {
        let RegistryLimits {
            max_vocabularies,
            definitions_bytes,
            ..
        } = self.limits;
        let others = || defined.by_name.values().filter(|other| other.name != vocabulary.name);
        let own = || others().filter(|other| space(&other.name) == space(&vocabulary.name));
        let all = [others().count() as u64, others().map(|other| other.bytes).sum()];
        let of_space = [
            own().count() as u64 + 1,
            own().map(|other| other.bytes).sum::<u64>() + vocabulary.bytes,
        ];
        let limits = [
            ("limits.max_vocabularies", max_vocabularies as u64),
            ("vocabulary.definitions_bytes", definitions_bytes),
        ];
        for ((key, limit), (all, of_space)) in limits.into_iter().zip(all.into_iter().zip(of_space)) {
            if of_space > limit.saturating_sub(all) {
                return Err(VocabularyError::ShareTaken { key, limit });
            }
        }
        Ok(())
    }

    /// Returns when a change that starts now gives up.
    fn deadline(&self) -> Instant {
        Instant::now() + self.limits.wait
    }

    fn defined(&self) -> MutexGuard<'_, Defined> {
        lock(&self.defined)
    }

    /// Refuses what is no name for a definition.
    fn check_name(&self, name: &str) -> Result<(), VocabularyError> {
        match is_name(name) {
            true => self.refuse_shipped(name),
            false => Err(VocabularyError::InvalidName { name: name.to_owned() }),
        }
    }

    fn refuse_shipped(&self, name: &str) -> Result<(), VocabularyError> {
        match self.shipped.contains_key(local(name)) {
            true => Err(VocabularyError::ReadOnly { name: name.to_owned() }),
            false => Ok(()),
        }
    }
}

/// Refuses a change whose condition does not hold for the present definition.
fn check(
    condition: impl Fn(Option<&str>) -> bool,
    name: &str,
    current: Option<&Arc<NamedVocabulary>>,
) -> Result<(), VocabularyError> {
    let current = current.map(|vocabulary| vocabulary.digest.as_str());
    if condition(current) {
        return Ok(());
    }
    Err(VocabularyError::Changed {
        name: name.to_owned(),
        current: current.map(str::to_owned),
    })
}

/// Returns whether this is a plain name, or one in a space whose name is plain, too.
fn is_name(name: &str) -> bool {
    is_plain_name(local(name)) && space(name).is_none_or(is_plain_name)
}

/// Returns the space of a name.
fn space(name: &str) -> Option<&str> {
    Some(name.split_once('/')?.0)
}

/// Returns a name without its space.
fn local(name: &str) -> &str {
    name.split_once('/').map_or(name, |(_, local)| local)
}

#[cfg(test)]
mod tests;
