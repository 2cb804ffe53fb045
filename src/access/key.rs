//! The text of a key, and the digest that stands for it.
//!
//! A key is 256 random bits, and the server keeps its SHA-256. A slow hash such as argon2 would protect passwords,
//! which can be guessed; nobody guesses 256 bits, so it would buy nothing and cost each request milliseconds.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use super::scope::Scope;

/// What every key starts with, so that people and scanners of repositories recognise one.
const PREFIX: &str = "maskclip_";

/// Random bytes of a key.
const RANDOM_BYTES: usize = 32;

/// SHA-256 of a key's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyDigest([u8; 32]);

impl KeyDigest {
    /// Returns the digest of a key's text.
    pub fn of(text: &[u8]) -> Self {
        Self(Sha256::digest(text).into())
    }

    /// Returns its bytes.
    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Writes 64 hexadecimal digits.
impl fmt::Display for KeyDigest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&hex::encode(self.0))
    }
}

impl Serialize for KeyDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut digest = [0; 32];
        hex::decode_to_slice(&text, &mut digest)
            .map_err(|_| D::Error::custom("sha256 must be 64 hexadecimal digits, in quotes"))?;
        Ok(Self(digest))
    }
}

/// A key that was just made. It is shown once and kept nowhere.
pub struct NewKey(String);

impl NewKey {
    /// Makes a key of random bytes from the operating system.
    ///
    /// # Errors
    /// Fails when the operating system has none.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; RANDOM_BYTES];
        getrandom::fill(&mut bytes)?;
        Ok(Self(format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes))))
    }

    /// Returns the key itself, as clients send it.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Returns the line for the file of keys, with its line break. It does not contain the key.
    pub fn line(&self, name: &str, scopes: &[Scope]) -> String {
        let sha256 = KeyDigest::of(self.0.as_bytes());
        let scopes: Vec<_> = scopes.iter().map(|scope| scope.name()).collect();
        format!(
            "- {{name: \"{name}\", sha256: \"{sha256}\", scopes: [{}]}}\n",
            scopes.join(", ")
        )
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_is_long_random_and_recognisable() {
        let [key, other] = [(); 2].map(|()| NewKey::random().unwrap());
        assert_ne!(key.text(), other.text());
        let random = key.text().strip_prefix("maskclip_").unwrap();
        assert_eq!(BASE64_URL_SAFE_NO_PAD.decode(random).unwrap().len(), 32);
    }

    #[test]
    fn the_line_for_the_file_has_the_digest_and_not_the_key() {
        let key = NewKey("maskclip_test".to_owned());
        assert_eq!(
            key.line("alice", &[Scope::Use, Scope::Metrics]),
            "- {name: \"alice\", sha256: \"e224bf92c6fd158db802d74c4ccdff602cb834fb47ec6dc3fc039fb8f5a432f6\", \
             scopes: [use, metrics]}\n"
        );
    }
}
