//! The store on disk as commands use it that work without one, too.

use std::sync::Arc;

use crate::vocabulary::{DiskStore, StorePath, VocabularySettings};

/// The store on disk, if it is asked for and can be opened: without it everything works, only not as fast after a start.
pub fn open_disk(config: &VocabularySettings) -> Option<Arc<DiskStore>> {
    if config.store_path == StorePath::None {
        return None;
    }
    let Some(path) = config.store_path.file() else {
        tracing::warn!("there is no HOME to keep vocabularies in (vocabulary.store_path); they are held in memory");
        return None;
    };
    match DiskStore::open(&path, config.store_bytes) {
        Ok(disk) => Some(disk),
        Err(error) => {
            let path = path.display();
            tracing::warn!(%path, %error, "the store on disk cannot be used; vocabularies are held in memory");
            None
        }
    }
}
