//! Whether the client answers the heartbeat.

use super::{Step, Transport};
use crate::wire::Answers;

impl Transport {
    /// Expects answers to the heartbeat from the start where the codec obliges clients to answer.
    pub(super) fn expect_answers(&self) {
        if self.wants_answers(Answers::Always) {
            self.slot.pulse.expect(self.shared.clock.tick());
        }
    }

    /// Notes an answer. A client that need not answer, and has answered once, is expected to answer from then on.
    pub(super) fn answered_ping(&self) {
        if self.wants_answers(Answers::OnceShown) {
            let clock = &self.shared.clock;
            self.slot.pulse.answer(clock.tick(), clock.ticks(self.shared.config().pong_timeout));
        }
    }

    fn wants_answers(&self, whose: Answers) -> bool {
        !self.shared.config().pong_timeout.is_zero() && self.shared.codecs().answers(self.slot.codec()) == whose
    }

    /// Whether the client still owes an answer to the heartbeat. Waits longer while the answer may be there and unread.
    pub(super) fn owes_answer(&self) -> bool {
        let tick = self.shared.clock.tick();
        if self.slot.pulse.unanswered_for(tick).is_none() {
            return false;
        }
        if !matches!(self.step, Step::Reading) {
            // While a command of the client waits, nothing is read.
            self.slot.pulse.defer(tick);
            return false;
        }
        true
    }
}
