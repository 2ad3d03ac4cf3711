//! Floods: many lines from one place in the program within a second.
//!
//! Each place may write [`LINES`] per second. Further lines are counted, and a single line reports their number.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use log::{Level, Record};

/// Lines of a kind that may be written per second.
pub(super) const LINES: u64 = 100;

/// The target of panics in the log.
pub(super) const PANIC: &str = "panic";

/// How long a count lasts.
pub(super) const PERIOD: Duration = Duration::from_secs(1);

/// Lines of the same level from the same place in the program.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    level: Level,
    /// Empty if unknown, as for panics.
    file: &'static str,
    line: Option<u32>,
    /// Empty if unknown, as for panics.
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

    /// The target of lines of this kind in the log.
    pub(super) fn target(&self) -> &'static str {
        if self.module.is_empty() { PANIC } else { self.module }
    }

    pub(super) fn place(&self) -> impl fmt::Display {
        let file = self.file.rsplit('/').next().filter(|file| !file.is_empty()).unwrap_or("line");
        self.line.map_or_else(|| file.to_owned(), |line| format!("{file}:{line}"))
    }
}

/// A count for each kind logged so far. The size is limited by the number of places in the program that log.
#[derive(Debug, Default)]
pub(super) struct Floods {
    kinds: HashMap<Kind, Count>,
    /// Lines counted and not yet reported, over all kinds.
    held_back: u64,
}

#[derive(Debug)]
struct Count {
    since: Instant,
    written: u64,
    held_back: u64,
}

impl Floods {
    /// Whether another line of this kind may be written; a refused line is counted.
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

    /// When the next report is due; `None` if no line has been held back.
    pub(super) fn due(&self) -> Option<Instant> {
        if self.is_empty() {
            return None;
        }
        let held_back = self.kinds.values().filter(|count| count.held_back > 0);
        held_back.map(|count| count.since + PERIOD).min()
    }

    /// A kind whose second is over, with the number of lines held back, if there is such a kind. A new second begins
    /// for this kind.
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
    fn lines_beyond_the_limit_of_a_place_are_summed_up_once_a_second() {
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
    fn a_flood_holds_back_no_lines_of_other_places() {
        let (mut floods, now) = (Floods::default(), Instant::now());
        let _ = (0..1_000).filter(|_| floods.admits(kind(1), now)).count();
        assert!(floods.admits(kind(2), now));
    }

    #[test]
    fn a_flood_continues_until_its_sum_is_taken() {
        let (mut floods, start) = (Floods::default(), Instant::now());
        let _ = (0..101).filter(|_| floods.admits(kind(1), start)).count();
        let later = start + 100 * PERIOD;
        assert!(!floods.admits(kind(1), later));
        assert_eq!(floods.take(later), Some((kind(1), 2)));
    }

    #[test]
    fn lines_within_the_limit_are_never_held_back() {
        let (mut floods, start) = (Floods::default(), Instant::now());
        for second in 0..10 {
            for _ in 0..LINES {
                assert!(floods.admits(kind(1), start + second * PERIOD));
            }
        }
        assert_eq!(floods.due(), None);
    }
}
