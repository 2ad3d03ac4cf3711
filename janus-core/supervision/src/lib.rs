//! Erlang/OTP supervision for [actix] actors.
//!
//! Every actor crashes some day. Supervision decides the consequences: a supervisor starts its children in order,
//! learns of every end and the reason, restarts children by rule, and gives up to its own supervisor when restarts do
//! not help.
//!
//! ```
//! use std::time::Duration;
//! use actix::prelude::*;
//! use janus_supervision::{ActorRef, Arbiter, CallError, ChildSpec, ExitReason, Strategy, Supervisor};
//!
//! struct Divider;
//! impl Actor for Divider {
//!     type Context = Context<Self>;
//! }
//!
//! #[derive(Message)]
//! #[rtype(result = "u32")]
//! struct Divide(u32, u32);
//! impl Handler<Divide> for Divider {
//!     type Result = u32;
//!     fn handle(&mut self, Divide(a, b): Divide, _: &mut Context<Self>) -> u32 {
//!         a / b
//!     }
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let divider = ActorRef::new("divider");
//! let arbiter = Arbiter::start("home")?;
//! let tree = Supervisor::new("root", Strategy::OneForOne)
//!     .intensity(5, Duration::from_secs(60))
//!     .child(ChildSpec::actor(&divider, |_ctx| Ok(Divider)))
//!     .start(&arbiter.place())
//!     .await?;
//!
//! // The caller learns why there is no answer; the next incarnation answers again.
//! let first = divider.id();
//! let answer = divider.call(Divide(1, 0)).await;
//! assert!(matches!(answer, Err(CallError::Died(ExitReason::Panicked(why))) if why.contains("divide by zero")));
//! divider.when_up(first).await;
//! assert_eq!(divider.call(Divide(6, 3)).await?, 2);
//!
//! tree.stop().await;
//! assert_eq!(tree.wait().await, ExitReason::Shutdown);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```
//!
//! # The parts
//!
//! | for | use |
//! |---|---|
//! | a name that survives restarts: casts, calls, monitors | [`ActorRef`] |
//! | the description of a child: an actor, a task, a supervisor | [`ChildSpec`] |
//! | children in an order, with a strategy | [`Supervisor`], [`SupervisorRef`] |
//! | children that come and go, in thousands | [`DynamicSupervisor`], [`Dormant`] |
//! | threads | [`Arbiter`], [`Place`] |
//! | ends, reasons, ties between actors | [`ExitReason`], [`Down`], [`Monitor`], [`link`] |
//! | a look at the tree: as data, as text, as events | [`Tree`], [`TreeEvent`] |
//! | actors that hang | [`Watchdog`] |
//!
//! Actors need a tokio `LocalRuntime` or `LocalSet`, not an actix `System`. An [`Arbiter`] is a thread with a runtime
//! of its own and can be started from anywhere; [`Place::here`] uses the runtime of the caller.
//!
//! # Rules of restarts
//!
//! The [strategy](Strategy) of a supervisor names the children that are restarted together:
//!
//! | strategy | restarted with a child |
//! |---|---|
//! | [`OneForOne`](Strategy::OneForOne) | no other child |
//! | [`OneForAll`](Strategy::OneForAll) | all its siblings |
//! | [`RestForOne`](Strategy::RestForOne) | the siblings that were started after the child |
//!
//! Siblings are stopped in reverse order and started again in order. The [restart type](Restart) of a child says after
//! which ends:
//!
//! | restart type | restarted after |
//! |---|---|
//! | [`Permanent`](Restart::Permanent), the default | every end |
//! | [`Transient`](Restart::Transient) | abnormal ends: all but [`Normal`](ExitReason::Normal) and [`Shutdown`](ExitReason::Shutdown) |
//! | [`Temporary`](Restart::Temporary) | no end; the child is forgotten |
//!
//! **Restart intensity.** A supervisor allows a number of restarts within a period, 1 in 5 seconds by default
//! ([`Supervisor::intensity`]). A failed restart counts as well. After another restart the supervisor stops all
//! children and ends with [`MaxRestarts`](ExitReason::MaxRestarts). Its own supervisor treats this like the crash of
//! any child, so that trouble which a restart does not cure climbs the tree, up to [`SupervisorRef::wait`] of the root.
//!
//! **Back-off.** [`ChildSpec::backoff`] waits before restarts, longer each time, up to a limit. The supervisor serves
//! its other children during the wait.
//!
//! **Quarantine.** A [`DynamicSupervisor`] can count restarts for each child separately
//! ([`child_intensity`](DynamicSupervisor::child_intensity)). A child that exceeds this intensity is quarantined, for
//! 60 seconds by default, and then started again with a clean slate. The supervisor never gives up, and the siblings do
//! not notice.
//!
//! **Stable references.** An [`ActorRef`] is made before the actor and stays valid through all restarts. A message goes
//! to the incarnation that runs at the time of the send. If none runs, the sender gets an error, and
//! [`ActorRef::when_up`] waits for the next.
//!
//! # What happens when
//!
//! | event | consequence |
//! |---|---|
//! | a handler, timer or callback panics | the panic is caught; of the broken actor only `Drop` runs; callers get [`Died`](CallError::Died), monitors [`Panicked`](ExitReason::Panicked); the supervisor restarts by rule |
//! | an actor calls `ctx.stop()` | the end is [`Normal`](ExitReason::Normal): only a permanent child is restarted |
//! | an actor calls [`ctx.exit(reason)`](Exit::exit), or code calls [`exit`] | the end has this reason, after the handler or at once |
//! | a first start fails, or takes longer than 5 seconds | the children started before are stopped, and the caller gets [`StartError`] |
//! | a restart fails | counts as a restart and is tried again, behind all mail that waits for the supervisor |
//! | a child is asked to stop | messages from before the stop are handled, then `stopping` runs; after the shutdown timeout the child is killed |
//! | a handler does not return | its thread hangs, and all actors there; a [`Watchdog`] on another thread names the actor |
//! | a killed child does not return within 500 ms | the child is abandoned: its name is free, monitors are told; the state is dropped when the handler returns |
//! | the thread of an arbiter stops | its actors end with [`ArbiterDown`](ExitReason::ArbiterDown), and starts there fail |
//! | a supervisor is killed | all its children are killed |
//! | the root gives up | [`SupervisorRef::wait`] returns the reason; the process keeps running |
//!
//! # Compared with OTP
//!
//! The rules are those of `supervisor.erl`. 8,000 recorded scenarios, half of them with several deaths at once, give
//! the same starts and stops in the same order as OTP 25. The same are strategies, restart types, the sliding window of
//! the intensity, order and rollback of starts, stops in reverse order, significant children with automatic shutdown,
//! the commands on children, and the defaults of intensity, shutdown and call timeout.
//!
//! | | OTP | here | why |
//! |---|---|---|---|
//! | a supervisor gives up | reason `shutdown` | [`MaxRestarts`](ExitReason::MaxRestarts), abnormal | a transient supervisor is restarted, so escalation never stops half way |
//! | start timeout | none | 5 seconds for actors and tasks | a hung `init` must not hang the tree |
//! | back-off, quarantine | none | optional | a dependency may be down for minutes; a bad child must not cost its siblings |
//! | kill | at any moment | at the end of the current poll | Rust code cannot be interrupted |
//! | a killed process that hangs | in native code only | abandoned after 500 ms | the supervisor must not wait for ever |
//! | dynamic children | copies of a single spec | numbered actors from closures, or named children with specs of their own | 19,000 connections need little memory each; topics need names |
//! | names | global atoms | typed values | no global state; several trees in a process |
//! | hibernation | a process at rest, again and again | [`Dormant`]: without a context until the first address is asked for, with one from then on | the thousands of connections that get no message at all should cost nothing for one |
//! | trapping exits | `process_flag` | none; [`ActorRef::monitor`] | a monitor says the same without a mode of the actor |
//!
//! # Guarantees
//!
//! - **Every end has a reason**, and every watcher is told once; see [`ExitReason`]. A panic is caught in a handler, an
//!   async handler, a timer, the factory, `started`, `stopping`, `stopped` and `Drop`. It ends neither the process nor
//!   the thread nor another actor. After a panic or a kill no callback of the broken actor runs, only `Drop`.
//! - **Starts are ordered and end.** A child starts when the previous child is up, and after the `Drop` of its own
//!   predecessor. A start that exceeds its timeout has failed.
//! - **Stops are ordered and end.** Messages sent before the stop are handled before the stop, unless the actor waits
//!   in `ctx.wait`. An actor whose `stopping` answers `Running::Continue` runs on until it stops itself. After the
//!   shutdown timeout the actor is killed.
//! - **A hung handler hangs its thread and nothing else**, provided that its supervisor runs on another thread. Half a
//!   second after the kill the actor is declared dead. If the handler returns later, the state is dropped; the actor
//!   can neither take back its name nor be restarted.
//! - **Observers do no harm.** Events are bounded and the tree never waits for a reader; a panic in a callback is
//!   logged.
//!
//! # What is not guaranteed
//!
//! - **Aborts of Rust itself** end the process: a panic during another unwind (a local whose `Drop` panics during a
//!   panic, or two panicking `Drop`s among the fields of an actor, its timers and its waiting messages), a panic out of
//!   a function that must not unwind, stack overflow, running out of memory, and any panic under `panic = "abort"`, of
//!   which [`Supervisor::start`] warns.
//! - **Messages to an actor that ends are lost** with its mailbox. A `call` reports this, a `cast` cannot.
//! - **A handler that does not return cannot be interrupted**; a [`Watchdog`] can only name the actor. The thread is
//!   blocked, so starts on this thread fail until the handler returns. A kill takes effect at the end of the current
//!   poll, and within this poll actix hands over all messages in the mailbox.
//! - **`ResponseFuture` is outside supervision.** actix runs such a future as a separate task: its panic is a caller's
//!   [`NoReply`](CallError::NoReply), and the task outlives the actor. Use `ResponseActFuture`. The same holds for
//!   every task that a handler spawns outside its context.
//! - **Mailboxes have no limit.** The capacity of actix is no bound (each clone of an `Addr` has a slot of its own,
//!   `do_send` ignores the capacity), so it is switched off. This also keeps calls in order with casts. Flow control is
//!   up to the protocol.
//! - **Time** is tokio's, of the thread that waits. In tests, all actors under a paused clock must share a thread:
//!   [`Place::here`].
//!
//! # Limits and defaults
//!
//! | | value | at the limit |
//! |---|---|---|
//! | restarts of a supervisor | 1 in 5 seconds | ends with `MaxRestarts` |
//! | start of an actor or task | 5 seconds | failed start |
//! | shutdown of an actor or task | 5 seconds; supervisors: no limit | killed |
//! | return of a killed actor | 500 ms | abandoned |
//! | answer to a call | 5 seconds | [`CallError::Timeout`] |
//! | quarantine | 60 seconds | started again |
//! | children of a dynamic supervisor | no limit | [`StartError::TooManyChildren`] |
//! | commands that wait for a supervisor | 64 | further callers wait |
//! | events that wait for a subscriber | 256 | the oldest are dropped and counted |
//! | jobs that wait for an arbiter | 65,536 | [`ArbiterDown`] |
//!
//! The first seven rows are defaults which a spec, a supervisor or a caller can change.
//!
//! # Panics
//!
//! [`Place::here`], [`DynamicSupervisor::start_here`] and [`DynamicSupervisor::start_dormant_here`] panic outside a
//! `LocalRuntime` or `LocalSet`. The future of
//! [`ActorRef::call`] panics outside a tokio runtime with timers. [`exit`] always unwinds.
//!
//! # Cancel safety
//!
//! Dropping the future of [`Supervisor::start`] kills the children started so far. Commands and
//! [`SupervisorRef::stop`], once polled, continue after their futures are dropped. A dropped [`ActorRef::call`] is
//! skipped by an actor that has not reached the message yet. [`ActorRef::when_up`], [`SupervisorRef::wait`] and
//! [`stop_requested`] are cancel safe.
//!
//! # Costs
//!
//! Memory of an idle actor without fields of its own, 64 bits (`tests/costs.rs` counts it):
//!
//! | | bytes | allocations |
//! |---|---|---|
//! | a bare actix actor | 730 | 6 |
//! | a child of [`DynamicSupervisor::start_here`] | 820 | 7 |
//! | of [`DynamicSupervisor::start_dormant_here`] | 230 | 2 |
//! | the same, woken by a question for the address | 960 | 10 |
//!
//! A cast through an [`ActorRef`] costs 11 ns in
//! addition to the 79 ns of an `Addr`. A call arms a timer and takes 0.8 µs on a single thread. Each poll of an actor
//! writes three words for the watchdog and swaps the [`current`] incarnation.
//!
//! # Code map
//!
//! | file | content |
//! |---|---|
//! | `exit.rs`, `error.rs` | reasons, ids, how code ends itself; errors of starts and commands |
//! | `window.rs` | counting restarts; pure |
//! | `words.rs` | durations as people read them; pure |
//! | `spec.rs` | the description of a child; factories |
//! | `cell.rs` | the identity of an incarnation: requests, the exit reason, watchers |
//! | `run.rs` | runs an incarnation and finds out why it ended |
//! | `dormant.rs` | actors without a context until somebody writes to them |
//! | `refs.rs` | names that survive restarts |
//! | `child.rs`, `mailbox.rs` | the start that cannot hang, the stop that always ends; the queue of a supervisor |
//! | `supervisor/` | children in an order, with a strategy: `supervisor.erl` |
//! | `dynamic/` | children that come and go: `simple_one_for_one`, and quarantine |
//! | `place.rs`, `watchdog.rs` | threads, and the notice of hung threads |
//! | `tree.rs` | the live tree and its events as data |
//!
//! [actix]: https://docs.rs/actix

#![forbid(unsafe_code)]

mod cell;
mod child;
mod dormant;
mod dynamic;
mod error;
mod exit;
mod mailbox;
mod place;
mod refs;
mod run;
mod spec;
mod supervisor;
mod tree;
mod watchdog;
mod window;
mod words;

pub use cell::{InitGuard, Monitor, current, defer_init, stop_requested};
pub use dormant::Dormant;
pub use dynamic::{Child, ChildKey, DynamicSupervisor};
pub use error::{ChildError, StartError};
pub use exit::{ActorId, Down, Exit, ExitReason, exit};
pub use place::{Arbiter, ArbiterDown, Place};
pub use refs::{ActorRef, CallError, Link, NotRunning, link};
pub use run::BoxError;
pub use spec::{AutoShutdown, ChildSpec, Restart, Shutdown, StartInfo, Strategy};
pub use supervisor::{Supervisor, SupervisorRef, WeakSupervisorRef};
pub use tree::{EventKind, NodeKind, State, Tree, TreeEvent};
pub use watchdog::{Hang, Watchdog};
pub use window::{RestartIntensity, RestartWindow};
#[doc(hidden)]
pub use words::in_words;

/// The example of the README, as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
