//! A node cut off from its engine: no FIN, no reset, nothing comes any more; and the time after.

mod way;

use std::time::Instant;

use super::moving::{message, subscribed};
use super::*;
use crate::http::Http;
use crate::support::{Client, Close, publish_frame};
use crate::tokens::Socket;
use way::Cut;

/// How often a quiet client hears of its server; as said in [`TIMES`].
const HEARTBEAT: Duration = Duration::from_secs(1);

/// The settings of all nodes. Clients of a test may be slow to answer a ping.
const TIMES: [(&str, &str); 5] = [
    ("JANUS_ENGINE_TIMEOUT", "1 s"),
    ("JANUS_HEARTBEAT_INTERVAL", "1 s"),
    ("JANUS_PONG_TIMEOUT", "60 s"),
    // Room for all messages published into the cut.
    ("JANUS_MAX_INFLIGHT_FRAMES", "1000"),
    // Clients come from another network.
    ("JANUS_ALLOW_PUBLISH", "true"),
];

/// Messages before the cut, and on the other node during the cut.
const BEFORE: u64 = 5;
const MEANWHILE: u64 = 50;

/// The data of the messages published into the cut: more than a submission takes, and a topic has a single submission
/// under way.
const INTO_THE_CUT: std::ops::Range<u64> = 1_000..1_300;

/// The data of the last message.
const LAST: u64 = 9_999;

/// A node behind the cut, and a node with a sound way to the same engine.
fn two_nodes(cut: &Cut, settings: &[(&str, &str)]) -> (Node, Node) {
    let engine = cut.redis.url();
    let node = cut.node(&[&TIMES, settings, &[("JANUS_NODE_NAME", "cut off")]].concat());
    let other = [("JANUS_ENGINE", &*engine), ("JANUS_NODE_NAME", "other")];
    (node.ready(), Node::with(&[&TIMES, settings, &other].concat()).ready())
}

/// A subscriber of each kind.
struct Subscribers {
    websocket: Socket,
    stream: Http,
    classic: Client,
    /// The position of the WebSocket's subscription, and the id of the stream's.
    epoch: Value,
    id: String,
}

impl Subscribers {
    async fn of(node: &Node) -> Self {
        let (websocket, answer) = subscribed(node, None).await;
        let mut stream = Http::events(node.http, "topic=news", "").await;
        let id = stream.id().await;
        let mut classic = Client::connect(node.classic).await;
        classic.subscribe("news").await;
        Self { websocket, stream, classic, epoch: answer["epoch"].clone(), id }
    }

    /// Reads these messages and nothing else, except heartbeats.
    async fn expect(&mut self, numbers: impl Iterator<Item = u64>) {
        for number in numbers {
            assert_eq!(message(&mut self.websocket).await, (number, number));
            assert_eq!(self.stream.message().await, (number, json!(number)));
            assert_eq!(message_of(&mut self.classic).await, number);
        }
    }

    /// Reads heartbeats and nothing else until each kind of subscriber has had a heartbeat of the time after this call.
    async fn expect_heartbeats(&mut self) {
        // Heartbeats from before lie in the buffers, and are read at once.
        let start = Instant::now();
        let is_over = || start.elapsed() > HEARTBEAT;
        let Self { websocket, stream, classic, .. } = self;
        let websocket = async {
            while !is_over() {
                websocket.heartbeat().await;
            }
        };
        let stream = async {
            while !is_over() {
                assert_eq!(stream.up_to("\n\n").await, "event: heartbeat\ndata: {}\n\n");
            }
        };
        let classic = async {
            while !is_over() {
                assert_eq!(classic.frame().await, "PING");
            }
        };
        tokio::join!(websocket, stream, classic);
    }

    /// The data of the messages from number `next` to the last message, the same for all subscribers.
    async fn rest(&mut self, next: u64) -> Vec<u64> {
        let data = rest_of(&mut self.websocket, next).await;
        for (number, data) in (next..).zip(&data) {
            assert_eq!(self.stream.message().await, (number, json!(data)));
            assert_eq!(message_of(&mut self.classic).await, *data);
        }
        data
    }
}

/// The next answer or message on a classic connection. Heartbeats may come before.
async fn answer_of(client: &mut Client) -> Value {
    loop {
        let frame = client.frame().await;
        if frame != "PING" {
            return serde_json::from_str(&frame).unwrap_or_else(|error| panic!("{error}: {frame}"));
        }
    }
}

/// The data of the next message on a classic connection.
async fn message_of(client: &mut Client) -> u64 {
    let message = answer_of(client).await;
    message["data"].as_u64().unwrap_or_else(|| panic!("no message: {message}"))
}

/// The data of the messages from number `next` to the last message, without a hole.
async fn rest_of(socket: &mut Socket, next: u64) -> Vec<u64> {
    let mut all = Vec::new();
    loop {
        let (number, data) = message(socket).await;
        assert_eq!(number, next + all.len() as u64, "after {all:?}");
        all.push(data);
        if data == LAST {
            return all;
        }
    }
}

/// Publishes into the cut, and returns the data of the messages with an unknown outcome: sent to the engine.
async fn publish_into_the_cut(node: &Node) -> Vec<u64> {
    let mut publisher = Client::connect(node.classic).await;
    let frames: Vec<u8> = INTO_THE_CUT.flat_map(|data| publish_frame("news", &data.to_string())).collect();
    publisher.send(frames).await;
    let mut codes = Vec::new();
    for data in INTO_THE_CUT {
        let answer = answer_of(&mut publisher).await;
        codes.push((data, answer["error"]["code"].as_str().unwrap_or_else(|| panic!("{data}: {answer}")).to_owned()));
    }
    let (sent, unsent): (Vec<_>, Vec<_>) = codes.into_iter().partition(|(_, code)| code == "outcome_unknown");
    assert!(unsent.iter().all(|(_, code)| code == "engine_unavailable"), "{unsent:?}");
    assert!(!sent.is_empty() && !unsent.is_empty(), "{} were sent, {} were not", sent.len(), unsent.len());
    sent.into_iter().map(|(data, _)| data).collect()
}

/// Whether a series of this name has a value.
fn has_figure(node: &Node, name: &str) -> bool {
    let (_, _, text) = get(node.admin, "/metrics", &format!("Authorization: Bearer {KEY}\r\n"));
    text.lines().any(|line| line.starts_with(name))
}

/// Waits until the node has noticed the cut; the node is as alive as before.
fn until_cut_off(node: &Node) {
    let body = until_status(node.admin, "/readyz", 503);
    assert!(body.contains("\"engine\":\"the engine redis://") && body.contains(" has not been reached for "), "{body}");
    assert_eq!(get(node.admin, "/livez", "").0, 200);
    assert_eq!(node.figure("janus_engine_up{server=\"0\"}"), Some(0.0));
}

/// Two nodes whose subscribers have had some messages.
async fn two_nodes_at_work(cut: &Cut, settings: &[(&str, &str)]) -> (Node, Node, Subscribers, Socket) {
    let (node, other) = two_nodes(cut, settings);
    let mut here = Subscribers::of(&node).await;
    let (there, _) = subscribed(&other, None).await;
    for number in 1..=BEFORE {
        assert_eq!(other.publish("news", number).await.1["seq"], number);
    }
    here.expect(1..=BEFORE).await;
    (node, other, here, there)
}

/// Clients without a connection during the cut, back at the same node.
struct Returned {
    websocket: Socket,
    stream: Http,
}

impl Returned {
    /// The node serves both from its memory.
    async fn to(node: &Node, before: &Subscribers) -> Self {
        let (mut websocket, answer) = subscribed(node, Some((&before.epoch, 1))).await;
        assert_eq!(answer["resumed"], true, "{answer}");
        let last = format!("Last-Event-ID: {}\r\n", before.id);
        let mut stream = Http::events(node.http, "topic=news", &last).await;
        let block = stream.block().await;
        assert_eq!(block.data.as_ref().unwrap()["resumed"], true, "{block:?}");
        assert_eq!(stream.message().await, (1, json!(1)));
        for number in 2..=BEFORE {
            assert_eq!(message(&mut websocket).await, (number, number));
            assert_eq!(stream.message().await, (number, json!(number)));
        }
        Self { websocket, stream }
    }

    async fn expect_rest(&mut self, next: u64, all: &[u64]) {
        assert_eq!(rest_of(&mut self.websocket, next).await, all);
        for (number, data) in (next..).zip(all) {
            assert_eq!(self.stream.message().await, (number, json!(data)));
        }
    }
}

async fn a_cut_node_serves_its_clients_and_catches_up(cut: Cut) {
    let (node, other, mut here, mut there) = two_nodes_at_work(&cut, &[]).await;
    assert_eq!(node.figure("janus_engine_resynced_topics_total"), Some(0.0));
    cut.take_down();
    let sent = publish_into_the_cut(&node).await;
    until_cut_off(&node);
    here.expect_heartbeats().await;
    let (status, answer) = node.publish("news", 0).await;
    assert_eq!((status, &answer["error"]["code"]), (503, &json!("engine_unavailable")), "{answer}");
    let mut back = Returned::to(&node, &here).await;
    // The other node does not notice.
    for number in BEFORE + 1..=BEFORE + MEANWHILE {
        let (status, answer) = other.publish("news", number).await;
        assert_eq!((status, &answer["seq"]), (200, &json!(number)), "{answer}");
    }
    for number in 1..=BEFORE + MEANWHILE {
        assert_eq!(message(&mut there).await, (number, number));
    }
    assert_eq!((get(other.admin, "/readyz", "").0, get(node.admin, "/readyz", "").0), (200, 503));

    cut.bring_up();
    until_status(node.admin, "/readyz", 200);
    assert_eq!(node.publish("news", LAST).await.0, 200);
    let next = BEFORE + 1;
    let all = here.rest(next).await;
    back.expect_rest(next, &all).await;
    assert_eq!(rest_of(&mut there, next + MEANWHILE).await, all[MEANWHILE as usize..]);
    // The messages with an unknown outcome may have come late, each once.
    let (late, certain): (Vec<_>, Vec<_>) = all.iter().copied().partition(|data| INTO_THE_CUT.contains(data));
    assert!(sent.starts_with(&late), "{late:?} of {sent:?}");
    assert_eq!(certain, (next..next + MEANWHILE).chain([LAST]).collect::<Vec<_>>());
    an_operator_has_seen_one_cut(node, &other);
}

fn an_operator_has_seen_one_cut(node: Node, other: &Node) {
    assert!(node.figure("janus_engine_resynced_topics_total") >= Some(1.0));
    assert_eq!(node.figure("janus_engine_losses_total"), Some(0.0));
    assert_eq!(node.figure("janus_engine_up{server=\"0\"}"), Some(1.0));
    assert_eq!(node.figure("janus_engine_reconnects_total{reason=\"timeout\"}"), Some(1.0));
    assert!(!has_figure(other, "janus_engine_reconnects_total{"));
    assert_eq!(other.figure("janus_engine_resynced_topics_total"), Some(0.0));
    // A line about the loss of the link, and a line about its return.
    node.server.error_line(" is down, subscribers stay: ");
    node.server.error_line(" is up");
    node.server.signal("TERM");
    let log = node.server.rest_of_errors();
    assert!(log.contains("drained") && !log.contains("link to the engine"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_in_a_network_that_is_cut_serves_its_clients_and_catches_up() {
    a_cut_node_serves_its_clients_and_catches_up(Cut::of_a_network().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_behind_a_proxy_that_hangs_serves_its_clients_and_catches_up() {
    a_cut_node_serves_its_clients_and_catches_up(Cut::of_a_proxy().await).await;
}

/// More than the log keeps with [`SHORT_LOG`]: the engine trims whole pieces of 100 entries.
const BEYOND_THE_LOG: u64 = 300;
const SHORT_LOG: [(&str, &str); 1] = [("JANUS_RESUME_MESSAGES", "10")];

async fn what_the_log_no_longer_has_is_told_as_a_gap(cut: Cut) {
    let (node, other, mut here, mut there) = two_nodes_at_work(&cut, &SHORT_LOG).await;
    cut.take_down();
    until_cut_off(&node);
    let end = BEFORE + BEYOND_THE_LOG;
    for number in BEFORE + 1..=end {
        assert_eq!(other.publish("news", number).await.1["seq"], number);
    }
    cut.bring_up();
    until_status(node.admin, "/readyz", 200);
    assert_eq!(node.publish("news", LAST).await.1["seq"], end + 1);

    let gap = here.websocket.hear().await;
    let last_lost = gap["to"].as_u64().unwrap_or_else(|| panic!("no gap: {gap}"));
    assert_eq!((&gap["type"], &gap["from"], &gap["epoch"]), (&json!("gap"), &json!(BEFORE + 1), &here.epoch), "{gap}");
    assert!((BEFORE + 1..end).contains(&last_lost), "{gap}");
    let all = rest_of(&mut here.websocket, last_lost + 1).await;
    assert_eq!(all, (last_lost + 1..=end).chain([LAST]).collect::<Vec<_>>());
    let block = here.stream.block().await;
    let told = block.data.as_ref().unwrap();
    assert_eq!((block.event.as_deref(), &told["from"], &told["to"]), (Some("gap"), &gap["from"], &gap["to"]));
    for (number, data) in (last_lost + 1..).zip(&all) {
        assert_eq!(here.stream.message().await, (number, json!(data)));
    }
    // A classic client has no words for a gap: it is closed, and has no message from behind the gap.
    let error = answer_of(&mut here.classic).await;
    assert_eq!(error["error"]["code"], "topic_unavailable", "{error}");
    assert_eq!(here.classic.close().await, Close::Fin);
    // On the other node nothing is missing.
    let all: Vec<_> = rest_of(&mut there, 1).await;
    assert_eq!(all, (1..=end).chain([LAST]).collect::<Vec<_>>());
    assert!(node.figure("janus_engine_resynced_topics_total") >= Some(1.0));
    assert_eq!(node.figure("janus_engine_losses_total"), Some(1.0));
    assert_eq!(other.figure("janus_engine_losses_total"), Some(0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_cut_network_what_the_log_no_longer_has_is_told_as_a_gap() {
    what_the_log_no_longer_has_is_told_as_a_gap(Cut::of_a_network().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_proxy_that_hung_what_the_log_no_longer_has_is_told_as_a_gap() {
    what_the_log_no_longer_has_is_told_as_a_gap(Cut::of_a_proxy().await).await;
}

async fn a_cut_shorter_than_the_patience_delays_and_does_nothing_else(cut: Cut) {
    let (node, other) = two_nodes(&cut, &[("JANUS_ENGINE_TIMEOUT", "60 s")]);
    let (mut here, _) = subscribed(&node, None).await;
    assert_eq!(other.publish("news", 1).await.0, 200);
    assert_eq!(message(&mut here).await, (1, 1));
    cut.take_down();
    let waiting = {
        let admin = node.admin;
        tokio::spawn(async move { publish(admin, "news", LAST).await })
    };
    crate::support::until("the message waits", || node.figure("janus_engine_waiting_messages") == Some(1.0)).await;
    assert_eq!(other.publish("news", 2).await.0, 200);
    assert!(!waiting.is_finished());
    cut.bring_up();
    let (status, answer) = waiting.await.unwrap();
    assert_eq!((status, &answer["seq"]), (200, &json!(3)), "{answer}");
    assert_eq!(rest_of(&mut here, 2).await, [2, LAST]);
    assert!(!has_figure(&node, "janus_engine_reconnects_total{"));
    assert_eq!(node.figure("janus_engine_resynced_topics_total"), Some(0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_cut_for_less_than_the_patience_delays_and_does_nothing_else() {
    a_cut_shorter_than_the_patience_delays_and_does_nothing_else(Cut::of_a_network().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_hangs_for_less_than_the_patience_delays_and_does_nothing_else() {
    a_cut_shorter_than_the_patience_delays_and_does_nothing_else(Cut::of_a_proxy().await).await;
}
