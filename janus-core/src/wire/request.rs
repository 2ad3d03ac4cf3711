//! The parts of a request common to every format: topic names, publications made from raw parts, and the errors for
//! broken rules.

use bytes::{Bytes, BytesMut};

use super::json::{self, JsonError};
use super::publication::Parts;
use super::{ErrorCode, FrameError, Publication, TopicName};

/// The members of a publication, each the raw text of a JSON value.
#[derive(Default)]
pub(super) struct RawPublication<'a> {
    pub(super) topic: Option<&'a str>,
    pub(super) event: Option<&'a str>,
    pub(super) message_id: Option<&'a str>,
    pub(super) data: Option<&'a str>,
}

impl RawPublication<'_> {
    /// Builds the publication; missing members are empty. `more` is the number of bytes of the same read after this
    /// publication.
    pub(super) fn read(
        self,
        max_topic_bytes: usize,
        more: usize,
        batch: &mut Option<Box<Batch>>,
    ) -> Result<(TopicName, Publication), FrameError> {
        let raw_topic = self.topic.ok_or_else(topic_must_be_a_string)?;
        let parts = Parts {
            event: self.event.unwrap_or("\"\""),
            message_id: self.message_id.unwrap_or("\"\""),
            data: self.data.unwrap_or("null"),
        };
        if more > 0 && batch.is_none() {
            *batch = Some(Box::default());
        }
        match batch {
            None => {
                let topic = topic_name(raw_topic, max_topic_bytes)?;
                let publication = Batch::lone(&topic, &parts);
                Ok((topic, publication))
            }
            Some(batch) => {
                let topic = batch.topic(raw_topic, max_topic_bytes)?;
                let publication = batch.publication(&topic, &parts, more);
                Ok((topic, publication))
            }
        }
    }
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
}

impl Batch {
    /// How many bytes of other publications a single kept publication may keep in memory.
    const SHARED_BYTES_MAX: usize = 4_096;

    fn topic(&mut self, raw: &str, max_topic_bytes: usize) -> Result<TopicName, FrameError> {
        if let Some(topic) = &self.topic
            && raw.len() == topic.as_str().len() + 2
            && json::string(raw).is_some_and(|name| name == topic.as_str())
        {
            return Ok(topic.clone());
        }
        let topic = topic_name(raw, max_topic_bytes)?;
        self.topic = Some(topic.clone());
        Ok(topic)
    }

    fn publication(&mut self, topic: &TopicName, parts: &Parts<'_>, more: usize) -> Publication {
        let layout = parts.layout(topic);
        if layout.len > self.buffer.capacity() {
            // A large publication gains little from sharing, and would leave much of the memory before it unused.
            if layout.len > Self::SHARED_BYTES_MAX / 4 {
                return Self::lone(topic, parts);
            }
            self.buffer = BytesMut::with_capacity((layout.len + more).min(Self::SHARED_BYTES_MAX));
        }
        parts.write(topic, &mut self.buffer);
        Publication::from_layout(layout, self.buffer.split().freeze())
    }

    /// Builds a publication in memory of its own.
    fn lone(topic: &TopicName, parts: &Parts<'_>) -> Publication {
        let layout = parts.layout(topic);
        let mut tail = Vec::with_capacity(layout.len);
        parts.write(topic, &mut tail);
        Publication::from_layout(layout, Bytes::from(tail))
    }
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
