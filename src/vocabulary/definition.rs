//! The definition of a named vocabulary: a checked class list with options.

use sha2::{Digest, Sha256};

use super::VocabularyLimits;
use super::text_form::VocabularyText;
use super::{ClassList, ClassListError, VocabularyOptions};

/// The definition of a named vocabulary.
#[derive(Debug, Clone, PartialEq)]
pub struct VocabularyDefinition {
    /// The classes with their background.
    pub list: ClassList,
    /// Options that replace the server's defaults.
    pub options: VocabularyOptions,
}

impl VocabularyDefinition {
    /// Checks a vocabulary that was read from a file or sent by a client.
    ///
    /// # Errors
    /// The same as [`ClassList::new`], and when an option is out of its range.
    pub fn new(text: VocabularyText, limits: &VocabularyLimits) -> Result<Self, ClassListError> {
        let VocabularyText {
            classes,
            background,
            options,
        } = text;
        options.check()?;
        Ok(Self {
            list: ClassList::new(classes, background, limits)?,
            options,
        })
    }

    /// Creates a definition that is known to be valid, without checking the limits for requests.
    pub(super) fn trusted(text: VocabularyText) -> Self {
        Self {
            list: ClassList::trusted(text.classes, text.background),
            options: text.options,
        }
    }

    /// Returns the definition's digest, 32 hexadecimal digits. Equal definitions have equal digests. Without options it
    /// is the digest of the list.
    pub(super) fn digest(&self) -> String {
        let list = self.list.digest();
        if self.options.is_empty() {
            return list;
        }
        let lines = self.options.lines().into_iter();
        let options: String = lines.map(|(option, value)| format!("{option}: {value}\n")).collect();
        hex::encode(&Sha256::digest(format!("{list} {options}"))[..16])
    }
}

impl From<ClassList> for VocabularyDefinition {
    fn from(list: ClassList) -> Self {
        Self {
            list,
            options: VocabularyOptions::default(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::classes::tests::{class, limits, list};
    use super::super::{Synonyms, TemplateSet};
    use super::*;

    #[test]
    fn every_option_is_in_the_digest_and_without_any_it_is_the_lists() {
        let plain = VocabularyDefinition::from(list(&["cat"], &[]));
        assert_eq!(plain.digest(), plain.list.digest());
        let options = [
            VocabularyOptions {
                templates: Some(TemplateSet::Simple),
                ..VocabularyOptions::default()
            },
            VocabularyOptions {
                synonyms: Some(Synonyms::Mean),
                ..VocabularyOptions::default()
            },
            VocabularyOptions {
                prompt_denoising: Some(0.5),
                ..VocabularyOptions::default()
            },
            VocabularyOptions {
                background_threshold: Some(0.5),
                ..VocabularyOptions::default()
            },
            VocabularyOptions {
                background_area: Some(0.5),
                ..VocabularyOptions::default()
            },
        ];
        let mut digests = std::collections::HashSet::from([plain.digest()]);
        digests.extend(options.map(|options| {
            VocabularyDefinition {
                options,
                ..plain.clone()
            }
            .digest()
        }));
        assert_eq!(digests.len(), 6);
    }

    #[test]
    fn an_option_out_of_its_range_is_refused_by_its_name() {
        let text = VocabularyText {
            classes: vec![class("cat")],
            background: Vec::new(),
            options: VocabularyOptions {
                background_area: Some(1.5),
                ..VocabularyOptions::default()
            },
        };
        let refused = VocabularyDefinition::new(text, &limits()).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "the option background_area must be 0 to 1, not 1.5"
        );
    }
}
