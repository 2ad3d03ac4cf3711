//! The hot path: how committed frames reach the sockets of a topic's subscribers.
//!
//! | file | kind | owns |
//! |---|---|---|
//! | `batch.rs` | pure | frames of one topic sent together, encoded once for each codec |
//! | `codecs.rs` | table | the wire formats of the instance, by number |
//! | `end.rs` | pure | why a connection ends, and which ends reset the socket |
//! | `engine.rs` | table | what this floor shares |
//! | `horizon.rs` | table | the numbers of passes, and which of them are under way |
//! | `input.rs` | pure | the bound on input that has led to nothing yet |
//! | `ledger.rs` | table | what frames and queues take in memory, and what was dropped |
//! | `link.rs` | pure | what a slot writes to: a socket, or what stands in for one |
//! | `memory.rs` | tests | a byte stream in memory, for the simulation |
//! | `pass.rs` | table | one batch on its way to all subscribers of a topic, claimed in pieces |
//! | `pulse.rs` | pure | whether a client answers the heartbeat |
//! | `queue.rs` | table | what waits for one client, and the policies for a full queue |
//! | `queue/entry.rs` | pure | the entries of a queue, and what each takes of its limits |
//! | `sender_threads.rs` | task | the sender threads as children of the tree |
//! | `senders.rs` | table | the passes that wait for sender threads |
//! | `slot.rs` | table | one connection: its socket, and the queue of a client that does not keep up |
//! | `slot/heartbeat.rs` | table | when a heartbeat is due, and when its answer is overdue |
//! | `slot/lag.rs` | table | how far a client lags, and the end of a client that takes nothing |
//! | `slot/pause.rs` | table | when a client is not read until it takes its answers |
//! | `slot/subscription.rs` | table | one client's place in one topic |
//! | `stream.rs` | table | a byte stream that is no socket, written by its Transport alone |
//! | `terms.rs` | table | the limits of each client's queue |
//!
//! Only the home arbiter and the senders run here. No user code, no codec, no actor message.
//!
//! Lock order: a topic's core, then a slot. No code takes a topic's lock while it holds a slot's.

pub(crate) mod batch;
pub(crate) mod codecs;
pub(crate) mod end;
pub(crate) mod engine;
pub(crate) mod horizon;
pub(crate) mod input;
pub(crate) mod ledger;
pub(crate) mod link;
#[cfg(all(test, feature = "fault-injection"))]
pub(crate) mod memory;
pub(crate) mod pass;
pub(crate) mod pulse;
pub(crate) mod queue;
pub(crate) mod sender_threads;
pub(crate) mod senders;
pub(crate) mod slot;
pub(crate) mod stream;
pub(crate) mod terms;

pub(crate) use batch::{Batch, OpenBatch};
pub(crate) use codecs::Codecs;
pub(crate) use end::{End, SlowReason};
pub(crate) use engine::{Engine, SlotIds};
pub(crate) use horizon::{PassNumbers, UnderWay};
pub(crate) use ledger::Ledger;
pub(crate) use link::Link;
pub(crate) use pass::Pass;
pub(crate) use senders::SenderPool;
pub(crate) use slot::{Slot, Subscription};
pub(crate) use terms::Terms;
