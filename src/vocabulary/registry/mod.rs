//! Named vocabularies: those shipped with the server and those that clients define.
//!
//! This file owns their names and the rules for changes. Definitions live in memory, and with a [`DiskStore`] also on
//! disk, where other processes may change them. Every call checks for such changes, so it may wait for the disk.
//! [`store`](super::store) owns the embeddings. The caller provides the time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use super::disk::{ChangeMark, Definition, DiskStore};
use super::shipped::shipped;
use super::{ClassList, VocabularyDefinition, VocabularyError, VocabularyOptions};

/// Largest number of characters in a vocabulary's name.
const MAX_NAME_CHARACTERS: usize = 64;

/// Number of attempts at a change while other processes are faster.
const ATTEMPTS: usize = 10;

/// A vocabulary under a name.
#[derive(Debug)]
pub struct NamedVocabulary {
    /// The name in requests.
    pub name: String,
    /// The classes, with a background if the definition has one.
    pub list: Arc<ClassList>,
    /// Options that replace the server's defaults.
    pub options: VocabularyOptions,
    /// Digest of the definition, 32 hexadecimal digits. Equal definitions have equal digests.
    pub digest: String,
    /// Whether the vocabulary is shipped with the server and thus read-only.
    pub shipped: bool,
    /// When the definition was made, to the second if it has been on disk. For a shipped vocabulary, when the server
    /// started.
    pub defined_at: SystemTime,
    hits: AtomicU64,
}

impl NamedVocabulary {
    fn new(name: &str, definition: VocabularyDefinition, shipped: bool, now: SystemTime) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            digest: definition.digest(),
            list: Arc::new(definition.list),
            options: definition.options,
            shipped,
            defined_at: now,
            hits: AtomicU64::new(0),
        })
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
    defined: Mutex<Defined>,
    max_vocabularies: usize,
    disk: Option<Arc<DiskStore>>,
}

/// The vocabularies that clients have defined.
#[derive(Debug, Default)]
struct Defined {
    by_name: BTreeMap<String, Arc<NamedVocabulary>>,
    /// The state of the file on disk that these come from.
    seen: Option<ChangeMark>,
}

impl VocabularyRegistry {
    /// Creates a registry of the shipped vocabularies and those on disk. At most `max_vocabularies` can be defined
    /// besides the shipped ones.
    pub fn new(max_vocabularies: usize, disk: Option<Arc<DiskStore>>, now: SystemTime) -> Self {
        let shipped =
            shipped().map(|(name, definition)| (name.to_owned(), NamedVocabulary::new(name, definition, true, now)));
        Self {
            shipped: shipped.collect(),
            defined: Mutex::default(),
            max_vocabularies,
            disk,
        }
    }

    /// Returns a vocabulary without counting a hit.
    ///
    /// # Errors
    /// [`VocabularyError::NotFound`] when no vocabulary has the name.
    pub fn get(&self, name: &str) -> Result<Arc<NamedVocabulary>, VocabularyError> {
        if let Some(vocabulary) = self.shipped.get(name) {
            return Ok(Arc::clone(vocabulary));
        }
        let vocabulary = self.defined().by_name.get(name).cloned();
        vocabulary.ok_or_else(|| VocabularyError::NotFound { name: name.to_owned() })
    }

    /// Returns a vocabulary for labelling an image and counts a hit.
    ///
    /// # Errors
    /// [`VocabularyError::NotFound`] when no vocabulary has the name.
    pub fn get_for_request(&self, name: &str) -> Result<Arc<NamedVocabulary>, VocabularyError> {
        let vocabulary = self.get(name)?;
        vocabulary.hits.fetch_add(1, Ordering::Relaxed);
        Ok(vocabulary)
    }

    /// Returns all vocabularies: shipped ones first, each part sorted by name.
    pub fn list(&self) -> Vec<Arc<NamedVocabulary>> {
        self.shipped
            .values()
            .chain(self.defined().by_name.values())
            .cloned()
            .collect()
    }

    /// Defines a vocabulary, new or in place of an older definition. `condition` decides whether the caller wants the
    /// change, from the digest of the present definition, or `None` if there is none. It is called again if another
    /// process changes the definition in the meantime.
    ///
    /// # Errors
    /// [`VocabularyError`] when the name is not allowed or shipped, the condition does not hold, there is no room for a
    /// new vocabulary, or the disk fails.
    pub fn put(
        &self,
        name: &str,
        definition: impl Into<VocabularyDefinition>,
        condition: impl Fn(Option<&str>) -> bool,
        now: SystemTime,
    ) -> Result<(Arc<NamedVocabulary>, Stored), VocabularyError> {
        let vocabulary = definition.into();
        if !is_name(name) {
            return Err(VocabularyError::InvalidName { name: name.to_owned() });
        }
        self.refuse_shipped(name)?;
        self.change(name, |defined, disk| {
            let current = defined.by_name.get(name);
            check(&condition, name, current)?;
            if current.is_none() && defined.by_name.len() >= self.max_vocabularies {
                return Err(VocabularyError::TooMany {
                    limit: self.max_vocabularies,
                });
            }
            if let Some(disk) = disk {
                let definition = Definition {
                    name: name.to_owned(),
                    vocabulary: vocabulary.clone(),
                    defined_at: now,
                };
                let expected = current.map(|current| current.digest.as_str());
                let written = disk.put_definition(&definition, expected);
                if !written.map_err(|error| not_written(name, &error))? {
                    return Ok(None);
                }
            }
            let vocabulary = NamedVocabulary::new(name, vocabulary.clone(), false, now);
            let replaced = defined.by_name.insert(name.to_owned(), Arc::clone(&vocabulary));
            let stored = replaced.map_or(Stored::Created, |_| Stored::Replaced);
            Ok(Some((vocabulary, stored)))
        })
    }

    /// Deletes a vocabulary. `condition` is that of [`put`](Self::put).
    ///
    /// # Errors
    /// [`VocabularyError`] when no vocabulary has the name, it is shipped, the condition does not hold, or the disk
    /// fails.
    pub fn delete(&self, name: &str, condition: impl Fn(Option<&str>) -> bool) -> Result<(), VocabularyError> {
        self.refuse_shipped(name)?;
        self.change(name, |defined, disk| {
            let Some(current) = defined.by_name.get(name) else {
                return Err(VocabularyError::NotFound { name: name.to_owned() });
            };
            check(&condition, name, Some(current))?;
            if let Some(disk) = disk {
                let deleted = disk.delete_definition(name, &current.digest);
                if !deleted.map_err(|error| not_written(name, &error))? {
                    return Ok(None);
                }
            }
            defined.by_name.remove(name);
            Ok(Some(()))
        })
    }

    /// Changes the definitions, starting from their present state on disk. If `attempt` returns `None`, another process
    /// has changed that state, and `attempt` is called again.
    ///
    /// # Errors
    /// The error of `attempt`, and [`VocabularyError::NotWritten`] when all attempts failed.
    fn change<T>(
        &self,
        name: &str,
        mut attempt: impl FnMut(&mut Defined, Option<&DiskStore>) -> Result<Option<T>, VocabularyError>,
    ) -> Result<T, VocabularyError> {
        for _ in 0..ATTEMPTS {
            if let Some(changed) = attempt(&mut self.defined(), self.disk.as_deref())? {
                return Ok(changed);
            }
        }
        Err(not_written(name, &"other processes keep changing it"))
    }

    /// Returns the definitions including the changes of other processes. If the disk cannot be read, returns the known
    /// ones.
    fn defined(&self) -> MutexGuard<'_, Defined> {
        // The lock is held while the disk is read, so this process writes nothing in between.
        let mut defined = self
            .defined
            .lock()
            .expect("nothing panics while it has the registry's lock");
        if let Some(disk) = &self.disk {
            match disk.definitions_since(defined.seen) {
                Ok(None) => {}
                Ok(Some((mark, definitions))) => defined.take_over(mark, definitions),
                Err(error) => tracing::warn!(%error, "cannot read the vocabularies on disk"),
            }
        }
        defined
    }

    fn refuse_shipped(&self, name: &str) -> Result<(), VocabularyError> {
        match self.shipped.contains_key(name) {
            true => Err(VocabularyError::ReadOnly { name: name.to_owned() }),
            false => Ok(()),
        }
    }
}

impl Defined {
    fn take_over(&mut self, mark: ChangeMark, definitions: Vec<Definition>) {
        let mut known = std::mem::take(&mut self.by_name);
        self.seen = Some(mark);
        for Definition {
            name,
            vocabulary,
            defined_at,
        } in definitions
        {
            let vocabulary = known
                .remove(&name)
                .filter(|known| known.digest == vocabulary.digest())
                .unwrap_or_else(|| NamedVocabulary::new(&name, vocabulary, false, defined_at));
            self.by_name.insert(name, vocabulary);
        }
    }
}

fn not_written(name: &str, reason: &impl ToString) -> VocabularyError {
    VocabularyError::NotWritten {
        name: name.to_owned(),
        reason: reason.to_string(),
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

/// Returns whether a name matches `[a-z0-9][a-z0-9._-]{0,63}`, which is safe in a path, a file name and a metric's
/// label.
fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= MAX_NAME_CHARACTERS
        && name.bytes().next().is_some_and(plain)
        && name.bytes().all(|byte| plain(byte) || b"._-".contains(&byte))
}

#[cfg(test)]
mod tests;
