//! Addresses that may hold what one signs in with, and what people see of them.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use url::{ParseError, Url};

/// What stands in texts for what they do not show.
const HIDDEN: &str = "...";

/// An address from the settings. Texts for people show neither its password, nor a user without one, nor its query. The
/// error about a text that is no address does not repeat it.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct PrivateUrl(Url);

impl PrivateUrl {
    /// Returns the whole address, for whoever connects.
    pub(crate) fn whole(&self) -> &Url {
        &self.0
    }
}

impl FromStr for PrivateUrl {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Url::parse(text).map(Self)
    }
}

impl<'de> Deserialize<'de> for PrivateUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .map_err(|error| D::Error::custom(format!("this is no address: {error}")))
    }
}

impl fmt::Display for PrivateUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&without_secrets(&self.0))
    }
}

impl fmt::Debug for PrivateUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Returns an address for people: without its password, without a user that has none, which may be a token, and without
/// what is asked for at its path, which may be a signature.
pub(crate) fn without_secrets(address: &Url) -> String {
    let mut shown = address.clone();
    // These fail only for an address that can have neither user nor password, and this one has.
    if shown.password().is_some() {
        let _ = shown.set_password(Some(HIDDEN));
    } else if !shown.username().is_empty() {
        let _ = shown.set_username(HIDDEN);
    }
    if shown.query().is_some() {
        shown.set_query(Some(HIDDEN));
    }
    shown.into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn no_text_shows_what_one_signs_in_with() {
        for (address, shown) in [
            ("redis://user:secret@host", "redis://user:...@host"),
            ("redis://:secret@host:6380/3", "redis://:...@host:6380/3"),
            ("https://secret@host/path", "https://...@host/path"),
            ("https://host/path?token=secret", "https://host/path?..."),
            ("http://host:4318/", "http://host:4318/"),
        ] {
            let address: PrivateUrl = address.parse().unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(format!("{address:?}"), shown);
        }
    }

    #[test]
    fn the_error_about_what_is_no_address_does_not_repeat_it() {
        let read = |text: &str| serde_json::from_value::<PrivateUrl>(text.into());
        assert_eq!(
            read("https://user:secret@host/").unwrap().whole().password(),
            Some("secret")
        );
        for text in ["secret", "redis://user:secret@ho st", "redis://user:secret@host:port"] {
            let error = read(text).unwrap_err().to_string();
            assert!(
                error.starts_with("this is no address: ") && !error.contains("secret"),
                "{error}"
            );
        }
    }
}
