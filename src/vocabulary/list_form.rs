//! Advice about class lists that look like another form of list: several names on one line, or numbered names.

use super::advice::ClassListAdvice;
use super::classes::ClassList;

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
    advice
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
