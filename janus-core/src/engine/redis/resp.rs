//! RESP3, the protocol of Redis: commands as bytes, and replies from bytes.
//!
//! Streamed strings and arrays, which Redis sends on demand only, are refused; attributes are skipped.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::wire::put_decimal;

/// Writes the head of a command of so many parts; each part follows with [`put_part`].
pub(super) fn put_command(out: &mut BytesMut, parts: usize) {
    out.put_u8(b'*');
    put_decimal(out, parts as u64);
    out.put_slice(b"\r\n");
}

/// Writes a part of a command.
pub(super) fn put_part(out: &mut BytesMut, part: &[u8]) {
    put_part_of(out, &[part]);
}

/// Writes a part of a command from these pieces, in order.
pub(super) fn put_part_of(out: &mut BytesMut, pieces: &[&[u8]]) {
    out.put_u8(b'$');
    put_decimal(out, pieces.iter().map(|piece| piece.len()).sum::<usize>() as u64);
    out.put_slice(b"\r\n");
    pieces.iter().for_each(|piece| out.put_slice(piece));
    out.put_slice(b"\r\n");
}

/// Writes a number as a part of a command.
pub(super) fn put_number(out: &mut BytesMut, number: u64) {
    let digits = number.checked_ilog10().map_or(1, |log| log + 1);
    out.put_u8(b'$');
    put_decimal(out, u64::from(digits));
    out.put_slice(b"\r\n");
    put_decimal(out, number);
    out.put_slice(b"\r\n");
}

/// A reply, a part of a reply, or a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Null,
    /// A number or a truth value.
    Integer(i64),
    /// A string of any kind, a big or a broken number.
    Text(Bytes),
    Error(Bytes),
    /// An array, a set, or a map as key, value, key, value.
    Array(Vec<Self>),
    /// News without a request.
    Push(Vec<Self>),
}

impl Value {
    /// The text of a string.
    pub(super) fn as_text(&self) -> Option<&Bytes> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// The bytes are no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RespError {
    #[error("the bytes are not RESP3")]
    Malformed,
    #[error("a reply is larger than {limit} bytes")]
    TooLarge { limit: usize },
}

/// The longest line: a simple string, an error, or a length.
const MAX_LINE: usize = 64 * 1024;
/// Arrays within arrays.
const MAX_DEPTH: usize = 8;
/// Parts of a reply; the memory of a part is many times the shortest text.
const MAX_PARTS: u64 = 1 << 22;

/// Finds the end of the next reply, however the bytes come in, and looks at each byte once.
#[derive(Debug)]
pub(super) struct Parser {
    /// The most bytes of a reply.
    limit: usize,
    /// The bytes of the buffer behind the scan.
    scanned: usize,
    /// The missing parts of the reply.
    missing: u64,
    /// The parts of the reply so far.
    parts: u64,
}

impl Parser {
    pub(super) const fn new(limit: usize) -> Self {
        Self { limit, scanned: 0, missing: 1, parts: 0 }
    }

    /// Takes the next reply from the buffer, if the reply is complete.
    pub(super) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Value>, RespError> {
        while self.missing > 0 {
            if !self.scan(buffer)? {
                let too_large = RespError::TooLarge { limit: self.limit };
                return if buffer.len() > self.limit { Err(too_large) } else { Ok(None) };
            }
        }
        let frame = buffer.split_to(self.scanned).freeze();
        *self = Self::new(self.limit);
        Reader { frame, at: 0 }.value(0).map(Some)
    }

    /// Looks at one part; of an aggregate, at its head. Returns whether the part is complete.
    fn scan(&mut self, buffer: &[u8]) -> Result<bool, RespError> {
        let rest = &buffer[self.scanned..];
        let Some(line) = line_of(rest)? else { return Ok(false) };
        let behind_line = line.len() + 2;
        let (mut length, mut inner) = (behind_line, 0);
        let mut is_part = 1;
        match line[0] {
            b'$' | b'!' | b'=' => {
                if let Some(bytes) = length_of(line)? {
                    let too_large = RespError::TooLarge { limit: self.limit };
                    let bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes <= self.limit).ok_or(too_large)?;
                    length += bytes + 2;
                    if rest.len() < length {
                        return Ok(false);
                    }
                    if &rest[length - 2..length] != b"\r\n" {
                        return Err(RespError::Malformed);
                    }
                }
            }
            b'*' | b'~' | b'>' => inner = length_of(line)?.unwrap_or(0),
            b'%' => inner = length_of(line)?.unwrap_or(0).saturating_mul(2),
            // An attribute comes with a reply, and is no reply.
            b'|' => (inner, is_part) = (length_of(line)?.unwrap_or(0).saturating_mul(2), 0),
            b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => {}
            _ => return Err(RespError::Malformed),
        }
        self.parts = self.parts.saturating_add(inner);
        if self.parts > MAX_PARTS || self.scanned + length > self.limit {
            return Err(RespError::TooLarge { limit: self.limit });
        }
        self.scanned += length;
        self.missing = self.missing + inner - is_part;
        Ok(true)
    }
}

/// The first line, if the line is complete: at least one byte, without the end of the line.
fn line_of(bytes: &[u8]) -> Result<Option<&[u8]>, RespError> {
    let known = bytes.first().is_none_or(|kind| b"$!=*~>%|+-:_#,(".contains(kind));
    let window = &bytes[..bytes.len().min(MAX_LINE)];
    match window.iter().position(|byte| *byte == b'\r') {
        _ if !known => Err(RespError::Malformed),
        Some(0) => Err(RespError::Malformed),
        Some(end) => match window.get(end + 1) {
            Some(b'\n') => Ok(Some(&window[..end])),
            Some(_) => Err(RespError::Malformed),
            None if window.len() < MAX_LINE => Ok(None),
            None => Err(RespError::Malformed),
        },
        None if window.len() < MAX_LINE => Ok(None),
        None => Err(RespError::Malformed),
    }
}

/// The length in a line such as `$12`; `None` for -1, which older servers write for null.
fn length_of(line: &[u8]) -> Result<Option<u64>, RespError> {
    let digits = str::from_utf8(&line[1..]).map_err(|_| RespError::Malformed)?;
    match digits {
        "-1" => Ok(None),
        _ if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().map(Some).map_err(|_| RespError::Malformed)
        }
        _ => Err(RespError::Malformed),
    }
}

/// Reads a complete reply.
struct Reader {
    frame: Bytes,
    at: usize,
}

impl Reader {
    fn value(&mut self, depth: usize) -> Result<Value, RespError> {
        if depth > MAX_DEPTH {
            return Err(RespError::Malformed);
        }
        let rest = &self.frame[self.at..];
        let line = line_of(rest)?.ok_or(RespError::Malformed)?;
        let kind = line[0];
        let text = self.at + 1..self.at + line.len();
        let length = if b"$!=*~>%|".contains(&kind) { length_of(line)? } else { None };
        self.at = text.end + 2;
        let text = |of: &Bytes| of.slice(text);
        Ok(match (kind, length) {
            (b'$' | b'!' | b'=', Some(length)) => {
                let mut text = self.frame.slice(self.at..self.at + length as usize);
                self.at += length as usize + 2;
                if kind == b'=' {
                    // Three letters and a colon name the sort of text.
                    text.advance(text.len().min(4));
                }
                if kind == b'!' { Value::Error(text) } else { Value::Text(text) }
            }
            (b'*' | b'~', Some(length)) => Value::Array(self.values(length, depth)?),
            (b'>', Some(length)) => Value::Push(self.values(length, depth)?),
            (b'%', Some(length)) => Value::Array(self.values(length * 2, depth)?),
            (b'|', length) => {
                self.values(length.unwrap_or(0) * 2, depth)?;
                self.value(depth + 1)?
            }
            (b'+' | b',' | b'(', _) => Value::Text(text(&self.frame)),
            (b'-', _) => Value::Error(text(&self.frame)),
            (b':', _) => {
                let digits = text(&self.frame);
                let digits = str::from_utf8(&digits).map_err(|_| RespError::Malformed)?;
                Value::Integer(digits.parse().map_err(|_| RespError::Malformed)?)
            }
            (b'#', _) => Value::Integer(i64::from(&*text(&self.frame) == b"t")),
            _ => Value::Null,
        })
    }

    fn values(&mut self, count: u64, depth: usize) -> Result<Vec<Value>, RespError> {
        (0..count).map(|_| self.value(depth + 1)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(text: &'static str) -> Value {
        Value::Text(Bytes::from_static(text.as_bytes()))
    }

    fn error(text: &'static str) -> Value {
        Value::Error(Bytes::from_static(text.as_bytes()))
    }

    /// All replies in these pieces of bytes.
    fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Value>, RespError> {
        let (mut parser, mut buffer, mut values) = (Parser::new(4096), BytesMut::new(), Vec::new());
        for piece in pieces {
            buffer.put_slice(piece);
            while let Some(value) = parser.next(&mut buffer)? {
                values.push(value);
            }
        }
        Ok(values)
    }

    fn one(bytes: &str) -> Result<Vec<Value>, RespError> {
        read([bytes.as_bytes()])
    }

    #[test]
    fn a_command_is_an_array_of_strings() {
        let mut out = BytesMut::new();
        put_command(&mut out, 4);
        put_part(&mut out, b"SET");
        put_part_of(&mut out, &[b"a", b"", b":b"]);
        put_number(&mut out, 0);
        put_number(&mut out, 1234);
        assert_eq!(out, "*4\r\n$3\r\nSET\r\n$3\r\na:b\r\n$1\r\n0\r\n$4\r\n1234\r\n".as_bytes());
    }

    #[test]
    fn each_kind_of_reply_has_its_value() {
        let replies = [
            ("+OK\r\n", text("OK")),
            ("-ERR no\r\n", error("ERR no")),
            ("!6\r\nERR no\r\n", error("ERR no")),
            (":-7\r\n", Value::Integer(-7)),
            ("#t\r\n", Value::Integer(1)),
            ("_\r\n", Value::Null),
            ("$-1\r\n", Value::Null),
            ("*-1\r\n", Value::Null),
            (",1.5\r\n", text("1.5")),
            ("(123456789012345678901234567890\r\n", text("123456789012345678901234567890")),
            ("$4\r\na\r\nb\r\n", text("a\r\nb")),
            ("$0\r\n\r\n", text("")),
            ("=8\r\ntxt:some\r\n", text("some")),
            ("*0\r\n", Value::Array(vec![])),
            ("~1\r\n:1\r\n", Value::Array(vec![Value::Integer(1)])),
            ("%1\r\n+a\r\n*1\r\n_\r\n", Value::Array(vec![text("a"), Value::Array(vec![Value::Null])])),
            (">2\r\n+message\r\n$1\r\nx\r\n", Value::Push(vec![text("message"), text("x")])),
            ("|1\r\n+ttl\r\n:3\r\n*2\r\n|1\r\n+a\r\n+b\r\n:1\r\n:2\r\n", {
                Value::Array(vec![Value::Integer(1), Value::Integer(2)])
            }),
        ];
        for (bytes, value) in &replies {
            assert_eq!(one(bytes), Ok(vec![value.clone()]), "{bytes:?}");
        }
        let all: String = replies.iter().map(|(bytes, _)| *bytes).collect();
        let values: Vec<_> = replies.iter().map(|(_, value)| value.clone()).collect();
        assert_eq!(one(&all), Ok(values.clone()));
        let bytes: Vec<&[u8]> = all.as_bytes().chunks(1).collect();
        assert_eq!(read(bytes), Ok(values));
    }

    #[test]
    fn what_is_not_resp_is_refused_at_its_first_byte() {
        for bytes in
            ["HTTP/1.1 400 Bad Request\r\n", "\x15\x03\x01", "H", "\r\n", "*1\r\nx", "$?\r\n", "*?\r\n", "$1\r\nab\r"]
        {
            assert_eq!(one(bytes), Err(RespError::Malformed), "{bytes:?}");
        }
        for bytes in [":1x\r\n", ":\r\n", "$-2\r\n", "$+1\r\na\r\n", "$1\rx", "+a\rb\r\n"] {
            assert_eq!(one(bytes), Err(RespError::Malformed), "{bytes:?}");
        }
    }

    #[test]
    fn a_reply_over_the_limit_is_refused_before_it_has_come() {
        let too_large = Err(RespError::TooLarge { limit: 4096 });
        assert_eq!(one("$4097\r\n"), too_large);
        assert_eq!(one("$99999999999999999999\r\n"), Err(RespError::Malformed));
        assert_eq!(one(&format!("*2\r\n$4000\r\n{}\r\n$4000\r\n{}", "a".repeat(4000), "a".repeat(100))), too_large);
        assert_eq!(one("*9999999999999\r\n"), too_large);
        assert_eq!(one("%9999999999999999999\r\n"), too_large);
        assert_eq!(one("$4087\r\n"), Ok(vec![]));
    }

    #[test]
    fn a_reply_of_many_levels_is_refused() {
        assert!(one(&("*1\r\n".repeat(8) + "_\r\n")).is_ok());
        assert_eq!(one(&("*1\r\n".repeat(1000) + "_\r\n")), Err(RespError::Malformed));
        assert_eq!(one(&("|0\r\n".repeat(1000) + "_\r\n")), Err(RespError::Malformed));
    }

    fn values() -> impl Strategy<Value = Value> {
        let bytes = proptest::collection::vec(any::<u8>(), 0..20);
        let line = "[ -~]{0,20}";
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::Integer),
            bytes.prop_map(|bytes| Value::Text(bytes.into())),
            line.prop_map(|line| Value::Error(line.into())),
        ];
        leaf.prop_recursive(4, 30, 6, |inner| {
            let many = proptest::collection::vec(inner, 0..6);
            prop_oneof![many.clone().prop_map(Value::Array), many.prop_map(Value::Push)]
        })
    }

    fn write(value: &Value, out: &mut Vec<u8>) {
        let many = |kind: char, values: &[Value], out: &mut Vec<u8>| {
            out.extend(format!("{kind}{}\r\n", values.len()).bytes());
            values.iter().for_each(|value| write(value, out));
        };
        match value {
            Value::Null => out.extend(b"_\r\n"),
            Value::Integer(number) => out.extend(format!(":{number}\r\n").bytes()),
            Value::Text(text) => {
                out.extend(format!("${}\r\n", text.len()).bytes());
                out.extend(text);
                out.extend(b"\r\n");
            }
            Value::Error(text) => out.extend([b"-", &text[..], b"\r\n"].concat()),
            Value::Array(values) => many('*', values, out),
            Value::Push(values) => many('>', values, out),
        }
    }

    proptest! {
        #[test]
        fn replies_come_back_however_the_bytes_are_split(
            values in proptest::collection::vec(values(), 0..8), cuts in proptest::collection::vec(1..40_usize, 1..50),
        ) {
            let mut bytes = Vec::new();
            values.iter().for_each(|value| write(value, &mut bytes));
            let mut rest = &bytes[..];
            let mut pieces = Vec::new();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, behind) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece);
                rest = behind;
            }
            prop_assert_eq!(read(pieces), Ok(values));
        }

        #[test]
        fn any_bytes_are_read_or_refused(
            bytes in "([$!=*~>%|+:_#,(-][-0-9]{0,3}(\r\n)?|[a-z]{0,5}|\r\n){0,40}", cut in 0..200_usize,
        ) {
            let whole = one(&bytes);
            let (left, right) = bytes.as_bytes().split_at(cut.min(bytes.len()));
            prop_assert_eq!(read([left, right]), whole);
        }
    }
}
