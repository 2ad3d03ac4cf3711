//! Events of the server as messages of Pusher.

use std::collections::BTreeMap;
use std::sync::Arc;

use janus_core::ClientId;
use janus_core::wire::websocket::{Close, MessageProtocol, MessageWriter};
use janus_core::wire::{HttpRequest, Member, NumberedMessage, Opens, Refusal, ServerEvent, Timestamp, TopicName};
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::app::App;
use crate::channel::{Channel, of_topic};
use crate::decoder::{CLIENT_EVENT, PusherDecoder, SUBSCRIBE};
use crate::frames::Out;
use crate::numbers::{self, number};
use crate::{data, frames};

/// The name of the protocol in logs, lists of connections and hooks.
pub(crate) const NAME: &str = "pusher";

/// The event of a message whose publisher has named none: no client of Pusher can bind to an empty name.
const NAMELESS: &str = "\"message\"";

/// What the names of events begin with that the server alone sends.
const OF_THE_SERVER: [&str; 2] = ["pusher:", "pusher_internal:"];

/// Whether no publisher may send an event of this name: clients would take the event for the server's own, and show members
/// that are not there, or errors.
pub(crate) fn is_of_the_server(event: &str) -> bool {
    OF_THE_SERVER.iter().any(|beginning| event.starts_with(beginning))
}

/// The WebSocket protocol of Pusher Channels, version 7.
#[derive(Debug)]
pub(crate) struct Protocol {
    app: Arc<App>,
}

impl Protocol {
    pub(crate) const fn new(app: Arc<App>) -> Self {
        Self { app }
    }

    fn established(&self, client: ClientId, out: &mut MessageWriter<'_>) {
        let socket = self.app.sockets.name(client);
        let data = json!({ "socket_id": socket, "activity_timeout": self.app.activity_timeout.as_secs() });
        frames::message(out, "pusher:connection_established", None, &data.to_string());
    }
}

impl MessageProtocol for Protocol {
    type Decoder = PusherDecoder;

    fn name(&self) -> &'static str {
        NAME
    }

    fn decoder(&self, request: Option<&HttpRequest>) -> PusherDecoder {
        PusherDecoder::new(Arc::clone(&self.app), request)
    }

    fn opens(&self) -> Opens {
        Opens::AtOnce
    }

    fn encode(&self, event: &ServerEvent<'_>, _: &Timestamp, out: &mut MessageWriter<'_>) {
        match *event {
            ServerEvent::Message(ref numbered) => message(numbered, out),
            ServerEvent::Opened { client, .. } => self.established(client, out),
            ServerEvent::Subscribed { topic, missed, .. } => subscribed(topic, missed, out),
            ServerEvent::Presence { topic, count, members, .. } => present(topic, count, members, out),
            ServerEvent::Joined { topic, members, .. } => {
                each(topic, members, "pusher_internal:member_added", out);
            }
            ServerEvent::Left { topic, members, .. } => {
                each(topic, members, "pusher_internal:member_removed", out);
            }
            ServerEvent::AlreadySubscribed { topic, .. } => {
                let text = format!("Existing subscription to channel {}", of_topic(topic.as_str()));
                frames::error(out, None, &text);
            }
            ServerEvent::Error { id: Some(SUBSCRIBE), topic: Some(topic), code, message } => {
                let channel = of_topic(topic.as_str());
                let kind = numbers::subscription_error(code);
                frames::subscription_error(out, channel, kind, code.http_status(), message);
            }
            ServerEvent::Error { id: Some(CLIENT_EVENT), message, .. } => {
                frames::error(out, Some(numbers::CLIENT_EVENT), message);
            }
            ServerEvent::Error { code, message, .. } => frames::error(out, Some(number(code)), message),
            ServerEvent::Bye(why) | ServerEvent::Refused(why) => {
                frames::error(out, Some(number(why.code)), why.message);
            }
            _ => {}
        }
    }

    fn close<'r>(&self, refusal: &Refusal<'r>) -> Close<'r> {
        match Close::of(refusal) {
            // Input outside the rules of the WebSocket has a number of the WebSocket.
            close if close.code < 4000 => close,
            _ => Close { code: number(refusal.code), reason: refusal.message.into() },
        }
    }

    /// The protocol has no words for a gap, and a client that lost messages does not know that it must ask for anything.
    fn tells_gaps(&self) -> bool {
        false
    }
}

/// A published message: encoded once for all clients of the topic.
fn message(message: &NumberedMessage<'_>, out: &mut MessageWriter<'_>) {
    let NumberedMessage { topic_json, event, message_id, data, base64, .. } = *message;
    // A namespace has no character that JSON escapes.
    let channel = topic_json.split_once(':').map_or(&topic_json[1..], |(_, channel)| channel);
    let event = if may_be_named(event) { event } else { NAMELESS };
    out.text_with(|out| {
        for part in ["{\"event\":", event, ",\"channel\":\"", channel, ",\"data\":"] {
            out.extend_from_slice(part.as_bytes());
        }
        match base64 {
            Some(base64) => data::put_text(&mut Out(out), base64.as_str()),
            None => data::put_string(&mut Out(out), data),
        }
        if channel.starts_with("presence-") && event.starts_with("\"client-") && message_id.len() > 2 {
            out.extend_from_slice(b",\"user_id\":");
            out.extend_from_slice(message_id.as_bytes());
        }
        out.extend_from_slice(b"}");
    });
}

/// Whether clients see the name of an event, as its publisher has written the name in JSON. The message of a publisher of
/// Janus with a reserved name comes without the name: the publisher has had the receipt, and clients of Janus have the message
/// too.
fn may_be_named(event: &str) -> bool {
    let Some(text) = event.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else { return false };
    // An escape may stand for a letter of a reserved beginning.
    let is_free = match text.contains('\\') {
        true => serde_json::from_str::<String>(event).is_ok_and(|text| !is_of_the_server(&text)),
        false => !is_of_the_server(text),
    };
    !text.is_empty() && is_free
}

/// The answer to a subscription. That to a presence channel has the members, which follow in an event of their own. The
/// instance sends the members behind a kept message, and the later event does not say whether there was a message: so a
/// cache miss, like the message, comes before the answer there.
fn subscribed(topic: &TopicName, missed: Option<u64>, out: &mut MessageWriter<'_>) {
    let name = of_topic(topic.as_str());
    if !name.starts_with("presence-") {
        frames::message(out, "pusher_internal:subscription_succeeded", Some(name), "{}");
    }
    if missed.is_none_or(|missed| missed == 0) && Channel::new(name).is_ok_and(|channel| channel.is_cache()) {
        frames::message(out, "pusher:cache_miss", Some(name), "{}");
    }
}

/// The members of a presence channel; the number alone if there are too many to be listed.
fn present(topic: &TopicName, count: usize, members: Option<&[Member]>, out: &mut MessageWriter<'_>) {
    #[derive(Serialize)]
    struct Presence<'m> {
        count: usize,
        ids: Vec<&'m str>,
        hash: BTreeMap<&'m str, Option<&'m RawValue>>,
    }
    let members = members.unwrap_or_default();
    let presence = Presence {
        count,
        ids: members.iter().map(|member| &*member.user).collect(),
        hash: members.iter().map(|member| (&*member.user, info(member))).collect(),
    };
    let data = text(&BTreeMap::from([("presence", presence)]));
    frames::message(out, "pusher_internal:subscription_succeeded", Some(of_topic(topic.as_str())), &data);
}

/// A message for each member.
fn each(topic: &TopicName, members: &[Member], event: &str, out: &mut MessageWriter<'_>) {
    #[derive(Serialize)]
    struct User<'m> {
        user_id: &'m str,
        user_info: Option<&'m RawValue>,
    }
    for member in members {
        let data = text(&User { user_id: &member.user, user_info: info(member) });
        frames::message(out, event, Some(of_topic(topic.as_str())), &data);
    }
}

fn info(member: &Member) -> Option<&RawValue> {
    member.info.as_deref().and_then(|info| serde_json::from_str(info).ok())
}

fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("texts and checked JSON")
}

#[cfg(test)]
mod tests;
