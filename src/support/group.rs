//! Files that a group shares. A container may run as any user of group 0, today as one and tomorrow as another.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The permission of a file's or folder's group to write it.
const GROUP_WRITES: u32 = 0o020;

/// Creates a folder with those that it lies in, as `std::fs::create_dir_all` does, each with the group's permission to
/// write if the folder it lies in has it.
///
/// # Errors
/// Fails when a folder cannot be created.
pub(crate) fn create_shared_folders(folder: &Path) -> io::Result<()> {
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        create_shared_folders(parent)?;
    }
    match fs::create_dir(folder) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        created => created.and_then(|()| share_with_group(folder)),
    }
}

/// Lets the group write a file or folder if it may write the folder that it lies in. What belongs to somebody else stays
/// as it is.
///
/// # Errors
/// Fails when the file or its folder cannot be looked at.
pub(crate) fn share_with_group(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let of_folder = fs::metadata(folder.unwrap_or(Path::new(".")))?.permissions().mode();
    let mode = fs::metadata(path)?.permissions().mode();
    if of_folder & GROUP_WRITES == 0 || mode & GROUP_WRITES != 0 {
        return Ok(());
    }
    match fs::set_permissions(path, Permissions::from_mode(mode | GROUP_WRITES)) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
        set => set,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o070
    }

    #[test]
    fn the_group_may_write_what_lies_in_a_folder_that_it_may_write() {
        for (of_folder, expected) in [(0o770, GROUP_WRITES), (0o750, 0)] {
            let root = tempfile::tempdir().unwrap();
            fs::set_permissions(&root, Permissions::from_mode(of_folder)).unwrap();
            let folder = root.path().join("a/b");
            create_shared_folders(&folder).unwrap();
            create_shared_folders(&folder).unwrap();
            let file = folder.join("file");
            fs::write(&file, "").unwrap();
            fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
            share_with_group(&file).unwrap();
            let found = [&folder, &root.path().join("a"), &file].map(|path| mode(path) & GROUP_WRITES);
            assert_eq!(found, [expected; 3], "{of_folder:o}");
        }
    }

    #[test]
    fn a_file_in_the_way_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(create_shared_folders(&file).is_err());
        assert!(create_shared_folders(&file.join("below")).is_err());
    }
}
