//! Reassembles frames from the bytes of a connection, however split; and parts shared by the decoders.
//!
//! Owns the unfinished frame of each connection, and the limit of its length. The rules of a protocol are in the
//! protocol's own file.

use std::mem;
use std::ops::ControlFlow;

use super::{Foreign, Frame, Malformed, Protocol};

/// Reassembles the frames of one connection from its reads.
#[derive(Debug, Default)]
pub(in crate::bench) struct Splitter {
    /// The beginning of an unfinished frame. Kept as small as possible, because every client has a splitter.
    pub(super) unfinished: Vec<u8>,
}

impl Splitter {
    /// Passes each complete frame to `each`, until `each` breaks. `data_bytes` is the size of the data in this run's
    /// messages.
    pub(in crate::bench) fn take(
        &mut self,
        protocol: Protocol,
        data_bytes: u32,
        read: &[u8],
        mut each: impl FnMut(Frame<'_>) -> ControlFlow<()>,
    ) -> Result<(), Foreign> {
        let mut unfinished = mem::take(&mut self.unfinished);
        let mut searched = unfinished.len();
        let mut rest = if unfinished.is_empty() {
            read
        } else {
            unfinished.extend_from_slice(read);
            &unfinished
        };
        while !rest.is_empty() {
            match protocol.decode(rest, mem::take(&mut searched), data_bytes) {
                Ok(Some((frame, length))) => {
                    rest = &rest[length..];
                    if each(frame).is_break() {
                        return Ok(());
                    }
                }
                Ok(None) if rest.len() <= FRAME_BYTES_MAX => break,
                Ok(None) | Err(Malformed) => {
                    let excerpt = rest[..rest.len().min(EXCERPT_BYTES)].escape_ascii().to_string();
                    return Err(Foreign { protocol, excerpt });
                }
            }
        }
        let nothing_taken = rest.len() == unfinished.len();
        self.unfinished = if nothing_taken { unfinished } else { rest.to_vec() };
        Ok(())
    }
}

/// Reads the parts of a frame in order; `None` where more bytes are needed.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let bytes = self.bytes.get(self.at..)?.get(..length)?;
        self.at += length;
        Some(bytes)
    }

    /// A line, without its CR LF.
    pub(super) fn line(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        let rest = &self.bytes[self.at..];
        let Some(length) = rest.iter().take(LINE_BYTES_MAX).position(|&byte| byte == b'\n') else {
            return if rest.len() < LINE_BYTES_MAX { Ok(None) } else { Err(Malformed) };
        };
        self.at += length + 1;
        rest[..length].strip_suffix(b"\r").map(Some).ok_or(Malformed)
    }

    /// This many bytes, without the CR LF that must follow.
    pub(super) fn bytes_of_line(&mut self, length: usize) -> Result<Option<&'a [u8]>, Malformed> {
        let Some(bytes) = self.bytes(length + 2) else { return Ok(None) };
        bytes.strip_suffix(b"\r\n").map(Some).ok_or(Malformed)
    }
}

/// Finds the data of a message of this run without parsing: in all formats, Janus writes the data as the last value of
/// the object. Saves time for clients that receive tens of thousands of messages a second.
pub(super) fn data_at_the_end(frame: &[u8], data_bytes: usize) -> Option<&[u8]> {
    let members = frame.strip_suffix(b"}")?;
    let (before, data) = members.split_at_checked(members.len().checked_sub(data_bytes)?)?;
    (before.ends_with(b"\"data\":") && data.starts_with(b"\"") && data.ends_with(b"\"")).then_some(data)
}

/// Parses a length in decimal digits, up to [`FRAME_BYTES_MAX`].
pub(super) fn length(digits: &[u8]) -> Result<usize, Malformed> {
    let length: usize = str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).ok_or(Malformed)?;
    if length <= FRAME_BYTES_MAX { Ok(length) } else { Err(Malformed) }
}

/// More than the largest data that a bench can be told to send.
pub(super) const FRAME_BYTES_MAX: usize = 32 << 20;
/// Longer than any line other than data; the longest is the INFO of NATS.
pub(super) const LINE_BYTES_MAX: usize = 64 * 1024;
const EXCERPT_BYTES: usize = 40;
