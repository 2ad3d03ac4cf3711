//! Decoders that give up their own memory between frames.
//!
//! Most clients of a server are silent most of the time, and what a decoder needs in the middle of a frame (buffers, a
//! scanner's place) is worth nothing then.

use super::classic::ClassicDecoder;
use super::codec::{Decoder, Limits, Refusing};
use super::{Command, FrameError, HttpRequest, Refusal};

/// A decoder that can be made anew from very little whenever no frame is unfinished. Such a decoder has nothing to return
/// without input, and changes none of the methods of [`Decoder`] that [`Resting`] does not pass on.
pub(super) trait Rests: Decoder + Sized + 'static {
    /// All there is to know between frames.
    type Rest: Send;

    /// What to know until the next frame; `None` in the middle of one.
    fn rest(&self) -> Option<Self::Rest>;

    fn resume(rest: &Self::Rest) -> Self;
}

/// A decoder that exists from the first byte of a read to the end of the last frame.
pub(super) struct Resting<D: Rests> {
    rest: D::Rest,
    busy: Option<Box<D>>,
}

impl<D: Rests> Resting<D> {
    /// A decoder between two frames.
    pub(super) fn at_rest(rest: D::Rest) -> Box<Self> {
        Box::new(Self { rest, busy: None })
    }

    /// A decoder with something to return, or in the middle of a frame.
    pub(super) fn busy(decoder: D, rest: D::Rest) -> Box<Self> {
        Box::new(Self { rest, busy: Some(Box::new(decoder)) })
    }

    fn decoder(&mut self) -> &mut D {
        self.busy.get_or_insert_with(|| Box::new(D::resume(&self.rest)))
    }
}

impl<D: Rests> Decoder for Resting<D> {
    fn decode(&mut self, input: &mut &[u8], limits: &Limits) -> Option<Result<Command, FrameError>> {
        if input.is_empty() && self.busy.is_none() {
            return None;
        }
        let decoder = self.decoder();
        let decoded = decoder.decode(input, limits);
        if decoded.is_none()
            && let Some(rest) = decoder.rest()
        {
            (self.rest, self.busy) = (rest, None);
        }
        decoded
    }

    fn finish(&mut self, limits: &Limits) -> Option<Result<Command, FrameError>> {
        self.decoder().finish(limits)
    }

    fn buffered(&self) -> usize {
        self.busy.as_ref().map_or(0, |decoder| decoder.buffered())
    }

    fn memory(&self) -> usize {
        self.busy.as_ref().map_or(0, |decoder| decoder.memory())
    }

    fn is_mid_frame(&self) -> bool {
        self.busy.as_ref().is_some_and(|decoder| decoder.is_mid_frame())
    }

    fn refuse(&self, refusal: &Refusal<'_>) -> Refusing {
        self.busy.as_ref().map_or(Refusing::ByCodec, |decoder| decoder.refuse(refusal))
    }

    fn note_refused(&self, refusal: &Refusal<'_>) {
        if let Some(decoder) = &self.busy {
            decoder.note_refused(refusal);
        }
    }

    fn request(&self) -> Option<&HttpRequest> {
        self.busy.as_ref()?.request()
    }
}

impl Rests for ClassicDecoder {
    type Rest = ();

    fn rest(&self) -> Option<()> {
        self.rests().then_some(())
    }

    fn resume((): &()) -> Self {
        Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Codec, classic::Classic, websocket::client};
    use super::*;
    use crate::wire::websocket::WebSocket;

    const LIMITS: Limits = Limits { max_frame_bytes: 65_536, max_topic_bytes: 255, max_topics: 128 };

    /// Decodes all of `bytes` in pieces of this length; the number of commands, and of errors.
    fn decoded(mut decoder: Box<dyn Decoder>, bytes: &[u8], length: usize) -> (usize, usize) {
        let mut found = (0, 0);
        for mut input in bytes.chunks(length) {
            while let Some(decoded) = decoder.decode(&mut input, &LIMITS) {
                if decoded.is_ok() { found.0 += 1 } else { found.1 += 1 }
            }
        }
        assert!(!decoder.is_mid_frame() && decoder.memory() == 0 && decoder.buffered() == 0);
        found
    }

    #[test]
    fn a_decoder_at_rest_is_a_pointer_and_a_flag_and_continues_where_it_was() {
        assert_eq!(size_of::<Resting<ClassicDecoder>>(), 8);
        let subscribe = b"{\"action\":\"subscribe\",\"data\":\"news\"}\0";
        let text = |text: &str| client::text(text, [1, 2, 3, 4]);
        let hello = text(r#"{"type":"hello"}"#);
        let again = text(r#"{"type":"subscribe","id":1,"topic":"news"}"#);
        let frames = [&hello[..], &again, &again].concat();
        for length in [1, 7, 10_000] {
            assert_eq!(decoded(Classic.decoder(), &subscribe.repeat(3), length), (3, 0));
            assert_eq!(decoded(WebSocket::v1().decoder(), &frames, length), (3, 0), "the hello is not forgotten");
        }
    }

    #[test]
    fn the_end_of_a_stream_at_rest_is_no_error() {
        for mut decoder in [Classic.decoder(), WebSocket::v1().decoder()] {
            assert_eq!(decoder.decode(&mut &[][..], &LIMITS), None);
            assert_eq!(decoder.finish(&LIMITS), None);
            let mut more = &b"more"[..];
            assert_eq!((decoder.decode(&mut more, &LIMITS), more), (None, &[][..]), "nothing is read any more");
        }
    }
}
