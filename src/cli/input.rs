//! What commands read: text files, class lists, and standard input. Errors are texts for the user, with the path.

use std::io::Read;
use std::path::Path;

use crate::support::{plain_text, read_regular_text};
use crate::vocabulary::{VocabularyText, parse_vocabulary};

/// Reads a text file.
///
/// # Errors
/// When it cannot be read or is no text.
pub(super) fn read_text(file: &Path) -> Result<String, String> {
    read_regular_text(file).map_err(|error| format!("cannot read {}: {error}", file.display()))
}

/// Reads standard input to its end.
///
/// # Errors
/// When it cannot be read or is no text.
pub(super) fn read_standard_input() -> Result<String, String> {
    let mut bytes = Vec::new();
    let read = std::io::stdin().read_to_end(&mut bytes);
    read.map_err(|error| format!("cannot read standard input: {error}"))?;
    plain_text(bytes).map_err(|error| format!("cannot read standard input: {error}"))
}

/// Reads a file of classes.
///
/// # Errors
/// When it, or a line of it, cannot be read.
pub(super) fn read_classes(file: &Path) -> Result<VocabularyText, String> {
    parse(&read_text(file)?, &file.display().to_string())
}

/// Reads classes from standard input.
///
/// # Errors
/// When it, or a line of it, cannot be read.
pub(super) fn read_classes_from_standard_input() -> Result<VocabularyText, String> {
    parse(&read_standard_input()?, "standard input")
}

fn parse(text: &str, name: &str) -> Result<VocabularyText, String> {
    parse_vocabulary(text).map_err(|error| format!("{name}: {error}"))
}
