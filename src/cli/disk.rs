//! The store on disk for commands that can work without it.

use std::sync::Arc;

use crate::vocabulary::{DiskStore, StorePath, VocabularySettings};

/// Opens the store on disk if the settings name one. Warns and returns `None` if it cannot be opened: without the store
/// everything works, only slower after a start.
pub fn open_disk(config: &VocabularySettings) -> Option<Arc<DiskStore>> {
    if config.store_path == StorePath::None {
        return None;
    }
    let Some(path) = config.store_path.file() else {
        tracing::warn!("no HOME folder for vocabularies (vocabulary.store_path); holding them in memory only");
        return None;
    };
    match DiskStore::open(&path, config.store_bytes) {
        Ok(disk) => Some(disk),
        Err(error) => {
            let path = path.display();
            tracing::warn!(%path, %error, "cannot use the store on disk; holding vocabularies in memory only");
            None
        }
    }
}
