//! The parts of a request common to every format: topic names, publications made from raw parts, and the errors for
//! broken rules.

use bytes::{BufMut, BytesMut};

use super::json::{self, JsonError};
use super::publication::{EMPTY, Parts, data_of_base64, put_topic};
use super::{Base64, ErrorCode, FrameError, Publication, TopicName};

/// The members of a publication, each the raw text of a JSON value.
#[derive(Default)]
pub(super) struct RawPublication<'a> {
    pub(super) topic: Option<&'a str>,
    pub(super) event: Option<&'a str>,
    pub(super) message_id: Option<&'a str>,
    pub(super) data: Option<&'a str>,
    /// `data_base64`, which stands in place of `data`, unless it is `null`.
    pub(super) base64: Option<&'a str>,
}

impl RawPublication<'_> {
    /// Builds the publication; missing members are empty. `more` is the number of bytes of the same read after this
    /// publication.
    #[inline]
    pub(super) fn read(
        &self,
        max_topic_bytes: usize,
        more: usize,
        batch: &mut Option<Box<Batch>>,
    ) -> Result<(TopicName, Publication), FrameError> {
        let raw_topic = self.topic.ok_or_else(topic_must_be_a_string)?;
        let bytes;
        let data = match self.base64.filter(|raw| *raw != "null") {
            None => self.data.unwrap_or("null"),
            Some(base64) => {
                bytes = self.bytes(base64)?;
                &bytes
            }
        };
        let parts = Parts { event: self.event.unwrap_or(EMPTY), message_id: self.message_id.unwrap_or(EMPTY), data };
        if more > 0 && batch.is_none() {
            *batch = Some(Box::default());
        }
        match batch {
            None => {
                let topic = topic_name(raw_topic, max_topic_bytes)?;
                let publication = Publication::lay_out(&topic, &parts);
                Ok((topic, publication))
            }
            Some(batch) => {
                let topic = batch.topic(raw_topic, max_topic_bytes)?;
                let publication = batch.publication(&topic, &parts, more);
                Ok((topic, publication))
            }
        }
    }

    /// The data of a message of bytes.
    #[cold]
    fn bytes(&self, base64: &str) -> Result<String, FrameError> {
        if self.data.is_some_and(|data| data != "null") {
            return Err(two_payloads());
        }
        let text = json::string(base64).ok_or_else(|| bad_base64("expected a string"))?;
        Ok(data_of_base64(Base64::new(&text).map_err(|error| bad_base64(&error.to_string()))?))
    }
}

/// Told to a publisher that gives a payload as JSON and another as bytes.
pub(super) fn two_payloads() -> FrameError {
    FrameError::new(ErrorCode::BadPublish, "send either \"data\" or \"data_base64\"")
}

pub(super) fn bad_base64(why: &str) -> FrameError {
    FrameError::new(ErrorCode::BadPublish, format!("\"data_base64\": {why}"))
}

/// The memory shared by the publications of a single read: a run of publications costs one allocation instead of
/// several each.
///
/// The price: a publication kept for long keeps its neighbours' memory too, so the shared memory stays small.
#[derive(Debug, Default)]
pub(super) struct Batch {
    buffer: BytesMut,
    /// The topic of the previous publication, most often the topic of the next.
    topic: Option<TopicName>,
    /// The same topic as the beginning of a publication.
    head: Vec<u8>,
    /// The beginning of the first frame with a publication.
    opening: Option<Opening>,
}

/// The beginning of a frame with a publication, up to the data, and what has been made of it. The frames of a publisher
/// mostly begin alike, and the same beginning need not be read again.
#[derive(Debug)]
struct Opening {
    text: String,
    topic: TopicName,
    /// A publication with the same beginning.
    publication: Publication,
}

impl Batch {
    fn topic(&mut self, raw: &str, max_topic_bytes: usize) -> Result<TopicName, FrameError> {
        if let Some(topic) = &self.topic
            && raw.len() == topic.as_str().len() + 2
            && json::string(raw).is_some_and(|name| name == topic.as_str())
        {
            return Ok(topic.clone());
        }
        let topic = topic_name(raw, max_topic_bytes)?;
        self.topic = Some(topic.clone());
        self.head.clear();
        put_topic(&mut self.head, &topic);
        Ok(topic)
    }

    /// Reads a frame that begins as the first publication did, has another value for the data, and ends with `end`. `None`
    /// for any other frame, good or bad.
    #[inline]
    pub(super) fn repeated(&mut self, text: &str, end: &str, more: usize) -> Option<(TopicName, Publication)> {
        let opening = self.opening.as_ref()?;
        let data = text.strip_prefix(&*opening.text)?.strip_suffix(end)?;
        let data = json::one_value(data).ok()?;
        let publication = opening.publication.with_data(data, |length| room(&mut self.buffer, length, more));
        Some((opening.topic.clone(), publication))
    }

    /// Notes the first frame with a publication, if nothing follows its data but `end`.
    pub(super) fn note_opening(&mut self, text: &str, data: &str, end: &str, made: (&TopicName, &Publication)) {
        // The data are a part of the text.
        let start = data.as_ptr().addr() - text.as_ptr().addr();
        if self.opening.is_none() && &text[start + data.len()..] == end {
            let (topic, publication) = (made.0.clone(), made.1.clone());
            self.opening = Some(Opening { text: text[..start].to_owned(), topic, publication });
        }
    }

    /// Builds a publication to this topic, which [`topic`](Self::topic) has just returned.
    fn publication(&mut self, topic: &TopicName, parts: &Parts<'_>, more: usize) -> Publication {
        match room(&mut self.buffer, self.head.len() + parts.len(), more) {
            None => Publication::lay_out(topic, parts),
            Some(buffer) => {
                buffer.put_slice(&self.head);
                parts.write(buffer);
                Publication::of_tail(buffer.split().freeze(), self.head.len(), parts)
            }
        }
    }
}

/// How many bytes of other publications a single kept publication may keep in memory.
const SHARED_BYTES_MAX: usize = 4_096;

/// Shared memory with room for a publication of this length; `None` for a large publication, which gains little from
/// sharing, and would leave much of the memory before it unused.
#[inline]
fn room(buffer: &mut BytesMut, length: usize, more: usize) -> Option<&mut BytesMut> {
    if length > buffer.capacity() {
        if length > SHARED_BYTES_MAX / 4 {
            return None;
        }
        *buffer = BytesMut::with_capacity((length + more).min(SHARED_BYTES_MAX));
    }
    Some(buffer)
}

/// Parses the raw text of a JSON value as a topic.
pub(super) fn topic_name(raw: &str, max_topic_bytes: usize) -> Result<TopicName, FrameError> {
    checked_topic_name(&json::string(raw).ok_or_else(topic_must_be_a_string)?, max_topic_bytes)
}

pub(super) fn checked_topic_name(name: &str, max_topic_bytes: usize) -> Result<TopicName, FrameError> {
    Ok(TopicName::new(name, max_topic_bytes)?)
}

/// The text of a frame.
pub(super) fn text(frame: &[u8]) -> Result<&str, FrameError> {
    Ok(str::from_utf8(frame)?)
}

pub(super) fn bad_utf8(at: usize) -> FrameError {
    FrameError::new(ErrorCode::BadUtf8, format!("not UTF-8 at byte {at} of the frame"))
}

pub(super) fn bad_json(error: JsonError) -> FrameError {
    FrameError::new(ErrorCode::BadJson, error.to_string())
}

pub(super) fn duplicate_key(key: &str) -> FrameError {
    FrameError::new(ErrorCode::DuplicateKey, format!("duplicate key \"{key}\": send it once"))
}

/// As [`duplicate_key`], for a key that is the name of a topic.
pub(super) fn duplicate_topic(topic: &TopicName) -> FrameError {
    let name = serde_json::Value::from(topic.as_str());
    let message = format!("duplicate topic {name}: send it once");
    FrameError::new(ErrorCode::DuplicateKey, message).with_topic(topic)
}

pub(super) fn topic_must_be_a_string() -> FrameError {
    FrameError::new(ErrorCode::BadTopic, "the topic must be a JSON string of Unicode text")
}

pub(super) fn unfinished() -> FrameError {
    FrameError::new(ErrorCode::UnfinishedFrame, "stream ended in the middle of a frame; the frame had no effect")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::classic::ClassicDecoder;
    use crate::wire::{Command, Limits, v1};

    const LIMITS: Limits = Limits { max_frame_bytes: 65_536, max_topic_bytes: 255, max_topics: 128 };

    /// What may stand where a publication has its data: values, and texts that are not a value or more than one.
    const DATA: [&str; 16] = [
        "1",
        " \"x\" ",
        "\"}}\"",
        "{\"data\":[1,{}]}",
        "1,\"event\":11",
        "2,\"topic\":\"u\"",
        "3,\"data\":4",
        "5,\"id\":6",
        "7},\"ack\":true,\"data\":{\"topic\":\"u\"",
        "8},\"ack\":true,\"more\":{\"a\":9",
        "8}",
        "",
        "tru",
        "{",
        "\"\\ud800\"",
        "\"\u{1}\"",
    ];

    type Decoded = Result<Command, FrameError>;

    fn decoded_by_classic(texts: &[String]) -> Vec<Decoded> {
        let (mut decoder, bytes) = (ClassicDecoder::new(), texts.join("\0") + "\0");
        let mut input = bytes.as_bytes();
        std::iter::from_fn(|| decoder.decode(&mut input, &LIMITS)).collect()
    }

    fn decoded_by_v1(texts: &[String]) -> Vec<Decoded> {
        let mut decoder = v1::RequestDecoder::new();
        decoder.continue_from(true);
        let decode = |text: &String| {
            decoder.decode(text, 1_000, &LIMITS).map(|request| match request {
                v1::Request::Command(command) => command,
                v1::Request::Ping => panic!("a ping is no publication"),
            })
        };
        texts.iter().map(decode).collect()
    }

    #[test]
    fn a_frame_that_begins_as_another_is_read_as_if_it_were_alone() {
        let beginnings = [
            ("{\"action\":\"publish\",\"data\":{\"topic\":\"t\",\"data\":", "}}", decoded_by_classic as fn(&_) -> _),
            (
                "{\"data\":{\"event\":[1],\"topic\":\"\\u0074\",\"data\" : ",
                "},\"action\":\"publish\"}",
                decoded_by_classic,
            ),
            ("{\"action\":\"publish\",\"ack\":true,\"data\":{\"topic\":\"t\",\"data\":", "}}", decoded_by_classic),
            ("{\"type\":\"publish\",\"topic\":\"t\",\"event\":\"e\",\"data\":", "}", decoded_by_v1),
            ("{\"type\":\"publish\",\"id\":3,\"topic\":\"t\",\"data\":", "}", decoded_by_v1),
            ("{\"type\":\"publish\",\"exclude\":\"1.2\",\"topic\":\"t\",\"data\":", "}", decoded_by_v1),
            ("{\"type\":\"publish\",\"topic\":\"t\",\"idempotency_key\":\"k\",\"data\":", "}", decoded_by_v1),
        ];
        for (beginning, end, decoded) in beginnings {
            let frame = |data: &str| format!("{beginning}{data}{end}");
            for (first, second) in DATA.iter().flat_map(|first| DATA.map(|second| (frame(first), frame(second)))) {
                let alone = [&first, &second].map(|text| decoded(std::slice::from_ref(text)));
                let mut alone: Vec<Decoded> = alone.into_iter().flatten().collect();
                // The classic protocol ends with a text other than JSON.
                let together = decoded(&[first, second, frame("0")]);
                alone.extend(decoded(&[frame("0")]));
                assert_eq!(together[..], alone[..together.len()]);
                assert!(together.len() == 3 || together.last().is_some_and(Result::is_err));
            }
        }
    }
}
