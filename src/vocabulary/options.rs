//! The options of a vocabulary: how its names are put to the model, and when a pixel is background.

use super::{ClassListError, Synonyms, TemplateSet};
use crate::support::named;

/// The options of a vocabulary. In requests with the vocabulary, each option replaces the server's default of the same
/// name (`defaults.`). Fields of the request itself override both.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct VocabularyOptions {
    /// The set of prompt templates.
    pub templates: Option<TemplateSet>,
    /// How the scores of a class's synonyms are combined.
    pub synonyms: Option<Synonyms>,
    /// Prompt denoising threshold, 0 to 1; 0 turns denoising off.
    pub prompt_denoising: Option<f32>,
    /// A pixel whose best class probability is below this is background, 0 to 1.
    pub background_threshold: Option<f32>,
    /// A class that covers at most this share of the foreground is dropped, 0 to 1.
    pub background_area: Option<f64>,
}

impl VocabularyOptions {
    /// Returns whether no option is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Checks the range of every value.
    ///
    /// # Errors
    /// [`ClassListError::OptionRange`] for the first value outside its range.
    pub(super) fn check(&self) -> Result<(), ClassListError> {
        let shares = [
            ("prompt_denoising", self.prompt_denoising.map(f64::from)),
            ("background_threshold", self.background_threshold.map(f64::from)),
            ("background_area", self.background_area),
        ];
        for (option, value) in shares {
            if let Some(value) = value.filter(|value| !(0.0..=1.0).contains(value)) {
                return Err(ClassListError::OptionRange {
                    option,
                    value: value.to_string(),
                });
            }
        }
        Ok(())
    }

    /// Returns the options that are set, with their values, as a vocabulary file writes them.
    pub(super) fn lines(&self) -> Vec<(&'static str, String)> {
        let said = [
            ("templates", self.templates.map(|templates| templates.name().to_owned())),
            ("synonyms", self.synonyms.map(|synonyms| synonyms.name().to_owned())),
            ("prompt_denoising", self.prompt_denoising.map(|value| value.to_string())),
            (
                "background_threshold",
                self.background_threshold.map(|value| value.to_string()),
            ),
            ("background_area", self.background_area.map(|value| value.to_string())),
        ];
        let said = said.into_iter().filter_map(|(option, value)| Some((option, value?)));
        said.collect()
    }

    /// Sets one option to a value from a vocabulary file.
    ///
    /// # Errors
    /// A text for people when the option is unknown or the value is not valid.
    pub(super) fn set(&mut self, option: &str, value: &str) -> Result<(), String> {
        match option {
            "templates" => self.templates = Some(named(value)?),
            "synonyms" => self.synonyms = Some(named(value)?),
            "prompt_denoising" => self.prompt_denoising = Some(number(value)?),
            "background_threshold" => self.background_threshold = Some(number(value)?),
            "background_area" => self.background_area = Some(number(value)?),
            _ => {
                return Err(format!(
                    "there is no option {option:?}, only templates, synonyms, prompt_denoising, background_threshold, \
                     background_area"
                ));
            }
        }
        Ok(())
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number"))
}
