//! A client of the classic protocol on a blocking socket, so that no second runtime is measured with the server's.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use janus_core::wire::classic::client::{ServerDecoder, ServerFrame};
use socket2::SockRef;

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    decoder: ServerDecoder,
}

impl Client {
    /// Connects. The greeting is the first frame to read.
    pub(crate) fn connect(server: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(server)?;
        // Without `nodelay`, a request right after another request waits 40 ms for the delayed ACK of the first.
        stream.set_nodelay(true)?;
        // A missing answer fails the bench instead of blocking it for ever.
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        // Closes with a reset: otherwise thousands of clients would occupy their ports for a minute.
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        Ok(Self { stream, decoder: ServerDecoder::new() })
    }

    pub(crate) fn send(&mut self, frames: &[u8]) -> io::Result<()> {
        self.stream.write_all(frames)
    }

    /// Reads up to a wanted frame, and any further bytes of the same piece.
    pub(crate) fn read_until(&mut self, wanted: impl Fn(&ServerFrame<'_>) -> bool) -> io::Result<()> {
        let mut buffer = [0; 4_096];
        let mut found = false;
        while !found {
            let length = self.stream.read(&mut buffer)?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut input = &buffer[..length];
            while let Some(frame) = self.decoder.decode(&mut input) {
                found |= wanted(&frame);
            }
        }
        Ok(())
    }
}
