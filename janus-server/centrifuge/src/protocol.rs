//! The protocol: what clients of Centrifugo are told.
//!
//! A message is encoded once for all clients of its topic, like every message of Janus, and each reply from nothing but the event.

use std::borrow::Cow;
use std::time::Duration;

use janus_core::wire::websocket::{Close, MessageProtocol, MessageWriter};
use janus_core::wire::{
    Answers, BytesMut, ErrorCode, HttpRequest, Member, NumberedMessage, Position, Refusal, RequestId, ServerEvent,
    Timestamp, TopicName, WebSocket,
};

use crate::codes::{Codes, SERVER_ERROR, TOKEN_EXPIRED, UNRECOVERABLE, UNSUBSCRIBED};
use crate::decoder::CentrifugeDecoder;
use crate::json::{Object, json_text, put_json, put_number};
use crate::request_id::{self, Kind};

/// The subprotocols that clients of Centrifugo ask for; most clients with JSON ask for none.
const SUBPROTOCOLS: &[&str] = &["centrifuge-json", PROTOBUF];

/// Named in the answer as well: without an answer the client of a browser sees a failed handshake, without a reason, and tries again.
const PROTOBUF: &str = "centrifuge-protobuf";

/// The client protocol of Centrifugo 4 and later, in JSON, for [`Builder::websocket`](janus_core::Builder::websocket).
#[derive(Clone, Copy, Debug, Default)]
pub struct Centrifuge;

impl Centrifuge {
    /// The codec of this protocol.
    #[must_use]
    pub const fn websocket() -> WebSocket<Self> {
        WebSocket::new(Self)
    }
}

impl MessageProtocol for Centrifuge {
    type Decoder = CentrifugeDecoder;

    fn name(&self) -> &'static str {
        "centrifuge"
    }

    fn subprotocols(&self) -> &'static [&'static str] {
        SUBPROTOCOLS
    }

    fn decoder(&self, request: Option<&HttpRequest>) -> CentrifugeDecoder {
        match request.is_some_and(asks_for_protobuf) {
            true => CentrifugeDecoder::refusing(),
            false => CentrifugeDecoder::default(),
        }
    }

    fn encode(&self, event: &ServerEvent<'_>, _: &Timestamp, out: &mut MessageWriter<'_>) {
        out.text_with(|out| encode(event, out));
    }

    /// An empty command, which each client answers with another. The reply to a connect announces when, and some libraries take
    /// nothing else for a sign of life.
    fn heartbeat(&self, out: &mut MessageWriter<'_>) -> Answers {
        out.text("{}");
        Answers::Always
    }

    fn close<'r>(&self, refusal: &Refusal<'r>) -> Close<'r> {
        let Codes { close, reason, .. } = Codes::of(refusal.code);
        Close { code: close, reason: reason.into() }
    }

    fn beats_regularly(&self) -> bool {
        true
    }

    /// The push that ends a connection would come before messages from behind the gap, and a library that still reads these
    /// messages takes their offsets for its position. The core closes a client before anything from behind a gap.
    fn tells_gaps(&self) -> bool {
        false
    }

    /// Offsets promise each message. A client told of an end would come back, recover all that was left out, and be as slow.
    fn conflates(&self) -> bool {
        false
    }

    fn refreshes(&self) -> bool {
        true
    }
}

/// Whether the subprotocol in the answer, the first known one that the client offers, is that of Protobuf.
fn asks_for_protobuf(request: &HttpRequest) -> bool {
    let headers = request.headers.iter().filter(|(name, _)| name == "sec-websocket-protocol");
    let mut offers = headers.flat_map(|(_, value)| value.split(',')).map(str::trim);
    offers.find(|offer| SUBPROTOCOLS.contains(offer)) == Some(PROTOBUF)
}

fn encode(event: &ServerEvent<'_>, out: &mut BytesMut) {
    match *event {
        ServerEvent::Message(message) => put_message(&message, out),
        ServerEvent::Opened { id, client, heartbeat, expires, .. } => reply(id, out, "connect", |connect| {
            let connect = connect.text("client", &client.to_string()).text("version", VERSION);
            let connect = connect.number("ping", seconds(heartbeat).max(1)).flag("pong", true);
            with_expiry(connect, expires).end();
        }),
        ServerEvent::Refreshed { id, expires } => {
            reply(id, out, "refresh", |refresh| with_expiry(refresh, expires).end());
        }
        ServerEvent::Assigned { topic, position } => {
            push(topic, out, "subscribe", |subscribe| subscribed(subscribe, position, None).end());
        }
        ServerEvent::Subscribed { id, topic, position, since, missed, .. } => {
            let recovered = since.map(|_| missed.is_some());
            match request_id::of(id) {
                // Of the server, on an earlier connection.
                None => push(topic, out, "subscribe", |subscribe| subscribed(subscribe, position, recovered).end()),
                Some((Kind::SubscribeOrFail, _)) if recovered == Some(false) => {
                    put_error(id, (UNRECOVERABLE, false), "unrecoverable position", out);
                }
                Some(_) => reply(id, out, "subscribe", |subscribe| subscribed(subscribe, position, recovered).end()),
            }
        }
        ServerEvent::Unsubscribed { id, .. } => reply(id, out, "unsubscribe", |unsubscribe| unsubscribe.end()),
        ServerEvent::Published { id, .. } => reply(id, out, "publish", |publish| publish.end()),
        ServerEvent::Presence { id, count, members, .. } => put_presence(id, count, members.unwrap_or_default(), out),
        ServerEvent::Joined { topic, members, .. } => put_members(topic, "join", members, out),
        ServerEvent::Left { topic, members, .. } => put_members(topic, "leave", members, out),
        ServerEvent::History { id, position, top, complete, messages, .. } => {
            put_history(id, Position { seq: top, ..position }, complete, messages, out);
        }
        ServerEvent::AlreadySubscribed { id, .. } => {
            let codes = Codes::of(ErrorCode::AlreadySubscribed);
            put_error(id, (codes.error, codes.temporary), "already subscribed", out);
        }
        ServerEvent::Error { id: None, topic: Some(topic), code, message } => put_ended(topic, code, message, out),
        ServerEvent::Error { id, code, message, .. } => {
            let codes = Codes::of(code);
            let has_token = matches!(request_id::of(id), Some((Kind::SubscribeWithToken, _)));
            let message = match has_token && code == ErrorCode::Forbidden {
                true => Cow::from(format!("{message}; {TOKEN_NOT_LOOKED_AT}")),
                false => message.into(),
            };
            put_error(id, (codes.error, codes.temporary), &message, out);
        }
        ServerEvent::Refused(Refusal { id, code: ErrorCode::TokenExpired, .. }) => {
            // So told, a client asks for another token before it comes back.
            put_error(id, (TOKEN_EXPIRED, false), "token expired", out);
        }
        // The close frame says all, and the core tells nothing that this protocol has no words for.
        _ => {}
    }
}

/// For a client whose channels were granted by a Centrifugo one by one.
const TOKEN_NOT_LOOKED_AT: &str =
    "the token of a subscription is not looked at: the token of the connection must grant the channel";

/// The version that clients are told.
const VERSION: &str = concat!("Janus ", env!("CARGO_PKG_VERSION"));

/// A subscription of the server is refused, or the topic is granted no longer.
///
/// A client told `unsubscribe` does not ask again. Where another attempt may succeed, the client is to connect again instead.
fn put_ended(topic: &TopicName, code: ErrorCode, message: &str, out: &mut BytesMut) {
    if !Codes::of(code).reconnects() {
        return push(topic, out, "unsubscribe", |unsubscribe| {
            unsubscribe.number("code", UNSUBSCRIBED.into()).text("reason", message).end();
        });
    }
    let (code, reason) = SERVER_ERROR;
    let disconnect = |disconnect: Object<'_>| disconnect.number("code", code.into()).text("reason", reason).end();
    Object::new(out).object("push", |push| push.object("disconnect", disconnect).end()).end();
}

/// Without a number there is no reply.
fn reply(id: RequestId, out: &mut BytesMut, method: &str, write: impl FnOnce(Object<'_>)) {
    if let Some((_, number)) = request_id::of(id) {
        Object::new(out).number("id", number.into()).object(method, write).end();
    }
}

fn push(topic: &TopicName, out: &mut BytesMut, kind: &str, write: impl FnOnce(Object<'_>)) {
    Object::new(out).object("push", |push| push.text("channel", topic.as_str()).object(kind, write).end()).end();
}

fn put_error(id: RequestId, (code, temporary): (u16, bool), message: &str, out: &mut BytesMut) {
    reply(id, out, "error", |error| {
        error.number("code", code.into()).text("message", message).flag("temporary", temporary).end();
    });
}

/// `recovered` says whether a client that asked for a position has got it.
fn subscribed(object: Object<'_>, Position { epoch, seq }: Position, recovered: Option<bool>) -> Object<'_> {
    let object = object.flag("recoverable", true).flag("positioned", true);
    let object = object.text("epoch", &epoch.to_string()).number("offset", seq);
    object.flag("was_recovering", recovered.is_some()).flag("recovered", recovered == Some(true))
}

fn with_expiry(object: Object<'_>, expires: Option<Duration>) -> Object<'_> {
    match expires {
        Some(expires) => object.flag("expires", true).number("ttl", expires.as_secs().max(1)),
        None => object,
    }
}

/// In whole seconds, and not less: a client must not expect a ping before it is sent.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

fn put_message(message: &NumberedMessage<'_>, out: &mut BytesMut) {
    out.reserve(64 + message.topic_json.len() + message.data.len());
    out.extend_from_slice(b"{\"push\":{\"channel\":");
    out.extend_from_slice(message.topic_json.as_bytes());
    out.extend_from_slice(b",\"pub\":");
    put_publication(message, out);
    out.extend_from_slice(b"}}");
}

/// Without an event and with JSON data: nearly every message.
pub(crate) fn put_publication(message: &NumberedMessage<'_>, out: &mut BytesMut) {
    let NumberedMessage { position, event, data, base64, .. } = *message;
    out.extend_from_slice(b"{\"offset\":");
    put_number(out, position.seq);
    out.extend_from_slice(b",\"data\":");
    match base64 {
        None => put_json(out, data),
        Some(base64) => {
            out.extend_from_slice(b"\"");
            out.extend_from_slice(base64.as_str().as_bytes());
            out.extend_from_slice(b"\"");
        }
    }
    // Tags have texts as values.
    let event = if event == "\"\"" || event == "null" { None } else { Some(event) };
    if event.is_some() || base64.is_some() {
        out.extend_from_slice(b",\"tags\":");
        let tags = Object::new(out);
        let tags = match event {
            Some(event) if event.starts_with('"') => tags.raw("event", event),
            Some(event) => tags.raw("event", &json_text(event)),
            None => tags,
        };
        match base64 {
            Some(_) => tags.text("encoding", "base64").end(),
            None => tags.end(),
        }
    }
    out.extend_from_slice(b"}");
}

/// A member, as Centrifugo shows a connection. Janus lists users, so the user is its own client.
fn put_member(Member { user, info, .. }: &Member, object: Object<'_>) {
    let object = object.text("user", user).text("client", user);
    match info {
        Some(info) => object.raw("conn_info", info).end(),
        None => object.end(),
    }
}

/// Members by the names of their clients.
pub(crate) fn put_list(members: &[Member], list: Object<'_>) {
    members.iter().fold(list, |list, member| list.entry(&member.user, |object| put_member(member, object))).end();
}

fn put_presence(id: RequestId, count: usize, members: &[Member], out: &mut BytesMut) {
    match request_id::of(id) {
        Some((Kind::PresenceStats, _)) => reply(id, out, "presence_stats", |stats| {
            stats.number("num_clients", count as u64).number("num_users", members.len() as u64).end();
        }),
        // A client of Centrifugo that hears of arrivals asks for the list by itself.
        None => {}
        Some(_) => reply(id, out, "presence", |presence| {
            presence.object("presence", |list| put_list(members, list)).end();
        }),
    }
}

fn put_members(topic: &TopicName, kind: &str, members: &[Member], out: &mut BytesMut) {
    for (place, member) in members.iter().enumerate() {
        if place > 0 {
            out.extend_from_slice(b"\n");
        }
        push(topic, out, kind, |news| news.object("info", |info| put_member(member, info)).end());
    }
}

fn put_history(id: RequestId, top: Position, complete: bool, messages: &[NumberedMessage<'_>], out: &mut BytesMut) {
    if !complete {
        return put_error(id, (UNRECOVERABLE, false), "unrecoverable position", out);
    }
    reply(id, out, "history", |history| {
        let history = history.text("epoch", &top.epoch.to_string()).number("offset", top.seq);
        history.list("publications", messages, put_publication).end();
    });
}

#[cfg(test)]
mod tests;
