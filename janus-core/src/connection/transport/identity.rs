//! The identity of the client: given by the hooks when the client connects, renewed in band, and ended by time or by the
//! operator.
//!
//! A new identity holds at once. The client leaves the topics that are granted no longer, and gets the rest without a
//! break: the slot delivers while the Transport waits for a hook.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;

use super::users::USER_FULL;
use super::{Outcome, Step, Transport, refusal};
use crate::connection::Connections;
use crate::delivery::End;
use crate::ground::clock::now;
use crate::hooks::{Client, ConnectRequest, Gate, Identity, News, Refused};
use crate::session::Subscriptions;
use crate::wire::{
    Command, Credentials, ErrorCode, FrameError, Open, Opens, Refusal, RequestId, ServerEvent, TopicName,
};

/// For a client whose user or token was revoked.
pub(super) const REVOKED_WORDS: &str = "the right of this user or token was revoked";

/// For a client whose token has expired.
pub(super) const EXPIRED_WORDS: &str = "the token has expired; connect again with a new token";

/// The time from one proof of identity to the next of the same client. To verify a token takes up to 100 µs of the
/// hooks' runtime, and an honest client renews its identity once in minutes. A client that sends more is not read in
/// the meantime.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(1);

/// What is left to do for the identity of a client; most clients have nothing.
#[derive(Default)]
pub(super) struct Due {
    /// Topics to which the server will subscribe the client.
    pub(super) waiting: VecDeque<TopicName>,
    /// Topics to which the server has subscribed the client, until the client asks for them itself.
    pub(super) assigned: Vec<TopicName>,
    /// Why the client is not served, unless its first frame proves its identity.
    lacking: Option<Refused>,
}

/// A new proof of identity.
#[derive(Clone, Copy)]
pub(super) enum Renewal {
    /// Of a client that was served as an unknown user, and has asked for nothing yet. A refusal closes the connection.
    First,
    /// Of a client that continues. A refusal changes nothing.
    Refresh(RequestId),
}

/// Refuses an identity that has ended or was revoked.
pub(crate) fn check(shared: &Connections, identity: &Identity) -> Result<(), Refused> {
    if identity.time_left(now()).is_some_and(|left| left.is_zero()) {
        return Err(Refused::new(ErrorCode::TokenExpired, EXPIRED_WORDS));
    }
    if shared.revocations.cover(identity, now()) {
        return Err(Refused::new(ErrorCode::Unauthorized, REVOKED_WORDS));
    }
    Ok(())
}

impl Transport {
    /// Asks the hooks for the identity of a client that wants to be served.
    pub(super) fn ask_for_identity(&mut self, mut open: Open, mut request: ConnectRequest) {
        if let Some(identity) = self.rare.take_known(open.auth.is_some()) {
            return self.authenticated(open, Ok(identity));
        }
        if let Some(gate) = self.gate() {
            (request.auth, request.request) = (open.auth.take(), open.request.take());
            let identity = gate.identify(request);
            return self.authenticated(open, identity);
        }
        let Some(hooks) = self.shared.hooks() else { return self.serve(open) };
        (request.auth, request.request) = (open.auth.take(), open.request.take());
        request.tls = if self.may_prove_identity_later() { self.rare.tls() } else { self.rare.take_tls() };
        let asked =
            request.request.as_ref().map_or(0, |head| head.memory()) + request.auth.as_ref().map_or(0, String::len);
        let answer = hooks.authenticate(request);
        let answer = answer.map(|identity| Outcome::Authenticated(Box::new(open), identity));
        self.step = Step::waiting_with(answer, asked);
    }

    pub(super) fn authenticated(&mut self, open: Open, identity: Result<Arc<Identity>, Refused>) {
        let identity = match self.checked(identity) {
            Ok(identity) => identity,
            // A second frame without a proof is an answer, and no reason to wait for a third.
            Err(refused) if refused.lacks_credentials && self.may_prove_identity_later() && !self.lacks_proof() => {
                self.rare.make().due.get_or_insert_default().lacking = Some(refused);
                // The first frame has its time from now on.
                return self.slot.set_unfinished(self.is_awaited(), true, self.shared.clock.tick());
            }
            Err(refused) => return self.refuse_client(open.id, refused),
        };
        if self.count_for_user(&identity.user, open.session.as_deref()).is_err() {
            return self.say_bye(open.id, ErrorCode::TooManyConnections, USER_FULL);
        }
        self.rare.forget_due();
        self.adopt(&identity);
        self.serve(open);
        self.end_if_revoked(&identity);
        self.tell_of_connection();
    }

    /// The gate of the client's protocol.
    fn gate(&self) -> Option<&Gate> {
        self.shared.gates.get().and_then(|gates| gates.of(self.codec_name()))
    }

    /// Whether the connection opens before the client can have sent anything, and the client may send its proof of
    /// identity with the first frame.
    fn may_prove_identity_later(&self) -> bool {
        let (codecs, codec) = (self.shared.codecs(), self.slot.codec());
        codecs.opens(codec) == Opens::AtOnce && codecs.refreshes(codec)
    }

    /// Whether the client is not served before a proof of its identity.
    pub(super) fn lacks_proof(&self) -> bool {
        self.rare.due().is_some_and(|due| due.lacking.is_some())
    }

    /// Refuses a client that has not proved its identity with its first frame, or has sent none in time; false for any
    /// other client.
    pub(super) fn refuse_without_proof(&mut self) -> bool {
        let Some(refused) = self.rare.due_mut().and_then(|due| due.lacking.take()) else { return false };
        self.refuse_client(None, refused);
        true
    }

    fn refuse_client(&mut self, id: RequestId, Refused { code, message, retry_after, .. }: Refused) {
        log_client!(self, log::Level::Debug, [code:%], "{code}: {message}");
        let usual = refusal(code, &message);
        let reconnect_after = retry_after.or(usual.reconnect_after);
        self.say_goodbye(Refusal { id, reconnect_after, ..usual });
    }

    /// Refuses an identity that has ended or was revoked, whatever the hook says.
    fn checked(&self, identity: Result<Arc<Identity>, Refused>) -> Result<Arc<Identity>, Refused> {
        identity.and_then(|identity| check(&self.shared, &identity).map(|()| identity))
    }

    /// Gives the client this identity, with its end.
    fn adopt(&self, identity: &Arc<Identity>) {
        self.session.identify(identity);
        let refreshes = self.shared.codecs().refreshes(self.slot.codec());
        let grace = if refreshes { self.shared.config().token_grace } else { Duration::ZERO };
        let ends = identity.time_left(now()).and_then(|left| self.shared.clock.moment_after(left + grace));
        self.slot.expires.set(ends);
    }

    /// The client, if hooks or a gate have identified the client.
    pub(super) fn client(&self) -> Option<Client> {
        self.shared.client(&self.slot, &self.session)
    }

    fn tell_of_connection(&self) {
        if let Some(client) = self.client() {
            self.tell_observers(News::Connected(Arc::new(client)));
        }
    }

    /// A revocation may have come between the check and the moment at which the connection could be found.
    fn end_if_revoked(&self, identity: &Identity) {
        if self.shared.revocations.cover(identity, now()) {
            self.slot.end(End::Revoked);
        }
    }

    /// The time until the end of the client's identity.
    pub(super) fn expires(&self) -> Option<Duration> {
        self.session.identity()?.time_left(now())
    }

    /// Whether the client's identity has ended. A refresh may have come after the decision to end the connection.
    pub(super) fn has_expired(&self) -> bool {
        self.slot.expires.is_over(self.shared.clock.moment())
    }

    /// A proof of identity from a client that could send none when its connection was opened.
    pub(super) fn authenticate(&mut self, auth: Credentials, fresh: bool) {
        if !self.opened {
            return self.open(Open { auth: Some(auth.0), ..Open::default() });
        }
        let Some(identity) = self.session.identity() else {
            // Without hooks every proof is as good as none, as in a `hello`.
            return self.slot.tell(&ServerEvent::Refreshed { id: None, expires: None });
        };
        // A gate knows its clients: who is anonymous with it may become a user at any time.
        let renewal = if (fresh || self.gate().is_some()) && identity.is_anonymous() {
            Renewal::First
        } else {
            Renewal::Refresh(None)
        };
        self.renew(auth, renewal);
    }

    /// Asks the hooks about a new proof of identity, no sooner than `RENEWAL_INTERVAL` after the last.
    pub(super) fn renew(&mut self, Credentials(auth): Credentials, renewal: Renewal) {
        if let Some(gate) = self.gate() {
            let mut request = ConnectRequest::new(self.slot.id, self.codec_name(), self.session.peer());
            request.auth = Some(auth);
            let identity = gate.identify(request);
            return self.renewed(renewal, identity);
        }
        let (Some(hooks), Some(client)) = (self.shared.hooks(), self.client()) else {
            return match renewal {
                // The program has said that the client is anonymous, and nobody else decides.
                Renewal::First => self.slot.tell(&ServerEvent::Refreshed { id: None, expires: self.expires() }),
                Renewal::Refresh(id) => self.refuse_refresh(id, ErrorCode::Forbidden, "this server takes no refresh"),
            };
        };
        let asked = auth.len();
        let wait = self.next_renewal.rest(self.shared.clock.moment());
        self.next_renewal.set(self.shared.clock.moment_after(wait + RENEWAL_INTERVAL));
        let answer = match renewal {
            Renewal::First => {
                let mut request = ConnectRequest::new(self.slot.id, self.codec_name(), self.session.peer());
                (request.auth, request.tls) = (Some(auth), self.rare.tls());
                hooks.authenticate(request).left_future()
            }
            Renewal::Refresh(_) => hooks.refresh(&client, auth).right_future(),
        };
        let answer = async move {
            tokio::time::sleep(wait).await;
            Outcome::Renewed(renewal, answer.await)
        };
        self.step = Step::waiting_with(answer, asked);
    }

    fn refuse_refresh(&self, id: RequestId, code: ErrorCode, message: &str) {
        log_client!(self, log::Level::Debug, [code:%], "refresh refused: {code}: {message}");
        self.tell_error(id, None, code, message);
    }

    pub(super) fn renewed(&mut self, renewal: Renewal, identity: Result<Arc<Identity>, Refused>) {
        let Some(earlier) = self.session.identity() else { return };
        let may_change = matches!(renewal, Renewal::First);
        let identity = self.checked(identity).and_then(|identity| match identity.user == earlier.user || may_change {
            true => Ok(identity),
            false => Err(Refused::new(ErrorCode::Forbidden, "the token is of another user: connect again")),
        });
        let (id, identity) = match (renewal, identity) {
            (Renewal::Refresh(id), Ok(identity)) => (id, identity),
            (Renewal::First, Ok(identity)) => (None, identity),
            (Renewal::First, Err(refused)) => return self.refuse_client(None, refused),
            (Renewal::Refresh(id), Err(Refused { code, message, .. })) => {
                // The codes for a refused connection would close this connection.
                let code = if code.closes() { ErrorCode::Forbidden } else { code };
                return self.refuse_refresh(id, code, &message);
            }
        };
        if may_change && self.count_for_user(&identity.user, None).is_err() {
            return self.say_bye(None, ErrorCode::TooManyConnections, USER_FULL);
        }
        self.adopt(&identity);
        self.end_if_revoked(&identity);
        self.slot.tell(&ServerEvent::Refreshed { id, expires: identity.time_left(now()) });
        // A client that proves nothing over and over is no news.
        if may_change && identity.user != earlier.user {
            self.tell_of_connection();
        }
        self.keep_assigned_of(&identity);
        self.assign(identity.topics.iter().filter(|topic| !earlier.topics.contains(topic)).cloned());
        self.review_topics();
        // Not in topics that the new identity may not see.
        self.note_all_present();
    }

    /// Ends the subscriptions that are granted no longer. Where the hook decides, each topic is asked about anew.
    fn review_topics(&mut self) {
        let names = |joined: &mut Subscriptions| joined.iter().map(|(topic, _)| topic.name.clone()).collect();
        let names: Vec<TopicName> = self.session.with_subscriptions(names).unwrap_or_default();
        let mut asked = Vec::new();
        for name in names {
            match self.permission_to_subscribe(&name) {
                Ok(None) => {}
                Ok(Some(answer)) => asked.push(answer.map(|answer| answer.err().map(|refused| (name, refused)))),
                Err(_) => self.withdraw(&name),
            }
        }
        if !asked.is_empty() {
            let answers = join_all(asked).map(|answers| Outcome::Reviewed(answers.into_iter().flatten().collect()));
            self.step = Step::waiting(answers);
        }
    }

    /// Ends the subscriptions that a hook has forbidden. A hook that did not answer has taken nothing away.
    pub(super) fn reviewed(&mut self, refused: Vec<(TopicName, Refused)>) {
        for (name, refused) in refused {
            if refused.code == ErrorCode::Forbidden {
                self.withdraw(&name);
            }
        }
    }

    /// Ends a subscription that is granted no longer, and tells the client.
    fn withdraw(&mut self, name: &TopicName) {
        self.unsubscribe(name);
        self.session.forget_earlier(name, self.shared.config().max_topics_per_client);
        let message = format!("the topic {name} is granted no longer, and its delivery has ended");
        let code = ErrorCode::Forbidden;
        self.slot.tell(&ServerEvent::Error { id: None, topic: Some(name), code, message: &message });
    }

    /// Refuses a command on a connection that is not open.
    pub(super) fn refuse_unopened(&mut self) {
        if !self.refuse_without_proof() {
            self.answer_error(FrameError::new(ErrorCode::BadOpen, "open the connection first"));
        }
    }

    /// Whether a command leaves the client as fresh as before: able to take over a session, and to prove its identity.
    pub(super) fn leaves_fresh(command: &Command) -> bool {
        matches!(command, Command::Ping | Command::Pong | Command::Authenticate { .. })
    }
}
