//! The options of each client's socket, and the consequences where the kernel lacks an option.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::time::Duration;

use socket2::{Socket, TcpKeepalive};

use crate::config::Config;

/// An option that the kernel, or a sandbox around the process, lacks. No promise of the server depends on such an
/// option.
#[derive(Debug)]
pub(crate) struct Missing {
    name: &'static str,
    /// The behaviour of the server without the option.
    without: &'static str,
    error: io::Error,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, without, error } = self;
        write!(f, "this system has no {name} for its sockets ({error}): {without}")
    }
}

/// The settings that become options of sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    keepalive: Duration,
    user_timeout: Duration,
    send_buffer: usize,
}

impl Options {
    pub(crate) fn of(config: &Config) -> Self {
        let Config { tcp_keepalive, tcp_user_timeout, send_buffer_bytes, .. } = *config;
        Self { keepalive: tcp_keepalive, user_timeout: tcp_user_timeout, send_buffer: send_buffer_bytes }
    }
}

/// Sets all options, and returns the options that the system lacks.
pub(crate) fn set(socket: &Socket, config: &Config) -> Vec<Missing> {
    let (idle, interval) = (config.tcp_keepalive, (config.tcp_keepalive / 4).max(Duration::from_secs(1)));
    let dead = "a client whose machine is gone is found later";
    let options = [
        // Without this option, Nagle and delayed ACK cost 40 ms on the first message after an ACK.
        ("TCP_NODELAY", "messages may be 40 ms late", socket.set_tcp_nodelay(true)),
        // With an autotuned buffer of megabytes, slow clients would read stale messages, and the queue's limits were a
        // fiction.
        ("SO_SNDBUF", "send_buffer_bytes has no effect", socket.set_send_buffer_size(config.send_buffer_bytes)),
        // To find a dead peer. Set separately: a missing option must not take the other options along.
        ("SO_KEEPALIVE", dead, socket.set_keepalive(true)),
        ("TCP_KEEPIDLE", dead, socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle))),
        ("TCP_KEEPINTVL", dead, socket.set_tcp_keepalive(&TcpKeepalive::new().with_interval(interval))),
        #[cfg(target_os = "linux")]
        ("TCP_USER_TIMEOUT", dead, socket.set_tcp_user_timeout(Some(config.tcp_user_timeout))),
    ];
    options
        .into_iter()
        .filter_map(|(name, without, set)| set.err().map(|error| Missing { name, without, error }))
        .collect()
}

/// The options named in the log already: a line for each option, even with many listeners.
#[derive(Debug, Default)]
pub(crate) struct Told(RefCell<BTreeSet<&'static str>>);

impl Told {
    pub(crate) fn warn(&self, missing: &[Missing]) {
        for missing in missing {
            if self.0.borrow_mut().insert(missing.name) {
                log::warn!("{missing}");
            }
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use socket2::{Domain, Type};

    use super::*;

    #[test]
    fn a_missing_option_takes_no_other_option_along() {
        // A socket without any option of TCP.
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        let config = Config { send_buffer_bytes: 12_345, ..Config::default() };
        let missing: Vec<_> = set(&socket, &config).into_iter().map(|missing| missing.name).collect();
        assert!(missing.starts_with(&["TCP_NODELAY", "TCP_KEEPIDLE", "TCP_KEEPINTVL"]), "{missing:?}");
        assert!(socket.keepalive().unwrap());
        assert!(socket.send_buffer_size().unwrap() >= 12_345);
    }
}
