//! Tests of valid lists, their texts and the owners of queries. Other tests of this room use the helpers.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::vocabulary::TextEmbedding;

/// Returns small limits that tests can exceed easily.
pub(in crate::vocabulary) fn limits() -> VocabularyLimits {
    VocabularyLimits {
        max_classes: 3,
        max_synonyms: 2,
        max_name_characters: 10,
        max_background_names: 3,
        max_vocabulary_bytes: 100_000,
        max_vocabularies: 2,
    }
}

/// Returns the class of a line in a vocabulary file: "person; man; woman".
pub(in crate::vocabulary) fn class(text: &str) -> Class {
    let mut names = text.split(';').map(|name| name.trim().to_owned());
    Class {
        name: names.next().unwrap(),
        synonyms: names.collect(),
    }
}

pub(in crate::vocabulary) fn list(classes: &[&str], background: &[&str]) -> ClassList {
    let background = background.iter().map(|name| (*name).to_owned()).collect();
    ClassList::new(classes.iter().map(|text| class(text)).collect(), background, &limits()).unwrap()
}

fn refused(classes: &[&str], background: &[&str]) -> String {
    let background = background.iter().map(|name| (*name).to_owned()).collect();
    let classes = classes.iter().map(|text| class(text)).collect();
    ClassList::new(classes, background, &limits()).unwrap_err().to_string()
}

#[test]
fn the_names_of_a_list_have_a_limit_in_bytes() {
    let limits = VocabularyLimits {
        max_vocabulary_bytes: 8,
        ..limits()
    };
    // "\u{e4}" has two bytes.
    let class = || Class {
        name: "b\u{e4}r".into(),
        synonyms: vec!["ab".into()],
    };
    let list = ClassList::new(vec![class()], vec!["ab".into()], &limits).unwrap();
    let refused = ClassList::new(vec![class()], vec!["abc".into()], &limits).unwrap_err();
    assert_eq!(refused, ClassListError::TooManyBytes { bytes: 9, limit: 8 });
    assert!(
        refused.to_string().contains("limits.max_vocabulary_bytes = 8"),
        "{refused}"
    );
    assert_eq!(list.with_background(&["abc".into()], &limits), Err(refused));
}

#[test]
fn names_are_trimmed() {
    let classes = vec![Class {
        name: " cat\n".into(),
        synonyms: vec!["\tkitty ".into()],
    }];
    let list = ClassList::new(classes, vec![" sky ".into()], &limits()).unwrap();
    assert_eq!(list.classes(), [class("cat; kitty")]);
    assert_eq!(list.background(), ["sky"]);
}

#[test]
fn what_is_refused_is_named_with_its_limit() {
    assert_eq!(refused(&[], &[]), "the list has no classes");
    assert_eq!(
        refused(&["a", "b", "c", "d"], &[]),
        "4 classes are more than limits.max_classes = 3"
    );
    assert_eq!(
        refused(&["a; b; c; d"], &[]),
        "the class \"a\" has 3 synonyms, more than limits.max_synonyms = 2"
    );
    assert_eq!(
        refused(&["a"], &["b", "c", "d", "e"]),
        "4 background names are more than limits.max_background_names = 3"
    );
    assert_eq!(
        refused(&["a", "sky-scraper"], &[]),
        "the name \"sky-scraper\" has 11 characters, more than limits.max_name_characters = 10"
    );
    assert_eq!(refused(&["a", " "], &[]), "class 1 has an empty name");
    assert_eq!(refused(&["person; "], &[]), "a synonym of \"person\" has an empty name");
    assert_eq!(refused(&["a"], &[""]), "the background has an empty name");
    assert_eq!(
        refused(&["a\u{1b}b"], &[]),
        "the name \"a\\u{1b}b\" has control characters"
    );
}

#[test]
fn an_overlong_name_is_not_repeated_whole() {
    let error = refused(&["x".repeat(5000).as_str()], &[]);
    assert!(error.contains("has 5000 characters") && error.len() < 150, "{error}");
}

#[test]
fn characters_are_counted_not_bytes() {
    list(&["猫猫猫猫猫猫猫猫猫猫"], &[]);
}

#[test]
fn ids_differ_by_classes_order_synonyms_background_and_templates() {
    let lists = [
        list(&["a", "b"], &[]),
        list(&["b", "a"], &[]),
        list(&["a; b"], &[]),
        list(&["a"], &["b"]),
        list(&["ab"], &[]),
    ];
    let mut ids: HashSet<String> = lists.iter().map(|list| list.id(TemplateSet::Simple)).collect();
    ids.insert(lists[0].id(TemplateSet::Imagenet80));
    assert_eq!(ids.len(), 6);
    assert!(ids.iter().all(|id| id.len() == 32));
    assert_eq!(
        list(&[" a", "b "], &[]).id(TemplateSet::Simple),
        lists[0].id(TemplateSet::Simple)
    );
}

#[test]
fn each_text_is_asked_for_once() {
    assert_eq!(
        list(&["cat; kitty", "kitty; cat"], &["sky"]).texts(),
        ["cat", "kitty", "sky"]
    );
}

/// Returns the list's texts with these embeddings, in their order.
pub(in crate::vocabulary) fn embedded(list: &ClassList, embeddings: &[&[f32]]) -> EmbeddedTexts {
    let texts = list.texts();
    assert_eq!(texts.len(), embeddings.len(), "one embedding per text");
    let embedding = |vector: &&[f32]| TextEmbedding {
        vector: (*vector).into(),
        truncated: false,
    };
    texts.into_iter().zip(embeddings.iter().map(embedding)).collect()
}

/// Builds a classifier from unit embeddings in the plane.
fn classifier(list: &ClassList, embeddings: &[[f32; 2]]) -> Classifier {
    let embeddings: Vec<&[f32]> = embeddings.iter().map(<[f32; 2]>::as_slice).collect();
    list.classifier(&embedded(list, &embeddings), Synonyms::Mean)
}

#[test]
fn a_class_is_the_unit_mean_of_its_name_and_synonyms() {
    let list = list(&["person; man; woman", "sky"], &[]);
    let made = classifier(&list, &[[1., 0.], [1., 0.], [0., 1.], [0., -1.]]);
    // (2, 1) / sqrt(5) for person; sky is unchanged.
    assert_eq!((made.queries, made.dimension), (2, 2));
    let expected = [0.894_427_2, 0.447_213_6, 0., -1.];
    assert!(
        made.embeddings
            .iter()
            .zip(expected)
            .all(|(value, expected)| (value - expected).abs() < 1e-6)
    );
    assert_eq!(made.owners, [QueryOwner::Class(0), QueryOwner::Class(1)]);
}

#[test]
fn or_each_text_is_a_query_of_its_own_and_texts_stay_the_same() {
    let list = list(&["person; man; woman", "sky"], &["wall"]);
    let embeddings = embedded(&list, &[&[1.], &[2.], &[3.], &[4.], &[5.]]);
    let made = list.classifier(&embeddings, Synonyms::Max);
    assert_eq!(made.embeddings, [1., 2., 3., 4., 5.]); // Each embedding is unchanged.
    let person = QueryOwner::Class(0);
    assert_eq!(
        made.owners,
        [person, person, person, QueryOwner::Class(1), QueryOwner::Background]
    );
    let texts: Vec<&str> = list
        .queries(Synonyms::Max)
        .into_iter()
        .flat_map(|query| query.texts)
        .collect();
    assert_eq!(list.texts(), texts);
}

#[test]
fn texts_that_cancel_each_other_out_give_zeros_not_nan() {
    let made = classifier(&list(&["a; b"], &[]), &[[1., 0.], [-1., 0.]]);
    assert_eq!(made.embeddings, [0., 0.]);
}

#[test]
fn each_background_name_is_a_query_of_its_own() {
    let list = list(&["cat"], &["sky", "wall"]);
    let made = classifier(&list, &[[1., 0.], [0., 1.], [0., -1.]]);
    assert_eq!(
        made.owners,
        [QueryOwner::Class(0), QueryOwner::Background, QueryOwner::Background]
    );
    assert_eq!(made.embeddings, [1., 0., 0., 1., 0., -1.]);
    assert_eq!(list.background_label(), UNLABELLED);
}

fn texts_and_owners(list: &ClassList) -> Vec<(Vec<&str>, QueryOwner)> {
    list.queries(Synonyms::Mean)
        .into_iter()
        .map(|query| (query.texts, query.owner))
        .collect()
}

#[test]
fn a_class_called_background_is_made_of_the_background_names() {
    let list = list(&["Background; void", "cat"], &["sky", "wall"]);
    assert_eq!(
        texts_and_owners(&list),
        [
            (vec!["cat"], QueryOwner::Class(1)),
            (vec!["sky"], QueryOwner::Class(0)),
            (vec!["wall"], QueryOwner::Class(0)),
            (vec!["void"], QueryOwner::Class(0)),
        ]
    );
    assert_eq!(list.background_label(), 0);
    assert_eq!(
        list.queries_as_classes(),
        [class("cat"), class("sky"), class("wall"), class("void")]
    );
}

#[test]
fn queries_as_classes_keep_what_is_averaged_together() {
    let list = list(&["person; man", "cat"], &["sky"]);
    assert_eq!(
        list.queries_as_classes(),
        [class("person; man"), class("cat"), class("sky")]
    );
}

#[test]
fn the_background_is_one_word_in_any_case_with_white_space_around_it() {
    for text in ["background", "BACKGROUND", " Background ", "\tbackground\n"] {
        assert!(is_background(text), "{text:?}");
    }
    for text in ["back ground", "backgrounds", "green background", "", "[background]"] {
        assert!(!is_background(text), "{text:?}");
    }
}

#[test]
fn without_background_asked_for_the_word_is_a_class_like_any() {
    let list = list(&["background", "cat"], &[]);
    assert_eq!(list.texts(), ["background", "cat"]);
    assert_eq!(list.background_label(), UNLABELLED);
}

#[test]
fn a_class_is_not_background_at_the_same_time() {
    let list = list(&["cat", "tree; Sky"], &["sky", "wall", "Wall"]);
    assert_eq!(list.texts(), ["cat", "tree", "Sky", "wall"]);
}

#[test]
fn a_background_class_that_loses_all_its_names_keeps_its_own() {
    let list = list(&["background", "sky"], &["sky"]);
    assert_eq!(
        texts_and_owners(&list),
        [
            (vec!["sky"], QueryOwner::Class(1)),
            (vec!["background"], QueryOwner::Class(0))
        ]
    );
}

#[test]
fn a_class_is_found_by_its_name_first_and_in_any_case() {
    let list = list(&["Cat; dog", "dog", "bus; lorry"], &[]);
    let ids = ["Cat", "cat", " dog", "DOG", "Lorry", "\u{feff}bus", "tree"].map(|name| list.class_called(name));
    assert_eq!(ids, [Some(0), Some(0), Some(1), Some(1), Some(2), Some(2), None]);
}
