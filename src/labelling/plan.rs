//! What all labels in a folder depend on. A folder holds labels of one plan.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{LabelError, file_error};
use crate::formats::ClassLabel;
use crate::support::{read_regular_file, write_whole_file};

/// The name of the plan's file in the folder of a run.
pub(super) const PLAN_FILE: &str = ".maskclip/plan.json";

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

    /// Writes the plan into a folder that has none, or compares it with the one that is there.
    ///
    /// # Errors
    /// [`LabelError`] when the folder has another plan, or the file cannot be read or written.
    pub fn keep(&self, folder: &Path) -> Result<(), LabelError> {
        match Self::of(folder) {
            Ok(begun) => self.check(&begun, folder),
            Err(LabelError::NoRun { .. }) => {
                let path = folder.join(PLAN_FILE);
                let text = format!("{:#}\n", self.as_json());
                write_whole_file(&path, text.as_bytes()).map_err(file_error(&path))
            }
            Err(error) => Err(error),
        }
    }

    /// Compares the plan with that of a folder.
    ///
    /// # Errors
    /// [`LabelError::OtherSettings`] names what differs.
    pub fn check(&self, begun: &Self, folder: &Path) -> Result<(), LabelError> {
        let (now, begun) = (self.as_json(), begun.as_json());
        let mut different = Vec::new();
        differences(&begun, &now, "", &mut different);
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
    use serde_json::json;

    use super::*;

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
        }
    }

    #[test]
    fn a_folder_keeps_one_plan_and_names_what_differs() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(".maskclip")).unwrap();
        assert!(matches!(Plan::of(folder.path()), Err(LabelError::NoRun { .. })));
        plan().keep(folder.path()).unwrap();
        plan().keep(folder.path()).unwrap();
        let mut other = plan();
        other.request["background"]["names"] = json!(["sky"]);
        other.request["temperature"] = json!(3);
        other.unlabelled = Some(9);
        let error = other.keep(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains("differ in request.background.names, request.temperature, unlabelled: name another folder"),
            "{error}"
        );
        std::fs::write(folder.path().join(PLAN_FILE), "{}").unwrap();
        assert!(matches!(plan().keep(folder.path()), Err(LabelError::Damaged { .. })));
    }
}
