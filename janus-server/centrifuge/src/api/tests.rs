//! The methods, over real sockets.

use std::time::Duration;

use janus_core::hooks::{ConnectRequest, Denied, Hooks, Identity};
use janus_core::testing::TestServer;
use janus_core::{Config, Janus, Namespace, Presence};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

const KEY: &str = "a key of the backend";

async fn serve() -> Janus {
    let default_namespace = Namespace { history: true, presence: Presence::Members, ..Namespace::default() };
    let http_listen = vec!["127.0.0.1:0".parse().unwrap()];
    let config = Config { listen: Vec::new(), http_listen, default_namespace, ..Config::default() };
    let route = ServerApi::with_key(KEY).route("/centrifuge/api").unwrap();
    Janus::builder().config(config).route(route).start().await.unwrap()
}

/// The status and the body of an answer.
async fn post(janus: &Janus, method: &str, header: &str, body: &str) -> (u16, String) {
    let answer = exchange(janus, method, header, body).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}

async fn exchange(janus: &Janus, method: &str, header: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(janus.local_addrs()[0]).await.unwrap();
    let length = body.len();
    let head = format!("POST /centrifuge/api/{method} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
    let request = format!("{head}{header}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn call(janus: &Janus, method: &str, params: Value) -> Value {
    let (status, body) = post(janus, method, &format!("x-api-key: {KEY}"), &params.to_string()).await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

fn code(answer: &Value) -> u64 {
    answer["error"]["code"].as_u64().unwrap_or_else(|| panic!("{answer}"))
}

#[tokio::test]
async fn only_callers_with_the_key_are_served() {
    let janus = serve().await;
    let info = async |header: &str| post(&janus, "info", header, "{}").await.0;
    assert_eq!(info(&format!("x-api-key: {KEY}")).await, 200);
    assert_eq!(info(&format!("authorization: apikey {KEY}")).await, 200);
    assert_eq!(info(&format!("authorization: Bearer {KEY}")).await, 401);
    assert_eq!(info("x-api-key: a key of the backenD").await, 401);
    assert_eq!(info("x-api-key: a").await, 401);
    assert_eq!(info("accept: */*").await, 401);
    assert_eq!(post(&janus, "dance", &format!("x-api-key: {KEY}"), "{}").await.0, 404);
    assert!(!are_equal("", "a") && !are_equal("ab", "a") && are_equal("a", "a"));
    janus.shutdown().await;
}

/// The rule of a server may be that of another API, with words for callers of that API.
#[tokio::test]
async fn a_refused_caller_is_told_the_headers_of_this_api() {
    let authorize = |_: &HttpRequest, shown: Option<&str>, _| match shown {
        Some(_) => Err(HttpError::new(401, "unauthorized", "another key")),
        None => Err(HttpError::new(401, "unauthorized", "send it as Authorization: Bearer KEY")),
    };
    let config = Config { listen: Vec::new(), http_listen: vec!["127.0.0.1:0".parse().unwrap()], ..Config::default() };
    let route = ServerApi::new(authorize).route("/centrifuge/api").unwrap();
    let janus = Janus::builder().config(config).route(route).start().await.unwrap();
    for header in ["authorization: Bearer k", "accept: */*"] {
        let answer = exchange(&janus, "info", header, "{}").await;
        assert!(answer.contains("\r\nwww-authenticate: apikey\r\n"), "{answer}");
        assert!(answer.contains("X-API-Key: KEY, or Authorization: apikey KEY"), "{answer}");
        assert!(!answer.contains("Bearer"), "{answer}");
    }
    let answer = exchange(&janus, "info", "x-api-key: k", "{}").await;
    assert!(answer.contains("\r\nwww-authenticate: apikey\r\n") && answer.contains("another key"), "{answer}");
    janus.shutdown().await;
}

#[tokio::test]
async fn a_stranger_is_refused_before_the_body_is_sent() {
    let janus = serve().await;
    let mut stream = TcpStream::connect(janus.local_addrs()[0]).await.unwrap();
    let head = "POST /centrifuge/api/info HTTP/1.1\r\nhost: localhost\r\nx-api-key: a\r\ncontent-length: 1000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 401");
    janus.shutdown().await;
}

#[tokio::test]
async fn a_message_is_published_and_read_with_its_text_unchanged() {
    let janus = serve().await;
    let (_, body) = post(&janus, "publish", &format!("x-api-key: {KEY}"), r#"{"channel":"a","data":{"p":1.50}}"#).await;
    let receipt: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(receipt["result"]["offset"], 1, "{receipt}");
    call(&janus, "publish", json!({"channel": "a", "b64data": "AP8=", "data": null})).await;
    let (_, body) = post(&janus, "history", &format!("x-api-key: {KEY}"), r#"{"channel":"a","limit":-1}"#).await;
    assert!(
        body.starts_with(r#"{"result":{"publications":[{"offset":1,"data":{"p":1.50}},{"offset":2,"data":"AP8=""#),
        "{body}"
    );
    let epoch = &receipt["result"]["epoch"];
    let top = call(&janus, "history", json!({"channel": "a"})).await;
    assert_eq!(top["result"], json!({"publications": [], "offset": 2, "epoch": epoch}));
    let since = json!({"channel": "a", "limit": 5, "since": {"offset": 2, "epoch": epoch}, "reverse": true});
    assert_eq!(call(&janus, "history", since).await["result"]["publications"][0]["offset"], 1);
    let foreign = json!({"channel": "a", "limit": 5, "since": {"offset": 1, "epoch": "x"}});
    assert_eq!(code(&call(&janus, "history", foreign).await), 112);
    janus.shutdown().await;
}

#[tokio::test]
async fn null_is_a_value() {
    let janus = serve().await;
    let published = call(&janus, "publish", json!({"channel": "a", "data": null})).await;
    assert_eq!(published["result"]["offset"], 1, "{published}");
    call(&janus, "broadcast", json!({"channels": ["a"], "data": null})).await;
    let history = call(&janus, "history", json!({"channel": "a", "limit": 5})).await;
    let publications = json!([{"offset": 1, "data": null}, {"offset": 2, "data": null}]);
    assert_eq!(history["result"]["publications"], publications);
    janus.shutdown().await;
}

#[tokio::test]
async fn a_repeated_message_is_published_once() {
    let janus = serve().await;
    let publish = json!({"channel": "a", "data": 1, "idempotency_key": "k"});
    let first = call(&janus, "publish", publish.clone()).await;
    assert_eq!(call(&janus, "publish", publish).await, first);
    janus.shutdown().await;
}

#[tokio::test]
async fn a_broadcast_answers_for_each_channel() {
    let janus = serve().await;
    let answer = call(&janus, "broadcast", json!({"channels": ["a", "", "b"], "data": 1})).await;
    let responses = answer["result"]["responses"].as_array().unwrap();
    assert_eq!(
        (&responses[0]["result"]["offset"], code(&responses[1]), &responses[2]["result"]["offset"]),
        (&json!(1), 107, &json!(1))
    );
    janus.shutdown().await;
}

#[tokio::test]
async fn channels_members_and_nodes_are_told() {
    let janus = serve().await;
    let _subscribers = [janus.subscribe("chat:a").unwrap(), janus.subscribe("b").unwrap()];
    let channels = call(&janus, "channels", json!({})).await;
    assert_eq!(channels["result"]["channels"], json!({"b": {"num_clients": 1}, "chat:a": {"num_clients": 1}}));
    let channels = call(&janus, "channels", json!({"pattern": "chat:*"})).await;
    assert_eq!(channels["result"]["channels"].as_object().unwrap().len(), 1);
    assert_eq!(code(&call(&janus, "channels", json!({"pattern": "*a*"})).await), 108);
    assert_eq!(call(&janus, "presence", json!({"channel": "b"})).await["result"], json!({"presence": {}}));
    let stats = call(&janus, "presence_stats", json!({"channel": "b"})).await;
    assert_eq!(stats["result"], json!({"num_clients": 0, "num_users": 0}));
    janus.shutdown().await;
}

/// Believes each client's name.
struct Names;

impl Hooks for Names {
    async fn authenticate(&self, request: ConnectRequest) -> Result<Identity, Denied> {
        Ok(Identity::user(request.auth.unwrap_or_default()))
    }
}

#[tokio::test]
async fn a_node_tells_its_clients_users_subscriptions_and_channels() {
    let node = async |janus: &Janus| {
        let info = call(janus, "info", json!({})).await;
        let node = &info["result"]["nodes"][0];
        assert!(node["uptime"].as_u64().is_some(), "{info}");
        ["num_clients", "num_users", "num_subs", "num_channels"].map(|key| node[key].as_u64().unwrap())
    };
    let route = ServerApi::with_key(KEY).route("/centrifuge/api").unwrap();
    let server = TestServer::of(Janus::builder().hooks(Names).route(route)).await;
    let janus = server.janus();
    // Kept without a subscriber, which is no channel; and the caller is no client.
    janus.publish("kept", &1).await.unwrap();
    assert_eq!(node(janus).await, [0, 0, 0, 0]);
    let mut clients = Vec::new();
    for user in ["alice", "alice", "bob"] {
        let mut client = server.connect().auth(user).connect().await;
        client.subscribe("news").await;
        clients.push(client);
    }
    let counted = async { while node(janus).await != [3, 2, 3, 1] {} };
    tokio::time::timeout(Duration::from_secs(20), counted).await.unwrap();
    janus.shutdown().await;
}

#[tokio::test]
async fn a_batch_answers_each_command() {
    let janus = serve().await;
    let commands = json!([
        {"publish": {"channel": "a", "data": 1}},
        {"history": {"channel": "a", "limit": 1}},
        {"subscribe": {"channel": "a", "user": "u"}},
        {"dance": {}},
        {},
    ]);
    let answer = call(&janus, "batch", json!({"commands": commands, "parallel": true})).await;
    let replies = answer["replies"].as_array().unwrap();
    assert_eq!((&replies[0]["publish"]["offset"], &replies[1]["history"]["offset"]), (&json!(1), &json!(1)));
    assert_eq!((code(&replies[2]), code(&replies[3]), code(&replies[4])), (108, 104, 107));
    assert_eq!(code(&call(&janus, "batch", json!({"commands": 7})).await), 107);
    janus.shutdown().await;
}

#[tokio::test]
async fn a_batch_ends_where_its_answers_are_too_long() {
    let janus = serve().await;
    let publish = json!({"publish": {"channel": "a", "data": "x".repeat(1_000)}});
    let history = json!({"history": {"channel": "a", "limit": -1}});
    let commands = json!({"commands": [publish, history, history, publish]}).to_string();
    let mut answer = BytesMut::new();
    batch(&janus, &Served::new(), &commands, 1_500, &mut answer).await;
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    let replies = answer["replies"].as_array().unwrap();
    assert!(replies[1]["history"].is_object() && replies[2]["history"].is_object(), "{answer}");
    assert_eq!(code(&replies[3]), 106);
    assert_eq!(call(&janus, "history", json!({"channel": "a"})).await["result"]["offset"], 1, "not published");
    janus.shutdown().await;
}

#[tokio::test]
async fn topics_without_subscribers_do_not_count_as_channels() {
    let janus = serve().await;
    // More than a page.
    for number in 0..=1_000 {
        janus.publish(&format!("kept:{number}"), &1).await.unwrap();
    }
    let _subscriber = janus.subscribe("kept:zzz").unwrap();
    let channels = call(&janus, "channels", json!({"pattern": "kept:*"})).await;
    assert_eq!(channels["result"]["channels"], json!({"kept:zzz": {"num_clients": 1}}));
    janus.shutdown().await;
}

#[tokio::test]
async fn a_body_of_another_form_is_told_what_is_expected() {
    let janus = serve().await;
    let said = async |method: &str, body: &str| post(&janus, method, &format!("x-api-key: {KEY}"), body).await.1;
    for method in ["presence", "publish", "broadcast", "history", "batch"] {
        for body in ["not json", "[]", "[\"a\"]", "null", "{\"channel\":"] {
            let answer = said(method, body).await;
            assert!(
                answer.contains("\"code\":107") && answer.contains("must be a JSON object"),
                "{method} {body}: {answer}"
            );
        }
    }
    for body in ["", "{}", r#"{"data":1}"#] {
        assert!(said("publish", body).await.contains("missing field `channel`"), "{body}");
    }
    assert!(said("batch", "{}").await.contains("missing field `commands`"));
    assert!(said("batch", r#"{"commands":[{"presence":[]}]}"#).await.contains("must be a JSON object"));
    janus.shutdown().await;
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_not_ignored() {
    let janus = serve().await;
    for (method, params, expected) in [
        ("subscribe", json!({"channel": "a", "user": "u"}), 108),
        ("unsubscribe", json!({"channel": "a", "user": "u"}), 108),
        ("refresh", json!({"user": "u"}), 108),
        ("history_remove", json!({"channel": "a"}), 108),
        ("publish", json!({"channel": "a", "data": 1, "tags": {"a": "b"}}), 108),
        ("publish", json!({"channel": "a", "data": 1, "skip_history": true}), 108),
        ("publish", json!({"channel": "a"}), 107),
        ("publish", json!({"channel": "", "data": 1}), 107),
        ("publish", json!({"channel": "a", "b64data": "?"}), 107),
        ("disconnect", json!({}), 107),
        ("disconnect", json!({"client": "x"}), 107),
        ("disconnect", json!({"user": "u", "whitelist": ["1.2"]}), 108),
    ] {
        assert_eq!(code(&call(&janus, method, params.clone()).await), expected, "{method} {params}");
    }
    // A backend cannot give a connected client another token.
    for method in ["subscribe", "unsubscribe", "refresh"] {
        let refused = call(&janus, method, json!({})).await.to_string();
        assert!(refused.contains("short exp") && !refused.contains("give the client"), "{refused}");
    }
    assert_eq!(call(&janus, "publish", json!({"channel": "a", "data": 1, "tags": {}})).await["error"], Value::Null);
    assert_eq!(call(&janus, "disconnect", json!({"user": "u"})).await, json!({"result": {}}));
    janus.shutdown().await;
}
