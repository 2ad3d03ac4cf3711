//! The data of a message: text with Pusher, JSON with Janus.
//!
//! A publisher of Pusher sends a string. A string that is JSON is kept as that JSON, so that clients of Janus see the value;
//! any other string is kept as a string of JSON. Clients of Pusher get the string back, and parse it: a kept string that is
//! not JSON itself goes out as it came in.

use std::borrow::Cow;
use std::io::Write;

use serde::de::IgnoredAny;
use serde_json::value::RawValue;

/// Why writing does not fail.
const IN_MEMORY: &str = "memory takes every byte";

/// A publisher's string as the JSON text to be kept.
pub(crate) fn kept(text: &str) -> Cow<'_, str> {
    match serde_json::from_str::<&RawValue>(text) {
        Ok(value) => Cow::Borrowed(value.get()),
        Err(_) => Cow::Owned(serde_json::Value::from(text).to_string()),
    }
}

/// The JSON text to be kept of the data of a message: a string of Pusher, or any other value as it is.
pub(crate) fn kept_value(value: &RawValue) -> Cow<'_, str> {
    match serde_json::from_str::<String>(value.get()) {
        Ok(text) => Cow::Owned(kept(&text).into_owned()),
        Err(_) => Cow::Borrowed(value.get()),
    }
}

/// Kept JSON text as the string for clients of Pusher, as a JSON string.
pub(crate) fn put_string(out: &mut impl Write, kept: &str) {
    // A string that is no JSON itself is text of its publisher, or stands for itself.
    if kept.starts_with('"')
        && let Ok(text) = serde_json::from_str::<String>(kept)
        && serde_json::from_str::<IgnoredAny>(&text).is_err()
    {
        return out.write_all(kept.as_bytes()).expect(IN_MEMORY);
    }
    put_text(out, kept);
}

/// Text as a JSON string.
pub(crate) fn put_text(out: &mut impl Write, text: &str) {
    serde_json::to_writer(out, text).expect(IN_MEMORY);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a client parses from the data of a message: JSON, or else the text itself, as pusher-js does.
    fn seen(text: &str) -> serde_json::Value {
        let mut out = Vec::new();
        put_string(&mut out, &kept(text));
        let text: String = serde_json::from_slice(&out).unwrap();
        serde_json::from_str(&text).unwrap_or_else(|_| text.into())
    }

    #[test]
    fn a_client_sees_the_data_of_the_publisher() {
        for text in
            ["{\"a\":1}", "[1, 2]", "1.50", "null", "hello", "", "\"hello\"", "\"1\"", "a \"b\"", "\\", "{", "1 2"]
        {
            let meant: serde_json::Value = serde_json::from_str(text).unwrap_or_else(|_| text.into());
            assert_eq!(seen(text), meant, "{text}");
        }
    }

    #[test]
    fn text_that_is_not_json_arrives_as_the_same_text() {
        for text in ["hello", "a \"b\"", "{", "\u{e9}\u{1f600}"] {
            let mut out = Vec::new();
            put_string(&mut out, &kept(text));
            assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
        assert_eq!(kept("{\"price\": 1.50}"), "{\"price\": 1.50}", "a publisher's digits and blanks stay");
    }

    #[test]
    fn a_value_in_place_of_a_string_is_kept_as_it_is() {
        let value = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        assert_eq!(kept_value(&value("{\"a\":1}")), "{\"a\":1}");
        assert_eq!(kept_value(&value("\"{\\\"a\\\":1}\"")), "{\"a\":1}");
        assert_eq!(kept_value(&value("\"hello\"")), "\"hello\"");
    }
}
