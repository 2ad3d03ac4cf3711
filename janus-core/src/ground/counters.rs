//! What has happened in an instance so far, as counts.

use std::sync::atomic::AtomicU64;

/// What happened so far.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) connections_refused: AtomicU64,
    /// Of those, the ones for which there was no memory.
    pub(crate) connections_refused_for_memory: AtomicU64,
    /// Messages that topics did not keep for as long as they may, because memory was short.
    pub(crate) messages_trimmed: AtomicU64,
    pub(crate) sessions_ended_for_memory: AtomicU64,
    /// Connections that were closed for what they held without having asked for anything.
    pub(crate) connections_closed_for_memory: AtomicU64,
    pub(crate) connections_accepted: AtomicU64,
    pub(crate) frames_timed_out: AtomicU64,
    pub(crate) pings_unanswered: AtomicU64,
    pub(crate) frames_refused: AtomicU64,
    pub(crate) accept_pauses: AtomicU64,
    /// Connections that ended with something still queued for them, other than slow consumers.
    pub(crate) cut_off: AtomicU64,
}
