//! Measuring label maps against truths: data sets, corruptions, runs over an engine, figures, reports.
//!
//! Owns what a data set is, how its truths are read, how images are corrupted, what is counted, and what the counts say. A
//! run asks the same [`Engine`](crate::engine::Engine) that answers HTTP, so its figures are those of what is served. Knows
//! nothing of tensors.

mod confusion;
mod contact_sheet;
mod corruption;
mod dataset;
mod metrics;
mod record;
mod report;
mod run;

pub use confusion::{ConfusionMatrix, PairCount};
pub use contact_sheet::contact_sheet;
pub use corruption::{Corruption, CorruptionKind};
pub use dataset::{Dataset, DatasetError, FolderLayout, LabelMapping, Layout, Sample, Truth};
pub use metrics::{ClassMetrics, Metrics, ZeroShot};
pub use record::{ImageRecord, Recorder, StateError};
pub use report::{ClassReport, ImageReport, Report, Subject, Summary, table};
pub use run::{EvaluationError, EvaluationResults, EvaluationRun, EvaluationTask, Measured};
