//! `janus-server subscribe`: subscribes, reports this on standard error, and prints each message as a line of JSON.
//!
//! The command ends by itself only with `--count`. A lost connection is a failure, because messages may be missed from
//! then on. With `--reconnect` the command returns to its session instead, and reports the missed messages of each
//! topic.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use janus_core::wire::classic::client::{self, ServerFrame};
use janus_core::wire::classic::{ErrorClass, ErrorCode};
use serde_json::json;

use super::{ClientError, Connection};
use crate::cli::Subscribe;

/// Longest pause before the first attempt to reconnect; doubled for each further attempt.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Longest pause before any attempt.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

pub(crate) fn run(command: &Subscribe) -> Result<(), ClientError> {
    let mut subscriber = Subscriber { command, session: None, printed: 0 };
    let mut failures = 0;
    loop {
        let begun = Instant::now();
        match subscriber.converse() {
            Err(error) if command.reconnect && subscriber.session.is_some() && may_come_back(&error) => {
                // A connection that lasted counts as a success, however the connection ended.
                failures = if begun.elapsed() > LONGEST_PAUSE { 0 } else { failures };
                let pause = pause(failures);
                failures += 1;
                say(&format!("{error}; reconnecting in {pause:.1?}"));
                #[expect(clippy::disallowed_methods, reason = "this command has nothing else to do")]
                std::thread::sleep(pause);
            }
            ended => return ended,
        }
    }
}

/// Reports progress to the user. A closed standard error is no reason to end.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// A random part of a doubling time: after a restart of the server, clients must not all reconnect at the same moment.
fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.min(16)).min(LONGEST_PAUSE).mul_f64(fastrand::f64())
}

fn may_come_back(error: &ClientError) -> bool {
    match error {
        ClientError::Connect { .. } | ClientError::Closed | ClientError::Lost(_) | ClientError::Late { .. } => true,
        ClientError::Refused { code, .. } => ErrorCode::ALL.iter().any(|known| {
            let passes = known.class() == ErrorClass::TryAgain || *known == ErrorCode::ServerOverloaded;
            known.as_str() == code && passes
        }),
        _ => false,
    }
}

struct Subscriber<'a> {
    command: &'a Subscribe,
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

impl Subscriber<'_> {
    /// Runs a connection from its beginning to its end.
    fn converse(&mut self) -> Result<(), ClientError> {
        let command = self.command;
        let mut connection = Connection::open(&command.from, command.timeout)?;
        connection.send(&self.opening())?;

        let mut deadline = Some(Instant::now() + command.timeout);
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
                        say(&format!("subscribed at {}", command.from));
                        let token = greeting.clone().unwrap_or_default();
                        self.session = Some(Session { token, received: std::mem::take(&mut received) });
                    }
                }
                Some(ServerFrame::Attached { topics, token }) => {
                    deadline = None;
                    if let Some(session) = &mut self.session {
                        session.resume(&command.from, token.into_owned(), topics);
                    }
                }
                Some(ServerFrame::Message { timestamp, topic, event, message_id, data }) => {
                    let counts = self.session.as_mut().map_or(&mut received, |session| &mut session.received);
                    if let Some(count) = counts.get_mut(&*topic) {
                        *count += 1;
                    }
                    let (mega, sec, micro) = (timestamp.mega, timestamp.sec, timestamp.micro);
                    let topic = json!(topic);
                    let line = format!(
                        "{{\"timestamp\":[{mega},{sec},{micro}],\"topic\":{topic},\"event\":{event},\
                         \"message_id\":{message_id},\"data\":{data}}}"
                    );
                    // Line ends occur only between JSON tokens, where a space means the same.
                    let line = line.replace(['\n', '\r'], " ");
                    writeln!(io::stdout().lock(), "{line}").map_err(ClientError::Output)?;
                    self.printed += 1;
                }
                Some(ServerFrame::Error { code, message }) => {
                    return Err(ClientError::Refused { code: code.into_owned(), message: message.into_owned() });
                }
                Some(
                    ServerFrame::Ping
                    | ServerFrame::Published { .. }
                    | ServerFrame::Assigned { .. }
                    | ServerFrame::Refreshed { .. }
                    | ServerFrame::Unknown(_)
                    | ServerFrame::TooLarge,
                ) => {}
                None => return Err(ClientError::Late { awaited: "acknowledgement", timeout: command.timeout }),
            }
        }
        Ok(())
    }

    /// The first frames of a connection: attach to the session if there is one, otherwise subscribe to all topics.
    fn opening(&self) -> Vec<u8> {
        let mut frames = client::PREAMBLE.to_vec();
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
