//! The part of reading that the Transport does not see: an incomplete TLS record, and the work of records without data.

#[cfg(feature = "tls")]
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32};
use std::sync::atomic::{AtomicU8, Ordering};

use super::Slot;
#[cfg(feature = "tls")]
use crate::delivery::tls;

/// Copies of what the link knows, which is behind the slot's lock. Written by reads, and so by the Transport alone.
#[cfg(feature = "tls")]
#[derive(Debug, Default)]
pub(super) struct Unseen {
    bytes: AtomicU32,
    work: AtomicU16,
    is_mid_record: AtomicBool,
    pub(super) notes: Notes,
}

/// Without TLS the Transport sees everything.
#[cfg(not(feature = "tls"))]
#[derive(Debug, Default)]
pub(super) struct Unseen {
    pub(super) notes: Notes,
}

/// What the Transport notes about its client for other parts, in the byte that the copies above leave over.
#[derive(Debug, Default)]
pub(super) struct Notes(AtomicU8);

impl Notes {
    /// The client has asked for something: to be subscribed, to go on, or to publish.
    pub(super) const ASKED: u8 = 1;
    /// The client owes another request, and nothing else: the time of an unfinished frame has another limit.
    pub(super) const IDLE: u8 = 2;

    pub(super) fn has(&self, note: u8) -> bool {
        self.0.load(Ordering::Relaxed) & note != 0
    }

    /// Returns the note before.
    pub(super) fn set(&self, note: u8, value: bool) -> bool {
        let before = self.has(note);
        match (before, value) {
            (false, true) => _ = self.0.fetch_or(note, Ordering::Relaxed),
            (true, false) => _ = self.0.fetch_and(!note, Ordering::Relaxed),
            (true, true) | (false, false) => {}
        }
        before
    }
}

#[cfg(feature = "tls")]
impl Unseen {
    pub(super) fn note(&self, found: &tls::Unseen) {
        self.bytes.store(u32::try_from(found.bytes).unwrap_or(u32::MAX), Ordering::Relaxed);
        self.is_mid_record.store(found.is_mid_record, Ordering::Relaxed);
        let work = self.work.load(Ordering::Relaxed).saturating_add(found.work);
        self.work.store(work, Ordering::Relaxed);
    }
}

#[cfg(feature = "tls")]
impl Slot {
    /// The bytes of input that the link keeps.
    pub(crate) fn unseen_bytes(&self) -> usize {
        self.unseen.bytes.load(Ordering::Relaxed) as usize
    }

    /// Whether the client owes the rest of a TLS record.
    pub(crate) fn is_mid_record(&self) -> bool {
        self.unseen.is_mid_record.load(Ordering::Relaxed)
    }

    /// The [price](crate::accounts::fairness::price) of the link's own work since the last call.
    pub(crate) fn take_unseen_work(&self) -> u16 {
        let work = self.unseen.work.load(Ordering::Relaxed);
        if work > 0 {
            self.unseen.work.store(0, Ordering::Relaxed);
        }
        work
    }
}

#[cfg(not(feature = "tls"))]
impl Slot {
    pub(crate) fn unseen_bytes(&self) -> usize {
        0
    }

    pub(crate) fn is_mid_record(&self) -> bool {
        false
    }

    pub(crate) fn take_unseen_work(&self) -> u16 {
        0
    }
}
