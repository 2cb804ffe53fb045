//! Labels drawn by people: an index PNG per image, all checked before the first step.
//!
//! This file decides which of the labels count. A pixel of a class outside the labelled classes counts as unlabelled.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::images::{ENDING, ENDING_BESIDE, TrainingImages};
use super::{TrainError, file_error};
use crate::evaluation::{
    DatasetError, ImageFile, LabelMapping, LeftOut, Sample, Truth, TruthFiles, classes_without_truth, images_turned,
    pixels_not_counted,
};
use crate::scores::UNLABELLED;
use crate::support::read_regular_file;

/// The label maps of a run's images.
#[derive(Debug, Clone)]
pub struct GivenLabels {
    /// The label map of each image, in the order of the images.
    files: Vec<PathBuf>,
    /// The student's query per class id; `None` if the class's labels do not count.
    queries: Vec<Option<u16>>,
    /// SHA-256 over the digests of the label maps, lower-case hexadecimal.
    pub sha256: String,
    counts: Counts,
}

/// Numbers that show whether label maps mean what their reader takes them for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Counts {
    /// Pixels of each class, `[classes]`.
    pixels: Vec<u64>,
    /// Pixels that mean no class.
    uncounted: u64,
    /// Images that were turned by their EXIF orientation.
    turned: usize,
    /// Label maps without an image.
    without_image: usize,
}

impl GivenLabels {
    /// Finds and checks the label map of every image. It is in `folder`, under the image's path within the folder of
    /// images, with the ending `.png`, or `.truth.png` if the two folders are the same. Its values are class ids; 255
    /// or 65535 mean no class. `queries` holds the student's query per class id, `None` for a class whose labels do not
    /// count.
    ///
    /// # Errors
    /// [`TrainError`] when a label map is missing or belongs to two images, cannot be read, has a value that is not a class, or differs from its
    /// image in size.
    pub fn find(
        folder: &Path,
        images_folder: &Path,
        images: &TrainingImages,
        queries: Vec<Option<u16>>,
    ) -> Result<Self, TrainError> {
        let ending = if folder == images_folder { ENDING_BESIDE } else { ENDING };
        let truths = TruthFiles::find(folder, ending)?;
        let with_name = |image: &PathBuf| {
            let within = image.strip_prefix(images_folder).expect("images are in their folder");
            let name = within.with_extension("").to_string_lossy().into_owned();
            let path = image.clone();
            ImageFile { name, path }
        };
        let named: Vec<ImageFile> = images.files.iter().map(with_name).collect();
        truths.pair(&named)?;
        let file = |image: &ImageFile| match truths.of_image(&image.name) {
            Ok(truth) => Ok(truth.to_owned()),
            Err(truth) => Err(DatasetError::MissingTruth {
                image: image.path.clone(),
                truth,
            }),
        };
        let files: Vec<PathBuf> = named.iter().map(file).collect::<Result<_, _>>()?;
        let check = |((file, image), size): ((&PathBuf, &PathBuf), &(u32, u32))| {
            let bytes = read_regular_file(file).map_err(file_error(file))?;
            let labels = read(file, queries.len())?;
            if (labels.width, labels.height) != *size {
                let image = image.clone();
                return Err(TrainError::LabelSize { image });
            }
            Ok((Sha256::digest(bytes), pixels_of(&labels, queries.len())))
        };
        let pairs = files.par_iter().zip(&images.files).zip(&images.sizes);
        let checked: Vec<_> = pairs.map(check).collect::<Result<_, TrainError>>()?;
        let mut all = Sha256::new();
        let mut counts = Counts {
            pixels: vec![0; queries.len()],
            uncounted: 0,
            turned: images.turned,
            without_image: truths.len() - files.len(),
        };
        for (digest, (pixels, uncounted)) in checked {
            all.update(digest);
            counts
                .pixels
                .iter_mut()
                .zip(pixels)
                .for_each(|(sum, of_image)| *sum += of_image);
            counts.uncounted += uncounted;
        }
        Ok(Self {
            files,
            queries,
            sha256: hex::encode(all.finalize()),
            counts,
        })
    }

    /// Returns what often makes a student learn something else than was meant, in words. `names` are those of the
    /// classes, in the order of their ids. `are_alone` says that no teacher labels the other pixels.
    pub fn warnings(&self, names: &[&str], are_alone: bool) -> Vec<String> {
        let Counts {
            pixels,
            uncounted,
            turned,
            without_image,
        } = &self.counts;
        let classes = names.iter().zip(pixels).zip(&self.queries);
        let labelled: Vec<(&str, u64)> = classes
            .filter(|(_, query)| query.is_some())
            .map(|((name, pixels), _)| (*name, *pixels))
            .collect();
        let all = pixels.iter().sum::<u64>() + uncounted;
        let uncounted_share = are_alone.then(|| *uncounted as f64 / all as f64);
        let odd = [
            classes_without_truth(&labelled),
            uncounted_share.and_then(pixels_not_counted),
            images_turned(*turned),
        ];
        let left_out = LeftOut {
            truths_without_image: *without_image,
            ..LeftOut::default()
        };
        let odd = odd.into_iter().flatten().map(|warning| warning.message);
        odd.chain(left_out.messages()).collect()
    }

    /// Returns the student's query of every pixel of an image, or [`UNLABELLED`] where no label counts.
    pub(super) fn read(&self, image: usize) -> Result<Truth, TrainError> {
        let mut labels = read(&self.files[image], self.queries.len())?;
        for label in &mut labels.labels {
            let query = self.queries.get(usize::from(*label)).copied().flatten();
            *label = query.unwrap_or(UNLABELLED);
        }
        Ok(labels)
    }
}

/// Returns the number of pixels of each class, `[classes]`, and of those without a class.
fn pixels_of(labels: &Truth, classes: usize) -> (Vec<u64>, u64) {
    let (mut pixels, mut uncounted) = (vec![0; classes], 0);
    for label in &labels.labels {
        match pixels.get_mut(usize::from(*label)) {
            Some(count) => *count += 1,
            None => uncounted += 1,
        }
    }
    (pixels, uncounted)
}

fn read(file: &Path, classes: usize) -> Result<Truth, TrainError> {
    let sample = Sample {
        name: String::new(),
        image: PathBuf::new(),
        truth: file.to_owned(),
        form: LabelMapping::Identity.into(),
    };
    Ok(Truth::read(&sample, classes)?)
}
