//! The kinds of settings: the accepted values of each kind, and their description for operators.
//!
//! A [`Value`] has one of a few types, so that parsers and printers need not know a setting's own type. A [`Kind`] is
//! the meaning of a value (a count, a size, a duration, …), with the limits. Parsing of text is left to `janus-server`.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::supervision::in_words;
use crate::wire::AllowedOrigins;

/// 1,024 bytes.
pub const KIB: usize = 1 << 10;
/// 1,024 KiB.
pub const MIB: usize = 1 << 20;
/// 1,024 MiB.
pub const GIB: usize = 1 << 30;

/// A number of milliseconds.
#[must_use]
pub const fn millis(number: u64) -> Duration {
    Duration::from_millis(number)
}

/// A number of seconds.
#[must_use]
pub const fn secs(number: u64) -> Duration {
    Duration::from_secs(number)
}

/// A number of days of 24 hours.
#[must_use]
pub const fn days(number: u64) -> Duration {
    Duration::from_secs(number * SECONDS_PER_DAY)
}

const SECONDS_PER_DAY: u64 = 86_400;

/// Replaces a secret wherever a value is printed.
pub const HIDDEN: &str = "\"***\"";

/// The value of a setting of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A count, a percentage, or a size in bytes.
    Number(usize),
    /// A duration.
    Duration(Duration),
    /// True or false.
    Boolean(bool),
    /// A name, a path or a secret.
    Text(String),
    /// A list of texts.
    Texts(Vec<String>),
    /// A list of socket addresses.
    Addresses(Vec<SocketAddr>),
    /// A list of networks.
    Networks(Vec<IpNet>),
}

/// A type of fields, with conversions from and to [`Value`].
pub trait Stored: Sized {
    /// The field as a value.
    fn to_value(&self) -> Value;

    /// The value as a field; `None` if the value is of another type or does not fit.
    fn from_value(value: Value) -> Option<Self>;
}

macro_rules! stored {
    ($($type:ty: $variant:ident),+ $(,)?) => {$(
        impl Stored for $type {
            fn to_value(&self) -> Value {
                Value::$variant(self.clone())
            }

            fn from_value(value: Value) -> Option<Self> {
                if let Value::$variant(value) = value { Some(value) } else { None }
            }
        }
    )+};
}

stored! {
    usize: Number,
    Duration: Duration,
    bool: Boolean,
    String: Text,
    Vec<String>: Texts,
    Vec<SocketAddr>: Addresses,
    Vec<IpNet>: Networks,
}

impl Stored for u32 {
    fn to_value(&self) -> Value {
        Value::Number(*self as usize)
    }

    fn from_value(value: Value) -> Option<Self> {
        usize::from_value(value)?.try_into().ok()
    }
}

/// A type with a text that is not empty, for optional fields: no value is an empty text.
pub trait Text: Sized {
    /// The field as a text.
    fn to_text(&self) -> String;

    /// The text as a field; `None` if the text does not fit.
    fn from_text(text: &str) -> Option<Self>;
}

impl Text for PathBuf {
    fn to_text(&self) -> String {
        self.to_string_lossy().into_owned()
    }

    fn from_text(text: &str) -> Option<Self> {
        Some(text.into())
    }
}

impl Text for String {
    fn to_text(&self) -> String {
        self.clone()
    }

    fn from_text(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

impl<T: Text> Stored for Option<T> {
    fn to_value(&self) -> Value {
        Value::Text(self.as_ref().map(T::to_text).unwrap_or_default())
    }

    fn from_value(value: Value) -> Option<Self> {
        let text = String::from_value(value)?;
        if text.is_empty() { Some(None) } else { T::from_text(&text).map(Some) }
    }
}

impl Stored for Vec<PathBuf> {
    fn to_value(&self) -> Value {
        Value::Texts(self.iter().map(|path| path.to_string_lossy().into_owned()).collect())
    }

    fn from_value(value: Value) -> Option<Self> {
        Some(Vec::<String>::from_value(value)?.into_iter().map(PathBuf::from).collect())
    }
}

/// The accepted numbers or durations.
#[derive(Debug)]
pub struct Bounds<T> {
    range: RangeInclusive<T>,
    /// The meaning of zero, which then is accepted in addition to the range.
    zero: Option<&'static str>,
}

impl<T: PartialOrd + Default> Bounds<T> {
    fn accept(&self, value: &T) -> bool {
        self.range.contains(value) || self.zero.is_some() && *value == T::default()
    }

    /// Such as `0 s for no limit, or 100 ms to 7 days`.
    fn words(&self, show: impl Fn(&T) -> String, range: impl Fn(String, &T) -> String) -> String {
        let range = range(show(self.range.start()), self.range.end());
        match self.zero {
            Some(meaning) => format!("{} for {meaning}, or {range}", show(&T::default())),
            None => range,
        }
    }
}

/// The kind of a setting's value, with the accepted values.
#[derive(Debug)]
pub enum Kind {
    /// A whole number.
    Count(Bounds<usize>),
    /// A whole number of per cent.
    PerCent(Bounds<usize>),
    /// A size in bytes.
    Bytes(Bounds<usize>),
    /// A duration in milliseconds.
    Duration(Bounds<Duration>),
    /// True or false.
    Boolean,
    /// A name of a list.
    OneOf {
        /// The names.
        names: &'static [&'static str],
        /// Whether capitals are accepted as well.
        any_case: bool,
    },
    /// Any number of socket addresses.
    Addresses,
    /// Networks of IP addresses.
    Networks {
        /// How many are accepted.
        most: usize,
    },
    /// Origins of web pages.
    Origins {
        /// How many are accepted.
        most: usize,
    },
    /// The path of a file, or none.
    Path,
    /// Any number of paths of files.
    Paths,
    /// A text of a form of its own, such as the address of a server.
    Text {
        /// Whether a text is accepted.
        accepts: fn(&str) -> bool,
        /// Describes the accepted texts.
        expected: &'static str,
    },
    /// Texts of a form of their own.
    Texts {
        /// How many are accepted.
        most: usize,
        /// Whether a text is accepted.
        accepts: fn(&str) -> bool,
        /// Describes the accepted texts.
        expected: &'static str,
    },
    /// A text, never printed.
    Secret {
        /// Whether a text is accepted.
        accepts: fn(&str) -> bool,
        /// Describes the accepted texts.
        expected: &'static str,
    },
}

/// The constructors, by which rows of a table name their kind.
impl Kind {
    /// A whole number of a range.
    #[must_use]
    pub const fn count(range: RangeInclusive<usize>) -> Self {
        Self::Count(Bounds { range, zero: None })
    }

    /// A whole number of a range, or 0 with a meaning of its own.
    #[must_use]
    pub const fn count_or_zero(meaning: &'static str, range: RangeInclusive<usize>) -> Self {
        Self::Count(Bounds { range, zero: Some(meaning) })
    }

    /// A whole number of per cent.
    #[must_use]
    pub const fn per_cent(range: RangeInclusive<usize>) -> Self {
        Self::PerCent(Bounds { range, zero: None })
    }

    /// A size in bytes.
    #[must_use]
    pub const fn bytes(range: RangeInclusive<usize>) -> Self {
        Self::Bytes(Bounds { range, zero: None })
    }

    /// A size of a least number of bytes, or 0 with a meaning of its own.
    #[must_use]
    pub const fn bytes_or_zero(meaning: &'static str, least: usize) -> Self {
        Self::Bytes(Bounds { range: least..=MOST_BYTES, zero: Some(meaning) })
    }

    /// A duration.
    #[must_use]
    pub const fn duration(range: RangeInclusive<Duration>) -> Self {
        Self::Duration(Bounds { range, zero: None })
    }

    /// A duration, or 0 with a meaning of its own.
    #[must_use]
    pub const fn duration_or_zero(meaning: &'static str, range: RangeInclusive<Duration>) -> Self {
        Self::Duration(Bounds { range, zero: Some(meaning) })
    }

    /// True or false.
    #[must_use]
    pub const fn boolean() -> Self {
        Self::Boolean
    }

    /// A name of a list.
    #[must_use]
    pub const fn one_of(names: &'static [&'static str]) -> Self {
        Self::OneOf { names, any_case: false }
    }

    /// A name of a list, in lower or upper case.
    #[must_use]
    pub const fn one_of_in_any_case(names: &'static [&'static str]) -> Self {
        Self::OneOf { names, any_case: true }
    }

    /// Any number of socket addresses.
    #[must_use]
    pub const fn addresses() -> Self {
        Self::Addresses
    }

    /// At most this many networks.
    #[must_use]
    pub const fn networks(most: usize) -> Self {
        Self::Networks { most }
    }

    /// At most this many origins of web pages.
    #[must_use]
    pub const fn origins(most: usize) -> Self {
        Self::Origins { most }
    }

    /// The path of a file, or none.
    #[must_use]
    pub const fn path() -> Self {
        Self::Path
    }

    /// Any number of paths of files.
    #[must_use]
    pub const fn paths() -> Self {
        Self::Paths
    }

    /// A text of a form of its own.
    #[must_use]
    pub const fn text(accepts: fn(&str) -> bool, expected: &'static str) -> Self {
        Self::Text { accepts, expected }
    }

    /// At most this many texts of a form of their own.
    #[must_use]
    pub const fn texts(most: usize, accepts: fn(&str) -> bool, expected: &'static str) -> Self {
        Self::Texts { most, accepts, expected }
    }

    /// A text, never printed.
    #[must_use]
    pub const fn secret(accepts: fn(&str) -> bool, expected: &'static str) -> Self {
        Self::Secret { accepts, expected }
    }
}

/// No process can have more; a larger number is a mistake in some calculation.
const MOST_BYTES: usize = isize::MAX.unsigned_abs();

impl Kind {
    /// Checks a value; an error has the value as text, and the accepted values.
    pub(super) fn check(&self, value: &Value) -> Result<(), (String, Cow<'static, str>)> {
        let refused = match (self, value) {
            (Self::Count(bounds) | Self::PerCent(bounds) | Self::Bytes(bounds), Value::Number(number)) => {
                (!bounds.accept(number)).then(|| number.to_string())
            }
            (Self::Duration(bounds), Value::Duration(time)) => {
                (!bounds.accept(time)).then(|| in_words(time).to_string())
            }
            (Self::OneOf { names, any_case }, Value::Text(text)) => {
                let accepts = |name: &&str| *name == text || *any_case && name.eq_ignore_ascii_case(text);
                (!names.iter().any(accepts)).then(|| format!("{text:?}"))
            }
            (Self::Origins { most }, Value::Texts(origins)) => {
                at_most(*most, origins)?;
                origins.iter().find(|origin| !AllowedOrigins::is_origin(origin)).map(|origin| format!("{origin:?}"))
            }
            (Self::Networks { most }, Value::Networks(networks)) => {
                at_most(*most, networks)?;
                // `10.0.0.1/8` may be meant as the address or as the network.
                if let Some(network) = networks.iter().find(|network| **network != network.trunc()) {
                    let expected =
                        format!("{} for the network, or {} for the address", network.trunc(), network.addr());
                    return Err((network.to_string(), expected.into()));
                }
                None
            }
            (Self::Text { accepts, .. }, Value::Text(text)) => (!accepts(text)).then(|| format!("{text:?}")),
            (Self::Texts { most, accepts, .. }, Value::Texts(texts)) => {
                at_most(*most, texts)?;
                texts.iter().find(|text| !accepts(text)).map(|text| format!("{text:?}"))
            }
            (Self::Secret { accepts, .. }, Value::Text(text)) => (!accepts(text)).then(|| HIDDEN.to_owned()),
            (Self::Secret { .. }, _) => Some(HIDDEN.to_owned()),
            // A file is looked for when the file is read.
            (Self::Paths, Value::Texts(paths)) => {
                paths.iter().find(|path| !is_path(path)).map(|path| format!("{path:?}"))
            }
            (Self::Path, Value::Text(path)) => (!path.is_empty() && !is_path(path)).then(|| format!("{path:?}")),
            (Self::Boolean, Value::Boolean(_)) | (Self::Addresses, Value::Addresses(_)) => None,
            _ => Some(format!("{value:?}")),
        };
        refused.map_or(Ok(()), |refused| Err((refused, self.expected())))
    }

    /// The accepted values, for operators.
    #[must_use]
    pub fn expected(&self) -> Cow<'static, str> {
        match self {
            Self::Count(bounds) => bounds.words(|&n| number(n), |least, &most| format!("{least} to {}", number(most))),
            Self::PerCent(bounds) => {
                bounds.words(|&n| number(n), |least, &most| format!("{least} to {} per cent", number(most)))
            }
            Self::Bytes(bounds) => bounds.words(
                |&bytes| size(bytes),
                |least, &most| match most {
                    MOST_BYTES => format!("{least} and more"),
                    _ => format!("{least} to {}", size(most)),
                },
            ),
            Self::Duration(bounds) => {
                bounds.words(|&time| duration(time), |least, &most| format!("{least} to {}", duration(most)))
            }
            Self::OneOf { names, .. } => alternatives(names),
            Self::Boolean => return "true or false".into(),
            Self::Addresses => {
                return "an address and a port, or several, such as \"127.0.0.1:8081\" or \"localhost:8081\"; or none"
                    .into();
            }
            Self::Networks { .. } => {
                return "networks such as \"10.0.0.0/8\" or \"fd00::/8\", or single addresses; or none".into();
            }
            Self::Origins { .. } => return "origins such as \"https://app.example\", or \"*\" for any".into(),
            Self::Path => return "the path of a file, or \"\" for none".into(),
            Self::Paths => return "the path of a file, or several, or none".into(),
            Self::Text { expected, .. } | Self::Texts { expected, .. } | Self::Secret { expected, .. } => {
                return (*expected).into();
            }
        }
        .into()
    }
}

/// Refuses a list with too many entries.
fn at_most<T>(most: usize, list: &[T]) -> Result<(), (String, Cow<'static, str>)> {
    if list.len() <= most {
        return Ok(());
    }
    Err((list.len().to_string(), format!("at most {} of them", number(most)).into()))
}

/// Whether the system could know a file by this name.
fn is_path(text: &str) -> bool {
    !text.is_empty() && !text.contains('\0')
}

/// A number with a comma before each three digits, such as `1,048,576`.
fn number(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A size in the largest unit without a fraction.
fn size(bytes: usize) -> String {
    match bytes {
        0 => "0".to_owned(),
        1 => "1 byte".to_owned(),
        _ => {
            let units = [(GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB"), (1, "bytes")];
            let fitting = units.into_iter().find(|(unit, _)| bytes.is_multiple_of(*unit));
            let (unit, name) = fitting.unwrap_or((1, "bytes"));
            format!("{} {name}", number(bytes / unit))
        }
    }
}

/// A duration in days, seconds or milliseconds: the largest unit without a fraction.
fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    if time.subsec_nanos() > 0 {
        format!("{} ms", time.as_millis())
    } else if seconds > 0 && seconds.is_multiple_of(SECONDS_PER_DAY) {
        let days = seconds / SECONDS_PER_DAY;
        format!("{days} day{}", if days == 1 { "" } else { "s" })
    } else {
        format!("{} s", number(usize::try_from(seconds).unwrap_or(usize::MAX)))
    }
}

/// Names in quotes, with `or` before the last.
fn alternatives(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_values_are_described_with_units() {
        for (kind, expected) in [
            (Kind::count(1..=10_000_000), "1 to 10,000,000"),
            (Kind::count_or_zero("no limit", 1..=1 << 24), "0 for no limit, or 1 to 16,777,216"),
            (Kind::per_cent(1..=100), "1 to 100 per cent"),
            (Kind::bytes(64..=16 * MIB), "64 bytes to 16 MiB"),
            (Kind::bytes(1..=1_025), "1 byte to 1,025 bytes"),
            (Kind::bytes(0..=GIB), "0 to 1 GiB"),
            (Kind::bytes_or_zero("no budget", 16 * MIB), "0 for no budget, or 16 MiB and more"),
            (Kind::duration(millis(1_500)..=days(7)), "1500 ms to 7 days"),
            (Kind::duration(secs(1)..=secs(32_767)), "1 s to 32,767 s"),
            (Kind::duration_or_zero("no limit", millis(100)..=days(1)), "0 s for no limit, or 100 ms to 1 day"),
            (Kind::one_of(&["a", "b", "c"]), "\"a\", \"b\" or \"c\""),
            (Kind::one_of(&["a"]), "\"a\""),
        ] {
            assert_eq!(kind.expected(), expected);
        }
    }

    #[test]
    fn bounds_are_inclusive_and_may_accept_a_zero_outside() {
        let accepted = |kind: &Kind, value| kind.check(&value).is_ok();
        let count = Kind::count_or_zero("no limit", 5..=7);
        for (number, expected) in [(0, true), (1, false), (4, false), (5, true), (7, true), (8, false)] {
            assert_eq!(accepted(&count, Value::Number(number)), expected, "{number}");
        }
        assert!(!accepted(&Kind::count(5..=7), Value::Number(0)));
        let time = Kind::duration_or_zero("no limit", millis(100)..=secs(1));
        for (number, expected) in [(0, true), (99, false), (100, true), (1_000, true), (1_001, false)] {
            assert_eq!(accepted(&time, Value::Duration(millis(number))), expected, "{number}");
        }
    }

    #[test]
    fn a_value_of_another_kind_is_refused() {
        let (value, expected) = Kind::boolean().check(&Value::Number(1)).unwrap_err();
        assert_eq!((&*value, &*expected), ("Number(1)", "true or false"));
        let secret = Kind::secret(|_| true, "a key");
        assert_eq!(secret.check(&Value::Texts(vec!["key".to_owned()])).unwrap_err().0, HIDDEN);
        assert_eq!(u32::from_value(Value::Number(1 << 32)), None);
    }

    #[test]
    fn names_are_accepted_in_capitals_only_where_the_kind_says_so() {
        let capitals = Value::Text("DEBUG".to_owned());
        assert!(Kind::one_of(&["debug"]).check(&capitals).is_err());
        assert!(Kind::one_of_in_any_case(&["debug"]).check(&capitals).is_ok());
    }
}
