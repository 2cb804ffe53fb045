//! Opens regular files, and only these.
//!
//! A named pipe without a writer would block whoever opens it, and a device may have no end. A file that is none of the
//! usual kind is therefore an error that says what it is, before it is opened.

use std::fs::{self, File, FileType};
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use super::plain_text;

/// Opens a regular file for reading. Symbolic links are followed.
///
/// # Errors
/// Fails as [`File::open`] does, and when the file is not a regular one: a folder, a named pipe, a socket or a device.
pub(crate) fn open_regular_file(path: &Path) -> io::Result<File> {
    match not_regular(fs::metadata(path)?.file_type()) {
        None => File::open(path),
        Some(kind) => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("it is {kind}, not a regular file"),
        )),
    }
}

/// Reads a whole regular file.
///
/// # Errors
/// Fails as [`open_regular_file`] does, and when the file cannot be read.
pub(crate) fn read_regular_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = open_regular_file(path)?;
    let mut bytes = Vec::with_capacity(
        file.metadata()
            .map_or(0, |known| usize::try_from(known.len()).unwrap_or(0)),
    );
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads a whole regular file as [`plain_text`].
///
/// # Errors
/// Fails as [`read_regular_file`] does, and when the file is not UTF-8.
pub(crate) fn read_regular_text(path: &Path) -> io::Result<String> {
    plain_text(read_regular_file(path)?).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Returns in words what kind of file this is, or `None` for a regular file.
fn not_regular(kind: FileType) -> Option<&'static str> {
    if kind.is_file() {
        None
    } else if kind.is_dir() {
        Some("a folder")
    } else if kind.is_fifo() {
        Some("a named pipe")
    } else if kind.is_socket() {
        Some("a socket")
    } else {
        Some("a device")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::process::Command;

    use super::*;

    #[test]
    fn what_is_not_a_regular_file_is_refused_and_named_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let (pipe, socket) = (folder.path().join("pipe"), folder.path().join("socket"));
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let _listening = UnixListener::bind(&socket).unwrap();
        let linked = folder.path().join("link to the pipe");
        std::os::unix::fs::symlink(&pipe, &linked).unwrap();
        for (path, kind) in [
            (folder.path(), "a folder"),
            (&pipe, "a named pipe"),
            (&linked, "a named pipe"),
            (&socket, "a socket"),
            (Path::new("/dev/zero"), "a device"),
        ] {
            let error = read_regular_file(path).unwrap_err().to_string();
            assert_eq!(error, format!("it is {kind}, not a regular file"));
        }
    }

    #[test]
    fn a_regular_file_is_read_through_a_link_and_must_be_text_where_text_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let (path, linked) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&path, "\u{feff}wörter\r\n").unwrap();
        std::os::unix::fs::symlink(&path, &linked).unwrap();
        assert_eq!(read_regular_text(&linked).unwrap(), "wörter\n");
        fs::write(&path, b"\xff").unwrap();
        assert_eq!(
            read_regular_text(&path).unwrap_err().to_string(),
            "it is not UTF-8 text"
        );
        assert_eq!(read_regular_file(&path).unwrap(), b"\xff");
        fs::remove_file(&path).unwrap();
        assert_eq!(read_regular_text(&linked).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
