//! Whether the client answers the heartbeat.

use std::sync::atomic::Ordering;

use super::{Step, Transport};
use crate::wire::{Answers, ErrorCode};

impl Transport {
    /// Counts on answers to the heartbeat from the start where the codec obliges clients to give them.
    pub(super) fn expect_answers(&self) {
        if self.wants_answers(Answers::Always) {
            self.slot.pulse.expect(self.shared.clock.tick());
        }
    }

    /// A client that has answered once, and need not, is held to it.
    pub(super) fn answered_ping(&self) {
        if self.wants_answers(Answers::OnceShown) {
            let clock = &self.shared.clock;
            self.slot.pulse.answer(clock.tick(), clock.ticks(self.shared.config.pong_timeout));
        }
    }

    fn wants_answers(&self, whose: Answers) -> bool {
        !self.shared.config.pong_timeout.is_zero() && self.shared.codecs().answers(self.slot.codec()) == whose
    }

    /// Ends the connection of a client that has not answered the heartbeat.
    pub(super) fn end_if_silent(&mut self) {
        let tick = self.shared.clock.tick();
        if self.slot.pulse.unanswered_for(tick).is_none() {
            return;
        }
        if !matches!(self.step, Step::Reading) {
            // While a command of its own waits, nothing is read, and the answer may be there.
            return self.slot.pulse.defer(tick);
        }
        self.shared.counters.pings_unanswered.fetch_add(1, Ordering::Relaxed);
        log::debug!("client {} ({}): closed, it has not answered a ping", self.slot.id, self.session.peer);
        self.say_bye(None, ErrorCode::PingTimeout, "no answer to a ping came in time; connect again");
    }
}
