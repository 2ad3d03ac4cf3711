//! A circuit breaker: a backend that fails is left alone, and tried once a second.
//!
//! Pure, but for its lock: time is an argument.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Answers that the breaker remembers.
const REMEMBERED: u32 = 20;

/// Failures among these answers that open the breaker.
const TOO_MANY: u32 = REMEMBERED / 2;

/// From one question to the next while the breaker is open.
const PROBE: Duration = Duration::from_secs(1);

/// The longest pause of a client, however long the backend has been away.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The breaker of one address.
#[derive(Debug, Default)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// One bit for each of the last answers, set for a failure.
    failures: u32,
    open: Option<Open>,
    /// Rises when the breaker opens or closes. Answers to questions from before are not counted.
    generation: u64,
}

#[derive(Debug)]
struct Open {
    since: Instant,
    next_probe: Instant,
    probing: bool,
    failed_probes: u32,
}

/// The right to ask one question. A ticket dropped without an outcome changes nothing: the client has gone away.
#[derive(Debug)]
pub(super) struct Ticket<'a> {
    breaker: &'a Breaker,
    generation: u64,
    is_probe: bool,
}

/// What an outcome has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Nothing,
    Opened,
    /// After this time.
    Closed(Duration),
}

impl Breaker {
    /// Lets a question pass, or says how long clients should stay away.
    pub(super) fn admit(&self, now: Instant) -> Result<Ticket<'_>, Duration> {
        let mut state = self.0.lock();
        let generation = state.generation;
        let is_probe = match &mut state.open {
            None => false,
            Some(open) if !open.probing && now >= open.next_probe => {
                (open.probing, open.next_probe) = (true, now + PROBE);
                true
            }
            Some(open) => {
                return Err(PROBE.saturating_mul(2_u32.saturating_pow(open.failed_probes)).min(LONGEST_PAUSE));
            }
        };
        Ok(Ticket { breaker: self, generation, is_probe })
    }

    pub(super) fn is_open(&self) -> bool {
        self.0.lock().open.is_some()
    }
}

impl Ticket<'_> {
    /// Notes the outcome of the question.
    pub(super) fn note(self, has_failed: bool, now: Instant) -> Change {
        let mut state = self.breaker.0.lock();
        if state.generation != self.generation {
            return Change::Nothing;
        }
        if let Some(open) = &mut state.open {
            if has_failed {
                open.failed_probes = open.failed_probes.saturating_add(1);
                return Change::Nothing;
            }
            let lasted = now.duration_since(open.since);
            *state = State { generation: state.generation + 1, ..State::default() };
            return Change::Closed(lasted);
        }
        state.failures = (state.failures << 1 | u32::from(has_failed)) & ((1 << REMEMBERED) - 1);
        if state.failures.count_ones() < TOO_MANY {
            return Change::Nothing;
        }
        state.open = Some(Open { since: now, next_probe: now + PROBE, probing: false, failed_probes: 0 });
        state.generation += 1;
        Change::Opened
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if self.is_probe {
            let mut state = self.breaker.0.lock();
            if state.generation == self.generation
                && let Some(open) = &mut state.open
            {
                open.probing = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(breaker: &Breaker, has_failed: bool, now: Instant) -> Change {
        breaker.admit(now).unwrap().note(has_failed, now)
    }

    fn opened(now: Instant) -> Breaker {
        let breaker = Breaker::default();
        (1..TOO_MANY).for_each(|_| assert_eq!(answer(&breaker, true, now), Change::Nothing));
        assert_eq!(answer(&breaker, true, now), Change::Opened);
        breaker
    }

    #[test]
    fn half_of_the_last_twenty_open_the_breaker() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        for round in 0..100 {
            let has_failed = round % 20 < 9;
            assert_eq!(answer(&breaker, has_failed, now), Change::Nothing, "nine of twenty, round {round}");
        }
        let breaker = opened(now);
        assert!(breaker.is_open() && breaker.admit(now).is_err());
    }

    #[test]
    fn an_open_breaker_lets_one_question_a_second_pass() {
        let now = Instant::now();
        let breaker = opened(now);
        assert_eq!(breaker.admit(now + PROBE / 2).unwrap_err(), PROBE);
        let probe = breaker.admit(now + PROBE).unwrap();
        assert!(breaker.admit(now + 5 * PROBE).is_err(), "the probe is under way");
        assert_eq!(probe.note(true, now + 5 * PROBE), Change::Nothing);
        let later = now + 6 * PROBE;
        let dropped = breaker.admit(later).unwrap();
        drop(dropped);
        assert!(breaker.admit(later).is_err(), "a client that went away has used the second");
        let probe = breaker.admit(later + PROBE).unwrap();
        assert_eq!(probe.note(false, later + PROBE), Change::Closed(7 * PROBE));
        assert!(!breaker.is_open());
        assert_eq!(answer(&breaker, true, later), Change::Nothing, "old failures are forgotten");
    }

    #[test]
    fn pauses_grow_with_each_failed_probe() {
        let now = Instant::now();
        let breaker = opened(now);
        let pauses = (1..=7).map(|second| {
            let pause = breaker.admit(now + PROBE * second - PROBE / 2).unwrap_err();
            breaker.admit(now + PROBE * second).unwrap().note(true, now);
            pause.as_secs()
        });
        assert_eq!(pauses.collect::<Vec<_>>(), [1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn late_answers_from_before_change_nothing() {
        let now = Instant::now();
        let breaker = Breaker::default();
        let [good, bad] = [(); 2].map(|()| breaker.admit(now).unwrap());
        (0..TOO_MANY).for_each(|_| {
            answer(&breaker, true, now);
        });
        assert!(breaker.is_open());
        assert_eq!((good.note(false, now), bad.note(true, now)), (Change::Nothing, Change::Nothing));
        assert!(breaker.is_open());
    }
}
