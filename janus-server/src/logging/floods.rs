//! Floods: many lines from one place of the program within a second.
//!
//! Each place may write [`LINES`] in a second. Further lines of that second are counted, and one line says how many they were.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use log::{Level, Record};

/// Lines of one kind that are written in a second.
pub(super) const LINES: u64 = 100;

/// Where panics say that they come from.
pub(super) const PANIC: &str = "panic";

/// How long a kind's count lasts.
pub(super) const PERIOD: Duration = Duration::from_secs(1);

/// Lines of one level from one place of the program.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    level: Level,
    /// Empty where it is not known, which is so for panics; the module, too.
    file: &'static str,
    line: Option<u32>,
    module: &'static str,
}

impl Kind {
    pub(super) fn of(record: &Record<'_>) -> Self {
        Self {
            level: record.level(),
            file: record.file_static().unwrap_or_default(),
            line: record.line(),
            module: record.module_path_static().unwrap_or_default(),
        }
    }

    pub(super) fn level(&self) -> Level {
        self.level
    }

    /// Where lines of this kind say that they come from.
    pub(super) fn target(&self) -> &'static str {
        if self.module.is_empty() { PANIC } else { self.module }
    }

    pub(super) fn place(&self) -> impl fmt::Display {
        let file = self.file.rsplit('/').next().filter(|file| !file.is_empty()).unwrap_or("line");
        self.line.map_or_else(|| file.to_owned(), |line| format!("{file}:{line}"))
    }
}

/// A count for each kind that has been logged. Its size is the number of places in the program that log.
#[derive(Debug, Default)]
pub(super) struct Floods {
    kinds: HashMap<Kind, Count>,
    /// Lines that are counted and not yet summed up.
    held_back: u64,
}

#[derive(Debug)]
struct Count {
    since: Instant,
    written: u64,
    held_back: u64,
}

impl Floods {
    /// Whether another line of this kind may be written; if not, it has been counted.
    pub(super) fn admits(&mut self, kind: Kind, now: Instant) -> bool {
        let count = self.kinds.entry(kind).or_insert(Count { since: now, written: 0, held_back: 0 });
        if count.held_back == 0 && now.saturating_duration_since(count.since) >= PERIOD {
            *count = Count { since: now, written: 0, held_back: 0 };
        }
        if count.written < LINES {
            count.written += 1;
            return true;
        }
        count.held_back += 1;
        self.held_back += 1;
        false
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held_back == 0
    }

    /// When the next sum is due; `None` if nothing has been held back.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.is_empty() {
            return None;
        }
        let held_back = self.kinds.values().filter(|count| count.held_back > 0);
        held_back.map(|count| count.since + PERIOD).min()
    }

    /// A kind of which lines were held back, and how many, if its second is over; its next one begins.
    pub(super) fn take(&mut self, now: Instant) -> Option<(Kind, u64)> {
        if self.is_empty() {
            return None;
        }
        let is_due = |count: &Count| count.held_back > 0 && count.since + PERIOD <= now;
        let (kind, count) = self.kinds.iter_mut().find(|(_, count)| is_due(count))?;
        let lines = std::mem::replace(count, Count { since: now, written: 0, held_back: 0 }).held_back;
        self.held_back -= lines;
        Some((kind.clone(), lines))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(line: u32) -> Kind {
        Kind { level: Level::Warn, file: "src/a.rs", line: Some(line), module: "a" }
    }

    #[test]
    fn what_one_place_says_beyond_its_lines_is_summed_up_once_a_second() {
        let (mut floods, start) = (Floods::default(), Instant::now());
        let admitted = |floods: &mut Floods, line, at| (0..1_000).filter(|_| floods.admits(kind(line), at)).count();
        assert_eq!(admitted(&mut floods, 1, start), 100);
        assert_eq!(floods.due(), Some(start + PERIOD));
        assert_eq!(floods.take(start), None);
        let later = start + PERIOD;
        assert_eq!(floods.take(later), Some((kind(1), 900)));
        assert_eq!((floods.take(later), floods.due()), (None, None));
        assert_eq!(admitted(&mut floods, 1, later), 100, "the next second has lines of its own");
    }

    #[test]
    fn a_flood_holds_back_no_line_of_another_place() {
        let (mut floods, now) = (Floods::default(), Instant::now());
        let _ = (0..1_000).filter(|_| floods.admits(kind(1), now)).count();
        assert!(floods.admits(kind(2), now));
    }

    #[test]
    fn a_flood_goes_on_until_its_sum_has_been_written() {
        let (mut floods, start) = (Floods::default(), Instant::now());
        let _ = (0..101).filter(|_| floods.admits(kind(1), start)).count();
        let later = start + 100 * PERIOD;
        assert!(!floods.admits(kind(1), later));
        assert_eq!(floods.take(later), Some((kind(1), 2)));
    }

    #[test]
    fn lines_that_are_few_enough_are_never_held_back() {
        let (mut floods, start) = (Floods::default(), Instant::now());
        for second in 0..10 {
            for _ in 0..LINES {
                assert!(floods.admits(kind(1), start + second * PERIOD));
            }
        }
        assert_eq!(floods.due(), None);
    }
}
