//! What clients are told, frame by frame.

use janus_core::ClientId;
use janus_core::wire::websocket::{Endpoint, MessageDecoder as _};
use janus_core::wire::{Base64, Codec as _, Command, Epoch, Limits, Since};

use super::*;
use crate::request_id::request_id;

const EPOCH: Epoch = Epoch::new(0xab);
const LIMITS: Limits = Limits { max_frame_bytes: 65_536, max_topic_bytes: 255, max_topics: 128 };

fn topic(name: &str) -> TopicName {
    LIMITS.topic(name).unwrap()
}

fn said(event: ServerEvent<'_>) -> String {
    let mut out = BytesMut::new();
    encode(&event, &mut out);
    let text = String::from_utf8(out.to_vec()).unwrap();
    for line in text.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
    text
}

fn id(kind: Kind) -> RequestId {
    request_id(kind, 7)
}

fn position(seq: u64) -> Position {
    Position { epoch: EPOCH, seq }
}

fn message<'a>(topic: &'a TopicName, seq: u64, data: &'a str) -> NumberedMessage<'a> {
    NumberedMessage {
        topic,
        topic_json: "\"a\"",
        position: position(seq),
        horizon: None,
        timestamp: Timestamp::from_unix(Duration::ZERO),
        event: "\"\"",
        message_id: "\"\"",
        data,
        base64: None,
    }
}

#[test]
fn a_connect_is_answered_with_the_client_and_the_pings() {
    let event = |expires| ServerEvent::Opened {
        id: id(Kind::Connect),
        client: ClientId::new(3, 7),
        session: "secret",
        resumed: false,
        limits: &LIMITS,
        heartbeat: Duration::from_millis(29_001),
        expires,
    };
    let version = env!("CARGO_PKG_VERSION");
    let beginning = format!(r#"{{"id":7,"connect":{{"client":"3.7","version":"Janus {version}","ping":30,"pong":true"#);
    assert_eq!(said(event(None)), format!("{beginning}}}}}"));
    let expires = said(event(Some(Duration::from_secs(60))));
    assert_eq!(expires, format!(r#"{beginning},"expires":true,"ttl":60}}}}"#));
}

#[test]
fn a_subscription_tells_its_position_and_whether_it_recovers() {
    let a = topic("a");
    let event = |kind, since: Option<u64>, missed| ServerEvent::Subscribed {
        id: kind,
        topic: &a,
        position: position(5),
        last: None,
        horizon: None,
        since: since.map(|seq| Since::Position(position(seq))),
        missed,
        repeated: 0,
    };
    let at = r#""recoverable":true,"positioned":true,"epoch":"00000000000000ab","offset":5"#;
    let subscribe = id(Kind::Subscribe);
    assert_eq!(said(event(subscribe, None, None)), format!(r#"{{"id":7,"subscribe":{{{at}}}}}"#));
    let recovered = format!(r#"{at},"was_recovering":true,"recovered":true"#);
    assert_eq!(said(event(subscribe, Some(5), Some(2))), format!(r#"{{"id":7,"subscribe":{{{recovered}}}}}"#));
    let lost = format!(r#"{at},"was_recovering":true"#);
    assert_eq!(said(event(subscribe, Some(1), None)), format!(r#"{{"id":7,"subscribe":{{{lost}}}}}"#));
    let of_server = format!(r#"{{"push":{{"channel":"a","subscribe":{{{recovered}}}}}}}"#);
    assert_eq!(said(event(None, Some(5), Some(2))), of_server);
    let or_fail = said(event(id(Kind::SubscribeOrFail), Some(1), None));
    assert_eq!(or_fail, r#"{"id":7,"error":{"code":112,"message":"unrecoverable position"}}"#);
    let assigned = said(ServerEvent::Assigned { topic: &a, position: position(5) });
    assert_eq!(assigned, format!(r#"{{"push":{{"channel":"a","subscribe":{{{at}}}}}}}"#));
}

#[test]
fn a_publication_has_its_offset_and_the_text_of_its_publisher() {
    let a = topic("a");
    let told = |message| said(ServerEvent::Message(message));
    assert_eq!(told(message(&a, 7, "[1.50]")), r#"{"push":{"channel":"a","pub":{"offset":7,"data":[1.50]}}}"#);
    let event = told(NumberedMessage { event: "\"quote\"", ..message(&a, 7, "1") });
    assert_eq!(event, r#"{"push":{"channel":"a","pub":{"offset":7,"data":1,"tags":{"event":"quote"}}}}"#);
    let number = told(NumberedMessage { event: "[1]", ..message(&a, 7, "1") });
    assert!(number.contains(r#""tags":{"event":"[1]"}"#), "{number}");
    let bytes = told(NumberedMessage { base64: Some(Base64::new("AP8=").unwrap()), ..message(&a, 7, "null") });
    assert_eq!(bytes, r#"{"push":{"channel":"a","pub":{"offset":7,"data":"AP8=","tags":{"encoding":"base64"}}}}"#);
}

#[test]
fn a_client_that_misses_messages_is_closed_and_comes_back() {
    let codec = Centrifuge::websocket();
    assert!(!codec.tells_gaps() && !codec.conflates());
    for code in [ErrorCode::SlowConsumer, ErrorCode::TopicUnavailable] {
        assert!(Codes::of(code).reconnects(), "{code}");
    }
}

#[test]
fn a_line_break_of_a_publisher_does_not_end_a_message() {
    let a = topic("a");
    let event = |data, event| ServerEvent::Message(NumberedMessage { event, ..message(&a, 7, data) });
    let publication = said(event("{\n\"a\":\r\n1}", "[\n1]"));
    assert_eq!(
        publication,
        r#"{"push":{"channel":"a","pub":{"offset":7,"data":{ "a":  1},"tags":{"event":"[\n1]"}}}}"#
    );
    let members = [Member::new("bob", Some("{\n\"n\":1}"))];
    let joined = said(ServerEvent::Joined { topic: &a, count: 1, members: &members });
    assert!(joined.contains(r#""conn_info":{ "n":1}"#), "{joined}");
    let messages = [message(&a, 4, "[\n1]")];
    let (id, position) = (id(Kind::History), position(4));
    let history =
        ServerEvent::History { id, topic: &a, position, top: 4, complete: true, more: false, messages: &messages };
    let history = said(history);
    assert!(history.contains(r#""data":[ 1]"#), "{history}");
}

#[test]
fn members_are_listed_counted_and_told_one_by_one() {
    let (a, members) = (topic("a"), [Member::new("al\"ice", Some("{\"n\":1}")), Member::new("bob", None)]);
    let presence = |id| said(ServerEvent::Presence { id, topic: &a, count: 3, members: Some(&members) });
    let (alice, bob) =
        (r#"{"user":"al\"ice","client":"al\"ice","conn_info":{"n":1}}"#, r#"{"user":"bob","client":"bob"}"#);
    let list = format!(r#"{{"id":7,"presence":{{"presence":{{"al\"ice":{alice},"bob":{bob}}}}}}}"#);
    assert_eq!(presence(id(Kind::Presence)), list);
    assert_eq!(presence(id(Kind::PresenceStats)), r#"{"id":7,"presence_stats":{"num_clients":3,"num_users":2}}"#);
    assert_eq!(presence(None), "", "a client asks for the list by itself");
    let joined = said(ServerEvent::Joined { topic: &a, count: 3, members: &members });
    let line = |kind: &str, info: &str| format!(r#"{{"push":{{"channel":"a","{kind}":{{"info":{info}}}}}}}"#);
    assert_eq!(joined, format!("{}\n{}", line("join", alice), line("join", bob)));
    let left = said(ServerEvent::Left { topic: &a, count: 2, members: &members[1..] });
    assert_eq!(left, line("leave", bob));
}

#[test]
fn a_history_has_the_top_of_the_stream_or_is_refused() {
    let a = topic("a");
    let messages = [message(&a, 4, "1"), message(&a, 5, "2")];
    let history = |complete| {
        let (id, position, top) = (id(Kind::History), position(5), 9);
        said(ServerEvent::History { id, topic: &a, position, top, complete, more: true, messages: &messages })
    };
    assert_eq!(
        history(true),
        r#"{"id":7,"history":{"epoch":"00000000000000ab","offset":9,"publications":[{"offset":4,"data":1},{"offset":5,"data":2}]}}"#
    );
    assert_eq!(history(false), r#"{"id":7,"error":{"code":112,"message":"unrecoverable position"}}"#);
}

#[test]
fn errors_are_replies_and_without_a_number_the_end_of_a_subscription() {
    let a = topic("a");
    let error = |id, topic, code| said(ServerEvent::Error { id, topic, code, message: "why" });
    let forbidden = error(id(Kind::Subscribe), Some(&a), ErrorCode::Forbidden);
    assert_eq!(forbidden, r#"{"id":7,"error":{"code":103,"message":"why"}}"#);
    let crashed = error(id(Kind::Publish), Some(&a), ErrorCode::TopicCrashed);
    assert_eq!(crashed, r#"{"id":7,"error":{"code":100,"message":"why","temporary":true}}"#);
    let withdrawn = error(None, Some(&a), ErrorCode::Forbidden);
    assert_eq!(withdrawn, r#"{"push":{"channel":"a","unsubscribe":{"code":2000,"reason":"why"}}}"#);
    for code in [ErrorCode::BadTopic, ErrorCode::TooManyTopics] {
        assert!(error(None, Some(&a), code).contains("unsubscribe"), "{code}");
    }
    for code in [ErrorCode::TopicCrashed, ErrorCode::AuthorizationFailed, ErrorCode::RateLimited] {
        let again = r#"{"push":{"disconnect":{"code":3004,"reason":"internal server error"}}}"#;
        assert_eq!(error(None, Some(&a), code), again, "{code}");
    }
    assert_eq!(error(None, None, ErrorCode::Forbidden), "");
    let already = said(ServerEvent::AlreadySubscribed { id: id(Kind::Subscribe), topic: &a });
    assert_eq!(already, r#"{"id":7,"error":{"code":105,"message":"already subscribed"}}"#);
}

#[test]
fn a_refused_subscribe_with_a_token_says_that_the_token_has_no_meaning() {
    let a = topic("a");
    let error = |kind, code| said(ServerEvent::Error { id: id(kind), topic: Some(&a), code, message: "why" });
    let refused = error(Kind::SubscribeWithToken, ErrorCode::Forbidden);
    assert!(
        refused.starts_with(r#"{"id":7,"error":{"code":103,"message":"why; the token of a subscription"#),
        "{refused}"
    );
    assert!(!error(Kind::SubscribeWithToken, ErrorCode::RateLimited).contains("token"));
    assert!(!error(Kind::Subscribe, ErrorCode::Forbidden).contains("token"));
}

/// The handshake succeeds, or a browser would tell its program no reason.
#[test]
fn a_client_of_the_protobuf_protocol_is_turned_away_for_good() {
    let upgrade = |offers: &str| {
        let headers = [
            ("host", "localhost"),
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", offers),
        ];
        let headers = headers.map(|(name, value)| (name, value.as_bytes()));
        Endpoint::new(Centrifuge::websocket()).upgrade(HttpRequest::new("GET", "/", headers)).unwrap()
    };
    let first = |offers: &str| {
        let (answer, mut decoder) = (upgrade(offers), Centrifuge.decoder(Some(&request(offers))));
        let named = answer.headers.into_iter().find(|(name, _)| *name == "Sec-WebSocket-Protocol");
        (named.map(|(_, value)| value), decoder.begin())
    };
    let (named, begin) = first("centrifuge-protobuf");
    assert_eq!(named.as_deref(), Some("centrifuge-protobuf"));
    let Some(Command::Close(bytes)) = begin else { panic!("{begin:?}") };
    assert_eq!(u16::from_be_bytes([bytes[2], bytes[3]]), 3501);
    assert_eq!(&bytes[4..], b"only the JSON protocol is served: send text messages");
    for offers in ["centrifuge-json", "centrifuge-json, centrifuge-protobuf", ""] {
        let (named, begin) = first(offers);
        assert_eq!((named.as_deref(), begin), ((!offers.is_empty()).then_some("centrifuge-json"), None), "{offers}");
    }
}

/// The head of a request with these subprotocols.
fn request(offers: &str) -> HttpRequest {
    HttpRequest::new("GET", "/", [("sec-websocket-protocol", offers.as_bytes())])
}

#[test]
fn other_replies_are_empty() {
    let a = topic("a");
    let unsubscribed = said(ServerEvent::Unsubscribed { id: id(Kind::Unsubscribe), topic: &a });
    assert_eq!(unsubscribed, r#"{"id":7,"unsubscribe":{}}"#);
    let position = position(1);
    let published = ServerEvent::Published { id: id(Kind::Publish), topic: &a, position, subscribers: 1, again: false };
    assert_eq!(said(published), r#"{"id":7,"publish":{}}"#);
    let refreshed = |expires| said(ServerEvent::Refreshed { id: id(Kind::Refresh), expires });
    assert_eq!(refreshed(None), r#"{"id":7,"refresh":{}}"#);
    assert_eq!(refreshed(Some(Duration::from_millis(1))), r#"{"id":7,"refresh":{"expires":true,"ttl":1}}"#);
}

#[test]
fn an_expired_token_is_an_error_before_the_close() {
    let refusal = |code| Refusal { id: id(Kind::Connect), code, message: "", reconnect_after: None, status: None };
    let expired = said(ServerEvent::Refused(refusal(ErrorCode::TokenExpired)));
    assert_eq!(expired, r#"{"id":7,"error":{"code":109,"message":"token expired"}}"#);
    assert_eq!(said(ServerEvent::Refused(refusal(ErrorCode::Unauthorized))), "");
    let close = Centrifuge.close(&refusal(ErrorCode::SlowConsumer));
    assert_eq!((close.code, &*close.reason), (3008, "slow"));
}

#[test]
fn the_codec_has_its_own_ping() {
    let codec = Centrifuge::websocket();
    assert_eq!(codec.name(), "centrifuge");
    assert!(matches!(codec.heartbeat(), janus_core::wire::Heartbeat::Regularly(beat) if &beat[2..] == b"{}"));
    assert_eq!(codec.answers(), Answers::Always);
}
