//! Programs that embed Janus: clients that a program vouches for, and the servers and clients of its tests.

#![expect(clippy::unwrap_used, reason = "a test that meets what it does not expect has failed, wherever it stands")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use janus_core::hooks::{Client, ConnectRequest, Denied, Hooks, Identity, Patterns};
use janus_core::testing::{Connect, TestEvent, TestServer};
use janus_core::wire::{AllowedOrigins, Codec, HttpPort, TopicName};
use janus_core::{Config, Incoming, Janus, Message, Namespace, Since};
use tokio::net::TcpListener;

const HOUR: Duration = Duration::from_secs(3_600);

fn alice() -> Identity {
    let own = Patterns::new(["news", "alice:*"]).unwrap();
    Identity::user("alice").subscribe(own).publish(Patterns::new(["alice:*"]).unwrap())
}

/// A port of the program's own, whose clients all have this identity.
async fn vouch(janus: &Janus, identity: Identity) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let codec: Arc<dyn Codec> = Arc::new(HttpPort::new(AllowedOrigins::default(), Duration::from_secs(2)));
    let janus = janus.clone();
    tokio::spawn(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            janus.serve(Incoming::tcp(stream, peer).identity(identity.clone()), &codec, None).unwrap();
        }
    });
    addr
}

#[tokio::test]
async fn the_grants_of_a_program_hold_without_hooks() {
    let server = TestServer::start().await;
    let addr = vouch(server.janus(), alice()).await;
    let mut client = Connect::to(addr).connect().await;
    client.subscribe("news").await;
    client.subscribe("alice:inbox").await;
    assert_eq!(client.try_subscribe("bob:inbox", None).await.unwrap_err().error, "forbidden");
    client.publish("alice:inbox", "to myself").await;
    assert_eq!(client.next_message().await.data::<String>(), "to myself");
    // On loopback everyone may publish, unless the program says otherwise.
    assert_eq!(client.try_publish("news", "from alice").await.unwrap_err().error, "forbidden");
    let users: Vec<_> = server.janus().connections(0, 10).into_iter().map(|connection| connection.user).collect();
    assert_eq!(users, ["alice"]);
}

#[tokio::test]
async fn a_program_needs_no_timer_for_the_end_of_an_identity() {
    let server = TestServer::with_stopped_time(Janus::builder()).await;
    let grace = server.janus().config().token_grace;
    let addr = vouch(server.janus(), alice().expires(SystemTime::now() + HOUR)).await;
    let mut client = Connect::to(addr).connect().await;
    client.subscribe("news").await;
    // Without hooks nobody can judge a new proof.
    assert_eq!(client.refresh("a new token").await.unwrap_err().error, "forbidden");
    server.advance(HOUR - Duration::from_secs(60)).await;
    server.janus().publish("news", "still here").await.unwrap();
    assert_eq!(client.next_message().await.data::<String>(), "still here");
    client.expect_no_message().await;
    server.advance(Duration::from_secs(120) + grace).await;
    let closed = client.closed().await;
    assert_eq!((&*closed.error, closed.code), ("token_expired", Some(4418)));
    assert_eq!(server.janus().stats().connections, 0);
}

#[tokio::test]
async fn a_client_whose_identity_has_ended_is_not_served() {
    let server = TestServer::start().await;
    let addr = vouch(server.janus(), alice().expires(SystemTime::now() - HOUR)).await;
    assert_eq!(Connect::to(addr).refused().await.error, "token_expired");
}

#[tokio::test]
async fn a_client_that_a_program_vouches_for_is_found_by_its_user() {
    let server = TestServer::start().await;
    let addr = vouch(server.janus(), alice()).await;
    let mut client = Connect::to(addr).connect().await;
    assert_eq!(server.janus().disconnect_user("alice", false), 1);
    assert_eq!(client.closed().await.error, "banned");
}

/// Hooks that know no client, and decide about topics.
struct TopicsAlone;

impl Hooks for TopicsAlone {
    async fn authenticate(&self, _: ConnectRequest) -> Result<Identity, Denied> {
        Err(Denied::new("these hooks know nobody"))
    }

    async fn authorize_subscribe(&self, client: &Client, topic: &TopicName) -> Result<(), Denied> {
        match topic.as_str() == client.identity.user {
            true => Ok(()),
            false => Err(Denied::new("this topic is another user's")),
        }
    }
}

#[tokio::test]
async fn hooks_decide_what_the_program_leaves_open_and_not_who_the_client_is() {
    let server = TestServer::of(Janus::builder().hooks(TopicsAlone)).await;
    assert_eq!(server.connect().refused().await.message, "these hooks know nobody");
    let addr = vouch(server.janus(), Identity::user("alice")).await;
    // A proof in the `hello` has no meaning: the program has said who the client is.
    let mut client = Connect::to(addr).auth("mallory").connect().await;
    client.subscribe("alice").await;
    let refused = client.try_subscribe("bob", None).await.unwrap_err();
    assert_eq!((&*refused.error, &*refused.message), ("forbidden", "this topic is another user's"));
}

#[tokio::test]
async fn a_test_client_may_begin_with_the_history() {
    let default_namespace = Namespace { history: true, ..Namespace::default() };
    let server = TestServer::of(Janus::builder().config(Config { default_namespace, ..Config::default() })).await;
    for number in 1..=3 {
        server.janus().publish("news", &number).await.unwrap();
    }
    let mut client = server.client().await;
    client.subscribe_since("news", Since::Start).await;
    for number in 1..=3 {
        assert_eq!(client.next_message().await.data::<u32>(), number);
    }
    client.unsubscribe("news").await;
    server.janus().publish("news", &4).await.unwrap();
    client.expect_no_message().await;
    client.close().await;
}

#[tokio::test]
async fn a_wait_in_vain_ends_with_what_the_client_has_seen() {
    let server = TestServer::start().await;
    let mut client = server.connect().patience(Duration::from_millis(100)).connect().await;
    client.subscribe("news").await;
    let waiting = tokio::spawn(async move { client.next().await }).await;
    let panic = waiting.unwrap_err().into_panic();
    let text = panic.downcast_ref::<String>().unwrap();
    assert!(text.starts_with("waited 100ms in vain for a message; the last frames of the server:"), "{text}");
    assert!(text.contains("\"subscribed\""), "{text}");

    let mut client = server.client().await;
    client.subscribe("news").await;
    server.janus().publish("news", &1).await.unwrap();
    let unexpected = tokio::spawn(async move { client.expect_no_message().await }).await;
    let panic = unexpected.unwrap_err().into_panic();
    let text = panic.downcast_ref::<String>().unwrap();
    assert!(text.contains("nothing should have come"), "{text}");
}

#[tokio::test]
async fn a_topic_that_loses_its_grant_is_told_as_an_error() {
    struct Shrinking;

    impl Hooks for Shrinking {
        async fn authenticate(&self, _: ConnectRequest) -> Result<Identity, Denied> {
            Ok(Identity::user("alice"))
        }

        async fn refresh(&self, _: &Client, _: String) -> Result<Identity, Denied> {
            Ok(Identity::user("alice").subscribe(false))
        }
    }

    let server = TestServer::of(Janus::builder().hooks(Shrinking)).await;
    let mut client = server.client().await;
    client.subscribe("news").await;
    client.refresh("smaller").await.unwrap();
    let TestEvent::Error { topic, error } = client.next().await else { panic!("no error") };
    assert_eq!((topic.as_deref(), &*error), (Some("news"), "forbidden"));
}

#[tokio::test]
async fn a_message_of_bytes_reaches_a_test_with_its_bytes() {
    let server = TestServer::start().await;
    let mut client = server.connect().connect().await;
    client.subscribe("frames").await;
    let janus = server.janus();
    janus.publish_message(Message::bytes("frames", b"\x00\xff").unwrap()).await.unwrap();
    janus.publish("frames", "text").await.unwrap();
    let (bytes, text) = (client.next_message().await, client.next_message().await);
    assert_eq!((bytes.bytes.as_deref(), &*bytes.json), (Some(&b"\x00\xff"[..]), "null"));
    assert_eq!((text.data::<String>(), text.bytes), ("text".to_owned(), None));
}
