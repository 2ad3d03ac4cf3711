//! A server that misbehaves on request: lost, repeated and reordered messages, refusals, silence or a hang-up. A
//! working server could not show how the client commands and the bench react.
//!
//! The server takes publications by the classic protocol. Subscribers come by the classic protocol, and on a second
//! port by WebSocket and by server-sent events.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use serde_json::value::RawValue;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// The first subscriber does not get a topic's second message.
    Loses,
    /// The first subscriber gets a topic's second message twice.
    Repeats,
    /// The first subscriber gets a topic's second message after the third.
    Reorders,
    /// The first subscriber's connection is closed instead of getting a topic's second message.
    DropsClient,
    /// Every publication is answered with an error frame.
    Refuses,
    /// From a topic's third message on, each publication is answered with an error frame, and the connection stays.
    RefusesTheRest,
    /// Like `Loses`, and the answer to a topic's third message is an error frame that ends the connection.
    LosesAndDrains,
    /// Connections are accepted and never answered.
    SaysNothing,
    /// The connection ends after the first acknowledgement.
    HangsUp,
}

pub(crate) struct FakeServer {
    pub(crate) address: String,
    /// The address of WebSocket and server-sent events.
    pub(crate) http: String,
    state: Arc<State>,
}

struct State {
    fault: Fault,
    ended: AtomicBool,
    topics: Mutex<HashMap<String, Topic>>,
}

#[derive(Default)]
struct Topic {
    subscribers: Vec<(Transport, TcpStream)>,
    published: u64,
    held_back: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Transport {
    Classic,
    WebSocket,
    Sse,
}

impl Transport {
    /// A message in the subscribers' format.
    fn frame(self, publication: &Publication<'_>, seq: u64) -> Vec<u8> {
        let Publication { topic, event, message_id: id, data } = publication;
        let topic = Value::from(topic.as_str());
        let members = format!("\"event\":{event},\"message_id\":{id},\"data\":{data}}}");
        let place = format!("\"topic\":{topic},\"seq\":{seq},\"time\":1");
        match self {
            Self::Classic => format!("{{\"timestamp\":[1,2,3],\"topic\":{topic},{members}\x01").into_bytes(),
            Self::WebSocket => text_frame(&format!("{{\"type\":\"message\",{place},{members}")),
            Self::Sse => format!("id: 9f.{seq}\ndata: {{{place},{members}\n\n").into_bytes(),
        }
    }
}

/// A text frame of a WebSocket.
fn text_frame(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81];
    match u8::try_from(text.len()) {
        Ok(length @ 0..126) => frame.push(length),
        _ => {
            frame.push(126);
            frame.extend(u16::try_from(text.len()).expect("tests send little").to_be_bytes());
        }
    }
    frame.extend_from_slice(text.as_bytes());
    frame
}

/// A publisher's message, with its original text.
#[derive(serde::Deserialize)]
struct Publication<'a> {
    topic: String,
    #[serde(borrow)]
    event: &'a RawValue,
    #[serde(borrow)]
    message_id: &'a RawValue,
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(serde::Deserialize)]
struct Action<'a> {
    action: String,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(default)]
    ack: bool,
}

impl FakeServer {
    pub(crate) fn start(fault: Fault) -> Self {
        let state = Arc::new(State { fault, ended: AtomicBool::new(false), topics: Mutex::default() });
        let address = listen(&state, State::serve);
        let http = listen(&state, State::serve_http);
        Self { address, http, state }
    }
}

/// Listens on a new port, serves each connection on a separate thread, and returns the port's address.
fn listen(state: &Arc<State>, serve: fn(&State, TcpStream) -> std::io::Result<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let state = Arc::clone(state);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            if state.ended.load(Ordering::Acquire) {
                break;
            }
            let (Ok(stream), state) = (stream, Arc::clone(&state)) else { continue };
            // A connection broken off by the client ends only its thread.
            std::thread::spawn(move || serve(&state, stream).ok());
        }
    });
    address
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Release);
        let _ = TcpStream::connect(&self.address);
        let _ = TcpStream::connect(&self.http);
    }
}

impl State {
    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        if self.fault == Fault::SaysNothing {
            return stream.read_to_end(&mut Vec::new()).map(drop);
        }
        stream.set_nodelay(true)?;
        stream.write_all(b"{\"timestamp\":[1,2,3],\"token\":\"00112233445566778899aabbccddeeff\"}\x01")?;
        let mut received = Vec::new();
        let mut piece = [0; 16 * 1024];
        let mut classic = false;
        loop {
            while !classic && let Some(end) = received.iter().position(|&byte| byte == 0) {
                let frame: Vec<u8> = received.drain(..=end).collect();
                let frame = str::from_utf8(&frame[..end]).unwrap();
                match frame {
                    "<regular-socket/>" | "" => {}
                    "PUBLISH" => classic = true,
                    action => self.act(&mut stream, &serde_json::from_str(action).unwrap())?,
                }
            }
            // Like the original: the body is bare JSON, and a body with a final NUL is refused.
            if classic && let Ok(body) = serde_json::from_slice(&received) {
                self.publish(&body);
                return Ok(());
            }
            let length = stream.read(&mut piece)?;
            if length == 0 {
                return Ok(());
            }
            received.extend_from_slice(&piece[..length]);
        }
    }

    /// Serves a connection to the HTTP port: one subscription, to the topic in the request or in the second frame.
    fn serve_http(&self, mut stream: TcpStream) -> std::io::Result<()> {
        if self.fault == Fault::SaysNothing {
            return stream.read_to_end(&mut Vec::new()).map(drop);
        }
        stream.set_nodelay(true)?;
        let head = read_up_to(&mut stream, b"\r\n\r\n")?;
        if self.fault == Fault::Refuses {
            let body = "{\"error\":{\"code\":\"too_many_connections\",\"message\":\"not here\"}}";
            let head = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length:";
            return stream.write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes());
        }
        let (transport, topic) = if head.starts_with("GET /ws HTTP/1.1\r\n") {
            // The key of the example in RFC 6455, and the matching answer.
            assert!(head.contains("\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), "{head}");
            stream.write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                  Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
            )?;
            assert_eq!(read_frame(&mut stream)?["type"], "hello");
            stream.write_all(&text_frame(r#"{"type":"welcome","session":"00","resumed":false}"#))?;
            let subscribe = read_frame(&mut stream)?;
            assert_eq!(subscribe["type"], "subscribe");
            (Transport::WebSocket, subscribe["topic"].as_str().unwrap().to_owned())
        } else {
            let topic = head.strip_prefix("GET /events?topic=").unwrap().split(' ').next().unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\nretry: 2000\n")?;
            (Transport::Sse, topic.to_owned())
        };
        let mut topics = self.topics.lock().unwrap();
        topics.entry(topic).or_default().subscribers.push((transport, stream.try_clone()?));
        match transport {
            Transport::Sse => stream.write_all(b"event: subscribed\nid: 9f.0\ndata: {}\n\n")?,
            // A ping, which must get its pong before any other frame.
            _ => stream.write_all(&[&text_frame(r#"{"type":"subscribed","seq":0}"#)[..], &[0x89, 0]].concat())?,
        }
        drop(topics);
        if let Transport::WebSocket = transport {
            let mut pong = [0; 6];
            stream.read_exact(&mut pong)?;
            assert_eq!(pong, [0x8a, 0x80, 0, 0, 0, 0]);
        }
        if self.fault == Fault::HangsUp {
            stream.shutdown(Shutdown::Both)?;
        }
        stream.read_to_end(&mut Vec::new()).map(drop)
    }

    fn act(&self, stream: &mut TcpStream, action: &Action<'_>) -> std::io::Result<()> {
        match action.action.as_str() {
            "subscribe" => {
                let topic: String = serde_json::from_str(action.data.get()).unwrap();
                let mut topics = self.topics.lock().unwrap();
                topics.entry(topic).or_default().subscribers.push((Transport::Classic, stream.try_clone()?));
                stream.write_all(b"ACK\x01")?;
                if self.fault == Fault::HangsUp {
                    stream.shutdown(Shutdown::Both)?;
                }
                Ok(())
            }
            _ if self.fault == Fault::Refuses => refuse(stream, "publish_not_allowed"),
            _ => {
                let publication: Publication<'_> = serde_json::from_str(action.data.get()).unwrap();
                if self.published(&publication.topic) >= 2 {
                    match self.fault {
                        Fault::RefusesTheRest => return refuse(stream, "topic_unavailable"),
                        Fault::LosesAndDrains => {
                            refuse(stream, "server_draining")?;
                            stream.shutdown(Shutdown::Write)?;
                            // Unread bytes turn the close into a reset, which can overtake the answer.
                            return stream.read_to_end(&mut Vec::new()).map(drop);
                        }
                        _ => {}
                    }
                }
                let (seq, subscribers) = self.publish(&publication);
                if !action.ack {
                    return Ok(());
                }
                let topic = Value::from(publication.topic);
                let receipt = format!(
                    "{{\"timestamp\":[1,2,3],\"published\":{{\"topic\":{topic},\"epoch\":\"e\",\"seq\":{seq},\
                     \"subscribers\":{subscribers}}}}}\x01"
                );
                stream.write_all(receipt.as_bytes())
            }
        }
    }

    fn published(&self, topic: &str) -> u64 {
        self.topics.lock().unwrap().get(topic).map_or(0, |topic| topic.published)
    }

    fn publish(&self, publication: &Publication<'_>) -> (u64, usize) {
        let mut topics = self.topics.lock().unwrap();
        let topic = topics.entry(publication.topic.clone()).or_default();
        topic.published += 1;
        for (index, (transport, subscriber)) in topic.subscribers.iter_mut().enumerate() {
            let frame = transport.frame(publication, topic.published);
            let frames = match (index, topic.published, self.fault) {
                (0, 2, Fault::Loses | Fault::LosesAndDrains) => Vec::new(),
                (0, 2, Fault::DropsClient) => {
                    let _ = subscriber.shutdown(Shutdown::Both);
                    Vec::new()
                }
                (0, 2, Fault::Repeats) => frame.repeat(2),
                (0, 2, Fault::Reorders) => {
                    topic.held_back = frame;
                    Vec::new()
                }
                (0, 3, Fault::Reorders) => [&frame[..], &topic.held_back].concat(),
                _ => frame,
            };
            let _ = subscriber.write_all(&frames);
        }
        (topic.published, topic.subscribers.len())
    }
}

fn refuse(stream: &mut TcpStream, code: &str) -> std::io::Result<()> {
    let frame = format!("{{\"timestamp\":[1,2,3],\"error\":{{\"code\":\"{code}\",\"message\":\"not here\"}}}}\x01");
    stream.write_all(frame.as_bytes())
}

fn read_up_to(stream: &mut TcpStream, end: &[u8]) -> std::io::Result<String> {
    let mut received = Vec::new();
    while !received.ends_with(end) {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        received.push(byte[0]);
    }
    Ok(String::from_utf8(received).unwrap())
}

/// The object in a short text frame of a client that masks with zeros.
fn read_frame(stream: &mut TcpStream) -> std::io::Result<Value> {
    let mut head = [0; 6];
    stream.read_exact(&mut head)?;
    assert_eq!([head[0], head[1] & 0x80], [0x81, 0x80]);
    assert_eq!(head[2..], [0; 4]);
    let mut payload = vec![0; usize::from(head[1] & 0x7f)];
    assert!(payload.len() < 126);
    stream.read_exact(&mut payload)?;
    Ok(serde_json::from_slice(&payload).unwrap())
}
