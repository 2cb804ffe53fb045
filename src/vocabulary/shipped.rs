//! The vocabularies shipped with the server, compiled in from `config/vocabularies/`.

use super::VocabularyDefinition;
use super::text_form::parse_vocabulary;

/// Returns names and definitions, sorted by name.
pub(super) fn shipped() -> impl Iterator<Item = (&'static str, VocabularyDefinition)> {
    FILES.iter().map(|(name, text)| {
        let text = parse_vocabulary(text).expect("shipped files are tested to be readable");
        (*name, VocabularyDefinition::trusted(text))
    })
}

const FILES: [(&str, &str); 20] = [
    ("ade20k-150", include_str!("../../config/vocabularies/ade20k-150.txt")),
    (
        "cityscapes-19",
        include_str!("../../config/vocabularies/cityscapes-19.txt"),
    ),
    (
        "clearclip-coco-object-81",
        include_str!("../../config/vocabularies/clearclip-coco-object-81.txt"),
    ),
    (
        "clearclip-voc-20",
        include_str!("../../config/vocabularies/clearclip-voc-20.txt"),
    ),
    (
        "clearclip-voc-21",
        include_str!("../../config/vocabularies/clearclip-voc-21.txt"),
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
        "sclip-ade20k-150",
        include_str!("../../config/vocabularies/sclip-ade20k-150.txt"),
    ),
    (
        "sclip-cityscapes-19",
        include_str!("../../config/vocabularies/sclip-cityscapes-19.txt"),
    ),
    (
        "sclip-coco-object-81",
        include_str!("../../config/vocabularies/sclip-coco-object-81.txt"),
    ),
    (
        "sclip-coco-stuff-171",
        include_str!("../../config/vocabularies/sclip-coco-stuff-171.txt"),
    ),
    (
        "sclip-pascal-context-59",
        include_str!("../../config/vocabularies/sclip-pascal-context-59.txt"),
    ),
    (
        "sclip-pascal-context-60",
        include_str!("../../config/vocabularies/sclip-pascal-context-60.txt"),
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
    use super::super::{Synonyms, VocabularyText, form_advice};
    use super::*;
    use crate::scores::UNLABELLED;

    #[test]
    fn every_list_has_the_number_of_classes_in_its_name() {
        for (name, VocabularyDefinition { list, .. }) in shipped() {
            let count = name.rsplit('-').next().unwrap();
            assert_eq!(list.classes().len().to_string(), count, "{name}");
        }
    }

    #[test]
    fn protocols_have_their_number_of_texts_and_background_for_class_0() {
        let texts = |wanted: &str| {
            let (_, definition) = shipped().find(|(name, _)| *name == wanted).unwrap();
            assert_eq!(definition.options.synonyms, Some(Synonyms::Max), "{wanted}");
            (definition.list.texts().len(), definition.list.background_label())
        };
        assert_eq!(texts("sclip-voc-20"), (30, UNLABELLED));
        assert_eq!(texts("sclip-voc-21"), (56, 0));
        assert_eq!(texts("clearclip-voc-21"), (21, 0));
        assert_eq!(texts("clearclip-voc-20"), (20, UNLABELLED));
        assert_eq!(texts("pascal-context-60"), (60, 0));
        assert_eq!(texts("sclip-pascal-context-60"), (60, 0));
        // 113 texts as published, where "bed" is a class and a background name.
        assert_eq!(texts("sclip-coco-object-81"), (112, 0));
        assert_eq!(texts("clearclip-coco-object-81"), (81, 0));
    }

    /// Lists as their authors released them, and the vocabularies that are said to have these words.
    const RELEASED: [(&str, &str); 9] = [
        (
            "sclip-voc-21",
            include_str!("../../tools/protocols/released/sclip/cls_voc21.txt"),
        ),
        (
            "sclip-voc-20",
            include_str!("../../tools/protocols/released/sclip/cls_voc20.txt"),
        ),
        (
            "sclip-pascal-context-60",
            include_str!("../../tools/protocols/released/sclip/cls_context60.txt"),
        ),
        (
            "sclip-pascal-context-59",
            include_str!("../../tools/protocols/released/sclip/cls_context59.txt"),
        ),
        (
            "sclip-coco-object-81",
            include_str!("../../tools/protocols/released/sclip/cls_coco_object.txt"),
        ),
        (
            "sclip-coco-stuff-171",
            include_str!("../../tools/protocols/released/sclip/cls_coco_stuff.txt"),
        ),
        (
            "sclip-cityscapes-19",
            include_str!("../../tools/protocols/released/sclip/cls_city_scapes.txt"),
        ),
        (
            "sclip-ade20k-150",
            include_str!("../../tools/protocols/released/sclip/cls_ade20k.txt"),
        ),
        (
            "clearclip-voc-21",
            include_str!("../../tools/protocols/released/clearclip/cls_voc21.txt"),
        ),
    ];

    #[test]
    fn protocols_have_the_released_words() {
        for (name, released) in RELEASED {
            let (_, VocabularyDefinition { list, .. }) = shipped().find(|(shipped, _)| *shipped == name).unwrap();
            let words = list.classes().iter().map(|class| match class.name.as_str() {
                "background" => list.background().join(", "),
                _ => class.texts().collect::<Vec<_>>().join(", "),
            });
            // PASCAL Context's last line ends in a space, which the tokenizer drops.
            let released: Vec<_> = released.lines().map(str::trim_end).collect();
            assert_eq!(words.collect::<Vec<_>>(), released, "{name}");
        }
        let list = |wanted: &str| shipped().find(|(name, _)| *name == wanted).unwrap().1.list;
        let (with, without) = (list("clearclip-voc-21"), list("clearclip-voc-20"));
        assert_eq!(&with.classes()[1..], without.classes());
        assert!(without.background().is_empty());
    }

    #[test]
    fn every_list_passes_the_checks_it_is_trusted_to_pass() {
        let roomy = crate::vocabulary::VocabularyLimits {
            max_classes: 1000,
            max_name_characters: 100,
            max_synonyms: 10,
            max_background_names: 30,
            ..limits()
        };
        for (name, definition) in shipped() {
            let text = VocabularyText {
                classes: definition.list.classes().to_vec(),
                background: definition.list.background().to_vec(),
                options: definition.options,
            };
            assert_eq!(
                VocabularyDefinition::new(text, &roomy).as_ref(),
                Ok(&definition),
                "{name}"
            );
            assert_eq!(form_advice(&definition.list), [], "{name}");
        }
    }
}
