//! Who asks: the address of the connection, or the one that trusted proxies tell.
//!
//! Anyone can write `X-Forwarded-For`. Each proxy adds the address of its own client at the end, so the list is read
//! from there, and only as far as the addresses are those of proxies that the settings name.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderName, header};
use ipnet::IpNet;

use super::settings::{ForwardedHeader, ServerSettings};

/// The header that most proxies write.
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The most entries of a list that are read: a request passes few proxies.
const MAX_HOPS: usize = 32;

/// The client of a request, as far as the server can know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ClientAddress {
    address: IpAddr,
    /// The port of the connection; proxies do not tell theirs.
    port: Option<u16>,
}

impl ClientAddress {
    /// The address without a port.
    pub(super) fn ip(self) -> IpAddr {
        self.address
    }
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::from((self.address, port)).fmt(formatter),
            None => self.address.fmt(formatter),
        }
    }
}

/// The proxies in front of the server, and how they tell of their clients. Clones share the list.
#[derive(Debug, Clone, Default)]
pub(super) struct TrustedProxies {
    networks: Arc<[IpNet]>,
    header: ForwardedHeader,
}

impl TrustedProxies {
    /// The proxies in the settings.
    pub(super) fn new(settings: &ServerSettings) -> Self {
        Self {
            networks: settings.trusted_proxies.as_slice().into(),
            header: settings.forwarded_header,
        }
    }

    fn contain(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// Returns the client of a request that came from `peer`.
    fn client(&self, peer: SocketAddr, headers: &HeaderMap) -> ClientAddress {
        let mut client = ClientAddress {
            address: peer.ip().to_canonical(),
            port: Some(peer.port()),
        };
        if !self.contain(client.address) {
            return client;
        }
        let told = match self.header {
            ForwardedHeader::XForwardedFor => forwarded_for(headers),
            ForwardedHeader::Forwarded => forwarded(headers),
        };
        for address in told.into_iter().rev().take(MAX_HOPS) {
            let Some(address) = address.filter(|_| self.contain(client.address)) else {
                break;
            };
            client = ClientAddress { address, port: None };
        }
        client
    }
}

/// Writes down who asks, for the log.
pub(super) async fn find(State(proxies): State<TrustedProxies>, mut request: Request) -> Request {
    if let Some(&ConnectInfo(peer)) = request.extensions().get::<ConnectInfo<SocketAddr>>() {
        let client = proxies.client(peer, request.headers());
        request.extensions_mut().insert(client);
    }
    request
}

/// The addresses in `X-Forwarded-For`, the last proxy's client last; `None` for what is no address.
fn forwarded_for(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let lines = headers.get_all(X_FORWARDED_FOR).iter();
    let lines = lines.map(|line| line.to_str().unwrap_or_default());
    lines.flat_map(|line| line.split(',').map(address)).collect()
}

/// The addresses in the fields `for` of `Forwarded` (RFC 7239), in the same order. A line that ends inside of quotes is
/// one element that cannot be read: whoever wrote its beginning may have opened them to swallow what proxies add.
fn forwarded(headers: &HeaderMap) -> Vec<Option<IpAddr>> {
    let lines = headers.get_all(header::FORWARDED).iter();
    let lines = lines.map(|line| line.to_str().unwrap_or_default());
    let of_element = |element: &str| {
        let mut pairs = unquoted(element, ';')?
            .into_iter()
            .filter_map(|pair| pair.split_once('='));
        let (_, node) = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
        address(node.trim().trim_matches('"'))
    };
    let of_line = |line| match unquoted(line, ',') {
        Some(elements) => elements.into_iter().map(of_element).collect(),
        None => vec![None],
    };
    lines.flat_map(of_line).collect()
}

/// Splits a text at a separator that does not stand in quotes. `None` for a text that ends inside of quotes.
fn unquoted(text: &str, separator: char) -> Option<Vec<&str>> {
    let mut is_quoted = false;
    let mut is_escaped = false;
    let parts = text.split(|letter| {
        let separates = letter == separator && !is_quoted;
        is_quoted ^= letter == '"' && !is_escaped;
        is_escaped = is_quoted && letter == '\\' && !is_escaped;
        separates
    });
    let parts = parts.collect();
    (!is_quoted).then_some(parts)
}

/// An address with or without a port, in brackets if it is one of IPv6 with a port.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text.parse().ok();
    let with_port = || text.parse().map(|socket: SocketAddr| socket.ip()).ok();
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let address: Option<IpAddr> = bare.or_else(with_port).or_else(in_brackets);
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Who asks, by the header that the settings name and lines of headers, when 10.0.0.1 has the connection.
    fn client(header: ForwardedHeader, lines: &[(&'static str, &str)]) -> String {
        let proxies = TrustedProxies {
            networks: ["10.0.0.0/8", "fd00::/8"]
                .map(|network| network.parse().unwrap())
                .into(),
            header,
        };
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        proxies.client("10.0.0.1:5000".parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn the_last_address_that_is_no_trusted_proxys_is_the_clients() {
        for (lines, expected) in [
            (&["203.0.113.7"][..], "203.0.113.7"),
            (&["203.0.113.7:4711"], "203.0.113.7"),
            (&["203.0.113.7, 10.0.0.2"], "203.0.113.7"),
            // The client wrote the first entries itself.
            (&["127.0.0.1, 203.0.113.7, 10.0.0.2"], "203.0.113.7"),
            (&["127.0.0.1", "203.0.113.7", "10.0.0.2,fd00::3"], "203.0.113.7"),
            (&["2001:db8::1"], "2001:db8::1"),
            (&["[2001:db8::1]:80, [fd00::3]"], "2001:db8::1"),
            (&["::ffff:203.0.113.7"], "203.0.113.7"),
            // All are proxies: the first of them asks for itself.
            (&["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            // What is no address ends the list.
            (&["203.0.113.7, unknown, 10.0.0.2"], "10.0.0.2"),
            (&["<script>"], "10.0.0.1:5000"),
            (&[""], "10.0.0.1:5000"),
            (&[], "10.0.0.1:5000"),
        ] {
            let lines: Vec<_> = lines.iter().map(|line| ("x-forwarded-for", *line)).collect();
            assert_eq!(client(ForwardedHeader::XForwardedFor, &lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn forwarded_is_read_as_its_standard_says() {
        for (line, expected) in [
            ("for=203.0.113.7", "203.0.113.7"),
            ("proto=https;For=\"203.0.113.7:4711\";by=10.0.0.1", "203.0.113.7"),
            ("for=1.1.1.1, for=\"[2001:db8::1]:80\", for=10.0.0.2", "2001:db8::1"),
            ("for=203.0.113.7;ext=\"a,for=1.1.1.1\\\",;for=1.1.1.1\"", "203.0.113.7"),
            ("for=203.0.113.7, for=_hidden", "10.0.0.1:5000"),
            ("for=203.0.113.7, proto=https", "10.0.0.1:5000"),
        ] {
            assert_eq!(
                client(ForwardedHeader::Forwarded, &[("forwarded", line)]),
                expected,
                "{line}"
            );
        }
    }

    #[test]
    fn quotes_that_a_client_leaves_open_hide_nothing_that_a_proxy_adds() {
        for (lines, expected) in [
            (&["for=9.9.9.9;x=\", for=203.0.113.7"][..], "10.0.0.1:5000"),
            (&["for=9.9.9.9;x=\", for=\"[2001:db8::1]\""], "10.0.0.1:5000"),
            (
                &["for=9.9.9.9;x=\"\\\", for=\"[2001:db8::1]\";by=\"[fd00::1]\""],
                "10.0.0.1:5000",
            ),
            (&["for=9.9.9.9;x=\"\\", "for=203.0.113.7"], "203.0.113.7"),
            (&["for=9.9.9.9;x=\"", "for=10.0.0.2"], "10.0.0.2"),
            (&["for=9.9.9.9", "for=1.1.1.1;x=\", for=203.0.113.7"], "10.0.0.1:5000"),
        ] {
            let lines: Vec<_> = lines.iter().map(|line| ("forwarded", *line)).collect();
            assert_eq!(client(ForwardedHeader::Forwarded, &lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn only_the_header_that_the_settings_name_is_read() {
        let both = [("x-forwarded-for", "203.0.113.7"), ("forwarded", "for=203.0.113.9")];
        assert_eq!(client(ForwardedHeader::XForwardedFor, &both), "203.0.113.7");
        assert_eq!(client(ForwardedHeader::Forwarded, &both), "203.0.113.9");
    }

    #[test]
    fn a_stranger_is_not_believed() {
        let proxies = TrustedProxies {
            networks: ["10.0.0.0/8".parse().unwrap()].into(),
            header: ForwardedHeader::XForwardedFor,
        };
        let mut headers = HeaderMap::new();
        headers.append(X_FORWARDED_FOR, "127.0.0.1".parse().unwrap());
        let client = proxies.client("203.0.113.7:5000".parse().unwrap(), &headers);
        assert_eq!(client.to_string(), "203.0.113.7:5000");
    }
}
