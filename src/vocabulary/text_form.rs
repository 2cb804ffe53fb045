//! Vocabularies as text, in the form of `config/vocabularies/` and `maskclip vocab`.
//!
//! Each line is a class, with its synonyms after `;`. Lines after `[background]` are background names, lines after
//! `[options]` are options as `name: value`, and lines after `[classes]` are classes again. `#` starts a comment. A
//! backslash removes the special meaning of the next character.

use super::{Class, ClassList, VocabularyOptions};
use crate::support::visible;

/// The headings of the parts. Classes at the top of the text need no heading.
const HEADINGS: [(&str, Part); 3] = [
    ("[options]", Part::Options),
    ("[classes]", Part::Classes),
    ("[background]", Part::Background),
];

#[derive(Clone, Copy)]
enum Part {
    Options,
    Classes,
    Background,
}

/// A vocabulary as written in a text, not checked.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct VocabularyText {
    /// The classes in the order of their ids.
    pub classes: Vec<Class>,
    /// The background names.
    pub background: Vec<String>,
    /// The options that the text sets.
    pub options: VocabularyOptions,
}

/// A line that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct TextFormError {
    /// Number of the line, counted from 1.
    pub line: usize,
    /// The cause.
    pub reason: String,
}

/// Reads a vocabulary.
///
/// # Errors
/// [`TextFormError`] when an option is unknown or its value is not allowed.
pub fn parse_vocabulary(text: &str) -> Result<VocabularyText, TextFormError> {
    let mut vocabulary = VocabularyText::default();
    let mut part = Part::Classes;
    for (line, number) in text.lines().zip(1..) {
        let bare = visible(line.split('#').next().unwrap_or_default());
        if let Some((_, heading)) = HEADINGS.iter().find(|(heading, _)| *heading == bare) {
            part = *heading;
            continue;
        }
        match part {
            Part::Options if bare.is_empty() => {}
            Part::Options => {
                let (option, value) = bare.split_once(':').unwrap_or((&bare, ""));
                let set = vocabulary.options.set(option.trim(), value.trim());
                set.map_err(|reason| TextFormError { line: number, reason })?;
            }
            Part::Classes => vocabulary.classes.extend(parse_class(line)),
            Part::Background => vocabulary
                .background
                .extend(parse_class(line).iter().flat_map(Class::texts).map(str::to_owned)),
        }
    }
    Ok(vocabulary)
}

/// Reads one line: a class with its synonyms, or `None` for a line without names.
pub fn parse_class(line: &str) -> Option<Class> {
    let mut names = names(line);
    if names == [""] {
        return None;
    }
    let name = names.remove(0);
    Some(Class { name, synonyms: names })
}

/// Returns the text that [`parse_vocabulary`] reads as this list and these options.
pub fn write_vocabulary(list: &ClassList, options: &VocabularyOptions) -> String {
    let mut text = String::new();
    if !options.is_empty() {
        text.push_str("[options]\n");
        for (option, value) in options.lines() {
            text.push_str(&format!("{option}: {value}\n"));
        }
        text.push_str("[classes]\n");
    }
    for class in list.classes() {
        let names: Vec<String> = class.texts().map(escaped).collect();
        text.push_str(&names.join("; "));
        text.push('\n');
    }
    if !list.background().is_empty() {
        text.push_str("[background]\n");
    }
    for name in list.background() {
        text.push_str(&escaped(name));
        text.push('\n');
    }
    text
}

/// Returns the visible names of a line. A line without names gives one empty name.
fn names(line: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut name = String::new();
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '#' => break,
            ';' => names.push(std::mem::take(&mut name)),
            '\\' => name.push(characters.next().unwrap_or('\\')),
            _ => name.push(character),
        }
    }
    names.push(name);
    names.iter().map(|name| visible(name).into_owned()).collect()
}

fn escaped(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for (place, character) in name.char_indices() {
        // A bracket at the start could make the line a heading.
        if matches!(character, '\\' | ';' | '#') || (place == 0 && character == '[') {
            text.push('\\');
        }
        text.push(character);
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use strum::VariantArray;

    use super::super::classes::tests::{class, limits, list};
    use super::super::{Synonyms, TemplateSet};
    use super::*;
    use crate::vocabulary::VocabularyLimits;

    #[test]
    fn comments_and_empty_lines_are_left_out_and_synonyms_are_split() {
        let text = "# things\ncat; kitty\n\n  dog # man's best friend\r\nperson;man ; woman\n";
        let VocabularyText {
            classes,
            background,
            options,
        } = parse_vocabulary(text).unwrap();
        assert_eq!(
            classes,
            [class("cat; kitty"), class("dog"), class("person; man; woman")]
        );
        assert!(background.is_empty() && options.is_empty());
    }

    #[test]
    fn what_follows_the_heading_is_background() {
        let VocabularyText {
            classes, background, ..
        } = parse_vocabulary("cat\n [background]  # all else\nsky; cloud\n\nwall\n").unwrap();
        assert_eq!(classes, [class("cat")]);
        assert_eq!(background, ["sky", "cloud", "wall"]);
    }

    #[test]
    fn a_backslash_takes_the_meaning_away() {
        let VocabularyText {
            classes, background, ..
        } = parse_vocabulary("C\\# code; a\\;b\n\\[background]\nback\\\\slash\\\n").unwrap();
        let names: Vec<_> = classes.iter().flat_map(Class::texts).collect();
        assert_eq!(names, ["C# code", "a;b", "[background]", "back\\slash\\"]);
        assert!(background.is_empty());
    }

    #[test]
    fn a_list_is_written_as_people_write_it() {
        let list = list(&["person; man", "dog"], &["sky", "wall"]);
        let text = write_vocabulary(&list, &VocabularyOptions::default());
        assert_eq!(text, "person; man\ndog\n[background]\nsky\nwall\n");
        let options = VocabularyOptions {
            templates: Some(TemplateSet::Imagenet80),
            synonyms: Some(Synonyms::Max),
            background_threshold: Some(0.1),
            ..VocabularyOptions::default()
        };
        assert_eq!(
            write_vocabulary(&list, &options),
            "[options]\ntemplates: imagenet-80\nsynonyms: max\nbackground_threshold: 0.1\n[classes]\nperson; man\ndog\n\
             [background]\nsky\nwall\n"
        );
    }

    #[test]
    fn an_option_that_is_none_is_refused_with_its_line() {
        let refused = |text: &str| parse_vocabulary(text).unwrap_err().to_string();
        assert_eq!(
            refused("cat\n[options]\ntemplate: simple\n"),
            "line 3: there is no option \"template\", only templates, synonyms, prompt_denoising, background_threshold, \
             background_area"
        );
        assert_eq!(
            refused("[options]\n\nsynonyms: least # of them\n"),
            "line 3: there is no least: mean, max"
        );
        assert_eq!(refused("[options]\nbackground_area\n"), "line 2: \"\" is not a number");
    }

    /// Generates names with many characters that have a special meaning.
    fn name() -> impl Strategy<Value = String> {
        "[a-c;#\\\\\\[\\] ]{0,6}[a-c;#\\\\\\[\\]]|\\[(background|options|classes)\\]|\\PC{1,8}x"
    }

    prop_compose! {
        fn options()(
            templates in prop::option::of(prop::sample::select(TemplateSet::VARIANTS.to_vec())),
            synonyms in prop::option::of(prop::sample::select(Synonyms::VARIANTS.to_vec())),
            prompt_denoising in prop::option::of(0_f32..1.0),
            background_threshold in prop::option::of(0_f32..1.0),
            background_area in prop::option::of(0_f64..1.0),
        ) -> VocabularyOptions {
            VocabularyOptions { templates, synonyms, prompt_denoising, background_threshold, background_area }
        }
    }

    proptest! {
        #[test]
        fn every_valid_list_comes_back_as_it_was(
            classes in prop::collection::vec((name(), prop::collection::vec(name(), 0..3)), 1..5),
            background in prop::collection::vec(name(), 0..4),
            options in options(),
        ) {
            let roomy = VocabularyLimits { max_classes: 9, max_synonyms: 9, max_name_characters: 99, max_background_names: 9, ..limits() };
            let classes = classes.into_iter().map(|(name, synonyms)| Class { name, synonyms }).collect();
            let list = ClassList::new(classes, background, &roomy).unwrap();
            let read = parse_vocabulary(&write_vocabulary(&list, &options)).unwrap();
            prop_assert_eq!(read.classes, list.classes());
            prop_assert_eq!(read.background, list.background());
            prop_assert_eq!(read.options, options);
        }
    }
}
