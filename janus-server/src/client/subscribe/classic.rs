//! Subscribing by the classic protocol. Lines have the shape of the protocol's messages.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Instant;

use janus_core::wire::classic::client::{self, ServerFrame};
use serde_json::json;

use super::super::ClientError;
use super::super::modern::advice;
use super::super::output::{Payload, print_json, say};
use super::super::server::Target;
use crate::cli::Subscribe;

pub(super) struct Subscriber<'a> {
    command: &'a Subscribe,
    target: Target,
    /// Set once all topics have been subscribed to.
    session: Option<Session>,
    printed: u64,
}

/// The state that the server needs to resume a session.
struct Session {
    token: String,
    /// Messages received on each topic since its `ACK`, or since the server reset the count after a loss.
    received: BTreeMap<String, u64>,
}

impl<'a> Subscriber<'a> {
    pub(super) fn new(command: &'a Subscribe, target: Target) -> Self {
        Self { command, target, session: None, printed: 0 }
    }

    fn read(&mut self) -> Result<(), ClientError> {
        let command = self.command;
        let mut connection = self.target.connect_classic()?;
        connection.send(&self.opening())?;

        let mut deadline = Some(Instant::now() + self.target.timeout);
        let mut unacknowledged = command.topics.len();
        // Messages are counted from the first ACK on; the session exists only with the last ACK.
        let mut received: BTreeMap<String, u64> = command.topics.iter().map(|topic| (topic.clone(), 0)).collect();
        let mut greeting = None;
        while command.count.is_none_or(|count| self.printed < count) {
            match connection.receive(deadline)? {
                Some(ServerFrame::Greeting { token }) => greeting = Some(token.into_owned()),
                Some(ServerFrame::Ack) => {
                    unacknowledged = unacknowledged.saturating_sub(1);
                    if unacknowledged == 0 {
                        deadline = None;
                        say(&format!("subscribed at {}", self.target.address));
                        let token = greeting.clone().unwrap_or_default();
                        self.session = Some(Session { token, received: std::mem::take(&mut received) });
                    }
                }
                Some(ServerFrame::Attached { topics, token }) => {
                    deadline = None;
                    if let Some(session) = &mut self.session {
                        session.resume(&self.target.address.to_string(), token.into_owned(), topics);
                    }
                }
                Some(ServerFrame::Message { timestamp, topic, event, message_id, data, base64 }) => {
                    let counts = self.session.as_mut().map_or(&mut received, |session| &mut session.received);
                    if let Some(count) = counts.get_mut(&*topic) {
                        *count += 1;
                    }
                    let (mega, sec, micro) = (timestamp.mega, timestamp.sec, timestamp.micro);
                    let topic = json!(topic);
                    let payload = Payload::of(data, base64);
                    print_json(&format!(
                        "{{\"timestamp\":[{mega},{sec},{micro}],\"topic\":{topic},\"event\":{event},\
                         \"message_id\":{message_id},{payload}}}"
                    ))?;
                    self.printed += 1;
                }
                Some(ServerFrame::Error { code, message }) => {
                    return Err(ClientError::refused(&code, &message).advised(|code| advice(&self.target, code)));
                }
                Some(
                    ServerFrame::Ping
                    | ServerFrame::Published { .. }
                    | ServerFrame::Assigned { .. }
                    | ServerFrame::Refreshed { .. }
                    | ServerFrame::Unknown(_)
                    | ServerFrame::TooLarge,
                ) => {}
                None => return Err(ClientError::Late { awaited: "acknowledgement", timeout: self.target.timeout }),
            }
        }
        Ok(())
    }

    /// The first frames of a connection: attach to the session if there is one, otherwise subscribe to all topics.
    fn opening(&self) -> Vec<u8> {
        let mut frames = Vec::new();
        if let Some(session) = &self.session {
            let received = session.received.iter().map(|(topic, count)| (topic.as_str(), *count));
            frames.extend_from_slice(&client::attach(&session.token, received));
        } else {
            for topic in &self.command.topics {
                frames.extend_from_slice(&client::subscribe(topic));
            }
        }
        frames
    }
}

impl Session {
    /// Takes over the server's answer to an attach, and reports for each topic how many messages were missed; `None` if
    /// the server no longer has them.
    fn resume<'a>(
        &mut self,
        server: &str,
        token: String,
        topics: impl IntoIterator<Item = (Cow<'a, str>, Option<u64>)>,
    ) {
        self.token = token;
        for (topic, missed) in topics {
            match missed {
                Some(1) => say(&format!("reconnected to {server}: 1 missed message of {topic}")),
                Some(missed) => say(&format!("reconnected to {server}: {missed} missed messages of {topic}")),
                None => {
                    say(&format!("reconnected to {server}: messages of {topic} in between are lost"));
                    self.received.insert(topic.into_owned(), 0);
                }
            }
        }
    }
}

impl Subscriber<'_> {
    /// Runs a connection from its beginning to its end.
    pub(super) fn converse(&mut self) -> Result<(), ClientError> {
        let is_first = self.session.is_none();
        self.read().map_err(|error| if is_first && self.session.is_none() { self.target.explain(error) } else { error })
    }

    /// Whether all topics have been subscribed to. From then on, a lost connection is a reason to come back.
    pub(super) fn has_subscribed(&self) -> bool {
        self.session.is_some()
    }
}
