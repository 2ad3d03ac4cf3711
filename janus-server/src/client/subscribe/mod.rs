//! `janus-server subscribe`: subscribes, reports this on standard error, and prints each message as a line of JSON.
//!
//! | file | what it is | what it owns |
//! |---|---|---|
//! | `mod.rs` | the command | reconnecting after a lost connection of the classic protocol |
//! | `modern.rs` | a client of `janus.v1.json` | printing what the client of janus-core has |
//! | `classic.rs` | a client of the classic protocol | the session, and the count of each topic's messages |
//!
//! The command ends by itself only with `--count`. A lost connection is a failure, because messages may be missed from
//! then on. With `--reconnect` the command comes back instead, and reports the missed messages of each topic.

mod classic;
mod modern;

use std::time::{Duration, Instant};

use janus_core::supervision::in_words;
use janus_core::wire::{ErrorClass, ErrorCode};

use janus_core::Since;

use super::ClientError;
use super::output::say;
use super::server::{Need, Protocol, Target};
use super::stream::wait;
use crate::cli::Subscribe;

/// Longest pause before the first attempt to reconnect; doubled for each further attempt.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Longest pause before any attempt.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

pub(crate) fn run(command: &Subscribe) -> Result<(), ClientError> {
    if command.since.and_then(Since::position).is_some() && command.topics.len() > 1 {
        return Err(ClientError::SinceOfSeveral);
    }
    let target = command.server.target("subscribe", Need::Messages)?;
    match target.address.protocol {
        Protocol::Http => modern::run(command, &target),
        Protocol::Classic => by_classic(command, target),
    }
}

fn by_classic(command: &Subscribe, target: Target) -> Result<(), ClientError> {
    let mut subscriber = classic::Subscriber::new(command, target);
    let mut failures = 0;
    loop {
        let begun = Instant::now();
        match subscriber.converse() {
            Err(error) if command.reconnect && subscriber.has_subscribed() && may_come_back(&error) => {
                // A connection that lasted counts as a success, however the connection ended.
                failures = if begun.elapsed() > LONGEST_PAUSE { 0 } else { failures };
                let pause = pause(failures, &error);
                failures += 1;
                say(&format!("{error}; reconnecting in {}", in_words(pause)));
                wait(pause);
            }
            ended => return ended,
        }
    }
}

/// A random part of a doubling time, and no less than the server asks for: after a restart of the server, clients must
/// not all reconnect at the same moment.
fn pause(failures: u32, error: &ClientError) -> Duration {
    let pause = FIRST_PAUSE.saturating_mul(1 << failures.min(16)).min(LONGEST_PAUSE).mul_f64(fastrand::f64());
    match error {
        ClientError::Refused { again: Some(again), .. } => pause.max(*again),
        _ => pause,
    }
}

fn may_come_back(error: &ClientError) -> bool {
    match error {
        ClientError::Connect { .. } | ClientError::Closed | ClientError::Lost(_) | ClientError::Late { .. } => true,
        ClientError::Refused { code, .. } => ErrorCode::ALL.iter().any(|known| {
            let slows = matches!(known, ErrorCode::ServerOverloaded | ErrorCode::RateLimited);
            let passes = known.class() == ErrorClass::TryAgain || slows;
            known.as_str() == code && passes
        }),
        _ => false,
    }
}
