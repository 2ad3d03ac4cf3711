//! Why a call of the client failed, and what the program can do.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Codes of a server from here on are final: the same request gets the same answer.
const FINAL: u16 = 4400;

/// The code of a token that has ended; final only for a client without a source of tokens.
pub(super) const EXPIRED: u16 = 4418;

/// The code `forbidden`, with which a server refuses each renewal that is not to its liking.
pub(super) const FORBIDDEN: u16 = 4414;

/// Why a call of the client failed.
///
/// The text of an error is one line with all reasons: `{error}` is enough for a log. The
/// [source](std::error::Error::source) is for programs that look for a type, such as an `Arc<io::Error>`, and repeats a part of
/// the text.
///
/// A [final](Self::is_final) error ends the client, if the error is about the connection, or the subscription, if the error
/// is about a topic. After any other error of a connection the client comes back by itself.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The URL is not the address of a server: the caller's mistake.
    #[error("{url} is not the address of a server: {reason}; expected ws://HOST:PORT/ws or wss://HOST/ws")]
    BadUrl {
        /// The URL, without a user and a query.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// There is no authority of certificates to trust: a text of none, or a system without a list of its own.
    #[error("no authorities for TLS: {0}")]
    Authorities(String),
    /// No server listens at the address, or the address cannot be reached.
    #[error("cannot connect to {to}: {source}")]
    Connect {
        /// HOST:PORT.
        to: String,
        /// The error of the system.
        #[source]
        source: Arc<io::Error>,
    },
    /// The server's certificate is not accepted, or the port is one without TLS.
    #[error("the TLS handshake with {to} has failed: {source}{}", advice(.source))]
    Handshake {
        /// HOST:PORT.
        to: String,
        /// The error of the handshake.
        #[source]
        source: Arc<io::Error>,
    },
    /// The request for a WebSocket was answered with a status, by a full server or by a proxy without a server.
    #[error("status {status} in place of a WebSocket{}", in_brackets(.code, .message))]
    Status {
        /// The status of HTTP.
        status: u16,
        /// The code in the body, such as `too_many_connections`; empty if the answer is not one of Janus.
        code: String,
        /// The text in the body, for people.
        message: String,
        /// When the client may come back (`Retry-After`).
        retry_after: Option<Duration>,
    },
    /// The port is not one of a Janus server, or the server breaks the protocol.
    #[error("not a server of Janus: {0}")]
    NotJanus(String),
    /// The awaited did not come in time. A publication without a receipt was sent and may have been published; with an
    /// idempotency key the same publication can be repeated.
    #[error("no {awaited} within {time:?}")]
    Late {
        /// What was awaited: `welcome`, `receipt`, `answer`, `token` …
        awaited: &'static str,
        /// The limit.
        time: Duration,
    },
    /// The time of a call is over, and the request was not sent and will not be: a message of such a call is certain not to be
    /// published.
    #[error("no {awaited} within {time:?}: not sent, {reason}{}", after_colon(.source.as_deref()))]
    NotSent {
        /// What was awaited, as in [`Late`](Self::Late).
        awaited: &'static str,
        /// The limit.
        time: Duration,
        /// What the request waited for: `no connection`, or a server that takes no requests.
        reason: &'static str,
        /// The last error of the connection, if there is no connection.
        #[source]
        source: Option<Arc<Self>>,
    },
    /// The connection ended. A publication without a receipt may have been published, as after [`Late`](Self::Late).
    #[error("the connection was lost{}", after_colon(.source.as_deref()))]
    Lost {
        /// The error of the system; `None` if the server has closed the connection without a word.
        #[source]
        source: Option<Arc<io::Error>>,
    },
    /// The server has refused the request, or has closed the connection.
    #[error("the server refused: {error}: {message}")]
    Refused {
        /// The number of the code; see [`ErrorCode`](crate::wire::ErrorCode).
        code: u16,
        /// The name of the code, such as `forbidden`.
        error: String,
        /// The reason, for people.
        message: String,
        /// When the client may come back (`reconnect_after_ms`).
        reconnect_after: Option<Duration>,
    },
    /// [`get_token`](super::ClientBuilder::get_token) has failed.
    #[error("no token: {0}")]
    Token(#[source] TokenFailure),
    /// The request is longer than the server accepts, and was not sent.
    #[error("the request has {bytes} bytes, and the server accepts {max}")]
    TooLarge {
        /// Bytes of the frame.
        bytes: usize,
        /// The server's `max_frame_bytes`.
        max: usize,
    },
    /// [`max_pending`](super::ClientBuilder::max_pending) requests wait for their answers, and one more for each topic. The
    /// request was not sent.
    ///
    /// A server that holds a client back, by its `client_subscribe_rate` or `client_bytes_rate`, answers later. A cancelled
    /// request that was sent counts until the answer comes.
    #[error(
        "{max} requests wait for answers already; the server may be slowing the client down: client_subscribe_rate, client_bytes_rate"
    )]
    TooManyPending {
        /// The limit, without the requests for the topics.
        max: usize,
    },
    /// The client has a subscription of this topic already.
    #[error("the client is subscribed to {0:?} already")]
    AlreadySubscribed(String),
    /// The data to be published is no JSON: the caller's mistake.
    #[error("the data is no JSON: {0}")]
    Data(#[source] Arc<serde_json::Error>),
    /// The client was closed by the program. A message whose receipt was awaited at the close may have been published.
    #[error("the client is closed")]
    Closed,
    /// The client has ended with this error, which is not final by itself, and does not come back: `reconnect(false)`. A message
    /// whose receipt was awaited at the end may have been published. A final error that has ended the client is returned as
    /// it is.
    #[error("the client has ended: {source}")]
    Ended {
        /// Why.
        source: Arc<Self>,
    },
    /// The client has ended by a panic, of the client itself or of the program's
    /// [`get_token`](super::ClientBuilder::get_token), with this text.
    #[error("the client has panicked: {0}")]
    Panicked(String),
}

fn after_colon(source: Option<&impl fmt::Display>) -> String {
    source.map(|error| format!(": {error}")).unwrap_or_default()
}

/// What the program can do about a failed handshake of TLS.
fn advice(error: &io::Error) -> &'static str {
    match error.get_ref().and_then(|error| error.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(_)) => "; for an authority of your own see authorities_pem",
        Some(rustls::Error::InvalidMessage(_)) => "; a port without TLS has an address with ws://",
        _ => "",
    }
}

fn in_brackets(code: &str, message: &str) -> String {
    if code.is_empty() { String::new() } else { format!(" ({code}: {message})") }
}

impl ClientError {
    /// The number of the server's code, if the server has refused.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            Self::Ended { source } => source.code(),
            _ => None,
        }
    }

    /// Whether another attempt would end the same: mistakes of the program, codes of the server from 4400 on, the last
    /// word of `get_token`, and the end of the client.
    ///
    /// ```
    /// use janus_core::client::ClientError;
    ///
    /// assert!(ClientError::Closed.is_final());
    /// assert!(!ClientError::TooManyPending { max: 256 }.is_final());
    /// ```
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Refused { code, .. } => *code >= FINAL,
            Self::Token(failure) => failure.is_final,
            Self::BadUrl { .. }
            | Self::Authorities(_)
            | Self::TooLarge { .. }
            | Self::AlreadySubscribed(_)
            | Self::Data(_)
            | Self::Closed
            | Self::Ended { .. }
            | Self::Panicked(_) => true,
            Self::Connect { .. }
            | Self::Handshake { .. }
            | Self::Status { .. }
            | Self::NotJanus(_)
            | Self::Late { .. }
            | Self::NotSent { .. }
            | Self::Lost { .. }
            | Self::TooManyPending { .. } => false,
        }
    }

    /// The time before which the server does not want the client back.
    pub(super) fn not_before(&self) -> Duration {
        match self {
            Self::Refused { reconnect_after: Some(time), .. } | Self::Status { retry_after: Some(time), .. } => *time,
            _ => Duration::ZERO,
        }
    }

    /// What the calls are told after the end of the client, for which repeating is useless.
    pub(super) fn as_end(&self) -> Self {
        if self.is_final() { self.clone() } else { Self::Ended { source: Arc::new(self.clone()) } }
    }

    /// What a call is told whose connection has ended by this error: the message may be published, and not what the client
    /// does about the end.
    pub(super) fn as_lost(&self) -> Self {
        if let Self::Lost { .. } = self { self.clone() } else { Self::lost(io::Error::other(self.clone())) }
    }

    pub(super) fn lost(source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::UnexpectedEof => Self::Lost { source: None },
            _ => Self::Lost { source: Some(Arc::new(source)) },
        }
    }
}

/// A failure of [`get_token`](super::ClientBuilder::get_token): of any error type by `?`, of a text or a
/// `Box<dyn Error + Send + Sync>` by [`new`](Self::new).
///
/// After a failure the client asks for a token again, after a pause; [`final_word`](Self::final_word) ends the client.
#[derive(Debug)]
pub struct TokenError(TokenFailure);

impl TokenError {
    /// A failure for now.
    ///
    /// ```
    /// use janus_core::client::TokenError;
    ///
    /// fn read() -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    ///     Err("the backend has no token")?
    /// }
    ///
    /// async fn get_token() -> Result<String, TokenError> {
    ///     let token = read().map_err(TokenError::new)?;
    ///     if token.is_empty() { Err(TokenError::new("an empty token")) } else { Ok(token) }
    /// }
    /// # let _ = get_token();
    /// ```
    #[must_use]
    pub fn new(reason: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(TokenFailure { source: reason.into().into(), is_final: false })
    }

    /// A failure that ends the client: the user is logged out, and no further token will come.
    ///
    /// ```
    /// use janus_core::client::TokenError;
    ///
    /// async fn get_token() -> Result<String, TokenError> {
    ///     Err(TokenError::final_word("logged out"))
    /// }
    /// # let _ = get_token();
    /// ```
    #[must_use]
    pub fn final_word(reason: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(TokenFailure { source: reason.into().into(), is_final: true })
    }

    /// The same failure, after which nothing is tried again.
    pub(super) fn last(self) -> Self {
        Self(TokenFailure { is_final: true, ..self.0 })
    }

    pub(super) fn failure(self) -> TokenFailure {
        self.0
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for TokenError {
    fn from(error: E) -> Self {
        Self(TokenFailure { source: Arc::new(error), is_final: false })
    }
}

/// The error of the program in [`ClientError::Token`].
#[derive(Clone, Debug)]
pub struct TokenFailure {
    source: Arc<dyn Error + Send + Sync>,
    is_final: bool,
}

impl fmt::Display for TokenFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)?;
        // Many errors leave their cause to a chain.
        let mut cause = self.source.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl Error for TokenFailure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.source()
    }
}
