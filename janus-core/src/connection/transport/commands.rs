//! Carrying out commands: at once, in a turn of their own, or when an answer has come.

use std::io;

use super::beginning::Preface;
use super::identity::Renewal;
use super::pacing::Then;
use super::presence::Question;
use super::subscribing::{Asking, refused};
use super::{Outcome, Step, Transport};
use crate::connection::turn::Ticket;
use crate::ground::figures::Via;
use crate::hooks::Refused;
use crate::topic::publish::{Pending, Reply, told};
use crate::wire::{Command, ErrorCode, FrameError, TopicName};

/// A lengthy command, waiting for a turn.
pub(super) struct Queueing {
    pub(super) ticket: Option<Ticket>,
    pub(super) then: Lengthy,
}

/// Work that takes far longer than reading its command. In a turn, only a few connections may do such work.
pub(super) enum Lengthy {
    Subscribe(Box<Asking>),
    /// The token of a session, and for each topic the number of messages received.
    Attach(Box<(String, Vec<(TopicName, u64)>)>),
    /// The client's end of the stream.
    HalfClosed,
    /// Reading failed.
    Lost(io::ErrorKind),
}

impl Transport {
    pub(super) fn carry_out(&mut self, command: Command) {
        if !self.opened && !self.welcomes(&command) {
            return;
        }
        if self.needs_place(&command) && !self.take_place() {
            return;
        }
        let fresh = self.fresh;
        self.fresh &= Self::leaves_fresh(&command);
        if !self.fresh && self.opened {
            // No question about a new client comes any more.
            self.rare.take_tls();
        }
        self.note_asked(&command);
        match command {
            Command::Open(open) if !self.opened => self.open(*open),
            Command::Open(_) => {
                self.answer_error(FrameError::new(ErrorCode::BadOpen, "the connection is open already"))
            }
            Command::Refused(error) => self.answer_error(error),
            Command::Answer(bytes) => self.slot.send(bytes),
            Command::Preface(bytes) if !self.opened => {
                self.slot.cork();
                self.rare.make().preface = Some(Box::new(Preface::new(bytes)));
            }
            Command::Preface(_) => {
                let message = "a preface came after the connection was opened";
                self.answer_error(FrameError::new(ErrorCode::Internal, message));
            }
            Command::Close(bytes) => self.part(bytes),
            command @ (Command::Become(_) | Command::PassOn) => self.after_answers(command),
            Command::Admit => self.admit_request(),
            Command::Submit { topic, publication, id, last } => self.submit(topic, publication, id, last),
            Command::Authenticate { auth } => self.authenticate(auth, fresh),
            Command::Ping | Command::Pong if self.lacks_proof() => {}
            _ if !self.opened => self.refuse_unopened(),
            Command::Refresh { auth, id } => self.renew(auth, Renewal::Refresh(id)),
            Command::Ping => {}
            Command::Pong => self.answered_ping(),
            Command::AllAsked => self.all_asked(),
            Command::Attach { token, received } if fresh => self.in_turn(Lengthy::Attach(Box::new((token, received)))),
            Command::Attach { .. } => {
                let message = "attach with the first frame of a connection; this connection has its own session";
                self.answer_error(FrameError::new(ErrorCode::BadAttach, message));
            }
            Command::Subscribe { topic: name, since, horizon, presence, member, id } => {
                let asking = Asking { name, since, horizon, id, is_assigned: false, presence, member };
                self.at_subscribe_rate(Then::Subscribe(Box::new(asking)));
            }
            Command::Unsubscribe { topic: name, id } => self.at_subscribe_rate(Then::Unsubscribe(name, id)),
            Command::History { topic, query, id } => self.at_subscribe_rate(Then::history(topic, query, id)),
            Command::Presence { topic, id } => self.at_subscribe_rate(Then::Presence(topic, id)),
            Command::Publish { topic, publication, ack, id } => {
                let reply = Reply::connection(self.owed(&topic), ack, id);
                self.publish(topic, Pending { publication, reply }, None);
            }
            Command::PublishAndClose { topic, publication } => {
                // The FIN follows the commit: the publisher may take the FIN for a receipt.
                let (reply, outcome) = Reply::promise(Via::codec(self.slot.codec()));
                self.publish(topic, Pending { publication, reply }, Some(outcome));
            }
        }
    }

    /// A client that subscribes or publishes is no stranger.
    fn note_asked(&self, command: &Command) {
        let asks = matches!(
            command,
            Command::Subscribe { .. }
                | Command::Attach { .. }
                | Command::Publish { .. }
                | Command::PublishAndClose { .. }
                | Command::Submit { .. }
        );
        if asks && !self.slot.has_asked() {
            self.slot.note_asked();
        }
    }

    /// Does lengthy work now, or when there is a place in a turn.
    pub(super) fn in_turn(&mut self, work: Lengthy) {
        if self.shared.shift(self.home).turns.take(self.shared.homes.get(self.home).place.pauses()) {
            self.proceed(work);
        } else {
            self.step = Step::Queueing(Box::new(Queueing { ticket: None, then: work }));
        }
    }

    pub(super) fn proceed(&mut self, work: Lengthy) {
        match work {
            Lengthy::Subscribe(asking) => self.subscribe(*asking),
            Lengthy::Attach(session) => self.attach(&session.0, session.1),
            Lengthy::HalfClosed => self.half_closed(),
            Lengthy::Lost(kind) => {
                self.step = Step::Over;
                self.slot.lost(kind);
                if let Some(end) = self.slot.take_end() {
                    self.end(end);
                }
            }
        }
    }

    /// The client will send no more: all input is processed, errors are flushed, then the FIN of the server follows.
    fn half_closed(&mut self) {
        match self.decoder.finish(&self.shared.wire_limits()) {
            Some(Ok(command)) => self.carry_out(command),
            Some(Err(error)) => self.answer_error(error),
            None => {}
        }
        // Otherwise the run of the last message would owe the client an answer for ever, and the close would wait for it.
        self.rare.end_run();
        if matches!(self.step, Step::Reading) {
            self.close();
        }
    }

    /// Continues a command whose answer has come.
    pub(super) fn conclude(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Authenticated(open, identity) => self.authenticated(*open, identity),
            Outcome::Renewed(renewal, identity) => self.renewed(renewal, identity),
            Outcome::Reviewed(refused) => self.reviewed(refused),
            Outcome::Permitted(asking, Ok(())) => self.in_turn(Lengthy::Subscribe(asking)),
            Outcome::Permitted(asking, Err(Refused { code, message, .. })) => {
                self.answer_error(FrameError::new(code, message).with_id(asking.id).with_topic(&asking.name));
            }
            Outcome::Shown(question, Ok(())) => self.answer_presence(question),
            Outcome::Present(question, info) => self.tell_presence(&question, info),
            Outcome::Shown(Question { topic, id }, Err(Refused { code, message, .. })) => {
                self.answer_error(FrameError::new(code, message).with_id(id).with_topic(&topic));
            }
            Outcome::MayRead(reading, Ok(())) => self.read_history(reading),
            Outcome::MayRead(reading, Err(Refused { code, message, .. })) => {
                self.answer_error(FrameError::new(code, message).with_id(reading.id).with_topic(&reading.topic));
            }
            Outcome::HasRead(reading, history) => self.tell_history(&reading, history),
            Outcome::Prepared(prepared) => self.resume(*prepared),
            Outcome::Found(asking, Ok(topic)) => self.go_on(*asking, &topic),
            Outcome::Found(asking, Err(error)) => self.answer_error(refused(error, asking.id, &asking.name)),
            Outcome::Published(result) => {
                if let Err(error) = told(result, &self.shared.figures) {
                    self.tell_error(None, None, error.code(), &error.to_string());
                }
                self.close();
            }
        }
    }
}
