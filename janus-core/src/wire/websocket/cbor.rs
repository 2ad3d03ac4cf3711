//! `janus.v1.cbor` as the protocol of a WebSocket: each message is binary, with one frame of the protocol.

use super::messages::{ClientMessage, MessageWriter};
use super::protocol::{MessageDecoder, MessageProtocol, Reading, Takes};
use crate::wire::{Command, FrameError, HttpRequest, ServerEvent, Timestamp, cbor, v1};

/// The protocol [`janus.v1.cbor`](crate::wire::cbor).
#[derive(Clone, Copy, Debug, Default)]
pub struct Cbor;

impl MessageProtocol for Cbor {
    type Decoder = CborDecoder;

    fn name(&self) -> &'static str {
        "cbor"
    }

    fn subprotocols(&self) -> &'static [&'static str] {
        &[cbor::SUBPROTOCOL]
    }

    fn decoder(&self, _: Option<&HttpRequest>) -> CborDecoder {
        CborDecoder::default()
    }

    #[inline]
    fn encode(&self, event: &ServerEvent<'_>, _: &Timestamp, out: &mut MessageWriter<'_>) {
        out.binary_with(|out| cbor::encode(event, out));
    }

    fn refreshes(&self) -> bool {
        true
    }
}

/// The decoder of [`Cbor`].
#[derive(Debug, Default)]
pub struct CborDecoder {
    /// Whether the `hello` has come. All else lasts for one read.
    opened: bool,
}

impl MessageDecoder for CborDecoder {
    type Scratch = v1::RequestDecoder;

    const TAKES: Takes = Takes::Binary;

    fn decode(
        &mut self,
        message: &mut ClientMessage<'_>,
        reading: &mut Reading<'_, v1::RequestDecoder>,
    ) -> Option<Result<Command, FrameError>> {
        let Reading { limits, scratch: requests, .. } = reading;
        requests.continue_from(self.opened);
        let request = cbor::decode(requests, message.bytes(), limits);
        self.opened = requests.is_opened();
        Some(request.map(|request| match request {
            v1::Request::Command(command) => command,
            v1::Request::Ping => Command::Answer(MessageWriter::bytes(|out| out.binary(cbor::PONG))),
        }))
    }
}
