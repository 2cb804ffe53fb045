//! All keys of a server, and the search among them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use subtle::ConstantTimeEq;

use super::key::KeyDigest;
use super::scope::Scope;
use super::settings::{AccessSettings, KeyEntry};
use crate::support::{excerpt, is_plain_name, read_regular_text};

/// Most keys of a server.
const MAX_KEYS: usize = 10_000;

/// A key that opens something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    name: Arc<str>,
    scopes: Vec<Scope>,
    sha256: KeyDigest,
}

impl ApiKey {
    /// Returns the name, for logs and metrics.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns whether the key has one of the scopes.
    pub fn opens(&self, scopes: &[Scope]) -> bool {
        scopes.iter().any(|scope| self.scopes.contains(scope))
    }
}

/// Why keys were refused. The text names the file, or the key.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file cannot be read.
    #[error("cannot read the file of keys {} (access.keys_file): {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is not a list of keys.
    #[error("the file of keys {} (access.keys_file) is not a list of keys: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The parser's error.
        reason: String,
    },
    /// The file is empty. A server whose keys are all gone would answer nobody; a file that is being written looks the
    /// same.
    #[error("the file of keys {} (access.keys_file) has no keys", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A key has a name that is not allowed.
    #[error(
        "the name of a key must be 1 to 64 characters of a-z, 0-9, '.', '_' and '-', the first a letter or digit, is {name}"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// A key opens nothing.
    #[error("the key {name} has no scopes")]
    NoScopes {
        /// Its name.
        name: String,
    },
    /// One key has two entries.
    #[error("the keys {first} and {second} are the same key")]
    Twice {
        /// The name in one entry.
        first: String,
        /// The name in the other.
        second: String,
    },
    /// There are too many keys.
    #[error("there are {found} keys, at most {MAX_KEYS} are read")]
    TooMany {
        /// How many there are.
        found: usize,
    },
}

/// The keys, sorted by their digests.
#[derive(Debug, Default)]
pub(super) struct KeyRing(Vec<Arc<ApiKey>>);

impl KeyRing {
    /// Reads the file, if there is one, and adds the keys of the settings.
    pub(super) fn read(settings: &AccessSettings) -> Result<Self, KeysError> {
        let mut entries = settings.keys.clone();
        if let Some(path) = &settings.keys_file {
            entries.extend(read_file(path)?);
        }
        Self::new(entries)
    }

    fn new(entries: Vec<KeyEntry>) -> Result<Self, KeysError> {
        if entries.len() > MAX_KEYS {
            return Err(KeysError::TooMany { found: entries.len() });
        }
        let keys = entries.into_iter().map(|entry| {
            let KeyEntry { name, sha256, scopes } = entry;
            if !is_plain_name(&name) {
                return Err(KeysError::Name { name: excerpt(&name) });
            }
            if scopes.is_empty() {
                return Err(KeysError::NoScopes { name });
            }
            let name = name.into();
            Ok(Arc::new(ApiKey { name, scopes, sha256 }))
        });
        let mut keys = keys.collect::<Result<Vec<_>, _>>()?;
        keys.sort_by_key(|key| key.sha256);
        let twice = keys.windows(2).find(|pair| pair[0].sha256 == pair[1].sha256);
        if let Some(pair) = twice {
            let [first, second] = [0, 1].map(|place| pair[place].name().to_owned());
            return Err(KeysError::Twice { first, second });
        }
        Ok(Self(keys))
    }

    /// Returns the key with this text.
    ///
    /// The binary search takes as many steps for every text. It compares digests, of which whoever sends a text chooses
    /// no bit, so how long that takes says nothing about a key. What is found is compared in constant time, and so is
    /// the neighbour where nothing is found, so that a right key and a wrong one take the same time.
    pub(super) fn find(&self, text: &[u8]) -> Option<Arc<ApiKey>> {
        let sha256 = KeyDigest::of(text);
        let place = self.0.partition_point(|key| key.sha256 < sha256);
        let nearest = self.0.get(place.min(self.0.len().checked_sub(1)?))?;
        let is_same = nearest.sha256.bytes().ct_eq(sha256.bytes());
        bool::from(is_same).then(|| Arc::clone(nearest))
    }

    /// Returns the names of all keys, as often as they have keys.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|key| key.name())
    }

    /// Returns the number of keys.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Reads a file of keys: a YAML list of entries.
fn read_file(path: &Path) -> Result<Vec<KeyEntry>, KeysError> {
    let path_of_error = || path.to_owned();
    let text = read_regular_text(path).map_err(|source| KeysError::Unreadable {
        path: path_of_error(),
        source,
    })?;
    let entries: Option<Vec<KeyEntry>> = serde_saphyr::from_str(&text).map_err(|error| KeysError::Syntax {
        path: path_of_error(),
        reason: error.to_string(),
    })?;
    let entries = entries.unwrap_or_default();
    if entries.is_empty() {
        return Err(KeysError::Empty { path: path_of_error() });
    }
    Ok(entries)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn entry(name: &str, text: &str) -> KeyEntry {
        KeyEntry {
            name: name.to_owned(),
            sha256: KeyDigest::of(text.as_bytes()),
            scopes: vec![Scope::Use],
        }
    }

    #[test]
    fn each_key_is_found_by_its_whole_text_alone() {
        let texts: Vec<String> = (0..50).map(|number| format!("maskclip_{number}")).collect();
        let entries = texts.iter().map(|text| entry(text, text));
        let ring = KeyRing::new(entries.collect()).unwrap();
        for text in &texts {
            assert_eq!(ring.find(text.as_bytes()).unwrap().name(), text);
            for wrong in [&text[..text.len() - 1], &format!("{text} "), &text.to_uppercase(), ""] {
                let is_other = texts.iter().any(|text| text == wrong);
                assert_eq!(ring.find(wrong.as_bytes()).is_some(), is_other, "{wrong:?}");
            }
        }
        assert!(KeyRing::default().find(b"maskclip_1").is_none());
    }

    #[test]
    fn what_is_no_list_of_keys_is_refused_with_its_reason() {
        let refused = |entries| KeyRing::new(entries).unwrap_err().to_string();
        let nameless = vec![entry("Alice Liddell", "a")];
        assert!(refused(nameless).ends_with("is Alice Liddell"));
        let useless = vec![KeyEntry {
            scopes: Vec::new(),
            ..entry("a", "a")
        }];
        assert_eq!(refused(useless), "the key a has no scopes");
        let twice = vec![entry("a", "x"), entry("b", "y"), entry("c", "x")];
        assert!(refused(twice).ends_with("are the same key"));
        let many = (0..=MAX_KEYS).map(|number| entry("a", &number.to_string()));
        assert_eq!(refused(many.collect()), "there are 10001 keys, at most 10000 are read");
    }

    #[test]
    fn a_file_is_refused_with_its_path_and_what_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.yaml");
        let refused = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let error = KeyRing::read(&AccessSettings::of_file(&path)).unwrap_err().to_string();
            assert!(
                error.contains("keys.yaml") && error.contains("access.keys_file"),
                "{error}"
            );
            error
        };
        assert!(refused("").ends_with("has no keys"));
        assert!(refused("name: alice\n").contains("is not a list of keys"));
        let digest = "0".repeat(64);
        for (entry, reason) in [
            (format!("- {{sha256: \"{digest}\"}}\n"), "name"),
            ("- {name: alice}\n".to_owned(), "sha256"),
            ("- {name: alice, sha256: \"00\"}\n".to_owned(), "64 hexadecimal digits"),
            (
                format!("- {{name: alice, sha256: \"{digest}\", scopes: [all]}}\n"),
                "all",
            ),
            (
                format!("- {{name: alice, sha256: \"{digest}\", scope: [use]}}\n"),
                "scope",
            ),
        ] {
            let error = refused(&entry);
            assert!(error.contains(reason), "{error}");
        }
    }
}
