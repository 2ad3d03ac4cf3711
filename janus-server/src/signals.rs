//! The meaning of signals to the server.
//!
//! SIGTERM (from a service manager), SIGINT and SIGQUIT (from a terminal) stop the server. SIGHUP reads all settings
//! again, with the files of certificates and keys, and puts them in force or, with a mistake, changes nothing. Operators
//! send SIGUSR1 and SIGUSR2 by habit, to reopen a log, and the server does not. Signals without a use are ignored rather
//! than left to their default, which would end the process and cut off every client.

use std::future::poll_fn;
use std::io;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::reload::Reloader;

/// Stop signals within this time of the first count as the same stop. A single Ctrl-C may deliver several: the terminal
/// signals the whole process group, and programs such as `npm` or `timeout` pass the signal on.
pub(crate) const SAME_STOP: Duration = Duration::from_secs(2);

/// The server's reaction to a signal.
#[derive(Clone, Copy)]
enum Meaning {
    Stop,
    /// A reload of all settings.
    Reload,
    /// Only a line in the log, with this reason.
    Ignored(&'static str),
}

pub(crate) struct Signals(Vec<(Signal, &'static str, Meaning)>);

impl Signals {
    /// Takes over the signals; from now on none of them ends the process by default.
    pub(crate) fn new() -> io::Result<Self> {
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
        known.collect::<io::Result<_>>().map(Self)
    }

    /// Waits for the next stop signal, and returns its name. Signals of other meanings take effect in the meantime.
    pub(crate) async fn stop(&mut self, reloader: &Reloader) -> &'static str {
        loop {
            let (name, meaning) = self.next().await;
            match meaning {
                Meaning::Stop => return name,
                Meaning::Reload => {
                    log::info!("{name}: reading the settings again");
                    // Further signals must not wait for a file system that hangs.
                    reloader.ask();
                }
                Meaning::Ignored(why) => log::warn!("{name} ignored: {why}"),
            }
        }
    }

    /// Waits for a stop signal other than repetitions of the `first` (see [`SAME_STOP`]), and returns its name.
    pub(crate) async fn stop_again(&mut self, first: Instant, reloader: &Reloader) -> &'static str {
        loop {
            let name = self.stop(reloader).await;
            if first.elapsed() >= SAME_STOP {
                return name;
            }
            log::info!("{name}: already draining; a signal {SAME_STOP:?} after the first ends the server at once");
        }
    }

    async fn next(&mut self) -> (&'static str, Meaning) {
        poll_fn(|cx| {
            for (signal, name, meaning) in &mut self.0 {
                if signal.poll_recv(cx).is_ready() {
                    return Poll::Ready((*name, *meaning));
                }
            }
            Poll::Pending
        })
        .await
    }
}
