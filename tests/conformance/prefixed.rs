//! A transport with [`LengthPrefixed`]: the words of `examples/lines.rs`, with a length before each line in both directions.

use janus_core::conformance::{self, Check, ClientFormat, Reader, ResumePoint, Seen};
use janus_core::wire::{BytesMut, Codec, Decoder, LengthPrefix, LengthPrefixed, ServerEvent, Timestamp};

use super::assert_skips_only;
use super::lines::{Lines, LinesClient, read, request};

#[derive(Debug)]
struct Prefixed(LengthPrefix);

impl Codec for Prefixed {
    fn name(&self) -> &'static str {
        "prefixed"
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        LengthPrefixed::new(self.0).decoder(request)
    }

    fn encode(&self, event: &ServerEvent<'_>, at: &Timestamp, out: &mut BytesMut) {
        let mut line = BytesMut::new();
        Lines.encode(event, at, &mut line);
        if let Some(line) = line.strip_suffix(b"\n") {
            assert!(self.0.put(out, |out| out.extend_from_slice(line)), "no line is longer than a prefix can say");
        }
    }
}

struct PrefixedClient(LengthPrefix);

impl PrefixedClient {
    fn framed(&self, mut line: Vec<u8>) -> Vec<u8> {
        line.pop();
        let mut out = BytesMut::new();
        assert!(self.0.put(&mut out, |out| out.extend_from_slice(&line)));
        out.into()
    }
}

impl ClientFormat for PrefixedClient {
    fn subscribe(&self, topic: &str) -> Vec<u8> {
        self.framed(LinesClient.subscribe(topic))
    }

    fn unsubscribe(&self, topic: &str) -> Option<Vec<u8>> {
        Some(self.framed(LinesClient.unsubscribe(topic)?))
    }

    fn publish(&self, topic: &str, data: &str) -> Option<Vec<u8>> {
        Some(self.framed(LinesClient.publish(topic, data)?))
    }

    fn resume(&self, place: &ResumePoint) -> Option<Vec<u8>> {
        Some(self.framed(LinesClient.resume(place)?))
    }

    fn reader(&self) -> Box<dyn Reader> {
        let mut frames = LengthPrefixed::new(self.0);
        Box::new(move |mut input: &[u8], seen: &mut Vec<Seen>| {
            while let Some(Ok(frame)) = frames.next(&mut input, 1 << 20) {
                let line = String::from_utf8_lossy(&frame);
                seen.push(read(&line).unwrap_or_else(|| Seen::Unknown(line.into_owned())));
            }
        })
    }

    fn garbage(&self) -> Vec<Vec<u8>> {
        LinesClient.garbage().into_iter().map(|line| self.framed(line)).collect()
    }

    fn carries_topic(&self, name: &str) -> bool {
        LinesClient.carries_topic(name)
    }
}

#[tokio::test]
async fn a_transport_with_lengths_of_a_fixed_width_conforms() {
    let report = conformance::run(Prefixed(LengthPrefix::U32Be), PrefixedClient(LengthPrefix::U32Be)).await;
    assert_skips_only(&report, &[Check::Blanks]);
}

#[tokio::test]
async fn a_transport_with_lengths_as_varints_conforms() {
    let report = conformance::run(Prefixed(LengthPrefix::Varint), PrefixedClient(LengthPrefix::Varint)).await;
    assert_skips_only(&report, &[Check::Blanks]);
}
