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
pub fn hub_model_name(folder: &Path) -> Option<&str> {
    let parent = folder.parent()?;
    let repository = match parent.file_name() {
        Some(name) if name == SNAPSHOTS => parent.parent()?,
        _ => folder,
    };
    let names = repository.file_name()?.to_str()?.strip_prefix("models--")?;
    Some(names.rsplit_once("--").map_or(names, |(_, name)| name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_of_the_cache_is_called_as_its_repository() {
        let repository = Path::new("/cache/models--openai--clip-vit-base-patch16");
        for folder in [repository, &repository.join(SNAPSHOTS).join("1a2b3c4")] {
            assert_eq!(hub_model_name(folder), Some("clip-vit-base-patch16"));
        }
        assert_eq!(hub_model_name(Path::new("/cache/models--gpt2")), Some("gpt2"));
        assert_eq!(hub_model_name(Path::new("/models/ViT-B-16")), None);
    }
}
