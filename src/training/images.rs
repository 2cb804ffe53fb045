//! The images that a student learns from: found, decoded once, and left out if they cannot be used.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::{TrainError, file_error};
use crate::evaluation::{LeftOut, TruthFiles, find_images};
use crate::image::{Orientation, decode, read_header};
use crate::support::read_regular_file;

/// Ending of a label map, in place of its image's ending: in a folder of its own, and next to the images.
pub(super) const ENDING: &str = ".png";
pub(super) const ENDING_BESIDE: &str = ".truth.png";

/// The images that a student learns from.
#[derive(Debug, Clone)]
pub struct TrainingImages {
    /// The files, sorted by path.
    pub files: Vec<PathBuf>,
    /// Width and height of each image in pixels.
    pub sizes: Vec<(u32, u32)>,
    /// Number of images that were turned by their EXIF orientation.
    pub turned: usize,
    /// SHA-256 over the paths within the folder and the digests of the files, lower-case hexadecimal.
    pub sha256: String,
    /// Files that cannot be decoded, each with the reason.
    pub undecodable: Vec<(PathBuf, String)>,
    /// Number of files `NAME.truth.png`. They are label maps and not used as images.
    pub label_maps: usize,
    /// Numbers of other files that are not used as images.
    pub left_out: LeftOut,
}

impl TrainingImages {
    /// Finds the images in a folder and all its subfolders as every command does. Decodes all of them once, so that a
    /// damaged image, or one of more than `max_pixels` pixels, is left out before the run begins.
    ///
    /// # Errors
    /// [`TrainError`] when a file cannot be read, or no image is left.
    pub fn find(folder: &Path, orientation: Orientation, max_pixels: u64) -> Result<Self, TrainError> {
        let (mut found, left_out) = find_images(folder)?;
        let label_maps = TruthFiles::find(folder, ENDING_BESIDE)?.remove_from(&mut found);
        let mut found: Vec<PathBuf> = found.into_iter().map(|image| image.path).collect();
        found.sort();
        let look = |file: PathBuf| {
            let bytes = read_regular_file(&file).map_err(file_error(&file))?;
            let header = read_header(&bytes, orientation, max_pixels);
            let is_turned = orientation == Orientation::Exif && header.is_ok_and(|header| header.orientation != 1);
            let size = decode(&bytes, orientation, max_pixels).map(|image| image.dimensions());
            Ok((file, Sha256::digest(bytes), size, is_turned))
        };
        let looked_at: Vec<_> = found.into_par_iter().map(look).collect::<Result<_, TrainError>>()?;
        let mut all = Sha256::new();
        let mut images = Self {
            files: Vec::with_capacity(looked_at.len()),
            sizes: Vec::with_capacity(looked_at.len()),
            turned: 0,
            sha256: String::new(),
            undecodable: Vec::new(),
            label_maps,
            left_out,
        };
        for (file, digest, size, is_turned) in looked_at {
            match size {
                Err(error) => images.undecodable.push((file, error.to_string())),
                Ok(size) => {
                    let within = file.strip_prefix(folder).expect("the walk stays in the folder");
                    all.update(within.to_string_lossy().as_bytes());
                    all.update([0]);
                    all.update(digest);
                    images.files.push(file);
                    images.sizes.push(size);
                    images.turned += usize::from(is_turned);
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use ::image::ImageEncoder;
    use ::image::codecs::jpeg::JpegEncoder;

    use super::*;
    use crate::image::RgbImage;

    #[test]
    fn damaged_images_and_label_maps_are_left_out_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["a.png", "a.truth.png", "lone.truth.png"] {
            RgbImage::new(8, 6).save(path(name)).unwrap();
        }
        let whole = TrainingImages::find(folder.path(), Orientation::Exif, 100).unwrap();
        assert_eq!(whole.files, [path("a.png")]);
        assert_eq!((whole.sizes[0], whole.label_maps), ((8, 6), 2));

        let bytes = std::fs::read(path("a.png")).unwrap();
        std::fs::write(path("b.png"), &bytes[..bytes.len() / 2]).unwrap();
        RgbImage::new(11, 10).save(path("c.png")).unwrap();
        let images = TrainingImages::find(folder.path(), Orientation::Exif, 100).unwrap();
        let left_out: Vec<_> = images.undecodable.iter().map(|(file, _)| file.clone()).collect();
        assert_eq!(left_out, [path("b.png"), path("c.png")]);
        assert!(images.undecodable[1].1.contains("limits.max_image_pixels"));
        // Files that are left out do not change the digest.
        assert_eq!((images.files, images.sha256), (whole.files, whole.sha256));
    }

    #[test]
    fn images_that_exif_turns_are_counted() {
        // A directory with one entry: the orientation 6.
        let exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        let folder = tempfile::tempdir().unwrap();
        let mut file = std::fs::File::create(folder.path().join("a.jpg")).unwrap();
        let mut encoder = JpegEncoder::new(&mut file);
        encoder.set_exif_metadata(exif.to_vec()).unwrap();
        RgbImage::new(8, 6).write_with_encoder(encoder).unwrap();
        for (orientation, turned, size) in [(Orientation::Exif, 1, (6, 8)), (Orientation::Stored, 0, (8, 6))] {
            let images = TrainingImages::find(folder.path(), orientation, 100).unwrap();
            assert_eq!((images.turned, images.sizes[0]), (turned, size));
        }
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
        let message = match TrainingImages::find(folder.path(), Orientation::Exif, 100) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("a pipe is no image"),
        };
        assert!(
            message.contains("pipe.png") && message.contains("it is a named pipe"),
            "{message}"
        );
    }
}
