//! When a heartbeat is due on a connection, and when its answer is overdue.

use super::Slot;
use crate::ground::clock::Tick;

impl Slot {
    /// Sends the heartbeat, unless the client was sent its last words after the heartbeat became due, or is paused with
    /// enough to take.
    pub(crate) fn beat(&self, tick: Tick) {
        if self.is_paused() {
            return;
        }
        if let Some(frame) = self.codecs().heartbeat(self.codec()) {
            self.send_if(&frame, || {
                let may_beat = self.quiet_since.get().is_some();
                if may_beat {
                    self.pulse.ask(tick);
                }
                may_beat
            });
        }
    }

    /// Counts silence from now on, and not only from the first message.
    pub(crate) fn expect_silence(&self, tick: Tick) {
        self.quiet_since.set(tick);
    }

    /// Sends no heartbeat from now on. The client must have left its topics, or the next message would start the
    /// heartbeat again.
    pub(crate) fn fall_silent(&self) {
        // With the lock, or a heartbeat on its way from another home could follow the last words.
        let _out = self.out.lock();
        self.quiet_since.clear();
    }

    /// Whether a PING is due: `interval` ticks have passed since the last message or PING. For a client that answers
    /// PINGs, the time since the last sign of life counts as well, because messages may flow to such a client all the
    /// time. Marks the PING as sent.
    pub(crate) fn take_ping_due(&self, tick: Tick, interval: u32) -> bool {
        let Some(since) = self.quiet_since.get() else { return false };
        let silent = self.pulse.silent_for(tick).is_some_and(|silence| silence >= interval);
        if tick.since(since) < interval && !silent {
            return false;
        }
        // Unless the Transport has sent the last words, or a message has come, since the look.
        self.quiet_since.advance(Some(since), tick)
    }

    /// Whether the client was promised a PING in each interval, whatever else is sent.
    pub(crate) fn beats_regularly(&self) -> bool {
        self.codecs().beats_regularly(self.codec())
    }

    /// Whether a PING is due for a client with a PING in each `interval` ticks. `earlier` is the tick of the look before, and
    /// `tick` that of this look: ticks may come late, and no moment for a PING must fall between two looks.
    ///
    /// The moments follow from the number of the connection: a note of the last PING would take memory in each slot, and
    /// connections that were opened together would get their PINGs together.
    pub(crate) fn is_beat_due(&self, earlier: Tick, tick: Tick, interval: u32) -> bool {
        let past_moment = (u64::from(tick.number()) + self.id) % u64::from(interval.max(1));
        // A client without the note of a silence is not open yet, or has had its last words.
        past_moment < u64::from(tick.since(earlier)) && self.quiet_since.get().is_some()
    }

    /// Whether the client has owed the answer to a heartbeat for `patience` ticks. While a queue waits for the client,
    /// the queue's own time limits apply instead: the client may read as fast as its link allows, and not have come to
    /// the heartbeat yet.
    pub(crate) fn is_overdue(&self, tick: Tick, patience: u32) -> bool {
        if self.needs_attention() {
            self.pulse.defer(tick);
        }
        self.pulse.unanswered_for(tick).is_some_and(|time| time >= patience)
    }
}
