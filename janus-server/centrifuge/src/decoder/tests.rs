//! The commands of clients, each with its meaning; and input that no client sends.

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { max_frame_bytes: 65_536, max_topic_bytes: 255, max_topics: 128 };

fn topic(name: &str) -> TopicName {
    LIMITS.topic(name).unwrap()
}

/// All commands in a message.
fn all(decoder: &mut CentrifugeDecoder, text: &str) -> Vec<Result<Command, FrameError>> {
    let mut message = ClientMessage::Text(text);
    let mut commands = Vec::new();
    loop {
        let before = message.bytes().len();
        let mut reading = Reading { limits: &LIMITS, more: 0, scratch: &mut () };
        let Some(command) = decoder.decode(&mut message, &mut reading) else { return commands };
        let (is_fatal, left) = (command.as_ref().is_err_and(FrameError::is_fatal), message.bytes().len());
        commands.push(command);
        // As the framing does it.
        if is_fatal || left == 0 || left == before {
            return commands;
        }
    }
}

fn connected() -> CentrifugeDecoder {
    let mut decoder = CentrifugeDecoder::default();
    all(&mut decoder, r#"{"id":1,"connect":{}}"#);
    decoder
}

#[track_caller]
fn one(text: &str) -> Command {
    let mut commands = all(&mut connected(), text);
    assert_eq!(commands.len(), 1, "{commands:?}");
    commands.remove(0).unwrap()
}

#[track_caller]
fn refused(text: &str) -> (ErrorCode, bool, RequestId) {
    let mut commands = all(&mut connected(), text);
    let error = commands.remove(0).unwrap_err();
    (error.code, error.is_fatal(), error.id)
}

fn answer(text: &str) -> String {
    match one(text) {
        Command::Answer(bytes) => String::from_utf8_lossy(&bytes[2..]).into_owned(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_connection_begins_with_connect() {
    let mut decoder = CentrifugeDecoder::default();
    let commands = all(&mut decoder, r#"{"id":1,"connect":{"token":"a.b.c","name":"js","data":{"x":[1]}}}"#);
    let [Ok(Command::Open(open))] = &commands[..] else { panic!("{commands:?}") };
    assert_eq!((open.auth.as_deref(), open.id), (Some("a.b.c"), request_id(Kind::Connect, 1)));
    for text in ["{}", r#"{"id":1,"subscribe":{"channel":"a"}}"#, r#"{"id":1}"#] {
        let error = all(&mut CentrifugeDecoder::default(), text).remove(0).unwrap_err();
        assert_eq!((error.code, error.is_fatal()), (ErrorCode::BadOpen, true), "{text}");
    }
    assert!(refused(r#"{"id":2,"connect":{}}"#).1, "once");
    let error = all(&mut CentrifugeDecoder::default(), r#"{"connect":{}}"#).remove(0).unwrap_err();
    assert!(error.is_fatal(), "without a number");
}

#[test]
fn an_empty_token_is_no_token() {
    let commands = all(&mut CentrifugeDecoder::default(), r#"{"id":1,"connect":{"token":""}}"#);
    assert!(matches!(&commands[..], [Ok(Command::Open(open))] if open.auth.is_none()), "{commands:?}");
}

#[test]
fn subscriptions_of_the_server_are_recovered_after_the_connect() {
    let text = r#"{"id":1,"connect":{"subs":{"é":{"recover":true,"epoch":"00000000000000ab","offset":7},"b":{"recover":false},"c":{"recover":true}}}} {"id":2,"ping":{}}"#;
    let commands = all(&mut CentrifugeDecoder::default(), text);
    let since = |command: &Result<Command, FrameError>| match command {
        Ok(Command::Subscribe { topic, since: Some(Since::Position(since)), id: None, .. }) => {
            (topic.as_str().to_owned(), since.epoch, since.seq)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(commands.len(), 4, "{commands:?}");
    assert_eq!(since(&commands[1]), ("c".to_owned(), Epoch::NONE, 0));
    assert_eq!(since(&commands[2]), ("é".to_owned(), Epoch::new(0xab), 7));
    assert!(matches!(commands[3], Ok(Command::Answer(_))), "the next command is not lost");
}

#[test]
fn a_subscribe_names_its_position() {
    let subscribe = |more: &str| match one(&format!(r#"{{"id":7,"subscribe":{{"channel":"a"{more}}}}}"#)) {
        Command::Subscribe { topic, since, presence, id, .. } => (topic.as_str().to_owned(), since, presence, id),
        other => panic!("{other:?}"),
    };
    let id = request_id(Kind::Subscribe, 7);
    assert_eq!(subscribe(""), ("a".to_owned(), None, false, id));
    assert_eq!(subscribe(r#","join_leave":true,"flag":1"#), ("a".to_owned(), None, true, id));
    let since = Some(Since::Position(Position { epoch: Epoch::new(0xab), seq: 9 }));
    let recover = r#","recover":true,"epoch":"00000000000000ab","offset":9"#;
    assert_eq!(subscribe(recover), ("a".to_owned(), since, false, id));
    let nowhere = Some(Since::Position(Position { epoch: Epoch::NONE, seq: 0 }));
    assert_eq!(subscribe(r#","recover":true,"epoch":"_""#), ("a".to_owned(), nowhere, false, id));
}

#[test]
fn a_subscribe_behind_a_refused_recovery_begins_anew() {
    let mut decoder = connected();
    let text = r#"{"id":7,"subscribe":{"channel":"a","recover":true,"flag":2}}"#;
    let commands = all(&mut decoder, text);
    assert!(
        matches!(&commands[..], [Ok(Command::Subscribe { id, .. })] if *id == request_id(Kind::SubscribeOrFail, 7))
    );
    let commands = all(&mut decoder, "{\"id\":8,\"subscribe\":{\"channel\":\"a\"}}\n{\"id\":9,\"ping\":{}}");
    let [Ok(Command::Unsubscribe { id: None, .. }), Ok(Command::Subscribe { .. }), Ok(Command::Answer(_))] =
        &commands[..]
    else {
        panic!("{commands:?}")
    };
    assert_eq!(decoder.memory(), 0);
    assert_eq!(all(&mut decoder, r#"{"id":9,"subscribe":{"channel":"a"}}"#).len(), 1);
}

#[test]
fn other_commands_name_a_channel_and_ask_for_a_reply() {
    let (a, of) = (topic("a"), |kind| request_id(kind, 7));
    let ask = |method: &str| one(&format!(r#"{{"id":7,"{method}":{{"channel":"a"}}}}"#));
    assert_eq!(ask("unsubscribe"), Command::Unsubscribe { topic: a.clone(), id: of(Kind::Unsubscribe) });
    assert_eq!(ask("presence"), Command::Presence { topic: a.clone(), id: of(Kind::Presence) });
    assert_eq!(ask("presence_stats"), Command::Presence { topic: a.clone(), id: of(Kind::PresenceStats) });
    let publication = Publication::new(&a, "\"\"", "\"\"", "[1.50]").unwrap();
    let publish = Command::Publish { topic: a, publication, ack: true, id: of(Kind::Publish) };
    assert_eq!(one(r#"{"id":7,"publish":{"channel":"a","data":[1.50]}}"#), publish);
    let refresh = Command::Refresh { auth: Credentials("t".into()), id: of(Kind::Refresh) };
    assert_eq!(one(r#"{"id":7,"refresh":{"token":"t"}}"#), refresh);
}

#[test]
fn a_history_begins_with_its_first_message() {
    let history = |more: &str| match one(&format!(r#"{{"id":7,"history":{{"channel":"a"{more}}}}}"#)) {
        Command::History { query, .. } => query,
        other => panic!("{other:?}"),
    };
    assert_eq!(history(""), HistoryQuery::latest(0).since(Since::Start));
    assert_eq!(history(r#","limit":-1"#), HistoryQuery::latest(usize::MAX).since(Since::Start));
    assert_eq!(history(r#","limit":5,"reverse":true"#), HistoryQuery::latest(5).reversed());
    let since = Position { epoch: Epoch::new(0xab), seq: 3 };
    let more = r#","limit":5,"since":{"offset":3,"epoch":"00000000000000ab"}"#;
    assert_eq!(history(more), HistoryQuery::latest(5).since(since));
}

#[test]
fn what_is_not_available_is_answered() {
    assert!(answer(r#"{"id":7,"rpc":{"method":"x"}}"#).contains(r#"{"id":7,"error":{"code":104,"#));
    assert!(answer(r#"{"id":7,"sub_refresh":{"channel":"a"}}"#).contains(r#""code":108,"#));
    assert!(answer(r#"{"id":7,"subscribe":{"channel":"a","type":1}}"#).contains(r#""code":108,"#));
    assert!(answer(r#"{"id":7,"subscribe":{"channel":"a","tf":{}}}"#).contains(r#""code":108,"#));
    assert!(answer(r#"{"id":7,"dance":{}}"#).contains(r#""code":104,"#));
    assert_eq!(answer(r#"{"id":7,"ping":{}}"#), r#"{"id":7,"ping":{}}"#);
}

#[test]
fn an_empty_command_is_a_pong_and_a_send_is_nothing() {
    assert_eq!(one("{}"), Command::Pong);
    assert_eq!(all(&mut connected(), "{\"send\":{\"data\":1}}\n").len(), 0);
    assert_eq!(one("{\"send\":{\"data\":1}}\n{}\n"), Command::Pong);
}

#[test]
fn a_command_of_the_wrong_form_closes() {
    for text in
        ["[", "{\"id\":", "7", "{\"id\":-1}", "{\"id\":4294967296}", r#"{"id":1,"subscribe":7}"#, "{}]", "\u{0}"]
    {
        let last = all(&mut connected(), text).pop().unwrap();
        let error = last.unwrap_err();
        assert!(error.is_fatal(), "{text}: {error}");
        assert!(error.message.len() < 100, "{error}");
    }
    assert_eq!(
        refused(r#"{"subscribe":{"channel":"a"}}"#),
        (ErrorCode::BadRequest, true, request_id(Kind::Connect, 0))
    );
}

#[test]
fn an_impossible_channel_is_an_error_of_its_command() {
    for (method, kind) in [
        ("subscribe", Kind::Subscribe),
        ("unsubscribe", Kind::Unsubscribe),
        ("publish", Kind::Publish),
        ("history", Kind::History),
    ] {
        let text = format!(r#"{{"id":7,"{method}":{{"channel":"","data":1}}}}"#);
        assert_eq!(refused(&text), (ErrorCode::BadTopic, false, request_id(kind, 7)), "{method}");
    }
    let without_data = refused(r#"{"id":7,"publish":{"channel":"a"}}"#);
    assert_eq!(without_data, (ErrorCode::BadPublish, false, request_id(Kind::Publish, 7)));
}

#[test]
fn null_is_a_value() {
    match one(r#"{"id":7,"publish":{"channel":"a","data":null}}"#) {
        Command::Publish { publication, .. } => assert_eq!(publication.data(), "null"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn channels_that_a_centrifugo_keeps_from_most_users_are_refused() {
    for channel in ["dialog#a,b", "#", "$private", "$"] {
        for method in ["subscribe", "publish", "history", "presence", "presence_stats"] {
            let text = format!(r#"{{"id":7,"{method}":{{"channel":"{channel}","data":1}}}}"#);
            let answer = answer(&text);
            assert!(answer.contains(r#"{"id":7,"error":{"code":103,"#), "{method} {channel}: {answer}");
            assert!(answer.contains("not supported"), "{answer}");
        }
        let unsubscribe = one(&format!(r#"{{"id":7,"unsubscribe":{{"channel":"{channel}"}}}}"#));
        assert!(matches!(unsubscribe, Command::Unsubscribe { .. }), "a channel of the token can be left");
        let text =
            format!(r#"{{"id":1,"connect":{{"subs":{{"{channel}":{{"recover":true}},"b":{{"recover":true}}}}}}}}"#);
        let commands = all(&mut CentrifugeDecoder::default(), &text);
        assert!(
            matches!(&commands[..], [Ok(Command::Open(_)), Ok(Command::Subscribe { topic, .. })] if topic.as_str() == "b")
        );
    }
    assert!(matches!(one(r#"{"id":7,"subscribe":{"channel":"a$b"}}"#), Command::Subscribe { .. }));
}

#[test]
fn a_subscribe_with_a_token_of_its_own_is_marked() {
    let id = |more: &str| match one(&format!(r#"{{"id":7,"subscribe":{{"channel":"a"{more}}}}}"#)) {
        Command::Subscribe { id, .. } => id,
        other => panic!("{other:?}"),
    };
    assert_eq!(id(r#","token":"a.b.c""#), request_id(Kind::SubscribeWithToken, 7));
    assert_eq!(id(r#","token":"""#), request_id(Kind::Subscribe, 7));
    assert_eq!(id(r#","token":null"#), request_id(Kind::Subscribe, 7));
    assert_eq!(id(r#","token":"a.b.c","recover":true,"flag":2"#), request_id(Kind::SubscribeOrFail, 7));
}

#[test]
fn commands_in_one_message_are_read_one_by_one() {
    let text: Vec<_> = (1..=10_000).map(|id| format!(r#"{{"id":{id},"presence":{{"channel":"a"}}}}"#)).collect();
    let commands = all(&mut connected(), &text.join("\n"));
    assert_eq!(commands.len(), 10_000);
    assert!(matches!(&commands[9_999], Ok(Command::Presence { id, .. }) if *id == request_id(Kind::Presence, 10_000)));
}

#[test]
fn deep_nesting_is_carried_or_refused_and_nothing_else() {
    for depth in [100, 10_000] {
        let data = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let text = format!(r#"{{"id":7,"publish":{{"channel":"a","data":{data}}}}}"#);
        match all(&mut connected(), &text).remove(0) {
            Ok(Command::Publish { publication, .. }) => assert_eq!(publication.data(), data),
            Err(error) => assert!(depth > 100, "{error}"),
            other => panic!("{other:?}"),
        }
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_decoder_panic_or_stand_still(text in "\\PC*", is_connected: bool) {
        let mut decoder = if is_connected { connected() } else { CentrifugeDecoder::default() };
        all(&mut decoder, &text);
    }

    #[test]
    fn no_split_of_json_makes_the_decoder_panic(
        pieces in prop::collection::vec(prop::sample::select(vec![
            "{", "}", "\"id\":1", ",", "\"connect\":", "\"subs\":", "\"é\":", "{\"recover\":true}", "\n", "\"subscribe\":",
            "{\"channel\":\"a\",\"recover\":true,\"flag\":2}", "{}",
        ]), 0..24),
    ) {
        let text = pieces.concat();
        all(&mut CentrifugeDecoder::default(), &text);
        all(&mut connected(), &text);
    }
}
