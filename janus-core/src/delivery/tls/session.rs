//! A TLS session without I/O: bytes in, bytes out, and the bytes kept between two calls.
//!
//! Under TLS 1.3 the keys are with `record.rs`, under TLS 1.2 with the unbuffered connection of rustls. Neither has
//! buffers. The session keeps bytes on the heap, and gives the memory back with the last byte:
//!
//! | kept | limit |
//! |---|---|
//! | input: an incomplete record, and plaintext beyond the caller's buffer | one record of a client, 18 KiB together |
//! | output refused by the kernel (`rest.rs`) | one record of 16 KiB, and a few alerts of 24 bytes |

use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use janus_supervision::ExitReason;
use rustls::ProtocolVersion;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError, UnbufferedStatus, WriteTraffic,
};

use super::record::Records;
use super::rest::{Rest, remove_first};
use crate::accounts::fairness::price;
use crate::delivery::Ledger;

/// Plaintext of a record.
pub(super) const MAX_PLAINTEXT: usize = 16 * 1024;
/// A record of a client: the header, and the limit of RFC 5246 (6.2.3), which is above the limit of RFC 8446 (5.2).
pub(super) const MAX_RECORD_IN: usize = 5 + MAX_PLAINTEXT + 2_048;
/// A record of the server: header, nonce and tag take at most 29 bytes. KeyUpdates of rustls may go in front.
pub(super) const MAX_RECORD_OUT: usize = MAX_PLAINTEXT + 256;
/// `close_notify`, encrypted: 24 bytes under TLS 1.3, 31 under TLS 1.2, and KeyUpdates in front.
const MAX_ALERT: usize = 256;

/// An established TLS connection without its socket.
pub(crate) struct Session {
    keeper: Keeper,
    /// The beginning of a record; never a complete record.
    input: Vec<u8>,
    /// Decrypted, and not given to the caller for lack of room.
    plaintext: Vec<u8>,
    /// Encrypted, and refused by the kernel.
    rest: Rest,
    /// The work of reading since the last [`take_work`](Self::take_work).
    work: u16,
    /// The reason for the end of the input, until the next read.
    failure: Option<io::Error>,
    reads: Reads,
    writes: Writes,
}

/// The holder of the keys.
enum Keeper {
    /// TLS 1.3.
    Records(Records),
    /// TLS 1.2. Boxed, because nearly all connections are of the other kind.
    Rustls(Box<UnbufferedServerConnection>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reads {
    Open,
    /// After `close_notify` or a FIN of the client.
    Ended,
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writes {
    Open,
    /// `close_notify` is on its way; a FIN is due after the rest.
    ShutsDown,
    Closed,
}

/// How far a call of [`advance`] has come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The number of bytes to remove from the front of the input.
    pub(super) consumed: usize,
    /// Whether the client has sent `close_notify`.
    pub(super) has_ended: bool,
    /// The price of the work done.
    pub(super) work: u16,
}

impl Session {
    /// Continues an established connection. `input` came behind the handshake; rustls has seen none of these bytes if
    /// `is_unseen`.
    pub(super) fn new(
        connection: UnbufferedServerConnection,
        input: &mut [u8],
        is_unseen: bool,
    ) -> Result<Self, rustls::Error> {
        let is_new = connection.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        let keeper = if is_new && is_unseen {
            Keeper::Records(caught(|| Records::new(connection))?)
        } else {
            Keeper::Rustls(Box::new(connection))
        };
        let mut session = Self {
            keeper,
            input: Vec::new(),
            plaintext: Vec::new(),
            rest: Rest::default(),
            work: 0,
            failure: None,
            reads: Reads::Open,
            writes: Writes::Open,
        };
        session.decrypt(input, &mut []);
        Ok(session)
    }

    /// Encrypts at most [`MAX_PLAINTEXT`] bytes into `record`, a buffer of [`MAX_RECORD_OUT`] bytes; returns the length
    /// of the record.
    pub(super) fn encrypt(&mut self, plaintext: &[u8], record: &mut [u8]) -> io::Result<usize> {
        if self.writes != Writes::Open {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.write(Some(plaintext), record)
    }

    /// Encrypts data, or `close_notify` without data.
    fn write(&mut self, data: Option<&[u8]>, output: &mut [u8]) -> io::Result<usize> {
        let Self { keeper, input, rest, .. } = self;
        let written = caught(|| match (keeper, data) {
            (Keeper::Records(records), Some(data)) => records.encrypt(data, output),
            (Keeper::Records(records), None) => records.close_notify(output),
            (Keeper::Rustls(connection), Some(data)) => {
                rest.change(|rest| write(connection, input, rest, |traffic| traffic.encrypt(data, output)))
            }
            (Keeper::Rustls(connection), None) => {
                rest.change(|rest| write(connection, input, rest, |traffic| traffic.queue_close_notify(output)))
            }
        });
        written.map_err(|error| {
            let told = io::Error::other(error.clone());
            // Reading has to end with writing, as over a mere socket.
            self.fail(error);
            told
        })
    }

    /// The result of a read as far as known without further input; `None` if the client has to send first.
    pub(super) fn read_kept(&mut self, buffer: &mut [u8]) -> Option<io::Result<usize>> {
        if !self.plaintext.is_empty() {
            let length = self.plaintext.len().min(buffer.len());
            buffer[..length].copy_from_slice(&self.plaintext[..length]);
            remove_first(&mut self.plaintext, length);
            return Some(Ok(length));
        }
        match self.reads {
            Reads::Open => None,
            Reads::Ended => Some(Ok(0)),
            Reads::Failed => Some(Err(self.failure.take().unwrap_or_else(|| io::ErrorKind::NotConnected.into()))),
        }
    }

    /// The kept input: the first bytes for the next call of [`decrypt`](Self::decrypt).
    pub(super) fn input(&self) -> &[u8] {
        &self.input
    }

    /// Decrypts `input` into `buffer`, and returns the length of the plaintext. Plaintext without room, an incomplete
    /// record, and an error, are kept.
    pub(super) fn decrypt(&mut self, input: &mut [u8], buffer: &mut [u8]) -> usize {
        let mut length = 0;
        let Self { keeper, plaintext: kept, rest, .. } = self;
        let take = |plaintext: &[u8]| {
            let (fits, others) = plaintext.split_at(plaintext.len().min(buffer.len() - length));
            buffer[length..length + fits.len()].copy_from_slice(fits);
            length += fits.len();
            kept.extend_from_slice(others);
        };
        let advanced = rest.change(|rest| match keeper {
            Keeper::Records(records) => caught(|| records.advance(input, take, rest)),
            Keeper::Rustls(connection) => advance(connection, input, take, rest),
        });
        match advanced {
            Ok(Progress { has_ended: true, .. }) => self.end_input(),
            Ok(Progress { consumed, work, .. }) => {
                self.input = input[consumed..].to_vec();
                self.work = self.work.saturating_add(work);
            }
            Err(error) => self.fail(error),
        }
        length
    }

    /// The price of reading since the last call.
    pub(super) fn take_work(&mut self) -> u16 {
        mem::take(&mut self.work)
    }

    /// Whether the client owes the rest of a record.
    pub(super) fn is_mid_record(&self) -> bool {
        !self.input.is_empty()
    }

    /// The bytes kept of the input, encrypted or not yet given to the caller.
    pub(super) fn kept_input(&self) -> usize {
        self.input.len() + self.plaintext.len()
    }

    /// Refuses a handshake message larger than any record: rustls wants to see such messages whole.
    pub(super) fn refuse_input(&mut self) {
        self.fail(rustls::Error::General("the client sent a handshake message that is too large".into()));
    }

    fn fail(&mut self, error: rustls::Error) {
        self.input = Vec::new();
        self.reads = Reads::Failed;
        // Nothing may follow a fatal alert.
        self.writes = Writes::Closed;
        self.failure = Some(io::Error::new(io::ErrorKind::InvalidData, error));
    }

    /// The client has ended the stream below TLS.
    pub(super) fn end_input(&mut self) {
        self.reads = Reads::Ended;
        self.input = Vec::new();
    }

    /// The encrypted bytes refused by the kernel.
    pub(super) fn rest(&self) -> &[u8] {
        self.rest.bytes()
    }

    /// Accounts for the memory of this session from now on.
    pub(super) fn account_to(&mut self, ledger: &Arc<Ledger>) {
        self.rest.account_to(ledger);
    }

    /// The bytes kept of the input, and whether they have memory on the heap.
    #[cfg(test)]
    pub(super) fn kept(&self) -> (usize, bool) {
        (self.kept_input(), self.input_memory() > 0)
    }

    /// The memory of the kept input.
    #[cfg(any(test, feature = "internals"))]
    pub(super) fn input_memory(&self) -> usize {
        self.input.capacity() + self.plaintext.capacity()
    }

    /// Has the key of this side changed after this many further records.
    #[cfg(test)]
    pub(super) fn limit_key(&mut self, records: u64) {
        let Keeper::Records(keeper) = &mut self.keeper else { panic!("not under TLS 1.3") };
        keeper.limit_key(records);
    }

    pub(super) fn keep_rest(&mut self, bytes: &[u8]) {
        self.rest.push(bytes);
    }

    pub(super) fn rest_sent(&mut self, length: usize) {
        self.rest.remove_first(length);
    }

    /// Gives up sending.
    pub(super) fn abandon_rest(&mut self) {
        self.rest.clear();
        self.writes = Writes::Closed;
    }

    /// Puts `close_notify` behind the rest.
    pub(super) fn shut_down(&mut self) {
        match self.writes {
            Writes::Open => {
                let mut alert = [0; MAX_ALERT];
                if let Ok(length) = self.write(None, &mut alert) {
                    self.rest.push(&alert[..length]);
                }
                self.writes = Writes::ShutsDown;
            }
            // The FIN is due all the same.
            Writes::Closed => self.writes = Writes::ShutsDown,
            Writes::ShutsDown => {}
        }
    }

    /// Whether the end of the output is not there yet.
    pub(super) fn shuts_down(&self) -> bool {
        self.writes == Writes::ShutsDown
    }

    /// Whether a FIN is due now.
    pub(super) fn take_shutdown(&mut self) -> bool {
        let due = self.shuts_down() && self.rest.is_empty();
        if due {
            self.writes = Writes::Closed;
        }
        due
    }
}

/// Calls `write` once rustls is ready. `input` is the kept input, which rustls wants to see again.
fn write(
    connection: &mut UnbufferedServerConnection,
    input: &mut Vec<u8>,
    rest: &mut Vec<u8>,
    write: impl FnOnce(&mut WriteTraffic<'_, ServerConnectionData>) -> Result<usize, EncryptError>,
) -> Result<usize, rustls::Error> {
    loop {
        let UnbufferedStatus { discard, state } = connection.process_tls_records(input);
        match state? {
            ConnectionState::WriteTraffic(mut traffic) => {
                return write(&mut traffic).map_err(|error| rustls::Error::General(error.to_string()));
            }
            ConnectionState::EncodeTlsData(mut data) => encode(&mut data, rest),
            ConnectionState::TransmitTlsData(transmit) => transmit.done(),
            _ => return Err(rustls::Error::General("nothing can be sent".into())),
        }
        input.drain(..discard);
    }
}

/// Works through `input`, which begins with the bytes not consumed by the last call. Gives plaintext to `take`, and
/// collects the bytes for the client in `output`: in the case of an error, the alert.
pub(super) fn advance(
    connection: &mut UnbufferedServerConnection,
    input: &mut [u8],
    mut take: impl FnMut(&[u8]),
    output: &mut Vec<u8>,
) -> Result<Progress, rustls::Error> {
    caught(|| {
        let mut progress = Progress::default();
        loop {
            let status = connection.process_tls_records(&mut input[progress.consumed..]);
            let mut discard = status.discard;
            match status.state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discard += record.discard;
                        progress.work = progress.work.saturating_add(price::RECORD);
                        take(record.payload);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => encode(&mut data, output),
                Ok(ConnectionState::TransmitTlsData(transmit)) => transmit.done(),
                Ok(ConnectionState::PeerClosed) => progress.has_ended = true,
                Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_) | ConnectionState::Closed) => {
                    progress.consumed += discard;
                    return Ok(progress);
                }
                // Early data is never accepted.
                Ok(_) => return Err(rustls::Error::General("unexpected state of the connection".into())),
                Err(error) => {
                    encode_alerts(connection, output);
                    return Err(error);
                }
            }
            progress.consumed += discard;
        }
    })
}

/// After an error, rustls has nothing but alerts to say.
fn encode_alerts(connection: &mut UnbufferedServerConnection, output: &mut Vec<u8>) {
    while connection.wants_write() {
        let Ok(ConnectionState::EncodeTlsData(mut data)) = connection.process_tls_records(&mut []).state else {
            return;
        };
        encode(&mut data, output);
    }
}

fn encode(data: &mut EncodeTlsData<'_, ServerConnectionData>, output: &mut Vec<u8>) {
    let start = output.len();
    let mut size = 0;
    loop {
        output.resize(start + size, 0);
        match data.encode(&mut output[start..]) {
            Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => size = required_size,
            Err(EncodeError::AlreadyEncoded) | Ok(_) => return,
        }
    }
}

/// The length of the first record, if complete; of all bytes, if their header is invalid.
pub(super) fn record_length(input: &[u8]) -> Option<usize> {
    let &[_, _, _, high, low, ..] = input else { return None };
    let length = 5 + usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_RECORD_IN { Some(input.len()) } else { (length <= input.len()).then_some(length) }
}

/// Turns a panic in rustls into an error: a panic must end one connection, and not the delivery to all clients.
pub(super) fn caught<T>(work: impl FnOnce() -> Result<T, rustls::Error>) -> Result<T, rustls::Error> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        log::error!("TLS: {}", ExitReason::from_unwind(panic));
        Err(rustls::Error::General("a panic in the TLS library".into()))
    })
}
