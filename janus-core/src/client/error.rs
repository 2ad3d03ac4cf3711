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

/// The code `forbidden`.
pub(super) const FORBIDDEN: u16 = 4414;

/// Why a call of the client failed.
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
    /// There is no authority of certificates to trust: a file of none, or a system without a list of its own.
    #[error("no authorities for TLS: {0}")]
    Authorities(String),
    /// No server listens at the address, or the address cannot be reached.
    #[error("cannot connect to {to}")]
    Connect {
        /// HOST:PORT.
        to: String,
        /// The error of the system.
        #[source]
        source: Arc<io::Error>,
    },
    /// The server's certificate is not accepted, or the port is one without TLS.
    #[error("no TLS with {to}")]
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
    /// The awaited did not come in time. A publication without a receipt may have been published; with an idempotency key
    /// the same publication can be repeated.
    #[error("no {awaited} within {time:?}")]
    Late {
        /// What was awaited: `welcome`, `receipt`, `answer`, `token` …
        awaited: &'static str,
        /// The limit.
        time: Duration,
    },
    /// The connection ended. A publication without a receipt may have been published, as after [`Late`](Self::Late).
    #[error("the connection was lost")]
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
    #[error("no token")]
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
    #[error("{max} requests wait for answers already")]
    TooManyPending {
        /// The limit, without the requests for the topics.
        max: usize,
    },
    /// The client has a subscription of this topic already.
    #[error("the client is subscribed to {0:?} already")]
    AlreadySubscribed(String),
    /// The data to be published is no JSON: the caller's mistake.
    #[error("the data is no JSON")]
    Data(#[source] Arc<serde_json::Error>),
    /// The client was closed by the program.
    #[error("the client is closed")]
    Closed,
    /// The client has ended by a panic, of the client itself or of the program's
    /// [`get_token`](super::ClientBuilder::get_token), with this text.
    #[error("the client has panicked: {0}")]
    Panicked(String),
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
            _ => None,
        }
    }

    /// Whether another attempt would end the same: mistakes of the program, codes of the server from 4400 on, and the last
    /// word of `get_token`.
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
            | Self::Panicked(_) => true,
            Self::Connect { .. }
            | Self::Handshake { .. }
            | Self::Status { .. }
            | Self::NotJanus(_)
            | Self::Late { .. }
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
        self.source.fmt(f)
    }
}

impl Error for TokenFailure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.source()
    }
}
