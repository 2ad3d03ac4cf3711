//! What can be written on the command line.
//!
//! The subcommands and their own flags are declared here; the flags of the server's settings are added from the table
//! in `settings.rs`. Nothing is opened, connected or read before all of it has been understood.

use std::path::PathBuf;
use std::time::Duration;

use clap::{
    Arg, ArgAction, ArgMatches, Args, Command as ClapCommand, CommandFactory as _, Parser, Subcommand, value_parser,
};
use janus_core::TraceKind;

use crate::bench::{Protocol, Transport};
use crate::settings::{self, Field, Flags, TABLE};

/// Pushes messages published to topics to tens of thousands of connected clients.
///
/// Without a command it serves.
#[derive(Debug, Parser)]
#[command(name = "janus-server", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) flags: SettingFlags,
}

impl Cli {
    /// The command with the settings that stand before it and after it, of which the latter win.
    ///
    /// # Errors
    ///
    /// Settings before a command that has none.
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
            Some(other) if before.0.file.is_none() && before.0.values.is_empty() => Ok(other),
            Some(_) => Err(Self::command().error(
                clap::error::ErrorKind::ArgumentConflict,
                "the settings before the command are for the server: only `serve` and `config` take them",
            )),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Accept clients and deliver what is published, until SIGTERM, SIGINT or SIGQUIT.
    Serve(SettingFlags),
    /// Show or check the settings without serving.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Publish one message, or one for each line of standard input, and print the server's receipts.
    ///
    /// A receipt has the message's place in the topic's order (`seq`, counted from 1) and how many subscribers the topic
    /// had. A receipt with `seq` 0 and `subscribers` 0 means that the topic does not exist: nobody was subscribed, and the
    /// message went nowhere.
    Publish(Publish),
    /// Print the messages of topics, each as one line of JSON.
    Subscribe(Subscribe),
    /// Print messages between the actors of a running server, each as one line of JSON.
    ///
    /// It asks the server's HTTP API, which needs the server's `api_key` in the variable JANUS_API_KEY if it has one. The kinds
    /// are connect, open, attach, detach, close, create, subscribe, unsubscribe, publish, pass, end, locate, start, exit, restart
    /// and quarantine.
    Trace(Trace),
    /// Measure a server with many clients: latency, and whether any message was lost.
    Bench(Bench),
    /// The clients of one process of the bench; the bench starts it.
    #[command(hide = true)]
    BenchWorker,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print every setting in force as a configuration file, with where each value comes from.
    Show(SettingFlags),
    /// Say whether the settings can be used: exit code 0 if so, 2 if not.
    Check(SettingFlags),
}

#[derive(Debug, Args)]
pub(crate) struct Publish {
    /// The topic to publish to.
    pub(crate) topic: String,
    /// The message: JSON, or any text, which is sent as a JSON string; `-` reads one message per line of input.
    ///
    /// Blank lines of the input are skipped. An empty message is written as "" (with its quotes).
    ///
    /// Text that begins with a hyphen goes after `--`, so that a mistyped flag is not published.
    #[arg(allow_negative_numbers = true)]
    pub(crate) data: String,
    /// The message's event.
    #[arg(long, default_value = "")]
    pub(crate) event: String,
    /// The message's id.
    #[arg(long)]
    pub(crate) id: Option<String>,
    /// Refuse a message that is not JSON, with exit code 2, instead of sending it as a string.
    #[arg(long)]
    pub(crate) json: bool,
    /// The server.
    #[arg(long, value_name = "ADDR:PORT", default_value = DEFAULT_ADDRESS)]
    pub(crate) to: String,
    /// How long connecting, and each receipt, may take.
    #[arg(long, value_name = "DURATION", default_value = "10 s", value_parser = duration)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Subscribe {
    /// The topics to subscribe to.
    #[arg(required = true)]
    pub(crate) topics: Vec<String>,
    /// The server.
    #[arg(long, value_name = "ADDR:PORT", default_value = DEFAULT_ADDRESS)]
    pub(crate) from: String,
    /// End after this many messages.
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Come back to the session when the connection is lost, get what was missed meanwhile, and say if something was lost.
    #[arg(long)]
    pub(crate) reconnect: bool,
    /// How long connecting, and the server's acknowledgement, may take.
    #[arg(long, value_name = "DURATION", default_value = "10 s", value_parser = duration)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Trace {
    /// Only messages of this kind; may be given several times.
    #[arg(long = "kind", value_name = "KIND", value_parser = kind)]
    pub(crate) kinds: Vec<TraceKind>,
    /// Only messages from or to a name that the pattern covers, in which `*` stands for any text, such as "client 7" or
    /// "topic quotes:*"; may be given several times.
    #[arg(long = "name", value_name = "PATTERN")]
    pub(crate) names: Vec<String>,
    /// End after this time.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = value_parser!(u64).range(1..=3_600))]
    pub(crate) seconds: u64,
    /// End after this many messages.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = value_parser!(u64).range(1..=1_000_000))]
    pub(crate) count: u64,
    /// The server's setting `http_listen`.
    #[arg(long, value_name = "ADDR:PORT", default_value = DEFAULT_HTTP_ADDRESS)]
    pub(crate) from: String,
    /// How long connecting, and the begin of the server's answer, may take.
    #[arg(long, value_name = "DURATION", default_value = "10 s", value_parser = duration)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// The server.
    #[arg(long, value_name = "ADDR:PORT", default_value = DEFAULT_ADDRESS)]
    pub(crate) to: String,
    /// What the server speaks. The load, the checks and the clocks are the same for all.
    #[arg(long, value_enum, value_name = "NAME", default_value_t = Protocol::Janus)]
    pub(crate) protocol: Protocol,
    /// How the subscribers of a Janus are connected. Messages are published on `--to` by the classic protocol with any of
    /// them, so that results differ by the subscribers' transport and nothing else.
    #[arg(long, value_enum, value_name = "NAME", default_value_t = Transport::Tcp)]
    pub(crate) transport: Transport,
    /// Where the subscribers connect with `--transport ws` and `sse`: the same server's setting `http_listen`.
    #[arg(long, value_name = "ADDR:PORT", default_value = DEFAULT_HTTP_ADDRESS)]
    pub(crate) http: String,
    /// Clients to connect and subscribe before anything is published.
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = value_parser!(u32).range(1..=2_000_000))]
    pub(crate) clients: u32,
    /// Topics the clients are spread over, one topic each; messages go to them in turn.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub(crate) topics: u32,
    /// Messages to publish.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..=10_000_000))]
    pub(crate) messages: u32,
    /// Publish at this rate, whatever the server does, and measure from when each message was due. Without it a message
    /// is published when an earlier one has arrived everywhere.
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// Without a rate: messages under way at once.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub(crate) window: u32,
    /// Bytes of each message's data.
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = value_parser!(u32).range(i64::from(crate::bench::MARK_BYTES)..=16 << 20))]
    pub(crate) size: u32,
    /// Publish each message over a connection of its own, as the clients of the original server do.
    #[arg(long)]
    pub(crate) classic_publish: bool,
    /// Processes to spread the clients over; as few as the descriptor limit allows without it.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=256))]
    pub(crate) workers: Option<u32>,
    /// Clients of one process that connect at once. More than the kernel's queue of the listener holds wait for
    /// retransmissions, which measures the kernel.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = value_parser!(u32).range(1..=2_000_000))]
    pub(crate) connecting: u32,
    /// The server's process on this machine, of which the CPU time per delivery and the memory per connection are told.
    #[arg(long, value_name = "PID", value_parser = value_parser!(u32).range(1..))]
    pub(crate) server_pid: Option<u32>,
    /// How long each phase (connecting, publishing without progress, the last deliveries) may take.
    #[arg(long, value_name = "DURATION", default_value = "30 s", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// Write the result to this file as JSON, with the whole distribution of the latencies; docs/BENCH.md says what
    /// is in it.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

impl Bench {
    /// Where the subscribers connect, if that is not where messages are published.
    pub(crate) fn http_if_used(&self) -> Option<&str> {
        (self.transport != Transport::Tcp).then_some(&*self.http)
    }
}

/// The flags of the settings in `settings.rs`, and `--config`.
#[derive(Debug)]
pub(crate) struct SettingFlags(pub(crate) Flags);

impl SettingFlags {
    /// Both, of which the later ones win.
    fn then(mut self, later: Self) -> Self {
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
            .help("A TOML file of settings [variable: JANUS_CONFIG]");
        let flags = TABLE.iter().filter(|setting| setting.has_flag()).map(|setting| {
            let help = format!(
                "{}\n{} [default: {}] [variable: {}]",
                setting.doc,
                setting.expected(),
                setting.default_text(),
                settings::variable_name(setting)
            );
            let flag = Arg::new(setting.name)
                .long(settings::flag_name(setting))
                .help(setting.doc)
                .long_help(help)
                .help_heading("Settings")
                .hide_short_help(!["listen", "http_listen", "log", "threads"].contains(&setting.name));
            match setting.field {
                Field::Addresses(_) => flag.value_name("ADDR:PORT").action(ArgAction::Append),
                Field::Origins(_) => flag.value_name("ORIGIN").action(ArgAction::Append),
                Field::Secret(_) => flag,
                Field::Count(_) | Field::Count32(_) => flag.value_name("N"),
                Field::Bytes(_) => flag.value_name("BYTES"),
                Field::Duration(_) => flag.value_name("DURATION"),
                Field::Level(_) => flag.value_name("LEVEL"),
                Field::Policy(_) => flag.value_name("POLICY"),
                Field::Resume(_) => flag.value_name("BY"),
                Field::Boolean(_) => {
                    flag.value_name("BOOL").num_args(0..=1).require_equals(true).default_missing_value("true")
                }
            }
        });
        command.arg(file).args(flags)
    }

    fn augment_args_for_update(command: ClapCommand) -> ClapCommand {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |(index, setting): (usize, &settings::Setting)| {
            let texts = setting.has_flag().then(|| matches.get_many::<String>(setting.name))??;
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

fn duration(text: &str) -> Result<Duration, &'static str> {
    match settings::duration(text.trim()) {
        Some(duration) if !duration.is_zero() => Ok(duration),
        _ => Err("expected a duration with a unit, such as \"10 s\" or 500ms"),
    }
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
