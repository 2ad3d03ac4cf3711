//! Whether the program of a client is alive: the answer owed since a heartbeat.
//!
//! The kernel of a peer acknowledges bytes for a program that has hung, so TCP never finds such a client. Only an
//! answer of the program does.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::ground::clock::Tick;

/// The client answers heartbeats, so a missing answer means something.
const ANSWERS: u32 = 1 << 31;
/// A heartbeat was sent, and nothing has come from the client since.
const ASKED: u32 = 1 << 30;
/// The tick of that heartbeat; without a heartbeat, the tick of the last sign of life.
const TICK: u32 = ASKED - 1;

/// One word for each of tens of thousands of connections. The Transport changes the word, and the heartbeat, perhaps on
/// another home; no delivery looks at the word. What the Transport has heard counts for more: the heartbeat changes
/// nothing if the word has changed since the heartbeat's look.
#[derive(Debug, Default)]
pub(crate) struct Pulse(AtomicU32);

impl Pulse {
    /// Counts on answers from now on.
    pub(crate) fn expect(&self, tick: Tick) {
        self.set(ANSWERS | tick.number() & TICK);
    }

    /// Notes a sign of life: any byte of the client's, because a program that is dead sends none.
    pub(crate) fn hear(&self, tick: Tick) {
        let word = self.word();
        let heard = if word & ANSWERS == 0 { 0 } else { ANSWERS | tick.number() & TICK };
        if heard != word {
            self.set(heard);
        }
    }

    /// Notes a heartbeat on its way. The first heartbeat without an answer counts.
    pub(crate) fn ask(&self, tick: Tick) {
        let word = self.word();
        if word & (ANSWERS | ASKED) != ANSWERS | ASKED {
            self.change(word, word & ANSWERS | ASKED | tick.number() & TICK);
        }
    }

    /// Has the time for an answer begin anew: the heartbeat has not reached the client yet, or the answer is not read
    /// yet.
    pub(crate) fn defer(&self, tick: Tick) {
        let word = self.word();
        if word & ASKED != 0 {
            self.change(word, word & !TICK | tick.number() & TICK);
        }
    }

    /// Counts on answers if this answer has come within `patience` ticks.
    pub(crate) fn answer(&self, tick: Tick, patience: u32) {
        let word = self.word();
        if word & ASKED != 0 && age(word, tick) <= patience {
            self.set(word | ANSWERS);
        }
    }

    /// Ticks since the last sign of life of a client that answers, and owes no answer.
    pub(crate) fn silent_for(&self, tick: Tick) -> Option<u32> {
        let word = self.word();
        (word & (ANSWERS | ASKED) == ANSWERS).then(|| age(word, tick))
    }

    /// Ticks since a client that answers owes an answer.
    pub(crate) fn unanswered_for(&self, tick: Tick) -> Option<u32> {
        let word = self.word();
        (word & (ANSWERS | ASKED) == ANSWERS | ASKED).then(|| age(word, tick))
    }

    fn word(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, word: u32) {
        self.0.store(word, Ordering::Relaxed);
    }

    /// Sets the word if it is still `from`.
    fn change(&self, from: u32, to: u32) {
        let _ = self.0.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
    }
}

fn age(word: u32, tick: Tick) -> u32 {
    tick.number().wrapping_sub(word) & TICK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_is_heard_during_a_look_of_the_heartbeat_owes_nothing() {
        let pulse = Pulse::default();
        pulse.expect(Tick::new(1));
        pulse.ask(Tick::new(2));
        let seen = pulse.word();
        // On another home.
        pulse.hear(Tick::new(3));
        pulse.change(seen, seen & !TICK | 3);
        assert_eq!(pulse.unanswered_for(Tick::new(9)), None);
    }

    #[test]
    fn the_first_heartbeat_without_an_answer_counts() {
        let pulse = Pulse::default();
        pulse.expect(Tick::new(10));
        assert_eq!((pulse.silent_for(Tick::new(15)), pulse.unanswered_for(Tick::new(15))), (Some(5), None));
        pulse.ask(Tick::new(20));
        pulse.ask(Tick::new(30));
        assert_eq!((pulse.silent_for(Tick::new(35)), pulse.unanswered_for(Tick::new(35))), (None, Some(15)));
        pulse.hear(Tick::new(36));
        assert_eq!((pulse.silent_for(Tick::new(38)), pulse.unanswered_for(Tick::new(38))), (Some(2), None));
    }

    #[test]
    fn a_client_that_has_not_answered_in_time_owes_no_answer() {
        let pulse = Pulse::default();
        pulse.ask(Tick::new(10));
        assert_eq!(pulse.unanswered_for(Tick::new(1_000)), None);
        pulse.answer(Tick::new(20), 5);
        pulse.hear(Tick::new(20));
        assert_eq!((pulse.silent_for(Tick::new(1_000)), pulse.unanswered_for(Tick::new(1_000))), (None, None));
        pulse.answer(Tick::new(21), 5);
        pulse.ask(Tick::new(30));
        pulse.ask(Tick::new(60));
        pulse.answer(Tick::new(62), 5);
        pulse.hear(Tick::new(62));
        pulse.ask(Tick::new(90));
        assert_eq!(pulse.unanswered_for(Tick::new(91)), Some(1));
    }

    #[test]
    fn a_heartbeat_that_still_waits_gives_the_client_its_whole_time() {
        let pulse = Pulse::default();
        pulse.expect(Tick::new(1));
        pulse.defer(Tick::new(5));
        assert_eq!(pulse.silent_for(Tick::new(6)), Some(5));
        pulse.ask(Tick::new(6));
        pulse.defer(Tick::new(9));
        assert_eq!(pulse.unanswered_for(Tick::new(10)), Some(1));
    }

    #[test]
    fn a_clock_that_wraps_around_ages_no_connection() {
        let pulse = Pulse::default();
        for before in [TICK - 1, ASKED, ANSWERS, u32::MAX - 1] {
            pulse.expect(Tick::new(before));
            assert_eq!(pulse.silent_for(Tick::new(before.wrapping_add(5))), Some(5), "{before}");
            pulse.ask(Tick::new(before.wrapping_add(5)));
            assert_eq!(pulse.unanswered_for(Tick::new(before.wrapping_add(9))), Some(4), "{before}");
            pulse.hear(Tick::new(1));
        }
    }
}
