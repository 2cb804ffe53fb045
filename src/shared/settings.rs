//! The settings of the state that replicas share.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

use crate::support::{OutOfRange, PrivateUrl, in_range};

/// The settings of the state that replicas share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedSettings {
    /// The address of Redis, `redis://` or `rediss://`; `None` shares nothing.
    pub url: Option<PrivateUrl>,
    /// A file with the password, in place of one in the address.
    pub password_file: Option<PathBuf>,
    /// A PEM file of certificate authorities to trust instead of the compiled-in ones, for `rediss://`.
    pub ca_file: Option<PathBuf>,
    /// What all keys in Redis begin with.
    pub prefix: String,
    /// Seconds that an operation or a connection may take.
    pub timeout_seconds: f64,
    /// Seconds for which a text embedding stays in Redis.
    pub text_seconds: u64,
    /// Seconds that replicas wait at most for the one that computes a text.
    pub lock_seconds: f64,
    /// Bytes of the largest held image that is shared; 0 shares none.
    pub max_image_bytes: u64,
}

/// Images that are read or written at once. Nobody else has counted their copies.
pub(super) const IMAGES_AT_ONCE: usize = 2;

/// Copies of an image on its way: the value, and the connection's buffer.
const COPIES: u64 = 2;

/// The longest value that Redis stores, in bytes.
pub(super) const MAX_VALUE_BYTES: u64 = 512 << 20;

impl SharedSettings {
    /// Returns the settings of a server that shares nothing.
    #[cfg(test)]
    pub(crate) fn for_testing() -> Self {
        Self {
            url: None,
            password_file: None,
            ca_file: None,
            prefix: "maskclip".to_owned(),
            timeout_seconds: 0.5,
            text_seconds: 604_800,
            lock_seconds: 10.0,
            max_image_bytes: 8 << 20,
        }
    }

    /// Checks the range of every value.
    ///
    /// # Errors
    /// [`OutOfRange`] for the first value outside its range.
    pub fn check(&self) -> Result<(), OutOfRange> {
        if let Some(url) = &self.url {
            let range = "an address such as redis://host:6379/0 or rediss://user:password@host";
            in_range("shared.url", is_usable(url.whole()), url, range)?;
            let passwords = url.whole().password().is_some() && self.password_file.is_some();
            in_range(
                "shared.password_file",
                !passwords,
                "a second password",
                "null where shared.url has a password",
            )?;
        }
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
        let is_prefix = (1..=64).contains(&self.prefix.len()) && self.prefix.bytes().all(is_plain);
        let range = "1 to 64 letters, digits, '-', '_', '.' and ':'";
        in_range("shared.prefix", is_prefix, &self.prefix, range)?;
        for (key, seconds, longest) in [
            ("shared.timeout_seconds", self.timeout_seconds, 30.0),
            ("shared.lock_seconds", self.lock_seconds, 300.0),
        ] {
            in_range(
                key,
                (0.01..=longest).contains(&seconds),
                seconds,
                &format!("0.01 to {longest}"),
            )?;
        }
        let seconds = self.text_seconds;
        in_range(
            "shared.text_seconds",
            (60..=31_536_000).contains(&seconds),
            seconds,
            "60 to 31536000",
        )?;
        let bytes = self.max_image_bytes;
        // A little is for what is known of the image.
        let is_storable = bytes < MAX_VALUE_BYTES;
        in_range("shared.max_image_bytes", is_storable, bytes, "less than 536870912")
    }

    /// Returns the bytes that images take on their way to and from Redis at most.
    pub fn image_bytes(&self) -> u64 {
        let bytes = self.max_image_bytes.saturating_mul(COPIES * IMAGES_AT_ONCE as u64);
        self.url.as_ref().map_or(0, |_| bytes)
    }

    /// Returns how long an operation may take.
    pub(super) fn timeout(&self) -> Duration {
        Duration::from_secs_f64(self.timeout_seconds)
    }
}

/// Returns whether an address is one of Redis with a host.
fn is_usable(address: &Url) -> bool {
    matches!(address.scheme(), "redis" | "rediss")
        && address.host_str().is_some_and(|host| !host.is_empty())
        && address.query().is_none()
        && address.fragment().is_none()
        && address
            .path()
            .trim_start_matches('/')
            .bytes()
            .all(|byte| byte.is_ascii_digit())
}

/// Returns whether connections to an address are encrypted.
pub(super) fn is_encrypted(address: &PrivateUrl) -> bool {
    address.whole().scheme() == "rediss"
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn with_url(url: &str) -> SharedSettings {
        SharedSettings {
            url: Some(url.parse().unwrap()),
            ..SharedSettings::for_testing()
        }
    }

    #[test]
    fn an_address_is_one_of_redis() {
        for url in [
            "redis://localhost",
            "redis://:secret@10.0.0.7:6380/3",
            "rediss://maskclip:secret@redis.example/",
            "redis://[::1]:6379",
        ] {
            assert_eq!(with_url(url).check(), Ok(()), "{url}");
        }
        for url in [
            "http://localhost",
            "redis:localhost",
            "redis://localhost/name",
            "redis://localhost?protocol=resp3",
            "redis://localhost#insecure",
        ] {
            assert_eq!(with_url(url).check().unwrap_err().key, "shared.url", "{url}");
        }
    }

    #[test]
    fn no_text_shows_a_password() {
        let refused = with_url("redis://user:secret@host/name").check().unwrap_err();
        assert!(refused.to_string().ends_with("redis://user:...@host/name"), "{refused}");
        assert!(!format!("{:?}", with_url("redis://user:secret@host")).contains("secret"));
    }

    #[test]
    fn values_out_of_their_ranges_are_refused_by_their_keys() {
        let settings = SharedSettings::for_testing;
        assert_eq!(settings().check(), Ok(()));
        let two_passwords = SharedSettings {
            password_file: Some("file".into()),
            ..with_url("redis://:secret@host")
        };
        for (key, settings) in [
            ("shared.password_file", two_passwords),
            (
                "shared.prefix",
                SharedSettings {
                    prefix: "a b".to_owned(),
                    ..settings()
                },
            ),
            (
                "shared.timeout_seconds",
                SharedSettings {
                    timeout_seconds: 0.0,
                    ..settings()
                },
            ),
            (
                "shared.lock_seconds",
                SharedSettings {
                    lock_seconds: 1000.0,
                    ..settings()
                },
            ),
            (
                "shared.text_seconds",
                SharedSettings {
                    text_seconds: 1,
                    ..settings()
                },
            ),
            (
                "shared.max_image_bytes",
                SharedSettings {
                    max_image_bytes: 1 << 30,
                    ..settings()
                },
            ),
        ] {
            assert_eq!(settings.check().unwrap_err().key, key);
        }
    }
}
