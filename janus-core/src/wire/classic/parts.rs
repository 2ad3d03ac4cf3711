//! A published message taken apart again, to be encoded for another protocol or handed to a program.

use super::super::json::Reader;
use super::parse_timestamp;
use crate::wire::Timestamp;
use crate::wire::publication::BARE;

/// A published message, each part the publisher's JSON text; for the data of a message of bytes see
/// [`json_and_base64`](crate::wire::json_and_base64).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MessageParts<'a> {
    pub(crate) timestamp: Timestamp,
    pub(crate) event: &'a str,
    pub(crate) message_id: &'a str,
    pub(crate) data: &'a str,
}

impl<'a> MessageParts<'a> {
    /// Takes apart a frame written by [`encode_message`](super::encode_message), with its terminator. For a frame of another
    /// writer the result may be `None` or nonsense: keys are assumed at their usual places, and the data, most of a message,
    /// is not checked.
    pub(crate) fn of(frame: &'a [u8]) -> Option<Self> {
        Run::default().next(frame)
    }
}

/// Takes apart the frames of a topic one after the other. Frames numbered together have the same beginning, up to the event,
/// and most of them have neither event nor id, so only a few bytes of most frames are read as JSON.
#[derive(Default)]
pub(crate) struct Run<'a> {
    /// The last frame up to its event.
    head: &'a str,
    timestamp: Timestamp,
}

impl<'a> Run<'a> {
    /// Takes apart the next frame, as [`MessageParts::of`].
    pub(crate) fn next(&mut self, frame: &'a [u8]) -> Option<MessageParts<'a>> {
        let text = str::from_utf8(frame.strip_suffix(b"}\x01")?).ok()?;
        let rest = match text.strip_prefix(self.head) {
            Some(rest) if !self.head.is_empty() => rest,
            _ => self.begin(text)?,
        };
        let timestamp = self.timestamp;
        if let Some(data) = rest.strip_prefix(BARE) {
            // Of the frame, and not of `BARE`: a reader may keep the parts, and the frame with them.
            return Some(MessageParts { timestamp, event: &rest[9..11], message_id: &rest[25..27], data });
        }
        let (event, rest) = member(rest, ",\"event\":")?;
        let (message_id, rest) = member(rest, ",\"message_id\":")?;
        Some(MessageParts { timestamp, event, message_id, data: rest.strip_prefix(",\"data\":")? })
    }

    /// Reads the beginning of a frame; returns the rest, from the event on.
    fn begin(&mut self, text: &'a str) -> Option<&'a str> {
        let (timestamp, rest) = member(text, "{\"timestamp\":")?;
        let (_, rest) = member(rest, ",\"topic\":")?;
        self.timestamp = parse_timestamp(timestamp)?;
        self.head = &text[..text.len() - rest.len()];
        Some(rest)
    }
}

/// The value of the member with this key at the start of a text, and the text after it.
fn member<'a>(text: &'a str, key: &str) -> Option<(&'a str, &'a str)> {
    let mut reader = Reader::new(text.strip_prefix(key)?);
    let value = reader.value().ok()?;
    Some((value, reader.rest()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_with_another_time_or_topic_are_read_afresh() {
        let frame = |micro: u32, topic: &str, rest: &str| {
            format!("{{\"timestamp\":[1,2,{micro}],\"topic\":\"{topic}\",{rest}}}\x01").into_bytes()
        };
        let frames = [
            frame(3, "t", r#""event":"","message_id":"","data":1"#),
            frame(3, "t", r#""event":"e","message_id":2,"data":{"a":[]}"#),
            frame(4, "t", r#""event":"","message_id":"","data":"x""#),
            frame(4, r#"t\",\\"#, r#""event":"","message_id":"","data":5"#),
        ];
        let mut run = Run::default();
        for frame in &frames {
            let parts = run.next(frame).unwrap();
            assert_eq!(MessageParts::of(frame), Some(parts));
            for part in [parts.event, parts.message_id, parts.data] {
                let (frame, part) = (frame.as_ptr_range(), part.as_bytes().as_ptr_range());
                assert!(frame.start <= part.start && part.end <= frame.end, "a part of the frame itself");
            }
        }
        assert_eq!(run.next(b"{\"timestamp\":[1,2,4],\"topic\":\"u\"}\x01"), None);
    }
}
