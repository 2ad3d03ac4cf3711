//! The promises of supervision, as tests.
//!
//! - `otp`: 4,000 scenarios, line for line as OTP's own supervisor plays them.
//! - `burst`: 4,000 more, in which several children die at once.
//! - `starts`, `restarts`, `stops`, `commands`, `references`, `observing`, `tasks`: one promise per test, in virtual time
//!   on one thread.
//! - `endings`: every way in which an actor can end, and the reason.
//! - `dynamic`: numbered and named children, quarantine.
//! - `threads`: real threads: hung handlers, dead arbiters.
//! - `chaos`: all of it at once, at random.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so best by panicking")]

mod burst;
mod chaos;
mod commands;
mod dynamic;
mod endings;
mod observing;
mod otp;
mod references;
mod restarts;
mod starts;
mod stops;
mod support;
mod tasks;
mod threads;
