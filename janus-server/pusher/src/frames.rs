//! The messages of the server: `{"event":…,"channel":…,"data":…}`, in which the data is a string of JSON.

use std::io::{self, Write};

use janus_core::wire::BytesMut;
use janus_core::wire::websocket::{Close, MessageWriter};

use crate::data::put_text;
use crate::numbers::Number;

/// Bytes as a destination of `serde_json`.
pub(crate) struct Out<'o>(pub(crate) &'o mut BytesMut);

impl Write for Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A message with this event, whose data is this JSON text.
pub(crate) fn message(out: &mut MessageWriter<'_>, event: &str, channel: Option<&str>, data: &str) {
    out.text_with(|out| {
        out.extend_from_slice(b"{\"event\":");
        put_text(&mut Out(out), event);
        if let Some(channel) = channel {
            out.extend_from_slice(b",\"channel\":");
            put_text(&mut Out(out), channel);
        }
        out.extend_from_slice(b",\"data\":");
        put_text(&mut Out(out), data);
        out.extend_from_slice(b"}");
    });
}

/// The answer to a ping.
pub(crate) fn pong(out: &mut MessageWriter<'_>) {
    message(out, "pusher:pong", None, "{}");
}

/// An error of the connection. Unlike all other data, this data is an object, as with Pusher.
pub(crate) fn error(out: &mut MessageWriter<'_>, number: Option<Number>, text: &str) {
    let data = serde_json::json!({ "code": number, "message": text });
    out.text(&serde_json::json!({ "event": "pusher:error", "data": data }).to_string());
}

/// The refusal of a subscription.
pub(crate) fn subscription_error(out: &mut MessageWriter<'_>, channel: &str, kind: &str, status: u16, text: &str) {
    let data = serde_json::json!({ "type": kind, "error": text, "status": status }).to_string();
    message(out, "pusher:subscription_error", Some(channel), &data);
}

/// The farewell, and the close frame.
pub(crate) fn farewell(out: &mut MessageWriter<'_>, number: Number, text: &str) {
    error(out, Some(number), text);
    out.close(&Close { code: number, reason: text.into() });
}
