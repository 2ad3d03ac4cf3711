//! The rules of the classic protocol, each with a test, and the promise: no split of the stream changes a command.

use bytes::BytesMut;
use proptest::prelude::*;

use super::client::{self, ServerDecoder, ServerFrame};
use super::*;

const LIMITS: Limits = Limits { max_frame_bytes: 65_536, max_topic_bytes: 255, max_topics: 128 };

type Decoded = Vec<Result<Command, FrameError>>;

/// The commands in these pieces, followed by the end of the stream.
#[track_caller]
fn decode_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, limits: &Limits) -> Decoded {
    let mut decoder = ClassicDecoder::new();
    let mut decoded = Vec::new();
    for mut piece in pieces {
        while let Some(command) = decoder.decode(&mut piece, limits) {
            decoded.push(command);
        }
        assert!(piece.is_empty(), "None means that everything was taken");
        assert!(decoder.batch.is_none(), "a read's shared memory ends with the read");
        assert!(decoder.buffered() <= limits.max_frame_bytes);
        assert!(decoder.buffered() == 0 || decoder.is_mid_frame());
        assert!(decoder.buffered() > 0 || decoder.unfinished.capacity() == 0, "nothing kept, no memory kept");
    }
    decoded.extend(decoder.finish(limits));
    assert!(!decoder.is_mid_frame());
    decoded
}

/// The commands from a single piece, with a check that single bytes give the same commands.
#[track_caller]
fn decode(bytes: &[u8]) -> Decoded {
    let whole = decode_pieces([bytes], &LIMITS);
    assert_eq!(decode_pieces(bytes.chunks(1), &LIMITS), whole, "byte by byte");
    whole
}

#[track_caller]
fn decode_one(bytes: impl AsRef<[u8]>) -> Result<Command, FrameError> {
    let mut decoded = decode(bytes.as_ref());
    assert_eq!(decoded.len(), 1, "{decoded:?}");
    decoded.remove(0)
}

/// The code of an error that keeps the connection.
#[track_caller]
fn refused(bytes: impl AsRef<[u8]>) -> ErrorCode {
    let bytes = [bytes.as_ref(), b"PING\0"].concat();
    let mut decoded = decode(&bytes);
    assert_eq!(decoded.pop(), Some(Ok(Command::Ping)), "the next frame is heard");
    let [Ok(Command::Refused(error))] = &decoded[..] else { panic!("{decoded:?}") };
    assert!(!error.is_fatal());
    error.code
}

/// The code of an error after whose frame all input is ignored.
#[track_caller]
fn fatal(bytes: impl AsRef<[u8]>) -> ErrorCode {
    let decoded = decode(&[bytes.as_ref(), b"PING\0"].concat());
    let [Err(error)] = &decoded[..] else { panic!("{decoded:?}") };
    assert!(error.is_fatal());
    assert!(error.message.len() < 160, "{error}");
    error.code
}

#[track_caller]
fn published(bytes: impl AsRef<[u8]>) -> Publication {
    match decode_one(bytes) {
        Ok(Command::Publish { publication, .. } | Command::PublishAndClose { publication, .. }) => publication,
        other => panic!("{other:?}"),
    }
}

fn topic(name: &str) -> TopicName {
    TopicName::new(name, LIMITS.max_topic_bytes).unwrap()
}

fn subscribe(name: &str) -> Result<Command, FrameError> {
    Ok(Command::Subscribe { topic: topic(name), since: None, horizon: None, presence: false, member: None, id: None })
}

mod framing {
    use super::*;

    #[test]
    fn ping_and_pong_are_heard() {
        assert_eq!(decode(b"PING\0PONG\0"), [Ok(Command::Ping), Ok(Command::Pong)]);
        let auth = Credentials("a \"token\"".to_owned());
        assert_eq!(decode(&client::auth(&auth.0)), [Ok(Command::Authenticate { auth })]);
    }

    #[test]
    fn preambles_may_come_before_any_frame() {
        let bytes = b"<regular-socket/>\0PING\0<regular-socket/>\0<regular-socket/>\0PONG\0<regular-socket/>\0";
        assert_eq!(decode(bytes), [Ok(Command::Ping), Ok(Command::Pong)]);
    }

    #[test]
    fn no_frame_needs_the_preamble() {
        assert_eq!(decode_one(client::subscribe("t")), subscribe("t"));
    }

    #[test]
    fn empty_frames_say_nothing() {
        assert_eq!(decode(b"\0\0 \r\n\0PING\0\0"), [Ok(Command::Ping)]);
    }

    #[test]
    fn white_space_around_a_frame_means_nothing() {
        assert_eq!(
            decode(b"\nPING\r\n\0\t{\"action\" : \"subscribe\" ,\n\"data\" : \"t\"}\n\0"),
            [Ok(Command::Ping), subscribe("t")]
        );
    }

    #[test]
    fn a_frame_may_fill_its_limit_and_not_a_byte_more() {
        let frame = |len: usize| format!("{{\"action\":\"subscribe\",\"data\":\"t\"}}{}\0", " ".repeat(len - 33));
        assert_eq!(decode_one(frame(LIMITS.max_frame_bytes)), subscribe("t"));
        assert_eq!(fatal(frame(LIMITS.max_frame_bytes + 1)), ErrorCode::FrameTooLarge);
    }

    #[test]
    fn a_frame_over_its_limit_is_refused_before_it_ends() {
        for start in [&b""[..], b"PUBLISH\0{\"", b"PUBLISH\0 ", b"PUBLISH\0<"] {
            let bytes = [start, &b" ".repeat(LIMITS.max_frame_bytes + 1)].concat();
            let mut decoder = ClassicDecoder::new();
            let mut input = &bytes[..];
            let decoded = decoder.decode(&mut input, &LIMITS);
            assert!(matches!(decoded, Some(Err(FrameError { code: ErrorCode::FrameTooLarge, .. }))), "{decoded:?}");
            assert_eq!((decoder.buffered(), decoder.is_mid_frame()), (0, false));
        }
    }

    #[test]
    fn a_frame_received_byte_by_byte_is_not_rescanned() {
        // A decoder that rescans would read 10^12 bytes here.
        let limits = Limits { max_frame_bytes: 2 << 20, ..LIMITS };
        let data = format!("\"{}\"", "x".repeat(1 << 20));
        for frame in [client::publish("t", "1", "1", &data), client::publish_and_close("t", "1", "1", &data)] {
            assert_eq!(decode_pieces(frame.chunks(1), &limits).len(), 1);
        }
    }

    #[test]
    fn a_decoder_between_frames_is_small_and_owns_nothing() {
        assert!(size_of::<ClassicDecoder>() <= 48, "{}", size_of::<ClassicDecoder>());
        let mut decoder = ClassicDecoder::new();
        let mut input: &[u8] = b"{\"action\":\"subscr";
        assert_eq!(decoder.decode(&mut input, &LIMITS), None);
        assert!(decoder.is_mid_frame());
        assert_eq!(decoder.buffered(), 17);
        let mut input: &[u8] = b"ibe\",\"data\":\"t\"}\0";
        assert_eq!(decoder.decode(&mut input, &LIMITS), Some(subscribe("t")));
        assert_eq!(decoder.decode(&mut input, &LIMITS), None);
        assert!(!decoder.is_mid_frame());
        assert_eq!((decoder.buffered(), decoder.unfinished.capacity()), (0, 0));
        assert!(decoder.batch.is_none());
    }

    #[test]
    fn a_frame_in_one_piece_is_not_copied() {
        let mut decoder = ClassicDecoder::new();
        let mut input: &[u8] = b"{\"action\":\"subscribe\",\"data\":\"t\"}\0PING\0";
        while decoder.decode(&mut input, &LIMITS).is_some() {
            assert_eq!(decoder.unfinished.capacity(), 0);
        }
    }
}

mod endings {
    use super::*;

    #[test]
    fn the_end_of_the_stream_between_frames_is_silent() {
        for bytes in [&b""[..], b"\0", b" \n", b"<regular-socket/>\0", b"<regular-socket/>"] {
            assert_eq!(decode(bytes), [], "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn the_end_of_the_stream_ends_a_complete_frame() {
        assert_eq!(decode_one(b"{\"action\":\"subscribe\",\"data\":\"t\"}"), subscribe("t"));
        assert_eq!(decode_one(b"PING"), Ok(Command::Ping));
    }

    #[test]
    fn a_frame_cut_short_by_the_end_of_the_stream_is_reported() {
        for whole in [client::publish("t", "1", "1", "1"), client::publish_and_close("t", "1", "1", "1")] {
            let whole = whole.strip_suffix(b"\0").unwrap();
            for len in 1..whole.len() {
                if matches!(&whole[..len], b"PING" | b"PONG") {
                    continue;
                }
                let error = decode_one(&whole[..len]).unwrap_err();
                assert_eq!(error.code, ErrorCode::UnfinishedFrame, "{}", whole[..len].escape_ascii());
                assert!(error.is_fatal());
            }
        }
    }

    #[test]
    fn a_publish_waits_for_its_body() {
        let mut decoder = ClassicDecoder::new();
        let mut input: &[u8] = b"PUBLISH\0";
        assert_eq!(decoder.decode(&mut input, &LIMITS), None);
        assert!(decoder.is_mid_frame());
        assert_eq!(decoder.buffered(), 0);
    }

    #[test]
    fn nothing_is_heard_after_the_last_command() {
        let bytes = [&client::publish_and_close("t", "1", "1", "1")[..], b"PING\0{\"action\":\0\xff"].concat();
        assert!(matches!(&decode(&bytes)[..], [Ok(Command::PublishAndClose { .. })]));
    }
}

mod subscribing {
    use super::*;

    #[test]
    fn subscribe_and_unsubscribe_name_a_topic() {
        assert_eq!(decode_one(client::subscribe("a b")), subscribe("a b"));
        assert_eq!(decode_one(client::unsubscribe("t")), Ok(Command::Unsubscribe { topic: topic("t"), id: None }));
    }

    #[test]
    fn key_order_unknown_keys_and_escaped_keys_make_no_difference() {
        for frame in [
            r#"{"data":"t","action":"subscribe"}"#,
            r#"{"x":{"data":"u"},"data":"t","y":[1,{}],"action":"subscribe","z":1e999}"#,
            r#"{"\u0061ction":"subscri\u0062e","d\u0061ta":"t"}"#,
            r#"{"\ud800":1,"action":"subscribe","data":"t"}"#,
        ] {
            assert_eq!(decode_one(format!("{frame}\0")), subscribe("t"), "{frame}");
        }
    }

    #[test]
    fn topics_are_equal_after_their_escapes_are_undone() {
        for raw in ["café", r"caf\u00e9", r"\u0063af\u00E9"] {
            assert_eq!(decode_one(format!("{{\"action\":\"subscribe\",\"data\":\"{raw}\"}}\0")), subscribe("café"));
        }
    }

    #[test]
    fn a_bad_topic_is_refused_and_the_connection_continues() {
        let long = format!("\"{}\"", "t".repeat(256));
        for data in [
            "1",
            "null",
            "true",
            "1e400",
            "[\"t\"]",
            "{\"topic\":\"t\"}",
            "\"\"",
            r#""\u0000""#,
            r#""a\nb""#,
            r#""\u0001""#,
            "\"\u{7f}\"",
            r#""\ud800""#,
            r#""\udc00\ud800""#,
            &long,
        ] {
            for action in ["subscribe", "unsubscribe"] {
                let frame = format!("{{\"action\":\"{action}\",\"data\":{data}}}\0");
                assert_eq!(refused(&frame), ErrorCode::BadTopic, "{frame}");
            }
        }
        assert_eq!(refused(b"{\"action\":\"subscribe\"}\0"), ErrorCode::BadTopic);
    }

    #[test]
    fn a_topic_may_fill_its_limit() {
        let name = "é".repeat(127) + "t";
        assert_eq!(decode_one(client::subscribe(&name)), subscribe(&name));
    }
}

mod attaching {
    use super::*;

    #[test]
    fn an_attach_has_a_token_and_the_counts_of_messages() {
        let received = vec![(topic("a"), 0), (topic("caf\u{e9}"), 17)];
        let expected = Ok(Command::Attach { token: "00ff".to_owned(), received });
        assert_eq!(decode_one(client::attach("00ff", [("a", 0), ("caf\u{e9}", 17)])), expected);
        let frame = "{\"data\":{\"received\":{ \"a\":0,\"caf\\u00e9\" : 17 },\"more\":1,\"token\":\"00ff\"},\"action\":\"attach\"}\0";
        assert_eq!(decode_one(frame), expected);
    }

    #[test]
    fn a_session_without_topics_is_attached_with_no_counts() {
        let expected = Ok(Command::Attach { token: "00".to_owned(), received: Vec::new() });
        assert_eq!(decode_one(client::attach("00", [])), expected);
    }

    #[test]
    fn a_topic_is_counted_once_in_any_spelling() {
        let frame = r#"{"action":"attach","data":{"token":"00","received":{"a":1,"\u0061":2}}}"#;
        assert_eq!(refused(format!("{frame}\0")), ErrorCode::DuplicateKey);
    }

    #[test]
    fn the_answer_tells_for_each_topic_whether_it_resumes() {
        let mut frame = Vec::new();
        let topics = [topic("a"), topic("b\"c")];
        let answers = [(&topics[0], Some(3)), (&topics[1], None)];
        encode_attached(&mut frame, &Timestamp { mega: 1, sec: 2, micro: 3 }, answers, "00ff");
        let expected = "{\"timestamp\":[1,2,3],\"attached\":{\"a\":{\"resumed\":true,\"missed\":3},\
                        \"b\\\"c\":{\"resumed\":false}},\"token\":\"00ff\"}\x01";
        assert_eq!(str::from_utf8(&frame), Ok(expected));
    }
}

mod publishing {
    use super::*;

    const BODY: &str = r#"{"topic":"t","event":"e","message_id":"i","data":{"a":1}}"#;

    #[test]
    fn a_publication_becomes_its_message_byte_for_byte() {
        let mut out = Vec::new();
        let timestamp = Timestamp { mega: 1_258, sec: 870_801, micro: 42 };
        encode_message(&mut out, &timestamp, &published(format!("PUBLISH\0{BODY}")));
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"{"timestamp":[1258,870801,42],"topic":"t","event":"e","message_id":"i","data":{"a":1}}"#.to_owned()
                + "\u{1}"
        );
    }

    #[test]
    fn the_largest_timestamp_has_room_in_the_head_of_a_message() {
        let mut out = Vec::new();
        let timestamp = Timestamp { mega: u32::MAX, sec: u32::MAX, micro: u32::MAX };
        encode_message(&mut out, &timestamp, &published(format!("PUBLISH\0{BODY}")));
        assert!(out.starts_with(b"{\"timestamp\":[4294967295,4294967295,4294967295],\"topic\""));
    }

    #[test]
    fn a_body_may_end_with_a_nul_with_white_space_or_with_nothing() {
        for end in ["", "\0", " ", "\r\n", " trailing bytes are nobody's business", "\0\0PING\0"] {
            for start in ["", " \n", "\0", "<regular-socket/>\0", " \0<regular-socket/> \0\n"] {
                let bytes = format!("PUBLISH\0{start}{BODY}{end}");
                let Ok(Command::PublishAndClose { topic: to, publication }) = decode_one(&bytes) else {
                    panic!("{bytes:?}")
                };
                assert_eq!((to, publication.data()), (topic("t"), "{\"a\":1}"));
            }
        }
    }

    #[test]
    fn a_body_is_complete_before_anything_follows_it() {
        let bytes = format!("PUBLISH\0{BODY}");
        let (last, start) = bytes.as_bytes().split_last().unwrap();
        let mut decoder = ClassicDecoder::new();
        assert_eq!(decoder.decode(&mut &start[..], &LIMITS), None);
        assert!(matches!(decoder.decode(&mut &[*last][..], &LIMITS), Some(Ok(Command::PublishAndClose { .. }))));
    }

    #[test]
    fn brackets_and_quotes_inside_strings_do_not_end_a_body() {
        let publication = published(
            r#"PUBLISH {"topic":"t","event":"}]","message_id":"\"}","data":["\\",{"}":"\\\"{"}]}"#
                .replacen(' ', "\0", 1),
        );
        assert_eq!(publication.event(), r#""}]""#);
        assert_eq!(publication.message_id(), r#""\"}""#);
        assert_eq!(publication.data(), r#"["\\",{"}":"\\\"{"}]"#);
    }

    #[test]
    fn the_publish_action_keeps_the_connection() {
        let bytes = [client::publish("t", "1", "2", "3"), client::publish_with_ack("u", "1", "2", "3")].concat();
        let decoded = decode(&bytes);
        let [
            Ok(Command::Publish { topic: first, ack: false, .. }),
            Ok(Command::Publish { topic: second, ack: true, .. }),
        ] = &decoded[..]
        else {
            panic!("{decoded:?}")
        };
        assert_eq!((first.as_str(), second.as_str()), ("t", "u"));
    }

    #[test]
    fn key_order_and_unknown_keys_make_no_difference() {
        let publication = published(
            r#"{"ack":false,"data":{"x":[{"topic":"no"}],"data":3,"message_id":2,"y":0,"event":1,"topic":"t"},"z":0,"action":"publish"}"#,
        );
        let expected = Publication::new(&topic("t"), "1", "2", "3").unwrap();
        assert_eq!(publication, expected);
    }

    #[test]
    fn missing_members_are_filled_in() {
        let publication = published("PUBLISH\0{\"topic\":\"t\"}");
        assert_eq!((publication.event(), publication.message_id(), publication.data()), ("\"\"", "\"\"", "null"));
    }

    #[test]
    fn null_is_a_value_and_not_missing() {
        let publication = published("PUBLISH\0{\"topic\":\"t\",\"event\":null,\"message_id\":null,\"data\":null}");
        assert_eq!((publication.event(), publication.message_id(), publication.data()), ("null", "null", "null"));
    }

    #[test]
    fn digits_escapes_and_white_space_are_the_publishers() {
        for value in [
            "1e400",
            "0.10",
            "-0",
            "123456789012345678901234567890",
            "1E+2",
            r#""caf\u00e9 \/ \ud800""#,
            "\"\u{7f}é\u{2028}\"",
            "{ \"a\" :\n[ ] ,\t\"a\": 2 }",
            "[[],{},\"\"]",
            "true",
        ] {
            for bytes in
                [client::publish("t", value, value, value), client::publish_and_close("t", value, value, value)]
            {
                let publication = published(&bytes);
                assert_eq!(publication.event(), value);
                assert_eq!(publication.message_id(), value);
                assert_eq!(publication.data(), value);
            }
        }
    }

    #[test]
    fn all_subscribers_see_one_spelling_of_a_topic() {
        assert_eq!(
            published(r#"PUBLISH {"topic":"caf\u00e9\/\""}"#.replacen(' ', "\0", 1)).topic_json(),
            r#""café/\"""#
        );
    }

    #[test]
    fn the_publish_action_refuses_a_bad_publication_and_goes_on() {
        let frame = |data: &str| format!("{{\"action\":\"publish\",\"data\":{data}}}\0");
        assert_eq!(refused(frame("null")), ErrorCode::BadPublish);
        assert_eq!(refused(frame("\"t\"")), ErrorCode::BadPublish);
        assert_eq!(refused(frame("[]")), ErrorCode::BadPublish);
        assert_eq!(refused(b"{\"action\":\"publish\"}\0"), ErrorCode::BadPublish);
        assert_eq!(refused(frame("{}")), ErrorCode::BadTopic);
        assert_eq!(refused(frame("{\"topic\":1}")), ErrorCode::BadTopic);
        assert_eq!(refused(frame("{\"topic\":\"\"}")), ErrorCode::BadTopic);
        assert_eq!(refused(frame(r#"{"topic":"\ud800"}"#)), ErrorCode::BadTopic);
        for ack in ["1", "null", "\"true\"", "{}"] {
            let frame = format!("{{\"action\":\"publish\",\"data\":{{\"topic\":\"t\"}},\"ack\":{ack}}}\0");
            assert_eq!(refused(frame), ErrorCode::BadPublish);
        }
    }

    #[test]
    fn every_error_of_a_one_shot_publish_closes() {
        for (body, code) in [
            ("1 ", ErrorCode::BadPublish),
            ("\"t\"\0", ErrorCode::BadPublish),
            ("[1]", ErrorCode::BadPublish),
            ("}", ErrorCode::BadPublish),
            ("hello\0", ErrorCode::BadPublish),
            ("{}", ErrorCode::BadTopic),
            ("{\"topic\":7}", ErrorCode::BadTopic),
            ("{\"topic\":\"\\ud800\"}", ErrorCode::BadTopic),
            ("{\"topic\":\"t\",\"topic\":\"t\"}", ErrorCode::DuplicateKey),
            ("{\"topic\":\"t\"]", ErrorCode::BadJson),
            ("{\"topic\":\"t\"\0", ErrorCode::BadJson),
            ("{\"topic\":\"t\u{1}\"}", ErrorCode::BadJson),
            ("<policy-file-request/>\0", ErrorCode::BadJson),
        ] {
            assert_eq!(fatal(format!("PUBLISH\0{body}")), code, "{body:?}");
        }
        assert_eq!(fatal(b"PUBLISH\0{\"topic\":\"\xe9\"}"), ErrorCode::BadUtf8);
    }

    #[test]
    fn publications_of_one_read_share_memory_and_large_ones_do_not() {
        let small = client::publish("t", "1", "2", "3");
        let large = client::publish("t", "1", "2", &format!("\"{}\"", "x".repeat(5_000)));
        let bytes = [&small[..], &small, &large, &small].concat();
        let publications: Vec<Publication> = decode_pieces([&bytes[..]], &LIMITS)
            .into_iter()
            .map(|command| match command {
                Ok(Command::Publish { publication, .. }) => publication,
                other => panic!("{other:?}"),
            })
            .collect();
        let range = |index: usize| publications[index].classic_tail().as_ptr_range();
        assert_eq!(range(0).end, range(1).start);
        assert_eq!(range(1).end, range(3).start);
        assert_ne!(range(1).end, range(2).start);
    }

    #[test]
    fn publications_beyond_the_shared_memory_are_complete() {
        let data = format!("\"{}\"", "x".repeat(500));
        let bytes: Vec<u8> = (0..100).flat_map(|n: i32| client::publish("t", "1", &n.to_string(), &data)).collect();
        let decoded = decode_pieces([&bytes[..]], &LIMITS);
        assert_eq!(decoded.len(), 100);
        for (n, command) in decoded.into_iter().enumerate() {
            let Ok(Command::Publish { publication, .. }) = command else { panic!("{command:?}") };
            assert_eq!((publication.message_id(), publication.data()), (&*n.to_string(), &*data));
        }
    }
}

mod bad_input {
    use super::*;

    #[test]
    fn malformed_json_closes() {
        for frame in [
            "hello",
            "ping",
            "SUBSCRIBE",
            "{",
            "{\"action\":\"subscribe\",\"data\":\"t\"",
            "{\"action\":\"subscribe\",\"data\":\"t\",}",
            "{'action':'subscribe'}",
            "{\"action\":\"subscribe\",\"data\":\"t\"}}",
            "{\"data\":{\"a\":tru}}",
            "<policy-file-request/>",
        ] {
            assert_eq!(fatal(format!("{frame}\0")), ErrorCode::BadJson, "{frame}");
        }
    }

    #[test]
    fn a_control_byte_in_a_string_closes_and_cannot_forge_a_frame() {
        for byte in 1..0x20_u8 {
            let byte = char::from(byte);
            for frame in [
                format!("{{\"action\":\"subscribe\",\"data\":\"t{byte}\"}}\0"),
                format!("{{\"action\":\"publish\",\"data\":{{\"topic\":\"t\",\"data\":[\"{byte}\"]}}}}\0"),
                format!("{{\"action\":\"publish\",\"data\":{{\"topic\":\"t\",\"x\":{{\"{byte}\":1}}}}}}\0"),
                format!("{{\"{byte}\":1}}\0"),
            ] {
                assert_eq!(fatal(&frame), ErrorCode::BadJson, "{frame:?}");
            }
        }
    }

    #[test]
    fn bytes_outside_utf_8_close_at_any_place() {
        for bad in [&b"\xff"[..], b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\xe9"] {
            for (start, end) in [
                (&b"{\"action\":\"subscribe\",\"data\":\""[..], &b"\"}\0"[..]),
                (b"{\"action\":\"publish\",\"data\":{\"topic\":\"t\",\"data\":\"", b"\"}}\0"),
                (b"{\"action\":\"publish\",\"data\":{\"topic\":\"t\",\"unknown\":\"", b"\"}}\0"),
                (b"", b"\0"),
            ] {
                assert_eq!(fatal([start, bad, end].concat()), ErrorCode::BadUtf8, "{}", bad.escape_ascii());
            }
        }
    }

    #[test]
    fn an_unknown_request_is_refused_and_the_connection_continues() {
        for frame in [
            "{}",
            "[]",
            "1",
            "\"PING\"",
            "null",
            "{\"action\":1}",
            "{\"action\":null,\"data\":\"t\"}",
            "{\"action\":\"fly\"}",
            "{\"action\":\"Subscribe\",\"data\":\"t\"}",
            "{\"action\":\"Attach\",\"data\":{\"token\":\"00\",\"received\":{}}}",
            r#"{"action":"\ud800"}"#,
        ] {
            assert_eq!(refused(format!("{frame}\0")), ErrorCode::UnknownAction, "{frame}");
        }
    }

    #[test]
    fn a_duplicate_of_a_known_key_is_refused() {
        for frame in [
            r#"{"action":"subscribe","action":"subscribe","data":"t"}"#,
            r#"{"action":"subscribe","data":"t","data":"t"}"#,
            r#"{"action":"subscribe","data":"t","d\u0061ta":"u"}"#,
            r#"{"action":"publish","data":{"topic":"t"},"data":{"topic":"u"}}"#,
            r#"{"action":"publish","data":{"topic":"t"},"ack":true,"ack":false}"#,
            r#"{"action":"publish","data":{"topic":"t","topic":"t"}}"#,
            r#"{"action":"publish","data":{"topic":"t","data":1,"data":2}}"#,
        ] {
            assert_eq!(refused(format!("{frame}\0")), ErrorCode::DuplicateKey, "{frame}");
        }
        let publication =
            published(r#"{"action":"publish","data":{"topic":"t","x":1,"x":2,"data":{"a":1,"a":2}},"y":1,"y":2}"#);
        assert_eq!(publication.data(), r#"{"a":1,"a":2}"#);
    }

    #[test]
    fn malformed_json_outweighs_every_other_fault() {
        assert_eq!(fatal(b"{\"action\":\"fly\",\"action\":\0"), ErrorCode::BadJson);
        assert_eq!(fatal(b"{\"action\":\"subscribe\",\"data\":\"\\ud800\",}\0"), ErrorCode::BadJson);
    }

    #[test]
    fn no_depth_of_nesting_exhausts_a_small_stack() {
        let deep = || {
            let open = "[".repeat(60_000);
            assert_eq!(fatal(format!("{open}\0")), ErrorCode::BadJson);
            assert_eq!(fatal(format!("PUBLISH\0{{\"data\":{open}\0")), ErrorCode::BadJson);
            let data = "[".repeat(30_000) + &"]".repeat(30_000);
            assert_eq!(published(client::publish("t", "1", "1", &data)).data(), data);
            assert_eq!(published(client::publish_and_close("t", "1", "1", &data)).data(), data);
        };
        std::thread::Builder::new().stack_size(128 * 1024).spawn(deep).unwrap().join().unwrap();
    }

    #[test]
    fn no_error_repeats_input_of_the_client() {
        let secret = "hunter2".repeat(1_000);
        for frame in [
            secret.clone(),
            format!("{{\"action\":\"{secret}\"}}"),
            format!("{{\"action\":\"subscribe\",\"data\":\"{secret}\"}}"),
            format!("{{\"action\":\"subscribe\",\"{secret}\":}}"),
        ] {
            let (Ok(Command::Refused(error)) | Err(error)) = decode_one(format!("{frame}\0")) else {
                panic!("{frame}")
            };
            assert!(!error.message.contains("hunter2"), "{error}");
        }
    }
}

mod encoding {
    use super::*;

    const TIMESTAMP: Timestamp = Timestamp { mega: 1_258, sec: 0, micro: 4_294_967_295 };

    fn text(encode: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        encode(&mut out);
        String::from_utf8(out).unwrap().replace('\u{1}', "|")
    }

    #[test]
    fn every_frame_of_the_server_has_its_exact_bytes() {
        assert_eq!(ACK, b"ACK\x01");
        assert_eq!(PING, b"PING\x01");
        assert_eq!(
            text(|out| encode_greeting(out, &TIMESTAMP, "0123456789abcdef0123456789abcdef", None)),
            r#"{"timestamp":[1258,0,4294967295],"token":"0123456789abcdef0123456789abcdef"}|"#
        );
        let expires = Some(Duration::from_millis(90_500));
        assert_eq!(
            text(|out| encode_greeting(out, &TIMESTAMP, "00", expires)),
            r#"{"timestamp":[1258,0,4294967295],"token":"00","expires_ms":90500}|"#
        );
        for (expires, body) in [(expires, r#"{"expires_ms":90500}"#), (None, "{}")] {
            let expected = format!(r#"{{"timestamp":[1258,0,4294967295],"refreshed":{body}}}|"#);
            assert_eq!(text(|out| encode_refreshed(out, &TIMESTAMP, expires)), expected);
        }
        assert_eq!(
            text(|out| encode_assigned(out, &TIMESTAMP, &topic("a\\b"))),
            r#"{"timestamp":[1258,0,4294967295],"subscribed":{"topic":"a\\b"}}|"#
        );
        assert_eq!(
            text(|out| encode_error(out, &TIMESTAMP, ErrorCode::BadTopic, "say \"t\"\n")),
            r#"{"timestamp":[1258,0,4294967295],"error":{"code":"bad_topic","message":"say \"t\"\n"}}|"#
        );
        assert_eq!(
            text(|out| encode_published(out, &TIMESTAMP, &topic("a\\b"), Epoch::new(255), 7, 2)),
            r#"{"timestamp":[1258,0,4294967295],"published":{"topic":"a\\b","epoch":"00000000000000ff","seq":7,"subscribers":2}}|"#
        );
    }

    #[test]
    fn frames_are_appended_to_earlier_bytes() {
        let mut out = BytesMut::from(&b"before"[..]);
        encode_greeting(&mut out, &TIMESTAMP, "00", None);
        assert!(out.starts_with(b"before{"));
    }

    #[test]
    fn a_terminator_in_a_token_or_a_message_does_not_end_the_frame() {
        assert_eq!(text(|out| encode_error(out, &TIMESTAMP, ErrorCode::Internal, "\u{1}")).matches('|').count(), 1);
    }
}

/// Streams close enough to the protocol to reach every state of the decoder.
fn streams() -> impl Strategy<Value = Vec<u8>> {
    let fragment = prop_oneof![
        8 => proptest::sample::select(vec![
            &b"\0"[..], b"PING\0", b"PONG\0", b"<regular-socket/>\0", b"PUBLISH\0", b" ", b"\n",
            b"{\"action\":\"subscribe\",\"data\":\"t\"}\0", b"{\"action\":\"unsubscribe\",\"data\":\"caf\\u00e9\"}\0",
            b"{\"action\":\"publish\",\"data\":{\"topic\":\"t\",\"data\":[1,{\"a\":\"}\"}]}}\0",
            b"{\"action\":\"publish\",\"ack\":true,\"data\":{\"topic\":\"t\",\"event\":\"\\ud800\"}}\0",
            b"{\"topic\":\"t\",\"event\":1}", b"{\"topic\":", b"\"t\"", b"\"t\"}", b",\"data\":", b"{", b"}", b"[", b"]", b"\"", b"\\",
            b"{\"action\":\"auth\",\"data\":\"token\"}\0", b"{\"action\":\"fly\"}\0", b"1e400", b"\xff", b"\x01", b"\xc3", b"\xa9",
        ]).prop_map(<[u8]>::to_vec),
        1 => proptest::collection::vec(any::<u8>(), 0..12),
    ];
    proptest::collection::vec(fragment, 0..24).prop_map(|fragments| fragments.concat())
}

/// Splits a stream at some places, possibly equal or out of range.
fn cut<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.sort_unstable();
    let mut rest = bytes;
    let mut taken = 0;
    let mut pieces = Vec::new();
    for cut in cuts {
        let (piece, after) = rest.split_at(cut - taken);
        pieces.push(piece);
        rest = after;
        taken = cut;
    }
    pieces.push(rest);
    pieces
}

fn json_values() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,4})?",
        any::<String>().prop_map(|text| serde_json::Value::from(text).to_string()),
        Just(r#""\ud800\/\u00e9""#.to_owned()),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(|values| format!("[ {}]", values.join(" ,\n"))),
            proptest::collection::vec((any::<String>(), inner), 0..4).prop_map(|members| {
                let members: Vec<String> = members
                    .iter()
                    .map(|(key, value)| format!("{}\t: {value}", serde_json::Value::from(&**key)))
                    .collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn no_cut_of_the_stream_changes_a_command(
        bytes in streams(),
        cuts in proptest::collection::vec(any::<usize>(), 0..8),
        max_frame_bytes in prop_oneof![Just(16_usize), Just(40), Just(65_536)],
    ) {
        let limits = Limits { max_frame_bytes, max_topic_bytes: 4, max_topics: 128 };
        let whole = decode_pieces([&bytes[..]], &limits);
        prop_assert_eq!(&decode_pieces(cut(&bytes, &cuts), &limits), &whole);
        prop_assert_eq!(&decode_pieces(bytes.chunks(1), &limits), &whole);
        let last = whole.len().saturating_sub(1);
        for (index, command) in whole.iter().enumerate() {
            if matches!(command, Err(_) | Ok(Command::PublishAndClose { .. })) {
                prop_assert_eq!(index, last, "nothing follows what closes");
            }
        }
    }

    #[test]
    fn any_bytes_at_all_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(decode_pieces(bytes.chunks(1), &LIMITS), decode_pieces([&bytes[..]], &LIMITS));
    }

    #[test]
    fn a_message_is_delivered_as_published(
        name in "\\PC{1,60}",
        event in json_values(),
        message_id in json_values(),
        data in json_values(),
        one_shot: bool,
        size in 1_usize..64,
    ) {
        let encode = if one_shot { client::publish_and_close } else { client::publish };
        let decoded = decode_pieces(encode(&name, &event, &message_id, &data).chunks(size), &LIMITS);
        let [Ok(Command::Publish { topic, publication, .. } | Command::PublishAndClose { topic, publication })] = &decoded[..] else {
            return Err(TestCaseError::fail(format!("{decoded:?}")));
        };
        prop_assert_eq!(topic.as_str(), &name);
        prop_assert_eq!(publication, &Publication::new(topic, &event, &message_id, &data).unwrap());

        let timestamp = Timestamp { mega: 1, sec: 2, micro: 3 };
        let mut out = Vec::new();
        encode_message(&mut out, &timestamp, publication);
        let parts = MessageParts { timestamp, event: &event, message_id: &message_id, data: &data };
        prop_assert_eq!(MessageParts::of(&out), Some(parts));
        let mut input = &out[..];
        let mut client = ServerDecoder::new();
        prop_assert_eq!(
            client.decode(&mut input),
            Some(ServerFrame::Message { timestamp, topic: name.into(), event: &event, message_id: &message_id, data: &data, base64: None })
        );
        prop_assert!(input.is_empty());
    }
}
