//! The file of a model's own options, `maskclip.json` beside its weights.
//!
//! The form is the same for embedded models, checkpoints and students. Every key may be left out. What a model is asked
//! with without the file is for its kind to say.

use std::io;
use std::path::Path;

use serde::Deserialize;

use crate::dense::{MAX_TEMPERATURE, Refinement};
use crate::labeller::{LabellerError, ModelOptions};
use crate::support::read_regular_text;

/// The file's name, also the ending of its name if it belongs to one of several weights files in a folder.
const NAME: &str = "maskclip.json";

/// The options that a file sets.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OptionsFile {
    short_side: Option<u32>,
    scales: Option<Vec<f64>>,
    temperature: Option<f32>,
    refinement: Option<Refinement>,
}

impl OptionsFile {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// The reason when the text is not of the form, has an unknown key, or a value is out of its range.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let file: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        file.check()?;
        Ok(file)
    }

    /// Reads the first that exists of `<stem>.maskclip.json` and `maskclip.json` beside a file of weights. Without
    /// either no option is set.
    ///
    /// # Errors
    /// [`LabellerError::Load`] when the file cannot be read, and for what [`OptionsFile::parse`] refuses.
    pub(super) fn beside(weights: &Path) -> Result<Self, LabellerError> {
        for path in [weights.with_extension(NAME), weights.with_file_name(NAME)] {
            let failed = |reason: &dyn std::fmt::Display| LabellerError::Load(format!("{}: {reason}", path.display()));
            match read_regular_text(&path) {
                Ok(text) => return Self::parse(&text).map_err(|reason| failed(&reason)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(&error)),
            }
        }
        Ok(Self::default())
    }

    /// Returns the options of the file, and those of `usual` where the file sets none.
    pub(super) fn or(self, usual: ModelOptions) -> ModelOptions {
        ModelOptions {
            short_side: self.short_side.unwrap_or(usual.short_side),
            scales: self.scales.unwrap_or(usual.scales),
            temperature: self.temperature.unwrap_or(usual.temperature),
            refinement: self.refinement.unwrap_or(usual.refinement),
        }
    }

    fn check(&self) -> Result<(), String> {
        if self.short_side == Some(0) {
            return Err("short_side must be at least 1, is 0".to_owned());
        }
        if let Some(scales) = &self.scales {
            if scales.is_empty() {
                return Err("scales has no factor".to_owned());
            }
            if let Some(scale) = scales.iter().find(|scale| **scale <= 0.0) {
                return Err(format!("a scale must be above 0, is {scale}"));
            }
        }
        match self.temperature {
            Some(value) if !(value > 0.0 && value <= MAX_TEMPERATURE) => Err(format!(
                "temperature must be above 0 and at most {MAX_TEMPERATURE}, is {value}"
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::weights::EmbeddedModel;

    fn usual() -> ModelOptions {
        ModelOptions {
            short_side: 448,
            scales: vec![1.0],
            temperature: 100.0,
            refinement: Refinement::None,
        }
    }

    #[test]
    fn a_file_replaces_what_it_names_and_nothing_else() {
        assert_eq!(OptionsFile::parse("{}").unwrap().or(usual()), usual());
        let file = OptionsFile::parse(r#"{"scales": [1, 1.5], "refinement": "pamr"}"#).unwrap();
        let expected = ModelOptions {
            scales: vec![1.0, 1.5],
            refinement: Refinement::Pamr,
            ..usual()
        };
        assert_eq!(file.or(usual()), expected);
        let file = OptionsFile::parse(r#"{"short_side": 288, "temperature": 31.5}"#).unwrap();
        let expected = ModelOptions {
            short_side: 288,
            temperature: 31.5,
            ..usual()
        };
        assert_eq!(file.or(usual()), expected);
    }

    #[test]
    fn what_is_out_of_range_or_unknown_is_refused() {
        for (text, expected) in [
            (r#"{"short_side": 0}"#, "short_side must be at least 1, is 0"),
            (r#"{"scales": []}"#, "scales has no factor"),
            (r#"{"scales": [1, -0.5]}"#, "a scale must be above 0, is -0.5"),
            (
                r#"{"temperature": 0}"#,
                "temperature must be above 0 and at most 1000, is 0",
            ),
            (r#"{"refinement": "crf"}"#, "unknown variant `crf`"),
            (r#"{"attention": "clip"}"#, "unknown field `attention`"),
            ("[]", "invalid length 0"),
        ] {
            let error = OptionsFile::parse(text).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn the_embedded_models_say_their_short_sides() {
        for (name, pixels) in [("demo", 256), ("demo-vit", 160)] {
            let model = EmbeddedModel::named(name).unwrap();
            assert_eq!(OptionsFile::parse(model.options).unwrap().short_side, Some(pixels));
        }
    }

    #[test]
    fn the_file_of_one_of_several_weights_comes_before_the_folder_s() {
        let folder = tempfile::tempdir().unwrap();
        let weights = folder.path().join("RN50.pt");
        let read = || OptionsFile::beside(&weights);
        assert_eq!(read().unwrap(), OptionsFile::default());

        std::fs::write(folder.path().join("maskclip.json"), r#"{"short_side": 1}"#).unwrap();
        assert_eq!(read().unwrap().short_side, Some(1));
        let own = folder.path().join("RN50.maskclip.json");
        std::fs::write(&own, r#"{"short_side": 2}"#).unwrap();
        assert_eq!(read().unwrap().short_side, Some(2));

        std::fs::write(&own, "?").unwrap();
        let error = read().unwrap_err().to_string();
        assert!(
            error.contains("RN50.maskclip.json: expected value at line 1"),
            "{error}"
        );
    }
}
