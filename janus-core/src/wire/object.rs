//! Writes a JSON object, member by member, straight into the bytes for a client.

use bytes::BufMut;

use super::publication::{put_decimal, put_json_string};
use super::{Epoch, ErrorCode, Position, RequestId};

/// An unfinished JSON object.
pub(super) struct Object<'o, B> {
    out: &'o mut B,
    /// The byte before the next key: `{` or `,`.
    next: u8,
}

impl<'o, B: BufMut> Object<'o, B> {
    pub(super) fn new(out: &'o mut B) -> Self {
        Self { out, next: b'{' }
    }

    fn key(&mut self, key: &str) {
        self.out.put_u8(self.next);
        self.next = b',';
        self.out.put_u8(b'"');
        self.out.put_slice(key.as_bytes());
        self.out.put_slice(b"\":");
    }

    pub(super) fn text(mut self, key: &str, text: &str) -> Self {
        self.key(key);
        put_json_string(self.out, text);
        self
    }

    /// A value already in JSON.
    pub(super) fn raw(mut self, key: &str, json: &str) -> Self {
        self.key(key);
        self.out.put_slice(json.as_bytes());
        self
    }

    /// A list, each item written by `put`.
    pub(super) fn list<T>(mut self, key: &str, items: &[T], put: impl Fn(&T, &mut B)) -> Self {
        self.key(key);
        self.out.put_u8(b'[');
        for (place, item) in items.iter().enumerate() {
            if place > 0 {
                self.out.put_u8(b',');
            }
            put(item, self.out);
        }
        self.out.put_u8(b']');
        self
    }

    pub(super) fn number(mut self, key: &str, number: u64) -> Self {
        self.key(key);
        put_decimal(self.out, number);
        self
    }

    pub(super) fn id(self, id: RequestId) -> Self {
        match id {
            Some(id) => self.number("id", id),
            None => self,
        }
    }

    pub(super) fn epoch(self, epoch: Epoch) -> Self {
        self.raw("epoch", &format!("\"{epoch}\""))
    }

    pub(super) fn position(self, position: Position) -> Self {
        self.epoch(position.epoch).number("seq", position.seq)
    }

    /// Whether a receipt is that of an earlier message with the same key.
    pub(super) fn again(self, again: bool) -> Self {
        if again { self.raw("again", "true") } else { self }
    }

    pub(super) fn reason(self, code: ErrorCode, message: &str) -> Self {
        self.number("code", code.number().into()).text("error", code.as_str()).text("message", message)
    }

    pub(super) fn end(self) {
        self.out.put_u8(b'}');
    }
}
