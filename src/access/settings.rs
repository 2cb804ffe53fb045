//! The settings of access: where the keys are.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::key::KeyDigest;
use super::scope::Scope;
use crate::support::{OutOfRange, in_range};

/// Who may use the server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessSettings {
    /// The file of keys, which SIGHUP reads anew; `None` for none.
    pub keys_file: Option<PathBuf>,
    /// Keys beside those of the file. Without any key, requests need none.
    pub keys: Vec<KeyEntry>,
    /// Requests a second of each client; 0 for any number.
    pub requests_per_second: f64,
    /// Requests of each client that may be under way at once; 0 for any number.
    pub in_flight: u32,
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
    /// Requests a second of the client, in place of the setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<f64>,
    /// Requests of the client that may be under way at once, in place of the setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u32>,
}

fn use_alone() -> Vec<Scope> {
    vec![Scope::Use]
}

/// Fastest rate of requests, per second.
const MAX_REQUESTS_PER_SECOND: f64 = 1e6;

/// Returns whether this is a rate of requests, or 0 for none.
pub(super) fn is_rate(requests_per_second: f64) -> bool {
    requests_per_second == 0.0 || (0.001..=MAX_REQUESTS_PER_SECOND).contains(&requests_per_second)
}

impl AccessSettings {
    /// Checks the range of every value. The keys are checked when they are read.
    ///
    /// # Errors
    /// The first value outside its range.
    pub fn check(&self) -> Result<(), OutOfRange> {
        in_range(
            "access.requests_per_second",
            is_rate(self.requests_per_second),
            self.requests_per_second,
            "0, or 0.001 to 1000000",
        )
    }

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
            requests_per_second: 0.0,
            in_flight: 0,
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
