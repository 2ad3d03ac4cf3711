//! Hooks with backends that answer, fail and hang, in an instance with real clients where the hooks alone do not do.

use std::future::{pending, ready};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use janus_core::hooks::Grant;
use janus_core::wire::classic::client::{publish_with_ack, subscribe};
use janus_core::{Config, Janus};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::*;
use crate::settings::{AccessNamespace, Secrets};
use crate::testing::{DEADLINE, backend, until};

fn yes() -> (u16, String) {
    (200, r#"{"allow":true}"#.to_owned())
}

/// Hooks that ask about connections at this address.
fn ask(url: &Url, change: impl FnOnce(&mut AccessSettings)) -> Ask {
    let mut settings = AccessSettings { ask_connect: Some(url.clone()), ask_timeout: DEADLINE, ..Default::default() };
    change(&mut settings);
    Ask::new(&Backend::new(&settings).unwrap(), &settings)
}

/// An instance whose clients are asked about.
async fn instance(ask: &Ask) -> Janus {
    let config = Config {
        listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        http_listen: Vec::new(),
        drain_period: Duration::ZERO,
        hook_timeout: 2 * DEADLINE,
        ..Config::default()
    };
    Janus::builder().config(config).hooks(ask.clone()).start().await.unwrap()
}

/// A client of the classic protocol, from this address of the machine.
async fn connect(janus: &Janus, from: [u8; 4]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((from, 0))).unwrap();
    socket.connect(janus.local_addrs()[0]).await.unwrap()
}

/// The next frame of the classic protocol.
async fn frame(stream: &mut TcpStream) -> String {
    let read = async {
        let mut frame = Vec::new();
        loop {
            match stream.read_u8().await {
                Ok(1) => return String::from_utf8(frame).unwrap(),
                Ok(byte) => frame.push(byte),
                Err(error) => panic!("the connection ended: {error}"),
            }
        }
    };
    timeout(DEADLINE, read).await.expect("a frame comes")
}

/// The code with which a client is refused.
async fn refusal(stream: &mut TcpStream) -> String {
    let refused: serde_json::Value = serde_json::from_str(&frame(stream).await).unwrap();
    refused["error"]["code"].as_str().unwrap_or_else(|| panic!("not refused: {refused}")).to_owned()
}

#[tokio::test]
async fn a_client_is_who_the_backend_says() {
    let answer = r#"{"allow":true,"user":"alice","subscribe":["chat:*"],"publish":[]}"#.to_owned();
    let (url, seen) = backend(move |_| ready((200, answer.clone()))).await;
    let ask = ask(&url, |settings| settings.backend_secret = Secrets::new("correct-horse-battery"));
    let janus = instance(&ask).await;
    let mut client = connect(&janus, [127, 0, 0, 1]).await;
    assert!(frame(&mut client).await.contains("token"));
    client.write_all(&subscribe("chat:lobby")).await.unwrap();
    assert_eq!(frame(&mut client).await, "ACK");
    client.write_all(&subscribe("news")).await.unwrap();
    assert!(frame(&mut client).await.contains("forbidden"));
    assert_eq!(janus.connections(0, 1)[0].user, "alice");

    assert_eq!(seen.count(), 1, "what is granted is not asked");
    let request = seen.requests.lock()[0].clone();
    let question = request.json();
    assert_eq!((&question["version"], &question["question"]), (&1.into(), &"connect".into()));
    assert!(question["connection"].as_str().unwrap().ends_with("/1"), "{question}");
    assert_eq!(question["peer"], client.local_addr().unwrap().to_string());
    assert_eq!(request.headers["content-type"], "application/json");
    assert!(request.headers["janus-signature"].starts_with("t="), "{request:?}");
    assert_eq!((ask.stats().allowed, ask.stats().under_way), (1, 0));
    janus.shutdown().await;
}

#[tokio::test]
async fn topics_are_asked_at_the_address_of_their_namespace() {
    let (url, seen) = backend(|request| {
        let question = request.json();
        let allow = question["topic"] == "chat:mine" || question["data"] == "good";
        ready((200, format!(r#"{{"allow":{allow},"reason":"not yours"}}"#)))
    })
    .await;
    let ask = ask(&url, |settings| {
        settings.ask_connect = None;
        let chat = AccessNamespace { ask_subscribe: Some(url.clone()), ask_publish: Some(url.clone()) };
        settings.namespaces.insert("chat".to_owned(), chat);
    });
    let janus = instance(&ask).await;
    let mut client = connect(&janus, [127, 0, 0, 1]).await;
    frame(&mut client).await;
    for (request, answer) in [
        (subscribe("news"), "ACK"),
        (subscribe("chat:mine"), "ACK"),
        (subscribe("chat:yours"), "not yours"),
        (publish_with_ack("chat:x", "1", "2", "\"bad\""), "not yours"),
        (publish_with_ack("chat:x", "1", "2", "\"good\""), "published"),
    ] {
        client.write_all(&request).await.unwrap();
        let frame = frame(&mut client).await;
        assert!(frame.contains(answer), "{answer}: {frame}");
    }
    let questions: Vec<_> = seen.requests.lock().iter().map(|request| request.json()["question"].clone()).collect();
    assert_eq!(questions, ["subscribe", "subscribe", "publish", "publish"]);
    janus.shutdown().await;
}

#[tokio::test]
async fn a_topic_that_nobody_has_granted_is_refused() {
    let (url, _) = backend(|_| ready(yes())).await;
    let client = |ask: Ask| async move {
        let janus = instance(&ask).await;
        let mut client = connect(&janus, [127, 0, 0, 1]).await;
        frame(&mut client).await;
        client.write_all(&subscribe("news")).await.unwrap();
        let answer = frame(&mut client).await;
        janus.shutdown().await;
        answer
    };
    assert!(client(ask(&url, |_| {})).await.contains("forbidden"));
    assert_eq!(client(ask(&url, |_| {}).allow_unasked(true)).await, "ACK");
}

#[tokio::test]
async fn an_answer_is_kept_for_the_time_that_the_backend_names() {
    let (url, seen) = backend(|request| {
        let seconds = if request.json()["topic"] == "kept" { 60 } else { 0 };
        ready((200, format!(r#"{{"allow":true,"cache_seconds":{seconds}}}"#)))
    })
    .await;
    let ask = ask(&url, |settings| {
        settings.ask_connect = None;
        settings.default_namespace.ask_subscribe = Some(url.clone());
    });
    let janus = instance(&ask).await;
    for _ in 0..2 {
        let mut client = connect(&janus, [127, 0, 0, 1]).await;
        frame(&mut client).await;
        for topic in ["kept", "asked"] {
            client.write_all(&subscribe(topic)).await.unwrap();
            assert_eq!(frame(&mut client).await, "ACK");
        }
    }
    assert_eq!((seen.count(), ask.stats().from_cache), (3, 1));
    janus.shutdown().await;
}

#[tokio::test]
async fn each_status_is_a_no_or_a_failure() {
    let status = Arc::new(std::sync::atomic::AtomicU16::new(0));
    let answered = Arc::clone(&status);
    let (url, _) = backend(move |_| {
        let body = r#"{"allow":false,"reason":"your reason"}"#.to_owned();
        ready((answered.load(Ordering::SeqCst), body))
    })
    .await;
    for (code, expected) in [
        (200, "unauthorized"),
        (400, "unauthorized"),
        (401, "unauthorized"),
        (403, "unauthorized"),
        (404, "unauthorized"),
        (204, "authorization_failed"),
        (302, "authorization_failed"),
        (408, "authorization_failed"),
        (429, "authorization_failed"),
        (500, "authorization_failed"),
        (503, "authorization_failed"),
    ] {
        let ask = ask(&url, |_| {});
        let janus = instance(&ask).await;
        status.store(code, Ordering::SeqCst);
        let mut client = connect(&janus, [127, 0, 0, 1]).await;
        // A client that has shown no proof may send it with its first frame. This client does not.
        client.write_all(&subscribe("news")).await.unwrap();
        let refused = frame(&mut client).await;
        assert!(refused.contains(&format!("\"{expected}\"")), "{code}: {refused}");
        let failed = u64::from(expected == "authorization_failed");
        assert_eq!(refused.contains("your reason"), failed == 0, "{code}: {refused}");
        assert_eq!((ask.stats().failed, ask.stats().refused), (failed, 1 - failed), "{code}");
        janus.shutdown().await;
    }
}

#[tokio::test]
async fn a_bad_answer_is_a_failure() {
    for body in ["", "<html>", r#"{"allow":1}"#] {
        let (url, _) = backend(move |_| ready((200, body.to_owned()))).await;
        let ask = ask(&url, |_| {});
        let janus = instance(&ask).await;
        let code = refusal(&mut connect(&janus, [127, 0, 0, 1]).await).await;
        assert_eq!((&*code, ask.stats().failed), ("authorization_failed", 1), "{body}");
        janus.shutdown().await;
    }
}

#[tokio::test]
async fn answers_that_describe_no_client_open_no_breaker_for_others() {
    let asked = Arc::new(AtomicUsize::new(0));
    let (url, _) = backend(move |_| {
        let is_strange = asked.fetch_add(1, Ordering::Relaxed) < 25;
        let body =
            if is_strange { r#"{"allow":true,"subscribe":["a*"]}"# } else { r#"{"allow":true,"subscribe":["**"]}"# };
        ready((200, body.to_owned()))
    })
    .await;
    let ask = ask(&url, |_| {});
    let janus = instance(&ask).await;
    for _ in 0..25 {
        let code = refusal(&mut connect(&janus, [127, 0, 0, 1]).await).await;
        assert_eq!(code, "authorization_failed");
    }
    let mut other = connect(&janus, [127, 0, 0, 2]).await;
    let first = frame(&mut other).await;
    assert!(!first.contains("error"), "the next client is asked about, and served: {first}");
    assert_eq!((ask.stats().breaker_open, ask.stats().failed, ask.stats().refused), (0, 0, 25));
    janus.shutdown().await;
}

#[tokio::test]
async fn a_question_without_an_answer_ends_with_its_time() {
    let (url, seen) = backend(|_| pending()).await;
    let ask = ask(&url, |settings| settings.ask_timeout = Duration::from_millis(50));
    let janus = instance(&ask).await;
    let code = refusal(&mut connect(&janus, [127, 0, 0, 1]).await).await;
    assert_eq!((&*code, ask.stats().timed_out, ask.stats().failed), ("authorization_failed", 1, 1));
    until("the backend sees that its question is given up", || seen.open() == 0).await;
    janus.shutdown().await;
}

/// Lets clients of eight addresses connect at once. Returns the first frame of each.
fn visit(janus: &Janus, clients: u16) -> mpsc::Receiver<String> {
    let (told, outcomes) = mpsc::channel(clients.into());
    for number in 0..clients {
        let (janus, told) = (janus.clone(), told.clone());
        tokio::spawn(async move {
            let mut client = connect(&janus, [127, 0, 1, (number % 8) as u8]).await;
            // No port in TIME_WAIT for each client.
            socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
            let _ = told.send(frame(&mut client).await).await;
        });
    }
    outcomes
}

/// The clients of a storm from several addresses, and what the backend and a client that is connected already see.
async fn storm(clients: u16) {
    const CONCURRENCY: usize = 32;
    // The backend answers when the test says so.
    let go = Arc::new(Semaphore::new(1));
    let gate = Arc::clone(&go);
    let (url, seen) = backend(move |_| {
        let gate = Arc::clone(&gate);
        async move {
            gate.acquire().await.unwrap().forget();
            (200, r#"{"allow":true,"user":"alice","subscribe":["**"],"publish":["**"]}"#.to_owned())
        }
    })
    .await;
    let ask = ask(&url, |settings| settings.ask_concurrency = CONCURRENCY);
    let janus = instance(&ask).await;
    let mut bystander = connect(&janus, [127, 0, 0, 1]).await;
    frame(&mut bystander).await;
    bystander.write_all(&subscribe("news")).await.unwrap();
    assert_eq!(frame(&mut bystander).await, "ACK");

    let mut outcomes = visit(&janus, clients);
    // All but the clients with a place at the backend are told to come back.
    let mut refused = 0;
    while refused + ask.stats().under_way as u64 != u64::from(clients) {
        // The last client may have found a place after the look.
        let Ok(outcome) = timeout(Duration::from_millis(10), outcomes.recv()).await else { continue };
        let outcome: serde_json::Value = serde_json::from_str(&outcome.unwrap()).unwrap();
        assert_eq!(outcome["error"]["code"], "authorization_failed", "{outcome}");
        refused += 1;
        if refused % 50 == 0 {
            // The bystander's messages arrive while the backend answers nobody.
            janus.publish("news", "hello").await.unwrap();
            assert!(frame(&mut bystander).await.contains("hello"));
        }
    }
    let waiting = ask.stats().under_way;
    assert!(waiting > CONCURRENCY * 3 / 4 && seen.most_open.load(Ordering::SeqCst) <= CONCURRENCY);
    until("all of them are at the backend", || seen.open() == waiting).await;
    go.add_permits(waiting);
    for _ in 0..waiting {
        assert!(outcomes.recv().await.unwrap().contains("token"), "a client with a place is served");
    }
    assert_eq!(ask.stats().beyond_concurrency, refused);
    // The storm is over, and the next client is served.
    go.add_permits(1);
    assert!(frame(&mut connect(&janus, [127, 0, 0, 1]).await).await.contains("token"));
    janus.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_reaches_the_backend_only_within_ask_concurrency() {
    storm(1_000).await;
}

/// With 10,000 clients, which takes some 20,000 descriptors.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "10,000 clients"]
async fn a_large_storm_reaches_the_backend_only_within_ask_concurrency() {
    storm(10_000).await;
}

#[tokio::test]
async fn a_failing_backend_is_left_alone_and_tried_again() {
    let broken = Arc::new(AtomicBool::new(true));
    let state = Arc::clone(&broken);
    let (url, seen) = backend(move |_| {
        let broken = state.load(Ordering::SeqCst);
        ready(if broken { (503, String::new()) } else { yes() })
    })
    .await;
    let ask = ask(&url, |_| {});
    let janus = instance(&ask).await;
    for _ in 0..10 {
        refusal(&mut connect(&janus, [127, 0, 0, 1]).await).await;
    }
    assert_eq!((ask.stats().open_breakers, seen.count()), (1, 10));
    for _ in 0..5 {
        refusal(&mut connect(&janus, [127, 0, 0, 1]).await).await;
    }
    // A question each second, however long these clients took.
    let asked = ask.stats().failed;
    assert_eq!(seen.count() as u64, asked);
    assert_eq!(ask.stats().breaker_open, 15 - asked);
    broken.store(false, Ordering::SeqCst);
    let mut refused = 0;
    loop {
        if frame(&mut connect(&janus, [127, 0, 0, 1]).await).await.contains("token") {
            break;
        }
        refused += 1;
        assert!(refused < 100_000, "the backend is tried again");
    }
    assert_eq!(ask.stats().open_breakers, 0);
    assert!(frame(&mut connect(&janus, [127, 0, 0, 1]).await).await.contains("token"));
    janus.shutdown().await;
}

#[tokio::test]
async fn an_unreachable_backend_is_a_failure() {
    // Bound and not listening: a connection is refused, and the port is nobody else's.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let url = format!("http://{}/", socket.local_addr().unwrap()).parse().unwrap();
    let ask = ask(&url, |_| {});
    let janus = instance(&ask).await;
    let code = refusal(&mut connect(&janus, [127, 0, 0, 1]).await).await;
    assert_eq!((&*code, ask.stats().failed), ("authorization_failed", 1));
    janus.shutdown().await;
}

#[test]
fn hooks_are_needed_only_with_an_address() {
    assert!(!Ask::is_needed(&AccessSettings::default()));
    let url: Option<Url> = "http://a.example/".parse().ok();
    let chat = AccessNamespace { ask_publish: url.clone(), ..Default::default() };
    let namespaces = [("chat".to_owned(), chat)].into();
    assert!(Ask::is_needed(&AccessSettings { namespaces, ..Default::default() }));
    assert!(Ask::is_needed(&AccessSettings { ask_connect: url, ..Default::default() }));
}

#[tokio::test]
async fn subscribing_is_decided_on_the_spot_if_nobody_is_asked() {
    let settings = AccessSettings::default();
    let ask = Ask::new(&Backend::new(&settings).unwrap(), &settings);
    let janus = instance(&ask).await;
    let mut client = connect(&janus, [127, 0, 0, 1]).await;
    frame(&mut client).await;
    assert_eq!(ask.shared.nobody(true).subscribe, Grant::All);
    assert_eq!(ask.shared.nobody(true).publish, Grant::Ask, "the listener decides");
    assert_eq!(ask.shared.nobody(false).subscribe, Grant::Ask);
    janus.shutdown().await;
}
