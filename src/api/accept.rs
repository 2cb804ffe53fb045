//! Content negotiation: which of the forms a route offers suits `Accept` best (RFC 9110, 12.5.1).

use axum::http::{HeaderMap, header};

use super::error::ApiError;

/// The first of the `offered` media types with the highest quality, or a 406. No `Accept` takes
/// anything; entries that cannot be read count for nothing.
pub(super) fn negotiate(headers: &HeaderMap, offered: &[&'static str]) -> Result<&'static str, ApiError> {
    let ranges: Vec<_> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(MediaRange::parse)
        .collect();
    let mut best = None;
    for &candidate in offered {
        let quality = quality(&ranges, candidate);
        if quality > 0.0 && best.is_none_or(|(_, highest)| quality > highest) {
            best = Some((candidate, quality));
        }
    }
    let accepts_anything = !headers.contains_key(header::ACCEPT);
    match best {
        _ if accepts_anything => Ok(offered[0]),
        Some((candidate, _)) => Ok(candidate),
        None => Err(ApiError::NotAcceptable {
            offered: offered.join(", "),
        }),
    }
}

/// One entry of an `Accept` header, as in `image/*;q=0.8`.
#[derive(Debug, PartialEq)]
struct MediaRange {
    /// `image`, or `*`.
    kind: String,
    /// `png`, or `*`.
    subtype: String,
    /// 0 to 1; 0 excludes.
    quality: f32,
}

impl MediaRange {
    fn parse(entry: &str) -> Option<Self> {
        let mut parts = entry.split(';').map(str::trim);
        let (kind, subtype) = parts.next()?.split_once('/')?;
        let quality = parts
            .find_map(|parameter| parameter.strip_prefix("q=").or_else(|| parameter.strip_prefix("Q=")))
            .map_or(Ok(1.0), str::parse::<f32>)
            .ok()
            .filter(|quality| (0.0..=1.0).contains(quality))?;
        Some(Self {
            kind: kind.to_ascii_lowercase(),
            subtype: subtype.to_ascii_lowercase(),
            quality,
        })
    }

    /// How closely the range describes the media type: 0 for `*/*`, 1 for `image/*`, 2 for
    /// `image/png`; `None` when it does not.
    fn specificity(&self, media_type: &str) -> Option<u8> {
        let (kind, subtype) = media_type.split_once('/')?;
        match (self.kind.as_str(), self.subtype.as_str()) {
            ("*", "*") => Some(0),
            (own, "*") if own == kind => Some(1),
            (own, own_subtype) if own == kind && own_subtype == subtype => Some(2),
            _ => None,
        }
    }
}

/// The quality of the most specific range that describes the media type, 0 when none does.
fn quality(ranges: &[MediaRange], media_type: &str) -> f32 {
    ranges
        .iter()
        .filter_map(|range| {
            range
                .specificity(media_type)
                .map(|specificity| (specificity, range.quality))
        })
        .max_by_key(|&(specificity, _)| specificity)
        .map_or(0.0, |(_, quality)| quality)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const JSON: &str = "application/json";
    const PNG: &str = "image/png";

    /// What `Accept: value` gets from a route that offers JSON and PNG, in that order.
    fn chosen(value: &str) -> Option<&'static str> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, value.parse().unwrap());
        negotiate(&headers, &[JSON, PNG]).ok()
    }

    #[test]
    fn no_header_takes_the_first_offer() {
        assert_eq!(negotiate(&HeaderMap::new(), &[JSON, PNG]).unwrap(), JSON);
    }

    #[test]
    fn the_best_quality_wins_and_a_tie_goes_to_the_first_offer() {
        assert_eq!(chosen("*/*"), Some(JSON));
        assert_eq!(chosen("image/png"), Some(PNG));
        assert_eq!(chosen("image/*"), Some(PNG));
        assert_eq!(chosen("IMAGE/PNG;q=0.5, application/json;q=0.4"), Some(PNG));
        assert_eq!(chosen("image/png, application/json"), Some(JSON));
        // What Chromium sends for a page.
        assert_eq!(
            chosen("text/html,application/xhtml+xml,image/avif,image/webp,*/*;q=0.8"),
            Some(JSON)
        );
    }

    #[test]
    fn the_more_specific_range_decides() {
        assert_eq!(chosen("*/*, application/json;q=0.1"), Some(PNG));
        assert_eq!(chosen("image/png;q=0, */*"), Some(JSON));
        assert_eq!(chosen("*/*;q=0, image/*"), Some(PNG));
    }

    #[test]
    fn what_is_excluded_unknown_or_unreadable_is_not_acceptable() {
        for value in [
            "text/html",
            "application/json;q=0",
            "json",
            "",
            "application/json;q=nan",
            "image/png;q=2",
        ] {
            assert_eq!(chosen(value), None, "Accept: {value}");
        }
    }
}
