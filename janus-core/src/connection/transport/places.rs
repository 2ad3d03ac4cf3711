//! The place of a connection among all others: as a client of `max_connections`, or as a
//! [guest](crate::connection::guests).

use super::{Step, Transport, refusal};
use crate::accounts::admission::AddressLimit;
use crate::connection::acceptor::{admit, count_refusal};
use crate::connection::table::Reservation;
use crate::delivery::End;
use crate::wire::{Command, ErrorCode, Refusal, Refusing};

impl Transport {
    /// Whether the purpose of the connection is unknown: without a place, and without a publication.
    pub(super) fn is_silent_guest(&self) -> bool {
        !self.has_place && !self.has_published
    }

    /// Whether this command requires a place, and the connection has none. Publishing requires none, nor do the
    /// commands that lead out of the server.
    pub(super) fn needs_place(&self, command: &Command) -> bool {
        !self.has_place
            && match command {
                Command::Subscribe { .. } | Command::Attach { .. } => true,
                Command::Close(_) | Command::Refused(_) | Command::Answer(_) | Command::Authenticate { .. } => false,
                Command::Admit | Command::Submit { .. } => false,
                Command::Ping | Command::Pong if self.lacks_proof() => false,
                Command::PassOn => self.origin.pass_on.is_none(),
                // Once the connection is open, its codec may refuse a client in other words.
                _ => !self.opened,
            }
    }

    /// Takes a place for the connection; if there is none, the client is told.
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
        self.count_accepted();
    }

    /// Notes a publication by a client that may publish.
    pub(super) fn publishes(&mut self) {
        if !self.is_silent_guest() {
            return;
        }
        self.has_published = true;
        self.count_accepted();
        if let Some(guest) = self.shared.table.guest_has_published(&self.slot, &self.shared.config()) {
            guest.end(End::Crowded);
        }
    }

    /// Whether the client is late: a frame is incomplete, or the purpose of the connection still unknown. Instead of
    /// being late, a silent guest gets a place that has become free, or is turned away if there is none.
    pub(super) fn is_late(&mut self) -> bool {
        if self.refuse_without_proof() {
            return false;
        }
        if self.is_silent_guest() {
            match admit(&self.shared) {
                // A place has become free since the guest came.
                Ok(place) if self.opened && !self.decoder.is_mid_frame() => {
                    self.occupy(place);
                    self.slot.set_unfinished(false, false, self.shared.clock.tick());
                    return false;
                }
                Ok(_) => {}
                Err((code, message)) => {
                    self.turn_away(code, message);
                    return false;
                }
            }
        }
        true
    }

    /// Makes room for another guest. Answers still owed are sent, by as many connections at once as may be refused at
    /// once (`max_refusals`); beyond that, the connection ends without them.
    pub(super) fn crowded_out(&mut self, code: ErrorCode, message: &str) {
        if self.opened && !self.is_closing() {
            return self.turn_away(code, message);
        }
        // A publisher would take an accepted message for lost, and publish the message again.
        if self.slot.is_answering() || self.has_published && !self.slot.is_flushed() {
            self.close();
            if self.free_guest_room() {
                self.why = Some(code);
                return;
            }
        }
        // A client between two requests is refused nothing.
        if !self.is_closing() && !self.slot.is_idle() {
            count_refusal(&self.shared, self.session.peer(), code);
        }
        self.why = Some(code);
        self.step = Step::Over;
    }

    /// Tells the client that there is no place, and closes. Closes at once if `max_refusals` clients are being told
    /// already.
    fn turn_away(&mut self, code: ErrorCode, message: &str) {
        count_refusal(&self.shared, self.session.peer(), code);
        self.part_with(refusal(code, message));
    }

    /// Tells a client beyond a limit of its address, and closes like [`turn_away`](Self::turn_away).
    pub(super) fn refuse_excess(&mut self, limit: AddressLimit) {
        let refusal = refusal(ErrorCode::TooManyConnections, limit.message());
        self.part_with(Refusal { status: Some(429), ..refusal });
    }

    fn part_with(&mut self, refusal: Refusal<'_>) {
        let is_unheard = self.decoder.refuse(&refusal) == Refusing::OnceRead;
        let asked_for = self.decoder.successor();
        self.say_goodbye(refusal);
        let may_wait = self.free_guest_room();
        let Step::Closing(closing) = &mut self.step else { return };
        if let Some((_, asked_for)) = asked_for
            && let Refusing::With(words) = asked_for.refuse(&refusal)
        {
            closing.last_words = words;
        }
        if !may_wait {
            // The right refusal may depend on a request that is not read yet, and a browser might take the wrong
            // refusal for final. After a connection that ends without a word, a browser comes back.
            if !is_unheard {
                self.slot.send(std::mem::take(&mut closing.last_words));
            }
            self.step = Step::Over;
        }
    }

    /// Frees the room of a guest that closes for other guests; false if the connection still takes room, and so must be
    /// over at once.
    pub(super) fn free_guest_room(&mut self) -> bool {
        if !self.has_place {
            self.stop_counting_as_open();
        }
        self.has_place || self.shared.table.begin_refusal(&self.slot, self.shared.config().max_refusals)
    }
}
