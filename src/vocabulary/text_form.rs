//! Class lists as text, as `config/vocabularies/` and `maskclip vocab` have them.
//!
//! One class a line, its synonyms after `;`. What follows a line `[background]` are names of the background. `#` starts a
//! comment. A backslash takes the next character's meaning away.

use super::{Class, ClassList};

/// The line between the classes and the background.
const BACKGROUND_HEADING: &str = "[background]";

/// Classes and background names as they are written, unchecked.
pub fn parse_classes(text: &str) -> (Vec<Class>, Vec<String>) {
    let (mut classes, mut background) = (Vec::new(), Vec::new());
    let mut in_background = false;
    for line in text.lines() {
        if line.split('#').next().unwrap_or_default().trim() == BACKGROUND_HEADING {
            in_background = true;
            continue;
        }
        let mut names = names(line);
        if names == [""] {
            continue;
        }
        if in_background {
            background.append(&mut names);
        } else {
            let name = names.remove(0);
            classes.push(Class { name, synonyms: names });
        }
    }
    (classes, background)
}

/// The text that [`parse_classes`] reads as this list.
pub fn write_classes(list: &ClassList) -> String {
    let mut text = String::new();
    for class in list.classes() {
        let names: Vec<String> = class.texts().map(escaped).collect();
        text.push_str(&names.join("; "));
        text.push('\n');
    }
    if !list.background().is_empty() {
        text.push_str(BACKGROUND_HEADING);
        text.push('\n');
    }
    for name in list.background() {
        text.push_str(&escaped(name));
        text.push('\n');
    }
    text
}

/// The names of one line, trimmed; one empty name for a line without any.
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
    names.iter().map(|name| name.trim().to_owned()).collect()
}

fn escaped(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for (place, character) in name.char_indices() {
        // A bracket first could make the line a heading.
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

    use super::super::classes::tests::{class, limits, list};
    use super::*;
    use crate::config::LimitsConfig;

    #[test]
    fn comments_and_empty_lines_are_left_out_and_synonyms_are_split() {
        let text = "# things\ncat; kitty\n\n  dog # man's best friend\r\nperson;man ; woman\n";
        let (classes, background) = parse_classes(text);
        assert_eq!(
            classes,
            [class("cat; kitty"), class("dog"), class("person; man; woman")]
        );
        assert!(background.is_empty());
    }

    #[test]
    fn what_follows_the_heading_is_background() {
        let (classes, background) = parse_classes("cat\n [background]  # all else\nsky; cloud\n\nwall\n");
        assert_eq!(classes, [class("cat")]);
        assert_eq!(background, ["sky", "cloud", "wall"]);
    }

    #[test]
    fn a_backslash_takes_the_meaning_away() {
        let (classes, background) = parse_classes("C\\# code; a\\;b\n\\[background]\nback\\\\slash\\\n");
        let names: Vec<_> = classes.iter().flat_map(Class::texts).collect();
        assert_eq!(names, ["C# code", "a;b", "[background]", "back\\slash\\"]);
        assert!(background.is_empty());
    }

    #[test]
    fn a_list_is_written_as_people_write_it() {
        let text = write_classes(&list(&["person; man", "dog"], &["sky", "wall"]));
        assert_eq!(text, "person; man\ndog\n[background]\nsky\nwall\n");
    }

    /// Names with much of what the form gives a meaning.
    fn name() -> impl Strategy<Value = String> {
        "[a-c;#\\\\\\[\\] ]{0,6}[a-c;#\\\\\\[\\]]|\\[background\\]|\\PC{1,8}x"
    }

    proptest! {
        #[test]
        fn every_valid_list_comes_back_as_it_was(
            classes in prop::collection::vec((name(), prop::collection::vec(name(), 0..3)), 1..5),
            background in prop::collection::vec(name(), 0..4),
        ) {
            let roomy = LimitsConfig { max_classes: 9, max_synonyms: 9, max_name_characters: 99, max_background_names: 9, ..limits() };
            let classes = classes.into_iter().map(|(name, synonyms)| Class { name, synonyms }).collect();
            let list = ClassList::new(classes, background, &roomy).unwrap();
            let (classes, background) = parse_classes(&write_classes(&list));
            prop_assert_eq!(classes, list.classes());
            prop_assert_eq!(background, list.background());
        }
    }
}
