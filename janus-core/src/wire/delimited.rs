//! Frames that end with a delimiter, and a decoder for formats with a single request per frame.

use std::borrow::Cow;

use super::request::unfinished;
use super::{Command, Decoder, ErrorCode, FrameError, Limits};

/// Splits a stream into frames, each ended by the same byte: the first step of many decoders. For frames that begin with
/// their length see [`LengthPrefixed`](super::LengthPrefixed).
///
/// It keeps the beginning of an unfinished frame and nothing else; a frame received in a single piece is not copied.
///
/// ```
/// use janus_core::wire::Delimited;
///
/// let mut lines = Delimited::new(b'\n');
/// let mut input: &[u8] = b"one\ntw";
/// assert_eq!(&*lines.next(&mut input, 100).unwrap()?, b"one");
/// assert!(lines.next(&mut input, 100).is_none() && lines.is_mid_frame());
/// let mut input: &[u8] = b"o\n";
/// assert_eq!(&*lines.next(&mut input, 100).unwrap()?, b"two");
/// # Ok::<_, janus_core::wire::FrameError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Delimited {
    delimiter: u8,
    unfinished: Vec<u8>,
}

impl Delimited {
    /// Splits at this byte.
    #[must_use]
    pub fn new(delimiter: u8) -> Self {
        Self { delimiter, unfinished: Vec::new() }
    }

    /// The next frame without its delimiter. `None` if the frame has not ended; all of the input has been taken by
    /// then.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::FrameTooLarge`] if a frame is longer than `max_bytes`; the rest of the stream cannot be trusted.
    pub fn next<'i>(&mut self, input: &mut &'i [u8], max_bytes: usize) -> Option<Result<Cow<'i, [u8]>, FrameError>> {
        let room = max_bytes.saturating_sub(self.unfinished.len());
        let window = &input[..input.len().min(room.saturating_add(1))];
        let Some(length) = window.iter().position(|&byte| byte == self.delimiter) else {
            if window.len() > room {
                let message = format!("frame longer than the limit of {max_bytes} bytes");
                return Some(Err(FrameError::new(ErrorCode::FrameTooLarge, message)));
            }
            self.unfinished.extend_from_slice(input);
            *input = &[];
            return None;
        };
        let piece = &input[..length];
        *input = &input[length + 1..];
        if self.unfinished.is_empty() {
            return Some(Ok(Cow::Borrowed(piece)));
        }
        self.unfinished.extend_from_slice(piece);
        Some(Ok(Cow::Owned(std::mem::take(&mut self.unfinished))))
    }

    /// Whether a frame has begun and not ended.
    #[must_use]
    pub fn is_mid_frame(&self) -> bool {
        !self.unfinished.is_empty()
    }

    /// How many bytes of an unfinished frame are kept.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.unfinished.len()
    }

    /// The capacity allocated for the unfinished frame, possibly more than its length.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.unfinished.capacity()
    }

    /// A decoder for formats with a single request per frame, read by `parse`: enough for a line protocol, as in
    /// `examples/lines.rs`.
    ///
    /// A stream that ends in the middle of a frame is answered with [`ErrorCode::UnfinishedFrame`].
    #[must_use]
    pub fn decoder<F>(self, parse: F) -> Box<dyn Decoder>
    where
        F: FnMut(&[u8], &Limits) -> Result<Command, FrameError> + Send + 'static,
    {
        Box::new(RequestDecoder { frames: self, parse })
    }
}

/// A way to split a stream into frames.
pub(super) trait Frames: Send {
    fn next<'i>(&mut self, input: &mut &'i [u8], max_bytes: usize) -> Option<Result<Cow<'i, [u8]>, FrameError>>;

    fn is_mid_frame(&self) -> bool;

    fn buffered(&self) -> usize;

    fn memory(&self) -> usize;
}

impl Frames for Delimited {
    fn next<'i>(&mut self, input: &mut &'i [u8], max_bytes: usize) -> Option<Result<Cow<'i, [u8]>, FrameError>> {
        self.next(input, max_bytes)
    }

    fn is_mid_frame(&self) -> bool {
        self.is_mid_frame()
    }

    fn buffered(&self) -> usize {
        self.buffered()
    }

    fn memory(&self) -> usize {
        self.memory()
    }
}

/// See [`Delimited::decoder`].
pub(super) struct RequestDecoder<S, F> {
    pub(super) frames: S,
    pub(super) parse: F,
}

impl<S, F> Decoder for RequestDecoder<S, F>
where
    S: Frames,
    F: FnMut(&[u8], &Limits) -> Result<Command, FrameError> + Send,
{
    fn decode(&mut self, input: &mut &[u8], limits: &Limits) -> Option<Result<Command, FrameError>> {
        let frame = self.frames.next(input, limits.max_frame_bytes)?;
        Some(frame.and_then(|frame| (self.parse)(&frame, limits)))
    }

    fn finish(&mut self, _: &Limits) -> Option<Result<Command, FrameError>> {
        self.frames.is_mid_frame().then(|| Err(unfinished()))
    }

    fn buffered(&self) -> usize {
        self.frames.buffered()
    }

    fn memory(&self) -> usize {
        self.frames.memory()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::TopicName;

    const LIMITS: Limits = Limits { max_frame_bytes: 16, max_topic_bytes: 4, max_topics: 1 };

    #[test]
    fn delimited_requests_are_parsed_and_an_unfinished_request_is_refused() {
        let mut decoder = Delimited::new(b'\n').decoder(|frame, limits| {
            let topic = limits.topic(str::from_utf8(frame)?)?;
            Ok(Command::subscribe(topic))
        });
        let mut input: &[u8] = b"news\nevents\n\xff\nne";
        let mut codes = || decoder.decode(&mut input, &LIMITS).map(|decoded| decoded.map_err(|error| error.code));
        let news = Command::subscribe(TopicName::new("news", 4).unwrap());
        assert_eq!(codes(), Some(Ok(news.clone())));
        assert_eq!(codes(), Some(Err(ErrorCode::BadTopic)));
        assert_eq!(codes(), Some(Err(ErrorCode::BadUtf8)));
        assert_eq!(codes(), None);
        assert!(decoder.is_mid_frame() && decoder.buffered() == 2);
        let mut input: &[u8] = b"ws\n";
        assert_eq!(decoder.decode(&mut input, &LIMITS), Some(Ok(news)));
        assert_eq!(decoder.finish(&LIMITS), None);
        let mut input: &[u8] = b"n";
        assert_eq!(decoder.decode(&mut input, &LIMITS), None);
        assert_eq!(decoder.finish(&LIMITS).unwrap().unwrap_err().code, ErrorCode::UnfinishedFrame);
    }
}
