//! A student model: its files, and how a worker loads it with its teacher's text tower.

use tch::Tensor;

use super::clip_model::ClipModel;
use super::labeller::NetworkLabeller;
use super::options_file::OptionsFile;
use super::place::Place;
use super::source::ModelError;
use super::student::{LoadError, Mode, Network, StudentCard, StudentFiles};
use crate::clip::checkpoint;
use crate::dense::{DenseError, DenseFeatures, FeatureOptions, FeatureSource, Refinement};
use crate::image::Normalisation;
use crate::labeller::{LabellerError, ModelInfo, ModelOptions, Precision, StudentInfo, TeacherInfo};
use crate::support::to_i64;
use crate::vocabulary::Class;

/// A loaded student, on one thread.
pub type StudentLabeller = NetworkLabeller<Network>;

/// Both sides of the input are multiples of this many pixels: the stride of the backbone, whatever the head's stride
/// is.
const STRIDE_PIXELS: u32 = 8;

/// A student whose files have been found. Each worker loads it.
#[derive(Debug, Clone)]
pub struct StudentModel {
    files: StudentFiles,
    card: StudentCard,
    teacher: ClipModel,
    place: Place,
}

impl StudentModel {
    /// Creates a student from its files, its card and its teacher. The teacher's text tower computes on the student's
    /// device.
    pub fn new(files: StudentFiles, card: StudentCard, teacher: ClipModel, place: Place) -> Self {
        Self {
            files,
            card,
            teacher,
            place,
        }
    }

    /// Returns the student's own name, which an alias may replace.
    pub fn name(&self) -> String {
        self.files.name()
    }

    /// Returns the bytes of the files with its weights and those of its teacher.
    ///
    /// # Errors
    /// [`ModelError::NoWeights`] when they cannot be read.
    pub(super) fn file_bytes(&self) -> Result<u64, ModelError> {
        Ok(checkpoint::file_bytes(self.files.weights())? + self.teacher.file_bytes()?)
    }

    /// Returns the place where the student computes.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Loads the student and its teacher's text tower. Every call loads them again.
    ///
    /// # Errors
    /// [`LabellerError::Load`] when the tensors are damaged, or the teacher is not the one that the card names.
    pub fn load(&self) -> Result<StudentLabeller, LabellerError> {
        self.place.prepare();
        let precision = self.place.student_precision;
        let card = &self.card;
        let failed = |error: LoadError| LabellerError::Load(error.to_string());
        let stored = self.files.load(card, self.place.device).map_err(failed)?;
        let (texts, teacher) = self.teacher.load()?.into_text_encoder();
        self.check_teacher(&teacher)?;
        let options = OptionsFile::beside(self.files.weights())?;
        let info = self.info(teacher, precision, stored.background.is_some(), options);
        Ok(StudentLabeller {
            network: stored.network,
            input: (self.place.device, precision.kind()),
            texts,
            learned_background: stored.background,
            info,
        })
    }

    /// Refuses a teacher that is not the one which the card names.
    fn check_teacher(&self, teacher: &ModelInfo) -> Result<(), LabellerError> {
        let planned = &self.card.plan.teacher;
        if teacher.weights_sha256 != planned.weights_sha256 {
            let expected = &planned.weights_sha256;
            return Err(LabellerError::Load(format!(
                "{}: its teacher has weights of SHA-256 {expected}, but those of {} have {}; set teacher in the student's \
                 entry of models to the path of the right one",
                self.files.weights().display(),
                teacher.name,
                teacher.weights_sha256
            )));
        }
        let network = &self.card.plan.network;
        if to_i64(teacher.embedding_dimension) != network.embedding {
            return Err(LabellerError::Load(format!(
                "{}: its features have {} channels, and {}'s texts {}",
                self.files.weights().display(),
                network.embedding,
                teacher.name,
                teacher.embedding_dimension
            )));
        }
        Ok(())
    }

    /// What the loaded student is, beside the teacher whose text tower it has.
    fn info(
        &self,
        teacher: ModelInfo,
        precision: Precision,
        learned_background: bool,
        options: OptionsFile,
    ) -> ModelInfo {
        let card = &self.card;
        let (network, vocabulary) = (&card.plan.network, &card.plan.vocabulary);
        let [mean, std] = card.plan.normalisation;
        ModelInfo {
            name: self.name(),
            architecture: format!(
                "{} {} width {}, {}",
                network.backbone, network.stem, network.width, network.head
            ),
            weights_sha256: card.weights_sha256.clone(),
            precision,
            text_variant: String::new(),
            device: self.place.device_name(),
            embedding_dimension: teacher.embedding_dimension,
            patch_pixels: STRIDE_PIXELS,
            options: options.or(ModelOptions {
                short_side: card.plan.settings.short_side,
                scales: vec![1.0],
                // Students are trained without a factor (MaskCLIP, section 3.4).
                temperature: 1.0,
                refinement: Refinement::None,
            }),
            training_side: None,
            normalisation: Normalisation { mean, std },
            attentions: Vec::new(),
            training_words: teacher.training_words,
            embedded: false,
            student: Some(StudentInfo {
                classes: vocabulary.classes.iter().filter_map(|texts| class(texts)).collect(),
                background: vocabulary.background.clone(),
                templates: vocabulary.templates.clone(),
                learned_background,
                teacher: TeacherInfo {
                    name: card.plan.teacher.name.clone(),
                    weights_sha256: teacher.weights_sha256,
                    precision: teacher.precision,
                    text_variant: teacher.text_variant,
                },
            }),
        }
    }
}

/// Returns the class of a card's texts, which list the name first. `None` if there are no texts.
fn class(texts: &[String]) -> Option<Class> {
    let (name, synonyms) = texts.split_first()?;
    Some(Class {
        name: name.clone(),
        synonyms: synonyms.to_vec(),
    })
}

impl FeatureSource for Network {
    fn patch_pixels(&self) -> i64 {
        STRIDE_PIXELS.into()
    }

    fn features(
        &self,
        images: &Tensor,
        _options: &FeatureOptions,
        stop: &dyn Fn() -> bool,
    ) -> Result<Vec<DenseFeatures>, DenseError> {
        if stop() {
            return Err(DenseError::Stopped);
        }
        let maps = tch::no_grad(|| Network::features(self, images, Mode::Evaluate));
        let (batch, _, height, width) = maps.size4().expect("features are [batch, embedding, height, width]");
        let cells = maps.flatten(2, 3).transpose(1, 2); // [batch, embedding, height, width] -> [batch, cells, embedding]
        let features = (0..batch).map(|index| DenseFeatures::of_grid(height, width, cells.get(index)));
        Ok(features.collect())
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::dense::{self, ScoreOptions};
    use crate::models::student::{Backbone, Head, NetworkConfig, Parameters, Stem};
    use crate::scores::QueryOwner;

    #[test]
    fn what_a_student_scores_are_the_logits_it_was_trained_with() {
        for (head, cells) in [(Head::DeeplabV2, (5, 3)), (Head::DeeplabV3Plus, (10, 6))] {
            let config = NetworkConfig {
                backbone: Backbone::Resnet18,
                stem: Stem::Plain,
                width: 2,
                head,
                head_channels: 6,
                embedding: 5,
            };
            let mut parameters = Parameters::from_scratch(0, Device::Cpu);
            let network = Network::new(&mut parameters, &config).expect("a network from scratch");
            let image = Tensor::linspace(-1, 1, 3 * 40 * 24, (Kind::Float, Device::Cpu)).view([3, 40, 24]);
            let text = Tensor::linspace(-1, 2, 2 * 5, (Kind::Float, Device::Cpu)).view([2, 5]);
            let logits = tch::no_grad(|| network.logits(&image.unsqueeze(0), &text, Mode::Evaluate));
            let scoring = ScoreOptions {
                temperature: 1.0,
                ..ScoreOptions::default()
            };
            // Adds 7 columns that do not fill a stride; the network ignores them.
            let larger = Tensor::cat(&[image, Tensor::ones([3, 40, 7], (Kind::Float, Device::Cpu))], 2);
            let owners = [QueryOwner::Class(0), QueryOwner::Class(1)];
            let scores = dense::score(
                &network,
                &[larger],
                &text,
                &owners,
                &FeatureOptions::default(),
                &scoring,
            )
            .expect("a student computes its features");
            let grid = &scores.map.grids[0];
            assert_eq!((grid.height, grid.width), cells, "{head:?}");
            let found = Tensor::from_slice(&grid.values).view_as(&logits);
            let difference = (&found - &logits).abs().max() / logits.abs().max();
            assert!(difference.double_value(&[]) < 1e-5, "{head:?}: {difference:?}");
        }
    }
}
