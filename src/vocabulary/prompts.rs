//! Prompt templates: the sentences that a text is put into before it is embedded.
//!
//! This file owns the template sets, which are compiled in from `config/prompts/`.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use strum::VariantArray;

/// The place of the text in a template.
const SLOT: &str = "{}";

/// Number of CLIP's templates for ImageNet, which come first in the file. MaskCLIP's five follow.
const IMAGENET_TEMPLATES: usize = 80;

static MASKCLIP_85: LazyLock<Vec<&str>> =
    LazyLock::new(|| include_str!("../../config/prompts/maskclip-85.txt").lines().collect());

/// A set of prompt templates that a text is put into before it is embedded.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Default,
    Serialize,
    Deserialize,
    strum::EnumString,
    strum::IntoStaticStr,
    strum::VariantArray,
    strum::VariantNames,
)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum TemplateSet {
    /// CLIP's 80 ImageNet templates and five "... in the scene" templates, as in MaskCLIP and ViLD.
    #[default]
    #[serde(rename = "maskclip-85")]
    #[strum(serialize = "maskclip-85")]
    Maskclip85,
    /// CLIP's 80 ImageNet templates.
    #[serde(rename = "imagenet-80")]
    #[strum(serialize = "imagenet-80")]
    Imagenet80,
    /// Only the template "a photo of a {}."
    Simple,
    /// No template: the text as it is.
    None,
}

impl TemplateSet {
    /// Returns the name in requests and settings.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Returns the templates. Each has one `{}` for the text.
    pub fn templates(self) -> &'static [&'static str] {
        match self {
            Self::Maskclip85 => &MASKCLIP_85,
            Self::Imagenet80 => &MASKCLIP_85[..IMAGENET_TEMPLATES],
            Self::Simple => &["a photo of a {}."],
            Self::None => &["{}"],
        }
    }

    /// Returns the SHA-256 of the templates, lower-case hexadecimal.
    pub(super) fn digest(self) -> &'static str {
        static DIGESTS: LazyLock<Vec<String>> = LazyLock::new(|| {
            let sets = TemplateSet::VARIANTS.iter();
            sets.map(|templates| hex::encode(Sha256::digest(templates.templates().join("\n"))))
                .collect()
        });
        &DIGESTS[self as usize]
    }

    /// Returns one prompt per template, in the order of the templates.
    pub fn prompts(self, text: &str) -> impl Iterator<Item = String> {
        self.templates()
            .iter()
            .map(move |template| template.replacen(SLOT, text, 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_set_has_the_number_of_templates_in_its_name() {
        let count = |templates: TemplateSet| templates.templates().len();
        assert_eq!(count(TemplateSet::Maskclip85), 85);
        assert_eq!(count(TemplateSet::Imagenet80), 80);
        assert_eq!(count(TemplateSet::Simple), 1);
        assert_eq!(count(TemplateSet::None), 1);
    }

    #[test]
    fn every_template_has_one_slot_and_none_stands_twice() {
        let templates = TemplateSet::Maskclip85.templates();
        assert!(templates.iter().all(|template| template.matches(SLOT).count() == 1));
        assert_eq!(templates.iter().collect::<std::collections::HashSet<_>>().len(), 85);
    }

    #[test]
    fn the_five_in_the_scene_are_what_imagenet_lacks() {
        let extra = &TemplateSet::Maskclip85.templates()[80..];
        assert!(extra.iter().all(|template| template.ends_with("{} in the scene.")));
        assert!(
            TemplateSet::Imagenet80
                .templates()
                .iter()
                .all(|template| !template.contains("scene"))
        );
    }

    #[test]
    fn a_text_fills_the_slot_even_when_it_looks_like_one() {
        assert_eq!(
            TemplateSet::Simple.prompts("{} sign").collect::<Vec<_>>(),
            ["a photo of a {} sign."]
        );
        assert_eq!(TemplateSet::None.prompts("{} sign").collect::<Vec<_>>(), ["{} sign"]);
        assert_eq!(
            TemplateSet::Maskclip85.prompts("cat").nth(80).as_deref(),
            Some("there is a cat in the scene.")
        );
    }

    #[test]
    fn names_are_those_of_settings() {
        for &templates in TemplateSet::VARIANTS {
            assert_eq!(serde_json::to_value(templates).ok(), Some(templates.name().into()));
        }
    }
}
