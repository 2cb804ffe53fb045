//! Texts of callers, cut to what a message repeats of them.

/// Characters of a caller's text that a message repeats.
const SHOWN: usize = 100;

/// Characters of a message that has a caller's text inside, at either end.
const KEPT: usize = 500;

/// Returns the beginning of a caller's text for a message, with an ellipsis where it goes on.
pub(crate) fn excerpt(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}\u{2026}", &text[..end]),
    }
}

/// Returns a message without its middle where it is too long, as that of a parser is which repeats a caller's text.
pub(crate) fn without_middle(message: String) -> String {
    if message.len() <= 2 * KEPT {
        return message;
    }
    let (Some((end, _)), Some((start, _))) = (
        message.char_indices().nth(KEPT),
        message.char_indices().nth_back(KEPT - 1),
    ) else {
        return message;
    };
    if end >= start {
        return message;
    }
    format!("{}\u{2026}{}", &message[..end], &message[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_text_is_repeated_as_it_is_and_a_long_one_cut() {
        assert_eq!(excerpt("tiger"), "tiger");
        assert_eq!(excerpt(&"\u{e9}".repeat(100)), "\u{e9}".repeat(100));
        assert_eq!(
            excerpt(&"\u{e9}".repeat(101)),
            format!("{}\u{2026}", "\u{e9}".repeat(100))
        );
    }

    #[test]
    fn a_long_message_keeps_both_ends() {
        assert_eq!(without_middle("short".to_owned()), "short");
        let exact = "\u{e9}".repeat(1000);
        assert_eq!(without_middle(exact.clone()), exact);
        let long = format!("unknown field {}, expected name", "\u{e9}".repeat(5000));
        let cut = without_middle(long);
        assert_eq!(cut.chars().count(), 1001);
        assert!(cut.starts_with("unknown field \u{e9}") && cut.ends_with("\u{e9}, expected name"));
    }
}
