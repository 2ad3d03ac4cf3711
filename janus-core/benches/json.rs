//! The JSON reader of `wire/json.rs`, held against a single pass of `serde_json` into raw values.
//!
//! The job of both: the raw text of nine keys of an object, as for each frame of `janus.v1.json`, with duplicates
//! noticed and unknown keys skipped. Frames of several sizes, whose data is a plain string, a string full of escapes or
//! nested structure; and a frame with an error at its end. The contenders take turns within the run.
//!
//! This comparison decides which of the two reads frames; the header of `wire/json.rs` has the verdict.

mod interleaved;

use std::fmt;
use std::hint::black_box;
use std::time::{Duration, Instant};

use interleaved::{Comparison, rounds};
use janus_core::internals::json_members;
use janus_core::wire::v1::client;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

const KEYS: [&str; 9] = ["type", "id", "topic", "event", "message_id", "data", "since", "session", "auth"];

/// Bytes read by each contender in a turn, about: some milliseconds.
const TURN_BYTES: usize = 1 << 20;

fn main() {
    let string = |bytes| format!("\"{}\"", "x".repeat(bytes));
    let escapes = |bytes: usize| format!("\"{}\"", "caf\\u00e9 \\n\\\"price\\\" ".repeat(bytes / 22));
    let structure = |bytes: usize| {
        let item = r#"{"bid":1.0712,"ask":1.0714,"venue":"xetra","levels":[1,20,300],"open":true}"#;
        format!("[{}]", vec![item; bytes / (item.len() + 1)].join(","))
    };
    let publish = |data: String| client::publish(Some(42), "news", "\"headline\"", "\"42\"", &data);
    let mut malformed = publish(string(100));
    malformed.pop();
    for (name, frame) in [
        ("subscribe", client::subscribe(Some(1), "news", None)),
        ("publish, string of 100 B", publish(string(100))),
        ("publish, structure of 160 B", publish(structure(160))),
        ("publish, malformed, 100 B", malformed),
        ("publish, string of 1 KiB", publish(string(1_024))),
        ("publish, escapes of 1 KiB", publish(escapes(1_024))),
        ("publish, structure of 1 KiB", publish(structure(1_024))),
        ("publish, string of 16 KiB", publish(string(16 * 1_024))),
        ("publish, escapes of 16 KiB", publish(escapes(16 * 1_024))),
        ("publish, structure of 16 KiB", publish(structure(16 * 1_024))),
    ] {
        assert_eq!(json_members(&frame, KEYS), raw_values(&frame), "{name}: both read the same");
        let repetitions = u32::try_from(TURN_BYTES / frame.len()).expect("a small number");
        Comparison::new(format!("{name} ({} B)", frame.len()), repetitions)
            .contender("serde_json", None, || time(repetitions, || raw_values(black_box(&frame))))
            .contender("wire/json.rs", Some("serde_json"), || {
                time(repetitions, || json_members(black_box(&frame), KEYS))
            })
            .run(rounds(100));
    }
}

fn time<T>(repetitions: u32, mut read: impl FnMut() -> T) -> Duration {
    let start = Instant::now();
    for _ in 0..repetitions {
        black_box(read());
    }
    start.elapsed()
}

/// The raw values of [`KEYS`], read by `serde_json`.
fn raw_values(text: &str) -> Option<[Option<&str>; 9]> {
    let mut json = serde_json::Deserializer::from_str(text);
    let values = json.deserialize_map(Members).ok()?;
    json.end().ok()?;
    Some(values.0)
}

struct Members;

/// The values, and whether any key is a duplicate.
struct Values<'a>([Option<&'a str>; 9], bool);

impl<'de> Visitor<'de> for Members {
    type Value = Values<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut values = Values([None; 9], false);
        while let Some(key) = map.next_key_seed(Key)? {
            match key {
                Some(index) => {
                    let value = map.next_value::<&RawValue>()?.get();
                    values.1 |= values.0[index].replace(value).is_some();
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(values)
    }
}

/// The index of a key in [`KEYS`].
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(KEYS.iter().position(|known| *known == key))
    }
}
