//! What all labels in a folder depend on. A folder holds labels of one plan.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Drawing, Journal, LabelError, OutputFormat, file_error};
use crate::formats::ClassLabel;
use crate::support::{read_regular_file, write_whole_file};

/// The name of the plan's file in the folder of a run.
pub(super) const PLAN_FILE: &str = ".maskclip/plan.json";

/// A file that is locked by the process that looks at the plan.
const LOCK_FILE: &str = ".maskclip/plan.lock";

/// What all labels in a folder depend on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The version of the program.
    pub version: String,
    /// The model: its name, the digest of its weights, and how it computes.
    pub model: Value,
    /// The request: everything but the image and the form of the result.
    pub request: Value,
    /// The classes in the order of their ids.
    pub classes: Vec<ClassLabel>,
    /// The value of pixels without a class, if it is not the largest one.
    pub unlabelled: Option<u16>,
    /// Whether the ending of an image stays in the name of its results.
    pub keeps_endings: bool,
    /// How images are drawn over, for each format that does. Another run may add a format.
    #[serde(default)]
    pub drawings: BTreeMap<String, Value>,
}

impl Plan {
    /// Reads the plan of a folder.
    ///
    /// # Errors
    /// [`LabelError`] when the folder has none, or its file cannot be read.
    pub fn of(folder: &Path) -> Result<Self, LabelError> {
        let path = folder.join(PLAN_FILE);
        if !path.exists() {
            let folder = folder.to_owned();
            return Err(LabelError::NoRun { folder });
        }
        let bytes = read_regular_file(&path).map_err(file_error(&path))?;
        serde_json::from_slice(&bytes).map_err(|error| LabelError::Damaged {
            path,
            reason: error.to_string(),
        })
    }

    /// Returns the entries of `drawings` for the formats of a run.
    pub fn drawings(formats: &[OutputFormat], drawing: Drawing) -> BTreeMap<String, Value> {
        let entry = |format: &OutputFormat| {
            let entry = match format {
                OutputFormat::Overlay => json!({"opacity": drawing.opacity.to_string()}),
                OutputFormat::OverlayJpeg => {
                    json!({"opacity": drawing.opacity.to_string(), "jpeg_quality": drawing.jpeg_quality})
                }
                _ => return None,
            };
            Some((<&str>::from(*format).to_owned(), entry))
        };
        formats.iter().filter_map(entry).collect()
    }

    /// Writes the plan into the folder of a journal, or compares it with the one that is there. A plan by which nothing
    /// was labelled, as one whose first image the model refused, gives way, unless another process goes by it.
    ///
    /// # Errors
    /// [`LabelError`] when the folder has labels of another plan, or the file cannot be read or written.
    pub fn keep(&self, journal: &Journal) -> Result<(), LabelError> {
        let folder = journal.folder().path();
        let lock_path = folder.join(LOCK_FILE);
        let lock = File::create(&lock_path).map_err(file_error(&lock_path))?;
        // Held to the end of the function. Some file systems have no locks.
        let _ = lock.lock();
        let mut plan = self.clone();
        match Self::of(folder) {
            Err(LabelError::NoRun { .. }) => {}
            Err(error) => return Err(error),
            Ok(begun) => match self.check(&begun, folder) {
                Ok(()) => {
                    plan.drawings = begun.drawings.clone();
                    plan.drawings.extend(self.drawings.clone());
                    if plan == begun {
                        return Ok(());
                    }
                }
                Err(_) if journal.is_first()? => {}
                Err(error) => return Err(error),
            },
        }
        let path = folder.join(PLAN_FILE);
        let text = format!("{:#}\n", plan.as_json());
        write_whole_file(&path, text.as_bytes()).map_err(file_error(&path))
    }

    /// Compares the plan with that of a folder. Drawings count where both have the format.
    ///
    /// # Errors
    /// [`LabelError::OtherSettings`] names what differs.
    pub fn check(&self, begun: &Self, folder: &Path) -> Result<(), LabelError> {
        let (mut now, mut before) = (self.clone(), begun.clone());
        now.drawings.retain(|format, _| begun.drawings.contains_key(format));
        before.drawings.retain(|format, _| self.drawings.contains_key(format));
        let mut different = Vec::new();
        differences(&before.as_json(), &now.as_json(), "", &mut different);
        match different.is_empty() {
            true => Ok(()),
            false => Err(LabelError::OtherSettings {
                folder: folder.to_owned(),
                different: different.join(", "),
            }),
        }
    }

    fn as_json(&self) -> Value {
        serde_json::to_value(self).expect("a plan is plain data")
    }
}

/// Collects the paths of the fields in which two plans differ.
fn differences(one: &Value, other: &Value, path: &str, different: &mut Vec<String>) {
    match (one, other) {
        (Value::Object(fields), Value::Object(others)) => {
            let names = fields
                .keys()
                .chain(others.keys().filter(|name| !fields.contains_key(*name)));
            for name in names {
                let path = if path.is_empty() {
                    name.clone()
                } else {
                    format!("{path}.{name}")
                };
                differences(&one[name], &other[name], &path, different);
            }
        }
        _ if one == other => {}
        _ => different.push(path.to_owned()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::formats::testing::labelled;
    use crate::labelling::RunFolder;
    use crate::labelling::journal::{FileState, Line};

    fn plan() -> Plan {
        Plan {
            version: "1".to_owned(),
            model: json!({"name": "demo"}),
            request: json!({"classes": ["cat"], "background": {"names": []}}),
            classes: vec![ClassLabel {
                name: "cat".to_owned(),
                color: [1, 2, 3],
            }],
            unlabelled: None,
            keeps_endings: false,
            drawings: BTreeMap::new(),
        }
    }

    fn drawn(formats: &[OutputFormat], opacity: f32, jpeg_quality: u8) -> Plan {
        Plan {
            drawings: Plan::drawings(formats, Drawing { opacity, jpeg_quality }),
            ..plan()
        }
    }

    /// Returns a journal with an image that is labelled.
    fn begun(folder: &Path) -> Journal {
        let mut journal = RunFolder::create(folder).unwrap().journal(0, 1).unwrap();
        let line = Line::Labelled {
            image: labelled("a.jpg", 1, &[0], 1),
            source: FileState::of(&std::fs::metadata(folder).unwrap()).unwrap(),
            files: Vec::new(),
        };
        journal.append(&line).unwrap();
        journal
    }

    #[test]
    fn a_folder_keeps_one_plan_and_names_what_differs() {
        let folder = tempfile::tempdir().unwrap();
        let journal = begun(folder.path());
        assert!(matches!(Plan::of(folder.path()), Err(LabelError::NoRun { .. })));
        plan().keep(&journal).unwrap();
        plan().keep(&journal).unwrap();
        let mut other = plan();
        other.request["background"]["names"] = json!(["sky"]);
        other.request["temperature"] = json!(3);
        other.unlabelled = Some(9);
        let error = other.keep(&journal).unwrap_err().to_string();
        assert!(
            error.contains("differ in request.background.names, request.temperature, unlabelled: name another folder"),
            "{error}"
        );
        std::fs::write(folder.path().join(PLAN_FILE), "{}").unwrap();
        assert!(matches!(plan().keep(&journal), Err(LabelError::Damaged { .. })));
    }

    #[test]
    fn a_plan_by_which_nothing_was_labelled_gives_way_unless_another_process_goes_by_it() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::create(folder.path()).unwrap();
        let mut wrong = plan();
        wrong.unlabelled = Some(0);
        let mut journal = run.journal(0, 2).unwrap();
        wrong.keep(&journal).unwrap();
        let skipped = super::super::Skipped {
            file_name: "a.jpg".to_owned(),
            reason: "cut short".to_owned(),
        };
        journal.skip(&skipped).unwrap();
        let other = run.journal(1, 2).unwrap();
        assert!(matches!(plan().keep(&other), Err(LabelError::OtherSettings { .. })));
        drop(journal);
        plan().keep(&other).unwrap();
        assert_eq!(Plan::of(folder.path()).unwrap(), plan());
    }

    #[test]
    fn drawings_are_those_of_the_first_run_that_has_the_format() {
        use OutputFormat::{Overlay, OverlayJpeg, Png};

        let folder = tempfile::tempdir().unwrap();
        let journal = begun(folder.path());
        let kept = |formats: &[OutputFormat], opacity, quality| drawn(formats, opacity, quality).keep(&journal);
        kept(&[Png], 0.5, 90).unwrap();
        kept(&[Png, Overlay], 0.25, 90).unwrap();
        kept(&[OverlayJpeg], 0.5, 80).unwrap();
        kept(&[Png], 1.0, 1).unwrap();
        kept(&[Overlay], 0.25, 1).unwrap();
        let error = kept(&[Overlay], 0.5, 90).unwrap_err().to_string();
        assert!(error.contains("differ in drawings.overlay.opacity: "), "{error}");
        let error = kept(&[OverlayJpeg], 0.5, 90).unwrap_err().to_string();
        assert!(
            error.contains("differ in drawings.overlay-jpeg.jpeg_quality: "),
            "{error}"
        );
    }
}
