//! Tests of the routes with which operators look at a running server, and of the streams of the admin port.

use janus_core::wire::classic;
use janus_core::{Fault, Message, SlowConsumer};

use super::super::events::MAX_VIEWS;
use super::super::streams::MAX_STREAMS;
use super::super::subscribing::MAX_TOPICS;
use super::*;

/// Asks the admin port until the answer is as expected.
async fn until_answer(server: &Server, target: &str, expected: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = server.ask(target).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let answer = answer.json();
        if expected(&answer) {
            return answer;
        }
        assert!(Instant::now() < deadline, "{target} still answers {answer}");
    }
}

impl Server {
    /// Sends a GET request to the admin port.
    async fn ask(&self, target: &str) -> Answer {
        self.send_to_admin(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await
    }

    /// A client of the classic protocol, subscribed to these topics.
    async fn client(&self, topics: &[&str]) -> TcpStream {
        let mut stream = TcpStream::connect(self.janus.local_addrs()[0]).await.unwrap();
        for topic in topics {
            stream.write_all(&classic::client::subscribe(topic)).await.unwrap();
            let mut received = Vec::new();
            while !received.windows(4).any(|part| part == b"ACK\x01") {
                timeout(PATIENCE, stream.read_buf(&mut received)).await.expect("an answer").unwrap();
            }
        }
        stream
    }
}

/// An event stream of the admin port.
pub(super) struct Events {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Events {
    pub(super) async fn open(server: &Server, target: &str) -> Self {
        let mut events = Self::ask(server, target, "").await;
        let head = events.head().await;
        assert!(head.starts_with("http/1.1 200 ok\r\n"), "{head}");
        assert!(head.contains("\r\ncontent-type: text/event-stream; charset=utf-8\r\n"), "{head}");
        assert!(head.contains("\r\ncache-control: no-store, no-transform\r\n"), "{head}");
        events
    }

    /// The answer with the data of the first event as the body.
    pub(super) async fn first(server: &Server, target: &str) -> Answer {
        let mut events = Self::ask(server, target, "").await;
        let head = events.head().await;
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let (_, data) = events.next().await.expect("an event");
        Answer { status, head, body: data.to_string() }
    }

    async fn ask(server: &Server, target: &str, headers: &str) -> Self {
        Self::send(server, "GET", target, headers).await
    }

    async fn send(server: &Server, method: &str, target: &str, headers: &str) -> Self {
        let mut stream = TcpStream::connect(server.admin_addr).await.unwrap();
        let request = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        Self { stream, received: Vec::new() }
    }

    async fn until(&mut self, end: &[u8]) -> Option<String> {
        loop {
            if let Some(at) = self.received.windows(end.len()).position(|part| part == end) {
                let rest = self.received.split_off(at + end.len());
                let part = std::mem::replace(&mut self.received, rest);
                return Some(String::from_utf8(part).unwrap());
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.received)).await.expect("a part").unwrap();
            if read == 0 {
                return None;
            }
        }
    }

    async fn head(&mut self) -> String {
        self.until(b"\r\n\r\n").await.expect("a head").to_ascii_lowercase()
    }

    /// The next event: its type, and its data. `None` at the end of the stream, which has a last chunk.
    async fn next(&mut self) -> Option<(String, Value)> {
        let length = self.until(b"\r\n").await.expect("a chunk");
        let length = usize::from_str_radix(length.trim(), 16).unwrap();
        if length == 0 {
            return None;
        }
        while self.received.len() < length + 2 {
            timeout(PATIENCE, self.stream.read_buf(&mut self.received)).await.expect("a part").unwrap();
        }
        let rest = self.received.split_off(length + 2);
        let event = std::mem::replace(&mut self.received, rest);
        let event = std::str::from_utf8(&event[..length]).unwrap();
        let field = |name: &str| {
            let line = event.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            line.map(str::to_owned)
        };
        assert!(event.ends_with("\n\n"), "{event:?}");
        let data = field("data").unwrap_or_else(|| panic!("{event:?}"));
        Some((field("event").unwrap_or_default(), serde_json::from_str(&data).unwrap()))
    }

    /// The data of the next event of this type.
    async fn next_of(&mut self, kind: &str) -> Value {
        loop {
            let (of, data) = self.next().await.expect("the stream goes on");
            if of == kind {
                return data;
            }
        }
    }
}

fn names(topics: &Value) -> Vec<&str> {
    topics["topics"].as_array().unwrap().iter().map(|topic| topic["topic"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn figures_come_with_rates_and_with_the_samples_of_some_seconds() {
    let server = serve(&settings()).await;
    let first = server.ask("/api/stats").await.json();
    assert_eq!(first["version"], env!("CARGO_PKG_VERSION"));
    assert!(first["time"].as_u64().unwrap() > 1_700_000_000_000 && first["uptime_ms"].is_u64(), "{first}");
    assert_eq!(first["samples"], Value::Null);
    for _ in 0..30 {
        server.janus.publish("news", &1).await.unwrap();
    }
    let rate = |stats: &Value, window: &str| stats["stats"]["published"]["per_second"][window].as_f64();
    let all_sampled =
        |stats: &Value| stats["samples"]["values"]["published"].as_array().unwrap().last() == Some(&json!(30));
    let stats =
        until_answer(&server, "/api/stats?samples=600", |stats| all_sampled(stats) && rate(stats, "10s") > Some(0.0));
    let stats = stats.await;
    // The messages are all of the server's life, which is shorter than either window.
    assert_eq!(rate(&stats, "10s"), rate(&stats, "60s"), "{stats}");
    let published = &stats["stats"]["published"];
    assert_eq!((&published["value"], &published["kind"]), (&json!(30), &json!("counter")));
    assert!(stats["stats"]["topics"]["kind"] == "gauge" && stats["stats"]["topics"]["per_second"].is_null());
    let samples = &stats["samples"];
    let times = samples["time"].as_array().unwrap();
    assert!(samples["interval_ms"] == 1_000 && times.len() > 1, "{samples}");
    assert!(times.is_sorted_by_key(|time| time.as_u64().unwrap()));
    let of_published = samples["values"]["published"].as_array().unwrap();
    assert_eq!((of_published.len(), of_published.last()), (times.len(), Some(&json!(30))));
    assert_eq!(samples["values"].as_object().unwrap().len(), stats["stats"].as_object().unwrap().len());
    let last = server.ask("/api/stats?samples=1").await.json();
    assert_eq!(last["samples"]["time"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn topics_are_sorted_by_each_key_and_cut_by_their_prefix() {
    let server = serve(&settings()).await;
    let subscribe = |topic: &str| server.janus.subscribe(topic).unwrap();
    let _subscribers = ["a:1", "a:2", "a:2", "b", "b", "b"].map(subscribe);
    let sorted = async |query: &str| server.ask(&format!("/api/topics?{query}")).await.json();
    let by_subscribers = sorted("sort=subscribers").await;
    assert_eq!((names(&by_subscribers), &by_subscribers["total"]), (vec!["b", "a:2", "a:1"], &json!(3)));
    let of_a = sorted("sort=subscribers&prefix=a:&limit=1").await;
    assert_eq!((names(&of_a), &of_a["total"], &of_a["next"]), (vec!["a:2"], &json!(2), &Value::Null));
    let page = sorted("prefix=a:&limit=1").await;
    assert_eq!((names(&page), &page["next"], &page["total"]), (vec!["a:1"], &json!("a:1"), &Value::Null));
    assert_eq!(names(&sorted("prefix=a:&after=a:1").await), ["a:2"]);
    assert_eq!(names(&sorted("prefix=A").await), Vec::<&str>::new());
    assert_eq!(server.get("/api/topics?sort=subscribers&limit=1").await.json()["topics"][0]["topic"], "b");

    // Nothing is handed out while the actors hang.
    server.janus.inject(Fault::Hang(Duration::from_secs(4)));
    until("they hang", || server.janus.since_last_tick() > Duration::from_millis(1_500)).await;
    let _receipts = [("a:1", 1), ("a:1", 2), ("a:2", 3)]
        .map(|(topic, data)| server.janus.try_publish(Message::new(topic, &data).unwrap()).unwrap());
    let in_flight =
        until_answer(&server, "/api/topics?sort=in_flight", |list| names(list) == ["a:1", "a:2", "b"]).await;
    assert_eq!(in_flight["topics"][0]["in_flight"], 2);
}

#[tokio::test]
async fn topics_are_sorted_by_their_rate_once_it_is_known() {
    let server = serve(&settings()).await;
    let _subscribers = ["idle", "busy", "calm"].map(|topic| server.janus.subscribe(topic).unwrap());
    let unknown = server.ask("/api/topics").await.json();
    assert_eq!(unknown["topics"][0]["messages_per_second"], Value::Null);
    let janus = server.janus.clone();
    let publishing = tokio::spawn(async move {
        let mut pauses = tokio::time::interval(Duration::from_millis(10));
        for number in 0_u64.. {
            pauses.tick().await;
            janus.publish("busy", &number).await.unwrap();
            if number.is_multiple_of(10) {
                janus.publish("calm", &number).await.unwrap();
            }
        }
    });
    // Even the first answer has rates.
    let sorted = server.ask("/api/topics?sort=rate").await.json();
    assert_eq!((names(&sorted), &sorted["total"]), (vec!["busy", "calm", "idle"], &json!(3)), "{sorted}");
    let rates: Vec<f64> = sorted["topics"]
        .as_array()
        .unwrap()
        .iter()
        .map(|topic| topic["messages_per_second"].as_f64().unwrap())
        .collect();
    assert!(rates[0] > rates[1] && rates[1] > 0.0 && rates[2] == 0.0, "{rates:?}");
    let by_name = server.get("/api/topics").await.json();
    assert!(by_name["topics"][0]["messages_per_second"].as_f64() > Some(0.0), "{by_name}");
    publishing.abort();
}

#[tokio::test]
async fn connections_are_found_by_each_filter() {
    let server = serve(&settings()).await;
    let _clients = [server.client(&["a", "b"]).await, server.client(&["b"]).await, server.client(&["c"]).await];
    let (port, http) = (_clients[1].local_addr().unwrap().port(), server.addr);
    let mut events = TcpStream::connect(http).await.unwrap();
    events.write_all(&get("/events?topic=c", &[])).await.unwrap();
    until("all are served", || server.janus.connections(0, 10).len() == 4).await;
    for (query, found) in [
        ("topic=b", 2),
        ("topic=nothing", 0),
        ("transport=classic", 3),
        ("transport=sse&topic=c", 1),
        ("peer=127.0.0.1", 4),
        ("peer=127.0.0.0/8&topic=c", 2),
        (&*format!("peer=127.0.0.1:{port}"), 1),
        ("peer=10.0.0.0/8", 0),
        ("peer=local", 0),
        ("user=alice", 0),
        ("user=&peer=&topic=&transport=", 4),
    ] {
        for sort in ["number", "queued_bytes", "lag"] {
            let answer = server.ask(&format!("/api/connections?sort={sort}&{query}")).await.json();
            assert_eq!(answer["connections"].as_array().unwrap().len(), found, "{sort} {query}: {answer}");
            let total = if sort == "number" { Value::Null } else { json!(found) };
            assert_eq!(answer["total"], total, "{answer}");
        }
    }
    let page = server.get("/api/connections?topic=b&limit=1").await.json();
    let first = &page["connections"][0];
    assert_eq!(page["next"], first["connection"].to_string());
    for (key, value) in
        [("user", json!("")), ("topics", json!(2)), ("queued_bytes", json!(0)), ("lagging_for_ms", json!(0))]
    {
        assert_eq!(first[key], value, "{first}");
    }
    let rest = server.get(&format!("/api/connections?topic=b&after={}", first["connection"])).await.json();
    assert_eq!((rest["connections"].as_array().unwrap().len(), &rest["next"]), (1, &Value::Null));
}

#[tokio::test]
async fn a_slow_client_is_shown_with_its_topics_and_policy() {
    let mut settings = settings();
    settings
        .core
        .namespaces
        .insert("quotes".to_owned(), Namespace { slow_consumer: SlowConsumer::Conflate, ..Namespace::default() });
    settings.core.send_buffer_bytes = 4 * 1_024;
    let server = serve(&settings).await;
    let _prompt = server.client(&["news"]).await;
    let slow = server.client(&["news", "quotes:eur"]).await;
    let padding = "x".repeat(30_000);
    // Until the sockets are full, which is the system's choice, a queue comes and goes.
    while server.janus.slow_clients(1).first().is_none_or(|slow| slow.lagging_for.is_zero()) {
        server.janus.publish("quotes:eur", &padding).await.unwrap();
    }
    let answer =
        until_answer(&server, "/api/slow", |slow| slow["clients"][0]["lagging_for_ms"].as_u64() > Some(0)).await;
    let client = &answer["clients"][0];
    assert_eq!(client["peer"], slow.local_addr().unwrap().to_string());
    let mut topics: Vec<_> = client["topics"].as_array().unwrap().iter().map(|topic| topic.as_str().unwrap()).collect();
    topics.sort_unstable();
    assert_eq!((topics, &client["topics_total"], &client["user"]), (vec!["news", "quotes:eur"], &json!(2), &json!("")));
    let mut policies: Vec<_> =
        client["policy"].as_array().unwrap().iter().map(|policy| policy.as_str().unwrap()).collect();
    policies.sort_unstable();
    assert_eq!(policies, ["conflate", "disconnect"]);
    for sort in ["queued_bytes", "lag"] {
        let answer = server.ask(&format!("/api/connections?sort={sort}&limit=1")).await.json();
        assert_eq!((&answer["connections"][0]["connection"], &answer["total"]), (&client["connection"], &json!(2)));
        assert!(answer["connections"][0]["queued_bytes"].as_u64() > Some(0), "{answer}");
    }
}

#[tokio::test]
async fn a_stream_shows_the_answers_of_several_views_every_second() {
    let server = serve(&settings()).await;
    let _subscriber = server.janus.subscribe("news").unwrap();
    let views = ["topics?sort=rate&limit=5", "stats", "connections?sort=lag", "slow", "tree?limit=3"];
    let query: Vec<String> = views
        .iter()
        .map(|view| form_urlencoded::Serializer::new(String::new()).append_pair("view", view).finish())
        .collect();
    let mut events = Events::open(&server, &format!("/api/events?{}", query.join("&"))).await;
    for view in views {
        let (route, target) = (view.split('?').next().unwrap(), format!("/api/{view}"));
        let data = events.next_of(route).await;
        assert_eq!(data["view"], view);
        let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&data["answer"]), keys(&server.ask(&target).await.json()), "{data}");
    }
    // Rates are looked at for as long as the stream is open.
    while events.next_of("topics").await["answer"]["topics"][0]["messages_per_second"].is_null() {}
    let (first, second) = (events.next_of("stats").await, events.next_of("stats").await);
    let uptime = |data: &Value| data["answer"]["uptime_ms"].as_u64().unwrap();
    assert!(uptime(&second) - uptime(&first) >= 500, "{first} {second}");
}

#[tokio::test]
async fn equal_views_of_several_streams_are_answered_once() {
    let server = serve(&settings()).await;
    let mut streams =
        [Events::open(&server, "/api/events").await, Events::open(&server, "/api/events?view=stats").await];
    let mut seen = [Vec::new(), Vec::new()];
    // Two answers, each with its own time, would have no uptime in common.
    while !seen[0].iter().any(|uptime| seen[1].contains(uptime)) {
        for (stream, seen) in streams.iter_mut().zip(&mut seen) {
            let data = stream.next_of("stats").await;
            seen.push((data["answer"]["uptime_ms"].clone(), data["answer"]["time"].clone()));
        }
        assert!(seen[0].len() < 10, "{seen:?}");
    }
}

#[tokio::test]
async fn a_view_that_cannot_be_answered_is_refused_with_a_hint() {
    let server = serve(&settings()).await;
    let many: String = (1..=MAX_VIEWS + 1).map(|limit| format!("view=slow%3Flimit%3D{limit}&")).collect();
    let many_topics: String = (0..=MAX_TOPICS).map(|topic| format!("topic={topic}&")).collect();
    for (target, part) in [
        ("/api/events?view=metrics", "expected stats, topics, connections, slow or tree"),
        ("/api/events?view=topics%3Fsort%3Dsize", "sort: expected name, subscribers, rate or in_flight"),
        ("/api/events?view=topics?sort=rate&limit=5", "encode the query of a view"),
        ("/api/events?view=stats&view=stats", "duplicate view stats"),
        ("/api/events?view=tree%3Fformat%3Dtext", "omit format=text"),
        (&*format!("/api/events?{many}"), "at most 8 views"),
        ("/api/subscribe", "/api/subscribe?topic=news"),
        ("/api/subscribe?topic=a&topic=a", "duplicate topic a"),
        ("/api/subscribe?topics=a", "expected only topic"),
        (&*format!("/api/subscribe?{many_topics}"), "at most 16 topics"),
        ("/api/stats?samples=601", "samples: expected a whole number from 1 to 600"),
        ("/api/topics?sort=rate&after=a", "after: only a list by name has pages"),
        ("/api/connections?sort=lag&after=1", "after: only a list by number has pages"),
        ("/api/connections?sort=peer", "sort: expected number, queued_bytes or lag"),
        ("/api/connections?peer=example.com", "peer: expected an address"),
        ("/api/topics?user=alice", "expected only limit, after, prefix and sort"),
    ] {
        let answer = server.ask(target).await;
        assert_eq!(answer.status, 400, "{target}: {answer:?}");
        assert!(answer.error().1.contains(part), "{target}: {answer:?}");
    }
    assert_eq!(server.ask("/api/subscribe?topic=").await.error().0, "bad_topic");
    assert_eq!(server.get("/api/events").await.status, 404, "on the HTTP port");
    assert_eq!(server.admin.free_streams(), MAX_STREAMS);
}

#[tokio::test]
async fn streams_take_no_place_of_requests_and_have_a_limit_of_their_own() {
    let server = serve(&settings()).await;
    let requests = server.admin.free_places();
    let mut streams = Vec::new();
    for number in 0..MAX_STREAMS {
        let target = if number % 2 == 0 { "/api/events" } else { "/api/subscribe?topic=news" };
        streams.push(Events::open(&server, target).await);
    }
    assert_eq!((server.admin.free_places(), server.admin.free_streams()), (requests, 0));
    for target in ["/api/events", "/api/subscribe?topic=news"] {
        let refused = server.ask(target).await;
        assert_eq!((refused.status, &*refused.error().0), (503, "too_many_requests"), "{refused:?}");
        assert!(refused.head.contains("\r\nretry-after: "), "{refused:?}");
    }
    let mut head = Events::send(&server, "HEAD", "/api/events", "Connection: close\r\n").await;
    assert!(head.head().await.starts_with("http/1.1 200 ok\r\n"), "a head needs no place");
    assert_eq!(head.until(b"\n").await, None, "and has no body");
    // The streams of clients that are gone end within some seconds.
    drop(streams);
    until("the places are free", || server.admin.free_streams() == MAX_STREAMS).await;
    Events::open(&server, "/api/events").await;
}

#[tokio::test]
async fn streams_end_with_a_word_when_the_server_has_drained() {
    let server = serve(&settings()).await;
    let mut streams = [
        Events::open(&server, "/api/events?view=slow").await,
        Events::open(&server, "/api/subscribe?topic=news").await,
    ];
    server.admin.finish().await;
    for stream in &mut streams {
        assert_eq!(stream.next_of("bye").await["error"], "server_draining");
        assert_eq!(stream.next().await, None);
    }
    until("the places are free", || server.admin.free_streams() == MAX_STREAMS).await;
}

#[tokio::test]
async fn streams_need_the_key_and_end_when_a_reload_takes_it_away() {
    let keyed = serve(&Settings { api_key: ApiKey::new(KEY), ..settings() }).await;
    let targets = ["/api/events", "/api/subscribe?topic=news"];
    for target in targets {
        assert_eq!(keyed.ask(target).await.status, 401, "{target}");
    }
    let mut streams = Vec::new();
    for target in targets {
        let mut stream = Events::ask(&keyed, target, &format!("Authorization: Bearer {KEY}\r\n")).await;
        assert!(stream.head().await.starts_with("http/1.1 200 ok\r\n"));
        streams.push(stream);
    }
    keyed.admin.follow(&Settings { api_key: ApiKey::new("another-good-key"), ..settings() });
    for stream in &mut streams {
        assert_eq!(stream.next_of("bye").await["error"], "unauthorized");
        assert_eq!(stream.next().await, None);
    }
}

#[tokio::test]
async fn a_stream_of_messages_is_in_the_format_of_event_streams_for_clients() {
    let server = serve(&settings()).await;
    let mut own = Events::open(&server, "/api/subscribe?topic=news&topic=quotes%3AACME").await;
    let mut usual = Events { stream: TcpStream::connect(server.addr).await.unwrap(), received: Vec::new() };
    usual.stream.write_all(&get("/events?topic=news&topic=quotes%3AACME", &[])).await.unwrap();
    usual.head().await;
    let retry = usual.until(b"\r\n").await.unwrap() + &usual.until(b"\r\n").await.unwrap();
    assert!(retry.contains("\r\nretry: "), "{retry:?}");
    for _ in 0..2 {
        assert_eq!(own.next_of("subscribed").await, usual.next_of("subscribed").await);
    }
    for topic in ["news", "quotes:ACME"] {
        let message =
            Message::new(topic, &json!({"price": 1.5, "text": "a\nb"})).unwrap().event("greeting").message_id("1");
        server.janus.publish_message(message).await.unwrap();
        let message = own.next_of("").await;
        assert_eq!((&message, &message["topic"]), (&usual.next_of("").await, &json!(topic)));
    }
    assert_eq!(own.next_of("heartbeat").await, json!({}));
}

#[tokio::test]
async fn a_stream_that_is_not_read_is_told_of_the_gap_and_loses_the_oldest() {
    let server = serve(&settings()).await;
    let mut events = Events::open(&server, "/api/subscribe?topic=plain:large").await;
    events.next_of("subscribed").await;
    let padding = "x".repeat(60_000);
    let mut published = 0;
    // Far more than the sockets hold, which is the system's choice.
    while server.janus.stats().messages_dropped == 0 {
        published += 1;
        server.janus.publish("plain:large", &padding).await.unwrap();
        assert!(published < 5_000, "nothing is dropped");
    }
    server.janus.publish("plain:large", &"last").await.unwrap();
    let (mut seq, mut lost) = (0, 0);
    while seq <= published {
        let (kind, data) = events.next().await.unwrap();
        match &*kind {
            "" => {
                assert_eq!(data["seq"], seq + 1, "in order, and nothing is missing without a word");
                seq += 1;
            }
            "gap" => {
                assert_eq!(data["from"], seq + 1);
                lost += data["to"].as_u64().unwrap() - seq;
                seq = data["to"].as_u64().unwrap();
            }
            _ => {}
        }
    }
    assert!(lost > 0, "{published} published");
}
