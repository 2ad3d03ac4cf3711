//! Conversations over real sockets: what a client of Pusher sees where the official clients show too little, and what clients
//! of other protocols may not.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so best by panicking")]

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use aws_lc_rs::hmac;
use data_encoding::HEXLOWER;
use futures_util::{SinkExt as _, StreamExt as _};
use janus_core::hooks::{ConnectRequest, Denied, Hooks, Identity, Patterns};
use janus_core::{Builder, ClientId, Config, Janus, Message};
use janus_pusher::{Pusher, PusherSettings};
use md5::{Digest as _, Md5};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

const KEY: &str = "278d425bdf160c739803";
const SECRET: &str = "7ad3773142a6692b25b8";

/// No wait is longer, and each ends as soon as its condition holds.
const PATIENCE: Duration = Duration::from_secs(20);

async fn start(adjust: impl FnOnce(Builder) -> Builder) -> Janus {
    let settings = PusherSettings {
        pusher_app_id: Some("3".to_owned()),
        pusher_key: Some(KEY.to_owned()),
        pusher_client_events: true,
        ..PusherSettings::default()
    };
    let mut config = Config {
        listen: Vec::new(),
        http_listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        presence_linger: Duration::ZERO,
        max_topics_per_client: 4,
        ..Config::default()
    };
    settings.prepare(&mut config);
    let pusher = Pusher::with_secrets(&settings, [SECRET]).unwrap();
    adjust(pusher.add_to(Janus::builder().config(config))).start().await.unwrap()
}

struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    id: String,
}

impl Client {
    async fn at(janus: &Janus, path: &str) -> Self {
        let (socket, _) = connect_async(format!("ws://{}{path}", janus.local_addrs()[0])).await.unwrap();
        Self { socket, id: String::new() }
    }

    async fn connect(janus: &Janus) -> Self {
        let mut client = Self::at(janus, &format!("/app/{KEY}?protocol=7&client=test&version=1")).await;
        let established = client.next().await;
        assert_eq!(established["event"], "pusher:connection_established");
        let data: Value = serde_json::from_str(established["data"].as_str().unwrap()).unwrap();
        assert_eq!(data["activity_timeout"], 120);
        data["socket_id"].as_str().unwrap().clone_into(&mut client.id);
        client
    }

    /// The name of the connection in Janus: the socket id without the secret digits.
    fn name(&self) -> ClientId {
        self.id[..self.id.len() - 15].parse().unwrap()
    }

    async fn send(&mut self, value: Value) {
        self.socket.send(Frame::text(value.to_string())).await.unwrap();
    }

    /// The next frame but pings.
    async fn frame(&mut self) -> Frame {
        loop {
            match tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("a frame").unwrap().unwrap() {
                Frame::Ping(_) | Frame::Pong(_) => {}
                frame => return frame,
            }
        }
    }

    async fn next(&mut self) -> Value {
        match self.frame().await {
            Frame::Text(text) => serde_json::from_str(&text).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// The numbers in the error and in the close frame that end the connection.
    async fn end(&mut self) -> (Value, u16) {
        let mut number = Value::Null;
        loop {
            match self.frame().await {
                Frame::Text(text) => {
                    let value: Value = serde_json::from_str(&text).unwrap();
                    if value["event"] == "pusher:error" {
                        number = value["data"]["code"].clone();
                    }
                }
                Frame::Close(close) => return (number, close.unwrap().code.into()),
                other => panic!("{other:?}"),
            }
        }
    }

    async fn subscribe(&mut self, channel: &str, channel_data: Option<&str>) {
        let text = channel_data.map_or_else(|| channel.to_owned(), |data| format!("{channel}:{data}"));
        let auth = format!("{KEY}:{}", sign(&format!("{}:{text}", self.id)));
        let data = json!({ "channel": channel, "auth": auth, "channel_data": channel_data });
        self.send(json!({ "event": "pusher:subscribe", "data": data })).await;
    }

    async fn subscribed(&mut self, channel: &str, channel_data: Option<&str>) -> Value {
        self.subscribe(channel, channel_data).await;
        let answer = self.next().await;
        let expected = ("pusher_internal:subscription_succeeded", channel);
        assert_eq!((answer["event"].as_str().unwrap(), answer["channel"].as_str().unwrap()), expected, "{answer}");
        serde_json::from_str(answer["data"].as_str().unwrap()).unwrap()
    }

    async fn sign_in(&mut self, user: &str) {
        let data = json!({ "id": user }).to_string();
        let auth = format!("{KEY}:{}", sign(&format!("{}::user::{data}", self.id)));
        self.send(json!({ "event": "pusher:signin", "data": { "auth": auth, "user_data": data } })).await;
        assert_eq!(self.next().await["event"], "pusher:signin_success");
    }
}

fn sign(text: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    HEXLOWER.encode(hmac::sign(&key, text.as_bytes()).as_ref())
}

#[tokio::test]
async fn a_client_without_this_application_or_protocol_is_told_why() {
    let janus = start(|builder| builder).await;
    for (path, number) in [
        ("/app/another?protocol=7".to_owned(), 4001),
        (format!("/app/{KEY}"), 4008),
        (format!("/app/{KEY}?protocol=x"), 4006),
        (format!("/app/{KEY}?protocol=99"), 4007),
    ] {
        assert_eq!(Client::at(&janus, &path).await.end().await, (json!(number), number), "{path}");
    }
    janus.shutdown().await;
}

#[tokio::test]
async fn a_socket_id_begins_with_the_name_of_the_connection() {
    let janus = start(|builder| builder).await;
    let (mut alice, mut bob) = (Client::connect(&janus).await, Client::connect(&janus).await);
    for client in [&mut alice, &mut bob] {
        client.subscribed("news", None).await;
    }
    let message = |text: &str| Message::new("pusher:news", text).unwrap().event("greeting");
    janus.publish_message(message("not for alice").exclude(alice.name())).await.unwrap();
    janus.publish_message(message("for both")).await.unwrap();
    assert_eq!(alice.next().await["data"], "for both");
    assert_eq!(bob.next().await, json!({ "event": "greeting", "channel": "news", "data": "not for alice" }));
    janus.shutdown().await;
}

#[tokio::test]
async fn a_member_has_the_name_of_its_channel_whatever_user_signs_in() {
    let janus = start(|builder| builder).await;
    let (mut alice, mut bob) = (Client::connect(&janus).await, Client::connect(&janus).await);
    let here = alice.subscribed("presence-a", Some(r#"{"user_id":1,"user_info":{"name":"A"}}"#)).await;
    assert_eq!(here["presence"], json!({ "count": 1, "ids": ["1"], "hash": { "1": { "name": "A" } } }));
    alice.sign_in("alice").await;
    let here = bob.subscribed("presence-a", Some(r#"{"user_id":"2"}"#)).await;
    assert_eq!(here["presence"]["ids"], json!(["1", "2"]));
    let came = alice.next().await;
    assert_eq!(
        (came["event"].as_str(), came["channel"].as_str()),
        (Some("pusher_internal:member_added"), Some("presence-a"))
    );
    bob.socket.close(None).await.unwrap();
    let left = loop {
        let told = alice.next().await;
        if told["event"] == "pusher_internal:member_removed" {
            break told;
        }
    };
    assert_eq!(left["data"], r#"{"user_id":"2","user_info":null}"#);
    let presence = janus.presence("pusher-presence:presence-a").await.unwrap();
    assert_eq!(presence.members.unwrap()[0].user.as_ref(), "1");
    janus.shutdown().await;
}

/// The status of the answer to a signed request of the backend.
async fn post(janus: &Janus, path: &str, body: &Value) -> String {
    ask(janus, path, body).await.0
}

/// The status and the body of the answer to a signed request of the backend.
async fn ask(janus: &Janus, path: &str, body: &Value) -> (String, Value) {
    let body = body.to_string();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let digest = HEXLOWER.encode(&Md5::digest(&body));
    let query = format!("auth_key={KEY}&auth_timestamp={now}&auth_version=1.0&body_md5={digest}");
    let signature = sign(&format!("POST\n{path}\n{query}"));
    let mut backend = TcpStream::connect(janus.local_addrs()[0]).await.unwrap();
    let head = format!(
        "POST {path}?{query}&auth_signature={signature} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    backend.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, backend.read_to_string(&mut answer)).await.unwrap().unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].to_owned(), serde_json::from_str(body).unwrap())
}

#[tokio::test]
async fn every_refusal_of_a_request_has_the_same_form() {
    let janus = start(|builder| builder).await;
    let event = |data: &str| json!({ "name": "greeting", "channel": "news", "data": data });
    for (path, body, status, code) in [
        ("/apps/4/events", event("1"), "404", "unknown_app"),
        ("/apps/3/nothing", event("1"), "404", "unknown_path"),
        ("/apps/3/events", json!({}), "400", "bad_request"),
        ("/apps/3/events", event(&"a".repeat(10_241)), "413", "frame_too_large"),
    ] {
        let (answered, body) = ask(&janus, path, &body).await;
        assert_eq!((&*answered, &body["error"]["code"]), (status, &json!(code)), "{body}");
        assert!(body["error"]["message"].is_string(), "{body}");
    }
    janus.shutdown().await;
}

#[tokio::test]
async fn a_publisher_leaves_out_a_socket_id_and_needs_its_secret_digits() {
    let janus = start(|builder| builder).await;
    let (mut alice, mut bob) = (Client::connect(&janus).await, Client::connect(&janus).await);
    for client in [&mut alice, &mut bob] {
        client.subscribed("news", None).await;
    }
    let event =
        |socket: &str, data: &str| json!({ "name": "greeting", "channel": "news", "data": data, "socket_id": socket });
    assert_eq!(post(&janus, "/apps/3/events", &event(&alice.id, "not for alice")).await, "200");
    for other in [alice.name().to_string(), format!("{}{}", alice.name(), &bob.id[bob.id.len() - 15..])] {
        assert_eq!(post(&janus, "/apps/3/events", &event(&other, "for no client")).await, "400", "{other}");
    }
    janus.publish("pusher:news", "for both").await.unwrap();
    assert_eq!(alice.next().await["data"], "for both");
    assert_eq!(bob.next().await["data"], "not for alice");
    janus.shutdown().await;
}

#[tokio::test]
async fn a_signature_of_the_name_of_a_connection_is_not_one_of_the_connection() {
    let janus = start(|builder| builder).await;
    let mut client = Client::connect(&janus).await;
    let id = client.id.clone();
    client.id = id[..id.len() - 15].to_owned();
    client.subscribe("private-a", None).await;
    assert_eq!(client.next().await["event"], "pusher:subscription_error");
    client.id = id;
    client.subscribed("private-a", None).await;
    janus.shutdown().await;
}

#[tokio::test]
async fn a_whole_batch_of_escaped_data_is_taken() {
    let janus = start(|builder| builder).await;
    let data = "\u{1}".repeat(10 * 1024);
    let event = json!({ "name": "greeting", "channel": "news", "data": data });
    let batch = json!({ "batch": vec![event; 10] });
    assert_eq!(post(&janus, "/apps/3/batch_events", &batch).await, "200");
    janus.shutdown().await;
}

#[tokio::test]
async fn refused_subscriptions_take_no_room_from_later_ones() {
    let janus = start(|builder| builder).await;
    let mut client = Client::connect(&janus).await;
    for number in 0..4 {
        client.subscribed(&format!("news-{number}"), None).await;
    }
    for number in 0..4 {
        client.subscribe(&format!("private-{number}"), None).await;
        assert_eq!(client.next().await["event"], "pusher:subscription_error");
    }
    client.send(json!({ "event": "pusher:unsubscribe", "data": { "channel": "news-0" } })).await;
    client.subscribed("private-4", None).await;
    janus.shutdown().await;
}

// The order that docs/PUSHER.md names.
#[tokio::test]
async fn the_last_message_comes_before_the_members_of_a_presence_cache_channel() {
    let janus = start(|builder| builder).await;
    let mut events = Vec::new();
    for user in [r#"{"user_id":"1"}"#, r#"{"user_id":"2"}"#] {
        let mut client = Client::connect(&janus).await;
        client.subscribe("presence-cache-a", Some(user)).await;
        for _ in 0..2 {
            events.push(client.next().await["event"].as_str().unwrap().to_owned());
        }
        janus.publish("pusher-presence-cache:presence-cache-a", "kept").await.unwrap();
    }
    let members = "pusher_internal:subscription_succeeded";
    assert_eq!(events, ["pusher:cache_miss", members, "message", members]);
    janus.shutdown().await;
}

#[tokio::test]
async fn a_client_beyond_its_channels_is_refused_and_served_on() {
    let janus = start(|builder| builder).await;
    let mut client = Client::connect(&janus).await;
    for number in 0..4 {
        client.subscribed(&format!("news-{number}"), None).await;
    }
    client.subscribe("one-more", None).await;
    let refused = client.next().await;
    assert_eq!((&refused["event"], &refused["channel"]), (&json!("pusher:subscription_error"), &json!("one-more")));
    client.send(json!({ "event": "pusher:unsubscribe", "data": { "channel": "news-0" } })).await;
    client.subscribed("one-more", None).await;
    client.subscribe("one-more", None).await;
    assert_eq!(client.next().await["data"]["message"], "Existing subscription to channel one-more");
    janus.shutdown().await;
}

/// Knows no client, and allows every topic, as most hooks do that only care who connects.
struct Welcome;

impl Hooks for Welcome {
    async fn authenticate(&self, _: ConnectRequest) -> Result<Identity, Denied> {
        Ok(Identity::user("native"))
    }
}

/// Knows no client, and lets each do what no rule is about, as a server does that only tells a backend of its clients.
struct Unasked;

impl Hooks for Unasked {
    async fn authenticate(&self, _: ConnectRequest) -> Result<Identity, Denied> {
        Ok(Identity::anonymous().may_subscribe(true).may_publish(true))
    }
}

/// Grants each client every topic by a pattern, as tokens of a server do that has no other rule.
struct Wide(&'static str);

impl Hooks for Wide {
    async fn authenticate(&self, _: ConnectRequest) -> Result<Identity, Denied> {
        let all = Patterns::new([self.0, "*"]).unwrap();
        Ok(Identity::user("native").subscribe(all.clone()).publish(all))
    }
}

/// A backend of the application, as a client with a grant that names its channels.
struct Named;

impl Hooks for Named {
    async fn authenticate(&self, _: ConnectRequest) -> Result<Identity, Denied> {
        let channels = Patterns::new(["pusher:**"]).unwrap();
        Ok(Identity::user("backend").subscribe(channels.clone()).publish(channels))
    }
}

/// Keeps everybody out.
struct Closed;

impl Hooks for Closed {
    async fn authenticate(&self, _: ConnectRequest) -> Result<Identity, Denied> {
        Err(Denied::new("a token is required"))
    }
}

/// The answer to a native client's request about a topic.
async fn native(janus: &Janus, request: Value) -> Value {
    let mut client = Client::at(janus, "/ws").await;
    client.send(json!({ "type": "hello" })).await;
    client.next().await;
    client.send(request).await;
    client.next().await
}

#[tokio::test]
async fn clients_of_other_protocols_do_not_reach_the_channels() {
    let asked = start(|builder| builder.hooks(Welcome)).await;
    let unasked = start(|builder| builder.hooks(Unasked)).await;
    let (all, first) =
        (start(|builder| builder.hooks(Wide("**"))).await, start(|builder| builder.hooks(Wide("*:**"))).await);
    for janus in [start(|builder| builder).await, asked, unasked, all, first] {
        for topic in ["pusher:private-a", "pusher:news", "pusher-presence:presence-a", "pusher-cache:cache-a"] {
            let answer = native(&janus, json!({ "type": "subscribe", "topic": topic, "id": 1 })).await;
            assert_eq!((&answer["type"], &answer["error"]), (&json!("error"), &json!("forbidden")), "{answer}");
        }
        let publish = json!({ "type": "publish", "topic": "pusher:news", "data": 1, "ack": true, "id": 1 });
        assert_eq!(native(&janus, publish).await["error"], "forbidden");
        let answer = native(&janus, json!({ "type": "subscribe", "topic": "news", "id": 1 })).await;
        assert_eq!(answer["type"], "subscribed", "{answer}");
        janus.shutdown().await;
    }
}

#[tokio::test]
async fn a_client_whose_grant_names_the_channels_reaches_them() {
    let janus = start(|builder| builder.hooks(Named)).await;
    let subscribe = json!({ "type": "subscribe", "topic": "pusher:private-a", "id": 1 });
    assert_eq!(native(&janus, subscribe).await["type"], "subscribed");
    let publish = json!({ "type": "publish", "topic": "pusher:private-a", "data": 1, "ack": true, "id": 1 });
    assert_eq!(native(&janus, publish).await["type"], "published");
    let elsewhere = json!({ "type": "subscribe", "topic": "pusher-presence:presence-a", "id": 1 });
    assert_eq!(native(&janus, elsewhere).await["error"], "forbidden");
    janus.shutdown().await;
}

#[tokio::test]
async fn a_client_of_pusher_needs_no_token_and_reaches_no_other_topic() {
    let janus = start(|builder| builder.hooks(Closed)).await;
    let mut client = Client::connect(&janus).await;
    client.subscribed("news", None).await;
    for channel in ["pusher:news", "chat:lobby", "*", "a/b"] {
        client.subscribe(channel, None).await;
        assert_eq!(client.next().await["event"], "pusher:subscription_error", "{channel}");
    }
    assert_eq!(janus.topics().len(), 1);
    janus.shutdown().await;
}

#[tokio::test]
async fn a_user_sent_away_stays_away_and_other_users_of_that_name_stay() {
    let janus = start(|builder| builder.hooks(Welcome)).await;
    let (mut alice, mut bob) = (Client::connect(&janus).await, Client::connect(&janus).await);
    alice.sign_in("native").await;
    bob.sign_in("bob").await;
    assert_eq!(janus.disconnect_user("native", false), 0, "no client of Pusher");
    assert_eq!(janus.disconnect_user("pusher:native", false), 1);
    assert_eq!(alice.end().await, (json!(4009), 4009));
    bob.subscribed("news", None).await;
    janus.shutdown().await;
}

#[tokio::test]
async fn a_stranger_is_refused_before_the_body_is_read() {
    let janus = start(|builder| builder).await;
    for (target, status) in [
        ("/apps/3/events?auth_key=278d425bdf160c739803&auth_timestamp=1&auth_version=1.0&auth_signature=00", "401"),
        ("/apps/3/events", "401"),
        ("/apps/4/events", "404"),
    ] {
        let mut stranger = TcpStream::connect(janus.local_addrs()[0]).await.unwrap();
        // The body never comes.
        let head = format!("POST {target} HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n");
        stranger.write_all(head.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        tokio::time::timeout(PATIENCE, stranger.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(&answer[9..], status.as_bytes(), "{target}");
    }
    janus.shutdown().await;
}

#[tokio::test]
async fn a_drain_sends_clients_back_at_once() {
    let janus = start(|builder| builder).await;
    let mut client = Client::connect(&janus).await;
    client.subscribed("news", None).await;
    let ((number, close), _) = tokio::join!(client.end(), janus.shutdown());
    assert_eq!((number, close), (json!(4200), 4200));
}

#[tokio::test]
async fn hostile_frames_end_their_own_connection_alone() {
    let janus = start(|builder| builder).await;
    let mut victim = Client::connect(&janus).await;
    victim.subscribed("news", None).await;
    let limit = janus.config().max_frame_bytes;
    for (frame, close) in [
        (Frame::text("not JSON"), 4010),
        (Frame::text("[".repeat(limit)), 4010),
        (Frame::binary(&b"{}"[..]), 1003),
        (Frame::text("x".repeat(limit + 1)), 1009),
    ] {
        let mut attacker = Client::connect(&janus).await;
        attacker.socket.send(frame).await.unwrap();
        assert_eq!(attacker.end().await.1, close);
    }
    // Deep data in a message is data like any other, as long as it is JSON.
    let mut deep = Client::connect(&janus).await;
    deep.subscribed("private-a", None).await;
    let nested = format!("{}{}", "[".repeat(4_000), "]".repeat(4_000));
    let event = format!("{{\"event\":\"client-deep\",\"channel\":\"private-a\",\"data\":{nested}}}");
    deep.socket.send(Frame::text(event)).await.unwrap();
    deep.send(json!({ "event": "pusher:ping", "data": {} })).await;
    while deep.next().await["event"] != "pusher:pong" {}
    janus.publish("pusher:news", "still here").await.unwrap();
    assert_eq!(victim.next().await["data"], "still here");
    janus.shutdown().await;
}

// A publisher that is told 400 publishes again: nothing may have gone out.
#[tokio::test]
async fn an_event_that_is_refused_reaches_nobody() {
    let janus = start(|builder| builder).await;
    let mut client = Client::connect(&janus).await;
    client.subscribed("news", None).await;
    client.subscribed("presence-a", Some(r#"{"user_id":"1"}"#)).await;
    let event = |channel: &str, info: &str| json!({ "name": "lost", "channel": channel, "data": "1", "info": info });
    let forged = json!({ "name": "pusher_internal:member_added", "channel": "presence-a", "data": "1" });
    let (counted, plain) = (event("presence-a", "user_count"), event("news", ""));
    let both = json!({ "name": "lost", "channels": ["presence-a", "news"], "data": "1", "info": "user_count" });
    for (path, body) in [
        ("/apps/3/events", event("news", "user_count")),
        ("/apps/3/events", both),
        ("/apps/3/batch_events", json!({ "batch": [plain, counted, event("news", "user_count")] })),
        ("/apps/3/events", json!({ "name": "pusher:error", "channel": "news", "data": "1" })),
        ("/apps/3/batch_events", json!({ "batch": [plain, forged] })),
    ] {
        assert_eq!(post(&janus, path, &body).await, "400", "{body}");
    }
    assert_eq!(post(&janus, "/apps/3/events", &counted).await, "200");
    let told = client.next().await;
    assert_eq!((&told["event"], &told["channel"]), (&json!("lost"), &json!("presence-a")));
    janus.publish("pusher:news", "the next").await.unwrap();
    assert_eq!(client.next().await["data"], "the next");
    janus.shutdown().await;
}
