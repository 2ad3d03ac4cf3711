//! Errors, last words and the FIN.
//!
//! A close is orderly: the queue is written out, then the answers still owed, then the last words, then a FIN. For a
//! moment the connection still reads and discards, so that the peer sees the FIN and not a reset.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{self, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use log::Level;
use tokio::time::Sleep;

use super::pacing::Then;
use super::publishing::{Offering, Permitting};
use super::{Step, Transport, refusal};
use crate::accounts::fairness::price;
use crate::accounts::reached::Limit;
use crate::session::{Detachment, Places};
use crate::topic::leave;
use crate::topic::publish::PublishError;
use crate::wire::{
    Command, Decoder, ErrorClass, ErrorCode, FrameError, Limits, Refusal, Refusing, RequestId, ServerEvent, TopicName,
};

/// How long input is still read and discarded after the server's FIN, so that the peer sees the FIN and not a reset.
pub(super) const LINGER: Duration = Duration::from_secs(1);

/// How much input is discarded during `LINGER`.
const LINGER_BYTES: usize = 256 * 1024;

/// A connection on the way to its FIN.
pub(super) struct Closing {
    /// Sent behind everything else; empty once they have been sent, or without any.
    pub(super) last_words: Bytes,
    fin_sent: bool,
    discarded: usize,
    /// For writing out the queue, and then for the peer to close as well.
    pub(super) deadline: Pin<Box<Sleep>>,
}

impl Transport {
    /// Begins to close, and tells the client why.
    pub(super) fn say_bye(&mut self, id: RequestId, code: ErrorCode, message: &str) {
        self.say_goodbye(Refusal { id, ..refusal(code, message) });
    }

    pub(super) fn say_goodbye(&mut self, refusal: Refusal<'_>) {
        let is_about_a_frame = !matches!(
            refusal.code,
            ErrorCode::ServerDraining
                | ErrorCode::Disconnected
                | ErrorCode::Banned
                | ErrorCode::RateLimited
                | ErrorCode::ConnectionReplaced
                | ErrorCode::TokenExpired
        );
        if is_about_a_frame {
            self.shared.counters.frames_refused.fetch_add(1, Ordering::Relaxed);
        }
        self.why = Some(refusal.code);
        // A browser returns to an ended stream, and not to a refused request.
        if self.opened && refusal.code.class() != ErrorClass::DoNot {
            self.begin();
        }
        let has_begun = self.opened && !self.is_held();
        let goodbye = if has_begun { ServerEvent::Bye(refusal) } else { ServerEvent::Refused(refusal) };
        let last_words = match self.decoder.refuse(&refusal) {
            Refusing::With(bytes) if !has_begun => {
                self.decoder.note_refused(&refusal);
                bytes
            }
            // A codec has no words after a panic.
            _ => self.slot.codecs().encode(self.slot.codec(), &goodbye).unwrap_or_default(),
        };
        self.part(last_words);
    }

    /// Begins to close with these last words. The last words follow the answers to all requests and the last message:
    /// many protocols allow nothing behind the last words.
    pub(super) fn part(&mut self, last_words: Bytes) {
        self.close();
        if let Step::Closing(closing) = &mut self.step {
            closing.last_words = last_words;
        }
    }

    /// Tells the client why a request is not carried out.
    pub(super) fn tell_error(&self, id: RequestId, topic: Option<&TopicName>, code: ErrorCode, message: &str) {
        self.shared.counters.frames_refused.fetch_add(1, Ordering::Relaxed);
        self.slot.tell(&ServerEvent::Error { id, topic, code, message });
    }

    /// Answers a frame with an error. The error may name no message, so it must not overtake the answers to earlier
    /// messages.
    pub(super) fn answer_error(&mut self, error: FrameError) {
        log_client!(self, Level::Debug, [code:% = error.code], "{error}");
        if !self.slot.is_settled() {
            self.step = Step::Settling(Box::new(error));
        } else if error.is_fatal() {
            self.say_bye(error.id, error.code, &error.message);
        } else if self.rare.preface().is_some() {
            self.refuse_topic(error);
        } else {
            self.tell_error(error.id, error.topic.as_ref(), error.code, &error.message);
        }
    }

    /// Waits for the answers to earlier messages, and then answers with the error.
    pub(super) fn settle(&mut self) -> Poll<()> {
        if !self.slot.is_settled() {
            return Poll::Pending;
        }
        if let Step::Settling(error) = std::mem::replace(&mut self.step, Step::Reading) {
            self.answer_error(*error);
        }
        Poll::Ready(())
    }

    /// Begins to close: the queue is written out, then comes a FIN.
    pub(super) fn close(&mut self) {
        if !self.is_closing() {
            self.announce_close();
            self.give_up_preface();
            self.detach();
            let deadline = self.shared.close_deadline(self.shared.config().drain_timeout);
            let deadline = Box::pin(tokio::time::sleep_until(deadline));
            let closing = Closing { last_words: Bytes::new(), fin_sent: false, discarded: 0, deadline };
            let before = std::mem::replace(&mut self.step, Step::Closing(Box::new(closing)));
            self.give_up(before);
            self.forget_input();
            self.free_guest_room();
        }
    }

    /// Tells a publisher that its waiting message is not published.
    fn give_up(&self, step: Step) {
        let offering = match step {
            Step::Permitting(permitting) => {
                let Permitting { topic, pending, outcome, .. } = *permitting;
                Offering { topic, pending: Some(pending), place: None, outcome }
            }
            Step::Offering(offering) => *offering,
            Step::Slowed(slowed) => match slowed.then {
                Then::Publish(offering) => *offering,
                Then::Read | Then::Subscribe(_) | Then::Unsubscribe(..) | Then::Presence(..) | Then::History(_) => {
                    return;
                }
            },
            _ => return,
        };
        let Offering { topic, pending: Some(pending), outcome, .. } = offering else { return };
        let error = if self.shared.is_draining() { PublishError::ShuttingDown } else { PublishError::ConnectionClosed };
        // A publisher whose connection closes with its message takes a mere FIN for a receipt.
        if outcome.is_some() {
            self.tell_error(None, Some(&topic), error.code(), &error.to_string());
        }
        pending.refuse(error);
    }

    /// Leaves the topics and detaches the session, once.
    pub(super) fn detach(&mut self) {
        if std::mem::replace(&mut self.has_left, true) {
            return;
        }
        self.leave_user();
        // The client may have its ACK already, and may count on resuming this topic.
        let asked = match &self.step {
            Step::Joining(asked) => {
                asked.joining.subscription.as_ref().map(|asked_for| (Some(Arc::clone(&asked.topic)), asked_for))
            }
            Step::JoiningPatiently(asked) => {
                Some((self.shared.topics.table.find(asked.name.as_str()), &asked.subscription))
            }
            _ => None,
        };
        if let Some((Some(topic), subscription)) = asked
            && subscription.first_seq().is_some()
        {
            self.joined((topic, Arc::clone(subscription)));
        }
        let expires = self.shared.clock.tick().after(self.shared.clock.ticks(self.shared.config().session_ttl));
        let places = Places::of(&self.shared.config());
        let Detachment { joined, ended } = self.shared.sessions.table.detach(&self.session, expires, places);
        self.note_detached(joined.len());
        for (topic, subscription) in joined {
            leave(&self.shared, &topic, subscription, Some(self.home));
        }
        self.shared.accounts.note_ended(Limit::DetachedSessions, ended, &self.shared);
    }

    /// Drops all input: a closing connection carries out no further command.
    fn forget_input(&mut self) {
        self.decoder = Box::new(Deaf);
        self.rest = None;
        self.note_kept(0);
    }

    pub(super) fn finish_closing(&mut self, cx: &mut task::Context<'_>) -> Poll<()> {
        let Step::Closing(closing) = &mut self.step else { return Poll::Ready(()) };
        if !closing.fin_sent && self.slot.is_settled() {
            // Much may wait for a client that reads slowly, and a heartbeat would come behind the last words.
            self.slot.fall_silent();
            self.slot.send(std::mem::take(&mut closing.last_words));
            if self.slot.is_flushed() {
                self.slot.shut_down();
                closing.fin_sent = true;
                closing.deadline.as_mut().reset(self.shared.close_deadline(LINGER));
            }
        }
        if closing.deadline.as_mut().poll(cx).is_ready() {
            // An answer that is still owed will not come any more.
            self.slot.send(std::mem::take(&mut closing.last_words));
            self.step = Step::Over;
            return Poll::Ready(());
        }
        if !closing.fin_sent {
            return Poll::Pending;
        }
        let discarded = ready!(self.discard(cx));
        let Step::Closing(closing) = &mut self.step else { return Poll::Ready(()) };
        // A client of TLS may send records without any data for as long.
        let work = usize::from(self.slot.take_unseen_work()) * price::BYTES;
        match discarded {
            Some(length) if closing.discarded + length + work <= LINGER_BYTES => closing.discarded += length + work,
            _ => self.step = Step::Over,
        }
        Poll::Ready(())
    }
}

/// The decoder of a connection that closes: further input has no meaning.
struct Deaf;

impl Decoder for Deaf {
    fn decode(&mut self, input: &mut &[u8], _: &Limits) -> Option<Result<Command, FrameError>> {
        *input = &[];
        None
    }

    fn buffered(&self) -> usize {
        0
    }
}
