//! The library as a guest: in any runtime or none, together with other instances, before and after other instances.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use futures_executor::block_on;
use janus_core::wire::Peer;
use janus_core::wire::classic::{Classic, client::attach};
use janus_core::{Config, Janus, Position, Speaks, StartupError, SubscribeOptions};
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{Client, Close, DEADLINE, own_address, serve};

fn config() -> Config {
    Config { listen: vec![own_address()], ..Config::default() }
}

#[tokio::test]
async fn two_instances_do_not_see_each_other() {
    let (one, addr_one) = serve(Config::default()).await;
    let (two, addr_two) = serve(Config::default()).await;
    let mut client = Client::connect_silently(addr_one).await;
    let token = client.json().await["token"].as_str().unwrap().to_owned();
    client.subscribe("news").await;
    let mut subscriber = two.subscribe("quotes").unwrap();
    assert_eq!(two.publish("news", "x").await.unwrap().subscribers, 0);
    assert_eq!(one.publish("quotes", "x").await.unwrap().subscribers, 0);

    let topics = |janus: &Janus| janus.topics().into_iter().map(|topic| topic.name.to_string()).collect::<Vec<_>>();
    assert_eq!((topics(&one), topics(&two)), (vec!["news".to_owned()], vec!["quotes".to_owned()]));
    assert_eq!((one.sessions().await.len(), two.sessions().await.len()), (1, 0));
    let counted = |janus: &Janus| (janus.stats().connections, janus.stats().connections_accepted);
    assert_eq!((counted(&one), counted(&two)), ((1, 1), (0, 0)));
    // A session of the first instance is unknown to the second.
    let mut stranger = Client::connect(addr_two).await;
    stranger.send(attach(&token, [("news", 0)])).await;
    let answer = stranger.json().await;
    assert_eq!(answer["attached"]["news"]["resumed"], false, "{answer}");

    two.shutdown().await;
    assert_eq!(subscriber.next().await, Some(janus_core::Event::Closed(janus_core::Closed::ShutDown)));
    one.publish("news", "y").await.unwrap();
    assert_eq!(client.json().await["data"], "y");
}

#[test]
fn an_instance_starts_and_publishes_without_any_runtime_of_the_caller() {
    let janus = block_on(Janus::builder().config(config()).start()).unwrap();
    assert_eq!(block_on(janus.publish("news", "x")).unwrap().subscribers, 0);
    assert_eq!(block_on(janus.sessions()).len(), 0);
    block_on(janus.shutdown());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_starts_in_a_runtime_with_many_threads() {
    let janus = Janus::builder().config(config()).start().await.unwrap();
    let publisher = janus.clone();
    let receipt = tokio::spawn(async move { publisher.publish("news", "x").await }).await.unwrap().unwrap();
    assert_eq!(receipt.subscribers, 0);
    janus.shutdown().await;
}

#[actix_rt::test]
async fn an_instance_starts_inside_an_actix_system() {
    let janus = Janus::builder().config(config()).start().await.unwrap();
    assert_eq!(janus.publish("news", "x").await.unwrap().subscribers, 0);
    janus.shutdown().await;
    assert!(actix_rt::System::try_current().is_some(), "its host goes on");
}

/// Starts an instance without addresses of its own on a copy of the socket.
async fn on(socket: &TcpListener, speaks: Speaks) -> Result<Janus, StartupError> {
    let config = Config { listen: Vec::new(), drain_period: Duration::ZERO, ..Config::default() };
    Janus::builder().config(config).listen_on(socket.try_clone().unwrap(), speaks).start().await
}

#[tokio::test]
async fn a_given_socket_speaks_what_the_program_says_and_outlives_the_instance() {
    let socket = TcpListener::bind(own_address()).unwrap();
    let addr = socket.local_addr().unwrap();
    for speaks in [Speaks::Classic, Speaks::Codec(Arc::new(Classic))] {
        let janus = on(&socket, speaks).await.unwrap();
        assert_eq!(janus.local_addrs(), [addr]);
        let mut client = Client::connect(addr).await;
        client.subscribe("news").await;
        janus.publish("news", "x").await.unwrap();
        assert_eq!(client.json().await["data"], "x");
        janus.shutdown().await;
        assert_eq!(client.close().await, Close::Fin);
    }
    let janus = on(&socket, Speaks::Http).await.unwrap();
    let mut client = TcpStream::connect(addr).await.unwrap();
    client.write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    timeout(DEADLINE, client.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 400", "no topic is named");
    janus.shutdown().await;
}

#[tokio::test]
async fn a_crowd_at_the_moment_of_a_shutdown_is_served_by_this_instance_or_by_the_next() {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&own_address().into()).unwrap();
    socket.listen(1_024).unwrap();
    let socket: TcpListener = socket.into();
    let addr = socket.local_addr().unwrap();
    let first = on(&socket, Speaks::Classic).await.unwrap();
    let mut clients = Vec::new();
    for number in 0..600 {
        if number == 300 {
            let first = first.clone();
            tokio::spawn(async move { first.shutdown().await });
        }
        clients.push(Client::connect_silently(addr).await.reset_on_drop());
    }
    first.shutdown().await;
    let second = on(&socket, Speaks::Classic).await.unwrap();
    let mut sent_away = 0;
    for client in clients {
        // Fails for a connection that has been accepted and then closed without a word.
        let mut client = client.greeted().await;
        if let Ok(close) = timeout(Duration::from_millis(1), client.close()).await {
            assert_eq!(close, Close::Fin);
            sent_away += 1;
        }
    }
    assert!((1..600).contains(&sent_away), "{sent_away} of the clients by the first instance");
    second.shutdown().await;
}

#[tokio::test]
async fn clients_of_ipv4_on_a_socket_for_both_families_have_their_own_address() {
    let Ok(socket) = Socket::new(Domain::IPV6, Type::STREAM, None) else { return };
    socket.set_only_v6(false).unwrap();
    let Ok(()) = socket.bind(&SocketAddr::from(([0_u16; 8], 0)).into()) else { return };
    socket.listen(16).unwrap();
    let socket: TcpListener = socket.into();
    let port = socket.local_addr().unwrap().port();
    let janus = on(&socket, Speaks::Classic).await.unwrap();
    let client = Client::connect(SocketAddr::from(([127, 0, 0, 1], port))).await;
    let peers: Vec<Peer> = janus.sessions().await.into_iter().map(|session| session.peer).collect();
    assert_eq!(peers, [Peer::Addr(client.local_addr())]);
    janus.shutdown().await;
}

#[tokio::test]
async fn a_given_socket_that_does_not_listen_is_an_error() {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&own_address().into()).unwrap();
    let error = on(&socket.into(), Speaks::Classic).await.unwrap_err();
    assert!(matches!(error, StartupError::Socket(_)), "{error}");
}

#[tokio::test]
async fn an_instance_continues_the_topics_of_the_last() {
    let (first, _) = serve(Config::default()).await;
    assert_eq!(first.handover(), None, "messages may follow");
    let mut known = Vec::new();
    for topic in ["news", "quotes"] {
        let subscriber = first.subscribe(topic).unwrap();
        let receipt = first.publish(topic, "old").await.unwrap();
        known.push(Position { epoch: receipt.epoch, seq: receipt.seq });
        drop(subscriber);
    }
    first.shutdown().await;
    let handover = first.handover().unwrap();
    assert_eq!(handover.len(), 2);

    let second = Janus::builder().config(config()).continue_from(handover).start().await.unwrap();
    let receipt = second.publish("news", "new").await.unwrap();
    assert_eq!((receipt.epoch, receipt.seq), (known[0].epoch, 2), "the topic is there for the subscriber that returns");
    let resumption = |topic, since| {
        let subscriber = second.subscribe_with(topic, SubscribeOptions::default().since(since)).unwrap();
        let resumption = subscriber.resumption().unwrap();
        (resumption.resumed, resumption.missed)
    };
    assert_eq!(resumption("news", known[0]), (true, 1));
    assert_eq!(resumption("news", Position { seq: 0, ..known[0] }), (false, 0), "the old message is lost");
    assert_eq!(resumption("quotes", known[1]), (true, 0));
    second.shutdown().await;
    assert_eq!(second.handover().unwrap().len(), 2, "and so on");
}
