//! Files that are whole at any time, whatever happens while they are written.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// What a plain file may be made with; the process's umask takes away from it.
const PLAIN_FILE: u32 = 0o666;

/// Writes a file, or replaces it, as a whole: whoever opens the path finds the old bytes or the new ones, never a part.
///
/// The bytes grow in a temporary file in the same folder, `.NAME.XXXXXX.partial`. A process that is killed meanwhile leaves
/// that file behind. When this function returns, file and name are on the disk. The file has the permissions of a new file,
/// as `std::fs::write` makes it.
///
/// # Errors
/// When the folder cannot be written. The file at the path is then as it was before.
pub(crate) fn write_whole_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(path.file_name().unwrap_or_default());
    prefix.push(".");
    let mut file = tempfile::Builder::new()
        .prefix(&prefix)
        .suffix(".partial")
        .permissions(Permissions::from_mode(PLAIN_FILE))
        .tempfile_in(folder_of(path))?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    sync_folder_of(path)
}

/// Puts the names in a file's folder on the disk: after a rename, the new one.
///
/// # Errors
/// When the folder cannot be opened or written.
pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

/// The folder that a file lies in.
fn folder_of(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_is_written_and_replaced_and_leaves_nothing_else_in_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plan.json");
        for bytes in [&b"first, and longer"[..], b"second"] {
            write_whole_file(&path, bytes).unwrap();
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
        let names: Vec<_> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["plan.json"]);
    }

    #[test]
    fn the_permissions_are_those_of_any_new_file() {
        let folder = tempfile::tempdir().unwrap();
        let mode = |name: &str, write: &dyn Fn(&Path)| {
            let path = folder.path().join(name);
            write(&path);
            fs::metadata(&path).unwrap().permissions().mode()
        };
        assert_eq!(
            mode("whole", &|path| write_whole_file(path, b"bytes").unwrap()),
            mode("plain", &|path| fs::write(path, b"bytes").unwrap())
        );
    }

    #[test]
    fn what_cannot_take_its_name_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a folder");
        fs::create_dir(&path).unwrap();
        write_whole_file(&path, b"bytes").unwrap_err();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }

    #[test]
    fn a_bare_name_lies_in_the_folder_where_the_process_is() {
        assert_eq!(folder_of(Path::new("file")), Path::new("."));
        assert_eq!(folder_of(Path::new("folder/file")), Path::new("folder"));
    }
}
