//! Pseudo-labels of whole images. The engine labels each image once, as a request. Views cut their labels out of the
//! stored label maps.
//!
//! This file owns the label map files and their order. The engine owns the making of label maps and its limits.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;

use super::{TrainError, differences, file_error, write};
use crate::engine::{Engine, ImageSource, OutputOptions, SegmentFields, SegmentRequest};
use crate::evaluation::{LabelMapping, Sample, Truth};
use crate::label_map::{EncodedLabelMap, LabelMapFormat};
use crate::models::student::{Plan, PlannedData, PlannedTeacher, PlannedVocabulary};
use crate::scores::UNLABELLED;
use crate::support::{read_regular_file, remove_remainders};

/// The folder of label maps within a run's folder.
pub const LABELS_FOLDER: &str = "pseudo-labels";

/// The file that holds what the label maps depend on.
const PLAN_FILE: &str = "plan.json";

/// The part of a plan that decides label maps. If other parts change before a run's first checkpoint, the label maps
/// stay valid.
#[derive(Serialize)]
struct LabelPlan<'a> {
    version: &'static str,
    vocabulary: &'a PlannedVocabulary,
    teacher: &'a PlannedTeacher,
    confidence: f32,
    data: &'a PlannedData,
    /// The student's query for each of the teacher's texts.
    texts: &'a [u16],
}

/// The label maps of a run's images. `0.png` belongs to the first image. Each file is written completely or not at all.
#[derive(Debug, Clone)]
pub struct LabelCache {
    folder: PathBuf,
    /// The student's query for each value of the label maps.
    taught: Vec<u16>,
}

impl LabelCache {
    /// Opens the folder of label maps in a run's folder, or creates it. The values of the label maps are indices of
    /// `taught`, which holds queries of the student.
    ///
    /// # Errors
    /// [`TrainError`] when the folder holds label maps of another plan, or a file cannot be read or written.
    pub fn open(run: &Path, plan: &Plan, taught: &[u16]) -> Result<Self, TrainError> {
        let folder = run.join(LABELS_FOLDER);
        let plan_file = folder.join(PLAN_FILE);
        let plan = serde_json::to_value(LabelPlan {
            version: crate::VERSION,
            vocabulary: &plan.vocabulary,
            teacher: &plan.teacher,
            confidence: plan.settings.confidence,
            data: &plan.data,
            texts: taught,
        });
        let plan = plan.expect("a plan is plain data");
        fs::create_dir_all(&folder).map_err(file_error(&folder))?;
        remove_remainders(&folder);
        if plan_file.exists() {
            let begun = read_regular_file(&plan_file).map_err(file_error(&plan_file))?;
            let begun: Value = serde_json::from_slice(&begun).map_err(|error| TrainError::Damaged {
                path: plan_file.clone(),
                reason: error.to_string(),
            })?;
            if let Some(different) = differences(&begun, &plan) {
                return Err(TrainError::OtherLabels { folder, different });
            }
        } else {
            write(&plan_file, format!("{plan:#}\n").as_bytes())?;
        }
        Ok(Self {
            folder,
            taught: taught.to_vec(),
        })
    }

    /// Returns whether all of the first `images` images have a label map.
    pub fn is_complete(&self, images: usize) -> bool {
        (0..images).all(|image| self.file(image).exists())
    }

    /// Asks the engine for the label map of each image that has none, with these fields of a request, as an indexed
    /// PNG. Calls `labelled` after each image, new or known. Finished label maps stay when the future is dropped.
    ///
    /// # Errors
    /// [`TrainError`] when the engine refuses a request or fails, or a file cannot be read or written. Finished label
    /// maps stay.
    pub async fn fill(
        &self,
        engine: &Arc<Engine>,
        fields: &SegmentFields,
        files: &[PathBuf],
        mut labelled: impl FnMut(),
    ) -> Result<(), TrainError> {
        let mut fields = fields.clone();
        fields.output = OutputOptions {
            label_map: LabelMapFormat::Png,
            ..OutputOptions::default()
        };
        for (image, path) in files.iter().enumerate() {
            let file = self.file(image);
            if !file.exists() {
                let request = SegmentRequest {
                    image: ImageSource::Upload(Bytes::from(read_regular_file(path).map_err(file_error(path))?)),
                    fields: fields.clone(),
                };
                let segmentation = engine.segment_for_command(request).await;
                let segmentation = segmentation.map_err(|source| TrainError::Segment {
                    path: path.clone(),
                    source: Box::new(source),
                })?;
                let EncodedLabelMap::Png(bytes) = segmentation.label_map else {
                    unreachable!("a PNG was asked for");
                };
                write(&file, &bytes)?;
            }
            labelled();
        }
        Ok(())
    }

    /// Returns the student's query of every pixel of an image, or [`UNLABELLED`].
    pub(super) fn read(&self, image: usize) -> Result<Truth, TrainError> {
        let sample = Sample {
            name: image.to_string(),
            image: PathBuf::new(),
            truth: self.file(image),
            form: LabelMapping::Identity.into(),
        };
        let mut labels = Truth::read(&sample, self.taught.len())?;
        for label in &mut labels.labels {
            *label = self.taught.get(usize::from(*label)).copied().unwrap_or(UNLABELLED);
        }
        Ok(labels)
    }

    fn file(&self, image: usize) -> PathBuf {
        self.folder.join(format!("{image}.png"))
    }
}
