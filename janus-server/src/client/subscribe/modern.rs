//! Subscribing by `janus.v1.json` over a WebSocket.

use std::rc::Rc;

use janus_core::wire::v1::client::{self, ServerFrame};
use janus_core::{Position, Since};
use tokio::runtime::Runtime;

use super::super::ClientError;
use super::super::http::runtime;
use super::super::output::{Payload, message_json, print_json, say};
use super::super::server::Target;
use super::super::websocket::{self, WebSocket};
use crate::cli::Subscribe;

pub(super) struct Subscriber<'a> {
    command: &'a Subscribe,
    target: Target,
    runtime: Rc<Runtime>,
    /// The topics of the command, and after these the topics to which the token subscribes the client.
    topics: Vec<Topic>,
    /// The token of the latest session.
    session: Option<String>,
    has_subscribed: bool,
    printed: u64,
}

struct Topic {
    name: String,
    /// Up to here the client has everything.
    position: Option<Position>,
}

impl<'a> Subscriber<'a> {
    pub(super) fn new(command: &'a Subscribe, target: Target) -> Result<Self, ClientError> {
        let topic = |name: &String| Topic { name: name.clone(), position: command.since.and_then(Since::position) };
        let topics = command.topics.iter().map(topic).collect();
        let runtime = Rc::new(runtime()?);
        Ok(Self { command, target, runtime, topics, session: None, has_subscribed: false, printed: 0 })
    }

    async fn read(&mut self, socket: &mut WebSocket) -> Result<(), ClientError> {
        let mut unacknowledged = self.topics.len();
        while self.command.count.is_none_or(|count| self.printed < count) {
            let text = match unacknowledged {
                0 => socket.receive_while_alive().await?,
                _ => socket.receive_within(self.target.timeout, "acknowledgement").await?,
            };
            match ServerFrame::parse(&text) {
                ServerFrame::Subscribed { id, topic, position, missed } => {
                    self.subscribed(&topic, position, missed);
                    if id.is_some() {
                        unacknowledged = unacknowledged.saturating_sub(1);
                        if unacknowledged == 0 && !self.has_subscribed {
                            self.has_subscribed = true;
                            say(&format!("subscribed at {}", self.target.address));
                        }
                    }
                }
                ServerFrame::Message { topic, seq, time, event, message_id, data, base64 } => {
                    if let Some(Topic { position: Some(position), .. }) = self.topic(&topic) {
                        position.seq = seq;
                    }
                    let payload = Payload::of(data, base64);
                    print_json(&message_json(&topic, seq, time.as_millis(), [event, message_id], payload))?;
                    self.printed += 1;
                }
                ServerFrame::Gap { topic, epoch, from, to } => {
                    say(&format!("messages {from} to {to} of {topic} are lost"));
                    if let Some(topic) = self.topic(&topic) {
                        topic.position = Some(Position { epoch, seq: to });
                    }
                }
                // The token's own topics are nothing that the user has asked for.
                ServerFrame::Error { id: None, topic: Some(topic), message, .. } if !self.is_asked_for(&topic) => {
                    say(&format!("no messages of {topic}: {message}"));
                    self.topics.retain(|known| known.name != topic);
                }
                error @ (ServerFrame::Error { .. } | ServerFrame::Bye { .. }) => {
                    return Err(websocket::refused(error).advised(|code| websocket::advice(&self.target, code)));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn is_asked_for(&self, topic: &str) -> bool {
        self.command.topics.iter().any(|asked| asked == topic)
    }

    fn topic(&mut self, name: &str) -> Option<&mut Topic> {
        self.topics.iter_mut().find(|topic| topic.name == name)
    }

    /// Takes over the place from which a topic is delivered, and reports how many messages follow at once, or that
    /// messages are lost.
    fn subscribed(&mut self, name: &str, position: Position, missed: Option<u64>) {
        let (begin, address) =
            (if self.has_subscribed { "reconnected to" } else { "subscribed at" }, &self.target.address);
        let expected = self.topics.iter().find(|topic| topic.name == name).and_then(|topic| topic.position);
        match (expected, missed) {
            (None, _) => {}
            (Some(_), Some(1)) => say(&format!("{begin} {address}: 1 missed message of {name}")),
            (Some(_), Some(missed)) => say(&format!("{begin} {address}: {missed} missed messages of {name}")),
            (Some(_), None) => say(&format!("{begin} {address}: messages of {name} in between are lost")),
        }
        match self.topic(name) {
            Some(topic) => topic.position = Some(position),
            None => self.topics.push(Topic { name: name.to_owned(), position: Some(position) }),
        }
    }
}

impl super::Subscriber for Subscriber<'_> {
    fn converse(&mut self) -> Result<(), ClientError> {
        let runtime = Rc::clone(&self.runtime);
        let is_first = !self.has_subscribed;
        let ended = runtime.block_on(async {
            let mut socket = WebSocket::open(&self.target, self.session.as_deref()).await?;
            self.session = Some(std::mem::take(&mut socket.session));
            for (id, Topic { name, position }) in (0..).zip(&self.topics) {
                let since = position.map(Since::from).or(self.command.since);
                socket.send(client::subscribe(Some(id), name, since)).await?;
            }
            self.read(&mut socket).await
        });
        // A server that was the right one before is so still.
        ended.map_err(|error| if is_first && !self.has_subscribed { self.target.explain(error) } else { error })
    }

    fn has_subscribed(&self) -> bool {
        self.has_subscribed
    }
}
