//! The server's settings: one table, from which the file's keys, the `JANUS_` variables, the flags, their help,
//! `config show` and the table in docs/OPERATIONS.md all come.
//!
//! Owns the layering (flags over variables over file over defaults), the memory of where each value came from, and
//! the messages for a value or a name that is wrong. What a value may be is decided by `janus_core::Config::validate`
//! alone: this file asks it instead of repeating the ranges.

use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use janus_core::{Config, ConfigError, Namespace, Resume, SlowConsumer};
use log::LevelFilter;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use crate::limits::Memory;

/// What the server runs with: the core's settings and the few that are the binary's own.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) core: Config,
    pub(crate) log: LevelFilter,
    pub(crate) log_queue: usize,
    pub(crate) api_key: ApiKey,
    pub(crate) max_api_connections: usize,
}

impl Default for Settings {
    fn default() -> Self {
        let http_listen = vec![SocketAddr::from(([127, 0, 0, 1], 8080))];
        Self {
            core: Config { http_listen, ..Config::default() },
            log: LevelFilter::Info,
            log_queue: 4_096,
            api_key: ApiKey::default(),
            max_api_connections: 256,
        }
    }
}

impl Settings {
    /// What the core says about its settings, and then about the binary's own.
    fn validate(&self) -> Result<(), ConfigError> {
        self.core.validate()?;
        let bad = |key: &'static str, value, expected| Err(ConfigError { key: key.into(), value, expected });
        if self.core.listen.is_empty() && self.core.http_listen.is_empty() {
            return bad("http_listen", "[]".to_owned(), "an address here or in listen: the server would serve nobody");
        }
        if !self.api_key.can_be_one() {
            return bad(
                "api_key",
                HIDDEN.to_owned(),
                "16 to 256 letters, digits and characters of -._~+/=, or \"\" for none",
            );
        }
        if !(1..=100_000).contains(&self.max_api_connections) {
            return bad("max_api_connections", self.max_api_connections.to_string(), "1 to 100,000");
        }
        if !(64..=1 << 20).contains(&self.log_queue) {
            return bad("log_queue", self.log_queue.to_string(), "64 to 1,048,576");
        }
        Ok(())
    }
}

/// What the users of the HTTP API show; empty if there is none. Nothing that is printed has it.
#[derive(Clone, Default)]
pub(crate) struct ApiKey(String);

impl ApiKey {
    /// A key from outside the settings' own layers.
    #[cfg(test)]
    pub(crate) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// `None` if there is no key.
    pub(crate) fn reveal(&self) -> Option<&str> {
        (!self.0.is_empty()).then_some(&*self.0)
    }

    /// RFC 6750 says what can stand behind `Bearer`; a shorter key can be guessed.
    fn can_be_one(&self) -> bool {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
        self.0.is_empty() || (16..=256).contains(&self.0.len()) && self.0.bytes().all(allowed)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "none" } else { HIDDEN })
    }
}

/// What stands in the place of a secret.
const HIDDEN: &str = "\"***\"";

/// One setting: its name in the file, and what a reader needs to know about it.
pub(crate) struct Setting {
    /// The key in the file. The variable is `JANUS_` and this in capitals, the flag has `-` for `_`.
    pub(crate) name: &'static str,
    pub(crate) doc: &'static str,
    pub(crate) field: Field,
}

/// The kind of a setting's value, and the place in [`Settings`] that holds it.
pub(crate) enum Field {
    Addresses(fn(&mut Settings) -> &mut Vec<SocketAddr>),
    Count(fn(&mut Settings) -> &mut usize),
    Count32(fn(&mut Settings) -> &mut u32),
    Bytes(fn(&mut Settings) -> &mut usize),
    Duration(fn(&mut Settings) -> &mut Duration),
    Boolean(fn(&mut Settings) -> &mut bool),
    Level(fn(&mut Settings) -> &mut LevelFilter),
    Policy(fn(&mut Settings) -> &mut SlowConsumer),
    Resume(fn(&mut Settings) -> &mut Resume),
    Origins(fn(&mut Settings) -> &mut Vec<String>),
    /// Has no flag, because everybody on a machine can read the command lines of its processes.
    Secret(fn(&mut Settings) -> &mut ApiKey),
}

/// Every setting there is, in the order in which they are shown.
pub(crate) static TABLE: &[Setting] = &[
    Setting {
        name: "listen",
        doc: "Addresses to accept connections of the classic protocol on; port 0 lets the system choose.",
        field: Field::Addresses(|s| &mut s.core.listen),
    },
    Setting {
        name: "http_listen",
        doc: "Addresses to serve WebSockets (`/ws`), server-sent events (`/events`) and the HTTP API (`/api/`) on.",
        field: Field::Addresses(|s| &mut s.core.http_listen),
    },
    Setting {
        name: "allowed_origins",
        doc: "Origins beside its own host from which pages may connect to the HTTP port.",
        field: Field::Origins(|s| &mut s.core.allowed_origins),
    },
    Setting {
        name: "sse_retry",
        doc: "How long a browser waits before it comes back to a stream of server-sent events that it has lost.",
        field: Field::Duration(|s| &mut s.core.sse_retry),
    },
    Setting {
        name: "api_key",
        doc: "What users of the HTTP API must show as `Authorization: Bearer KEY`. Without one the API is served only if all \
              of `http_listen` is loopback, and not to requests that a proxy has passed on. It is never printed, and has no flag.",
        field: Field::Secret(|s| &mut s.api_key),
    },
    Setting {
        name: "max_api_connections",
        doc: "Requests to the HTTP API that are served at once. One more gets status 503.",
        field: Field::Count(|s| &mut s.max_api_connections),
    },
    Setting { name: "log", doc: "How much is logged to standard error.", field: Field::Level(|s| &mut s.log) },
    Setting {
        name: "log_queue",
        doc: "Lines of the log that wait until standard error takes them. Further ones are lost, and counted.",
        field: Field::Count(|s| &mut s.log_queue),
    },
    Setting {
        name: "threads",
        doc: "Threads that deliver: one is home to the actors, the others help it send.",
        field: Field::Count(|s| &mut s.core.threads),
    },
    Setting {
        name: "max_connections",
        doc: "Clients connected at once. One more that wants to subscribe is told `too_many_connections` and closed.",
        field: Field::Count(|s| &mut s.core.max_connections),
    },
    Setting {
        name: "reserved_connections",
        doc: "Connections beyond `max_connections` for what goes on when the server is full: requests to the HTTP API, \
              publishers of the classic protocol, and connections that have not said yet what they are for. One more takes \
              the room of the oldest silent one of the address that has most of them.",
        field: Field::Count(|s| &mut s.core.reserved_connections),
    },
    Setting {
        name: "max_refusals",
        doc: "Connections that are refused and may wait until they have read why; more are closed at once.",
        field: Field::Count(|s| &mut s.core.max_refusals),
    },
    Setting {
        name: "accept_rate",
        doc: "Connections accepted per second on each listener, and up to a tenth of that at once; further ones wait in \
              the `backlog`.",
        field: Field::Count(|s| &mut s.core.accept_rate),
    },
    Setting {
        name: "max_handshakes",
        doc: "Connections of each listener that are accepted and not yet greeted; further ones wait in the `backlog`.",
        field: Field::Count(|s| &mut s.core.max_handshakes),
    },
    Setting {
        name: "max_frame_bytes",
        doc: "Bytes of one frame from a client, without its terminator. A longer one closes the connection \
              (`frame_too_large`).",
        field: Field::Bytes(|s| &mut s.core.max_frame_bytes),
    },
    Setting {
        name: "max_topic_bytes",
        doc: "Bytes of a topic's name. A longer one is refused (`bad_topic`).",
        field: Field::Bytes(|s| &mut s.core.max_topic_bytes),
    },
    Setting {
        name: "max_topics_per_client",
        doc: "Topics one client may be subscribed to. One more is refused (`too_many_topics`).",
        field: Field::Count(|s| &mut s.core.max_topics_per_client),
    },
    Setting {
        name: "max_topics",
        doc: "Topics that exist at once. One more takes the place of an unused one, or is refused \
              (`too_many_topics_on_server`).",
        field: Field::Count(|s| &mut s.core.max_topics),
    },
    Setting {
        name: "address_share",
        doc: "Per cent of `max_topics`, and of `max_detached_sessions`, that the clients of one address may hold while \
              there is no room: beyond it they make room for themselves, and otherwise the address that holds most does.",
        field: Field::Count(|s| &mut s.core.address_share),
    },
    Setting {
        name: "max_queue_frames",
        doc: "Messages that wait for one client; 0 for no limit but that in bytes. One more makes it a slow consumer, and \
              `slow_consumer` says what happens.",
        field: Field::Count(|s| &mut s.core.max_queue_frames),
    },
    Setting {
        name: "max_queue_bytes",
        doc: "The same limit in bytes, with 64 for each batch of messages. Answers to what a client asks for may take a \
              quarter as much beside them; then the client is not read until it has taken some.",
        field: Field::Bytes(|s| &mut s.core.max_queue_bytes),
    },
    Setting {
        name: "max_inflight_frames",
        doc: "Messages of one topic that are accepted but not yet handed to every subscriber. Beyond it the \
              publisher's connection is not read until some are.",
        field: Field::Count(|s| &mut s.core.max_inflight_frames),
    },
    Setting {
        name: "max_inflight_bytes",
        doc: "The same limit in bytes.",
        field: Field::Bytes(|s| &mut s.core.max_inflight_bytes),
    },
    Setting {
        name: "coalesce_bytes",
        doc: "Bytes of waiting messages of one topic that are sent to a subscriber in one go.",
        field: Field::Bytes(|s| &mut s.core.coalesce_bytes),
    },
    Setting {
        name: "inline_subscribers",
        doc: "Subscribers up to which a topic delivers alone; above it the other threads help. They help smaller ones \
              while the home arbiter does not keep up.",
        field: Field::Count(|s| &mut s.core.inline_subscribers),
    },
    Setting {
        name: "frame_timeout",
        doc: "How long a frame may stay unfinished before its connection is closed (`frame_timeout`).",
        field: Field::Duration(|s| &mut s.core.frame_timeout),
    },
    Setting {
        name: "heartbeat_interval",
        doc: "Silence on a connection, counted from its last message, after which it gets a `PING`.",
        field: Field::Duration(|s| &mut s.core.heartbeat_interval),
    },
    Setting {
        name: "pong_timeout",
        doc: "How long a client may owe the answer to a `PING` before its connection is closed (`ping_timeout`): each over \
              WebSocket, and one of the classic protocol that has answered before. `0 s` closes none.",
        field: Field::Duration(|s| &mut s.core.pong_timeout),
    },
    Setting {
        name: "session_ttl",
        doc: "How long a session lives on after its connection ended, to be resumed.",
        field: Field::Duration(|s| &mut s.core.session_ttl),
    },
    Setting {
        name: "max_detached_sessions",
        doc: "Sessions without a connection that are kept; one more, and the one detached longest ends, of the address \
              that `address_share` says.",
        field: Field::Count(|s| &mut s.core.max_detached_sessions),
    },
    Setting {
        name: "resume_messages",
        doc: "Messages that every topic keeps, so that a client that lost its connection can go on without a hole, even \
              where history is off. One more pushes out the oldest; 0 keeps none.",
        field: Field::Count(|s| &mut s.core.resume_messages),
    },
    Setting {
        name: "resume_bytes",
        doc: "The same limit in bytes.",
        field: Field::Bytes(|s| &mut s.core.resume_bytes),
    },
    Setting {
        name: "resume_age",
        doc: "How long such a message is kept.",
        field: Field::Duration(|s| &mut s.core.resume_age),
    },
    Setting {
        name: "history",
        doc: "Whether a topic keeps its messages for whoever may subscribe to it, within the next three limits.",
        field: Field::Boolean(|s| &mut s.core.default_namespace.history),
    },
    Setting {
        name: "history_messages",
        doc: "Messages in the history of one topic. One more pushes out the oldest.",
        field: Field::Count(|s| &mut s.core.default_namespace.history_messages),
    },
    Setting {
        name: "history_bytes",
        doc: "The same limit in bytes.",
        field: Field::Bytes(|s| &mut s.core.default_namespace.history_bytes),
    },
    Setting {
        name: "history_age",
        doc: "How long a message stays in the history.",
        field: Field::Duration(|s| &mut s.core.default_namespace.history_age),
    },
    Setting {
        name: "resume",
        doc: "Which clients may go on where they were, and so be given what was said before they subscribed, whatever \
              `history` says: all that name a position, only those that show their session's token, or none.",
        field: Field::Resume(|s| &mut s.core.default_namespace.resume),
    },
    Setting {
        name: "slow_consumer",
        doc: "What happens when the queue of a client is full: it is closed, loses the oldest or the newest messages of \
              the topic, or gets only the latest.",
        field: Field::Policy(|s| &mut s.core.default_namespace.slow_consumer),
    },
    Setting {
        name: "topic_idle",
        doc: "How long an unused topic lives on.",
        field: Field::Duration(|s| &mut s.core.topic_idle),
    },
    Setting {
        name: "topic_quarantine",
        doc: "How long a topic that keeps crashing is refused (`topic_unavailable`) before it starts afresh.",
        field: Field::Duration(|s| &mut s.core.topic_quarantine),
    },
    Setting {
        name: "drain_timeout",
        doc: "How long the end of the server, or of one connection, may take to deliver what is queued.",
        field: Field::Duration(|s| &mut s.core.drain_timeout),
    },
    Setting {
        name: "write_timeout",
        doc: "How long a client may take nothing of what waits for it until it is cut off, if none of its topics gives it \
              `stall_timeout`.",
        field: Field::Duration(|s| &mut s.core.write_timeout),
    },
    Setting {
        name: "stall_timeout",
        doc: "The same for a client with a topic under `conflate`, or, over WebSocket and server-sent events, under \
              `drop_oldest` or `drop_newest`; may be shorter, too.",
        field: Field::Duration(|s| &mut s.core.stall_timeout),
    },
    Setting {
        name: "drain_period",
        doc: "Over how long the end of the server closes connections, a few at a time; a part of `drain_timeout`, and cut to half of it. `0 s` \
              closes them all at once.",
        field: Field::Duration(|s| &mut s.core.drain_period),
    },
    Setting {
        name: "restart_time",
        doc: "How long the port may be closed between the end of a drain and the next start. Clients that a drain sends away are \
              told to come back after the rest of `drain_period`, this time, and up to 2 s more. `0 s` where another process \
              takes over the port at once.",
        field: Field::Duration(|s| &mut s.core.restart_time),
    },
    Setting {
        name: "tcp_keepalive",
        doc: "Idle time before TCP keep-alive probes a peer, give or take a quarter; then every quarter of it.",
        field: Field::Duration(|s| &mut s.core.tcp_keepalive),
    },
    Setting {
        name: "tcp_user_timeout",
        doc: "How long a client may take nothing of what is sent, or answer no probe, before the kernel ends the connection; \
              at least twice `stall_timeout` for a client that is given that. Less than twice `tcp_keepalive`, and one \
              lost probe ends an idle client.",
        field: Field::Duration(|s| &mut s.core.tcp_user_timeout),
    },
    Setting {
        name: "send_buffer_bytes",
        doc: "Bytes of the kernel's send buffer for one connection (the kernel doubles the value).",
        field: Field::Bytes(|s| &mut s.core.send_buffer_bytes),
    },
    Setting {
        name: "memory_budget_bytes",
        doc: "Bytes that messages, queues, sessions and connections may take together; 0 for no budget. At 80 % \
              strangers give back what they hold, and where that is not enough history is trimmed, at 90 % detached \
              sessions end, at 92 % the clients with the largest queues are closed, at 95 % new clients are refused.",
        field: Field::Bytes(|s| &mut s.core.memory_budget_bytes),
    },
    Setting {
        name: "input_share",
        doc: "Per cent of `memory_budget_bytes` that all clients together may take with frames and heads without an end, and \
              with messages that wait. Beyond it connections of the address that holds most are closed \
              (`server_overloaded`).",
        field: Field::Count(|s| &mut s.core.input_share),
    },
    Setting {
        name: "backlog",
        doc: "Connections the kernel holds until they are accepted; the system's `somaxconn` caps it.",
        field: Field::Count32(|s| &mut s.core.backlog),
    },
    Setting {
        name: "allow_publish",
        doc: "Whether clients may publish that are not known to be on this machine: those of a listener that is not on loopback, \
              and those that a proxy has passed on.",
        field: Field::Boolean(|s| &mut s.core.allow_publish),
    },
];

/// The settings that a table `[namespace.NAME]` may have too. At the top level they are those of the default namespace.
const OF_A_NAMESPACE: &[&str] =
    &["history", "history_messages", "history_bytes", "history_age", "resume", "slow_consumer"];

/// The values that stand on the command line, as text, and the file that it names.
#[derive(Debug, Default)]
pub(crate) struct Flags {
    pub(crate) file: Option<PathBuf>,
    /// Indexes into [`TABLE`]; only a list of addresses has more than one text.
    pub(crate) values: Vec<(usize, Vec<String>)>,
}

/// Settings in force, and where each of them came from.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) settings: Settings,
    /// One entry for each of [`TABLE`].
    origins: Vec<Origin>,
    sections: Vec<Section>,
}

/// A table `[namespace.NAME]` of the file.
#[derive(Debug)]
struct Section {
    name: String,
    origin: Origin,
    /// What is written in it, by index into [`TABLE`]; everything else is inherited.
    values: Vec<(usize, Value, Origin)>,
}

/// Where a value was written.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    Default,
    File {
        path: PathBuf,
        line: usize,
    },
    Variable(String),
    Flag(String),
    /// Nowhere: it follows from the memory there is.
    Memory(Memory),
    /// Nowhere: it follows from `heartbeat_interval`.
    Heartbeat,
}

/// Why the settings cannot be used; each says where, what, and what was expected instead.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("{origin}{} is not a setting{}", in_file(origin, name), did_you_mean(nearest.as_deref()))]
    Unknown { origin: Origin, name: String, nearest: Option<String> },
    #[error(
        "{origin}: [{name}] is not a setting: the tables are called [namespace.NAME], and all other settings stand at the \
         top level of the file"
    )]
    UnknownTable { origin: Origin, name: String },
    #[error("{origin}: {name} is not a setting of a namespace: {key} stands at the top level, above the first table")]
    Misplaced { origin: Origin, name: String, key: &'static str },
    #[error("{origin}: {name} = {value}: expected {expected}")]
    BadValue { origin: Origin, name: String, value: String, expected: String },
    #[error("{}:{line}: {message}", path.display())]
    NotToml { path: PathBuf, line: usize, message: String },
    #[error("cannot read {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
}

/// Everything that is wrong with the settings, so that one run shows it all.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n"))]
pub(crate) struct Problems(pub(crate) Vec<Problem>);

impl Loaded {
    /// Reads the file, then the variables, then the flags; the later one wins, and all of them must be right. `memory` is
    /// what the budget follows from if none of them has it.
    ///
    /// # Errors
    ///
    /// Everything that is wrong, in that order.
    pub(crate) fn read(
        flags: &Flags,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        memory: Option<Memory>,
    ) -> Result<Self, Problems> {
        let origins = vec![Origin::Default; TABLE.len()];
        let mut loaded = Self { settings: Settings::default(), origins, sections: Vec::new() };
        let mut problems = Vec::new();
        let mut variables: Vec<(String, String)> = variables
            .into_iter()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
            .filter(|(name, _)| name.starts_with(PREFIX))
            .collect();
        variables.sort();

        let file_by_variable = variables.iter().find(|(name, _)| name == FILE_VARIABLE).map(|(_, path)| path.into());
        if let Some(path) = flags.file.clone().or(file_by_variable) {
            loaded.read_file(&path, &mut problems);
        }
        for (name, value) in variables.iter().filter(|(name, _)| name != FILE_VARIABLE) {
            loaded.read_variable(name, value, &mut problems);
        }
        for (index, texts) in &flags.values {
            let origin = Origin::Flag(flag_name(&TABLE[*index]));
            loaded.set(*index, TABLE[*index].parse(texts), &texts.join(","), origin, &mut problems);
        }
        if let Some(memory) = memory.filter(|_| !loaded.is_set("memory_budget_bytes")) {
            loaded.settings.core.memory_budget_bytes = memory.budget();
            loaded.origins[index_of("memory_budget_bytes")] = Origin::Memory(memory);
        }
        loaded.follow_heartbeat();
        loaded.add_namespaces();
        if problems.is_empty()
            && let Err(error) = loaded.settings.validate()
        {
            let index = TABLE.iter().position(|setting| setting.is_meant_by(&error));
            // What is wrong with no single setting is that there are too many namespaces.
            let last = loaded.sections.last().map(|section| &section.origin);
            let origin = index.map(|index| &loaded.origins[index]).or(last).cloned().unwrap_or(Origin::Default);
            let name = index.map_or_else(|| error.key.into_owned(), |index| TABLE[index].name.to_owned());
            let (value, expected) = (error.value, error.expected.to_owned());
            problems.push(Problem::BadValue { origin, name, value, expected });
        }
        if problems.is_empty() { Ok(loaded) } else { Err(Problems(problems)) }
    }

    fn read_file(&mut self, path: &Path, problems: &mut Vec<Problem>) {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(source) => return problems.push(Problem::Unreadable { path: path.into(), source }),
        };
        let file = File { path, text: &text };
        let table = match DeTable::parse(&text) {
            Ok(table) => table.into_inner(),
            Err(error) => {
                let line = file.line(error.span().map_or(0, |span| span.start));
                let message = error.message().to_owned();
                return problems.push(Problem::NotToml { path: path.into(), line, message });
            }
        };
        for (key, value) in in_order(&table) {
            let origin = file.origin(key.span());
            let name: &str = key.get_ref();
            if let Some(index) = TABLE.iter().position(|setting| setting.name == name) {
                let shown = file.shown(value.span());
                self.set(index, TABLE[index].parse_toml(value.get_ref()), shown, origin, problems);
                continue;
            }
            match value.get_ref() {
                DeValue::Table(namespaces) if name == "namespace" => {
                    for (key, value) in in_order(namespaces) {
                        self.read_namespace(&file, key, value, problems);
                    }
                }
                DeValue::Table(_) => problems.push(Problem::UnknownTable { origin, name: one_line(name) }),
                _ => {
                    let nearest = nearest(name, TABLE.iter().map(|setting| setting.name.to_owned()));
                    problems.push(Problem::Unknown { origin, name: one_line(name), nearest });
                }
            }
        }
    }

    fn read_namespace(
        &mut self,
        file: &File<'_>,
        key: &Spanned<DeString<'_>>,
        value: &Spanned<DeValue<'_>>,
        problems: &mut Vec<Problem>,
    ) {
        let name: &str = key.get_ref();
        let origin = file.origin(key.span());
        let path = format!("namespace.{}", toml_key(name));
        let DeValue::Table(entries) = value.get_ref() else {
            let (value, expected) =
                (one_line(file.shown(value.span())), format!("a table, which begins with [{path}]"));
            return problems.push(Problem::BadValue { origin, name: path, value, expected });
        };
        let named = [(name.to_owned(), Namespace::default())].into();
        if let Err(error) = (Config { namespaces: named, ..Config::default() }).validate() {
            let (origin, name, expected) = (origin.clone(), "namespace".to_owned(), error.expected.to_owned());
            problems.push(Problem::BadValue { origin, name, value: error.value, expected });
        }
        let mut values = Vec::new();
        for (key, value) in in_order(entries) {
            let origin = file.origin(key.span());
            let key: &str = key.get_ref();
            let name = format!("{path}.{}", toml_key(key));
            let index = TABLE.iter().position(|setting| setting.name == key);
            let Some(index) = index.filter(|index| OF_A_NAMESPACE.contains(&TABLE[*index].name)) else {
                problems.push(match index {
                    Some(index) => Problem::Misplaced { origin, name, key: TABLE[index].name },
                    None => {
                        let nearest = nearest(key, OF_A_NAMESPACE.iter().map(|&name| name.to_owned()));
                        Problem::Unknown { origin, name, nearest }
                    }
                });
                continue;
            };
            let setting = &TABLE[index];
            match setting.check(setting.parse_toml(value.get_ref())) {
                Ok(value) => values.push((index, value, origin)),
                Err(expected) => {
                    let value = one_line(file.shown(value.span()));
                    problems.push(Problem::BadValue { origin, name, value, expected });
                }
            }
        }
        self.sections.push(Section { name: name.to_owned(), origin, values });
    }

    fn read_variable(&mut self, name: &str, value: &str, problems: &mut Vec<Problem>) {
        let origin = Origin::Variable(name.to_owned());
        let Some(index) = TABLE.iter().position(|setting| variable_name(setting) == name) else {
            let known = TABLE.iter().map(variable_name).chain([FILE_VARIABLE.to_owned()]);
            let nearest = nearest(name, known);
            return problems.push(Problem::Unknown { origin, name: name.to_owned(), nearest });
        };
        let setting = &TABLE[index];
        let texts: Vec<String> = match setting.field {
            Field::Addresses(_) | Field::Origins(_) => value.split(',').map(|part| part.trim().to_owned()).collect(),
            _ => vec![value.to_owned()],
        };
        self.set(index, setting.parse(&texts), value, origin, problems);
    }

    /// Takes over one value, or says why not.
    fn set(&mut self, index: usize, value: Option<Value>, shown: &str, origin: Origin, problems: &mut Vec<Problem>) {
        let setting = &TABLE[index];
        match setting.check(value) {
            Ok(value) => {
                setting.assign(&mut self.settings, value);
                self.origins[index] = origin;
            }
            Err(expected) => {
                let secret = matches!(setting.field, Field::Secret(_));
                let value = if secret { HIDDEN.to_owned() } else { one_line(shown) };
                let name = setting.name.to_owned();
                problems.push(Problem::BadValue { origin, name, value, expected });
            }
        }
    }

    /// Makes each namespace of the file the default one with its own values over it. Last, because the default one may
    /// come from variables and flags.
    fn add_namespaces(&mut self) {
        let mut settings = Settings::default();
        for section in &self.sections {
            settings.core.default_namespace = self.settings.core.default_namespace.clone();
            for (index, value, _) in &section.values {
                TABLE[*index].assign(&mut settings, value.clone());
            }
            let namespace = settings.core.default_namespace.clone();
            self.settings.core.namespaces.insert(section.name.clone(), namespace);
        }
    }

    /// Who has pings sent often wants to know soon that nobody answers them.
    fn follow_heartbeat(&mut self) {
        let core = &mut self.settings.core;
        let heartbeats = core.heartbeat_interval.saturating_mul(HEARTBEATS_WITHOUT_ANSWER).max(SHORTEST_FOLLOWING);
        let index = index_of("pong_timeout");
        if matches!(self.origins[index], Origin::Default) && heartbeats < core.pong_timeout {
            core.pong_timeout = heartbeats;
            self.origins[index] = Origin::Heartbeat;
        }
    }

    /// Whether the setting was written anywhere, be it with its default.
    pub(crate) fn is_set(&self, name: &str) -> bool {
        !matches!(self.origins[index_of(name)], Origin::Default | Origin::Memory(_) | Origin::Heartbeat)
    }

    /// One setting in force and its origin, for the log.
    pub(crate) fn describe(&self, name: &str) -> String {
        let index = index_of(name);
        format!(
            "{name} = {} ({})",
            TABLE[index].read(&self.settings).toml(),
            one_line(&self.origins[index].to_string())
        )
    }

    /// Every setting in force as a configuration file, each with its origin.
    pub(crate) fn show(&self) -> String {
        let mut text = String::from("# The settings in force, each with where its value comes from.\n");
        for (setting, origin) in TABLE.iter().zip(&self.origins) {
            let value = setting.read(&self.settings).toml();
            let origin = one_line(&origin.to_string());
            let _ = write!(text, "\n# {}\n{} = {value}  # {origin}\n", setting.doc, setting.name);
        }
        for section in &self.sections {
            let origin = one_line(&section.origin.to_string());
            let _ = write!(text, "\n[namespace.{}]  # {origin}\n", toml_key(&section.name));
            for (index, setting) in TABLE.iter().enumerate().filter(|(_, s)| OF_A_NAMESPACE.contains(&s.name)) {
                let (value, origin) = match section.values.iter().find(|(own, ..)| *own == index) {
                    Some((_, value, origin)) => (value.toml(), origin.to_string()),
                    None => (setting.read(&self.settings).toml(), format!("inherited, {}", self.origins[index])),
                };
                let _ = writeln!(text, "{} = {value}  # {}", setting.name, one_line(&origin));
            }
        }
        text
    }
}

impl Setting {
    /// Whether the core's complaint is about this setting. The default namespace is the top level of the file.
    fn is_meant_by(&self, error: &ConfigError) -> bool {
        error.key.strip_prefix("default_namespace.").unwrap_or(&error.key) == self.name
    }

    /// What may be written as this setting's value, in the words of the core's own check where it has a range.
    pub(crate) fn expected(&self) -> String {
        let range = self.range();
        match self.field {
            Field::Addresses(_) => {
                "an address and a port, or several, such as \"127.0.0.1:8081\" or \"localhost:8081\"; or none"
                    .to_owned()
            }
            Field::Origins(_) => "origins such as \"https://app.example\", or \"*\" for any".to_owned(),
            Field::Secret(_) => range.unwrap_or("a text").to_owned(),
            Field::Count(_) | Field::Count32(_) => range.unwrap_or("a whole number").to_owned(),
            Field::Bytes(_) => {
                format!("{}, as a whole number of bytes or with a unit such as \"64 KiB\"", range.unwrap_or("a size"))
            }
            Field::Duration(_) => format!("{}, with a unit such as \"10 s\"", range.unwrap_or("a duration")),
            Field::Boolean(_) => "true or false".to_owned(),
            Field::Policy(_) => "\"disconnect\", \"drop_oldest\", \"drop_newest\" or \"conflate\"".to_owned(),
            Field::Resume(_) => "\"position\", \"session\" or \"off\"".to_owned(),
            Field::Level(_) => "\"off\", \"error\", \"warn\", \"info\", \"debug\" or \"trace\"".to_owned(),
        }
    }

    /// The value, or what was expected instead: it does not read as its kind (`None`), or the core refuses it.
    fn check(&self, value: Option<Value>) -> Result<Value, String> {
        let value = value.ok_or_else(|| self.expected())?;
        if let Value::Addresses(addresses) = &value
            && let Some(address) = twice(addresses)
        {
            return Err(format!("each address once, and {address} is there twice"));
        }
        let mut alone = Settings::default();
        self.assign(&mut alone, value.clone());
        let refused = alone.validate().is_err_and(|error| self.is_meant_by(&error));
        if refused { Err(self.expected()) } else { Ok(value) }
    }

    /// Whether the setting can stand on the command line.
    pub(crate) fn has_flag(&self) -> bool {
        !matches!(self.field, Field::Secret(_))
    }

    /// The range the core allows, asked for with a value that is above all of them.
    fn range(&self) -> Option<&'static str> {
        let mut settings = Settings::default();
        match self.field {
            Field::Count(field) | Field::Bytes(field) => *field(&mut settings) = usize::MAX,
            Field::Count32(field) => *field(&mut settings) = u32::MAX,
            Field::Duration(field) => *field(&mut settings) = Duration::MAX,
            Field::Secret(field) => *field(&mut settings) = ApiKey(" ".to_owned()),
            Field::Addresses(_)
            | Field::Origins(_)
            | Field::Boolean(_)
            | Field::Level(_)
            | Field::Policy(_)
            | Field::Resume(_) => {}
        }
        settings.validate().err().filter(|error| self.is_meant_by(error)).map(|error| error.expected)
    }

    /// The default as the file would have it, or described if it depends on the machine or on another setting.
    pub(crate) fn default_text(&self) -> String {
        self.described_default().map_or_else(|| self.read(&Settings::default()).toml(), str::to_owned)
    }

    fn described_default(&self) -> Option<&'static str> {
        match self.name {
            "threads" => Some("the number of cores"),
            "pong_timeout" => Some("20 s, or five times `heartbeat_interval` if that is less"),
            "memory_budget_bytes" => Some("half of the memory"),
            _ => None,
        }
    }

    fn read(&self, settings: &Settings) -> Value {
        let mut settings = settings.clone();
        match self.field {
            Field::Addresses(field) => Value::Addresses(field(&mut settings).clone()),
            Field::Count(field) => Value::Count(*field(&mut settings)),
            Field::Count32(field) => Value::Count(*field(&mut settings) as usize),
            Field::Bytes(field) => Value::Bytes(*field(&mut settings)),
            Field::Duration(field) => Value::Duration(*field(&mut settings)),
            Field::Boolean(field) => Value::Boolean(*field(&mut settings)),
            Field::Level(field) => Value::Level(*field(&mut settings)),
            Field::Policy(field) => Value::Policy(*field(&mut settings)),
            Field::Resume(field) => Value::Resume(*field(&mut settings)),
            Field::Origins(field) => Value::Origins(field(&mut settings).clone()),
            Field::Secret(field) => Value::Secret(field(&mut settings).clone()),
        }
    }

    fn assign(&self, settings: &mut Settings, value: Value) {
        match (&self.field, value) {
            (Field::Addresses(field), Value::Addresses(value)) => *field(settings) = value,
            (Field::Count(field), Value::Count(value)) => *field(settings) = value,
            // A count that does not fit is refused by the core like any other that is too large.
            (Field::Count32(field), Value::Count(value)) => *field(settings) = value.try_into().unwrap_or(u32::MAX),
            (Field::Bytes(field), Value::Bytes(value)) => *field(settings) = value,
            (Field::Duration(field), Value::Duration(value)) => *field(settings) = value,
            (Field::Boolean(field), Value::Boolean(value)) => *field(settings) = value,
            (Field::Level(field), Value::Level(value)) => *field(settings) = value,
            (Field::Policy(field), Value::Policy(value)) => *field(settings) = value,
            (Field::Resume(field), Value::Resume(value)) => *field(settings) = value,
            (Field::Origins(field), Value::Origins(value)) => *field(settings) = value,
            (Field::Secret(field), Value::Secret(value)) => *field(settings) = value,
            _ => unreachable!("parse and parse_toml give a value of the field's own kind"),
        }
    }

    /// Reads the text of a variable or of a flag.
    fn parse(&self, texts: &[String]) -> Option<Value> {
        // An empty text is how a variable or a flag says an empty list.
        let texts = if texts == [""] { &[] } else { texts };
        if let Field::Origins(_) = self.field {
            return Some(Value::Origins(texts.to_vec()));
        }
        if let Field::Addresses(_) = self.field {
            let addresses: Option<Vec<Vec<SocketAddr>>> = texts.iter().map(|text| addresses(text)).collect();
            return addresses.map(|addresses| Value::Addresses(addresses.concat()));
        }
        let text = texts.last().map_or("", |text| text.trim());
        match self.field {
            Field::Addresses(_) | Field::Origins(_) => None,
            Field::Secret(_) => Some(Value::Secret(ApiKey(text.to_owned()))),
            Field::Count(_) | Field::Count32(_) => whole_number(text).map(Value::Count),
            Field::Bytes(_) => size(text).map(Value::Bytes),
            Field::Duration(_) => duration(text).map(Value::Duration),
            Field::Boolean(_) => text.parse().ok().map(Value::Boolean),
            Field::Level(_) => text.parse().ok().map(Value::Level),
            Field::Policy(_) => text.parse().ok().map(Value::Policy),
            Field::Resume(_) => text.parse().ok().map(Value::Resume),
        }
    }

    /// Reads a value of the file, whose type must fit: a number is not written as a string there.
    fn parse_toml(&self, value: &DeValue<'_>) -> Option<Value> {
        match (&self.field, value) {
            (Field::Addresses(_) | Field::Origins(_), DeValue::Array(items)) => {
                let texts: Option<Vec<String>> =
                    items.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect();
                self.parse(&texts?)
            }
            (Field::Count(_) | Field::Count32(_) | Field::Bytes(_), DeValue::Integer(number)) => {
                let number = usize::from_str_radix(number.as_str(), number.radix()).ok()?;
                Some(if let Field::Bytes(_) = self.field { Value::Bytes(number) } else { Value::Count(number) })
            }
            (Field::Boolean(_), DeValue::Boolean(value)) => Some(Value::Boolean(*value)),
            (
                Field::Addresses(_)
                | Field::Origins(_)
                | Field::Secret(_)
                | Field::Bytes(_)
                | Field::Duration(_)
                | Field::Level(_)
                | Field::Policy(_)
                | Field::Resume(_),
                DeValue::String(text),
            ) => self.parse(&[text.as_ref().to_owned()]),
            _ => None,
        }
    }
}

/// An address and a port, or all addresses of a host name.
fn addresses(text: &str) -> Option<Vec<SocketAddr>> {
    if let Ok(address) = text.parse() {
        return Some(vec![address]);
    }
    let found: Vec<SocketAddr> = text.to_socket_addrs().ok()?.collect();
    (!found.is_empty()).then_some(found)
}

/// A setting's value of any kind.
#[derive(Clone, Debug)]
enum Value {
    Addresses(Vec<SocketAddr>),
    Count(usize),
    Bytes(usize),
    Duration(Duration),
    Boolean(bool),
    Level(LevelFilter),
    Policy(SlowConsumer),
    Resume(Resume),
    Origins(Vec<String>),
    Secret(ApiKey),
}

impl Value {
    /// As the file would have it.
    fn toml(&self) -> String {
        match self {
            Self::Addresses(addresses) => {
                let quoted: Vec<String> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
                format!("[{}]", quoted.join(", "))
            }
            Self::Count(count) => count.to_string(),
            Self::Bytes(bytes) => match SIZE_UNITS.iter().find(|(_, factor)| *factor > 1 && bytes % factor == 0) {
                Some((unit, factor)) if *bytes > 0 => format!("\"{} {unit}\"", bytes / factor),
                _ => bytes.to_string(),
            },
            Self::Duration(duration) if duration.subsec_nanos() == 0 => format!("\"{} s\"", duration.as_secs()),
            Self::Duration(duration) => format!("\"{} ms\"", duration.as_millis()),
            Self::Boolean(value) => value.to_string(),
            Self::Policy(policy) => format!("\"{policy}\""),
            Self::Resume(resume) => format!("\"{resume}\""),
            Self::Origins(origins) => {
                let quoted: Vec<String> = origins.iter().map(|origin| format!("\"{origin}\"")).collect();
                format!("[{}]", quoted.join(", "))
            }
            Self::Secret(key) => key.reveal().map_or("\"\"", |_| HIDDEN).to_owned(),
            Self::Level(level) => format!("\"{}\"", level.as_str().to_ascii_lowercase()),
        }
    }
}

/// A file of settings, to tell where in it something stands.
struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl<'a> File<'a> {
    fn line(&self, offset: usize) -> usize {
        1 + self.text.as_bytes()[..offset.min(self.text.len())].iter().filter(|&&byte| byte == b'\n').count()
    }

    fn origin(&self, place: Range<usize>) -> Origin {
        Origin::File { path: self.path.into(), line: self.line(place.start) }
    }

    fn shown(&self, place: Range<usize>) -> &'a str {
        self.text.get(place).unwrap_or_default()
    }
}

/// The entries of a table as they stand in the file, so that mistakes are told from its top to its end.
fn in_order<'a, 'b>(table: &'a DeTable<'b>) -> Vec<(&'a Spanned<DeString<'b>>, &'a Spanned<DeValue<'b>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "file {}:{line}", path.display()),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Flag(name) => write!(f, "flag --{name}"),
            Self::Memory(memory) => memory.fmt(f),
            Self::Heartbeat => f.write_str("five times heartbeat_interval"),
        }
    }
}

/// The place in [`TABLE`] of a setting that this program itself asks for.
fn index_of(name: &str) -> usize {
    TABLE.iter().position(|setting| setting.name == name).expect("the name of a setting")
}

pub(crate) fn variable_name(setting: &Setting) -> String {
    format!("{PREFIX}{}", setting.name.to_ascii_uppercase())
}

pub(crate) fn flag_name(setting: &Setting) -> String {
    setting.name.replace('_', "-")
}

fn whole_number(text: &str) -> Option<usize> {
    if text.starts_with(['_', '+']) {
        return None;
    }
    text.replace('_', "").parse().ok()
}

/// A size in bytes, with or without one of the binary units.
fn size(text: &str) -> Option<usize> {
    let (number, unit) = split_unit(text);
    let factor = match unit {
        "" => 1,
        unit => SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1,
    };
    whole_number(number)?.checked_mul(factor)
}

/// A duration, always with its unit: a bare number would have to be guessed at.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split_unit(text);
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    u64::try_from(whole_number(number)?).ok()?.checked_mul(milliseconds).map(Duration::from_millis)
}

fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

/// An address that cannot be listened on because it is already; each port 0 becomes a port of its own.
fn twice(addresses: &[SocketAddr]) -> Option<SocketAddr> {
    let mut before = addresses.iter().enumerate();
    before
        .find(|(index, address)| address.port() != 0 && addresses[..*index].contains(address))
        .map(|(_, twice)| *twice)
}

/// The known name that a mistyped one most likely meant, if at most a third of it is mistyped. The prefix of the
/// variables does not count: every one of them has it, right.
fn nearest(name: &str, known: impl Iterator<Item = String>) -> Option<String> {
    let bare = |name: &str| name.strip_prefix(PREFIX).unwrap_or(name).to_ascii_lowercase();
    let name = bare(name);
    known
        .map(|candidate| (strsim::damerau_levenshtein(&name, &bare(&candidate)), candidate))
        .filter(|(distance, _)| distance * 3 <= name.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The name, unless the origin is a variable, which has named it already.
fn in_file(origin: &Origin, name: &str) -> String {
    if let Origin::Variable(_) = origin { String::new() } else { format!(": {name}") }
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |nearest| format!("; did you mean {nearest}?"))
}

/// A key as the file would have it, quoted where it must be.
fn toml_key(name: &str) -> String {
    if !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') {
        return name.to_owned();
    }
    format!("\"{}\"", one_line(&name.replace('\\', "\\\\").replace('"', "\\\"")))
}

/// Keeps a quoted value or a path from breaking out of its line, in a message as in a comment.
fn one_line(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// Heartbeats after which a client without an answer is taken for dead, where `pong_timeout` is not set.
const HEARTBEATS_WITHOUT_ANSWER: u32 = 5;
/// No shorter than this, or a network that stalls for a moment would end clients that live.
const SHORTEST_FOLLOWING: Duration = Duration::from_secs(1);

const PREFIX: &str = "JANUS_";
const FILE_VARIABLE: &str = "JANUS_CONFIG";
const SIZE_UNITS: &[(&str, usize)] = &[("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

#[cfg(test)]
mod tests {
    use super::*;

    fn read_file(text: &str) -> Result<Loaded, Problems> {
        read(text, Flags::default())
    }

    fn read(file: &str, flags: Flags) -> Result<Loaded, Problems> {
        let mut temporary = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut temporary, file.as_bytes()).unwrap();
        Loaded::read(&Flags { file: Some(temporary.path().into()), ..flags }, [], None)
    }

    /// The names of a struct's fields, from how `{:#?}` shows it.
    fn fields_of(debug: &str) -> Vec<&str> {
        let fields = debug.lines().filter_map(|line| line.strip_prefix("    ")?.split_once(": ").map(|(name, _)| name));
        fields.filter(|name| !name.starts_with(' ')).collect()
    }

    #[test]
    fn the_table_has_every_field_of_the_core_config() {
        let core = format!("{:#?}", Config::default());
        let mut fields = fields_of(&core);
        // The default namespace is the top level itself, and the others are tables.
        fields.retain(|name| !["default_namespace", "namespaces"].contains(name));
        // The binary has no hooks.
        fields.retain(|name| !name.contains("hook"));
        fields.extend(OF_A_NAMESPACE);
        fields.extend(["log", "log_queue", "api_key", "max_api_connections"]);
        let mut names: Vec<&str> = TABLE.iter().map(|setting| setting.name).collect();
        fields.sort_unstable();
        names.sort_unstable();
        assert_eq!(names, fields);
    }

    #[test]
    fn operations_md_lists_exactly_these_settings_with_these_defaults() {
        let document = include_str!("../../docs/OPERATIONS.md");
        let mut table = String::from("| setting | default | accepted | what it is |\n|---|---|---|---|\n");
        for setting in TABLE {
            let default = setting.default_text();
            let default = if setting.described_default().is_some() { default } else { format!("`{default}`") };
            let accepted = setting.range().map_or_else(|| setting.expected(), str::to_owned);
            let _ = writeln!(table, "| `{}` | {default} | {accepted} | {} |", setting.name, setting.doc);
        }
        // The empty line ends the table: no row more than these.
        table.push('\n');
        assert!(document.contains(&table), "docs/OPERATIONS.md must contain this table:\n\n{table}");
    }

    #[test]
    fn a_table_of_a_namespace_may_have_every_field_of_a_namespace() {
        assert_eq!(fields_of(&format!("{:#?}", Namespace::default())), OF_A_NAMESPACE);
    }

    #[test]
    fn a_namespace_inherits_what_it_leaves_out() {
        let file = "history = true\nhistory_messages = 7\n[namespace.quotes]\nslow_consumer = \"conflate\"\n\
                    [namespace.'a \"b\\']\nhistory = false\nhistory_messages = 8";
        let mut flags = Flags::default();
        flags.values.push((index_of("history_bytes"), vec!["2 KiB".to_owned()]));
        let core = read(file, flags).unwrap().settings.core;
        let default = Namespace { history: true, history_messages: 7, history_bytes: 2_048, ..Namespace::default() };
        assert_eq!(core.default_namespace, default);
        assert_eq!(core.namespaces.len(), 2);
        let conflate = Namespace { slow_consumer: SlowConsumer::Conflate, ..default.clone() };
        assert_eq!(core.namespaces["quotes"], conflate);
        let other = Namespace { history: false, history_messages: 8, ..default };
        assert_eq!(core.namespaces["a \"b\\"], other);
    }

    #[test]
    fn the_examples_of_operations_md_are_accepted() {
        let document = include_str!("../../docs/OPERATIONS.md");
        let examples = document.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
        let namespaces: usize = examples.map(|text| read_file(text).unwrap().settings.core.namespaces.len()).sum();
        assert_ne!(namespaces, 0, "one of them is about namespaces");
    }

    #[test]
    fn what_show_prints_reads_back_as_the_same_settings() {
        let changed = "listen = [\"[::1]:0\", \"10.0.0.1:9\"]\nhttp_listen = []\nallowed_origins = \"*\"\nmax_queue_bytes = 100001\nframe_timeout = \"1500 ms\"\n\
                       topic_idle = \"2m\"\nallow_publish = true\nlog = \"DEBUG\"\nthreads = 0x10\n\
                       history = true\nhistory_age = \"5 s\"\nresume = \"session\"\nslow_consumer = \"drop_oldest\"";
        let namespaces =
            "history_age = \"5 s\"\n[namespace.quotes]\nhistory = true\n[namespace.'a \"b\\']\nhistory_bytes = 5000";
        for text in ["", changed, namespaces] {
            let first = read_file(text).unwrap();
            let second = read_file(&first.show()).unwrap();
            assert_eq!(first.settings.core, second.settings.core);
            assert_eq!(first.settings.log, second.settings.log);
        }
    }

    #[test]
    fn pings_that_come_often_are_to_be_answered_sooner_unless_it_is_written_how_soon() {
        for (file, expected) in [
            ("", 20_000),
            ("heartbeat_interval = \"60 s\"", 20_000),
            ("heartbeat_interval = \"1 s\"", 5_000),
            ("heartbeat_interval = \"1 s\"\npong_timeout = \"20 s\"", 20_000),
            ("heartbeat_interval = \"1 s\"\npong_timeout = \"0 s\"", 0),
        ] {
            let loaded = read_file(file).unwrap();
            assert_eq!(loaded.settings.core.pong_timeout, Duration::from_millis(expected), "{file}");
        }
        let shown = read_file("heartbeat_interval = \"1 s\"").unwrap().describe("pong_timeout");
        assert_eq!(shown, "pong_timeout = \"5 s\" (five times heartbeat_interval)");
        let problems = read_file("pong_timeout = \"50 ms\"").unwrap_err().to_string();
        assert!(
            problems.contains("pong_timeout = \"50 ms\": expected 0 s for no limit, or 100 ms to 7 days"),
            "{problems}"
        );
    }

    #[test]
    fn a_key_is_shown_nowhere() {
        let key = "correct-horse-battery";
        let loaded = read_file(&format!("api_key = \"{key}\"\n")).unwrap();
        assert_eq!(loaded.settings.api_key.reveal(), Some(key));
        assert!(loaded.show().contains("\napi_key = \"***\"  # file "), "{}", loaded.show());
        for text in [loaded.show(), format!("{loaded:?}"), loaded.describe("api_key")] {
            assert!(!text.contains(key), "{text}");
        }
        for bad in ["tooshort", "with blanks in between", "ümlaut-in-a-secret-key", &"x".repeat(257)] {
            let problems = read_file(&format!("api_key = \"{bad}\"\n")).unwrap_err().to_string();
            assert!(
                problems.ends_with(
                    ":1: api_key = \"***\": expected 16 to 256 letters, digits and characters of \
                                        -._~+/=, or \"\" for none"
                ),
                "{problems}"
            );
        }
        let variables = [("JANUS_API_KEY".into(), key.into())];
        let loaded = Loaded::read(&Flags::default(), variables, None).unwrap();
        assert_eq!(loaded.settings.api_key.reveal(), Some(key));
        assert!(loaded.show().contains("\napi_key = \"***\"  # variable JANUS_API_KEY\n"), "{}", loaded.show());
    }

    #[test]
    fn a_list_may_be_empty() {
        let variables =
            [("JANUS_HTTP_LISTEN".into(), "".into()), ("JANUS_ALLOWED_ORIGINS".into(), "*, http://a".into())];
        let core = Loaded::read(&Flags::default(), variables, None).unwrap().settings.core;
        assert_eq!((core.http_listen, core.allowed_origins), (vec![], vec!["*".to_owned(), "http://a".to_owned()]));
        assert_eq!(read_file("http_listen = []").unwrap().settings.core.http_listen, []);
        assert_eq!(read_file("listen = []").unwrap().settings.core.listen, []);
        let problems = read_file("allowed_origins = [\"https://a.example/path\"]").unwrap_err().to_string();
        assert!(problems.ends_with("expected origins such as \"https://app.example\", or \"*\" for any"), "{problems}");
    }

    #[test]
    fn sizes_and_durations_are_read_with_their_units() {
        assert_eq!(size("64 KiB"), Some(65_536));
        assert_eq!(size("1MiB"), Some(1 << 20));
        assert_eq!(size("1_000"), Some(1_000));
        assert_eq!(size("64 KB"), None);
        assert_eq!(size("-1"), None);
        assert_eq!(size("99999999999 GiB"), None);
        assert_eq!(duration("10 s"), Some(Duration::from_secs(10)));
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Some(Duration::from_secs(120)));
        assert_eq!(duration("10"), None);
        assert_eq!(duration("s"), None);
        assert_eq!(duration("1.5 s"), None);
    }

    #[test]
    fn every_problem_of_a_file_is_told_in_the_order_of_its_lines() {
        let problems = read_file("threads = 0\nmax_topcs = 5\nframe_timeout = 10\n[listen]\n").unwrap_err().to_string();
        let lines: Vec<&str> = problems.lines().collect();
        assert!(lines[0].ends_with(":1: threads = 0: expected 1 to 256"), "{problems}");
        assert!(lines[1].ends_with(":2: max_topcs is not a setting; did you mean max_topics?"), "{problems}");
        assert!(lines[2].contains(":3: frame_timeout = 10: expected 10 ms to 7 days, with a unit"), "{problems}");
        assert!(lines[3].contains(":4: listen"), "{problems}");
    }

    #[test]
    fn every_problem_of_a_namespace_is_told_with_its_place() {
        let file = "[namespace.quotes]\nhistry = true\nhistory_age = 5\nmax_topics = 9\nslow_consumer = \"drop\"\n\
                    [namespace.\"a:b\"]\n[namespace]\nhistory = true\n[namespaces.news]\n";
        let problems = read_file(file).unwrap_err().to_string();
        for (line, expected) in [
            ":2: namespace.quotes.histry is not a setting; did you mean history?",
            ":3: namespace.quotes.history_age = 5: expected 10 ms to 7 days, with a unit such as \"10 s\"",
            ":4: namespace.quotes.max_topics is not a setting of a namespace: max_topics stands at the top level",
            ":5: namespace.quotes.slow_consumer = \"drop\": expected \"disconnect\", \"drop_oldest\"",
            ":6: namespace = \"a:b\": expected a name of 1 to 255 bytes without ':'",
            ":8: namespace.history = true: expected a table, which begins with [namespace.history]",
            ":9: [namespaces] is not a setting: the tables are called [namespace.NAME]",
        ]
        .into_iter()
        .enumerate()
        {
            assert!(problems.lines().nth(line).is_some_and(|line| line.contains(expected)), "{expected}: {problems}");
        }
        assert_eq!(problems.lines().count(), 7, "{problems}");
    }

    #[test]
    fn a_namespace_too_many_is_told_with_its_place() {
        let file: String = (0..1_001).map(|number| format!("[namespace.n{number}]\n")).collect();
        let problems = read_file(&file).unwrap_err().to_string();
        assert!(problems.ends_with(":1001: namespaces = 1001: expected at most 1,000 of them"), "{problems}");
    }
}
