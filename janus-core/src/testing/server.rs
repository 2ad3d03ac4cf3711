//! A server for a test.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::{Connect, TestClient};
use crate::instance::stopped_time::StoppedTime;
use crate::{Builder, Janus};

/// An instance with a WebSocket port on loopback, chosen by the system. Dropping the server, and all clones of its handle,
/// ends the instance.
pub struct TestServer {
    janus: Janus,
    addr: SocketAddr,
    time: Option<StoppedTime>,
}

impl TestServer {
    /// Starts an instance with the default settings.
    ///
    /// # Panics
    ///
    /// If the instance does not start.
    pub async fn start() -> Self {
        Self::of(Janus::builder()).await
    }

    /// Starts an instance with the settings, hooks and parts of a builder, except that its ports are replaced by one of the
    /// server's own, and that a shutdown takes no longer than it must (`drain_period` is 0).
    ///
    /// ```
    /// use janus_core::testing::TestServer;
    /// use janus_core::{Config, Janus, Namespace};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let default_namespace = Namespace { history: true, ..Namespace::default() };
    /// let config = Config { default_namespace, ..Config::default() };
    /// let server = TestServer::of(Janus::builder().config(config)).await;
    /// # drop(server);
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// If the instance does not start.
    pub async fn of(builder: Builder) -> Self {
        let builder = builder.adjust(|config| {
            config.listen.clear();
            config.tls_listen.clear();
            config.https_listen.clear();
            config.http_listen = vec![(Ipv4Addr::LOCALHOST, 0).into()];
            config.drain_period = Duration::ZERO;
        });
        let janus = match builder.start().await {
            Ok(janus) => janus,
            Err(error) => panic!("the server does not start: {}", with_causes(&error)),
        };
        let addr = *janus.local_addrs().first().expect("the server has a port");
        Self { janus, addr, time: None }
    }

    /// As [`of`](Self::of), with time that stands still until [`advance`](Self::advance) moves it: heartbeats, limits of
    /// time, ages of messages, the end of identities. The time of day is no part of this: messages have the time at which
    /// they are published. A client sees the pings of an hour at once, so no client is closed for an answer that is late
    /// (`pong_timeout` is 0).
    ///
    /// The clock of the test's own runtime is another one, and must not be paused.
    ///
    /// # Panics
    ///
    /// If the instance does not start.
    pub async fn with_stopped_time(builder: Builder) -> Self {
        let server = Self::of(builder.adjust(|config| config.pong_timeout = Duration::ZERO)).await;
        let time = Some(StoppedTime::of(&server.janus).await);
        Self { time, ..server }
    }

    /// Moves the time of the instance. Returns when everything that was due has begun; a client hears of it a moment later.
    /// An hour takes about a second.
    ///
    /// # Panics
    ///
    /// On a server that was not made [with stopped time](Self::with_stopped_time).
    pub async fn advance(&self, by: Duration) {
        let time = self.time.as_ref().expect("the time of this server passes by itself: use with_stopped_time");
        time.advance(by).await;
    }

    /// The instance.
    #[must_use]
    pub fn janus(&self) -> &Janus {
        &self.janus
    }

    /// The address of the port, on which WebSockets are at `/ws` and event streams at `/events`.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Connects a client, which is served. For a token or a header use [`connect`](Self::connect).
    ///
    /// # Panics
    ///
    /// If the client is refused, with the reason.
    pub async fn client(&self) -> TestClient {
        self.connect().connect().await
    }

    /// A client to be connected.
    #[must_use]
    pub fn connect(&self) -> Connect {
        Connect::to(self.addr)
    }
}

impl fmt::Debug for TestServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestServer").field("addr", &self.addr).finish_non_exhaustive()
    }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
