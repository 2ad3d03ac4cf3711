//! Reads all settings again, and puts them in force: all of them or, with a mistake, none.
//!
//! A signal, the admin port and a command ask for a reload. Reloads take turns. Everything that may wait or fail (the
//! file of settings, the certificates, the keys of tokens) is read first, on a thread of its own, because a file system
//! may hang; what follows cannot fail.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fmt;
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use janus_core::{Janus, ReloadError};
use tokio::sync::{Mutex, Notify};

use crate::access::Access;
use crate::admin::Admin;
use crate::api::Api;
use crate::engine::fingerprint as engine_file;
use crate::limits::{self, Memory};
use crate::service_manager::notify::ServiceManager;
use crate::service_manager::sockets::Addresses;
use crate::settings::{Changes, Flags, Loaded, Problems, Settings};
use crate::{exposure, logging};

/// Lines of one reload in the log. More settings change only with many namespaces.
const MAX_LINES: usize = 200;

/// The layers of the settings: flags and variables are those of the start, and the file is read anew each time.
#[derive(Debug)]
pub(crate) struct Sources {
    flags: Flags,
    variables: Vec<(OsString, OsString)>,
    /// Of the sockets that stand in for the addresses of the settings.
    sockets: Addresses,
}

impl Sources {
    pub(crate) fn new(flags: Flags) -> Self {
        Self { flags, variables: std::env::vars_os().collect(), sockets: Addresses::default() }
    }

    /// With sockets of the service manager, whatever addresses the settings have.
    pub(crate) fn with_sockets(self, sockets: Addresses) -> Self {
        Self { sockets, ..self }
    }

    /// The settings as read, with the addresses of the sockets.
    pub(crate) fn settings(&self, loaded: &Loaded) -> Settings {
        let mut settings = loaded.settings.clone();
        self.sockets.stand_in(&mut settings);
        settings
    }

    /// Reads all layers. Blocks.
    pub(crate) fn read(&self) -> Result<Loaded, Problems> {
        Loaded::read(&self.flags, self.variables.iter().cloned(), Memory::of_this_process())
    }
}

/// Why settings are not taken over: everything wrong with them. Nothing has changed.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub(crate) struct Mistakes(pub(crate) Vec<String>);

/// Puts settings in force. Clones are the same.
#[derive(Clone)]
pub(crate) struct Reloader(Arc<Inner>);

/// For parts that the reloader itself holds.
#[derive(Clone, Debug)]
pub(crate) struct WeakReloader(Weak<Inner>);

impl WeakReloader {
    pub(crate) fn upgrade(&self) -> Option<Reloader> {
        self.0.upgrade().map(Reloader)
    }
}

struct Inner {
    sources: Arc<Sources>,
    /// The parts that follow the settings.
    janus: Janus,
    access: Access,
    api: Arc<Api>,
    admin: Arc<Admin>,
    manager: Arc<ServiceManager>,
    /// The settings in force. Locked for the whole of a reload.
    present: Mutex<Loaded>,
    /// The same, fitted to the limits of the system.
    in_force: ArcSwap<Settings>,
    /// Signals that have come since the last reload began, taken together.
    asked: Notify,
    /// Of the `engine_file` of the start.
    engine_file: Option<u64>,
}

impl Reloader {
    /// `present` are the settings of the start, as they were read and as they are in force.
    pub(crate) fn new(
        sources: Arc<Sources>,
        (present, in_force): (Loaded, &Settings),
        (janus, access): (Janus, Access),
        (api, admin, manager): (Arc<Api>, Arc<Admin>, Arc<ServiceManager>),
    ) -> Self {
        let (present, in_force) = (Mutex::new(present), ArcSwap::from_pointee(in_force.clone()));
        let (asked, engine_file) = (Notify::new(), engine_file(&in_force.load()));
        let inner = Inner { sources, janus, access, api, admin, manager, present, in_force, asked, engine_file };
        let reloader = Self(Arc::new(inner));
        reloader.0.admin.set_reloader(&reloader);
        reloader
    }

    pub(crate) fn downgrade(&self) -> WeakReloader {
        WeakReloader(Arc::downgrade(&self.0))
    }

    /// The settings in force.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.0.in_force.load_full()
    }

    /// Asks for a reload by [`run`](Self::run). Requests during a reload are one further reload.
    pub(crate) fn ask(&self) {
        self.0.asked.notify_one();
    }

    /// Reloads whenever asked. Never ends.
    pub(crate) async fn run(&self) -> Infallible {
        loop {
            self.0.asked.notified().await;
            // The log says how the reload went.
            let _ = self.reload().await;
        }
    }

    /// Reads all layers again and puts them in force, and says so in the log. A caller that goes away does not end the
    /// reload.
    ///
    /// # Errors
    ///
    /// Everything that is wrong. Nothing has changed.
    pub(crate) async fn reload(&self) -> Result<Changes, Mistakes> {
        let this = self.clone();
        let reload = async move { this.0.manager.reloading(Arc::clone(&this.0).reload()).await };
        let reloaded = tokio::spawn(reload).await;
        let is_panic = reloaded.is_err();
        let reloaded = reloaded.unwrap_or_else(|panic| {
            log::error!("reload: {panic}; some settings may have changed, so restart the server when it suits");
            Err(Mistakes(vec![format!("the reload ended half-way: {panic}")]))
        });
        match &reloaded {
            Ok(_) => {}
            Err(_) if is_panic => {}
            Err(mistakes) => {
                for mistake in &mistakes.0 {
                    log::error!("reload: {mistake}");
                }
                log::error!("reload: nothing has changed, because of the mistakes above");
            }
        }
        reloaded
    }
}

impl Inner {
    async fn reload(self: Arc<Self>) -> Result<Changes, Mistakes> {
        let mut present = self.present.lock().await;
        let this = Arc::clone(&self);
        let before = present.settings.core.max_connections;
        let prepared = tokio::task::spawn_blocking(move || this.prepare(before)).await;
        let Prepared { mut loaded, mut settings, core, access, has_other_engine } =
            prepared.unwrap_or_else(|panic| Err(Mistakes(vec![panic.to_string()])))?;
        // From here on nothing waits and nothing fails. The rules of access come first: settings that open the server and
        // bring its first keys must not open it a moment before.
        self.access.follow(access);
        let stays = core.commit().needs_restart;
        let stays = |name: &str| stays.iter().any(|stays| stays == name);
        let mut changes = present.changes(&loaded, stays);
        if has_other_engine {
            changes.note_content("engine_file");
        }
        settings.keep(&self.in_force.load(), stays);
        self.api.follow(&settings);
        self.admin.follow(&settings);
        // A level that hides lines of `info` comes into force after the lines about this reload.
        let is_quiet = !settings.log.has_info();
        if !is_quiet {
            logging::set_filter(settings.log.clone());
        }
        tell(&changes);
        if is_quiet {
            logging::set_filter(settings.log.clone());
        }
        if let Some(line) = exposure::warning(&settings).filter(|_| !changes.are_none()) {
            log::warn!("{line}");
        }
        loaded.settings.keep(&present.settings, stays);
        *present = loaded;
        self.in_force.store(Arc::new(settings));
        Ok(changes)
    }

    /// Reads and checks everything, and changes nothing. Blocks. `max_connections` is the number of before: only another
    /// number can be too large without a word so far.
    fn prepare(&self, max_connections: usize) -> Result<Prepared, Mistakes> {
        let loaded = self.sources.read();
        let loaded =
            loaded.map_err(|Problems(problems)| Mistakes(problems.iter().map(ToString::to_string).collect()))?;
        let is_new = loaded.is_set("max_connections") && loaded.settings.core.max_connections != max_connections;
        let settings = limits::fit_again(self.sources.settings(&loaded), is_new);
        let core = self.janus.prepare_reload(settings.core.clone()).map_err(|error| match error {
            ReloadError::Certificates(errors) => errors.iter().map(ToString::to_string).collect(),
            other => vec![other.to_string()],
        });
        let access = self.access.prepare(&settings).map_err(|error| error.to_string());
        let has_other_engine = engine_file(&self.in_force.load()) != self.engine_file;
        match (core, access) {
            (Ok(core), Ok(access)) => Ok(Prepared { loaded, settings, core, access, has_other_engine }),
            (core, access) => Err(Mistakes(core.err().into_iter().flatten().chain(access.err()).collect())),
        }
    }
}

/// Everything that has been read, and is not in force yet.
struct Prepared {
    /// As read.
    loaded: Loaded,
    /// Fitted to the limits of the system.
    settings: Settings,
    core: janus_core::PreparedReload,
    access: crate::access::PreparedAccess,
    /// Whether `engine_file` has other addresses than at the start.
    has_other_engine: bool,
}

fn tell(changes: &Changes) {
    for line in changes.lines.iter().take(MAX_LINES) {
        log::info!("reload: {line}");
    }
    if changes.lines.len() > MAX_LINES {
        log::info!("reload: {} more changes", changes.lines.len() - MAX_LINES);
    }
    if changes.are_none() {
        log::info!("reload: no setting has changed; the files of certificates and keys have been read again");
    }
}

impl fmt::Debug for Reloader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloader").field("sources", &self.0.sources).finish_non_exhaustive()
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("sources", &self.sources).finish_non_exhaustive()
    }
}
