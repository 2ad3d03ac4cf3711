//! Tests of histories and lists, and of the memory for large answers.

use janus_api::MAX_ANSWER_BYTES;

use super::*;

#[tokio::test]
async fn history_begins_after_the_requested_position() {
    let server = serve(&settings()).await;
    for number in 1..=3 {
        server.janus.publish("news", &number).await.unwrap();
    }
    let all = server.post("/api/history", r#"{"topic":"news"}"#).await.json();
    let data = |history: &Value| -> Vec<(u64, u64)> {
        let pair = |message: &Value| (message["seq"].as_u64().unwrap(), message["data"].as_u64().unwrap());
        history["messages"].as_array().unwrap().iter().map(pair).collect()
    };
    assert_eq!(data(&all), [(1, 1), (2, 2), (3, 3)]);
    assert_eq!((&all["seq"], &all["complete"], &all["more"]), (&json!(3), &json!(true), &json!(false)));
    let since = json!({"topic": "news", "since": {"epoch": all["epoch"], "seq": 1}});
    assert_eq!(data(&server.post("/api/history", since.to_string()).await.json()), [(2, 2), (3, 3)]);
    assert_eq!(data(&server.post("/api/history", r#"{"topic":"news","limit":1}"#).await.json()), [(3, 3)]);
    let cut = json!({"topic": "news", "since": {"epoch": all["epoch"], "seq": 0}, "limit": 2});
    let cut = server.post("/api/history", cut.to_string()).await.json();
    assert_eq!((data(&cut), &cut["complete"], &cut["more"]), (vec![(1, 1), (2, 2)], &json!(true), &json!(true)));
    let rest = json!({"topic": "news", "since": {"epoch": cut["epoch"], "seq": cut["seq"]}, "limit": 2});
    let rest = server.post("/api/history", rest.to_string()).await.json();
    assert_eq!((data(&rest), &rest["complete"], &rest["more"]), (vec![(3, 3)], &json!(true), &json!(false)));
    let strange = r#"{"topic":"news","since":{"epoch":"0123456789abcdef","seq":1}}"#;
    assert_eq!(server.post("/api/history", strange).await.json()["complete"], false);
    for bad in ["123", "0123456789abcdeg", "+123456789abcdef"] {
        let answer =
            server.post("/api/history", format!(r#"{{"topic":"a","since":{{"epoch":"{bad}","seq":1}}}}"#)).await;
        assert!(answer.error().1.contains("16 hexadecimal digits"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_long_history_is_answered_in_parts_of_a_few_megabytes() {
    let mut settings = settings();
    settings.core.max_frame_bytes = 4 << 20;
    settings.core.default_namespace.history_bytes = 64 << 20;
    settings.core.max_inflight_bytes = 64 << 20;
    let server = serve(&settings).await;
    let text = "x".repeat(3 << 20);
    for _ in 0..4 {
        server.janus.publish("large", &text).await.unwrap();
    }
    let part = async |since: Option<(&Value, u64)>| {
        let since = since.map(|(epoch, seq)| json!({"epoch": epoch, "seq": seq}));
        let history = server.post("/api/history", json!({"topic": "large", "since": since}).to_string()).await.json();
        let messages = history["messages"].as_array().unwrap();
        let seqs: Vec<u64> = messages.iter().map(|message| message["seq"].as_u64().unwrap()).collect();
        (seqs, history["seq"].as_u64().unwrap(), history["more"].as_bool().unwrap(), history["epoch"].clone())
    };
    let (latest, end, more, epoch) = part(None).await;
    assert_eq!((latest, end, more), (vec![3, 4], 4, true), "earlier messages are cut off");
    let (first, end, more, _) = part(Some((&epoch, 0))).await;
    assert_eq!((first, end, more), (vec![1, 2], 2, true));
    let (rest, end, more, _) = part(Some((&epoch, end))).await;
    assert_eq!((rest, end, more), (vec![3, 4], 4, false));
}

#[tokio::test]
async fn unread_answers_are_limited_by_their_memory() {
    let mut settings = settings();
    settings.core.max_frame_bytes = MAX_ANSWER_BYTES;
    settings.core.default_namespace.history_bytes = 64 << 20;
    settings.core.max_inflight_bytes = 64 << 20;
    let server = serve(&settings).await;
    server.janus.publish("large", &"x".repeat(MAX_ANSWER_BYTES - 1_000)).await.unwrap();
    let request = post("/api/history", &[], r#"{"topic":"large"}"#);
    let mut clients = Vec::new();
    let refused = loop {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        // A small buffer keeps most of the answer in the server.
        socket.set_recv_buffer_size(4_096).unwrap();
        let mut stream = socket.connect(server.addr).await.unwrap();
        stream.write_all(&request).await.unwrap();
        let mut status = [0; 12];
        timeout(PATIENCE, stream.read_exact(&mut status)).await.unwrap().unwrap();
        if &status != b"HTTP/1.1 200" {
            break stream;
        }
        clients.push(stream);
        assert!(clients.len() < 20, "answers without a limit");
    };
    assert_eq!(clients.len(), MAX_ANSWERS_BYTES / MAX_ANSWER_BYTES);
    drop(refused);
    let answer = server.send(&[&request]).await;
    assert_eq!((answer.status, &*answer.error().0), (503, "too_many_requests"));
    assert!(answer.head.contains("\r\nretry-after: "), "{answer:?}");
    // Small answers are not affected.
    assert_eq!(server.post("/api/publish", r#"{"topic":"plain:a","data":1}"#).await.status, 200);
    drop(clients);
    until("the memory to be free", || server.api.answers.free() == MAX_ANSWERS_BYTES).await;
    assert_eq!(server.send(&[&request]).await.status, 200);
}

#[tokio::test]
async fn a_list_of_long_names_is_cut_at_the_size_limit() {
    let mut settings = settings();
    settings.core.max_topic_bytes = 4_096;
    settings.core.max_frame_bytes = 16 << 20;
    let server = serve(&settings).await;
    let fill = "x".repeat(4_000);
    let subscribers: Vec<_> =
        (0..3_000).map(|number| server.janus.subscribe(&format!("{number:04}{fill}")).unwrap()).collect();
    let first = server.get("/api/topics?limit=10000").await.json();
    let (names, next) = (first["topics"].as_array().unwrap(), first["next"].as_str().unwrap());
    assert!((MAX_ANSWER_BYTES / 4_004..3_000).contains(&names.len()), "{}", names.len());
    assert_eq!(names.last().unwrap()["topic"], next);
    let rest = server.get(&format!("/api/topics?limit=10000&after={next}")).await.json();
    assert_eq!(rest["topics"].as_array().unwrap().len() + names.len(), subscribers.len());
    assert_eq!(rest["next"], Value::Null);
}

#[tokio::test]
async fn pages_of_a_list_have_every_entry_exactly_once() {
    let server = serve(&settings()).await;
    let _subscribers: Vec<_> =
        (0..25).map(|number| server.janus.subscribe(&format!("topic {number}")).unwrap()).collect();
    let (mut names, mut after, mut parts) = (Vec::new(), String::new(), 0);
    loop {
        let part = server.get(&format!("/api/topics?limit=10&after={}", after.replace(' ', "+"))).await.json();
        names
            .extend(part["topics"].as_array().unwrap().iter().map(|topic| topic["topic"].as_str().unwrap().to_owned()));
        parts += 1;
        match part["next"].as_str() {
            Some(next) => next.clone_into(&mut after),
            None => break,
        }
    }
    assert_eq!((parts, names.len()), (3, 25));
    assert!(names.is_sorted());
    for (query, part) in [
        ("limit=10001", "1 to 10,000"),
        ("limit=x", "1 to 10,000"),
        ("limit=1&limit=2", "duplicate parameter limit"),
        ("count=1", "limit, after, prefix and sort"),
    ] {
        let answer = server.get(&format!("/api/topics?{query}")).await;
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(answer.error().1.contains(part), "{answer:?}");
    }
    assert_eq!(server.get("/api/connections?after=x").await.status, 400);
}
