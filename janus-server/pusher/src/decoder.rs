//! The requests of one connection.
//!
//! The decoder is the gate: a request for a private or presence channel leaves the decoder only with a signature of the
//! application over the connection's own name. Answers about signatures are the decoder's; whether a topic takes the client
//! is the instance's to say.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use janus_core::ClientId;
use janus_core::wire::websocket::{ClientMessage, MessageDecoder, MessageWriter, Reading};
use janus_core::wire::{
    Bytes, Command, Credentials, ErrorCode, FrameError, HttpRequest, Limits, Member, Publication, Since,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::app::App;
use crate::channel::{Channel, Kind};
use crate::numbers::{self, Number};
use crate::{data, frames, signature};

/// The numbers of requests, by which the encoder knows the request that an answer is about.
pub(crate) const SUBSCRIBE: u64 = 1;
pub(crate) const CLIENT_EVENT: u64 = 2;

/// The longest id of a user in a presence channel, as with Pusher.
const MAX_USER_BYTES: usize = 128;

/// The largest info of a user in a presence channel, as with Pusher.
const MAX_INFO_BYTES: usize = 1_024;

/// The longest name of an event.
pub(crate) const MAX_EVENT_BYTES: usize = 200;

/// What the name of a client event begins with.
const CLIENT: &str = "client-";

/// Reads the messages of one connection.
#[derive(Debug)]
pub(crate) struct PusherDecoder {
    app: Arc<App>,
    /// The name of the connection, once it is open.
    client: ClientId,
    /// What only a client with signatures has.
    signed: Option<Box<Signed>>,
    /// Why the client is turned away before anything else. A byte, because every idle connection pays for it.
    refusal: Option<TurnedAway>,
}

/// What is wrong with the request that has opened a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TurnedAway {
    OtherPath,
    OtherKey,
    NoVersion,
    OtherVersion,
    BadVersion,
}

impl TurnedAway {
    const fn number(self) -> Number {
        match self {
            Self::OtherPath | Self::OtherKey => numbers::NO_APP,
            Self::NoVersion => numbers::NO_VERSION,
            Self::OtherVersion => numbers::OTHER_VERSION,
            Self::BadVersion => numbers::BAD_VERSION,
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::OtherPath => "the application does not exist: the path must be /app/KEY",
            Self::OtherKey => "the application does not exist: the key in the path is not the server's pusher_key",
            Self::NoVersion => "the address must name the version of the protocol: protocol=7",
            Self::OtherVersion => "the server speaks the versions 5 to 7 of the protocol",
            Self::BadVersion => "the version of the protocol must be a number",
        }
    }
}

/// What the application has signed for a client.
#[derive(Debug, Default)]
struct Signed {
    /// The user as whom the client is signed in.
    user: Option<Box<str>>,
    /// The private and presence channels of the client's requests, each with the name of the client's user there.
    channels: Vec<(Box<str>, Option<Arc<str>>)>,
    /// The answer behind the command of the same message.
    answer: Option<Bytes>,
    events: Bucket,
}

/// A message of a client.
#[derive(Deserialize)]
struct Request<'m> {
    #[serde(borrow)]
    event: Cow<'m, str>,
    #[serde(borrow, default)]
    data: Option<&'m RawValue>,
    #[serde(default)]
    channel: Option<String>,
}

#[derive(Deserialize)]
struct Subscribe {
    channel: String,
    #[serde(default)]
    auth: Option<String>,
    #[serde(default)]
    channel_data: Option<String>,
}

#[derive(Deserialize)]
struct Unsubscribe {
    channel: String,
}

#[derive(Deserialize)]
struct SignIn {
    auth: String,
    user_data: String,
}

#[derive(Deserialize)]
struct UserData {
    id: Id,
}

#[derive(Deserialize)]
struct ChannelData<'m> {
    user_id: Id,
    #[serde(borrow, default)]
    user_info: Option<&'m RawValue>,
}

/// The id of a user: backends send numbers as well as strings.
#[derive(Deserialize)]
#[serde(untagged)]
enum Id {
    Text(String),
    Number(i64),
}

impl Id {
    fn into_text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Number(number) => number.to_string(),
        }
    }
}

/// What a message leads to.
type Decoded = Result<Command, FrameError>;

impl PusherDecoder {
    pub(crate) fn new(app: Arc<App>, request: Option<&HttpRequest>) -> Self {
        let refusal = request.and_then(|request| refusal(&app, request));
        Self { app, client: ClientId::new(0, 0), signed: None, refusal }
    }

    /// The socket id of the connection.
    fn socket(&self) -> String {
        self.app.sockets.name(self.client)
    }

    fn request(&mut self, message: &mut ClientMessage<'_>, limits: &Limits) -> Decoded {
        let request: Request<'_> = serde_json::from_str(message.text()).map_err(|_| {
            FrameError::new(ErrorCode::BadJson, "a message is a JSON object with \"event\", and mostly \"data\"")
        })?;
        match &*request.event {
            "pusher:ping" => Ok(Command::Answer(MessageWriter::bytes(frames::pong))),
            "pusher:pong" => Ok(Command::Ping),
            "pusher:subscribe" => self.subscribe(parse(request.data, "channel, auth and channel_data")?, limits),
            "pusher:unsubscribe" => self.unsubscribe(&parse(request.data, "channel")?, limits),
            "pusher:signin" => self.sign_in(&parse(request.data, "auth and user_data")?, message),
            event if event.starts_with(CLIENT) => self.client_event(&request, limits),
            _ => Err(FrameError::new(ErrorCode::UnknownAction, "unknown event: clients publish client events alone")),
        }
    }

    fn subscribe(&mut self, asked: Subscribe, limits: &Limits) -> Decoded {
        let Subscribe { channel: name, auth, channel_data } = asked;
        let refuse = |status, text: &str| {
            let kind = if status == 401 { numbers::AUTH_ERROR } else { numbers::BAD_REQUEST };
            Ok(Command::Answer(MessageWriter::bytes(|out| {
                frames::subscription_error(out, &name, kind, status, text);
            })))
        };
        let channel = match Channel::new(&name) {
            Ok(channel) => channel,
            Err(text) => return refuse(400, text),
        };
        let mut member = None;
        match channel.kind {
            Kind::Public => {}
            Kind::Own => {
                let user = self.signed.as_ref().and_then(|signed| signed.user.as_deref());
                if user.is_none() || user != channel.owner() {
                    return refuse(401, "sign in as the user of this channel first");
                }
            }
            Kind::Private | Kind::Encrypted | Kind::Presence => {
                let data = channel_data.as_deref();
                if let Err(text) = self.check(&signature::of_channel(&self.socket(), &name, data), auth.as_deref()) {
                    return refuse(401, text);
                }
                if channel.kind == Kind::Presence {
                    match data.ok_or(BAD_CHANNEL_DATA).and_then(member_of) {
                        Ok(named) => member = Some(Box::new(named)),
                        Err(text) => return refuse(400, text),
                    }
                }
            }
        }
        let since = channel.is_cache().then_some(Since::Last);
        let (presence, topic) = (channel.kind == Kind::Presence, self.app.topic(channel, limits)?);
        if matches!(channel.kind, Kind::Private | Kind::Presence) {
            let user = member.as_ref().map(|member| Arc::clone(&member.user));
            self.note_channel(&name, user, limits.max_topics);
        }
        Ok(Command::Subscribe { topic, since, horizon: None, presence, member, id: Some(SUBSCRIBE) })
    }

    /// Checks a signature of the form `KEY:SIGNATURE`.
    fn check(&self, text: &str, auth: Option<&str>) -> Result<(), &'static str> {
        let auth = auth.ok_or("\"auth\" must be the signature of the application")?;
        let is_good = auth.split_once(':').is_some_and(|(key, signature)| {
            // The key is no secret.
            key == self.app.key && self.app.keys.verify(text, signature)
        });
        if is_good { Ok(()) } else { Err("\"auth\" is not the application's signature of this request") }
    }

    /// Notes a channel for which the application has signed, for client events. The decoder does not learn whether the
    /// instance takes the subscription: beyond `most` a channel is not noted, and the instance says whether there is room
    /// for the subscription.
    fn note_channel(&mut self, name: &str, user: Option<Arc<str>>, most: usize) {
        let channels = &mut self.signed.get_or_insert_default().channels;
        if let Some((_, noted)) = channels.iter_mut().find(|(known, _)| **known == *name) {
            // The earlier subscription may have been refused, and the application has signed for the later user as well.
            *noted = user;
        } else if channels.len() < most {
            channels.push((name.into(), user));
        }
    }

    fn unsubscribe(&mut self, Unsubscribe { channel: name }: &Unsubscribe, limits: &Limits) -> Decoded {
        let channel = Channel::new(name).map_err(|text| FrameError::new(ErrorCode::BadTopic, text))?;
        if let Some(signed) = &mut self.signed {
            signed.channels.retain(|(known, _)| **known != **name);
        }
        Ok(Command::Unsubscribe { topic: self.app.topic(channel, limits)?, id: None })
    }

    /// Makes the client a user. The answer follows the command, so the decoder asks to be called again.
    fn sign_in(&mut self, SignIn { auth, user_data }: &SignIn, message: &mut ClientMessage<'_>) -> Decoded {
        let refuse = |text: &str| {
            let words = MessageWriter::bytes(|out| frames::farewell(out, numbers::UNAUTHORIZED, text));
            Ok(Command::Close(words))
        };
        if let Err(text) = self.check(&signature::of_user(&self.socket(), user_data), Some(auth)) {
            return refuse(text);
        }
        let user = serde_json::from_str::<UserData>(user_data).map(|data| data.id.into_text());
        let Some(user) = user.ok().filter(|user| is_user(user)) else {
            return refuse("\"user_data\" must be a JSON object whose \"id\" has 1 to 128 bytes");
        };
        let signed = self.signed.get_or_insert_default();
        let data = serde_json::json!({ "user_data": user_data }).to_string();
        let answer = MessageWriter::bytes(|out| frames::message(out, "pusher:signin_success", None, &data));
        match signed.user.as_deref() {
            None => signed.user = Some(user.as_str().into()),
            // The instance knows the user already.
            Some(before) if before == user => return Ok(Command::Answer(answer)),
            Some(_) => return refuse("the connection is signed in as another user"),
        }
        signed.answer = Some(answer);
        *message = ClientMessage::Text(AGAIN);
        Ok(Command::Authenticate { auth: Credentials(user) })
    }

    fn client_event(&mut self, request: &Request<'_>, limits: &Limits) -> Decoded {
        let refuse = |text: &str| {
            let words = MessageWriter::bytes(|out| frames::error(out, Some(numbers::CLIENT_EVENT), text));
            Ok(Command::Answer(words))
        };
        let name = request.channel.as_deref().unwrap_or_default();
        let channel = match Channel::new(name) {
            Ok(channel) if self.app.client_events => channel,
            Ok(_) => return refuse("client events are not enabled for this application"),
            Err(text) => return refuse(text),
        };
        if !matches!(channel.kind, Kind::Private | Kind::Presence) {
            return refuse("client events are for private and presence channels");
        }
        let Some(signed) = &mut self.signed else { return refuse(NOT_SUBSCRIBED) };
        let Some((_, user)) = signed.channels.iter().find(|(known, _)| **known == *name) else {
            return refuse(NOT_SUBSCRIBED);
        };
        let content = request.data.map_or("null", RawValue::get);
        if request.event.len() > MAX_EVENT_BYTES || content.len() > self.app.event_bytes {
            return refuse("the client event is longer than the limit of the server");
        }
        if !signed.events.take(self.app.event_rate, Instant::now()) {
            return refuse("the client has sent client events faster than the limit of the server");
        }
        let text = |text: &str| serde_json::Value::from(text).to_string();
        let kept = request.data.map_or(Cow::Borrowed("null"), data::kept_value);
        let topic = self.app.topic(channel, limits)?;
        // The id of a client event names the sender, for the encoder.
        let id = text(user.as_deref().unwrap_or_default());
        let publication = Publication::new(&topic, &text(&request.event), &id, &kept)?;
        let publication = publication.excluding(self.client);
        Ok(Command::Publish { topic, publication, ack: false, id: Some(CLIENT_EVENT) })
    }
}

impl MessageDecoder for PusherDecoder {
    type Scratch = ();

    fn begin(&mut self) -> Option<Command> {
        let why = self.refusal?;
        Some(Command::Close(MessageWriter::bytes(|out| frames::farewell(out, why.number(), why.text()))))
    }

    fn opened(&mut self, _session: &str, client: ClientId) {
        self.client = client;
    }

    fn decode(&mut self, message: &mut ClientMessage<'_>, reading: &mut Reading<'_>) -> Option<Decoded> {
        if let Some(answer) = self.signed.as_mut().and_then(|signed| signed.answer.take()) {
            *message = ClientMessage::Text("");
            return Some(Ok(Command::Answer(answer)));
        }
        Some(self.request(message, reading.limits))
    }

    fn memory(&self) -> usize {
        let Some(signed) = &self.signed else { return 0 };
        let channel =
            |(name, user): &(Box<str>, Option<Arc<str>>)| name.len() + user.as_ref().map_or(0, |user| user.len());
        let channels = signed.channels.capacity() * size_of::<(Box<str>, Option<Arc<str>>)>();
        let rest = signed.answer.as_ref().map_or(0, Bytes::len) + signed.user.as_ref().map_or(0, |user| user.len());
        size_of::<Signed>() + rest + channels + signed.channels.iter().map(channel).sum::<usize>()
    }
}

const NOT_SUBSCRIBED: &str = "client events are for channels to which the client is subscribed";

const BAD_CHANNEL_DATA: &str =
    "\"channel_data\" must be a JSON object whose \"user_id\" has 1 to 128 bytes, and \"user_info\" at most 1 KiB";

/// The rest of a message whose answer follows in a call of its own.
const AGAIN: &str = " ";

/// Why a client with this request is turned away.
fn refusal(app: &App, request: &HttpRequest) -> Option<TurnedAway> {
    match request.path().strip_prefix("/app/") {
        Some(key) if *key == *app.key => {}
        None | Some("") => return Some(TurnedAway::OtherPath),
        Some(rest) if rest.contains('/') => return Some(TurnedAway::OtherPath),
        Some(_) => return Some(TurnedAway::OtherKey),
    }
    match request.query_parameter("protocol").as_deref().map(str::parse::<u32>) {
        None => Some(TurnedAway::NoVersion),
        Some(Ok(5..=7)) => None,
        Some(Ok(_)) => Some(TurnedAway::OtherVersion),
        Some(Err(_)) => Some(TurnedAway::BadVersion),
    }
}

/// The data of a request.
fn parse<'m, T: Deserialize<'m>>(data: Option<&'m RawValue>, parts: &str) -> Result<T, FrameError> {
    let parsed = data.and_then(|data| serde_json::from_str(data.get()).ok());
    parsed.ok_or_else(|| FrameError::new(ErrorCode::BadRequest, format!("\"data\" must be an object with {parts}")))
}

/// Whether a text can be the id of a user.
fn is_user(text: &str) -> bool {
    (1..=MAX_USER_BYTES).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// The member that `channel_data` names.
fn member_of(channel_data: &str) -> Result<Member, &'static str> {
    let ChannelData { user_id, user_info } = serde_json::from_str(channel_data).map_err(|_| BAD_CHANNEL_DATA)?;
    let (user, info) = (user_id.into_text(), user_info.map(RawValue::get).filter(|info| *info != "null"));
    if !is_user(&user) || info.is_some_and(|info| info.len() > MAX_INFO_BYTES) {
        return Err(BAD_CHANNEL_DATA);
    }
    Ok(Member::new(user, info))
}

/// Client events for which there is room: a second's worth.
#[derive(Debug, Default)]
struct Bucket {
    /// When there is room for all events of a second.
    full: Option<Instant>,
}

impl Bucket {
    /// Takes room for an event; false without room.
    fn take(&mut self, rate: u32, now: Instant) -> bool {
        let each = Duration::from_secs(1) / rate.max(1);
        let full = self.full.map_or(now, |full| full.max(now)) + each;
        let has_room = full.duration_since(now) <= Duration::from_secs(1);
        if has_room {
            self.full = Some(full);
        }
        has_room
    }
}

#[cfg(test)]
mod tests;
