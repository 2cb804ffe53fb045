//! Writes files so that a reader never finds an incomplete one, even if the process ends while it writes.

use std::fs::{File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::NamedTempFile;

/// The permissions of a new plain file before the process's umask removes some of them.
const PLAIN_FILE: u32 = 0o666;

/// The ending of temporary files.
const ENDING: &str = ".partial";

/// The age from which a temporary file that nobody has locked is a remainder. A new one may not be locked yet.
const REMAINDER_AGE: Duration = Duration::from_secs(60);

/// Writes or replaces a whole file. A process that opens the path finds all of the old bytes or all of the new bytes.
///
/// The bytes are first written to a temporary file in the same folder, `.XXXXXX.partial`. A process that is killed
/// in the meantime leaves the temporary file behind, for [`remove_remainders`]. When the function returns, the file and
/// its name are on the disk. The file has the permissions of a new file that `std::fs::write` creates.
///
/// # Errors
/// Fails when the folder cannot be written. Unless only the flush of the new name to the disk fails, the file at the
/// path is then unchanged.
pub(crate) fn write_whole_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = WholeFile::create(path)?;
    file.write_all(bytes)?;
    file.finish()
}

/// Writes or replaces a whole file as [`write_whole_file`] does, without waiting for the disk. After a loss of power
/// the file may be empty or missing. The temporary file lies in another folder of the same file system.
///
/// # Errors
/// The same as [`write_whole_file`].
pub(crate) fn replace_file(path: &Path, bytes: &[u8], temporary: &Path) -> io::Result<()> {
    let mut file = WholeFile::create_in(path, temporary)?;
    file.write_all(bytes)?;
    file.take_name()
}

/// A file that is written piece by piece and takes its name when it is whole, as [`write_whole_file`] writes one.
#[derive(Debug)]
pub(crate) struct WholeFile {
    file: NamedTempFile,
    path: PathBuf,
}

impl WholeFile {
    /// Begins the file beside its path.
    ///
    /// # Errors
    /// Fails when the folder cannot be written.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        Self::create_in(path, folder_of(path))
    }

    /// Begins the file in another folder of the same file system.
    ///
    /// # Errors
    /// Fails when that folder cannot be written.
    pub(crate) fn create_in(path: &Path, folder: &Path) -> io::Result<Self> {
        // Without the name of the file, which may be as long as the file system allows.
        let file = tempfile::Builder::new()
            .prefix(".")
            .suffix(ENDING)
            .permissions(Permissions::from_mode(PLAIN_FILE))
            .tempfile_in(folder)?;
        // Tells that a process is writing it. Some file systems have no locks.
        let _ = file.as_file().try_lock();
        let path = path.to_owned();
        Ok(Self { file, path })
    }

    /// Gives the file its name. When the function returns, the file and its name are on the disk.
    ///
    /// # Errors
    /// Fails when the folder cannot be written.
    pub(crate) fn finish(self) -> io::Result<()> {
        self.file.as_file().sync_all()?;
        let path = self.path.clone();
        self.take_name()?;
        sync_folder_of(&path)
    }

    fn take_name(self) -> io::Result<()> {
        self.file.persist(&self.path)?;
        Ok(())
    }
}

impl Write for WholeFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Removes the temporary files that killed processes have left in a folder: those that are older than a minute and that
/// no process is writing. Warns about those that cannot be removed. Does nothing if there is no such folder.
pub(crate) fn remove_remainders(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_temporary = name
            .to_str()
            .is_some_and(|name| name.starts_with('.') && name.ends_with(ENDING));
        let path = entry.path();
        if is_temporary
            && is_remainder(&path).unwrap_or(false)
            && let Err(error) = std::fs::remove_file(&path)
        {
            tracing::warn!(%error, path = %path.display(), "cannot remove what a killed process has left");
        }
    }
}

fn is_remainder(path: &Path) -> io::Result<bool> {
    let metadata = std::fs::symlink_metadata(path)?;
    let is_old = metadata.modified()?.elapsed().is_ok_and(|age| age > REMAINDER_AGE);
    Ok(metadata.is_file() && is_old && File::open(path)?.try_lock().is_ok())
}

/// Flushes the names in a file's folder to the disk, such as the new name after a rename.
///
/// # Errors
/// Fails when the folder cannot be opened or flushed.
pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

/// Returns the folder that contains a file.
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
    fn a_name_may_be_as_long_as_the_file_system_allows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n".repeat(255));
        write_whole_file(&path, b"bytes").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"bytes");
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
    fn remainders_are_removed_but_not_what_is_new_or_being_written_or_named_otherwise() {
        let folder = tempfile::tempdir().unwrap();
        let old = std::time::SystemTime::now() - 2 * REMAINDER_AGE;
        let make = |name: &str, is_old: bool| {
            let file = File::create(folder.path().join(name)).unwrap();
            if is_old {
                file.set_modified(old).unwrap();
            }
            file
        };
        make(".state.safetensors.Ab3dEf.partial", true);
        make(".new.Ab3dEf.partial", false);
        make("visible.partial", true);
        make(".hidden", true);
        let written = make(".written.Ab3dEf.partial", true);
        written.try_lock().unwrap();
        remove_remainders(folder.path());
        let names = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.collect();
        names.sort();
        assert_eq!(
            names,
            [
                ".hidden",
                ".new.Ab3dEf.partial",
                ".written.Ab3dEf.partial",
                "visible.partial"
            ]
        );
        drop(written);
        remove_remainders(folder.path());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 3);
        remove_remainders(&folder.path().join("missing"));
    }

    #[test]
    fn a_bare_name_lies_in_the_folder_where_the_process_is() {
        assert_eq!(folder_of(Path::new("file")), Path::new("."));
        assert_eq!(folder_of(Path::new("folder/file")), Path::new("folder"));
    }
}
