//! The journal of a run: a line for each image that is done, with everything that the files about all images need.
//!
//! A line is written after all files of its image. So whatever ends the process, an image has either its line and its
//! files, or is labelled again. Each shard has a journal of its own in the same folder, and reads those of the others.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{LabelError, Skipped, file_error};
use crate::formats::LabelledImage;
use crate::support::{LineError, LineFile, ReadLines, remove_remainders};

/// The folder of a run for what is no result.
const OWN_FOLDER: &str = ".maskclip";

/// The beginning and the ending of a journal's name.
const JOURNAL: &str = "journal";
const ENDING: &str = ".jsonl";

/// The folder of a run.
#[derive(Debug, Clone)]
pub struct RunFolder {
    path: PathBuf,
}

/// The state of a file, by which a change of it is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileState {
    bytes: u64,
    /// Nanoseconds since 1970 at which it was last changed.
    changed: u128,
}

/// A line of a journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    /// An image that is done.
    Labelled {
        /// Everything that is known of it.
        image: LabelledImage,
        /// The state of its file when it was read.
        source: FileState,
        /// The bytes of each of its files, by their paths in the folder.
        files: Vec<(String, u64)>,
    },
    /// An image that cannot be labelled.
    Skipped(Skipped),
    /// The shard has come to the end of its images.
    Finished,
}

/// What a journal says of a labelled image, without its masks.
#[derive(Debug, Clone)]
struct Done {
    source: FileState,
    files: Vec<(String, u64)>,
}

/// The journal that a process writes, with what all journals of the folder say.
#[derive(Debug)]
pub struct Journal {
    file: LineFile,
    /// Held as long as the journal is written. Some file systems have no locks.
    _lock: File,
    path: PathBuf,
    folder: RunFolder,
    /// The images that were done before, by their file names. A run passes each image once, so that what it adds need
    /// not be kept.
    done: HashMap<String, Done>,
}

/// The place of a line among the journals of several folders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LinePlace {
    journal: usize,
    start: u64,
    bytes: usize,
}

/// All lines of the journals of some folders, found by the images' file names.
#[derive(Debug, Default)]
pub(super) struct Lines {
    journals: Vec<(File, PathBuf)>,
    /// Of each image the line that counts, sorted by file name.
    pub labelled: Vec<(String, LinePlace)>,
    /// The images that cannot be labelled, sorted by file name.
    pub skipped: Vec<Skipped>,
}

impl FileState {
    pub(super) fn of(metadata: &fs::Metadata) -> io::Result<Self> {
        let changed = metadata.modified()?.duration_since(std::time::UNIX_EPOCH);
        Ok(Self {
            bytes: metadata.len(),
            changed: changed.map_or(0, |since| since.as_nanos()),
        })
    }
}

impl RunFolder {
    /// Makes the folder of a run if there is none.
    ///
    /// # Errors
    /// [`LabelError::File`] when it cannot be made.
    pub fn create(path: &Path) -> Result<Self, LabelError> {
        let own = path.join(OWN_FOLDER);
        fs::create_dir_all(&own).map_err(file_error(&own))?;
        remove_remainders(&own);
        let path = path.to_owned();
        Ok(Self { path })
    }

    /// Returns the folder's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the folder for files that are being written, so that a process that is killed leaves none among results.
    pub(super) fn temporary(&self) -> PathBuf {
        self.path.join(OWN_FOLDER)
    }

    /// Opens the journal of a shard for writing, and reads all journals of the folder.
    ///
    /// # Errors
    /// [`LabelError`] when a journal cannot be read or written, or another process writes this one.
    pub fn journal(&self, shard: u32, shards: u32) -> Result<Journal, LabelError> {
        let own = self.path.join(OWN_FOLDER);
        let path = match shards {
            1 => own.join(format!("{JOURNAL}{ENDING}")),
            _ => own.join(format!("{JOURNAL}-{shard}-of-{shards}{ENDING}")),
        };
        // Before the journal is read: behind its whole lines, another process may be writing one.
        let lock_path = lock_path(&path);
        let lock = File::create(&lock_path).map_err(file_error(&lock_path))?;
        if matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) {
            return Err(LabelError::InUse { path });
        }
        let mut done = HashMap::new();
        for other in journals(&self.path)?.into_iter().filter(|other| *other != path) {
            read(&other, |_, line| note_done(&mut done, line))?;
        }
        let file = read(&path, |_, line| note_done(&mut done, line))?;
        let file = file.go_on().map_err(file_error(&path))?;
        Ok(Journal {
            file,
            _lock: lock,
            path,
            folder: self.clone(),
            done,
        })
    }

    /// Returns whether every shard has come to the end of its images, as far as their journals say.
    ///
    /// # Errors
    /// [`LabelError`] when a journal cannot be read.
    pub fn is_finished(&self, shards: u32) -> Result<bool, LabelError> {
        let own = self.path.join(OWN_FOLDER);
        for shard in 0..shards {
            let path = own.join(format!("{JOURNAL}-{shard}-of-{shards}{ENDING}"));
            let mut is_finished = false;
            if !path.exists() {
                return Ok(false);
            }
            read(&path, |_, line| is_finished = line == Line::Finished)?;
            if !is_finished {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Journal {
    /// Returns whether an image whose file has this state is done, with files of these formats' paths.
    pub(super) fn is_done(&self, file_name: &str, source: FileState, paths: &[String]) -> bool {
        let Some(done) = self.done.get(file_name) else {
            return false;
        };
        let is_whole = |path: &String| {
            let bytes = done
                .files
                .iter()
                .find(|(name, _)| name == path)
                .map(|(_, bytes)| *bytes);
            let found = fs::metadata(self.folder.path.join(path)).map(|found| found.len()).ok();
            bytes.is_some() && bytes == found
        };
        done.source == source && paths.iter().all(is_whole)
    }

    /// Returns the folder of the run.
    pub(super) fn folder(&self) -> &RunFolder {
        &self.folder
    }

    /// Returns whether no process has labelled an image of the run yet, and no other one has it open.
    ///
    /// # Errors
    /// [`LabelError`] when a journal cannot be read.
    pub(super) fn is_first(&self) -> Result<bool, LabelError> {
        for path in journals(&self.folder.path)? {
            let lock = File::open(lock_path(&path));
            let is_written = || lock.is_ok_and(|lock| matches!(lock.try_lock(), Err(TryLockError::WouldBlock)));
            if path != self.path && is_written() {
                return Ok(false);
            }
            let mut has_labels = false;
            read(&path, |_, line| has_labels |= matches!(line, Line::Labelled { .. }))?;
            if has_labels {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns whether an image was labelled before the journal was opened, in whichever state its file was.
    pub fn knows(&self, file_name: &str) -> bool {
        self.done.contains_key(file_name)
    }

    /// Notes that an image cannot be labelled.
    ///
    /// # Errors
    /// [`LabelError::File`] when it cannot be written.
    pub fn skip(&mut self, image: &Skipped) -> Result<(), LabelError> {
        self.append(&Line::Skipped(image.clone()))
    }

    /// Appends a line.
    ///
    /// # Errors
    /// [`LabelError::File`] when it cannot be written.
    pub(super) fn append(&mut self, line: &Line) -> Result<(), LabelError> {
        let text = serde_json::to_string(line).expect("a line is plain data");
        self.file.append(text).map_err(file_error(&self.path))
    }

    /// Notes that the shard has come to the end of its images.
    ///
    /// # Errors
    /// [`LabelError::File`] when it cannot be written.
    pub fn finish(&mut self) -> Result<(), LabelError> {
        self.append(&Line::Finished)
    }
}

impl Lines {
    /// Finds the lines of all journals in some folders. Where several are about one image, the one with the latest
    /// change of its file counts, and of equal ones the last. An image that could be labelled once and no longer can
    /// has no line, unless another journal has one.
    ///
    /// # Errors
    /// [`LabelError`] when a journal cannot be read.
    pub(super) fn of(folders: &[&Path]) -> Result<Self, LabelError> {
        let mut labelled: HashMap<String, (u128, LinePlace)> = HashMap::new();
        let mut skipped: HashMap<String, Skipped> = HashMap::new();
        let mut files = Vec::new();
        for folder in folders {
            for path in journals(folder)? {
                let journal = files.len();
                read(&path, |(start, bytes), line| match line {
                    Line::Labelled { image, source, .. } => {
                        let place = LinePlace { journal, start, bytes };
                        skipped.remove(&image.file_name);
                        let kept = labelled.entry(image.file_name).or_insert((source.changed, place));
                        if kept.0 <= source.changed {
                            *kept = (source.changed, place);
                        }
                    }
                    Line::Skipped(image) => {
                        let kept = labelled.get(&image.file_name);
                        if kept.is_some_and(|(_, place)| place.journal == journal) {
                            labelled.remove(&image.file_name);
                        }
                        skipped.insert(image.file_name.clone(), image);
                    }
                    Line::Finished => {}
                })?;
                files.push((File::open(&path).map_err(file_error(&path))?, path));
            }
        }
        let mut labelled: Vec<_> = labelled.into_iter().map(|(name, (_, place))| (name, place)).collect();
        labelled.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut skipped: Vec<_> = skipped.into_values().collect();
        skipped.sort();
        Ok(Self {
            journals: files,
            labelled,
            skipped,
        })
    }

    /// Reads the image of a line.
    ///
    /// # Errors
    /// [`LabelError`] when the journal cannot be read any more.
    pub(super) fn image(&self, place: LinePlace) -> Result<LabelledImage, LabelError> {
        let (file, path) = &self.journals[place.journal];
        let mut bytes = vec![0; place.bytes];
        file.read_exact_at(&mut bytes, place.start).map_err(file_error(path))?;
        match parse(&bytes) {
            Ok(Line::Labelled { image, .. }) => Ok(image),
            Ok(_) => Err(damaged(path, "a line has changed".to_owned())),
            Err(reason) => Err(damaged(path, reason)),
        }
    }
}

/// Reads the whole lines of a journal, each with its first byte and its number of bytes.
fn read(path: &Path, mut each: impl FnMut((u64, usize), Line)) -> Result<ReadLines, LabelError> {
    let read = ReadLines::open(path, |start, line| {
        each((start, line.len()), parse(line)?);
        Ok::<_, String>(())
    });
    read.map_err(|error| match error {
        LineError::Io(source) => file_error(path)(source),
        LineError::Line(number, reason) => damaged(
            path,
            format!("line {number}: {reason}: remove the line, and its image is labelled again"),
        ),
    })
}

fn parse(line: &[u8]) -> Result<Line, String> {
    serde_json::from_slice(line).map_err(|error| error.to_string())
}

fn damaged(path: &Path, reason: String) -> LabelError {
    let path = path.to_owned();
    LabelError::Damaged { path, reason }
}

fn note_done(done: &mut HashMap<String, Done>, line: Line) {
    match line {
        Line::Labelled { image, source, files } => {
            done.insert(image.file_name, Done { source, files });
        }
        Line::Skipped(image) => {
            done.remove(&image.file_name);
        }
        Line::Finished => {}
    }
}

/// Returns what is missing of the runs whose folders these are, each in words: the ends of journals, and whole shards.
///
/// # Errors
/// [`LabelError`] when a journal cannot be read.
pub fn missing_parts(folders: &[&Path]) -> Result<Vec<String>, LabelError> {
    let mut missing = Vec::new();
    let mut shards: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    for folder in folders {
        for path in journals(folder)? {
            let mut is_finished = false;
            read(&path, |_, line| is_finished = line == Line::Finished)?;
            if !is_finished {
                missing.push(format!("{} is that of a run that did not end", path.display()));
            }
            if let Some((shard, count)) = shard_of(&path) {
                shards.entry(count).or_default().insert(shard);
            }
        }
    }
    for (count, found) in shards {
        let numbers = (0..count).filter(|shard| !found.contains(shard));
        let numbers: Vec<_> = numbers.map(|shard| format!("{shard}/{count}")).collect();
        if !numbers.is_empty() {
            missing.push(format!("no folder has the shards {}", numbers.join(", ")));
        }
    }
    Ok(missing)
}

/// Returns the number of the shard whose journal this is, and the number of shards.
fn shard_of(journal: &Path) -> Option<(u32, u32)> {
    let name = journal.file_stem()?.to_str()?;
    let (shard, count) = name.strip_prefix(JOURNAL)?.strip_prefix('-')?.split_once("-of-")?;
    Some((shard.parse().ok()?, count.parse().ok()?))
}

/// Returns the path of the file that is locked while a journal is written.
fn lock_path(journal: &Path) -> PathBuf {
    journal.with_extension("lock")
}

/// Returns the journals of a folder, sorted by name.
fn journals(folder: &Path) -> Result<Vec<PathBuf>, LabelError> {
    let own = folder.join(OWN_FOLDER);
    let mut found = Vec::new();
    for entry in fs::read_dir(&own).map_err(file_error(&own))? {
        let path = entry.map_err(file_error(&own))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(JOURNAL) && name.ends_with(ENDING) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::formats::testing::labelled;

    fn line(file_name: &str, changed: u128) -> Line {
        Line::Labelled {
            image: labelled(file_name, 1, &[0], 1),
            source: FileState { bytes: 5, changed },
            files: vec![("masks/a.png".to_owned(), 3)],
        }
    }

    #[test]
    fn an_image_is_done_while_its_file_and_its_results_are_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::create(folder.path()).unwrap();
        let source = FileState { bytes: 5, changed: 7 };
        run.journal(0, 2).unwrap().append(&line("a.jpg", 7)).unwrap();
        let paths = ["masks/a.png".to_owned()];
        let is_done = |name: &str, source, paths: &[String]| run.journal(1, 2).unwrap().is_done(name, source, paths);
        assert!(!is_done("a.jpg", source, &paths), "the result is missing");
        fs::create_dir(folder.path().join("masks")).unwrap();
        fs::write(folder.path().join("masks/a.png"), "png").unwrap();
        assert!(is_done("a.jpg", source, &paths));
        assert!(!is_done("b.jpg", source, &paths));
        assert!(!is_done("a.jpg", FileState { changed: 8, ..source }, &paths));
        assert!(!is_done("a.jpg", source, &["grey/a.png".to_owned()]));
        fs::write(folder.path().join("masks/a.png"), "").unwrap();
        assert!(!is_done("a.jpg", source, &paths), "the result was cut off");
    }

    #[test]
    fn the_latest_line_about_an_image_counts() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::create(folder.path()).unwrap();
        let skipped = |name: &str| {
            Line::Skipped(Skipped {
                file_name: name.to_owned(),
                reason: "cut short".to_owned(),
            })
        };
        let mut journal = run.journal(0, 2).unwrap();
        for line in [
            line("b.jpg", 9),
            skipped("a.jpg"),
            line("a.jpg", 1),
            line("c.jpg", 1),
            skipped("c.jpg"),
        ] {
            journal.append(&line).unwrap();
        }
        run.journal(1, 2).unwrap().append(&line("b.jpg", 8)).unwrap();
        let lines = Lines::of(&[folder.path()]).unwrap();
        let names: Vec<_> = lines.labelled.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a.jpg", "b.jpg"]);
        assert_eq!(lines.labelled[1].1.journal, 0);
        assert_eq!(lines.skipped[0].file_name, "c.jpg");
        assert_eq!(lines.image(lines.labelled[0].1).unwrap().file_name, "a.jpg");
    }

    #[test]
    fn a_journal_has_one_writer_and_is_finished_when_all_are() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::create(folder.path()).unwrap();
        let mut first = run.journal(0, 2).unwrap();
        assert!(matches!(run.journal(0, 2), Err(LabelError::InUse { .. })));
        first.finish().unwrap();
        assert!(!run.is_finished(2).unwrap());
        run.journal(1, 2).unwrap().finish().unwrap();
        assert!(run.is_finished(2).unwrap());
        first.append(&line("a.jpg", 1)).unwrap();
        assert!(!run.is_finished(2).unwrap());
    }

    #[test]
    fn what_is_missing_of_runs_is_said() {
        let [one, other] = [(), ()].map(|()| tempfile::tempdir().unwrap());
        let journal = |folder: &tempfile::TempDir, shard| {
            let run = RunFolder::create(folder.path()).unwrap();
            run.journal(shard, 3).unwrap()
        };
        journal(&one, 0).finish().unwrap();
        let mut stopped = journal(&other, 2);
        stopped.append(&line("a.jpg", 1)).unwrap();
        let missing = |folders: &[&tempfile::TempDir]| {
            let folders: Vec<_> = folders.iter().map(|folder| folder.path()).collect();
            missing_parts(&folders).unwrap()
        };
        assert_eq!(missing(&[&one]), ["no folder has the shards 1/3, 2/3"]);
        let of_both = missing(&[&one, &other]);
        assert!(of_both[0].ends_with("journal-2-of-3.jsonl is that of a run that did not end"));
        assert_eq!(of_both[1..], ["no folder has the shards 1/3"]);
        stopped.finish().unwrap();
        journal(&other, 1).finish().unwrap();
        assert_eq!(missing(&[&one, &other]), [""; 0]);
    }

    #[test]
    fn another_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFolder::create(folder.path()).unwrap();
        fs::write(folder.path().join(".maskclip/journal.jsonl"), "some notes\n").unwrap();
        let error = run.journal(0, 1).unwrap_err().to_string();
        assert!(
            error.contains("journal.jsonl is damaged, or not of this program: line 1"),
            "{error}"
        );
    }
}
