//! The settings of access: where the keys are.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::key::KeyDigest;
use super::scope::Scope;

/// Who may use the server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessSettings {
    /// The file of keys, which SIGHUP reads anew; `None` for none.
    pub keys_file: Option<PathBuf>,
    /// Keys beside those of the file. Without any key, requests need none.
    pub keys: Vec<KeyEntry>,
}

/// A key as settings and files have it: not the key, but its digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyEntry {
    /// The name that logs and metrics show: 1 to 64 characters of `a-z`, `0-9`, `.`, `_` and `-`, the first a letter or
    /// digit. Several keys of one name stand for one client.
    pub name: String,
    /// SHA-256 of the key's text.
    pub sha256: KeyDigest,
    /// What the key opens.
    #[serde(default = "use_alone")]
    pub scopes: Vec<Scope>,
}

fn use_alone() -> Vec<Scope> {
    vec![Scope::Use]
}

impl AccessSettings {
    /// Returns whether the settings name keys, so that requests need one.
    pub(super) fn has_keys(&self) -> bool {
        self.keys_file.is_some() || !self.keys.is_empty()
    }
}

impl Default for AccessSettings {
    /// No keys.
    fn default() -> Self {
        Self {
            keys_file: None,
            keys: Vec::new(),
        }
    }
}

#[cfg(test)]
impl AccessSettings {
    /// The keys of a file alone.
    pub(super) fn of_file(path: &std::path::Path) -> Self {
        Self {
            keys_file: Some(path.to_owned()),
            ..Self::default()
        }
    }
}
