//! The rules of `janus.v1.cbor`, each with a test. The examples of the documentation are checked by `tests/bytes.rs`.

use proptest::prelude::*;

use super::client;
use super::*;
use crate::wire::v1::client as v1_client;
use crate::wire::{Command, Epoch, Position, Publication, Since, Timestamp, TopicName};

const LIMITS: Limits = Limits { max_frame_bytes: 65_536, max_topic_bytes: 255, max_topics: 128 };

fn opened() -> RequestDecoder {
    let mut requests = RequestDecoder::new();
    decode(&mut requests, &client::frame(&v1_client::hello(None, None)), &LIMITS).unwrap();
    requests
}

/// The request in a frame behind the hello.
fn decoded(frame: &[u8]) -> Result<Request, FrameError> {
    decode(&mut opened(), frame, &LIMITS)
}

fn decoded_json(text: &str) -> Result<Request, FrameError> {
    opened().decode(text, 0, &LIMITS)
}

/// A frame with these items, each already encoded.
fn map(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = BytesMut::new();
    let mut encoder = Encoder::new(Out(&mut out));
    encoder.map(members.len() as u64).unwrap();
    for (key, value) in members {
        encoder.str(key).unwrap();
        encoder.writer_mut().0.put_slice(value);
    }
    out.into()
}

const PUBLISH: (&str, &[u8]) = ("type", b"\x67publish");
const TOPIC: (&str, &[u8]) = ("topic", b"\x61t");
const ID: (&str, &[u8]) = ("id", b"\x07");

#[test]
fn every_request_means_what_it_means_in_json() {
    let since = |since| v1_client::subscribe(Some(1), "caf\u{e9} \"x\"", Some(since));
    let position = Position { epoch: Epoch::new(0x9f86_d081_884c_7d65), seq: u64::MAX };
    for text in [
        v1_client::subscribe(None, "t", None),
        since(Since::Start),
        since(Since::Last),
        since(Since::Position(position)),
        v1_client::unsubscribe(Some((1 << 53) - 1), "t"),
        v1_client::refresh(Some(0), "token"),
        v1_client::publish(None, "t", "[1.50]", "\"\\ud800\"", r#"{"n": 1e400}"#),
        v1_client::publish(Some(3), "t", "1", "2", "null"),
        v1_client::publish_with_key(Some(3), "t", "1", "2", "3", &"key".parse().unwrap()),
        v1_client::publish_bytes(Some(3), "t", "1", "2", b"\x00\xff", Some(&"key".parse().unwrap())),
        r#"{"type":"publish","topic":"t","data":7}"#.to_owned(),
        v1_client::PING.to_owned(),
        r#"{"type":"pong"}"#.to_owned(),
        // Refused, for the same reason.
        r#"{"type":"subscribe","id":7,"topic":""}"#.to_owned(),
        r#"{"type":"subscribe","id":7,"topic":"t","since":7}"#.to_owned(),
        r#"{"type":"subscribe","id":-1,"topic":"t"}"#.to_owned(),
        r#"{"type":"subscribe","id":1.5,"topic":"t"}"#.to_owned(),
        r#"{"type":"publish","id":7,"topic":"t"}"#.to_owned(),
        r#"{"type":"publish","id":7,"topic":"t","idempotency_key":"","data":1}"#.to_owned(),
        r#"{"type":"dance","id":7}"#.to_owned(),
        r#"{"type":"hello"}"#.to_owned(),
        "{}".to_owned(),
    ] {
        assert_eq!(decoded(&client::frame(&text)), decoded_json(&text), "{text}");
    }
}

#[test]
fn a_client_begins_with_a_hello() {
    let mut requests = RequestDecoder::new();
    let error = decode(&mut requests, &client::frame(v1_client::PING), &LIMITS).unwrap_err();
    assert_eq!((error.code, error.is_fatal()), (ErrorCode::BadOpen, true));
    let hello = client::frame(&v1_client::hello(Some("00ff"), Some("proof")));
    let Ok(Request::Command(Command::Open(open))) = decode(&mut requests, &hello, &LIMITS) else { panic!() };
    assert_eq!((open.session.as_deref(), open.auth.as_deref()), (Some("00ff"), Some("proof")));
}

#[test]
fn bytes_that_are_no_frame_close_the_connection() {
    for (frame, at) in [
        (&b""[..], 0),
        (b"\x80", 0),
        (b"\x64type", 0),
        (b"\xa1", 1),
        (b"\xa1\x64typ", 1),
        (b"\xa1\x64type", 6),
        (b"\xa1\x64type\x65hell", 6),
        // Another item behind the frame.
        (b"\xa1\x64type\x64ping\x00", 11),
        // Text other than UTF-8, and keys other than text.
        (b"\xa1\x64type\x62\xc3\x28", 6),
        (b"\xa1\x01\x02", 1),
        (b"\xa1\x44type\x64ping", 1),
        // Indefinite lengths, and a break without a beginning.
        (b"\xbf\x64type\x64ping\xff", 0),
        (b"\xa1\x64type\x7f\x64ping\xff", 6),
        (b"\xa1\x61a\x9f\xff", 3),
        (b"\xa1\x61a\xff", 3),
        (b"\xa1\x61a\x1c", 3),
        (b"\xa1\x61a\xf9\x3c", 3),
        // Lengths far beyond the frame.
        (b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff\x61a\x00", 12),
        (b"\xa1\x61a\x9b\xff\xff\xff\xff\xff\xff\xff\xff", 12),
        (b"\xa1\x64data\x5b\xff\xff\xff\xff\xff\xff\xff\xff", 6),
        (b"\xa1\x64data\x7b\x00\x00\x00\x00\xff\xff\xff\xff", 6),
    ] {
        let error = decoded(frame).unwrap_err();
        assert_eq!((error.code, error.is_fatal()), (ErrorCode::BadCbor, true), "{frame:02x?}");
        assert!(
            error.message.starts_with(&format!("not a frame in CBOR at byte {at}: expected ")),
            "{frame:02x?}: {error}"
        );
    }
}

#[test]
fn items_nest_to_a_limit_and_never_exhaust_a_small_stack() {
    let nested = |depth: usize, item: u8| {
        let mut value = vec![item; depth];
        value.push(0);
        map(&[("type", b"\x64ping"), ("later", &value)])
    };
    // A list of one item, and a tag.
    for item in [0x81, 0xc6] {
        assert_eq!(decoded(&nested(MAX_DEPTH - 1, item)), Ok(Request::Ping));
        assert_eq!(decoded(&nested(MAX_DEPTH, item)).unwrap_err().code, ErrorCode::BadCbor);
    }
    let deep = move || assert_eq!(decoded(&nested(60_000, 0x81)).unwrap_err().code, ErrorCode::BadCbor);
    std::thread::Builder::new().stack_size(256 * 1024).spawn(deep).unwrap().join().unwrap();
}

#[test]
fn a_payload_is_text_with_json_or_bytes() {
    let publish = |data: &[u8]| map(&[PUBLISH, ID, TOPIC, ("data", data)]);
    let published = |data: &[u8]| match decoded(&publish(data)) {
        Ok(Request::Command(Command::Publish { publication, id: Some(7), .. })) => publication,
        other => panic!("{other:?}"),
    };
    assert_eq!(published(b"\x66 [1.0]").data(), "[1.0]");
    assert_eq!(published(b"\x42\x00\xff").base64().map(|payload| payload.decode()), Some(vec![0x00, 0xff]));
    assert_eq!(published(b"\x40").base64().map(|payload| payload.len()), Some(0));
    assert_eq!(published(b"\xd8\x40\x41\x07").base64().map(|payload| payload.decode()), Some(vec![7]), "with a tag");
    assert_eq!((published(b"\x64null").data(), published(b"\x64null").base64()), ("null", None));
    // One text with two values must not become two members of an object.
    let injected = b"\x78\x19" as &[u8];
    let injected = [injected, b"1,\"topic\":\"u\",\"event\":\"x\""].concat();
    for data in [&injected[..], b"\x60", b"\x64nul ", b"\x01", b"\xf5", b"\xf6", b"\xf7", b"\xa0", b"\x80"] {
        let error = decoded(&publish(data)).unwrap_err();
        assert_eq!((error.code, error.id, error.is_fatal()), (ErrorCode::BadPublish, Some(7), false), "{data:02x?}");
        assert_eq!(error.topic.as_ref().map(TopicName::as_str), Some("t"), "{data:02x?}");
    }
    for part in ["event", "message_id"] {
        for value in [&b"\x41\x31"[..], b"\x01", b"\x61x"] {
            let error = decoded(&map(&[PUBLISH, ID, TOPIC, ("data", b"\x61\x31"), (part, value)])).unwrap_err();
            assert_eq!((error.code, error.id), (ErrorCode::BadPublish, Some(7)), "{part}: {value:02x?}");
        }
    }
}

#[test]
fn a_duplicate_key_is_refused() {
    let twice = |key: &str, value: &[u8]| {
        map(&[PUBLISH, ID, TOPIC, ("data", b"\x61\x31"), ("event", b"\x61\x31"), (key, value)])
    };
    for (key, value) in
        [("data", &b"\x61\x32"[..]), ("event", b"\x61\x31"), ("topic", b"\x61t"), ("type", b"\x67publish")]
    {
        assert_eq!(decoded(&twice(key, value)).unwrap_err().code, ErrorCode::DuplicateKey, "{key}");
    }
    let two = map(&[PUBLISH, ID, TOPIC, ("data", b"\x61\x31"), ("data_base64", b"\x64AP8=")]);
    assert!(
        decoded(&two).is_ok_and(|request| format!("{request:?}").contains("Publish")),
        "data_base64 has no meaning here"
    );
}

#[test]
fn unknown_members_may_have_any_value() {
    let strange: [&[u8]; 12] = [
        b"\x42\x00\xff",
        b"\xf7",
        b"\xe0",
        b"\xf8\x20",
        b"\xf9\x3c\x00",
        b"\xfa\x7f\xc0\x00\x00",
        b"\xfb\x7f\xf0\x00\x00\x00\x00\x00\x00",
        b"\xfb\xc0\x00\x00\x00\x00\x00\x00\x01",
        b"\x3b\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xc2\x43\x01\x00\x00",
        b"\x82\xa1\x61\"\x80\xf4",
        b"\x63\x00\x22\x5c",
    ];
    for value in strange {
        assert_eq!(decoded(&map(&[("later", value), ("type", b"\x64ping")])), Ok(Request::Ping), "{value:02x?}");
    }
}

#[test]
fn a_whole_number_may_come_as_a_floating_point_number() {
    let subscribe = |id: &[u8]| decoded(&map(&[("type", b"\x69subscribe"), TOPIC, ("id", id)]));
    for (id, expected) in [
        (&b"\xfa\x40\xe0\x00\x00"[..], 7),
        (b"\xfb\x40\x1c\x00\x00\x00\x00\x00\x00", 7),
        (b"\xfb\x43\x3f\xff\xff\xff\xff\xff\xff", (1 << 53) - 1),
    ] {
        let Ok(Request::Command(Command::Subscribe { id, .. })) = subscribe(id) else { panic!() };
        assert_eq!(id, Some(expected));
    }
    for id in [
        &b"\xfb\x40\x1e\x00\x00\x00\x00\x00\x00"[..],
        b"\xfb\x43\x40\x00\x00\x00\x00\x00\x00",
        b"\xfb\xbf\xf0\x00\x00\x00\x00\x00\x00",
        b"\x20",
    ] {
        assert_eq!(subscribe(id).unwrap_err().code, ErrorCode::BadRequest, "{id:02x?}");
    }
}

/// The frame of a message, and its JSON.
fn encoded(publication: &Publication, topic: &TopicName, seq: u64) -> (Vec<u8>, String) {
    let event = ServerEvent::Message(NumberedMessage {
        topic,
        topic_json: publication.topic_json(),
        position: Position { epoch: Epoch::new(1), seq },
        horizon: None,
        timestamp: Timestamp { mega: 1_258, sec: 870_812, micro: 907_999 },
        event: publication.event(),
        message_id: publication.message_id(),
        data: publication.data(),
        base64: publication.base64(),
    });
    let (mut cbor, mut json) = (BytesMut::new(), BytesMut::new());
    encode(&event, &mut cbor);
    v1::encode(&event, &mut json);
    (cbor.into(), String::from_utf8(json.into()).unwrap())
}

#[test]
fn events_without_words_in_json_have_no_frame() {
    let mut out = BytesMut::new();
    encode(&ServerEvent::Attached { topics: &[], session: "" }, &mut out);
    assert!(out.is_empty());
}

proptest! {
    #[test]
    fn a_message_is_the_frame_of_its_json(
        name in "[^\\p{Cc}]{1,20}",
        seq: u64,
        bytes in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..300)),
    ) {
        let topic = TopicName::new(&name, 255).unwrap();
        let publication = match bytes {
            Some(bytes) => Publication::of_bytes(&topic, "\"e\"", "[1.50]", &bytes),
            None => Publication::new(&topic, "\"\\u00e9\"", "1", "{ \"n\":\n1e400}"),
        };
        let (cbor, json) = encoded(&publication.unwrap(), &topic, seq);
        prop_assert_eq!(&client::frame(&json), &cbor);
        prop_assert_eq!(client::json(&cbor), Ok(json));
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        let _ = decoded(&bytes);
        let _ = client::json(&bytes);
    }

    #[test]
    fn a_changed_frame_is_decoded_or_refused(at in 0_usize..60, byte: u8) {
        let mut frame = client::frame(&v1_client::publish_bytes(Some(3), "t", "[1]", "2", b"\x00\xff", None));
        let at = at % frame.len();
        frame[at] = byte;
        if let Err(error) = decoded(&frame) {
            prop_assert!(error.message.len() < 200, "{}", error);
        }
    }
}
