//! Entity tags in conditional requests (RFC 9110, 13.1).

use axum::http::{HeaderMap, HeaderName};

/// Whether a header of `If-None-Match`'s form holds the entity tag, or `*`. Compared weakly, as caches do.
pub(super) fn matches(headers: &HeaderMap, header: HeaderName, etag: &str) -> bool {
    tags(headers, header).any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag)
}

/// The entity tags in a header, quotes included. Tags of this server hold no commas.
pub(super) fn tags(headers: &HeaderMap, header: HeaderName) -> impl Iterator<Item = &str> {
    let values = headers
        .get_all(header)
        .into_iter()
        .filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|tag| !tag.is_empty())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::http::header::IF_NONE_MATCH;

    use super::*;

    fn holds(value: &str) -> bool {
        let headers = HeaderMap::from_iter([(IF_NONE_MATCH, value.parse().unwrap())]);
        matches(&headers, IF_NONE_MATCH, "\"a1\"")
    }

    #[test]
    fn a_tag_is_found_alone_in_a_list_weak_or_by_the_star() {
        for value in ["\"a1\"", "\"b2\", \"a1\"", "W/\"a1\"", "*"] {
            assert!(holds(value), "{value}");
        }
    }

    #[test]
    fn other_tags_do_not_match() {
        for value in ["\"b2\"", "a1", "", "\"a1"] {
            assert!(!holds(value), "{value}");
        }
        assert!(!matches(&HeaderMap::new(), IF_NONE_MATCH, "\"a1\""));
    }
}
