//! A Transport without actor and socket: the test polls the Transport, and the client is the other end of a pipe.

use std::future::poll_fn;
use std::time::Duration;

use futures_util::future::join;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::LocalSet;

use super::*;
use crate::accounts::fairness::Want;
use crate::config::{Config, SlowConsumer};
use crate::connection::table::{Reservation, Room};
use crate::delivery::stream::Stream;
use crate::delivery::{Codecs, Deliveries, SlowReason, Subscription};
use crate::ground::Ground;
use crate::ground::counters::Readings;
use crate::session::Sessions;
use crate::supervision::{DynamicSupervisor, Place};
use crate::topic::Topics;
use crate::wire::{AllowedOrigins, Codec, HttpPort, Peer, PublishRoute, TopicName};

/// The shared state of Transports, without the actors.
fn connections(config: Config) -> Arc<Connections> {
    let engine =
        Deliveries::new(Ground::new(config, vec![Place::here()]), Arc::<Codecs>::default(), Default::default(), false);
    let sessions = Sessions::new(Topics::new(engine, DynamicSupervisor::new("topics"), None, None));
    let connections =
        Connections::new(Arc::new(sessions), Vec::new(), DynamicSupervisor::new("transports"), None, None);
    let connections = Arc::new(connections);
    // As the tree does: connections wait for a turn and for a portion of work.
    let keeper = Arc::clone(&connections);
    tokio::task::spawn_local(async move {
        let shift = keeper.shift(HomeId::FIRST);
        join(shift.turns.keep(|| 0), shift.fairness.keep()).await
    });
    connections
}

/// A client of the classic protocol, and its connection.
struct Client {
    shared: Arc<Connections>,
    transport: Transport,
    pipe: DuplexStream,
}

impl Client {
    /// A greeted client; without a place, a guest.
    async fn greeted(shared: &Arc<Connections>, has_place: bool) -> Self {
        let (pipe, server) = tokio::io::duplex(1024);
        let origin = Origin::classic(shared.codecs(), true, None);
        let link = Stream::new(Box::pin(server), Peer::Local);
        let account = shared.accounts.of(Peer::Local);
        let make = |id, place| Slot::new(id, Some(place), link, origin.codec_id, account, &shared.terms);
        let slot = match has_place {
            true => Reservation::new(shared).unwrap().enter(make),
            false => guest(shared, make),
        };
        let session = Arc::new(Session::new(Peer::Local, &slot));
        let decoder = origin.codec.decoder();
        let mut transport =
            Transport::new(Arc::clone(shared), slot, session, &origin, decoder, has_place, HomeId::FIRST);
        transport.open(Open::default());
        let mut client = Self { shared: Arc::clone(shared), transport, pipe };
        assert!(!client.run().await);
        let greeting = client.text().await;
        assert!(greeting.contains(&client.transport.session.token.to_hex()), "{greeting}");
        client
    }

    /// A client of HTTP between two requests, a guest, and a topic that holds the messages of the client without answers.
    fn over_http(shared: &Arc<Connections>) -> (Self, Arc<TopicState>) {
        let route = PublishRoute::new("/publish", |_, _| Ok(()));
        let codec: Arc<dyn Codec> =
            Arc::new(HttpPort::new(AllowedOrigins::default(), Duration::ZERO).publish_route(route));
        let codec_id = shared.codecs().register(&codec).unwrap();
        let (pipe, server) = tokio::io::duplex(1024);
        let link = Stream::new(Box::pin(server), Peer::Local);
        let account = shared.accounts.of(Peer::Local);
        let slot = guest(shared, |id, place| Slot::new(id, Some(place), link, codec_id, account, &shared.terms));
        let session = Arc::new(Session::new(Peer::Local, &slot));
        let decoder = codec.decoder_of_returned();
        let origin = Arc::new(Origin { codec, codec_id, is_local: true, pass_on: None, tls: None });
        let mut transport = Transport::new(Arc::clone(shared), slot, session, &origin, decoder, false, HomeId::FIRST);
        let topic = Arc::new(TopicState::for_test(TopicName::new("news", 255).unwrap()));
        transport.published = Some(Arc::clone(&topic));
        transport.note_awaited(false);
        (Self { shared: Arc::clone(shared), transport, pipe }, topic)
    }

    /// Lets the topic end, and with the topic its messages: their publishers get the answer 503.
    async fn answered(&mut self, topic: Arc<TopicState>) -> String {
        self.transport.published = None;
        drop(topic);
        self.run().await;
        self.text().await
    }

    /// Subscribes the session to a topic, without the topic's actor.
    fn join(&self, topic: &str) {
        let topic = Arc::new(TopicState::for_test(TopicName::new(topic, 255).unwrap()));
        let slot = Arc::clone(&self.transport.slot);
        let subscription = Arc::new(Subscription::of_connection(slot, SlowConsumer::Disconnect));
        self.transport.session.with_subscriptions(|joined| joined.push((topic, subscription)));
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.pipe.write_all(bytes).await.unwrap();
    }

    /// Polls the Transport until there is nothing to do for now; true if the connection is over.
    async fn run(&mut self) -> bool {
        for _ in 0..16 {
            let transport = &mut self.transport;
            if poll_fn(|cx| Poll::Ready(transport.run(cx).is_ready())).await {
                return true;
            }
            self.transport.charge();
            tokio::task::yield_now().await;
        }
        false
    }

    /// The frames received since the last call.
    async fn text(&mut self) -> String {
        let mut bytes = vec![0; 4096];
        let read = tokio::time::timeout(Duration::from_millis(1), self.pipe.read(&mut bytes)).await;
        bytes.truncate(read.map_or(0, |read| read.unwrap()));
        String::from_utf8(bytes).unwrap()
    }

    /// The server decides to end the connection. Returns the last words, and whether the connection is over at once.
    async fn ended(&mut self, end: End) -> (String, bool) {
        self.transport.slot.end(end);
        let is_over = self.run().await;
        (self.text().await, is_over)
    }
}

/// Runs a test on a single thread, under a clock at rest until the test waits.
/// Enters a guest that crowds out none.
fn guest(shared: &Connections, make: impl FnOnce(u64, u32) -> Slot) -> Arc<Slot> {
    let config = shared.config();
    let (slot, goes) = shared.table.enter_guest(&shared.slot_ids, &Room { config: &config, is_short: false }, make);
    assert!(goes.is_none());
    slot
}

fn test(test: impl AsyncFnOnce()) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, test());
}

fn count(counter: &std::sync::atomic::AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[test]
fn a_client_that_is_greeted_has_a_listed_session() {
    test(async || {
        let shared = connections(Config::default());
        let client = Client::greeted(&shared, true).await;
        assert_eq!((shared.sessions.table.count(), shared.table.len()), ((1, 0), 1));
        drop(client.transport);
        assert_eq!((shared.sessions.table.count(), shared.table.len()), ((0, 0), 0));
    });
}

#[test]
fn an_end_that_is_told_gives_its_code_and_then_a_fin() {
    test(async || {
        for (end, code) in [
            (End::MessagesLost, Some(ErrorCode::TopicUnavailable)),
            (End::SessionTaken, Some(ErrorCode::SessionTaken)),
            (End::Disconnected { reconnect: true }, Some(ErrorCode::Disconnected)),
            (End::Disconnected { reconnect: false }, Some(ErrorCode::Banned)),
            (End::FrameTimeout, Some(ErrorCode::FrameTimeout)),
            // Nothing went wrong that the classic protocol could tell.
            (End::Draining, None),
        ] {
            let shared = connections(Config::default());
            let mut client = Client::greeted(&shared, true).await;
            let (words, is_over) = client.ended(end).await;
            match code {
                Some(code) => assert!(words.contains(&format!("\"{code}\"")), "{end:?}: {words}"),
                None => assert_eq!(words, ""),
            }
            assert!(!is_over, "{end:?}: the peer has not closed yet");
            assert_eq!(client.pipe.read(&mut [0]).await.unwrap(), 0, "{end:?}: a FIN");
            client.pipe.shutdown().await.unwrap();
            assert!(client.run().await, "{end:?}: both sides have closed");
        }
    });
}

#[test]
fn an_end_that_resets_says_nothing_and_is_over_at_once() {
    test(async || {
        let slow = |why| End::SlowConsumer { why, frames: 1, bytes: 1 };
        for end in [slow(SlowReason::QueueFull), slow(SlowReason::Stalled), End::GivenUp, End::CodecPanicked] {
            let shared = connections(Config::default());
            let mut client = Client::greeted(&shared, true).await;
            assert_eq!(client.ended(end).await, (String::new(), true), "{end:?}");
            let slow_consumers = shared.counters.stats(&Readings::default()).slow_consumers;
            assert_eq!(slow_consumers, u64::from(end.resets() && matches!(end, End::SlowConsumer { .. })));
        }
    });
}

#[test]
fn the_input_of_a_client_that_can_be_sent_nothing_still_counts() {
    test(async || {
        let shared = connections(Config::default());
        let mut client = Client::greeted(&shared, true).await;
        let end = End::Broken(std::io::ErrorKind::BrokenPipe);
        assert_eq!(client.ended(end).await, (String::new(), false));
        assert!(matches!(client.transport.step, Step::Reading));
        client.pipe.shutdown().await.unwrap();
        client.run().await;
        assert!(client.transport.is_closing(), "with the end of its stream");
    });
}

#[test]
fn a_connection_that_closes_keeps_the_reason_it_has() {
    test(async || {
        let shared = connections(Config::default());
        let mut client = Client::greeted(&shared, true).await;
        client.transport.end(End::SessionTaken);
        client.transport.end(End::Disconnected { reconnect: false });
        client.transport.end(End::FrameTimeout);
        assert_eq!(client.transport.why, Some(ErrorCode::SessionTaken));
        assert_eq!(count(&shared.counters.frames_timed_out), 0);
        client.transport.end(End::CodecPanicked);
        assert_eq!(client.transport.why, Some(ErrorCode::Internal), "except for a reset, which cannot wait");
        assert!(client.run().await);
    });
}

#[test]
fn a_client_that_is_sent_away_keeps_its_session_unless_it_is_banned() {
    test(async || {
        for (reconnect, sessions) in [(true, (1, 1)), (false, (0, 0))] {
            let shared = connections(Config::default());
            let mut client = Client::greeted(&shared, true).await;
            client.join("news");
            client.transport.end(End::Disconnected { reconnect });
            assert_eq!(shared.sessions.table.count(), sessions);
        }
    });
}

#[test]
fn a_ping_that_was_answered_in_time_is_no_timeout() {
    test(async || {
        let shared = connections(Config::default());
        let mut client = Client::greeted(&shared, true).await;
        client.ended(End::PingTimeout).await;
        assert!(!client.transport.is_closing(), "it owes no answer");
        client.transport.slot.pulse.expect(shared.clock.tick());
        client.transport.slot.pulse.ask(shared.clock.tick());
        let (words, _) = client.ended(End::PingTimeout).await;
        assert!(words.contains("ping_timeout"), "{words}");
        assert_eq!(count(&shared.counters.pings_unanswered), 1);
    });
}

#[test]
fn frames_are_decoded_however_their_bytes_arrive() {
    test(async || {
        let shared = connections(Config::default());
        let mut client = Client::greeted(&shared, true).await;
        let tick = shared.clock.tick();
        for byte in b"{\"action\":\"dance\"}" {
            client.send(&[*byte]).await;
            client.run().await;
            assert!(client.transport.slot.unfinished_for(tick).is_some());
        }
        assert_eq!(client.text().await, "");
        client.send(b"\0").await;
        client.run().await;
        assert!(client.text().await.contains("unknown_action"));
        assert_eq!(client.transport.slot.unfinished_for(tick), None);
        assert!(!client.transport.is_closing(), "the error closes nothing");
    });
}

#[test]
fn an_error_does_not_overtake_the_answers_to_earlier_messages() {
    test(async || {
        let shared = connections(Config::default());
        let mut client = Client::greeted(&shared, true).await;
        client.transport.slot.expect_answer();
        client.send(b"{\0").await;
        assert!(!client.run().await);
        assert_eq!(client.text().await, "");
        client.transport.slot.answered();
        client.run().await;
        assert!(client.text().await.contains("bad_json"));
    });
}

#[test]
fn a_half_closed_connection_answers_and_closes() {
    test(async || {
        let shared = connections(Config::default());
        let mut client = Client::greeted(&shared, true).await;
        client.send(b"{\"action\":\"dance\"}\0").await;
        client.pipe.shutdown().await.unwrap();
        assert!(client.run().await);
        assert!(client.text().await.contains("unknown_action"));
        assert_eq!(client.transport.why, None, "the client has ended the connection");
    });
}

#[test]
fn a_client_that_takes_nothing_cannot_keep_its_closing_connection() {
    test(async || {
        let config = Config { drain_timeout: Duration::from_secs(3), ..Config::default() };
        let shared = connections(config);
        let mut client = Client::greeted(&shared, true).await;
        client.transport.slot.send(vec![b' '; 64 * 1024].into());
        client.transport.end(End::SessionTaken);
        assert!(!client.run().await);
        tokio::time::advance(Duration::from_millis(2_900)).await;
        assert!(!client.run().await);
        tokio::time::advance(Duration::from_millis(200)).await;
        assert!(client.run().await);
    });
}

#[test]
fn a_late_guest_gets_a_free_place_or_is_turned_away() {
    test(async || {
        let config = Config { max_connections: 1, ..Config::default() };
        let shared = connections(config);
        let mut guest = Client::greeted(&shared, false).await;
        let place = Reservation::new(&shared).unwrap();
        let mut other = Client::greeted(&shared, false).await;
        let (words, _) = other.ended(End::FrameTimeout).await;
        assert!(words.contains("too_many_connections"), "{words}");
        drop(place);
        assert_eq!(guest.ended(End::FrameTimeout).await, (String::new(), false));
        assert!(guest.transport.has_place && !guest.transport.is_closing());
        assert_eq!(count(&guest.shared.counters.connections_accepted), 1);
    });
}

#[test]
fn a_guest_that_is_crowded_out_is_told_unless_it_has_a_place_by_now() {
    test(async || {
        let shared = connections(Config::default());
        let mut placed = Client::greeted(&shared, true).await;
        assert_eq!(placed.ended(End::Crowded).await, (String::new(), false));
        let mut guest = Client::greeted(&shared, false).await;
        let (words, _) = guest.ended(End::Crowded).await;
        assert!(words.contains("too_many_connections"), "{words}");
        assert_eq!(count(&shared.counters.connections_refused_full), 1);
    });
}

#[test]
fn a_transport_fits_into_a_task_of_256_bytes() {
    // The task itself takes 104 bytes, and a pointer to the cell of the actor another 8.
    assert!(size_of::<Transport>() <= 144, "{} bytes", size_of::<Transport>());
}

/// A request that publishes to the topic `news`.
fn publication(version: &str, headers: &str) -> String {
    let body = r#"{"topic":"news","data":1}"#;
    let length = body.len();
    format!(
        "POST /publish {version}\r\nHost: a\r\nContent-Type: application/json\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    )
}

#[test]
fn the_last_request_of_a_connection_has_one_answer_even_in_a_drain() {
    test(async || {
        for (version, headers) in [("HTTP/1.1", "Connection: close\r\n"), ("HTTP/1.0", ""), ("HTTP/1.1", "")] {
            let shared = connections(Config::default());
            let (mut client, topic) = Client::over_http(&shared);
            client.send(publication(version, headers).as_bytes()).await;
            client.run().await;
            assert!(client.transport.slot.is_answering(), "the topic has the message");
            assert_eq!(client.ended(End::Draining).await, (String::new(), false));
            let answer = client.answered(topic).await;
            assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nconnection: close\r\n"), "{answer}");
            assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{version} {headers}: {answer}");
        }
    });
}

#[test]
fn a_request_that_waits_for_its_turn_is_not_lost_to_the_end_of_an_idle_connection() {
    test(async || {
        let shared = connections(Config::default());
        let (mut client, topic) = Client::over_http(&shared);
        client.send(publication("HTTP/1.1", "").as_bytes()).await;
        let transport = &mut client.transport;
        assert!(transport.slot.is_idle());
        // As behind other connections on a busy server.
        poll_fn(|cx| Poll::Ready(transport.wait_for_portion::<()>(Want::Fresh, cx).is_pending())).await;
        assert_eq!(client.ended(End::Idle).await, (String::new(), false));
        assert!(client.transport.slot.is_answering(), "the request was carried out");
        assert!(client.answered(topic).await.starts_with("HTTP/1.1 503 "));
        assert_eq!(client.ended(End::Idle).await, (String::new(), false));
        assert!(client.transport.is_closing(), "without another request");
    });
}

#[test]
fn a_publisher_that_is_crowded_out_gets_the_answer_to_an_accepted_message() {
    test(async || {
        let shared = connections(Config::default());
        let (mut client, topic) = Client::over_http(&shared);
        client.send(publication("HTTP/1.1", "").as_bytes()).await;
        client.run().await;
        let crowded = shared.table.crowd_out().unwrap();
        assert!(crowded.is_answering());
        assert_eq!(client.ended(End::Crowded).await, (String::new(), false));
        assert_eq!(shared.table.len(), 0, "it takes no room");
        let answer = client.answered(topic).await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nconnection: close\r\n"), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
        assert_eq!(client.pipe.read(&mut [0]).await.unwrap(), 0, "a FIN");
        // Where too many are being told already, the connection ends at once; and so does an idle one.
        let shared = connections(Config { max_refusals: 0, ..Config::default() });
        let (mut client, _topic) = Client::over_http(&shared);
        client.send(publication("HTTP/1.1", "").as_bytes()).await;
        client.run().await;
        assert_eq!(client.ended(End::Crowded).await, (String::new(), true));
        let (mut idle, _) = Client::over_http(&connections(Config::default()));
        assert_eq!(idle.ended(End::Crowded).await, (String::new(), true));
    });
}
