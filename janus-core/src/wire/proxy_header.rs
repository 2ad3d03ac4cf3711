//! The PROXY protocol, versions 1 and 2: a header in front of a connection, in which a proxy names its client.
//!
//! The crate `proxy-header` parses. This file adds the rules of the server: the longest header, an answer to the first
//! wrong byte, and the difference between a proxy on its own behalf and a client whose address the proxy does not tell.

use std::net::SocketAddr;

use proxy_header::{Error, ParseConfig, Protocol, ProxyHeader as Parsed};

/// The beginning of a header of version 1.
const VERSION_1: &[u8] = b"PROXY ";

/// The beginning of a header of version 2.
const VERSION_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The byte after [`VERSION_2`] for a connection of the proxy itself.
const LOCAL: u8 = 0x20;

/// The client of a proxy, as told by the header of the PROXY protocol.
///
/// ```
/// use janus_core::wire::ProxyHeader;
///
/// let bytes = b"PROXY TCP4 203.0.113.9 192.0.2.1 51000 443\r\nGET / HTTP/1.1\r\n";
/// assert_eq!(ProxyHeader::read(&bytes[..20]), Ok(None), "the rest of the header is still missing");
/// let (header, length) = ProxyHeader::read(bytes)?.expect("the header is complete");
/// assert_eq!(header, ProxyHeader::Client("203.0.113.9:51000".parse()?));
/// assert!(bytes[length..].starts_with(b"GET / "));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    /// The proxy itself has connected, for example to see whether the server is healthy (`LOCAL`).
    Proxy,
    /// A client whose address the header does not tell (`UNKNOWN`, or a protocol other than TCP).
    Unknown,
    /// The client with this address.
    Client(SocketAddr),
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyHeaderError {
    /// The bytes begin with something else.
    #[error("the connection does not begin with a PROXY header")]
    Missing,
    /// The header is malformed.
    #[error("malformed PROXY header")]
    Malformed,
    /// The header is longer than [`ProxyHeader::MAX_BYTES`].
    #[error("PROXY header longer than 536 bytes")]
    TooLong,
}

impl ProxyHeader {
    /// The longest header, in bytes, with all extensions (TLVs) of version 2; version 1 has at most 107.
    ///
    /// The specification designs headers to fit into the smallest TCP segment, and this is its size.
    pub const MAX_BYTES: usize = 536;

    /// Reads the header at the beginning of `bytes`: the header and its length, or `None` if the bytes may be the
    /// beginning of a header.
    ///
    /// # Errors
    ///
    /// The bytes are no header, and no further bytes can make them a header.
    pub fn read(bytes: &[u8]) -> Result<Option<(Self, usize)>, ProxyHeaderError> {
        let begins = |start: &[u8]| bytes.iter().zip(start).all(|(byte, expected)| byte == expected);
        if !begins(VERSION_1) && !begins(VERSION_2) {
            return Err(ProxyHeaderError::Missing);
        }
        let rest = if begins(VERSION_2) { bytes.get(VERSION_2.len()..) } else { None };
        let length =
            rest.filter(|rest| rest.len() >= 4).map(|rest| 16 + usize::from(u16::from_be_bytes([rest[2], rest[3]])));
        if length.is_some_and(|length| length > Self::MAX_BYTES) {
            return Err(ProxyHeaderError::TooLong);
        }
        let is_complete = match length {
            Some(length) => bytes.len() >= length,
            None => bytes.windows(2).any(|end| end == b"\r\n") && begins(VERSION_1),
        };
        // The addresses of such a header have no meaning, and may be cut short.
        if let (Some([LOCAL, ..]), Some(length)) = (rest, length) {
            return Ok(is_complete.then_some((Self::Proxy, length)));
        }
        match Parsed::parse(bytes, ParseConfig { include_tlvs: false, allow_v1: true, allow_v2: true }) {
            Ok((header, length)) => Ok(Some((Self::of(&header), length))),
            Err(Error::BufferTooShort) if !is_complete => Ok(None),
            Err(_) => Err(ProxyHeaderError::Malformed),
        }
    }

    fn of(header: &Parsed<'_>) -> Self {
        match header.proxied_address() {
            Some(address) if address.protocol == Protocol::Stream => Self::Client(address.source),
            _ => Self::Unknown,
        }
    }

    /// Whether text begins with a header, for the answer to a header from an address without a right to it.
    pub(super) fn begins(text: &[u8]) -> bool {
        text.starts_with(VERSION_1) || text.starts_with(VERSION_2)
    }

    /// Whether text behind the first NUL of a header of version 2 continues the header.
    pub(super) fn continues(text: &[u8]) -> bool {
        text.trim_ascii_start().starts_with(b"QUIT\n")
    }

    /// The answer to such a header.
    pub(super) const UNEXPECTED: &'static str = "a PROXY header is accepted only from the networks in proxy_protocol: \
                                                 add the address of the proxy there, or turn the header off in the proxy";
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A header of version 2 with this command and family, and this length of addresses and extensions.
    fn version_2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [VERSION_2, &[command, family], &length, rest].concat()
    }

    fn client(address: &str) -> Result<Option<ProxyHeader>, ProxyHeaderError> {
        Ok(Some(ProxyHeader::Client(address.parse().unwrap())))
    }

    const V4: [u8; 12] = [203, 0, 113, 9, 192, 0, 2, 1, 0x10, 0x92, 0, 80];

    fn read(bytes: &[u8]) -> Result<Option<ProxyHeader>, ProxyHeaderError> {
        ProxyHeader::read(bytes).map(|read| read.map(|(header, length)| (header, assert_eq!(length, bytes.len())).0))
    }

    #[test]
    fn a_header_of_either_version_names_the_client() {
        assert_eq!(read(b"PROXY TCP4 203.0.113.9 192.0.2.1 4242 80\r\n"), client("203.0.113.9:4242"));
        assert_eq!(read(b"PROXY TCP6 2001:db8::7 2001:db8::1 4242 80\r\n"), client("[2001:db8::7]:4242"));
        assert_eq!(read(&version_2(0x21, 0x11, &V4)), client("203.0.113.9:4242"));
        let with_extension = [&V4[..], &[0xEA, 0, 3, 1, 2, 3]].concat();
        assert_eq!(read(&version_2(0x21, 0x11, &with_extension)), client("203.0.113.9:4242"));
        let mut v6 = [0; 36];
        v6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        (v6[15], v6[32], v6[33]) = (7, 0x10, 0x92);
        assert_eq!(read(&version_2(0x21, 0x21, &v6)), client("[2001:db8::7]:4242"));
    }

    #[test]
    fn a_proxy_on_its_own_behalf_differs_from_an_unknown_client() {
        assert_eq!(read(&version_2(0x20, 0x00, &[])), Ok(Some(ProxyHeader::Proxy)));
        assert_eq!(read(&version_2(0x20, 0x11, &V4)), Ok(Some(ProxyHeader::Proxy)));
        assert_eq!(read(&version_2(0x20, 0x11, &[])), Ok(Some(ProxyHeader::Proxy)), "the addresses have no meaning");
        for unknown in [
            b"PROXY UNKNOWN\r\n".to_vec(),
            b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(),
            version_2(0x21, 0x00, &[]),
            version_2(0x21, 0x31, &[0; 216]),
            version_2(0x21, 0x12, &V4),
        ] {
            assert_eq!(read(&unknown), Ok(Some(ProxyHeader::Unknown)), "{unknown:?}");
        }
    }

    #[test]
    fn the_first_wrong_byte_is_refused() {
        for (bytes, error) in [
            (&b"GET / HTTP/1.1\r\n"[..], ProxyHeaderError::Missing),
            (b"PROXX", ProxyHeaderError::Missing),
            (b"PROXY\tTCP4 203.0.113.9 192.0.2.1 4242 80\r\n", ProxyHeaderError::Missing),
            (b"\r\n\r\nGET", ProxyHeaderError::Missing),
            (b"\x16\x03\x01", ProxyHeaderError::Missing),
            (b"PROXY TCP4 somewhere 192.0.2.1 4242 80\r\n", ProxyHeaderError::Malformed),
            (b"PROXY TCP4 203.0.113.9 192.0.2.1 70000 80\r\n", ProxyHeaderError::Malformed),
            (b"PROXY TCP4 203.0.113.9\r\n", ProxyHeaderError::Malformed),
            (&version_2(0x22, 0x11, &V4), ProxyHeaderError::Malformed),
            (&version_2(0x21, 0x11, &V4[..11]), ProxyHeaderError::Malformed),
        ] {
            assert_eq!(ProxyHeader::read(bytes), Err(error), "{bytes:?}");
        }
        assert_eq!(ProxyHeader::read(b""), Ok(None));
    }

    #[test]
    fn a_header_may_fill_a_segment_and_no_more() {
        let longest = version_2(0x21, 0x11, &[&V4[..], &[4; ProxyHeader::MAX_BYTES - 16 - 12]].concat());
        assert_eq!((longest.len(), read(&longest)), (536, client("203.0.113.9:4242")));
        let longer = version_2(0x21, 0x11, &[&V4[..], &[4; ProxyHeader::MAX_BYTES - 16 - 11]].concat());
        assert_eq!(ProxyHeader::read(&longer), Err(ProxyHeaderError::TooLong));
        assert_eq!(ProxyHeader::read(&longer[..16]), Err(ProxyHeaderError::TooLong), "as soon as the length is known");
        let endless = [b"PROXY UNKNOWN ", &[b'x'; 100][..]].concat();
        assert_eq!(ProxyHeader::read(&endless), Err(ProxyHeaderError::Malformed));
    }

    proptest! {
        #[test]
        fn each_part_of_a_header_is_its_beginning(at in 0_usize..60, more: Vec<u8>, v6: bool) {
            let header = match v6 {
                true => version_2(0x21, 0x21, &[7; 36]),
                false => b"PROXY TCP4 203.0.113.9 192.0.2.1 4242 80\r\n".to_vec(),
            };
            let at = at.min(header.len() - 1);
            prop_assert_eq!(ProxyHeader::read(&header[..at]), Ok(None));
            let (_, length) = ProxyHeader::read(&[&header[..], &more].concat()).unwrap().unwrap();
            prop_assert_eq!(length, header.len());
        }

        #[test]
        fn any_bytes_give_a_header_within_the_limit_or_an_error(bytes: Vec<u8>, start in 0_usize..3) {
            let bytes = [[&b""[..], VERSION_1, VERSION_2][start], &bytes].concat();
            match ProxyHeader::read(&bytes) {
                Ok(Some((_, length))) => prop_assert!(length <= bytes.len().min(ProxyHeader::MAX_BYTES)),
                Ok(None) => prop_assert!(bytes.len() < ProxyHeader::MAX_BYTES),
                Err(_) => {}
            }
        }
    }
}
