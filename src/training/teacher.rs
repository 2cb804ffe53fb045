//! What a student is guided by: a labeller's pseudo-labels, where it is sure enough, and its features; label maps of whole
//! images; given labels.

use tch::Tensor;

use super::given_labels::GivenLabels;
use super::pseudo_labels::LabelCache;
use super::texts::Texts;
use super::views::View;
use crate::dense::{Attention, DenseOptions};
use crate::image::ModelInput;
use crate::label_map::{LabelMapOptions, label_map};
use crate::labeller::{Labeller, LabellerError};
use crate::models::{ClipLabeller, DenseFeatureGrid};
use crate::scores::UNLABELLED;
use crate::support::to_i64;

/// A labeller that can teach: its features are a student's goal, too, where features are distilled.
pub trait TeachingLabeller: Labeller {
    /// The features of one image at its first size, seen as a whole, that are compared with texts.
    ///
    /// # Errors
    /// When the model fails.
    fn unit_grid(&mut self, input: &ModelInput, attention: Attention) -> Result<DenseFeatureGrid, LabellerError>;
}

impl TeachingLabeller for ClipLabeller {
    fn unit_grid(&mut self, input: &ModelInput, attention: Attention) -> Result<DenseFeatureGrid, LabellerError> {
        ClipLabeller::unit_grid(self, input, attention)
    }
}

/// Whoever teaches, and what it is asked.
pub struct Teacher<'a> {
    /// Scores views.
    pub labeller: &'a mut dyn TeachingLabeller,
    /// The texts that views are scored against, and the student's.
    pub texts: &'a Texts,
    /// How.
    pub options: DenseOptions,
    /// The label maps of whole images that take the place of asking for each view's.
    pub cache: Option<&'a LabelCache>,
    /// Labels that go before all others.
    pub given: Option<&'a GivenLabels>,
    /// Probability from which a pixel's best text is its label, 0 to 1.
    pub confidence: f32,
}

impl Teacher<'_> {
    /// One label per pixel of the view, row by row: the number of a student's text, or [`UNLABELLED`] where none is sure enough or
    /// there is no image. Every text counts for itself, a background's name like a class's.
    pub(super) fn labels(&mut self, view: &View) -> Result<Vec<u16>, LabellerError> {
        let classifier = &self.texts.teacher;
        let scores = self.labeller.score(&view.plain, classifier, &self.options)?;
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
        let taught = |label: u16| self.texts.taught.get(usize::from(label)).copied();
        let labels = labels.into_iter().enumerate();
        let labels =
            labels.map(|(pixel, label)| taught(label).filter(|_| view.place.shows(pixel)).unwrap_or(UNLABELLED));
        Ok(labels.collect())
    }

    /// The labeller's features of views, `[batch, embedding, rows, columns]`, of unit length: of each view as a whole, whatever its
    /// pseudo-labels come of.
    pub(super) fn features<'v>(&mut self, views: impl Iterator<Item = &'v View>) -> Result<Tensor, LabellerError> {
        let attention = self.options.features.attention;
        let features = views.map(|view| {
            let grid = self.labeller.unit_grid(&view.plain, attention)?;
            // [rows, columns, embedding] -> [embedding, rows, columns]
            let shape = [grid.rows, grid.columns, grid.dimension].map(to_i64);
            Ok(Tensor::from_slice(&grid.values).view(shape).permute([2, 0, 1]))
        });
        let features: Vec<_> = features.collect::<Result<_, LabellerError>>()?;
        Ok(Tensor::stack(&features, 0))
    }
}
