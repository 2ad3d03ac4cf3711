//! Tests of all decoders: each frame alone, split anywhere, as random bytes, and from the wrong server.
//!
//! The bytes, and the frames expected, are in `samples.rs`.

mod samples;

use std::ops::ControlFlow;

use proptest::prelude::*;

use super::splitter::{FRAME_BYTES_MAX, LINE_BYTES_MAX};
use super::*;
use samples::{DATA, conversation, fragments, shown, text_frame};

/// Decodes the pieces. Returns the frames, and the splitter if the whole stream was understood.
fn decode<'a>(
    protocol: Protocol,
    data_bytes: usize,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<String>, Result<Splitter, Foreign>) {
    let mut splitter = Splitter::default();
    let mut frames = Vec::new();
    for piece in pieces {
        let each = |frame: Frame<'_>| {
            frames.push(shown(&frame));
            ControlFlow::Continue(())
        };
        if let Err(foreign) = splitter.take(protocol, data_bytes as u32, piece, each) {
            return (frames, Err(foreign));
        }
    }
    (frames, Ok(splitter))
}

/// The frames of a conversation, which must end with a whole frame.
fn frames(protocol: Protocol, pieces: &[&[u8]]) -> Vec<String> {
    let (frames, splitter) = decode(protocol, DATA.len(), pieces.iter().copied());
    assert!(splitter.unwrap().unfinished.is_empty());
    frames
}

const ALL: [Protocol; 7] = [
    Protocol::Janus,
    Protocol::Redis,
    Protocol::Nats,
    Protocol::Mqtt,
    Protocol::WebSocket,
    Protocol::Cbor,
    Protocol::Sse,
];

#[test]
fn every_frame_of_every_server_is_decoded() {
    for protocol in ALL {
        let (bytes, expected) = conversation(protocol);
        assert_eq!(frames(protocol, &[&bytes]), expected, "{protocol}");
    }
}

#[test]
fn frames_are_the_same_wherever_the_bytes_are_split() {
    for protocol in ALL {
        let (bytes, expected) = conversation(protocol);
        for split in 0..=bytes.len() {
            let (first, second) = bytes.split_at(split);
            assert_eq!(frames(protocol, &[first, second]), expected, "{protocol}, split at {split}");
        }
        for size in 1..bytes.len() {
            let pieces: Vec<&[u8]> = bytes.chunks(size).collect();
            assert_eq!(frames(protocol, &pieces), expected, "{protocol}, in pieces of {size}");
        }
    }
}

/// Streams similar enough to the protocol to reach every part of the decoder, with mistakes in many places.
fn streams(protocol: Protocol) -> impl Strategy<Value = Vec<u8>> {
    let fragment = prop_oneof![
        9 => proptest::sample::select(fragments(protocol)).prop_map(<[u8]>::to_vec),
        1 => proptest::collection::vec(any::<u8>(), 0..8),
    ];
    proptest::collection::vec(fragment, 0..16).prop_map(|fragments| fragments.concat())
}

/// The frames of any stream, and whether the whole stream was understood.
fn outcome<'a>(protocol: Protocol, pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<String>, bool) {
    let (frames, splitter) = decode(protocol, 10, pieces);
    (frames, splitter.is_ok())
}

proptest! {
    #[test]
    fn random_streams_decode_the_same_however_they_are_split(
        (protocol, bytes) in proptest::sample::select(&ALL[..]).prop_flat_map(|it| (Just(it), streams(it))),
        sizes in proptest::collection::vec(1_usize..20, 1..4),
    ) {
        let whole = outcome(protocol, std::iter::once(&bytes[..]));
        let mut rest = &bytes[..];
        let mut sizes = sizes.into_iter().cycle();
        let pieces = std::iter::from_fn(|| {
            let (piece, after) = rest.split_at(sizes.next()?.min(rest.len()));
            rest = after;
            (!piece.is_empty()).then_some(piece)
        });
        prop_assert_eq!(outcome(protocol, pieces), whole, "{}", protocol);
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        for protocol in ALL {
            outcome(protocol, bytes.chunks(7));
        }
    }
}

#[test]
fn a_long_frame_is_reassembled_from_pieces() {
    let data = format!("\"{}\"", "x".repeat(70_000));
    let bytes = text_frame(&format!("{{\"type\":\"message\",\"topic\":\"t\",\"data\":{data}}}"));
    let pieces: Vec<&[u8]> = bytes.chunks(9_000).collect();
    let expected = [shown(&Frame::Message(data.as_bytes()))];
    assert_eq!(frames(Protocol::WebSocket, &pieces), expected);
    let block = format!("id: 9f.1\ndata: {{\"topic\":\"t\",\"data\":{data}}}\n\n");
    let pieces: Vec<&[u8]> = block.as_bytes().chunks(9_000).collect();
    assert_eq!(frames(Protocol::Sse, &pieces), expected);
}

#[test]
fn the_opening_of_an_http_stream_is_sent_in_one_piece() {
    let server = "127.0.0.1:8080".parse().unwrap();
    let bytes = Protocol::WebSocket.opening(server, "name", Some("t"));
    let head = bytes.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
    let request = str::from_utf8(&bytes[..head]).unwrap();
    assert!(request.starts_with("GET /ws HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUpgrade: websocket\r\n"), "{request}");
    let (hello, subscribe) = (br#"{"type":"hello"}"#, br#"{"type":"subscribe","topic":"t"}"#);
    // A client's frames must be masked; here with zeros.
    let frames = [&[0x81, 0x80 | 16, 0, 0, 0, 0][..], hello, &[0x81, 0x80 | 32, 0, 0, 0, 0], subscribe].concat();
    assert_eq!(bytes[head..], frames);
    let bytes = Protocol::Cbor.opening(server, "name", Some("t"));
    let head = bytes.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
    let request = str::from_utf8(&bytes[..head]).unwrap();
    assert!(request.to_lowercase().contains("\r\nsec-websocket-protocol: janus.v1.cbor\r\n"), "{request}");
    assert!(bytes[head..].starts_with(b"\x82\x8c\0\0\0\0\xa1\x64type\x65hello\x82"), "{:x?}", &bytes[head..]);
    let bytes = Protocol::Sse.opening(server, "name", Some("t"));
    let expected = "GET /events?topic=t HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n";
    assert_eq!(str::from_utf8(&bytes), Ok(expected));
}

#[test]
fn frames_after_a_break_are_not_passed_on() {
    let mut seen = 0;
    let each = |_: Frame<'_>| {
        seen += 1;
        ControlFlow::Break(())
    };
    Splitter::default().take(Protocol::Nats, 40, b"-ERR 'no'\r\nPING\r\n", each).unwrap();
    assert_eq!(seen, 1);
}

#[test]
fn a_server_of_another_protocol_is_recognised() {
    let greeting = b"{\"timestamp\":[1,2,3],\"token\":\"00ff\"}\x01";
    let foreign: [(Protocol, &[u8]); 27] = [
        (Protocol::Redis, greeting),
        (Protocol::Redis, b"*1\r\n$-5\r\n"),
        (Protocol::Redis, b"*1\r\n$99999999999\r\n"),
        (Protocol::Redis, b"*1\r\n$1\r\nabc\r\n"),
        (Protocol::Nats, greeting),
        (Protocol::Nats, b"POST / HTTP/1.1\r\n"),
        (Protocol::Nats, b"MSG t 1 x\r\n"),
        (Protocol::Nats, b"MSG t 1 1\r\nabc\r\n"),
        (Protocol::Mqtt, greeting),
        (Protocol::Mqtt, b"\x30\xff\xff\xff\xff\x01"),
        (Protocol::Mqtt, b"\x30\x03\x00\x05t"),
        (Protocol::WebSocket, greeting),
        // An answer to another key, from a cache in between.
        (Protocol::WebSocket, b"HTTP/1.1 101 OK\r\nSec-WebSocket-Accept: AAAA\r\n\r\n"),
        (Protocol::WebSocket, b"HTTP/1.0 200 OK\r\n\r\n"),
        (Protocol::WebSocket, b"HTTP/1.1 403\nlength\n\n"),
        (Protocol::WebSocket, b"\x81\x02no"),
        (Protocol::WebSocket, b"\x81\x81\x00\x00\x00\x00x"),
        (Protocol::WebSocket, b"\x82\x00"),
        (Protocol::WebSocket, b"\x01\x00"),
        (Protocol::WebSocket, b"\x89\x7e"),
        (Protocol::WebSocket, b"\x81\x7f\xff\xff\xff\xff\xff\xff\xff\xff"),
        (Protocol::Cbor, greeting),
        (Protocol::Cbor, b"\x81\x02{}"),
        (Protocol::Cbor, b"\x82\x01\xff"),
        (Protocol::Sse, greeting),
        (Protocol::Sse, b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n"),
        (Protocol::Sse, b"data: {}\ndata: {}\n\n"),
    ];
    for (protocol, bytes) in foreign {
        let each = |frame: Frame<'_>| panic!("{protocol}: {frame:?}");
        let error = Splitter::default().take(protocol, 40, bytes, each).unwrap_err().to_string();
        assert!(error.starts_with(&format!("the server does not speak {protocol}")), "{error}");
    }
    let each = |_: Frame<'_>| ControlFlow::Continue(());
    let endless = vec![b'x'; FRAME_BYTES_MAX + 1];
    Splitter::default().take(Protocol::Janus, 40, &endless, each).unwrap_err();
    let endless = vec![b'-'; LINE_BYTES_MAX];
    Splitter::default().take(Protocol::Nats, 40, &endless, each).unwrap_err();
}

#[test]
fn each_protocol_has_its_own_openings_and_publications() {
    let text = |bytes: Vec<u8>| bytes.escape_ascii().to_string();
    let said = |protocol: Protocol| {
        let mut message = Vec::new();
        protocol.publish("t", "\"x\"", &mut message);
        let opening = |topic| text(protocol.opening("127.0.0.1:1".parse().unwrap(), "me", topic));
        [opening(Some("t")), opening(None), text(message)]
    };
    assert_eq!(
        said(Protocol::Redis),
        [
            r"*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\nt\r\n",
            r"*1\r\n$4\r\nPING\r\n",
            r#"*3\r\n$7\r\nPUBLISH\r\n$1\r\nt\r\n$3\r\n\"x\"\r\n"#,
        ]
    );
    let [subscriber, publisher, message] = said(Protocol::Nats);
    assert!(subscriber.starts_with("CONNECT {") && subscriber.ends_with(r"}\r\nSUB t 1\r\nPING\r\n"), "{subscriber}");
    assert!(publisher.starts_with("CONNECT {") && publisher.ends_with(r"}\r\nPING\r\n"), "{publisher}");
    assert_eq!(message, r#"PUB t 3\r\n\"x\"\r\n"#);
    assert_eq!(
        said(Protocol::Mqtt),
        [
            r"\x10\x0e\x00\x04MQTT\x04\x02\x00\x00\x00\x02me\x82\x06\x00\x01\x00\x01t\x00",
            r"\x10\x0e\x00\x04MQTT\x04\x02\x00\x00\x00\x02me",
            r#"0\x06\x00\x01t\"x\""#,
        ]
    );
    assert_eq!(said(Protocol::Janus)[1], r"<regular-socket/>\x00");
}
