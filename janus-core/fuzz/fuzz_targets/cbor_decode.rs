//! Any bytes from a client of `janus.v1.cbor` give a request or an error, never a panic: what is read as a frame is never bad
//! JSON, and no part of a publication is other than JSON or bytes. A frame from JSON is read back as the same JSON.

#![no_main]

use arbitrary::Arbitrary;
use janus_core::wire::v1::{MAX_REQUEST_ID, Request, RequestDecoder};
use janus_core::wire::{Base64, Command, ErrorCode, Limits, cbor, v1};
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;

const LIMITS: Limits = Limits { max_frame_bytes: 65_536, max_topic_bytes: 32, max_topics: 128 };

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    opened: bool,
    /// The frame begins as a map with this many members.
    members: u8,
    pieces: Vec<Piece<'a>>,
}

#[derive(Arbitrary, Debug)]
enum Piece<'a> {
    /// One of [`WORDS`].
    Word(u8),
    Text(&'a str),
    Bytes(&'a [u8]),
    Number(u64),
    Raw(&'a [u8]),
}

/// Items too unlikely to arise by chance.
const WORDS: [&[u8]; 20] = [
    b"\x64type\x65hello",
    b"\x64type\x69subscribe",
    b"\x64type\x6bunsubscribe",
    b"\x64type\x67publish",
    b"\x64type\x67refresh",
    b"\x64type\x64ping",
    b"\x65topic\x61t",
    b"\x65since\xa2\x65epoch\x709f86d081884c7d65\x63seq",
    b"\x65since",
    b"\x62id",
    b"\x65event",
    b"\x6amessage_id",
    b"\x64data",
    b"\x6fidempotency_key",
    b"\x64auth",
    b"\x61\x31",
    b"\x64null",
    b"\x81",
    b"\xa1",
    b"\xc1",
];

fn frame(input: &Input<'_>) -> Vec<u8> {
    fn head(major: u8, length: usize) -> [u8; 3] {
        let [high, low] = (length as u16).to_be_bytes();
        [major << 5 | 25, high, low]
    }
    let mut frame = vec![0xa0 | input.members % 24];
    for piece in &input.pieces {
        match piece {
            Piece::Word(word) => frame.extend(WORDS[usize::from(*word) % WORDS.len()]),
            Piece::Text(text) => frame.extend([&head(3, text.len())[..], text.as_bytes()].concat()),
            Piece::Bytes(bytes) => frame.extend([&head(2, bytes.len())[..], bytes].concat()),
            Piece::Number(number) => frame.extend([&[0x1b][..], &number.to_be_bytes()].concat()),
            Piece::Raw(bytes) => frame.extend(*bytes),
        }
    }
    frame
}

fuzz_target!(|input: Input<'_>| {
    let frame = frame(&input);
    let mut requests = RequestDecoder::new();
    if input.opened {
        let hello = cbor::client::frame(&v1::client::hello(None, None));
        cbor::decode(&mut requests, &hello, &LIMITS).expect("a hello opens");
    }
    let decoded = cbor::decode(&mut requests, &frame, &LIMITS);
    match &decoded {
        Ok(Request::Command(Command::Publish { publication, .. })) => {
            for part in [publication.topic_json(), publication.event(), publication.message_id(), publication.data()] {
                serde_json::from_str::<&RawValue>(part).expect("every part is JSON");
            }
            if let Some(payload) = publication.base64() {
                assert_eq!(Base64::new(payload.as_str()).map(Base64::decode), Ok(payload.decode()));
            }
        }
        Ok(_) => {}
        Err(error) => {
            assert_ne!(error.code, ErrorCode::BadJson, "{error}");
            assert!(error.is_fatal() || input.opened);
            assert!(error.id.is_none_or(|id| id <= MAX_REQUEST_ID));
        }
    }
    assert!(requests.is_opened() || decoded.is_err());

    let Ok(json) = cbor::client::json(&frame) else { return };
    serde_json::from_str::<&RawValue>(&json).expect("the JSON of a frame is JSON");
    // Once around, no number loses digits any more.
    let again = |json: &str| cbor::client::json(&cbor::client::frame(json)).expect("a frame is read back");
    let json = again(&json);
    assert_eq!(again(&json), json);
});
