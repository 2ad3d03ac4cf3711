//! `janus-server serve`: starts the tree, waits for a signal or for the tree's own end, and drains.
//!
//! The first SIGTERM or SIGINT drains and ends with exit code 0. A second one does not wait for the drain and ends with
//! 1, as messages that were queued are lost. When the tree gives up, the reason is told and the exit code is 1.

use std::net::SocketAddr;

use janus_core::{Config, Janus, StartError};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Why serving ended otherwise than by a drain.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error("cannot set up the runtime")]
    Runtime(#[source] std::io::Error),
    #[error("cannot listen on {addr}{}", advice(source))]
    Bind { addr: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Start(StartError),
    #[error("the server gave up: {0}")]
    GaveUp(String),
    #[error("ended by a second signal; what was still queued is lost")]
    Interrupted,
}

impl ServeError {
    pub(crate) fn is_usage(&self) -> bool {
        matches!(self, Self::Start(StartError::Config(_)))
    }
}

pub(crate) fn run(config: Config) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ServeError::Runtime)?;
    runtime.block_on(serve(config))
}

async fn serve(config: Config) -> Result<(), ServeError> {
    let drain_period = config.drain_period;
    let mut signals = Signals::new().map_err(ServeError::Runtime)?;
    let janus = Janus::builder().config(config).start().await.map_err(|error| match error {
        StartError::Bind { addr, source } => ServeError::Bind { addr, source },
        other => ServeError::Start(other),
    })?;
    #[cfg(feature = "fault-injection")]
    tokio::spawn(crash_until_it_gives_up(janus.clone()));
    for addr in janus.local_addrs() {
        log::info!("listening on {addr}");
    }
    tokio::select! {
        reason = janus.wait() => return Err(ServeError::GaveUp(reason.to_string())),
        name = signals.next() => log::info!("{name}: draining over {drain_period:?}; a second signal ends at once"),
    }
    tokio::select! {
        report = janus.shutdown() => {
            log::info!("drained {} connections", report.connections);
            if report.cut_off > 0 {
                log::warn!("{} of them were cut off with messages left, by write_timeout or drain_timeout", report.cut_off);
            }
            Ok(())
        }
        name = signals.next() => {
            log::warn!("{name}: ending at once");
            Err(ServeError::Interrupted)
        }
    }
}

/// For the test of what a supervisor sees when the tree gives up: nothing outside the process can make it do so.
#[cfg(feature = "fault-injection")]
async fn crash_until_it_gives_up(janus: Janus) {
    if std::env::var_os("CRASH_THE_TOPIC_MANAGER").is_none() {
        return;
    }
    loop {
        janus.inject(janus_core::Fault::TopicManager);
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

/// The signals that ask for an end: SIGTERM comes from a service manager, SIGINT from a terminal.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

fn advice(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::AddrInUse => " (is another server running? end it, or choose another port with --listen)",
        std::io::ErrorKind::AddrNotAvailable => " (no interface of this machine has that address)",
        std::io::ErrorKind::PermissionDenied => " (ports below 1024 need the CAP_NET_BIND_SERVICE capability)",
        _ => "",
    }
}
