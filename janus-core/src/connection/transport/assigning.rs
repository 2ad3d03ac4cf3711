//! Topics to which the server subscribes a client without a request: the topics of the client's identity.
//!
//! The client goes first: its requests that have arrived are carried out before the next topic is assigned, so that a
//! client that resumes a topic is not subscribed to it twice. A later request of the client takes the place of the
//! server's subscription. On an event stream the topics join those of the request, and resume with them.

use std::task::{self, Poll};

use super::subscribing::Asking;
use super::{Lengthy, Step, Transport};
use crate::accounts::fairness::{Want, price};
use crate::hooks::Identity;
use crate::wire::{ErrorCode, TopicName};

impl Transport {
    /// Subscribes the client to these topics, one after the other, as soon as nothing else is to be done.
    pub(super) fn assign(&mut self, topics: impl IntoIterator<Item = TopicName>) {
        let most = self.shared.config().max_topic_bytes;
        let (topics, too_long): (Vec<_>, Vec<_>) = topics.into_iter().partition(|topic| topic.as_str().len() <= most);
        for topic in too_long {
            let message = "a topic of the identity is longer than max_topic_bytes, and is not subscribed";
            self.tell_error(None, Some(&topic), ErrorCode::BadTopic, message);
        }
        if !topics.is_empty() {
            self.rare.make().due.get_or_insert_default().waiting.extend(topics);
        }
    }

    /// Forgets the topics that the client's new identity has no longer. Without this, a client with two tokens could
    /// make the lists grow without end, and be subscribed to a topic of an earlier token.
    pub(super) fn keep_assigned_of(&mut self, identity: &Identity) {
        if let Some(due) = self.rare.due_mut() {
            due.waiting.retain(|topic| identity.topics.contains(topic));
            due.assigned.retain(|topic| identity.topics.contains(topic));
        }
    }

    /// Reads. While there is nothing to read, subscribes the client to the topics of its identity.
    pub(super) fn read_or_assign(&mut self, cx: &mut task::Context<'_>) -> Poll<()> {
        if self.has_asked_all() {
            self.all_asked();
            return Poll::Ready(());
        }
        match self.read(cx) {
            Poll::Pending if self.may_assign() => {
                if self.portion.is_used_up() {
                    return self.wait_for_portion(Want::More, cx);
                }
                self.assign_next();
                Poll::Ready(())
            }
            read => read,
        }
    }

    /// Whether a topic is to be assigned, and the client has nothing else to be done.
    fn may_assign(&self) -> bool {
        self.rare.due().is_some_and(|due| !due.waiting.is_empty())
            && self.opened
            && matches!(self.step, Step::Reading)
            && self.rare.preface().is_none()
            && !self.undecoded
            && !self.portion.is_waiting()
            && !self.slot.is_paused()
    }

    /// Subscribes the client to the next topic that it does not have yet.
    fn assign_next(&mut self) {
        let Some(asking) = self.next_assignment() else { return };
        if !self.has_place && !self.take_place() {
            return;
        }
        if !self.slot.has_asked() {
            self.slot.note_asked();
        }
        self.portion.add(price::LENGTHY);
        self.in_turn(Lengthy::Subscribe(Box::new(asking)));
    }

    /// The next topic to be assigned that the client does not have yet.
    pub(super) fn next_assignment(&mut self) -> Option<Asking> {
        loop {
            let name = self.rare.due_mut()?.waiting.pop_front()?;
            let has = self.session.with_subscriptions(|joined| joined.iter().any(|(topic, _)| topic.name == name));
            if has != Some(true) && !self.is_resuming(&name) {
                let assigned = &mut self.rare.due_mut()?.assigned;
                // A topic that could not be joined may be in the list.
                if !assigned.contains(&name) {
                    assigned.push(name.clone());
                }
                let is_assigned = true;
                return Some(Asking {
                    name,
                    since: None,
                    horizon: None,
                    id: None,
                    is_assigned,
                    presence: false,
                    member: None,
                });
            }
        }
    }

    /// Ends the server's own subscription to a topic for which the client asks by itself; false if there is none.
    pub(super) fn yield_assigned(&mut self, name: &TopicName) -> bool {
        let Some(due) = self.rare.due_mut() else { return false };
        let Some(index) = due.assigned.iter().position(|assigned| assigned == name) else { return false };
        due.assigned.swap_remove(index);
        self.unsubscribe(name);
        true
    }

    /// Ends all subscriptions of the server's own, for a client that takes over a session. The topics that are not of
    /// the session are assigned again.
    pub(super) fn yield_all_assigned(&mut self) {
        let Some(due) = self.rare.due_mut() else { return };
        let assigned = std::mem::take(&mut due.assigned);
        due.waiting.extend(assigned.iter().cloned());
        assigned.iter().for_each(|name| self.unsubscribe(name));
    }
}
