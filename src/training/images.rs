//! The images that a student learns from: found, decoded once, and left out if they cannot be used.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::{TrainError, file_error};
use crate::image::decode;
use crate::support::read_regular_file;

/// Ending of a label map, in place of its image's ending: in a folder of its own, and next to the images.
pub(super) const ENDING: &str = "png";
pub(super) const ENDING_BESIDE: &str = "truth.png";

/// Endings of image files, lower case.
const IMAGE_ENDINGS: [&str; 8] = ["bmp", "gif", "jpeg", "jpg", "png", "tif", "tiff", "webp"];

/// The images that a student learns from.
#[derive(Debug, Clone)]
pub struct TrainingImages {
    /// The files, sorted by path.
    pub files: Vec<PathBuf>,
    /// Width and height of each image in pixels.
    pub sizes: Vec<(u32, u32)>,
    /// SHA-256 over the paths within the folder and the digests of the files, lower-case hexadecimal.
    pub sha256: String,
    /// Files that cannot be decoded, each with the reason.
    pub undecodable: Vec<(PathBuf, String)>,
    /// Number of files `NAME.truth.png` next to an image `NAME`. They are label maps and not used as images.
    pub label_maps: usize,
}

impl TrainingImages {
    /// Finds the images in a folder and all its subfolders by their endings. Decodes all of them once, so that a
    /// damaged image, or one of more than `max_pixels` pixels, is left out before the run begins.
    ///
    /// # Errors
    /// [`TrainError`] when a file cannot be read, or no image is left.
    pub fn find(folder: &Path, max_pixels: u64) -> Result<Self, TrainError> {
        let mut found = walk(folder)?;
        found.sort();
        let stems: HashSet<PathBuf> = found.iter().map(|file| file.with_extension("")).collect();
        let is_label_map = |file: &PathBuf| {
            let text = file.to_string_lossy();
            let image = text.strip_suffix(ENDING_BESIDE).and_then(|text| text.strip_suffix('.'));
            image.is_some_and(|image| stems.contains(Path::new(image)))
        };
        let before = found.len();
        found.retain(|file| !is_label_map(file));
        let label_maps = before - found.len();
        let look = |file: PathBuf| {
            let bytes = read_regular_file(&file).map_err(file_error(&file))?;
            let size = decode(&bytes, max_pixels).map(|image| image.dimensions());
            Ok((file, Sha256::digest(bytes), size))
        };
        let looked_at: Vec<_> = found.into_par_iter().map(look).collect::<Result<_, TrainError>>()?;
        let mut all = Sha256::new();
        let mut images = Self {
            files: Vec::with_capacity(looked_at.len()),
            sizes: Vec::with_capacity(looked_at.len()),
            sha256: String::new(),
            undecodable: Vec::new(),
            label_maps,
        };
        for (file, digest, size) in looked_at {
            match size {
                Err(error) => images.undecodable.push((file, error.to_string())),
                Ok(size) => {
                    let within = file.strip_prefix(folder).expect("the walk stays in the folder");
                    all.update(within.to_string_lossy().as_bytes());
                    all.update([0]);
                    all.update(digest);
                    images.files.push(file);
                    images.sizes.push(size);
                }
            }
        }
        if images.files.is_empty() {
            return Err(TrainError::NoImages {
                folder: folder.to_owned(),
            });
        }
        images.sha256 = hex::encode(all.finalize());
        Ok(images)
    }
}

/// Returns all files under a folder that have an image's ending.
fn walk(folder: &Path) -> Result<Vec<PathBuf>, TrainError> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(inside) = folders.pop() {
        for entry in std::fs::read_dir(&inside).map_err(file_error(&inside))? {
            let path = entry.map_err(file_error(&inside))?.path();
            let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
            if path.is_dir() {
                folders.push(path);
            } else if ending.is_some_and(|ending| IMAGE_ENDINGS.contains(&ending.as_str())) {
                files.push(path);
            }
        }
    }
    Ok(files)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::image::RgbImage;

    #[test]
    fn damaged_images_and_label_maps_are_left_out_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["a.png", "a.truth.png", "lone.truth.png"] {
            RgbImage::new(8, 6).save(path(name)).unwrap();
        }
        let whole = TrainingImages::find(folder.path(), 100).unwrap();
        assert_eq!(whole.files, [path("a.png"), path("lone.truth.png")]);
        assert_eq!((whole.sizes[0], whole.label_maps), ((8, 6), 1));

        let bytes = std::fs::read(path("a.png")).unwrap();
        std::fs::write(path("b.png"), &bytes[..bytes.len() / 2]).unwrap();
        RgbImage::new(11, 10).save(path("c.png")).unwrap();
        let images = TrainingImages::find(folder.path(), 100).unwrap();
        let left_out: Vec<_> = images.undecodable.iter().map(|(file, _)| file.clone()).collect();
        assert_eq!(left_out, [path("b.png"), path("c.png")]);
        assert!(images.undecodable[1].1.contains("limits.max_image_pixels"));
        // Files that are left out do not change the digest.
        assert_eq!((images.files, images.sha256), (whole.files, whole.sha256));
    }

    #[test]
    fn a_named_pipe_among_the_images_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe.png");
        assert!(
            std::process::Command::new("mkfifo")
                .arg(&pipe)
                .status()
                .unwrap()
                .success()
        );
        let message = match TrainingImages::find(folder.path(), 100) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("a pipe is no image"),
        };
        assert!(
            message.contains("pipe.png") && message.contains("it is a named pipe"),
            "{message}"
        );
    }
}
