//! Any text from a client gives a request or an error, never a panic. An object by `serde_json`'s verdict is never bad
//! JSON, and a request built by a client is read back unchanged.

#![no_main]

use arbitrary::Arbitrary;
use janus_core::wire::v1::client::{self, ServerFrame};
use janus_core::wire::v1::{MAX_REQUEST_ID, Request, RequestDecoder};
use janus_core::wire::{Command, Epoch, ErrorCode, Limits, Position, TopicName};
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;

const LIMITS: Limits = Limits { max_frame_bytes: 65_536, max_topic_bytes: 32, max_topics: 128 };

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    opened: bool,
    id: Option<u64>,
    since: Option<(u64, u64)>,
    topic: &'a str,
    more: u16,
    /// The frame, with one character for each of [`WORDS`].
    text: &'a str,
}

/// Words too unlikely to arise by chance. The first stands for character 14, the last for character 31.
const WORDS: [&str; 18] = [
    "{\"type\":\"hello\"",
    "{\"type\":\"subscribe\",\"topic\":\"t\"",
    "{\"type\":\"unsubscribe\"",
    "{\"type\":\"publish\",\"topic\":\"t\"",
    "{\"type\":\"message\",\"seq\":1,\"time\":1",
    ",\"since\":{\"epoch\":\"9f86d081884c7d65\",\"seq\":",
    ",\"since\":",
    "\"epoch\":",
    ",\"id\":",
    ",\"event\":",
    ",\"message_id\":",
    ",\"data\":",
    ",\"topic\":",
    ",\"session\":\"s\"",
    ",\"auth\":",
    "9007199254740992",
    "\\ud800",
    "\"type\":",
];

fuzz_target!(|input: Input<'_>| {
    let text: String = input
        .text
        .chars()
        .map(|character| match character as usize {
            word @ 14..=31 => WORDS[word - 14].to_owned(),
            _ => character.to_string(),
        })
        .collect();
    let mut decoder = RequestDecoder::new();
    if input.opened {
        decoder.decode(&client::hello(None, None), 0, &LIMITS).expect("a hello opens");
    }
    let is_json = serde_json::from_str::<&RawValue>(&text).is_ok();
    let decoded = decoder.decode(&text, input.more.into(), &LIMITS);
    match &decoded {
        Ok(Request::Command(Command::Publish { publication, .. })) => {
            for part in [publication.topic_json(), publication.event(), publication.message_id(), publication.data()] {
                serde_json::from_str::<&RawValue>(part).expect("every part is JSON");
            }
        }
        Ok(_) => assert!(is_json),
        Err(error) => {
            assert_eq!(error.code == ErrorCode::BadJson, !is_json, "{error}");
            assert!(error.is_fatal() || input.opened);
            assert!(error.id.is_none_or(|id| id <= MAX_REQUEST_ID));
        }
    }
    assert!(decoder.is_opened() || decoded.is_err());
    let _ = ServerFrame::parse(&text);

    let Ok(topic) = TopicName::new(input.topic, LIMITS.max_topic_bytes) else { return };
    let mut decoder = RequestDecoder::new();
    decoder.decode(&client::hello(Some(&text), Some(input.topic)), 0, &LIMITS).expect("a hello opens");
    let id = input.id.map(|id| id % (MAX_REQUEST_ID + 1));
    let since = input.since.map(|(epoch, seq)| Position { epoch: Epoch::new(epoch), seq }.into());
    let subscribe = client::subscribe(id, input.topic, since);
    let command = decoder.decode(&subscribe, input.more.into(), &LIMITS).expect("it is well built");
    assert_eq!(command, Request::Command(Command::Subscribe { topic, since, horizon: None, presence: false, member: None, id }));
});
