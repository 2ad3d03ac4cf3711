//! Why a client command fails, with advice for the user.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use janus_core::supervision::in_words;

use super::classic::FRAME_BYTES_MAX;
use super::output::visible;
use super::tls;
use crate::settings::Problems;

/// Why a client command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// The address on the command line is malformed.
    #[error("{to} is not an address: expected HOST:PORT, or a URL such as http://HOST:PORT or classic://HOST:PORT")]
    BadAddress { to: String, source: io::Error },
    #[error("{scheme} is not a protocol of Janus: expected http, https, ws, wss, classic or classics")]
    BadScheme { scheme: String },
    #[error("{command} speaks HTTP, and not the classic protocol: name the server by --server http://HOST:PORT")]
    NeedsHttp { command: &'static str },
    /// The settings have no address that the command could use.
    #[error("{setting} {why}: name the server by --server URL, or by the variable JANUS_SERVER")]
    NoAddress { setting: &'static str, why: &'static str },
    /// No server listens at the address, or none answers.
    #[error("cannot connect to {to}{}", advice(.source))]
    Connect { to: String, source: io::Error },
    /// The server's certificate is not accepted, or the server does not speak TLS.
    #[error("no TLS with {to}{}", tls::advice(.source))]
    Handshake { to: String, source: io::Error },
    #[error("cannot use {} as the authorities of servers: {reason}", file.display())]
    Authorities { file: PathBuf, reason: String },
    #[error("the system has no list of trusted authorities: name a PEM file with --ca")]
    NoAuthorities,
    #[error(transparent)]
    Settings(Problems),
    /// The server's port is not the port that the command needs.
    #[error("{0}")]
    WrongPort(String),
    /// The words of the server.
    #[error("{0}")]
    Unhealthy(String),
    #[error("the server closed the connection")]
    Closed,
    #[error("the connection was lost")]
    Lost(#[source] io::Error),
    /// The peer is not a Janus server, or is too old to know the request.
    #[error("no {awaited} from the server within {}", in_words(timeout))]
    Late { awaited: &'static str, timeout: Duration },
    #[error("cannot use the network")]
    Runtime(#[source] io::Error),
    #[error("the server does not speak the Janus protocol: it sent a frame of more than {FRAME_BYTES_MAX} bytes")]
    FrameTooLarge,
    #[error("{to} is not a port of a Janus server: {what}")]
    NotJanus { to: String, what: &'static str },
    #[error("the server refused: {code}: {message}{advice}")]
    Refused {
        code: String,
        message: String,
        /// What the user can do, in brackets; empty if the server's own message says so.
        advice: &'static str,
        /// When the server expects the client back.
        again: Option<Duration>,
    },
    #[error("--since is a position in one topic: subscribe to one topic")]
    SinceOfSeveral,
    #[error("an idempotency key belongs to one message: with lines of the input, --retry makes a key for each")]
    KeyOfSeveral,
    #[error("the classic protocol has no idempotency keys: name the server by --server http://HOST:PORT")]
    NoKeys,
    #[error(
        "the classic protocol excludes no client: omit --exclude, or publish over HTTP (--server http://HOST:PORT) or as a user"
    )]
    NoExclusion,
    #[error("{failed} of {all} connections could not be closed")]
    NotAllClosed { failed: usize, all: usize },
    #[error("line {line} of the input failed")]
    Line { line: usize, source: Box<Self> },
    #[error("the message is not JSON")]
    NotJson(#[source] serde_json::Error),
    #[error("the message is not UTF-8")]
    NotUtf8,
    #[error("the message has {FRAME_BYTES_MAX} bytes or more, and no server accepts as much: is this a file of lines?")]
    LineTooLong,
    #[error("cannot read {}", file.display())]
    File { file: PathBuf, source: io::Error },
    #[error("cannot read standard input")]
    Input(#[source] io::Error),
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
}

/// Advice for a user whose connection cannot be made, where the system's error text has none.
pub(crate) fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => " (is the server running?)",
        io::ErrorKind::AddrNotAvailable => {
            " (no free local port, because closed connections keep their ports for a minute; wait, or widen \
             net.ipv4.ip_local_port_range)"
        }
        _ => "",
    }
}

impl ClientError {
    /// A refusal whose message says enough.
    pub(crate) fn refused(code: &str, message: &str) -> Self {
        // A reload with several mistakes has a line for each.
        let in_lines = |text: &str| text.lines().map(visible).collect::<Vec<_>>().join("\n");
        let [code, message] = [code, message].map(in_lines);
        Self::Refused { code, message, advice: "", again: None }
    }

    /// The same refusal of a server that expects the client back after this time.
    pub(crate) fn again_after(self, again: Option<Duration>) -> Self {
        match self {
            Self::Refused { code, message, advice, .. } => Self::Refused { code, message, advice, again },
            other => other,
        }
    }

    /// The same error; a refusal gets the advice for its code.
    pub(crate) fn advised(self, advise: impl FnOnce(&str) -> &'static str) -> Self {
        match self {
            Self::Refused { code, message, again, .. } => {
                let advice = advise(&code);
                Self::Refused { code, message, advice, again }
            }
            other => other,
        }
    }

    pub(crate) fn is_usage(&self) -> bool {
        match self {
            Self::BadAddress { .. }
            | Self::BadScheme { .. }
            | Self::NeedsHttp { .. }
            | Self::NoAddress { .. }
            | Self::Authorities { .. }
            | Self::NoAuthorities
            | Self::Settings(_)
            | Self::WrongPort(_)
            | Self::SinceOfSeveral
            | Self::KeyOfSeveral
            | Self::NoKeys
            | Self::NoExclusion
            | Self::NotJson(_)
            | Self::NotUtf8
            | Self::LineTooLong => true,
            Self::Line { source, .. } => source.is_usage(),
            _ => false,
        }
    }
}
