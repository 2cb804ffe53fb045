//! Checkpoints in several files, into which Hugging Face's libraries cut large ones, and the index that lists the
//! files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::CheckpointError;

/// The index of a checkpoint. Each file says itself which tensors it has, so the keys of the map are not needed.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Returns the files that the index at `path` lists. They lie beside the index. Each is returned once, in the order of
/// the names.
pub(super) fn listed(index: &[u8], path: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let damaged = |reason| CheckpointError::Damaged(format!("its index {reason}"));
    let Index { weight_map } =
        serde_json::from_slice(index).map_err(|error| damaged(format!("cannot be read: {error}")))?;
    let names: BTreeSet<String> = weight_map.into_values().collect();
    if names.is_empty() {
        return Err(damaged("lists no tensors".to_owned()));
    }
    let beside = |name: String| match Path::new(&name).file_name() {
        Some(file) if *file == *name => Ok(path.with_file_name(name)),
        _ => Err(damaged(format!(
            "lists {name:?}, which is not the name of a file beside it"
        ))),
    };
    names.into_iter().map(beside).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn listed(index: &str) -> Result<Vec<PathBuf>, String> {
        super::listed(index.as_bytes(), Path::new("/models/clip/model.safetensors.index.json"))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn each_file_is_listed_once_in_order() {
        let index = r#"{"metadata": {"total_size": 3}, "weight_map": {"a": "2.safetensors", "b": "1.safetensors", "c": "2.safetensors"}}"#;
        assert_eq!(
            listed(index).unwrap(),
            ["/models/clip/1.safetensors", "/models/clip/2.safetensors"].map(PathBuf::from)
        );
    }

    #[test]
    fn an_index_that_is_none_or_leads_elsewhere_is_refused() {
        let refused = |index: &str| listed(index).unwrap_err();
        assert!(refused("{}").contains("its index cannot be read: missing field `weight_map`"));
        assert!(refused(r#"{"weight_map": {}}"#).ends_with("its index lists no tensors"));
        for elsewhere in ["../secret", "/etc/passwd", "..", "", "folder/"] {
            let index = serde_json::json!({"weight_map": {"a": elsewhere}}).to_string();
            let expected = format!("its index lists {elsewhere:?}, which is not the name of a file beside it");
            assert!(refused(&index).ends_with(&expected), "{elsewhere}");
        }
    }
}
