//! The vocabularies that come with the server, compiled in from `config/vocabularies/`.

use super::ClassList;
use super::text_form::parse_classes;

/// Names and class lists, sorted by name.
pub(super) fn shipped() -> impl Iterator<Item = (&'static str, ClassList)> {
    FILES.iter().map(|(name, text)| {
        let (classes, background) = parse_classes(text);
        (*name, ClassList::trusted(classes, background))
    })
}

const FILES: [(&str, &str); 12] = [
    ("ade20k-150", include_str!("../../config/vocabularies/ade20k-150.txt")),
    (
        "cityscapes-19",
        include_str!("../../config/vocabularies/cityscapes-19.txt"),
    ),
    (
        "coco-object-81",
        include_str!("../../config/vocabularies/coco-object-81.txt"),
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
    (
        "pascal-context-60",
        include_str!("../../config/vocabularies/pascal-context-60.txt"),
    ),
    (
        "sclip-coco-object-81",
        include_str!("../../config/vocabularies/sclip-coco-object-81.txt"),
    ),
    (
        "sclip-voc-20",
        include_str!("../../config/vocabularies/sclip-voc-20.txt"),
    ),
    (
        "sclip-voc-21",
        include_str!("../../config/vocabularies/sclip-voc-21.txt"),
    ),
    ("voc-20", include_str!("../../config/vocabularies/voc-20.txt")),
    ("voc-21", include_str!("../../config/vocabularies/voc-21.txt")),
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::classes::tests::limits;
    use super::*;

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
            max_synonyms: 7,
            max_background_names: 26,
            ..limits()
        };
        for (name, list) in shipped() {
            let checked = ClassList::new(list.classes().to_vec(), list.background().to_vec(), &roomy);
            assert_eq!(checked.as_ref(), Ok(&list), "{name}");
        }
    }
}
