//! Any bytes, split anywhere, give the same commands as the same bytes in a single piece, and never a panic.

#![no_main]

use std::collections::BTreeSet;

use arbitrary::Arbitrary;
use janus_core::wire::FrameError;
use janus_core::wire::classic::{ClassicDecoder, Command, Limits};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    /// Lengths of the pieces, used in turn.
    pieces: [u8; 4],
    small_limit: bool,
    /// The stream, with one byte for each of [`WORDS`] and [`ATTACH_WORDS`].
    bytes: &'a [u8],
}

/// Words too unlikely to arise by chance. The first stands for byte 14, the last for byte 31.
const WORDS: [&str; 18] = [
    "PING\0",
    "PUBLISH\0",
    "<regular-socket/>\0",
    "{\"action\":\"subscribe\",\"data\":\"",
    "{\"data\":\"t\",\"action\":\"unsubscribe\"",
    "{\"action\":\"publish\",\"data\":",
    "{\"topic\":\"t\",\"data\":",
    "{\"topic\":",
    ",\"event\":",
    ",\"message_id\":",
    ",\"data\":",
    ",\"ack\":true",
    "}\0",
    "}}\0",
    "\"}\0",
    "\\ud800",
    "\\u0061",
    "{\"a\":[",
];

/// The words of an attach, for the bytes 2 to 8.
const ATTACH_WORDS: [&str; 7] = [
    "{\"action\":\"attach\",\"data\":{\"token\":\"t\",\"received\":{",
    "\"attach\"",
    "\"token\":\"t\"",
    "\"received\":{",
    "\"t\":1",
    "18446744073709551615",
    "}}}\0",
];

fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>, limits: &Limits) -> Vec<Result<Command, FrameError>> {
    let mut decoder = ClassicDecoder::new();
    let mut decoded = Vec::new();
    for mut piece in pieces {
        while let Some(command) = decoder.decode(&mut piece, limits) {
            if let Ok(Command::Publish { publication, .. } | Command::PublishAndClose { publication, .. }) = &command {
                for part in
                    [publication.topic_json(), publication.event(), publication.message_id(), publication.data()]
                {
                    serde_json::from_str::<&serde_json::value::RawValue>(part).expect("every part is JSON");
                    assert!(!part.contains('\u{1}'), "no part can end a frame");
                }
            }
            if let Ok(Command::Attach { received, .. }) = &command {
                let names: BTreeSet<&str> = received.iter().map(|(topic, _)| topic.as_str()).collect();
                assert_eq!(names.len(), received.len(), "no topic is counted twice");
            }
            decoded.push(command);
        }
        assert!(piece.is_empty());
        assert!(decoder.buffered() <= limits.max_frame_bytes);
    }
    decoded.extend(decoder.finish(limits));
    decoded
}

fuzz_target!(|input: Input<'_>| {
    let limits =
        Limits { max_frame_bytes: if input.small_limit { 48 } else { 4_096 }, max_topic_bytes: 32, max_topics: 128 };
    let bytes: Vec<u8> = input
        .bytes
        .iter()
        .flat_map(|byte| match byte {
            2..=8 => ATTACH_WORDS[usize::from(*byte) - 2].as_bytes(),
            14..=31 => WORDS[usize::from(*byte) - 14].as_bytes(),
            _ => std::slice::from_ref(byte),
        })
        .copied()
        .collect();
    let whole = decode(std::iter::once(&bytes[..]), &limits);
    let mut rest = &bytes[..];
    let mut lengths = input.pieces.iter().cycle();
    let pieces = std::iter::from_fn(|| {
        let length = usize::from(*lengths.next()?).clamp(1, rest.len().max(1)).min(rest.len());
        let (piece, after) = rest.split_at(length);
        rest = after;
        (!piece.is_empty()).then_some(piece)
    });
    assert_eq!(decode(pieces, &limits), whole);
});
