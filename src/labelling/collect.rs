//! The files about all images of a run, written from the journals. Images stand in the order of their names, whichever
//! process labelled them and when.

use std::fs;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::journal::Lines;
use super::output::MISFIT;
use super::{LabelError, OutputFormat, RunFolder, Skipped, file_error};
use crate::formats::{ClassLabel, Collection, LabelledImage, Numbers, ParquetTable, Subject, yolo_dataset};
use crate::label_map::LabelStyle;
use crate::support::WholeFile;

/// The number of images that are read at once.
const AT_ONCE: usize = 64;

/// The table in Parquet.
const TABLE_FILE: &str = "statistics.parquet";

/// The list of images that could not be labelled.
const SKIPPED_FILE: &str = "skipped.csv";

/// The files about all images.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Collected {
    /// The files that were written.
    pub files: Vec<PathBuf>,
    /// The number of images in them.
    pub images: usize,
    /// The images that could not be labelled.
    pub skipped: Vec<Skipped>,
}

/// Writes the files about all images that the journals of some folders name, into a folder. Takes little memory,
/// however many images there are.
///
/// # Errors
/// [`LabelError`] when a journal cannot be read, or a file cannot be written.
pub fn collect(
    journals: &[&Path],
    output: &RunFolder,
    subject: &Subject,
    formats: &[OutputFormat],
) -> Result<Collected, LabelError> {
    let lines = Lines::of(journals)?;
    let mut collected = Collected {
        files: Vec::new(),
        images: lines.labelled.len(),
        skipped: lines.skipped.clone(),
    };
    let collections: Vec<Collection> = formats.iter().filter_map(|format| format.collection()).collect();
    let mut writers = Vec::with_capacity(collections.len());
    for &collection in &collections {
        writers.push(CollectionWriter::begin(collection, output, subject)?);
    }
    let mut table = match formats.contains(&OutputFormat::Parquet) {
        true => Some(TableWriter::begin(output, subject)?),
        false => None,
    };
    add_all(&lines, subject, &mut writers, table.as_mut())?;
    for writer in writers {
        collected.files.push(writer.finish()?);
    }
    if let Some(table) = table {
        collected.files.push(table.finish()?);
    }
    for (name, text) in companions(formats, &collections, subject) {
        let path = output.path().join(name);
        write_in_folder(&path, text.as_bytes(), output)?;
        collected.files.push(path);
    }
    list_skipped(output, &mut collected)?;
    Ok(collected)
}

/// Adds all images to the files about them, a few at a time.
fn add_all(
    lines: &Lines,
    subject: &Subject,
    writers: &mut [CollectionWriter],
    mut table: Option<&mut TableWriter>,
) -> Result<(), LabelError> {
    let mut next = Numbers {
        image: 1,
        annotation: 1,
    };
    for places in lines.labelled.chunks(AT_ONCE) {
        let images = places.par_iter().map(|(_, place)| lines.image(*place));
        let images: Vec<LabelledImage> = images.collect::<Result<_, _>>()?;
        let number = |image: LabelledImage| {
            let numbers = next;
            next.image += 1;
            next.annotation += image.masks.len() as u64;
            (image, numbers)
        };
        let numbered: Vec<_> = images.into_iter().map(number).collect();
        if let Some(table) = &mut table {
            numbered.iter().try_for_each(|(image, _)| table.add(image))?;
        }
        for writer in &mut *writers {
            let collection = writer.collection;
            let entries = numbered.par_iter().map(|(image, numbers)| {
                let entries = collection.entries(image, subject, *numbers);
                entries.ok_or_else(|| LabelError::Refused(format!("{}: {MISFIT}", image.file_name)))
            });
            for entries in entries.collect::<Result<Vec<_>, _>>()? {
                writer.add(&entries)?;
            }
        }
    }
    Ok(())
}

/// Returns the files that tell programs of the classes.
fn companions(formats: &[OutputFormat], collections: &[Collection], subject: &Subject) -> Vec<(&'static str, String)> {
    let mut files: Vec<_> = collections
        .iter()
        .flat_map(|collection| collection.companions(subject))
        .collect();
    if formats.contains(&OutputFormat::Yolo) {
        files.push(("yolo/data.yaml", yolo_dataset(&subject.classes)));
    }
    // Above that, PNGs have no colours.
    if formats.contains(&OutputFormat::Png) && subject.classes.len() <= 255 {
        files.push(("masks/labelmap.txt", legend(&subject.classes)));
    }
    files
}

/// Returns which colour of the indexed PNGs means which class, as CVAT and the tools for Pascal VOC's masks read it.
fn legend(classes: &[ClassLabel]) -> String {
    let style = LabelStyle {
        colors: classes.iter().map(|class| class.color).collect(),
        ..LabelStyle::default()
    };
    style.legend(classes.iter().map(|class| class.name.as_str()))
}

/// Writes the list of skipped images, or removes one that is out of date.
fn list_skipped(output: &RunFolder, collected: &mut Collected) -> Result<(), LabelError> {
    let path = output.path().join(SKIPPED_FILE);
    if collected.skipped.is_empty() {
        return match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file_error(&path)(error)),
            _ => Ok(()),
        };
    }
    let mut writer = csv::Writer::from_writer(Vec::new());
    let rows = collected
        .skipped
        .iter()
        .map(|skipped| [&skipped.file_name, &skipped.reason]);
    let written = writer.write_record(["image", "reason"]);
    let written = written.and_then(|()| rows.into_iter().try_for_each(|row| writer.write_record(row)));
    written.expect("writing to memory cannot fail, and all rows have the same columns");
    let text = writer.into_inner().expect("writing to memory cannot fail");
    write_in_folder(&path, &text, output)?;
    collected.files.push(path);
    Ok(())
}

fn write_in_folder(path: &Path, bytes: &[u8], output: &RunFolder) -> Result<(), LabelError> {
    make_folder_of(path)?;
    let write = || {
        let mut file = WholeFile::create_in(path, &output.temporary())?;
        file.write_all(bytes)?;
        file.finish()
    };
    write().map_err(file_error(path))
}

fn make_folder_of(path: &Path) -> Result<(), LabelError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(file_error(folder))
}

/// A collection that is being written. The first part goes into the file at once, the others first into files of their
/// own.
struct CollectionWriter {
    collection: Collection,
    path: PathBuf,
    frame: Vec<String>,
    file: BufWriter<WholeFile>,
    parts: Vec<BufWriter<fs::File>>,
    /// Whether each part has an entry.
    has_entry: Vec<bool>,
}

impl CollectionWriter {
    fn begin(collection: Collection, output: &RunFolder, subject: &Subject) -> Result<Self, LabelError> {
        let path = output.path().join(collection.file_name());
        make_folder_of(&path)?;
        let frame = collection.frame(subject);
        let parts = frame.len() - 1;
        let begin = || {
            let mut file = BufWriter::new(WholeFile::create_in(&path, &output.temporary())?);
            file.write_all(frame[0].as_bytes())?;
            let others = (1..parts).map(|_| tempfile::tempfile_in(output.path()).map(BufWriter::new));
            Ok((file, others.collect::<io::Result<_>>()?))
        };
        let (file, others) = begin().map_err(file_error(&path))?;
        Ok(Self {
            collection,
            path,
            frame,
            file,
            parts: others,
            has_entry: vec![false; parts],
        })
    }

    fn add(&mut self, entries: &[String]) -> Result<(), LabelError> {
        let separator = self.collection.separator();
        for (part, entry) in entries.iter().enumerate().filter(|(_, entry)| !entry.is_empty()) {
            let file: &mut dyn Write = match part {
                0 => &mut self.file,
                _ => &mut self.parts[part - 1],
            };
            let before = if self.has_entry[part] { separator } else { "" };
            let written = file
                .write_all(before.as_bytes())
                .and_then(|()| file.write_all(entry.as_bytes()));
            written.map_err(file_error(&self.path))?;
            self.has_entry[part] = true;
        }
        Ok(())
    }

    fn finish(self) -> Result<PathBuf, LabelError> {
        let Self {
            path,
            frame,
            mut file,
            parts,
            ..
        } = self;
        let finish = || {
            for (text, part) in frame[1..].iter().zip(parts) {
                file.write_all(text.as_bytes())?;
                let mut part = part.into_inner()?;
                part.seek(SeekFrom::Start(0))?;
                io::copy(&mut part, &mut file)?;
            }
            file.write_all(frame[frame.len() - 1].as_bytes())?;
            file.into_inner()?.finish()
        };
        finish().map_err(file_error(&path))?;
        Ok(path)
    }
}

/// The table in Parquet that is being written.
struct TableWriter {
    path: PathBuf,
    table: ParquetTable<BufWriter<WholeFile>>,
}

impl TableWriter {
    fn begin(output: &RunFolder, subject: &Subject) -> Result<Self, LabelError> {
        let path = output.path().join(TABLE_FILE);
        let file = WholeFile::create_in(&path, &output.temporary()).map_err(file_error(&path))?;
        let table = ParquetTable::begin(BufWriter::new(file), subject).map_err(file_error(&path))?;
        Ok(Self { path, table })
    }

    fn add(&mut self, image: &LabelledImage) -> Result<(), LabelError> {
        self.table.add(image).map_err(file_error(&self.path))
    }

    fn finish(self) -> Result<PathBuf, LabelError> {
        let Self { path, table } = self;
        let finish = || table.finish()?.into_inner()?.finish();
        finish().map_err(file_error(&path))?;
        Ok(path)
    }
}
