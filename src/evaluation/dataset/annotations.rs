//! Files of annotations, connected with the images of a folder.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::folder::{ImageFile, find_images};
use super::{Dataset, DatasetError, Sample, TruthForm};

/// The name of the class that gets the pixels without an object.
pub(super) const BACKGROUND: &str = "background";

/// An image that a file of annotations names.
pub(super) struct Entry<'a, T> {
    /// The image's path within its folder, or its name alone. The first that is found counts.
    pub file_names: Vec<String>,
    /// What the file says of the image.
    pub annotated: &'a T,
}

/// Returns the images of a folder that a file of annotations names, with their truths, and what was left out. `truth`
/// returns the file and the form of an image's truth; it is called only for images that are there.
///
/// # Errors
/// [`DatasetError`] when the folder cannot be read, no image is named, or one is named twice, and those of `truth`.
pub(super) fn connected<T>(
    file: &Path,
    folder: &Path,
    entries: Vec<Entry<'_, T>>,
    truth: impl Fn(&T) -> Result<(PathBuf, TruthForm), DatasetError>,
) -> Result<Dataset, DatasetError> {
    let (found, mut left_out) = find_images(folder)?;
    let by_file = ByFile::of(&found, folder);
    let mut samples = Vec::with_capacity(entries.len());
    for entry in entries {
        let Some(image) = entry.file_names.iter().find_map(|name| by_file.find(name)) else {
            left_out.truths_without_image += 1;
            continue;
        };
        let (truth, form) = truth(entry.annotated)?;
        samples.push(Sample {
            name: image.name.clone(),
            image: image.path.clone(),
            truth,
            form,
        });
    }
    samples.sort_by(|one, other| one.name.cmp(&other.name));
    if let Some([twice, _]) = samples.array_windows().find(|[one, other]| one.image == other.image) {
        return Err(DatasetError::InvalidTruth {
            path: file.to_owned(),
            reason: format!("it names {} twice", twice.image.display()),
        });
    }
    if samples.is_empty() {
        return Err(DatasetError::Empty {
            folder: folder.to_owned(),
            looked_for: format!("none of its images is named in {}", file.display()),
        });
    }
    left_out.images_without_truth = found.len() - samples.len();
    Ok(Dataset {
        samples,
        left_out,
        uncounted_names: Vec::new(),
    })
}

impl Dataset {
    /// Returns the data set with those of the truths' names that are no classes.
    pub(super) fn with_names(self, names: Vec<String>, class_of: &dyn Fn(&str) -> Option<u16>) -> Self {
        let uncounted_names = names.into_iter().filter(|name| class_of(name).is_none()).collect();
        Self {
            uncounted_names,
            ..self
        }
    }
}

/// The images of a folder by their paths in it, and by their names alone.
struct ByFile<'a> {
    paths: HashMap<String, &'a ImageFile>,
    /// `None` for a name that stands in several folders.
    names: HashMap<String, Option<&'a ImageFile>>,
}

impl<'a> ByFile<'a> {
    fn of(images: &'a [ImageFile], folder: &Path) -> Self {
        let (mut paths, mut names) = (HashMap::new(), HashMap::new());
        for image in images {
            let within = image.path.strip_prefix(folder).unwrap_or(&image.path);
            paths.insert(within.to_string_lossy().into_owned(), image);
            let name = within.file_name().unwrap_or_default().to_string_lossy().into_owned();
            names
                .entry(name)
                .and_modify(|known| *known = None)
                .or_insert(Some(image));
        }
        Self { paths, names }
    }

    /// Returns the image that a file names by its path within the folder, or by its name if its path is another one.
    fn find(&self, file_name: &str) -> Option<&'a ImageFile> {
        let file_name = file_name.replace('\\', "/");
        let name = file_name.rsplit('/').next().unwrap_or_default();
        let by_name = || self.names.get(name).copied().flatten();
        self.paths.get(&file_name).copied().or_else(by_name)
    }
}
