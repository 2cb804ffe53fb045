//! Names: look-up of enumeration values by their names, and the form of names that users make.

use std::str::FromStr;

use strum::VariantNames;

use super::excerpt;

/// Largest number of characters in a name that users make.
const MAX_NAME_CHARACTERS: usize = 64;

/// Returns the value of an enumeration that has the given name.
///
/// # Errors
/// Fails when no value has the name. The message lists the valid names.
pub(crate) fn named<T: FromStr + VariantNames>(name: &str) -> Result<T, String> {
    name.parse()
        .map_err(|_| format!("there is no {}: {}", excerpt(name), T::VARIANTS.join(", ")))
}

/// Returns whether a name matches `[a-z0-9][a-z0-9._-]{0,63}`, which is safe in a path, a file name, a log and a metric's
/// label.
pub(crate) fn is_plain_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= MAX_NAME_CHARACTERS
        && name.bytes().next().is_some_and(plain)
        && name.bytes().all(|byte| plain(byte) || b"._-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_users_make_are_slugs() {
        let longest = "a".repeat(64);
        for name in ["a", "0", "street-scenes_2.1", &longest] {
            assert!(is_plain_name(name), "{name}");
        }
        let too_long = "a".repeat(65);
        for name in ["", ".hidden", "-a", "Pets", "a b", "a/b", "katze\u{e4}", &too_long] {
            assert!(!is_plain_name(name), "{name}");
        }
    }
}
