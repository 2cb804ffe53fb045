//! What is known of each image that has been measured, kept in a file so that a run that was stopped can go on.
//!
//! The state is lines of JSON, one per image and setting, appended in one write each. A line without its end, left by a process
//! that was killed, is dropped. Lines carry a digest of the settings and the files that they come from, so one state can serve
//! many runs, and a changed setting finds nothing.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::confusion::PairCount;

/// One image, measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The sample's name.
    pub image: String,
    /// Milliseconds that the engine worked: decoding, preprocessing, the model and the label map.
    pub milliseconds: f64,
    /// Pixels by true and predicted class.
    pub pairs: Vec<PairCount>,
}

/// A line of the state.
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
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is something else.
    #[error("{} is no state of an evaluation, from line {line} on: {reason}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// Records by the digest of what they come from: those of the file, and those of this run.
#[derive(Debug, Default)]
pub struct Recorder {
    records: HashMap<String, ImageRecord>,
    file: Option<(File, PathBuf)>,
}

impl Recorder {
    /// Keeps records in memory alone.
    pub fn in_memory() -> Self {
        Self::default()
    }

    /// Reads the state that is there, and appends to it from now on.
    ///
    /// # Errors
    /// When the file cannot be read or written, or is no state.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let failed = |source| StateError::Io {
            path: path.to_owned(),
            source,
        };
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(failed)?;
        // What follows the last line's end was being written when the process ended.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let mut records = HashMap::new();
        for (line, text) in (1..).zip(text[..whole].lines()) {
            let Line { key, record } = serde_json::from_str(text).map_err(|error| StateError::Foreign {
                path: path.to_owned(),
                line,
                reason: error.to_string(),
            })?;
            records.insert(key, record);
        }
        if whole == 0 && !text.is_empty() && !text.starts_with("{\"key\":") {
            return Err(StateError::Foreign {
                path: path.to_owned(),
                line: 1,
                reason: "it has no whole line".to_owned(),
            });
        }
        file.set_len(whole as u64).map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(Self {
            records,
            file: Some((file, path.to_owned())),
        })
    }

    /// The record with this key.
    pub fn get(&self, key: &str) -> Option<&ImageRecord> {
        self.records.get(key)
    }

    /// Remembers a record, in the file before this returns if there is one.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn add(&mut self, key: String, record: ImageRecord) -> Result<(), StateError> {
        let line = Line { key, record };
        if let Some((file, path)) = &mut self.file {
            let mut text = serde_json::to_string(&line).expect("a record is plain data");
            text.push('\n');
            file.write_all(text.as_bytes()).map_err(|source| StateError::Io {
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
