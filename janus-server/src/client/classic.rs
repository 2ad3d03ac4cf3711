//! A connection of the classic protocol: a blocking socket, read frame by frame.

use std::io::{self, Read as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use janus_core::wire::classic::client::{self, ServerFrame};
use rustls::ClientConfig;

use super::ClientError;
use super::server::Target;
use super::stream::Stream;

/// A connection to a server, read frame by frame.
pub(crate) struct Connection {
    stream: Stream,
    /// The bytes read so far.
    buffer: Vec<u8>,
    /// Bytes before this index belong to frames already returned.
    start: usize,
    /// Bytes from `start` up to this index contain no end of a frame.
    searched: usize,
}

impl Connection {
    /// Opens a connection, over TLS if there are settings for TLS.
    pub(crate) fn open(to: &str, timeout: Duration, tls: Option<&Arc<ClientConfig>>) -> Result<Self, ClientError> {
        Ok(Self { stream: Stream::open(to, timeout, tls)?, buffer: Vec::new(), start: 0, searched: 0 })
    }

    pub(crate) fn send(&mut self, frame: &[u8]) -> Result<(), ClientError> {
        self.stream.write_all(frame).map_err(ClientError::Lost)
    }

    /// Waits for the next frame, for ever or until the deadline; `None` if the deadline has passed.
    pub(crate) fn receive(&mut self, deadline: Option<Instant>) -> Result<Option<ServerFrame<'_>>, ClientError> {
        self.buffer.drain(..self.start);
        self.searched = self.searched.saturating_sub(self.start);
        self.start = 0;
        let length = loop {
            if let Some(length) = self.buffer[self.searched..].iter().position(|&byte| byte == 1) {
                break self.searched + length;
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > FRAME_BYTES_MAX {
                return Err(ClientError::FrameTooLarge);
            }
            let patience = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => return Ok(None),
                patience => patience,
            };
            self.stream.socket().set_read_timeout(patience).map_err(ClientError::Lost)?;
            let mut piece = [0; 16 * 1024];
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(ClientError::Closed),
                Ok(read) => self.buffer.extend_from_slice(&piece[..read]),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(ClientError::Lost(error)),
            }
        };
        self.start = length + 1;
        self.searched = self.start;
        Ok(Some(ServerFrame::parse(&self.buffer[..length])))
    }
}

impl Target {
    /// Opens a connection of the classic protocol, and shows the token if there is one.
    pub(super) fn connect_classic(&self) -> Result<Connection, ClientError> {
        let opened = Connection::open(&self.address.to, self.timeout, self.tls.as_ref());
        let mut connection = opened.map_err(|error| self.explain(error))?;
        let mut opening = client::PREAMBLE.to_vec();
        opening.extend(self.token.as_deref().map(client::auth).unwrap_or_default());
        connection.send(&opening)?;
        Ok(connection)
    }
}

/// Twice the largest frame that a server can be configured to accept.
pub(super) const FRAME_BYTES_MAX: usize = 32 << 20;
