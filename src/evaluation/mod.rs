//! Measures label maps against truths: data sets, corruptions, runs over an engine, metrics, reports.
//!
//! This room owns the data sets, the reading of truths, the corruption of images, the counts and the metrics. A run
//! asks the same [`Engine`](crate::engine::Engine) that answers HTTP, so its metrics are those of the server. This room
//! knows nothing of tensors.

mod confusion;
mod contact_sheet;
mod corruption;
mod dataset;
mod metrics;
mod record;
mod report;
mod run;
mod warnings;

pub use confusion::{ConfusionMatrix, PairCount};
pub use contact_sheet::contact_sheet;
pub use corruption::{Corruption, CorruptionKind};
pub use dataset::{
    CocoTruths, CvatTruths, Dataset, DatasetError, DrawingOrder, FolderLayout, ImageFile, LabelMapping,
    LabelStudioTruths, Layout, LeftOut, Legend, LegendError, Sample, Shape, Shapes, Truth, TruthCode, TruthFiles,
    TruthForm, find_images,
};
pub use metrics::{ClassMetrics, Metrics, ZeroShot};
pub use record::{ImageRecord, Recorder, StateError};
pub use report::{ClassReport, ImageReport, Report, Subject, Summary, table};
pub use run::{EvaluationError, EvaluationResults, EvaluationRun, EvaluationTask, Measured, SkippedImage};
pub use warnings::{RunWarning, RunWarningCode, classes_without_truth, images_turned, pixels_not_counted};
