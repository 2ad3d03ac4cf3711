//! The hot path: how committed frames reach the sockets of a topic's subscribers.
//!
//! - [`slot`]: one connection. It owns the socket and the queue of a client that is not keeping up; every byte a client
//!   receives goes through its slot.
//! - [`queue`]: what waits for one client, and what happens when it is too much.
//! - [`ledger`]: what frames and queues take in memory, and what was dropped.
//! - [`link`]: what a slot writes to: a socket, or what stands in for one.
//! - [`batch`]: frames of one topic that are sent together, encoded once for each codec and shared by all subscribers.
//! - [`codecs`]: the wire formats of the instance, by number.
//! - [`stream`]: a byte stream that is no socket of the kernel's, and is written by its Transport alone.
//! - [`pulse`]: whether a client answers the heartbeat.
//! - [`pass`]: one batch on its way to all subscribers of a topic, claimed in pieces by whoever has time.
//! - [`senders`]: the helper threads that claim pieces of large passes, and of any while the home arbiter is behind.
//!
//! Who may run here: the home arbiter and the senders. No user code, no codec, no actor message.
//!
//! Lock order: a topic's core, then a slot. Nothing takes a topic's lock while it holds a slot's.

pub(crate) mod batch;
pub(crate) mod codecs;
pub(crate) mod horizon;
pub(crate) mod ledger;
pub(crate) mod link;
pub(crate) mod pass;
pub(crate) mod pulse;
pub(crate) mod queue;
pub(crate) mod sender_threads;
pub(crate) mod senders;
pub(crate) mod slot;
pub(crate) mod stream;

pub(crate) use batch::{Batch, OpenBatch};
pub(crate) use codecs::Codecs;
pub(crate) use horizon::{PassNumbers, UnderWay};
pub(crate) use ledger::Ledger;
pub(crate) use link::Link;
pub(crate) use pass::Pass;
pub(crate) use senders::SenderPool;
pub(crate) use slot::{End, Slot, SlowReason, Subscription, Terms};
