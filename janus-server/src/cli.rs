//! The command line.
//!
//! This file declares the subcommands and their flags. The flags of the server's settings are added from the table in
//! `settings/`. No file is read and no connection opened before the whole command line is parsed.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::TypedValueParser;
use clap::{
    Arg, ArgAction, ArgMatches, Args, Command as ClapCommand, CommandFactory as _, Parser, Subcommand, value_parser,
};
use clap_complete::Shell;
use janus_access::tokens::Algorithm;
use janus_core::settings::Kind;
use janus_core::wire::{IdempotencyKey, PositionError, SinceError};
use janus_core::{ClientId, Position, Since, TraceKind};
use log::LevelFilter;

use crate::bench::{Protocol, Transport};
use crate::client::server::ServerFlags;
use crate::settings::{self, Flags, TABLE};

/// Pushes messages published to topics to tens of thousands of connected clients.
///
/// Without a command, the server runs: `janus-server` is short for `janus-server serve`.
#[derive(Debug, Parser)]
#[command(name = "janus-server", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) flags: SettingFlags,
}

impl Cli {
    /// The command, with the settings before and after its name. Settings after the name take precedence.
    ///
    /// # Errors
    ///
    /// Settings before a command without settings.
    pub(crate) fn into_command(self) -> Result<Command, clap::Error> {
        let before = self.flags;
        match self.command {
            None => Ok(Command::Serve(before)),
            Some(Command::Serve(after)) => Ok(Command::Serve(before.then(after))),
            Some(Command::Config(ConfigCommand::Show(after))) => {
                Ok(Command::Config(ConfigCommand::Show(before.then(after))))
            }
            Some(Command::Config(ConfigCommand::Check(after))) => {
                Ok(Command::Config(ConfigCommand::Check(before.then(after))))
            }
            Some(mut other) => {
                let is_for_servers = !before.0.values.is_empty();
                match other.server() {
                    Some(server) if !is_for_servers => server.after(before.0.file),
                    None if !is_for_servers && before.0.file.is_none() => {}
                    _ => {
                        return Err(Self::command().error(
                            clap::error::ErrorKind::ArgumentConflict,
                            "settings before the command are for the server: only `serve` and `config` accept settings, \
                             and commands for a running server accept --config alone",
                        ));
                    }
                }
                Ok(other)
            }
        }
    }
}

impl Command {
    /// The flags about the running server, if the command needs one.
    fn server(&mut self) -> Option<&mut ServerFlags> {
        match self {
            Self::Publish(Publish { server, .. })
            | Self::Subscribe(Subscribe { server, .. })
            | Self::History(History { server, .. })
            | Self::Presence(Presence { server, .. })
            | Self::Topics(Topics { server, .. })
            | Self::Connections(Connections { server, .. })
            | Self::Disconnect(Disconnect { server, .. })
            | Self::Trace(Trace { server, .. })
            | Self::Health(Health { server, .. })
            | Self::Log(Log { server, .. })
            | Self::Reload(Reload { server, .. }) => Some(server),
            #[cfg(feature = "top")]
            Self::Top(Top { server, .. }) => Some(server),
            Self::Serve(_)
            | Self::Config(_)
            | Self::Token(_)
            | Self::Completions(_)
            | Self::Man(_)
            | Self::Bench(_)
            | Self::BenchWorker => None,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the server: accept clients and deliver messages, until SIGTERM, SIGINT or SIGQUIT.
    Serve(SettingFlags),
    /// Show or check the settings without running the server.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Publish one message, or each line of standard input, and print the server's receipts.
    ///
    /// A receipt has the message's place in the topic's order (`seq`, counted from 1) and the number of the topic's
    /// subscribers. A receipt with `seq` 0 and `subscribers` 0 means that the topic does not exist: no client was
    /// subscribed, and the message was not delivered.
    ///
    /// A token of a user in the variable JANUS_TOKEN has precedence over a key. On the server's own machine neither is
    /// needed, unless the server has keys.
    Publish(Publish),
    /// Print the messages of topics, each as one line of JSON.
    ///
    /// If the server requires a token, set the variable JANUS_TOKEN.
    Subscribe(Subscribe),
    /// Print the messages that the server keeps of a topic.
    History(History),
    /// Print who is subscribed to a topic, on all nodes of a cluster.
    ///
    /// A user with several connections is listed once; connections without a user are counted only. The namespace of the
    /// topic needs the setting `presence`.
    Presence(Presence),
    /// List the topics of a server.
    Topics(Topics),
    /// List the connections of clients.
    Connections(Connections),
    /// Close connections of clients, by the numbers that `connections` lists.
    Disconnect(Disconnect),
    /// Print messages between the actors of a running server, each as one line of JSON.
    ///
    /// The kinds of messages are connect, open, attach, detach, close, create, subscribe, unsubscribe, publish, pass, end,
    /// locate, start, exit, restart and quarantine.
    Trace(Trace),
    /// Ask a running server whether it is alive, or ready for clients: exit code 0 if so, 1 if not, with the reason.
    Health(Health),
    /// Show the levels of a running server's log, or change a level for a while.
    ///
    /// Without LEVEL and --reset the command shows the configured levels and all changes in force.
    Log(Log),
    /// Have a running server read its settings again, and print what has changed, setting by setting.
    ///
    /// The server reads the file, its variables and its flags as at its start, and the files of certificates and keys.
    /// With a mistake nothing changes, and the command prints every mistake and fails. A changed setting is applied, or
    /// for new connections only, or needs a restart.
    Reload(Reload),
    /// Watch a running server on the terminal: its figures, topics, clients and supervision tree; close a client.
    ///
    /// The key ? shows the keys. With --once the command prints one look at the server instead, for people or, with
    /// --json, for scripts. Colours are left out if the variable NO_COLOR has a value.
    #[cfg(feature = "top")]
    Top(Top),
    /// Make keys and tokens for trying a server, and show what a token means to a server.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Load a server with many clients: measure the latency, and find out whether messages were lost.
    Bench(Bench),
    /// Print a script that completes commands and flags in a shell.
    ///
    /// For bash: `janus-server completions bash > /etc/bash_completion.d/janus-server`. The Debian package installs the
    /// scripts for bash, zsh and fish.
    Completions(Completions),
    /// Write all manual pages to a folder, for packages.
    #[command(hide = true)]
    Man(Man),
    /// A worker process of the bench, started by `bench` only.
    #[command(hide = true)]
    BenchWorker,
}

#[derive(Debug, Args)]
pub(crate) struct Health {
    /// Ask whether the server is ready for clients. A server that drains is alive and not ready.
    #[arg(long)]
    pub(crate) ready: bool,
    #[command(flatten)]
    pub(crate) server: ServerFlags,
}

#[cfg(feature = "top")]
#[derive(Debug, Args)]
pub(crate) struct Top {
    /// Print one look at the server and end.
    #[arg(long)]
    pub(crate) once: bool,
    /// With --once: print one JSON object, for scripts.
    #[arg(long, requires = "once")]
    pub(crate) json: bool,
    /// With --once: entries of each list, and children of each supervisor, at most.
    #[arg(long, value_name = "N", default_value_t = 20, requires = "once", value_parser = count(1_000))]
    pub(crate) limit: usize,
    /// The time between two requests to the server.
    #[arg(long, value_name = "DURATION", default_value = "1 s", value_parser = interval, conflicts_with = "once")]
    pub(crate) interval: Duration,
    #[command(flatten)]
    pub(crate) server: ServerFlags,
}

#[derive(Debug, Args)]
pub(crate) struct Log {
    /// The new level: off, error, warn, info, debug or trace.
    #[arg(value_name = "LEVEL")]
    pub(crate) level: Option<LevelFilter>,
    /// Only for lines whose target begins with this, such as janus_core::connection.
    #[arg(long, value_name = "TARGET")]
    pub(crate) target: Option<String>,
    /// How long the change lasts, at most 24 h. The configured levels are in force again afterwards.
    #[arg(long = "for", value_name = "DURATION", default_value = "10 m", value_parser = duration, requires = "level")]
    pub(crate) lasts: Duration,
    /// Take back all changes, or the change for TARGET.
    #[arg(long, conflicts_with = "level")]
    pub(crate) reset: bool,
    /// Print the server's answer, one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: ServerFlags,
}

#[derive(Debug, Args)]
pub(crate) struct Reload {
    /// Print the server's answer, one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: ServerFlags,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print all settings in force as a configuration file, with the source of each value.
    Show(SettingFlags),
    /// Check whether the settings are valid: exit code 0 if valid, 2 if not.
    Check(SettingFlags),
    /// Print a configuration file with every setting as a comment: its meaning, its default and the accepted values.
    Example,
}

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell.
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

#[derive(Debug, Args)]
pub(crate) struct Man {
    /// The folder, which must exist.
    #[arg(value_name = "FOLDER")]
    pub(crate) folder: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a new random key: a secret (HS256), or a private and a public key (ES256, EdDSA, RS256).
    ///
    /// The issuer of tokens, usually the operator's own application, has the private key. The server has the public key
    /// in the file of `token_keys`. HS256 has a single secret for both.
    Key(NewKey),
    /// Make a token, signed with a private key or a secret.
    Make(MakeToken),
    /// Show the content of a token, and whether a server accepts the token: exit code 0 if so, 1 if not, with the reason.
    Show(ShowToken),
}

#[derive(Debug, Args)]
pub(crate) struct NewKey {
    /// The algorithm: HS256, ES256, EdDSA or RS256.
    #[arg(value_name = "ALGORITHM", value_parser = algorithm)]
    pub(crate) algorithm: Algorithm,
    /// Write the private key, or the secret, to this new file, readable by its owner alone. Without a file the key is
    /// printed.
    #[arg(long, value_name = "FILE")]
    pub(crate) private: Option<PathBuf>,
    /// Write the public key to this new file, for `token_keys`.
    #[arg(long, value_name = "FILE")]
    pub(crate) public: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct MakeToken {
    /// The user.
    #[arg(long, value_name = "USER")]
    pub(crate) sub: String,
    /// A topic to which the user may subscribe, or a pattern such as "chat:*" or "user:alice:**"; may be repeated.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) subscribe: Vec<String>,
    /// A topic to which the user may publish, or a pattern; may be repeated.
    #[arg(long, value_name = "PATTERN")]
    pub(crate) publish: Vec<String>,
    /// A topic to which the user is subscribed from the start; may be repeated.
    #[arg(long = "topic", value_name = "TOPIC")]
    pub(crate) topics: Vec<String>,
    /// How long the token is good.
    #[arg(long = "for", value_name = "DURATION", default_value = "1 h", value_parser = duration)]
    pub(crate) good_for: Duration,
    /// The server for which the token is good [default: token_aud].
    #[arg(long)]
    pub(crate) aud: Option<String>,
    /// The issuer [default: token_iss].
    #[arg(long)]
    pub(crate) iss: Option<String>,
    /// The identifier of the token, by which the token can be revoked.
    #[arg(long)]
    pub(crate) jti: Option<String>,
    /// The name of the key.
    #[arg(long)]
    pub(crate) kid: Option<String>,
    /// File with the private key, as `token key` writes it, or with lines of HS256 [default: token_keys].
    #[arg(long, value_name = "FILE")]
    pub(crate) keys: Option<PathBuf>,
    /// TOML file with the server's settings [variable: JANUS_CONFIG].
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ShowToken {
    /// The token; `-` reads the token from standard input, out of sight of the machine's other users.
    pub(crate) token: String,
    /// File with the keys of the server [default: the server's token_keys and token_jwks_url].
    #[arg(long, value_name = "FILE")]
    pub(crate) keys: Option<PathBuf>,
    /// TOML file with the server's settings [variable: JANUS_CONFIG].
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Publish {
    /// The topic to publish to.
    pub(crate) topic: String,
    /// The message: JSON, or any other text, sent as a JSON string; `-` reads one message per line of standard input.
    ///
    /// Blank lines of the input are skipped. Write an empty message as "" (with the quotes).
    ///
    /// Put text that begins with a hyphen after `--`, so that a mistyped flag is not published.
    #[arg(allow_negative_numbers = true, required_unless_present = "file", conflicts_with = "file")]
    pub(crate) data: Option<String>,
    /// Send the message as bytes: the text as it is, or with `-` all of standard input as one message.
    ///
    /// Subscribers whose protocol is JSON see bytes as `data_base64` in place of `data`.
    #[arg(long, conflicts_with = "json")]
    pub(crate) bytes: bool,
    /// Send the bytes of this file as one message.
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    pub(crate) file: Option<PathBuf>,
    /// The message's `event`.
    #[arg(long, default_value = "")]
    pub(crate) event: String,
    /// The message's `message_id`.
    #[arg(long)]
    pub(crate) id: Option<String>,
    /// The key by which the server knows a repetition of the message: 1 to 64 printable characters without blanks. Within
    /// `idempotency_ttl` a message with a known key is not published again, and the receipt is that of the first.
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<IdempotencyKey>,
    /// The client that does not get the message, by its public name, such as 718281828459045235.17. Not for the classic
    /// protocol.
    #[arg(long, value_name = "CLIENT")]
    pub(crate) exclude: Option<ClientId>,
    /// Send each message again for this long while the engine of the cluster or the server cannot be reached, or has not
    /// said whether the message was published. Each message has an idempotency key, made by the command unless given, so
    /// that it is published once.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) retry: Option<Duration>,
    /// Refuse text that is not JSON, with exit code 2, instead of sending a JSON string.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: ServerFlags,
}

#[derive(Debug, Args)]
pub(crate) struct Subscribe {
    /// The topics to subscribe to.
    #[arg(required = true)]
    pub(crate) topics: Vec<String>,
    /// End after this many messages.
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Begin with the first message that the server keeps (start), with the last (last), or, with a single topic, after a
    /// position such as 9f86d081884c7d65.42: print the messages since then, if the server still has them. Not for the
    /// classic protocol.
    #[arg(long, value_name = "start|last|EPOCH.SEQ", value_parser = since)]
    pub(crate) since: Option<Since>,
    /// Reconnect when the connection is lost, resume, print the missed messages, and report losses.
    #[arg(long)]
    pub(crate) reconnect: bool,
    #[command(flatten)]
    pub(crate) server: ServerFlags,
}

#[derive(Debug, Args)]
pub(crate) struct History {
    /// The topic.
    pub(crate) topic: String,
    /// Print the messages after this position, such as 9f86d081884c7d65.42 [default: the latest messages].
    #[arg(long, value_name = "EPOCH.SEQ", value_parser = position)]
    pub(crate) since: Option<Position>,
    /// Print at most this many messages.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = count(10_000))]
    pub(crate) limit: usize,
    /// Print all messages.
    #[arg(long, conflicts_with = "limit")]
    pub(crate) all: bool,
    /// Print each message as one line of JSON, as `subscribe` does.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: ServerFlags,
}

#[derive(Debug, Args)]
pub(crate) struct Presence {
    /// The topic.
    pub(crate) topic: String,
    /// Print the server's answer as one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) server: ServerFlags,
}

/// How much of a list is printed, and how.
#[derive(Debug, Args)]
pub(crate) struct Extent {
    /// Print at most this many.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = count(1_000_000_000))]
    pub(crate) limit: usize,
    /// Print all.
    #[arg(long, conflicts_with_all = ["limit", "sort"])]
    pub(crate) all: bool,
    /// Print each entry as one line of JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Topics {
    /// Only topics whose names begin with this.
    #[arg(long, value_name = "TEXT")]
    pub(crate) prefix: Option<String>,
    /// The order: name, subscribers, rate or in_flight; the largest number first [default: name].
    #[arg(long, value_name = "KEY", value_parser = ["name", "subscribers", "rate", "in_flight"], hide_possible_values = true)]
    pub(crate) sort: Option<String>,
    #[command(flatten)]
    pub(crate) extent: Extent,
    #[command(flatten)]
    pub(crate) server: ServerFlags,
}

#[derive(Debug, Args)]
pub(crate) struct Connections {
    /// The order: number, queued_bytes or lag; the largest queue or lag first [default: number].
    #[arg(long, value_name = "KEY", value_parser = ["number", "queued_bytes", "lag"], hide_possible_values = true)]
    pub(crate) sort: Option<String>,
    /// Only connections of this user.
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Only connections from this address, with or without a port, or from this network, such as 10.0.0.0/8.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) peer: Option<String>,
    /// Only connections that are subscribed to this topic.
    #[arg(long, value_name = "TOPIC")]
    pub(crate) topic: Option<String>,
    /// Only connections of this transport, as listed.
    #[arg(long, value_name = "NAME")]
    pub(crate) transport: Option<String>,
    #[command(flatten)]
    pub(crate) extent: Extent,
    #[command(flatten)]
    pub(crate) server: ServerFlags,
}

#[derive(Debug, Args)]
pub(crate) struct Disconnect {
    /// The numbers of the connections.
    #[arg(required = true, value_name = "CONNECTION")]
    pub(crate) connections: Vec<u64>,
    /// Tell the clients not to come back. Without this flag clients are told to reconnect.
    #[arg(long, alias = "no-reconnect")]
    pub(crate) ban: bool,
    #[command(flatten)]
    pub(crate) server: ServerFlags,
}

#[derive(Debug, Args)]
pub(crate) struct Trace {
    /// Only messages of this kind; may be repeated.
    #[arg(long = "kind", value_name = "KIND", value_parser = kind)]
    pub(crate) kinds: Vec<TraceKind>,
    /// Only messages from or to names that match the pattern, such as "client 7" or "topic quotes:*", where `*` stands
    /// for any text; may be repeated.
    #[arg(long = "name", value_name = "PATTERN")]
    pub(crate) names: Vec<String>,
    /// End after this many seconds.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = value_parser!(u64).range(1..=3_600))]
    pub(crate) seconds: u64,
    /// End after this many messages.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = value_parser!(u64).range(1..=1_000_000))]
    pub(crate) count: u64,
    #[command(flatten)]
    pub(crate) server: ServerFlags,
}

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// The server's address (for Janus, the setting `listen`).
    #[arg(long, value_name = "ADDR:PORT", default_value = DEFAULT_ADDRESS)]
    pub(crate) to: String,
    /// The server's protocol. Load, checks and clocks are the same for all protocols.
    #[arg(long, value_enum, value_name = "NAME", default_value_t = Protocol::Janus)]
    pub(crate) protocol: Protocol,
    /// The transport of the subscribers of a Janus server. Publishing always uses the classic protocol on `--to`, so
    /// results differ only by the subscribers' transport.
    #[arg(long, value_enum, value_name = "NAME", default_value_t = Transport::Tcp)]
    pub(crate) transport: Transport,
    /// The address for subscribers with `--transport ws`, `cbor` or `sse`: the same server's setting `http_listen`.
    #[arg(long, value_name = "ADDR:PORT", default_value = DEFAULT_HTTP_ADDRESS)]
    pub(crate) http: String,
    /// Clients to connect and subscribe before the first message is published.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = value_parser!(u32).range(1..=2_000_000))]
    pub(crate) clients: u32,
    /// Topics; each client subscribes to one, and messages are published to each topic in turn.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub(crate) topics: u32,
    /// Messages to publish.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..=10_000_000))]
    pub(crate) messages: u32,
    /// Publish at this rate, however slow the server is, and measure from the time at which each message was due.
    /// Without a rate, a message is published when an earlier message has arrived everywhere.
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// Without a rate: messages under way at the same time.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub(crate) window: u32,
    /// Bytes of each message's data.
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = value_parser!(u32).range(i64::from(crate::bench::MARK_BYTES)..=16 << 20))]
    pub(crate) size: u32,
    /// Publish each message over a new connection, as the clients of the original server do.
    #[arg(long)]
    pub(crate) classic_publish: bool,
    /// Number of processes for the clients. By default, as few as the descriptor limit allows.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=256))]
    pub(crate) workers: Option<u32>,
    /// Clients per process that connect at the same time. If they overflow the server's listen queue in the kernel,
    /// clients wait for retransmissions, and the result measures the kernel.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = value_parser!(u32).range(1..=2_000_000))]
    pub(crate) connecting: u32,
    /// The server's process on this machine: reports its CPU time per delivery and its memory per connection.
    #[arg(long, value_name = "PID", value_parser = value_parser!(u32).range(1..))]
    pub(crate) server_pid: Option<u32>,
    /// Longest time for each phase: connecting, publishing without progress, the last deliveries.
    #[arg(long, value_name = "DURATION", default_value = "30 s", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// Write the result to this file as JSON, with the full distribution of the latencies. docs/BENCH.md describes the
    /// fields.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

impl Bench {
    /// The address for subscribers, if other than the address for publishing.
    pub(crate) fn http_if_used(&self) -> Option<&str> {
        (self.transport != Transport::Tcp).then_some(&*self.http)
    }
}

/// The heading of the settings' flags.
pub(crate) const SETTINGS: &str = "Settings";

/// The flags of the settings in `settings/`, and `--config`.
#[derive(Debug)]
pub(crate) struct SettingFlags(pub(crate) Flags);

impl SettingFlags {
    /// Both; the later flags take precedence.
    pub(crate) fn then(mut self, later: Self) -> Self {
        self.0.file = later.0.file.or(self.0.file);
        self.0.values.extend(later.0.values);
        self
    }
}

impl Args for SettingFlags {
    fn augment_args(command: ClapCommand) -> ClapCommand {
        let file = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help("TOML file with settings [variable: JANUS_CONFIG]");
        let flags = TABLE.iter().filter_map(|row| {
            let help = format!(
                "{}\n{} [default: {}] [variable: {}]",
                row.setting.text(),
                row.expected(),
                row.default_text(),
                row.variable()
            );
            let name = row.setting.name;
            let flag = Arg::new(name)
                .long(row.flag()?)
                .help(row.setting.text())
                .long_help(help)
                .help_heading(SETTINGS)
                .hide_short_help(!["listen", "http_listen", "log", "threads"].contains(&name));
            Some(match row.setting.kind {
                Kind::Addresses => flag.value_name("ADDR:PORT").action(ArgAction::Append),
                Kind::Networks { .. } => flag.value_name("NETWORK").action(ArgAction::Append),
                Kind::Origins { .. } => flag.value_name("ORIGIN").action(ArgAction::Append),
                Kind::Path => flag.value_name("FILE"),
                Kind::Paths => flag.value_name("FILE").action(ArgAction::Append),
                Kind::Text { .. } => flag.value_name("TEXT"),
                Kind::Texts { .. } => flag.value_name("TEXT").action(ArgAction::Append),
                Kind::Secret { .. } => return None,
                Kind::Count(_) => flag.value_name("N"),
                Kind::PerCent(_) => flag.value_name("PER_CENT"),
                Kind::Bytes(_) => flag.value_name("BYTES"),
                Kind::Duration(_) => flag.value_name("DURATION"),
                Kind::OneOf { .. } => flag.value_name("NAME"),
                Kind::Boolean => {
                    flag.value_name("BOOL").num_args(0..=1).require_equals(true).default_missing_value("true")
                }
            })
        });
        let secrets = TABLE.iter().filter(|row| row.flag().is_none()).map(|row| {
            let name = row.setting.name;
            Arg::new(name)
                .long(name.replace('_', "-"))
                .hide(true)
                .value_parser(NoSecret { variable: row.variable(), name })
        });
        command.arg(file).args(flags).args(secrets)
    }

    fn augment_args_for_update(command: ClapCommand) -> ClapCommand {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |(index, row): (usize, &settings::Row)| {
            let texts = row.flag().and_then(|_| matches.get_many::<String>(row.setting.name))?;
            Some((index, texts.cloned().collect()))
        };
        Ok(Self(Flags {
            file: matches.get_one("config").cloned(),
            values: TABLE.iter().enumerate().filter_map(given).collect(),
        }))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Refuses a secret on the command line, and says where the secret belongs.
#[derive(Clone)]
struct NoSecret {
    variable: String,
    name: &'static str,
}

impl TypedValueParser for NoSecret {
    type Value = String;

    fn parse_ref(&self, command: &ClapCommand, _: Option<&Arg>, _: &OsStr) -> Result<String, clap::Error> {
        let Self { variable, name } = self;
        let told = format!(
            "{name} has no flag, because all users of a machine can read its command lines: set the variable {variable}, \
             or {name} in the file of the settings"
        );
        Err(command.clone().error(clap::error::ErrorKind::UnknownArgument, told))
    }
}

pub(crate) fn duration(text: &str) -> Result<Duration, &'static str> {
    match settings::duration(text.trim()) {
        Some(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("expected a duration with a unit, such as \"10 s\" or 500ms"),
    }
}

#[cfg(feature = "top")]
fn interval(text: &str) -> Result<Duration, &'static str> {
    match duration(text) {
        Ok(interval) if (Duration::from_millis(100)..=Duration::from_secs(3_600)).contains(&interval) => Ok(interval),
        _ => Err("expected a duration from 100 ms to 1 h"),
    }
}

/// A position, with the dot of its own text or with a colon.
fn position(text: &str) -> Result<Position, PositionError> {
    text.replacen(':', ".", 1).parse()
}

/// The same, or a word.
fn since(text: &str) -> Result<Since, SinceError> {
    text.replacen(':', ".", 1).parse()
}

/// A whole number from 1 to `most`.
fn count(most: u64) -> impl TypedValueParser<Value = usize> {
    let number = value_parser!(u64).range(1..=most);
    number.try_map(usize::try_from)
}

fn algorithm(text: &str) -> Result<Algorithm, String> {
    let names = Algorithm::ALL.map(Algorithm::name);
    Algorithm::ALL
        .into_iter()
        .find(|algorithm| algorithm.name().eq_ignore_ascii_case(text))
        .ok_or_else(|| format!("expected one of {}", names.join(", ")))
}

fn kind(text: &str) -> Result<TraceKind, String> {
    text.parse().map_err(|_| format!("expected one of {}", TraceKind::ALL.map(TraceKind::as_str).join(", ")))
}

fn rate(text: &str) -> Result<f64, &'static str> {
    match text.parse() {
        Ok(rate) if (0.001..=10_000_000.0).contains(&rate) => Ok(rate),
        _ => Err("expected messages per second, 0.001 to 10000000"),
    }
}

const DEFAULT_ADDRESS: &str = "127.0.0.1:8081";
const DEFAULT_HTTP_ADDRESS: &str = "127.0.0.1:8080";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_has_no_contradiction() {
        super::Cli::command().debug_assert();
    }
}
