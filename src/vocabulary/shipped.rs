//! The vocabularies that come with the server, compiled in from `config/vocabularies/`.
//!
//! Owns their text form: one class a line, synonyms after `;`, `#` before comments.

use super::{Class, ClassList};

/// Names and class lists, sorted by name.
pub(super) fn shipped() -> impl Iterator<Item = (&'static str, ClassList)> {
    FILES
        .iter()
        .map(|(name, text)| (*name, ClassList::trusted(parse(text))))
}

const FILES: [(&str, &str); 6] = [
    ("ade20k-150", include_str!("../../config/vocabularies/ade20k-150.txt")),
    (
        "cityscapes-19",
        include_str!("../../config/vocabularies/cityscapes-19.txt"),
    ),
    (
        "coco-stuff-171",
        include_str!("../../config/vocabularies/coco-stuff-171.txt"),
    ),
    (
        "pascal-context-459",
        include_str!("../../config/vocabularies/pascal-context-459.txt"),
    ),
    (
        "pascal-context-59",
        include_str!("../../config/vocabularies/pascal-context-59.txt"),
    ),
    ("voc-20", include_str!("../../config/vocabularies/voc-20.txt")),
];

fn parse(text: &str) -> Vec<Class> {
    let lines = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim());
    let classes = lines.filter(|line| !line.is_empty()).map(|line| {
        let mut names = line.split(';').map(|name| name.trim().to_owned());
        Class {
            name: names.next().unwrap_or_default(),
            synonyms: names.collect(),
        }
    });
    classes.collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::classes::tests::{class, limits};
    use super::*;

    #[test]
    fn comments_and_empty_lines_are_left_out_and_synonyms_are_split() {
        let text = "# things\ncat; kitty\n\n  dog # man's best friend\r\nperson;man ; woman\n";
        assert_eq!(
            parse(text),
            [class("cat; kitty"), class("dog"), class("person; man; woman")]
        );
    }

    #[test]
    fn every_list_has_the_number_of_classes_in_its_name() {
        for (name, list) in shipped() {
            let count = name.rsplit('-').next().unwrap();
            assert_eq!(list.classes().len().to_string(), count, "{name}");
        }
    }

    #[test]
    fn every_list_passes_the_checks_it_is_trusted_to_pass() {
        let roomy = crate::config::LimitsConfig {
            max_classes: 1000,
            max_name_characters: 100,
            ..limits()
        };
        for (name, list) in shipped() {
            let checked = ClassList::new(list.classes().to_vec(), Vec::new(), &roomy);
            assert_eq!(checked.as_ref(), Ok(&list), "{name}");
        }
    }
}
