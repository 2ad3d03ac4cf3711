use proptest::prelude::*;

use super::*;
use crate::wire::Publication;

const LIMITS: Limits = Limits { max_frame_bytes: 65_536, max_topic_bytes: 255, max_topics: 128 };
const POSITION: Position = Position { epoch: Epoch::new(0x9f86_d081_884c_7d65), seq: 42 };

fn sse() -> Sse {
    Sse::new(Duration::from_secs(2), AllowedOrigins::new(["https://app.example"]))
}

fn request(query: &str, headers: &[(&str, &str)]) -> HttpRequest {
    HttpRequest {
        method: "GET".to_owned(),
        target: format!("/events?{query}"),
        headers: headers.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
        ..HttpRequest::default()
    }
}

fn commands(sse: &Sse, request: HttpRequest) -> Result<Vec<Command>, HttpError> {
    let mut decoder = sse.decoder_for(request, &LIMITS)?;
    let mut input = &b"whatever else the client sends"[..];
    let commands = std::iter::from_fn(|| decoder.decode(&mut input, &LIMITS)).map(Result::unwrap).collect();
    assert!(input.is_empty() && !decoder.is_mid_frame());
    Ok(commands)
}

fn topic(name: &str) -> TopicName {
    TopicName::new(name, 255).unwrap()
}

fn encode(sse: &Sse, event: ServerEvent<'_>) -> String {
    let mut out = BytesMut::new();
    sse.encode(&event, &Timestamp::default(), &mut out);
    String::from_utf8(out.to_vec()).unwrap()
}

fn message(publication: &Publication) -> String {
    let event = ServerEvent::Message(NumberedMessage {
        topic: &topic("news"),
        topic_json: publication.topic_json(),
        position: POSITION,
        horizon: Some(40),
        timestamp: Timestamp { mega: 1_258, sec: 870_812, micro: 907_999 },
        event: publication.event(),
        message_id: publication.message_id(),
        data: publication.data(),
        base64: publication.base64(),
    });
    encode(&sse(), event)
}

/// The events dispatched by an `EventSource`, as type, data and last id, by the rules of the HTML standard.
fn dispatched(stream: &str) -> Vec<(String, String, String)> {
    let (mut events, mut id) = (Vec::new(), String::new());
    let (mut kind, mut data) = (String::new(), Vec::new());
    let stream = stream.replace("\r\n", "\n").replace('\r', "\n");
    let whole_lines = stream.rsplit_once('\n').map_or("", |(whole, _)| whole);
    for line in whole_lines.split('\n') {
        if line.is_empty() {
            if !data.is_empty() {
                events.push((std::mem::take(&mut kind), data.join("\n"), id.clone()));
            }
            kind.clear();
            data.clear();
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
        match field {
            "event" => kind = value,
            "data" => data.push(value),
            "id" => id = value,
            _ => {}
        }
    }
    events
}

#[test]
fn a_request_becomes_a_head_an_open_and_subscribes() {
    let asked = request("topic=news&topic=quotes%3AACME&_=1&topic=a+b%2B%C3%A9", &[]);
    let commands = commands(&sse(), asked.clone()).unwrap();
    let Command::Open(open) = &commands[1] else { panic!("{commands:?}") };
    assert_eq!((open.request.as_deref(), open.session.as_ref()), (Some(&asked), None));
    let Command::Preface(head) = &commands[0] else { panic!("{commands:?}") };
    let head = str::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"), "{head}");
    assert!(
        head.contains("\r\ndate: ")
            && head.contains("cache-control: no-store, no-transform\r\n")
            && head.contains("x-accel-buffering: no\r\n"),
        "{head}"
    );
    assert!(!head.contains("access-control"), "{head}");
    let (_, retry) = head.split_once("\r\n\r\nretry: ").unwrap();
    assert!((1_500..=2_500).contains(&retry.trim_end().parse().unwrap()) && !retry.ends_with("\n\n"), "{head}");
    let subscribe = |name| Command::Subscribe {
        topic: topic(name),
        since: None,
        horizon: None,
        presence: false,
        member: None,
        id: None,
    };
    let rest = [subscribe("news"), subscribe("quotes:ACME"), subscribe("a b+é"), Command::AllAsked];
    assert_eq!(commands[2..], rest);
}

#[test]
fn a_topic_outside_utf_8_is_refused_and_not_replaced() {
    for (query, place) in [("topic=%ff%fe", 1), ("topic=a&x=%ff&topic=b%C3", 2)] {
        let error = commands(&sse(), request(query, &[])).unwrap_err();
        assert_eq!((error.status, error.code), (400, "bad_topic"), "{query}");
        assert!(error.message.contains(&format!("number {place} ")), "{error}");
    }
    let replacement = commands(&sse(), request("&&topic=%EF%BF%BD&_=%ff&topic=100%", &[])).unwrap();
    assert!(matches!(&replacement[2], Command::Subscribe { topic, .. } if topic.as_str() == "\u{fffd}"));
    assert!(matches!(&replacement[3], Command::Subscribe { topic, .. } if topic.as_str() == "100%"));
}

#[test]
fn a_temporary_refusal_of_an_event_source_is_no_status() {
    let refusal =
        |code: ErrorCode, reconnect_after| Refusal { id: None, code, message: "why", reconnect_after, status: None };
    let later = Some(Duration::from_millis(1_234));
    let refuse = |sse: &Sse, accept: &str, refusal: Refusal<'_>| {
        let headers = [("accept", accept), ("origin", "https://app.example")];
        let decoder = sse.decoder_for(request("topic=news", &headers), &LIMITS).unwrap();
        match decoder.refuse(&refusal) {
            Refusing::With(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            other => format!("{other:?}"),
        }
    };
    let full = refusal(ErrorCode::TooManyConnections, later);
    for accept in ["text/event-stream", "application/json, Text/Event-Stream;q=0.5"] {
        let told = refuse(&sse(), accept, full);
        assert!(told.starts_with("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"), "{told}");
        assert!(told.contains("access-control-allow-origin: https://app.example\r\n"), "{told}");
        let (_, stream) = told.split_once("\r\n\r\n").unwrap();
        assert!(stream.contains("\nevent: bye\nretry: 1234\n"), "{told}");
        assert_eq!(dispatched(stream).last().unwrap().0, "bye");
        // A repetition cannot succeed, and a status tells this too.
        let told = refuse(&sse(), accept, refusal(ErrorCode::Forbidden, None));
        assert!(told.starts_with("HTTP/1.1 403 ") && told.contains("access-control-allow-origin"), "{told}");
    }
    for accept in ["*/*", "text/*", "text/event-streams"] {
        let told = refuse(&sse(), accept, full);
        assert!(told.starts_with("HTTP/1.1 503 ") && told.contains("retry-after: 2\r\n"), "{told}");
        assert!(told.contains("access-control-allow-origin: https://app.example\r\n"), "{told}");
    }
    let mounted = refuse(&Sse::body(Duration::ZERO), "*/*", full);
    assert_eq!(mounted, "ByCodec", "the status has been sent, and the codec says the rest");
    assert_eq!(sse().decoder().refuse(&full), Refusing::OnceRead);
}

#[test]
fn the_newer_header_wins_over_the_query() {
    let since = |query: &str, headers: &[(&str, &str)]| {
        let commands = commands(&sse(), request(query, headers)).unwrap();
        match &commands[2] {
            Command::Subscribe { since, .. } => *since,
            other => panic!("{other:?}"),
        }
    };
    for name in ["last_event_id", "lastEventId", "lastEventID", "Last-Event-ID"] {
        let asked = since(&format!("topic=a&{name}=0000000000000001.7"), &[]);
        assert_eq!(asked, Some(Position { epoch: Epoch::new(1), seq: 7 }.into()), "{name}");
    }
    let (old, new) = ("topic=a&last_event_id=0000000000000001.7", ("last-event-id", "9f86d081884c7d65.42"));
    assert_eq!(since(old, &[]), Some(Position { epoch: Epoch::new(1), seq: 7 }.into()));
    assert_eq!(since(old, &[new]), Some(POSITION.into()));
    assert_eq!(since(old, &[("last-event-id", "")]), Some(Position { epoch: Epoch::new(1), seq: 7 }.into()));
    assert_eq!(since("topic=a&last_event_id=", &[]), None);
}

#[test]
fn a_page_may_begin_with_the_start_or_the_last_message_until_it_has_an_id() {
    let since = |query: &str, headers: &[(&str, &str)]| match &commands(&sse(), request(query, headers)).unwrap()[2] {
        Command::Subscribe { since, .. } => *since,
        other => panic!("{other:?}"),
    };
    let header = ("last-event-id", "9f86d081884c7d65.42");
    for (text, expected) in [("start", Since::Start), ("last", Since::Last), ("9f86d081884c7d65.42", POSITION.into())] {
        let query = format!("topic=a&since={text}");
        assert_eq!(since(&query, &[]), Some(expected));
        assert_eq!(since(&query, &[header]), Some(POSITION.into()), "a browser comes back with the same address");
    }
    let refused = commands(&sse(), request("topic=a&since=beginning", &[])).unwrap_err();
    assert_eq!(refused.status, 400);
    assert!(refused.message.contains("expected start, last, or a position"), "{}", refused.message);
}

#[test]
fn a_since_and_a_presence_are_for_all_topics_or_for_each() {
    let asked = |query: &str, headers: &[(&str, &str)]| {
        let commands = commands(&sse(), request(query, headers)).unwrap();
        let subscribes = commands.iter().filter_map(|command| match command {
            Command::Subscribe { since, presence, .. } => Some((*since, *presence)),
            _ => None,
        });
        subscribes.collect::<Vec<_>>()
    };
    let position: Since = POSITION.into();
    let topics = "topic=a&topic=b&topic=c";
    assert_eq!(asked(&format!("{topics}&since=last&presence=true"), &[]), [(Some(Since::Last), true); 3]);
    let each =
        format!("{topics}&since=9f86d081884c7d65.42&since=&since=start&presence=true&presence=false&presence=true");
    assert_eq!(asked(&each, &[]), [(Some(position), true), (None, false), (Some(Since::Start), true)]);
    let header = ("last-event-id", "9f86d081884c7d65.42");
    assert_eq!(asked(&each, &[header]), [(Some(position), true), (Some(position), false), (Some(position), true)]);
    for (query, name) in [("since=start&since=last", "since"), ("presence=true&presence=true", "presence")] {
        let error = commands(&sse(), request(&format!("{topics}&{query}"), &[])).unwrap_err();
        assert_eq!(error.status, 400);
        assert!(error.message.contains(&format!("\"{name}\" is given 2 times for 3 topics")), "{}", error.message);
    }
}

#[test]
fn an_id_has_the_horizon_of_its_message_behind_the_position() {
    let publication = Publication::new(&topic("news"), "1", "1", "2").unwrap();
    assert_eq!(message(&publication).lines().next(), Some("id: 9f86d081884c7d65.42.40"));
    let asked = |id| {
        let commands = commands(&sse(), request("topic=a&topic=b", &[("last-event-id", id)])).unwrap();
        let since = commands.iter().filter_map(|command| match command {
            Command::Subscribe { since, horizon, .. } => Some((*since, *horizon)),
            _ => None,
        });
        since.collect::<Vec<_>>()
    };
    assert_eq!(asked("9f86d081884c7d65.42.40"), [(Some(POSITION.into()), Some(40)); 2]);
    assert_eq!(asked("9f86d081884c7d65.42"), [(Some(POSITION.into()), None); 2]);
    let strange = [(Some(Position { epoch: Epoch::NONE, seq: 0 }.into()), None); 2];
    for id in ["9f86d081884c7d65.42.", "9f86d081884c7d65.42.x", "9f86d081884c7d65.42.1.2", "9f86d081884c7d65.42.-1"] {
        assert_eq!(asked(id), strange, "{id}");
    }
}

#[test]
fn an_unknown_id_counts_as_too_old() {
    for id in [
        "1",
        ".",
        "x.1",
        "9f86d081884c7d65",
        "9f86d081884c7d65.",
        "9f86d081884c7d65.-1",
        "+f86d081884c7d65.1",
        "9f86d081884c7d65.99999999999999999999",
        "9f86d081884c7d65.1.2.3",
        "é86d081884c7d65.1",
    ] {
        assert_eq!(position(id), (Position { epoch: Epoch::NONE, seq: 0 }, None), "{id}");
    }
}

#[test]
fn only_a_listed_origin_may_read_the_stream_from_elsewhere() {
    let head = |origins: &[&str], origin| {
        let sse = Sse::new(Duration::ZERO, AllowedOrigins::new(origins.iter().copied()));
        match &commands(&sse, request("topic=a", &[("origin", origin)])).unwrap()[0] {
            Command::Preface(head) => String::from_utf8(head.to_vec()).unwrap(),
            other => panic!("{other:?}"),
        }
    };
    let listed = head(&["https://app.example"], "https://app.example");
    assert!(listed.contains("\r\naccess-control-allow-origin: https://app.example\r\n"), "{listed}");
    assert!(
        listed.contains("\r\naccess-control-allow-credentials: true\r\n") && listed.contains("\r\nvary: origin\r\n")
    );
    let any = head(&["*"], "https://other.example");
    assert!(any.contains("\r\naccess-control-allow-origin: *\r\n") && !any.contains("credentials"), "{any}");
}

#[test]
fn a_body_has_no_head_and_tells_a_refusal_as_an_event() {
    let body = Sse::body(Duration::from_millis(1_500));
    let commands = commands(&body, request("topic=a", &[("origin", "https://any.example")])).unwrap();
    let Command::Preface(start) = &commands[0] else { panic!("{commands:?}") };
    assert!(start.starts_with(b"retry: 1") && start.ends_with(b"\n") && !start.ends_with(b"\n\n"), "{start:?}");
    let refusal =
        Refusal { id: None, code: ErrorCode::Unauthorized, message: "no", reconnect_after: None, status: None };
    let expected =
        "event: bye\nretry: 86400000\ndata: {\"code\":4413,\"error\":\"unauthorized\",\"message\":\"no\"}\n\n";
    assert_eq!(encode(&body, ServerEvent::Refused(refusal)), expected);
    assert!(encode(&sse(), ServerEvent::Refused(refusal)).starts_with("HTTP/1.1 401 Unauthorized\r\n"));
}

#[test]
fn a_message_has_its_position_as_id_and_its_json_unchanged() {
    let publication = Publication::new(&topic("news"), "\"greeting\"", "\"1\"", "{\"price\":1.50}").unwrap();
    let expected = "id: 9f86d081884c7d65.42.40\n\
                    data: {\"topic\":\"news\",\"seq\":42,\"time\":1258870812907,\"event\":\"greeting\",\
                    \"message_id\":\"1\",\"data\":{\"price\":1.50}}\n\n";
    assert_eq!(message(&publication), expected);
}

#[test]
fn line_breaks_between_the_tokens_of_a_message_do_not_end_its_line() {
    let data = "{\r\n\"a\"\r: [1,\n\n2],\"text\":\"line\\nbreak\"}";
    let encoded = message(&Publication::new(&topic("news"), "[\n]", "{\n}", data).unwrap());
    let [(kind, json, id)] = &dispatched(&encoded)[..] else { panic!("{encoded}") };
    assert_eq!((&**kind, &**id), ("", "9f86d081884c7d65.42.40"));
    let read: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!(read["data"], serde_json::json!({"a": [1, 2], "text": "line\nbreak"}));
    assert_eq!(encoded.lines().count(), 3, "{encoded}");
}

#[test]
fn the_first_block_of_a_topic_has_its_position_and_data() {
    let topic = topic("news");
    let subscribed = |since, missed| ServerEvent::Subscribed {
        id: None,
        topic: &topic,
        position: POSITION,
        last: None,
        horizon: None,
        since,
        missed,
        repeated: 0,
    };
    let block = |rest: &str| {
        format!(
            "event: subscribed\nid: 9f86d081884c7d65.42\n\
             data: {{\"topic\":\"news\",\"epoch\":\"9f86d081884c7d65\",\"seq\":42,{rest}}}\n\n"
        )
    };
    assert_eq!(encode(&sse(), subscribed(None, None)), block("\"resumed\":false"));
    assert_eq!(encode(&sse(), subscribed(Some(POSITION.into()), Some(3))), block("\"resumed\":true,\"missed\":3"));
    let gap = encode(&sse(), subscribed(Some(Position { epoch: Epoch::new(1), seq: 1 }.into()), None));
    let expected = "event: gap\nid: 9f86d081884c7d65.42\n\
                    data: {\"topic\":\"news\",\"epoch\":\"9f86d081884c7d65\",\"resumed\":false}\n\n";
    assert_eq!(gap, format!("{expected}{}", block("\"resumed\":false")));
}

#[test]
fn a_heartbeat_is_an_event_with_data() {
    for (sse, expected) in
        [(sse(), "event: heartbeat\ndata: {}\n\n"), (sse().chunked(), "1b\r\nevent: heartbeat\ndata: {}\n\n\r\n")]
    {
        let Heartbeat::Always(bytes) = sse.heartbeat() else { panic!("{sse:?}") };
        assert_eq!(bytes, expected);
    }
}

#[test]
fn on_request_the_publishers_event_is_the_type_of_a_message() {
    let kind = |event: &str| {
        let publication = Publication::new(&topic("news"), event, "1", "2").unwrap();
        let message = NumberedMessage {
            topic: &topic("news"),
            topic_json: publication.topic_json(),
            position: POSITION,
            horizon: Some(40),
            timestamp: Timestamp::default(),
            event: publication.event(),
            message_id: publication.message_id(),
            data: publication.data(),
            base64: publication.base64(),
        };
        dispatched(&encode(&sse().native_events(), ServerEvent::Message(message)))[0].0.clone()
    };
    assert_eq!((kind("\"price\""), kind("\"caf\\u00e9 x\"")), ("price".to_owned(), "café x".to_owned()));
    for event in
        ["\"\"", "1", "null", "\"a\\nb\"", "\"a\\rb\"", "\"gap\"", "\"heartbeat\"", "\"bye\"", "\"open\"", "\"error\""]
    {
        assert_eq!(kind(event), "", "{event}");
    }
    let error = commands(&sse(), request("topic=a&events=all", &[])).unwrap_err();
    assert_eq!((error.status, error.code), (400, "bad_open"));
}

#[test]
fn each_event_of_a_chunked_stream_is_a_chunk_and_a_bye_the_end_of_it() {
    let topic = topic("news");
    let subscribed = ServerEvent::Subscribed {
        id: None,
        topic: &topic,
        position: POSITION,
        last: None,
        horizon: Some(40),
        since: None,
        missed: None,
        repeated: 0,
    };
    let plain = encode(&sse(), subscribed);
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    assert_eq!(encode(&sse().chunked(), subscribed), chunk(&plain));
    let opened = ServerEvent::Opened {
        id: None,
        client: crate::wire::ClientId::new(1, 2),
        session: "",
        resumed: false,
        limits: &LIMITS,
        heartbeat: Duration::from_secs(1),
        expires: None,
    };
    assert_eq!(encode(&sse().chunked(), opened), "", "no chunk of no bytes, which would be the last");
    let bye =
        Refusal { id: None, code: ErrorCode::ServerDraining, message: "bye", reconnect_after: None, status: None };
    let plain = encode(&sse(), ServerEvent::Bye(bye));
    assert_eq!(encode(&sse().chunked(), ServerEvent::Bye(bye)), format!("{}0\r\n\r\n", chunk(&plain)));
    let Command::Preface(start) = &commands(&sse().chunked(), request("topic=a", &[])).unwrap()[0] else { panic!() };
    let start = str::from_utf8(start).unwrap();
    let (head, body) = start.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("\r\ntransfer-encoding: chunked"), "{start}");
    assert!(body.starts_with("c\r\nretry: ") && body.ends_with("\n\r\n"), "{start}");
}

#[test]
fn gaps_errors_and_the_end_are_events_of_their_own_types() {
    let topic = topic("a\"b");
    let gap = ServerEvent::Gap { topic: &topic, epoch: POSITION.epoch, from: 43, to: 50 };
    let expected = "event: gap\nid: 9f86d081884c7d65.50\n\
                    data: {\"topic\":\"a\\\"b\",\"epoch\":\"9f86d081884c7d65\",\"from\":43,\"to\":50}\n\n";
    assert_eq!(encode(&sse(), gap), expected);
    let error = |topic| ServerEvent::Error { id: None, topic, code: ErrorCode::TopicUnavailable, message: "later\n" };
    let expected = "event: refused\ndata: {\"topic\":\"a\\\"b\",\"code\":4001,\"error\":\"topic_unavailable\",\
                    \"message\":\"later\\n\"}\n\n";
    assert_eq!(encode(&sse(), error(Some(&topic))), expected);
    assert!(encode(&sse(), error(None)).contains("data: {\"code\":4001,"));
    let after = Some(Duration::from_millis(1_234));
    let bye =
        Refusal { id: None, code: ErrorCode::ServerDraining, message: "bye", reconnect_after: after, status: None };
    let expected = "event: bye\nretry: 1234\n\
                    data: {\"code\":4002,\"error\":\"server_draining\",\"message\":\"bye\",\"reconnect_after_ms\":1234}\n\n";
    assert_eq!(encode(&sse(), ServerEvent::Bye(bye)), expected);
}

#[test]
fn alone_on_a_listener_the_codec_reads_the_request_itself() {
    let mut decoder = sse().decoder();
    let mut input = &b"GET /any?topic=news HTTP/1.1\r\nHost: a\r\n"[..];
    assert_eq!(decoder.decode(&mut input, &LIMITS), None);
    assert!(decoder.is_mid_frame() && decoder.buffered() > 0);
    let mut input = &b"\r\nmore"[..];
    assert!(matches!(decoder.decode(&mut input, &LIMITS), Some(Ok(Command::Preface(_)))));
    assert!(!decoder.is_mid_frame() && decoder.buffered() == 0);
    assert_eq!(std::iter::from_fn(|| decoder.decode(&mut input, &LIMITS)).count(), 3);

    for (head, status) in [
        (&b"GET /any HTTP/1.1\r\nHost: a\r\n\r\n"[..], "400"),
        (b"GET /any?topic=a HTTP/1.1\r\nHost: a\r\nOrigin: http://b\r\n\r\n", "403"),
        (b"POST /any?topic=a HTTP/1.1\r\nHost: a\r\n\r\n", "405"),
        (b"\0", "400"),
    ] {
        let mut decoder = sse().decoder();
        let Some(Ok(Command::Close(response))) = decoder.decode(&mut &*head, &LIMITS) else { panic!() };
        assert!(response.starts_with(format!("HTTP/1.1 {status} ").as_bytes()));
        assert_eq!(decoder.decode(&mut &b"x"[..], &LIMITS), None);
    }
}

proptest! {
    #[test]
    fn the_id_of_a_message_reads_back_as_its_position(epoch in any::<u64>(), seq in any::<u64>(), horizon in any::<Option<u64>>()) {
        let mut id = BytesMut::new();
        let epoch = Epoch::new(epoch);
        put_id(&mut id, Position { epoch, seq }, horizon);
        let id = str::from_utf8(&id).unwrap().strip_prefix("id: ").unwrap().trim_end();
        prop_assert_eq!(position(id), (Position { epoch, seq }, horizon));
    }

    #[test]
    fn any_topic_and_message_arrive_as_one_event_unchanged(
        name in "\\PC{1,20}",
        value in prop_oneof![
            any::<f64>().prop_filter("JSON has no other", |number| number.is_finite()).prop_map(serde_json::Value::from),
            any::<String>().prop_map(serde_json::Value::from),
            proptest::collection::hash_map(any::<String>(), any::<i64>(), 0..4)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().map(|(key, value)| (key, value.into())).collect())),
        ],
    ) {
        let topic = topic(&name);
        let pretty = serde_json::to_string_pretty(&value).unwrap().replace('\n', "\r\n");
        let encoded = message(&Publication::new(&topic, "\"e\"", "1", &pretty).unwrap());
        let events = dispatched(&encoded);
        prop_assert_eq!(events.len(), 1, "{}", encoded);
        let read: serde_json::Value = serde_json::from_str(&events[0].1).unwrap();
        prop_assert_eq!(&read["data"], &serde_json::from_str::<serde_json::Value>(&pretty).unwrap());
        prop_assert_eq!(read["topic"].as_str(), Some(&*name));
    }

    #[test]
    fn any_names_of_topics_come_through_a_query(names in proptest::collection::hash_set("\\PC{1,20}", 1..8)) {
        let mut query = form_urlencoded::Serializer::new(String::new());
        for name in &names {
            query.append_pair("topic", name);
        }
        let commands = commands(&sse(), request(&query.finish(), &[])).unwrap();
        let asked: Vec<_> = commands[2..commands.len() - 1].iter().map(|command| match command {
            Command::Subscribe { topic, .. } => topic.as_str(),
            other => panic!("{other:?}"),
        }).collect();
        prop_assert_eq!(asked, names.iter().map(String::as_str).collect::<Vec<_>>());
    }

    #[test]
    fn no_query_causes_a_panic(query in "[a-z%&=+;?#0-9\\PC]{0,60}", id in "\\PC{0,30}") {
        let _ = commands(&sse(), request(&query, &[("last-event-id", &id)]));
    }
}
