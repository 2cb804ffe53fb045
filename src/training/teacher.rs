//! What guides a student: a labeller's pseudo-labels where it is sure enough, its features, label maps of whole images,
//! and given labels.

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

/// A labeller that can teach. Its features are a student's target when features are distilled.
pub trait TeachingLabeller: Labeller {
    /// Returns the unit features of one image at its first size, seen as a whole.
    ///
    /// # Errors
    /// [`LabellerError`] when the model fails.
    fn unit_grid(&mut self, input: &ModelInput, attention: Attention) -> Result<DenseFeatureGrid, LabellerError>;
}

impl TeachingLabeller for ClipLabeller {
    fn unit_grid(&mut self, input: &ModelInput, attention: Attention) -> Result<DenseFeatureGrid, LabellerError> {
        ClipLabeller::unit_grid(self, input, attention)
    }
}

/// A teacher with the texts and options that it scores views with.
pub struct Teacher<'a> {
    /// The model that scores views.
    pub labeller: &'a mut dyn TeachingLabeller,
    /// The texts of the teacher and of the student.
    pub texts: &'a Texts,
    /// The options of features, scoring and refinement.
    pub options: DenseOptions,
    /// Label maps of whole images. They replace scoring each view.
    pub cache: Option<&'a LabelCache>,
    /// Given labels. They come before all others.
    pub given: Option<&'a GivenLabels>,
    /// Probability that the best text must reach to become a pixel's label, 0 to 1.
    pub confidence: f32,
}

impl Teacher<'_> {
    /// Returns one label per pixel of the view, row by row: the number of a student's query, or [`UNLABELLED`] where no
    /// text is sure enough or the view shows no image. Every text counts on its own; a background name counts like a
    /// class.
    pub(super) fn labels(&mut self, view: &View) -> Result<Vec<u16>, LabellerError> {
        let classifier = &self.texts.teacher;
        let scores = self.labeller.score(&view.plain, classifier, &self.options)?;
        let (width, height) = (view.plain.image_width, view.plain.image_height);
        let options = LabelMapOptions {
            width: u32::try_from(width).expect("a view's width fits 32 bits"),
            height: u32::try_from(height).expect("a view's height fits 32 bits"),
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

    /// Returns the labeller's unit features of views, `[batch, embedding, rows, columns]`. Each view is seen as a
    /// whole, even when its pseudo-labels come from windows or label maps.
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
