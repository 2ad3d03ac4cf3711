//! Any bytes of a client on a WebSocket, split anywhere, give the same commands as the same bytes in a single piece,
//! never a panic, and are kept within the limit. The bytes of a server likewise.

#![no_main]

use arbitrary::Arbitrary;
use janus_core::wire::websocket::client::{self, ServerDecoder};
use janus_core::wire::{Codec, Command, FrameError, Limits, WebSocket};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    /// Lengths of the pieces, used in turn.
    pieces: [u8; 4],
    small_limit: bool,
    frames: Vec<Frame<'a>>,
    tail: &'a [u8],
}

#[derive(Arbitrary, Debug)]
enum Frame<'a> {
    Known(u8),
    Text(&'a str, [u8; 4]),
    Fragmented(u8, [u8; 4], u8),
    Ping(&'a [u8], [u8; 4]),
    Pong(&'a [u8], [u8; 4]),
    Close(u16),
    /// A header's first byte and a payload.
    Raw(u8, [u8; 4], &'a [u8]),
    Bytes(&'a [u8]),
}

const TEXTS: [&str; 6] = [
    r#"{"type":"hello"}"#,
    r#"{"type":"ping"}"#,
    r#"{"type":"subscribe","topic":"é","id":1}"#,
    r#"{"type":"publish","topic":"t","data":[1]}"#,
    r#"{"type":"subscribe"}"#,
    "😀",
];

impl Frame<'_> {
    fn bytes(&self) -> Vec<u8> {
        let known = |text: u8| TEXTS[usize::from(text) % TEXTS.len()];
        match *self {
            Self::Known(text) => client::text(known(text), [1, 2, 3, 4]),
            Self::Text(text, mask) => client::text(text, mask),
            Self::Fragmented(text, mask, size) => client::fragmented_text(known(text), mask, usize::from(size).max(1)),
            Self::Ping(payload, mask) => client::ping(payload, mask),
            Self::Pong(payload, mask) => client::pong(payload, mask),
            Self::Close(code) => client::close(code, [0; 4]),
            Self::Raw(first, mask, payload) => {
                let mut frame = client::ping(payload, mask);
                frame[0] = first;
                frame
            }
            Self::Bytes(bytes) => bytes.to_vec(),
        }
    }
}

fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>, limits: &Limits) -> Vec<Result<Command, FrameError>> {
    let mut decoder = WebSocket::v1().decoder();
    let mut decoded = Vec::new();
    for mut piece in pieces {
        while let Some(command) = decoder.decode(&mut piece, limits) {
            decoded.push(command);
        }
        assert!(piece.is_empty());
        assert!(decoder.buffered() <= limits.max_frame_bytes + 125 + 14);
        assert!(decoder.is_mid_frame() || decoder.buffered() == 0);
    }
    decoded.extend(decoder.finish(limits));
    let last = decoded.len().saturating_sub(1);
    assert!(decoded.iter().take(last).all(|decoded| !matches!(decoded, Err(_) | Ok(Command::Close(_)))));
    decoded
}

fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>, limit: usize) -> Vec<String> {
    let mut decoder = ServerDecoder::with_max_frame_bytes(limit);
    let mut frames = Vec::new();
    for mut piece in pieces {
        while let Some(frame) = decoder.decode(&mut piece) {
            frames.push(format!("{frame:?}"));
        }
        assert!(piece.is_empty());
        assert!(decoder.buffered() <= limit + 14);
    }
    frames
}

fn cut<'a>(mut rest: &'a [u8], lengths: &'a [u8; 4]) -> impl Iterator<Item = &'a [u8]> {
    let mut lengths = lengths.iter().cycle();
    std::iter::from_fn(move || {
        let length = usize::from(*lengths.next()?).clamp(1, rest.len().max(1)).min(rest.len());
        let (piece, after) = rest.split_at(length);
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

fuzz_target!(|input: Input<'_>| {
    let limits =
        Limits { max_frame_bytes: if input.small_limit { 48 } else { 4_096 }, max_topic_bytes: 32, max_topics: 8 };
    let mut bytes: Vec<u8> = input.frames.iter().flat_map(Frame::bytes).collect();
    bytes.extend_from_slice(input.tail);
    assert_eq!(decode(cut(&bytes, &input.pieces), &limits), decode(std::iter::once(&bytes[..]), &limits));

    let limit = limits.max_frame_bytes;
    assert_eq!(read(cut(input.tail, &input.pieces), limit), read(std::iter::once(input.tail), limit));
});
