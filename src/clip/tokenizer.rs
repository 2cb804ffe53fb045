//! CLIP's tokenizer: text to token ids, with the same results as OpenAI's and open_clip's Python.
//!
//! Owns the cleaning of text, its split into words and OpenAI's vocabulary file. The `tokenizers` crate applies the
//! byte-pair merges. One step of the Python code is left out: ftfy's repairs of mis-decoded text, typographic quotes,
//! ligatures, full-width letters, control characters and entities that were escaped three times. ftfy's normalisation
//! to Unicode's composed form (NFC) is kept.

use std::borrow::Cow;
use std::io::{BufRead, BufReader};

use flate2::read::GzDecoder;
use regex::{Captures, Regex};
use tokenizers::Model;
use tokenizers::models::bpe::{BPE, Vocab};
use unicode_normalization::UnicodeNormalization;

/// Number of tokens in the vocabulary, which is the number of rows of a text tower's token embedding.
pub const VOCABULARY_SIZE: i64 = 49_408;

/// The id of the token that every text starts with.
pub const START_OF_TEXT: i64 = 49_406;

/// The id of the token that every text ends with. The text's feature is read where this token first occurs.
pub const END_OF_TEXT: i64 = 49_407;

/// OpenAI's vocabulary: a header line, then one merge per line, the most frequent merge first.
static MERGES: &[u8] = include_bytes!("bpe_simple_vocab_16e6.txt.gz");

/// Number of merges that CLIP was trained with, out of the file's 262,144. They fill the vocabulary beside the single
/// bytes, the single bytes that end a word, and the two special tokens.
const MERGE_COUNT: usize = VOCABULARY_SIZE as usize - 2 * 256 - 2;

/// Suffix of the last token of a word.
const END_OF_WORD: &str = "</w>";

/// Matches one word for the merges: a special token, an English contraction, a run of letters, one digit, or a run of
/// anything else but spaces. U+0345, a combining iota, belongs to no word: when case is ignored, Python's pattern
/// counts it neither as a letter nor as something that is not a letter.
const WORDS: &str = r"(?i:<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}\x{345}]+";

/// Matches what may be a reference to a character in HTML, as Python's `html.unescape` finds it: decimal, hexadecimal
/// or named.
const REFERENCES: &str = r"&(?:#([0-9]+);?|#[xX]([0-9a-fA-F]+);?|[^\t\n\x0c <&#;]{1,32};?)";

/// The tokens of one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// Token ids from [`START_OF_TEXT`] to [`END_OF_TEXT`]; at most as many as the context length.
    pub ids: Vec<i64>,
    /// Whether the text was too long and lost its end.
    pub truncated: bool,
}

/// Turns text into token ids. Building a tokenizer takes tens of milliseconds, so build it once.
#[derive(Debug)]
pub struct Tokenizer {
    merges: BPE,
    words: Regex,
    references: Regex,
    /// The printable character that stands for each byte in the vocabulary.
    byte_symbols: [char; 256],
    context_length: usize,
}

impl Tokenizer {
    /// Builds a tokenizer for text towers that read `context_length` tokens: 77 for every published CLIP.
    pub fn new(context_length: usize) -> Self {
        let alphabet = alphabet();
        let mut byte_symbols = ['\0'; 256];
        for &(byte, symbol) in &alphabet {
            byte_symbols[usize::from(byte)] = symbol;
        }
        Self {
            merges: load_merges(&alphabet),
            words: Regex::new(WORDS).expect("WORDS is a valid pattern"),
            references: Regex::new(REFERENCES).expect("REFERENCES is a valid pattern"),
            byte_symbols,
            context_length,
        }
    }

    /// Returns the tokens of one text. A text longer than the context length is cut and still ends with
    /// [`END_OF_TEXT`].
    pub fn encode(&self, text: &str) -> Tokens {
        let text = self.clean(text);
        let words = self
            .words
            .find_iter(&text)
            .flat_map(|word| self.encode_word(word.as_str()));
        let mut ids: Vec<i64> = std::iter::once(START_OF_TEXT)
            .chain(words)
            .chain([END_OF_TEXT])
            .collect();
        let truncated = ids.len() > self.context_length;
        if truncated {
            ids.truncate(self.context_length);
            if let Some(last) = ids.last_mut() {
                *last = END_OF_TEXT;
            }
        }
        Tokens { ids, truncated }
    }

    /// Cleans text for the merges: resolves entities twice, because a text may have been escaped twice, turns each run
    /// of white space into one space, and changes letters to lower case.
    fn clean(&self, text: &str) -> String {
        let text: String = text.nfc().collect();
        let text = self.unescape(&self.unescape(&text)).into_owned();
        // Python counts ASCII's four separators as white space; Unicode's property does not.
        let spaced = text.split(|c: char| c.is_whitespace() || matches!(c, '\x1c'..='\x1f'));
        spaced
            .filter(|word| !word.is_empty())
            .collect::<Vec<_>>()
            .join(" ")
            .to_lowercase()
    }

    /// Does what Python's `html.unescape` does.
    fn unescape<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.references.replace_all(text, |reference: &Captures| {
            let number = |group, radix| u32::from_str_radix(reference.get(group)?.as_str(), radix).ok();
            match number(1, 10).or_else(|| number(2, 16)) {
                Some(character) if is_dropped(character) => String::new(),
                _ => htmlize::unescape(&reference[0]).into_owned(),
            }
        })
    }

    fn encode_word(&self, word: &str) -> Vec<i64> {
        match word {
            "<start_of_text>" => vec![START_OF_TEXT],
            "<end_of_text>" => vec![END_OF_TEXT],
            _ => {
                let symbols: String = word.bytes().map(|byte| self.byte_symbols[usize::from(byte)]).collect();
                let tokens = self.merges.tokenize(&symbols).expect("the vocabulary holds every byte");
                tokens.iter().map(|token| i64::from(token.id)).collect()
            }
        }
    }
}

/// Returns whether Python replaces a reference to this character by nothing. These are control characters and
/// noncharacters, which HTML5 keeps.
fn is_dropped(character: u32) -> bool {
    matches!(character, 0x1..=0x8 | 0xb | 0xe..=0x1f | 0x7f | 0xfdd0..=0xfdef) || character & 0xfffe == 0xfffe
}

/// Returns every byte with the printable character that stands for it, in the vocabulary's order. First come the bytes
/// that Latin-1 can print, each standing for itself. Then come the others, as the characters from U+0100 on.
fn alphabet() -> Vec<(u8, char)> {
    let prints = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let printable = (0..=255).filter(prints).map(|byte| (byte, char::from(byte)));
    let others = (0..=255).filter(|byte| !prints(byte)).zip('\u{100}'..);
    printable.chain(others).collect()
}

/// Loads OpenAI's vocabulary and merges. A token's id is its place in the list of the bytes, the bytes that end a word,
/// and the results of the merges.
fn load_merges(alphabet: &[(u8, char)]) -> BPE {
    let merges: Vec<(String, String)> = BufReader::new(GzDecoder::new(MERGES))
        .lines()
        .skip(1)
        .take(MERGE_COUNT)
        .map(|line| {
            let line = line.expect("the compiled-in vocabulary is intact");
            let (first, second) = line.split_once(' ').expect("a merge has two parts");
            (first.to_owned(), second.to_owned())
        })
        .collect();
    let bytes = alphabet.iter().map(|(_, symbol)| symbol.to_string());
    let last_bytes = alphabet.iter().map(|(_, symbol)| format!("{symbol}{END_OF_WORD}"));
    let merged = merges.iter().map(|(first, second)| format!("{first}{second}"));
    let vocabulary: Vocab = bytes.chain(last_bytes).chain(merged).zip(0..).collect();
    BPE::builder()
        .vocab_and_merges(vocabulary, merges)
        .end_of_word_suffix(END_OF_WORD.to_owned())
        .build()
        .expect("every part of a merge stands in the vocabulary")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(text: &str) -> Vec<i64> {
        Tokenizer::new(77).encode(text).ids
    }

    #[test]
    fn a_text_stands_between_the_special_tokens() {
        // The example of OpenAI's own notebook.
        assert_eq!(encode("hello world!"), [49_406, 3_306, 1_002, 256, 49_407]);
    }

    #[test]
    fn text_without_words_has_the_special_tokens_alone() {
        assert_eq!(encode(""), [START_OF_TEXT, END_OF_TEXT]);
        assert_eq!(encode(" \t\n\u{a0}\u{1f} "), [START_OF_TEXT, END_OF_TEXT]);
    }

    #[test]
    fn case_and_spacing_do_not_matter() {
        assert_eq!(encode("  A  photo\tof a CAT."), encode("a photo of a cat."));
    }

    #[test]
    fn entities_are_resolved_twice() {
        assert_eq!(encode("rock &amp;amp; roll"), encode("rock & roll"));
    }

    #[test]
    fn references_to_control_characters_and_noncharacters_leave_nothing() {
        assert_eq!(encode("c&#1;a&#x7F;t&#xfdd0;s &#x10ffff"), encode("cats"));
        assert_eq!(encode("&#0;&#xd800;&#99999999999;"), encode("\u{fffd}\u{fffd}\u{fffd}"));
        assert_eq!(encode("&#128;&#13;&#65;"), encode("\u{20ac} a"));
    }

    #[test]
    fn an_iota_below_is_no_part_of_any_word() {
        assert_eq!(encode("!\u{345}!"), encode("! !"));
    }

    #[test]
    fn composed_and_decomposed_accents_are_one() {
        assert_eq!(encode("cafe\u{301}"), encode("caf\u{e9}"));
    }

    #[test]
    fn a_long_text_is_cut_at_the_context_length_and_still_ends() {
        let tokenizer = Tokenizer::new(5);
        let fits = tokenizer.encode("one two three");
        assert_eq!((fits.ids.len(), fits.truncated), (5, false));
        let cut = tokenizer.encode("one two three four");
        assert_eq!(
            cut,
            Tokens {
                ids: fits.ids,
                truncated: true
            }
        );
    }

    #[test]
    fn special_tokens_written_out_are_special() {
        assert_eq!(
            encode("<start_of_text>a<end_of_text>"),
            [49_406, 49_406, 320, 49_407, 49_407]
        );
    }
}
