//! Advice about a valid class list that may not give what its caller expects.
//!
//! This file finds the advice and words it. The engine turns it into the codes of a reply.

use std::collections::HashSet;
use std::fmt;

use super::classes::{fold, is_background};
use super::{Class, ClassList, EmbeddedTexts};

/// One piece of advice. `Display` gives its text for people.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClassListAdvice {
    /// The list has one class and no background, so every pixel gets this class.
    SingleClass {
        /// The class.
        class: String,
    },
    /// The list has several classes, none of which covers the surroundings of the others, and the caller did not say
    /// whether there is a background.
    NoBackground,
    /// The same name belongs to several classes, or several times to one class.
    Duplicate {
        /// The name, lower case.
        name: String,
        /// The classes with the name, in the order of their ids. A class that repeats the name is listed twice.
        classes: Vec<String>,
    },
    /// The only class, or the only background name, has commas in it: several names may have been meant.
    CommasInOnlyName {
        /// The name.
        name: String,
    },
    /// Names begin with numbers, as in a numbered list.
    NumberedNames {
        /// The first such name.
        name: String,
        /// Number of such names.
        count: usize,
    },
    /// Names have signs around them that lists in JSON, CSV, YAML or a label map have.
    SignsInNames {
        /// The first such name.
        name: String,
        /// Number of such names.
        count: usize,
    },
    /// Some words of a class do not occur in the model's training captions.
    UnknownWords {
        /// The class.
        class: String,
        /// The unknown words, lower case, each listed once.
        words: Vec<String>,
    },
    /// A text is longer than the model can read.
    TextTruncated {
        /// The text.
        text: String,
    },
}

impl fmt::Display for ClassListAdvice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SingleClass { class } => {
                write!(
                    f,
                    "{class:?} is the only class and there is no background: every pixel gets it"
                )
            }
            Self::NoBackground => {
                write!(
                    f,
                    "no class covers the surroundings of the others, so things that were not named get the class they \
                     resemble most: \"background\": true leaves them unlabelled, false accepts this without a warning"
                )
            }
            Self::Duplicate { name, classes } => {
                write!(
                    f,
                    "{name:?} is a name of {}: equal names share their pixels by chance",
                    quoted(classes)
                )
            }
            Self::CommasInOnlyName { name } => {
                write!(
                    f,
                    "{name:?} is one name with commas in it: every name is a line or a list's entry of its own"
                )
            }
            Self::NumberedNames { name, count } => {
                write!(
                    f,
                    "the number is read as a part of the name in {name:?}{}",
                    and_others(*count)
                )
            }
            Self::SignsInNames { name, count } => {
                write!(
                    f,
                    "signs of JSON, CSV, YAML or a label map are read as a part of the name in {name:?}{}",
                    and_others(*count)
                )
            }
            Self::UnknownWords { class, words } => {
                write!(
                    f,
                    "the model was trained without the words {} of the class {class:?}",
                    quoted(words)
                )
            }
            Self::TextTruncated { text } => {
                write!(
                    f,
                    "{text:?} is longer than the model reads: the end of some prompts with it was cut off"
                )
            }
        }
    }
}

/// Returns the end of a text about `count` names, of which it has named one.
fn and_others(count: usize) -> String {
    match count - 1 {
        0 => String::new(),
        others => format!(", and in {others} others"),
    }
}

/// Returns the advice about a list that looks at more than its names; [`form_advice`](super::form_advice) gives the
/// rest. `embeddings` are those of its texts that are known. `surroundings` are
/// names of usual surroundings; they are given if the caller left the background open. `training_words` are the words
/// of the model's training captions, lower case, if they are known.
pub fn advice(
    list: &ClassList,
    embeddings: &EmbeddedTexts,
    surroundings: Option<&[String]>,
    training_words: Option<&HashSet<String>>,
) -> Vec<ClassListAdvice> {
    let mut advice = Vec::new();
    match (list.classes(), list.background(), surroundings) {
        ([class], [], _) => advice.push(ClassListAdvice::SingleClass {
            class: class.name.clone(),
        }),
        (classes, [], Some(surroundings)) if !any_stands_for(classes, surroundings) => {
            advice.push(ClassListAdvice::NoBackground);
        }
        _ => {}
    }
    if let Some(known) = training_words {
        advice.extend(list.classes().iter().filter_map(|class| unknown_words(class, known)));
    }
    let is_truncated = |text: &String| embeddings.get(text).is_some_and(|embedding| embedding.truncated);
    if embeddings.keys().any(is_truncated) {
        let truncated = list.texts().into_iter().filter(is_truncated);
        advice.extend(truncated.map(|text| ClassListAdvice::TextTruncated { text }));
    }
    advice
}

/// Returns whether a name of a class is one of these names or "background", or has one of them among its words ("brick
/// wall").
fn any_stands_for(classes: &[Class], surroundings: &[String]) -> bool {
    let names: HashSet<String> = surroundings.iter().map(|name| fold(name)).collect();
    let is_named = |text: &str| names.contains(text) || is_background(text);
    classes.iter().flat_map(Class::texts).any(|text| {
        let text = fold(text);
        is_named(&text) || words_of(&text).any(is_named)
    })
}

fn unknown_words(class: &Class, known: &HashSet<String>) -> Option<ClassListAdvice> {
    let mut words: Vec<String> = Vec::new();
    for text in class.texts() {
        let text = fold(text);
        for word in words_of(&text).filter(|word| !known.contains(*word)) {
            if !words.iter().any(|listed| listed == word) {
                words.push(word.to_owned());
            }
        }
    }
    (!words.is_empty()).then(|| ClassListAdvice::UnknownWords {
        class: class.name.clone(),
        words,
    })
}

fn words_of(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
}

fn quoted(names: &[String]) -> String {
    names
        .iter()
        .map(|name| format!("{name:?}"))
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::classes::tests::{embedded, list};
    use super::*;

    fn said(classes: &[&str], background: &[&str], training_words: Option<&HashSet<String>>) -> Vec<String> {
        advice(&list(classes, background), &EmbeddedTexts::new(), None, training_words)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_class_alone_without_background_is_pointed_out() {
        assert_eq!(
            said(&["cat"], &[], None),
            ["\"cat\" is the only class and there is no background: every pixel gets it"]
        );
        assert!(said(&["cat"], &["sky"], None).is_empty());
        assert!(said(&["cat", "dog"], &[], None).is_empty());
    }

    #[test]
    fn classes_without_surroundings_are_pointed_out_where_background_is_left_open() {
        let surroundings = ["Sky", "wall", "green background"].map(str::to_owned);
        let said = |classes: &[&str], background: &[&str], surroundings| {
            advice(&list(classes, background), &EmbeddedTexts::new(), surroundings, None)
        };
        let missing = [ClassListAdvice::NoBackground];
        assert_eq!(
            missing[0].to_string(),
            "no class covers the surroundings of the others, so things that were not named get the class they resemble \
             most: \"background\": true leaves them unlabelled, false accepts this without a warning"
        );
        assert_eq!(said(&["cat", "dog", "skyscraper"], &[], Some(&surroundings)), missing);
        for classes in [
            ["cat", "sky"],
            ["cat", "WALL-brick"],
            ["cat", "Background"],
            ["cat", "house; wall"],
        ] {
            assert_eq!(said(&classes, &[], Some(&surroundings)), [], "{classes:?}");
        }
        assert_eq!(said(&["cat", "dog"], &["lawn"], Some(&surroundings)), []);
        assert_eq!(
            said(&["cat", "dog"], &[], None),
            [],
            "declined, or asked for as a threshold"
        );
    }

    #[test]
    fn words_the_model_never_saw_are_named_once_per_class() {
        let known = HashSet::from(["cat".to_owned(), "tree".to_owned(), "house".to_owned()]);
        assert_eq!(
            said(&["Tree-house; oak", "oak; Oak cat", "cat"], &[], Some(&known)),
            [
                "the model was trained without the words \"oak\" of the class \"Tree-house\"",
                "the model was trained without the words \"oak\" of the class \"oak\"",
            ]
        );
    }

    #[test]
    fn texts_that_lost_their_end_are_named() {
        let list = list(&["cat; kitty"], &["sky"]);
        let mut embeddings = embedded(&list, &[&[1.0], &[1.0], &[1.0]]);
        for (text, embedding) in &mut embeddings {
            embedding.truncated = text != "cat";
        }
        let said = advice(&list, &embeddings, None, None);
        let truncated = |text: &str| ClassListAdvice::TextTruncated { text: text.to_owned() };
        assert_eq!(said, [truncated("kitty"), truncated("sky")]);
    }

    #[test]
    fn without_a_list_of_words_none_is_unknown() {
        assert!(said(&["xyzzy", "plugh"], &[], None).is_empty());
    }
}
