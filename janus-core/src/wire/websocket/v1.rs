//! `janus.v1.json` as the protocol of a WebSocket: each message is a text with one frame of the protocol.

use super::messages::{ClientMessage, MessageWriter};
use super::protocol::{MessageDecoder, MessageProtocol, Reading};
use crate::wire::{Command, FrameError, HttpRequest, ServerEvent, Timestamp, v1};

/// The subprotocol of the messages.
pub const SUBPROTOCOL: &str = "janus.v1.json";

/// The protocol [`janus.v1.json`](crate::wire::v1).
#[derive(Clone, Copy, Debug, Default)]
pub struct V1;

impl MessageProtocol for V1 {
    type Decoder = V1Decoder;

    fn name(&self) -> &'static str {
        "websocket"
    }

    fn subprotocols(&self) -> &'static [&'static str] {
        &[SUBPROTOCOL]
    }

    fn decoder(&self, _: Option<&HttpRequest>) -> V1Decoder {
        V1Decoder::default()
    }

    #[inline]
    fn encode(&self, event: &ServerEvent<'_>, _: &Timestamp, out: &mut MessageWriter<'_>) {
        out.text_with(|out| v1::encode(event, out));
    }

    fn refreshes(&self) -> bool {
        true
    }
}

/// The decoder of [`V1`].
#[derive(Debug, Default)]
pub struct V1Decoder {
    /// Whether the `hello` has come. All else lasts for one read.
    opened: bool,
}

impl MessageDecoder for V1Decoder {
    type Scratch = v1::RequestDecoder;

    #[inline]
    fn decode(
        &mut self,
        message: &mut ClientMessage<'_>,
        reading: &mut Reading<'_, v1::RequestDecoder>,
    ) -> Option<Result<Command, FrameError>> {
        let Reading { limits, more, scratch: requests } = reading;
        let text = message.text();
        if let Some(command) = requests.repeated(text, *more) {
            return Some(Ok(command));
        }
        requests.continue_from(self.opened);
        let request = requests.decode_afresh(text, *more, limits);
        self.opened = requests.is_opened();
        Some(request.map(|request| match request {
            v1::Request::Command(command) => command,
            v1::Request::Ping => Command::Answer(MessageWriter::bytes(|out| out.text(v1::PONG))),
        }))
    }
}
