//! The limit on the connections of a user, whose name comes from a hook.

use std::net::SocketAddr;
use std::time::Duration;

use janus_core::hooks::{ConnectRequest, Denied, Hooks, Identity};
use janus_core::{Config, Fault, Janus, UserLimit};
use serde_json::{Value, json};

use super::{Close, Seen, Socket};
use crate::support::{own_address, until};

/// Believes every client the name in its `hello`.
struct Believe;

impl Hooks for Believe {
    async fn authenticate(&self, request: ConnectRequest) -> Result<Identity, Denied> {
        Ok(request.auth.map_or_else(Identity::anonymous, Identity::user))
    }
}

async fn serve(max_connections_per_user: usize, user_limit: UserLimit) -> (Janus, SocketAddr) {
    let config = Config {
        listen: Vec::new(),
        http_listen: vec![own_address()],
        drain_period: Duration::ZERO,
        max_connections_per_user,
        user_limit,
        ..Config::default()
    };
    let janus = Janus::builder().config(config).hooks(Believe).start().await.unwrap();
    let addr = janus.local_addrs()[0];
    (janus, addr)
}

/// Connects as a user, perhaps with an earlier session. Returns the answer to the hello.
async fn connect(addr: SocketAddr, user: &str, session: Option<&str>) -> (Socket, Value) {
    let mut socket = Socket::upgraded(addr).await;
    let mut hello = json!({"type": "hello", "auth": user});
    if let Some(session) = session {
        hello["session"] = session.into();
    }
    let answer = socket.ask(hello).await;
    (socket, answer)
}

/// Connects a user who must be welcome. Returns the token of the session.
async fn welcome(addr: SocketAddr, user: &str, session: Option<&str>) -> (Socket, String) {
    let (socket, answer) = connect(addr, user, session).await;
    assert_eq!((&answer["type"], &answer["resumed"]), (&json!("welcome"), &json!(session.is_some())), "{answer}");
    (socket, answer["session"].as_str().unwrap().to_owned())
}

async fn refused(addr: SocketAddr, user: &str) {
    let (mut socket, bye) = connect(addr, user, None).await;
    assert_eq!((&bye["type"], &bye["code"]), (&json!("bye"), &json!(4003)), "{bye}");
    assert!(bye["message"].as_str().unwrap().contains("this user") && bye["reconnect_after_ms"].is_u64(), "{bye}");
    assert!(matches!(socket.next().await, Seen::Close(Some(4003), _)));
    assert_eq!(socket.next().await, Seen::End(Close::Fin));
}

#[tokio::test]
async fn beyond_the_limit_a_connection_of_a_user_is_refused_and_the_others_stay() {
    let (janus, addr) = serve(2, UserLimit::Refuse).await;
    let (mut first, _) = welcome(addr, "alice", None).await;
    let (second, _) = welcome(addr, "alice", None).await;
    refused(addr, "alice").await;
    refused(addr, "alice").await;
    let _bob = welcome(addr, "bob", None).await;
    // Nobody's name is everybody's.
    let _strangers = [welcome(addr, "", None).await, welcome(addr, "", None).await, welcome(addr, "", None).await];
    assert_eq!((janus.stats().connections_refused_for_user, janus.stats().connections_refused), (2, 2));
    first.subscribe("news").await;
    drop(second);
    until("the place is free", || janus.stats().connections == 5).await;
    let _third = welcome(addr, "alice", None).await;
    refused(addr, "alice").await;
}

#[tokio::test]
async fn the_oldest_connection_of_a_user_makes_room_if_the_operator_wants() {
    let (janus, addr) = serve(2, UserLimit::CloseOldest).await;
    let (mut oldest, token) = welcome(addr, "alice", None).await;
    oldest.subscribe("news").await;
    let (mut other, _) = welcome(addr, "alice", None).await;
    let (mut newest, _) = welcome(addr, "alice", None).await;
    let bye = oldest.bye(4419).await;
    assert_eq!(bye["reconnect_after_ms"], Value::Null, "clients that came back would close each other for ever");
    until("the oldest is gone", || janus.stats().connections == 2).await;
    assert_eq!((janus.stats().connections_replaced, janus.stats().detached_sessions), (1, 1));
    other.subscribe("news").await;
    newest.subscribe("news").await;
    // The session is still there, and its connection is one of three.
    let _again = welcome(addr, "alice", Some(&token)).await;
    other.bye(4419).await;
}

#[tokio::test]
async fn a_returning_client_takes_the_place_of_its_own_earlier_connection() {
    let (janus, addr) = serve(1, UserLimit::Refuse).await;
    let (mut first, token) = welcome(addr, "alice", None).await;
    let (mut second, token) = welcome(addr, "alice", Some(&token)).await;
    first.bye(4410).await;
    refused(addr, "alice").await;
    // A session that nobody has, and a session of another user, count for nothing.
    let (_bob, bobs) = welcome(addr, "bob", None).await;
    for session in ["0123456789abcdef0123456789abcdef", &bobs] {
        assert_eq!(connect(addr, "alice", Some(session)).await.1["code"], 4003);
    }
    let (third, _) = welcome(addr, "alice", Some(&token)).await;
    second.bye(4410).await;
    drop(third);
    until("alice is gone", || janus.stats().connections == 1).await;
    let _fourth = welcome(addr, "alice", None).await;
    refused(addr, "alice").await;
}

#[tokio::test]
async fn a_takeover_closes_no_third_connection_of_the_user() {
    let (janus, addr) = serve(2, UserLimit::CloseOldest).await;
    let (mut oldest, _) = welcome(addr, "alice", None).await;
    let (mut other, token) = welcome(addr, "alice", None).await;
    let _returned = welcome(addr, "alice", Some(&token)).await;
    other.bye(4410).await;
    oldest.subscribe("news").await;
    assert_eq!(janus.stats().connections_replaced, 0);
}

#[tokio::test]
async fn no_end_of_a_connection_leaves_its_user_with_less_room() {
    let (janus, addr) = serve(2, UserLimit::Refuse).await;
    for round in 0..24 {
        let (mut socket, token) = welcome(addr, "alice", None).await;
        match round % 6 {
            0 => drop(socket),
            1 => socket.half_close().await,
            2 => assert_eq!(janus.disconnect_user("alice", true), 1),
            3 => janus.inject(Fault::Transport(socket.stream.local_addr().unwrap())),
            4 => socket.send(b"nonsense").await,
            _ => {
                let (again, _) = welcome(addr, "alice", Some(&token)).await;
                janus.inject(Fault::Transport(again.stream.local_addr().unwrap()));
                socket.bye(4410).await;
            }
        }
        until("it is gone", || janus.stats().connections == 0).await;
    }
    let _all = [welcome(addr, "alice", None).await, welcome(addr, "alice", None).await];
    refused(addr, "alice").await;
}
