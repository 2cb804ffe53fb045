//! Pseudo-labels of whole images: asked of the engine once, as requests, and kept in files from which views cut theirs.
//!
//! Owns the files and their order. What a label map is made of, and its limits, are the engine's.

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

/// The folder of label maps, in a run's folder.
pub const LABELS_FOLDER: &str = "pseudo-labels";

/// What the folder's label maps depend on.
const PLAN_FILE: &str = "plan.json";

/// The part of a plan that decides label maps. Others may change before a run's first checkpoint, and the labels stay.
#[derive(Serialize)]
struct LabelPlan<'a> {
    version: &'static str,
    vocabulary: &'a PlannedVocabulary,
    teacher: &'a PlannedTeacher,
    confidence: f32,
    data: &'a PlannedData,
    /// The student's number of each of the teacher's texts.
    texts: &'a [u16],
}

/// Label maps of a run's images, `0.png` being the first image's. Each is written whole or not at all.
#[derive(Debug, Clone)]
pub struct LabelCache {
    folder: PathBuf,
    /// What the values mean: the student's query for each.
    taught: Vec<u16>,
}

impl LabelCache {
    /// The label maps in a run's folder, or a place for them. Their values are places in `taught`, which holds queries of the
    /// student.
    ///
    /// # Errors
    /// When label maps of another plan are there, or a file cannot be read or written.
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
        if plan_file.exists() {
            let begun = fs::read(&plan_file).map_err(file_error(&plan_file))?;
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

    /// Whether all of the first `images` images are labelled.
    pub fn is_complete(&self, images: usize) -> bool {
        (0..images).all(|image| self.file(image).exists())
    }

    /// Asks the engine, with these fields of a request, for the label map of each image that has none yet: an indexed PNG. `stop` is asked before each image, `labelled` told of
    /// each, known or new. False when `stop` said so before the end.
    ///
    /// # Errors
    /// When the engine refuses or fails, or a file cannot be read or written. What was labelled stays.
    pub async fn fill(
        &self,
        engine: &Arc<Engine>,
        fields: &SegmentFields,
        files: &[PathBuf],
        stop: impl Fn() -> bool,
        mut labelled: impl FnMut(),
    ) -> Result<bool, TrainError> {
        let mut fields = fields.clone();
        fields.output = OutputOptions {
            label_map: LabelMapFormat::Png,
            confidence_map: false,
        };
        for (image, path) in files.iter().enumerate() {
            let file = self.file(image);
            if !file.exists() {
                if stop() {
                    return Ok(false);
                }
                let request = SegmentRequest {
                    image: ImageSource::Upload(Bytes::from(fs::read(path).map_err(file_error(path))?)),
                    fields: fields.clone(),
                };
                let segmentation = engine.segment(request).await;
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
        Ok(true)
    }

    /// The student's query per pixel of an image, or [`UNLABELLED`].
    pub(super) fn read(&self, image: usize) -> Result<Truth, TrainError> {
        let sample = Sample {
            name: image.to_string(),
            image: PathBuf::new(),
            truth: self.file(image),
            labels: LabelMapping::Identity,
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
