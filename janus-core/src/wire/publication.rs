//! A publisher's message, kept in its original text.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

use super::base64::{self, Base64};
use super::json::{self, JsonError};
use super::{ClientId, IdempotencyKey, TopicName};

/// A message before it has its place in a topic's order: JSON text or bytes, carried and never re-encoded.
///
/// The text is laid out in advance as the end of a classic frame, `"topic":T,"event":E,"message_id":I,"data":D}\x01`,
/// so that a topic prepends the timestamp and copies once. Digits, escapes and white space inside E, I and D are the
/// publisher's; T is the topic's name as written by `serde_json`, so that equal topics are equal bytes. A clone shares
/// the text.
///
/// A payload of bytes stands in the same text as `"data":null,"data_base64":"…"`: a message of bytes costs a third more
/// memory than its bytes, and a message of JSON costs nothing for the difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    tail: Bytes,
    /// The end of T in `tail`; T starts after `"topic":`. Likewise for the fields below.
    topic_end: usize,
    event_end: usize,
    message_id_end: usize,
    /// In a box, because few publishers say anything.
    handling: Option<Box<Handling>>,
}

/// What a publisher says about a message besides its text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Handling {
    /// The key against repetitions.
    pub(crate) key: Option<IdempotencyKey>,
    /// The one client that does not get the message.
    pub(crate) excluded: Option<ClientId>,
}

const TOPIC: &[u8] = b"\"topic\":";
const EVENT: &[u8] = b",\"event\":";
const MESSAGE_ID: &[u8] = b",\"message_id\":";
const DATA: &[u8] = b",\"data\":";
const END: &[u8] = b"}\x01";

/// The event or the id of a message without one.
pub(super) const EMPTY: &str = "\"\"";

/// What a publisher that names neither event nor id leaves between topic and data: most publishers do.
pub(super) const BARE: &str = ",\"event\":\"\",\"message_id\":\"\",\"data\":";

/// The beginning of the data of a message of bytes. No JSON value begins so.
const BYTES: &str = "null,\"data_base64\":\"";

/// The bytes in the kept data of a message; `None` for data that are JSON.
#[inline]
pub(crate) fn base64_of(data: &str) -> Option<Base64<'_>> {
    let text = data.strip_prefix(BYTES)?.strip_suffix('"')?;
    Some(Base64::of_checked(text))
}

/// The kept data of a message as readers see them: the JSON text, `null` for bytes, and the bytes.
#[inline]
pub(crate) fn json_and_base64(data: &str) -> (&str, Option<Base64<'_>>) {
    match base64_of(data) {
        // Of the data, and not a constant: a reader may keep the text, and the message with it.
        Some(base64) => (&data[..4], Some(base64)),
        None => (data, None),
    }
}

/// The data of a message of bytes, from text that is base64.
pub(super) fn data_of_base64(text: Base64<'_>) -> String {
    [BYTES, text.as_str(), "\""].concat()
}

/// The data of a message of bytes.
pub(crate) fn data_of_bytes(bytes: &[u8]) -> String {
    let mut data = String::with_capacity(BYTES.len() + bytes.len().div_ceil(3) * 4 + 1);
    data.push_str(BYTES);
    base64::put_base64(&mut data, bytes);
    data.push('"');
    data
}

/// A part of a publication is not JSON; the publisher is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{part}\" must be one JSON value")]
pub struct PublicationError {
    /// `event`, `message_id` or `data`.
    pub part: &'static str,
    /// Where the part stops being JSON.
    pub source: JsonError,
}

impl Publication {
    /// Lays out a message from its parts, each the text of a JSON value.
    ///
    /// ```
    /// use janus_core::wire::{Publication, TopicName};
    ///
    /// let topic = TopicName::new("events", 255)?;
    /// let publication = Publication::new(&topic, r#""greeting""#, "1", r#"{"price":1.50}"#)?;
    /// assert_eq!(publication.data(), r#"{"price":1.50}"#);
    /// assert!(Publication::new(&topic, "greeting", "1", "null").is_err());
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The first part that is not a single JSON value by RFC 8259.
    pub fn new(topic: &TopicName, event: &str, message_id: &str, data: &str) -> Result<Self, PublicationError> {
        let check = |part, text| json::one_value(text).map_err(|source| PublicationError { part, source });
        let parts = Parts {
            event: check("event", event)?,
            message_id: check("message_id", message_id)?,
            data: Self::check_data(data)?,
        };
        Ok(Self::lay_out(topic, &parts))
    }

    /// Lays out a message whose payload is bytes. Event and message id are the text of a JSON value, as in
    /// [`new`](Self::new).
    ///
    /// ```
    /// use janus_core::wire::{Publication, TopicName};
    ///
    /// let topic = TopicName::new("frames", 255)?;
    /// let publication = Publication::of_bytes(&topic, r#""frame""#, "1", b"\x00\xff")?;
    /// assert_eq!(publication.base64().map(|payload| payload.decode()), Some(vec![0x00, 0xff]));
    /// assert_eq!(publication.data(), "null");
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The event or the message id is not a single JSON value by RFC 8259.
    pub fn of_bytes(topic: &TopicName, event: &str, message_id: &str, bytes: &[u8]) -> Result<Self, PublicationError> {
        let check = |part, text| json::one_value(text).map_err(|source| PublicationError { part, source });
        let (event, message_id) = (check("event", event)?, check("message_id", message_id)?);
        Ok(Self::lay_out(topic, &Parts { event, message_id, data: &data_of_bytes(bytes) }))
    }

    /// As [`new`](Self::new), for checked parts without surrounding white space. The data may be those of
    /// [`data_of_bytes`].
    pub(crate) fn of_checked(topic: &TopicName, event: &str, message_id: &str, data: &str) -> Self {
        Self::lay_out(topic, &Parts { event, message_id, data })
    }

    /// Checks that a text is a single JSON value, and returns the value without surrounding white space.
    pub(crate) fn check_data(text: &str) -> Result<&str, PublicationError> {
        json::one_value(text).map_err(|source| PublicationError { part: "data", source })
    }

    pub(super) fn lay_out(topic: &TopicName, parts: &Parts<'_>) -> Self {
        let mut tail = Vec::with_capacity(TOPIC.len() + topic.as_str().len() + 2 + parts.len());
        put_topic(&mut tail, topic);
        let topic_end = tail.len();
        parts.write(&mut tail);
        Self::of_tail(tail.into(), topic_end, parts)
    }

    /// A publication with this tail, written by [`put_topic`] up to `topic_end` and by [`Parts::write`] from there on.
    pub(super) fn of_tail(tail: Bytes, topic_end: usize, parts: &Parts<'_>) -> Self {
        debug_assert_eq!(topic_end + parts.len(), tail.len());
        let event_end = topic_end + EVENT.len() + parts.event.len();
        let message_id_end = event_end + MESSAGE_ID.len() + parts.message_id.len();
        Self { tail, topic_end, event_end, message_id_end, handling: None }
    }

    /// The same message with other data, checked and without surrounding white space. `room` finds shared memory for this
    /// many bytes; without such memory the message gets memory of its own.
    #[inline]
    pub(super) fn with_data<'b>(&self, data: &str, room: impl FnOnce(usize) -> Option<&'b mut BytesMut>) -> Self {
        let head = &self.tail[..self.message_id_end + DATA.len()];
        let length = head.len() + data.len() + END.len();
        let write = |out: &mut BytesMut| {
            for part in [head, data.as_bytes(), END] {
                out.put_slice(part);
            }
            out.split().freeze()
        };
        let tail = room(length).map_or_else(|| write(&mut BytesMut::with_capacity(length)), write);
        let Self { topic_end, event_end, message_id_end, .. } = *self;
        Self { tail, topic_end, event_end, message_id_end, handling: None }
    }

    /// The topic's name as a JSON string.
    #[must_use]
    pub fn topic_json(&self) -> &str {
        self.part(TOPIC.len()..self.topic_end)
    }

    /// The event, in the publisher's text.
    #[must_use]
    pub fn event(&self) -> &str {
        self.part(self.topic_end + EVENT.len()..self.event_end)
    }

    /// The message's identifier, in the publisher's text.
    #[must_use]
    pub fn message_id(&self) -> &str {
        self.part(self.event_end + MESSAGE_ID.len()..self.message_id_end)
    }

    /// The data, in the publisher's text; `null` if the payload is bytes.
    #[must_use]
    pub fn data(&self) -> &str {
        json_and_base64(self.kept_data()).0
    }

    /// The payload, if it is bytes.
    #[must_use]
    pub fn base64(&self) -> Option<Base64<'_>> {
        base64_of(self.kept_data())
    }

    fn kept_data(&self) -> &str {
        self.part(self.message_id_end + DATA.len()..self.tail.len() - END.len())
    }

    /// The same message with a key against repetitions.
    #[must_use]
    pub fn with_key(self, key: IdempotencyKey) -> Self {
        self.handled(|handling| handling.key = Some(key))
    }

    /// The key against repetitions, if the publisher has given one.
    #[must_use]
    pub fn key(&self) -> Option<&IdempotencyKey> {
        self.handling.as_ref()?.key.as_ref()
    }

    /// The same message, not to be delivered to this client: mostly its sender, which has shown the message already.
    ///
    /// The connection of this name does not get the message, on whichever node of a cluster. Its number is left out of what the
    /// connection receives, and is no gap. A client that comes back over a new connection, and a reader of the history, find
    /// the message like any other.
    #[must_use]
    pub fn excluding(self, client: ClientId) -> Self {
        self.handled(|handling| handling.excluded = Some(client))
    }

    /// The client that does not get the message.
    #[must_use]
    #[inline]
    pub fn excluded(&self) -> Option<ClientId> {
        self.handling.as_ref()?.excluded
    }

    /// The same message, handled like this.
    pub(crate) fn with_handling(self, handling: Option<Box<Handling>>) -> Self {
        Self { handling, ..self }
    }

    fn handled(mut self, handle: impl FnOnce(&mut Handling)) -> Self {
        handle(self.handling.get_or_insert_default());
        self
    }

    /// Bytes of the kept text, nearly the length of a frame.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a publication is never empty")]
    pub fn len(&self) -> usize {
        self.tail.len()
    }

    /// As [`len`](Self::len), with a payload of bytes counted as it is: the length that limits of a message count.
    #[must_use]
    pub(crate) fn payload_len(&self) -> usize {
        let growth = self.base64().map_or(0, |base64| base64.as_str().len() - base64.len());
        self.len() - growth
    }

    /// The end of a classic frame, from `"topic"` to the terminator.
    pub(super) fn classic_tail(&self) -> &[u8] {
        &self.tail
    }

    fn part(&self, range: Range<usize>) -> &str {
        str::from_utf8(&self.tail[range]).expect("every part was text when it was written")
    }
}

/// The parts of a publication except its topic, each the checked text of a JSON value, or for the data those of bytes.
pub(super) struct Parts<'a> {
    pub(super) event: &'a str,
    pub(super) message_id: &'a str,
    pub(super) data: &'a str,
}

impl Parts<'_> {
    /// Bytes of what [`write`](Self::write) appends.
    pub(super) fn len(&self) -> usize {
        let keys = EVENT.len() + MESSAGE_ID.len() + DATA.len();
        keys + self.event.len() + self.message_id.len() + self.data.len() + END.len()
    }

    /// Appends what follows the topic.
    pub(super) fn write(&self, out: &mut impl BufMut) {
        put_event_and_id(out, self.event, self.message_id);
        out.put_slice(self.data.as_bytes());
        out.put_slice(END);
    }
}

/// Appends event, id and payload to a JSON object, whose clients see bytes as `data_base64` in place of `data`.
#[inline]
pub(super) fn put_event_id_and_payload(
    out: &mut impl BufMut,
    event: &str,
    message_id: &str,
    data: &str,
    base64: Option<Base64<'_>>,
) {
    let Some(base64) = base64 else {
        put_event_and_id(out, event, message_id);
        return out.put_slice(data.as_bytes());
    };
    for part in [",\"event\":", event, ",\"message_id\":", message_id, ",\"data_base64\":\"", base64.as_str(), "\""] {
        out.put_slice(part.as_bytes());
    }
}

/// Appends the members between topic and data, and the key of the data.
fn put_event_and_id(out: &mut impl BufMut, event: &str, message_id: &str) {
    if (event, message_id) == (EMPTY, EMPTY) {
        return out.put_slice(BARE.as_bytes());
    }
    for (key, value) in [(EVENT, event), (MESSAGE_ID, message_id)] {
        out.put_slice(key);
        out.put_slice(value.as_bytes());
    }
    out.put_slice(DATA);
}

/// Appends the topic, the beginning of every publication.
pub(super) fn put_topic(out: &mut impl BufMut, topic: &TopicName) {
    out.put_slice(TOPIC);
    put_json_string(out, topic.as_str());
}

/// Writes a text as a JSON string with as few escapes as JSON allows.
pub(crate) fn put_json_string(out: &mut impl BufMut, text: &str) {
    if needs_no_escape(text) {
        out.put_u8(b'"');
        out.put_slice(text.as_bytes());
        out.put_u8(b'"');
    } else {
        out.put_slice(serde_json::Value::from(text).to_string().as_bytes());
    }
}

/// A text as a JSON string.
pub(crate) fn json_string(text: &str) -> String {
    let mut json = Vec::with_capacity(text.len() + 2);
    put_json_string(&mut json, text);
    String::from_utf8(json).expect("JSON is text")
}

/// Writes a number without the machinery of `fmt`, whose cost would be noticeable for each message.
pub(crate) fn put_decimal(out: &mut impl BufMut, number: impl Into<u64>) {
    let mut number = number.into();
    let mut digits = [0; 20];
    let mut start = digits.len();
    let digit = |number: u64| b'0' + (number % 10) as u8;
    // Two at a time: each division waits for the one before.
    while number >= 10 {
        start -= 2;
        let pair = number % 100;
        (digits[start], digits[start + 1]) = (digit(pair / 10), digit(pair));
        number /= 100;
    }
    if number > 0 || start == digits.len() {
        start -= 1;
        digits[start] = digit(number);
    }
    out.put_slice(&digits[start..]);
}

fn needs_no_escape(text: &str) -> bool {
    text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str) -> TopicName {
        TopicName::new(name, 255).unwrap()
    }

    #[test]
    fn the_parts_are_the_given_text() {
        let publication = Publication::new(&topic("t"), " \"e\" ", "1e400", "{ \"a\" : [0.10] }\n").unwrap();
        assert_eq!(publication.topic_json(), "\"t\"");
        assert_eq!(publication.event(), "\"e\"");
        assert_eq!(publication.message_id(), "1e400");
        assert_eq!(publication.data(), "{ \"a\" : [0.10] }");
        assert_eq!(publication.len(), publication.classic_tail().len());
    }

    #[test]
    fn a_topic_with_quotes_and_backslashes_is_escaped() {
        let publication = Publication::new(&topic("a\"b\\c"), "1", "2", "3").unwrap();
        assert_eq!(publication.topic_json(), r#""a\"b\\c""#);
        assert_eq!((publication.event(), publication.message_id(), publication.data()), ("1", "2", "3"));
    }

    #[test]
    fn bytes_stand_in_the_text_as_base64_behind_a_null() {
        for (bytes, text) in [(&b"\0\xff"[..], "AP8="), (b"", "")] {
            let publication = Publication::of_bytes(&topic("t"), " 1 ", "2", bytes).unwrap();
            assert_eq!((publication.event(), publication.message_id(), publication.data()), ("1", "2", "null"));
            assert_eq!(publication.base64().map(Base64::as_str), Some(text));
            assert_eq!(publication.payload_len(), publication.len() - text.len() + bytes.len());
            let tail = format!(r#""topic":"t","event":1,"message_id":2,"data":null,"data_base64":"{text}"}}"#);
            assert_eq!(publication.classic_tail(), [tail.as_bytes(), b"\x01"].concat());
            assert_eq!(Base64::new(text).map(data_of_base64), Ok(data_of_bytes(bytes)));
        }
        assert_eq!(Publication::of_bytes(&topic("t"), "e", "1", b"").unwrap_err().part, "event");
    }

    #[test]
    fn json_is_never_taken_for_bytes() {
        for data in ["null", "\"null\"", r#"["null","data_base64"]"#, r#"{"data_base64":"AP8="}"#] {
            let publication = Publication::new(&topic("t"), "1", "2", data).unwrap();
            assert_eq!((publication.data(), publication.base64()), (data, None));
            assert_eq!(publication.payload_len(), publication.len());
        }
        assert!(Publication::new(&topic("t"), "1", "2", r#"null,"data_base64":"AP8=""#).is_err());
    }

    #[test]
    fn numbers_are_written_as_by_the_formatter() {
        let edges = (0..=19).map(|power| 10_u64.pow(power)).flat_map(|edge| [edge - 1, edge, edge + 1]);
        for number in edges.chain([u64::MAX, 1_234_567_890]) {
            let mut text = Vec::new();
            put_decimal(&mut text, number);
            assert_eq!(text, number.to_string().as_bytes());
        }
    }

    #[test]
    fn an_error_names_the_part_other_than_json() {
        let refused =
            |event, message_id, data| Publication::new(&topic("t"), event, message_id, data).unwrap_err().part;
        assert_eq!(refused("greeting", "1", "1"), "event");
        assert_eq!(refused("1", "", "1"), "message_id");
        assert_eq!(refused("1", "1", "1,\"forged\":2"), "data");
        assert_eq!(refused("1", "1", "\"\u{1}\""), "data");
    }
}
