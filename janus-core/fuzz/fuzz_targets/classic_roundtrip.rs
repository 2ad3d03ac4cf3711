//! A publisher's text reaches subscribers byte for byte, and texts are JSON by the verdict of `serde_json`. An attach and its
//! answer are understood.

#![no_main]

use janus_core::wire::classic::client::{self, ServerDecoder, ServerFrame};
use janus_core::wire::classic::{ClassicDecoder, Command, Limits, encode_attached, encode_message};
use janus_core::wire::{FrameError, Publication, Timestamp, TopicName};
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;

const TIMESTAMP: Timestamp = Timestamp { mega: 1, sec: 2, micro: 3 };

fn decode(sent: &[u8], size: u8, limits: &Limits) -> Vec<Result<Command, FrameError>> {
    let mut decoder = ClassicDecoder::new();
    let mut decoded = Vec::new();
    for mut piece in sent.chunks(usize::from(size).max(1)) {
        while let Some(command) = decoder.decode(&mut piece, limits) {
            decoded.push(command);
        }
    }
    assert_eq!(decoder.finish(limits), None);
    decoded
}

/// An attach with these topics and counts, and an answer about the valid topics.
fn come_back(token: &str, topics: [(&str, Option<u64>); 3], size: u8, limits: &Limits) {
    let counts = topics.map(|(name, count)| (name, count.unwrap_or(0)));
    let decoded = decode(&client::attach(token, counts), size, limits);

    let mut answers: Vec<(TopicName, Option<u64>)> = Vec::new();
    for (name, count) in topics {
        let Ok(topic) = TopicName::new(name, limits.max_topic_bytes) else { continue };
        if answers.iter().all(|(other, _)| *other != topic) {
            answers.push((topic, count));
        }
    }
    if answers.len() == topics.len() {
        let received = answers.iter().map(|(topic, count)| (topic.clone(), count.unwrap_or(0))).collect();
        assert_eq!(decoded, [Ok(Command::Attach { token: token.to_owned(), received })]);
    } else {
        assert!(matches!(&decoded[..], [Ok(Command::Refused(_))]), "no such topics can be counted: {decoded:?}");
    }

    let mut answer = Vec::new();
    encode_attached(&mut answer, &TIMESTAMP, answers.iter().map(|(topic, count)| (topic, *count)), token);
    let topics: Vec<_> = answers.iter().map(|(topic, count)| (topic.as_str().into(), *count)).collect();
    let expected = ServerFrame::Attached { topics, token: token.into() };
    let (mut decoder, mut frames) = (ServerDecoder::new(), 0);
    for mut piece in answer.chunks(usize::from(size).max(1)) {
        while let Some(frame) = decoder.decode(&mut piece) {
            assert_eq!(frame, expected);
            frames += 1;
        }
    }
    assert_eq!((frames, decoder.buffered()), (1, 0));
}

fuzz_target!(|input: (&str, &str, &str, &str, [Option<u64>; 3], bool, u8)| {
    let (name, event, message_id, data, counts, one_shot, size) = input;
    let limits = Limits { max_frame_bytes: 1 << 20, max_topic_bytes: 255, max_topics: 128 };
    come_back(data, [(name, counts[0]), (event, counts[1]), (message_id, counts[2])], size, &limits);
    let Ok(topic) = TopicName::new(name, limits.max_topic_bytes) else { return };

    // `serde_json` decides which texts are JSON, and where a value starts and ends.
    let raw = |text| serde_json::from_str::<&RawValue>(text).map(RawValue::get);
    let in_process = Publication::new(&topic, event, message_id, data);
    let (Ok(event), Ok(message_id), Ok(data)) = (raw(event), raw(message_id), raw(data)) else {
        assert!(in_process.is_err());
        return;
    };
    let in_process = in_process.expect("serde_json accepts every part");

    let encode = if one_shot { client::publish_and_close } else { client::publish };
    let sent = encode(name, event, message_id, data);
    let decoded = decode(&sent, size, &limits);
    let [
        Ok(
            Command::Publish { topic: to, publication, ack: false, id: None }
            | Command::PublishAndClose { topic: to, publication },
        ),
    ] = &decoded[..]
    else {
        panic!("{decoded:?}")
    };
    assert_eq!((to, publication), (&topic, &in_process));

    let mut delivered = Vec::new();
    encode_message(&mut delivered, &TIMESTAMP, publication);
    let mut rest = &delivered[..];
    let mut subscriber = ServerDecoder::new();
    assert_eq!(
        subscriber.decode(&mut rest),
        Some(ServerFrame::Message { timestamp: TIMESTAMP, topic: name.into(), event, message_id, data, base64: None })
    );
    assert!(rest.is_empty());
});
