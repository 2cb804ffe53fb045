//! The walk over folders, and the search for patterns: which files count, and which are passed over.

use std::io;
use std::path::{Component, Path, PathBuf};

use glob::{Pattern, PatternError, glob};
use walkdir::WalkDir;

/// Files of a folder with certain endings.
#[derive(Debug, Default)]
pub(crate) struct FoundFiles {
    /// The files, sorted by name.
    pub files: Vec<FoundFile>,
    /// Number of files with such an ending that were passed over because they are hidden.
    pub hidden: usize,
}

/// A file of a folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FoundFile {
    /// Its path within the folder, without the ending.
    pub name: String,
    /// Its path.
    pub path: PathBuf,
}

/// A file or folder that cannot be looked at.
#[derive(Debug)]
pub(crate) struct WalkError {
    /// The file or folder.
    pub path: PathBuf,
    /// The system's error.
    pub source: io::Error,
}

/// Finds the files in a folder and all its subfolders whose names end with one of `endings`, in upper or lower case.
///
/// - Hidden files and folders, whose names begin with a dot, are passed over: macOS leaves a file `._NAME` beside each
///   `NAME` on foreign disks, and programs keep thumbnails and checkpoints in such folders.
/// - Links are followed. A link to a folder that it lies in is passed over.
/// - What is not a regular file is found all the same, and so is a link to nothing. Whoever reads it says what it is.
///
/// # Errors
/// [`WalkError`] for a folder that cannot be read.
pub(crate) fn find_files(folder: &Path, endings: &[&str]) -> Result<FoundFiles, WalkError> {
    find_files_outside(folder, endings, |_| false)
}

/// Finds files as [`find_files`] does, but for those below the subfolders that `is_passed_over` names.
///
/// # Errors
/// The same as [`find_files`].
pub(crate) fn find_files_outside(
    folder: &Path,
    endings: &[&str],
    mut is_passed_over: impl FnMut(&Path) -> bool,
) -> Result<FoundFiles, WalkError> {
    let mut found = FoundFiles::default();
    let mut walk = WalkDir::new(folder).follow_links(true).into_iter();
    while let Some(entry) = walk.next() {
        let (path, depth, is_folder) = match entry {
            Ok(entry) => (entry.path().to_owned(), entry.depth(), entry.file_type().is_dir()),
            Err(error) if error.loop_ancestor().is_some() => continue,
            Err(error) => {
                let path = error.path().unwrap_or(folder).to_owned();
                if !path.is_symlink() {
                    let other = error.to_string();
                    let source = error.into_io_error().unwrap_or_else(|| io::Error::other(other));
                    return Err(WalkError { path, source });
                }
                (path, error.depth(), false)
            }
        };
        let is_hidden = depth > 0 && path.file_name().is_some_and(|name| name.as_encoded_bytes()[0] == b'.');
        if is_folder {
            if is_hidden || (depth > 0 && is_passed_over(&path)) {
                walk.skip_current_dir();
            }
            continue;
        }
        let within = path.strip_prefix(folder).expect("the walk stays in the folder");
        let within = within.to_string_lossy();
        let Some(name) = endings.iter().find_map(|ending| strip_ending(&within, ending)) else {
            continue;
        };
        if is_hidden {
            found.hidden += 1;
        } else {
            let name = name.to_owned();
            found.files.push(FoundFile { name, path });
        }
    }
    found.files.sort();
    Ok(found)
}

/// Checks that a text is a pattern as shells have them, such as `photos/**/*.jpg`.
///
/// # Errors
/// [`PatternError`] for an open bracket and the like.
pub(crate) fn check_pattern(pattern: &str) -> Result<(), PatternError> {
    Pattern::new(pattern).map(drop)
}

/// Finds the files that a pattern names and whose names end with one of `endings`, in upper or lower case. Hidden files
/// and folders are passed over, as in [`find_files`], unless a part of the pattern is their name. Names that are not
/// UTF-8 match no sign of a pattern.
///
/// # Errors
/// [`WalkError`] for a folder that cannot be read.
pub(crate) fn find_matches(pattern: &str, endings: &[&str]) -> Result<Vec<PathBuf>, WalkError> {
    // Not by glob's own option, require_literal_leading_dot: it panics beside a name that is not UTF-8.
    let is_hidden = |path: &Path| {
        path.components().any(|part| match part {
            Component::Normal(name) => {
                let is_meant = || pattern.split('/').any(|part| name == part);
                name.as_encoded_bytes()[0] == b'.' && !is_meant()
            }
            _ => false,
        })
    };
    let matches = glob(pattern).expect("whoever asks has checked the pattern");
    let matches = matches.filter(|path| {
        let path = path.as_deref().unwrap_or_else(|error| error.path());
        !is_hidden(path)
    });
    let mut found = Vec::new();
    for path in matches {
        let path = path.map_err(|error| WalkError {
            path: error.path().to_owned(),
            source: error.into(),
        })?;
        let name = path.to_string_lossy();
        if endings.iter().any(|ending| strip_ending(&name, ending).is_some()) && !path.is_dir() {
            found.push(path);
        }
    }
    Ok(found)
}

/// Returns a file's name without an ending, which may be in upper or lower case.
fn strip_ending<'a>(name: &'a str, ending: &str) -> Option<&'a str> {
    let (stem, rest) = name.split_at_checked(name.len().checked_sub(ending.len())?)?;
    rest.eq_ignore_ascii_case(ending).then_some(stem)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(folder: &Path, endings: &[&str]) -> Vec<String> {
        let found = find_files(folder, endings).unwrap();
        found.files.into_iter().map(|file| file.name).collect()
    }

    #[test]
    fn endings_count_in_any_case_and_hidden_files_do_not() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("deep/.thumbnails")).unwrap();
        for name in [
            "b.JPG",
            "a.jpeg",
            "._a.jpeg",
            ".c.jpg",
            "deep/d.Jpg",
            "deep/.thumbnails/d.jpg",
            "e.jpg.txt",
            "jpg",
            "ü.jpg",
        ] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(names(folder.path(), &[".jpg", ".jpeg"]), ["a", "b", "deep/d", "ü"]);
        assert_eq!(find_files(folder.path(), &[".jpg", ".jpeg"]).unwrap().hidden, 2);
        assert_eq!(names(folder.path(), &["e.jpg.TXT"]), [""]);
    }

    #[test]
    fn a_pattern_finds_what_the_walk_finds() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("deep/.thumbnails")).unwrap();
        fs::create_dir(folder.path().join("folder.jpg")).unwrap();
        let files = [
            "a.JPG",
            "._a.jpg",
            "b.txt",
            "deep/c.jpeg",
            "deep/.c.jpeg",
            "deep/.thumbnails/c.jpg",
        ];
        for name in files {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let found = |pattern: &str| -> Vec<String> {
            let pattern = folder.path().join(pattern).display().to_string();
            let found = find_matches(&pattern, &[".jpg", ".jpeg"]).unwrap().into_iter();
            let within = |path: PathBuf| path.strip_prefix(folder.path()).unwrap().display().to_string();
            found.map(within).collect()
        };
        assert_eq!(found("*"), ["a.JPG"]);
        assert_eq!(found("**/*"), ["a.JPG", "deep/c.jpeg"]);
        assert_eq!(found("deep/.*"), [""; 0]);
        assert_eq!(found("*/.thumbnails/*"), ["deep/.thumbnails/c.jpg"]);
        assert!(check_pattern("a[").is_err());
    }

    #[test]
    fn a_pattern_matches_beside_names_that_are_no_utf_8() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;

        let folder = tempfile::tempdir().unwrap();
        let odd = OsStr::from_bytes(b"b\xff");
        fs::create_dir(folder.path().join(odd)).unwrap();
        for name in [
            OsStr::new("a.jpg"),
            OsStr::from_bytes(b"a\xff.jpg"),
            OsStr::new(".a.jpg"),
        ] {
            fs::write(folder.path().join(name), "").unwrap();
            fs::write(folder.path().join(odd).join(name), "").unwrap();
        }
        for pattern in ["*", "**/a*"] {
            let pattern = folder.path().join(pattern).display().to_string();
            let found = find_matches(&pattern, &[".jpg"]).unwrap();
            assert!(found.contains(&folder.path().join("a.jpg")), "{found:?}");
            assert!(!found.contains(&folder.path().join(".a.jpg")), "{found:?}");
        }
    }

    #[test]
    fn links_are_followed_once_and_links_to_nothing_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(elsewhere.path().join("far.png"), "").unwrap();
        fs::create_dir(path("near")).unwrap();
        symlink(elsewhere.path(), path("linked")).unwrap();
        symlink(folder.path(), path("near/back")).unwrap();
        symlink(path("gone"), path("broken.png")).unwrap();
        symlink(path("gone"), path("broken.txt")).unwrap();
        assert_eq!(names(folder.path(), &[".png"]), ["broken", "linked/far"]);
    }

    #[test]
    fn a_folder_that_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("missing");
        let error = find_files(&missing, &[".png"]).unwrap_err();
        let said = error.source.to_string();
        assert_eq!((error.path, error.source.kind()), (missing, io::ErrorKind::NotFound));
        assert_eq!(said, "No such file or directory (os error 2)", "the path is said once");
    }
}
