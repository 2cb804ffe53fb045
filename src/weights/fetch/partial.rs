//! The file that receives a download: its lock, its digest so far, and the step that gives it its name.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::support::{share_with_group, sync_folder_of};

/// A file that is not yet complete. Only one process at a time has it open.
pub struct Partial {
    path: PathBuf,
    /// The open file, locked and positioned at its end.
    file: File,
    /// The digest of all bytes in the file.
    digest: Sha256,
    length: u64,
}

impl Partial {
    /// Opens the file that an earlier attempt left, or creates an empty one. If another process has the file, the
    /// function calls `waiting` and then waits.
    pub fn open(path: &Path, waiting: impl FnOnce()) -> io::Result<Self> {
        let mut waiting = Some(waiting);
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)?;
            share_with_group(path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    if let Some(waiting) = waiting.take() {
                        waiting();
                    }
                    file.lock()?;
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // The other process may have renamed or removed the file. The lock is then on a file that is no longer at
            // this path.
            let is_here = fs::metadata(path).is_ok_and(|here| file.metadata().is_ok_and(|own| here.ino() == own.ino()));
            if is_here {
                let mut digest = Sha256::new();
                let length = hash(&mut file, &mut digest)?;
                return Ok(Self {
                    path: path.to_owned(),
                    file,
                    digest,
                    length,
                });
            }
        }
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the number of bytes in the file.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Appends bytes to the file.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.digest.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Empties the file.
    pub fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.digest = Sha256::new();
        self.length = 0;
        Ok(())
    }

    /// Returns the SHA-256 of all bytes in the file, in hexadecimal.
    pub fn sha256(&self) -> String {
        hex::encode(self.digest.clone().finalize())
    }

    /// Flushes the file to the disk and then gives it its name. When this returns without an error, the name is on the
    /// disk, too.
    pub fn persist(self, name: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, name)?;
        sync_folder_of(name)
    }

    /// Removes the file.
    pub fn discard(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

/// Returns the SHA-256 of a file from its present position to its end, in hexadecimal.
pub fn sha256_of(mut file: File) -> io::Result<String> {
    let mut digest = Sha256::new();
    hash(&mut file, &mut digest)?;
    Ok(hex::encode(digest.finalize()))
}

/// Adds the rest of a file to a digest and returns its number of bytes.
fn hash(file: &mut File, digest: &mut Sha256) -> io::Result<u64> {
    let mut chunk = vec![0; super::CHUNK];
    let mut length = 0;
    loop {
        let count = file.read(&mut chunk)?;
        if count == 0 {
            return Ok(length);
        }
        digest.update(&chunk[..count]);
        length += count as u64;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The SHA-256 of the three letters "abc" (FIPS 180-2).
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn what_was_left_counts_into_the_digest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.partial");
        let mut first = Partial::open(&path, || ()).unwrap();
        first.append(b"ab").unwrap();
        drop(first);
        let mut second = Partial::open(&path, || ()).unwrap();
        assert_eq!(second.length(), 2);
        second.append(b"c").unwrap();
        assert_eq!(second.sha256(), ABC);

        let name = folder.path().join("file");
        second.persist(&name).unwrap();
        assert_eq!(fs::read(&name).unwrap(), b"abc");
        assert_eq!(sha256_of(File::open(&name).unwrap()).unwrap(), ABC);
        assert!(!path.exists());
    }

    #[test]
    fn after_a_restart_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.partial");
        let mut partial = Partial::open(&path, || ()).unwrap();
        partial.append(b"something longer").unwrap();
        partial.restart().unwrap();
        partial.append(b"abc").unwrap();
        assert_eq!((partial.length(), partial.sha256().as_str()), (3, ABC));
        assert_eq!(fs::read(&path).unwrap(), b"abc");
    }

    #[test]
    fn who_waits_for_a_file_that_is_named_meanwhile_gets_a_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.partial");
        let mut first = Partial::open(&path, || ()).unwrap();
        first.append(b"abc").unwrap();
        let (waits, told) = std::sync::mpsc::channel();
        let second = std::thread::spawn({
            let path = path.clone();
            move || Partial::open(&path, || waits.send(()).unwrap()).unwrap().length()
        });
        told.recv().unwrap();
        first.persist(&folder.path().join("file")).unwrap();
        assert_eq!(second.join().unwrap(), 0);
        assert!(path.exists());
    }
}
