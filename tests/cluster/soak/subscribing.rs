//! Subscribers over WebSocket and as event streams, back at any node with their positions.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::ledger::{Ledger, Stream};
use super::{World, name_of};
use crate::support::take_chunks;

/// How long a client waits for a connection and the answers to its first requests.
const PATIENCE: Duration = Duration::from_secs(3);

/// After so long without a message a client tries another node.
const SILENCE: Duration = Duration::from_secs(4);

/// How often a client looks whether the run is over.
const LOOK: Duration = Duration::from_millis(250);

/// A client with these topics, up to the end of the run.
pub(super) async fn subscribe(world: Arc<World>, mut streams: Vec<Stream>, is_websocket: bool, mut rng: Rng) {
    let mut last_id = String::new();
    while !world.is_over() {
        let reason = match world.any_node(&mut rng) {
            None => "no node".to_owned(),
            Some(node) if is_websocket => match websocket(&world, node, &mut streams, &mut rng).await {
                Ok(reason) | Err(reason) => reason,
            },
            Some(node) => match events(&world, node, &mut streams[0], &mut last_id, &mut rng).await {
                Ok(reason) | Err(reason) => reason,
            },
        };
        if !world.is_over() {
            world.ledger.count(format!("connections of subscribers ended: {reason}"));
            tokio::time::sleep(Duration::from_millis(rng.u64(..300))).await;
        }
    }
    streams.iter().for_each(|stream| stream.end(&world.ledger));
}

/// How long a client stays.
struct Visit {
    leaves: Instant,
    heard: Instant,
}

impl Visit {
    fn new(rng: &mut Rng) -> Self {
        let now = Instant::now();
        Self { leaves: now + Duration::from_millis(rng.u64(500..40_000)), heard: now }
    }

    /// Why the client goes, if it does.
    fn end(&self, world: &World) -> Option<&'static str> {
        match Instant::now() {
            _ if world.is_over() => Some("the end"),
            _ if world.is_quiet() => None,
            now if now >= self.leaves => Some("the client left"),
            now if now >= self.heard + SILENCE => Some("silence"),
            _ => None,
        }
    }
}

fn hex(value: &Value) -> u64 {
    value.as_str().and_then(|text| u64::from_str_radix(text, 16).ok()).expect("an epoch is 16 hexadecimal digits")
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("a number is expected: {value}"))
}

/// An error is no fault of the client: the class is "try again" or "slow down".
fn refused(ledger: &Ledger, frame: &Value) -> String {
    if frame["code"].as_u64().is_none_or(|code| code >= 4_400) {
        ledger.breach(format!("a subscriber was refused: {frame}"));
    }
    format!("told {}", frame["error"].as_str().unwrap_or("?"))
}

/// Connects, and asks for the topics from where the client has come to.
async fn enter(node: SocketAddr, streams: &[Stream]) -> Result<WebSocketStream<TcpStream>, &'static str> {
    let request = format!("ws://{node}/ws").into_client_request().expect("a request");
    let stream = TcpStream::connect(node).await.map_err(|_| "no connection")?;
    let (mut socket, _) = client_async(request, stream).await.map_err(|_| "no handshake")?;
    let mut requests = vec![json!({"type": "hello"})];
    for stream in streams {
        let mut request = json!({"type": "subscribe", "topic": name_of(stream.topic)});
        if let Some((epoch, seq)) = stream.position {
            request["since"] = json!({"epoch": format!("{epoch:016x}"), "seq": seq});
        }
        requests.push(request);
    }
    for request in requests {
        socket.send(Message::text(request.to_string())).await.map_err(|_| "no requests")?;
    }
    Ok(socket)
}

/// Returns why the connection ended: an error from the beginning, or a reason from later on.
async fn websocket(world: &World, node: SocketAddr, streams: &mut [Stream], rng: &mut Rng) -> Result<String, String> {
    let mut socket = timeout(PATIENCE, enter(node, streams)).await.map_err(|_| "slow connection")??;
    let mut visit = Visit::new(rng);
    loop {
        if let Some(reason) = visit.end(world) {
            return Ok(reason.to_owned());
        }
        if let Some(frame) = next_frame(&mut socket).await? {
            visit.heard = Instant::now();
            if let Some(reason) = take_frame(&world.ledger, streams, &frame) {
                return Ok(reason);
            }
        }
    }
}

/// Returns why the connection ends, if it does.
fn take_frame(ledger: &Ledger, streams: &mut [Stream], frame: &Value) -> Option<String> {
    let topic = frame["topic"].as_str().unwrap_or_default();
    let stream = streams.iter_mut().find(|stream| name_of(stream.topic) == topic);
    match (frame["type"].as_str().unwrap_or_default(), stream) {
        ("welcome" | "pong", _) => {}
        ("subscribed", Some(stream)) => {
            stream.subscribed(ledger, (hex(&frame["epoch"]), number(&frame["seq"])), frame["resumed"] == true);
        }
        ("message", Some(stream)) => stream.message(ledger, number(&frame["seq"]), number(&frame["data"])),
        ("gap", Some(stream)) => {
            stream.gap(ledger, hex(&frame["epoch"]), number(&frame["from"]), number(&frame["to"]));
        }
        ("error" | "bye", _) => return Some(refused(ledger, frame)),
        _ => ledger.breach(format!("an unknown frame: {frame}")),
    }
    None
}

async fn next_frame(socket: &mut WebSocketStream<TcpStream>) -> Result<Option<Value>, &'static str> {
    match timeout(LOOK, socket.next()).await {
        Err(_) => Ok(None),
        Ok(Some(Ok(Message::Text(text)))) => Ok(Some(serde_json::from_str(&text).expect("frames are JSON"))),
        Ok(Some(Ok(Message::Close(_)))) => Err("closed"),
        Ok(Some(Ok(_))) => Ok(None),
        Ok(Some(Err(_)) | None) => Err("lost"),
    }
}

/// The bytes of an event stream.
struct Body {
    stream: TcpStream,
    chunks: Vec<u8>,
    text: String,
}

impl Body {
    /// The next block, if one has come.
    async fn block(&mut self) -> Result<Option<String>, &'static str> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let rest = self.text.split_off(end + 2);
                return Ok(Some(std::mem::replace(&mut self.text, rest)));
            }
            match timeout(LOOK, self.stream.read_buf(&mut self.chunks)).await {
                Err(_) => return Ok(None),
                Ok(Ok(1..)) => self.text.push_str(str::from_utf8(&take_chunks(&mut self.chunks).0).expect("UTF-8")),
                Ok(_) => return Err("lost"),
            }
        }
    }
}

/// Opens the stream; the head must say that all is well.
async fn open(node: SocketAddr, topic: usize, last_id: &str) -> Result<Body, String> {
    let mut stream = TcpStream::connect(node).await.map_err(|_| "no connection")?;
    let id = if last_id.is_empty() { String::new() } else { format!("Last-Event-ID: {last_id}\r\n") };
    let (topic, accept) = (name_of(topic), "Accept: text/event-stream\r\n");
    let request = format!("GET /events?topic={topic} HTTP/1.1\r\nHost: {node}\r\n{accept}{id}\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|_| "no requests")?;
    let mut received = Vec::new();
    let end_of_head = loop {
        if let Some(at) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if !matches!(stream.read_buf(&mut received).await, Ok(1..)) {
            return Err("no handshake".to_owned());
        }
    };
    let head = String::from_utf8_lossy(&received[..end_of_head]).into_owned();
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(format!("status {}", head.split(' ').nth(1).unwrap_or("?")));
    }
    let mut chunks = received.split_off(end_of_head);
    let text = String::from_utf8(take_chunks(&mut chunks).0).expect("UTF-8");
    Ok(Body { stream, chunks, text })
}

/// Returns why the connection ended: an error from the beginning, or a reason from later on.
async fn events(
    world: &World,
    node: SocketAddr,
    stream: &mut Stream,
    last_id: &mut String,
    rng: &mut Rng,
) -> Result<String, String> {
    let opening = timeout(PATIENCE, open(node, stream.topic, last_id)).await;
    let mut body = opening.map_err(|_| "slow connection")??;
    let mut visit = Visit::new(rng);
    let mut is_told_of_a_gap = false;
    loop {
        if let Some(reason) = visit.end(world) {
            return Ok(reason.to_owned());
        }
        if let Some(block) = body.block().await? {
            visit.heard = Instant::now();
            if let Some(reason) = take_block(&world.ledger, stream, &block, last_id, &mut is_told_of_a_gap) {
                return Ok(reason);
            }
        }
    }
}

/// Returns why the stream ends, if it does.
fn take_block(
    ledger: &Ledger,
    stream: &mut Stream,
    block: &str,
    last_id: &mut String,
    is_told_of_a_gap: &mut bool,
) -> Option<String> {
    let (mut event, mut data, mut place) = ("", Value::Null, None);
    for line in block.lines() {
        match line.split_once(": ") {
            Some(("event", value)) => event = value,
            Some(("id", value)) => {
                place = Some(place_of(value));
                value.clone_into(last_id);
            }
            Some(("data", value)) => data = serde_json::from_str(value).expect("data are JSON"),
            _ => {}
        }
    }
    match (event, place) {
        ("heartbeat", _) => {}
        ("gap", Some(place)) if data["resumed"] == false => {
            stream.subscribed(ledger, place, false);
            *is_told_of_a_gap = true;
        }
        ("subscribed", Some(place)) if *is_told_of_a_gap => check_id(ledger, stream, place),
        ("subscribed", Some(place)) => {
            let is_resumed = data["resumed"] == true;
            if stream.position.is_some() && !is_resumed {
                ledger.breach(format!("an event stream does not resume, without a word of a gap: {data}"));
            }
            stream.subscribed(ledger, place, is_resumed);
        }
        ("gap", Some(place)) => {
            stream.gap(ledger, hex(&data["epoch"]), number(&data["from"]), number(&data["to"]));
            check_id(ledger, stream, place);
        }
        ("", Some(place)) => {
            stream.message(ledger, number(&data["seq"]), number(&data["data"]));
            check_id(ledger, stream, place);
        }
        ("bye" | "refused", _) => return Some(refused(ledger, &data)),
        _ => ledger.breach(format!("an unknown block: {block}")),
    }
    None
}

/// The id of a block is the position behind the block.
fn check_id(ledger: &Ledger, stream: &Stream, place: (u64, u64)) {
    if stream.position != Some(place) {
        ledger.breach(format!("an event stream has the id {place:x?} at {:x?}", stream.position));
    }
}

fn place_of(id: &str) -> (u64, u64) {
    let mut parts = id.split('.');
    let epoch = parts.next().and_then(|epoch| u64::from_str_radix(epoch, 16).ok());
    let seq = parts.next().and_then(|seq| seq.parse().ok());
    epoch.zip(seq).expect("an id is a position")
}
