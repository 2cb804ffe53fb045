//! Records of measured images, kept in a file so that a stopped run can resume.
//!
//! The state is a file with one line of JSON per image and settings. Each line is appended in one write; an incomplete
//! last line, left by a killed process, is dropped. A line carries a digest of the settings and the files it was
//! measured with. So one state can serve many runs, and after a change of settings no line matches.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::confusion::PairCount;
use crate::support::{LineError, LineFile, ReadLines};

/// The record of one measured image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The sample's name.
    pub image: String,
    /// Milliseconds that the engine spent on decoding, preprocessing, the model and the label map.
    pub milliseconds: f64,
    /// Numbers of pixels by true and predicted class.
    pub pairs: Vec<PairCount>,
    /// Number of the truth's pixels that do not count.
    #[serde(default)]
    pub uncounted_pixels: u64,
    /// Whether the image was turned by its EXIF orientation.
    #[serde(default)]
    pub is_turned: bool,
}

/// A line of the state file.
#[derive(Serialize, Deserialize)]
struct Line {
    /// Digest of the settings and the files.
    key: String,
    #[serde(flatten)]
    record: ImageRecord,
}

/// Why a state cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// The file cannot be read or written.
    #[error("cannot keep the state in {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is not a state.
    #[error("{} is no state of an evaluation, from line {line} on: {reason}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Number of the first wrong line, counted from 1.
        line: usize,
        /// The cause.
        reason: String,
    },
}

/// The records of the state file and of this run, by the digest of their settings and files.
#[derive(Debug, Default)]
pub struct Recorder {
    records: HashMap<String, ImageRecord>,
    file: Option<(LineFile, PathBuf)>,
}

impl Recorder {
    /// Creates a recorder that keeps records in memory only.
    pub fn in_memory() -> Self {
        Self::default()
    }

    /// Reads the state file, or creates it. New records are appended to it.
    ///
    /// # Errors
    /// [`StateError`] when the file cannot be read or written, or is not a state.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let failed = |source| StateError::Io {
            path: path.to_owned(),
            source,
        };
        let foreign = |line, reason: String| StateError::Foreign {
            path: path.to_owned(),
            line,
            reason,
        };
        let mut records = HashMap::new();
        let read = ReadLines::open(path, |_, line| {
            let Line { key, record } = serde_json::from_slice(line)?;
            records.insert(key, record);
            Ok::<_, serde_json::Error>(())
        });
        let read = read.map_err(|error| match error {
            LineError::Io(source) => failed(source),
            LineError::Line(line, error) => foreign(line, error.to_string()),
        })?;
        // Text after the last line break was being written when the process ended, unless the file is another one.
        if records.is_empty() && !read.rest.is_empty() && !read.rest.starts_with(b"{\"key\":") {
            return Err(foreign(1, "it has no whole line".to_owned()));
        }
        let file = read.go_on().map_err(failed)?;
        Ok(Self {
            records,
            file: Some((file, path.to_owned())),
        })
    }

    /// Returns the record with this key.
    pub fn get(&self, key: &str) -> Option<&ImageRecord> {
        self.records.get(key)
    }

    /// Adds a record. With a state file, the record is written before this returns.
    ///
    /// # Errors
    /// [`StateError`] when the file cannot be written.
    pub fn add(&mut self, key: String, record: ImageRecord) -> Result<(), StateError> {
        let line = Line { key, record };
        if let Some((file, path)) = &mut self.file {
            let text = serde_json::to_string(&line).expect("a record is plain data");
            file.append(text).map_err(|source| StateError::Io {
                path: path.clone(),
                source,
            })?;
        }
        self.records.insert(line.key, line.record);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn record(image: &str) -> ImageRecord {
        ImageRecord {
            image: image.to_owned(),
            milliseconds: 1.5,
            pairs: vec![(0, 1, 2).into(), (1, 65_535, 3).into()],
            uncounted_pixels: 4,
            is_turned: true,
        }
    }

    #[test]
    fn records_come_back_under_their_own_keys() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut recorder = Recorder::open(file.path()).unwrap();
        recorder.add("one".into(), record("a")).unwrap();
        recorder.add("two".into(), record("b")).unwrap();
        let reopened = Recorder::open(file.path()).unwrap();
        assert_eq!(reopened.get("one"), Some(&record("a")));
        assert_eq!(reopened.get("two"), Some(&record("b")));
        assert_eq!(reopened.get("three"), None);
    }

    #[test]
    fn a_line_that_was_cut_off_anywhere_is_dropped_and_written_again() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut recorder = Recorder::open(file.path()).unwrap();
        recorder.add("one".into(), record("a")).unwrap();
        let kept = std::fs::read(file.path()).unwrap().len();
        recorder.add("two".into(), record("b")).unwrap();
        let whole = std::fs::read(file.path()).unwrap();
        for end in kept..whole.len() {
            std::fs::write(file.path(), &whole[..end]).unwrap();
            let mut recorder = Recorder::open(file.path()).unwrap();
            assert!(recorder.get("one").is_some() && recorder.get("two").is_none(), "{end}");
            recorder.add("two".into(), record("b")).unwrap();
            assert_eq!(std::fs::read(file.path()).unwrap(), whole, "{end}");
        }
    }

    #[test]
    fn another_file_is_left_alone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for text in ["{\"key\": 3}\n", "some notes\n", "some notes"] {
            std::fs::write(file.path(), text).unwrap();
            let error = Recorder::open(file.path()).unwrap_err().to_string();
            assert!(
                error.contains("is no state of an evaluation, from line 1 on"),
                "{error}"
            );
            assert_eq!(std::fs::read_to_string(file.path()).unwrap(), text);
        }
    }
}
