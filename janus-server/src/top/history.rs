//! The last minutes of two counters, as bars.

use std::collections::VecDeque;

use super::answers::Stats;

/// The time shown by the bars. The server keeps more samples.
pub(super) const MINUTES: u64 = 5;
/// Samples at the server's one per second, and for a first request.
pub(super) const SAMPLES: usize = 300;

/// A counter with bars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counter {
    Deliveries,
    Published,
}

/// One sample.
#[derive(Clone, Copy, Debug)]
struct Point {
    time: u64,
    deliveries: u64,
    published: u64,
}

impl Point {
    fn value(&self, counter: Counter) -> u64 {
        match counter {
            Counter::Deliveries => self.deliveries,
            Counter::Published => self.published,
        }
    }
}

/// The samples of the last minutes, the oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    points: VecDeque<Point>,
}

impl History {
    /// Adds the new samples of an answer.
    pub(super) fn extend(&mut self, stats: &Stats) {
        // The clock of another machine, or of a server started again, may have been set back.
        if self.points.back().is_some_and(|last| last.time > stats.time.saturating_add(1_000)) {
            self.points.clear();
        }
        let none = Vec::new();
        let values = |name: &str| stats.samples.values.get(name).unwrap_or(&none);
        let samples = stats.samples.time.iter().zip(values("deliveries")).zip(values("published"));
        for ((time, deliveries), published) in samples {
            if self.points.back().is_none_or(|last| last.time < *time) {
                self.points.push_back(Point { time: *time, deliveries: *deliveries, published: *published });
            }
        }
        while self.points.len() > SAMPLES + 1 {
            self.points.pop_front();
        }
    }

    /// The number of samples to ask for at this time: the samples since the last known one, and some to spare.
    pub(super) fn missing(&self, now: u64) -> usize {
        let Some(last) = self.points.back() else { return SAMPLES };
        let seconds = now.saturating_sub(last.time) / 1_000;
        usize::try_from(seconds).unwrap_or(SAMPLES).saturating_add(3).min(SAMPLES)
    }

    /// The largest rate between two samples.
    pub(super) fn most(&self, counter: Counter) -> u64 {
        let pairs = self.points.iter().zip(self.points.iter().skip(1));
        let rates = pairs.filter_map(|(before, point)| {
            let events = point.value(counter).checked_sub(before.value(counter))?;
            events.saturating_mul(1_000).checked_div(point.time - before.time)
        });
        rates.max().unwrap_or(0)
    }

    /// The rate of a counter in this many equal parts of the last minutes, the oldest first. Each part ends at a
    /// multiple of its length, so bars move and do not flicker.
    pub(super) fn bars(&self, counter: Counter, count: usize) -> Vec<u64> {
        let mut bars = vec![(0, 0); count];
        let (Some(last), true) = (self.points.back(), count > 0) else { return vec![0; count] };
        let part = (MINUTES * 60_000).div_ceil(u64::try_from(count).unwrap_or(1)).max(1_000);
        let newest = last.time / part;
        for (before, point) in self.points.iter().zip(self.points.iter().skip(1)) {
            let place = usize::try_from(newest - point.time / part).ok().and_then(|back| (count - 1).checked_sub(back));
            // A counter falls when the server is started again; that pair tells nothing.
            let events = point.value(counter).checked_sub(before.value(counter));
            if let (Some(place), Some(events)) = (place, events) {
                bars[place].0 = u64::saturating_add(bars[place].0, events);
                bars[place].1 += point.time - before.time;
            }
        }
        bars.into_iter().map(|(events, time)| events.saturating_mul(1_000).checked_div(time).unwrap_or(0)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::answers::Samples;
    use super::*;

    fn stats(samples: &[(u64, u64)]) -> Stats {
        let values: Vec<u64> = samples.iter().map(|(_, value)| *value).collect();
        let values = BTreeMap::from([("deliveries".into(), values.clone()), ("published".into(), values)]);
        let time: Vec<u64> = samples.iter().map(|(time, _)| *time).collect();
        Stats { time: time.last().copied().unwrap_or(0), samples: Samples { time, values }, ..Stats::default() }
    }

    #[test]
    fn bars_are_rates_of_the_last_minutes_and_end_with_the_newest() {
        let mut history = History::default();
        assert_eq!(history.bars(Counter::Deliveries, 3), [0, 0, 0]);
        history.extend(&stats(&[(600_000, 0), (601_000, 10), (602_000, 20)]));
        history.extend(&stats(&[(602_000, 20), (603_000, 60)]));
        assert_eq!(history.bars(Counter::Published, 300)[297..], [10, 10, 40]);
        assert_eq!(history.bars(Counter::Deliveries, 3), [0, 0, 20], "a part has the mean");
        assert_eq!(history.bars(Counter::Deliveries, 0), [0; 0]);
    }

    #[test]
    fn a_counter_of_a_server_started_again_makes_no_bar() {
        let mut history = History::default();
        history.extend(&stats(&[(600_000, 1_000), (601_000, 1_010), (605_000, 0), (606_000, 5)]));
        assert_eq!(history.bars(Counter::Deliveries, 300)[294..], [10, 0, 0, 0, 0, 5]);
        history.extend(&stats(&[(100_000, 0), (101_000, 7)]));
        assert_eq!(history.bars(Counter::Deliveries, 300)[298..], [0, 7], "a clock that was set back begins anew");
    }

    #[test]
    fn figures_beyond_all_measure_end_in_the_longest_bar() {
        let mut history = History::default();
        history.extend(&stats(&[(0, 0), (1_000, u64::MAX), (2_000, 0), (3_000, u64::MAX)]));
        assert_eq!(history.bars(Counter::Published, 1), [u64::MAX / 2_000]);
        for _ in 0..2 {
            history.extend(&stats(&[(u64::MAX, 7)]));
        }
        assert_eq!(history.bars(Counter::Published, 1), [0]);
    }

    #[test]
    fn only_missing_samples_are_asked_for_and_no_more_than_are_shown_are_kept() {
        let mut history = History::default();
        assert_eq!(history.missing(1_000_000), SAMPLES);
        history.extend(&stats(&(0..1_000).map(|second| (second * 1_000, second)).collect::<Vec<_>>()));
        assert_eq!(history.points.len(), SAMPLES + 1);
        assert_eq!(history.missing(1_000_000), 4);
        assert_eq!(history.missing(9_000_000), SAMPLES);
    }
}
