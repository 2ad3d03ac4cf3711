//! A server of the classic protocol that can be told to misbehave: it loses, repeats and reorders messages, refuses, says
//! nothing or hangs up. What the client commands and the bench make of that cannot be seen with a server that works.

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
    /// From a topic's third message on, each is answered with an error frame and the connection stays.
    RefusesTheRest,
    /// As `Loses`, and the answer to a topic's third message is an error frame that ends the connection.
    LosesAndDrains,
    /// Connections are accepted and never answered.
    SaysNothing,
    /// The connection ends after the first acknowledgement.
    HangsUp,
}

pub(crate) struct FakeServer {
    pub(crate) address: String,
    state: Arc<State>,
}

struct State {
    fault: Fault,
    ended: AtomicBool,
    topics: Mutex<HashMap<String, Topic>>,
}

#[derive(Default)]
struct Topic {
    subscribers: Vec<TcpStream>,
    published: u64,
    held_back: Vec<u8>,
}

/// A publisher's message, carried as it was written.
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
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(State { fault, ended: AtomicBool::new(false), topics: Mutex::default() });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.ended.load(Ordering::Acquire) {
                    break;
                }
                let (Ok(stream), shared) = (stream, Arc::clone(&shared)) else { continue };
                // What one client breaks off ends its thread only.
                std::thread::spawn(move || shared.serve(stream).ok());
            }
        });
        Self { address, state }
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Release);
        let _ = TcpStream::connect(&self.address);
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
            while let Some(end) = received.iter().position(|&byte| byte == 0) {
                let frame: Vec<u8> = received.drain(..=end).collect();
                let frame = str::from_utf8(&frame[..end]).unwrap();
                match frame {
                    "<regular-socket/>" | "" => {}
                    "PUBLISH" => classic = true,
                    body if classic => {
                        self.publish(&serde_json::from_str(body).unwrap());
                        return Ok(());
                    }
                    action => self.act(&mut stream, &serde_json::from_str(action).unwrap())?,
                }
            }
            let length = stream.read(&mut piece)?;
            if length == 0 {
                return Ok(());
            }
            received.extend_from_slice(&piece[..length]);
        }
    }

    fn act(&self, stream: &mut TcpStream, action: &Action<'_>) -> std::io::Result<()> {
        match action.action.as_str() {
            "subscribe" => {
                let topic: String = serde_json::from_str(action.data.get()).unwrap();
                let mut topics = self.topics.lock().unwrap();
                topics.entry(topic).or_default().subscribers.push(stream.try_clone()?);
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
                            // What is not read makes the close a reset, which can overtake the answer.
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
        let name = Value::from(publication.topic.as_str());
        let (event, id, data) = (publication.event, publication.message_id, publication.data);
        let frame = format!(
            "{{\"timestamp\":[1,2,3],\"topic\":{name},\"event\":{event},\"message_id\":{id},\"data\":{data}}}\x01"
        );
        let mut topics = self.topics.lock().unwrap();
        let topic = topics.entry(publication.topic.clone()).or_default();
        topic.published += 1;
        for (index, mut subscriber) in topic.subscribers.iter().enumerate() {
            let frames = match (index, topic.published, self.fault) {
                (0, 2, Fault::Loses | Fault::LosesAndDrains) => String::new(),
                (0, 2, Fault::DropsClient) => {
                    let _ = subscriber.shutdown(Shutdown::Both);
                    String::new()
                }
                (0, 2, Fault::Repeats) => frame.repeat(2),
                (0, 2, Fault::Reorders) => {
                    topic.held_back = frame.clone().into_bytes();
                    String::new()
                }
                (0, 3, Fault::Reorders) => format!("{frame}{}", String::from_utf8_lossy(&topic.held_back)),
                _ => frame.clone(),
            };
            let _ = subscriber.write_all(frames.as_bytes());
        }
        (topic.published, topic.subscribers.len())
    }
}

fn refuse(stream: &mut TcpStream, code: &str) -> std::io::Result<()> {
    let frame = format!("{{\"timestamp\":[1,2,3],\"error\":{{\"code\":\"{code}\",\"message\":\"not here\"}}}}\x01");
    stream.write_all(frame.as_bytes())
}
