//! The result of a bench, as text and as JSON, and the verdict for the exit code.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::lines::Tally;
use super::server_process::Usage;
use super::{Publication, Setup};
use crate::cli::Bench;

/// The publisher's account.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Messages written to the server, accepted or not.
    pub(super) sent: u32,
    /// Error frames from the server.
    pub(super) refusals: u32,
    /// Whether an error frame closed the connection, so that the server did not read any further messages.
    pub(super) closed: bool,
    pub(super) first_sent: u64,
    /// With a rate: nanoseconds from the time a message was due to its write.
    pub(super) lateness: Option<Histogram<u64>>,
    pub(super) error: Option<String>,
}

impl Outcome {
    /// The largest possible number of refused messages. An error frame does not name its message, and the server
    /// answers only the messages it read.
    pub(super) fn refused_at_most(&self) -> u32 {
        if self.closed { self.sent } else { self.refusals.min(self.sent) }
    }
}

/// The complete result of a run. Times are in nanoseconds.
pub(super) struct Report<'a> {
    command: &'a Bench,
    setup: Setup,
    publication: Publication,
    /// The sum over all workers, except for the latencies.
    total: Tally,
    latencies: Histogram<u64>,
    last_delivery: Histogram<u64>,
    expected: u64,
    /// Messages that the server refused, or did not read after a refusal that closed the connection.
    refused: u32,
    usage: Option<Usage>,
}

impl<'a> Report<'a> {
    pub(super) fn new(
        command: &'a Bench,
        setup: Setup,
        publication: Publication,
        tallies: Vec<Tally>,
        usage: Option<Usage>,
    ) -> Self {
        let mut total = Tally { min: u64::MAX, ..Tally::default() };
        let mut latencies = Histogram::new(3).expect("three digits are allowed");
        let mut missing = BTreeMap::<u32, u32>::new();
        for tally in tallies {
            for (number, clients) in tally.missing {
                *missing.entry(number).or_default() += clients;
            }
            for (value, count) in tally.latencies {
                record(&mut latencies, value, count);
            }
            total.good += tally.good;
            total.lost += tally.lost;
            total.duplicated += tally.duplicated;
            total.out_of_order += tally.out_of_order;
            total.corrupt += tally.corrupt;
            total.disconnected += tally.disconnected;
            total.errors.extend(tally.errors);
            total.last_delivery = total.last_delivery.max(tally.last_delivery);
            total.min = total.min.min(tally.min);
            total.max = total.max.max(tally.max);
        }
        let outcome = &publication.outcome;
        // A refused message reaches no client. Once the server begins to refuse, all further messages are refused. So
        // of the messages without any delivery, the last ones were refused, and the earlier ones were lost.
        let on_topic = |number: u32| {
            let topic = number % command.topics;
            (command.clients + command.topics - 1 - topic) / command.topics
        };
        let undelivered = missing.iter().rev().filter(|&(&number, &clients)| clients == on_topic(number));
        let mut refused = 0;
        for (_, &clients) in undelivered.take(outcome.refused_at_most() as usize) {
            refused += 1;
            total.lost -= u64::from(clients);
        }
        let refused = refused.max(outcome.refusals.min(outcome.sent));
        let mut last_delivery = Histogram::new(3).expect("three digits are allowed");
        for nanoseconds in publication.last_delivery.iter().flatten() {
            record(&mut last_delivery, *nanoseconds, 1);
        }
        let expected = total.good + total.out_of_order + total.lost;
        Self { command, setup, publication, total, latencies, last_delivery, expected, refused, usage }
    }

    /// Messages that were sent and not refused.
    fn published(&self) -> u32 {
        self.publication.outcome.sent - self.refused
    }

    fn bad(&self) -> u64 {
        self.total.lost + self.total.duplicated + self.total.out_of_order + self.total.corrupt
    }

    /// Deliveries per second, from the first message written to the last delivery read.
    fn deliveries_per_second(&self) -> f64 {
        let elapsed = self.total.last_delivery.saturating_sub(self.publication.outcome.first_sent);
        if elapsed == 0 { 0.0 } else { self.received() as f64 / (elapsed as f64 / 1e9) }
    }

    /// First arrivals, in order or not.
    fn received(&self) -> u64 {
        self.total.good + self.total.out_of_order
    }

    /// The percentiles from the histogram, and the exact extremes; `None` without deliveries.
    fn latency(&self) -> Option<[(&'static str, u64); 5]> {
        (!self.latencies.is_empty()).then(|| {
            let at = |quantile| self.latencies.value_at_quantile(quantile).clamp(self.total.min, self.total.max);
            [("min", self.total.min), ("p50", at(0.5)), ("p90", at(0.9)), ("p99", at(0.99)), ("max", self.total.max)]
        })
    }

    /// Pairs of a percentile and its latency in microseconds: every whole percent, and from 99 % on four steps for each
    /// further nine. The first and the last pair are exact.
    fn percentiles(&self) -> Vec<(f64, f64)> {
        if self.latencies.is_empty() {
            return Vec::new();
        }
        let tail = [99.2, 99.5, 99.8, 99.9, 99.92, 99.95, 99.98, 99.99, 99.992, 99.995, 99.998, 99.999];
        let between = (1..100).map(f64::from).chain(tail).map(|percentile| {
            let nanoseconds = self.latencies.value_at_quantile(percentile / 100.0);
            (percentile, microseconds(nanoseconds.clamp(self.total.min, self.total.max)))
        });
        let ends = [(0.0, microseconds(self.total.min)), (100.0, microseconds(self.total.max))];
        [ends[0]].into_iter().chain(between).chain([ends[1]]).collect()
    }

    /// CPU time of the server in nanoseconds: while the clients connected, and while messages were delivered.
    fn server_cpu(&self) -> Option<Result<(u64, u64), &'static str>> {
        let usage = self.usage.as_ref()?;
        let cpu = || Ok((usage.ready.cpu_since(&usage.before)?, usage.end.cpu_since(&usage.ready)?));
        Some(cpu())
    }

    /// Growth of the server's memory per connection: when all clients were ready, and at the end.
    fn rss_growth_per_connection(&self, usage: &Usage) -> [Option<f64>; 2] {
        [&usage.ready, &usage.end].map(|look| per(look.growth_since(&usage.before)? as f64, self.setup.ready.into()))
    }

    fn errors(&self) -> Vec<&String> {
        let publisher = self.publication.outcome.error.iter();
        self.setup.errors.iter().chain(&self.total.errors).chain(publisher).collect()
    }

    pub(super) fn print(&self) -> io::Result<()> {
        let rows = [self.run_rows(), self.delivery_rows(), self.server_rows()].concat();
        let errors = self.errors().into_iter().map(|error| ("error", error.clone()));
        let mut text = String::new();
        for (name, value) in rows.into_iter().chain(errors) {
            text.push_str(&format!("{name:<13}  {value}\n"));
        }
        text.push_str(&self.histogram_text());
        io::stdout().lock().write_all(text.as_bytes())
    }

    /// The run and its beginning: what was asked for, and how the clients connected.
    fn run_rows(&self) -> Vec<Row> {
        let Bench { protocol, transport, to, clients, topics, messages, size, window, rate, .. } = self.command;
        let setup = &self.setup;
        let pace = match rate {
            Some(rate) => format!("{rate} per second"),
            None => format!("{window} under way"),
        };
        let run = format!(
            "protocol {protocol}, clients {clients}, topics {topics}, messages {messages}, bytes {size}, workers {}, {pace}",
            setup.workers
        );
        let mut rows = vec![("run", run)];
        if let Some(http) = self.command.http_if_used() {
            let places = format!("clients on {http}, messages published on {to} by the classic protocol");
            rows.push(("transport", format!("{transport}: {places}")));
        }
        let seconds = setup.elapsed.as_secs_f64();
        rows.push(("setup", format!("{seconds:.3} s ({:.0} clients/s)", f64::from(setup.ready) / seconds)));
        let disconnected = self.total.disconnected;
        let clients = format!("{} ready, {} failed, {disconnected} disconnected", setup.ready, setup.failed);
        rows.push(("clients", clients));
        rows
    }

    /// Messages, deliveries and their latencies.
    fn delivery_rows(&self) -> Vec<Row> {
        let Tally { good, lost, duplicated, out_of_order, corrupt, .. } = self.total;
        let (published, refused) = (self.published(), self.refused);
        let deliveries = format!(
            "{} expected, {good} good, {} bad: {lost} lost, {duplicated} duplicated, {out_of_order} out of order, \
             {corrupt} corrupt",
            self.expected,
            self.bad()
        );
        let mut rows = vec![
            ("published", format!("{published} of {} messages, {refused} refused", self.command.messages)),
            ("deliveries", deliveries),
            ("throughput", format!("{:.0} deliveries/s", self.deliveries_per_second())),
        ];
        if let Some(latency) = self.latency() {
            rows.push(("latency", latency.map(|(name, value)| format!("{name} {}", time(value))).join(", ")));
        }
        if !self.last_delivery.is_empty() {
            let (median, worst) = (self.last_delivery.value_at_quantile(0.5), self.last_delivery.max());
            let worst = format!("worst {} over all messages", time(worst));
            rows.push(("last delivery", format!("median {}, {worst}", time(median))));
        }
        if let Some(lateness) = &self.publication.outcome.lateness {
            let (p99, max) = (lateness.value_at_quantile(0.99), lateness.max());
            rows.push(("publisher", format!("late by p99 {}, max {} (part of the latency)", time(p99), time(max))));
        }
        rows
    }

    /// The cost to the server, with `--server-pid`.
    fn server_rows(&self) -> Vec<Row> {
        let unknown = || "-".to_owned();
        let mut rows = Vec::new();
        match self.server_cpu() {
            Some(Ok((connecting, delivering))) => {
                let each = |total: u64, count: u64| per(total as f64, count).map_or_else(unknown, |t| time(t as u64));
                let (delivery, connection) =
                    (each(delivering, self.received()), each(connecting, self.setup.ready.into()));
                rows.push(("server CPU", format!("{delivery} per delivery, {connection} per connection until ready")));
            }
            Some(Err(why)) => rows.push(("server CPU", why.to_owned())),
            None => {}
        }
        if let Some(usage) = &self.usage {
            let each = |bytes: Option<f64>| bytes.map_or_else(unknown, |bytes| format!("{bytes:.0} bytes"));
            let before = usage.before.rss_bytes.map_or_else(unknown, |bytes| format!("{} KiB", bytes / 1024));
            let [ready, end] = self.rss_growth_per_connection(usage).map(each);
            let growth = format!("{ready} per connection when ready, {end} at the end");
            rows.push(("server memory", format!("{before}, plus {growth}")));
        }
        rows
    }

    /// A bar for each step of the scale, from the first step with deliveries to the last.
    fn histogram_text(&self) -> String {
        let rows = self.buckets();
        let largest = rows.iter().map(|row| row.2).max().unwrap_or(0).max(1);
        let mut text = String::new();
        for (from, to, count) in rows {
            let bar = "#".repeat((count * BAR_WIDTH).div_ceil(largest) as usize);
            let share = 100.0 * count as f64 / self.latencies.len() as f64;
            text.push_str(&format!("{:>9} - {:<9} {bar:<50} {count:>9}  {share:>5.1} %\n", time(from), time(to)));
        }
        text
    }

    /// Counts between the steps of the scale, without the empty steps at both ends.
    fn buckets(&self) -> Vec<(u64, u64, u64)> {
        if self.latencies.is_empty() {
            return Vec::new();
        }
        let steps: Vec<u64> = (0..11).flat_map(|power| STEPS.map(|step| step * 10_u64.pow(power) * 100)).collect();
        let mut rows: Vec<(u64, u64, u64)> = steps.windows(2).map(|pair| (pair[0], pair[1], 0)).collect();
        rows.insert(0, (0, steps[0], 0));
        for recorded in self.latencies.iter_recorded() {
            let value = recorded.value_iterated_to().clamp(self.total.min, self.total.max);
            let index = rows.partition_point(|row| row.1 <= value).min(rows.len() - 1);
            rows[index].2 += recorded.count_at_value();
        }
        let first = rows.iter().position(|row| row.2 > 0).unwrap_or(0);
        let last = rows.iter().rposition(|row| row.2 > 0).unwrap_or(0);
        rows[first..=last].to_vec()
    }

    pub(super) fn write_json(&self, path: &Path) -> io::Result<()> {
        let (total, setup, outcome) = (&self.total, &self.setup, &self.publication.outcome);
        let object =
            |pairs: &[(&str, u64)]| Value::Object(pairs.iter().map(|&(k, v)| (k.to_owned(), json!(v))).collect());
        let result = json!({
            "protocol": self.command.protocol,
            "transport": self.command.transport,
            "server": self.command.to,
            "http": self.command.http_if_used(),
            "clients": self.command.clients,
            "topics": self.command.topics,
            "messages": self.command.messages,
            "size": self.command.size,
            "connecting": self.command.connecting,
            "rate": self.command.rate,
            "window": self.command.rate.is_none().then_some(self.command.window),
            "classic_publish": self.command.classic_publish,
            "workers": setup.workers,
            "setup_ns": super::clock::nanoseconds(setup.elapsed),
            "ready": setup.ready,
            "failed": setup.failed,
            "disconnected": total.disconnected,
            "published": self.published(),
            "refused": self.refused,
            "stalled": self.publication.stalled,
            "expected": self.expected,
            "good": total.good,
            "bad": self.bad(),
            "lost": total.lost,
            "duplicated": total.duplicated,
            "out_of_order": total.out_of_order,
            "corrupt": total.corrupt,
            "deliveries_per_second": self.deliveries_per_second(),
            "latency_ns": self.latency().map(|latency| object(&latency)),
            "last_delivery_ns": (!self.last_delivery.is_empty()).then(|| object(&[
                ("median", self.last_delivery.value_at_quantile(0.5)),
                ("worst", self.last_delivery.max()),
            ])),
            "latency_percentiles_us": self.percentiles(),
            "last_delivery_us_by_message": self.publication.last_delivery.iter()
                .map(|last| last.map(microseconds)).collect::<Vec<_>>(),
            "publisher_late_ns": outcome.lateness.as_ref().map(|lateness| object(&[
                ("p99", lateness.value_at_quantile(0.99)),
                ("max", lateness.max()),
            ])),
            "histogram_ns": self.buckets(),
            "server_process": self.server_process_json(),
            "errors": self.errors(),
        });
        // A line per key. Pretty-printing would spread the long tables over thousands of lines.
        let members = result.as_object().expect("the result is an object").iter();
        let lines: Vec<String> = members.map(|(key, value)| format!("  {}: {value}", json!(key))).collect();
        std::fs::write(path, format!("{{\n{}\n}}\n", lines.join(",\n")))
    }

    fn server_process_json(&self) -> Value {
        let Some(usage) = &self.usage else { return Value::Null };
        let cpu = self.server_cpu().unwrap_or(Err("not measured"));
        let [ready, end] = self.rss_growth_per_connection(usage);
        json!({
            "pid": usage.process.pid,
            "cpu_ns_connecting": cpu.ok().map(|(connecting, _)| connecting),
            "cpu_ns_per_connection": cpu.ok().and_then(|(connecting, _)| per(connecting as f64, self.setup.ready.into())),
            "cpu_ns_delivering": cpu.ok().map(|(_, delivering)| delivering),
            "cpu_ns_per_delivery": cpu.ok().and_then(|(_, delivering)| per(delivering as f64, self.received())),
            "cpu_note": cpu.err(),
            "rss_bytes_before": usage.before.rss_bytes,
            "rss_bytes_ready": usage.ready.rss_bytes,
            "rss_bytes_end": usage.end.rss_bytes,
            "rss_bytes_per_connection_ready": ready,
            "rss_bytes_per_connection_end": end,
        })
    }

    /// Whether every delivery was made, once and in order.
    pub(super) fn verdict(&self) -> Result<(), String> {
        let unpublished = self.command.messages - self.publication.outcome.sent;
        let without_connection = self.setup.failed + self.total.disconnected;
        let good = self.bad() == 0 && self.published() == self.command.messages && without_connection == 0;
        if good && self.publication.outcome.error.is_none() {
            return Ok(());
        }
        Err(format!(
            "{} of {} deliveries are missing, {} are wrong, {} messages were refused, {unpublished} were not \
             sent, {without_connection} clients were not connected to the end",
            self.total.lost,
            self.expected,
            self.bad() - self.total.lost,
            self.refused
        ))
    }
}

/// A name and a value of the printed report.
type Row = (&'static str, String);

/// Counts a time in a histogram that resizes itself.
pub(super) fn record(histogram: &mut Histogram<u64>, nanoseconds: u64, count: u64) {
    histogram.record_n(nanoseconds, count).expect("a histogram made by `new` resizes itself up to every u64");
}

/// The average, or `None` if `count` is 0.
fn per(total: f64, count: u64) -> Option<f64> {
    (count > 0).then(|| total / count as f64)
}

fn microseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e3
}

/// A time with three significant digits.
fn time(nanoseconds: u64) -> String {
    let duration = Duration::from_nanos(nanoseconds);
    let (value, unit) = match nanoseconds {
        0..1_000 => (nanoseconds as f64, "ns"),
        1_000..1_000_000 => (duration.as_secs_f64() * 1e6, "µs"),
        1_000_000..1_000_000_000 => (duration.as_secs_f64() * 1e3, "ms"),
        _ => (duration.as_secs_f64(), "s"),
    };
    let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.decimals$} {unit}")
}

const BAR_WIDTH: u64 = 50;
/// The steps within each power of ten, in units of 100 ns.
const STEPS: [u64; 6] = [10, 15, 20, 30, 50, 70];

#[cfg(test)]
mod tests {
    use super::time;

    #[test]
    fn times_are_short_and_keep_their_unit() {
        assert_eq!(time(900), "900 ns");
        assert_eq!(time(12_345), "12.3 µs");
        assert_eq!(time(1_234_567), "1.23 ms");
        assert_eq!(time(2_000_000_000), "2.00 s");
    }
}
