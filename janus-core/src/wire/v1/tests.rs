//! The rules of `janus.v1.json`, each with a test.

use proptest::prelude::*;

use super::client::{self, PresenceChange, ServerFrame};
use super::*;
use crate::wire::{Epoch, Publication, Timestamp};

const CLIENT: ClientId = ClientId::new(718_281_828_459_045_235, 17);

const LIMITS: Limits = Limits { max_frame_bytes: 65_536, max_topic_bytes: 255, max_topics: 128 };
const EPOCH: Epoch = Epoch::new(0x9f86_d081_884c_7d65);

fn topic(name: &str) -> TopicName {
    TopicName::new(name, LIMITS.max_topic_bytes).unwrap()
}

fn opened() -> RequestDecoder {
    let mut decoder = RequestDecoder::new();
    decoder.decode(&client::hello(None, None), 0, &LIMITS).unwrap();
    decoder
}

/// The request in the first frame of a connection.
fn first(text: &str) -> Result<Request, FrameError> {
    RequestDecoder::new().decode(text, 0, &LIMITS)
}

/// The command in a frame after the hello.
fn decoded(text: &str) -> Result<Command, FrameError> {
    opened().decode(text, 0, &LIMITS).map(|request| match request {
        Request::Command(command) => command,
        Request::Ping => panic!("a ping is no command"),
    })
}

/// The code of an error that keeps the connection, and the number of the request.
#[track_caller]
fn refused(text: &str) -> (ErrorCode, RequestId) {
    let mut decoder = opened();
    let error = decoder.decode(text, 0, &LIMITS).unwrap_err();
    assert!(!error.is_fatal(), "{error}");
    assert!(error.message.len() < 160, "{error}");
    assert_eq!(decoder.decode(client::PING, 0, &LIMITS), Ok(Request::Ping), "the next frame is heard");
    (error.code, error.id)
}

mod opening {
    use super::*;

    #[track_caller]
    fn not_opened(text: &str) -> ErrorCode {
        let mut decoder = RequestDecoder::new();
        let error = decoder.decode(text, 0, &LIMITS).unwrap_err();
        assert!(error.is_fatal() && !decoder.is_opened(), "{error}");
        error.code
    }

    #[test]
    fn a_hello_opens_with_its_session_and_auth() {
        let open = |session: Option<&str>, auth: Option<&str>| {
            let open = Open { session: session.map(Into::into), auth: auth.map(Into::into), ..Open::default() };
            Ok(Request::Command(Command::Open(Box::new(open))))
        };
        assert_eq!(first(&client::hello(None, None)), open(None, None));
        assert_eq!(first(&client::hello(Some("00ff"), None)), open(Some("00ff"), None));
        assert_eq!(first(&client::hello(Some("00ff"), Some("a \"b\"\n"))), open(Some("00ff"), Some("a \"b\"\n")));
        assert_eq!(first(r#" {"auth":"\u0061","later":[1],"type":"h\u0065llo"} "#), open(None, Some("a")));
    }

    #[test]
    fn nothing_is_heard_before_the_hello() {
        for text in [
            client::PING,
            r#"{"type":"pong"}"#,
            &client::subscribe(Some(1), "t", None),
            &client::publish(None, "t", "1", "2", "3"),
            "{}",
            "[]",
            "0",
            r#"{"type":"hullo"}"#,
            r#"{"type":["hello"]}"#,
        ] {
            assert_eq!(not_opened(text), ErrorCode::BadOpen, "{text}");
        }
        assert_eq!(not_opened(""), ErrorCode::BadJson);
        assert_eq!(not_opened("{\"type\":\"hello\""), ErrorCode::BadJson);
    }

    #[test]
    fn a_hello_comes_once() {
        let error = decoded(&client::hello(None, None)).unwrap_err();
        assert_eq!((error.code, error.is_fatal()), (ErrorCode::BadOpen, true));
    }

    #[test]
    fn a_malformed_hello_closes() {
        for text in [
            r#"{"type":"hello","session":1}"#,
            r#"{"type":"hello","auth":{"a":1}}"#,
            r#"{"type":"hello","auth":"\ud800"}"#,
        ] {
            assert_eq!(not_opened(text), ErrorCode::BadOpen, "{text}");
        }
        assert_eq!(not_opened(r#"{"type":"hello","auth":"a","auth":"b"}"#), ErrorCode::DuplicateKey);
    }
}

mod requests {
    use super::*;

    #[test]
    fn a_client_asks_for_presence_with_a_subscribe_or_alone() {
        let watches = |presence: &str| match decoded(&format!(r#"{{"type":"subscribe","topic":"t"{presence}}}"#)) {
            Ok(Command::Subscribe { presence, .. }) => presence,
            other => panic!("{other:?}"),
        };
        assert!(watches(r#","presence":true"#));
        for none in ["", r#","presence":false"#, r#","presence":null"#] {
            assert!(!watches(none), "{none}");
        }
        assert_eq!(
            client::subscribe_with_presence(Some(3), "t", None),
            r#"{"type":"subscribe","id":3,"topic":"t","presence":true}"#
        );
        assert_eq!(client::presence(Some(4), "t"), r#"{"type":"presence","id":4,"topic":"t"}"#);
        assert_eq!(
            decoded(r#"{"type":"presence","id":4,"topic":"t"}"#),
            Ok(Command::Presence { topic: topic("t"), id: Some(4) })
        );
        for (text, code) in [
            (r#"{"type":"subscribe","id":3,"topic":"t","presence":1}"#, ErrorCode::BadRequest),
            (r#"{"type":"subscribe","id":3,"topic":"t","presence":true,"presence":false}"#, ErrorCode::DuplicateKey),
            (r#"{"type":"presence","id":3}"#, ErrorCode::BadTopic),
        ] {
            assert_eq!(refused(text), (code, Some(3)), "{text}");
        }
        assert!(decoded(r#"{"type":"publish","topic":"t","data":1,"presence":1}"#).is_ok(), "unknown there");
    }

    #[test]
    fn a_client_asks_for_history_with_a_place_a_limit_and_an_order() {
        let query = |more: &str| match decoded(&format!(r#"{{"type":"history","id":4,"topic":"t"{more}}}"#)) {
            Ok(Command::History { query, id: Some(4), .. }) => query,
            other => panic!("{other:?}"),
        };
        assert_eq!(query(""), HistoryQuery::latest(100));
        assert_eq!(query(r#","limit":null,"reverse":null,"since":null"#), HistoryQuery::latest(100));
        assert_eq!(query(r#","since":"start","limit":7"#), HistoryQuery::latest(7).since(Since::Start));
        let position = Position { epoch: Epoch::new(0xab), seq: 3 };
        assert_eq!(
            query(r#","since":{"epoch":"00000000000000ab","seq":3},"reverse":true"#),
            HistoryQuery::latest(100).since(position).reversed()
        );
        for (more, code) in [
            (r#","limit":0"#, ErrorCode::BadRequest),
            (r#","limit":-1"#, ErrorCode::BadRequest),
            (r#","limit":1.5"#, ErrorCode::BadRequest),
            (r#","limit":"1""#, ErrorCode::BadRequest),
            (r#","reverse":1"#, ErrorCode::BadRequest),
            (r#","since":7"#, ErrorCode::BadRequest),
            (r#","limit":1,"limit":2"#, ErrorCode::DuplicateKey),
            (r#","topic":"u""#, ErrorCode::DuplicateKey),
        ] {
            assert_eq!(
                refused(&format!(r#"{{"type":"history","id":4,"topic":"t"{more}}}"#)),
                (code, Some(4)),
                "{more}"
            );
        }
        let limit = 1 << 40;
        for query in
            [HistoryQuery::latest(limit).reversed().since(position), HistoryQuery::latest(1).since(Since::Last)]
        {
            let id = Some(9);
            assert_eq!(
                decoded(&client::history(id, "t", query)),
                Ok(Command::History { topic: topic("t"), query, id })
            );
        }
    }

    #[test]
    fn subscribe_and_unsubscribe_name_a_topic() {
        assert_eq!(
            decoded(&client::subscribe(Some(7), "caf\u{e9} \"x\"", None)),
            Ok(Command::Subscribe {
                topic: topic("café \"x\""),
                since: None,
                horizon: None,
                presence: false,
                member: None,
                id: Some(7)
            })
        );
        assert_eq!(
            decoded(r#"{"topic":"\u0074","type":"unsubscribe"}"#),
            Ok(Command::Unsubscribe { topic: topic("t"), id: None })
        );
        for text in [
            r#"{"type":"subscribe","id":3}"#,
            r#"{"type":"subscribe","id":3,"topic":1}"#,
            r#"{"type":"unsubscribe","id":3,"topic":""}"#,
            r#"{"type":"subscribe","id":3,"topic":"\ud800"}"#,
            r#"{"type":"publish","id":3,"topic":"\u0000"}"#,
            r#"{"type":"publish","id":3}"#,
        ] {
            assert_eq!(refused(text), (ErrorCode::BadTopic, Some(3)), "{text}");
        }
    }

    #[test]
    fn a_publication_names_the_client_that_does_not_get_it() {
        let excluded = |text: &str| match decoded(text) {
            Ok(Command::Publish { publication, .. }) => publication.excluded(),
            other => panic!("{other:?}"),
        };
        let publish = |exclude: &str| format!(r#"{{"type":"publish","topic":"t","data":1,"exclude":{exclude}}}"#);
        assert_eq!(excluded(&publish(r#""718281828459045235.17""#)), Some(CLIENT));
        assert_eq!(excluded(&publish("null")), None);
        for other in ["17", r#""17""#, "true", r#""1.02""#, "[]"] {
            assert_eq!(refused(&publish(other)), (ErrorCode::BadPublish, None), "{other}");
        }
    }

    #[test]
    fn null_for_an_optional_key_counts_as_absent() {
        let hello = first(r#"{"type":"hello","session":null,"auth":null}"#);
        assert_eq!(hello, first(r#"{"type":"hello"}"#));
        let subscribe = decoded(r#"{"type":"subscribe","topic":"t","id":null,"since":null}"#);
        assert_eq!(subscribe, decoded(r#"{"type":"subscribe","topic":"t"}"#));
    }

    #[test]
    fn a_publication_without_data_publishes_nothing_and_null_is_data() {
        let text = r#"{"type":"publish","id":3,"topic":"t","payload":1}"#;
        assert_eq!(refused(text), (ErrorCode::BadPublish, Some(3)));
        assert!(decoded(r#"{"type":"publish","topic":"t","data":null}"#).is_ok());
    }

    #[test]
    fn a_position_is_16_digits_and_a_number() {
        let since = Some(Since::Position(Position { epoch: EPOCH, seq: u64::MAX }));
        assert_eq!(
            decoded(&client::subscribe(None, "t", since)),
            Ok(Command::Subscribe { topic: topic("t"), since, horizon: None, presence: false, member: None, id: None })
        );
        for (text, since) in [(r#""start""#, Since::Start), (r#""l\u0061st""#, Since::Last)] {
            let asked = decoded(&format!(r#"{{"type":"subscribe","topic":"t","since":{text}}}"#));
            assert_eq!(asked, Ok(Command::subscribe_since(topic("t"), since)));
            let built = decoded(&client::subscribe(None, "t", Some(since)));
            assert_eq!(built, asked);
        }
        for since in [
            "7",
            r#""beginning""#,
            "{}",
            r#"{"epoch":"9f86d081884c7d65"}"#,
            r#"{"seq":1}"#,
            r#"{"epoch":"9f86d081884c7d6","seq":1}"#,
            r#"{"epoch":"+f86d081884c7d65","seq":1}"#,
            r#"{"epoch":"9f86d081884c7d6g","seq":1}"#,
            r#"{"epoch":1,"seq":1}"#,
            r#"{"epoch":"9f86d081884c7d65","seq":-1}"#,
            r#"{"epoch":"9f86d081884c7d65","seq":1.0}"#,
            r#"{"epoch":"9f86d081884c7d65","seq":"1"}"#,
            r#"{"epoch":"9f86d081884c7d65","seq":18446744073709551616}"#,
        ] {
            let text = format!(r#"{{"type":"subscribe","topic":"t","since":{since},"id":8}}"#);
            assert_eq!(refused(&text), (ErrorCode::BadRequest, Some(8)), "{text}");
        }
        let twice = r#"{"type":"subscribe","id":8,"topic":"t","since":{"epoch":"9f86d081884c7d65","seq":1,"seq":2}}"#;
        assert_eq!(refused(twice), (ErrorCode::DuplicateKey, Some(8)));
    }

    #[test]
    fn a_request_id_is_a_number_within_the_range_of_javascript() {
        let subscribe = |id: &str| format!(r#"{{"type":"subscribe","topic":"t","id":{id}}}"#);
        for id in [0, 1, MAX_REQUEST_ID] {
            let expected = Command::Subscribe {
                topic: topic("t"),
                since: None,
                horizon: None,
                presence: false,
                member: None,
                id: Some(id),
            };
            assert_eq!(decoded(&subscribe(&id.to_string())), Ok(expected));
        }
        for id in ["9007199254740992", "-1", "1.0", "1e3", "\"1\"", "[1]"] {
            assert_eq!(refused(&subscribe(id)), (ErrorCode::BadRequest, None), "{id}");
        }
    }

    #[test]
    fn a_publication_is_carried_byte_for_byte() {
        let command = decoded(
            "{\"data\":{ \"price\" : [1.50, 1e400] },\"message_id\":\"\\u0031\",\"type\":\"publish\",\"event\": -0 ,\"topic\":\"t\",\"id\":2}",
        );
        let Ok(Command::Publish { topic: to, publication, ack: true, id: Some(2) }) = command else {
            panic!("{command:?}")
        };
        assert_eq!(to, topic("t"));
        assert_eq!((publication.event(), publication.message_id()), ("-0", "\"\\u0031\""));
        assert_eq!(publication.data(), "{ \"price\" : [1.50, 1e400] }");
    }

    #[test]
    fn missing_parts_are_empty_and_without_an_id_there_is_no_receipt() {
        let publication = Publication::new(&topic("t"), "\"\"", "\"\"", "null").unwrap();
        assert_eq!(
            decoded(r#"{"type":"publish","topic":"t","data":null}"#),
            Ok(Command::Publish { topic: topic("t"), publication, ack: false, id: None })
        );
    }

    #[test]
    fn publications_of_one_read_equal_publications_read_alone() {
        let mut decoder = opened();
        for (index, more) in [4_000, 300, 0].into_iter().enumerate() {
            let text = client::publish(None, "t", "1", &index.to_string(), "\"x\"");
            assert_eq!(decoder.decode(&text, more, &LIMITS), opened().decode(&text, 0, &LIMITS));
            assert!(decoder.batch.is_some());
        }
        decoder.end_of_read();
        assert!(decoder.batch.is_none());
    }

    #[test]
    fn signs_of_life_are_heard() {
        assert_eq!(opened().decode(client::PING, 0, &LIMITS), Ok(Request::Ping));
        assert_eq!(decoded(r#"{"type":"pong","id":"ignored"}"#), Ok(Command::Pong));
    }

    #[test]
    fn a_refresh_has_the_new_token_as_a_string() {
        let auth = Credentials("a \"token\"".to_owned());
        assert_eq!(
            decoded(&client::refresh(Some(7), &auth.0)),
            Ok(Command::Refresh { auth: auth.clone(), id: Some(7) })
        );
        assert_eq!(decoded(&client::refresh(None, &auth.0)), Ok(Command::Refresh { auth, id: None }));
        for text in [r#"{"type":"refresh","id":5}"#, r#"{"type":"refresh","id":5,"auth":7}"#] {
            assert_eq!(refused(text), (ErrorCode::BadRequest, Some(5)), "{text}");
        }
    }

    #[test]
    fn unknown_requests_are_refused_with_their_number() {
        assert_eq!(refused(r#"{"type":"dance","id":5}"#), (ErrorCode::UnknownAction, Some(5)));
        assert_eq!(refused(r#"{"id":5}"#), (ErrorCode::UnknownAction, Some(5)));
        assert_eq!(refused(r#"{"type":1,"id":{}}"#), (ErrorCode::UnknownAction, None));
        assert_eq!(refused("[1]"), (ErrorCode::UnknownAction, None));
    }

    #[test]
    fn only_duplicates_of_known_keys_are_refused() {
        for key in ["type", "topic", "since", "event", "message_id", "data", "session", "auth"] {
            let text = format!(r#"{{"type":"publish","topic":"t","id":4,"{key}":1,"{key}":1}}"#);
            assert_eq!(refused(&text), (ErrorCode::DuplicateKey, Some(4)), "{key}");
        }
        let text = r#"{"id":4,"type":"publish","topic":"t","id":4,"id":4}"#;
        assert_eq!(refused(text), (ErrorCode::DuplicateKey, None), "which number it has is a guess");
        assert!(decoded(r#"{"type":"publish","topic":"t","data":0,"x":1,"x":2}"#).is_ok());
    }

    #[test]
    fn malformed_json_closes() {
        for text in ["", "{", "{\"type\":}", "{} {}", "nul", "{\"type\":\"ping\",}", "\u{feff}{}"] {
            let error = decoded(text).unwrap_err();
            assert_eq!((error.code, error.is_fatal()), (ErrorCode::BadJson, true), "{text}");
        }
    }
}

mod events {
    use super::*;

    #[track_caller]
    fn encoded(event: ServerEvent<'_>, expected: &str) -> ServerFrame<'static> {
        let mut out = BytesMut::from(&b"before"[..]);
        encode(&event, &mut out);
        let text = str::from_utf8(&out).unwrap().strip_prefix("before").unwrap();
        assert_eq!(text, expected);
        serde_json::from_str::<serde_json::Value>(text).unwrap();
        ServerFrame::parse(Box::leak(text.to_owned().into_boxed_str()))
    }

    #[test]
    fn a_message_carries_the_publishers_text_and_milliseconds() {
        let publication = Publication::new(&topic("a\"b"), "\"greeting\"", "\"1\"", "{ \"price\":1.50}").unwrap();
        let topic = topic("a\"b");
        let message = NumberedMessage {
            topic: &topic,
            topic_json: publication.topic_json(),
            position: Position { epoch: EPOCH, seq: 42 },
            horizon: None,
            timestamp: Timestamp { mega: 1_258, sec: 870_812, micro: 907_999 },
            event: publication.event(),
            message_id: publication.message_id(),
            data: publication.data(),
            base64: publication.base64(),
        };
        let frame = encoded(
            ServerEvent::Message(message),
            r#"{"type":"message","topic":"a\"b","seq":42,"time":1258870812907,"event":"greeting","message_id":"1","data":{ "price":1.50}}"#,
        );
        assert_eq!(
            frame,
            ServerFrame::Message {
                base64: None,
                topic: "a\"b".into(),
                seq: 42,
                time: Duration::from_millis(1_258_870_812_907),
                event: "\"greeting\"",
                message_id: "\"1\"",
                data: "{ \"price\":1.50}"
            }
        );
    }

    #[test]
    fn a_welcome_has_the_session_and_the_limits() {
        let session = "0f9c2a7be1d34856a1b2c3d4e5f60718";
        let heartbeat = Duration::from_secs(30);
        assert_eq!(
            encoded(
                ServerEvent::Opened {
                    id: None,
                    client: CLIENT,
                    session,
                    resumed: false,
                    limits: &LIMITS,
                    heartbeat,
                    expires: None
                },
                r#"{"type":"welcome","session":"0f9c2a7be1d34856a1b2c3d4e5f60718","client":"718281828459045235.17","resumed":false,"limits":{"max_frame_bytes":65536,"max_topic_bytes":255,"max_topics":128},"heartbeat_ms":30000}"#,
            ),
            ServerFrame::Welcome {
                session: session.into(),
                client: Some(CLIENT),
                resumed: false,
                limits: LIMITS,
                heartbeat,
                expires: None
            }
        );
    }

    #[test]
    fn the_end_of_an_identity_is_told_in_milliseconds() {
        let expires = Some(Duration::from_millis(90_500));
        let mut out = BytesMut::new();
        let heartbeat = Duration::from_secs(30);
        encode(
            &ServerEvent::Opened {
                id: None,
                client: CLIENT,
                session: "00",
                resumed: true,
                limits: &LIMITS,
                heartbeat,
                expires,
            },
            &mut out,
        );
        let welcome = ServerFrame::parse(str::from_utf8(&out).unwrap());
        assert!(matches!(welcome, ServerFrame::Welcome { expires: told, .. } if told == expires), "{welcome:?}");
        assert_eq!(
            encoded(
                ServerEvent::Refreshed { id: Some(7), expires },
                r#"{"type":"refreshed","id":7,"expires_ms":90500}"#
            ),
            ServerFrame::Refreshed { id: Some(7), expires }
        );
        assert_eq!(
            encoded(ServerEvent::Refreshed { id: None, expires: None }, r#"{"type":"refreshed"}"#),
            ServerFrame::Refreshed { id: None, expires: None }
        );
    }

    #[test]
    fn an_assigned_topic_is_subscribed_without_a_number() {
        let (topic, position) = (&topic("inbox"), Position { epoch: EPOCH, seq: 41 });
        assert_eq!(
            encoded(
                ServerEvent::Assigned { topic, position },
                r#"{"type":"subscribed","topic":"inbox","epoch":"9f86d081884c7d65","seq":41,"resumed":false}"#,
            ),
            ServerFrame::Subscribed { id: None, topic: "inbox".into(), position, missed: None }
        );
    }

    #[test]
    fn a_subscribed_tells_whether_the_topic_resumes() {
        let topic = &topic("news");
        let position = Position { epoch: EPOCH, seq: 41 };
        let subscribed = |id, since, missed| ServerEvent::Subscribed {
            id,
            topic,
            position,
            last: None,
            horizon: None,
            since,
            missed,
            repeated: 0,
        };
        assert_eq!(
            encoded(
                subscribed(Some(1), None, None),
                r#"{"type":"subscribed","id":1,"topic":"news","epoch":"9f86d081884c7d65","seq":41,"resumed":false}"#,
            ),
            ServerFrame::Subscribed { id: Some(1), topic: "news".into(), position, missed: None }
        );
        assert_eq!(
            encoded(
                subscribed(None, Some(position.into()), Some(0)),
                r#"{"type":"subscribed","topic":"news","epoch":"9f86d081884c7d65","seq":41,"resumed":true,"missed":0}"#,
            ),
            ServerFrame::Subscribed { id: None, topic: "news".into(), position, missed: Some(0) }
        );
    }

    #[test]
    fn answers_name_the_request_and_the_topic() {
        let topic = &topic("news");
        assert_eq!(
            encoded(
                ServerEvent::Unsubscribed { id: Some(2), topic },
                r#"{"type":"unsubscribed","id":2,"topic":"news"}"#
            ),
            ServerFrame::Unsubscribed { id: Some(2), topic: "news".into() }
        );
        let nowhere = Position { epoch: Epoch::NONE, seq: 0 };
        assert_eq!(
            encoded(
                ServerEvent::Published { id: Some(2), topic, position: nowhere, subscribers: 0, again: false },
                r#"{"type":"published","id":2,"topic":"news","epoch":"0000000000000000","seq":0,"subscribers":0}"#,
            ),
            ServerFrame::Published {
                id: Some(2),
                topic: "news".into(),
                position: nowhere,
                subscribers: 0,
                again: false
            }
        );
        assert_eq!(
            encoded(
                ServerEvent::Gap { topic, epoch: Epoch::new(1), from: 43, to: 50 },
                r#"{"type":"gap","topic":"news","epoch":"0000000000000001","from":43,"to":50}"#,
            ),
            ServerFrame::Gap { topic: "news".into(), epoch: Epoch::new(1), from: 43, to: 50 }
        );
        let frame = encoded(
            ServerEvent::AlreadySubscribed { id: Some(9), topic },
            r#"{"type":"error","id":9,"topic":"news","code":4415,"error":"already_subscribed","message":"already subscribed to this topic; nothing has changed"}"#,
        );
        assert!(matches!(frame, ServerFrame::Error { id: Some(9), topic: Some(_), code: 4415, .. }), "{frame:?}");
    }

    #[test]
    fn an_error_has_the_known_id_and_topic() {
        let code = ErrorCode::BadRequest;
        assert_eq!(
            encoded(
                ServerEvent::Error { id: None, topic: None, code, message: "\"no\"" },
                r#"{"type":"error","code":4416,"error":"bad_request","message":"\"no\""}"#,
            ),
            ServerFrame::Error {
                id: None,
                topic: None,
                code: 4416,
                error: "bad_request".into(),
                message: "\"no\"".into()
            }
        );
    }

    #[test]
    fn a_bye_says_when_to_come_back_if_at_all() {
        let refusal = |reconnect_after| Refusal {
            id: Some(1),
            code: ErrorCode::ServerDraining,
            message: "so long",
            reconnect_after,
            status: None,
        };
        let bye = |reconnect_after| ServerFrame::Bye {
            code: 4002,
            error: "server_draining".into(),
            message: "so long".into(),
            reconnect_after,
        };
        let after = Some(Duration::from_millis(1_234));
        assert_eq!(
            encoded(
                ServerEvent::Bye(refusal(after)),
                r#"{"type":"bye","code":4002,"error":"server_draining","message":"so long","reconnect_after_ms":1234}"#,
            ),
            bye(after)
        );
        assert_eq!(
            encoded(
                ServerEvent::Refused(refusal(None)),
                r#"{"type":"bye","code":4002,"error":"server_draining","message":"so long"}"#
            ),
            bye(None)
        );
    }

    #[test]
    fn events_unknown_to_the_protocol_are_not_sent() {
        encoded_nothing(ServerEvent::Attached { topics: &[], session: "" });
    }

    #[track_caller]
    fn encoded_nothing(event: ServerEvent<'_>) {
        let mut out = BytesMut::new();
        encode(&event, &mut out);
        assert!(out.is_empty());
    }

    #[test]
    fn presence_is_a_count_and_perhaps_a_list() {
        let (topic, members) = (topic("t"), [crate::wire::Member::new("a", Some("[1.0]"))]);
        let (topic, some) = (&topic, Some(&members[..]));
        let of = |event: ServerEvent<'_>| {
            let mut out = BytesMut::new();
            encode(&event, &mut out);
            String::from_utf8(out.to_vec()).unwrap()
        };
        let list = r#""members":[{"user":"a","info":[1.0]}]}"#;
        let (all, joined, left) = (PresenceChange::All, PresenceChange::Joined, PresenceChange::Left);
        for (event, expected, id, change, members) in [
            (
                ServerEvent::Presence { id: Some(1), topic, count: 2, members: some },
                format!(r#"{{"type":"presence","id":1,"topic":"t","count":2,{list}"#),
                Some(1),
                all,
                some,
            ),
            (
                ServerEvent::Presence { id: None, topic, count: 2, members: None },
                r#"{"type":"presence","topic":"t","count":2}"#.to_owned(),
                None,
                all,
                None,
            ),
            (
                ServerEvent::Joined { topic, count: 2, members: &members },
                format!(r#"{{"type":"joined","topic":"t","count":2,{list}"#),
                None,
                joined,
                some,
            ),
            (
                ServerEvent::Left { topic, count: 2, members: &[] },
                r#"{"type":"left","topic":"t","count":2,"members":[]}"#.to_owned(),
                None,
                left,
                Some(&[][..]),
            ),
        ] {
            let text = of(event);
            assert_eq!(text, expected);
            let members = members.map(<[_]>::to_vec);
            let read = ServerFrame::Presence { id, topic: "t".into(), change, count: 2, members };
            assert_eq!(ServerFrame::parse(&text), read);
        }
        for text in [r#"{"type":"joined","topic":"t","count":2}"#, r#"{"type":"left","topic":"t","members":[]}"#] {
            assert_eq!(ServerFrame::parse(text), ServerFrame::Unknown(text));
        }
    }

    #[test]
    fn a_history_has_its_messages_with_the_publishers_text() {
        let (topic, publication) = (topic("t"), topic("t"));
        let message = |seq, data| NumberedMessage {
            topic: &publication,
            topic_json: "\"t\"",
            position: Position { epoch: EPOCH, seq },
            horizon: None,
            timestamp: Timestamp::from_unix(Duration::from_millis(5)),
            event: "\"e\"",
            message_id: "1.0",
            data,
            base64: None,
        };
        let bytes = NumberedMessage { base64: Some(Base64::new("AP8=").unwrap()), ..message(8, "null") };
        let event = ServerEvent::History {
            id: Some(3),
            topic: &topic,
            position: Position { epoch: EPOCH, seq: 8 },
            top: 9,
            complete: true,
            more: true,
            messages: &[message(7, "[1.50]"), bytes],
        };
        let mut out = BytesMut::new();
        encode(&event, &mut out);
        let text = String::from_utf8(out.to_vec()).unwrap();
        let expected = concat!(
            r#"{"type":"history","id":3,"topic":"t","epoch":"EPOCH","seq":8,"complete":true,"more":true,"top":9,"#,
            r#""messages":[{"seq":7,"time":5,"event":"e","message_id":1.0,"data":[1.50]},"#,
            r#"{"seq":8,"time":5,"event":"e","message_id":1.0,"data_base64":"AP8="}]}"#,
        );
        assert_eq!(text, expected.replace("EPOCH", &EPOCH.to_string()));
        let ServerFrame::History { id, position, complete, more, top, messages, .. } = ServerFrame::parse(&text) else {
            panic!("{text}")
        };
        assert_eq!((id, position.seq, complete, more, top), (Some(3), 8, true, true, 9));
        let messages = client::kept_messages(messages).unwrap();
        assert_eq!((messages[0].data, messages[1].base64.map(Base64::as_str)), ("[1.50]", Some("AP8=")));
        // In binary, bytes are bytes, and nothing of the publisher's is encoded anew.
        let mut binary = BytesMut::new();
        crate::wire::cbor::encode(&event, &mut binary);
        assert!(binary.windows(2).any(|window| window == b"\x00\xff"), "{binary:02x?}");
        assert_eq!(crate::wire::cbor::client::json(&binary).unwrap(), text);
    }

    #[test]
    fn a_client_returns_unknown_frames_unchanged() {
        for text in ["", "{}", "[1]", r#"{"type":"news"}"#, r#"{"type":"gap","topic":"t"}"#, r#"{"type":"welcome"}"#] {
            assert_eq!(ServerFrame::parse(text), ServerFrame::Unknown(text));
        }
        assert_eq!(ServerFrame::parse(PONG), ServerFrame::Pong);
    }

    #[test]
    fn the_conversation_in_the_document_is_spoken() {
        let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/PROTOCOL.md")).unwrap();
        let conversation = document.split("```").nth(1).unwrap();
        let (mut sent, mut read) = (0, 0);
        let mut decoder = RequestDecoder::new();
        for line in conversation.lines().filter(|line| !line.contains("{…}") && !line.contains('…')) {
            if let Some(text) = line.strip_prefix("client  ") {
                if text.contains("\"hello\"") {
                    decoder = RequestDecoder::new();
                }
                decoder.decode(text, 0, &LIMITS).unwrap();
                sent += 1;
            } else if let Some(text) = line.strip_prefix("server  ") {
                assert!(!matches!(ServerFrame::parse(text), ServerFrame::Unknown(_)), "{text}");
                read += 1;
            }
        }
        assert!(sent >= 5 && read >= 5, "{sent} and {read} frames");
    }
}

proptest! {
    #[test]
    fn the_server_reads_requests_as_built_by_a_client(
        name in "\\PC{1,40}",
        id in proptest::option::of(0..=MAX_REQUEST_ID),
        since in proptest::option::of((any::<u64>(), any::<u64>())),
        session in proptest::option::of(".*"),
        auth in proptest::option::of(".*"),
        data in ".*",
    ) {
        let open = Open { session: session.clone(), auth: auth.clone(), ..Open::default() };
        prop_assert_eq!(
            first(&client::hello(session.as_deref(), auth.as_deref())),
            Ok(Request::Command(Command::Open(Box::new(open))))
        );
        let Ok(topic) = TopicName::new(&name, LIMITS.max_topic_bytes) else { return Ok(()) };
        let since = since.map(|(epoch, seq)| Since::Position(Position { epoch: Epoch::new(epoch), seq }));
        prop_assert_eq!(
            decoded(&client::subscribe(id, &name, since)),
            Ok(Command::Subscribe { topic: topic.clone(), since, horizon: None, presence: false, member: None, id })
        );
        prop_assert_eq!(
            decoded(&client::unsubscribe(id, &name)),
            Ok(Command::Unsubscribe { topic: topic.clone(), id })
        );
        prop_assert_eq!(
            decoded(&client::subscribe_with_presence(id, &name, since)),
            Ok(Command::Subscribe { topic: topic.clone(), since, horizon: None, presence: true, member: None, id })
        );
        prop_assert_eq!(decoded(&client::presence(id, &name)), Ok(Command::Presence { topic: topic.clone(), id }));
        let data = serde_json::Value::from(data).to_string();
        let publication = Publication::new(&topic, "1", "null", &data).unwrap();
        prop_assert_eq!(
            decoded(&client::publish(id, &name, "1", "null", &data)),
            Ok(Command::Publish { topic, publication, ack: id.is_some(), id })
        );
    }

    #[test]
    fn no_text_makes_either_side_panic(text in "\\PC*") {
        let _ = (first(&text), opened().decode(&text, 0, &LIMITS), ServerFrame::parse(&text));
    }
}
