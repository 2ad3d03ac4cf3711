//! MQTT 3.1.1, limited to clean sessions with QoS 0 and without keep-alive.

use super::splitter::{Cursor, FRAME_BYTES_MAX};
use super::{Decoded, Frame, Malformed, Refusal};

pub(super) fn opening(name: &str, topic: Option<&str>) -> Vec<u8> {
    let mut bytes = Vec::new();
    packet(CONNECT, &[b"\x00\x04MQTT", &[LEVEL, CLEAN_SESSION, 0, 0], &prefixed(name)], &mut bytes);
    if let Some(topic) = topic {
        packet(SUBSCRIBE, &[&[0, 1], &prefixed(topic), &[0]], &mut bytes);
    }
    bytes
}

pub(super) fn publish(topic: &str, data: &str, out: &mut Vec<u8>) {
    packet(PUBLISH, &[&prefixed(topic), data.as_bytes()], out);
}

fn packet(kind: u8, parts: &[&[u8]], out: &mut Vec<u8>) {
    out.push(kind);
    let mut length: usize = parts.iter().map(|part| part.len()).sum();
    while length > 127 {
        out.push(length as u8 | 128);
        length >>= 7;
    }
    out.push(length as u8);
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// A string, with its length in front.
fn prefixed(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("the bench's names are short");
    [&length.to_be_bytes(), text.as_bytes()].concat()
}

pub(super) fn decode(bytes: &[u8]) -> Decoded<'_> {
    let mut cursor = Cursor::new(bytes);
    let Some(&[kind]) = cursor.bytes(1) else { return Ok(None) };
    let mut length = 0;
    for shift in [0, 7, 14, 21] {
        let Some(&[byte]) = cursor.bytes(1) else { return Ok(None) };
        length |= usize::from(byte & 127) << shift;
        match (byte & 128, shift) {
            (0, _) => break,
            (_, 21) => return Err(Malformed),
            _ => {}
        }
    }
    if length > FRAME_BYTES_MAX || !matches!(kind & KIND, CONNACK | PUBLISH | SUBACK | PINGRESP) {
        return Err(Malformed);
    }
    let Some(body) = cursor.bytes(length) else { return Ok(None) };
    let frame = match (kind & KIND, body) {
        (CONNACK, [_, 0]) => Frame::Welcome,
        (CONNACK, [_, code]) => {
            let reason = REFUSALS.get(usize::from(*code)).unwrap_or(&"an unknown reason");
            Frame::Refused(Refusal { code: format!("CONNACK {code}").into(), message: (*reason).into(), closes: true })
        }
        (SUBACK, [_, _, 0]) => Frame::Ack,
        (SUBACK, [_, _, code]) => {
            let code = format!("SUBACK {code}").into();
            Frame::Refused(Refusal { code, message: "no subscription".into(), closes: false })
        }
        (PUBLISH, [high, low, rest @ ..]) => {
            let topic = usize::from(u16::from_be_bytes([*high, *low]));
            Frame::Message(rest.get(topic..).ok_or(Malformed)?)
        }
        (PINGRESP, _) => Frame::Other,
        _ => return Err(Malformed),
    };
    Ok(Some((frame, cursor.at)))
}

/// The upper half of a packet's first byte. For the packets sent here, the standard prescribes the lower half.
const KIND: u8 = 0xf0;
const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const PUBLISH: u8 = 0x30;
const SUBSCRIBE: u8 = 0x82;
const SUBACK: u8 = 0x90;
const PINGRESP: u8 = 0xd0;
/// The protocol level of MQTT 3.1.1.
const LEVEL: u8 = 4;
const CLEAN_SESSION: u8 = 2;
/// Texts for the return codes of CONNACK.
const REFUSALS: [&str; 6] = [
    "accepted",
    "unacceptable protocol version",
    "client identifier rejected",
    "server unavailable",
    "bad user name or password",
    "not authorised",
];
