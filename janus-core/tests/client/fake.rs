//! The client against a server of the test.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use janus_core::client::{Client, ClientBuilder, ClientError, Gap, Item, State};
use janus_core::wire::Epoch;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

use super::{PATIENCE, is_state, next, numbers, quick};

/// A server of the test, which says what no real server can be made to say.
pub(super) struct Fake {
    listener: TcpListener,
    welcomes: usize,
}

pub(super) struct Talk {
    socket: WebSocketStream<TcpStream>,
    pub(super) hello: Value,
}

impl Fake {
    pub(super) async fn start() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap(), welcomes: 0 }
    }

    pub(super) fn builder(&self) -> ClientBuilder {
        quick(Client::builder(format!("ws://{}", self.listener.local_addr().unwrap())))
    }

    /// The next connection, up to the welcome.
    pub(super) async fn accept(&mut self) -> Talk {
        self.accept_until(None).await
    }

    /// The same, for a token that ends after this time.
    pub(super) async fn accept_until(&mut self, expires: Option<Duration>) -> Talk {
        let (stream, _) = timeout(PATIENCE, self.listener.accept()).await.unwrap().unwrap();
        #[allow(
            clippy::result_large_err,
            reason = "the type is the library's, and not every version looks at closures"
        )]
        let protocol = |_: &Request, mut response: Response| {
            response.headers_mut().insert("sec-websocket-protocol", "janus.v1.json".parse().unwrap());
            Ok(response)
        };
        let socket = tokio_tungstenite::accept_hdr_async(stream, protocol).await.unwrap();
        let mut talk = Talk { socket, hello: Value::Null };
        talk.hello = talk.hear().await;
        self.welcomes += 1;
        let limits = json!({"max_frame_bytes": 1_000, "max_topic_bytes": 255, "max_topics": 128});
        let session = format!("session {}", self.welcomes);
        let mut welcome = json!({"type": "welcome", "session": session, "client": "1.2", "resumed": false, "limits": limits, "heartbeat_ms": 30_000});
        if let Some(expires) = expires {
            welcome["expires_ms"] = json!(expires.as_millis() as u64);
        }
        talk.say(welcome).await;
        talk
    }
}

impl Talk {
    pub(super) async fn say(&mut self, frame: Value) {
        self.socket.send(Message::text(frame.to_string())).await.unwrap();
    }

    /// The next request of the client.
    pub(super) async fn hear(&mut self) -> Value {
        loop {
            match timeout(PATIENCE, self.socket.next()).await.unwrap().unwrap().unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub(super) async fn subscribed(&mut self, request: &Value, epoch: u64, seq: u64, missed: Option<u64>) {
        assert_eq!(request["type"], "subscribe", "{request}");
        let epoch = Epoch::new(epoch).to_string();
        let mut answer = json!({"type": "subscribed", "id": request["id"], "topic": request["topic"], "epoch": epoch, "seq": seq, "resumed": missed.is_some()});
        if let Some(missed) = missed {
            answer["missed"] = missed.into();
        }
        self.say(answer).await;
    }

    pub(super) async fn message(&mut self, seq: u64) {
        self.say(json!({"type": "message", "topic": "news", "seq": seq, "time": 1, "event": "", "message_id": "", "data": seq})).await;
    }
}

#[tokio::test]
async fn a_gap_with_a_new_epoch_moves_the_position() {
    let mut fake = Fake::start().await;
    let client = fake.builder().start().unwrap();
    let subscribing = tokio::spawn({
        let client = client.clone();
        async move { client.subscribe("news").await }
    });
    let mut talk = fake.accept().await;
    assert_eq!(talk.hello.get("session"), None);
    let request = talk.hear().await;
    talk.subscribed(&request, 10, 5, None).await;
    talk.message(6).await;
    talk.say(json!({"type": "gap", "topic": "news", "epoch": Epoch::new(11).to_string(), "from": 1, "to": 2})).await;
    // Repeated, and then new.
    talk.message(2).await;
    talk.message(3).await;
    talk.say(json!({"type": "news of the future"})).await;
    let mut news = subscribing.await.unwrap().unwrap();
    assert_eq!(numbers(&mut news, 1).await, [6]);
    assert_eq!(next(&mut news).await, Item::Gap(Gap::Numbers { from: 1, to: 2 }));
    assert_eq!(numbers(&mut news, 1).await, [3]);
    drop(talk);

    let mut talk = fake.accept().await;
    assert_eq!(talk.hello["session"], "session 1");
    let request = talk.hear().await;
    assert_eq!(request["since"], json!({"epoch": Epoch::new(11).to_string(), "seq": 3}));
    // Before the answer: of an earlier subscription.
    talk.message(9).await;
    talk.subscribed(&request, 11, 3, Some(1)).await;
    talk.message(4).await;
    assert_eq!(next(&mut news).await, Item::Resumed { missed: 1 });
    assert_eq!(numbers(&mut news, 1).await, [4]);
}

#[tokio::test]
async fn a_lost_publication_is_repeated_with_a_key_only() {
    let mut fake = Fake::start().await;
    let client = fake.builder().start().unwrap();
    let call = |key: Option<&'static str>| {
        let client = client.clone();
        tokio::spawn(async move {
            let publish = client.publish("news", "once");
            match key {
                Some(key) => publish.idempotency_key(key.parse().unwrap()).await,
                None => publish.await,
            }
        })
    };
    let mut talk = fake.accept().await;
    let with_key = call(Some("key"));
    let first = talk.hear().await;
    let without = call(None);
    talk.hear().await;
    drop(talk);
    assert!(matches!(without.await.unwrap(), Err(ClientError::Lost { .. })));
    let mut talk = fake.accept().await;
    let again = talk.hear().await;
    assert_eq!((&again["idempotency_key"], &again["data"]), (&first["idempotency_key"], &first["data"]));
    talk.say(json!({"type": "published", "id": again["id"], "topic": "news", "epoch": Epoch::new(1).to_string(), "seq": 7, "subscribers": 0, "again": true})).await;
    let receipt = with_key.await.unwrap().unwrap();
    assert_eq!((receipt.seq(), receipt.again), (7, true));
}

#[tokio::test]
async fn requests_without_an_answer_are_bounded() {
    let mut fake = Fake::start().await;
    let client = fake.builder().max_pending(2).request_timeout(Duration::from_millis(300)).start().unwrap();
    let _talk = fake.accept().await;
    let calls =
        futures_util::future::join_all((0..5).map(|number| client.publish("news", &number).into_future())).await;
    let full = calls.iter().filter(|call| matches!(call, Err(ClientError::TooManyPending { max: 2 }))).count();
    let late = calls.iter().filter(|call| matches!(call, Err(ClientError::Late { .. }))).count();
    assert_eq!((full, late), (3, 2), "{calls:?}");
    let full = calls.iter().find_map(|call| call.as_ref().err()?.to_string().find("client_subscribe_rate"));
    assert!(full.is_some(), "a reason for the program's author");
    // Calls that have ended count no longer.
    assert!(matches!(client.publish("news", &6).await, Err(ClientError::Late { .. })));
    let long = client.publish("news", &"x".repeat(1_000)).await;
    assert!(matches!(long, Err(ClientError::TooLarge { max: 1_000, .. })), "{long:?}");
}

#[tokio::test]
async fn a_topic_refused_for_now_after_a_return_is_asked_for_again() {
    let mut fake = Fake::start().await;
    let client = fake.builder().start().unwrap();
    let refusal = |request: &Value, code: u16| json!({"type": "error", "id": request["id"], "topic": "news", "code": code, "error": "code", "message": ""});
    let subscribe = || {
        tokio::spawn({
            let client = client.clone();
            async move { client.subscribe("news").await }
        })
    };
    let subscribing = subscribe();
    let mut talk = fake.accept().await;
    // The first refusal is for the program.
    let request = talk.hear().await;
    talk.say(refusal(&request, 4001)).await;
    assert_eq!(subscribing.await.unwrap().unwrap_err().code(), Some(4001));
    let subscribing = subscribe();
    let request = talk.hear().await;
    talk.subscribed(&request, 1, 1, None).await;
    let mut news = subscribing.await.unwrap().unwrap();
    drop(talk);
    let mut talk = fake.accept().await;
    let request = talk.hear().await;
    talk.say(refusal(&request, 4001)).await;
    let request = talk.hear().await;
    talk.subscribed(&request, 1, 1, Some(0)).await;
    assert_eq!(next(&mut news).await, Item::Resumed { missed: 0 });
    drop(talk);
    let mut talk = fake.accept().await;
    let request = talk.hear().await;
    talk.say(refusal(&request, 4414)).await;
    let end = timeout(PATIENCE, news.next()).await.unwrap().unwrap();
    assert_eq!(end.unwrap_err().code(), Some(4414));
    assert!(news.next().await.is_none());
}

#[tokio::test]
async fn a_server_that_says_when_to_return_is_heeded() {
    let mut fake = Fake::start().await;
    let client = fake.builder().start().unwrap();
    let mut talk = fake.accept().await;
    talk.say(
        json!({"type": "bye", "code": 4002, "error": "server_draining", "message": "", "reconnect_after_ms": 400}),
    )
    .await;
    let left = tokio::time::Instant::now();
    let waiting = is_state(&client, |state| matches!(state, State::Waiting { .. })).await;
    assert!(
        matches!(&waiting, State::Waiting { retry_in, .. } if *retry_in >= Duration::from_millis(400)),
        "{waiting:?}"
    );
    fake.accept().await;
    assert!(left.elapsed() >= Duration::from_millis(390), "{:?}", left.elapsed());
}

#[tokio::test]
async fn without_reconnect_the_first_loss_is_the_end() {
    let mut fake = Fake::start().await;
    let client = fake.builder().reconnect(false).start().unwrap();
    let talk = fake.accept().await;
    drop(talk);
    let closed = is_state(&client, |state| matches!(state, State::Closed { .. })).await;
    assert!(matches!(&closed, State::Closed { error: Some(ClientError::Lost { .. }) }), "{closed:?}");
    // A program that repeats a call until the error is final stops here.
    let error = client.publish("news", "late").await.unwrap_err();
    assert!(matches!(error, ClientError::Ended { .. }) && error.is_final(), "{error:?}");
    assert_eq!(error.to_string(), "the client has ended: the connection was lost");
}

#[tokio::test]
async fn a_publication_under_way_at_the_end_is_not_told_as_refused() {
    let mut fake = Fake::start().await;
    let client = fake.builder().reconnect(false).start().unwrap();
    let mut talk = fake.accept().await;
    let publishing = tokio::spawn(async move { client.publish("news", "1").await });
    talk.hear().await;
    talk.say(json!({"type": "bye", "code": 4002, "error": "server_draining", "message": ""})).await;
    let error = publishing.await.unwrap().unwrap_err();
    assert!(matches!(error, ClientError::Ended { .. }) && error.is_final(), "{error:?}");
}

#[tokio::test]
async fn a_call_of_a_lost_connection_has_the_cause() {
    let mut fake = Fake::start().await;
    let client = fake.builder().start().unwrap();
    let mut talk = fake.accept().await;
    let publishing = tokio::spawn(async move { client.publish("news", "lost").await });
    talk.hear().await;
    // The system then resets the connection.
    talk.socket.get_ref().set_zero_linger().unwrap();
    drop(talk);
    let error = publishing.await.unwrap().unwrap_err();
    let cause = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<Arc<std::io::Error>>());
    let kind = cause.map(|cause| cause.kind());
    assert_eq!(kind, Some(std::io::ErrorKind::ConnectionReset), "{error:?}");
    assert!(error.to_string().starts_with("the connection was lost: "), "{error}");
}

#[tokio::test]
async fn a_server_that_does_not_read_is_given_up() {
    let mut fake = Fake::start().await;
    // A ping without an answer would be another reason to give the server up.
    let client = fake
        .builder()
        .timeout(Duration::from_secs(2))
        .heartbeat(Duration::from_secs(60))
        .request_timeout(Duration::from_secs(60))
        .max_pending(1_000_000)
        .start()
        .unwrap();
    let talk = fake.accept().await;
    // The flood keeps this thread for longer than a handshake may take.
    is_state(&client, |state| matches!(state, State::Open { .. })).await;
    // More than the buffers of the system hold.
    let data = "x".repeat(900);
    let flood = async {
        let mut calls = futures_util::stream::FuturesUnordered::new();
        for _ in 0..20_000 {
            calls.push(client.publish("news", &data).into_future());
        }
        while calls.next().await.is_some() {}
    };
    // The end of the connection is the end of the calls, too.
    let waiting = tokio::select! {
        biased;
        waiting = is_state(&client, |state| matches!(state, State::Waiting { .. })) => waiting,
        () = flood => panic!("the calls have ended"),
    };
    let State::Waiting { error, .. } = waiting else { panic!("waiting") };
    let cause = std::error::Error::source(&error).unwrap_or_else(|| panic!("{error:?}")).to_string();
    assert_eq!(cause, "the server does not read");
    drop(talk);
}
