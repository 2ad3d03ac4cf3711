//! Any bytes with any kind of length prefix, split anywhere, give the same frames as in a single piece, never a panic, and
//! take no more memory than has come. What is written is read back.

#![no_main]

use arbitrary::Arbitrary;
use janus_core::wire::{BytesMut, LengthPrefix, LengthPrefixed};
use libfuzzer_sys::fuzz_target;

const MAX_BYTES: usize = 300;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    prefix: u8,
    /// Lengths of the pieces, used in turn.
    pieces: [u8; 4],
    frames: Vec<&'a [u8]>,
    tail: &'a [u8],
}

fn read<'a>(prefix: LengthPrefix, pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Option<Vec<u8>>> {
    let mut reader = LengthPrefixed::new(prefix);
    let (mut read, mut came) = (Vec::new(), 0);
    for mut piece in pieces {
        came += piece.len();
        while let Some(frame) = reader.next(&mut piece, MAX_BYTES) {
            read.push(frame.ok().map(|frame| frame.into_owned()));
            if read.last() == Some(&None) {
                return read;
            }
        }
        assert!(piece.is_empty() && reader.buffered() <= MAX_BYTES + 5);
        assert!(reader.memory() <= 2 * came.max(8) && (reader.is_mid_frame() || reader.memory() == 0));
    }
    read
}

fn cut<'a>(mut rest: &'a [u8], lengths: &'a [u8; 4]) -> impl Iterator<Item = &'a [u8]> {
    let mut lengths = lengths.iter().cycle();
    std::iter::from_fn(move || {
        let length = usize::from(*lengths.next()?).clamp(1, rest.len().max(1)).min(rest.len());
        let (piece, after) = rest.split_at(length);
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

fuzz_target!(|input: Input<'_>| {
    let prefix = match input.prefix % 6 {
        0 => LengthPrefix::U8,
        1 => LengthPrefix::U16Be,
        2 => LengthPrefix::U16Le,
        3 => LengthPrefix::U32Be,
        4 => LengthPrefix::U32Le,
        _ => LengthPrefix::Varint,
    };
    let mut bytes = BytesMut::new();
    let fits = |frame: &&&[u8]| frame.len() <= MAX_BYTES.min(prefix.max());
    let frames: Vec<_> = input.frames.iter().filter(fits).map(|frame| Some(frame.to_vec())).collect();
    for frame in frames.iter().flatten() {
        assert!(prefix.put(&mut bytes, |out| out.extend_from_slice(frame)));
    }
    assert_eq!(read(prefix, std::iter::once(&bytes[..])), frames);
    bytes.extend_from_slice(input.tail);
    assert_eq!(read(prefix, cut(&bytes, &input.pieces)), read(prefix, std::iter::once(&bytes[..])));
});
