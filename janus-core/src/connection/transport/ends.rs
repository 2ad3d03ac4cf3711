//! Ends by the server's decision, as a table: one row for each [`End`].
//!
//! A row holds everything that follows from an end: the code, the words for the client, the line for the operator, the
//! counter, how the connection closes, and whether its session ends as well. [`Transport::end`] only checks that the
//! end still holds, and carries the row out.

use std::sync::atomic::Ordering;
use std::time::Duration;

use log::Level;
use tokio::time::Instant;

use super::closing::LINGER;
use super::identity::{EXPIRED_WORDS, REVOKED_WORDS};
use super::opening::{after_a_restart, soon};
use super::{Step, Transport, refusal};
use crate::connection::acceptor::SERVER_FULL;
use crate::delivery::{End, Exceeded, SlowReason};
use crate::supervision::in_words;
use crate::wire::{Bytes, ErrorCode, FrameError, Refusal};

/// A line of the log about an end, with its code as a key-value.
macro_rules! log_end {
    ($client:expr, $level:expr, $end:expr, $($words:tt)+) => {
        log_client!($client, $level, [code = row($end).code.map(ErrorCode::as_str)], $($words)+)
    };
}

/// What follows from an end.
struct Row {
    /// The code for the client, for hooks and for traces. `None` if the peer has gone: its connection ends by itself.
    code: Option<ErrorCode>,
    /// For the client; empty if nothing can be sent any more.
    words: &'static str,
    /// Writes the line for the operator. A function, because the log's limit counts each place on its own.
    log: fn(&Transport, End),
    /// Counts the end.
    count: fn(&Transport, End),
    close: Close,
    /// Whether the session ends with the connection.
    ends_session: bool,
}

/// How a connection closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Close {
    /// At once. Where the end [resets](End::resets), the socket's close is a reset.
    AtOnce,
    /// With the end of the client's stream: a publisher may close at once without reading, and its input still counts.
    WithItsInput,
    /// With a FIN, behind the queue and the words.
    AfterQueue,
    /// As `AfterQueue`, and the client is told to return after the restart.
    AfterQueueForRestart,
    /// As `AfterQueue`, but in little time.
    Soon,
    /// As the close after any fatal error of the client: behind the answers to earlier messages.
    AfterAnswers,
    /// With a FIN behind the queue, and without words: the client would take them for the answer to its next request.
    Silently,
    /// As `AfterQueue` if there is room for another refusal, otherwise at once.
    TurnedAway,
}

/// The client reads too slowly, and the policy of a topic cuts such a client off.
const SLOW_CONSUMER: Row = Row {
    code: Some(ErrorCode::SlowConsumer),
    words: "",
    log: |client, end| {
        let End::SlowConsumer { why, frames, bytes } = end else { return };
        // Thousands may stall together, and the log must not stall all other connections.
        let within_limit = client.shared.cut_off_lines.take(client.shared.clock.tick().number());
        let level = if within_limit { Level::Warn } else { Level::Debug };
        let why = client.too_slow(why);
        log_end!(client, level, end, "slow consumer, cut off with {frames} frames ({bytes} bytes) queued: {why}");
    },
    count: |client, end| {
        if let End::SlowConsumer { why, .. } = end {
            client.shared.ledger().cut_off(why);
        }
    },
    close: Close::AtOnce,
    ends_session: false,
};

/// The kernel refused a send: the peer is gone.
const BROKEN: Row = Row {
    code: None,
    words: "",
    log: |client, end| {
        if let End::Broken(kind) = end {
            log_client!(client, Level::Debug, "nothing can be sent any more: {kind}");
        }
    },
    count: |_, _| {},
    close: Close::WithItsInput,
    ends_session: false,
};

/// Sending has failed, and nothing has come since.
const GIVEN_UP: Row = Row {
    code: None,
    words: "",
    log: |client, _| log_client!(client, Level::Debug, "closed, the client takes nothing and sends nothing"),
    count: |_, _| {},
    close: Close::AtOnce,
    ends_session: false,
};

/// The codec has panicked, and the log names the panic already.
const CODEC_PANICKED: Row = Row {
    code: Some(ErrorCode::Internal),
    words: "",
    log: |_, _| {},
    count: |_, _| {},
    close: Close::AtOnce,
    ends_session: false,
};

/// A frame, or the opening, stayed unfinished. The error writes its own line.
const FRAME_TIMEOUT: Row = Row {
    code: Some(ErrorCode::FrameTimeout),
    words: "frame not completed within frame_timeout; connect again",
    log: |_, _| {},
    count: |client, _| {
        client.shared.counters.frames_timed_out.fetch_add(1, Ordering::Relaxed);
    },
    close: Close::AfterAnswers,
    ends_session: false,
};

/// The client keeps its connection and asks for nothing.
const IDLE: Row = Row {
    code: None,
    words: "",
    log: |client, _| log_client!(client, Level::Debug, "closed, no further request came within api_idle_timeout"),
    count: |_, _| {},
    close: Close::Silently,
    ends_session: false,
};

/// Another guest needs the room. The refusal writes its own line, and counts itself.
const CROWDED: Row = Row {
    code: Some(ErrorCode::TooManyConnections),
    words: SERVER_FULL,
    log: |_, _| {},
    count: |_, _| {},
    close: Close::TurnedAway,
    ends_session: false,
};

/// The client answered no heartbeat.
const PING_TIMEOUT: Row = Row {
    code: Some(ErrorCode::PingTimeout),
    words: "no answer to a ping came in time; connect again",
    log: |client, end| log_end!(client, Level::Debug, end, "closed, the client has not answered a ping"),
    count: |client, _| {
        client.shared.counters.pings_unanswered.fetch_add(1, Ordering::Relaxed);
    },
    close: Close::AfterQueue,
    ends_session: false,
};

/// The client would have missed messages without being told.
const MESSAGES_LOST: Row = Row {
    code: Some(ErrorCode::TopicUnavailable),
    words: "messages were lost; connect and subscribe again",
    log: |client, end| {
        // A topic that starts afresh may lose the messages of all its subscribers at once.
        let within_limit = client.shared.lost_lines.take(client.shared.clock.tick().number());
        let level = if within_limit { Level::Warn } else { Level::Debug };
        let line = "closed, the client would have missed messages of a topic that started afresh";
        log_end!(client, level, end, "{line}");
    },
    count: |_, _| {},
    close: Close::AfterQueue,
    ends_session: false,
};

/// A newer connection has the session.
const SESSION_TAKEN: Row = Row {
    code: Some(ErrorCode::SessionTaken),
    words: "another connection has taken over this session",
    log: |client, end| log_end!(client, Level::Debug, end, "closed, another connection has taken over its session"),
    count: |_, _| {},
    close: Close::AfterQueue,
    ends_session: false,
};

/// The client has published more than its rate allows for too long.
const PUBLISHES_TOO_FAST: Row = Row {
    code: Some(ErrorCode::RateLimited),
    words: "more messages came than the publish rate allows; come back later and publish more slowly",
    log: |client, end| log_rate(client, end, "client_publish_rate"),
    count: |client, _| {
        client.shared.counters.rate_limited.fetch_add(1, Ordering::Relaxed);
    },
    close: Close::AfterQueue,
    ends_session: false,
};

/// The client has sent more bytes than its rate allows for too long.
const SENDS_TOO_FAST: Row = Row {
    words: "more bytes came than the byte rate allows; come back later and send less",
    log: |client, end| log_rate(client, end, "client_bytes_rate"),
    ..PUBLISHES_TOO_FAST
};

/// The client has subscribed and unsubscribed more often than its rate allows for too long.
const SUBSCRIBES_TOO_FAST: Row = Row {
    words: "more subscribes and unsubscribes came than their rate allows; come back later and send fewer",
    log: |client, end| log_rate(client, end, "client_subscribe_rate"),
    ..PUBLISHES_TOO_FAST
};

/// The oldest connection of a user goes, because the user has a new one.
const REPLACED: Row = Row {
    code: Some(ErrorCode::ConnectionReplaced),
    words: "a newer connection of the same user has taken the place of this connection",
    log: |client, end| log_end!(client, Level::Debug, end, "closed, its user has a newer connection"),
    count: |client, _| {
        client.shared.counters.connections_replaced.fetch_add(1, Ordering::Relaxed);
    },
    close: Close::AfterQueue,
    ends_session: false,
};

/// Memory is short, and the client holds some without having asked for anything.
const OVERLOADED: Row = Row {
    code: Some(ErrorCode::ServerOverloaded),
    words: "the server is short of memory, and this connection holds some without asking for anything",
    log: |client, end| log_end!(client, Level::Debug, end, "closed, memory is short"),
    count: |client, _| {
        client.shared.counters.connections_closed_for_memory.fetch_add(1, Ordering::Relaxed);
        if let Some(account) = client.slot.account() {
            account.given_up.add(1);
        }
    },
    close: Close::Soon,
    ends_session: false,
};

/// The operator has closed the connection, and the client may come back.
const DISCONNECTED: Row = Row {
    code: Some(ErrorCode::Disconnected),
    words: "the server's operator has closed this connection",
    log: |client, end| log_end!(client, Level::Debug, end, "disconnected by the operator"),
    count: |_, _| {},
    close: Close::AfterQueue,
    ends_session: false,
};

/// The operator has closed the connection for good.
const BANNED: Row = Row {
    code: Some(ErrorCode::Banned),
    words: "the server's operator has closed this connection; do not connect again",
    ends_session: true,
    ..DISCONNECTED
};

/// The client's identity has ended. A new one of the same user may continue the session.
const TOKEN_EXPIRED: Row = Row {
    code: Some(ErrorCode::TokenExpired),
    words: EXPIRED_WORDS,
    log: |client, end| log_end!(client, Level::Debug, end, "closed, its token has expired"),
    count: |client, _| {
        client.shared.counters.tokens_expired.fetch_add(1, Ordering::Relaxed);
    },
    close: Close::AfterQueue,
    ends_session: false,
};

/// The operator has withdrawn the right to be served.
const REVOKED: Row = Row {
    code: Some(ErrorCode::Unauthorized),
    words: REVOKED_WORDS,
    log: |client, end| log_end!(client, Level::Debug, end, "closed, its user or token was revoked"),
    ends_session: true,
    ..DISCONNECTED
};

/// The instance ends.
const DRAINING: Row = Row {
    code: Some(ErrorCode::ServerDraining),
    words: "the server is shutting down",
    log: |_, _| {},
    count: |_, _| {},
    close: Close::AfterQueueForRestart,
    ends_session: false,
};

/// Writes the line about a client that has exceeded a rate. Thousands may do so together.
fn log_rate(client: &Transport, end: End, setting: &str) {
    let within_limit = client.shared.rate_lines.take(client.shared.clock.tick().number());
    let level = if within_limit { Level::Warn } else { Level::Debug };
    let patience = client.shared.config().rate_patience;
    log_end!(
        client,
        level,
        end,
        "closed, it sent more than {setting} allows for {} (rate_patience)",
        in_words(patience)
    );
}

fn row(end: End) -> Row {
    match end {
        End::SlowConsumer { .. } => SLOW_CONSUMER,
        End::Broken(_) => BROKEN,
        End::GivenUp => GIVEN_UP,
        End::CodecPanicked => CODEC_PANICKED,
        End::FrameTimeout => FRAME_TIMEOUT,
        End::Idle => IDLE,
        End::Crowded => CROWDED,
        End::PingTimeout => PING_TIMEOUT,
        End::MessagesLost => MESSAGES_LOST,
        End::SessionTaken => SESSION_TAKEN,
        End::RateLimited(Exceeded::Publishes) => PUBLISHES_TOO_FAST,
        End::RateLimited(Exceeded::Bytes) => SENDS_TOO_FAST,
        End::RateLimited(Exceeded::Subscribes) => SUBSCRIBES_TOO_FAST,
        End::Replaced => REPLACED,
        End::Overloaded => OVERLOADED,
        End::Disconnected { reconnect: true } => DISCONNECTED,
        End::Disconnected { reconnect: false } => BANNED,
        End::TokenExpired => TOKEN_EXPIRED,
        End::Revoked => REVOKED,
        End::Draining | End::ShutDown => DRAINING,
    }
}

impl Transport {
    /// Ends the connection by the server's decision, unless the reason is gone.
    pub(super) fn end(&mut self, end: End) {
        if !self.still_holds(end) {
            return;
        }
        let Row { code, words, log, count, close, ends_session } = row(end);
        log(self, end);
        count(self, end);
        match (close, code) {
            (Close::AtOnce, _) => {
                self.why = code.or(self.why);
                self.step = Step::Over;
            }
            (Close::Silently, _) => {
                self.is_of_requests = true;
                self.part(Bytes::new());
            }
            (Close::TurnedAway, Some(code)) => self.crowded_out(code, words),
            (Close::AfterAnswers, Some(code)) => self.answer_error(FrameError::new(code, words)),
            (Close::AfterQueue, Some(code)) => self.say_bye(None, code, words),
            (Close::AfterQueueForRestart, Some(code)) => {
                let reconnect_after = Some(self.until_restarted());
                self.say_goodbye(Refusal { reconnect_after, ..refusal(code, words) });
            }
            (Close::Soon, Some(code)) => {
                self.say_bye(None, code, words);
                self.hurry();
            }
            (Close::WithItsInput, _) if self.is_closing() => self.step = Step::Over,
            (Close::WithItsInput, _) | (_, None) => {}
        }
        if ends_session {
            self.shared.sessions.table.end(&self.session);
        }
    }

    /// Whether the end still holds: something may have happened since the decision.
    fn still_holds(&mut self, end: End) -> bool {
        match end {
            End::SlowConsumer { .. } | End::Broken(_) | End::CodecPanicked => true,
            // While a command of the client waits, later input is not read, and may be there.
            End::GivenUp => self.is_closing() || matches!(self.step, Step::Reading),
            End::Crowded => !self.has_place,
            _ if self.is_closing() => false,
            End::FrameTimeout => self.is_late(),
            End::Idle => {
                // A request may be there, and wait unread for a portion of work; the heartbeat looks again.
                let is_read = matches!(self.step, Step::Reading) && !self.portion.is_waiting();
                is_read && self.slot.is_idle() && !self.slot.is_answering()
            }
            End::PingTimeout => self.owes_answer(),
            End::TokenExpired => self.has_expired(),
            End::MessagesLost
            | End::SessionTaken
            | End::RateLimited(_)
            | End::Replaced
            | End::Revoked
            | End::Overloaded
            | End::Disconnected { .. }
            | End::Draining
            | End::ShutDown => true,
        }
    }

    /// Why a client was too slow, for the operator.
    fn too_slow(&self, why: SlowReason) -> &'static str {
        match why {
            SlowReason::QueueFull if self.shared.config().max_queue_frames == 0 => "max_queue_bytes is reached",
            SlowReason::QueueFull => "max_queue_frames or max_queue_bytes is reached",
            SlowReason::Stalled => "the client has taken nothing for write_timeout or stall_timeout",
            SlowReason::Memory => "memory is nearly used up, and this queue is among the largest",
        }
    }

    /// How long a client that is sent away now should stay away, until the restarted server listens. Another node of a
    /// cluster listens already, and keeps missed messages for a limited time.
    fn until_restarted(&self) -> Duration {
        if self.shared.draining.has_successor() {
            return soon(self.shared.config().drain_period);
        }
        let end = self.shared.draining.end();
        let rest = end.map_or(Duration::ZERO, |end| end.saturating_duration_since(Instant::now()));
        after_a_restart(rest, self.shared.config().restart_time)
    }

    /// Gives a closing connection little time, because its memory is needed.
    fn hurry(&mut self) {
        // Where input is left unread, a reset would overtake the frame that says why.
        let patience = if self.slot.kept.is_given_up() { LINGER } else { Duration::ZERO };
        if let Step::Closing(closing) = &mut self.step {
            closing.deadline.as_mut().reset(self.shared.close_deadline(patience));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn all() -> Vec<End> {
        let slow = |why| End::SlowConsumer { why, frames: 1, bytes: 2 };
        vec![
            slow(SlowReason::QueueFull),
            slow(SlowReason::Stalled),
            slow(SlowReason::Memory),
            End::Broken(io::ErrorKind::BrokenPipe),
            End::GivenUp,
            End::CodecPanicked,
            End::FrameTimeout,
            End::Idle,
            End::Crowded,
            End::PingTimeout,
            End::MessagesLost,
            End::SessionTaken,
            End::RateLimited(Exceeded::Publishes),
            End::RateLimited(Exceeded::Bytes),
            End::RateLimited(Exceeded::Subscribes),
            End::Replaced,
            End::Overloaded,
            End::Disconnected { reconnect: true },
            End::Disconnected { reconnect: false },
            End::TokenExpired,
            End::Revoked,
            End::Draining,
            End::ShutDown,
        ]
    }

    #[test]
    fn an_end_that_resets_says_nothing_and_any_other_end_says_why() {
        for end in all() {
            let Row { code, words, close, .. } = row(end);
            if close == Close::Silently {
                assert_eq!((end, code, words), (End::Idle, None, ""));
                continue;
            }
            let is_hard = matches!(close, Close::AtOnce | Close::WithItsInput);
            assert_eq!((words.is_empty(), is_hard), (end.resets(), end.resets()), "{end:?}");
            assert!(code.is_some() || end.resets(), "{end:?}");
        }
    }

    #[test]
    fn words_for_a_client_begin_in_lower_case_and_end_without_a_stop() {
        for end in all() {
            let words = row(end).words;
            assert!(!words.starts_with(char::is_uppercase) && !words.ends_with('.'), "{words}");
        }
    }

    #[test]
    fn an_end_that_is_answered_as_an_error_has_a_code_that_closes() {
        for end in all() {
            let Row { code, close, .. } = row(end);
            // With any other code, the error frame would leave the connection open.
            assert!(close != Close::AfterAnswers || code.is_some_and(ErrorCode::closes), "{end:?}");
        }
    }

    #[test]
    fn only_a_ban_or_a_revocation_ends_the_session() {
        for end in all() {
            let ends = matches!(end, End::Disconnected { reconnect: false } | End::Revoked);
            assert_eq!(row(end).ends_session, ends, "{end:?}");
        }
    }
}
