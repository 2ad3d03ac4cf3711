//! `janus-server serve`: starts the tree, waits for a signal or for the tree to end, and drains.
//!
//! The first SIGTERM, SIGINT or SIGQUIT starts a drain, after which the exit code is 0. Another stop signal, at least
//! [`SAME_STOP`] later, ends the server at once with exit code 1, because queued messages are lost. When the tree gives
//! up, the server reports the reason and ends with exit code 1.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use janus_access::tokens::SetupError;
use janus_core::supervision::in_words;
use janus_core::{Builder, Config, DrainReport, Janus, StartupError};
use janus_pusher::Pusher;
use tokio::sync::mpsc;

use crate::access::Access;
use crate::admin::{self, Admin, Health, Unbound};
use crate::api::{self, Api};
use crate::centrifuge;
use crate::certificates;
use crate::engine::{self, EngineError};
use crate::exposure;
use crate::logging::{self, counted};
use crate::reload::{self, Reloader};
use crate::reloading::Reloading;
use crate::service_manager::handover;
use crate::service_manager::notify::{ServiceManager, Stage};
use crate::service_manager::sockets::{Addresses, SocketError, Sockets};
use crate::settings::{Loaded, Settings};
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
    Sockets(SocketError),
    #[error(transparent)]
    Start(StartupError),
    #[error(transparent)]
    Access(#[from] SetupError),
    #[error(transparent)]
    Pusher(#[from] janus_pusher::SetupError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("the server gave up: {0}")]
    GaveUp(String),
    #[error("ended by a second signal; messages still queued are lost")]
    Interrupted,
}

impl ServeError {
    pub(crate) fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Sockets(_)
                | Self::Engine(_)
                | Self::Pusher(_)
                | Self::Access(SetupError::Client(_))
                | Self::Start(StartupError::Config(_))
        )
    }
}

/// `settings` are those of `loaded`, fitted to the limits of the system and with the addresses of the sockets; `sources`
/// are for reloads.
pub(crate) fn run(
    settings: &Settings,
    loaded: Loaded,
    sources: reload::Sources,
    sockets: Sockets,
) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ServeError::Runtime)?;
    let outcome = runtime.block_on(serve(settings, loaded, Arc::new(sources), sockets));
    // A thread that reads a file may hang with its file system, and must not keep the process.
    runtime.shutdown_background();
    outcome
}

async fn serve(
    settings: &Settings,
    loaded: Loaded,
    sources: Arc<reload::Sources>,
    sockets: Sockets,
) -> Result<(), ServeError> {
    let mut signals = Signals::new().map_err(ServeError::Runtime)?;
    let server = Server::start(settings, loaded, sources, sockets).await?;
    let stopped = server.keep(&settings.core, &mut signals).await?;
    server.finish(settings.state_file.as_deref(), &mut signals, stopped).await
}

/// The running parts of the server.
struct Server {
    janus: Janus,
    access: Access,
    api: Arc<Api>,
    admin: Arc<Admin>,
    health: Arc<Health>,
    reloader: Reloader,
    manager: Arc<ServiceManager>,
}

impl Server {
    async fn start(
        settings: &Settings,
        loaded: Loaded,
        sources: Arc<reload::Sources>,
        mut sockets: Sockets,
    ) -> Result<Self, ServeError> {
        let manager = Arc::new(ServiceManager::of_this_process());
        // A channel, because requests can arrive before the handle to serve them exists.
        let (passed_on, requests) = mpsc::channel(MAX_WAITING_REQUESTS);
        let pass_on = move |request| {
            if passed_on.try_send(request).is_err() {
                log::debug!("API request closed, because too many are waiting to be served");
            }
        };
        let access = Access::new(settings)?;
        let given = sockets.addresses();
        let listening = match sockets.take_admin() {
            given if given.is_empty() => admin::listen(&settings.admin_listen)
                .map_err(|Unbound { addr, source }| ServeError::BindAdmin { addr, source })?,
            given => admin::adopt(given),
        };
        let shared = api::Shared::new(settings);
        let builder = match engine::of(settings)? {
            Some(redis) => Janus::builder().engine(redis).node_name(engine::node_name(settings)),
            None => Janus::builder(),
        };
        let builder = sockets.hand_to(settings.clone(), builder).pass_on(pass_on).hooks(access.clone());
        let builder = centrifuge::add(builder, settings, &shared);
        let builder = match Pusher::from_settings(&settings.pusher)? {
            Some(pusher) => {
                log::info!("serving {pusher}");
                pusher.add_to(builder)
            }
            None => builder,
        };
        let janus = start(builder.publish_route(shared.publish_route()), settings.state_file.as_deref()).await?;
        let api = Arc::new(Api::new(janus.clone(), settings, &shared, Some(access.clone())));
        api.serve_all(requests);
        tokio::spawn(logging::end_changes());
        #[cfg(feature = "fault-injection")]
        inject_faults(&janus);
        announce(&settings.core, &janus.local_addrs(), &given, api.is_closed());
        let health = Arc::new(Health::new(janus.clone(), Some(access.tokens().clone())));
        let admin = Arc::new(Admin::new(&api, settings, Arc::clone(&health)));
        for addr in admin.serve(listening).map_err(ServeError::Runtime)? {
            log::info!(addr:%; "admin port on {addr}{}", origin(addr, &given));
        }
        if let Some(line) = exposure::warning(settings) {
            log::warn!("{line}");
        }
        let parts = (Arc::clone(&api), Arc::clone(&admin), Arc::clone(&manager));
        let reloader = Reloader::new(sources, (loaded, settings), (janus.clone(), access.clone()), parts);
        manager.ready(&janus);
        Ok(Self { janus, access, api, admin, health, reloader, manager })
    }

    /// Serves until a stop signal and the end of `drain_delay`. Returns when the signal came.
    async fn keep(&self, config: &Config, signals: &mut Signals) -> Result<Instant, ServeError> {
        let Self { janus, access, health, reloader, manager, .. } = self;
        let reloading = Reloading::of(janus, config, Some(access.tokens()));
        let keeping = async {
            tokio::join!(
                reloading.watch(),
                certificates::watch(janus, config),
                access.run(),
                reloader.run(),
                manager.keep(janus),
                tell_nodes(janus, health),
                watch_first_link(janus)
            )
        };
        tokio::select! {
            reason = janus.wait() => Err(ServeError::GaveUp(reason.to_string())),
            stopped = serve_until_stopped(janus, manager, signals, reloader, health) => stopped,
            _ = keeping => unreachable!("files, keys and the service manager are looked after for ever"),
        }
    }

    /// Drains, and leaves the state of the topics for the next server.
    async fn finish(
        &self,
        state_file: Option<&Path>,
        signals: &mut Signals,
        stopped: Instant,
    ) -> Result<(), ServeError> {
        let Self { janus, access, api, admin, health, reloader, manager } = self;
        let drained = || {
            health.drained();
            manager.drained();
            // At once: from here on a second signal loses nothing.
            if let (Some(file), Some(handover)) = (state_file, janus.handover()) {
                handover::leave(file, handover);
            }
        };
        let drain = drain(janus, (access, janus.config().drain_timeout), signals, reloader, drained, stopped);
        let report = manager.draining(janus, Stage::Draining, drain).await?;
        tokio::join!(api.finish(), admin.finish());
        let (connections, cut_off) = (report.connections, report.cut_off);
        log::info!(connections; "drained {}", counted(connections, "connection"));
        if cut_off > 0 {
            log::warn!(
                connections = cut_off;
                "closed {cut_off} of them by write_timeout or drain_timeout with messages left"
            );
        }
        Ok(())
    }
}

/// Starts the instance, which continues the topics of the last server if that has left its state.
async fn start(builder: Builder, state_file: Option<&Path>) -> Result<Janus, ServeError> {
    let left = state_file.and_then(handover::take);
    let builder = match left.clone() {
        Some(left) => builder.continue_from(left),
        None => builder,
    };
    let started = builder.start().await;
    match (&started, state_file, left) {
        // No port has served a client, so the next attempt may continue from there.
        (Err(error), Some(file), Some(left)) if !matches!(error, StartupError::Tree(_)) => handover::leave(file, left),
        (Ok(_), Some(file), _) => handover::check(file),
        _ => {}
    }
    started.map_err(|error| match error {
        StartupError::Bind { addr, source } => ServeError::Bind { addr, source },
        other => ServeError::Start(other),
    })
}

/// Tells the log if the engine cannot be reached at the start. A server without its engine is of some use, and a server
/// that ends because its engine is away is of none.
async fn watch_first_link(janus: &Janus) {
    let grace = janus.config().engine_grace;
    if janus.cluster().is_none() {
        return;
    }
    tokio::time::sleep(grace).await;
    let links = janus.cluster().map(|cluster| cluster.links).unwrap_or_default();
    let missing: Vec<_> = links.iter().filter(|link| !link.has_been_up).collect();
    let consequence =
        if missing.len() < links.len() { "its topics wait for it" } else { "not ready until there is a link" };
    for link in missing {
        let reason = link.last_error.as_ref().map_or_else(|| "no answer yet".to_owned(), ToString::to_string);
        log::warn!(
            "started without the engine {}, which could not be reached within {} (engine_grace); {consequence}: {reason}",
            link.server,
            in_words(grace)
        );
    }
}

/// Keeps the other nodes informed whether this server takes clients.
async fn tell_nodes(janus: &Janus, health: &Health) {
    if janus.cluster().is_none() {
        return std::future::pending().await;
    }
    loop {
        janus.set_ready(health.ready().is_good());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Writes a line for each address, in the order of [`Janus::local_addrs`]. `given` are the addresses of the sockets of
/// the service manager.
fn announce(config: &Config, addrs: &[SocketAddr], given: &Addresses, api_is_closed: bool) {
    let Config { listen, tls_listen, http_listen, https_listen, .. } = config;
    let kinds = [
        (listen.len(), "listening on", ""),
        (tls_listen.len(), "listening on", " (TLS)"),
        (http_listen.len(), "serving HTTP on", ""),
        (https_listen.len(), "serving HTTP on", " (TLS)"),
    ];
    let kinds = kinds.into_iter().flat_map(|(count, words, tls)| std::iter::repeat_n((words, tls), count));
    for ((words, tls), addr) in kinds.zip(addrs) {
        log::info!(addr:%; "{words} {addr}{tls}{}", origin(*addr, given));
    }
    let has_http = !http_listen.is_empty() || !https_listen.is_empty();
    if has_http && api_is_closed {
        log::warn!(
            "the HTTP API is closed, because other machines can reach its port and there is no api_key; set api_key"
        );
    }
}

/// Behind an address in the log.
fn origin(addr: SocketAddr, given: &Addresses) -> &'static str {
    if given.contain(addr) { " (socket of the service manager)" } else { "" }
}

/// Serves until a stop signal, and for `drain_delay` more. Returns when the signal came.
///
/// # Errors
///
/// A second signal.
async fn serve_until_stopped(
    janus: &Janus,
    manager: &ServiceManager,
    signals: &mut Signals,
    reloader: &Reloader,
    health: &Health,
) -> Result<Instant, ServeError> {
    let name = signals.stop(reloader).await;
    let settings = reloader.settings();
    let (delay, period) = (settings.drain_delay, in_words(settings.core.drain_period));
    let same_stop = in_words(SAME_STOP);
    let stopped = Instant::now();
    health.stop();
    if delay.is_zero() {
        log::info!("{name}: draining over {period}; a second signal after {same_stop} ends the server at once");
        return Ok(stopped);
    }
    log::info!(
        "{name}: not ready from now on, and still serving for {} (drain_delay); a second signal after \
         {same_stop} ends the server at once",
        in_words(delay)
    );
    let delayed = async {
        tokio::select! {
            () = tokio::time::sleep(delay) => {
                log::info!("draining over {period}");
                Ok(stopped)
            }
            name = signals.stop_again(stopped, reloader) => {
                log::warn!("{name}: ending at once");
                Err(ServeError::Interrupted)
            }
        }
    };
    manager.draining(janus, Stage::Delayed, delayed).await
}

/// Drains until the last connection has ended, calls `then`, and sends the last events; ends early at a stop signal other
/// than that of `stopped`.
async fn drain(
    janus: &Janus,
    (access, time): (&Access, Duration),
    signals: &mut Signals,
    reloader: &Reloader,
    then: impl FnOnce(),
    stopped: Instant,
) -> Result<DrainReport, ServeError> {
    let begun = Instant::now();
    let drained = async {
        let report = janus.shutdown().await;
        then();
        access.finish(time.saturating_sub(begun.elapsed())).await;
        report
    };
    tokio::select! {
        report = drained => Ok(report),
        name = signals.stop_again(stopped, reloader) => {
            log::warn!("{name}: ending at once");
            Err(ServeError::Interrupted)
        }
        never = reloader.run() => match never {},
    }
}

/// For tests of what a service manager sees when the tree gives up, or when an actor hangs: nothing outside the process
/// can cause that.
#[cfg(feature = "fault-injection")]
fn inject_faults(janus: &Janus) {
    if std::env::var_os("CRASH_THE_TOPIC_MANAGER").is_some() {
        tokio::spawn(crash_until_it_gives_up(janus.clone()));
    }
    if let Ok(topic) = std::env::var("CRASH_THE_TOPIC") {
        tokio::spawn(crash_again_and_again(janus.clone(), topic));
    }
    if std::env::var_os("HANG_THE_ACTORS").is_some() {
        janus.inject(janus_core::Fault::Hang(Duration::from_secs(20)));
    }
    if std::env::var_os("HANG_AT_THE_FIRST_MESSAGE").is_some() {
        janus.inject(janus_core::Fault::TopicHang(Duration::from_secs(3_600)));
    }
}

#[cfg(feature = "fault-injection")]
async fn crash_until_it_gives_up(janus: Janus) {
    loop {
        janus.inject(janus_core::Fault::TopicManager);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A topic that crashes soon after each of its starts, so that its supervisor quarantines the topic.
#[cfg(feature = "fault-injection")]
async fn crash_again_and_again(janus: Janus, topic: String) {
    loop {
        janus.inject(janus_core::Fault::Topic(topic.clone()));
        tokio::time::sleep(Duration::from_millis(20)).await;
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
