//! The path of the store on disk.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The setting of the store's path: `auto`, `none` or a file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Option<String>", into = "Option<String>")]
pub enum StorePath {
    /// A file in the user's data folder, by the XDG base directory specification.
    #[default]
    Auto,
    /// No file. What is in memory ends with the process.
    None,
    /// The file at this path.
    File(PathBuf),
}

impl StorePath {
    /// Returns the path of the file, or `None` for no file. [`StorePath::Auto`] gives `None` if the environment names
    /// no home.
    pub fn file(&self) -> Option<PathBuf> {
        match self {
            Self::Auto => automatic(|name| std::env::var_os(name).map(PathBuf::from)),
            Self::None => None,
            Self::File(path) => Some(path.clone()),
        }
    }
}

/// Returns `maskclip/vocabularies.sqlite3` in the user's data folder. Ignores relative paths, as the specification
/// requires.
fn automatic(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let absolute = |name| variable(name).filter(|path| path.is_absolute());
    let data = absolute("XDG_DATA_HOME").or_else(|| Some(absolute("HOME")?.join(".local/share")))?;
    Some(data.join(Path::new("maskclip/vocabularies.sqlite3")))
}

impl TryFrom<Option<String>> for StorePath {
    type Error = &'static str;

    fn try_from(text: Option<String>) -> Result<Self, &'static str> {
        match text.as_deref() {
            None | Some("none") => Ok(Self::None),
            Some("auto") => Ok(Self::Auto),
            Some("") => Err("the path of the store is empty: auto, none or a file"),
            Some(path) => Ok(Self::File(path.into())),
        }
    }
}

impl From<StorePath> for Option<String> {
    fn from(path: StorePath) -> Self {
        match path {
            StorePath::Auto => Some("auto".to_owned()),
            StorePath::None => None,
            StorePath::File(path) => Some(path.to_string_lossy().into_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Option<PathBuf> {
        automatic(|name| {
            let value = variables.iter().find(|(variable, _)| *variable == name);
            value.map(|(_, value)| PathBuf::from(value))
        })
    }

    #[test]
    fn the_data_folder_is_the_specifications() {
        let file = |path: &str| Some(PathBuf::from(path));
        assert_eq!(
            with(&[("XDG_DATA_HOME", "/data"), ("HOME", "/home/ada")]),
            file("/data/maskclip/vocabularies.sqlite3")
        );
        for ignored in ["", "data"] {
            assert_eq!(
                with(&[("XDG_DATA_HOME", ignored), ("HOME", "/home/ada")]),
                file("/home/ada/.local/share/maskclip/vocabularies.sqlite3")
            );
        }
        assert_eq!(with(&[]), None);
    }
}
