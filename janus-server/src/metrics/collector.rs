//! Reads all figures at each scrape: of the instance, of the access rules, of the HTTP API, of the process.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use janus_access::tokens::{TokenStats, Tokens};
use janus_access::{Ask, AskStats, Reporter, WebhookStats};
use janus_core::{Distribution, Janus, Metric, MetricFamily, MetricKind, MetricSeries, MetricValue};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::process;
use super::requests::Requests;
use crate::access::Access;
use crate::admin::Health;

/// The owners of the figures.
#[derive(Clone, Debug)]
pub(crate) struct Sources {
    pub(crate) janus: Janus,
    /// `None` on the HTTP port, where no figures are served.
    pub(crate) health: Option<Arc<Health>>,
    /// The access rules in force; `None` without any.
    pub(crate) access: Option<Access>,
    pub(crate) requests: Arc<Requests>,
    pub(crate) started: SystemTime,
}

/// The prefix of all names but those of the process.
const PREFIX: &str = "janus_";

impl Sources {
    /// All families, with their full names.
    pub(super) fn families(&self) -> Vec<(Cow<'static, str>, MetricFamily)> {
        let mut families = self.about_the_server();
        families.extend(self.janus.metrics());
        let tokens = self.access.as_ref().map(Access::tokens).filter(|tokens| tokens.is_in_use());
        let (ask, reporter) = self.access.as_ref().map(Access::backends).unwrap_or_default();
        let (tokens, ask) = (tokens.map(Tokens::stats), ask.as_ref().map(Ask::stats));
        let reporter = reporter.as_ref().map(Reporter::stats);
        families.extend(of(tokens.as_ref().map(TokenStats::metrics), || TokenStats::default().metrics()));
        families.extend(of(ask.as_ref().map(AskStats::metrics), || AskStats::default().metrics()));
        families.extend(of(reporter.as_ref().map(WebhookStats::metrics), || WebhookStats::default().metrics()));
        families.extend(self.requests.families());
        let own = families.into_iter().map(|family| (Cow::Owned(format!("{PREFIX}{}", family.name)), family));
        let process = process::families(self.started).into_iter().map(|family| (Cow::Borrowed(family.name), family));
        own.chain(process).collect()
    }

    fn about_the_server(&self) -> Vec<MetricFamily> {
        let text = "Always 1; the label says which server this is.";
        let build = MetricFamily::new("build_info", MetricKind::Gauge, text).by(["version"]);
        let start = "When the instance started, as seconds since 1970.";
        let start = MetricFamily::new("start_time_seconds", MetricKind::Gauge, start);
        vec![
            build.with([("version", env!("CARGO_PKG_VERSION").into())], MetricValue::Integer(1)),
            start.with([], MetricValue::Float(process::since_1970(self.started))),
            self.readiness(),
        ]
    }

    fn readiness(&self) -> MetricFamily {
        let text =
            "Whether the server takes further clients, by the checks of /readyz: 1 if it does, 0 if a check fails.";
        let mut ready = MetricFamily::new("ready", MetricKind::Gauge, text).by(["check"]);
        for (check, passes) in self.health.iter().flat_map(|health| health.checks()) {
            ready.push([("check", check.into())], MetricValue::Integer(u64::from(passes)));
        }
        ready
    }
}

/// The families of these figures; without series if the settings have no use for the figures.
fn of<I: IntoIterator<Item = Metric>>(figures: Option<I>, otherwise: impl Fn() -> I) -> Vec<MetricFamily> {
    match figures {
        Some(figures) => MetricFamily::of(figures),
        None => {
            let mut families = MetricFamily::of(otherwise());
            families.iter_mut().for_each(|family| family.series.clear());
            families
        }
    }
}

impl Collector for Sources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for (name, family) in self.families() {
            let kind = match family.kind {
                MetricKind::Counter => MetricType::Counter,
                MetricKind::Histogram => MetricType::Histogram,
                _ => MetricType::Gauge,
            };
            let mut encoder = encoder.encode_descriptor(&name, family.text, None, kind)?;
            for MetricSeries { labels, value, .. } in &family.series {
                match labels.is_empty() {
                    true => write(&mut encoder, kind, value)?,
                    false => write(&mut encoder.encode_family(labels)?, kind, value)?,
                }
            }
        }
        Ok(())
    }
}

fn write(encoder: &mut MetricEncoder<'_>, kind: MetricType, value: &MetricValue) -> fmt::Result {
    match (kind, value) {
        (MetricType::Counter, MetricValue::Integer(value)) => encoder.encode_counter::<NoLabelSet, _, u64>(value, None),
        (MetricType::Counter, MetricValue::Float(value)) => encoder.encode_counter::<NoLabelSet, _, u64>(value, None),
        (_, MetricValue::Integer(value)) => encoder.encode_gauge(value),
        (_, MetricValue::Float(value)) => encoder.encode_gauge(value),
        (_, MetricValue::Distribution(distribution)) => write_histogram(encoder, distribution),
        _ => Err(fmt::Error),
    }
}

fn write_histogram(encoder: &mut MetricEncoder<'_>, distribution: &Distribution) -> fmt::Result {
    let bounds = distribution.bounds.iter().map(|bound| bound.as_secs_f64()).chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = bounds.zip(distribution.counts.iter().copied()).collect();
    encoder.encode_histogram::<NoLabelSet>(distribution.sum.as_secs_f64(), distribution.count(), &buckets, None)
}
