//! The record layer of an established connection under TLS 1.3 (RFC 8446, 5), with the keys of rustls' kernel API.
//!
//! rustls keeps the state of a whole handshake for as long as a connection lasts. One cipher, and the secrets of the
//! other direction and of the next keys, take less than half of that memory (`benches/tls.rs`). A cipher is 600 bytes
//! larger than its secret, so the cipher of the input lives only for the length of a read, and costs a read 0.1 µs.
//!
//! All of a handshake stays with rustls, and so do the derivation of keys, and connections under TLS 1.2. Here is the
//! rest: sealing and opening records, KeyUpdate, and alerts.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustls::kernel::KernelConnection;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::{AlertDescription, ConnectionTrafficSecrets, Error, InvalidMessage, PeerMisbehaved, SupportedCipherSuite};

use super::session::{MAX_PLAINTEXT, Progress};
use crate::accounts::fairness::price;

/// Content type, version and length.
const HEADER: usize = 5;
/// The authentication tag of each cipher of TLS 1.3.
const TAG: usize = 16;
/// Bytes of a record behind the header (RFC 8446, 5.2).
const MAX_BODY: usize = MAX_PLAINTEXT + 256;
/// Records in a row without data, beyond which the client does nothing but cause work. rustls has the same limit.
const MAX_FRUITLESS: u8 = 32;
/// A KeyUpdate that asks for no answer (RFC 8446, 4.6.3).
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
const CLOSE_NOTIFY: [u8; 2] = [1, 0];

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

/// An established connection without its socket.
pub(super) struct Records {
    /// Derives the next keys. Boxed, because no delivery touches the secrets.
    secrets: Box<KernelConnection<ServerConnectionData>>,
    seal: Key,
    /// The secret of the client's records, and the number of the next record.
    open: (u64, ConnectionTrafficSecrets),
    /// The number of records that one key may seal.
    limit: u64,
    /// The first bytes of a KeyUpdate.
    message: [u8; KEY_UPDATE.len()],
    message_length: usize,
    fruitless: u8,
    /// Whether the client has asked for new keys of this side. One answer, with the next frame, is enough for several
    /// requests; an answer for each would pile up for a client that does not read.
    owes_update: bool,
}

/// The error of a client, and the alert for the client.
type Fault = (Error, Option<AlertDescription>);

impl Records {
    /// # Errors
    ///
    /// The connection is not under TLS 1.3, or the secrets are not to be had.
    pub(super) fn new(connection: UnbufferedServerConnection) -> Result<Self, Error> {
        let (keys, secrets) = connection.dangerous_into_kernel_connection()?;
        let SupportedCipherSuite::Tls13(suite) = secrets.negotiated_cipher_suite() else {
            return Err(Error::General("the connection is not under TLS 1.3".into()));
        };
        Ok(Self {
            secrets: Box::new(secrets),
            seal: Key::new(&keys.tx)?,
            open: keys.rx,
            limit: suite.common.confidentiality_limit,
            message: KEY_UPDATE,
            message_length: 0,
            fruitless: 0,
            owes_update: false,
        })
    }

    /// Seals data of at most [`MAX_PLAINTEXT`] bytes into `output`; returns the number of bytes written.
    pub(super) fn encrypt(&mut self, plaintext: &[u8], output: &mut [u8]) -> Result<usize, Error> {
        let mut written = 0;
        // The KeyUpdate is sealed with the last number that the key allows.
        if self.owes_update || self.seal.seq >= self.limit - 1 {
            written += self.seal.seal(HANDSHAKE, &KEY_UPDATE, output)?;
            self.seal = Key::new(&self.secrets.update_tx_secret()?)?;
            self.owes_update = false;
        }
        Ok(written + self.seal.seal(DATA, plaintext, &mut output[written..])?)
    }

    /// Seals `close_notify` into `output`; returns the number of bytes written.
    pub(super) fn close_notify(&mut self, output: &mut [u8]) -> Result<usize, Error> {
        self.seal.seal(ALERT, &CLOSE_NOTIFY, output)
    }

    #[cfg(test)]
    pub(super) fn limit_key(&mut self, records: u64) {
        self.limit = records;
    }

    /// Opens all complete records of `input`, and gives the data to `take`. In the case of an error, `output` has the
    /// alert.
    pub(super) fn advance(
        &mut self,
        input: &mut [u8],
        mut take: impl FnMut(&[u8]),
        output: &mut Vec<u8>,
    ) -> Result<Progress, Error> {
        let mut progress = Progress::default();
        let mut key = None;
        while !progress.has_ended {
            let opened = match split_record(&mut input[progress.consumed..]) {
                Ok(None) => break,
                Ok(Some(record)) => {
                    progress.consumed += record.len();
                    let opened = self.open(record, &mut key, &mut take);
                    // Without a key now, the record has changed the key.
                    let work = if key.is_some() { price::RECORD } else { price::KEY_UPDATE };
                    progress.work = progress.work.saturating_add(work);
                    opened
                }
                Err(fault) => Err(fault),
            };
            match opened {
                Ok(has_ended) => progress.has_ended = has_ended,
                Err((error, alert)) => {
                    if let Some(alert) = alert {
                        let start = output.len();
                        output.resize(start + HEADER + CLOSE_NOTIFY.len() + 1 + TAG, 0);
                        self.seal.seal(ALERT, &[2, alert.into()], &mut output[start..])?;
                    }
                    return Err(error);
                }
            }
        }
        if let Some(key) = key {
            self.open.0 = key.seq;
        }
        Ok(progress)
    }

    /// Opens a complete record; returns whether the record is `close_notify`. `key` lasts for the records of one read.
    fn open(&mut self, record: &mut [u8], key: &mut Option<Key>, mut take: impl FnMut(&[u8])) -> Result<bool, Fault> {
        let opener = match key {
            Some(key) => key,
            None => key.insert(Key::new(&self.open).map_err(internal)?),
        };
        let (content, fragment) = opener.open(record)?;
        self.fruitless += 1;
        match content {
            _ if self.message_length > 0 && content != HANDSHAKE => return Err(misbehaved(unexpected())),
            DATA => {
                if !fragment.is_empty() {
                    self.fruitless = 0;
                    take(fragment);
                }
            }
            ALERT => match fragment {
                [_, 0] => return Ok(true),
                // Announces `close_notify`.
                [_, 90] => {}
                [_, description] => return Err((Error::AlertReceived((*description).into()), None)),
                _ => return Err((Error::General("malformed alert".into()), Some(AlertDescription::DecodeError))),
            },
            HANDSHAKE => {
                if self.take_handshake(fragment)? {
                    *key = None;
                }
            }
            _ => return Err(misbehaved(unexpected())),
        }
        if self.fruitless > MAX_FRUITLESS {
            return Err(misbehaved(PeerMisbehaved::TooManyEmptyFragments));
        }
        Ok(false)
    }

    /// Takes a part of a message of the handshake protocol, of which clients have only KeyUpdate; returns whether the
    /// client's key has changed.
    fn take_handshake(&mut self, fragment: &[u8]) -> Result<bool, Fault> {
        let length = self.message_length + fragment.len();
        // The last byte ends its record, because the next record has another key.
        if fragment.is_empty() || length > self.message.len() {
            return Err(misbehaved(unexpected()));
        }
        self.message[self.message_length..length].copy_from_slice(fragment);
        self.message_length = length;
        if !KEY_UPDATE[..4].starts_with(&self.message[..length.min(4)]) {
            return Err(misbehaved(unexpected()));
        }
        if length < self.message.len() {
            return Ok(false);
        }
        self.message_length = 0;
        match self.message[4] {
            0 => {}
            1 => self.owes_update = true,
            _ => {
                let error = Error::InvalidMessage(InvalidMessage::InvalidKeyUpdate);
                return Err((error, Some(AlertDescription::IllegalParameter)));
            }
        }
        self.open = self.secrets.update_rx_secret().map_err(internal)?;
        Ok(true)
    }
}

fn unexpected() -> PeerMisbehaved {
    PeerMisbehaved::MessageInterleavedWithHandshakeMessage
}

fn internal(error: Error) -> Fault {
    (error, Some(AlertDescription::InternalError))
}

fn misbehaved(how: PeerMisbehaved) -> Fault {
    (Error::PeerMisbehaved(how), Some(AlertDescription::UnexpectedMessage))
}

/// The first record, if complete. An invalid header is an error even of an incomplete record.
fn split_record(input: &mut [u8]) -> Result<Option<&mut [u8]>, Fault> {
    let &mut [content, _, _, high, low, ..] = input else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if content != DATA {
        return Err(misbehaved(unexpected()));
    }
    if length > MAX_BODY {
        return Err((Error::PeerSentOversizedRecord, Some(AlertDescription::RecordOverflow)));
    }
    Ok(input.get_mut(..HEADER + length))
}

/// A key with its number of records.
struct Key {
    key: LessSafeKey,
    iv: [u8; 12],
    seq: u64,
}

impl Key {
    fn new((seq, secrets): &(u64, ConnectionTrafficSecrets)) -> Result<Self, Error> {
        let (algorithm, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(Error::General("unknown cipher".into())),
        };
        Self::from_parts(algorithm, key.as_ref(), iv.as_ref(), *seq)
    }

    fn from_parts(algorithm: &'static Algorithm, key: &[u8], iv: &[u8], seq: u64) -> Result<Self, Error> {
        let invalid = || Error::General("a key of another length".into());
        let key = UnboundKey::new(algorithm, key).map_err(|_| invalid())?;
        Ok(Self { key: LessSafeKey::new(key), iv: iv.try_into().map_err(|_| invalid())?, seq })
    }

    /// The nonce of the next record (RFC 8446, 5.3). No number is used twice.
    fn nonce(&mut self) -> Result<Nonce, Error> {
        let mut nonce = self.iv;
        nonce[4..].iter_mut().zip(self.seq.to_be_bytes()).for_each(|(byte, part)| *byte ^= part);
        self.seq = self.seq.checked_add(1).ok_or(Error::EncryptError)?;
        Ok(Nonce::assume_unique_for_key(nonce))
    }

    /// Writes a record into `output`; returns the length of the record.
    fn seal(&mut self, content: u8, fragment: &[u8], output: &mut [u8]) -> Result<usize, Error> {
        let inner = fragment.len() + 1;
        let length = u16::try_from(inner + TAG).map_err(|_| Error::EncryptError)?.to_be_bytes();
        let header = [DATA, 3, 3, length[0], length[1]];
        let record = output.get_mut(..HEADER + inner + TAG).ok_or(Error::EncryptError)?;
        record[..HEADER].copy_from_slice(&header);
        let (body, tag) = record[HEADER..].split_at_mut(inner);
        body[..fragment.len()].copy_from_slice(fragment);
        body[fragment.len()] = content;
        let nonce = self.nonce()?;
        let sealed = self.key.seal_in_place_separate_tag(nonce, Aad::from(header), body);
        tag.copy_from_slice(sealed.map_err(|_| Error::EncryptError)?.as_ref());
        Ok(record.len())
    }

    /// Opens a complete record in place; returns the content type and the content without padding.
    fn open<'a>(&mut self, record: &'a mut [u8]) -> Result<(u8, &'a [u8]), Fault> {
        let forged = |_| (Error::DecryptError, Some(AlertDescription::BadRecordMac));
        let (header, body) = record.split_at_mut(HEADER);
        let nonce = self.nonce().map_err(|error| (error, None))?;
        let inner = self.key.open_in_place(nonce, Aad::from(&*header), body).map_err(forged)?;
        let Some(end) = inner.iter().rposition(|byte| *byte != 0) else { return Err(misbehaved(unexpected())) };
        if end > MAX_PLAINTEXT {
            return Err((Error::PeerSentOversizedRecord, Some(AlertDescription::RecordOverflow)));
        }
        Ok((inner[end], &inner[..end]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    fn key(key: &str, iv: &str) -> Key {
        Key::from_parts(&AES_128_GCM, &bytes(key), &bytes(iv), 0).unwrap()
    }

    /// RFC 8448, section 3: the application data and the alerts of both sides. The server's ticket is its record 0.
    #[test]
    fn the_records_of_the_example_in_rfc_8448_are_reproduced() {
        let data: Vec<u8> = (0..50).collect();
        let client_record = bytes(
            "17 03 03 00 43 a2 3f 70 54 b6 2c 94 d0 af fa fe 82 28 ba 55 cb ef ac ea 42 f9 14 aa 66 bc ab 3f 2b 98 19
             a8 a5 b4 6b 39 5b d5 4a 9a 20 44 1e 2b 62 97 4e 1f 5a 62 92 a2 97 70 14 bd 1e 3d ea e6 3a ee bb 21 69 49
             15 e4",
        );
        let client = || key("17 42 2d da 59 6e d5 d9 ac d8 90 e3 c6 3f 50 51", "5b 78 92 3d ee 08 57 90 33 e5 23 d9");
        let mut output = [0; 100];
        let length = client().seal(DATA, &data, &mut output).unwrap();
        assert_eq!(output[..length], client_record);
        assert_eq!(client().open(&mut client_record.clone()).map_err(|(error, _)| error), Ok((DATA, &data[..])));

        let server_record = bytes(
            "17 03 03 00 43 2e 93 7e 11 ef 4a c7 40 e5 38 ad 36 00 5f c4 a4 69 32 fc 32 25 d0 5f 82 aa 1b 36 e3 0e fa
             f9 7d 90 e6 df fc 60 2d cb 50 1a 59 a8 fc c4 9c 4b f2 e5 f0 a2 1c 00 47 c2 ab f3 32 54 0d d0 32 e1 67 c2
             95 5d",
        );
        let mut server = key("9f 02 28 3b 6c 9c 07 ef c2 6b b9 f2 ac 92 e3 56", "cf 78 2b 88 dd 83 54 9a ad f1 e9 84");
        server.seq = 1;
        let length = server.seal(DATA, &data, &mut output).unwrap();
        assert_eq!(output[..length], server_record);
    }

    #[test]
    fn a_changed_bit_anywhere_is_noticed() {
        let sealer = || key("17 42 2d da 59 6e d5 d9 ac d8 90 e3 c6 3f 50 51", "5b 78 92 3d ee 08 57 90 33 e5 23 d9");
        let mut record = [0; HEADER + 3 + 1 + TAG];
        sealer().seal(DATA, b"abc", &mut record).unwrap();
        for bit in 0..record.len() * 8 {
            let mut forged = record;
            forged[bit / 8] ^= 1 << (bit % 8);
            let (error, alert) = sealer().open(&mut forged).unwrap_err();
            assert_eq!((error, alert), (Error::DecryptError, Some(AlertDescription::BadRecordMac)), "bit {bit}");
        }
    }
}
