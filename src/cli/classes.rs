//! The flags for classes, where a command takes them without a data set that brings its own.

use clap::Args;

use super::measure::{Result, find_vocabulary, names_no_file, with_background};
use super::output::note;
use crate::config::Config;
use crate::engine::Protocol;
use crate::support::visible;
use crate::vocabulary::{Class, VocabularyDefinition, VocabularyRegistry, VocabularyText, form_advice};

/// The flags for the classes and the background.
#[derive(Debug, Args)]
pub struct VocabularyArguments {
    /// The classes: names separated by commas (`tiger,` for one alone), a vocabulary's name, or a text file (one class
    /// per line, synonyms after ';', background names after a line `[background]`). By default, those of --protocol.
    #[arg(long, value_name = "NAME,NAME|FILE|NAME")]
    pub classes: Option<String>,
    /// The background names, which compete with the classes: a text file of names, `shipped` for vocabulary.background,
    /// or `none`. A class called "background" gets their pixels. By default, the vocabulary's own names.
    #[arg(long, value_name = "FILE|shipped|none")]
    pub background: Option<String>,
}

impl VocabularyArguments {
    /// Returns the text that names the vocabulary: that of the flag, else the protocol's vocabulary.
    ///
    /// # Errors
    /// When neither is given.
    pub fn source(&self, protocol: Option<Protocol>) -> Result<&str> {
        let of_protocol = protocol.map(Protocol::vocabulary);
        let source = self.classes.as_deref().or(of_protocol);
        Ok(source.ok_or("--classes is missing: names, a file, or a vocabulary's name")?)
    }

    /// Returns the vocabulary that the flags name, with the background that they give it.
    ///
    /// # Errors
    /// When there is none, or a name or a file is refused.
    pub fn vocabulary(
        &self,
        protocol: Option<Protocol>,
        registry: &VocabularyRegistry,
        config: &Config,
    ) -> Result<VocabularyDefinition> {
        let source = self.source(protocol)?;
        let mut vocabulary = match listed(source) {
            Some(names) => VocabularyDefinition::new(names, &config.limits.vocabulary)?,
            None => find_vocabulary(source, registry, config)?,
        };
        if let Some(background) = &self.background {
            vocabulary.list = with_background(&vocabulary.list, background, config)?;
        }
        form_advice(&vocabulary.list).iter().for_each(note);
        Ok(vocabulary)
    }
}

/// Returns the classes of a text that lists them, separated by commas. The path of a file is none, even with commas.
pub fn listed(source: &str) -> Option<VocabularyText> {
    if !source.contains(',') || !names_no_file(source) {
        return None;
    }
    let names = source.split(',').map(visible).filter(|name| !name.is_empty());
    Some(VocabularyText {
        classes: names.map(|name| Class::from(name.into_owned())).collect(),
        ..VocabularyText::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_separated_by_commas() {
        let names = |source: &str| -> Option<Vec<String>> {
            listed(source).map(|text| text.classes.into_iter().map(|class| class.name).collect())
        };
        assert_eq!(names("tiger, big  cat,"), Some(vec!["tiger".into(), "big  cat".into()]));
        assert_eq!(names("tiger,"), Some(vec!["tiger".into()]));
        assert_eq!(names("voc-20"), None);
    }
}
