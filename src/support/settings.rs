//! The error for a wrong setting, which all rooms with settings share.

use std::fmt;

/// A setting whose value lies outside its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} must be {range}, is {value}")]
pub struct OutOfRange {
    /// The path of the setting's key, as in `engine.workers`.
    pub key: &'static str,
    /// The allowed values, in words.
    pub range: String,
    /// The value that was given.
    pub value: String,
}

/// Checks the value of a setting.
///
/// # Errors
/// Fails when `holds` is false. `range` says in words which values are allowed.
pub(crate) fn in_range(
    key: &'static str,
    holds: bool,
    value: impl fmt::Display,
    range: &str,
) -> Result<(), OutOfRange> {
    if holds {
        return Ok(());
    }
    Err(OutOfRange {
        key,
        range: range.to_owned(),
        value: value.to_string(),
    })
}

/// Checks that the value of a setting is at least 1.
///
/// # Errors
/// Fails when the value is 0.
pub(crate) fn at_least_one(key: &'static str, value: impl Into<u128>) -> Result<(), OutOfRange> {
    let value = value.into();
    in_range(key, value >= 1, value, "at least 1")
}
