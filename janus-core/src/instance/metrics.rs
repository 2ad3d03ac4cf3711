//! All figures of an instance as families of series, for an exporter.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::janus::Janus;
use crate::connection::Connections;
use crate::ground::counters::MetricKind;
use crate::ground::families::{MetricFamily, MetricValue};
use crate::ground::figures::ActorKind;
use crate::supervision::Place;

impl Janus {
    /// All figures of the instance, for a program that exports figures to a monitoring system: those of
    /// [`stats`](Self::stats), and figures with labels and distributions.
    ///
    /// The cost does not depend on the number of clients or topics. The name of a topic, user or client is never the
    /// value of a label.
    ///
    /// ```
    /// use janus_core::{Config, Janus, MetricValue};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() };
    /// let janus = Janus::builder().config(config).start().await?;
    /// let mut subscriber = janus.subscribe("news")?;
    /// janus.publish("news", "hello").await?;
    /// subscriber.next().await;
    ///
    /// let families = janus.metrics();
    /// let published = families.iter().find(|family| family.name == "published").expect("a family");
    /// assert_eq!(published.series[0].value, MetricValue::Integer(1));
    /// # janus.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn metrics(&self) -> Vec<MetricFamily> {
        let shared = self.tables();
        let mut families = MetricFamily::of(self.stats().metrics());
        if let Some(connections) = families.iter_mut().find(|family| family.name == "connections") {
            by_transport(shared, connections);
        }
        for by_label in [published(shared), restarts(shared)] {
            if let Some(sum) = families.iter_mut().find(|family| family.name == by_label.name) {
                *sum = by_label;
            }
        }
        families.extend([disconnects(shared), publish_errors(shared), fan_outs(shared), hook_times(shared)]);
        families.extend(engine(shared));
        families.extend(self.inner.work.families(shared));
        #[cfg(feature = "tls")]
        families.push(certificate_expiry(self));
        families
    }
}

/// Without TLS listeners there is no series.
#[cfg(feature = "tls")]
fn certificate_expiry(janus: &Janus) -> MetricFamily {
    let text = "When the first certificate in use expires, as seconds since 1970.";
    let mut family = MetricFamily::new("tls_certificate_expiry_seconds", MetricKind::Gauge, text);
    if let Some(end) = janus.certificates_end() {
        let seconds = end.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        family.push([], MetricValue::Integer(seconds));
    }
    family
}

/// Replaces the sum by a series for each transport. Connections that are being refused count for none.
fn by_transport(shared: &Connections, family: &mut MetricFamily) {
    let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
    for (name, open) in shared.codecs().open() {
        *counts.entry(name).or_default() += open as u64;
    }
    family.series.clear();
    family.labels = vec!["transport"];
    for (transport, count) in counts {
        family.push([("transport", transport.into())], MetricValue::Integer(count));
    }
}

fn disconnects(shared: &Connections) -> MetricFamily {
    let text = "Connections that have ended, by the code told to the client; by_client if the client ended the \
                connection, or was answered over HTTP without being served. Connections with requests to the HTTP API \
                alone are not counted, unless by internal.";
    let mut family = MetricFamily::new("disconnects", MetricKind::Counter, text).by(["code"]);
    let by_client = shared.figures.left.load(Ordering::Relaxed);
    family.push([("code", "by_client".into())], MetricValue::Integer(by_client));
    for (code, count) in shared.figures.disconnects.counts() {
        family.push([("code", code.as_str().into())], MetricValue::Integer(count));
    }
    family
}

fn published(shared: &Connections) -> MetricFamily {
    let text = "Messages accepted, by namespace of the settings (default for all others) and by the transport of the \
                publisher; api for the HTTP API and for the program.";
    let mut family = MetricFamily::new("published", MetricKind::Counter, text).by(["namespace", "via"]);
    let mut counts: BTreeMap<(String, &str), u64> = BTreeMap::new();
    for (namespace, via, count) in shared.figures.published.counts() {
        let via = via.as_codec().map_or("api", |codec| shared.codecs().name(codec));
        *counts.entry((namespace, via)).or_default() += count;
    }
    for ((namespace, via), count) in counts {
        let labels = [("namespace", namespace.into()), ("via", via.to_owned().into())];
        family.push(labels, MetricValue::Integer(count));
    }
    family
}

fn publish_errors(shared: &Connections) -> MetricFamily {
    let text = "Messages refused after they were read, by the code told to the publisher.";
    let mut family = MetricFamily::new("publish_errors", MetricKind::Counter, text).by(["code"]);
    for (code, count) in shared.figures.publish_errors.counts() {
        family.push([("code", code.as_str().into())], MetricValue::Integer(count));
    }
    family
}

fn fan_outs(shared: &Connections) -> MetricFamily {
    let text = "Time from the number of the first message of a batch until the batch was sent to the last subscriber of \
                its topic, or queued for it.";
    let value = MetricValue::Distribution(shared.figures.fan_outs.read());
    MetricFamily::new("fanout_duration_seconds", MetricKind::Histogram, text).with([], value)
}

/// Without an engine there is no series.
fn engine(shared: &Connections) -> [MetricFamily; 4] {
    let text = "Whether the link to a server of the engine is up (1) or down (0); the label is the place of its address in `engine`, from 0.";
    let mut up = MetricFamily::new("engine_up", MetricKind::Gauge, text).by(["server"]);
    let text = "Links to the engine that have ended, by the reason, such as `closed`, `timeout` or `read_only`; a new link is made after each.";
    let mut reconnects = MetricFamily::new("engine_reconnects", MetricKind::Counter, text).by(["reason"]);
    let text = "Time from the request to the engine to number messages until their numbers came.";
    let mut appends = MetricFamily::new("engine_append_seconds", MetricKind::Histogram, text);
    let text = "Messages that wait now for the engine to number them.";
    let mut waiting = MetricFamily::new("engine_waiting_messages", MetricKind::Gauge, text);
    if let Some(cluster) = &shared.topics.cluster {
        for (index, link) in cluster.links().enumerate() {
            up.push([("server", index.to_string().into())], MetricValue::Integer(u64::from(link.is_up)));
        }
        for (reason, count) in cluster.figures.ends() {
            reconnects.push([("reason", reason.into())], MetricValue::Integer(count));
        }
        appends.push([], MetricValue::Distribution(cluster.figures.appends.read()));
        waiting.push([], MetricValue::Integer(cluster.figures.waiting()));
    }
    [up, reconnects, appends, waiting]
}

fn restarts(shared: &Connections) -> MetricFamily {
    let text = "Restarts of actors after a crash, by the kind of the actor.";
    let mut family = MetricFamily::new("actor_restarts", MetricKind::Counter, text).by(["actor"]);
    for (kind, count) in shared.figures.restarts.counts() {
        family.push([("actor", ActorKind::as_str(kind).into())], MetricValue::Integer(count));
    }
    family
}

fn hook_times(shared: &Connections) -> MetricFamily {
    let text = "Time of a decision about a client, by hook and result, the wait for a place among \
                max_hook_questions included.";
    let mut family = MetricFamily::new("hook_seconds", MetricKind::Histogram, text).by(["hook", "result"]);
    let times = shared.installed_hooks().map(|hooks| hooks.times.read());
    for (hook, result, times) in times.into_iter().flatten() {
        let labels = [("hook", hook.as_str().into()), ("result", result.as_str().into())];
        family.push(labels, MetricValue::Distribution(times));
    }
    family
}

/// How busy the threads with actors are.
#[derive(Debug)]
pub(super) struct Work(Vec<Worker>);

#[derive(Debug)]
struct Worker {
    /// The label of the thread.
    name: String,
    place: Place,
    window: Mutex<Window>,
}

/// Two readings of the work of a thread, at least [`SHORTEST`] apart, whoever reads and however often.
#[derive(Clone, Copy, Debug)]
struct Window {
    earlier: Reading,
    later: Reading,
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    at: Instant,
    busy: Duration,
}

/// A ratio over a shorter time would be a matter of chance.
const SHORTEST: Duration = Duration::from_secs(1);

impl Work {
    pub(super) fn new(places: impl IntoIterator<Item = (String, Place)>) -> Self {
        let worker = |(name, place): (String, Place)| {
            let now = Reading { at: Instant::now(), busy: place.busy() };
            Worker { name, place, window: Mutex::new(Window { earlier: now, later: now }) }
        };
        Self(places.into_iter().map(worker).collect())
    }

    fn families(&self, shared: &Connections) -> [MetricFamily; 3] {
        let text = "Time for which a thread has worked, as opposed to waiting for something to do.";
        let mut busy = MetricFamily::new("arbiter_busy_seconds", MetricKind::Counter, text).by(["thread"]);
        let text =
            "The part of its time for which a thread has worked since the last scrape, or for at least a second.";
        let mut ratio = MetricFamily::new("arbiter_busy_ratio", MetricKind::Gauge, text).by(["thread"]);
        for Worker { name, place, window } in &self.0 {
            let now = Reading { at: Instant::now(), busy: place.busy() };
            busy.push([("thread", name.clone().into())], MetricValue::Float(now.busy.as_secs_f64()));
            ratio.push([("thread", name.clone().into())], MetricValue::Float(window.lock().ratio(now)));
        }
        let text = "Time for which a home arbiter has worked without a pause: how long something may have waited for \
                    its turn.";
        let turns = MetricFamily::new("arbiter_turn_seconds", MetricKind::Histogram, text);
        [busy, ratio, turns.with([], MetricValue::Distribution(shared.figures.turns.read()))]
    }
}

impl Window {
    fn ratio(&mut self, now: Reading) -> f64 {
        if now.at.saturating_duration_since(self.later.at) >= SHORTEST {
            self.earlier = std::mem::replace(&mut self.later, now);
        }
        let time = now.at.saturating_duration_since(self.earlier.at).as_secs_f64();
        let busy = now.busy.saturating_sub(self.earlier.busy).as_secs_f64();
        if time > 0.0 { (busy / time).min(1.0) } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_spans_a_second_at_least_however_often_it_is_read() {
        let begun = Instant::now();
        let reading = |milliseconds: u64, busy: u64| Reading {
            at: begun + Duration::from_millis(milliseconds),
            busy: Duration::from_millis(busy),
        };
        let start = reading(0, 0);
        let mut window = Window { earlier: start, later: start };
        let mut ratio = |milliseconds, busy| (window.ratio(reading(milliseconds, busy)) * 100.0).round();
        assert_eq!(ratio(0, 0), 0.0);
        assert_eq!(ratio(500, 250), 50.0);
        assert_eq!(ratio(1_000, 1_000), 100.0, "since the start");
        assert_eq!(ratio(1_100, 1_000), 91.0, "still since the start");
        assert_eq!(ratio(3_000, 2_000), 50.0, "since the reading at one second");
        assert_eq!(ratio(3_001, 2_001), 50.0);
    }
}
