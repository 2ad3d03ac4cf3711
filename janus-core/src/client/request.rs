//! Requests of the program: what is sent, where the answer goes, and whether the request was sent at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::sync::oneshot;

use super::ClientError;
use super::item::{HistoryPage, Presence, Published};
use crate::wire::v1::client::{self as v1, Payload, Publish};
use crate::wire::{ClientId, HistoryQuery, IdempotencyKey};

/// Whether a call was sent: decided once, by the task that sends or by the call that gives up, so that a message whose call
/// has reported "not sent" is never published.
#[derive(Clone, Default)]
pub(super) struct Fate(Arc<AtomicU8>);

impl Fate {
    const SENT: u8 = 1;
    const GIVEN_UP: u8 = 2;

    /// The call gives up. Returns whether the request was not sent, and never will be.
    pub(super) fn give_up(&self) -> bool {
        self.settle(Self::GIVEN_UP)
    }

    fn settle(&self, fate: u8) -> bool {
        let settled = self.0.compare_exchange(0, fate, Ordering::Relaxed, Ordering::Relaxed);
        settled.is_ok() || settled == Err(fate)
    }
}

/// The way of an answer to a call.
pub(super) struct Reply<T> {
    sender: oneshot::Sender<Result<T, ClientError>>,
    fate: Fate,
}

impl<T> Reply<T> {
    pub(super) fn new() -> (Self, oneshot::Receiver<Result<T, ClientError>>, Fate) {
        let ((sender, answer), fate) = (oneshot::channel(), Fate::default());
        (Self { sender, fate: fate.clone() }, answer, fate)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Says that the socket takes the request now. With `false`, the call has given up.
    pub(super) fn is_sent_now(&self) -> bool {
        self.fate.settle(Fate::SENT)
    }

    /// Returns whether the call still waited.
    pub(super) fn send(self, answer: Result<T, ClientError>) -> bool {
        self.sender.send(answer).is_ok()
    }
}

/// A request that waits for an answer, and before that for a connection.
pub(super) enum Request {
    Publish(Box<Publication>, Reply<Published>),
    Presence(String, Reply<Presence>),
    History(String, HistoryQuery, Reply<HistoryPage>),
}

impl Request {
    /// Whether the program no longer waits for the answer.
    pub(super) fn is_abandoned(&self) -> bool {
        match self {
            Self::Publish(_, reply) => reply.is_closed(),
            Self::Presence(_, reply) => reply.is_closed(),
            Self::History(_, _, reply) => reply.is_closed(),
        }
    }

    /// Whether the request may be sent again, although the first one may have been carried out.
    pub(super) fn is_repeatable(&self) -> bool {
        match self {
            Self::Publish(publication, _) => publication.key.is_some(),
            Self::Presence(..) | Self::History(..) => true,
        }
    }

    /// Says that the socket takes the request now. With `false`, the call has given up, and the request must not be sent.
    pub(super) fn is_sent_now(&self) -> bool {
        match self {
            Self::Publish(_, reply) => reply.is_sent_now(),
            Self::Presence(_, reply) => reply.is_sent_now(),
            Self::History(_, _, reply) => reply.is_sent_now(),
        }
    }

    pub(super) fn fail(self, error: ClientError) {
        // A program that no longer waits does not hear of the failure.
        match self {
            Self::Publish(_, reply) => reply.send(Err(error)),
            Self::Presence(_, reply) => reply.send(Err(error)),
            Self::History(_, _, reply) => reply.send(Err(error)),
        };
    }

    pub(super) fn text(&self, id: u64, this_client: Option<ClientId>) -> String {
        match self {
            Self::Publish(publication, _) => publication.request(id, this_client).frame(),
            Self::Presence(topic, _) => v1::presence(Some(id), topic),
            Self::History(topic, query, _) => v1::history(Some(id), topic, *query),
        }
    }
}

/// A message to be published.
pub(super) struct Publication {
    pub(super) topic: String,
    /// JSON text.
    pub(super) event: String,
    /// JSON text.
    pub(super) message_id: String,
    pub(super) payload: OwnPayload,
    pub(super) key: Option<IdempotencyKey>,
    pub(super) exclude: Exclude,
}

pub(super) enum OwnPayload {
    Json(String),
    Bytes(Vec<u8>),
}

/// Which client does not get a message.
#[derive(Clone, Copy)]
pub(super) enum Exclude {
    None,
    /// The publishing client, whose name is another with each connection.
    Publisher,
    Client(ClientId),
}

impl Publication {
    fn request(&self, id: u64, this_client: Option<ClientId>) -> Publish<'_> {
        Publish {
            id: Some(id),
            topic: &self.topic,
            event: &self.event,
            message_id: &self.message_id,
            payload: match &self.payload {
                OwnPayload::Json(data) => Payload::Json(data),
                OwnPayload::Bytes(bytes) => Payload::Bytes(bytes),
            },
            key: self.key.as_ref(),
            exclude: match self.exclude {
                Exclude::None => None,
                Exclude::Publisher => this_client,
                Exclude::Client(client) => Some(client),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_sent_or_given_up_and_never_both() {
        let (reply, _answer, fate) = Reply::<Published>::new();
        assert!(fate.give_up() && !reply.is_sent_now());
        let (reply, _answer, fate) = Reply::<Published>::new();
        // The second time is a repetition on another connection.
        assert!(reply.is_sent_now() && reply.is_sent_now() && !fate.give_up());
    }
}
