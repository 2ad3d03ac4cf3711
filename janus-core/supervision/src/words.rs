//! Durations as people read them in logs and errors.

use std::borrow::Borrow;
use std::fmt;
use std::time::Duration;

/// A duration with a unit, for people: whole numbers as they are (`60 s`), other numbers with three digits (`1.69 s`).
///
/// ```
/// use std::time::Duration;
/// use janus_supervision::in_words;
///
/// assert_eq!(in_words(Duration::from_secs(60)).to_string(), "60 s");
/// assert_eq!(in_words(Duration::from_nanos(1_688_917_346)).to_string(), "1.69 s");
/// ```
#[doc(hidden)]
pub fn in_words(time: impl Borrow<Duration>) -> impl fmt::Display {
    let time = *time.borrow();
    fmt::from_fn(move |f| {
        let (unit, name) = match time.as_nanos() {
            0 => (1_000_000_000, "s"),
            1..1_000 => (1, "ns"),
            1_000..1_000_000 => (1_000, "µs"),
            1_000_000..1_000_000_000 => (1_000_000, "ms"),
            _ => (1_000_000_000, "s"),
        };
        if time.as_nanos().is_multiple_of(unit) {
            return write!(f, "{} {name}", time.as_nanos() / unit);
        }
        let value = time.as_nanos() as f64 / unit as f64;
        let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
        write!(f, "{value:.decimals$} {name}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_unit_and_three_digits_at_most_unless_it_is_whole() {
        for (nanoseconds, words) in [
            (0, "0 s"),
            (900, "900 ns"),
            (12_345, "12.3 µs"),
            (200_000_000, "200 ms"),
            (1_500_000_000, "1.50 s"),
            (99_960_000_000, "100.0 s"),
            (123_456_000_000, "123 s"),
            (7_200_000_000_000, "7200 s"),
        ] {
            assert_eq!(in_words(Duration::from_nanos(nanoseconds)).to_string(), words);
        }
    }
}
