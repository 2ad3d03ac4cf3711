//! A client of the classic protocol, for other listeners of this protocol.

use super::super::{ClientFormat, Reader, ResumePoint, Seen};
use crate::wire::classic::client::{self, ServerDecoder, ServerFrame};

/// A client of the classic protocol ([`Classic`](crate::wire::classic::Classic)).
#[derive(Clone, Copy, Debug, Default)]
pub struct ClassicClient;

impl ClientFormat for ClassicClient {
    fn subscribe(&self, topic: &str) -> Vec<u8> {
        client::subscribe(topic)
    }

    fn unsubscribe(&self, topic: &str) -> Option<Vec<u8>> {
        Some(client::unsubscribe(topic))
    }

    fn publish(&self, topic: &str, data: &str) -> Option<Vec<u8>> {
        Some(client::publish_with_ack(topic, "\"\"", "\"\"", data))
    }

    fn resume(&self, place: &ResumePoint) -> Option<Vec<u8>> {
        Some(client::attach(place.session.as_deref()?, [(&*place.topic, place.received)]))
    }

    fn reader(&self) -> Box<dyn Reader> {
        let mut decoder = ServerDecoder::new();
        Box::new(move |mut input: &[u8], seen: &mut Vec<Seen>| {
            while let Some(frame) = decoder.decode(&mut input) {
                understand(frame, seen);
            }
        })
    }

    fn garbage(&self) -> Vec<Vec<u8>> {
        let texts: [&[u8]; 8] = [
            b"{\"action\":\"subscribe\",\"data\":\0",
            b"{\"action\":\"subscribe\"}\0",
            b"{\"action\":\"dance\",\"data\":\"news\"}\0",
            b"{\"action\":\"subscribe\",\"data\":\"a\",\"data\":\"b\"}\0",
            b"{\"action\":\"attach\",\"data\":{\"token\":5}}\0",
            b"\xff\xfe\0",
            b"PUBLISH\0news\0",
            b"GET / HTTP/1.1\r\n\r\n\0",
        ];
        texts.map(<[u8]>::to_vec).into()
    }
}

fn understand(frame: ServerFrame<'_>, seen: &mut Vec<Seen>) {
    seen.push(match frame {
        ServerFrame::Greeting { token } => Seen::Opened { session: Some(token.into_owned()) },
        ServerFrame::Ack => Seen::subscribed(),
        ServerFrame::Message { topic, data, .. } => Seen::message(topic, None, data),
        ServerFrame::Error { code, .. } => Seen::Error { code: code.into_owned() },
        ServerFrame::Ping
        | ServerFrame::Published { .. }
        | ServerFrame::Assigned { .. }
        | ServerFrame::Refreshed { .. } => Seen::Other,
        ServerFrame::Attached { topics, token } => {
            seen.push(Seen::Opened { session: Some(token.into_owned()) });
            seen.extend(topics.iter().map(|(_, missed)| Seen::subscribed().resumed(missed.is_some())));
            return;
        }
        ServerFrame::Unknown(bytes) => Seen::Unknown(String::from_utf8_lossy(bytes).into_owned()),
        ServerFrame::TooLarge => Seen::Unknown("a frame without an end".to_owned()),
    });
}
