//! Plain folders of images and truths: which files are images, and which truth belongs to which image.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use super::{Dataset, DatasetError, LeftOut, Sample, TruthForm};
use crate::image;
use crate::support::{FoundFile, find_files};

/// An image in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageFile {
    /// The path within the folder, without the ending.
    pub name: String,
    /// The path.
    pub path: PathBuf,
}

/// Returns the images in a folder and all its subfolders, by the endings in [`image::FILE_ENDINGS`], sorted by name,
/// and what was left out. Every command finds its images so.
///
/// # Errors
/// [`DatasetError::Unreadable`] for a folder that cannot be read.
pub fn find_images(folder: &Path) -> Result<(Vec<ImageFile>, LeftOut), DatasetError> {
    let found = find_files(folder, &image::FILE_ENDINGS)?;
    let left_out = LeftOut {
        hidden_images: found.hidden,
        unread_formats: find_files(folder, &image::UNREAD_FILE_ENDINGS)?.files.len(),
        ..LeftOut::default()
    };
    let images = found.files.into_iter();
    let images = images.map(|FoundFile { name, path }| ImageFile { name, path });
    Ok((images.collect(), left_out))
}

/// The truths in a folder, found by the names of their images.
#[derive(Debug)]
pub struct TruthFiles {
    folder: PathBuf,
    ending: String,
    by_name: BTreeMap<String, PathBuf>,
}

impl TruthFiles {
    /// Finds the files whose names have this ending in place of an image's, in upper or lower case.
    ///
    /// # Errors
    /// [`DatasetError`] when a folder cannot be read, or two truths have one name.
    pub fn find(folder: &Path, ending: &str) -> Result<Self, DatasetError> {
        let mut by_name: BTreeMap<String, PathBuf> = BTreeMap::new();
        for FoundFile { name, path } in find_files(folder, &[ending])?.files {
            if let Some(one) = by_name.insert(name, path.clone()) {
                return Err(DatasetError::TwoFiles { one, other: path });
            }
        }
        Ok(Self {
            folder: folder.to_owned(),
            ending: ending.to_owned(),
            by_name,
        })
    }

    /// Returns the number of truths.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Returns whether there are no truths.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Removes the truths from a list of images. Returns their number.
    pub fn remove_from(&self, images: &mut Vec<ImageFile>) -> usize {
        let truths: HashSet<&Path> = self.by_name.values().map(PathBuf::as_path).collect();
        let before = images.len();
        images.retain(|image| !truths.contains(image.path.as_path()));
        before - images.len()
    }

    /// Returns the truth of the image with this name.
    ///
    /// # Errors
    /// The path at which the truth would be, if there is none.
    pub fn of_image(&self, name: &str) -> Result<&Path, PathBuf> {
        let expected = || self.folder.join(format!("{name}{}", self.ending));
        self.by_name.get(name).map(PathBuf::as_path).ok_or_else(expected)
    }

    /// Pairs each image with its truth, or with `None`. The order is that of the images.
    ///
    /// # Errors
    /// [`DatasetError::TwoFiles`] when two images have one truth.
    pub fn pair<'a>(&'a self, images: &'a [ImageFile]) -> Result<Vec<Option<&'a Path>>, DatasetError> {
        let mut owners: BTreeMap<&str, &Path> = BTreeMap::new();
        let pair = |image: &'a ImageFile| {
            let Ok(truth) = self.of_image(&image.name) else {
                return Ok(None);
            };
            match owners.insert(&image.name, &image.path) {
                Some(one) => Err(DatasetError::TwoFiles {
                    one: one.to_owned(),
                    other: image.path.clone(),
                }),
                None => Ok(Some(truth)),
            }
        };
        images.iter().map(pair).collect()
    }
}

/// A folder of images with truths next to them, or in another folder under the same names.
#[derive(Debug, Clone, PartialEq)]
pub struct FolderLayout {
    /// The folder of images, searched with all its subfolders.
    pub images: PathBuf,
    /// The folder of truths.
    pub truths: PathBuf,
    /// Ending of a truth's name, in place of its image's ending.
    pub truth_ending: String,
    /// How the truths are read.
    pub form: TruthForm,
    /// The truths' own names that are no class.
    pub uncounted_names: Vec<String>,
}

impl FolderLayout {
    /// Finds the images that have a truth. Images without a truth, and truths without an image, are counted and left
    /// out, because people keep both kinds together.
    ///
    /// # Errors
    /// [`DatasetError`] when a folder cannot be read, two files have one name, or no image has a truth.
    pub fn open(&self) -> Result<Dataset, DatasetError> {
        let (mut images, mut left_out) = find_images(&self.images)?;
        let truths = TruthFiles::find(&self.truths, &self.truth_ending)?;
        if self.truths.starts_with(&self.images) {
            truths.remove_from(&mut images);
        }
        let pairs = truths.pair(&images)?;
        let with_truth = images
            .iter()
            .zip(pairs)
            .filter_map(|(image, truth)| Some((image, truth?)));
        let samples: Vec<Sample> = with_truth
            .map(|(image, truth)| Sample {
                name: image.name.clone(),
                image: image.path.clone(),
                truth: truth.to_owned(),
                form: self.form.clone(),
            })
            .collect();
        if samples.is_empty() {
            return Err(DatasetError::Empty {
                folder: self.images.clone(),
                looked_for: format!(
                    "for NAME.png (or .jpg, ...) the truth would be {}",
                    self.truths.join(format!("NAME{}", self.truth_ending)).display()
                ),
            });
        }
        left_out.images_without_truth = images.len() - samples.len();
        left_out.truths_without_image = truths.len() - samples.len();
        Ok(Dataset {
            samples,
            left_out,
            uncounted_names: self.uncounted_names.clone(),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;
    use crate::evaluation::LabelMapping;

    fn layout(root: &Path, truths: &str, ending: &str) -> FolderLayout {
        FolderLayout {
            images: root.join("images"),
            truths: root.join(truths),
            truth_ending: ending.to_owned(),
            form: TruthForm::Values(LabelMapping::Identity),
            uncounted_names: Vec::new(),
        }
    }

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        folder
    }

    fn names(dataset: &Dataset) -> Vec<&str> {
        dataset.samples.iter().map(|sample| sample.name.as_str()).collect()
    }

    #[test]
    fn every_usual_ending_is_an_image_and_what_has_no_partner_is_counted() {
        let folder = folder(&[
            "images/a.JPEG",
            "images/b.PNG",
            "images/c.TIF",
            "images/d.Png",
            "images/deep/e.jfif",
            "images/alone.jpg",
            "images/._a.JPEG",
            "images/photo.HEIC",
            "images/notes.txt",
            "truths/a.png",
            "truths/b.PNG",
            "truths/c.png",
            "truths/d.png",
            "truths/deep/e.png",
            "truths/lost.png",
        ]);
        let dataset = layout(folder.path(), "truths", ".png").open().unwrap();
        assert_eq!(names(&dataset), ["a", "b", "c", "d", "deep/e"]);
        let left_out = LeftOut {
            images_without_truth: 1,
            truths_without_image: 1,
            hidden_images: 1,
            unread_formats: 1,
        };
        assert_eq!(dataset.left_out, left_out);
    }

    #[test]
    fn truths_beside_images_or_below_them_are_no_images() {
        let beside = folder(&["images/a.png", "images/a.truth.PNG", "images/lost.truth.png"]);
        let dataset = layout(beside.path(), "images", ".truth.png").open().unwrap();
        assert_eq!((names(&dataset), dataset.left_out.truths_without_image), (vec!["a"], 1));
        let below = folder(&["images/a.jpg", "images/masks/a.png"]);
        let dataset = layout(below.path(), "images/masks", ".png").open().unwrap();
        assert_eq!((names(&dataset), dataset.left_out), (vec!["a"], LeftOut::default()));
    }

    #[test]
    fn two_files_of_one_name_are_refused() {
        let refused = |files: &[&str]| {
            let folder = folder(files);
            let error = layout(folder.path(), "truths", ".png").open().unwrap_err().to_string();
            error.replace(folder.path().to_str().unwrap(), "")
        };
        assert_eq!(
            refused(&["images/00.png", "images/00.jpg", "truths/00.png"]),
            "/images/00.jpg and /images/00.png have one name: which of them counts?"
        );
        assert_eq!(
            refused(&["images/00.jpg", "truths/00.PNG", "truths/00.png"]),
            "/truths/00.PNG and /truths/00.png have one name: which of them counts?"
        );
        assert!(refused(&["images/00.png", "images/00.jpg", "truths/1.png"]).contains("has no image with a truth"));
    }
}
