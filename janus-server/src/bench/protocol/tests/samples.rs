//! Bytes that servers of each protocol may send: whole conversations with their meaning, and fragments for random
//! streams.

use janus_core::wire::cbor::client;

use super::super::{Frame, Protocol, Refusal};

/// The data of the messages in the conversations.
pub(super) const DATA: &str = "\"..........................................\\u0001\"";

/// Bytes from a server, and the expected frame as text.
type Sample = (Vec<u8>, String);

/// Everything a server of the protocol may say, and the frames in order.
pub(super) fn conversation(protocol: Protocol) -> (Vec<u8>, Vec<String>) {
    let samples = match protocol {
        Protocol::Janus => janus(),
        Protocol::Redis => redis(),
        Protocol::Nats => nats(),
        Protocol::Mqtt => mqtt(),
        Protocol::WebSocket => websocket(),
        Protocol::Cbor => cbor(),
        Protocol::Sse => sse(),
    };
    let (bytes, frames): (Vec<Vec<u8>>, Vec<String>) = samples.into_iter().unzip();
    (bytes.concat(), frames)
}

/// Parts of valid and invalid streams. Joined at random, they reach every part of the protocol's decoder.
pub(super) fn fragments(protocol: Protocol) -> &'static [&'static [u8]] {
    match protocol {
        Protocol::Janus => JANUS,
        Protocol::Redis => REDIS,
        Protocol::Nats => NATS,
        Protocol::Mqtt => MQTT,
        Protocol::WebSocket => WEBSOCKET,
        Protocol::Cbor => CBOR,
        Protocol::Sse => SSE,
    }
}

pub(super) fn shown(frame: &Frame<'_>) -> String {
    format!("{frame:?}")
}

fn refused(code: &str, message: &str, closes: bool) -> String {
    let (code, message) = (code.into(), message.into());
    shown(&Frame::Refused(Refusal { code, message, closes }))
}

/// A text frame as a server sends it.
pub(super) fn text_frame(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81];
    match text.len() {
        length @ 0..126 => frame.push(length as u8),
        length @ 126..0x1_0000 => {
            frame.push(126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(text.as_bytes());
    frame
}

fn janus() -> Vec<Sample> {
    let message = |data: &str| {
        let before = "{\"timestamp\":[1,2,3],\"topic\":\"t\",\"event\":\"e\",\"message_id\":\"\",\"data\":";
        format!("{before}{data}}}\x01").into_bytes()
    };
    let (error, reason) = (&b"{\"timestamp\":[1,2,3],\"error\":{\"code\":"[..], &b"\"message\":\"no\"}}\x01"[..]);
    vec![
        (b"{\"timestamp\":[1,2,3],\"token\":\"00ff\"}\x01".to_vec(), shown(&Frame::Welcome)),
        (b"ACK\x01".to_vec(), shown(&Frame::Ack)),
        (message(DATA), shown(&Frame::Message(DATA.as_bytes()))),
        (b"PING\x01".to_vec(), shown(&Frame::Other)),
        // Data whose length differs from this run's is found, too.
        (message("{\"a\":1}"), shown(&Frame::Message(b"{\"a\":1}"))),
        ([error, b"\"bad_topic\",", reason].concat(), refused("bad_topic", "no", false)),
        ([error, b"\"server_draining\",", reason].concat(), refused("server_draining", "no", true)),
    ]
}

fn redis() -> Vec<Sample> {
    vec![
        (b"+PONG\r\n".to_vec(), shown(&Frame::Welcome)),
        (b"*3\r\n$9\r\nsubscribe\r\n$1\r\nt\r\n:1\r\n".to_vec(), shown(&Frame::Ack)),
        (
            format!("*3\r\n$7\r\nmessage\r\n$1\r\nt\r\n${}\r\n{DATA}\r\n", DATA.len()).into_bytes(),
            shown(&Frame::Message(DATA.as_bytes())),
        ),
        (b":17\r\n".to_vec(), shown(&Frame::Other)),
        (b"*3\r\n$7\r\nmessage\r\n$1\r\nt\r\n$0\r\n\r\n".to_vec(), shown(&Frame::Message(b""))),
        (b"-NOAUTH log in first\r\n".to_vec(), refused("NOAUTH", "log in first", false)),
    ]
}

fn nats() -> Vec<Sample> {
    vec![
        (b"INFO {\"server_id\":\"X\",\"max_payload\":1048576} \r\n".to_vec(), shown(&Frame::Other)),
        (b"PONG\r\n".to_vec(), shown(&Frame::Ack)),
        (b"PING\r\n".to_vec(), shown(&Frame::Ping)),
        (format!("MSG t 1 {}\r\n{DATA}\r\n", DATA.len()).into_bytes(), shown(&Frame::Message(DATA.as_bytes()))),
        (b"MSG t 1 reply.to 2\r\n\r\n\r\n".to_vec(), shown(&Frame::Message(b"\r\n"))),
        (b"+OK\r\n".to_vec(), shown(&Frame::Other)),
        (b"-ERR 'Invalid Subject'\r\n".to_vec(), refused("ERR", "Invalid Subject", false)),
        (b"-ERR 'Slow Consumer'\r\n".to_vec(), refused("ERR", "Slow Consumer", true)),
    ]
}

fn mqtt() -> Vec<Sample> {
    let message = |data: &[u8]| {
        let length = u8::try_from(data.len() + 3).unwrap();
        [&[0x30, length, 0, 1, b't'], data].concat()
    };
    let long = [b'x'; 300];
    vec![
        (vec![0x20, 2, 0, 0], shown(&Frame::Welcome)),
        (vec![0x90, 3, 0, 1, 0], shown(&Frame::Ack)),
        (message(DATA.as_bytes()), shown(&Frame::Message(DATA.as_bytes()))),
        // 303 is 47 + 2 · 128, the length in two bytes.
        ([&[0x30, 0xaf, 2, 0, 1, b't'], &long[..]].concat(), shown(&Frame::Message(&long))),
        (message(b""), shown(&Frame::Message(b""))),
        (vec![0xd0, 0], shown(&Frame::Other)),
        (vec![0x20, 2, 0, 5], refused("CONNACK 5", "not authorised", true)),
        (vec![0x90, 3, 0, 1, 0x80], refused("SUBACK 128", "no subscription", false)),
    ]
}

fn websocket() -> Vec<Sample> {
    let message = |data: &str| {
        let text = format!(
            "{{\"type\":\"message\",\"topic\":\"t\",\"seq\":1,\"time\":2,\"event\":\"e\",\
             \"message_id\":\"\",\"data\":{data}}}"
        );
        text_frame(&text)
    };
    let long = format!("\"{}\"", "x".repeat(300));
    let reason = "\"error\":\"topic_unavailable\",\"message\":\"no\"}";
    vec![
        (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
                .to_vec(),
            shown(&Frame::Welcome),
        ),
        (
            text_frame(r#"{"type":"welcome","session":"00","resumed":false,"limits":{},"heartbeat_ms":1}"#),
            shown(&Frame::Welcome),
        ),
        (text_frame(r#"{"type":"subscribed","topic":"t","epoch":"00","seq":0,"resumed":false}"#), shown(&Frame::Ack)),
        (message(DATA), shown(&Frame::Message(DATA.as_bytes()))),
        (vec![0x89, 0], shown(&Frame::Ping)),
        // Data whose length differs from this run's is found, too. The length of the frame takes two bytes.
        (message(&long), shown(&Frame::Message(long.as_bytes()))),
        (vec![0x8a, 1, b'x'], shown(&Frame::Other)),
        (text_frame(r#"{"type":"gap","topic":"t","epoch":"00","from":1,"to":2}"#), shown(&Frame::Other)),
        (
            text_frame(&format!("{{\"type\":\"error\",\"topic\":\"t\",\"code\":4001,{reason}")),
            refused("topic_unavailable", "no", false),
        ),
        (text_frame(&format!("{{\"type\":\"bye\",\"code\":4001,{reason}")), refused("topic_unavailable", "no", true)),
        (vec![0x88, 4, 0x03, 0xea, b'n', b'o'], refused("close 1002", "no", true)),
        (vec![0x88, 0], refused("close", "", true)),
        (
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 59\r\n\r\n\
              {\"error\":{\"code\":\"too_many_connections\",\"message\":\"later\"}}"
                .to_vec(),
            refused("too_many_connections", "later", true),
        ),
    ]
}

fn cbor() -> Vec<Sample> {
    // The conversation of `janus.v1.json`, each text in CBOR.
    let in_cbor = |(bytes, frame): Sample| {
        let Some(start) = (bytes[0] == 0x81).then(|| bytes.iter().position(|&byte| byte == b'{')).flatten() else {
            return (bytes, frame);
        };
        let text = std::str::from_utf8(&bytes[start..]).unwrap();
        let item = client::frame(text);
        let mut frame_of_item = text_frame(&"x".repeat(item.len()));
        let header = frame_of_item.len() - item.len();
        frame_of_item.truncate(header);
        frame_of_item[0] = 0x82;
        frame_of_item.extend(item);
        (frame_of_item, frame)
    };
    websocket().into_iter().map(in_cbor).collect()
}

fn sse() -> Vec<Sample> {
    let message = |data: &str| {
        let before = "{\"topic\":\"t\",\"seq\":1,\"time\":2,\"event\":\"e\",\"message_id\":\"\",\"data\":";
        format!("id: 9f.1\ndata: {before}{data}}}\n\n").into_bytes()
    };
    let reason = "\"error\":\"server_draining\",\"message\":\"no\"}";
    vec![
        (
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\
              cache-control: no-store\r\n\r\n"
                .to_vec(),
            shown(&Frame::Welcome),
        ),
        (
            // The first line comes in a chunk of its own.
            b"c\r\nretry: 2000\n\r\n2b\r\nevent: subscribed\nid: 9f.0.1\ndata: {\"seq\":0}\n\n".to_vec(),
            shown(&Frame::Ack),
        ),
        (b"\r\n1c\r\nid: 9f.1.1\ndata: {\"data\":6}\n\n".to_vec(), shown(&Frame::Message(b"6"))),
        (b"\r\nevent: gap\nid: 9f.2\n\n".to_vec(), shown(&Frame::Other)),
        (message(DATA), shown(&Frame::Message(DATA.as_bytes()))),
        (b":\n\n".to_vec(), shown(&Frame::Other)),
        // A stray blank line, and a field without a space.
        (b"\n".to_vec(), shown(&Frame::Other)),
        (b"id:9f.2\ndata:{\"data\":7}\n\n".to_vec(), shown(&Frame::Message(b"7"))),
        (message("{\"a\":1}"), shown(&Frame::Message(b"{\"a\":1}"))),
        (b"event: gap\nid: 9f.5\ndata: {\"topic\":\"t\",\"from\":3,\"to\":5}\n\n".to_vec(), shown(&Frame::Other)),
        (
            format!("event: refused\ndata: {{\"topic\":\"t\",\"code\":4002,{reason}\n\n").into_bytes(),
            refused("server_draining", "no", false),
        ),
        (
            format!("event: bye\ndata: {{\"code\":4002,{reason}\n\n").into_bytes(),
            refused("server_draining", "no", true),
        ),
        (
            b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 42\r\n\r\n\
              {\"error\":{\"code\":4403,\"message\":\"no key\"}}"
                .to_vec(),
            refused("4403", "no key", true),
        ),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n".to_vec(), refused("502 Bad Gateway", "", true)),
    ]
}

const JANUS: &[&[u8]] = &[
    b"ACK\x01",
    b"PING\x01",
    b"\x01",
    b"{\"timestamp\":[1,2,3],",
    b"\"token\":\"00\"}\x01",
    b"\"topic\":\"t\",\"event\":\"e\",\"message_id\":\"\",\"data\":",
    b"\"12345678\"}\x01",
    b"7}\x01",
    b"\"error\":{\"code\":\"bad_topic\",\"message\":\"no\"}}\x01",
];

const REDIS: &[&[u8]] = &[
    b"*3\r\n",
    b"*0\r\n",
    b"*",
    b"$7\r\nmessage\r\n",
    b"$9\r\nsubscribe\r\n",
    b"$1\r\nt\r\n",
    b"$",
    b":1\r\n",
    b"+PONG\r\n",
    b"-ERR no\r\n",
    b"-\r\n",
    b"33554432\r\n",
    b"99999999999999999999\r\n",
    b"\r\n",
];

const NATS: &[&[u8]] = &[
    b"INFO {}\r\n",
    b"MSG t 1 3\r\n",
    b"MSG t 1 33554432\r\n",
    b"MSG ",
    b"abc\r\n",
    b"PING\r\n",
    b"PONG\r\n",
    b"+OK\r\n",
    b"-ERR 'no'\r\n",
    b"-ERR",
    b"\r\n",
];

const MQTT: &[&[u8]] = &[
    b"\x20\x02\x00\x00",
    b"\x20\x02\x00\x09",
    b"\x90\x03\x00\x01\x00",
    b"\x90\x03\x00\x01\x80",
    b"\x30\x06\x00\x01tabc",
    b"\x30\x02\x00\x01",
    b"\x30",
    b"\x80\x01",
    b"\xff\xff\xff\x0f",
    b"\xd0\x00",
];

const WEBSOCKET: &[&[u8]] = &[
    b"HTTP/1.1 101 OK\r\n",
    b"HTTP/1.1 403 No\r\n",
    b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n",
    b"content-length: 3\r\n",
    b"\r\n",
    b"\x81\x13{\"data\":\"12345678\"}",
    b"\x81\x7e\x00\x13{\"data\":\"12345678\"}",
    b"\x81\x7f\x00\x00\x00\x00\x00\x00\x00\x02{}",
    b"\x81\x7f\x00\x00\x00\x00\x02\x00\x00\x01",
    b"\x81\x1b{\"type\":\"message\",\"data\":7}",
    b"\x81\x15{\"type\":\"subscribed\"}",
    b"\x81",
    b"\x88\x02\x03\xe8",
    b"\x89\x00",
    b"\x8a\x7e",
    b"\x82\x01x",
];

const CBOR: &[&[u8]] = &[
    b"HTTP/1.1 101 OK\r\n",
    b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n",
    b"\r\n",
    b"\x82\x11\xa1\x64data\x6a\"12345678\"",
    b"\x82\x1e\xa2\x64type\x67message\x64data\x6a\"12345678\"",
    b"\x82\x15\xa2\x64type\x67message\x64data\x617",
    b"\x82\x16\xa2\x64type\x67message\x64data\x42\x00\xff",
    b"\x82\x11\xa1\x64type\x6asubscribed",
    b"\x82\x7f\x00\x00\x00\x00\x02\x00\x00\x01",
    b"\x82",
    b"\x88\x02\x03\xe8",
    b"\x89\x00",
    b"\x8a\x7e",
    b"\x81\x01x",
];

const SSE: &[&[u8]] = &[
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 403 No\r\n",
    b"content-type: text/event-stream\r\n",
    b"content-length: 3\r\n",
    b"\r\n",
    b"\n",
    b"id: 1\n",
    b"data: {\"data\":\"12345678\"}\n",
    b"data: {\"data\":7}\n",
    b"data: {\"error\":\"bad_topic\",\"message\":\"no\"}\n",
    b"event: refused\n",
    b"event: subscribed\n",
    b"event: gap\n",
    b":\n\n",
    b"retry: 7\n",
    b"other: 7\n",
];
