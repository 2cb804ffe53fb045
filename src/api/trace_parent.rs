//! The trace that a request belongs to, as its header `traceparent` tells (W3C Trace Context).

use axum::http::HeaderMap;

/// The header that tells of a trace.
const TRACEPARENT: &str = "traceparent";

/// A caller's place in a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TraceParent {
    /// 32 hexadecimal digits, which all services of the trace have in common.
    pub(super) trace_id: String,
}

impl TraceParent {
    /// Reads the header. `None` where there is none, where there are several, and where it does not follow the standard.
    pub(super) fn read(headers: &HeaderMap) -> Option<Self> {
        let mut lines = headers.get_all(TRACEPARENT).iter();
        match (lines.next(), lines.next()) {
            (Some(line), None) => Self::parse(line.to_str().ok()?),
            _ => None,
        }
    }

    /// Reads `version-trace-parent-flags`. Later versions may have more fields after these.
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.trim().split('-');
        let version = fields.next().filter(|field| is_hex(field, 2) && *field != "ff")?;
        let trace_id = fields.next().filter(|field| is_id(field, 32))?;
        fields.next().filter(|field| is_id(field, 16))?;
        fields.next().filter(|field| is_hex(field, 2))?;
        let is_over = fields.next().is_none() || version != "00";
        is_over.then(|| Self {
            trace_id: trace_id.to_owned(),
        })
    }
}

fn is_hex(text: &str, digits: usize) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == digits && text.bytes().all(is_digit)
}

/// Whether a text is an id: all zeros are none.
fn is_id(text: &str, digits: usize) -> bool {
    is_hex(text, digits) && text.bytes().any(|byte| byte != b'0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_known_by_its_header_as_the_standard_has_it() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        for text in [
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00",
            "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        ] {
            let parent = TraceParent::parse(text).map(|parent| parent.trace_id);
            assert_eq!(parent.as_deref(), Some(trace), "{text}");
        }
        for text in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e47-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473\"-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceParent::parse(text), None, "{text}");
        }
    }
}
