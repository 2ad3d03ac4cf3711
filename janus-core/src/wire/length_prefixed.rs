//! Frames that begin with their length.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};

use super::delimited::{Frames, RequestDecoder};
use super::{Command, Decoder, ErrorCode, FrameError, Limits};

/// How the length before a frame is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LengthPrefix {
    /// One byte.
    U8,
    /// Two bytes, the higher first.
    U16Be,
    /// Two bytes, the lower first.
    U16Le,
    /// Four bytes, the highest first.
    U32Be,
    /// Four bytes, the lowest first.
    U32Le,
    /// Seven bits in each byte, the lowest first, with the highest bit set in all bytes but the last, as in delimited
    /// messages of Protocol Buffers. At most five bytes, for lengths of at most 2^32 − 1.
    Varint,
}

/// Bytes of the longest prefix.
const PREFIX_BYTES_MAX: usize = 5;

impl LengthPrefix {
    /// The greatest length that can be written.
    #[must_use]
    pub const fn max(self) -> usize {
        let max = match self {
            Self::U8 => u8::MAX as u32,
            Self::U16Be | Self::U16Le => u16::MAX as u32,
            Self::U32Be | Self::U32Le | Self::Varint => u32::MAX,
        };
        max as usize
    }

    /// Appends a frame with the output of `write` behind its length. Returns false, having appended nothing, if the frame
    /// is longer than [`max`](Self::max).
    ///
    /// ```
    /// use janus_core::wire::{BytesMut, LengthPrefix};
    ///
    /// let mut out = BytesMut::new();
    /// assert!(LengthPrefix::U16Be.put(&mut out, |out| out.extend_from_slice(b"hello")));
    /// assert_eq!(out[..], *b"\x00\x05hello");
    /// assert!(!LengthPrefix::U8.put(&mut out, |out| out.resize(out.len() + 256, b'x')));
    /// assert_eq!(out[..], *b"\x00\x05hello");
    /// ```
    pub fn put(self, out: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) -> bool {
        let start = out.len();
        let room = if self == Self::Varint { 1 } else { self.width() };
        out.put_bytes(0, room);
        write(out);
        let length = out.len() - start - room;
        if length > self.max() {
            out.truncate(start);
            return false;
        }
        let (prefix, size) = self.prefix(length as u32);
        if size > room {
            // A frame behind a long prefix is moved: most frames are not.
            out.put_bytes(0, size - room);
            out.copy_within(start + room..start + room + length, start + size);
        }
        out[start..start + size].copy_from_slice(&prefix[..size]);
        true
    }

    /// Bytes of the prefix; 0 if they depend on the length.
    const fn width(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::U16Be | Self::U16Le => 2,
            Self::U32Be | Self::U32Le => 4,
            Self::Varint => 0,
        }
    }

    /// The prefix of this length, which can be written, and the number of its bytes.
    fn prefix(self, length: u32) -> ([u8; PREFIX_BYTES_MAX], usize) {
        let mut prefix = [0; PREFIX_BYTES_MAX];
        let mut size = self.width();
        match self {
            Self::U8 => prefix[0] = length as u8,
            Self::U16Be => prefix[..2].copy_from_slice(&(length as u16).to_be_bytes()),
            Self::U16Le => prefix[..2].copy_from_slice(&(length as u16).to_le_bytes()),
            Self::U32Be => prefix[..4].copy_from_slice(&length.to_be_bytes()),
            Self::U32Le => prefix[..4].copy_from_slice(&length.to_le_bytes()),
            Self::Varint => {
                let mut rest = length;
                loop {
                    prefix[size] = (rest & 0x7f) as u8 | if rest > 0x7f { 0x80 } else { 0 };
                    size += 1;
                    rest >>= 7;
                    if rest == 0 {
                        break;
                    }
                }
            }
        }
        (prefix, size)
    }

    /// The length in these bytes, the beginning of a prefix or all of it; `None` if the prefix is incomplete.
    fn length(self, prefix: &[u8]) -> Option<Result<usize, FrameError>> {
        if self == Self::Varint {
            return varint(prefix);
        }
        if prefix.len() < self.width() {
            return None;
        }
        let mut bytes = [0; 4];
        let is_big = matches!(self, Self::U16Be | Self::U32Be);
        for (place, byte) in prefix.iter().enumerate() {
            bytes[if is_big { self.width() - 1 - place } else { place }] = *byte;
        }
        Some(Ok(u32::from_le_bytes(bytes) as usize))
    }
}

/// The number in these bytes, of which the last is the latest to come.
fn varint(bytes: &[u8]) -> Option<Result<usize, FrameError>> {
    let is_over = bytes.last().is_some_and(|byte| byte & 0x80 == 0);
    if !is_over && bytes.len() < PREFIX_BYTES_MAX {
        return None;
    }
    let number = bytes.iter().rev().fold(0_u64, |number, byte| number << 7 | u64::from(byte & 0x7f));
    let number = u32::try_from(number).ok().filter(|_| is_over);
    let bad =
        || FrameError::new(ErrorCode::BadFrame, "the length of a frame must be a number of at most 32 bits in 5 bytes");
    Some(number.map(|number| number as usize).ok_or_else(bad))
}

/// Splits a stream into frames that begin with their length: the first step of many decoders. The other side is
/// [`LengthPrefix::put`]. For frames that end with a delimiter see [`Delimited`](super::Delimited).
///
/// It keeps the part of an unfinished frame that has come, and takes no memory for the part that is announced; a frame
/// received in a single piece is not copied.
///
/// ```
/// use janus_core::wire::{LengthPrefix, LengthPrefixed};
///
/// let mut frames = LengthPrefixed::new(LengthPrefix::U16Be);
/// let mut input: &[u8] = b"\x00\x03one\x00\x03tw";
/// assert_eq!(&*frames.next(&mut input, 100).unwrap()?, b"one");
/// assert!(frames.next(&mut input, 100).is_none() && frames.is_mid_frame());
/// let mut input: &[u8] = b"o\x00\x00";
/// assert_eq!(&*frames.next(&mut input, 100).unwrap()?, b"two");
/// assert_eq!(&*frames.next(&mut input, 100).unwrap()?, b"");
/// # Ok::<_, janus_core::wire::FrameError>(())
/// ```
#[derive(Clone, Debug)]
pub struct LengthPrefixed {
    prefix: LengthPrefix,
    /// The beginning of a prefix.
    begun: [u8; PREFIX_BYTES_MAX],
    begun_len: u8,
    /// The length of the unfinished frame, once its prefix has come.
    length: Option<u32>,
    unfinished: Vec<u8>,
}

impl LengthPrefixed {
    /// Splits at lengths written like this.
    #[must_use]
    pub fn new(prefix: LengthPrefix) -> Self {
        Self { prefix, begun: [0; PREFIX_BYTES_MAX], begun_len: 0, length: None, unfinished: Vec::new() }
    }

    /// The next frame without its length, possibly empty. `None` if the frame has not ended; all of the input has been taken
    /// by then.
    ///
    /// # Errors
    ///
    /// [`ErrorCode::FrameTooLarge`] as soon as the length of a frame is known to be greater than `max_bytes`, and
    /// [`ErrorCode::BadFrame`] for a varint of more than 32 bits; the rest of the stream cannot be trusted.
    pub fn next<'i>(&mut self, input: &mut &'i [u8], max_bytes: usize) -> Option<Result<Cow<'i, [u8]>, FrameError>> {
        let length = match self.length {
            Some(length) => length as usize,
            None => match self.take_length(input)? {
                Ok(length) if length > max_bytes => {
                    let message = format!("frame longer than the limit of {max_bytes} bytes");
                    return Some(Err(FrameError::new(ErrorCode::FrameTooLarge, message)));
                }
                Ok(length) => length,
                Err(error) => return Some(Err(error)),
            },
        };
        let (piece, rest) = input.split_at(input.len().min(length - self.unfinished.len()));
        *input = rest;
        let is_complete = self.unfinished.len() + piece.len() == length;
        if is_complete && self.unfinished.is_empty() {
            self.length = None;
            return Some(Ok(Cow::Borrowed(piece)));
        }
        self.unfinished.extend_from_slice(piece);
        // No prefix is longer than 32 bits.
        self.length = (!is_complete).then_some(length as u32);
        is_complete.then(|| Ok(Cow::Owned(std::mem::take(&mut self.unfinished))))
    }

    fn take_length(&mut self, input: &mut &[u8]) -> Option<Result<usize, FrameError>> {
        while let Some((byte, rest)) = input.split_first() {
            *input = rest;
            self.begun[usize::from(self.begun_len)] = *byte;
            self.begun_len += 1;
            if let Some(length) = self.prefix.length(&self.begun[..usize::from(self.begun_len)]) {
                self.begun_len = 0;
                return Some(length);
            }
        }
        None
    }

    /// Whether a frame has begun and not ended.
    #[must_use]
    pub fn is_mid_frame(&self) -> bool {
        self.begun_len > 0 || self.length.is_some()
    }

    /// How many bytes of an unfinished frame are kept, those of its length included.
    #[must_use]
    pub fn buffered(&self) -> usize {
        usize::from(self.begun_len) + self.unfinished.len()
    }

    /// The capacity allocated for the unfinished frame, possibly more than its length.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.unfinished.capacity()
    }

    /// A decoder for formats with a single request per frame, read by `parse`.
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

impl Frames for LengthPrefixed {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: [LengthPrefix; 6] = [
        LengthPrefix::U8,
        LengthPrefix::U16Be,
        LengthPrefix::U16Le,
        LengthPrefix::U32Be,
        LengthPrefix::U32Le,
        LengthPrefix::Varint,
    ];

    fn framed(prefix: LengthPrefix, frame: &[u8]) -> BytesMut {
        let mut out = BytesMut::new();
        assert!(prefix.put(&mut out, |out| out.put_slice(frame)));
        out
    }

    #[test]
    fn lengths_are_written_as_their_formats_say() {
        let begins = |prefix, bytes: &[u8]| framed(prefix, &[b'x'; 200]).starts_with(bytes);
        assert!(begins(LengthPrefix::U8, &[200, b'x']) && begins(LengthPrefix::Varint, &[0xc8, 1, b'x']));
        assert!(begins(LengthPrefix::U16Be, &[0, 200, b'x']) && begins(LengthPrefix::U16Le, &[200, 0, b'x']));
        assert!(
            begins(LengthPrefix::U32Be, &[0, 0, 0, 200, b'x']) && begins(LengthPrefix::U32Le, &[200, 0, 0, 0, b'x'])
        );
        assert_eq!(framed(LengthPrefix::Varint, &[b'x'; 300])[..2], [0xac, 2], "the example of Protocol Buffers");
    }

    #[test]
    fn an_announced_length_takes_no_memory_and_is_refused_beyond_the_limit() {
        let mut frames = LengthPrefixed::new(LengthPrefix::U32Be);
        let mut input: &[u8] = &[0, 0, 0xff, 0xff, 1];
        assert!(frames.next(&mut input, 65_535).is_none());
        assert!(frames.memory() < 64 && frames.buffered() == 1 && frames.is_mid_frame());
        for prefix in [&[0xff, 0xff, 0xff, 0xff][..], &[0, 1, 0, 0]] {
            let mut frames = LengthPrefixed::new(LengthPrefix::U32Be);
            let error = frames.next(&mut &*prefix, 65_535).unwrap().unwrap_err();
            assert_eq!((error.code, error.is_fatal()), (ErrorCode::FrameTooLarge, true));
        }
    }

    #[test]
    fn a_varint_of_more_than_32_bits_is_no_length() {
        fn read(mut bytes: &[u8]) -> Option<Result<Cow<'_, [u8]>, FrameError>> {
            LengthPrefixed::new(LengthPrefix::Varint).next(&mut bytes, usize::MAX)
        }
        for bytes in [&[0xff; 5][..], &[0x80, 0x80, 0x80, 0x80, 0x10], &[0x80, 0x80, 0x80, 0x80, 0x80, 0]] {
            assert_eq!(read(bytes).unwrap().unwrap_err().code, ErrorCode::BadFrame);
        }
        assert!(read(&[0xff, 0xff, 0xff, 0xff, 0x0f]).is_none(), "2^32 - 1 is a length");
        assert_eq!(read(&[0x81, 0, b'x']).unwrap().unwrap(), &b"x"[..], "a length may have leading zeros");
    }

    #[test]
    fn requests_are_parsed_and_an_unfinished_request_is_refused() {
        let limits = Limits { max_frame_bytes: 16, max_topic_bytes: 4, max_topics: 1 };
        let mut decoder = LengthPrefixed::new(LengthPrefix::U8)
            .decoder(|frame, limits| Ok(Command::subscribe(limits.topic(str::from_utf8(frame)?)?)));
        let mut input: &[u8] = b"\x04news\x06events\x02ne";
        let mut codes = || decoder.decode(&mut input, &limits).map(|decoded| decoded.map_err(|error| error.code));
        assert!(matches!(codes(), Some(Ok(Command::Subscribe { .. }))));
        assert_eq!(codes(), Some(Err(ErrorCode::BadTopic)));
        assert_eq!(codes(), Some(Ok(Command::subscribe(limits.topic("ne").unwrap()))));
        assert_eq!(codes(), None);
        assert_eq!(decoder.finish(&limits), None);
        assert_eq!(decoder.decode(&mut &b"\x01"[..], &limits), None);
        assert_eq!(decoder.finish(&limits).unwrap().unwrap_err().code, ErrorCode::UnfinishedFrame);
    }

    proptest! {
        #[test]
        fn frames_are_the_same_at_any_split(
            prefix in prop::sample::select(&ALL[..]),
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..255), 0..8),
            size in 1_usize..64,
        ) {
            let bytes: Vec<u8> = frames.iter().flat_map(|frame| framed(prefix, frame)).collect();
            let mut reader = LengthPrefixed::new(prefix);
            let mut read = Vec::new();
            for mut piece in bytes.chunks(size) {
                while let Some(frame) = reader.next(&mut piece, 255) {
                    read.push(frame.unwrap().into_owned());
                }
                prop_assert!(piece.is_empty() && reader.buffered() <= 255 + PREFIX_BYTES_MAX);
            }
            prop_assert_eq!(read, frames);
            prop_assert!(!reader.is_mid_frame() && reader.memory() == 0);
        }
    }
}
