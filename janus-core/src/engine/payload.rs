//! The messages of a record as text.
//!
//! For each message a line with three lengths, and then the texts: `LEN LEN LEN\n EVENT MESSAGE_ID DATA`, without the
//! blanks. The texts are the publisher's JSON, carried and not parsed. The topic is not part of the text.
//!
//! Messages of bytes, and messages that one client does not get, came later. A text with such a message is of form 2: it
//! begins with the line `2`, and behind the lengths of a message there may be the word `bytes`, for bytes as they are in
//! place of the data, and `!CLIENT`, which names the client that does not get the message. Any other text is of form 1, which
//! earlier releases read.

use bytes::{BufMut, Bytes, BytesMut};

use crate::wire::{Base64, Publication, TopicName, put_decimal};

/// The beginning of a text of form 2. No text of form 1 has a line with a single number.
const FORM_2: &[u8] = b"2\n";

/// Marks a message of bytes.
const BYTES: &str = " bytes";

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
        let mut is_form_2 = false;
        for message in messages {
            let parts = [message.event(), message.message_id(), message.data()];
            let excluded = message.excluded();
            if !is_form_2 && (message.base64().is_some() || excluded.is_some()) {
                is_form_2 = true;
                let before = text.split();
                text.reserve(FORM_2.len() + before.len());
                text.put_slice(FORM_2);
                text.put_slice(&before);
            }
            let base64 = message.base64();
            let payload = base64.map_or(parts[2].len(), Base64::len);
            for (length, end) in [parts[0].len(), parts[1].len(), payload].into_iter().zip([&b" "[..], b" ", b""]) {
                put_decimal(&mut text, length as u64);
                text.put_slice(end);
            }
            if base64.is_some() {
                text.put_slice(BYTES.as_bytes());
            }
            if let Some(client) = excluded {
                text.put_slice(format!(" !{client}").as_bytes());
            }
            text.put_u8(b'\n');
            parts[..2].iter().for_each(|part| text.put_slice(part.as_bytes()));
            match base64 {
                Some(base64) => base64.put(&mut text),
                None => text.put_slice(parts[2].as_bytes()),
            }
        }
        Self(text.freeze())
    }

    /// The form of the text, 1 or 2: an engine between releases marks a record by the form that its reader must know.
    #[must_use]
    pub fn form(&self) -> u8 {
        if self.0.starts_with(FORM_2) { 2 } else { 1 }
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
        let mut rest = self.0.strip_prefix(FORM_2).unwrap_or(&self.0);
        let is_form_2 = self.form() == 2;
        let mut messages = Vec::new();
        while !rest.is_empty() {
            let (message, behind) = next(topic, rest, is_form_2).ok_or(error)?;
            messages.push(message);
            rest = behind;
        }
        if messages.len() as u64 == count { Ok(messages) } else { Err(error) }
    }
}

/// Takes the next message from the beginning of a text.
fn next<'a>(topic: &TopicName, text: &'a [u8], is_form_2: bool) -> Option<(Publication, &'a [u8])> {
    let end = text.iter().position(|byte| *byte == b'\n')?;
    let (line, mut rest) = (str::from_utf8(&text[..end]).ok()?, &text[end + 1..]);
    let (line, excluded) = match line.split_once(" !") {
        Some((line, client)) if is_form_2 => (line, Some(client.parse().ok()?)),
        _ => (line, None),
    };
    let (line, is_bytes) = match line.strip_suffix(BYTES) {
        Some(line) if is_form_2 => (line, true),
        _ => (line, false),
    };
    let mut lengths = line.split(' ').map(str::parse::<usize>);
    let mut part = || {
        let (part, behind) = rest.split_at_checked(lengths.next()?.ok()?)?;
        rest = behind;
        Some(part)
    };
    let (event, message_id, data) = (part()?, part()?, part()?);
    let (event, message_id) = (str::from_utf8(event).ok()?, str::from_utf8(message_id).ok()?);
    // The text becomes part of frames, where half a JSON value would break the protocol of every subscriber.
    let message = if is_bytes {
        Publication::of_bytes(topic, event, message_id, data)
    } else {
        Publication::new(topic, event, message_id, str::from_utf8(data).ok()?)
    };
    let message = match excluded {
        Some(client) => message.ok()?.excluding(client),
        None => message.ok()?,
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
        assert_eq!(Payload::of([&excluding]).form(), 2);
        let bytes = Publication::of_bytes(&topic(), "1", "2", b"\n").unwrap().excluding(ClientId::new(3, 4));
        assert_eq!(Payload::of([&bytes]).bytes(), &b"2\n1 1 1 bytes !3.4\n12\n"[..]);
        let messages = [message("\"one\""), excluding, bytes, message("3")];
        let payload = Payload::of(&messages);
        assert_eq!(payload.messages(&topic(), 4).unwrap(), messages);
        assert_eq!(Payload::of([]).messages(&topic(), 0), Ok(Vec::new()));
    }

    #[test]
    fn bytes_are_in_the_text_as_they_are_and_other_messages_as_ever() {
        let bytes = |bytes: &[u8]| Publication::of_bytes(&topic(), "1", "2", bytes).unwrap();
        let messages = [message("\"one\""), bytes(b"\0\xff\n"), message("3"), bytes(b"")];
        let payload = Payload::of(&messages);
        let text = [
            &b"2\n"[..],
            Payload::of([&messages[0]]).bytes(),
            b"1 1 3 bytes\n12\0\xff\n",
            Payload::of([&messages[2]]).bytes(),
            b"1 1 0 bytes\n12",
        ]
        .concat();
        assert_eq!((&payload.bytes()[..], payload.form()), (&text[..], 2));
        assert_eq!(payload.messages(&topic(), 4).unwrap(), messages);
        assert_eq!(Payload::of([&messages[0], &messages[2]]).form(), 1, "earlier releases read it");
        for bad in
            [&b"1 1 3 bytes\n12\0\xff\n"[..], b"2\n1 1 3 byte\n12abc", b"2\n1 1 9 bytes\n12abc", b"2\n1 1 1 bytes\nx21"]
        {
            let payload = Payload::from_bytes(Bytes::from_static(bad));
            assert_eq!(payload.messages(&topic(), 1), Err(PayloadError { expected: 1 }), "{bad:?}");
        }
    }

    #[test]
    fn a_text_of_other_messages_is_refused() {
        let good = Payload::of([&message("1")]);
        assert_eq!(good.messages(&topic(), 2), Err(PayloadError { expected: 2 }));
        let bad = [
            "1 1 1 !1.2\n123",
            "2\n1 1 1 !1\n123",
            "2\n1 1 1 !1.2 \n123",
            "2\n1 1 1 !1.2 bytes\n123",
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
