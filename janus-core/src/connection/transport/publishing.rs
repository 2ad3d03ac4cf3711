//! Publishing: a message is allowed, offered to its topic, and waits for room there.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};

use futures_util::FutureExt;
use tokio::sync::oneshot;

use super::pacing::Then;
use super::{Outcome, Step, Transport};
use crate::accounts::fairness::price;
use crate::delivery::Exceeded;
use crate::hooks::{Client, Grant, RESERVED, Refused, granted_publish};
use crate::topic::publish::{Owed, Pending, PublishError, Publisher, Receipt, route};
use crate::topic::{Place, Waiter};
use crate::wire::{ErrorCode, TopicName};

pub(super) struct Permitting {
    pub(super) topic: TopicName,
    pub(super) pending: Pending,
    pub(super) outcome: Option<oneshot::Receiver<Result<Receipt, PublishError>>>,
    pub(super) answer: Pin<Box<dyn Future<Output = Result<(), Refused>>>>,
}

pub(super) struct Offering {
    pub(super) topic: TopicName,
    /// `None` only while the message is being offered.
    pub(super) pending: Option<Pending>,
    /// Where the message waits for room.
    pub(super) place: Option<Place>,
    /// Awaited before the connection closes, where a classic PUBLISH closes it.
    pub(super) outcome: Option<oneshot::Receiver<Result<Receipt, PublishError>>>,
}

/// What holds for further messages to the same topic until the input at hand is decoded.
pub(super) struct Run {
    owed: Arc<Owed>,
    /// Whether the client may publish without a question to a hook.
    is_permitted: bool,
}

impl Transport {
    /// The answers owed for messages to this topic.
    pub(super) fn owed(&mut self, topic: &TopicName) -> Arc<Owed> {
        let run = &mut self.rare.make().run;
        if run.as_ref().is_none_or(|run| run.owed.topic != *topic) {
            *run = Some(Run { owed: Owed::to_client(&self.slot, topic.clone()), is_permitted: false });
        }
        run.as_ref().map(|run| Arc::clone(&run.owed)).expect("just made")
    }

    /// Publishes a message if the client is allowed to, once there is room under the client's rate.
    pub(super) fn publish(
        &mut self,
        topic: TopicName,
        pending: Pending,
        outcome: Option<oneshot::Receiver<Result<Receipt, PublishError>>>,
    ) {
        match self.count_message(&topic) {
            None => self.publish_now(topic, pending, outcome),
            Some(until) => {
                let offering = Offering { topic, pending: Some(pending), place: None, outcome };
                self.slow_down(Exceeded::Publishes, until, Then::Publish(Box::new(offering)));
            }
        }
    }

    pub(super) fn publish_now(
        &mut self,
        topic: TopicName,
        pending: Pending,
        outcome: Option<oneshot::Receiver<Result<Receipt, PublishError>>>,
    ) {
        let run = self.rare.run_mut().filter(|run| run.owed.topic == topic);
        if run.is_some_and(|run| run.is_permitted) {
            return self.offer(topic, pending, outcome);
        }
        let client = self.client();
        let names = |client: &Client| client.identity.publish.names(&topic);
        let permission = match (self.shared.installed_hooks(), &client) {
            (_, client) if self.is_reserved(&topic) && !client.as_ref().is_some_and(names) => {
                Err(Some(Refused::new(ErrorCode::Forbidden, RESERVED)))
            }
            // A grant holds even where nobody may publish, and a client keeps its grants when hooks are no longer needed.
            (Some(hooks), Some(client)) if self.may_publish() || !matches!(client.identity.publish, Grant::Ask) => {
                hooks.authorize_publish(client, &topic, &pending.publication).map_err(Some)
            }
            // The program has said what the client may do.
            (None, Some(client)) => match granted_publish(&client.identity, &topic) {
                Ok(false) if !self.may_publish() => Err(None),
                Ok(_) => Ok(None),
                Err(denied) => Err(Some(denied)),
            },
            // Without hooks, or served before the hooks were needed and so with the rights of that time.
            (_, None) if self.may_publish() && (self.opened || self.shared.hooks().is_none()) => Ok(None),
            _ => Err(None),
        };
        match permission {
            Ok(None) => {
                if let Some(run) = self.rare.run_mut().filter(|run| run.owed.topic == topic) {
                    run.is_permitted = true;
                }
                self.offer(topic, pending, outcome);
            }
            Ok(Some(answer)) => {
                let answer = Box::pin(answer);
                self.step = Step::Permitting(Box::new(Permitting { topic, pending, outcome, answer }));
            }
            Err(Some(denied)) => self.deny(denied, pending, outcome),
            Err(None) => {
                pending.refuse(PublishError::NotAllowed);
                self.await_outcome(outcome);
            }
        }
    }

    /// Whether clients in this place may publish. A client of a listener off loopback is a stranger until the operator
    /// says otherwise, and so is a client passed on from elsewhere by a proxy on this machine.
    fn may_publish(&self) -> bool {
        self.origin.is_local && !self.is_foreign || self.shared.config().allow_publish
    }

    pub(super) fn deny(
        &mut self,
        Refused { code, message, .. }: Refused,
        pending: Pending,
        outcome: Option<oneshot::Receiver<Result<Receipt, PublishError>>>,
    ) {
        pending.refuse(PublishError::Denied { code, reason: message });
        self.await_outcome(outcome);
    }

    /// Offers a message to its topic. If the topic has no room, nothing further is read until there is room.
    pub(super) fn offer(
        &mut self,
        topic: TopicName,
        pending: Pending,
        outcome: Option<oneshot::Receiver<Result<Receipt, PublishError>>>,
    ) {
        self.publishes();
        let made = self.shared.topics.table.made();
        let answers = pending.reply.wants_receipt();
        let by = Publisher { account: self.slot.account(), home: Some(self.home) };
        let routed = route(&self.shared, &mut self.published, &topic, by, pending, None);
        self.add_topics((self.shared.topics.table.made() - made) as usize);
        if self.published.is_none() && answers {
            // No topic sends the receipt in a turn of its own.
            self.portion.add(price::ANSWER);
        }
        if let Err(pending) = routed {
            // Room would wake no task yet: `run` comes to this step next, and offers again with a task to wake.
            self.step = Step::Offering(Box::new(Offering { topic, pending: Some(pending), place: None, outcome }));
            return;
        }
        self.await_outcome(outcome);
    }

    /// Offers a message again that found no room.
    pub(super) fn offer_again(&mut self, cx: &mut task::Context<'_>) -> Poll<()> {
        let Step::Offering(mut offering) = std::mem::replace(&mut self.step, Step::Reading) else {
            return Poll::Ready(());
        };
        let pending = offering.pending.take().expect("an offering ends with its message");
        let by = Publisher { account: self.slot.account(), home: Some(self.home) };
        let waiter = Waiter { waker: cx.waker(), place: &mut offering.place };
        match route(&self.shared, &mut self.published, &offering.topic, by, pending, Some(waiter)) {
            Ok(()) => {
                self.await_outcome(offering.outcome);
                if self.is_submitter() {
                    self.note_awaited(true);
                }
                Poll::Ready(())
            }
            Err(pending) => {
                offering.pending = Some(pending);
                self.step = Step::Offering(offering);
                Poll::Pending
            }
        }
    }

    /// A classic PUBLISH closes its connection once the outcome is known; the topic answers other messages.
    pub(super) fn await_outcome(&mut self, outcome: Option<oneshot::Receiver<Result<Receipt, PublishError>>>) {
        if let Some(outcome) = outcome {
            self.step = Step::waiting(
                outcome.map(|outcome| Outcome::Published(outcome.unwrap_or(Err(PublishError::TopicCrashed)))),
            );
        }
    }
}
