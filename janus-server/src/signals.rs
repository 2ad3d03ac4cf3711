//! What signals mean to the server.
//!
//! SIGTERM (from a service manager), SIGINT and SIGQUIT (from a terminal) ask for an end. SIGHUP, SIGUSR1 and SIGUSR2 are sent by
//! habit, to have settings read again or a log reopened; the server does neither, and clients must not pay for the habit.

use std::future::poll_fn;
use std::io;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// A stop may come more than once: Ctrl-C goes to a whole process group, and `npm` or `timeout` in it pass it on. What comes
/// within this time of the first is the same stop.
pub(crate) const SAME_STOP: Duration = Duration::from_secs(2);

/// What a signal is answered with.
#[derive(Clone, Copy)]
enum Meaning {
    Stop,
    /// Nothing but a line in the log that ends with this.
    Ignored(&'static str),
}

pub(crate) struct Signals(Vec<(Signal, &'static str, Meaning)>);

impl Signals {
    /// Signals from now on; none of them ends the process by itself any more.
    pub(crate) fn new() -> io::Result<Self> {
        let settings = "settings are read at the start only; restart the server to change them";
        let nothing = "it means nothing to this server";
        let known = [
            (SignalKind::terminate(), "SIGTERM", Meaning::Stop),
            (SignalKind::interrupt(), "SIGINT", Meaning::Stop),
            (SignalKind::quit(), "SIGQUIT", Meaning::Stop),
            (SignalKind::hangup(), "SIGHUP", Meaning::Ignored(settings)),
            (SignalKind::user_defined1(), "SIGUSR1", Meaning::Ignored(nothing)),
            (SignalKind::user_defined2(), "SIGUSR2", Meaning::Ignored(nothing)),
        ];
        known
            .into_iter()
            .map(|(kind, name, meaning)| Ok((signal(kind)?, name, meaning)))
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// The name of the next signal that asks for an end.
    pub(crate) async fn stop(&mut self) -> &'static str {
        loop {
            let (name, meaning) = self.next().await;
            match meaning {
                Meaning::Stop => return name,
                Meaning::Ignored(why) => log::warn!("{name}: ignored, {why}"),
            }
        }
    }

    /// The same for one that is not the stop of then once more.
    pub(crate) async fn stop_again(&mut self, then: Instant) -> &'static str {
        loop {
            let name = self.stop().await;
            if then.elapsed() >= SAME_STOP {
                return name;
            }
            log::info!("{name}: the drain is under way; {SAME_STOP:?} after its beginning a signal ends at once");
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
