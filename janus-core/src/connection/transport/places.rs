//! The place of a connection among all others: as a client of `max_connections`, or as a [guest](crate::connection::guests).

use std::sync::atomic::Ordering;

use super::{Step, Transport, refusal};
use crate::connection::acceptor::{SERVER_FULL, admit, count_refusal};
use crate::connection::table::Reservation;
use crate::delivery::End;
use crate::wire::{Command, ErrorCode, FrameError, Refusing};

impl Transport {
    /// Whether nobody knows what the connection is for: it has no place, and has published nothing.
    pub(super) fn is_silent_guest(&self) -> bool {
        !self.has_place && !self.has_published
    }

    /// Whether this command is for clients with a place, and its own has none. Publishing is not, nor is what leads out of here.
    pub(super) fn needs_place(&self, command: &Command) -> bool {
        !self.has_place
            && match command {
                Command::Subscribe { .. } | Command::Attach { .. } => true,
                Command::Close(_) | Command::Refused(_) => false,
                Command::PassOn => self.origin.pass_on.is_none(),
                // Once it is opened, the words in which a client can be refused may be others.
                _ => !self.opened,
            }
    }

    /// Gets the connection a place; if there is none its client is told so.
    pub(super) fn take_place(&mut self) -> bool {
        match admit(&self.shared) {
            Ok(place) => {
                self.occupy(place);
                true
            }
            Err((code, message)) => {
                self.turn_away(code, message);
                false
            }
        }
    }

    fn occupy(&mut self, place: Reservation) {
        place.give_to(&self.slot);
        self.has_place = true;
        if !self.has_published {
            self.shared.counters.connections_accepted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Notes that the client may publish, and does.
    pub(super) fn publishes(&mut self) {
        if !self.is_silent_guest() {
            return;
        }
        self.has_published = true;
        self.shared.counters.connections_accepted.fetch_add(1, Ordering::Relaxed);
        if let Some(guest) = self.shared.table.guest_has_published(&self.slot, &self.shared.config) {
            guest.end(End::Crowded);
        }
    }

    /// The client has not finished a frame, or has not said what it is for.
    pub(super) fn time_is_up(&mut self) {
        if self.is_silent_guest() {
            match admit(&self.shared) {
                // By now there is one.
                Ok(place) if self.opened && !self.decoder.is_mid_frame() => {
                    self.occupy(place);
                    return self.slot.set_unfinished(false, false, self.shared.clock.tick());
                }
                Ok(_) => {}
                Err((code, message)) => return self.turn_away(code, message),
            }
        }
        self.shared.counters.frames_timed_out.fetch_add(1, Ordering::Relaxed);
        let message = "finish each frame in time; this one was left unfinished";
        self.answer_error(FrameError::new(ErrorCode::FrameTimeout, message));
    }

    /// Another guest needs the room.
    pub(super) fn crowded_out(&mut self) {
        if self.has_place {
            return;
        }
        if self.opened && !matches!(self.step, Step::Closing(_) | Step::Over) {
            return self.turn_away(ErrorCode::TooManyConnections, SERVER_FULL);
        }
        if !matches!(self.step, Step::Closing(_) | Step::Over) {
            count_refusal(&self.shared, self.session.peer, ErrorCode::TooManyConnections);
        }
        self.why = Some(ErrorCode::TooManyConnections);
        self.step = Step::Over;
    }

    /// Tells the client that there is no place for it, and closes: at once, if as many as may are being told.
    fn turn_away(&mut self, code: ErrorCode, message: &str) {
        count_refusal(&self.shared, self.session.peer, code);
        let refusal = refusal(code, message);
        let is_unheard = self.decoder.refuse(&refusal) == Refusing::OnceRead;
        let asked_for = self.decoder.successor();
        self.say_goodbye(refusal);
        let may_wait = self.leave_reserve();
        let Step::Closing(closing) = &mut self.step else { return };
        if let Some((_, asked_for)) = asked_for
            && let Refusing::With(words) = asked_for.refuse(&refusal)
        {
            closing.last_words = words;
        }
        if !may_wait {
            // Told in a way that depends on what it asks for, a browser might take what comes instead for final. After a
            // connection that ends without a word it comes back.
            if !is_unheard {
                self.slot.send(std::mem::take(&mut closing.last_words));
            }
            self.step = Step::Over;
        }
    }

    /// Has a connection that closes take no room from other guests; false if it has to, or must be over at once.
    pub(super) fn leave_reserve(&self) -> bool {
        self.has_place || self.shared.table.leave(&self.slot, self.shared.config.max_refusals)
    }
}
