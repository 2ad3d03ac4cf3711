//! `janus-server subscribe`: subscribes, says so on standard error, and prints each message as one line of JSON.
//!
//! It ends by itself only with `--count`; a server that ends first is a failure, as messages may be missed from then on.
//! With `--reconnect` it comes back to its session instead, and says for each topic whether it missed anything.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use janus_core::wire::classic::client::{self, ServerFrame};
use janus_core::wire::classic::{ErrorClass, ErrorCode};
use serde_json::json;

use super::{ClientError, Connection};
use crate::cli::Subscribe;

/// How long to wait at most before the first attempt to come back; twice as long before each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// How long to wait at most before any attempt.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

pub(crate) fn run(command: &Subscribe) -> Result<(), ClientError> {
    let mut subscriber = Subscriber { command, session: None, printed: 0 };
    let mut failures = 0;
    loop {
        let begun = Instant::now();
        match subscriber.converse() {
            Err(error) if command.reconnect && subscriber.session.is_some() && may_come_back(&error) => {
                // A connection that lasted was a success, however it ended.
                failures = if begun.elapsed() > LONGEST_PAUSE { 0 } else { failures };
                let pause = pause(failures);
                failures += 1;
                say(&format!("{error}; coming back in {pause:.1?}"));
                #[expect(clippy::disallowed_methods, reason = "this command has nothing else to do meanwhile")]
                std::thread::sleep(pause);
            }
            ended => return ended,
        }
    }
}

/// Tells the user how it goes. A standard error that nobody reads any more is no reason to end.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// A random part of a time that doubles: after a restart of the server everybody comes back, and not at the same moment.
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
    /// Once all topics have been subscribed to.
    session: Option<Session>,
    printed: u64,
}

/// What the server needs to know to go on with a session.
struct Session {
    token: String,
    /// Messages received on each topic since its `ACK`, or since they began to be counted anew.
    received: BTreeMap<String, u64>,
}

impl Subscriber<'_> {
    /// One connection, from its beginning to its end.
    fn converse(&mut self) -> Result<(), ClientError> {
        let command = self.command;
        let mut connection = Connection::open(&command.from, command.timeout)?;
        let mut frames = client::PREAMBLE.to_vec();
        if let Some(session) = &self.session {
            let received = session.received.iter().map(|(topic, count)| (topic.as_str(), *count));
            frames.extend_from_slice(&client::attach(&session.token, received));
        } else {
            for topic in &command.topics {
                frames.extend_from_slice(&client::subscribe(topic));
            }
        }
        connection.send(&frames)?;

        let mut deadline = Some(Instant::now() + command.timeout);
        let mut unacknowledged = command.topics.len();
        // Counted from the first ACK on; the session stands with the last one.
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
                    let Some(session) = &mut self.session else { continue };
                    session.token = token.into_owned();
                    for (topic, missed) in topics {
                        match missed {
                            Some(missed) => {
                                say(&format!("back at {}: {missed} missed messages of {topic}", command.from))
                            }
                            None => {
                                say(&format!("back at {}: messages of {topic} in between are lost", command.from));
                                session.received.insert(topic.into_owned(), 0);
                            }
                        }
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
                    // Line ends can only stand between the parts of the JSON, where a blank means the same.
                    let line = line.replace(['\n', '\r'], " ");
                    writeln!(io::stdout().lock(), "{line}").map_err(ClientError::Output)?;
                    self.printed += 1;
                }
                Some(ServerFrame::Error { code, message }) => {
                    return Err(ClientError::Refused { code: code.into_owned(), message: message.into_owned() });
                }
                Some(_) => {}
                None => return Err(ClientError::Late { awaited: "acknowledgement", timeout: command.timeout }),
            }
        }
        Ok(())
    }
}
