//! Bytes as text: the form in which a payload of bytes travels inside JSON (RFC 4648, section 4, with padding).

use std::fmt;

use bytes::{BufMut, BytesMut};
use data_encoding::BASE64;

/// Bytes as canonical base64: any bytes have exactly one text, so equal texts are equal bytes.
///
/// ```
/// use janus_core::wire::Base64;
///
/// let payload = Base64::new("AP8=")?;
/// assert_eq!((payload.decode(), payload.len()), (vec![0x00, 0xff], 2));
/// // Without padding, of another alphabet, with bits that stand for nothing, with white space.
/// assert!(["AP8", "_-8=", "AP9=", "AP8=\n"].iter().all(|text| Base64::new(text).is_err()));
/// # Ok::<_, janus_core::wire::Base64Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Base64<'a>(&'a str);

/// A text that is not canonical base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected base64 of RFC 4648, section 4: the letters A-Z, a-z, 0-9, + and /, with padding (=), without white space"
)]
pub struct Base64Error;

/// Characters checked at a time, in groups of four.
const PORTION: usize = 1_024;

impl<'a> Base64<'a> {
    /// Checks that a text is canonical base64. Takes no memory.
    ///
    /// # Errors
    ///
    /// The text is of another alphabet, lacks its padding, has further characters, or has other bits in the last character
    /// than an encoder writes.
    pub fn new(text: &'a str) -> Result<Self, Base64Error> {
        // The decoder accepts texts one after the other, each with its padding.
        let inner = &text.as_bytes()[..text.len().saturating_sub(2)];
        if inner.contains(&b'=') {
            return Err(Base64Error);
        }
        let mut decoded = [0; PORTION / 4 * 3];
        for portion in text.as_bytes().chunks(PORTION) {
            let room = BASE64.decode_len(portion.len()).map_err(|_| Base64Error)?;
            BASE64.decode_mut(portion, &mut decoded[..room]).map_err(|_| Base64Error)?;
        }
        Ok(Self(text))
    }

    /// A text written by [`put_base64`], or checked before.
    pub(super) fn of_checked(text: &'a str) -> Self {
        debug_assert!(Self::new(text).is_ok());
        Self(text)
    }

    /// The bytes in the raw text of a JSON string without escapes, as a server writes it.
    pub(super) fn of_json(raw: &'a str) -> Result<Self, Base64Error> {
        Self::new(raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"')).ok_or(Base64Error)?)
    }

    /// The text.
    #[must_use]
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// How many bytes the text stands for.
    #[must_use]
    pub fn len(self) -> usize {
        self.0.len() / 4 * 3 - (self.0.len() - self.0.trim_end_matches('=').len())
    }

    /// Whether the text stands for no bytes.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The bytes.
    #[must_use]
    pub fn decode(self) -> Vec<u8> {
        BASE64.decode(self.0.as_bytes()).expect("the text was checked")
    }

    /// Appends the bytes, for a [codec](super::Codec) that carries a payload as it is.
    pub fn put(self, out: &mut BytesMut) {
        let start = out.len();
        out.put_bytes(0, self.0.len() / 4 * 3);
        let decoded = BASE64.decode_mut(self.0.as_bytes(), &mut out[start..]).expect("the text was checked");
        out.truncate(start + decoded);
    }
}

/// Appends bytes as base64.
pub(super) fn put_base64(out: &mut String, bytes: &[u8]) {
    out.reserve(BASE64.encode_len(bytes.len()));
    BASE64.encode_append(bytes, out);
}

impl fmt::Debug for Base64<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Base64({:?})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_the_text_that_an_encoder_writes_is_base64() {
        for (text, bytes) in [("", &b""[..]), ("AA==", b"\0"), ("AP8=", b"\0\xff"), ("/+8B", b"\xff\xef\x01")] {
            let base64 = Base64::new(text).unwrap();
            assert_eq!((&*base64.decode(), base64.len(), base64.is_empty()), (bytes, bytes.len(), bytes.is_empty()));
        }
        for text in
            ["A", "AA", "AA=", "AB==", "AA==AA==", "====", "=", "A===", "AP9=", "_-8B", "AP8=\n", " AP8=", "é==="]
        {
            assert_eq!(Base64::new(text), Err(Base64Error), "{text:?}");
        }
        let long = "AAAA".repeat(PORTION);
        assert_eq!(Base64::new(&long).map(Base64::len), Ok(3 * PORTION));
        for at in [PORTION - 1, PORTION, 2 * PORTION + 1] {
            for character in ["=", "-", "\n"] {
                let mut text = long.clone();
                text.replace_range(at..=at, character);
                assert!(Base64::new(&text).is_err(), "{character:?} at {at}");
            }
        }
    }

    proptest! {
        #[test]
        fn bytes_come_back_from_their_text(bytes: Vec<u8>) {
            let mut text = String::new();
            put_base64(&mut text, &bytes);
            let base64 = Base64::new(&text).unwrap();
            prop_assert_eq!((base64.len(), base64.is_empty()), (bytes.len(), bytes.is_empty()));
            let mut out = BytesMut::from(&b"before"[..]);
            base64.put(&mut out);
            prop_assert_eq!(&out[6..], &bytes[..]);
            prop_assert_eq!(base64.decode(), bytes);
        }

        #[test]
        fn a_text_stands_for_its_own_bytes_or_for_none(text in "[A-C/+=a]{0,12}") {
            if let Ok(base64) = Base64::new(&text) {
                let mut again = String::new();
                put_base64(&mut again, &base64.decode());
                prop_assert_eq!(again, text);
            }
        }
    }
}
