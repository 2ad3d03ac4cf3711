//! `janus.v1.cbor` over WebSocket, as a client that only subscribes speaks it.
//!
//! As in [`websocket`](super::websocket), the data of a message is found at the end of the payload, and no other bytes of a
//! delivery are examined.

use std::net::SocketAddr;

use janus_core::wire::cbor::{SUBPROTOCOL, client as cbor};
use janus_core::wire::v1::client as v1;
use janus_core::wire::websocket::client;

use super::http;
use super::said::Said;
use super::websocket::{KEY, MASK, WELCOME, decode_frame};
use super::{Decoded, Frame, Malformed, Refusal};

const OPCODE_BINARY: u8 = 2;

/// The key of the data, as a text string of four bytes.
const DATA_KEY: &[u8] = b"\x64data";

/// A text string, in the first three bits of an item.
const TEXT: u8 = 0x60;

pub(super) fn opening(server: SocketAddr, topic: &str) -> Vec<u8> {
    let mut bytes = client::upgrade_to(&server.to_string(), "/ws", KEY, SUBPROTOCOL);
    bytes.extend(client::binary(&cbor::frame(&v1::hello(None, None)), MASK));
    bytes.extend(client::binary(&cbor::frame(&v1::subscribe(None, topic, None)), MASK));
    bytes
}

pub(super) fn decode(bytes: &[u8], data_bytes: u32) -> Decoded<'_> {
    if http::begins(bytes) {
        return http::decode(bytes, &WELCOME);
    }
    decode_frame(bytes, OPCODE_BINARY, |payload| match data_at_the_end(payload, data_bytes as usize) {
        Some(data) => Ok(Frame::Message(data)),
        None => said(payload),
    })
}

/// Finds the data of a message of this run without parsing: Janus writes the data as the last value of the map.
fn data_at_the_end(frame: &[u8], data_bytes: usize) -> Option<&[u8]> {
    let (before, data) = frame.split_at_checked(frame.len().checked_sub(data_bytes)?)?;
    let (length, size) = length_in_cbor(data_bytes)?;
    let before = before.strip_suffix(&length[..size])?;
    (before.ends_with(DATA_KEY) && data.starts_with(b"\"") && data.ends_with(b"\"")).then_some(data)
}

/// The beginning of a text string of this length, in the fewest bytes; `None` for more than 4 GiB.
fn length_in_cbor(length: usize) -> Option<([u8; 5], usize)> {
    let [a, b, c, d] = u32::try_from(length).ok()?.to_be_bytes();
    Some(match length {
        0..24 => ([TEXT | d, 0, 0, 0, 0], 1),
        24..0x100 => ([TEXT | 24, d, 0, 0, 0], 2),
        0x100..0x1_0000 => ([TEXT | 25, c, d, 0, 0], 3),
        _ => ([TEXT | 26, a, b, c, d], 5),
    })
}

/// Any frame but a message of this run.
fn said(frame: &[u8]) -> Result<Frame<'_>, Malformed> {
    let json = cbor::json(frame).map_err(|_| Malformed)?;
    let said = Said::parse(json.as_bytes())?;
    Ok(match &*said.kind {
        // The data stands at the end of the frame as in the JSON.
        "message" => {
            let length = said.data.ok_or(Malformed)?.get().len();
            Frame::Message(frame.len().checked_sub(length).and_then(|at| frame.get(at..)).ok_or(Malformed)?)
        }
        "welcome" => Frame::Welcome,
        "subscribed" => Frame::Ack,
        "error" => refused(said, false)?,
        "bye" => refused(said, true)?,
        // Includes gaps: the ledger counts missing messages anyway.
        _ => Frame::Other,
    })
}

/// A refusal that outlives its JSON.
fn refused<'f>(said: Said<'_>, closes: bool) -> Result<Frame<'f>, Malformed> {
    let Refusal { code, message, closes } = said.refusal(closes)?;
    Ok(Frame::Refused(Refusal { code: code.into_owned().into(), message: message.into_owned().into(), closes }))
}
