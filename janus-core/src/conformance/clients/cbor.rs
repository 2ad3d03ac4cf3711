//! A client of `janus.v1.cbor` over WebSocket.

use super::super::{ClientFormat, Reader, ResumePoint};
use super::websocket::{KEY, MASK, WebSocketReader};
use crate::wire::cbor;
use crate::wire::v1::client as v1;
use crate::wire::websocket::client;

/// A client of `janus.v1.cbor` over WebSocket, which upgrades at `/ws`, as on an [`HttpPort`](crate::wire::HttpPort).
#[derive(Clone, Copy, Debug, Default)]
pub struct CborClient;

/// The frame of `janus.v1.cbor` for a frame of `janus.v1.json`.
fn frame(json: &str) -> Vec<u8> {
    client::binary(&cbor::client::frame(json), MASK)
}

fn upgraded(frames: &[u8]) -> Vec<u8> {
    [&client::upgrade_to("localhost", "/ws", KEY, cbor::SUBPROTOCOL), frames].concat()
}

impl ClientFormat for CborClient {
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
        Box::new(WebSocketReader::of_binary())
    }

    fn garbage(&self) -> Vec<Vec<u8>> {
        let hello = frame(&v1::hello(None, None));
        let after_hello = |message: &[u8]| upgraded(&[&hello[..], message].concat());
        let binary = |bytes: &[u8]| after_hello(&client::binary(bytes, MASK));
        vec![
            upgraded(&frame(&v1::subscribe(None, "news", None))),
            upgraded(&[hello.clone(), hello.clone()].concat()),
            after_hello(&client::text("{\"type\":\"ping\"}", MASK)),
            binary(b""),
            binary(b"\x80"),
            binary(b"{\"type\":\"ping\"}"),
            binary(b"\xa1\x64type"),
            binary(b"\xa1\x64type\x64ping\x00"),
            binary(b"\xbf\x64type\x64ping\xff"),
            binary(b"\xa1\x64type\x62\xc3\x28"),
            binary(b"\xa1\x01\x02"),
            binary(b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff\x61a\x00"),
            binary(b"\xa1\x64data\x5b\x00\x00\x00\x00\xff\xff\xff\xff"),
            binary(&[&b"\xa1\x61a"[..], &[0x81; 4_000]].concat()),
            binary(b"\xa1\x64type\x65dance"),
            binary(b"\xa1\x64type\x69subscribe"),
            binary(b"\xa3\x64type\x69subscribe\x65topic\x61a\x65topic\x61b"),
            binary(b"\xa3\x64type\x69subscribe\x65topic\x61a\x65since\x07"),
        ]
    }
}
