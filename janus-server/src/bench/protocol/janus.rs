//! The classic protocol. The data of a message is the last value in a JSON object.

use std::io::BufRead as _;

use janus_core::wire::ErrorCode;
use janus_core::wire::classic::client::{self, ServerFrame};

use super::splitter::data_at_the_end;
use super::{Decoded, Frame, Refusal};

pub(super) fn opening(topic: Option<&str>) -> Vec<u8> {
    let mut bytes = client::PREAMBLE.to_vec();
    if let Some(topic) = topic {
        bytes.extend_from_slice(&client::subscribe(topic));
    }
    bytes
}

pub(super) fn publish(topic: &str, data: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&client::publish(topic, EVENT, MESSAGE_ID, data));
}

/// Appends a publication for a new connection, as the clients of the original server send: bare JSON after `PUBLISH`,
/// because the original refuses a body that ends with NUL.
pub(in crate::bench) fn publish_and_close(topic: &str, data: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(client::PREAMBLE);
    let frame = client::publish_and_close(topic, EVENT, MESSAGE_ID, data);
    out.extend_from_slice(frame.strip_suffix(&[0]).unwrap_or(&frame));
}

pub(super) fn decode(bytes: &[u8], searched: usize, data_bytes: u32) -> Decoded<'_> {
    // `skip_until` searches with memchr, which matters for long messages.
    let found = (&bytes[searched..]).skip_until(END_OF_FRAME).expect("reading from memory does not fail");
    let length = searched + found;
    let Some(frame) = bytes[..length].strip_suffix(&[END_OF_FRAME]) else { return Ok(None) };
    if let Some(data) = data_at_the_end(frame, data_bytes as usize) {
        return Ok(Some((Frame::Message(data), length)));
    }
    let meaning = match ServerFrame::parse(frame) {
        ServerFrame::Greeting { .. } => Frame::Welcome,
        ServerFrame::Ack => Frame::Ack,
        ServerFrame::Message { data, .. } => Frame::Message(data.as_bytes()),
        ServerFrame::Error { code, message } => {
            let closes = ErrorCode::ALL.iter().any(|known| known.as_str() == code && known.closes());
            Frame::Refused(Refusal { code, message, closes })
        }
        ServerFrame::Ping
        | ServerFrame::Published { .. }
        | ServerFrame::Attached { .. }
        | ServerFrame::Assigned { .. }
        | ServerFrame::Refreshed { .. }
        | ServerFrame::Unknown(_)
        | ServerFrame::TooLarge => Frame::Other,
    };
    Ok(Some((meaning, length)))
}

const END_OF_FRAME: u8 = 1;
const EVENT: &str = "\"bench\"";
const MESSAGE_ID: &str = "\"\"";
