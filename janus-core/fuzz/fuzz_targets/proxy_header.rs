//! Any bytes from a load balancer give a header within the limit, a wait for more bytes, or an error, never a panic. More
//! bytes never change a verdict, and a well-built header is read back.

#![no_main]

use std::net::SocketAddr;

use arbitrary::Arbitrary;
use janus_core::wire::ProxyHeader;
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    client: SocketAddr,
    extensions: &'a [u8],
    /// 0 for neither, else the version whose beginning comes before `bytes`.
    version: u8,
    bytes: &'a [u8],
    at: u16,
}

const VERSION_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fuzz_target!(|input: Input<'_>| {
    let start = [&b""[..], b"PROXY ", b"PROXY TCP4 ", VERSION_2][usize::from(input.version % 4)];
    let bytes = [start, input.bytes].concat();
    let whole = ProxyHeader::read(&bytes);
    if let Ok(Some((_, length))) = whole {
        assert!(length <= bytes.len() && length <= ProxyHeader::MAX_BYTES);
    }
    assert!(!matches!(whole, Ok(None)) || bytes.len() < ProxyHeader::MAX_BYTES);
    let part = ProxyHeader::read(&bytes[..usize::from(input.at).min(bytes.len())]);
    assert!(part == Ok(None) || part.is_err() && whole.is_err() || part == whole, "{part:?}, then {whole:?}");

    let client = SocketAddr::new(input.client.ip(), input.client.port());
    let (family, addresses) = match client {
        SocketAddr::V4(client) => (0x11, [client.ip().octets(), [192, 0, 2, 1]].concat()),
        SocketAddr::V6(client) => (0x21, [client.ip().octets(), [1; 16]].concat()),
    };
    let extensions = &input.extensions[..input.extensions.len().min(ProxyHeader::MAX_BYTES - 52)];
    let rest = [&addresses[..], &client.port().to_be_bytes(), &[1, 187], extensions].concat();
    let length = u16::try_from(rest.len()).expect("it is short").to_be_bytes();
    let header = [VERSION_2, &[0x21, family], &length, &rest].concat();
    let read = ProxyHeader::read(&[&header[..], input.bytes].concat());
    assert_eq!(read, Ok(Some((ProxyHeader::Client(client), header.len()))));
});
