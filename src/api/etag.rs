//! Entity tags and the conditions of requests on them (RFC 9110, sections 8.8.3 and 13).

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

/// The strong entity tag of what has this digest, with its quotes, as in the ETag header.
pub(super) fn entity_tag(digest: &str) -> String {
    format!("\"{digest}\"")
}

/// What a request asks of the present state before the state is changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Precondition {
    /// If-Match: the state is one of these.
    if_match: Option<EntityTags>,
    /// If-None-Match: the state is none of these.
    if_none_match: Option<EntityTags>,
}

/// The value of If-Match or If-None-Match.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum EntityTags {
    /// `*`: any state that exists.
    Any,
    /// Entity tags with their quotes and, for weak ones, `W/`.
    List(Vec<String>),
}

impl Precondition {
    /// The condition of a request. Where it has both headers, both must hold (RFC 9110, section 13.2.2).
    pub(super) fn read(headers: &HeaderMap) -> Self {
        let tags = |header| headers.contains_key(&header).then(|| EntityTags::read(headers, header));
        Self {
            if_match: tags(header::IF_MATCH),
            if_none_match: tags(header::IF_NONE_MATCH),
        }
    }

    /// Whether it holds for the entity tag of what exists, `None` for nothing.
    pub(super) fn holds(&self, current: Option<&str>) -> bool {
        let matches = |tags: &EntityTags| current.is_some_and(|current| tags.match_strongly(current));
        let is_none = |tags: &EntityTags| !current.is_some_and(|current| tags.match_weakly(current));
        self.if_match.as_ref().is_none_or(matches) && self.if_none_match.as_ref().is_none_or(is_none)
    }
}

/// Returns the first condition that is neither `*` nor entity tags separated by commas.
pub(super) fn malformed_condition(headers: &HeaderMap) -> Option<HeaderName> {
    let mut conditions = [header::IF_MATCH, header::IF_NONE_MATCH].into_iter();
    conditions.find(|name| !headers.get_all(name).into_iter().all(is_condition))
}

fn is_condition(value: &HeaderValue) -> bool {
    let Ok(value) = value.to_str() else { return false };
    let mut rest = value.trim();
    if rest == "*" {
        return true;
    }
    // A tag may have commas between its quotes.
    loop {
        let tag = rest.strip_prefix("W/").unwrap_or(rest).strip_prefix('"');
        let Some((tag, after)) = tag.and_then(|tag| tag.split_once('"')) else {
            return false;
        };
        if !tag.bytes().all(|byte| byte.is_ascii_graphic()) {
            return false;
        }
        match after.trim_start().strip_prefix(',') {
            Some(next) => rest = next.trim_start(),
            None => return after.trim_start().is_empty(),
        }
    }
}

impl EntityTags {
    /// The entity tags in a header; none when there is no such header. Tags of this server hold no commas.
    pub(super) fn read(headers: &HeaderMap, header: HeaderName) -> Self {
        let values = headers
            .get_all(header)
            .into_iter()
            .filter_map(|value| value.to_str().ok());
        let tags: Vec<_> = values
            .flat_map(|value| value.split(','))
            .map(|tag| tag.trim().to_owned())
            .filter(|tag| !tag.is_empty())
            .collect();
        match tags.iter().any(|tag| tag == "*") {
            true => Self::Any,
            false => Self::List(tags),
        }
    }

    /// Whether a strong entity tag is among them by the strong comparison, in which no weak tag equals it.
    fn match_strongly(&self, strong: &str) -> bool {
        match self {
            Self::Any => true,
            Self::List(tags) => tags.iter().any(|tag| tag == strong),
        }
    }

    /// Whether a strong entity tag is among them by the weak comparison, as caches compare.
    pub(super) fn match_weakly(&self, strong: &str) -> bool {
        match self {
            Self::Any => true,
            Self::List(tags) => tags.iter().any(|tag| tag.strip_prefix("W/").unwrap_or(tag) == strong),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::http::header::{IF_MATCH, IF_NONE_MATCH};

    use super::*;

    fn headers(given: &[(HeaderName, &str)]) -> HeaderMap {
        let values = given.iter().map(|(name, value)| (name.clone(), value.parse().unwrap()));
        values.collect()
    }

    #[test]
    fn a_tag_is_found_alone_in_a_list_weak_or_by_the_star() {
        for value in ["\"a1\"", "\"b2\", \"a1\"", "W/\"a1\"", "*"] {
            let tags = EntityTags::read(&headers(&[(IF_NONE_MATCH, value)]), IF_NONE_MATCH);
            assert!(tags.match_weakly("\"a1\""), "{value}");
        }
    }

    #[test]
    fn other_tags_do_not_match() {
        for value in ["\"b2\"", "a1", "", "\"a1"] {
            let tags = EntityTags::read(&headers(&[(IF_NONE_MATCH, value)]), IF_NONE_MATCH);
            assert!(!tags.match_weakly("\"a1\""), "{value}");
        }
        assert!(!EntityTags::read(&HeaderMap::new(), IF_NONE_MATCH).match_weakly("\"a1\""));
    }

    #[test]
    fn conditions_that_are_no_entity_tags_are_malformed() {
        for value in ["*", "\"a\"", "W/\"a\"", "\"a,b\" , W/\"\",\"c\""] {
            assert_eq!(malformed_condition(&headers(&[(IF_MATCH, value)])), None, "{value}");
        }
        for value in [
            "",
            "a",
            "\"a",
            "\"a\" \"b\"",
            "\"a\",",
            "w/\"a\"",
            "*, \"a\"",
            "\"a b\"",
        ] {
            let found = malformed_condition(&headers(&[(IF_NONE_MATCH, value)]));
            assert_eq!(found, Some(IF_NONE_MATCH), "{value}");
        }
    }

    #[test]
    fn preconditions_compare_as_rfc_9110_says() {
        let current = Some("\"x\"");
        let cases = [
            (IF_MATCH, "\"x\"", current, true),
            (IF_MATCH, "W/\"x\"", current, false),
            (IF_MATCH, "\"y\"", current, false),
            (IF_MATCH, "*", current, true),
            (IF_MATCH, "*", None, false),
            (IF_MATCH, "\"x\"", None, false),
            (IF_NONE_MATCH, "W/\"x\"", current, false),
            (IF_NONE_MATCH, "\"y\", \"z\"", current, true),
            (IF_NONE_MATCH, "*", current, false),
            (IF_NONE_MATCH, "*", None, true),
        ];
        for (header, value, current, holds) in cases {
            let precondition = Precondition::read(&headers(&[(header, value)]));
            assert_eq!(precondition.holds(current), holds, "{precondition:?} on {current:?}");
        }
        assert!(Precondition::read(&HeaderMap::new()).holds(current));
    }

    #[test]
    fn both_preconditions_must_hold() {
        let both = |none: &'static str| Precondition::read(&headers(&[(IF_MATCH, "\"x\""), (IF_NONE_MATCH, none)]));
        assert!(both("\"y\"").holds(Some("\"x\"")));
        assert!(!both("*").holds(Some("\"x\"")));
        assert!(!both("\"y\"").holds(Some("\"z\"")));
        assert!(!both("*").holds(None));
    }
}
