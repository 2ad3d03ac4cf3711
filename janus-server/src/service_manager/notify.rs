//! The state of the server, told to the service manager: `sd_notify(3)`.
//!
//! A message is a datagram to the socket in `NOTIFY_SOCKET`. Sending never waits: an absent or busy service
//! manager must hold up no client. With the socket full, a message about the state of the server is sent again a moment
//! later, and a message of the moment is dropped.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::env::VarError;
use std::io;
#[cfg(target_os = "linux")]
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use janus_core::Janus;
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};
use tokio::time::{Interval, MissedTickBehavior, interval};

/// From one status line to the next.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// From one request for more time to the next during a drain, and the time in each request. Several requests may be
/// late or lost.
const EXTEND_EVERY: Duration = Duration::from_secs(2);
const EXTEND_BY: Duration = Duration::from_secs(15);

/// From one look at unsent messages to the next.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// A shorter watchdog would have the thread of `main` do nothing else.
const SHORTEST_BEAT: Duration = Duration::from_millis(10);

/// Unsent messages about the state of the server. The oldest is forgotten; the last tells the present state.
const MAX_UNSENT: usize = 8;

/// The home arbiter looks at the clock about once a second, so a shorter silence means nothing.
const LEAST_PATIENCE: Duration = Duration::from_secs(2);

/// The way to the service manager, if there is one.
#[derive(Debug)]
pub(crate) struct ServiceManager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// Without a sign of life for this long, the service manager ends the server.
    watchdog: Option<Duration>,
    told: Mutex<Told>,
    /// Reloads come one after the other, because each has a beginning and an end for the service manager.
    reloads: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Told {
    unsent: VecDeque<String>,
    status: String,
    is_stopping: bool,
    is_drained: bool,
}

/// How far a server has come on the way to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Within `drain_delay`: all clients are served, new ones too.
    Delayed,
    Draining,
}

impl Stage {
    fn words(self) -> &'static str {
        match self {
            Self::Delayed => "not ready, and serving until the drain",
            Self::Draining => "draining",
        }
    }
}

/// Whether a message is sent again after the socket was full.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lasts {
    UntilSent,
    ForNow,
}

impl ServiceManager {
    /// The service manager of this process. Without a service manager nothing is sent.
    pub(crate) fn of_this_process() -> Self {
        let variable = |name: &str| match std::env::var(name) {
            Ok(text) => Some(text),
            Err(VarError::NotPresent) => None,
            Err(VarError::NotUnicode(_)) => Some(String::new()),
        };
        Self::new(variable, std::process::id())
    }

    fn new(variable: impl Fn(&str) -> Option<String>, pid: u32) -> Self {
        let socket = variable("NOTIFY_SOCKET").filter(|address| !address.is_empty()).and_then(|address| {
            let opened = open(&address);
            opened.inspect_err(|error| log::warn!("NOTIFY_SOCKET={address}: not used: {error}")).ok()
        });
        let is_own = variable("WATCHDOG_PID").is_none_or(|text| text.parse() == Ok(pid));
        let micros = variable("WATCHDOG_USEC").and_then(|text| text.parse().ok()).filter(|micros| *micros > 0);
        let watchdog = micros.filter(|_| is_own && socket.is_some()).map(Duration::from_micros);
        Self { socket, watchdog, told: Mutex::default(), reloads: tokio::sync::Mutex::default() }
    }

    /// All listeners are bound.
    pub(crate) fn ready(&self, janus: &Janus) {
        self.told.lock().status = status(janus);
        self.send(format!("READY=1\nSTATUS={}", status(janus)), Lasts::UntilSent);
    }

    /// The drain, or the delay before the drain, is about to begin. From now on only the progress of the drain is told.
    fn stopping(&self, stage: Stage) {
        let first = if std::mem::replace(&mut self.told.lock().is_stopping, true) { "" } else { "STOPPING=1\n" };
        let (words, micros) = (stage.words(), EXTEND_BY.as_micros());
        self.send(format!("{first}STATUS={words}\nEXTEND_TIMEOUT_USEC={micros}"), Lasts::UntilSent);
    }

    /// The last client has left, and the clock of the instance stands still: from now on the end of the process is the sign
    /// of life.
    pub(crate) fn drained(&self) {
        self.told.lock().is_drained = true;
    }

    /// Carries out a reload between the messages about its beginning and end. The service manager waits for both
    /// messages, even if the reload fails.
    pub(crate) async fn reloading<T>(&self, reload: impl Future<Output = T>) -> T {
        let _one = self.reloads.lock().await;
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec.unsigned_abs() * 1_000_000 + now.tv_nsec.unsigned_abs() / 1_000;
        self.send_unless_stopping(format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
        // Even after a panic, or the service manager would wait for the end of this reload.
        let _end = End(self);
        reload.await
    }

    /// Feeds the watchdog and keeps the status up to date. Never ends.
    pub(crate) async fn keep(&self, janus: &Janus) -> Infallible {
        if self.socket.is_none() {
            return std::future::pending().await;
        }
        let mut beats = self.beats();
        let mut fed: Option<Instant> = None;
        let mut looked = Instant::now();
        loop {
            beats.tick().await;
            self.send_unsent();
            self.feed(janus, &mut fed);
            if looked.elapsed() >= STATUS_EVERY {
                looked = Instant::now();
                self.tell_status(status(janus));
            }
        }
    }

    /// Carries out a drain, tells the beginning, and asks for more time until the end.
    pub(crate) async fn draining<T>(&self, janus: &Janus, stage: Stage, drain: impl Future<Output = T>) -> T {
        self.stopping(stage);
        tokio::select! {
            outcome = drain => outcome,
            never = self.keep_during_drain(janus, stage) => match never {},
        }
    }

    async fn keep_during_drain(&self, janus: &Janus, stage: Stage) -> Infallible {
        if self.socket.is_none() {
            return std::future::pending().await;
        }
        let mut beats = self.beats();
        let mut fed = None;
        let mut asked = Instant::now();
        loop {
            beats.tick().await;
            self.send_unsent();
            self.feed(janus, &mut fed);
            if asked.elapsed() >= EXTEND_EVERY {
                asked = Instant::now();
                let (clients, micros) = (grouped(janus.stats().connections), EXTEND_BY.as_micros());
                let message = format!("EXTEND_TIMEOUT_USEC={micros}\nSTATUS={}, {clients} clients left", stage.words());
                self.send(message, Lasts::ForNow);
            }
        }
    }

    fn beats(&self) -> Interval {
        let mut beats =
            interval(self.watchdog.map_or(RETRY_EVERY, |watchdog| (watchdog / 2).clamp(SHORTEST_BEAT, RETRY_EVERY)));
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        beats
    }

    /// A sign of life, at half of the watchdog's time, if the home arbiter is alive.
    fn feed(&self, janus: &Janus, fed: &mut Option<Instant>) {
        let Some(watchdog) = self.watchdog else { return };
        let is_due = fed.is_none_or(|fed| fed.elapsed() >= watchdog / 2 || watchdog / 2 <= RETRY_EVERY);
        let is_drained = self.told.lock().is_drained;
        if is_due && (is_drained || is_alive(janus.since_last_tick(), watchdog)) {
            *fed = Some(Instant::now());
            self.send("WATCHDOG=1".to_owned(), Lasts::ForNow);
        }
    }

    fn tell_status(&self, status: String) {
        let mut told = self.told.lock();
        if told.status != status && !told.is_stopping {
            let message = format!("STATUS={status}");
            told.status = status;
            drop(told);
            self.send(message, Lasts::ForNow);
        }
    }

    fn send_unless_stopping(&self, message: String) {
        if !self.told.lock().is_stopping {
            self.send(message, Lasts::UntilSent);
        }
    }

    fn send(&self, message: String, lasts: Lasts) {
        if self.socket.is_none() {
            return;
        }
        let unsent = &mut self.told.lock().unsent;
        // Behind earlier messages, or an old state would be told last.
        let is_sent = unsent.is_empty() && self.try_send(&message);
        if !is_sent && lasts == Lasts::UntilSent {
            if unsent.len() == MAX_UNSENT {
                unsent.pop_front();
            }
            unsent.push_back(message);
        }
    }

    fn send_unsent(&self) {
        let unsent = &mut self.told.lock().unsent;
        while unsent.front().is_some_and(|message| self.try_send(message)) {
            unsent.pop_front();
        }
    }

    /// Whether the message has been sent, or can never be.
    fn try_send(&self, message: &str) -> bool {
        let Some((socket, address)) = &self.socket else { return true };
        match socket.send_to_addr(message.as_bytes(), address) {
            Err(error) => {
                log::debug!("the service manager is not told {message:?}: {error}");
                // Full, or away for its own restart.
                !matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
                )
            }
            Ok(_) => true,
        }
    }
}

/// A socket for messages to an address in the file system, or in the abstract name space.
fn open(address: &str) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match address.strip_prefix('@') {
        #[cfg(target_os = "linux")]
        Some(name) => SocketAddr::from_abstract_name(name)?,
        _ if address.starts_with('/') => SocketAddr::from_pathname(address)?,
        _ => {
            let expected = "expected the path of a socket, or @ and a name";
            return Err(io::Error::new(io::ErrorKind::Unsupported, expected));
        }
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

/// Whether the home arbiter, silent for this long, counts as alive.
fn is_alive(silent: Duration, watchdog: Duration) -> bool {
    silent < (watchdog / 2).max(LEAST_PATIENCE)
}

/// Tells the end of a reload when dropped.
struct End<'a>(&'a ServiceManager);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.send_unless_stopping("READY=1".to_owned());
    }
}

/// A line for `systemctl status`.
fn status(janus: &Janus) -> String {
    let stats = janus.stats();
    format!("{} clients, {} topics", grouped(stats.connections), grouped(stats.topics))
}

/// A number with a comma after each group of three digits.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The service manager at the other end of this socket.
    fn manager(address: &str, watchdog: &str, watchdog_pid: &str) -> ServiceManager {
        let variable = |name: &str| {
            let text = match name {
                "NOTIFY_SOCKET" => address,
                "WATCHDOG_USEC" => watchdog,
                "WATCHDOG_PID" => watchdog_pid,
                _ => panic!("{name}"),
            };
            (text != "none").then(|| text.to_owned())
        };
        ServiceManager::new(variable, 7)
    }

    fn receive(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 1_024];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn sockets_in_the_file_system_and_in_the_abstract_name_space_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("janus-notify-{}", std::process::id());
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        for (address, socket) in [(path.to_str().unwrap(), by_path), (&*format!("@{name}"), by_name)] {
            let manager = manager(address, "none", "none");
            manager.stopping(Stage::Draining);
            assert_eq!(receive(&socket), "STOPPING=1\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=15000000");
        }
    }

    #[test]
    fn no_socket_and_a_strange_socket_are_told_nothing() {
        for address in ["none", "", "vsock:2:1234", "relative/path"] {
            let manager = manager(address, "1000000", "7");
            assert!(manager.socket.is_none() && manager.watchdog.is_none(), "{address}");
            manager.stopping(Stage::Draining);
            assert!(manager.told.lock().unsent.is_empty());
        }
    }

    #[test]
    fn the_watchdog_is_fed_for_the_process_that_it_watches() {
        let folder = tempfile::tempdir().unwrap();
        let address = folder.path().join("notify");
        let watchdog = |micros, pid| manager(address.to_str().unwrap(), micros, pid).watchdog;
        let second = Some(Duration::from_secs(1));
        assert_eq!([watchdog("1000000", "none"), watchdog("1000000", "7")], [second; 2]);
        let none = [("1000000", "8"), ("none", "7"), ("0", "7"), ("soon", "7")];
        assert_eq!(none.map(|(micros, pid)| watchdog(micros, pid)), [None; 4]);
    }

    #[test]
    fn a_silent_arbiter_is_not_alive() {
        let (ten, one) = (Duration::from_secs(10), Duration::from_secs(1));
        let alive = |millis, watchdog| is_alive(Duration::from_millis(millis), watchdog);
        assert_eq!([alive(4_999, ten), alive(5_000, ten)], [true, false]);
        assert_eq!([alive(1_999, one), alive(2_000, one)], [true, false], "a second without a look at the clock");
    }

    #[tokio::test]
    async fn a_reload_is_told_with_the_time_of_its_beginning() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let manager = manager(path.to_str().unwrap(), "none", "none");
        let micros = || {
            let now = clock_gettime(ClockId::Monotonic);
            now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1_000
        };
        let before = micros();
        let told = manager.reloading(async { receive(&socket) }).await;
        let told: u64 = told.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().parse().unwrap();
        assert!((before..=micros()).contains(&told), "{told}");
        assert_eq!(receive(&socket), "READY=1");
        manager.stopping(Stage::Draining);
        receive(&socket);
        manager.reloading(async {}).await;
        socket.set_nonblocking(true).unwrap();
        assert_eq!(socket.recv(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock, "the end is told last");
    }

    #[test]
    fn a_full_or_missing_socket_holds_up_nothing_and_is_told_later() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = manager(path.to_str().unwrap(), "none", "none");
        manager.send("lost".to_owned(), Lasts::ForNow);
        manager.send("READY=1".to_owned(), Lasts::UntilSent);
        let socket = UnixDatagram::bind(&path).unwrap();
        // Until the queue of the socket is full.
        let other = UnixDatagram::unbound().unwrap();
        other.set_nonblocking(true).unwrap();
        let mut others = 0;
        while other.send_to(b"x", &path).is_ok() {
            others += 1;
        }
        manager.send_unsent();
        for _ in 0..2 * MAX_UNSENT {
            manager.send("RELOADING=1".to_owned(), Lasts::UntilSent);
        }
        manager.stopping(Stage::Draining);
        assert_eq!(manager.told.lock().unsent.len(), MAX_UNSENT);
        for _ in 0..others {
            assert_eq!(receive(&socket), "x");
        }
        manager.send_unsent();
        let mut last = String::new();
        for _ in 0..MAX_UNSENT {
            last = receive(&socket);
        }
        assert!(last.starts_with("STOPPING=1"), "{last}");
        assert!(manager.told.lock().unsent.is_empty());
    }

    #[test]
    fn numbers_have_groups_of_three_digits() {
        assert_eq!([0, 999, 1_000, 18_211, 1_234_567].map(grouped), ["0", "999", "1,000", "18,211", "1,234,567"]);
    }
}
