//! The cost of decoding and encoding a frame of each protocol; no socket, no actor.
//!
//! Decoding: a subscribe and a publish alone; a read of 16 KiB full of publish frames, cheaper each because of shared
//! allocations; a malformed frame, which must not cost a server more than a good frame. Encoding: a message into an
//! existing buffer, as a topic does for each message, and the head written once for all messages numbered together.
//!
//! The modern protocol over WebSocket is measured likewise; decoding includes unmasking.

use std::hint::black_box;
use std::time::Duration;

use bytes::BytesMut;
use criterion::{Criterion, Throughput};
use janus_core::wire::classic::{ClassicDecoder, Command, FrameError, Limits, MessageHead, client};
use janus_core::wire::{self, Codec, Publication, ServerEvent, Timestamp, TopicName, WebSocket, v1, websocket};

const LIMITS: Limits = Limits { max_frame_bytes: 64 * 1024, max_topic_bytes: 255, max_topics: 128 };
const READ_BYTES: usize = 16 * 1024;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_millis(1_500))
        .configure_from_args();
    decode(&mut criterion);
    encode(&mut criterion);
    decode_websocket(&mut criterion);
    encode_websocket(&mut criterion);
    criterion.final_summary();
}

fn decode(criterion: &mut Criterion) {
    let publish = client::publish("news", "\"headline\"", "\"42\"", &json_string(100));
    let frames = READ_BYTES / publish.len();
    let mut cut_short = publish.clone();
    cut_short.truncate(publish.len() - 2);
    cut_short.push(0);
    let inputs = [
        ("subscribe", 1, client::subscribe("news")),
        ("publish, 100 B", 1, publish.clone()),
        ("publish, 100 B, 16 KiB of them", frames, publish.repeat(frames)),
    ];

    let mut group = criterion.benchmark_group("decode");
    for (name, frames, input) in inputs {
        let mut decoder = ClassicDecoder::new();
        assert_eq!(decode_all(&mut decoder, &input), frames, "{name}: every frame is a command");
        group.throughput(Throughput::ElementsAndBytes { elements: frames as u64, bytes: input.len() as u64 });
        group.bench_function(name, |bencher| bencher.iter(|| decode_all(&mut decoder, black_box(&input))));
    }

    assert!(first(&mut ClassicDecoder::new(), &cut_short).is_err(), "the last bracket is missing");
    group.throughput(Throughput::ElementsAndBytes { elements: 1, bytes: cut_short.len() as u64 });
    // A decoder is over after malformed JSON, so each frame gets a new decoder, like each connection.
    group.bench_function("publish, 100 B, malformed", |bencher| {
        bencher.iter(|| first(&mut ClassicDecoder::new(), black_box(&cut_short)));
    });
    group.finish();
}

fn decode_all(decoder: &mut ClassicDecoder, mut input: &[u8]) -> usize {
    let mut commands = 0;
    while let Some(command) = decoder.decode(&mut input, &LIMITS) {
        black_box(command.expect("the frames are good"));
        commands += 1;
    }
    commands
}

fn first(decoder: &mut ClassicDecoder, mut input: &[u8]) -> Result<Command, FrameError> {
    decoder.decode(&mut input, &LIMITS).expect("the frame is whole")
}

fn encode(criterion: &mut Criterion) {
    let topic = TopicName::new("news", 255).expect("a good name");
    let timestamp = Timestamp::from_unix(Duration::from_micros(1_258_870_801_000_042));
    let head = MessageHead::new(&timestamp);
    let mut group = criterion.benchmark_group("encode");
    group.bench_function("head", |bencher| bencher.iter(|| MessageHead::new(black_box(&timestamp))));
    for (name, bytes) in [("message, 100 B", 100), ("message, 4 KiB", 4_096)] {
        let publication =
            Publication::new(&topic, "\"headline\"", "\"42\"", &json_string(bytes)).expect("its parts are JSON");
        let mut buffer = BytesMut::with_capacity(2 * bytes + 256);
        head.encode_message(&mut buffer, &publication);
        group.throughput(Throughput::Bytes(buffer.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                buffer.clear();
                head.encode_message(&mut buffer, black_box(&publication));
                buffer.len()
            });
        });
    }
    group.finish();
}

fn decode_websocket(criterion: &mut Criterion) {
    let masked = |text: &str| websocket::client::text(text, [0x37, 0xfa, 0x21, 0x3d]);
    let mut decoder = WebSocket::v1().decoder();
    let mut decode_all = |mut input: &[u8]| {
        let mut commands = 0;
        while let Some(command) = decoder.decode(&mut input, &LIMITS) {
            black_box(command.expect("the frames are good"));
            commands += 1;
        }
        commands
    };
    assert_eq!(decode_all(&masked(&v1::client::hello(None, None))), 1);

    let publish = masked(&v1::client::publish(None, "news", "\"headline\"", "\"42\"", &json_string(100)));
    let frames = READ_BYTES / publish.len();
    let mut group = criterion.benchmark_group("decode websocket");
    for (name, frames, input) in [
        ("subscribe", 1, masked(&v1::client::subscribe(Some(1), "news", None))),
        ("publish, 100 B", 1, publish.clone()),
        ("publish, 100 B, 16 KiB of them", frames, publish.repeat(frames)),
    ] {
        assert_eq!(decode_all(&input), frames, "{name}: every frame is a command");
        group.throughput(Throughput::ElementsAndBytes { elements: frames as u64, bytes: input.len() as u64 });
        group.bench_function(name, |bencher| bencher.iter(|| decode_all(black_box(&input))));
    }
    group.finish();
}

fn encode_websocket(criterion: &mut Criterion) {
    let topic = TopicName::new("news", 255).expect("a good name");
    let timestamp = Timestamp::from_unix(Duration::from_micros(1_258_870_801_000_042));
    let mut group = criterion.benchmark_group("encode websocket");
    for (name, bytes) in [("message, 100 B", 100), ("message, 4 KiB", 4_096)] {
        let publication =
            Publication::new(&topic, "\"headline\"", "\"42\"", &json_string(bytes)).expect("its parts are JSON");
        let event = ServerEvent::Message(wire::NumberedMessage {
            topic: &topic,
            topic_json: publication.topic_json(),
            position: wire::Position { epoch: wire::Epoch::new(0x9f86_d081_884c_7d65), seq: 123_456 },
            horizon: Some(1_234_567),
            timestamp,
            event: publication.event(),
            message_id: publication.message_id(),
            data: publication.data(),
            base64: publication.base64(),
        });
        let mut buffer = BytesMut::with_capacity(2 * bytes + 512);
        WebSocket::v1().encode(&event, &timestamp, &mut buffer);
        group.throughput(Throughput::Bytes(buffer.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                buffer.clear();
                WebSocket::v1().encode(black_box(&event), &timestamp, &mut buffer);
                buffer.len()
            });
        });
    }
    group.finish();
}

/// A JSON string of `bytes` bytes, including the quotes.
fn json_string(bytes: usize) -> String {
    format!("\"{}\"", "x".repeat(bytes - 2))
}
