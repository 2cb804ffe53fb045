//! The store on disk for commands that can work without it.

use std::sync::Arc;
use std::time::SystemTime;

use crate::config::Config;
use crate::vocabulary::{DiskStore, StorePath, VocabularyRegistry, VocabularySettings};

/// The store on disk of a command, if it has one. The end of the command writes what is still in memory.
pub struct OpenStore(Option<Arc<DiskStore>>);

impl OpenStore {
    /// Opens the store that the settings name, for a command that keeps what it makes. With an automatic path that
    /// cannot be used it warns and goes on in memory.
    ///
    /// # Errors
    /// When a path that the settings name themselves cannot be used.
    pub fn for_keeping(config: &VocabularySettings) -> Result<Self, String> {
        match (open(config), &config.store_path) {
            (Err(error), StorePath::File(_)) => {
                Err(format!("{error}. Name another file, or none (vocabulary.store_path)"))
            }
            (opened, _) => Ok(Self::or_warning(opened)),
        }
    }

    /// Opens the store that the settings name, for a command that only saves time with it. Warns and goes on if it
    /// cannot be used.
    pub fn for_reading(config: &VocabularySettings) -> Self {
        Self::or_warning(open(config))
    }

    /// Returns the store, `None` if there is none.
    pub fn get(&self) -> Option<Arc<DiskStore>> {
        self.0.clone()
    }

    /// Returns the vocabularies that are shipped, and those that the store holds.
    pub fn registry(&self, config: &Config) -> VocabularyRegistry {
        let limits = config.vocabulary.registry_limits(&config.limits.vocabulary);
        VocabularyRegistry::new(limits, self.get(), SystemTime::now())
    }

    fn or_warning(opened: Result<Option<Arc<DiskStore>>, String>) -> Self {
        Self(opened.unwrap_or_else(|error| {
            tracing::warn!("{error}; vocabularies are held in memory only and are lost when the program ends");
            None
        }))
    }
}

impl Drop for OpenStore {
    fn drop(&mut self) {
        if let Some(disk) = &self.0 {
            disk.close();
        }
    }
}

/// Opens the store if the settings name one.
fn open(config: &VocabularySettings) -> Result<Option<Arc<DiskStore>>, String> {
    if config.store_path == StorePath::None {
        return Ok(None);
    }
    let path = config.store_path.file();
    let path = path.ok_or("there is no HOME folder for vocabularies (vocabulary.store_path)")?;
    let opened = DiskStore::open(&path, config.store_bytes);
    let opened = opened.map_err(|error| format!("the store {} cannot be used: {error}", path.display()))?;
    Ok(Some(opened))
}
