//! `janus-server serve`: starts the tree, waits for a signal or for the tree to end, and drains.
//!
//! The first SIGTERM, SIGINT or SIGQUIT starts a drain, after which the exit code is 0. Another stop signal, at least
//! [`SAME_STOP`] later, ends the server at once with exit code 1, because queued messages are lost. When the tree gives
//! up, the server reports the reason and ends with exit code 1.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use janus_access::tokens::SetupError;
use janus_core::{Config, DrainReport, Janus, StartupError};
use tokio::sync::mpsc;

use crate::access::Access;
use crate::admin::{self, Admin, Health, Unbound};
use crate::api::Api;
use crate::certificates;
use crate::exposure;
use crate::reloading::Reloading;
use crate::settings::Settings;
use crate::signals::{SAME_STOP, Signals};

/// Requests to the HTTP API that wait for the thread of the API; more are closed at once.
const MAX_WAITING_REQUESTS: usize = 1_024;

/// Why the server ended other than by a drain.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error("cannot start the thread that writes the log")]
    Log(#[source] std::io::Error),
    #[error("cannot set up the runtime")]
    Runtime(#[source] std::io::Error),
    #[error("cannot listen on {addr}{}", advice(source))]
    Bind { addr: SocketAddr, source: std::io::Error },
    #[error("cannot listen on {addr} for admin_listen{}", admin_advice(source))]
    BindAdmin { addr: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Start(StartupError),
    #[error(transparent)]
    Access(#[from] SetupError),
    #[error("the server gave up: {0}")]
    GaveUp(String),
    #[error("ended by a second signal; messages still queued are lost")]
    Interrupted,
}

impl ServeError {
    pub(crate) fn is_usage(&self) -> bool {
        matches!(self, Self::Access(SetupError::Client(_)) | Self::Start(StartupError::Config(_)))
    }
}

pub(crate) fn run(settings: &Settings) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ServeError::Runtime)?;
    runtime.block_on(serve(settings))
}

async fn serve(settings: &Settings) -> Result<(), ServeError> {
    let config = &settings.core;
    let mut signals = Signals::new().map_err(ServeError::Runtime)?;
    // A channel, because requests can arrive before the handle to serve them exists.
    let (passed_on, requests) = mpsc::channel(MAX_WAITING_REQUESTS);
    let pass_on = move |request| {
        if passed_on.try_send(request).is_err() {
            log::debug!("API request closed, because too many are waiting to be served");
        }
    };
    let mut access = Access::new(settings)?;
    let listening = admin::listen(&settings.admin_listen)
        .map_err(|Unbound { addr, source }| ServeError::BindAdmin { addr, source })?;
    let builder = access.hooks(Janus::builder().config(config.clone()).pass_on(pass_on), settings);
    let janus = builder.start().await.map_err(|error| match error {
        StartupError::Bind { addr, source } => ServeError::Bind { addr, source },
        other => ServeError::Start(other),
    })?;
    let api = Arc::new(Api::new(janus.clone(), settings).with_figures_of(&access));
    api.serve_all(requests);
    #[cfg(feature = "fault-injection")]
    tokio::spawn(fail_on_purpose(janus.clone()));
    let addrs = janus.local_addrs();
    announce(config, &addrs, api.is_closed());
    let health = Arc::new(Health::new(janus.clone(), access.tokens().cloned()));
    let admin = Arc::new(Admin::new(&api, settings, Arc::clone(&health)));
    for addr in admin.serve(listening).map_err(ServeError::Runtime)? {
        log::info!("admin port on {addr}");
    }
    if let Some(line) = exposure::warning(settings) {
        log::warn!("{line}");
    }
    let reloading = Reloading::of(&janus, config, access.tokens());
    let stopped = {
        let keeping = async { tokio::join!(reloading.watch(), certificates::watch(&janus, config), access.run()) };
        let until_stopped = serve_until_stopped(&mut signals, &reloading, &health, settings);
        tokio::select! {
            reason = janus.wait() => return Err(ServeError::GaveUp(reason.to_string())),
            stopped = until_stopped => stopped?,
            _ = keeping => unreachable!("files and keys are kept fresh for ever"),
        }
    };
    let report =
        drain(&janus, (&api, &access, config.drain_timeout), &mut signals, &reloading, &health, stopped).await?;
    admin.finish().await;
    log::info!("drained {} connections", report.connections);
    if report.cut_off > 0 {
        log::warn!("{} of them were closed by write_timeout or drain_timeout with messages left", report.cut_off);
    }
    Ok(())
}

/// Writes a line for each address, in the order of [`Janus::local_addrs`].
fn announce(config: &Config, addrs: &[SocketAddr], api_is_closed: bool) {
    let Config { listen, tls_listen, http_listen, https_listen, .. } = config;
    let kinds = [
        (listen.len(), "listening on", ""),
        (tls_listen.len(), "listening on", " (TLS)"),
        (http_listen.len(), "serving HTTP on", ""),
        (https_listen.len(), "serving HTTP on", " (TLS)"),
    ];
    let kinds = kinds.into_iter().flat_map(|(count, words, tls)| std::iter::repeat_n((words, tls), count));
    for ((words, tls), addr) in kinds.zip(addrs) {
        log::info!("{words} {addr}{tls}");
    }
    let has_http = !http_listen.is_empty() || !https_listen.is_empty();
    if has_http && api_is_closed {
        log::warn!(
            "the HTTP API is closed, because other machines can reach its port and there is no api_key; set api_key"
        );
    }
}

/// Serves until a stop signal, and for `drain_delay` more. Returns when the signal came.
///
/// # Errors
///
/// A second signal.
async fn serve_until_stopped(
    signals: &mut Signals,
    reloading: &Reloading,
    health: &Health,
    settings: &Settings,
) -> Result<Instant, ServeError> {
    let (delay, period) = (settings.drain_delay, settings.core.drain_period);
    let name = signals.stop(reloading).await;
    let stopped = Instant::now();
    health.stop();
    if delay.is_zero() {
        log::info!("{name}: draining over {period:?}; a second signal after {SAME_STOP:?} ends the server at once");
        return Ok(stopped);
    }
    log::info!(
        "{name}: not ready from now on, and still serving for {delay:?} (drain_delay); a second signal after \
         {SAME_STOP:?} ends the server at once"
    );
    tokio::select! {
        () = tokio::time::sleep(delay) => {
            log::info!("draining over {period:?}");
            Ok(stopped)
        }
        name = signals.stop_again(stopped, reloading) => {
            log::warn!("{name}: ending at once");
            Err(ServeError::Interrupted)
        }
    }
}

/// Drains until the last connection has ended, or until a stop signal other than that of `stopped`.
async fn drain(
    janus: &Janus,
    (api, access, time): (&Api, &Access, Duration),
    signals: &mut Signals,
    reloading: &Reloading,
    health: &Health,
    stopped: Instant,
) -> Result<DrainReport, ServeError> {
    let begun = Instant::now();
    let drained = async {
        let report = janus.shutdown().await;
        health.drained();
        access.finish(time.saturating_sub(begun.elapsed())).await;
        report
    };
    tokio::select! {
        report = drained => {
            api.finish().await;
            Ok(report)
        }
        name = signals.stop_again(stopped, reloading) => {
            log::warn!("{name}: ending at once");
            Err(ServeError::Interrupted)
        }
    }
}

/// For the tests that a service manager sees when the tree gives up or hangs: nothing outside the process can cause that.
#[cfg(feature = "fault-injection")]
async fn fail_on_purpose(janus: Janus) {
    if std::env::var_os("HANG_THE_ACTORS").is_some() {
        janus.inject(janus_core::Fault::Hang(Duration::from_secs(20)));
    }
    if std::env::var_os("CRASH_THE_TOPIC_MANAGER").is_none() {
        return;
    }
    loop {
        janus.inject(janus_core::Fault::TopicManager);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn admin_advice(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::AddrInUse => {
            " (is another server running? choose another port with --admin-listen, or none with --admin-listen \"\")"
        }
        _ => advice(source),
    }
}

fn advice(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::AddrInUse => {
            " (is another server running? stop it, or choose another port with --listen or --http-listen)"
        }
        std::io::ErrorKind::AddrNotAvailable => " (no interface of this machine has that address)",
        std::io::ErrorKind::PermissionDenied => " (ports below 1024 need the CAP_NET_BIND_SERVICE capability)",
        _ => "",
    }
}
