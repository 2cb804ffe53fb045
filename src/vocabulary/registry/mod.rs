//! Named vocabularies: the shipped ones and those that callers define.
//!
//! Owns their names and who may change what. Definitions live in memory and, when there is a
//! [`DiskStore`], on disk, where other processes may change them: each call looks whether one has, so it may wait for the
//! disk. Embeddings belong to [`store`](super::store). The clock is the caller's.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use super::disk::{ChangeMark, Definition, DiskStore};
use super::shipped::shipped;
use super::{ClassList, VocabularyDefinition, VocabularyError, VocabularyOptions};

/// Characters of a vocabulary's name.
const MAX_NAME_CHARACTERS: usize = 64;

/// How often a change is tried again because another process was faster.
const ATTEMPTS: usize = 10;

/// A class list under a name.
#[derive(Debug)]
pub struct NamedVocabulary {
    /// The name requests use.
    pub name: String,
    /// The classes and, when the definition has one, their background.
    pub list: Arc<ClassList>,
    /// What takes the place of the server's defaults.
    pub options: VocabularyOptions,
    /// Digest of the definition, 32 hexadecimal digits: equal definitions have equal digests.
    pub digest: String,
    /// Whether it came with the server and is read-only.
    pub shipped: bool,
    /// When this definition was made, to the second if it has been on disk; for shipped ones the server's start.
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

    /// Requests that used this definition.
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }
}

/// What [`VocabularyRegistry::put`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// The name was new.
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

/// The vocabularies that callers have defined.
#[derive(Debug, Default)]
struct Defined {
    by_name: BTreeMap<String, Arc<NamedVocabulary>>,
    /// The state of the disk they come from.
    seen: Option<ChangeMark>,
}

impl VocabularyRegistry {
    /// The shipped vocabularies, those on disk, and room for `max_vocabularies` beside the shipped ones.
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

    /// A vocabulary, to look at it.
    ///
    /// # Errors
    /// [`VocabularyError::NotFound`].
    pub fn get(&self, name: &str) -> Result<Arc<NamedVocabulary>, VocabularyError> {
        if let Some(vocabulary) = self.shipped.get(name) {
            return Ok(Arc::clone(vocabulary));
        }
        let vocabulary = self.defined().by_name.get(name).cloned();
        vocabulary.ok_or_else(|| VocabularyError::NotFound { name: name.to_owned() })
    }

    /// A vocabulary, to label an image with it: counts as a hit.
    ///
    /// # Errors
    /// [`VocabularyError::NotFound`].
    pub fn get_for_request(&self, name: &str) -> Result<Arc<NamedVocabulary>, VocabularyError> {
        let vocabulary = self.get(name)?;
        vocabulary.hits.fetch_add(1, Ordering::Relaxed);
        Ok(vocabulary)
    }

    /// All vocabularies, shipped ones first, each part sorted by name.
    pub fn list(&self) -> Vec<Arc<NamedVocabulary>> {
        self.shipped
            .values()
            .chain(self.defined().by_name.values())
            .cloned()
            .collect()
    }

    /// Defines a vocabulary, or defines it anew. `condition` says whether the caller wants that, from the digest of the present
    /// definition, `None` when there is none; it is asked again when another process changes the definition meanwhile.
    ///
    /// # Errors
    /// When the name is not allowed or shipped, the condition does not hold, a new one would be one too many, or the disk fails.
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

    /// Drops a vocabulary. `condition` is that of [`put`](Self::put).
    ///
    /// # Errors
    /// When there is none of that name, it is shipped, the condition does not hold, or the disk fails.
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

    /// Changes the definitions, from what the disk says now. `attempt` gives `None` when another process has changed it
    /// since, and is called again.
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
        Err(not_written(name, &"other processes change it all the time"))
    }

    /// The definitions, with what other processes have changed. A disk that cannot be read leaves what is known.
    fn defined(&self) -> MutexGuard<'_, Defined> {
        // Held while the disk is read: nothing this process writes comes in between.
        let mut defined = self
            .defined
            .lock()
            .expect("nothing panics while it has the registry's lock");
        if let Some(disk) = &self.disk {
            match disk.definitions_since(defined.seen) {
                Ok(None) => {}
                Ok(Some((mark, definitions))) => defined.take_over(mark, definitions),
                Err(error) => tracing::warn!(%error, "the vocabularies on disk cannot be read"),
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

/// `[a-z0-9][a-z0-9._-]{0,63}`: safe in a path, a file name and a metric's label.
fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= MAX_NAME_CHARACTERS
        && name.bytes().next().is_some_and(plain)
        && name.bytes().all(|byte| plain(byte) || b"._-".contains(&byte))
}

#[cfg(test)]
mod tests;
