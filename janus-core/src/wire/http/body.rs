//! The body of a request, by `Content-Length` or in chunks (RFC 9112, 6 and 7.1).
//!
//! Strict, because two servers that disagree about the end of a body take different bytes for the next request: a line
//! ends with CR and LF, a size is a hexadecimal number and nothing else, and no body has two lengths.

use super::head::{MAX_HEAD_BYTES, bad_head};
use super::{HttpError, HttpRequest};
use crate::wire::ErrorCode;

/// Hexadecimal digits of a chunk's size.
const MAX_SIZE_DIGITS: u8 = 16;

/// Collects the body of a request, however its bytes are split between reads.
///
/// Memory: at most the limit given to [`of`](Self::of). Extensions of chunks and trailers are skipped, at most 16 KiB of
/// them.
///
/// ```
/// use janus_core::wire::{BodyReader, HttpRequest};
///
/// let head = HttpRequest::new("POST", "/api/publish", [("Transfer-Encoding", &b"chunked"[..])]);
/// let mut body = BodyReader::of(&head, 1_024)?;
/// let mut input: &[u8] = b"5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1\r\n";
/// assert_eq!(body.read(&mut input), Some(Ok(b"hello".to_vec())));
/// assert_eq!(input, b"GET / HTTP/1.1\r\n", "the next request");
/// # Ok::<_, janus_core::wire::HttpError>(())
/// ```
#[derive(Debug)]
pub struct BodyReader {
    at: At,
    body: Vec<u8>,
    max: usize,
    /// Bytes of extensions and trailers so far.
    skipped: usize,
}

/// The position in the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// In a body with a length, or in a chunk.
    Data {
        left: usize,
        in_chunk: bool,
    },
    Size {
        size: usize,
        digits: u8,
    },
    /// In the rest of the line of a size.
    Extension {
        size: usize,
    },
    SizeLf {
        size: usize,
    },
    /// Behind the data of a chunk.
    DataCr,
    DataLf,
    /// In a line behind the last chunk.
    Trailer {
        is_empty: bool,
    },
    TrailerLf {
        was_empty: bool,
    },
    Over,
}

impl BodyReader {
    /// The body of the request with this head.
    ///
    /// # Errors
    ///
    /// `frame_too_large` (413) if the body is longer than `max_bytes`, as far as its head says so; `bad_frame` (400) if the
    /// end of the body is not certain.
    pub fn of(head: &HttpRequest, max_bytes: usize) -> Result<Self, HttpError> {
        let mut codings = head.headers_named("transfer-encoding");
        let mut lengths = head.headers_named("content-length");
        let at = match (codings.next(), lengths.next()) {
            (Some(_), Some(_)) => return Err(bad_head(TWO_LENGTHS)),
            (Some(coding), None) => {
                if head.is_http_1_0 || codings.next().is_some() || !coding.eq_ignore_ascii_case("chunked") {
                    return Err(bad_head("the only Transfer-Encoding of a body is chunked, over HTTP/1.1"));
                }
                At::Size { size: 0, digits: 0 }
            }
            (None, Some(length)) => {
                if lengths.next().is_some() || length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err(bad_head("Content-Length must be a single number"));
                }
                match length.parse() {
                    Ok(0) => At::Over,
                    Ok(left) if left <= max_bytes => At::Data { left, in_chunk: false },
                    _ => return Err(too_large(max_bytes)),
                }
            }
            (None, None) => At::Over,
        };
        Ok(Self { at, body: Vec::new(), max: max_bytes, skipped: 0 })
    }

    /// Takes bytes up to the end of the body, and returns the body once, when complete.
    ///
    /// # Errors
    ///
    /// `frame_too_large` (413), or `bad_frame` (400) for malformed chunks. The position of the next request is unknown
    /// then: the connection must be closed.
    pub fn read(&mut self, input: &mut &[u8]) -> Option<Result<Vec<u8>, HttpError>> {
        loop {
            if self.at == At::Over {
                return Some(Ok(std::mem::take(&mut self.body)));
            }
            if input.is_empty() {
                return None;
            }
            let step = match self.at {
                At::Data { left, in_chunk } => {
                    let (data, rest) = input.split_at(left.min(input.len()));
                    self.body.extend_from_slice(data);
                    *input = rest;
                    Ok(match left - data.len() {
                        0 if in_chunk => At::DataCr,
                        0 => At::Over,
                        left => At::Data { left, in_chunk },
                    })
                }
                at => {
                    let byte = input[0];
                    *input = &input[1..];
                    self.step(at, byte)
                }
            };
            match step {
                Ok(at) => self.at = at,
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Whether the body has ended.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.at == At::Over
    }

    /// The memory of the bytes kept.
    pub(super) fn memory(&self) -> usize {
        self.body.capacity()
    }

    /// Takes a byte outside of data.
    fn step(&mut self, at: At, byte: u8) -> Result<At, HttpError> {
        Ok(match (at, byte) {
            (At::Size { size, digits }, _) if byte.is_ascii_hexdigit() => {
                if digits == MAX_SIZE_DIGITS {
                    return Err(bad_chunk("a size has at most 16 digits"));
                }
                let digit = char::from(byte).to_digit(16).unwrap_or_default() as usize;
                // Far above every limit, and no number overflows.
                let size = size.saturating_mul(16).saturating_add(digit);
                At::Size { size, digits: digits + 1 }
            }
            (At::Size { digits: 0, .. }, _) => return Err(bad_chunk("expected a size in hexadecimal digits")),
            (At::Size { size, .. } | At::Extension { size }, b'\r') => At::SizeLf { size },
            (At::Size { size, .. }, b';') => At::Extension { size },
            (At::Size { .. }, _) => return Err(bad_chunk("expected the end of the line behind a size")),
            (At::Extension { size }, _) => {
                self.skip(byte)?;
                At::Extension { size }
            }
            (At::SizeLf { size: 0 }, b'\n') => At::Trailer { is_empty: true },
            (At::SizeLf { size }, b'\n') => {
                if size > self.max - self.body.len() {
                    return Err(too_large(self.max));
                }
                At::Data { left: size, in_chunk: true }
            }
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::Size { size: 0, digits: 0 },
            (At::Trailer { is_empty }, b'\r') => At::TrailerLf { was_empty: is_empty },
            (At::Trailer { .. }, _) => {
                self.skip(byte)?;
                At::Trailer { is_empty: false }
            }
            (At::TrailerLf { was_empty: true }, b'\n') => At::Over,
            (At::TrailerLf { was_empty: false }, b'\n') => At::Trailer { is_empty: true },
            (At::SizeLf { .. } | At::DataLf | At::TrailerLf { .. }, _) => {
                return Err(bad_chunk("a line must end with CR and LF"));
            }
            (At::DataCr, _) => return Err(bad_chunk("the data is longer than the size says")),
            (At::Data { .. } | At::Over, _) => at,
        })
    }

    fn skip(&mut self, byte: u8) -> Result<(), HttpError> {
        self.skipped += 1;
        match byte {
            _ if self.skipped > MAX_HEAD_BYTES => Err(bad_chunk("extensions and trailers are longer than 16 KiB")),
            0..0x20 | 0x7f if byte != b'\t' => Err(bad_chunk("a control character in an extension or a trailer")),
            _ => Ok(()),
        }
    }
}

/// Told to a request with both `Content-Length` and `Transfer-Encoding`.
pub(super) const TWO_LENGTHS: &str = "Content-Length and Transfer-Encoding exclude each other";

fn too_large(max: usize) -> HttpError {
    let message = format!("the body is longer than max_frame_bytes, {max} bytes");
    HttpError::new(413, ErrorCode::FrameTooLarge.as_str(), message)
}

fn bad_chunk(why: &str) -> HttpError {
    HttpError::new(400, ErrorCode::BadFrame.as_str(), format!("the chunks of the body: {why}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(headers: &[(&str, &str)]) -> HttpRequest {
        HttpRequest::new("POST", "/", headers.iter().map(|&(name, value)| (name, value.as_bytes())))
    }

    fn chunked() -> BodyReader {
        BodyReader::of(&head(&[("transfer-encoding", "Chunked")]), 16).unwrap()
    }

    /// The body with the bytes behind, or why there is no body.
    type Read = Result<(Vec<u8>, Vec<u8>), HttpError>;

    fn read(mut reader: BodyReader, mut input: &[u8]) -> Option<Read> {
        let read = reader.read(&mut input)?;
        Some(read.map(|body| (body, input.to_vec())))
    }

    #[test]
    fn a_body_ends_where_its_head_or_its_last_chunk_says() {
        let of = |headers: &[(&str, &str)]| BodyReader::of(&head(headers), 16).unwrap();
        let whole = |body: &[u8], rest: &[u8]| Some(Ok((body.to_vec(), rest.to_vec())));
        assert_eq!(read(of(&[]), b"GET"), whole(b"", b"GET"));
        assert_eq!(read(of(&[("content-length", "0")]), b"GET"), whole(b"", b"GET"));
        assert_eq!(read(of(&[("content-length", "4")]), b"bodyGET"), whole(b"body", b"GET"));
        assert_eq!(read(of(&[("content-length", "4")]), b"bod"), None);
        assert_eq!(read(chunked(), b"3\r\nbod\r\n01;a=\"b\"\r\ny\r\n0\r\nX: y\r\n\r\nGET"), whole(b"body", b"GET"));
        assert_eq!(read(chunked(), b"0\r\n\r\n"), whole(b"", b""));
        assert_eq!(read(chunked(), b"4\r\nbody\r\n0\r\n"), None);
    }

    #[test]
    fn a_head_that_leaves_the_end_of_the_body_in_doubt_is_refused() {
        for headers in [
            &[("content-length", "1"), ("transfer-encoding", "chunked")][..],
            &[("content-length", "1"), ("content-length", "1")],
            &[("content-length", "1, 1")],
            &[("content-length", "+1")],
            &[("content-length", "")],
            &[("transfer-encoding", "gzip, chunked")],
            &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
            &[("transfer-encoding", "")],
            // White space to Unicode, and not to HTTP.
            &[("transfer-encoding", "chunked\u{a0}")],
            &[("transfer-encoding", "\u{3000}chunked")],
            &[("content-length", "1\u{2003}")],
        ] {
            assert_eq!(BodyReader::of(&head(headers), 16).unwrap_err().status, 400, "{headers:?}");
        }
        let old = HttpRequest { is_http_1_0: true, ..head(&[("transfer-encoding", "chunked")]) };
        assert_eq!(BodyReader::of(&old, 16).unwrap_err().status, 400);
        for length in ["17", "99999999999999999999"] {
            assert_eq!(BodyReader::of(&head(&[("content-length", length)]), 16).unwrap_err().status, 413);
        }
    }

    #[test]
    fn malformed_and_large_chunks_are_refused() {
        for chunks in [
            "x\r\n",
            "-1\r\n",
            "\r\n",
            " 1\r\n",
            "1 \r\n",
            "1\n",
            "1\rx",
            "1\r\nab",
            "1\r\na\n",
            "1\r\na\rx",
            "0\r\n\rx",
            "0\r\n\n",
            "1;\x01\r\n",
            "0\r\na\x7f",
            "00000000000000001\r\n",
        ] {
            let error = read(chunked(), chunks.as_bytes()).unwrap().unwrap_err();
            assert_eq!((error.status, error.code), (400, "bad_frame"), "{chunks:?}");
        }
        for chunks in ["11\r\n", "ffffffffffffffff\r\n", "10\r\n0123456789abcdef\r\n1\r\n"] {
            assert_eq!(read(chunked(), chunks.as_bytes()).unwrap().unwrap_err().status, 413, "{chunks}");
        }
        for start in ["1;", "0\r\n"] {
            let endless = format!("{start}{}", "a".repeat(MAX_HEAD_BYTES + 1));
            assert_eq!(read(chunked(), endless.as_bytes()).unwrap().unwrap_err().status, 400);
        }
    }

    proptest! {
        #[test]
        fn a_body_split_anywhere_is_the_same_body(chunks in "(([1-3])(;x)?\r\nabc\r\n){0,4}0\r\n(X: y\r\n)?\r\nGET", at: usize) {
            let whole = read(chunked(), chunks.as_bytes());
            let (mut first, mut second) = chunks.as_bytes().split_at(at % chunks.len());
            let mut reader = chunked();
            let split = reader.read(&mut first).or_else(|| reader.read(&mut second));
            prop_assert_eq!(split.map(|read| read.ok()), whole.map(|read| read.ok().map(|(body, _)| body)));
        }
    }
}
