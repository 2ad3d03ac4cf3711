//! The settings of a client.

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tokio::sync::{Notify, Semaphore, mpsc, watch};

use super::address::Address;
use super::back_off::BackOff;
use super::desk::Desk;
use super::subscription::{Room, WhenFull};
use super::task::{Dialer, Opened, Task, Trouble};
use super::tls::Authorities;
use super::tokens::{GetToken, Tokens, cleaned};
use super::{AssignedTopics, Client, ClientError, State, TokenError};

/// Commands on their way to the client's task, which takes each at once.
const COMMANDS_MAX: usize = 64;

/// The longest time of a setting. A clock can be set to a time that is not much further away.
const TIME_MAX: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// The settings of a [`Client`]. Made by [`Client::builder`], and used up by [`connect`](Self::connect) or
/// [`start`](Self::start).
///
/// | setting | default |
/// |---|---|
/// | [`token`](Self::token), [`get_token`](Self::get_token), [`session`](Self::session) | none |
/// | [`authorities_pem`](Self::authorities_pem), [`tls`](Self::tls) | the authorities of the system |
/// | [`timeout`](Self::timeout) | 10 s |
/// | [`request_timeout`](Self::request_timeout) | 30 s |
/// | [`heartbeat`](Self::heartbeat) | 20 s |
/// | [`back_off`](Self::back_off) | 1 s, and at most 30 s |
/// | [`reconnect`](Self::reconnect) | true |
/// | [`max_unread`](Self::max_unread), [`max_unread_bytes`](Self::max_unread_bytes), [`when_full`](Self::when_full) | 1,000 messages, 16 MiB, `Leave` |
/// | [`max_pending`](Self::max_pending) | 256 |
///
/// Times are at most 365 days, and longer ones are shortened.
#[must_use = "a client begins with connect() or start()"]
pub struct ClientBuilder {
    url: String,
    token: Option<String>,
    get_token: Option<GetToken>,
    session: Option<String>,
    authorities: Authorities,
    timeout: Duration,
    request_timeout: Duration,
    heartbeat: Duration,
    back_off: BackOff,
    reconnects: bool,
    room: Room,
    max_pending: usize,
    assigned_max: usize,
}

impl ClientBuilder {
    pub(super) fn new(url: String) -> Self {
        Self {
            url,
            token: None,
            get_token: None,
            session: None,
            authorities: Authorities::System,
            timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            heartbeat: Duration::from_secs(20),
            back_off: BackOff { first: Duration::from_secs(1), longest: Duration::from_secs(30) },
            reconnects: true,
            room: Room { items: 1_000, bytes: 16 << 20, when_full: WhenFull::Leave },
            max_pending: 256,
            assigned_max: 0,
        }
    }

    /// Sets the token that is shown to the server (`auth`). The client ends with the token; [`get_token`](Self::get_token)
    /// is for tokens that are renewed. Line ends after the token, as of a file, are left out, here and in an answer of
    /// [`get_token`](Self::get_token); an empty token is an error.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Sets a function that gets a token. The client calls the function once for each token: before the first connection,
    /// after 70 to 90 % of a token's time, and after a token has expired. An answer is awaited for
    /// [`timeout`](Self::timeout); after a failure the function is called again, after a pause. A [`TokenError::final_word`]
    /// ends the client at once. A panic of the function ends the client with [`ClientError::Panicked`].
    ///
    /// A server of Janus answers a renewal that is not to its liking with `forbidden`, whatever is wrong with the token. The
    /// token in force then serves until its end and the server's `token_grace`, and meanwhile the function is called again
    /// after pauses ([`back_off`](Self::back_off), at least a second by default). At the end the client comes back with the
    /// function's next token; if the server refuses that token (`unauthorized`), the client ends.
    ///
    /// ```
    /// use janus_core::client::{Client, TokenError};
    ///
    /// async fn ask_the_backend() -> Result<String, std::io::Error> {
    ///     Ok("a token".to_owned())
    /// }
    ///
    /// let builder = Client::builder("wss://push.example/ws")
    ///     .get_token(|| async { Ok::<_, TokenError>(ask_the_backend().await?) });
    /// # let _ = builder;
    /// ```
    pub fn get_token<F, A>(mut self, get_token: F) -> Self
    where
        F: Fn() -> A + Send + Sync + 'static,
        A: Future<Output = Result<String, TokenError>> + Send + 'static,
    {
        self.get_token = Some(Arc::new(move || Box::pin(get_token())));
        self
    }

    /// Continues a session of an earlier client, from [`State::Open`]: under `resume = "session"` a position is good only
    /// together with the session. A session is a secret.
    pub fn session(mut self, session: impl Into<String>) -> Self {
        self.session = Some(session.into());
        self
    }

    /// Accepts certificates of the authorities in this PEM text, and of no others. The text of a file, and not its path:
    /// `authorities_pem(std::fs::read("ca.pem")?)`.
    pub fn authorities_pem(mut self, pem: impl AsRef<[u8]>) -> Self {
        self.authorities = Authorities::Pem(pem.as_ref().into());
        self
    }

    /// Sets all of TLS, for client certificates and authorities of a program's own making.
    pub fn tls(mut self, config: Arc<ClientConfig>) -> Self {
        self.authorities = Authorities::Config(config);
        self
    }

    /// Sets the longest time for connecting up to the welcome, for an answer of [`get_token`](Self::get_token), for the
    /// server to take what is sent, and for the answer to a ping.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.min(TIME_MAX);
        self
    }

    /// Sets the longest time of a call, from the call to the answer of the server. The time without a connection counts.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout.min(TIME_MAX);
        self
    }

    /// Sets the silence after which the client sends a ping. A connection on which nothing comes within
    /// [`timeout`](Self::timeout) of the ping is given up.
    pub fn heartbeat(mut self, silence: Duration) -> Self {
        self.heartbeat = silence.min(TIME_MAX);
        self
    }

    /// Sets the waits between attempts to connect: a random part of `first`, doubled for each failure in a row up to
    /// `longest`. A time that the server names (`reconnect_after_ms`) is kept in any case.
    pub fn back_off(mut self, first: Duration, longest: Duration) -> Self {
        self.back_off = BackOff { first: first.min(TIME_MAX), longest: longest.min(TIME_MAX) };
        self
    }

    /// Sets whether the client comes back after a lost connection; otherwise the first loss ends the client, and
    /// each further call fails with [`ClientError::Ended`].
    pub fn reconnect(mut self, reconnect: bool) -> Self {
        self.reconnects = reconnect;
        self
    }

    /// Sets how many messages of a subscription wait for the program, at least 1; [`when_full`](Self::when_full) says what
    /// happens then.
    pub fn max_unread(mut self, messages: usize) -> Self {
        self.room.items = messages.max(1);
        self
    }

    /// Sets the memory of the messages of a subscription that wait for the program. One message may always wait.
    pub fn max_unread_bytes(mut self, bytes: usize) -> Self {
        self.room.bytes = bytes;
        self
    }

    /// Sets what happens when a program takes messages more slowly than they come.
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.room.when_full = when_full;
        self
    }

    /// Sets how many requests may wait for their answers, and for a connection, at least 1; one more may wait for each
    /// topic, because the client asks for each topic again after a lost connection. A further request is refused with
    /// [`ClientError::TooManyPending`]. A call that was dropped counts until the limit is reached; a dropped subscribe that
    /// was sent counts until the server answers.
    pub fn max_pending(mut self, requests: usize) -> Self {
        self.max_pending = requests.max(1);
        self
    }

    /// Connects, and returns the client once the server has sent its welcome. Needs a runtime of tokio with time and I/O.
    ///
    /// Cancel safe: with a dropped future the connection is closed.
    ///
    /// # Errors
    ///
    /// Why the first attempt has failed, whether final or not: a program that wants to wait for its server uses
    /// [`start`](Self::start).
    pub async fn connect(self) -> Result<Client, ClientError> {
        let mut made = self.make()?;
        let opened = made.task.open().await?;
        Ok(made.run(Some(opened)).0)
    }

    /// As [`connect`](Self::connect), for clients of tokens with topics of their own (`janus.topics`): the server subscribes
    /// the client to these topics by itself, and the returned stream has a subscription for each. Without the stream these
    /// topics are ignored until the program subscribes by name. At most `max` topics wait to be taken.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub async fn connect_with_assigned(mut self, max: usize) -> Result<(Client, AssignedTopics), ClientError> {
        self.assigned_max = max.clamp(1, Semaphore::MAX_PERMITS);
        let mut made = self.make()?;
        let opened = made.task.open().await?;
        Ok(made.run(Some(opened)))
    }

    /// Returns a client that connects from now on, and tries again for as long as that takes. Calls wait for the connection,
    /// for at most [`request_timeout`](Self::request_timeout): a program that subscribes at its start, perhaps before the
    /// server is there, repeats the call until the error is final.
    ///
    /// ```no_run
    /// # use janus_core::client::{Client, ClientError, Subscription};
    /// # async fn begin() -> Result<Subscription, ClientError> {
    /// let client = Client::builder("ws://localhost:8080").start()?;
    /// let news = loop {
    ///     match client.subscribe("news").await {
    ///         Ok(news) => break news,
    ///         Err(error) if error.is_final() => return Err(error),
    ///         Err(error) => {
    ///             eprintln!("{error}");
    ///             // A refusal comes at once, unlike the end of the time.
    ///             tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    ///         }
    ///     }
    /// };
    /// # Ok(news)
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ClientError::BadUrl`], and [`ClientError::Token`] for an empty token.
    ///
    /// # Panics
    ///
    /// Outside of a runtime of tokio.
    pub fn start(self) -> Result<Client, ClientError> {
        Ok(self.make()?.run(None).0)
    }

    fn make(self) -> Result<Made, ClientError> {
        let address = Address::parse(&self.url)?;
        let token = self.token.map(cleaned).transpose().map_err(|error| ClientError::Token(error.last().failure()))?;
        let changed = Arc::new(Notify::new());
        let (sender, commands) = mpsc::channel(COMMANDS_MAX);
        let (state, watched) = watch::channel(State::Connecting);
        let (assigned, assigned_topics) = mpsc::channel(self.assigned_max.max(1));
        let assigned = (self.assigned_max > 0).then_some(assigned);
        let desk = Desk::new(self.room, Arc::clone(&changed), assigned, self.max_pending, self.back_off);
        let dialer = Dialer {
            address,
            authorities: self.authorities,
            tls: None,
            tokens: Tokens::new(token, self.get_token, self.timeout),
            session: self.session,
            timeout: self.timeout,
            heartbeat: self.heartbeat,
            back_off: self.back_off,
            reconnects: self.reconnects,
        };
        let trouble = Trouble::default();
        let task = Task { dialer, desk, commands, changed: Arc::clone(&changed), state, trouble: Arc::clone(&trouble) };
        Ok(Made {
            task,
            sender,
            watched: (watched, trouble),
            changed,
            room: self.room,
            request_timeout: self.request_timeout,
            assigned_topics,
        })
    }
}

/// A client whose task does not run yet.
struct Made {
    task: Task,
    sender: mpsc::Sender<super::desk::Command>,
    watched: (watch::Receiver<State>, Trouble),
    changed: Arc<Notify>,
    room: Room,
    request_timeout: Duration,
    assigned_topics: mpsc::Receiver<super::Assigned>,
}

impl Made {
    fn run(self, opened: Option<Opened>) -> (Client, AssignedTopics) {
        let Self { task, sender, watched, changed, room, request_timeout, assigned_topics } = self;
        let task = tokio::spawn(task.run(opened)).abort_handle();
        let client = Client::new(sender, watched, task, changed, room, request_timeout);
        (client, AssignedTopics::new(assigned_topics))
    }
}
