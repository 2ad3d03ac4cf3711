//! The figures of the last ten minutes, a sample for each second, and what they say of the rates of counters.
//!
//! Pure. A sample takes less than a kilobyte, so all of them take half a megabyte at most.

use std::collections::VecDeque;
use std::time::Duration;

use janus_core::{MetricKind, Stats};
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use tokio::time::Instant;

use super::SECOND;

/// Samples kept: ten minutes.
pub(crate) const KEPT: usize = 600;

/// The windows of rates, by their names.
pub(crate) const WINDOWS: [(&str, Duration); 3] =
    [("1s", Duration::from_secs(1)), ("10s", Duration::from_secs(10)), ("60s", Duration::from_secs(60))];

/// Samples come a little early or late.
const SLACK: Duration = Duration::from_millis(500);

/// All figures at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) at: Instant,
    /// Milliseconds since 1970.
    pub(crate) time: u64,
    pub(crate) stats: Stats,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Samples(VecDeque<Sample>);

impl Samples {
    /// Adds the latest sample. With more than [`KEPT`] samples, the oldest is forgotten.
    pub(crate) fn push(&mut self, sample: Sample) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(sample);
    }

    /// The last samples, at most `count`, the oldest first.
    pub(crate) fn last(&self, count: usize) -> Vec<Sample> {
        self.0.range(self.0.len().saturating_sub(count)..).copied().collect()
    }

    /// The rates of all figures over each of [`WINDOWS`], as of the latest sample.
    pub(crate) fn rates(&self) -> Rates {
        let Some(latest) = self.0.back() else { return Rates::default() };
        Rates(WINDOWS.map(|(_, window)| {
            let earlier = self.0.iter().rev().skip(1);
            // The first sample that is old enough, or else the oldest.
            let is_young = |sample: &&Sample| latest.at - sample.at + SLACK < window;
            let begin = earlier.clone().find(|sample| !is_young(sample)).or_else(|| earlier.last())?;
            Some((begin.stats, latest.stats, latest.at - begin.at))
        }))
    }
}

/// The changes of all figures over each window; `None` without two samples.
#[derive(Debug, Default)]
pub(crate) struct Rates([Option<(Stats, Stats, Duration)>; WINDOWS.len()]);

impl Rates {
    /// The rates per second of each figure, in the order of [`Stats::metrics`].
    pub(crate) fn of_all(&self) -> Vec<[Option<f64>; WINDOWS.len()]> {
        let mut rates = Vec::new();
        for (column, change) in self.0.iter().enumerate() {
            let Some((before, after, time)) = change else { continue };
            for (row, (before, after)) in before.metrics().zip(after.metrics()).enumerate() {
                if rates.len() == row {
                    rates.push([None; WINDOWS.len()]);
                }
                rates[row][column] = Some(per_second(after.value.saturating_sub(before.value), *time));
            }
        }
        rates
    }
}

/// A rate with three decimals: further digits would be noise, in an answer with hundreds of rates.
pub(crate) fn per_second(count: u64, time: Duration) -> f64 {
    if time.is_zero() {
        return 0.0;
    }
    (count as f64 / time.as_secs_f64() * 1_000.0).round() / 1_000.0
}

/// The samples of an answer, a list for each figure.
pub(crate) struct Listed<'a>(pub(crate) &'a [Sample]);

impl Serialize for Listed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("interval_ms", &SECOND.as_millis())?;
        map.serialize_entry("time", &self.0.iter().map(|sample| sample.time).collect::<Vec<_>>())?;
        map.serialize_entry("values", &Values(self.0))?;
        map.end()
    }
}

struct Values<'a>(&'a [Sample]);

impl Serialize for Values<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let row = |sample: &Sample| sample.stats.metrics().map(|metric| metric.value).collect();
        let rows: Vec<Vec<u64>> = self.0.iter().map(row).collect();
        let names = self.0.first().into_iter().flat_map(|sample| sample.stats.metrics().map(|metric| metric.name));
        serializer.collect_map(names.enumerate().map(|(column, name)| (name, Column(&rows, column))))
    }
}

/// A figure of each row.
struct Column<'a>(&'a [Vec<u64>], usize);

impl Serialize for Column<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|row| row[self.1]))
    }
}

/// All figures of a moment, each under its name, with the rates of the counters.
pub(crate) struct Figures<'a>(pub(crate) &'a Stats, pub(crate) &'a Rates);

impl Serialize for Figures<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let mut rates = self.1.of_all().into_iter();
        for metric in self.0.metrics() {
            let rates = rates.next().unwrap_or_default();
            let per_second = (metric.kind == MetricKind::Counter).then_some(PerSecond(rates));
            let figure = Figure { value: metric.value, kind: metric.kind, text: metric.text, per_second };
            map.serialize_entry(metric.name, &figure)?;
        }
        map.end()
    }
}

#[derive(Serialize)]
struct Figure {
    value: u64,
    kind: MetricKind,
    text: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    per_second: Option<PerSecond>,
}

struct PerSecond([Option<f64>; WINDOWS.len()]);

impl Serialize for PerSecond {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(WINDOWS.iter().map(|(name, _)| name).zip(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use janus_core::{Config, Janus};

    use super::*;

    async fn stats() -> Stats {
        let config = Config { listen: Vec::new(), http_listen: Vec::new(), ..Config::default() };
        let janus = Janus::builder().config(config).start().await.unwrap();
        let stats = janus.stats();
        janus.shutdown().await;
        stats
    }

    #[tokio::test]
    async fn a_rate_is_that_of_its_window_or_of_a_shorter_life() {
        let (stats, begun) = (stats().await, Instant::now());
        let mut samples = Samples::default();
        let published = |samples: &Samples| {
            let place = stats.metrics().position(|metric| metric.name == "published").unwrap();
            samples.rates().of_all().get(place).copied().unwrap_or_default()
        };
        assert_eq!(published(&samples), [None; 3]);
        let mut count = 0;
        for second in 0..=100 {
            // Ten a second, and in the last ten seconds a hundred.
            count += if second == 0 {
                0
            } else if second <= 90 {
                10
            } else {
                100
            };
            // Samples come a little early or late.
            let late = Duration::from_millis(if second % 2 == 0 { 0 } else { 40 });
            let mut sample = Sample { at: begun + Duration::from_secs(second) + late, time: second, stats };
            sample.stats.published = count;
            samples.push(sample);
            match second {
                0 => assert_eq!(published(&samples), [None; 3]),
                1 => assert_eq!(published(&samples), [Some(9.615); 3]),
                4 => assert_eq!(published(&samples)[1..], [Some(10.0); 2]),
                _ => {}
            }
        }
        assert_eq!(published(&samples), [Some(104.167), Some(100.0), Some(25.0)]);
    }

    #[tokio::test]
    async fn the_oldest_sample_is_forgotten_and_the_last_are_listed_oldest_first() {
        let (stats, at) = (stats().await, Instant::now());
        let mut samples = Samples::default();
        for time in 0..=KEPT as u64 {
            samples.push(Sample { at, time, stats });
        }
        let times = |count| samples.last(count).iter().map(|sample| sample.time).collect::<Vec<_>>();
        assert_eq!(times(2), [KEPT as u64 - 1, KEPT as u64]);
        assert_eq!((times(KEPT + 5).len(), times(KEPT + 5)[0]), (KEPT, 1));
    }
}
