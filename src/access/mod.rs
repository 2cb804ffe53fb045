//! Who may do what, and how often: API keys with their scopes and quotas.
//!
//! Owns the keys: their form, their file, the search for the one that a client sent, and the counts of its requests.
//! Knows nothing of HTTP: `api` reads a key out of a request and says which scope a route needs. A server without keys
//! lets everybody do everything.

mod key;
mod quota;
mod ring;
mod scope;
mod settings;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

pub use key::{KeyDigest, NewKey};
pub use quota::{InFlight, QuotaError};
pub use ring::{ApiKey, KeysError};
pub use scope::Scope;
pub use settings::{AccessSettings, KeyEntry};

use ring::KeyRing;

/// The keys of a running server. They can be read anew while it runs.
#[derive(Debug)]
pub struct Access {
    settings: AccessSettings,
    /// The keys; `None` on a server that needs none.
    ring: Option<RwLock<Arc<KeyRing>>>,
}

/// What reading the keys anew has changed. Names, each once, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reloaded {
    /// Number of keys.
    pub keys: usize,
    /// Names that had no key before.
    pub added: Vec<String>,
    /// Names that have no key any more.
    pub removed: Vec<String>,
}

impl Access {
    /// Reads the keys that the settings name.
    ///
    /// # Errors
    /// [`KeysError`] when the file cannot be read, or when it or the settings are not a list of keys.
    pub fn open(settings: AccessSettings) -> Result<Self, KeysError> {
        let ring = match settings.has_keys() {
            true => Some(RwLock::new(Arc::new(KeyRing::read(&settings, &KeyRing::default())?))),
            false => None,
        };
        Ok(Self { settings, ring })
    }

    /// Returns whether requests need a key.
    pub fn is_on(&self) -> bool {
        self.ring.is_some()
    }

    /// Returns the file that [`Access::reload`] reads.
    pub fn file(&self) -> Option<&Path> {
        self.settings.keys_file.as_deref()
    }

    /// Returns the key with this text, if there is one. Takes the same time whether there is one or not.
    pub fn find(&self, text: &[u8]) -> Option<Arc<ApiKey>> {
        self.ring()?.find(text)
    }

    /// Returns the names of all keys, each once and in their order.
    pub fn names(&self) -> Vec<String> {
        let names: BTreeSet<String> = self
            .ring()
            .iter()
            .flat_map(|ring| ring.names().map(str::to_owned))
            .collect();
        names.into_iter().collect()
    }

    /// Reads the file anew. From then on the new keys hold. After an error the old keys hold on.
    ///
    /// # Errors
    /// Those of [`Access::open`].
    pub fn reload(&self) -> Result<Reloaded, KeysError> {
        let old = self.ring().unwrap_or_default();
        let new = Arc::new(KeyRing::read(&self.settings, &old)?);
        if let Some(ring) = &self.ring {
            *ring.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&new);
        }
        let (before, now): (BTreeSet<_>, BTreeSet<_>) = (old.names().collect(), new.names().collect());
        let names = |names: &mut dyn Iterator<Item = &&str>| names.map(|name| (*name).to_owned()).collect();
        Ok(Reloaded {
            keys: new.len(),
            added: names(&mut now.difference(&before)),
            removed: names(&mut before.difference(&now)),
        })
    }

    fn ring(&self) -> Option<Arc<KeyRing>> {
        let ring = self.ring.as_ref()?;
        Some(Arc::clone(&ring.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    fn line(name: &str, key: &NewKey) -> String {
        key.line(name, &[Scope::Use])
    }

    #[test]
    fn a_file_that_is_read_anew_replaces_the_keys_and_a_damaged_one_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.yaml");
        let [old, new] = [(); 2].map(|()| NewKey::random().unwrap());
        fs::write(&path, line("alice", &old)).unwrap();
        let access = Access::open(AccessSettings::of_file(&path)).unwrap();
        let finds = |key: &NewKey| access.find(key.text().as_bytes()).is_some();
        assert!(access.is_on() && finds(&old) && !finds(&new));

        fs::write(&path, line("bob", &new)).unwrap();
        assert!(finds(&old) && !finds(&new), "nobody has read the file");
        let reloaded = access.reload().unwrap();
        assert_eq!(
            reloaded,
            Reloaded {
                keys: 1,
                added: vec!["bob".to_owned()],
                removed: vec!["alice".to_owned()],
            }
        );
        assert!(!finds(&old) && finds(&new));

        for damaged in [
            "",
            "# nothing\n",
            "- {name: bob",
            "- {name: bob, sha256: \"12\", scopes: [use]}\n",
        ] {
            fs::write(&path, damaged).unwrap();
            assert!(access.reload().is_err(), "{damaged:?}");
            assert!(finds(&new), "{damaged:?}");
        }
        // A key in a wrong place is not repeated, since the error goes into the log.
        for damaged in [
            "- {name: bob, key: maskclip_secret, scopes: [use]}\n",
            "- {name: bob, sha256: maskclip_secret, scopes: [use]}\n",
            "maskclip_secret\n- {name: bob}\n",
            "- {name: bob, sha256: \"12\", scopes: [maskclip_secret]}\n",
            &format!("- {{name: maskclip_secret+, sha256: \"{}\"}}\n", "0".repeat(64)),
        ] {
            fs::write(&path, damaged).unwrap();
            let error = access.reload().unwrap_err().to_string();
            assert!(!error.contains("maskclip_secret"), "{error}");
        }
        fs::remove_file(&path).unwrap();
        assert!(access.reload().is_err());
        assert!(finds(&new));
    }

    #[test]
    fn without_keys_none_is_needed_and_none_is_found() {
        let access = Access::open(AccessSettings::default()).unwrap();
        assert!(!access.is_on());
        assert!(access.find(b"").is_none());
    }

    #[test]
    fn two_keys_may_have_one_name_so_that_one_can_replace_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.yaml");
        let [old, new] = [(); 2].map(|()| NewKey::random().unwrap());
        fs::write(&path, line("alice", &old) + &line("alice", &new)).unwrap();
        let access = Access::open(AccessSettings::of_file(&path)).unwrap();
        for key in [&old, &new] {
            assert_eq!(access.find(key.text().as_bytes()).unwrap().name(), "alice");
        }
        assert_eq!(access.reload().unwrap().added, [""; 0]);
    }
}
