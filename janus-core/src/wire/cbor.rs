//! The modern protocol in binary, `janus.v1.cbor`: each frame of [`janus.v1.json`](super::v1) as one CBOR item (RFC 8949).
//!
//! The frames of both protocols are the same objects, so this file has no requests, events or rules of its own: it maps
//! frames. Keys, strings, numbers, `true`, `false`, `null`, lists and objects are what they are in JSON. The JSON of a
//! publisher (`event`, `message_id`, `data`) and the `info` of a member are never re-encoded: they are a text string with the
//! JSON text. A payload of bytes is `data` as a byte string.
//!
//! `docs/PROTOCOL.md` has the mapping with examples, which `cbor/tests.rs` checks; [`client`] (`cbor/client.rs`) is the
//! client's end.
//!
//! What a client sends is read in place. Nothing is reserved by a length that a client declares, and items nest at most
//! [`MAX_DEPTH`] deep.

use std::borrow::Cow;
use std::convert::Infallible;

use bytes::{BufMut, BytesMut};
use minicbor::data::{Int, Type};
use minicbor::{Decoder, Encoder, decode as decoding, encode as encoding};

use super::json;
use super::publication::{data_of_bytes, put_json_string};
use super::request::{RawPublication, duplicate_key};
use super::v1::{self, Request, RequestDecoder};
use super::{Base64, ErrorCode, FrameError, Limits, NumberedMessage, ServerEvent};

pub mod client;

/// How deep lists and objects may nest in a frame of a client.
pub const MAX_DEPTH: usize = 16;

/// The subprotocol of a WebSocket with these frames.
pub const SUBPROTOCOL: &str = "janus.v1.cbor";

/// From here on a floating-point number may stand for another whole number.
const MAX_WHOLE: f64 = 9_007_199_254_740_991.0;

/// The members of a frame that are the publisher's own.
const PARTS: [&str; 3] = ["event", "message_id", "data"];

/// Reads a frame of a client. The decoder is that of `janus.v1.json`, whose rules hold.
///
/// ```
/// use janus_core::wire::v1::{Request, RequestDecoder};
/// use janus_core::wire::{Command, Limits, Open, cbor};
///
/// let limits = Limits { max_frame_bytes: 65_536, max_topic_bytes: 255, max_topics: 128 };
/// let request = cbor::decode(&mut RequestDecoder::new(), b"\xa1\x64type\x65hello", &limits)?;
/// assert_eq!(request, Request::Command(Command::Open(Box::new(Open::default()))));
/// # Ok::<_, janus_core::wire::FrameError>(())
/// ```
///
/// # Errors
///
/// As [`RequestDecoder::decode`], and [`ErrorCode::BadCbor`] for bytes other than one CBOR map with text as keys.
pub fn decode(requests: &mut RequestDecoder, frame: &[u8], limits: &Limits) -> Result<Request, FrameError> {
    let mut text = String::with_capacity(frame.len().min(256));
    let parts = Parts::read(frame, Side::Client, &mut text)?;
    let bytes;
    let payload = match parts.data {
        Part::Bytes(payload) => {
            bytes = data_of_bytes(payload);
            Ok(Some(&*bytes))
        }
        data => data.json("data"),
    };
    let publication = parts.duplicate.map_or(Ok(()), |key| Err(duplicate_key(key))).and_then(|()| {
        let (event, message_id) = (parts.event.json("event")?, parts.message_id.json("message_id")?);
        Ok(RawPublication { event, message_id, data: payload?, ..RawPublication::default() })
    });
    requests.decode_apart(&text, publication, limits)
}

/// The publisher's own members of a frame.
#[derive(Default)]
struct Parts<'a> {
    event: Part<'a>,
    message_id: Part<'a>,
    data: Part<'a>,
    duplicate: Option<&'static str>,
}

#[derive(Clone, Copy, Default)]
enum Part<'a> {
    #[default]
    Absent,
    Text(&'a str),
    Bytes(&'a [u8]),
    Other,
}

impl<'a> Parts<'a> {
    /// Takes a frame apart. All members but the publisher's own are appended to `json` as an object.
    fn read(frame: &'a [u8], from: Side, json: &mut String) -> Result<Self, FrameError> {
        let mut items = Items { decoder: Decoder::new(frame), from };
        let mut parts = Self::default();
        let (mut seen, mut next) = ([false; PARTS.len()], '{');
        // There are at most as many members as there are bytes, whatever number is declared.
        for _ in 0..items.take("a map with a declared length", |decoder| decoder.map())?.ok_or_else(|| endless(0))? {
            let key = items.key()?;
            if let Some(place) = PARTS.iter().position(|part| *part == key) {
                let part = items.part()?;
                if std::mem::replace(&mut seen[place], true) {
                    parts.duplicate = Some(PARTS[place]);
                }
                *[&mut parts.event, &mut parts.message_id, &mut parts.data][place] = part;
                continue;
            }
            json.push(std::mem::replace(&mut next, ','));
            items.put_member(key, json, MAX_DEPTH)?;
        }
        if next == '{' {
            json.push('{');
        }
        json.push('}');
        match items.decoder.position() {
            at if at < frame.len() => Err(bad_cbor(at, "the end of the frame")),
            _ => Ok(parts),
        }
    }
}

impl<'a> Part<'a> {
    /// The JSON text in a member.
    fn json(self, name: &str) -> Result<Option<&'a str>, FrameError> {
        let bad = |why: &str| FrameError::new(ErrorCode::BadPublish, format!("\"{name}\" {why}"));
        match self {
            Self::Absent => Ok(None),
            Self::Text(text) => match json::one_value(text) {
                Ok(value) => Ok(Some(value)),
                Err(error) => Err(bad(&format!("must be the text of one JSON value: {error}"))),
            },
            Self::Bytes(_) | Self::Other if name == "data" => {
                Err(bad("must be a text string, the text of one JSON value, or a byte string"))
            }
            Self::Bytes(_) | Self::Other => Err(bad("must be a text string, the text of one JSON value")),
        }
    }
}

/// The items of a frame.
struct Items<'a> {
    decoder: Decoder<'a>,
    from: Side,
}

/// The sender of a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    /// Whose `info`, and whose parts of kept messages, are text strings with JSON.
    Server,
}

impl<'a> Items<'a> {
    fn take<T>(
        &mut self,
        expected: &str,
        take: impl FnOnce(&mut Decoder<'a>) -> Result<T, decoding::Error>,
    ) -> Result<T, FrameError> {
        let at = self.decoder.position();
        take(&mut self.decoder).map_err(|_| bad_cbor(at, expected))
    }

    fn kind(&mut self) -> Result<Type, FrameError> {
        self.take("an item", |decoder| decoder.datatype())
    }

    fn key(&mut self) -> Result<&'a str, FrameError> {
        self.take("a key, a text string of declared length", |decoder| decoder.str())
    }

    /// A member of a publisher. Other items than strings are stepped over.
    fn part(&mut self) -> Result<Part<'a>, FrameError> {
        // Some encoders tag every list of bytes.
        while self.kind()? == Type::Tag {
            self.take("a tag", |decoder| decoder.tag())?;
        }
        Ok(match self.kind()? {
            Type::String => Part::Text(self.take("UTF-8", |decoder| decoder.str())?),
            Type::Bytes => Part::Bytes(self.take("the bytes of a string", |decoder| decoder.bytes())?),
            kind => {
                self.put_json(&mut String::new(), MAX_DEPTH)?;
                if matches!(kind, Type::Null | Type::Undefined) { Part::Absent } else { Part::Other }
            }
        })
    }

    /// Appends the member with this key, whose value is the next item.
    fn put_member(&mut self, key: &str, json: &mut String, depth: usize) -> Result<(), FrameError> {
        let is_text = self.from == Side::Server && (key == "info" || PARTS.contains(&key));
        if is_text && key == "data" && self.kind()? == Type::Bytes {
            let bytes = data_of_bytes(self.take("the bytes of a string", |decoder| decoder.bytes())?);
            // Behind the `null` and its comma.
            json.push_str(&bytes[5..]);
            return Ok(());
        }
        put_string(key, json);
        json.push(':');
        if is_text && self.kind()? == Type::String {
            let at = self.decoder.position();
            match json::one_value(self.take("UTF-8", |decoder| decoder.str())?) {
                Ok(info) => {
                    json.push_str(info);
                    return Ok(());
                }
                Err(_) => self.decoder.set_position(at),
            }
        }
        self.put_json(json, depth)
    }

    /// Appends the next item as JSON. Items unknown to JSON become `null`: no member with a meaning has such a value.
    fn put_json(&mut self, json: &mut String, depth: usize) -> Result<(), FrameError> {
        let at = self.decoder.position();
        let Some(deeper) = depth.checked_sub(1) else {
            return Err(bad_cbor(at, &format!("at most {MAX_DEPTH} levels of lists and maps")));
        };
        match self.kind()? {
            Type::Bool => json.push_str(if self.take("a bool", |decoder| decoder.bool())? { "true" } else { "false" }),
            Type::U8 | Type::U16 | Type::U32 | Type::U64 => {
                json.push_str(&self.take("a number", |decoder| decoder.u64())?.to_string());
            }
            Type::I8 | Type::I16 | Type::I32 | Type::I64 | Type::Int => {
                let number: Int = self.take("a number", |decoder| decoder.int())?;
                json.push_str(&i128::from(number).to_string());
            }
            Type::F32 | Type::F64 => put_float(self.take("a number", |decoder| decoder.f64())?, json),
            Type::String => put_string(self.take("UTF-8", |decoder| decoder.str())?, json),
            Type::Array => {
                let items = self.take("a list", |decoder| decoder.array())?.ok_or_else(|| endless(at))?;
                json.push('[');
                for place in 0..items {
                    if place > 0 {
                        json.push(',');
                    }
                    self.put_json(json, deeper)?;
                }
                json.push(']');
            }
            Type::Map => {
                let members = self.take("a map", |decoder| decoder.map())?.ok_or_else(|| endless(at))?;
                json.push('{');
                for place in 0..members {
                    if place > 0 {
                        json.push(',');
                    }
                    let key = self.key()?;
                    self.put_member(key, json, deeper)?;
                }
                json.push('}');
            }
            Type::Tag => {
                self.take("a tag", |decoder| decoder.tag())?;
                self.put_json(json, deeper)?;
            }
            Type::Null => self.put_null(json, |decoder| decoder.null())?,
            Type::Undefined => self.put_null(json, |decoder| decoder.undefined())?,
            Type::Simple => self.put_null(json, |decoder| decoder.simple().map(|_| ()))?,
            Type::Bytes => self.put_null(json, |decoder| decoder.bytes().map(|_| ()))?,
            // Half a number: no protocol needs one.
            Type::F16 => self.put_null(json, |decoder| {
                let end = decoder.position() + 3;
                decoder.set_position(end);
                if end > decoder.input().len() { Err(decoding::Error::end_of_input()) } else { Ok(()) }
            })?,
            Type::ArrayIndef | Type::MapIndef | Type::StringIndef | Type::BytesIndef => return Err(endless(at)),
            Type::Break | Type::Unknown(_) => return Err(bad_cbor(at, "an item")),
        }
        Ok(())
    }

    fn put_null(
        &mut self,
        json: &mut String,
        take: impl FnOnce(&mut Decoder<'a>) -> Result<(), decoding::Error>,
    ) -> Result<(), FrameError> {
        json.push_str("null");
        self.take("a whole item", take)
    }
}

fn put_string(text: &str, json: &mut String) {
    let mut string = Vec::with_capacity(text.len() + 2);
    put_json_string(&mut string, text);
    json.push_str(str::from_utf8(&string).expect("a JSON string is text"));
}

/// Some encoders write whole numbers beyond 32 bits as floating-point numbers.
fn put_float(number: f64, json: &mut String) {
    if number.fract() == 0.0 && (0.0..=MAX_WHOLE).contains(&number) {
        json.push_str(&(number as u64).to_string());
    } else if number.is_finite() {
        json.push_str(&format!("{number:?}"));
    } else {
        json.push_str("null");
    }
}

fn endless(at: usize) -> FrameError {
    bad_cbor(at, "a declared length, and no item of indefinite length")
}

fn bad_cbor(at: usize, expected: &str) -> FrameError {
    FrameError::new(ErrorCode::BadCbor, format!("not a frame in CBOR at byte {at}: expected {expected}"))
}

/// The answer to a `ping`: `{"type": "pong"}`.
pub const PONG: &[u8] = b"\xa1\x64type\x64pong";

/// Appends an event as a frame; nothing for the event that `janus.v1.json` has no words for.
pub fn encode(event: &ServerEvent<'_>, out: &mut BytesMut) {
    let written = if let ServerEvent::Message(message) = event {
        put_message(message, out)
    } else {
        let mut json = BytesMut::new();
        v1::encode(event, &mut json);
        match str::from_utf8(&json) {
            Ok("") => Ok(()),
            json => put_frame(json.expect("JSON is text"), &mut Encoder::new(Out(out))),
        }
    };
    written.expect("memory takes all");
}

/// Memory as the writer of an encoder.
struct Out<'o>(&'o mut BytesMut);

impl encoding::Write for Out<'_> {
    type Error = Infallible;

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Infallible> {
        self.0.put_slice(bytes);
        Ok(())
    }
}

type Written = Result<(), encoding::Error<Infallible>>;

fn put_message(message: &NumberedMessage<'_>, out: &mut BytesMut) -> Written {
    /// The keys, two numbers of at most nine bytes, and the heads of all items.
    const BESIDES: usize = 96;
    let NumberedMessage { topic, position, timestamp, event, message_id, data, base64, .. } = *message;
    let payload = base64.map_or(data.len(), |base64| base64.as_str().len());
    out.reserve(BESIDES + topic.as_str().len() + event.len() + message_id.len() + payload);
    let mut encoder = Encoder::new(Out(out));
    encoder.map(7)?.str("type")?.str("message")?.str("topic")?.str(topic.as_str())?;
    encoder.str("seq")?.u64(position.seq)?.str("time")?.u64(timestamp.unix_millis())?;
    encoder.str("event")?.str(event)?.str("message_id")?.str(message_id)?.str("data")?;
    match base64 {
        None => _ = encoder.str(data)?,
        Some(base64) => {
            encoder.bytes_len(base64.len() as u64)?;
            base64.put(encoder.into_writer().0);
        }
    }
    Ok(())
}

/// Appends a frame given in JSON.
fn put_frame(json: &str, out: &mut Encoder<Out<'_>>) -> Written {
    let members = json::members_of(json).unwrap_or_default();
    out.map(members.len() as u64)?;
    members.into_iter().try_for_each(|(key, value)| put_member(&key, value, out))
}

fn put_member(key: &str, value: &str, out: &mut Encoder<Out<'_>>) -> Written {
    match key {
        "data_base64" => {
            let text = json::string(value).unwrap_or_default();
            out.str("data")?.bytes(&Base64::new(&text).map(Base64::decode).unwrap_or_default())?;
        }
        key if key == "info" || PARTS.contains(&key) => _ = out.str(key)?.str(value)?,
        key => put_item(value, out.str(key)?)?,
    }
    Ok(())
}

/// Appends a value.
fn put_item(raw: &str, out: &mut Encoder<Out<'_>>) -> Written {
    match raw.as_bytes().first() {
        Some(b'{') => {
            let members = json::members_of(raw).unwrap_or_default();
            out.map(members.len() as u64)?;
            members.into_iter().try_for_each(|(key, value)| put_member(&key, value, out))?;
        }
        Some(b'[') => {
            let items = json::items_of(raw).unwrap_or_default();
            out.array(items.len() as u64)?;
            items.into_iter().try_for_each(|item| put_item(item, out))?;
        }
        Some(b'"') => _ = out.str(&json::string(raw).unwrap_or(Cow::Borrowed("")))?,
        Some(b't' | b'f') => _ = out.bool(raw == "true")?,
        Some(b'n') | None => _ = out.null()?,
        Some(_) => match (raw.parse::<u64>(), raw.parse::<i64>()) {
            (Ok(number), _) => _ = out.u64(number)?,
            (_, Ok(number)) => _ = out.i64(number)?,
            _ => _ = out.f64(raw.parse().unwrap_or(f64::NAN))?,
        },
    }
    Ok(())
}

#[cfg(test)]
mod tests;
