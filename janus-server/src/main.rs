//! The Janus server binary: serves, shows the settings, publishes, subscribes, traces and measures.
//!
//! | file or folder | what it is | what it owns |
//! |---|---|---|
//! | `main.rs` | entry point | the choice of the command, the order in which a server starts |
//! | `cli.rs` | pure | the command line: subcommands, flags, help texts |
//! | `settings/` | tables, layers | the settings: names, defaults, limits, the origin of each value |
//! | `serve.rs` | the command `serve` | starting the tree, waiting for a signal, draining |
//! | `access.rs` | hooks | who may do what, and news for a backend |
//! | `centrifuge.rs` | pure | clients and backends of Centrifugo, where the settings want these |
//! | `certificates.rs` | a task | the check of the certificates, and warnings about their end |
//! | `engine.rs` | pure | the engine of a cluster, by the settings |
//! | `exposure.rs` | pure | what a stranger can do under the settings |
//! | `reload.rs` | a task | all settings read again and put in force |
//! | `reloading.rs` | a task | certificates and keys that have changed are read again |
//! | `service_manager/` | sockets and a file | what a service manager is told and gives, and the state left for a successor |
//! | `signals.rs` | streams of signals | the meaning of each signal |
//! | `limits.rs` | system calls | descriptors and memory: how much the system grants, and the shares |
//! | `api/` | HTTP server | the HTTP API |
//! | `admin/` | HTTP server | the admin port |
//! | `logging/` | a thread and its queue | the log on standard error |
//! | `metrics/` | readers | the figures of the server for a monitoring system |
//! | `manual.rs` | pure | manual pages and completions |
//! | `dashboard/` | files and their table | the page of the admin port for browsers |
//! | `client/` | clients of a running server | the commands `publish`, `subscribe`, `history`, `topics`, `connections`, `disconnect`, `trace`, `health`, `log` and `reload` |
//! | `top/` | a view on a terminal | the command `top` |
//! | `token.rs` | the command `token` | keys and tokens for trying |
//! | `bench/` | processes | the command `bench`, and the hidden command of its workers |
//! | `failure.rs` | errors | error messages and exit codes |
//!
//! A failed command returns a [`Failure`], which decides the exit code.

#![forbid(unsafe_code)]

mod access;
mod admin;
mod api;
mod bench;
mod centrifuge;
mod certificates;
mod cli;
mod client;
mod dashboard;
mod engine;
mod exposure;
mod failure;
mod limits;
mod live;
mod logging;
mod manual;
mod metrics;
mod reload;
mod reloading;
mod serve;
mod service_manager;
mod settings;
mod signals;
mod token;
#[cfg(feature = "top")]
mod top;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;

use access::Access;
use cli::{Cli, Command, ConfigCommand, SettingFlags};
use failure::Failure;
use limits::Memory;
use reload::Sources;
use serve::ServeError;
use service_manager::sockets::Sockets;
use settings::Loaded;

// A cast between two actors costs two allocations, and mimalloc halves their price. Only the binary chooses an
// allocator; embedders of janus-core keep their own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let outcome = match Cli::parse().into_command().unwrap_or_else(|error| error.exit()) {
        Command::Serve(flags) => serve(flags),
        Command::Config(command) => config(&command),
        Command::Publish(command) => client::publish::run(&command).map_err(Failure::from),
        Command::Subscribe(command) => client::subscribe::run(&command).map_err(Failure::from),
        Command::History(command) => client::history::run(&command).map_err(Failure::from),
        Command::Presence(command) => client::presence::run(&command).map_err(Failure::from),
        Command::Topics(command) => client::lists::topics(&command).map_err(Failure::from),
        Command::Connections(command) => client::lists::connections(&command).map_err(Failure::from),
        Command::Disconnect(command) => client::disconnect::run(&command).map_err(Failure::from),
        Command::Trace(command) => client::trace::run(&command).map_err(Failure::from),
        Command::Reload(command) => client::reload::run(&command).map_err(Failure::from),
        Command::Health(command) => client::health::run(&command).map_err(Failure::from),
        Command::Log(command) => client::log::run(&command).map_err(Failure::from),
        #[cfg(feature = "top")]
        Command::Top(command) => top::run(&command).map_err(Failure::from),
        Command::Token(command) => token::run(&command).map_err(Failure::from),
        Command::Bench(command) => bench::run(&command).map_err(Failure::from),
        Command::Completions(command) => print(&manual::completions(command.shell)),
        Command::Man(command) => manual::write(&command.folder).map_err(Failure::from),
        Command::BenchWorker => bench::worker::run().map_err(Failure::from),
    };
    outcome.map_or_else(|failure| failure.report(), |()| ExitCode::SUCCESS)
}

fn serve(flags: SettingFlags) -> Result<(), Failure> {
    let sources = Sources::new(flags.0);
    let loaded = sources.read()?;
    let _flush =
        logging::start(loaded.settings.log.clone(), loaded.settings.log_format.format(), loaded.settings.log_queue);
    log::info!("{}", loaded.describe("memory_budget_bytes"));
    let asked_for = loaded.is_set("max_connections");
    // In a process with a single thread, because the variables about the sockets are removed.
    let sockets = Sockets::of_this_process().map_err(ServeError::Sockets)?;
    let sources = sources.with_sockets(sockets.addresses());
    let settings = limits::fit_to_descriptors(sources.settings(&loaded), asked_for);
    // Only now, because `limits::make_room` needs a process with a single thread.
    logging::start_writing().map_err(ServeError::Log)?;
    serve::run(&settings, loaded, sources, sockets)?;
    Ok(())
}

fn config(command: &ConfigCommand) -> Result<(), Failure> {
    let text = match command {
        ConfigCommand::Show(flags) => load(flags)?.show(),
        ConfigCommand::Check(flags) => {
            let loaded = load(flags)?;
            // The keys and authorities are read as at a start.
            Access::new(&loaded.settings).map_err(ServeError::Access)?;
            engine::of(&loaded.settings).map_err(ServeError::Engine)?;
            janus_pusher::Pusher::from_settings(&loaded.settings.pusher).map_err(ServeError::Pusher)?;
            let warnings = certificates::check(&loaded.settings.core).map_err(ServeError::Start)?;
            let warnings = warnings.iter().map(ToString::to_string).chain(exposure::warning(&loaded.settings));
            for warning in warnings {
                logging::last_words("warning", &warning);
            }
            match &loaded.file {
                Some(file) => format!("the settings are valid, with the file {}\n", file.display()),
                None => "the settings are valid, without a file (--config FILE or JANUS_CONFIG names one)\n".to_owned(),
            }
        }
        ConfigCommand::Example => settings::example(),
    };
    print(&text)
}

fn print(text: &str) -> Result<(), Failure> {
    io::stdout().lock().write_all(text.as_bytes()).map_err(Failure::Output)
}

fn load(flags: &SettingFlags) -> Result<Loaded, Failure> {
    Ok(Loaded::read(&flags.0, std::env::vars_os(), Memory::of_this_process())?)
}
