//! Writes JSON objects, member by member.

use janus_core::wire::BytesMut;

/// An unfinished object.
pub(crate) struct Object<'o> {
    out: &'o mut BytesMut,
    next: u8,
}

impl<'o> Object<'o> {
    pub(crate) fn new(out: &'o mut BytesMut) -> Self {
        Self { out, next: b'{' }
    }

    fn key(&mut self, key: &str) {
        self.out.extend_from_slice(&[self.next, b'"']);
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.next = b',';
    }

    /// A value already in JSON.
    pub(crate) fn raw(mut self, key: &str, json: &str) -> Self {
        self.key(key);
        put_json(self.out, json);
        self
    }

    pub(crate) fn text(self, key: &str, text: &str) -> Self {
        let json = json_text(text);
        self.raw(key, &json)
    }

    pub(crate) fn number(mut self, key: &str, number: u64) -> Self {
        self.key(key);
        put_number(self.out, number);
        self
    }

    /// A member whose value is `true`; without the member the value is false.
    pub(crate) fn flag(self, key: &str, flag: bool) -> Self {
        if flag { self.raw(key, "true") } else { self }
    }

    pub(crate) fn object(mut self, key: &str, write: impl FnOnce(Object<'_>)) -> Self {
        self.key(key);
        write(Object::new(self.out));
        self
    }

    /// An object under a key that is any text.
    pub(crate) fn entry(mut self, key: &str, write: impl FnOnce(Object<'_>)) -> Self {
        self.out.extend_from_slice(&[self.next]);
        self.out.extend_from_slice(json_text(key).as_bytes());
        self.out.extend_from_slice(b":");
        self.next = b',';
        write(Object::new(self.out));
        self
    }

    /// A list, each item written by `write`.
    pub(crate) fn list<T>(mut self, key: &str, items: &[T], write: impl Fn(&T, &mut BytesMut)) -> Self {
        self.key(key);
        self.out.extend_from_slice(b"[");
        for (place, item) in items.iter().enumerate() {
            if place > 0 {
                self.out.extend_from_slice(b",");
            }
            write(item, self.out);
        }
        self.out.extend_from_slice(b"]");
        self
    }

    pub(crate) fn end(self) {
        self.out.extend_from_slice(if self.next == b'{' { b"{}" } else { b"}" });
    }
}

/// A text as a JSON string.
pub(crate) fn json_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A JSON value of a publisher's.
///
/// Clients split what they are told at line breaks. JSON has line breaks only as white space between tokens, so a blank leaves
/// the value unchanged.
pub(crate) fn put_json(out: &mut BytesMut, json: &str) {
    let bytes = json.as_bytes();
    let from = out.len();
    out.extend_from_slice(bytes);
    // Most values have none.
    if let Some(first) = memchr::memchr2(b'\n', b'\r', bytes) {
        for byte in &mut out[from + first..] {
            if matches!(byte, b'\n' | b'\r') {
                *byte = b' ';
            }
        }
    }
}

/// Without the machinery of `fmt`, for each message.
pub(crate) fn put_number(out: &mut BytesMut, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return out.extend_from_slice(&digits[at..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_break_between_tokens_becomes_a_blank() {
        let mut out = BytesMut::from(&b"kept\n"[..]);
        put_json(&mut out, "{\r\n\"a\": \"\\n\",\n\t1}");
        assert_eq!(out, &b"kept\n{  \"a\": \"\\n\", \t1}"[..]);
    }

    #[test]
    fn objects_are_json() {
        let mut out = BytesMut::new();
        let object = Object::new(&mut out).number("a", 0).number("b", u64::MAX).text("c", "\"\n").flag("d", false);
        let object = object.object("e", |empty| empty.end()).list("f", &[1, 2], |item, out| put_number(out, *item));
        object.entry("\"", |empty| empty.end()).end();
        let text = str::from_utf8(&out).unwrap();
        assert_eq!(text, r#"{"a":0,"b":18446744073709551615,"c":"\"\n","e":{},"f":[1,2],"\"":{}}"#);
    }
}
