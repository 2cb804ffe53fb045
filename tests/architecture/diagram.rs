//! The rooms as docs/architecture.md shows them.

use crate::rooms::Table;
use crate::rules;
use crate::sources::Source;

/// The line before the block that this program writes.
const MARKER: &str = "<!-- `make architecture` writes the block below. -->\n```text\n";
const END: &str = "```\n";

const COLUMN: usize = 12;
const WIDTH: usize = 110;

/// Prints the rooms in the table's order. For each room, prints what it owns, by the first sentence of its
/// documentation, and which rooms it uses, by the code.
pub(crate) fn print(source: &Source, table: &Table) -> String {
    let used = rules::used(source);
    let mut text = String::new();
    for &(room, _) in table {
        let module = source.modules.iter().find(|module| module.path == [room]);
        let summary = module.map_or("", |module| &*module.summary);
        let uses: Vec<&str> = table
            .iter()
            .map(|&(other, _)| other)
            .filter(|other| used.get(room).is_some_and(|used| used.contains(other)))
            .collect();
        let uses = if uses.is_empty() {
            "-> nothing".to_owned()
        } else {
            format!("-> {}", uses.join(", "))
        };
        let mut name = room;
        for line in wrapped(summary).into_iter().chain(wrapped(&uses)) {
            text += format!("{name:COLUMN$}{line}").trim_end();
            text.push('\n');
            name = "";
        }
    }
    text
}

/// The words of a text in lines that fit beside the names.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= WIDTH - COLUMN => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// A document with this text in its block.
///
/// # Panics
/// If the document has no such block.
pub(crate) fn with_block(document: &str, text: &str) -> String {
    let (before, rest) = document
        .split_once(MARKER)
        .expect("docs/architecture.md has a block for the rooms");
    let (_, after) = rest.split_once(END).expect("the block for the rooms ends");
    format!("{before}{MARKER}{text}{END}{after}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::Files;

    #[test]
    fn a_room_is_shown_with_its_first_sentence_and_what_it_uses() {
        let files = Files::given(&[
            ("src/lib.rs", "mod image; mod support;"),
            ("src/image.rs", "//! Bytes to\n//! pixels. More.\n\nuse crate::support;"),
            ("src/support.rs", "//! Small things"),
        ]);
        let table = [("image", ""), ("support", "")];
        assert_eq!(
            print(&Source::read(&files, "src/lib.rs"), &table),
            "image       Bytes to pixels\n            -> support\nsupport     Small things\n            -> nothing\n"
        );
    }

    #[test]
    fn the_block_is_replaced_and_the_rest_is_kept() {
        let document = format!("Before.\n{MARKER}old\n{END}After.\n```text\nother\n```\n");
        let expected = format!("Before.\n{MARKER}new\n{END}After.\n```text\nother\n```\n");
        assert_eq!(with_block(&document, "new\n"), expected);
    }

    #[test]
    fn long_texts_are_wrapped() {
        let lines = wrapped(&"word ".repeat(30));
        assert_eq!(lines.len(), 2);
        assert!(lines.iter().all(|line| line.len() <= WIDTH - COLUMN));
    }
}
