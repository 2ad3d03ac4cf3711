//! How a connection becomes a served client, continues in another codec, or leaves for another owner.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::whence::Arrival;
use super::{Step, Transport};
use crate::config::Resume;
use crate::connection::listener::{PassOn, PassedOn, PassedRequest};
use crate::connection::returning::{Way, WayBack};
use crate::delivery::{End, Link};
use crate::hooks::{ConnectRequest, News};
use crate::session::{Claimed, SessionToken, Unclaimed};
use crate::topic::leave;
use crate::wire::{ErrorClass, ErrorCode, FrameError, Open, Opens, Refusal, ServerEvent, TopicName};

pub(super) struct PassingOn {
    pub(super) take: PassOn,
    pub(super) received: Vec<u8>,
}

impl Transport {
    /// Authenticates the client if there are hooks, then serves it.
    pub(crate) fn open(&mut self, open: Open) {
        let request = ConnectRequest::new(self.slot.id, self.codec_name(), self.session.peer());
        self.ask_for_identity(open, request);
    }

    pub(super) fn codec_name(&self) -> &'static str {
        self.shared.codecs().name(self.slot.codec())
    }

    /// Also when hooks are no longer needed: an observer that has heard of a client hears of the client's end.
    pub(super) fn tell_observers(&self, news: News) {
        if let Some(hooks) = self.shared.installed_hooks() {
            hooks.tell(news);
        }
    }

    /// Lists the session and greets the client. The session continues an earlier session if the client asks for that.
    pub(super) fn serve(&mut self, open: Open) {
        let shared = Arc::clone(&self.shared);
        shared.sessions.table.enter(Arc::clone(&self.session));
        let mut resumed = false;
        let mut known = Vec::new();
        if let Some(token) = open.session.as_deref().and_then(SessionToken::from_hex) {
            let own = self.session.token;
            resumed = self.claim(&token).is_ok();
            if resumed {
                // The client names its positions itself, topic by topic, and knows no other.
                self.session = shared.sessions.table.rename(&self.session, own);
                self.session
                    .with_cursors(|cursors| known.extend(cursors.iter().map(|cursor| cursor.anchor.name.clone())));
                let keeps = |topic: &TopicName| shared.config().namespace(topic.as_str()).resume == Resume::Session;
                self.session.complete_claim_without_topics(keeps);
            }
        }
        shared.table.set_session(&self.slot, &self.session);
        self.opened = true;
        self.expect_answers();
        self.note_opened();
        let (session, client) = (self.session.token.to_hex(), self.slot.client_id());
        self.decoder.opened(&session, client);
        self.slot.tell(&ServerEvent::Opened {
            id: open.id,
            client,
            session: &session,
            resumed,
            limits: &shared.wire_limits(),
            heartbeat: shared.config().heartbeat_interval,
            expires: self.expires(),
        });
        if !self.is_held() {
            // Not earlier: a heartbeat from another home must not come before the answer.
            self.expect_silence();
        }
        if let Some(identity) = self.session.identity() {
            // A client that resumes asks for the topics of its session by itself, with its positions.
            self.assign(identity.topics.iter().filter(|topic| !known.contains(topic)).cloned());
        }
    }

    /// Starts the heartbeat before the first message, where the codec wants a heartbeat from the start.
    pub(super) fn expect_silence(&self) {
        if self.shared.codecs().beats_from_the_start(self.slot.codec()) {
            self.slot.expect_silence(self.shared.clock.tick());
        }
    }

    /// Takes over the session of `token`, if this connection may, and ends the session's earlier connection.
    pub(super) fn claim(&mut self, token: &SessionToken) -> Result<(), Unclaimed> {
        let Claimed { session, older } = self.shared.sessions.table.claim(token, &self.session, &self.slot)?;
        self.session = session;
        self.shared.table.set_session(&self.slot, &self.session);
        self.note_taken_over(older.as_ref().map(|(slot, _)| slot.id));
        if let Some((slot, joined)) = older {
            slot.end(End::SessionTaken);
            self.stop_counting(slot.id);
            for (topic, subscription) in joined {
                leave(&self.shared, &topic, subscription, Some(self.home));
            }
        }
        Ok(())
    }

    pub(super) fn become_successor(&mut self, bytes: Bytes) {
        let successor = self.decoder.successor();
        let Some((codec, decoder)) = successor
            .and_then(|(place, decoder)| Some((self.shared.codecs().successor(self.slot.codec(), place)?, decoder)))
        else {
            log::error!("{}: a decoder has named no successor", self.origin.codec.name());
            return self.answer_error(FrameError::new(ErrorCode::Internal, "a fault of the server; its log says more"));
        };
        self.slot.send(bytes);
        self.speak(codec);
        self.decoder = decoder;
        if self.shared.codecs().opens(codec) == Opens::AtOnce && !self.opened {
            self.open(Open::default());
        }
    }

    /// Begins to pass the stream on to the handler of foreign requests, with the input read so far.
    pub(super) fn pass_on(&mut self) {
        let Some(take) = self.origin.pass_on.clone() else {
            return self.answer_error(FrameError::new(ErrorCode::BadOpen, "no such endpoint"));
        };
        let received = self.decoder.take_received();
        self.step = Step::PassingOn(Box::new(PassingOn { take, received }));
    }

    /// Completes [`pass_on`](Self::pass_on), when the rest of the input read is at hand.
    pub(super) fn finish_passing_on(&mut self) {
        let Step::PassingOn(passing) = std::mem::replace(&mut self.step, Step::Over) else { return };
        let PassingOn { take, mut received } = *passing;
        let bytes = received.len();
        if let Some(rest) = self.rest.take() {
            received.extend_from_slice(&rest);
        }
        let peer = self.session.peer();
        self.count_accepted();
        let request = self.decoder.request().cloned().map(|head| PassedRequest { head, bytes });
        let stream = match self.slot.take_link().map(Link::leave_reactor) {
            Some(Ok(stream)) => stream,
            Some(Err(error)) => return log::debug!(peer:%; "{peer}: not passed on: {error}"),
            // The connection has been cut off.
            None => return,
        };
        self.step = Step::PassedOn;
        let is_local = self.origin.is_local && !self.is_foreign;
        let Arrival { peer: arrived, is_foreign, .. } = self.take_arrival();
        let kept = self.kept_from(arrived);
        let admission = std::mem::take(&mut self.admission);
        let back = WayBack::new(
            Arc::clone(&self.shared),
            &self.origin,
            Way {
                peer: arrived,
                is_foreign,
                // The admission of another client ends with its request.
                admission: (admission, arrived == peer),
                tls: self.rare.take_tls(),
                kept,
            },
        );
        take(PassedOn { stream, received: received.into(), peer, is_local, request, back });
    }
}

/// When a client that was told to try again may come back: the first and the last moment, in milliseconds. Clients that
/// are told together must not come together.
const TRY_AGAIN: Range<u64> = 100..2_000;

/// When a client may come to another node, in milliseconds.
const SOON: Range<u64> = 0..500;

/// When a client may come back after it was told to slow down, in milliseconds.
const SLOW_DOWN: Range<u64> = 5_000..15_000;

/// Why a client is not served, and when it may come back.
pub(crate) fn refusal(code: ErrorCode, message: &str) -> Refusal<'_> {
    let window = match code.class() {
        // Such a client is refused with many other clients, and they must not all come back at once.
        _ if code == ErrorCode::TooManyConnections => Some(SLOW_DOWN),
        ErrorClass::TryAgain => Some(TRY_AGAIN),
        ErrorClass::SlowDown => Some(SLOW_DOWN),
        ErrorClass::DoNot => None,
    };
    Refusal { id: None, code, message, reconnect_after: window.map(any_moment), status: None }
}

/// How long a client that a drain sends away should stay away, while `rest_of_drain` is left: until the port can be
/// open again. A browser's `EventSource` that finds the port closed behind a proxy never tries again.
///
/// `rest_of_drain` counts to the end of `drain_period`, when nearly every drain is over. Counting up to
/// `drain_timeout`, for drains that wait for slow clients, would keep every client away for 5 s more each time. A
/// longer drain eats into `restart_time`, of which most restarts need a second.
pub(super) fn after_a_restart(rest_of_drain: Duration, restart_time: Duration) -> Duration {
    rest_of_drain + restart_time + any_moment(TRY_AGAIN)
}

/// How long a client should stay away that another node takes. A drain that sends its clients away over a time has spread
/// them already.
pub(super) fn soon(drain_period: Duration) -> Duration {
    any_moment(if drain_period.is_zero() { TRY_AGAIN } else { SOON })
}

/// How long a client should stay away to slow down.
pub(super) fn slowly() -> Duration {
    any_moment(SLOW_DOWN)
}

fn any_moment(window: Range<u64>) -> Duration {
    // Without randomness from the system, any moment will do.
    let random = getrandom::u64().unwrap_or_default();
    #[cfg(all(test, feature = "fault-injection"))]
    let random = crate::ground::simulated::seed().unwrap_or(random);
    Duration::from_millis(window.start + random % (window.end - window.start))
}
