//! Lines on their way from the threads that log to the one that writes.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::floods::{Floods, Kind, PERIOD};

/// At most a fixed number of lines wait; one more is lost, and counted. No lock is held for longer than a line takes to be
/// moved, so that whoever logs waits for no reader.
#[derive(Debug)]
pub(super) struct Queue {
    limit: usize,
    state: Mutex<State>,
    /// For the thread that writes.
    work: Condvar,
    /// For those that wait until all is written.
    done: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Whether there is a thread that writes.
    open: bool,
    lines: VecDeque<Vec<u8>>,
    floods: Floods,
    /// Lines for which there was no room, or that could not be written, and of which nobody has been told.
    lost: u64,
    /// Whether the last write went wrong: then there is nobody to be told of lost lines before another one goes well.
    broken: bool,
    /// Whether the thread that writes is busy with what it has taken.
    writing: bool,
    /// Those that wait until all is written: floods are summed up for them at once.
    flushing: usize,
}

/// What is to be written next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Work {
    Line(Vec<u8>),
    /// So many lines of this kind were held back.
    Flood(Kind, u64),
    /// So many lines were lost.
    Lost(u64),
}

impl Queue {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, state: Mutex::default(), work: Condvar::new(), done: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that there is a thread that writes.
    pub(super) fn open(&self) {
        self.state().open = true;
    }

    pub(super) fn is_open(&self) -> bool {
        self.state().open
    }

    /// Whether a line of this kind is to be made at all; if not, it has been counted.
    pub(super) fn admits(&self, kind: Kind) -> bool {
        let mut state = self.state();
        let was_calm = state.floods.is_empty();
        let admitted = state.floods.admits(kind, Instant::now());
        if !admitted && was_calm {
            self.work.notify_one();
        }
        admitted
    }

    /// Hands a line over; it is lost if as many wait as may.
    pub(super) fn push(&self, line: Vec<u8>) {
        let mut state = self.state();
        if state.lines.len() < self.limit {
            state.lines.push_back(line);
        } else {
            state.lost += 1;
        }
        self.work.notify_one();
    }

    /// The same for the last line of the process, for which there is room.
    pub(super) fn push_last(&self, line: Vec<u8>) {
        self.state().lines.push_back(line);
        self.work.notify_one();
    }

    /// Waits for something to write. Each is to be answered with [`written`](Self::written).
    pub(super) fn next(&self) -> Work {
        let mut state = self.state();
        loop {
            if let Some(work) = state.take(Instant::now()) {
                state.writing = true;
                return work;
            }
            if state.is_done() {
                self.done.notify_all();
            }
            let wait = state.floods.due().map(|due| due.saturating_duration_since(Instant::now()));
            state = match wait {
                Some(wait) => self.work.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0,
                None => self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Whether what was taken, and stands for so many lines, was written.
    pub(super) fn written(&self, lines: u64, well: bool) {
        let mut state = self.state();
        state.writing = false;
        state.broken = !well;
        if !well {
            state.lost += lines;
        }
    }

    /// Waits until all is written, at most for so long.
    pub(super) fn flush(&self, limit: Duration) {
        let mut state = self.state();
        state.flushing += 1;
        self.work.notify_one();
        let waited = self.done.wait_timeout_while(state, limit, |state| !state.is_done());
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.flushing -= 1;
    }
}

impl State {
    /// What is to be written next; first that lines were lost, because that is known only now.
    fn take(&mut self, now: Instant) -> Option<Work> {
        if self.lost > 0 && !self.broken {
            return Some(Work::Lost(std::mem::take(&mut self.lost)));
        }
        let sums_until = if self.flushing > 0 && self.lines.is_empty() { now + PERIOD } else { now };
        if let Some((kind, lines)) = self.floods.take(sums_until) {
            return Some(Work::Flood(kind, lines));
        }
        self.lines.pop_front().map(Work::Line)
    }

    /// A word about lost lines that nobody would read is not waited for.
    fn is_done(&self) -> bool {
        !self.writing && self.lines.is_empty() && self.floods.is_empty() && (self.lost == 0 || self.broken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: usize) -> Vec<u8> {
        format!("{number}\n").into_bytes()
    }

    #[test]
    fn lines_beyond_the_limit_are_lost_and_counted() {
        let queue = Queue::new(3);
        (0..10).for_each(|number| queue.push(line(number)));
        assert_eq!(queue.next(), Work::Lost(7));
        queue.written(7, true);
        for number in 0..3 {
            assert_eq!(queue.next(), Work::Line(line(number)));
            queue.written(1, true);
        }
    }

    #[test]
    fn what_was_lost_is_told_when_a_line_has_been_written_again() {
        let queue = Queue::new(10);
        (0..4).for_each(|number| queue.push(line(number)));
        for number in 0..2 {
            assert_eq!(queue.next(), Work::Line(line(number)));
            queue.written(1, false);
        }
        assert_eq!(queue.next(), Work::Line(line(2)));
        queue.written(1, true);
        assert_eq!(queue.next(), Work::Lost(2));
        queue.written(2, false);
        assert_eq!(queue.next(), Work::Line(line(3)));
        queue.written(1, true);
        assert_eq!(queue.next(), Work::Lost(2), "nobody had read it");
    }

    #[test]
    fn a_flush_gives_up_when_nobody_writes() {
        let queue = Queue::new(10);
        queue.push(line(1));
        let begun = Instant::now();
        queue.flush(Duration::from_millis(10));
        assert!(begun.elapsed() >= Duration::from_millis(10));
    }
}
