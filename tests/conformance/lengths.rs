//! A format whose frames begin with their length: with room for the bytes that have come, and with room for the length
//! that a frame announces.

use std::fmt;

use janus_core::conformance::{Carrier, Check, ClientFormat, Outcome, Reader, Suite};
use janus_core::wire::{BytesMut, Codec, Command, Decoder, FrameError, Limits, ServerEvent, Timestamp};

use super::lines::{Lines, LinesClient};

/// The room that a decoder takes when the length of a frame has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    Received,
    Announced,
    /// Like `Announced`, with a `memory` that counts received bytes only.
    AnnouncedInSecret,
}

/// Lines whose requests have four bytes of length, in place of the line break.
struct Lengths(Room);

impl fmt::Debug for Lengths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lengths({:?})", self.0)
    }
}

impl Codec for Lengths {
    fn name(&self) -> &'static str {
        "lengths"
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Box::new(LengthsDecoder { room: self.0, header: Vec::new(), frame: Vec::new() })
    }

    fn encode(&self, event: &ServerEvent<'_>, at: &Timestamp, out: &mut BytesMut) {
        Lines.encode(event, at, out);
    }
}

struct LengthsDecoder {
    room: Room,
    header: Vec<u8>,
    frame: Vec<u8>,
}

impl LengthsDecoder {
    /// Moves up to `wanted` bytes from `input` to `kept`, and returns whether `kept` is complete.
    fn fill(kept: &mut Vec<u8>, wanted: usize, input: &mut &[u8]) -> bool {
        let (taken, rest) = input.split_at(input.len().min(wanted - kept.len()));
        kept.extend_from_slice(taken);
        *input = rest;
        kept.len() == wanted
    }
}

impl Decoder for LengthsDecoder {
    fn decode(&mut self, input: &mut &[u8], limits: &Limits) -> Option<Result<Command, FrameError>> {
        if !Self::fill(&mut self.header, 4, input) {
            return None;
        }
        let length = u32::from_be_bytes(self.header[..].try_into().unwrap()) as usize;
        assert!(length <= limits.max_frame_bytes, "only sound frames are sent here");
        if self.room != Room::Received {
            self.frame.reserve(length);
        }
        if !Self::fill(&mut self.frame, length, input) {
            return None;
        }
        self.header.clear();
        let mut line = std::mem::take(&mut self.frame);
        line.push(b'\n');
        Lines.decoder().decode(&mut &line[..], limits)
    }

    fn buffered(&self) -> usize {
        self.header.len() + self.frame.len()
    }

    fn memory(&self) -> usize {
        if self.room == Room::AnnouncedInSecret { self.buffered() } else { self.frame.capacity() }
    }
}

struct LengthsClient;

fn framed(mut line: Vec<u8>) -> Vec<u8> {
    line.pop();
    let length = u32::try_from(line.len()).unwrap().to_be_bytes();
    [&length, &line[..]].concat()
}

impl ClientFormat for LengthsClient {
    fn subscribe(&self, topic: &str) -> Vec<u8> {
        framed(LinesClient.subscribe(topic))
    }

    fn publish(&self, topic: &str, data: &str) -> Option<Vec<u8>> {
        LinesClient.publish(topic, data).map(framed)
    }

    fn reader(&self) -> Box<dyn Reader> {
        LinesClient.reader()
    }

    fn hears_farewells(&self) -> bool {
        false
    }
}

async fn declared(room: Room) -> Outcome {
    let suite = Suite::new(Lengths(room), LengthsClient).carrier(Carrier::pipe());
    let report = suite.checks(&[Check::Declared]).run().await;
    eprintln!("{report}");
    report.results[0].outcome.clone()
}

#[tokio::test]
async fn a_decoder_with_room_for_received_bytes_conforms() {
    assert_eq!(declared(Room::Received).await, Outcome::Passed);
}

#[tokio::test]
async fn a_decoder_that_reserves_memory_by_an_announced_length_is_found() {
    let Outcome::Failed(reason) = declared(Room::Announced).await else { panic!("the fault was not found") };
    assert!(reason.contains("the decoder holds 4"), "{reason}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_decoder_that_reserves_memory_in_secret_is_found() {
    let Outcome::Failed(reason) = declared(Room::AnnouncedInSecret).await else { panic!("the fault was not found") };
    assert!(reason.contains("the decoder reserves memory"), "{reason}");
}

#[tokio::test]
async fn the_checks_of_farewells_are_skipped_for_formats_without_farewells() {
    let suite = Suite::new(Lengths(Room::Received), LengthsClient).carrier(Carrier::pipe());
    let report = suite.checks(&[Check::Farewell, Check::Unfinished]).run().await;
    assert_eq!(report.skipped().count(), 2, "{report}");
}
