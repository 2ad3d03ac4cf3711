//! Figures as an exporter wants them: families of series, each series with its labels.

use std::borrow::Cow;

use serde::Serialize;

use super::counters::{Metric, MetricKind};
use super::histogram::Distribution;

/// Figures of one meaning: a single one, or a series for each value of a label.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct MetricFamily {
    /// The name, without the prefix of the server and without the `_total` of a counter, and with the unit at its end if
    /// there is one: `_seconds` or `_bytes`.
    pub name: &'static str,
    /// Whether the figures can fall, or are distributions.
    pub kind: MetricKind,
    /// The meaning; plain text in one line.
    pub text: &'static str,
    /// The names of the labels of each series, in their order.
    pub labels: Vec<&'static str>,
    /// The figures. Empty if nothing has happened yet and the labels are known only then.
    pub series: Vec<MetricSeries>,
}

/// A figure of a [`MetricFamily`].
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct MetricSeries {
    /// Names and values. The values of each label are a closed set, chosen by the settings and not by clients.
    pub labels: Vec<(&'static str, Cow<'static, str>)>,
    /// The figure.
    pub value: MetricValue,
}

/// The figure of a [`MetricSeries`].
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MetricValue {
    /// A whole number.
    Integer(u64),
    /// A number with a fraction, such as seconds.
    Float(f64),
    /// Durations in buckets.
    Distribution(Distribution),
}

impl MetricFamily {
    /// A family without labels and without series.
    #[must_use]
    pub fn new(name: &'static str, kind: MetricKind, text: &'static str) -> Self {
        Self { name, kind, text, labels: Vec::new(), series: Vec::new() }
    }

    /// The same family, whose series have these labels.
    #[must_use]
    pub fn by(self, labels: impl Into<Vec<&'static str>>) -> Self {
        Self { labels: labels.into(), ..self }
    }

    /// Adds a series.
    pub fn push(&mut self, labels: impl Into<Vec<(&'static str, Cow<'static, str>)>>, value: MetricValue) {
        self.series.push(MetricSeries { labels: labels.into(), value });
    }

    /// The same family with this series in addition.
    #[must_use]
    pub fn with(mut self, labels: impl Into<Vec<(&'static str, Cow<'static, str>)>>, value: MetricValue) -> Self {
        self.push(labels, value);
        self
    }

    /// The families of these figures, in the order of their first figures. The sum of several series is no series: a
    /// reader would count everything twice.
    ///
    /// ```
    /// # use janus_core::{Config, Janus, MetricFamily};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() };
    /// # let janus = Janus::builder().config(config).start().await?;
    /// let families = MetricFamily::of(janus.stats().metrics());
    /// let slow = families.iter().find(|family| family.name == "slow_consumers").expect("a family");
    /// assert!(slow.series.iter().all(|series| series.labels[0].0 == "reason"));
    /// # janus.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn of(figures: impl IntoIterator<Item = Metric>) -> Vec<Self> {
        let mut families: Vec<Self> = Vec::new();
        for Metric { kind, text, family: name, label, value, .. } in figures {
            let value = MetricValue::Integer(value);
            let known = families.iter().position(|family| family.name == name);
            let family = known.unwrap_or_else(|| {
                families.push(Self::new(name, kind, text));
                families.len() - 1
            });
            let family = &mut families[family];
            match label {
                Some((name, label)) => {
                    family.series.retain(|series| !series.labels.is_empty());
                    family.labels = vec![name];
                    family.push([(name, Cow::Borrowed(label))], value);
                }
                None => {
                    family.text = text;
                    if family.series.is_empty() {
                        family.push([], value);
                    }
                }
            }
        }
        families
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric(family: &'static str, label: Option<(&'static str, &'static str)>, value: u64) -> Metric {
        Metric {
            name: "a",
            kind: MetricKind::Counter,
            text: if label.is_some() { "One." } else { "All." },
            family,
            label,
            value,
        }
    }

    #[test]
    fn series_of_a_family_stand_together_without_their_sum() {
        let (one, two) = (Some(("reason", "one")), Some(("reason", "two")));
        for figures in [
            [metric("slow", None, 3), metric("slow", one, 1), metric("slow", two, 2)],
            [metric("slow", one, 1), metric("slow", two, 2), metric("slow", None, 3)],
        ] {
            let families = MetricFamily::of(figures);
            assert_eq!(families.len(), 1);
            assert_eq!((families[0].name, families[0].text), ("slow", "All."));
            let values: Vec<_> = families[0].series.iter().map(|series| series.value.clone()).collect();
            assert_eq!(values, [MetricValue::Integer(1), MetricValue::Integer(2)]);
        }
        let single = MetricFamily::of([metric("frames", None, 7)]);
        assert_eq!(single[0].series, [MetricSeries { labels: Vec::new(), value: MetricValue::Integer(7) }]);
    }
}
