//! Algorithms × mistakes × transports.

use janus_access::tokens::{Algorithm, Keys, NewToken, Rules, SigningKey, TokenHooks, Tokens, WithoutToken};
use janus_core::{Config, Namespace};
use serde_json::json;

use super::{Socket, now, serve, token};
use crate::http::Http;
use crate::support::Client;

/// A kind of token, made with the server's key and a wrong key, and the code of the refusal.
type Case = (&'static str, fn(&SigningKey, &SigningKey) -> String, Option<&'static str>);

fn signed(key: &SigningKey, change: fn(NewToken) -> NewToken) -> String {
    let good = NewToken::new("alice").claim("aud", "push.example").subscribe(["news"]).claim("exp", now() + 3_600);
    key.sign(&change(good)).unwrap()
}

/// A token whose header has another algorithm.
fn renamed(token: &str, algorithm: &str) -> String {
    let (_, rest) = token.split_once('.').unwrap();
    let header = json!({"alg": algorithm}).to_string();
    format!("{}.{rest}", data_encoding::BASE64URL_NOPAD.encode(header.as_bytes()))
}

fn patterns(token: NewToken, count: usize) -> NewToken {
    token.subscribe((0..count).map(|number| format!("topic:{number}")).chain(["news".to_owned()]))
}

const CASES: [Case; 13] = [
    ("good", |key, _| signed(key, |token| token), None),
    ("99 patterns and the topic", |key, _| signed(key, |token| patterns(token, 99)), None),
    ("101 patterns", |key, _| signed(key, |token| patterns(token, 100)), Some("unauthorized")),
    ("a bad pattern", |key, _| signed(key, |token| token.subscribe(["news", "a:b*"])), Some("unauthorized")),
    ("expired", |key, _| signed(key, |token| token.claim("exp", now() - 1)), Some("token_expired")),
    ("not yet", |key, _| signed(key, |token| token.claim("nbf", now() + 600)), Some("unauthorized")),
    ("no end", |key, _| signed(key, |token| token.claim("exp", json!(null))), Some("unauthorized")),
    ("wrong key", |_, wrong| signed(wrong, |token| token), Some("unauthorized")),
    ("wrong aud", |key, _| signed(key, |token| token.claim("aud", "mail.example")), Some("unauthorized")),
    ("none", |key, _| renamed(&signed(key, |token| token), "none"), Some("unauthorized")),
    (
        "HS with the text of the key",
        |key, _| {
            let line = format!("HS256 {}", data_encoding::BASE64.encode(key.public_text().as_bytes()));
            let forged = SigningKey::parse(line.as_bytes()).unwrap();
            renamed(&signed(&forged, |token| token), key.algorithm().name())
        },
        Some("unauthorized"),
    ),
    ("9 KiB", |key, _| signed(key, |token| token.claim("fill", "x".repeat(6_900))), Some("unauthorized")),
    ("no token", |_, _| "nonsense".to_owned(), Some("unauthorized")),
];

fn verifier(keys: &[SigningKey]) -> Tokens {
    let set = keys.iter().flat_map(|key| {
        let text = key.public_text();
        let secret =
            text.strip_prefix("HS256 ").map(|secret| data_encoding::BASE64.decode(secret.trim().as_bytes()).unwrap());
        match secret {
            Some(secret) => janus_access::tokens::Key::hs256(&secret),
            None => {
                let der: String = text.lines().filter(|line| !line.starts_with('-')).collect();
                janus_access::tokens::Key::from_der(&data_encoding::BASE64.decode(der.as_bytes()).unwrap())
            }
        }
    });
    let mut rules = Rules::default();
    rules.audience = Some("push.example".to_owned());
    Tokens::new(rules, Keys::new(set).unwrap())
}

#[tokio::test]
async fn each_transport_serves_good_tokens_and_names_the_code_of_bad_ones() {
    let keys = Algorithm::ALL.map(|algorithm| SigningKey::generate(algorithm).unwrap());
    let wrong = Algorithm::ALL.map(|algorithm| SigningKey::generate(algorithm).unwrap());
    let (janus, classic, http) = serve(TokenHooks::new(verifier(&keys)), Config::default()).await;
    for (key, wrong) in keys.iter().zip(&wrong) {
        for (name, make, refused) in CASES {
            let (token, about) = (make(key, wrong), format!("{}: {name}", key.algorithm()));
            let (_socket, answer) = Socket::hello(http, Some(&token)).await;
            let code = (answer["type"] != "welcome").then(|| answer["error"].as_str().unwrap());
            assert_eq!(code, refused, "{about}, hello: {answer}");

            let bearer = format!("Bearer {token}");
            let mut socket = Socket::connect(http, "/ws", &[("authorization", &bearer)]).await;
            let answer = socket.ask(json!({"type": "hello"})).await;
            let code = (answer["type"] != "welcome").then(|| answer["error"].as_str().unwrap());
            assert_eq!(code, refused, "{about}, header of a WebSocket: {answer}");

            let request = format!("GET /events?topic=news HTTP/1.1\r\nHost: {http}\r\nAuthorization: {bearer}\r\n\r\n");
            let mut stream = Http::send(http, request).await;
            let head = stream.up_to("\r\n\r\n").await;
            match refused {
                None => assert!(head.starts_with("HTTP/1.1 200 "), "{about}, event stream: {head}"),
                Some(code) => {
                    assert!(head.starts_with("HTTP/1.1 401 "), "{about}, event stream: {head}");
                    let body = stream.read_to_end().await;
                    assert!(body.contains(&format!("\"{code}\"")), "{about}, event stream: {body}");
                }
            }

            let mut client = Client::connect_silently(classic).await;
            client.send(format!("{}\0", json!({"action": "auth", "data": token}))).await;
            let answer = client.json().await;
            let code = answer["error"]["code"].as_str();
            assert_eq!(code, refused, "{about}, classic: {answer}");
        }
    }
    janus.shutdown().await;
}

#[tokio::test]
async fn two_users_see_different_topics() {
    let keys = [SigningKey::generate(Algorithm::EdDsa).unwrap()];
    let tokens = Tokens::new(Rules::default(), Keys::parse(keys[0].public_text().as_bytes()).unwrap());
    let (janus, _, http) = serve(TokenHooks::new(tokens), Config::default()).await;
    for (user, other) in [("alice", "bob"), ("bob", "alice")] {
        let token = token(&keys[0], user, &["news", &format!("user:{user}:**")]);
        let (mut socket, welcome) = Socket::hello(http, Some(&token)).await;
        assert_eq!(welcome["type"], "welcome", "{welcome}");
        for topic in ["news".to_owned(), format!("user:{user}:inbox"), format!("user:{user}:a:b")] {
            let answer = socket.ask(json!({"type": "subscribe", "topic": topic})).await;
            assert_eq!(answer["type"], "subscribed", "{user}, {topic}: {answer}");
        }
        for topic in [format!("user:{other}:inbox"), format!("user:{user}"), "sport".to_owned()] {
            let answer = socket.ask(json!({"type": "subscribe", "topic": topic})).await;
            assert_eq!(answer["error"], "forbidden", "{user}, {topic}: {answer}");
        }
        let answer = socket.ask(json!({"type": "publish", "topic": "news", "data": 1})).await;
        assert_eq!(answer["error"], "forbidden", "a token without janus.publish: {answer}");
    }
    janus.shutdown().await;
}

#[tokio::test]
async fn a_client_without_a_token_is_refused_or_sees_public_topics() {
    let key = SigningKey::generate(Algorithm::Hs256).unwrap();
    let tokens = || Tokens::new(Rules::default(), Keys::parse(key.public_text().as_bytes()).unwrap());
    let (janus, _, http) = serve(TokenHooks::new(tokens()), Config::default()).await;
    let (_, bye) = Socket::hello(http, None).await;
    assert_eq!(bye["error"], "unauthorized", "{bye}");
    janus.shutdown().await;

    let public = Namespace { anonymous_subscribe: true, ..Namespace::default() };
    let config =
        Config { namespaces: [("public".to_owned(), public)].into(), allow_publish: true, ..Config::default() };
    let hooks = TokenHooks::new(tokens()).without_token(WithoutToken::Anonymous);
    let (janus, _, http) = serve(hooks, config).await;
    let (mut socket, welcome) = Socket::hello(http, None).await;
    assert_eq!(welcome["type"], "welcome", "{welcome}");
    assert_eq!(socket.ask(json!({"type": "subscribe", "topic": "public:news"})).await["type"], "subscribed");
    assert_eq!(socket.ask(json!({"type": "subscribe", "topic": "news"})).await["error"], "forbidden");
    assert_eq!(socket.ask(json!({"type": "publish", "topic": "public:news", "data": 1})).await["error"], "forbidden");
    janus.shutdown().await;
}

#[tokio::test]
async fn cookies_and_queries_carry_tokens_where_the_operator_says_so() {
    let key = SigningKey::generate(Algorithm::Hs256).unwrap();
    let token = token(&key, "alice", &["news"]);
    let tokens = Tokens::new(Rules::default(), Keys::parse(key.public_text().as_bytes()).unwrap());
    let hooks = TokenHooks::new(tokens).cookie("token", ["https://app.example"]).query(true);
    let config = Config { allowed_origins: vec!["https://app.example".to_owned()], ..Config::default() };
    let (janus, _, http) = serve(hooks, config).await;
    let events = async |target: &str, headers: &str| {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {http}\r\n{headers}\r\n");
        Http::send(http, request).await.up_to("\r\n\r\n").await[9..12].to_owned()
    };
    let cookie = format!("Cookie: token={token}\r\n");
    assert_eq!(events("/events?topic=news", &format!("{cookie}Origin: https://app.example\r\n")).await, "200");
    assert_eq!(events("/events?topic=news", &format!("{cookie}Sec-Fetch-Site: same-origin\r\n")).await, "200");
    assert_eq!(events("/events?topic=news", &cookie).await, "401", "no page is named");
    assert_eq!(events(&format!("/events?topic=news&access_token={token}"), "").await, "200");
    let mut socket = Socket::connect(http, &format!("/ws?access_token={token}"), &[]).await;
    assert_eq!(socket.ask(json!({"type": "hello"})).await["type"], "welcome");
    janus.shutdown().await;
}
