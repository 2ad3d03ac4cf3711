//! The server's side of a handshake, on the caller's runtime.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert, UnbufferedServerConnection};
use rustls::sign::CertifiedKey;
use thiserror::Error;
use tokio::net::TcpStream;

use super::session::{Progress, Session, advance, record_length};

/// Bytes read at once: a ClientHello is mostly under 2 KiB.
const READ_BYTES: usize = 4 * 1024;
/// Input without a result so far: a ClientHello, which is mostly under 2 KiB. The largest have keys of several exchanges, and
/// a ticket.
const MAX_HELLO: usize = 16 * 1024;
/// Input without a result so far where clients are asked for a certificate, and have a chain.
const MAX_CHAIN: usize = 64 * 1024;
/// The content type of a record with which each client begins.
const HANDSHAKE: u8 = 22;
/// An alert without encryption, TLS 1.2: fatal, unexpected_message.
const UNEXPECTED_MESSAGE: &[u8] = &[21, 3, 3, 0, 2, 2, 10];
/// The same: fatal, record_overflow. Behind a ServerHello a client under TLS 1.3 expects encryption, and only sees an end.
const RECORD_OVERFLOW: &[u8] = &[21, 3, 3, 0, 2, 2, 22];

/// The result of a handshake.
pub(crate) struct Established {
    pub(crate) session: Session,
    /// The protocol agreed on.
    pub(crate) alpn: Option<Vec<u8>>,
    /// The name by which the client has asked for the server, if the configuration was [prepared](prepare).
    pub(crate) server_name: Option<String>,
    /// The client's verified certificate, as DER.
    pub(crate) client_certificate: Option<Vec<u8>>,
}

/// Why a handshake has failed. The client has been sent an alert where TLS has one.
#[derive(Debug, Error)]
pub(crate) enum HandshakeError {
    #[error("the client speaks no TLS")]
    Plaintext,
    #[error("the client left during the handshake")]
    Eof,
    #[error("an incomplete message was given up, because unfinished input takes its share of memory_budget_bytes")]
    Overloaded,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

/// Sets a configuration up for [`accept`]: one ticket for each handshake, no early data, the server name noted, and the
/// keys given out.
pub(crate) fn prepare(config: &mut ServerConfig) {
    // Each ticket costs some microseconds and 300 bytes on the wire, and a client uses only one.
    config.send_tls13_tickets = 1;
    // A command in early data could be replayed by a third party.
    config.max_early_data_size = 0;
    // Established connections under TLS 1.3 have their own record layer.
    config.enable_secret_extraction = true;
    config.cert_resolver = Arc::new(NotesName(Arc::clone(&config.cert_resolver)));
}

/// Serves the handshake of a client. To give up, for example after a time limit, drop the future. `config` is given the
/// first bytes of the client, usually the whole ClientHello. `may_keep` is asked for the bytes of input that are kept
/// until more has come.
///
/// # Errors
///
/// See [`HandshakeError`]. The socket is good for nothing then but to be closed.
pub(crate) async fn accept(
    socket: &TcpStream,
    config: impl FnOnce(&[u8]) -> Arc<ServerConfig>,
    asks_for_certificate: bool,
    may_keep: impl Fn(usize) -> bool,
) -> Result<Established, HandshakeError> {
    let most = if asks_for_certificate { MAX_CHAIN } else { MAX_HELLO };
    let (mut input, mut output) = (Vec::new(), Vec::new());
    read(socket, &mut input).await?;
    if input[0] != HANDSHAKE {
        tell(socket, UNEXPECTED_MESSAGE);
        return Err(HandshakeError::Plaintext);
    }
    let config = config(&input);
    let keeps_secrets = !config.enable_secret_extraction;
    let mut connection = UnbufferedServerConnection::new(config)?;
    // The number of bytes that rustls has seen, and wants to see again.
    let mut seen = 0;
    let mut server_name = None;
    loop {
        let advanced = advance_handshake(&mut connection, &mut input, &mut seen, &mut output);
        server_name = NAME.take().or(server_name);
        if let Err(error) = advanced {
            tell(socket, &output);
            return Err(error.into());
        }
        write(socket, &output).await?;
        output.clear();
        if input.len() > most {
            tell(socket, RECORD_OVERFLOW);
            return Err(rustls::Error::General("a message of the handshake is too large".into()).into());
        }
        if input.is_empty() {
            input = Vec::new();
        }
        if !may_keep(input.capacity()) {
            return Err(HandshakeError::Overloaded);
        }
        if !connection.is_handshaking() {
            break;
        }
        read(socket, &mut input).await?;
    }
    let alpn = connection.alpn_protocol().map(<[u8]>::to_vec);
    let client_certificate = connection.peer_certificates().and_then(|chain| chain.first()).map(|first| first.to_vec());
    let session = Session::new(connection, &mut input, seen == 0 && !keeps_secrets)?;
    Ok(Established { session, alpn, server_name, client_certificate })
}

/// Whether the first cipher of a client is ChaCha20-Poly1305, which is the choice of a client without instructions for
/// AES. `hello` begins with the record of the ClientHello (RFC 8446, 4.1.2); an incomplete one has no first cipher.
pub(crate) fn prefers_chacha20(hello: &[u8]) -> bool {
    // The headers of record and message, the version, and the random number.
    const SESSION_ID: usize = 5 + 4 + 2 + 32;
    let Some(session_id) = hello.get(SESSION_ID).map(|length| usize::from(*length)) else { return false };
    let ciphers = hello.get(SESSION_ID + 1 + session_id + 2..).unwrap_or_default();
    // Browsers put a meaningless value in front (RFC 8701).
    let is_meaningless = |cipher: &[u8]| cipher[0] == cipher[1] && cipher[0] & 0x0f == 0x0a;
    let first = ciphers.chunks_exact(2).find(|cipher| !is_meaningless(cipher));
    matches!(first, Some([0x13, 0x03] | [0xcc, 0xa8..=0xaa]))
}

/// Gives rustls one record after the other, and none behind the handshake: those are for the session.
fn advance_handshake(
    connection: &mut UnbufferedServerConnection,
    input: &mut Vec<u8>,
    seen: &mut usize,
    output: &mut Vec<u8>,
) -> Result<(), rustls::Error> {
    while connection.is_handshaking() {
        let record = record_length(&input[*seen..]);
        // rustls refuses a wrong header before the record is complete.
        let end = record.map_or(input.len(), |length| *seen + length);
        let Progress { consumed, .. } = advance(connection, &mut input[..end], |_| {}, output)?;
        input.drain(..consumed);
        if record.is_none() {
            return Ok(());
        }
        *seen = end - consumed;
    }
    Ok(())
}

/// Appends bytes of the client, at least one.
async fn read(socket: &TcpStream, input: &mut Vec<u8>) -> Result<(), HandshakeError> {
    let start = input.len();
    input.resize(start + READ_BYTES, 0);
    loop {
        socket.readable().await?;
        match socket.try_read(&mut input[start..]) {
            Ok(0) => return Err(HandshakeError::Eof),
            Ok(length) => {
                input.truncate(start + length);
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
    }
}

async fn write(socket: &TcpStream, mut output: &[u8]) -> io::Result<()> {
    while !output.is_empty() {
        socket.writable().await?;
        match socket.try_write(output) {
            Ok(length) => output = &output[length..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Sends an alert, if the kernel takes it at once.
fn tell(socket: &TcpStream, alert: &[u8]) {
    let _ = socket.try_write(alert);
}

thread_local! {
    /// The server name in the ClientHello of the handshake in progress on this thread. rustls' unbuffered connection
    /// does not tell the name later.
    static NAME: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Notes the server name for [`accept`] before another resolver chooses the certificate.
#[derive(Debug)]
struct NotesName(Arc<dyn ResolvesServerCert>);

impl ResolvesServerCert for NotesName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        NAME.set(hello.server_name().map(str::to_owned));
        self.0.resolve(hello)
    }

    fn only_raw_public_keys(&self) -> bool {
        self.0.only_raw_public_keys()
    }
}
