//! The meaning of signals to the server.
//!
//! SIGTERM (from a service manager), SIGINT and SIGQUIT (from a terminal) stop the server. SIGHUP reads certificates and
//! keys for tokens again, if there are any. Operators send SIGHUP, SIGUSR1 and SIGUSR2 by habit, to reload settings or
//! reopen a log. The server does neither. Signals without a use are ignored rather than left to their default, which
//! would end the process and cut off every client.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::reloading::Reloading;
use crate::service_manager::notify::ServiceManager;

/// Stop signals within this time of the first count as the same stop. A single Ctrl-C may deliver several: the terminal
/// signals the whole process group, and programs such as `npm` or `timeout` pass the signal on.
pub(crate) const SAME_STOP: Duration = Duration::from_secs(2);

/// The server's reaction to a signal.
#[derive(Clone, Copy)]
enum Meaning {
    Stop,
    /// New certificates and keys or, without such files, only a line in the log.
    Reload,
    /// Only a line in the log, with this reason.
    Ignored(&'static str),
}

pub(crate) struct Signals {
    known: Vec<(Signal, &'static str, Meaning)>,
    /// Waits for the beginning and the end of each reload that it asks for.
    manager: Arc<ServiceManager>,
}

impl Signals {
    /// Takes over the signals; from now on none of them ends the process by default.
    pub(crate) fn new(manager: &Arc<ServiceManager>) -> io::Result<Self> {
        let nothing = "the server has no use for this signal";
        let known = [
            (SignalKind::terminate(), "SIGTERM", Meaning::Stop),
            (SignalKind::interrupt(), "SIGINT", Meaning::Stop),
            (SignalKind::quit(), "SIGQUIT", Meaning::Stop),
            (SignalKind::hangup(), "SIGHUP", Meaning::Reload),
            (SignalKind::user_defined1(), "SIGUSR1", Meaning::Ignored(nothing)),
            (SignalKind::user_defined2(), "SIGUSR2", Meaning::Ignored(nothing)),
        ];
        let known = known.into_iter().map(|(kind, name, meaning)| Ok((signal(kind)?, name, meaning)));
        Ok(Self { known: known.collect::<io::Result<_>>()?, manager: Arc::clone(manager) })
    }

    /// Waits for the next stop signal, and returns its name. Signals of other meanings take effect in the meantime.
    pub(crate) async fn stop(&mut self, reloading: &Reloading) -> &'static str {
        loop {
            let (name, meaning) = self.next().await;
            match meaning {
                Meaning::Stop => return name,
                Meaning::Reload => {
                    match reloading.what() {
                        Some(what) => {
                            log::info!("{name}: reading the {what} again; other settings are read only at startup");
                        }
                        None => log::warn!(
                            "{name} ignored: settings are read only at startup; restart the server to change them"
                        ),
                    }
                    let (manager, reloading) = (Arc::clone(&self.manager), reloading.clone());
                    // Further signals must not wait for a file system that hangs.
                    tokio::spawn(async move { manager.reloading(reloading.reload()).await });
                }
                Meaning::Ignored(why) => log::warn!("{name} ignored: {why}"),
            }
        }
    }

    /// Waits for a stop signal other than repetitions of the `first` (see [`SAME_STOP`]), and returns its name.
    pub(crate) async fn stop_again(&mut self, first: Instant, reloading: &Reloading) -> &'static str {
        loop {
            let name = self.stop(reloading).await;
            if first.elapsed() >= SAME_STOP {
                return name;
            }
            log::info!("{name}: already draining; a signal {SAME_STOP:?} after the first ends the server at once");
        }
    }

    async fn next(&mut self) -> (&'static str, Meaning) {
        poll_fn(|cx| {
            for (signal, name, meaning) in &mut self.known {
                if signal.poll_recv(cx).is_ready() {
                    return Poll::Ready((*name, *meaning));
                }
            }
            Poll::Pending
        })
        .await
    }
}
