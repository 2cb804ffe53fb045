//! What a vocabulary says beside its names: how they are put to the model, and when a pixel is none of them.

use super::{ClassListError, Synonyms, TemplateSet};
use crate::support::named;

/// Options that a vocabulary brings along. Each takes the place of the server's default of the same name (`defaults.`) in
/// requests with the vocabulary; what a request says itself goes before.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct VocabularyOptions {
    /// Prompt templates.
    pub templates: Option<TemplateSet>,
    /// What the synonyms of a class come to.
    pub synonyms: Option<Synonyms>,
    /// Prompt denoising threshold, 0 to 1; 0 for off.
    pub prompt_denoising: Option<f32>,
    /// Best class probability below which a pixel is background, 0 to 1.
    pub background_threshold: Option<f32>,
    /// Share of the foreground up to which a class is nowhere, 0 to 1.
    pub background_area: Option<f64>,
}

impl VocabularyOptions {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Checks every value's range.
    ///
    /// # Errors
    /// [`ClassListError::OptionRange`] for the first one outside.
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

    /// Those that are said, with their values, as a vocabulary file has them.
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

    /// Sets one option to the value of a vocabulary file.
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
