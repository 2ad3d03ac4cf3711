//! The hot path: how committed frames reach the sockets of a topic's subscribers.
//!
//! | file | kind | owns |
//! |---|---|---|
//! | `batch.rs` | pure | frames of a topic sent together, encoded once for each codec |
//! | `codecs.rs` | table | the wire formats of the instance, by number |
//! | `end.rs` | pure | the reasons for the end of a connection, and whether the socket is reset |
//! | `deliveries.rs` | table | the state shared by this floor |
//! | `horizon.rs` | table | the numbers of passes, and of the passes under way |
//! | `input.rs` | pure | the bound on input without a result yet |
//! | `ledger.rs` | table | the memory of frames and queues, and the count of dropped messages |
//! | `link.rs` | pure | the bytes to and from a client: a socket, or a stream in its place |
//! | `memory.rs` | tests | a byte stream in memory, for the simulation |
//! | `pass.rs` | table | a batch on its way to all subscribers of a topic, claimed in pieces |
//! | `pulse.rs` | pure | whether a client answers the heartbeat |
//! | `queue.rs` | table | the queue of a lagging client, and the policies when it is full |
//! | `queue/entry.rs` | pure | the entries of a queue, and their sizes |
//! | `ring.rs` | pure | an io_uring, and all unsafe code |
//! | `sender_threads.rs` | task | the sender threads as children of the tree |
//! | `senders.rs` | table | the passes waiting for sender threads |
//! | `sending.rs` | table | whether pieces go through io_uring, and the ring of each thread |
//! | `slot.rs` | table | a connection: its socket, and the queue of a lagging client |
//! | `slot/deliver.rs` | table | the delivery of a batch to one subscriber |
//! | `slot/heartbeat.rs` | table | the time for a heartbeat, and for the answer |
//! | `slot/lag.rs` | table | the lag of a client, and the end of a stalled client |
//! | `slot/pause.rs` | table | the pause of a client with many untaken answers; the last write before a cut-off |
//! | `slot/subscription.rs` | table | a client's place in a topic |
//! | `slot/unseen.rs` | table | reads of TLS without a result for the Transport |
//! | `slot/volley.rs` | table | a piece sent with one system call |
//! | `stream.rs` | table | a byte stream other than a socket, written by its Transport alone |
//! | `terms.rs` | table | the limits of each client's queue |
//! | `tls/` | pure | a socket with TLS, encrypted by the thread that delivers |
//!
//! Nearly all of this code runs on the home arbiter and the senders. A subscriber in this process takes its messages on
//! a thread of the program (`Slot::poll_take`). No actor message is sent here, and user code runs in two places only:
//!
//! - Codecs, which may be an embedder's: a batch is encoded for other codecs before its pass or replay begins, never by
//!   a sender. An answer (`Slot::tell`), and a gap just before the write (`Queue::tell_gap`), are encoded by the thread
//!   that tells or writes: the Transport, the heartbeat, or a delivery that finds the queue full.
//! - The waker of a program's task, woken by `Slot::wait` and at the end of the slot.
//!
//! Lock order: a topic's core, then a slot. No code takes a topic's lock while it holds a slot's.
//! A thread that holds a slot's lock takes another slot's only if it is free (`slot/volley.rs`).

pub(crate) mod batch;
pub(crate) mod codecs;
pub(crate) mod deliveries;
pub(crate) mod end;
pub(crate) mod horizon;
pub(crate) mod input;
pub(crate) mod ledger;
pub(crate) mod link;
#[cfg(all(test, feature = "fault-injection"))]
pub(crate) mod memory;
pub(crate) mod pass;
pub(crate) mod pulse;
pub(crate) mod queue;
#[cfg(target_os = "linux")]
mod ring;
pub(crate) mod sender_threads;
pub(crate) mod senders;
pub(crate) mod sending;
pub(crate) mod slot;
pub(crate) mod stream;
pub(crate) mod terms;
#[cfg(feature = "tls")]
pub(crate) mod tls;

pub(crate) use batch::{Batch, OpenBatch};
pub(crate) use codecs::Codecs;
pub(crate) use deliveries::{Deliveries, SlotIds};
pub(crate) use end::{End, Exceeded, SlowReason};
pub(crate) use horizon::{PassNumbers, UnderWay};
pub(crate) use ledger::Ledger;
pub(crate) use link::Link;
pub(crate) use pass::Pass;
pub(crate) use senders::SenderPool;
pub(crate) use sending::Sending;
pub(crate) use slot::{Slot, Subscription};
pub(crate) use terms::Terms;
