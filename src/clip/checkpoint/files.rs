//! The files of a checkpoint: which ones belong to a path, and their bytes.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use memmap2::Mmap;

use super::container::Container;
use super::{CheckpointError, WEIGHTS_FILES, hub, shards};
use crate::support::open_regular_file;

/// Returns the weights file that `path` means: the path itself or, for a folder, the first of [`WEIGHTS_FILES`] in it.
/// A repository in the cache of Hugging Face's hub stands for its latest snapshot.
///
/// # Errors
/// Fails when the path is a folder without any of these files, or the file is not a regular one that can be opened.
pub fn weights_file(path: &Path) -> Result<PathBuf, CheckpointError> {
    let in_folder = |folder: &Path| {
        let files = WEIGHTS_FILES.iter().map(|name| folder.join(name));
        files.into_iter().find(|file| file.exists())
    };
    let file = match path.is_dir() {
        true => in_folder(path)
            .or_else(|| in_folder(&hub::latest_snapshot(path)?))
            .ok_or_else(|| CheckpointError::NoWeights { path: path.to_owned() })?,
        false => path.to_owned(),
    };
    match open_regular_file(&file) {
        Ok(_) => Ok(file),
        Err(source) => Err(CheckpointError::Unreadable { path: file, source }),
    }
}

/// Returns the number of bytes of the files of the checkpoint at `path`, which [`Weights::load`](super::Weights::load) would open.
///
/// # Errors
/// Fails when a file cannot be read, or an index lists none.
pub fn file_bytes(path: &Path) -> Result<u64, CheckpointError> {
    let path = weights_file(path)?;
    let mut sum = 0;
    for file in map_files(&path)? {
        sum += file.len() as u64;
    }
    Ok(sum)
}

/// Maps the files of the checkpoint in a file: the file itself, or those that it lists as an index.
pub(super) fn map_files(path: &Path) -> Result<Vec<Bytes>, CheckpointError> {
    let file = map(path)?;
    match Container::of(&file) {
        Container::Index => shards::listed(&file, path)?.iter().map(|path| map(path)).collect(),
        _ => Ok(vec![file]),
    }
}

/// Maps a file into memory and returns its bytes.
fn map(path: &Path) -> Result<Bytes, CheckpointError> {
    let cannot_read = |source| CheckpointError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let file = open_regular_file(path).map_err(cannot_read)?;
    // SAFETY: the mapping is read-only. It lives as long as the weights and the thread that computes their digest,
    // which is while a model is being loaded. As with any mapping, the process ends if somebody shortens the file
    // during that time. The tensors that are handed out are copies and stay valid.
    #[allow(unsafe_code)]
    let bytes = unsafe { Mmap::map(&file) }.map_err(cannot_read)?;
    Ok(Bytes::from_owner(bytes))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_of_the_hubs_cache_stands_for_its_latest_snapshot() {
        let cache = tempfile::tempdir().unwrap();
        let repository = cache.path().join("models--openai--clip-vit-base-patch16");
        let snapshot = |commit: &str| repository.join("snapshots").join(commit);
        let add = |commit: &str| {
            std::fs::create_dir_all(snapshot(commit)).unwrap();
            std::fs::write(snapshot(commit).join("model.safetensors"), commit).unwrap();
        };
        add("57c2164");
        let found = || weights_file(&repository).map_err(|error| error.to_string());
        assert_eq!(found(), Ok(snapshot("57c2164").join("model.safetensors")));
        add("1a2b3c4");
        assert!(found().is_err(), "which of two is the latest?");
        std::fs::create_dir(repository.join("refs")).unwrap();
        std::fs::write(repository.join("refs/main"), "1a2b3c4\n").unwrap();
        assert_eq!(found(), Ok(snapshot("1a2b3c4").join("model.safetensors")));
    }
}
