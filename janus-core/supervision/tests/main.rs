//! The promises of supervision, as tests.
//!
//! - `otp`: 4,000 scenarios, with the same log lines as OTP's own supervisor.
//! - `burst`: 4,000 more scenarios, in which several children die at once.
//! - `starts`, `restarts`, `stops`, `commands`, `references`, `observing`, `tasks`: a promise per test, in virtual time
//!   on a single thread.
//! - `behalf`: work of an actor on another thread.
//! - `endings`: all the ways in which an actor can end, and the reasons.
//! - `dormant`: actors without a context until somebody writes to them.
//! - `dynamic`: numbered and named children, quarantine.
//! - `threads`: real threads: hung handlers, dead arbiters.
//! - `chaos`: all of this at the same time, at random.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so best by panicking")]

mod behalf;
mod burst;
mod chaos;
mod commands;
mod dormant;
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
