//! What each method does with an instance.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use janus_core::wire::{Base64, BytesMut, ErrorCode, HistoryQuery, IdempotencyKey, Position, Since};
use janus_core::{ClientId, Delivery, Epoch, Janus, Message, Receipt, TopicInfo};

use super::error::ApiError;
use super::params::{Channel, Channels, Code, Content, Disconnect, History, Pattern, read};
use super::{Answer, put};
use crate::codes::{LIMIT_EXCEEDED, UNRECOVERABLE};
use crate::json::{Object, json_text};
use crate::protocol::{put_list, put_publication};

/// The methods that are carried out.
const METHODS: [&str; 8] =
    ["publish", "broadcast", "disconnect", "presence", "presence_stats", "history", "channels", "info"];

/// Methods of Centrifugo that Janus has no counterpart for, with the reason.
const UNAVAILABLE: [(&str, &str); 5] = [
    (
        "subscribe",
        "clients subscribe by themselves to what their tokens grant: tell the client to subscribe. Another grant takes effect when \
         the client refreshes its token (use a short exp), and another janus.topics when the client next connects with it",
    ),
    (
        "unsubscribe",
        "a subscription ends when the client refreshes with a token that does not grant the channel: use a short exp, or \
         revoke the token by its jti",
    ),
    (
        "refresh",
        "a client refreshes its token by itself, before the exp of the token: use a short exp, or disconnect the user",
    ),
    ("history_remove", "a history is not cut off: its namespace has limits of messages, bytes and age"),
    ("rpc", "Janus has no rpc"),
];

/// Topics in an answer to `channels`.
const MAX_CHANNELS: usize = 10_000;

/// Topics looked at before other tasks of the runtime get their turn.
const PAGE: usize = 1_000;

/// The most connections whose users are counted for `info`, and the most topics looked at.
const MAX_COUNTED: usize = 10_000;

/// How long the figures of `info` serve further calls.
const FIGURES_AGE: Duration = Duration::from_secs(1);

/// The topic of a `broadcast` before each channel takes its place.
const PLACEHOLDER: &str = "broadcast";

/// Channels of a `broadcast`.
const MAX_BROADCAST: usize = 1_000;

/// Messages in an answer to `history`, and bytes of these messages.
const MAX_HISTORY: (usize, usize) = (10_000, 8 << 20);

pub(super) fn is_known(method: &str) -> bool {
    METHODS.contains(&method) || UNAVAILABLE.iter().any(|(name, _)| *name == method)
}

/// Carries out a method, and returns the JSON of the result. The time since the API is served, and figures of a moment ago, are in `served`.
pub(super) async fn call(janus: &Janus, served: &Served, method: &str, params: &str) -> Answer {
    let mut out = BytesMut::new();
    let result = Object::new(&mut out);
    match method {
        "publish" => {
            let Channel { channel } = read(params)?;
            put_receipt(janus.publish_message(message(&channel, params)?).await?, result).end();
        }
        "broadcast" => put_broadcast(janus, params, result).await?.end(),
        "disconnect" => {
            disconnect(janus, read(params)?).await?;
            result.end();
        }
        "presence" => {
            let Channel { channel } = read(params)?;
            let members = janus.presence(&channel).await?.members.unwrap_or_default();
            result.object("presence", |list| put_list(&members, list)).end();
        }
        "presence_stats" => {
            let Channel { channel } = read(params)?;
            let info = janus.presence(&channel).await?;
            let users = info.members.map_or(0, |members| members.len());
            result.number("num_clients", info.count as u64).number("num_users", users as u64).end();
        }
        "history" => put_history(janus, read(params)?, result).await?.end(),
        "channels" => put_channels(janus, &read(params)?, result).await?.end(),
        "info" => put_nodes(janus, served, result).end(),
        _ => {
            let reason = UNAVAILABLE.iter().find(|(name, _)| *name == method).map(|(_, reason)| *reason);
            return Err(reason.map_or_else(ApiError::method_not_found, ApiError::not_available));
        }
    }
    String::from_utf8(out.into()).map_err(|_| ApiError::of(ErrorCode::Internal, "not text"))
}

/// The message of a `publish` or of a `broadcast`.
fn message(channel: &str, params: &str) -> Result<Message, ApiError> {
    let Content { data, b64data, idempotency_key, skip_history, tags } = read(params)?;
    if skip_history == Some(true) {
        return Err(ApiError::not_available("skip_history: each message of a topic has its number, and is kept"));
    }
    if tags.is_some_and(|tags| !tags.is_empty()) {
        return Err(ApiError::not_available("tags: put them into the data"));
    }
    let message = match (data, b64data.filter(|text| !text.is_empty())) {
        (_, Some(text)) => {
            let bytes = Base64::new(&text).map_err(|error| ApiError::bad_request(format!("b64data: {error}")))?;
            Message::bytes(channel, bytes.decode())?
        }
        (Some(data), None) => Message::new(channel, data)?,
        (None, None) => return Err(ApiError::bad_request("data, a JSON value, is missing")),
    };
    match idempotency_key.filter(|key| !key.is_empty()) {
        Some(key) => {
            let key = key.parse::<IdempotencyKey>();
            let key = key.map_err(|error| ApiError::bad_request(format!("idempotency_key: {error}")))?;
            Ok(message.idempotency_key(key))
        }
        None => Ok(message),
    }
}

fn put_receipt(Receipt { epoch, seq, .. }: Receipt, object: Object<'_>) -> Object<'_> {
    object.number("offset", seq).text("epoch", &epoch.to_string())
}

async fn put_broadcast<'o>(janus: &Janus, params: &str, result: Object<'o>) -> Result<Object<'o>, ApiError> {
    let Channels { channels } = read(params)?;
    if channels.len() > MAX_BROADCAST {
        return Err(ApiError::bad_request(format!("at most {MAX_BROADCAST} channels")));
    }
    // A mistake in the content is told once, and nothing is published. All channels share the text.
    let content = message(PLACEHOLDER, params)?;
    let mut responses = Vec::with_capacity(channels.len());
    for channel in &channels {
        let receipt = match content.for_topic(channel) {
            Ok(message) => janus.publish_message(message).await,
            Err(error) => Err(error),
        };
        responses.push(receipt.map_err(ApiError::from).map(|receipt| {
            let mut out = BytesMut::new();
            put_receipt(receipt, Object::new(&mut out)).end();
            String::from_utf8_lossy(&out).into_owned()
        }));
    }
    let response = |answer: &Answer, out: &mut BytesMut| put(Object::new(out), answer, "result").end();
    Ok(result.list("responses", &responses, response))
}

async fn disconnect(janus: &Janus, params: Disconnect) -> Result<(), ApiError> {
    let Disconnect { user, client, session, whitelist, disconnect } = params;
    if session.is_some_and(|session| !session.is_empty()) || whitelist.is_some_and(|list| !list.is_empty()) {
        return Err(ApiError::not_available("session and whitelist: name a client, or a user"));
    }
    // Without a code, or with one of Centrifugo's final ones, the client stays away.
    let reconnect = disconnect.is_some_and(|Code { code }| matches!(code, 3000..3500 | 4000..4500));
    let user = user.unwrap_or_default();
    match client.filter(|client| !client.is_empty()) {
        Some(client) => {
            let id = client.parse::<ClientId>();
            let id = id.map_err(|error| ApiError::bad_request(format!("client: {error}")))?;
            let connection =
                client.rsplit('.').next().and_then(|number| number.parse::<u64>().ok()).unwrap_or_default();
            let found = janus.connections(connection.saturating_sub(1), 1).into_iter().next();
            let is_meant =
                found.is_some_and(|found| found.connection == connection && (user.is_empty() || found.user == user));
            if is_meant && janus.client_id(connection) == id {
                janus.disconnect(connection, reconnect);
            }
            Ok(())
        }
        None if user.is_empty() => Err(ApiError::bad_request("name a user, or a client")),
        None => {
            janus.disconnect_user_everywhere(&user, reconnect).await;
            Ok(())
        }
    }
}

async fn put_history<'o>(janus: &Janus, params: History, result: Object<'o>) -> Result<Object<'o>, ApiError> {
    let History { channel, limit, since, reverse } = params;
    let reverse = reverse.unwrap_or(false);
    let query = HistoryQuery::latest(usize::try_from(limit.unwrap_or(0)).unwrap_or(usize::MAX));
    let query = match &since {
        Some(since) => query.since(Position { epoch: since.epoch.parse().unwrap_or(Epoch::NONE), seq: since.offset }),
        None if reverse => query,
        None => query.since(Since::Start),
    };
    let query = if reverse { query.reversed() } else { query };
    let history = janus.read_history(&channel, query.within(MAX_HISTORY.0, MAX_HISTORY.1)).await?;
    if !history.complete {
        return Err(ApiError { code: UNRECOVERABLE, message: "unrecoverable position".into() });
    }
    let topic_json = json_text(&channel);
    let put = |message: &Delivery, out: &mut BytesMut| {
        put_publication(&message.numbered(&topic_json), out);
    };
    let result = result.list("publications", &history.messages, put);
    Ok(result.number("offset", history.top).text("epoch", &history.position.epoch.to_string()))
}

async fn put_channels<'o>(janus: &Janus, params: &Pattern, result: Object<'o>) -> Result<Object<'o>, ApiError> {
    let pattern = params.pattern.as_deref().unwrap_or_default();
    let prefix = match pattern.strip_suffix('*') {
        _ if pattern.is_empty() => "",
        Some(prefix) if !prefix.contains(['*', '?', '[', '{', '\\']) => prefix,
        _ => return Err(ApiError::not_available("pattern: a beginning of names and a *, such as chat:*")),
    };
    let used = used_topics(janus, prefix).await?;
    Ok(result.object("channels", |channels| {
        used.iter()
            .fold(channels, |channels, topic| {
                let clients = topic.subscribers as u64;
                channels.entry(topic.name.as_str(), |object| object.number("num_clients", clients).end())
            })
            .end();
    }))
}

/// The topics with subscribers. A server may have a hundred times as many that only keep a history.
async fn used_topics(janus: &Janus, prefix: &str) -> Result<Vec<TopicInfo>, ApiError> {
    let (mut used, mut after) = (Vec::new(), String::new());
    loop {
        let page = janus.topics_with_prefix(prefix, &after, PAGE);
        let is_last = page.len() < PAGE;
        if let Some(last) = page.last() {
            last.name.as_str().clone_into(&mut after);
        }
        used.extend(page.into_iter().filter(|topic| topic.subscribers > 0));
        if used.len() > MAX_CHANNELS {
            let message = format!(
                "more than {MAX_CHANNELS} topics with subscribers: give a pattern, or ask GET /api/topics page by page"
            );
            return Err(ApiError { code: LIMIT_EXCEEDED, message: message.into() });
        }
        if is_last {
            return Ok(used);
        }
        tokio::task::yield_now().await;
    }
}

fn put_nodes<'o>(janus: &Janus, served: &Served, result: Object<'o>) -> Object<'o> {
    let nodes = janus.nodes();
    if nodes.is_empty() {
        return result.list("nodes", &[()], |(), out| {
            let node = Object::new(out).text("uid", "1").text("name", "janus");
            let node =
                node.text("version", env!("CARGO_PKG_VERSION")).number("uptime", served.started.elapsed().as_secs());
            served.figures(janus).put(node).end();
        });
    }
    let this = janus.cluster().map(|cluster| cluster.node.to_string());
    result.list("nodes", &nodes, |node, out| {
        let object = Object::new(out).text("uid", &node.id).text("name", &node.name);
        let object = object.text("version", &node.version).number("uptime", node.uptime);
        if this.as_ref() == Some(&node.id) {
            return served.figures(janus).put(object).end();
        }
        // Other nodes tell no more.
        object.number("num_clients", node.connections as u64).number("num_channels", node.topics as u64).end();
    })
}

/// What the API keeps from call to call.
pub(super) struct Served {
    started: Instant,
    /// The latest figures, with the moment of counting.
    latest: Mutex<Option<(Instant, Figures)>>,
}

/// The figures of this instance. A backend that asks is no client, and a topic without subscribers no channel, as in `channels`.
#[derive(Clone, Copy)]
struct Figures {
    clients: usize,
    users: usize,
    subscriptions: usize,
    channels: usize,
}

impl Served {
    pub(super) fn new() -> Self {
        Self { started: Instant::now(), latest: Mutex::default() }
    }

    /// The figures, at most [`FIGURES_AGE`] old: a count looks at each connection, and a batch may ask a thousand times. The
    /// lock is held meanwhile, so that one call counts for all others.
    fn figures(&self, janus: &Janus) -> Figures {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        match *latest {
            Some((at, figures)) if at.elapsed() < FIGURES_AGE => figures,
            _ => {
                let figures = Figures::count(janus);
                *latest = Some((Instant::now(), figures));
                figures
            }
        }
    }
}

impl Figures {
    fn count(janus: &Janus) -> Self {
        let stats = janus.stats();
        let connections = janus.connections(0, MAX_COUNTED);
        let users = connections.iter().map(|connection| &connection.user).filter(|user| !user.is_empty());
        let users = users.collect::<HashSet<_>>().len();
        let channels = match stats.topics {
            0..=MAX_COUNTED => {
                let topics = janus.topics_with_prefix("", "", MAX_COUNTED);
                topics.iter().filter(|topic| topic.subscribers > 0).count()
            }
            more => more,
        };
        Self { clients: stats.places_taken, users, subscriptions: stats.subscriptions, channels }
    }

    fn put(self, node: Object<'_>) -> Object<'_> {
        let node = node.number("num_clients", self.clients as u64).number("num_users", self.users as u64);
        node.number("num_subs", self.subscriptions as u64).number("num_channels", self.channels as u64)
    }
}
