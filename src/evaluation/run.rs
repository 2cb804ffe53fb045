//! A run: sends every image of a data set to the engine as a request and counts the results.

use std::io::Cursor;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::confusion::ConfusionMatrix;
use super::corruption::Corruption;
use super::dataset::{Dataset, DatasetError, Sample, Truth, unreadable};
use super::metrics::Metrics;
use super::record::{ImageRecord, Recorder, StateError};
use crate::engine::{
    Engine, EngineError, ImageSource, OutputOptions, SegmentFields, SegmentOptions, SegmentRequest, Timings,
};
use crate::image::{self, DecodeError, Orientation};
use crate::label_map::{EncodedLabelMap, LabelMapFormat};
use crate::labeller::ModelInfo;
use crate::scores::UNLABELLED;
use crate::support::{read_regular_file, run_blocking};

/// Why a run ended early. Images measured before stay recorded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluationError {
    /// An image or a truth cannot be used.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The engine refused or failed.
    #[error("{}: {source}", image.display())]
    Segment {
        /// The image.
        image: PathBuf,
        /// The engine's error.
        source: EngineError,
    },
    /// The state file cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// A record in the state file counts classes that the data set does not have.
    #[error("the state has counts of other classes for {image:?}; delete it")]
    ForeignRecord {
        /// The sample's name.
        image: String,
    },
}

/// What a run asks for each image: a request without its image, and a corruption of the image.
#[derive(Debug, Clone)]
pub struct EvaluationTask {
    /// The fields of the request.
    pub fields: SegmentFields,
    /// The options that the fields resolve to.
    pub options: SegmentOptions,
    /// The names of the classes, in the order of their ids.
    pub names: Vec<String>,
    /// The corruption applied to each image before the request.
    pub corruption: Option<Corruption>,
}

/// A run of a task on every image of a data set.
pub struct EvaluationRun<'a> {
    /// The engine that answers the requests.
    pub engine: &'a Arc<Engine>,
    /// The images.
    pub dataset: &'a Dataset,
    /// The task for each image.
    pub task: &'a EvaluationTask,
    /// The longest time that one image may take.
    pub patience: Duration,
    /// Largest width times height of an image to be corrupted. The engine checks its own limit.
    pub max_image_pixels: u64,
    /// Whether images that cannot be read, or whose truths cannot, are skipped and listed. Otherwise they end the run.
    pub skip_unreadable: bool,
}

/// The results of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct EvaluationResults {
    /// One record per measured image, in the data set's order.
    pub records: Vec<ImageRecord>,
    /// The images that were skipped, in the data set's order.
    pub skipped: Vec<SkippedImage>,
    /// The metrics over all images.
    pub metrics: Metrics,
}

/// An image that was skipped because it or its truth cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SkippedImage {
    /// The sample's name.
    pub image: String,
    /// The cause, which names the file.
    pub reason: String,
}

impl EvaluationError {
    /// Returns whether a file is at fault whose contents cannot be read at all.
    fn is_unreadable(&self) -> bool {
        match self {
            Self::Dataset(error) => matches!(
                error,
                DatasetError::Unreadable { .. } | DatasetError::InvalidTruth { .. }
            ),
            Self::Segment { source, .. } => matches!(source, EngineError::Image(_)),
            Self::State(_) | Self::ForeignRecord { .. } => false,
        }
    }
}

/// The form of records. Records of another form do not count as those of the same settings.
const RECORDS: &str = "records 2";

impl EvaluationTask {
    /// Returns everything that the counts depend on except the files, as text.
    fn settings(&self, model: &ModelInfo) -> String {
        let (version, weights, precision) = (crate::VERSION, &model.weights_sha256, model.precision.name());
        let (request, corruption) = (&self.fields, self.corruption);
        format!(
            "{RECORDS} {version} {weights} {precision} {request:?} {:?} {corruption:?}",
            self.options
        )
    }
}

/// Returns a digest of a task's settings and a sample's files (paths, sizes, modification times), as 32 hexadecimal
/// digits.
fn key(settings: &str, sample: &Sample) -> Result<String, DatasetError> {
    let mut digest = Sha256::new_with_prefix(settings);
    for path in [&sample.image, &sample.truth] {
        let metadata = path.metadata().map_err(unreadable(path))?;
        let changed = metadata.modified().map_err(unreadable(path))?;
        digest.update(format!("{} {} {changed:?}", path.display(), metadata.len()));
    }
    digest.update(format!("{:?}", sample.form));
    Ok(hex::encode(&digest.finalize()[..16]))
}

impl EvaluationRun<'_> {
    /// Measures every image that `recorder` does not have, and sums the counts of all images. Calls `measured` after
    /// each image, new or known.
    ///
    /// # Errors
    /// [`EvaluationError`] for the first image that cannot be measured.
    pub async fn all(
        &self,
        model: &ModelInfo,
        recorder: &mut Recorder,
        mut measured: impl FnMut(),
    ) -> Result<EvaluationResults, EvaluationError> {
        let settings = self.task.settings(model);
        let mut records = Vec::with_capacity(self.dataset.samples.len());
        let mut skipped = Vec::new();
        let mut sum = ConfusionMatrix::new(self.task.names.len());
        for sample in &self.dataset.samples {
            match self.recorded(&settings, sample, recorder).await {
                Ok(record) if !sum.add(&record.pairs) => {
                    return Err(EvaluationError::ForeignRecord { image: record.image });
                }
                Ok(record) => records.push(record),
                Err(error) if self.skip_unreadable && error.is_unreadable() => skipped.push(SkippedImage {
                    image: sample.name.clone(),
                    reason: error.to_string(),
                }),
                Err(error) => return Err(error),
            }
            measured();
        }
        Ok(EvaluationResults {
            records,
            skipped,
            metrics: Metrics::of(&sum),
        })
    }

    /// Returns the record of an image, measured now unless `recorder` has it.
    async fn recorded(
        &self,
        settings: &str,
        sample: &Sample,
        recorder: &mut Recorder,
    ) -> Result<ImageRecord, EvaluationError> {
        let key = key(settings, sample)?;
        if let Some(record) = recorder.get(&key) {
            return Ok(record.clone());
        }
        let (_, record) = self.measure(sample).await?;
        recorder.add(key, record.clone())?;
        Ok(record)
    }

    /// Measures one image. Returns its label map, `[height, width]` class ids or [`UNLABELLED`], and its record.
    ///
    /// # Errors
    /// [`EvaluationError`] when the image or its truth cannot be used, or the engine refuses the request or fails.
    pub async fn measure(&self, sample: &Sample) -> Result<(Measured, ImageRecord), EvaluationError> {
        let classes = self.task.names.len();
        let (image, truth, orientation) = self.read(sample).await?;
        let mut fields = self.task.fields.clone();
        fields.output = OutputOptions {
            label_map: LabelMapFormat::Raw,
            ..OutputOptions::default()
        };
        fields.features.deadline_seconds = Some(self.patience.as_secs_f64());
        let request = SegmentRequest {
            image: ImageSource::Upload(image.clone()),
            fields,
        };
        let segmentation = self.engine.segment_for_command(request).await;
        let segmentation = segmentation.map_err(|source| EvaluationError::Segment {
            image: sample.image.clone(),
            source,
        })?;
        let size = (segmentation.width, segmentation.height);
        if size != (truth.width, truth.height) {
            return Err(EvaluationError::Dataset(DatasetError::SizeMismatch {
                image: sample.image.clone(),
                image_size: size,
                orientation,
                truth: sample.truth.clone(),
                truth_size: (truth.width, truth.height),
            }));
        }
        let EncodedLabelMap::Raw(rows) = segmentation.label_map else {
            unreachable!("rows of class ids were asked for");
        };
        let no_class = if classes <= 255 { 255 } else { UNLABELLED };
        let predicted: Vec<u16> = rows
            .into_iter()
            .flatten()
            .map(|label| if label == no_class { UNLABELLED } else { label })
            .collect();
        let record = ImageRecord {
            image: sample.name.clone(),
            milliseconds: milliseconds(&segmentation.timings),
            pairs: ConfusionMatrix::of_image(classes, &truth.labels, &predicted).pairs(),
            uncounted_pixels: truth.labels.iter().filter(|label| **label == UNLABELLED).count() as u64,
            is_turned: orientation != 1,
        };
        let measured = Measured {
            image,
            truth,
            predicted,
        };
        Ok((measured, record))
    }

    /// An image, corrupted if the task says so, its truth, and the EXIF orientation by which it was turned.
    async fn read(&self, sample: &Sample) -> Result<(Bytes, Truth, u8), EvaluationError> {
        let (files, classes) = (sample.clone(), self.task.names.len());
        let (corruption, max_pixels) = (self.task.corruption, self.max_image_pixels);
        let orientation = self.task.options.input.orientation;
        run_blocking(move || {
            let mut image = read_regular_file(&files.image).map_err(unreadable(&files.image))?;
            // An image that cannot be read is refused by the engine.
            let turned = match orientation {
                Orientation::Exif => image::read_header(&image, orientation, max_pixels).map_or(1, |it| it.orientation),
                Orientation::Stored => 1,
            };
            if let Some(corruption) = corruption {
                image = corrupted(&image, orientation, corruption, &files.name, max_pixels).map_err(|source| {
                    EvaluationError::Segment {
                        image: files.image.clone(),
                        source: source.into(),
                    }
                })?;
            }
            Ok((Bytes::from(image), Truth::read(&files, classes)?, turned))
        })
        .await
    }
}

/// An image with its truth and its label map.
#[derive(Debug, Clone)]
pub struct Measured {
    /// The encoded image, as sent to the engine.
    pub image: Bytes,
    /// The image's truth.
    pub truth: Truth,
    /// Class id per pixel or [`UNLABELLED`], `[height, width]` of the truth, row-major.
    pub predicted: Vec<u16>,
}

/// Returns an encoded image, corrupted, as a PNG.
fn corrupted(
    image: &[u8],
    orientation: Orientation,
    corruption: Corruption,
    name: &str,
    max_pixels: u64,
) -> Result<Vec<u8>, DecodeError> {
    let pixels = corruption.apply(&image::decode(image, orientation, max_pixels)?, name);
    let mut file = Cursor::new(Vec::new());
    pixels
        .write_to(&mut file, ::image::ImageFormat::Png)
        .expect("writing an RGB image to memory cannot fail");
    Ok(file.into_inner())
}

/// Returns the milliseconds that an image costs a server that has the texts' embeddings: all stages except waiting,
/// text and encoding.
fn milliseconds(timings: &Timings) -> f64 {
    let seconds =
        timings.decode_seconds + timings.preprocess_seconds + timings.model_seconds + timings.label_map_seconds;
    // Rounded to the microsecond, because more digits mean nothing.
    (seconds * 1e6).round() / 1e3
}
