//! Checks of the training settings.

use super::{Texts, TrainError};
use crate::models::student::{Head, NetworkConfig, PseudoLabels, TrainSettings};

impl TrainSettings {
    /// Checks that a student can be trained with these settings and a teacher with patches of this size.
    ///
    /// # Errors
    /// [`TrainError::Setting`] with the setting's name and its possible values.
    pub fn check(&self, network: &NetworkConfig, patch_pixels: u32) -> Result<(), TrainError> {
        let refuse = |name, possible: String| Err(TrainError::Setting { name, possible });
        let [least, greatest] = self.scale;
        let optimiser = &self.optimiser;
        let smallest_batch = match network.head {
            Head::DeeplabV2 => 1,
            // DeepLabv3+ normalises its pooled values over the batch. A batch of one has one value per channel and thus
            // no variance.
            Head::DeeplabV3Plus => 2,
        };
        if self.steps == 0 {
            refuse("steps", "at least 1".to_owned())
        } else if self.batch < smallest_batch {
            refuse("batch", format!("at least {smallest_batch} with {}", network.head))
        } else if self.crop_pixels == 0 || !self.crop_pixels.is_multiple_of(patch_pixels) {
            refuse(
                "crop-pixels",
                format!("a multiple of {patch_pixels}, the teacher's patch"),
            )
        } else if self.short_side == 0 {
            refuse("view-short-side", "at least 1".to_owned())
        } else if !(least > 0.0 && least <= greatest && greatest <= 16.0) {
            refuse(
                "view-scale",
                "two numbers above 0 and at most 16, the smaller first".to_owned(),
            )
        } else if !(0.0..=1.0).contains(&self.colour) {
            refuse("colour", "0 to 1".to_owned())
        } else if self
            .self_training_from
            .is_some_and(|from| from == 0 || from > self.steps)
        {
            refuse("self-training-from", format!("1 to the last of {} steps", self.steps))
        } else if !(self.distillation >= 0.0 && self.distillation.is_finite()) {
            refuse("distillation", "0 or above".to_owned())
        } else if !(0.0..=1.0).contains(&self.confidence) {
            refuse("confidence", "0 to 1".to_owned())
        } else if !(optimiser.learning_rate > 0.0 && optimiser.learning_rate.is_finite()) {
            refuse("learning-rate", "above 0".to_owned())
        } else if !(0.0..=optimiser.learning_rate).contains(&optimiser.final_learning_rate) {
            refuse("final-learning-rate", "0 to the learning rate".to_owned())
        } else if !(optimiser.decay_power > 0.0 && optimiser.decay_power.is_finite()) {
            refuse("decay-power", "above 0".to_owned())
        } else if !(0.0..1.0).contains(&optimiser.momentum) {
            refuse("momentum", "0 to below 1".to_owned())
        } else if !(0.0..1.0).contains(&optimiser.weight_decay) {
            refuse("weight-decay", "0 to below 1".to_owned())
        } else if network.width < 2 || network.width % 2 != 0 {
            refuse("width", "even, at least 2".to_owned())
        } else if network.head_channels < 6 {
            refuse("head-channels", "at least 6".to_owned())
        } else {
            Ok(())
        }
    }
}

impl TrainSettings {
    /// Checks that there are labels to learn from.
    ///
    /// # Errors
    /// [`TrainError::Setting`] when nobody would label anything, or nothing is left to label.
    pub fn check_labels(&self, texts: &Texts, is_given: bool) -> Result<(), TrainError> {
        let refuse = |name, possible: &str| {
            let possible = possible.to_owned();
            Err(TrainError::Setting { name, possible })
        };
        let pseudo_labelled = texts.pseudo_labelled.contains(&true);
        if self.pseudo_labels == PseudoLabels::None && !is_given {
            refuse("pseudo-labels", "each-view or once where no labels are given")
        } else if self.pseudo_labels != PseudoLabels::None && !pseudo_labelled {
            refuse("pseudo-labels", "none where all classes are labelled")
        } else if self.self_training_from.is_some() && !pseudo_labelled {
            refuse("self-training-from", "left out where all classes are labelled")
        } else {
            Ok(())
        }
    }
}
