//! Legends: text files that say which class a value or a colour of a truth means.
//!
//! A line has a value or a colour and a name, in either order: `7 road`, `road,7`, `128 64 128 road`, `#804080 road`, or
//! the lines of CVAT's `labelmap.txt`, `road:128,64,128::`. A name may stand in several lines. Lines that begin with `#`
//! and have no colour are comments, and a first line without a number is a heading.

use std::collections::{BTreeMap, BTreeSet};

use crate::scores::UNLABELLED;

/// Names of pixels that do not count, lower case, unless the classes have one of them.
const NOT_COUNTED: [&str; 7] = [
    "unlabeled",
    "unlabelled",
    "unlabled",
    "void",
    "ignore",
    "ignored",
    "don't care",
];

/// A legend as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Legend {
    entries: Vec<(Key, String)>,
}

/// What a truth has at a pixel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Value(u16),
    Colour([u8; 3]),
}

/// A line of a legend that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct LegendError {
    /// Number of the line, counted from 1.
    pub line: usize,
    /// The cause.
    pub reason: String,
}

/// The class of each value or colour of a truth, or [`UNLABELLED`] for those that do not count. Either is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TruthCode {
    /// The class of each value.
    pub values: BTreeMap<u16, u16>,
    /// The class of each colour.
    pub colours: BTreeMap<[u8; 3], u16>,
}

impl Legend {
    /// Reads a legend.
    ///
    /// # Errors
    /// [`LegendError`] for a line without a name, or without a value or colour, for a value or colour with two names,
    /// and for values among colours.
    pub fn parse(text: &str) -> Result<Self, LegendError> {
        let mut entries: Vec<(Key, String)> = Vec::new();
        let mut known: BTreeMap<Key, usize> = BTreeMap::new();
        for (line, number) in text.lines().zip(1..) {
            let at = |reason: String| LegendError { line: number, reason };
            let line = line.trim();
            let entry = entry(line);
            let is_comment = line.is_empty() || (line.starts_with('#') && entry.is_none());
            if is_comment || (entries.is_empty() && entry.is_none() && !line.contains(|c: char| c.is_ascii_digit())) {
                continue;
            }
            let (key, name) = entry.ok_or_else(|| at("it has no value or colour with a name".to_owned()))?;
            if let Some(before) = known.insert(key, number) {
                return Err(at(format!("its value or colour stands in line {before}, too")));
            }
            let is_colour = |key: &Key| matches!(key, Key::Colour(_));
            if entries
                .first()
                .is_some_and(|(first, _)| is_colour(first) != is_colour(&key))
            {
                return Err(at("a legend has values or colours, not both".to_owned()));
            }
            entries.push((key, name.to_owned()));
        }
        match entries.is_empty() {
            true => Err(LegendError {
                line: 1,
                reason: "there is no line with a value or colour and a name".to_owned(),
            }),
            false => Ok(Self { entries }),
        }
    }

    /// Returns the names of classes, each once, in the order of their first lines.
    pub fn names(&self) -> Vec<String> {
        counted_names(self.entries.iter().map(|(_, name)| name.as_str()))
    }

    /// Returns the class of each value or colour, and the names that are no class, whose pixels do not count. `class_of`
    /// returns the class with a name.
    pub fn code(&self, class_of: &dyn Fn(&str) -> Option<u16>) -> (TruthCode, Vec<String>) {
        let mut code = TruthCode::default();
        for (key, name) in &self.entries {
            let class = class_of(name).unwrap_or(UNLABELLED);
            match *key {
                Key::Value(value) => code.values.insert(value, class),
                Key::Colour(colour) => code.colours.insert(colour, class),
            };
        }
        let names = self.names().into_iter();
        (code, names.filter(|name| class_of(name).is_none()).collect())
    }
}

/// Returns the names that may be classes, each once, in their order.
pub(super) fn counted_names<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let counted = names.filter(|name| !NOT_COUNTED.contains(&name.to_lowercase().as_str()));
    counted.filter(|name| seen.insert(*name)).map(str::to_owned).collect()
}

/// Reads one line.
fn entry(line: &str) -> Option<(Key, &str)> {
    cvat_entry(line)
        .or_else(|| entry_in_front(line))
        .or_else(|| entry_behind(line))
}

/// Reads a line of CVAT's label map: name, colour, parts and actions, separated by colons.
fn cvat_entry(line: &str) -> Option<(Key, &str)> {
    let (name, rest) = line.split_once(':')?;
    let colour = rest.split(':').next()?;
    let [red, green, blue] = numbers(colour)?[..] else {
        return None;
    };
    named(colour_key([red, green, blue])?, name)
}

/// Reads a line that begins with a value or a colour.
fn entry_in_front(line: &str) -> Option<(Key, &str)> {
    if let Some(rest) = line.strip_prefix('#') {
        let (digits, name) = rest.split_at_checked(6)?;
        return named(hexadecimal(digits)?, name);
    }
    let end = line
        .find(|c: char| !(c.is_ascii_digit() || is_separator(c)))
        .unwrap_or(line.len());
    let (front, name) = line.split_at(end);
    // A name may begin with digits: they belong to it unless a separator follows.
    match front.chars().next_back() {
        Some(last) if is_separator(last) => named(key(&numbers(front)?)?, name),
        _ => None,
    }
}

/// Reads a line that ends with a value or a colour.
fn entry_behind(line: &str) -> Option<(Key, &str)> {
    if let Some((name, digits)) = line.rsplit_once('#') {
        return named(hexadecimal(digits.trim_end_matches(is_separator))?, name);
    }
    let start = line
        .rfind(|c: char| !(c.is_ascii_digit() || is_separator(c)))
        .map_or(0, |at| at + line[at..].chars().next().map_or(0, char::len_utf8));
    let (name, back) = line.split_at(start);
    match back.chars().next() {
        Some(first) if is_separator(first) => named(key(&numbers(back)?)?, name),
        _ => None,
    }
}

fn named(key: Key, name: &str) -> Option<(Key, &str)> {
    let name = name.trim_matches(is_separator).trim_matches('"');
    (!name.is_empty()).then_some((key, name))
}

fn is_separator(character: char) -> bool {
    character.is_whitespace() || matches!(character, ',' | ';' | ':' | '=' | '(' | ')' | '[' | ']')
}

fn numbers(text: &str) -> Option<Vec<u16>> {
    let parts = text.split(is_separator).filter(|part| !part.is_empty());
    parts.map(|part| part.parse().ok()).collect()
}

fn key(numbers: &[u16]) -> Option<Key> {
    match *numbers {
        [value] => Some(Key::Value(value)),
        [red, green, blue] => colour_key([red, green, blue]),
        _ => None,
    }
}

fn colour_key(colour: [u16; 3]) -> Option<Key> {
    let [red, green, blue] = colour.map(u8::try_from);
    Some(Key::Colour([red.ok()?, green.ok()?, blue.ok()?]))
}

fn hexadecimal(digits: &str) -> Option<Key> {
    let mut colour = [0; 3];
    hex::decode_to_slice(digits, &mut colour).ok()?;
    Some(Key::Colour(colour))
}

#[cfg(test)]
mod tests {
    use super::Key::{Colour, Value};
    use super::*;

    fn read(text: &str) -> Vec<(Key, String)> {
        Legend::parse(text).expect("a legend").entries
    }

    #[test]
    fn values_and_colours_stand_before_or_behind_names() {
        let road = |key| vec![(key, "road 66".to_owned())];
        for text in [
            "7 road 66",
            "7\troad 66",
            "7: road 66",
            "7,road 66",
            "value\tname\n7\troad 66\n",
            "# ours\n7;road 66",
        ] {
            assert_eq!(read(text), road(Value(7)), "{text}");
        }
        for text in [
            "128 64 128 road 66",
            "128,64,128,road 66",
            "(128, 64, 128) road 66",
            "#804080 road 66",
            "road 66: #804080",
            "# label:color_rgb:parts:actions\nroad 66:128,64,128::",
        ] {
            assert_eq!(read(text), road(Colour([128, 64, 128])), "{text}");
        }
        assert_eq!(read("road, 7"), [(Value(7), "road".to_owned())]);
        assert_eq!(read("road 128 64 128"), [(Colour([128, 64, 128]), "road".to_owned())]);
        assert_eq!(read("wall-other 7"), [(Value(7), "wall-other".to_owned())]);
    }

    #[test]
    fn what_is_no_entry_is_refused_with_its_line() {
        for (text, reason) in [
            ("1 cat\ndog", "line 2: it has no value or colour with a name"),
            ("1 cat\n1 dog", "line 2: its value or colour stands in line 1, too"),
            ("1 cat\n1 2 3 dog", "line 2: a legend has values or colours, not both"),
            ("1 cat\n300 2 3 dog", "line 2: it has no value or colour with a name"),
            ("cat\n", "line 1: there is no line with a value or colour and a name"),
        ] {
            let error = Legend::parse(text).expect_err(text);
            assert_eq!(error.to_string(), reason);
        }
    }

    #[test]
    fn names_of_no_class_do_not_count_and_those_for_void_are_no_classes() {
        let legend = Legend::parse("0 unlabeled\n1 cat\n2 dog\n3 cat").expect("a legend");
        assert_eq!(legend.names(), ["cat", "dog"]);
        let (code, uncounted) = legend.code(&|name| (name == "cat").then_some(5));
        assert_eq!(
            code.values,
            BTreeMap::from([(0, UNLABELLED), (1, 5), (2, UNLABELLED), (3, 5)])
        );
        assert_eq!(uncounted, ["dog"]);
    }
}
