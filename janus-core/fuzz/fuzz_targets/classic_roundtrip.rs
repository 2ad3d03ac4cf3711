//! What a publisher sends is what a subscriber reads, byte for byte, and what is JSON is `serde_json`'s opinion.

#![no_main]

use janus_core::wire::classic::client::{self, ServerDecoder, ServerFrame};
use janus_core::wire::classic::{Command, Decoder, Limits, encode_message};
use janus_core::wire::{Publication, Timestamp, TopicName};
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;

fuzz_target!(|input: (&str, &str, &str, &str, bool, u8)| {
    let (name, event, message_id, data, one_shot, size) = input;
    let limits = Limits { max_frame_bytes: 1 << 20, max_topic_bytes: 255 };
    let Ok(topic) = TopicName::new(name, limits.max_topic_bytes) else { return };

    // `serde_json` says which texts are JSON, and where they start and end.
    let raw = |text| serde_json::from_str::<&RawValue>(text).map(RawValue::get);
    let in_process = Publication::new(&topic, event, message_id, data);
    let (Ok(event), Ok(message_id), Ok(data)) = (raw(event), raw(message_id), raw(data)) else {
        assert!(in_process.is_err());
        return;
    };
    let in_process = in_process.expect("serde_json accepts every part");

    let encode = if one_shot { client::publish_and_close } else { client::publish };
    let sent = encode(name, event, message_id, data);
    let mut decoder = Decoder::new();
    let mut decoded = Vec::new();
    for mut piece in sent.chunks(usize::from(size).max(1)) {
        while let Some(command) = decoder.decode(&mut piece, &limits) {
            decoded.push(command);
        }
    }
    assert_eq!(decoder.finish(&limits), None);
    let [
        Ok(
            Command::Publish { topic: to, publication, ack: false }
            | Command::PublishAndClose { topic: to, publication },
        ),
    ] = &decoded[..]
    else {
        panic!("{decoded:?}")
    };
    assert_eq!((to, publication), (&topic, &in_process));

    let timestamp = Timestamp { mega: 1, sec: 2, micro: 3 };
    let mut delivered = Vec::new();
    encode_message(&mut delivered, &timestamp, publication);
    let mut rest = &delivered[..];
    let mut subscriber = ServerDecoder::new();
    assert_eq!(
        subscriber.decode(&mut rest),
        Some(ServerFrame::Message { timestamp, topic: name.into(), event, message_id, data })
    );
    assert!(rest.is_empty());
});
