//! Answers to requests whose connection may be kept, and the `Date` of all answers.

use std::cell::RefCell;
use std::time::{Duration, SystemTime};

use bytes::{BufMut, BytesMut};

use super::{HttpError, HttpRequest, reason_phrase};
use crate::wire::publication::put_decimal;

/// What becomes of the connection behind an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ends {
    /// Kept, as HTTP/1.1 does without a word.
    Keeps = 0,
    /// Kept, because a client of HTTP/1.0 asks for that, and looks for the word in the answer.
    KeepsAsAsked = 1,
    Closes = 2,
}

impl Ends {
    /// What the client wants (RFC 9112, 9.3).
    pub(super) fn of(request: &HttpRequest) -> Self {
        match (request.is_http_1_0, request.keeps_connection()) {
            (_, false) => Self::Closes,
            (false, true) => Self::Keeps,
            (true, true) => Self::KeepsAsAsked,
        }
    }

    pub(super) fn from_number(number: u64) -> Self {
        match number {
            0 => Self::Keeps,
            1 => Self::KeepsAsAsked,
            _ => Self::Closes,
        }
    }

    fn header(self) -> &'static [u8] {
        match self {
            Self::Keeps => b"",
            Self::KeepsAsAsked => b"connection: keep-alive\r\n",
            Self::Closes => b"connection: close\r\n",
        }
    }
}

/// Writes an answer with a body in JSON.
pub(super) fn put_answer(out: &mut BytesMut, status: u16, ends: Ends, body: &[u8]) {
    /// The head without its numbers.
    const HEAD_BYTES: usize = 192;
    out.reserve(HEAD_BYTES + body.len());
    if status == 200 {
        out.put_slice(b"HTTP/1.1 200 OK\r\n");
    } else {
        out.put_slice(format!("HTTP/1.1 {status} {}\r\n", reason_phrase(status)).as_bytes());
    }
    put_rest(out, ends, body);
}

/// Writes an error with its headers.
pub(super) fn put_error(out: &mut BytesMut, error: &HttpError, ends: Ends) {
    out.put_slice(format!("HTTP/1.1 {} {}\r\n", error.status, reason_phrase(error.status)).as_bytes());
    for (name, value) in error.headers() {
        // No error of a publication has a `connection` of its own.
        out.put_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    put_rest(out, ends, &error.body());
}

fn put_rest(out: &mut BytesMut, ends: Ends, body: &[u8]) {
    out.put_slice(b"content-type: application/json\r\ncache-control: no-store\r\ncontent-length: ");
    put_decimal(out, body.len() as u64);
    out.put_slice(b"\r\ndate: ");
    with_date(|date| out.put_slice(date.as_bytes()));
    out.put_slice(b"\r\n");
    out.put_slice(ends.header());
    out.put_slice(b"\r\n");
    out.put_slice(body);
}

thread_local! {
    /// The last date on this thread, with its second: a thousand answers a second have the same.
    static DATE: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
}

/// Calls `with` with the value of a response's `Date` (RFC 9110, 6.6.1): now.
pub(super) fn with_date<T>(with: impl FnOnce(&str) -> T) -> T {
    let second = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs());
    DATE.with_borrow_mut(|(last, date)| {
        if *last != second {
            *date = httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(second));
            *last = second;
        }
        with(date)
    })
}
