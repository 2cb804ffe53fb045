//! The folders in which Hugging Face's hub keeps what it has downloaded.
//!
//! A repository `openai/clip-vit-base-patch16` is the folder `models--openai--clip-vit-base-patch16`. Each revision has a
//! folder in its `snapshots`, named after the commit; `refs/main` holds the name of the latest.
//! (<https://huggingface.co/docs/huggingface_hub/guides/manage-cache>)

use std::path::{Path, PathBuf};

const SNAPSHOTS: &str = "snapshots";

/// Returns the latest snapshot of the repository in `folder`: that of its main branch, else the only one there is.
/// Returns `None` if the folder is no repository of the hub's cache, or has several snapshots and no main branch.
pub(super) fn latest_snapshot(folder: &Path) -> Option<PathBuf> {
    let snapshots = folder.join(SNAPSHOTS);
    if let Ok(commit) = std::fs::read_to_string(folder.join("refs/main")) {
        return Some(snapshots.join(commit.trim()));
    }
    let mut entries = std::fs::read_dir(snapshots).ok()?.filter_map(Result::ok);
    let only = entries.next()?.path();
    entries.next().is_none().then_some(only)
}

/// Returns the name of the model that lies in `folder`, without its owner, if that is a repository of the hub's cache
/// or one of its snapshots.
pub fn model_name(folder: &Path) -> Option<&str> {
    let parent = folder.parent()?;
    let repository = match parent.file_name() {
        Some(name) if name == SNAPSHOTS => parent.parent()?,
        _ => folder,
    };
    let names = repository.file_name()?.to_str()?.strip_prefix("models--")?;
    Some(names.rsplit_once("--").map_or(names, |(_, name)| name))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::weights_file;
    use super::*;

    #[test]
    fn a_repository_of_the_cache_stands_for_its_latest_snapshot() {
        let cache = tempfile::tempdir().unwrap();
        let repository = cache.path().join("models--openai--clip-vit-base-patch16");
        let snapshot = |commit: &str| repository.join(SNAPSHOTS).join(commit);
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

        for folder in [&repository, &snapshot("1a2b3c4")] {
            assert_eq!(model_name(folder), Some("clip-vit-base-patch16"));
        }
        assert_eq!(model_name(Path::new("/cache/models--gpt2")), Some("gpt2"));
        assert_eq!(model_name(Path::new("/models/ViT-B-16")), None);
    }
}
