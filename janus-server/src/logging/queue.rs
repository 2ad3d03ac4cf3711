//! The queue of lines between the logging threads and the writer thread.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::floods::{Floods, Kind, PERIOD};

/// A bounded queue: when full, further lines are lost and counted. The lock is held only while a line is moved, so that
/// logging threads never wait for the reader of standard error.
#[derive(Debug)]
pub(super) struct Queue {
    limit: usize,
    state: Mutex<State>,
    /// Wakes the writer thread.
    work: Condvar,
    /// Wakes the threads in [`flush`](Queue::flush).
    done: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Whether the writer thread is running.
    open: bool,
    lines: VecDeque<Vec<u8>>,
    floods: Floods,
    /// Lost lines that the log has not reported yet: the queue had no room, or the write failed.
    lost: u64,
    /// Whether the last write failed. A report of lost lines would fail too, and waits until a write succeeds.
    broken: bool,
    /// Whether the writer thread is writing.
    writing: bool,
    /// Threads in [`flush`](Queue::flush), for which floods are summed up at once.
    flushing: usize,
}

/// The next thing to write.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Work {
    Line(Vec<u8>),
    /// The number of lines of this kind that were held back.
    Flood(Kind, u64),
    /// The number of lost lines.
    Lost(u64),
}

impl Queue {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, state: Mutex::default(), work: Condvar::new(), done: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the writer thread is running.
    pub(super) fn open(&self) {
        self.state().open = true;
    }

    pub(super) fn is_open(&self) -> bool {
        self.state().open
    }

    /// Whether a line of this kind may be logged; a refused line is counted.
    pub(super) fn admits(&self, kind: Kind) -> bool {
        let mut state = self.state();
        let was_calm = state.floods.is_empty();
        let admitted = state.floods.admits(kind, Instant::now());
        if !admitted && was_calm {
            self.work.notify_one();
        }
        admitted
    }

    /// Queues a line, or counts the line as lost if the queue is full.
    pub(super) fn push(&self, line: Vec<u8>) {
        let mut state = self.state();
        if state.lines.len() < self.limit {
            state.lines.push_back(line);
        } else {
            state.lost += 1;
        }
        self.work.notify_one();
    }

    /// Queues the last line of the process, even if the queue is full.
    pub(super) fn push_last(&self, line: Vec<u8>) {
        self.state().lines.push_back(line);
        self.work.notify_one();
    }

    /// Waits for the next thing to write. The caller reports the result to [`written`](Self::written).
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

    /// Takes the result of a write that stands for this many lines.
    pub(super) fn written(&self, lines: u64, succeeded: bool) {
        let mut state = self.state();
        state.writing = false;
        state.broken = !succeeded;
        if !succeeded {
            state.lost += lines;
        }
    }

    /// Waits until everything is written, at most for `limit`.
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
    /// The next thing to write. A report of lost lines comes first, as soon as a loss is known.
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

    /// Whether everything is written. A report of lost lines does not count while writes fail.
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
    fn lost_lines_are_reported_after_the_next_successful_write() {
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
        assert_eq!(queue.next(), Work::Lost(2), "the first report was not written");
    }

    #[test]
    fn a_flush_gives_up_without_a_writer() {
        let queue = Queue::new(10);
        queue.push(line(1));
        let begun = Instant::now();
        queue.flush(Duration::from_millis(10));
        assert!(begun.elapsed() >= Duration::from_millis(10));
    }
}
