//! An established session without a socket, for the fuzz target of the record layer.

use std::fmt;
use std::io;

use rustls::server::UnbufferedServerConnection;

use super::session::{MAX_RECORD_IN, MAX_RECORD_OUT, Session};
use super::take_in;

/// A session whose caller carries the bytes. The kernel takes what is sent, and refuses alerts.
pub struct BareSession(Session);

impl BareSession {
    /// Bytes of input that are never exceeded by [`kept`](Self::kept).
    pub const MAX_INPUT: usize = 2 * MAX_RECORD_IN;
    /// Refused bytes that are never exceeded by [`refused`](Self::refused).
    pub const MAX_REFUSED: usize = MAX_RECORD_OUT;

    /// Continues a connection after the handshake.
    ///
    /// # Errors
    ///
    /// The keys are not to be had.
    pub fn new(connection: UnbufferedServerConnection) -> Result<Self, rustls::Error> {
        Session::new(connection, &mut [], true).map(Self)
    }

    /// Takes in bytes of the client, and returns the data in them; `None` after the client's end.
    ///
    /// # Errors
    ///
    /// The bytes, or earlier bytes, are invalid.
    pub fn receive(&mut self, mut bytes: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let (mut scratch, mut buffer, mut data) = (vec![0; MAX_RECORD_IN], [0; 512], Vec::new());
        loop {
            match self.0.read_kept(&mut buffer) {
                Some(Ok(0)) => return Ok(None),
                Some(Ok(length)) => data.extend_from_slice(&buffer[..length]),
                Some(Err(error)) => return Err(error),
                None if bytes.is_empty() => return Ok(Some(data)),
                None => {
                    let kept = self.0.input().len();
                    let length = bytes.len().min(scratch.len() - kept);
                    scratch[kept..kept + length].copy_from_slice(&bytes[..length]);
                    bytes = &bytes[length..];
                    let length = take_in(&mut self.0, &mut scratch[..kept + length], kept, &mut buffer);
                    data.extend_from_slice(&buffer[..length]);
                }
            }
        }
    }

    /// Encrypts a frame of at most 16 KiB; returns the length on the wire.
    ///
    /// # Errors
    ///
    /// The session has failed.
    pub fn send(&mut self, frame: &[u8]) -> io::Result<usize> {
        self.0.encrypt(frame, &mut [0; MAX_RECORD_OUT])
    }

    /// The memory of kept input.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.0.input_memory()
    }

    /// The number of bytes for the client that wait for the kernel.
    #[must_use]
    pub fn refused(&self) -> usize {
        self.0.rest().len()
    }
}

impl fmt::Debug for BareSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BareSession").finish_non_exhaustive()
    }
}
