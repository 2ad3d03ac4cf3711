//! The client's own address behind proxies that speak HTTP, from the header `X-Forwarded-For` or `Forwarded` (RFC 7239).
//!
//! Each proxy appends the address of its peer, so the list is read from the right, and only as far as the peers are
//! proxies of the operator. Everything further left may be invented by the client, unfinished quotes included.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::HttpRequest;

/// The header in which the operator's proxies name their clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`.
    #[default]
    XForwardedFor,
    /// `Forwarded`.
    Forwarded,
}

/// The client of a request, as far as known.
///
/// ```
/// use janus_core::wire::{ForwardedClient, ForwardedHeader, HttpRequest};
///
/// let header = ("X-Forwarded-For", &b"198.51.100.1, 203.0.113.9, 10.0.0.7"[..]);
/// let request = HttpRequest::new("GET", "/ws", [header]);
/// let is_proxy = |address: std::net::IpAddr| address.to_string().starts_with("10.");
/// let client = ForwardedClient::of(&request, ForwardedHeader::XForwardedFor, "10.0.0.8:4000".parse()?, is_proxy);
/// // The client could have written the first address itself.
/// assert_eq!((client.address, client.is_known), ("203.0.113.9:0".parse()?, true));
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForwardedClient {
    /// The rightmost address that is no proxy of the operator; the last known proxy if the client's is unknown. Port 0
    /// means that the header has none.
    pub address: SocketAddr,
    /// Whether the address is the client's own.
    pub is_known: bool,
    /// Whether the client, and every proxy on the way, is on the server's own machine.
    pub is_local: bool,
}

impl ForwardedClient {
    /// Proxies followed in one request, from the server to the client. With more, the client's address is unknown.
    pub const MAX_PROXIES: usize = 32;

    /// The client of a request whose connection comes from `peer`. `is_proxy` says which addresses are proxies of the
    /// operator; if `peer` is none, or all addresses are, the address furthest to the left counts.
    ///
    /// An unknown or obfuscated address (`unknown`, `_hidden`), a malformed address and an entry beyond
    /// [`MAX_PROXIES`](Self::MAX_PROXIES) end the search.
    pub fn of(
        request: &HttpRequest,
        header: ForwardedHeader,
        peer: SocketAddr,
        is_proxy: impl Fn(IpAddr) -> bool,
    ) -> Self {
        let is_loopback = |address: SocketAddr| address.ip().to_canonical().is_loopback();
        let mut client = Self { address: peer, is_known: true, is_local: is_loopback(peer) };
        let name = match header {
            ForwardedHeader::XForwardedFor => "x-forwarded-for",
            ForwardedHeader::Forwarded => "forwarded",
        };
        let lines: Vec<&str> = request.headers_named(name).collect();
        let entries = lines.iter().rev().flat_map(|line| Entries { rest: Some(line), header });
        let mut entries = entries.enumerate();
        // A proxy without an entry has spoken for itself or, with other signs of a client, does not tell the address.
        let mut has_entry = false;
        while is_proxy(client.address.ip().to_canonical()) {
            let Some((number, entry)) = entries.next() else { break };
            has_entry = true;
            let address = if number < Self::MAX_PROXIES { address_of(entry, header) } else { None };
            let Some(address) = address else {
                return Self { is_known: false, is_local: false, ..client };
            };
            client.address = address;
            client.is_local &= is_loopback(address);
        }
        if !has_entry && request.is_forwarded() {
            return Self { is_known: false, is_local: false, ..client };
        }
        client
    }
}

/// The entries of a header line, the last first.
struct Entries<'a> {
    rest: Option<&'a str>,
    header: ForwardedHeader,
}

impl<'a> Iterator for Entries<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let rest = self.rest?;
        let comma = match self.header {
            ForwardedHeader::XForwardedFor => rest.rfind(','),
            ForwardedHeader::Forwarded => last_outside_quotes(rest, b','),
        };
        let (before, entry) = match comma {
            Some(at) => (Some(&rest[..at]), &rest[at + 1..]),
            None => (None, rest),
        };
        self.rest = before;
        Some(entry)
    }
}

/// The place of the last `separator` that is not part of a quoted text.
///
/// Searches from the end: the last proxy's entry is well formed, and a quote that the client has left open further left
/// must not swallow the entry.
fn last_outside_quotes(text: &str, separator: u8) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut in_quotes = false;
    for (at, &byte) in bytes.iter().enumerate().rev() {
        let escapes = || bytes[..at].iter().rev().take_while(|before| **before == b'\\').count();
        match byte {
            b'"' if !in_quotes => in_quotes = true,
            b'"' if escapes() % 2 == 0 => in_quotes = false,
            _ if byte == separator && !in_quotes => return Some(at),
            _ => {}
        }
    }
    None
}

/// The address named by an entry; `None` if there is no address, or a malformed one.
fn address_of(entry: &str, header: ForwardedHeader) -> Option<SocketAddr> {
    if header == ForwardedHeader::XForwardedFor {
        return node(entry.trim());
    }
    let mut rest = Some(entry);
    let mut found = None;
    while let Some(pairs) = rest {
        let semicolon = last_outside_quotes(pairs, b';');
        let pair = semicolon.map_or(pairs, |at| &pairs[at + 1..]);
        rest = semicolon.map(|at| &pairs[..at]);
        let Some((name, value)) = pair.split_once('=') else { continue };
        if !name.trim().eq_ignore_ascii_case("for") {
            continue;
        }
        // Two addresses in an entry contradict each other.
        if found.is_some() {
            return None;
        }
        let value = value.trim();
        let unquoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        found = Some(node(unquoted.unwrap_or(value))?);
    }
    found
}

/// An address of IPv4 or IPv6, with or without a port; IPv6 with a port stands in brackets.
fn node(text: &str) -> Option<SocketAddr> {
    let (address, port) = if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        (IpAddr::V6(address.parse::<Ipv6Addr>().ok()?), port)
    } else if let Ok(address) = text.parse() {
        (address, "")
    } else {
        let (address, port) = text.split_once(':')?;
        (address.parse().ok()?, &text[text.len() - port.len() - 1..])
    };
    let port = match port.strip_prefix(':') {
        // RFC 7239 lets a proxy hide the port.
        Some(hidden) if hidden.starts_with('_') => 0,
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => port.parse().ok()?,
        None if port.is_empty() => 0,
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PEER: &str = "10.0.0.1:4000";

    /// The client of a request with these header lines, where 10.0.0.0/8 and fd00::/8 are proxies.
    fn client(header: ForwardedHeader, lines: &[&str]) -> (String, bool) {
        let is_proxy = |address| match address {
            IpAddr::V4(ip) => ip.octets()[0] == 10,
            IpAddr::V6(ip) => ip.octets()[0] == 0xfd,
        };
        let name = if header == ForwardedHeader::Forwarded { "Forwarded" } else { "X-Forwarded-For" };
        let request = HttpRequest::new("GET", "/ws", lines.iter().map(|line| (name, line.as_bytes())));
        let client = ForwardedClient::of(&request, header, PEER.parse().unwrap(), is_proxy);
        (client.address.to_string(), client.is_known)
    }

    #[track_caller]
    fn assert_client(header: ForwardedHeader, lines: &[&str], address: &str, is_known: bool) {
        assert_eq!(client(header, lines), (address.to_owned(), is_known), "{lines:?}");
    }

    #[test]
    fn the_rightmost_address_that_is_no_proxy_counts() {
        for (lines, address) in [
            (&["203.0.113.9"][..], "203.0.113.9:0"),
            (&["127.0.0.1, 203.0.113.9"], "203.0.113.9:0"),
            (&["198.51.100.1,203.0.113.9 ,10.0.0.7, 10.0.0.8"], "203.0.113.9:0"),
            (&["198.51.100.1", "203.0.113.9", "10.0.0.7"], "203.0.113.9:0"),
            (&["198.51.100.1, 203.0.113.9:1234"], "203.0.113.9:1234"),
            (&["2001:db8::7"], "[2001:db8::7]:0"),
            (&["[2001:db8::7]"], "[2001:db8::7]:0"),
            (&["[2001:db8::7]:1234, fd00::2"], "[2001:db8::7]:1234"),
            (&["::ffff:203.0.113.9"], "[::ffff:203.0.113.9]:0"),
            (&["10.0.0.5, 10.0.0.6"], "10.0.0.5:0"),
            (&["anything at all,\", 203.0.113.9"], "203.0.113.9:0"),
        ] {
            assert_client(ForwardedHeader::XForwardedFor, lines, address, true);
        }
    }

    #[test]
    fn an_address_that_is_not_told_leaves_the_last_known_proxy() {
        for (lines, address) in [
            (&["unknown"][..], PEER),
            (&["_hidden, 10.0.0.7"], "10.0.0.7:0"),
            (&["203.0.113.9, "], PEER),
            (&[""], PEER),
            (&["203.0.113.9:port"], PEER),
            (&["203.0.113.9:"], PEER),
            (&["203.0.113.9:70000"], PEER),
            (&["[203.0.113.9]"], PEER),
            (&["[2001:db8::7"], PEER),
            (&["[2001:db8::7]x"], PEER),
            (&["203.0.113.9 10.0.0.7"], PEER),
            (&["203.0.113"], PEER),
        ] {
            assert_client(ForwardedHeader::XForwardedFor, lines, address, false);
        }
    }

    #[test]
    fn forwarded_is_read_with_its_quotes_and_other_parameters() {
        for (lines, address) in [
            (&["for=203.0.113.9"][..], "203.0.113.9:0"),
            (&["for=198.51.100.1, FOR = \"203.0.113.9:1234\";proto=https;by=10.0.0.1"], "203.0.113.9:1234"),
            (&["proto=http;for=\"[2001:db8::7]:1234\"", "for=10.0.0.7"], "[2001:db8::7]:1234"),
            (&["for=\"[2001:db8::7]:_port\""], "[2001:db8::7]:0"),
            // The host is the client's own text.
            (&["for=203.0.113.9;host=\"a, for=198.51.100.1\""], "203.0.113.9:0"),
            (&["for=203.0.113.9;host=\"a\\\", for=198.51.100.1;\\\\\""], "203.0.113.9:0"),
            // A quote left open by the client.
            (&["for=\"127.0.0.1, for=203.0.113.9"], "203.0.113.9:0"),
        ] {
            assert_client(ForwardedHeader::Forwarded, lines, address, true);
        }
        for lines in ["for=unknown", "for=_hidden", "by=203.0.113.9", "for=203.0.113.9;for=198.51.100.1", "for", "="] {
            assert_client(ForwardedHeader::Forwarded, &[lines], PEER, false);
        }
    }

    #[test]
    fn only_the_header_of_the_operators_proxies_counts() {
        let headers = [("X-Forwarded-For", &b"203.0.113.9"[..]), ("Forwarded", b"for=127.0.0.1")];
        let request = HttpRequest::new("GET", "/ws", headers);
        let of = |header, peer: &str| {
            ForwardedClient::of(&request, header, peer.parse().unwrap(), |ip| ip.to_string().starts_with("10."))
        };
        assert_eq!(of(ForwardedHeader::XForwardedFor, PEER).address.to_string(), "203.0.113.9:0");
        assert_eq!(of(ForwardedHeader::Forwarded, PEER).address.to_string(), "127.0.0.1:0");
        let stranger = of(ForwardedHeader::XForwardedFor, "192.0.2.1:1");
        assert_eq!((stranger.address.to_string(), stranger.is_known), ("192.0.2.1:1".to_owned(), false));
    }

    #[test]
    fn a_client_is_local_only_if_every_proxy_on_the_way_is() {
        let is_local = |peer: &str, line: &str| {
            let request = HttpRequest::new("GET", "/ws", [("X-Forwarded-For", line.as_bytes())]);
            let is_proxy = |ip: IpAddr| ip.is_loopback() || ip.to_string().starts_with("10.");
            ForwardedClient::of(&request, ForwardedHeader::XForwardedFor, peer.parse().unwrap(), is_proxy).is_local
        };
        assert!(is_local("127.0.0.1:1", "127.0.0.1") && is_local("[::1]:1", "::ffff:127.0.0.1"));
        assert!(!is_local("127.0.0.1:1", "203.0.113.9"));
        assert!(!is_local("127.0.0.1:1", "127.0.0.1, 10.0.0.1"), "on the machine of another proxy");
        assert!(!is_local("10.0.0.1:1", "127.0.0.1"));
        assert!(!is_local("127.0.0.1:1", "unknown"));
    }

    #[test]
    fn a_list_of_too_many_proxies_leaves_the_client_unknown() {
        let list = |proxies: usize| format!("203.0.113.9{}", ", 10.0.0.7".repeat(proxies));
        let most = ForwardedClient::MAX_PROXIES - 1;
        assert_client(ForwardedHeader::XForwardedFor, &[&list(most)], "203.0.113.9:0", true);
        assert_client(ForwardedHeader::XForwardedFor, &[&list(most + 1)], "10.0.0.7:0", false);
    }

    proptest! {
        #[test]
        fn no_text_of_the_client_changes_what_the_proxy_appends(
            text in "[ -~]{0,40}", line in "[ -~]{0,20}", quoted: bool, same_line: bool,
        ) {
            let own = if quoted { "for=\"203.0.113.9:80\";host=\"a,b\"" } else { "for=203.0.113.9:80" };
            let appended = format!("{text}, {own}");
            let lines = if same_line { vec![&*line, &appended] } else { vec![&*line, &text, own] };
            prop_assert_eq!(client(ForwardedHeader::Forwarded, &lines), ("203.0.113.9:80".to_owned(), true));
            let appended = format!("{text}, 203.0.113.9:80");
            let lines = if same_line { vec![&*line, &appended] } else { vec![&*line, &text, "203.0.113.9:80"] };
            prop_assert_eq!(client(ForwardedHeader::XForwardedFor, &lines), ("203.0.113.9:80".to_owned(), true));
        }

        #[test]
        fn an_address_is_read_back_in_every_form(ip: IpAddr, port in 1_u16..) {
            let address = SocketAddr::new(ip, port);
            prop_assert_eq!(node(&address.to_string()), Some(address));
            prop_assert_eq!(node(&ip.to_string()), Some(SocketAddr::new(ip, 0)));
        }
    }
}
