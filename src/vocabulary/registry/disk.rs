//! The registry's definitions on disk: how they are written, and how those of other processes are taken over. Where
//! replicas share their definitions, the file is this replica's copy, which it reads at the start alone.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use super::super::disk::{ChangeMark, Definition, Definitions, Deletion, DiskError, DiskStore, Learned};
use super::super::{VocabularyDefinition, VocabularyError};
use super::{Defined, NamedVocabulary, VocabularyRegistry};
use crate::support::{lock, run_blocking};

/// How long a reader who finds a new file waits for another process, before the definitions are written to it.
const RESTORING_WAIT: Duration = Duration::from_millis(250);

impl VocabularyRegistry {
    /// Returns the definitions including the changes of other processes. If the disk cannot be read now or another
    /// caller reads it, returns the known ones.
    pub(super) fn refreshed(&self) -> MutexGuard<'_, Defined> {
        if let Some(disk) = &self.disk
            && self.shared.is_none()
            && let Ok(mut seen) = self.seen.try_lock()
        {
            self.refresh(disk, &mut seen);
        }
        self.defined()
    }

    /// Takes over the changes of other processes, for a change that starts from the present state.
    pub(super) fn refresh_now(&self) {
        if let Some(disk) = &self.disk {
            let mut seen = lock(&self.seen);
            self.refresh(disk, &mut seen);
        }
    }

    fn refresh(&self, disk: &DiskStore, seen: &mut Option<ChangeMark>) {
        let Some(mark) = disk.definitions().mark() else {
            return;
        };
        if *seen == Some(mark) {
            return;
        }
        if seen.is_some_and(|seen| seen.rebuilds != mark.rebuilds) && !self.restore(disk) {
            return;
        }
        let (known, changes) = {
            let defined = self.defined();
            let known = defined.by_name.iter();
            let known: HashMap<_, _> = known
                .map(|(name, known)| (name.clone(), known.digest.clone()))
                .collect();
            (known, defined.changes)
        };
        let Some(definitions) = disk.definitions().read(&known) else {
            return;
        };
        let mark = definitions.mark;
        let mut defined = self.defined();
        if defined.changes == changes {
            defined.take_over(definitions);
            *seen = Some(mark);
        }
    }

    /// Writes the known definitions to a file that was opened anew, perhaps without them. Returns false if that has to
    /// be tried again.
    fn restore(&self, disk: &DiskStore) -> bool {
        let known: Vec<Definition> = self.defined().by_name.values().map(|known| definition(known)).collect();
        match disk.definitions().restore(&known, Instant::now() + RESTORING_WAIT) {
            Ok(restored) => {
                tracing::warn!(
                    restored,
                    "wrote the known vocabularies that the new store on disk lacked"
                );
                true
            }
            Err(error) => {
                tracing::warn!(%error, "could not write the known vocabularies to the new store on disk");
                false
            }
        }
    }

    /// Returns the deletions that an earlier process has learned of, but for those of names that are defined again.
    pub(super) fn deletions_on_disk(&self) -> Vec<Deletion> {
        let Some(disk) = &self.disk else { return Vec::new() };
        let mut deletions = disk.definitions().deletions();
        let defined = self.defined();
        deletions.retain(|deletion| !defined.by_name.contains_key(&deletion.name));
        deletions
    }

    /// Writes to the copy on disk what has changed in the shared state. Goes on without a copy that cannot be written.
    pub(super) async fn copy_to_disk(&self, learned: Learned) {
        let Some(disk) = self.disk.clone() else { return };
        let deadline = self.deadline();
        let written = run_blocking(move || disk.definitions().mirror(&learned, deadline)).await;
        if let Err(error) = written {
            tracing::warn!(%error, "could not write shared vocabularies to this replica's copy on disk");
        }
    }

    /// Writes a definition in place of the present one. Returns false if another process has changed that.
    pub(super) fn put_on_disk(
        &self,
        vocabulary: &NamedVocabulary,
        current: Option<&Arc<NamedVocabulary>>,
        deadline: Instant,
    ) -> Result<bool, VocabularyError> {
        let Some(disk) = &self.disk else { return Ok(true) };
        let expected = current.map(|current| current.digest.as_str());
        let written = disk.definitions().put(&definition(vocabulary), expected, deadline);
        written.map_err(|error| self.refused(&vocabulary.name, &error))
    }

    /// Deletes the present definition. Returns false if another process has changed it.
    pub(super) fn delete_on_disk(&self, current: &NamedVocabulary, deadline: Instant) -> Result<bool, VocabularyError> {
        let Some(disk) = &self.disk else { return Ok(true) };
        let deleted = disk.definitions().delete(&current.name, &current.digest, deadline);
        deleted.map_err(|error| self.refused(&current.name, &error))
    }

    /// Returns the error of a change that another process has kept from the disk.
    pub(super) fn busy(&self, name: &str) -> VocabularyError {
        VocabularyError::StoreBusy {
            name: name.to_owned(),
            waited: self.limits.wait,
        }
    }

    /// Logs why a change could not be written, and returns the error for the caller.
    fn refused(&self, name: &str, error: &DiskError) -> VocabularyError {
        tracing::warn!(%error, name, "could not write a change of a vocabulary to disk");
        if error.is_busy() {
            return self.busy(name);
        }
        VocabularyError::NotStored {
            name: name.to_owned(),
            is_full: error.is_full(),
        }
    }
}

impl Defined {
    fn take_over(&mut self, definitions: Definitions) {
        let mut known = std::mem::take(&mut self.by_name);
        let unchanged = definitions.unchanged.into_iter();
        self.by_name = unchanged.filter_map(|name| known.remove_entry(&name)).collect();
        for Definition {
            name,
            vocabulary,
            defined_at,
        } in definitions.others
        {
            let vocabulary = NamedVocabulary::new(&name, vocabulary, false, defined_at);
            self.by_name.insert(name, vocabulary);
        }
    }
}

pub(super) fn definition(vocabulary: &NamedVocabulary) -> Definition {
    Definition {
        name: vocabulary.name.clone(),
        vocabulary: VocabularyDefinition {
            list: (*vocabulary.list).clone(),
            options: vocabulary.options,
        },
        defined_at: vocabulary.defined_at,
    }
}
