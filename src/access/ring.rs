//! All keys of a server, and the search among them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use subtle::ConstantTimeEq;

use super::key::KeyDigest;
use super::quota::{InFlight, Quota, QuotaError, QuotaLimits};
use super::scope::Scope;
use super::settings::{AccessSettings, KeyEntry, is_rate};
use crate::support::{is_plain_name, read_regular_text};

/// Most keys of a server.
const MAX_KEYS: usize = 10_000;

/// Digits of a digest by which an error names an entry.
const SHOWN_DIGITS: usize = 8;

/// Whoever has the keys of one name.
#[derive(Debug)]
struct Client {
    name: String,
    quota: Quota,
}

/// A key that opens something.
#[derive(Debug)]
pub struct ApiKey {
    client: Arc<Client>,
    scopes: Vec<Scope>,
    sha256: KeyDigest,
}

impl ApiKey {
    /// Returns the name, for logs and metrics.
    pub fn name(&self) -> &str {
        &self.client.name
    }

    /// Counts a request of the client. Never waits.
    ///
    /// # Errors
    /// [`QuotaError`] when it is one too many.
    pub fn admit(&self) -> Result<InFlight, QuotaError> {
        self.client.quota.admit()
    }

    /// Counts what is as much work as a request, as part of one of the client that is under way. Never waits.
    ///
    /// # Errors
    /// [`QuotaError::Rate`] when it is too soon for it.
    pub fn count(&self) -> Result<(), QuotaError> {
        self.client.quota.count()
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
    #[error("the file of keys {} (access.keys_file) is not a list of entries with name, sha256 (64 hexadecimal digits) and scopes: see {place}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where the parser gave up. Its own words would repeat what stands there, which may be a key.
        place: String,
    },
    /// The file is empty. A server whose keys are all gone would answer nobody; a file that is being written looks the
    /// same.
    #[error("the file of keys {} (access.keys_file) has no keys", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A key has a name that is not allowed. It is not repeated, since it may be a key.
    #[error(
        "the name of a key must be 1 to 64 characters of a-z, 0-9, '.', '_' and '-', the first a letter or digit: see the \
         entry whose sha256 begins with {digits}"
    )]
    Name {
        /// The first digits of the entry's digest.
        digits: String,
    },
    /// A key opens nothing.
    #[error("the key {name} has no scopes")]
    NoScopes {
        /// Its name.
        name: String,
    },
    /// A key has a rate that is not allowed.
    #[error("requests_per_second of the key {name} must be 0, or 0.001 to 1000000, is {value}")]
    Rate {
        /// Its name.
        name: String,
        /// The rate.
        value: f64,
    },
    /// Two keys of one name have different quotas.
    #[error("the keys of {name} are one client, and have different quotas")]
    Quotas {
        /// Their name.
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
    /// Reads the file, if there is one, and adds the keys of the settings. Clients that had keys before go on counting
    /// where they were.
    pub(super) fn read(settings: &AccessSettings, before: &Self) -> Result<Self, KeysError> {
        let mut entries = settings.keys.clone();
        if let Some(path) = &settings.keys_file {
            entries.extend(read_file(path)?);
        }
        Self::new(entries, settings, before)
    }

    fn new(entries: Vec<KeyEntry>, settings: &AccessSettings, before: &Self) -> Result<Self, KeysError> {
        if entries.len() > MAX_KEYS {
            return Err(KeysError::TooMany { found: entries.len() });
        }
        let before = before.0.iter().map(|key| (key.name(), &key.client)).collect();
        let mut clients = BTreeMap::new();
        let keys = entries.into_iter().map(|entry| {
            if !is_plain_name(&entry.name) {
                let digits = entry.sha256.to_string().chars().take(SHOWN_DIGITS).collect();
                return Err(KeysError::Name { digits });
            }
            if entry.scopes.is_empty() {
                return Err(KeysError::NoScopes { name: entry.name });
            }
            let client = client(&entry, settings, &before, &mut clients)?;
            let KeyEntry { sha256, scopes, .. } = entry;
            Ok(Arc::new(ApiKey { client, scopes, sha256 }))
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

/// Returns the client of an entry: one that an earlier entry has named, one that had keys before, or a new one.
fn client(
    entry: &KeyEntry,
    settings: &AccessSettings,
    before: &BTreeMap<&str, &Arc<Client>>,
    clients: &mut BTreeMap<String, Arc<Client>>,
) -> Result<Arc<Client>, KeysError> {
    let name = &entry.name;
    let limits = QuotaLimits {
        requests_per_second: entry.requests_per_second.unwrap_or(settings.requests_per_second),
        in_flight: entry.in_flight.unwrap_or(settings.in_flight),
    };
    if !is_rate(limits.requests_per_second) {
        let (name, value) = (name.clone(), limits.requests_per_second);
        return Err(KeysError::Rate { name, value });
    }
    if let Some(client) = clients.get(name) {
        return match client.quota.limits() == limits {
            true => Ok(Arc::clone(client)),
            false => Err(KeysError::Quotas { name: name.clone() }),
        };
    }
    let new = |quota| {
        let name = name.clone();
        Arc::new(Client { name, quota })
    };
    let client = match before.get(&**name) {
        Some(client) if client.quota.limits() == limits => Arc::clone(client),
        Some(client) => new(client.quota.changed(limits)),
        None => new(Quota::new(limits)),
    };
    clients.insert(name.clone(), Arc::clone(&client));
    Ok(client)
}

/// Returns where the parser of the file of keys gave up.
fn place_of(error: &serde_saphyr::Error) -> String {
    match error.location() {
        Some(place) => format!("line {}, column {}", place.line(), place.column()),
        None => "its end".to_owned(),
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
        place: place_of(&error),
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
            requests_per_second: None,
            in_flight: None,
        }
    }

    fn ring(entries: Vec<KeyEntry>) -> Result<KeyRing, KeysError> {
        KeyRing::new(entries, &AccessSettings::default(), &KeyRing::default())
    }

    #[test]
    fn each_key_is_found_by_its_whole_text_alone() {
        let texts: Vec<String> = (0..50).map(|number| format!("maskclip_{number}")).collect();
        let entries = texts.iter().map(|text| entry(text, text));
        let ring = ring(entries.collect()).unwrap();
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
        let refused = |entries| ring(entries).unwrap_err().to_string();
        let key_as_name = refused(vec![entry("maskclip_Secret", "a")]);
        assert!(
            key_as_name.ends_with("the entry whose sha256 begins with ca978112"),
            "{key_as_name}"
        );
        assert!(!key_as_name.contains("maskclip_Secret"));
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
            let error = KeyRing::read(&AccessSettings::of_file(&path), &KeyRing::default())
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("keys.yaml") && error.contains("access.keys_file"),
                "{error}"
            );
            error
        };
        assert!(refused("").ends_with("has no keys"));
        assert!(refused("name: alice\n").contains("is not a list of entries with name"));
        let digest = "0".repeat(64);
        for entry in [
            format!("- {{sha256: \"{digest}\"}}\n"),
            "- {name: alice}\n".to_owned(),
            "- {name: alice, sha256: \"00\"}\n".to_owned(),
            format!("- {{name: alice, sha256: \"{digest}\", scopes: [all]}}\n"),
            format!("- {{name: alice, sha256: \"{digest}\", scope: [use]}}\n"),
        ] {
            let error = refused(&entry);
            assert!(error.contains("see line 1, column"), "{error}");
        }
    }

    #[test]
    fn the_keys_of_one_name_share_a_quota_which_goes_on_when_the_keys_change() {
        let limited = |text| KeyEntry {
            in_flight: Some(1),
            ..entry("a", text)
        };
        let settings = AccessSettings::default();
        let read = |entries, before: &KeyRing| KeyRing::new(entries, &settings, before).unwrap();
        let first = read(vec![limited("x"), limited("y")], &KeyRing::default());
        let under_way = first.find(b"x").unwrap().admit().unwrap();
        assert!(first.find(b"y").unwrap().admit().is_err());
        let second = read(vec![limited("z")], &first);
        assert!(second.find(b"z").unwrap().admit().is_err());
        let raised = KeyEntry {
            in_flight: Some(2),
            ..entry("a", "z")
        };
        let third = read(vec![raised], &second);
        let another = third.find(b"z").unwrap().admit().unwrap();
        assert!(third.find(b"z").unwrap().admit().is_err());
        drop((under_way, another));
        assert!(second.find(b"z").unwrap().admit().is_ok());
    }

    #[test]
    fn a_quota_is_the_lines_own_or_that_of_the_settings_and_has_its_range() {
        let settings = AccessSettings {
            in_flight: 1,
            ..AccessSettings::default()
        };
        let unlimited = KeyEntry {
            in_flight: Some(0),
            ..entry("b", "y")
        };
        let ring = KeyRing::new(vec![entry("a", "x"), unlimited], &settings, &KeyRing::default()).unwrap();
        for (text, admitted) in [("x", 1), ("y", 3)] {
            let key = ring.find(text.as_bytes()).unwrap();
            let requests: Vec<_> = (0..3).filter_map(|_| key.admit().ok()).collect();
            assert_eq!(requests.len(), admitted, "{text}");
        }
        let refused = |entries| super::tests::ring(entries).unwrap_err().to_string();
        let other = KeyEntry {
            in_flight: Some(1),
            ..entry("a", "y")
        };
        assert_eq!(
            refused(vec![entry("a", "x"), other]),
            "the keys of a are one client, and have different quotas"
        );
        for rate in [-1.0, 1e-6, f64::NAN, f64::INFINITY] {
            let wrong = KeyEntry {
                requests_per_second: Some(rate),
                ..entry("a", "x")
            };
            assert!(
                refused(vec![wrong]).starts_with("requests_per_second of the key a must be"),
                "{rate}"
            );
        }
    }
}
