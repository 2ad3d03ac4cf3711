//! No text of a client, in any number of header lines, changes the address that the operator's proxy appends; and any text
//! gives an address, never a panic.

#![no_main]

use std::net::{IpAddr, SocketAddr};

use arbitrary::Arbitrary;
use janus_core::wire::{ForwardedClient, ForwardedHeader, HttpRequest};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    /// Lines of the client.
    lines: Vec<&'a str>,
    /// The text to which the proxy appends, in a line of its own if there is none.
    appends_to: Option<&'a str>,
    client: SocketAddr,
    /// A text of the client that the proxy quotes.
    host: &'a str,
    by_forwarded: bool,
}

const PROXY: [u8; 4] = [10, 0, 0, 1];

fn client_of(lines: &[String], header: ForwardedHeader) -> ForwardedClient {
    let name = if header == ForwardedHeader::Forwarded { "forwarded" } else { "x-forwarded-for" };
    let request = HttpRequest::new("GET", "/ws", lines.iter().map(|line| (name, line.as_bytes())));
    ForwardedClient::of(&request, header, SocketAddr::from((PROXY, 1)), |address| address == IpAddr::from(PROXY))
}

fuzz_target!(|input: Input<'_>| {
    let header = if input.by_forwarded { ForwardedHeader::Forwarded } else { ForwardedHeader::XForwardedFor };
    let mut lines: Vec<String> = input.lines.iter().map(|&line| line.to_owned()).collect();
    let client = client_of(&lines, header);
    assert!(!client.is_local, "the proxy is on another machine");
    // The proxy's own entry names the client.
    let address = SocketAddr::new(input.client.ip(), input.client.port());
    if address.ip().to_canonical() == IpAddr::from(PROXY) {
        return;
    }
    let quoted = input.host.replace('\\', "\\\\").replace('"', "\\\"");
    let own = match header {
        ForwardedHeader::XForwardedFor => address.to_string(),
        ForwardedHeader::Forwarded => format!("for=\"{address}\";host=\"{quoted}\""),
    };
    lines.push(input.appends_to.map_or_else(|| own.clone(), |text| format!("{text}, {own}")));
    let client = client_of(&lines, header);
    assert_eq!((client.address, client.is_known), (address, true), "{lines:?}");
});
