//! Pseudo-labels: what a labeller says of a view, where it is sure enough.

use crate::dense::DenseOptions;
use crate::engine::{Labeller, LabellerError};
use crate::label_map::{LabelMapOptions, QueryOwner, UNLABELLED, label_map};
use crate::vocabulary::Classifier;

use super::pseudo_labels::LabelCache;
use super::views::View;

/// Whoever teaches, and what it is asked.
pub struct Teacher<'a> {
    /// Scores views.
    pub labeller: &'a mut dyn Labeller,
    /// The texts that views are scored against.
    pub classifier: &'a Classifier,
    /// How.
    pub options: DenseOptions,
    /// The label maps of whole images that take the place of asking for each view's.
    pub cache: Option<&'a LabelCache>,
    /// Probability from which a pixel's best text is its label, 0 to 1.
    pub confidence: f32,
}

impl Teacher<'_> {
    /// One label per pixel of the view, row by row: the number of a text, or [`UNLABELLED`] where none is sure enough or there
    /// is no image. Every text counts for itself, a background's name like a class's.
    pub(super) fn labels(&mut self, view: &View) -> Result<Vec<u16>, LabellerError> {
        let mut classifier = self.classifier.clone();
        classifier.owners = (0..).map(QueryOwner::Class).take(classifier.queries).collect();
        let scores = self.labeller.score(&view.plain, &classifier, &self.options)?;
        let (width, height) = (view.plain.image_width, view.plain.image_height);
        let options = LabelMapOptions {
            width: u32::try_from(width).expect("a view is some pixels wide"),
            height: u32::try_from(height).expect("a view is some pixels high"),
            classes: classifier.queries,
            background_label: UNLABELLED,
            background_threshold: self.confidence,
            smallest_area: 0.0,
            confidence_map: false,
        };
        let labels = label_map(&scores.map, &classifier.owners, &options).labels;
        let labels = labels.into_iter().enumerate();
        let labels = labels.map(|(pixel, label)| if view.place.shows(pixel) { label } else { UNLABELLED });
        Ok(labels.collect())
    }
}
