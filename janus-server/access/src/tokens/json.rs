//! JSON of strangers and of issuers: no key may be duplicate in one object.
//!
//! `serde_json` takes the last of two equal keys, and another reader of the same token may take the first. A token whose
//! meaning depends on the reader is refused.

use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// Why a text is refused. Has none of the text: the text may be secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    NotJson,
    Duplicate,
}

/// Reads a text with one JSON value in UTF-8.
pub(super) fn read(text: &[u8]) -> Result<Value, Refused> {
    let mut found = false;
    let mut reader = serde_json::Deserializer::from_slice(text);
    let scan = UniqueKeys { duplicate: &mut found }.deserialize(&mut reader);
    if found {
        return Err(Refused::Duplicate);
    }
    scan.and_then(|()| reader.end()).map_err(|_| Refused::NotJson)?;
    serde_json::from_slice(text).map_err(|_| Refused::NotJson)
}

/// Visits each object, and keeps nothing of the values.
struct UniqueKeys<'a> {
    duplicate: &'a mut bool,
}

impl<'de> DeserializeSeed<'de> for UniqueKeys<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for UniqueKeys<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut keys = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            if !keys.insert(key) {
                *self.duplicate = true;
                return Err(A::Error::custom("a duplicate key"));
            }
            map.next_value_seed(UniqueKeys { duplicate: self.duplicate })?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(UniqueKeys { duplicate: self.duplicate })?.is_some() {}
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(IgnoredAny).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duplicate_key_is_found_at_any_depth_and_in_any_spelling() {
        for text in [
            r#"{"sub":"a","sub":"b"}"#,
            r#"{"a":[1,{"b":{"c":1,"d":2,"c":3}}]}"#,
            r#"{"sub":"a","\u0073ub":"b"}"#,
            r#"{"a":1,"a":"#,
        ] {
            assert_eq!(read(text.as_bytes()), Err(Refused::Duplicate), "{text}");
        }
        assert!(read(br#"{"a":{"x":1},"b":{"x":2},"c":[{"x":1},{"x":1}]}"#).is_ok());
    }

    #[test]
    fn everything_else_is_json_or_refused() {
        for text in ["null", "-1.5e3", "18446744073709551615", "\"x\"", "[true,false,[]]", " {} "] {
            assert!(read(text.as_bytes()).is_ok(), "{text}");
        }
        let deep = "[".repeat(200) + &"]".repeat(200);
        for text in ["", "{", "{} {}", "{\"a\":}", "nul", "\u{feff}{}", &deep] {
            assert_eq!(read(text.as_bytes()), Err(Refused::NotJson), "{text}");
        }
        assert_eq!(read(b"\"\xff\""), Err(Refused::NotJson));
    }
}
