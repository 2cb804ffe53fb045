//! What was odd about a run, or about the labels that a student learns from: things that often make figures other ones
//! than were meant.

use serde::Serialize;

use super::dataset::{Dataset, LeftOut};
use super::run::EvaluationResults;

/// Share of the truths' pixels that do not count from which a warning says so.
const LARGE_SHARE: f64 = 0.25;

/// Names that a warning lists.
const LISTED: usize = 5;

/// Something odd about a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RunWarning {
    /// The kind. A code never changes its meaning.
    pub code: RunWarningCode,
    /// What it means for this run.
    pub message: String,
}

/// The kind of a [`RunWarning`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RunWarningCode {
    /// Classes have no pixel in any truth.
    ClassesWithoutTruth,
    /// A large share of the truths' pixels does not count.
    PixelsNotCounted,
    /// Names in the truths are no classes, so that their pixels do not count.
    NamesNotCounted,
    /// Images were turned by their EXIF orientation.
    ImagesTurned,
    /// Files in the folders were left out.
    FilesLeftOut,
    /// Images or truths could not be read.
    ImagesSkipped,
    /// The class list looks like another form of list.
    ClassList,
}

impl EvaluationResults {
    /// Returns what was odd about the run. `names` are those of the classes. `is_published` says that the data set
    /// itself leaves pixels uncounted.
    pub fn warnings(&self, dataset: &Dataset, names: &[String], is_published: bool) -> Vec<RunWarning> {
        let mut warnings = Vec::new();
        let classes = self.metrics.classes.iter().zip(names);
        let truth_pixels: Vec<(&str, u64)> = classes.map(|(class, name)| (&**name, class.truth_pixels)).collect();
        warnings.extend(classes_without_truth(&truth_pixels));
        let share = self.uncounted_share().filter(|_| !is_published);
        warnings.extend(share.and_then(pixels_not_counted));
        let mut warn = |code, message: String| warnings.push(RunWarning { code, message });
        if !dataset.uncounted_names.is_empty() {
            let names: Vec<&str> = dataset.uncounted_names.iter().map(String::as_str).collect();
            let (count, listed) = (names.len(), listed(&names));
            let message =
                format!("{count} names of the truths are no classes, and their pixels do not count: {listed}");
            warn(RunWarningCode::NamesNotCounted, message);
        }
        let turned = self.records.iter().filter(|record| record.is_turned).count();
        if let Some(RunWarning { code, message }) = images_turned(turned) {
            warn(code, message);
        }
        for message in dataset.left_out.messages() {
            warn(RunWarningCode::FilesLeftOut, message);
        }
        if !self.skipped.is_empty() {
            let images: Vec<&str> = self.skipped.iter().map(|skipped| skipped.image.as_str()).collect();
            let message = format!(
                "{} images or their truths cannot be read: {}",
                images.len(),
                listed(&images)
            );
            warn(RunWarningCode::ImagesSkipped, message);
        }
        warnings
    }

    /// Returns the share of the truths' pixels that do not count; `None` without pixels.
    pub fn uncounted_share(&self) -> Option<f64> {
        let uncounted: u64 = self.records.iter().map(|record| record.uncounted_pixels).sum();
        let pairs = self.records.iter().flat_map(|record| &record.pairs);
        let counted: u64 = pairs.map(|pair| pair.pixels).sum();
        (uncounted + counted > 0).then(|| uncounted as f64 / (uncounted + counted) as f64)
    }
}

/// Returns a warning if a class has no pixel in any truth. `classes` has the name and the number of true pixels of
/// each.
pub fn classes_without_truth(classes: &[(&str, u64)]) -> Option<RunWarning> {
    let absent: Vec<&str> = classes
        .iter()
        .filter(|(_, pixels)| *pixels == 0)
        .map(|(name, _)| *name)
        .collect();
    let (count, all, listed) = (absent.len(), classes.len(), listed(&absent));
    (count > 0).then(|| RunWarning {
        code: RunWarningCode::ClassesWithoutTruth,
        message: format!("{count} of {all} classes have no pixel in any truth: {listed}"),
    })
}

/// Returns a warning if a large share of the truths' pixels, 0 to 1, does not count.
pub fn pixels_not_counted(share: f64) -> Option<RunWarning> {
    (share >= LARGE_SHARE).then(|| RunWarning {
        code: RunWarningCode::PixelsNotCounted,
        message: format!("{:.1} % of the truths' pixels do not count", 100.0 * share),
    })
}

/// Returns a warning if images were turned by their EXIF orientation, of which there are `count`.
pub fn images_turned(count: usize) -> Option<RunWarning> {
    (count > 0).then(|| RunWarning {
        code: RunWarningCode::ImagesTurned,
        message: format!(
            "{count} images were turned by their EXIF orientation; for truths that were drawn on the pixels as stored, \
             the orientation is `stored`"
        ),
    })
}

impl LeftOut {
    /// Returns what was left out, in words.
    pub fn messages(&self) -> Vec<String> {
        let counts = [
            (self.images_without_truth, "images have no truth"),
            (self.truths_without_image, "truths have no image"),
            (self.hidden_images, "images are hidden (.NAME)"),
            (
                self.unread_formats,
                "images have a format that is not read (HEIC, AVIF, ...)",
            ),
        ];
        let left_out = counts.into_iter().filter(|(count, _)| *count > 0);
        left_out
            .map(|(count, what)| format!("{count} {what} and are left out"))
            .collect()
    }
}

fn listed(names: &[&str]) -> String {
    let mut text = names[..names.len().min(LISTED)].join(", ");
    if names.len() > LISTED {
        text.push_str(", ...");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::confusion::ConfusionMatrix;
    use super::super::metrics::Metrics;
    use super::super::record::ImageRecord;
    use super::super::run::SkippedImage;
    use super::*;

    fn results(pairs: &[(u16, u16, u64)], uncounted_pixels: u64, is_turned: bool) -> EvaluationResults {
        let record = ImageRecord {
            image: "a".to_owned(),
            milliseconds: 1.0,
            pairs: pairs.iter().copied().map(Into::into).collect(),
            uncounted_pixels,
            is_turned,
        };
        let mut matrix = ConfusionMatrix::new(7);
        assert!(matrix.add(&record.pairs));
        EvaluationResults {
            records: vec![record],
            skipped: Vec::new(),
            metrics: Metrics::of(&matrix),
        }
    }

    fn said(results: &EvaluationResults, dataset: &Dataset, is_published: bool) -> Vec<String> {
        let names: Vec<String> = ["a", "b", "c", "d", "e", "f", "g"].map(str::to_owned).to_vec();
        let warnings = results.warnings(dataset, &names, is_published);
        warnings.into_iter().map(|warning| warning.message).collect()
    }

    fn dataset() -> Dataset {
        Dataset {
            samples: Vec::new(),
            left_out: LeftOut::default(),
            uncounted_names: Vec::new(),
        }
    }

    #[test]
    fn a_run_in_which_all_counts_has_no_warnings() {
        let all: Vec<_> = (0..7).map(|class| (class, 0, 5)).collect();
        assert_eq!(said(&results(&all, 0, false), &dataset(), false), [""; 0]);
    }

    #[test]
    fn what_makes_figures_other_ones_is_said() {
        // A mask of 0 and 255 for two classes, as in many data sets.
        let mut odd = results(&[(0, 0, 60)], 40, true);
        assert_eq!(odd.uncounted_share(), Some(0.4));
        odd.skipped.push(SkippedImage {
            image: "broken".to_owned(),
            reason: "cut short".to_owned(),
        });
        let folders = Dataset {
            left_out: LeftOut {
                images_without_truth: 1,
                truths_without_image: 2,
                hidden_images: 3,
                unread_formats: 4,
            },
            uncounted_names: vec!["tree".to_owned()],
            ..dataset()
        };
        let expected = [
            "6 of 7 classes have no pixel in any truth: b, c, d, e, f, ...",
            "40.0 % of the truths' pixels do not count",
            "1 names of the truths are no classes, and their pixels do not count: tree",
            "1 images were turned by their EXIF orientation; for truths that were drawn on the pixels as stored, the \
             orientation is `stored`",
            "1 images have no truth and are left out",
            "2 truths have no image and are left out",
            "3 images are hidden (.NAME) and are left out",
            "4 images have a format that is not read (HEIC, AVIF, ...) and are left out",
            "1 images or their truths cannot be read: broken",
        ];
        assert_eq!(said(&odd, &folders, false), expected);
        assert!(!said(&odd, &folders, true).contains(&expected[1].to_owned()));
    }
}
