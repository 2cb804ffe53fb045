//! Text from outside: files, standard input, bodies of requests.
//!
//! This file owns what is done to bytes before anything reads them as text, and which characters of a name count as
//! none because nobody can see them.

use std::borrow::Cow;

/// The byte order mark as a character. Windows' editors put it before UTF-8.
const BYTE_ORDER_MARK: &str = "\u{feff}";

/// Bytes that are not UTF-8. The text says what they look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotUtf8 {
    /// UTF-16 or UTF-32, by its mark or its many zeros.
    #[error("it is {0} text; save it as UTF-8")]
    Wide(&'static str),
    /// Something else, an 8-bit encoding for example.
    #[error("it is not UTF-8 text")]
    Other,
}

/// Returns bytes as text: without a byte order mark, and with `\n` for every line break of Windows (`\r\n`) and of old
/// Macs (`\r`).
///
/// # Errors
/// [`NotUtf8`] for text in another encoding.
pub(crate) fn plain_text(bytes: Vec<u8>) -> Result<String, NotUtf8> {
    check_encoding(&bytes)?;
    let mut text = String::from_utf8(bytes).map_err(|_| NotUtf8::Other)?;
    if text.starts_with(BYTE_ORDER_MARK) {
        text.drain(..BYTE_ORDER_MARK.len());
    }
    if text.contains('\r') {
        text = text.replace("\r\n", "\n").replace('\r', "\n");
    }
    Ok(text)
}

/// Returns the bytes of a JSON text without a byte order mark.
///
/// # Errors
/// [`NotUtf8::Wide`] for UTF-16 and UTF-32. Other wrong bytes are left to the parser, which names their place.
pub(crate) fn plain_json(bytes: &[u8]) -> Result<&[u8], NotUtf8> {
    check_encoding(bytes)?;
    Ok(bytes.strip_prefix(BYTE_ORDER_MARK.as_bytes()).unwrap_or(bytes))
}

/// Refuses UTF-16 and UTF-32. Without a mark, they are told by a zero among the first two bytes: no text in UTF-8 begins
/// so.
fn check_encoding(bytes: &[u8]) -> Result<(), NotUtf8> {
    match bytes {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Err(NotUtf8::Wide("UTF-32")),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Err(NotUtf8::Wide("UTF-16")),
        [0, 0, 0, _, ..] | [_, 0, 0, 0, ..] => Err(NotUtf8::Wide("UTF-32")),
        [0, _, ..] | [_, 0, ..] => Err(NotUtf8::Wide("UTF-16")),
        _ => Ok(()),
    }
}

/// Returns a name as people see it: without characters that show nothing (byte order marks, zero-width spaces, soft
/// hyphens, marks of the direction of writing), and without white space around it.
///
/// Zero-width joiners and non-joiners stay between two characters beyond ASCII, where they make an emoji of several or
/// belong to the spelling of Persian and Indic words.
pub(crate) fn visible(name: &str) -> Cow<'_, str> {
    if !name.contains(is_invisible) {
        return Cow::Borrowed(name.trim());
    }
    let mut shown = String::with_capacity(name.len());
    let mut rest = name.chars().peekable();
    while let Some(character) = rest.next() {
        let mut joins = || {
            let (before, after) = (shown.chars().next_back(), rest.peek());
            matches!(character, '\u{200c}' | '\u{200d}')
                && before.is_some_and(is_spelt_with_joiners)
                && after.is_some_and(|&after| is_spelt_with_joiners(after))
        };
        if !is_invisible(character) || joins() {
            shown.push(character);
        }
    }
    Cow::Owned(shown.trim().to_owned())
}

fn is_spelt_with_joiners(character: char) -> bool {
    !character.is_ascii() && !character.is_whitespace() && !is_invisible(character)
}

/// Returns whether a character shows nothing and takes no room: of Unicode's category Cf, those that occur in copied
/// text.
fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}'
            | '\u{2066}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn text_of_every_editor_has_the_same_lines() {
        for bytes in [
            "wall\nmöwe\n",
            "\u{feff}wall\nmöwe\n",
            "wall\r\nmöwe\r\n",
            "\u{feff}wall\r\nmöwe\r\n",
            "wall\rmöwe\r",
        ] {
            assert_eq!(plain_text(bytes.into()), Ok("wall\nmöwe\n".to_owned()), "{bytes:?}");
        }
        assert_eq!(plain_text(Vec::new()), Ok(String::new()));
        assert_eq!(plain_json("\u{feff}{}".as_bytes()), Ok(&b"{}"[..]));
    }

    #[test]
    fn other_encodings_are_named() {
        let wide = |text: &str, swap: bool, mark: bool| -> Vec<u8> {
            let units = mark.then_some(0xfeff).into_iter().chain(text.encode_utf16());
            units
                .flat_map(|unit| if swap { unit.to_be_bytes() } else { unit.to_le_bytes() })
                .collect()
        };
        for swap in [false, true] {
            for mark in [false, true] {
                let error = plain_text(wide("wall\n", swap, mark)).unwrap_err();
                assert_eq!(
                    error.to_string(),
                    "it is UTF-16 text; save it as UTF-8",
                    "{swap} {mark}"
                );
                assert_eq!(plain_json(&wide("{}", swap, mark)), Err(NotUtf8::Wide("UTF-16")));
            }
        }
        let longest: Vec<u8> = "\u{feff}wall"
            .chars()
            .flat_map(|one| u32::from(one).to_le_bytes())
            .collect();
        assert_eq!(plain_text(longest.clone()), Err(NotUtf8::Wide("UTF-32")));
        assert_eq!(plain_text(longest[4..].to_vec()), Err(NotUtf8::Wide("UTF-32")));
        assert_eq!(plain_text(b"m\xf6we".to_vec()), Err(NotUtf8::Other));
    }

    #[test]
    fn what_nobody_sees_is_no_part_of_a_name() {
        for name in [
            "fire truck",
            "\u{feff}fire truck",
            "\u{200b} fire\u{200b} truck \u{200e}",
            "\u{202a}fire truck\u{202c}",
            "\u{2067}fi\u{ad}re tr\u{200d}uck\u{2069}",
        ] {
            assert_eq!(visible(name), "fire truck", "{name:?}");
        }
        assert_eq!(visible("\u{200b}\u{feff}"), "");
    }

    #[test]
    fn joiners_stay_where_they_spell() {
        let astronaut = "\u{1f469}\u{200d}\u{1f680}";
        let persian = "\u{645}\u{6cc}\u{200c}\u{62e}\u{648}\u{627}\u{647}\u{645}";
        for name in [astronaut, persian] {
            assert_eq!(visible(name), name);
            assert_eq!(visible(&format!("\u{200d}{name}\u{200c} \u{200d}")), name);
        }
    }
}
