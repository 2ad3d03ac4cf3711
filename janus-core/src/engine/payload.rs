//! The messages of a record as text.
//!
//! For each message a line with three lengths, and then the texts: `LEN LEN LEN\n EVENT MESSAGE_ID DATA`, without the
//! blanks. A fourth member of the line, `!CLIENT`, names the client that does not get the message. The texts are the publisher's JSON, carried and not parsed. The topic is not part of the text.

use bytes::{BufMut, Bytes, BytesMut};

use crate::wire::{Publication, TopicName, put_decimal};

/// The messages of a submission, or of a record.
///
/// ```
/// use janus_core::engine::Payload;
/// use janus_core::wire::{Publication, TopicName};
///
/// let topic = TopicName::new("news", 255)?;
/// let message = Publication::new(&topic, r#""greeting""#, "1", r#"{"hello":"world"}"#)?;
/// let payload = Payload::of([&message]);
/// assert_eq!(payload.bytes(), b"10 1 17\n\"greeting\"1{\"hello\":\"world\"}" as &[u8]);
/// assert_eq!(payload.messages(&topic, 1)?, [message]);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload(Bytes);

/// A text that is not the payload of this many messages. An engine that hands such a text out is broken, or was written to
/// by another program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record is not the text of {expected} messages")]
pub struct PayloadError {
    /// The messages that should be there.
    pub expected: u64,
}

impl Payload {
    /// The text of these messages.
    pub fn of<'a>(messages: impl IntoIterator<Item = &'a Publication>) -> Self {
        let mut text = BytesMut::new();
        for message in messages {
            let parts = [message.event(), message.message_id(), message.data()];
            for (part, end) in parts.iter().zip([&b" "[..], b" ", b""]) {
                put_decimal(&mut text, part.len() as u64);
                text.put_slice(end);
            }
            if let Some(client) = message.excluded() {
                text.put_slice(format!(" !{client}").as_bytes());
            }
            text.put_u8(b'\n');
            parts.iter().for_each(|part| text.put_slice(part.as_bytes()));
        }
        Self(text.freeze())
    }

    /// A text that has come from an engine. Checked by [`messages`](Self::messages) only.
    #[must_use]
    pub fn from_bytes(text: Bytes) -> Self {
        Self(text)
    }

    /// The text.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    /// The `count` messages of the text.
    ///
    /// # Errors
    ///
    /// The text is not that of `count` messages.
    pub fn messages(&self, topic: &TopicName, count: u64) -> Result<Vec<Publication>, PayloadError> {
        let error = PayloadError { expected: count };
        let mut rest = str::from_utf8(&self.0).map_err(|_| error)?;
        let mut messages = Vec::new();
        while !rest.is_empty() {
            let (message, behind) = next(topic, rest).ok_or(error)?;
            messages.push(message);
            rest = behind;
        }
        if messages.len() as u64 == count { Ok(messages) } else { Err(error) }
    }
}

fn next<'a>(topic: &TopicName, text: &'a str) -> Option<(Publication, &'a str)> {
    let (line, mut rest) = text.split_once('\n')?;
    let (lengths, excluded) = match line.split_once(" !") {
        Some((lengths, client)) => (lengths, Some(client.parse().ok()?)),
        None => (line, None),
    };
    let mut lengths = lengths.split(' ').map(str::parse::<usize>);
    let mut part = || {
        let (part, behind) = rest.split_at_checked(lengths.next()?.ok()?)?;
        rest = behind;
        Some(part)
    };
    let (event, message_id, data) = (part()?, part()?, part()?);
    // The text becomes part of frames, where half a JSON value would break the protocol of every subscriber.
    let message = Publication::new(topic, event, message_id, data).ok()?;
    let message = match excluded {
        Some(client) => message.excluding(client),
        None => message,
    };
    lengths.next().is_none().then_some((message, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ClientId;

    fn topic() -> TopicName {
        TopicName::new("news", 255).unwrap()
    }

    fn message(data: &str) -> Publication {
        Publication::new(&topic(), "\"é\"", "2", data).unwrap()
    }

    #[test]
    fn messages_come_back_from_their_text() {
        let excluding = message("{\n}").excluding(ClientId::new(1, 2));
        let messages = [message("\"one\""), excluding, message("3")];
        let payload = Payload::of(&messages);
        assert_eq!(payload.messages(&topic(), 3).unwrap(), messages);
        assert_eq!(Payload::of([]).messages(&topic(), 0), Ok(Vec::new()));
    }

    #[test]
    fn a_text_of_other_messages_is_refused() {
        let good = Payload::of([&message("1")]);
        assert_eq!(good.messages(&topic(), 2), Err(PayloadError { expected: 2 }));
        let bad = [
            "1 1 1 !1\n123",
            "1 1 1 !1.2 \n123",
            "1 1 1\n",
            "1 1\n123",
            "1 1 1 1\n1234",
            "-1 1 1\n123",
            "1 1 1\n12x",
            "9999 1 1\n123",
            "1 1 1\n123\n",
        ];
        for text in bad {
            let payload = Payload::from_bytes(Bytes::from_static(text.as_bytes()));
            assert_eq!(payload.messages(&topic(), 1), Err(PayloadError { expected: 1 }), "{text:?}");
        }
        assert!(Payload::from_bytes(Bytes::from_static(b"1 1 1\n1\xff1")).messages(&topic(), 1).is_err());
    }
}
