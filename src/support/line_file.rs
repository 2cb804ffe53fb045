//! Files of lines that grow: whatever ends the process, all whole lines stay, and the next process goes on behind them.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::Path;

/// A file that was read up to its last whole line.
#[derive(Debug)]
pub(crate) struct ReadLines {
    file: File,
    /// Bytes of all whole lines.
    pub whole_bytes: u64,
    /// What stands behind the last line break: a line that was being written when a process ended, or another file
    /// than one of lines.
    pub rest: Vec<u8>,
}

/// A file to which lines are appended.
#[derive(Debug)]
pub(crate) struct LineFile {
    file: File,
}

/// Why a file of lines could not be read.
#[derive(Debug)]
pub(crate) enum LineError<E> {
    /// The system's error.
    Io(io::Error),
    /// A line was refused. Lines count from 1.
    Line(usize, E),
}

impl ReadLines {
    /// Opens a file, or creates it, and hands each whole line without its line break to `each`, with the byte at which
    /// it starts.
    ///
    /// # Errors
    /// [`LineError`] when the file cannot be read, and for the first line that `each` refuses.
    pub(crate) fn open<E>(
        path: &Path,
        mut each: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<Self, LineError<E>> {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        let mut reader = BufReader::new(options.open(path).map_err(LineError::Io)?);
        let (mut whole_bytes, mut line) = (0, Vec::new());
        for number in 1.. {
            line.clear();
            reader.read_until(b'\n', &mut line).map_err(LineError::Io)?;
            let Some(text) = line.strip_suffix(b"\n") else {
                break;
            };
            each(whole_bytes, text).map_err(|error| LineError::Line(number, error))?;
            whole_bytes += line.len() as u64;
        }
        Ok(Self {
            file: reader.into_inner(),
            whole_bytes,
            rest: line,
        })
    }

    /// Removes what stands behind the last whole line, so that new lines follow it.
    ///
    /// # Errors
    /// Those of the system.
    pub(crate) fn go_on(mut self) -> io::Result<LineFile> {
        self.file.set_len(self.whole_bytes)?;
        self.file.seek(SeekFrom::Start(self.whole_bytes))?;
        Ok(LineFile { file: self.file })
    }
}

impl LineFile {
    /// Appends a line, which has no line break, in one write.
    ///
    /// # Errors
    /// Those of the system. Part of the line may stand in the file then.
    pub(crate) fn append(&mut self, mut line: String) -> io::Result<()> {
        line.push('\n');
        self.file.write_all(line.as_bytes())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn lines(path: &Path) -> (Vec<(u64, String)>, ReadLines) {
        let mut lines = Vec::new();
        let read = ReadLines::open(path, |start, line| {
            lines.push((start, String::from_utf8(line.to_vec()).unwrap()));
            Ok::<_, ()>(())
        });
        (lines, read.unwrap())
    }

    #[test]
    fn lines_come_back_and_what_was_cut_off_is_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines");
        let (none, read) = lines(&path);
        assert_eq!(none, []);
        let mut file = read.go_on().unwrap();
        file.append("one".to_owned()).unwrap();
        std::fs::write(&path, "one\ntw").unwrap();
        let (one, read) = lines(&path);
        assert_eq!((one, &read.rest[..]), (vec![(0, "one".to_owned())], &b"tw"[..]));
        read.go_on().unwrap().append("two".to_owned()).unwrap();
        let (both, read) = lines(&path);
        assert_eq!(both, [(0, "one".to_owned()), (4, "two".to_owned())]);
        assert_eq!((read.whole_bytes, read.rest.len()), (8, 0));
    }

    #[test]
    fn a_line_that_is_refused_is_numbered() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines");
        std::fs::write(&path, "one\ntwo\n").unwrap();
        let refused = ReadLines::open(&path, |_, line| if line == b"two" { Err("no") } else { Ok(()) });
        assert!(matches!(refused.unwrap_err(), LineError::Line(2, "no")));
    }
}
