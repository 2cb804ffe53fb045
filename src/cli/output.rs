//! What commands print. Output to nowhere is lost and never ends a command by a panic.

use std::fmt;
use std::io::{ErrorKind, Result, Write};

/// Prints to standard output. A reader that has closed the pipe is not an error.
///
/// # Errors
/// Those of writing, such as a full disk.
pub(super) fn print(text: &str) -> Result<()> {
    print_bytes(text.as_bytes())
}

/// Writes a file to standard output. A reader that has closed the pipe is not an error.
///
/// # Errors
/// Those of writing, such as a full disk.
pub(super) fn print_bytes(bytes: &[u8]) -> Result<()> {
    let mut output = std::io::stdout().lock();
    match output.write_all(bytes).and_then(|()| output.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Prints a line to standard error, for people. Nobody misses it where it cannot be written.
pub(super) fn note(line: impl fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
