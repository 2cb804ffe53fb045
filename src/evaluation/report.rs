//! Reports of a run, for people (Markdown) and for programs (JSON).

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;

use super::confusion::ConfusionMatrix;
use super::corruption::Corruption;
use super::dataset::LeftOut;
use super::metrics::{ClassMetrics, Metrics, ZeroShot};
use super::record::ImageRecord;
use super::run::{EvaluationResults, EvaluationTask, SkippedImage};
use super::warnings::RunWarning;
use crate::labeller::ModelInfo;

/// What was measured: the model and the data set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Subject {
    /// Version of this program.
    pub maskclip: &'static str,
    /// The model's name.
    pub model: String,
    /// Architecture of the model.
    pub architecture: String,
    /// SHA-256 of the model's weights.
    pub weights_sha256: String,
    /// Element type of the model's arithmetic.
    pub precision: &'static str,
    /// The device that the model ran on.
    pub device: String,
    /// Name of the data set's layout.
    pub layout: &'static str,
    /// Root folder of the data set.
    pub root: String,
    /// Number of measured images.
    pub images: usize,
    /// Numbers of files in the folders that are not measured.
    #[serde(flatten)]
    pub left_out: LeftOut,
}

impl Subject {
    /// Creates a subject of this version with a model and without a data set.
    pub fn new(model: &ModelInfo) -> Self {
        Self {
            maskclip: crate::VERSION,
            model: model.name.clone(),
            architecture: model.architecture.clone(),
            weights_sha256: model.weights_sha256.clone(),
            precision: model.precision.name(),
            device: model.device.clone(),
            layout: "",
            root: String::new(),
            images: 0,
            left_out: LeftOut::default(),
        }
    }
}

/// The metrics of one run, without those of its classes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Mean intersection over union, 0 to 1.
    pub mean_iou: Option<f64>,
    /// Share of the counted pixels that were predicted correctly, 0 to 1.
    pub pixel_accuracy: Option<f64>,
    /// Mean over the classes in the truth of the share of their pixels that was predicted correctly, 0 to 1.
    pub mean_accuracy: Option<f64>,
    /// The zero-shot metrics, if classes were named as unseen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zero_shot: Option<ZeroShot>,
    /// Share of the truths' pixels that do not count, 0 to 1.
    pub uncounted_share: Option<f64>,
    /// The images that were skipped because they or their truths cannot be read.
    pub skipped: Vec<SkippedImage>,
    /// Median over the images of the milliseconds for decoding, preprocessing, the model and the label map.
    pub median_milliseconds: Option<f64>,
}

impl Summary {
    /// Returns the metrics of a run. `unseen`, `[classes]`, says which classes are unseen.
    pub fn of(results: &EvaluationResults, unseen: Option<&[bool]>) -> Self {
        let metrics = &results.metrics;
        Self {
            mean_iou: metrics.mean_iou,
            pixel_accuracy: metrics.pixel_accuracy,
            mean_accuracy: metrics.mean_accuracy,
            zero_shot: unseen.map(|unseen| metrics.zero_shot(unseen)),
            uncounted_share: results.uncounted_share(),
            skipped: results.skipped.clone(),
            median_milliseconds: median(results.records.iter().map(|record| record.milliseconds).collect()),
        }
    }
}

/// The full report of one run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// What was measured.
    #[serde(flatten)]
    pub subject: Subject,
    /// The request for each image, in the form that `POST /v1/segment` takes.
    pub request: Value,
    /// The corruption applied to each image before the request.
    pub corruption: Option<Corruption>,
    /// The metrics over all images.
    #[serde(flatten)]
    pub summary: Summary,
    /// What was odd about the run.
    pub warnings: Vec<RunWarning>,
    /// The metrics per class, in the order of their ids.
    pub classes: Vec<ClassReport>,
    /// The metrics per image, worst first.
    pub per_image: Vec<ImageReport>,
}

/// The metrics of a class with its name.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassReport {
    /// The class's name.
    pub name: String,
    /// The class's metrics.
    #[serde(flatten)]
    pub metrics: ClassMetrics,
}

/// The metrics of an image.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ImageReport {
    /// The sample's name.
    pub image: String,
    /// Mean intersection over union of the classes in the image, 0 to 1; `None` if no pixel counts.
    pub mean_iou: Option<f64>,
    /// Milliseconds that the engine spent on the image.
    pub milliseconds: f64,
}

impl Report {
    /// Creates the report of a run.
    pub fn new(
        subject: Subject,
        request: Value,
        task: &EvaluationTask,
        results: &EvaluationResults,
        unseen: Option<&[bool]>,
        warnings: Vec<RunWarning>,
    ) -> Self {
        let classes = results.metrics.classes.iter().zip(&task.names);
        let images = results.records.len();
        Self {
            subject: Subject { images, ..subject },
            request,
            corruption: task.corruption,
            summary: Summary::of(results, unseen),
            warnings,
            classes: classes
                .map(|(metrics, name)| ClassReport {
                    name: name.clone(),
                    metrics: *metrics,
                })
                .collect(),
            per_image: worst_first(task.names.len(), &results.records),
        }
    }

    /// Returns the report as a Markdown document.
    pub fn markdown(&self) -> String {
        let subject = &self.subject;
        let mut text = format!(
            "# {} on {}{}\n\n{} ({}), {}, {}; {} images of {}.\n\n{}\n",
            subject.model,
            subject.layout,
            self.corruption
                .map_or(String::new(), |corruption| format!(", {corruption}")),
            subject.architecture,
            &subject.weights_sha256[..12],
            subject.precision,
            subject.device,
            subject.images,
            subject.root,
            self.summary_table(),
        );
        for RunWarning { message, .. } in &self.warnings {
            writeln!(text, "- {message}").expect("writing to a string cannot fail");
        }
        if !self.warnings.is_empty() {
            text.push('\n');
        }
        text.push_str("| class | IoU | accuracy | truth pixels | predicted pixels |\n|---|---:|---:|---:|---:|\n");
        for ClassReport { name, metrics } in &self.classes {
            let (iou, accuracy) = (percent(metrics.iou), percent(metrics.accuracy));
            let (truth, predicted) = (metrics.truth_pixels, metrics.predicted_pixels);
            writeln!(text, "| {} | {iou} | {accuracy} | {truth} | {predicted} |", cell(name))
                .expect("writing to a string cannot fail");
        }
        text
    }

    /// Returns the metrics as a Markdown table with one row.
    pub fn summary_table(&self) -> String {
        table(&[], &[(Vec::new(), &self.summary)])
    }
}

/// Returns a Markdown table that compares runs. It has a column per varying setting, and the metrics in percent.
pub fn table(settings: &[&str], rows: &[(Vec<String>, &Summary)]) -> String {
    let zero_shot = rows.iter().any(|(_, summary)| summary.zero_shot.is_some());
    let mut figures = vec!["mIoU", "pixel accuracy", "mean accuracy"];
    if zero_shot {
        figures.extend(["seen mIoU", "unseen mIoU", "hIoU"]);
    }
    figures.push("median ms");
    let heading = settings.iter().chain(&figures).map(|name| format!(" {name} |"));
    let rule = settings.iter().map(|_| "---|").chain(figures.iter().map(|_| "---:|"));
    let mut text = format!("|{}\n|{}\n", heading.collect::<String>(), rule.collect::<String>());
    for (values, summary) in rows {
        let mut cells: Vec<String> = values.iter().map(|value| cell(value)).collect();
        cells.extend([summary.mean_iou, summary.pixel_accuracy, summary.mean_accuracy].map(percent));
        if let Some(figures) = summary.zero_shot {
            cells.extend([figures.seen_iou, figures.unseen_iou, figures.harmonic_iou].map(percent));
        }
        cells.push(
            summary
                .median_milliseconds
                .map_or("-".to_owned(), |milliseconds| format!("{milliseconds:.1}")),
        );
        text.extend(["|".to_owned()]);
        text.extend(cells.iter().map(|cell| format!(" {cell} |")));
        text.push('\n');
    }
    text
}

/// Returns the images ordered by their own mean IoU, worst first. Equal ones are ordered by name; images without a
/// counted pixel come last.
fn worst_first(classes: usize, records: &[ImageRecord]) -> Vec<ImageReport> {
    let mut images: Vec<ImageReport> = records
        .iter()
        .map(|record| {
            let mut matrix = ConfusionMatrix::new(classes);
            let counted = matrix.add(&record.pairs);
            ImageReport {
                image: record.image.clone(),
                mean_iou: counted.then(|| Metrics::of(&matrix).mean_iou).flatten(),
                milliseconds: record.milliseconds,
            }
        })
        .collect();
    let rank = |image: &ImageReport| image.mean_iou.unwrap_or(f64::INFINITY);
    images.sort_by(|one, other| {
        rank(one)
            .total_cmp(&rank(other))
            .then_with(|| one.image.cmp(&other.image))
    });
    images
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// Formats a fraction in percent, with the two decimals that papers print.
fn percent(fraction: Option<f64>) -> String {
    fraction.map_or("-".to_owned(), |fraction| format!("{:.2}", 100.0 * fraction))
}

/// Escapes text for a table cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(image: &str, milliseconds: f64, pairs: &[(u16, u16, u64)]) -> ImageRecord {
        ImageRecord {
            image: image.to_owned(),
            milliseconds,
            pairs: pairs.iter().copied().map(Into::into).collect(),
            uncounted_pixels: 0,
            is_turned: false,
        }
    }

    #[test]
    fn the_worst_images_come_first_and_empty_ones_last() {
        let records = [
            record("good", 1.0, &[(0, 0, 9)]),
            record("empty", 1.0, &[]),
            record("bad", 1.0, &[(0, 1, 9)]),
            record("also bad", 1.0, &[(1, 0, 9)]),
            record("fair", 1.0, &[(0, 0, 5), (0, 1, 5)]),
        ];
        let order: Vec<_> = worst_first(2, &records).into_iter().map(|image| image.image).collect();
        assert_eq!(order, ["also bad", "bad", "fair", "good", "empty"]);
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        assert_eq!(median(vec![9.0, 1.0, 3.0]), Some(3.0));
        assert_eq!(median(vec![9.0, 1.0, 3.0, 4.0]), Some(3.5));
        assert_eq!(median(Vec::new()), None);
    }

    #[test]
    fn a_table_has_the_settings_and_the_figures_in_percent() {
        let summary = Summary {
            mean_iou: Some(0.281_25),
            pixel_accuracy: Some(0.5),
            mean_accuracy: None,
            zero_shot: None,
            uncounted_share: None,
            skipped: Vec::new(),
            median_milliseconds: Some(12.34),
        };
        assert_eq!(
            table(&["attention"], &[(vec!["a|b".to_owned()], &summary)]),
            "| attention | mIoU | pixel accuracy | mean accuracy | median ms |\n\
             |---|---:|---:|---:|---:|\n\
             | a\\|b | 28.12 | 50.00 | - | 12.3 |\n"
        );
    }
}
