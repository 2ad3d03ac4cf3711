//! Reading and decoding, and the account of input that has led to nothing yet.

use std::cell::RefCell;
use std::io;
use std::task::{self, Poll, ready};

use bytes::{Buf, Bytes};
use log::Level;

use super::commands::Lengthy;
use super::keeping::Answers;
use super::pacing::Then;
use super::publishing::Offering;
use super::{Step, Transport};
use crate::accounts::fairness::Want;
use crate::ground::tasks::yield_now;
use crate::topic::publish::Pending;
use crate::wire::Command;

/// Bytes read at once, into a buffer shared by all connections of an arbiter; then other connections get their turn.
///
/// Larger reads would be fewer. But messages of a fast publisher are to be on their way to the subscribers while the
/// next messages are read: four reads of 64 KiB in a turn give a quarter less throughput to one subscriber. Where the
/// messages go to many subscribers, reading continues up to the end of a portion.
const SCRATCH_BYTES: usize = 16 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH_BYTES]);
}

impl Transport {
    /// Reads, decodes and carries out; ready when the next step is not reading.
    pub(super) fn read(&mut self, cx: &mut task::Context<'_>) -> Poll<()> {
        if self.slot.is_paused() {
            return Poll::Pending;
        }
        if self.answers == Answers::Last {
            self.step = Step::Answering;
            return Poll::Ready(());
        }
        ready!(self.poll_portion(cx));
        if self.undecoded {
            // Even without bytes left: one request may lead to many commands.
            let rest = self.rest.take();
            let mut input = rest.as_deref().map_or(&[][..], |rest| rest);
            self.process(&mut input);
            let left = input.len();
            if left > 0
                && let Some(mut rest) = rest
            {
                rest.advance(rest.len() - left);
                self.rest = Some(rest);
            }
            if self.is_interrupted() {
                return self.wait_for_portion(Want::More, cx);
            }
        }
        SCRATCH.with_borrow_mut(|scratch| {
            while !self.undecoded && self.may_go_on() {
                let Some(room) = self.room_to_read() else { break };
                let read = self.slot.poll_read(cx, &mut scratch[..room.min(SCRATCH_BYTES)]);
                self.portion.add(self.slot.take_unseen_work());
                let Poll::Ready(read) = read else {
                    self.caught_up();
                    return Poll::Pending;
                };
                match read {
                    Ok(0) => self.in_turn(Lengthy::HalfClosed),
                    Ok(length) => {
                        self.portion.add_read(length);
                        self.count_bytes(length);
                        let mut input = &scratch[..length];
                        self.process(&mut input);
                        self.slot.pulse.hear(self.shared.clock.tick());
                        if !input.is_empty() {
                            self.rest = Some(Box::new(Bytes::copy_from_slice(input)));
                        }
                        let has_more = length == scratch.len() && matches!(self.step, Step::Reading);
                        if self.is_interrupted() || has_more && !self.publishes_widely() {
                            return self.wait_for_portion(Want::More, cx);
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => return yield_now(cx),
                    Err(error) => {
                        log_client!(self, Level::Debug, "{error}");
                        self.in_turn(Lengthy::Lost(error.kind()));
                    }
                }
            }
            Poll::Ready(())
        })
    }

    /// Reads into the scratch buffer and discards the bytes; their number, or `None` at the end of the stream.
    pub(super) fn discard(&self, cx: &mut task::Context<'_>) -> Poll<Option<usize>> {
        match ready!(SCRATCH.with_borrow_mut(|scratch| self.slot.poll_read(cx, scratch))) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => yield_now(cx),
            read => Poll::Ready(read.ok().filter(|length| *length > 0)),
        }
    }

    /// Carries out the commands in `input`, up to a command that has to wait, or to the end of a portion.
    fn process(&mut self, input: &mut &[u8]) {
        let limits = self.shared.wire_limits();
        let mut completed = false;
        self.undecoded = true;
        while self.may_go_on() && !self.portion.is_used_up() {
            if self.answers == Answers::Last || !input.is_empty() && self.owes_answer_first() {
                self.step = Step::Answering;
                break;
            }
            let Some(decoded) = self.decoder.decode(input, &limits) else {
                self.undecoded = false;
                break;
            };
            self.portion.add_command(&decoded);
            let becomes = matches!(decoded, Ok(Command::Become(_)));
            match decoded {
                Ok(command) => self.carry_out(command),
                Err(error) => self.answer_error(error),
            }
            // Before its connection is open, a client gains no time by other commands, such as a ping, and a guest
            // gains time by a publication alone. Nor does a client gain time by a ping between two parts of an
            // unfinished message.
            let gains_time = self.opened && !self.is_silent_guest() || becomes;
            completed = completed || (gains_time && !self.decoder.is_mid_frame()) || self.decoder.is_idle();
        }
        self.rare.end_run();
        // The bytes after the end of a portion are unknown. A frame late before the end is late after the end.
        if !self.is_interrupted() || completed {
            if input.is_empty() {
                self.note_awaited(completed);
            } else {
                self.slot.set_unfinished(false, completed, self.shared.clock.tick());
            }
        }
    }

    /// Whether the next command may be carried out: no command waits, and the client takes the earlier answers.
    fn may_go_on(&self) -> bool {
        matches!(self.step, Step::Reading) && !self.slot.is_paused()
    }

    /// Whether the client owes bytes: the rest of a frame, the opening of the connection, or the command that shows a
    /// guest's purpose.
    pub(super) fn is_awaited(&self) -> bool {
        matches!(self.step, Step::Reading) && (self.decoder.is_mid_frame() || !self.opened || self.is_silent_guest())
    }

    /// Notes whether the client owes the rest of a TLS record. A record without an end is late as a frame without an end
    /// is, and no decoder sees either of the two.
    fn note_record(&mut self) {
        let owes = self.slot.is_mid_record() && matches!(self.step, Step::Reading);
        if owes && !self.is_interrupted() {
            self.owes_record = true;
            self.slot.set_unfinished(true, false, self.shared.clock.tick());
        } else if !owes && self.owes_record {
            self.owes_record = false;
            // A record without data, such as a change of keys, leads to no look at the decoder.
            if !self.is_awaited() {
                self.slot.set_unfinished(false, false, self.shared.clock.tick());
            }
        }
    }

    /// Accounts for the kept input of the client; true if the connection is to be closed because of the input.
    pub(super) fn note_input(&mut self) -> bool {
        let rest = self.rest.as_ref().map_or(0, |rest| rest.len());
        let waiting = |offering: &Offering| offering.pending.as_ref().map_or(0, Pending::accounted_bytes);
        let under_way = match &self.step {
            Step::Offering(offering) => waiting(offering),
            Step::Slowed(slowed) => match &slowed.then {
                Then::Publish(offering) => waiting(offering),
                Then::Read | Then::Subscribe(_) | Then::Unsubscribe(..) | Then::Presence(..) | Then::History(_) => 0,
            },
            Step::Permitting(permitting) => permitting.pending.accounted_bytes(),
            Step::Waiting(waiting) => waiting.held,
            _ => 0,
        };
        self.note_record();
        if self.note_kept(self.decoder.memory() + rest + under_way + self.slot.unseen_bytes()) {
            self.shared.bound_input();
        }
        self.slot.kept.is_given_up() && !self.is_closing()
    }

    /// Accounts for this many bytes of input; true if they are more than before.
    pub(super) fn note_kept(&self, bytes: usize) -> bool {
        self.slot.note_kept(bytes, self.shared.clock.tick(), &self.shared)
    }
}
