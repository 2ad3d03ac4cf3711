//! The server's settings: the table, the layers of values, and every text about a setting.
//!
//! A setting is a row in a table: in `janus_core::Config`, in `janus_core::Namespace`, in the two tables of
//! `janus_access`, in that of `janus_pusher`, or below for the settings of the binary alone. The file's keys, the `JANUS_` variables, the flags with their help, `config show` and docs/SETTINGS.md
//! are made from the rows.
//!
//! | file | content |
//! |---|---|
//! | `mod.rs` | [`Settings`]: the rows of the binary, and the rules across settings |
//! | `table.rs` | all rows as one table, with the names of flags and variables |
//! | `values.rs` | values from text, from TOML, and back to TOML |
//! | `load.rs` | the layers: flags over variables over file over defaults |
//! | `changes.rs` | the differences between settings in force and settings read again |
//! | `derived.rs` | defaults that follow from the machine or from another setting |
//! | `problems.rs` | the origin of a value, and the messages about wrong values and names |
//! | `show.rs` | `config show` |
//! | `example.rs` | a file with every setting as a comment |
//! | `document.rs` | docs/SETTINGS.md, held by a test |

mod changes;
mod derived;
#[cfg(test)]
mod document;
mod example;
mod load;
mod problems;
mod show;
mod table;
#[cfg(test)]
mod tests;
mod values;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use janus_access::{AccessSettings, Ask};
use janus_core::settings::{HIDDEN, Stored, Table as _, Value, secs};
use janus_core::supervision::in_words;
use janus_core::{Config, ConfigError};
use janus_pusher::PusherSettings;
use log::LevelFilter;

use crate::engine::{self, EngineAddresses};
use crate::logging::{Format, LogFilter};

pub(crate) use changes::Changes;
pub(crate) use example::example;
pub(crate) use load::{Flags, Loaded};
pub(crate) use problems::Problems;
pub(crate) use table::{Row, TABLE};
pub(crate) use values::duration;

janus_core::settings! {
    /// The settings of the core, and those of the binary alone.
    #[derive(Clone, Debug)]
    pub(crate) struct Settings {
        "HTTP" {
            /// Key of the HTTP API, sent by its clients as `Authorization: Bearer KEY`. Without a key the API is served
            /// only if every address of `http_listen` and `https_listen` is on loopback, and never to requests passed on by a
            /// proxy. The key is never printed, and has no flag, because every user of a machine can read its command
            /// lines. Several keys with commas between them are good at the same time, so that a key can be replaced without
            /// an interruption.
            api_key: ApiKey = ApiKey::default(), secret(
                ApiKey::accepts,
                "16 to 256 letters, digits and characters of -._~+/=, up to 8 such keys with commas between them, or \"\" \
                 for none"
            ), reload(at_once);

            /// Requests to the HTTP API served at once. A further request gets status 503.
            max_api_connections: usize = 256, count(1..=100_000), reload(at_once);

            /// Addresses of the admin port, for health, figures and the HTTP API, in plain text; none for no admin port.
            /// Port 0 lets the system choose a port. On an address that other machines reach, everything but health
            /// needs the `api_key`.
            admin_listen: Vec<SocketAddr> = vec![SocketAddr::from(([127, 0, 0, 1], 8082))], addresses;
        }

        "Centrifugo" {
            /// Whether clients and backends of Centrifugo are served, on the addresses of `http_listen` and `https_listen`:
            /// clients at `/connection/websocket` with the JSON protocol, and backends at `/centrifuge/api` with a key of
            /// `api_key`. docs/CENTRIFUGE.md says what works, and what does not.
            centrifuge: bool = false, boolean;
        }

        "Shutdown" {
            /// From a stop signal to the beginning of the drain. In the meantime the server still accepts and serves
            /// clients, and `/readyz` of the admin port answers 503, so that load balancers send new clients elsewhere
            /// before the ports close. `0 s` without a load balancer that asks `/readyz`.
            drain_delay: Duration = Duration::ZERO, duration(secs(0)..=secs(3_600)), reload(at_once);
        }

        "Logging" {
            /// How much is logged to standard error: a level and, if some parts of the program need another level, the
            /// targets of their lines, each with a level. A target covers all targets that begin with it. While the server
            /// runs, `janus-server log` changes levels for a while.
            log: LogFilter = LogFilter::level(LevelFilter::Info), text(LogFilter::accepts, LogFilter::EXPECTED), reload(at_once);

            /// The form of log lines: text for people, JSON with an object on each line, or lines for the journal of systemd.
            /// `auto` is journald if JOURNAL_STREAM names standard error, otherwise text.
            log_format: LogFormat = LogFormat(None), one_of(LogFormat::NAMES);

            /// Log lines waiting for standard error. Further lines are lost and counted.
            log_queue: usize = 4_096, count(64..=1 << 20);
        }

        "Cluster" {
            /// Address of a Redis or Valkey server that makes this server a node of a cluster: a message published on one
            /// node reaches the subscribers of all, and a client resumes on any of them. Such as
            /// `redis://:PASSWORD@10.0.0.7:6379`, `rediss://…` for TLS, or `unix:///run/redis.sock`. Several addresses share
            /// the topics among them, and must be the same in the same order on every node: a list in the file, with commas
            /// between them in a variable. Reserved characters of a password are written with percent signs: `%` as `%25`, `@`
            /// as `%40`, `:` as `%3A`, `/` as `%2F`, `?` as `%3F`, `#` as `%23`. Without an address the server is alone. Never
            /// printed, and without a flag, because every user of a machine can read its command lines.
            engine: EngineAddresses = EngineAddresses::default(), secret(|_| true, EngineAddresses::EXPECTED);

            /// File with the addresses of `engine`, one on each line, for an address with a password that should not stand
            /// among the settings. Empty lines and lines that begin with `#` do not count. The file is read at the start alone:
            /// another password or address needs a restart.
            engine_file: Option<PathBuf> = None, path;

            /// What the names of all keys and channels at the engine begin with. Servers with the same engine and the same
            /// prefix are one cluster.
            engine_prefix: String = "janus".to_owned(), text(
                engine::is_prefix,
                "1 to 64 letters, digits and characters of -_.:"
            );

            /// The name of this server among the nodes of its cluster, for people. By default the name of the host.
            node_name: Option<String> = None, text(
                engine::is_node_name,
                "1 to 64 characters without blanks at the ends, or \"\" for the name of the host"
            );
        }

        "Restart" {
            /// File in which a drain leaves the epoch and the last number of each topic. The next server takes them out
            /// of the file and continues the numbers, so that clients resume without a hole after the restart. Without the
            /// file, after a crash, and if the file is more than an hour old, all topics begin afresh, and clients are told
            /// so. Each server needs a file of its own, in a folder in which the server may make files.
            state_file: Option<PathBuf> = None, path;
        }

        nested {
            /// The settings of the core. Unlike a program that embeds the core, the binary has an HTTP port by default.
            core: Config = Config { http_listen: vec![SocketAddr::from(([127, 0, 0, 1], 8080))], ..Config::default() };

            /// Who may do what.
            access: AccessSettings = AccessSettings::default();

            /// An application of Pusher Channels.
            pusher: PusherSettings = PusherSettings::default();
        }
    }
}

impl Settings {
    /// Checks each setting, those of the core first, and then the rules across settings.
    fn validate(&self) -> Result<(), ConfigError> {
        self.core.validate()?;
        self.access.validate()?;
        self.pusher.validate()?;
        self.pusher.check_namespaces(&self.core)?;
        self.check_each()?;
        let Config { listen, tls_listen, http_listen, https_listen, .. } = &self.core;
        if [listen, tls_listen, http_listen, https_listen].iter().all(|addresses| addresses.is_empty()) {
            return Err(ConfigError {
                key: "http_listen".into(),
                value: "[]".to_owned(),
                expected: "an address here or in listen, tls_listen or https_listen, so that clients can connect"
                    .into(),
            });
        }
        self.check_ports()?;
        self.check_questions()?;
        self.check_engine()
    }

    /// Checks that no two addresses of the settings are one port. The system would name the address alone.
    fn check_ports(&self) -> Result<(), ConfigError> {
        let Config { listen, tls_listen, http_listen, https_listen, .. } = &self.core;
        let settings = [
            ("listen", listen),
            ("tls_listen", tls_listen),
            ("http_listen", http_listen),
            ("https_listen", https_listen),
            ("admin_listen", &self.admin_listen),
        ];
        let mut earlier: Vec<(&str, SocketAddr)> = Vec::new();
        for (key, &addr) in settings.iter().flat_map(|(key, addrs)| addrs.iter().map(move |addr| (*key, addr))) {
            if let Some((other, taken)) = earlier.iter().find(|(_, taken)| are_one_port(*taken, addr)) {
                let expected = match *other == key {
                    true => "each address once".to_owned(),
                    false => format!("a port of its own; {other} has {taken}"),
                };
                return Err(ConfigError { key: key.into(), value: addr.to_string(), expected: expected.into() });
            }
            earlier.push((key, addr));
        }
        Ok(())
    }

    /// Checks the addresses of the engine, whose problems are told without their secrets.
    fn check_engine(&self) -> Result<(), ConfigError> {
        let refuse = |key: &'static str, value: String, expected: String| {
            Err(ConfigError { key: key.into(), value, expected: expected.into() })
        };
        if let (false, Some(file)) = (self.engine.is_none(), &self.engine_file) {
            let expected = "no file, because engine has an address already".to_owned();
            return refuse("engine_file", format!("{:?}", file.display().to_string()), expected);
        }
        match self.engine.addresses() {
            Ok(_) => Ok(()),
            Err(error) => {
                let expected = format!("{}; {error}", EngineAddresses::EXPECTED);
                refuse("engine", HIDDEN.to_owned(), expected)
            }
        }
    }

    /// Checks that questions to the backend reach their own limits before those of all hooks.
    fn check_questions(&self) -> Result<(), ConfigError> {
        let (access, core) = (&self.access, &self.core);
        let refuse = |key: &'static str, value: String, expected: String| {
            Err(ConfigError { key: key.into(), value, expected: expected.into() })
        };
        if Ask::is_needed(access) && access.ask_timeout >= core.hook_timeout {
            let expected =
                format!("less than hook_timeout ({}), which ends each question", in_words(core.hook_timeout));
            return refuse("ask_timeout", in_words(access.ask_timeout).to_string(), expected);
        }
        if Ask::is_needed(access) && access.ask_concurrency > core.max_hook_questions {
            let expected = format!("at most max_hook_questions ({}), or questions wait there", core.max_hook_questions);
            return refuse("ask_concurrency", access.ask_concurrency.to_string(), expected);
        }
        Ok(())
    }
}

/// Whether a listener on one address leaves no room for a listener on the other. An unspecified address is every address
/// of its family.
fn are_one_port(one: SocketAddr, other: SocketAddr) -> bool {
    let is_every = |addr: SocketAddr| addr.ip().is_unspecified();
    one.port() == other.port()
        && one.port() != 0
        && one.is_ipv4() == other.is_ipv4()
        && (one.ip() == other.ip() || is_every(one) || is_every(other))
}

/// The keys for users of the HTTP API, with commas between them; empty if there is none. Never printed.
#[derive(Clone, Default)]
pub(crate) struct ApiKey(String);

impl ApiKey {
    /// Keys that are good at the same time. Each is compared with the key of a request; rotation needs two.
    const MOST: usize = 8;

    /// Keys that do not come from a layer of the settings.
    pub(crate) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Whether there is no key.
    pub(crate) fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys in the order of the setting.
    pub(crate) fn reveal(&self) -> impl Iterator<Item = &str> {
        self.0.split(',').map(str::trim).filter(|key| !key.is_empty())
    }

    /// RFC 6750 has the characters that may follow `Bearer`; a shorter key can be guessed.
    fn accepts(text: &str) -> bool {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
        let is_key = |key: &str| (16..=256).contains(&key.len()) && key.bytes().all(allowed);
        text.is_empty() || text.split(',').count() <= Self::MOST && text.split(',').map(str::trim).all(is_key)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_none() { "none" } else { HIDDEN })
    }
}

impl Stored for ApiKey {
    fn to_value(&self) -> Value {
        Value::Text(self.0.clone())
    }

    fn from_value(value: Value) -> Option<Self> {
        String::from_value(value).map(Self)
    }
}

/// The format of the log; `None` for the format that suits standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogFormat(Option<Format>);

impl LogFormat {
    /// The first is `None`, and the rest are the formats in the order of [`FORMATS`](Self::FORMATS).
    const NAMES: &[&str] = &["auto", "text", "json", "journald"];
    const FORMATS: [Option<Format>; 4] = [None, Some(Format::Text), Some(Format::Json), Some(Format::Journald)];

    /// The format of this process.
    pub(crate) fn format(self) -> Format {
        self.0.unwrap_or_else(Format::of_stderr)
    }
}

impl Stored for LogFormat {
    fn to_value(&self) -> Value {
        let name = Self::FORMATS.iter().zip(Self::NAMES).find(|(format, _)| **format == self.0);
        Value::Text(name.map_or("auto", |(_, name)| name).to_owned())
    }

    fn from_value(value: Value) -> Option<Self> {
        let text = String::from_value(value)?;
        let named = Self::NAMES.iter().zip(Self::FORMATS).find(|(name, _)| **name == text);
        named.map(|(_, format)| Self(format))
    }
}

impl Stored for LogFilter {
    fn to_value(&self) -> Value {
        Value::Text(self.to_string())
    }

    fn from_value(value: Value) -> Option<Self> {
        String::from_value(value)?.parse().ok()
    }
}
