//! History: a client reads messages from before, without a subscription.
//!
//! There is no separate right: a client that may subscribe to a topic may read the history, if the namespace keeps one and lets
//! every client with a position resume. Where only sessions may, or no client, a reader would get what was meant for clients that
//! were present.

use std::sync::Arc;

use futures_util::FutureExt;

use super::{Outcome, Step, Transport};
use crate::accounts::fairness::price;
use crate::config::Resume;
use crate::topic::history::{History, HistoryError};
use crate::wire::{ErrorCode, FrameError, HistoryQuery, RequestId, ServerEvent, TopicName, json_string};

/// A client's request for a part of a history.
pub(super) struct Reading {
    pub(super) topic: TopicName,
    pub(super) query: HistoryQuery,
    pub(super) id: RequestId,
}

/// Messages of an answer for the price of a unit of work.
const MESSAGES: usize = 4;

impl Transport {
    /// Answers if the client is subscribed to the topic or may subscribe.
    pub(super) fn ask_for_history(&mut self, reading: Box<Reading>) {
        if self.session.has_topic(reading.topic.as_str()) {
            return self.read_history(reading);
        }
        match self.permission_to_subscribe(&reading.topic) {
            Ok(None) => self.read_history(reading),
            Ok(Some(answer)) => self.step = Step::waiting(answer.map(|answer| Outcome::MayRead(reading, answer))),
            Err(denied) => self.conclude(Outcome::MayRead(reading, Err(denied))),
        }
    }

    pub(super) fn read_history(&mut self, mut reading: Box<Reading>) {
        let config = self.shared.config();
        if config.namespace(reading.topic.as_str()).resume != Resume::Position {
            return self.answer_error(no_history(&reading, "this topic lets no client read messages from before"));
        }
        reading.query = reading.query.within(config.max_history_reply_messages, config.max_history_reply_bytes);
        drop(config);
        let by = self.slot.account().cloned();
        match self.shared.topics.history_at_hand(&reading.topic, reading.query, by.as_ref()) {
            Ok(Some(history)) => self.tell_history(&reading, Ok(history)),
            Ok(None) => {
                let shared = Arc::clone(&self.shared);
                self.step = Step::waiting(async move {
                    let topics = &shared.topics;
                    let history = topics.history_of_cluster(&reading.topic, reading.query, by.as_ref()).await;
                    Outcome::HasRead(reading, history)
                });
            }
            Err(error) => self.tell_history(&reading, Err(error)),
        }
    }

    pub(super) fn tell_history(&mut self, reading: &Reading, history: Result<History, HistoryError>) {
        let History { position, complete, more, top, messages } = match history {
            Ok(history) => history,
            Err(error @ HistoryError::NotKept) => return self.answer_error(no_history(reading, &error.to_string())),
            Err(error) => {
                let refused = FrameError::new(error.code(), error.to_string());
                return self.answer_error(refused.with_id(reading.id).with_topic(&reading.topic));
            }
        };
        let bytes = messages.iter().map(|message| message.text_bytes()).sum::<usize>();
        let work = messages.len() / MESSAGES + bytes / price::BYTES;
        self.portion.add(u16::try_from(work).unwrap_or(u16::MAX));
        let topic_json = json_string(reading.topic.as_str());
        let messages: Vec<_> = messages.iter().map(|message| message.numbered(&topic_json)).collect();
        let (id, topic) = (reading.id, &reading.topic);
        self.slot.tell(&ServerEvent::History { id, topic, position, top, complete, more, messages: &messages });
    }
}

fn no_history(reading: &Reading, message: &str) -> FrameError {
    FrameError::new(ErrorCode::NoHistory, message).with_id(reading.id).with_topic(&reading.topic)
}
