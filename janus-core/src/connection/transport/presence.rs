//! Presence: the client is a member of its topics, and may watch the other members, or ask for them.
//!
//! There is no separate right: a client that may subscribe to a topic may know the members, as far as the namespace tells.

use std::sync::Arc;

use futures_util::FutureExt;

use super::{Outcome, Step, Transport};
use crate::session::Subscriptions;
use crate::topic::presence::Look;
use crate::topic::{PresenceError, PresenceInfo, TopicState};
use crate::wire::{ErrorCode, FrameError, Member, RequestId, ServerEvent, TopicName};

/// The client's question for the members of a topic.
pub(super) struct Question {
    pub(super) topic: TopicName,
    pub(super) id: RequestId,
}

/// Members written for the price of a unit of work.
const MEMBERS: usize = 16;

impl Transport {
    /// Notes the client as a member of a joined topic: under the name given for this topic, or else as the user of the
    /// identity.
    pub(super) fn note_present(&self, topic: &Arc<TopicState>, member: Option<&Member>) {
        let Some(presence) = &topic.presence else { return };
        match member {
            Some(member) => presence.join_as(topic, &self.slot, member, &self.shared),
            None => presence.join(topic, &self.slot, self.session.identity().as_deref(), &self.shared),
        }
    }

    /// Notes the client, with its present identity, as a member of all its topics.
    pub(super) fn note_all_present(&self) {
        let with_presence = |joined: &mut Subscriptions| -> Vec<Arc<TopicState>> {
            let topics = joined.iter().map(|(topic, _)| topic);
            topics.filter(|topic| topic.presence.is_some()).cloned().collect()
        };
        let topics = self.session.with_subscriptions(with_presence).unwrap_or_default();
        topics.iter().for_each(|topic| self.note_present(topic, None));
        // Another connection may have taken over the session in the meantime, and left the topics in this connection's place.
        for topic in topics.iter().filter(|topic| !self.session.has_topic(topic.name.as_str())) {
            if let Some(presence) = &topic.presence {
                presence.leave(topic, &self.slot, &self.shared);
            }
        }
    }

    /// Has the client told the members after the answers so far, and from then on each change.
    pub(super) fn watch(&mut self, topic: &Arc<TopicState>) {
        match &topic.presence {
            // Another connection may have taken over the session in the meantime.
            Some(presence) if self.session.has_topic(topic.name.as_str()) => {
                let listed = presence.watch(topic, &self.slot, &self.shared);
                self.charge_members(listed);
            }
            Some(_) => {}
            // Of before a reload of the settings.
            None => self.slot.tell(&ServerEvent::Error {
                id: None,
                topic: None,
                code: ErrorCode::NoPresence,
                message: &no_presence(None, &topic.name).message,
            }),
        }
    }

    /// The work of writing a list counts as that of the client that asks for the list.
    fn charge_members(&mut self, listed: usize) {
        self.portion.add(u16::try_from(listed / MEMBERS).unwrap_or(u16::MAX));
    }

    /// Answers the question if the client is subscribed to the topic or may subscribe.
    pub(super) fn ask_for_presence(&mut self, question: Question) {
        if self.session.has_topic(question.topic.as_str()) {
            return self.answer_presence(question);
        }
        match self.permission_to_subscribe(&question.topic) {
            Ok(None) => self.answer_presence(question),
            Ok(Some(answer)) => {
                self.step = Step::waiting(answer.map(|answer| Outcome::Shown(question, answer)));
            }
            Err(denied) => self.conclude(Outcome::Shown(question, Err(denied))),
        }
    }

    pub(super) fn answer_presence(&mut self, question: Question) {
        match self.shared.topics.look_at_presence(&question.topic) {
            Ok(Look::Known(info)) => self.tell_presence(&question, Ok(info)),
            Ok(Look::Ask(mode, topic)) => {
                let shared = Arc::clone(&self.shared);
                self.step = Step::waiting(async move {
                    let asked = shared.topics.ask_for_presence(&question.topic, mode, topic).await;
                    Outcome::Present(question, asked)
                });
            }
            Err(error) => self.tell_presence(&question, Err(error)),
        }
    }

    pub(super) fn tell_presence(
        &mut self,
        Question { topic, id }: &Question,
        info: Result<PresenceInfo, PresenceError>,
    ) {
        match info {
            Ok(PresenceInfo { count, members }) => {
                self.charge_members(members.as_ref().map_or(0, Vec::len));
                self.slot.tell(&ServerEvent::Presence { id: *id, topic, count, members: members.as_deref() });
            }
            Err(PresenceError::EngineUnavailable) => {
                let message = PresenceError::EngineUnavailable.to_string();
                let error = FrameError::new(ErrorCode::EngineUnavailable, message);
                self.answer_error(error.with_id(*id).with_topic(topic));
            }
            Err(PresenceError::Off | PresenceError::Invalid(_)) => self.answer_error(no_presence(*id, topic)),
        }
    }
}

/// For a topic without presence.
pub(super) fn no_presence(id: RequestId, topic: &TopicName) -> FrameError {
    FrameError::new(ErrorCode::NoPresence, PresenceError::Off.to_string()).with_id(id).with_topic(topic)
}
