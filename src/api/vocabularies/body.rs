//! What defines a vocabulary, as clients write it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::wire::{ClassBody, Name, Synonyms, TemplateSet, object};
use crate::vocabulary::{self, VocabularyText};

/// What a vocabulary is defined with. Unknown fields are refused.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VocabularyBody {
    /// The classes, in the order of their ids. At most `limits.max_classes`.
    #[schema(min_items = 1, example = json!(["apple", {"name": "pear", "synonyms": ["williams pear"]}]))]
    pub classes: Vec<ClassBody>,
    /// Names that compete with the classes for what is none of them, in requests that do not say
    /// `background` themselves. At most `limits.max_background_names`.
    #[serde(default)]
    #[schema(value_type = Vec<Name>, example = json!(["table", "wall"]))]
    pub background: Vec<String>,
    /// What takes the place of the server's defaults in requests that do not say so themselves.
    #[serde(default, deserialize_with = "object")]
    pub options: VocabularyOptions,
}

/// Options that a vocabulary brings along. Each takes the place of the server's default of the same name (`defaults.`) in
/// requests with the vocabulary; what a request says itself goes before.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VocabularyOptions {
    /// Prompt templates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub templates: Option<TemplateSet>,
    /// What the synonyms of a class come to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub synonyms: Option<Synonyms>,
    /// Prompt denoising threshold, 0 to 1; 0 for off.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1, example = 0.5)]
    pub prompt_denoising: Option<f32>,
    /// Best class probability below which a pixel is background, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1, example = 0.1)]
    pub background_threshold: Option<f32>,
    /// Share of the foreground up to which a class is nowhere, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1, example = 0.1)]
    pub background_area: Option<f64>,
}

impl VocabularyOptions {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl From<VocabularyOptions> for vocabulary::VocabularyOptions {
    fn from(options: VocabularyOptions) -> Self {
        let VocabularyOptions {
            templates,
            synonyms,
            prompt_denoising,
            background_threshold,
            background_area,
        } = options;
        Self {
            templates: templates.map(Into::into),
            synonyms: synonyms.map(Into::into),
            prompt_denoising,
            background_threshold,
            background_area,
        }
    }
}

impl From<vocabulary::VocabularyOptions> for VocabularyOptions {
    fn from(options: vocabulary::VocabularyOptions) -> Self {
        let vocabulary::VocabularyOptions {
            templates,
            synonyms,
            prompt_denoising,
            background_threshold,
            background_area,
        } = options;
        Self {
            templates: templates.map(Into::into),
            synonyms: synonyms.map(Into::into),
            prompt_denoising,
            background_threshold,
            background_area,
        }
    }
}

impl From<VocabularyBody> for VocabularyText {
    fn from(body: VocabularyBody) -> Self {
        let VocabularyBody {
            classes,
            background,
            options,
        } = body;
        Self {
            classes: classes.into_iter().map(Into::into).collect(),
            background,
            options: options.into(),
        }
    }
}
