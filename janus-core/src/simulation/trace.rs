//! The record of a run: a hash of all events, to compare two runs, and the last events in words, for a failure.

use std::collections::VecDeque;

/// The events of a run.
#[derive(Debug, Default)]
pub(super) struct Trace {
    pub(super) hash: u64,
    pub(super) events: VecDeque<(&'static str, usize, usize, usize)>,
}

const EVENTS_SHOWN: usize = 60;

impl Trace {
    pub(super) fn note(&mut self, what: &'static str, a: usize, b: usize, c: usize) {
        let kind = what.bytes().fold(0, |hash: u64, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)));
        for word in [kind, a as u64, b as u64, c as u64] {
            self.hash = (self.hash ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
        }
        if self.events.len() == EVENTS_SHOWN {
            self.events.pop_front();
        }
        self.events.push_back((what, a, b, c));
    }
}
