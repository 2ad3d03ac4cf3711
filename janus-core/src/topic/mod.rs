//! One topic: the sequencer of its messages and the owner of its subscribers.
//!
//! A topic is two things. [`TopicState`] must outlive a crash: the subscribers, the epoch and the numbers, the messages
//! accepted but not numbered, and the messages numbered but not handed out. The state lies outside the actor, like an
//! ETS table with an heir. [`Topic`] is the actor for this state. The actor numbers, encodes and hands out, and holds
//! nothing itself.
//!
//! | file | what it is | what it owns |
//! |---|---|---|
//! | `actor.rs` | actor | nothing: messages, lifecycle, the loop over passes |
//! | `batch_size.rs` | pure | the size at which a batch is sealed |
//! | `cluster/` | rules | topics whose messages an engine numbers |
//! | `core_lock.rs` | table | the lock over the state of a topic |
//! | `errands.rs` | task | topics with a message from another home than their own |
//! | `handover.rs` | rules | nothing: where topics end, for an instance that continues their numbers |
//! | `heir.rs` | rules | nothing: the fate of a topic whose actor crashes or cannot run |
//! | `history.rs` | API | reading the history of a topic |
//! | `inbox.rs` | pure | messages without a number, and the room taken by messages |
//! | `join.rs` | rules | nothing: how a subscriber joins, and catches up |
//! | `keys.rs` | table | the keys of publishers against repetitions |
//! | `manager.rs` | actor | nothing: makes topics, ends unused topics |
//! | `presence/` | table, task | who is subscribed to a topic, and the clients that watch |
//! | `publish.rs` | API | a message on its way into a topic, and its receipt |
//! | `ring.rs` | pure | the latest messages of a topic |
//! | `room.rs` | table | publishers waiting for room in a topic |
//! | `roster.rs` | pure | the list of subscribers |
//! | `sequence.rs` | pure | numbers, batches, the ring, and the pass under way |
//! | `shared.rs` | table | what this floor shares |
//! | `state.rs` | table | a topic's inbox, sequence and roster, under one lock |
//! | `subscriber.rs` | API | subscribers in this process |
//! | `table.rs` | table | topics by name |
//! | `together.rs` | rules | nothing: the locks of several topics at once |
//! | `unused.rs` | rules | when a topic may end, and what remains of it |
//! | `work.rs` | rules | nothing: the steps of the actor |
//!
//! # Crashes
//!
//! The commit point of a message is [`OpenBatch::commit`](crate::delivery::OpenBatch::commit). Before the commit the
//! publisher gets an error; after the commit every subscriber gets the message, once.
//!
//! Messages wait in the inbox and not in the actor's mailbox, because a mailbox has no limit and dies with its actor.
//! `max_inflight_frames` and `max_inflight_bytes` bound the messages in the inbox and in batches together. Beyond these
//! limits publishers wait.
//!
//! When the actor panics, a successor checks the state and continues where the actor stopped: a warm restart. If the
//! state is inconsistent, after two warm restarts, and after a quarantine, the topic starts afresh under a new epoch: a
//! cold restart. Inbox and subscribers stay in either case.

mod actor;
mod batch_size;
pub(crate) mod cluster;
mod core_lock;
pub(crate) mod errands;
mod handover;
mod heir;
pub(crate) mod history;
mod inbox;
mod join;
mod keys;
pub(crate) mod manager;
pub(crate) mod presence;
pub(crate) mod publish;
pub(crate) mod ring;
mod room;
mod roster;
mod sequence;
pub(crate) mod shared;
mod state;
pub(crate) mod subscriber;
pub(crate) mod table;
mod together;
mod unused;
mod work;

pub(crate) use actor::{Subscribe, Topic, leave, subscribe_elsewhere};
pub use handover::Handover;
pub(crate) use join::{Beginning, CatchUp, Entry};
pub use presence::{PresenceError, PresenceInfo};
pub(crate) use room::{Place, Waiter};
pub(crate) use sequence::Excerpt;
pub(crate) use shared::Topics;
#[cfg(all(test, feature = "fault-injection"))]
pub(crate) use state::TORN;
pub use state::TopicInfo;
pub(crate) use state::{Enqueued, TopicError, TopicState};
pub(crate) use together::Together;
pub(crate) use unused::{Anchor, Asleep, Fate, Hold, Spare};
