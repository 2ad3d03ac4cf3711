use janus_core::{Config, Message};
use serde_json::{Value, json};

use super::*;

async fn instance() -> Janus {
    let namespace = janus_core::Namespace {
        history: true,
        presence: janus_core::Presence::Members,
        ..janus_core::Namespace::default()
    };
    let config = Config { listen: Vec::new(), default_namespace: namespace, ..Config::default() };
    Janus::builder().config(config).start().await.unwrap()
}

async fn ask(api: &Api, method: &str, target: &str, body: &str) -> (u16, Value) {
    let json = [("content-type", &b"application/json"[..])];
    let head = HttpRequest::new(method, target, json);
    let path = target.split('?').next().unwrap();
    let answer = match api.admit(path, head, Some(Operator)) {
        Ok(admitted) => admitted.answer(body.as_bytes().to_vec()).await,
        Err(refusal) => refusal,
    };
    (answer.status, serde_json::from_slice(&answer.body).unwrap())
}

#[tokio::test]
async fn without_an_operator_each_route_is_refused() {
    let janus = instance().await;
    let api = Api::new(&janus);
    for (path, method, _) in ROUTES {
        let head = HttpRequest::new(method, path, [("content-type", &b"application/json"[..])]);
        assert_eq!(api.admit(path, head.clone(), None).unwrap_err().status, 403, "{path}");
        let foreign = [("origin", &b"https://evil.example"[..]), ("host", b"push.example")];
        let foreign = HttpRequest::new(method, path, foreign);
        assert_eq!(api.admit(path, foreign, Some(Operator)).unwrap_err().status, 403, "{path}");
        let other = if method == "GET" { "POST" } else { "GET" };
        let refused = api.admit(path, HttpRequest::new(other, path, []), Some(Operator)).unwrap_err();
        assert_eq!(refused.status, 405, "{path}");
        let allowed = refused.headers.iter().filter(|(name, _)| name == "allow").count();
        assert_eq!(allowed, 1, "{refused:?}");
    }
    janus.shutdown().await;
}

#[tokio::test]
async fn each_route_answers_an_operator() {
    let janus = instance().await;
    let api = Api::new(&janus);
    let (status, receipt) = ask(&api, "POST", "/api/publish", r#"{"topic":"news","data":{"price":1.50}}"#).await;
    assert_eq!((status, &receipt["seq"]), (200, &json!(1)), "{receipt}");
    let (_, history) = ask(&api, "POST", "/api/history", r#"{"topic":"news"}"#).await;
    assert_eq!(history["messages"][0]["data"], json!({"price": 1.5}), "{history}");
    let (_, sent) = ask(&api, "POST", "/api/broadcast", r#"{"topics":["news","quotes"],"data":1}"#).await;
    assert_eq!((&sent["results"][0]["seq"], &sent["results"][1]["seq"]), (&json!(2), &json!(1)), "{sent}");
    let (_, topics) = ask(&api, "GET", "/api/topics?prefix=q", "").await;
    assert_eq!((&topics["topics"][0]["topic"], topics["topics"].as_array().unwrap().len()), (&json!("quotes"), 1));
    for (target, part) in [
        ("/api/presence?topic=news", "members"),
        ("/api/connections", "connections"),
        ("/api/slow", "clients"),
        ("/api/tree", "tree"),
        ("/api/nodes", "nodes"),
        ("/api/stats", "stats"),
    ] {
        let (status, answer) = ask(&api, "GET", target, "").await;
        assert!(status == 200 && answer.get(part).is_some(), "{target}: {status} {answer}");
    }
    let (status, _) = ask(&api, "POST", "/api/revoke", r#"{"user":"alice","until":4000000000}"#).await;
    assert_eq!(status, 200);
    let (_, closed) = ask(&api, "POST", "/api/disconnect", r#"{"user":"alice","reconnect":true}"#).await;
    assert_eq!(closed, json!({"closed": 0}));
    janus.shutdown().await;
}

#[tokio::test]
async fn a_wrong_request_is_told_what_is_expected() {
    let janus = instance().await;
    let api = Api::new(&janus);
    for (method, target, body, status, part) in [
        ("POST", "/api/publish", "[]", 400, "expected an object"),
        ("POST", "/api/publish?x=1", "{}", 400, "accepts no parameters"),
        ("POST", "/api/history", r#"{"topic":"news","limit":0}"#, 400, "1 to 10,000"),
        ("GET", "/api/topics?sort=rate", "", 400, "no samples of rates"),
        ("GET", "/api/topics?limt=5", "", 400, "expected only limit"),
        ("POST", "/api/disconnect", r#"{"connection":9,"reconnect":true}"#, 404, "no such connection"),
        ("GET", "/api/nothing", "", 404, "nothing at this path"),
    ] {
        let (actual, answer) = ask(&api, method, target, body).await;
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(actual == status && message.contains(part), "{target}: {actual} {message}");
    }
    janus.shutdown().await;
}

#[tokio::test]
async fn requests_and_large_answers_have_limits() {
    let janus = instance().await;
    let api = Api::new(&janus).max_requests(1);
    let head = || HttpRequest::new("GET", "/api/topics", []);
    let admitted = api.admit("/api/topics", head(), Some(Operator)).unwrap();
    let refused = api.admit("/api/topics", head(), Some(Operator)).unwrap_err();
    assert_eq!(refused.status, 503);
    assert!(refused.headers.iter().any(|(name, _)| name == "retry-after"), "{refused:?}");
    drop(admitted);
    let api = Api::new(&janus).max_answers_bytes(100);
    janus.publish("news", &"x".repeat(200)).await.unwrap();
    let (status, answer) = ask(&api, "POST", "/api/history", r#"{"topic":"news"}"#).await;
    assert_eq!((status, &answer["error"]["code"]), (503, &json!("too_many_requests")));
    janus.shutdown().await;
}

#[tokio::test]
async fn a_broadcast_without_subscribers_yields_to_other_tasks() {
    let config = Config { listen: Vec::new(), ..Config::default() };
    let janus = Janus::builder().config(config).start().await.unwrap();
    let topics: Vec<String> = (0..1_000).map(|number| format!("plain:{number}")).collect();
    let message = Message::new("plain:0", &"x".repeat(60_000)).unwrap();
    let mut broadcast = std::pin::pin!(publishing::publish_to_all(&janus, &message, &topics));
    let mut turns = 0;
    std::future::poll_fn(|cx| {
        turns += 1;
        broadcast.as_mut().poll(cx)
    })
    .await;
    assert!(turns > 200, "four topics a turn: {turns}");
    janus.shutdown().await;
}
