//! What supervision promises, as tests.
//!
//! - `otp`: 4,000 scenarios, line for line what OTP's own supervisor does.
//! - `burst`: 4,000 more, in which several children die at once.
//! - `semantics`: one promise a test, in virtual time on one thread.
//! - `endings`: every way to end, and the reason for it.
//! - `dynamic`: numbered and named children, quarantine.
//! - `threads`: real threads: hung handlers, dead arbiters, chaos.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so best by panicking")]

mod burst;
mod dynamic;
mod endings;
mod otp;
mod semantics;
mod support;
mod threads;
