//! Tests of requests: bodies, parameters, the key, and the places that requests take.

use janus_core::wire::ErrorCode;

use super::super::routes::{ROUTES, Served};
use super::*;

#[tokio::test]
async fn a_whole_number_is_accepted_in_every_json_notation() {
    let server = serve(&settings()).await;
    server.janus.publish("news", &1).await.unwrap();
    let history =
        async |limit: &str| server.post("/api/history", format!(r#"{{"topic":"news","limit":{limit}}}"#)).await;
    for limit in ["1", "1.0", "1e0", "null", "1e3"] {
        assert_eq!(history(limit).await.status, 200, "{limit}");
    }
    for limit in ["0", "1.5", "-1", "-1.0", "10001", "1e300", "9007199254740992", "18446744073709551616", "\"1\""] {
        assert_eq!((history(limit).await.status, &*history(limit).await.error().0), (400, "bad_request"), "{limit}");
    }
    for query in ["limit=%2B5", "limit=5.0", "limit=", "limit=5%0A", "after=%2B5", "after=99999999999999999"] {
        assert_eq!(server.get(&format!("/api/connections?{query}")).await.status, 400, "{query}");
    }
}

#[tokio::test]
async fn a_parameter_is_refused_on_paths_without_parameters() {
    let server = serve(&settings()).await;
    let answer = server.post("/api/publish?topic=news", r#"{"topic":"news","data":1}"#).await;
    assert_eq!((answer.status, &*answer.error().0), (400, "bad_request"));
    assert!(server.janus.topics().is_empty());
    assert_eq!(server.get("/api/openapi.json?version=2").await.error().0, "bad_request");
    assert_eq!(server.get("/api/topics?").await.status, 200);
    assert_eq!(server.get("/api/openapi.json?").await.status, 200);
}

#[tokio::test]
async fn a_mistake_in_a_body_is_reported_with_its_place() {
    let server = serve(&settings()).await;
    for (body, code, parts) in [
        ("", "bad_json", &["line 1 column 0"][..]),
        ("{\"topic\":\n  oops}", "bad_json", &["line 2 column 3"]),
        (r#"{"topic":"a","data":1}x"#, "bad_json", &["column 23"]),
        (r#"{"topic":"a"}"#, "bad_request", &["missing field `data`"]),
        (r#"{"topic":1,"data":1}"#, "bad_request", &["expected a string", "column 10"]),
        (r#"{"topic":"a","data":1,"extra":2}"#, "bad_request", &["unknown field `extra`"]),
        (r#"{"topic":"a","topic":"b","data":1}"#, "bad_request", &["duplicate field `topic`"]),
        (r#"{"topic":"","data":1}"#, "bad_topic", &["empty"]),
        (r#" ["a","","",1]"#, "bad_request", &["expected an object"]),
    ] {
        let answer = server.post("/api/publish", body).await;
        let (actual, message) = answer.error();
        assert_eq!((answer.status, &*actual), (400, code), "{body}: {message}");
        assert!(parts.iter().all(|part| message.contains(part)), "{body}: {message}");
    }
    let answer =
        server.send(&[b"POST /api/publish HTTP/1.1\r\nHost: a\r\n", b"Content-Length: 1\r\n\r\n", b"\xff"]).await;
    assert_eq!(answer.status, 403, "a request with a foreign Host is refused before its body is read: {answer:?}");
}

#[tokio::test]
async fn a_revocation_names_a_user_or_a_token_and_a_time_to_come() {
    let mut settings = settings();
    settings.core.max_revocations = 2;
    let server = serve(&settings).await;
    for body in [
        r#"{"until":4000000000}"#,
        r#"{"user":"alice"}"#,
        r#"{"user":"alice","jti":"1","until":4000000000}"#,
        r#"{"user":"","until":4000000000}"#,
        r#"{"user":"alice","until":1}"#,
        r#"{"user":"alice","until":"tomorrow"}"#,
    ] {
        let answer = server.post("/api/revoke", body).await;
        assert_eq!((answer.status, &*answer.error().0), (400, "bad_request"), "{body}: {answer:?}");
    }
    for body in [r#"{"user":"alice","until":4000000000}"#, r#"{"jti":"1","until":4000000000.0}"#] {
        assert_eq!(server.post("/api/revoke", body).await.json(), json!({"closed": 0}), "{body}");
    }
    let full = server.post("/api/revoke", r#"{"user":"bob","until":4000000000}"#).await;
    assert_eq!((full.status, &*full.error().0), (503, "too_many_revocations"), "{full:?}");
    let again = server.post("/api/revoke", r#"{"user":"alice","until":4000000001}"#).await;
    assert_eq!(again.status, 200, "an entry needs no second place");
}

#[tokio::test]
async fn a_reload_with_a_body_is_refused() {
    let server = serve_file("max_topics = 7\n").await;
    let answer = server.send_to_admin(&post("/api/reload", &[], r#"{"max_topics":8}"#)).await;
    assert_eq!((answer.status, &*answer.error().0), (400, "bad_request"), "{answer:?}");
    let answer = server.send_to_admin(&post("/api/reload", &[], "")).await;
    assert_eq!((answer.status, &answer.json()["applied"]), (200, &serde_json::json!(["max_topics"])), "{answer:?}");
}

#[tokio::test]
async fn an_unknown_path_or_method_is_answered_with_a_hint() {
    let server = serve(&settings()).await;
    for path in ["/api", "/api/publish/", "/ws/", "/favicon.ico"] {
        let answer = server.get(path).await;
        assert_eq!((answer.status, &*answer.error().0), (404, "unknown_path"));
        assert!(answer.error().1.contains("/api/openapi.json"), "{answer:?}");
    }
    let root = server.get("/").await;
    for place in ["/ws", "/events?topic=", "/api/openapi.json", "admin_listen"] {
        assert!(root.status == 404 && root.error().1.contains(place), "{root:?}");
    }
    for (path, method, served, _) in ROUTES {
        let answer = server.send(&[&request("PATCH", path, &[], "")]).await;
        let of_admin = server.send_to_admin(&request("PATCH", path, &[], "")).await;
        if *served == Served::Admin {
            assert_eq!((answer.status, &*answer.error().0), (404, "unknown_path"), "{path}");
            assert!(answer.error().1.contains("admin_listen"), "{answer:?}");
        }
        for answer in [of_admin].iter().chain((*served == Served::Everywhere).then_some(&answer)) {
            assert_eq!((answer.status, &*answer.error().0), (405, "method_not_allowed"), "{path}");
            let allow = answer.head.split("\r\nallow: ").nth(1).and_then(|rest| rest.split("\r\n").next()).unwrap();
            let method = method.as_str().to_ascii_lowercase();
            assert!(allow.split(", ").any(|allowed| allowed == method), "{answer:?}");
            assert_eq!(allow.contains("head"), allow.contains("get"), "{answer:?}");
        }
    }
}

#[tokio::test]
async fn without_the_key_no_request_is_carried_out() {
    let server = serve(&Settings { api_key: ApiKey::new(KEY), ..settings() }).await;
    let body = r#"{"topic":"news","data":1}"#;
    for headers in [&[][..], &[("Authorization", "Bearer wrong-horse-battery")]] {
        let answer = server.send(&[&post("/api/publish", headers, body)]).await;
        assert_eq!((answer.status, &*answer.error().0), (401, ErrorCode::Unauthorized.as_str()));
        assert!(answer.head.contains("\r\nwww-authenticate: bearer\r\n"), "{answer:?}");
        assert!(!answer.body.contains(KEY));
    }
    assert!(server.janus.topics().is_empty());
    let shown = format!("Bearer {KEY}");
    let answer = server.send(&[&post("/api/publish", &[("Authorization", &shown)], body)]).await;
    assert_eq!((answer.status, &answer.json()["seq"]), (200, &json!(1)));
    assert!(!format!("{:?}", server.api).contains(KEY));
}

/// Sends a request, reads the answer to its end, and leaves the client's side of the connection open.
async fn ask_and_stay(server: &Server, request: &[u8]) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    (stream, answer)
}

#[tokio::test]
async fn answered_clients_that_stay_connected_take_no_places() {
    let server = serve(&Settings { api_key: ApiKey::new(KEY), max_api_connections: 1, ..settings() }).await;
    let shown = format!("Bearer {KEY}");
    let mut staying = Vec::new();
    let mut lingering = None;
    for round in 0..5 {
        if round == 3 {
            // With all lingering places taken, connections are closed at once, but still with their answers.
            lingering = Some(server.api.lingering.acquire_many(MAX_LINGERING as u32).await.unwrap());
        }
        for (headers, status) in [(&[][..], "401"), (&[("Authorization", &*shown)], "200")] {
            let (stream, answer) = ask_and_stay(&server, &get("/api/topics", headers)).await;
            assert_eq!(answer.split(' ').nth(1), Some(status), "{answer}");
            staying.push(stream);
        }
    }
    drop((lingering, staying));
}

#[tokio::test]
async fn clients_without_the_key_take_no_places_of_clients_with_the_key() {
    let server = serve(&Settings { api_key: ApiKey::new(KEY), max_api_connections: 1, ..settings() }).await;
    let shown = format!("Bearer {KEY}");
    let keyed = get("/api/topics", &[("Authorization", &shown)]);
    // All places for refusals are taken, as if by clients reading slowly.
    let refusals = Arc::clone(&server.api.refusals).acquire_many_owned(MAX_REFUSALS as u32).await.unwrap();
    assert_eq!(server.send(&[&keyed]).await.status, 200);
    for target in ["/api/topics", "/api/openapi.json", "/nothing"] {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(&get(target, &[])).await.unwrap();
        let mut answer = Vec::new();
        // The connection may end with a reset.
        let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
        assert_eq!(answer, b"", "a further connection is closed without an answer");
    }
    drop(refusals);
    // With the only place taken, clients without the key still get their refusal, not "try again".
    let _place = server.api.places.take().unwrap();
    assert_eq!(server.send(&[&keyed]).await.status, 503);
    assert_eq!(server.get("/api/topics").await.status, 401);
    assert_eq!(server.get("/api/openapi.json").await.status, 200);
}

#[tokio::test]
async fn a_request_split_anywhere_gets_the_same_answer() {
    let server = serve(&settings()).await;
    let request = post("/api/publish", &[("Connection", "keep-alive")], r#"{"topic":"plain:a","data":1}"#);
    for at in (1..request.len()).step_by(7) {
        let answer = server.send(&[&request[..at], &request[at..]]).await;
        assert_eq!(answer.status, 200, "cut at {at}: {answer:?}");
    }
    let chunked = [&b"7\r\n{\"topic\r\n"[..], b"15\r\n\":\"plain:a\",\"data\":1}\r\n0\r\n\r\n"];
    let head = request_head_of_chunks();
    assert_eq!(server.send(&[&head, chunked[0], chunked[1]]).await.status, 200);
}

#[tokio::test]
async fn malformed_chunks_are_bad_frames_and_early_ends_unfinished_frames() {
    let server = serve(&settings()).await;
    let head = request_head_of_chunks();
    for chunks in [
        "x\r\n{}\r\n0\r\n\r\n",
        "-2\r\n{}\r\n0\r\n\r\n",
        "\r\n{}\r\n0\r\n\r\n",
        "2 2\r\n{}\r\n0\r\n\r\n",
        "2\r\n{}0\r\n\r\n",
        "2\rx{}\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\n{}\r\n0\r\n\r\n",
        "2\r\n{}\r\n0\r\n\rx",
    ] {
        let answer = server.send(&[&head, chunks.as_bytes()]).await;
        let (code, message) = answer.error();
        assert_eq!((answer.status, &*code), (400, ErrorCode::BadFrame.as_str()), "{chunks:?}: {message}");
        assert!(message.contains("chunk"), "{chunks:?}: {message}");
    }
    for unfinished in ["", "2", "2\r\n{", "2\r\n{}\r\n0\r\n"] {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(&[&head, unfinished.as_bytes()].concat()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("unfinished_frame"), "{unfinished:?}: {answer}");
    }
}

fn request_head_of_chunks() -> Vec<u8> {
    request("POST", "/api/publish", &[("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")], "")
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_before_the_read() {
    let server = serve(&settings()).await;
    let limit = server.api.max_body_bytes();
    let refused = |answer: Answer| assert_eq!((answer.status, &*answer.error().0), (413, "frame_too_large"));
    let large = " ".repeat(limit + 1);
    refused(server.send(&[&post("/api/publish", &[], &large)]).await);
    let head =
        request("POST", "/api/publish", &[("Content-Type", "application/json"), ("Content-Length", "999999999")], "");
    refused(server.send(&[&head]).await);
    let chunks = format!("{:x}\r\n{large}\r\n0\r\n\r\n", large.len());
    refused(server.send(&[&request_head_of_chunks(), chunks.as_bytes()]).await);
    let json = r#"{"topic":"plain:a","data":1}"#;
    let fits = [json, &" ".repeat(limit - json.len())].concat();
    assert_eq!(server.post("/api/publish", fits).await.status, 200);
}

#[tokio::test]
async fn a_client_that_shuts_down_its_write_side_still_gets_its_answer() {
    let server = serve(&settings()).await;
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(&get("/api/topics", &[])).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn a_second_request_on_a_connection_is_not_answered() {
    let server = serve(&settings()).await;
    let both = [get("/api/topics", &[("Connection", "keep-alive")]), get("/events?topic=news", &[])].concat();
    let answer = server.send(&[&both]).await;
    assert_eq!(answer.status, 200);
    assert!(!answer.body.contains("HTTP/1.1"), "{answer:?}");
}

#[tokio::test]
async fn places_are_freed_after_their_requests() {
    let server = serve(&Settings { max_api_connections: 2, ..settings() }).await;
    for _ in 0..10 {
        assert_eq!(server.get("/api/topics").await.status, 200);
        until("the place to be free", || server.api.free_places() == 2).await;
    }
    timeout(PATIENCE, server.api.finish()).await.unwrap();
}
