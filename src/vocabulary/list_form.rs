//! Advice about class lists that looks at the names alone: names that stand in it twice, and lists that look like
//! another form of list, such as several names on one line, numbered names, or lines of JSON.

use std::collections::BTreeMap;

use super::Class;
use super::advice::ClassListAdvice;
use super::classes::{ClassList, fold};

/// Signs before a name that lists in JSON, YAML or Markdown have there.
const SIGNS_BEFORE: [&str; 7] = ["\"", "'", "[", "{", "- ", "* ", "\u{2022} "];

/// Signs behind a name that lists in JSON, CSV or YAML have there.
const SIGNS_BEHIND: [char; 4] = [',', ':', ']', '}'];

/// Returns advice about the form of a list. It needs neither embeddings nor a model.
pub fn form_advice(list: &ClassList) -> Vec<ClassListAdvice> {
    let names: Vec<&str> = list.classes().iter().map(|class| class.name.as_str()).collect();
    let mut advice = Vec::new();
    for only in [
        &names[..],
        &list.background().iter().map(String::as_str).collect::<Vec<_>>(),
    ] {
        if let [name] = only
            && name.contains(',')
        {
            advice.push(ClassListAdvice::CommasInOnlyName {
                name: (*name).to_owned(),
            });
        }
    }
    let by_sign: Vec<&str> = names.iter().copied().filter(|name| has_number_and_sign(name)).collect();
    let numbered = if counts_up(&names) { names } else { by_sign };
    if let [first, ..] = numbered[..] {
        advice.push(ClassListAdvice::NumberedNames {
            name: first.to_owned(),
            count: numbered.len(),
        });
    }
    let signed = names_with_signs(list);
    if let [first, ..] = signed[..] {
        advice.push(ClassListAdvice::SignsInNames {
            name: first.to_owned(),
            count: signed.len(),
        });
    }
    advice.extend(duplicates(list.classes()));
    advice
}

/// Returns the names that have signs of another form of list around them.
fn names_with_signs(list: &ClassList) -> Vec<&str> {
    let names: Vec<&str> = list.classes().iter().map(|class| class.name.as_str()).collect();
    let is_numbered_behind = counts_up_behind(&names) || list.classes().iter().all(has_number_beside);
    if names.len() > 1 && is_numbered_behind {
        return names;
    }
    let background = list.background().iter().map(String::as_str);
    names
        .into_iter()
        .chain(background)
        .filter(|name| has_signs(name))
        .collect()
}

/// Returns whether a name looks like a line of JSON, CSV, YAML, a label map or ImageNet's list of synsets: `"tiger",`,
/// `- tiger`, `tiger,3`, `tiger:255,128,0::`, `n02129604 tiger`.
fn has_signs(name: &str) -> bool {
    let before = SIGNS_BEFORE.iter().any(|sign| name.starts_with(sign));
    let number_behind = |(_, number): (&str, &str)| is_number(number.trim());
    let colour = |(_, rest): (&str, &str)| {
        let channels: Vec<&str> = rest.split(':').next().unwrap_or_default().split(',').collect();
        channels.len() == 3 && channels.iter().all(|channel| is_number(channel.trim()))
    };
    let synset = |(id, _): (&str, &str)| id.strip_prefix('n').is_some_and(|id| id.len() == 8 && is_number(id));
    before
        || name.ends_with(SIGNS_BEHIND)
        || name.rsplit_once(',').is_some_and(number_behind)
        || name.split_once(':').is_some_and(colour)
        || name.split_once(char::is_whitespace).is_some_and(synset)
}

/// Returns whether names that differ end with the numbers from 0 or from 1 in turn: "tiger 0", "lemon 1".
fn counts_up_behind(names: &[&str]) -> bool {
    let parts: Option<Vec<(&str, u64)>> = names
        .iter()
        .map(|name| {
            let (name, number) = name.rsplit_once(char::is_whitespace)?;
            Some((name, number.parse().ok()?))
        })
        .collect();
    parts.is_some_and(|parts| {
        let counts = |start: u64| parts.iter().zip(start..).all(|((_, number), place)| *number == place);
        parts.iter().any(|(name, _)| *name != parts[0].0) && (counts(0) || counts(1))
    })
}

/// Returns whether a class has a number alone among its name and synonyms, as `tiger;3` has in a table whose columns
/// are separated by semicolons.
fn has_number_beside(class: &Class) -> bool {
    !class.synonyms.is_empty() && class.texts().any(is_number)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|character| character.is_ascii_digit())
}

/// Returns the names that belong to several classes, or several times to one.
fn duplicates(classes: &[Class]) -> impl Iterator<Item = ClassListAdvice> {
    let mut owners: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for class in classes {
        for text in class.texts() {
            owners.entry(fold(text)).or_default().push(class.name.clone());
        }
    }
    owners
        .into_iter()
        .filter(|(_, classes)| classes.len() > 1)
        .map(|(name, classes)| ClassListAdvice::Duplicate { name, classes })
}

/// Returns whether a name begins with a number, a sign of numbered lists and a letter: "0: tiger", "1. lemon", "2)bun".
fn has_number_and_sign(name: &str) -> bool {
    let (number, rest) = number_and_rest(name);
    let rest = rest.trim_start();
    let after_sign = rest.strip_prefix([':', '.', ')', '=', ',']);
    number.is_some() && after_sign.is_some_and(|rest| rest.trim_start().starts_with(char::is_alphabetic))
}

/// Returns whether at least two names begin with the numbers from 0 or from 1 in turn: "0 tiger", "1 lemon".
fn counts_up(names: &[&str]) -> bool {
    let numbers = names.iter().map(|name| number_and_rest(name));
    let numbers: Option<Vec<u64>> = numbers
        .map(|(number, rest)| number.filter(|_| rest.chars().any(char::is_alphabetic)))
        .collect();
    numbers.is_some_and(|numbers| {
        let counts = |start: u64| numbers.iter().zip(start..).all(|(number, place)| *number == place);
        numbers.len() > 1 && (counts(0) || counts(1))
    })
}

/// Returns the number at the beginning of a name, and the rest of the name.
fn number_and_rest(name: &str) -> (Option<u64>, &str) {
    let end = name
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(name.len());
    let (digits, rest) = name.split_at(end);
    (digits.parse().ok(), rest)
}

#[cfg(test)]
mod tests {
    use super::super::VocabularyLimits;
    use super::super::classes::tests::class;
    use super::*;

    fn said(classes: &[&str], background: &[&str]) -> Vec<String> {
        let background = background.iter().map(|name| (*name).to_owned()).collect();
        let classes = classes.iter().map(|text| class(text)).collect();
        let list = ClassList::new(classes, background, &VocabularyLimits::for_testing()).expect("a valid list");
        form_advice(&list).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn several_names_on_one_line_are_pointed_out() {
        let advice =
            "\"tiger, lemon, bun\" is one name with commas in it: every name is a line or a list's entry of its own";
        assert_eq!(said(&["tiger, lemon, bun"], &[]), [advice]);
        assert_eq!(said(&["tiger", "lemon"], &["tiger, lemon, bun"]), [advice]);
        assert_eq!(said(&["door, wooden", "wall"], &["sky, blue", "sea"]), [""; 0]);
    }

    #[test]
    fn signs_of_other_forms_of_lists_are_pointed_out() {
        let advice = |name: &str, count: usize| {
            let others = if count > 1 {
                format!(", and in {} others", count - 1)
            } else {
                String::new()
            };
            format!("signs of JSON, CSV, YAML or a label map are read as a part of the name in {name:?}{others}")
        };
        let all: [&[&str]; 9] = [
            &["\"tiger\",", "\"big cat\""],
            &["'tiger',", "'lemon',"],
            &["- tiger", "- lemon"],
            &["tiger,", "lemon,"],
            &["tiger,1", "lemon, 2"],
            &["tiger:255,128,0::", "lemon:0,128,0::"],
            &["n02129604 tiger", "n07749582 lemon"],
            &["tiger 0", "lemon 1"],
            &["[tiger", "lemon]"],
        ];
        for classes in all {
            assert_eq!(said(classes, &[]), [advice(classes[0], 2)], "{classes:?}");
        }
        assert_eq!(said(&["tiger;0", "lemon;1"], &[]), [advice("tiger", 2)]);
        assert_eq!(said(&["names:", "tiger"], &[]), [advice("names:", 1)]);
        assert_eq!(said(&["tiger", "lemon"], &["sky", "- sea"]), [advice("- sea", 1)]);
        let meant: [&[&str]; 6] = [
            &["player 1", "player 2"],
            &["T-shirt", "clock 10:30"],
            &["door, wooden", "dog's bowl"],
            &["747; jumbo jet", "plane"],
            &["north 2129604 road", "sea"],
            &["tiger (stuffed)", "C++ sticker"],
        ];
        for classes in meant {
            assert_eq!(said(classes, &[]), [""; 0], "{classes:?}");
        }
    }

    #[test]
    fn duplicates_are_found_whatever_their_case_spacing_and_composition_synonyms_included() {
        assert_eq!(
            said(&["Cat", "pet; dog;  CAT", "dog; dog"], &[]),
            [
                "\"cat\" is a name of \"Cat\", \"pet\": equal names share their pixels by chance",
                "\"dog\" is a name of \"pet\", \"dog\", \"dog\": equal names share their pixels by chance",
            ]
        );
        let (one, two) = ("caf\u{e9}", "cafe\u{301}");
        assert_eq!(
            said(&[one, two], &[]),
            [format!(
                "{one:?} is a name of {one:?}, {two:?}: equal names share their pixels by chance"
            )]
        );
    }

    #[test]
    fn numbers_before_names_are_pointed_out() {
        let advice = |name: &str, count: usize| {
            format!(
                "the number is read as a part of the name in {name:?}, and in {} others",
                count - 1
            )
        };
        assert_eq!(said(&["0: tiger", "1: lemon"], &[]), [advice("0: tiger", 2)]);
        assert_eq!(
            said(&["wall", "1. lemon", "2)bun", "3 = sky"], &[]),
            [advice("1. lemon", 3)]
        );
        assert_eq!(said(&["1 tiger", "2 lemon"], &[]), [advice("1 tiger", 2)]);
        assert_eq!(
            said(&["0: tiger"], &[]),
            ["the number is read as a part of the name in \"0: tiger\""]
        );
        for classes in [
            &["4 wheel drive", "2 seats"][..],
            &["1 euro coin"],
            &["0", "1"],
            &["3.5 inch disk"],
            &["747", "10:30"],
        ] {
            assert_eq!(said(classes, &[]), [""; 0], "{classes:?}");
        }
    }
}
