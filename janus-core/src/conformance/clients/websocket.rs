//! A client of `janus.v1.json` over WebSocket.

use super::super::{ClientFormat, Reader, ResumePoint, Seen};
use super::{Begun, ResponseHead};
use crate::wire::cbor;
use crate::wire::v1::client::{self as v1, ServerFrame as Frame};
use crate::wire::websocket::client::{self, ServerDecoder, ServerFrame};

/// A client of `janus.v1.json` over WebSocket ([`WebSocket`](crate::wire::WebSocket)), which upgrades at `/ws`, as on
/// an [`HttpPort`](crate::wire::HttpPort).
#[derive(Clone, Copy, Debug, Default)]
pub struct WebSocketClient;

/// The key of the example in RFC 6455. The server does not check the randomness of keys.
pub(super) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(super) const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

fn frame(text: &str) -> Vec<u8> {
    client::text(text, MASK)
}

fn upgraded(frames: &[u8]) -> Vec<u8> {
    [&client::upgrade("localhost", "/ws", KEY), frames].concat()
}

impl ClientFormat for WebSocketClient {
    fn open(&self) -> Vec<u8> {
        upgraded(&frame(&v1::hello(None, None)))
    }

    fn subscribe(&self, topic: &str) -> Vec<u8> {
        frame(&v1::subscribe(Some(1), topic, None))
    }

    fn unsubscribe(&self, topic: &str) -> Option<Vec<u8>> {
        Some(frame(&v1::unsubscribe(Some(2), topic)))
    }

    fn publish(&self, topic: &str, data: &str) -> Option<Vec<u8>> {
        Some(frame(&v1::publish(Some(3), topic, "\"\"", "\"\"", data)))
    }

    fn resume(&self, place: &ResumePoint) -> Option<Vec<u8>> {
        let hello = frame(&v1::hello(place.session.as_deref(), None));
        let subscribe = frame(&v1::subscribe(Some(1), &place.topic, Some(place.position?.into())));
        Some(upgraded(&[hello, subscribe].concat()))
    }

    fn reader(&self) -> Box<dyn Reader> {
        Box::new(WebSocketReader::default())
    }

    fn garbage(&self) -> Vec<Vec<u8>> {
        let hello = frame(&v1::hello(None, None));
        let after_hello = |bytes: &[u8]| upgraded(&[&hello, bytes].concat());
        vec![
            b"GET /ws HTTP/1.1\r\nhost: localhost\r\n\r\n".to_vec(),
            b"POST /ws HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n".to_vec(),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(),
            client::upgrade("localhost", "/ws", "short"),
            upgraded(&frame(&v1::subscribe(None, "news", None))),
            upgraded(&[hello.clone(), hello.clone()].concat()),
            after_hello(b"\x81\x02{}"),
            after_hello(b"\x82\x80\x00\x00\x00\x00"),
            after_hello(b"\x83\x80\x00\x00\x00\x00"),
            after_hello(b"\xc1\x80\x00\x00\x00\x00"),
            after_hello(b"\x80\x80\x00\x00\x00\x00"),
            after_hello(b"\x09\x80\x00\x00\x00\x00"),
            after_hello(b"\x81\x82\x00\x00\x00\x00\xff\xff"),
            after_hello(&frame("{\"type\":")),
            after_hello(&frame("[]")),
            after_hello(&frame("{\"type\":\"dance\"}")),
            after_hello(&frame("{\"type\":\"subscribe\"}")),
            after_hello(&frame("{\"type\":\"subscribe\",\"topic\":\"a\",\"topic\":\"b\"}")),
            after_hello(&frame("{\"type\":\"subscribe\",\"topic\":\"a\",\"since\":7}")),
        ]
    }
}

#[derive(Default)]
pub(super) struct WebSocketReader {
    head: ResponseHead,
    frames: ServerDecoder,
    /// Whether the messages are those of `janus.v1.cbor`.
    is_binary: bool,
}

impl Reader for WebSocketReader {
    fn read(&mut self, input: &[u8], seen: &mut Vec<Seen>) {
        if self.head.over {
            return self.read_frames(input, seen);
        }
        match self.head.read(input) {
            Some(Begun::With(101, rest)) => self.read_frames(&rest, seen),
            Some(Begun::With(status, _)) => seen.push(Seen::Bye { code: status.to_string() }),
            Some(Begun::Wrong(head)) => seen.push(Seen::Unknown(head)),
            None => {}
        }
    }
}

impl WebSocketReader {
    /// For a client of `janus.v1.cbor`.
    pub(super) fn of_binary() -> Self {
        Self { is_binary: true, ..Self::default() }
    }

    fn read_frames(&mut self, mut input: &[u8], seen: &mut Vec<Seen>) {
        while let Some(frame) = self.frames.decode(&mut input) {
            seen.push(match frame {
                ServerFrame::Text(text) if !self.is_binary => understand(text),
                ServerFrame::Binary(bytes) if self.is_binary => match cbor::client::json(bytes) {
                    Ok(json) => understand(&json),
                    Err(error) => Seen::Unknown(error.to_string()),
                },
                ServerFrame::Text(_) | ServerFrame::Binary(_) => {
                    Seen::Unknown("a message of another subprotocol".to_owned())
                }
                ServerFrame::Ping(_) | ServerFrame::Pong(_) => Seen::Other,
                ServerFrame::Close { code, .. } => {
                    Seen::Bye { code: code.map_or_else(|| "none".to_owned(), |code| code.to_string()) }
                }
                ServerFrame::Unexpected => Seen::Unknown("a frame that no server of Janus sends".to_owned()),
            });
        }
    }
}

fn understand(text: &str) -> Seen {
    match Frame::parse(text) {
        Frame::Welcome { session, .. } => Seen::Opened { session: Some(session.into_owned()) },
        Frame::Subscribed { position, missed, .. } => Seen::subscribed().at(position).resumed(missed.is_some()),
        Frame::Message { topic, seq, data, .. } => Seen::message(topic, Some(seq), data),
        Frame::Gap { from, to, .. } => Seen::Gap { from, to },
        Frame::Error { error, .. } => Seen::Error { code: error.into_owned() },
        Frame::Bye { error, .. } => Seen::Bye { code: error.into_owned() },
        Frame::Unsubscribed { .. } | Frame::Published { .. } | Frame::Refreshed { .. } | Frame::Pong => Seen::Other,
        Frame::Presence { .. } | Frame::Joined { .. } | Frame::Left { .. } => Seen::Other,
        Frame::Unknown(text) => Seen::Unknown(text.to_owned()),
    }
}
