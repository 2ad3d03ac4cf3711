//! Any bytes from a server, split anywhere, give the same frames as the same bytes in a single piece, and never a
//! panic; a frame over the limit is not kept.

#![no_main]

use arbitrary::Arbitrary;
use janus_core::wire::classic::client::{ServerDecoder, ServerFrame};
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    /// Lengths of the pieces, used in turn.
    pieces: [u8; 4],
    small_limit: bool,
    /// The stream, with one byte for each of [`WORDS`].
    bytes: &'a [u8],
}

/// Words too unlikely to arise by chance. The first stands for byte 14, the last for byte 31.
const WORDS: [&str; 18] = [
    "ACK\x01",
    "PING\x01",
    "{\"timestamp\":[1,2,3]",
    "{\"timestamp\":[",
    ",\"token\":\"00\"}\x01",
    ",\"topic\":\"t\"",
    ",\"topic\":",
    ",\"event\":",
    ",\"message_id\":",
    ",\"data\":",
    ",\"error\":{\"code\":\"c\"",
    ",\"message\":\"m\"",
    ",\"published\":{\"topic\":\"t\"",
    ",\"epoch\":\"00ff\"",
    ",\"seq\":",
    ",\"subscribers\":1",
    "}\x01",
    "}}\x01",
];

fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>, limit: usize) -> Vec<String> {
    let mut decoder = ServerDecoder::with_max_frame_bytes(limit);
    let mut frames = Vec::new();
    for mut piece in pieces {
        while let Some(frame) = decoder.decode(&mut piece) {
            if let ServerFrame::Message { event, message_id, data, .. } = &frame {
                for part in [event, message_id, data] {
                    serde_json::from_str::<&RawValue>(part).expect("every part is JSON");
                }
            }
            frames.push(format!("{frame:?}"));
        }
        assert!(piece.is_empty());
        assert!(decoder.buffered() <= limit);
    }
    frames
}

fuzz_target!(|input: Input<'_>| {
    let limit = if input.small_limit { 48 } else { 4_096 };
    let bytes: Vec<u8> = input
        .bytes
        .iter()
        .flat_map(|byte| match byte {
            14..=31 => WORDS[usize::from(*byte) - 14].as_bytes(),
            _ => std::slice::from_ref(byte),
        })
        .copied()
        .collect();
    let whole = decode(std::iter::once(&bytes[..]), limit);
    let mut rest = &bytes[..];
    let mut lengths = input.pieces.iter().cycle();
    let pieces = std::iter::from_fn(|| {
        let length = usize::from(*lengths.next()?).clamp(1, rest.len().max(1)).min(rest.len());
        let (piece, after) = rest.split_at(length);
        rest = after;
        (!piece.is_empty()).then_some(piece)
    });
    assert_eq!(decode(pieces, limit), whole);
});
