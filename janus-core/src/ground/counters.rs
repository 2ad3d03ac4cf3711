//! The figures of an instance in one table: the state of the moment (gauges), and the events since the start
//! (counters).
//!
//! The table makes three things: [`Counters`], incremented on every floor; [`Stats`], the public copy; and
//! [`Stats::metrics`], the same figures as data with their texts. A new counter is a row here and an increment at the
//! place of the event.
//!
//! The text of a row is its documentation, and the help text of an export: plain prose without links.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// Makes everything of the table; a row has the form `name: kind`. The kinds:
///
/// - `counter`: an atomic of [`Counters`], incremented by the code;
/// - `sum(a, b)`: the sum of other counters of the table;
/// - `gauge`: a reading of the present, taken by the caller who wants the [`Stats`];
/// - `reading`: a counter kept elsewhere, read like a gauge;
/// - `internal`: an atomic of [`Counters`] without a place in [`Stats`].
macro_rules! counters {
    // A row goes to the lists of the things made of it: atomics, readings, public figures.
    (@rows [$($atomic:tt)*] [$($reading:tt)*] [$($figure:tt)*] $(#[doc = $text:literal])+ $name:ident: counter, $($rows:tt)*) => {
        counters!(@rows [$($atomic)* { $name [$($text)+] }] [$($reading)*]
            [$($figure)* { $name [$($text)+] u64 Counter (atomic) }] $($rows)*);
    };
    (@rows [$($atomic:tt)*] [$($reading:tt)*] [$($figure:tt)*] $(#[doc = $text:literal])+ $name:ident: sum($($part:ident),+), $($rows:tt)*) => {
        counters!(@rows [$($atomic)*] [$($reading)*]
            [$($figure)* { $name [$($text)+] u64 Counter (sum $($part)+) }] $($rows)*);
    };
    (@rows [$($atomic:tt)*] [$($reading:tt)*] [$($figure:tt)*] $(#[doc = $text:literal])+ $name:ident: gauge, $($rows:tt)*) => {
        counters!(@rows [$($atomic)*] [$($reading)* { $name usize }]
            [$($figure)* { $name [$($text)+] usize Gauge (reading) }] $($rows)*);
    };
    (@rows [$($atomic:tt)*] [$($reading:tt)*] [$($figure:tt)*] $(#[doc = $text:literal])+ $name:ident: reading, $($rows:tt)*) => {
        counters!(@rows [$($atomic)*] [$($reading)* { $name u64 }]
            [$($figure)* { $name [$($text)+] u64 Counter (reading) }] $($rows)*);
    };
    (@rows [$($atomic:tt)*] [$($reading:tt)*] [$($figure:tt)*] $(#[doc = $text:literal])+ $name:ident: internal, $($rows:tt)*) => {
        counters!(@rows [$($atomic)* { $name [$($text)+] }] [$($reading)*] [$($figure)*] $($rows)*);
    };
    (@rows
        [$({ $atomic:ident [$($atomic_text:literal)+] })*]
        [$({ $reading:ident $reading_type:ident })*]
        [$({ $name:ident [$($text:literal)+] $type:ident $kind:ident $source:tt })*]
    ) => {
        /// Counts of events since the start of the instance; incremented where the events happen.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $($(#[doc = $atomic_text])+ pub(crate) $atomic: AtomicU64,)*
        }

        /// The figures without an atomic in [`Counters`].
        #[derive(Clone, Copy, Debug, Default)]
        pub(crate) struct Readings {
            $(pub(crate) $reading: $reading_type,)*
        }

        /// The figures of an instance: first the present state, then the events since the start.
        ///
        /// [`metrics`](Self::metrics) gives the same figures as data, for a program that exports all figures.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
        #[non_exhaustive]
        pub struct Stats {
            $($(#[doc = $text])+ pub $name: $type,)*
        }

        impl Counters {
            /// A copy of all figures, with `readings` of the figures kept elsewhere.
            pub(crate) fn stats(&self, readings: &Readings) -> Stats {
                let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
                let mut stats = Stats { $($name: counters!(@value $name $source self readings count),)* };
                $(counters!(@add $name $source stats);)*
                stats
            }
        }

        impl Stats {
            /// All figures in the order of the fields, with their kinds and texts: for a JSON document, a table, or the
            /// text format of a monitoring system. Figures of later versions appear here by themselves.
            ///
            /// ```
            /// # use janus_core::{Config, Janus, MetricKind};
            /// # #[tokio::main(flavor = "current_thread")]
            /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
            /// # let config = Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() };
            /// # let janus = Janus::builder().config(config).start().await?;
            /// for metric in janus.stats().metrics() {
            ///     println!("# HELP janus_{} {}", metric.name, metric.text);
            ///     match metric.kind {
            ///         MetricKind::Counter => println!("janus_{}_total {}", metric.name, metric.value),
            ///         _ => println!("janus_{} {}", metric.name, metric.value),
            ///     }
            /// }
            /// # janus.shutdown().await;
            /// # Ok(())
            /// # }
            /// ```
            pub fn metrics(&self) -> impl Iterator<Item = Metric> + use<> {
                [$(Metric {
                    name: stringify!($name),
                    kind: MetricKind::$kind,
                    text: concat!($($text),+).trim_ascii(),
                    value: self.$name as u64,
                },)*]
                .into_iter()
            }
        }
    };
    (@value $name:ident (atomic) $counters:ident $readings:ident $count:ident) => { $count(&$counters.$name) };
    (@value $name:ident (reading) $counters:ident $readings:ident $count:ident) => { $readings.$name };
    (@value $name:ident (sum $($part:ident)+) $counters:ident $readings:ident $count:ident) => { 0 };
    // Sums of the copies, because the counters themselves may change from one look to the next.
    (@add $name:ident (sum $($part:ident)+) $stats:ident) => { $stats.$name = 0 $(+ $stats.$part)+ };
    (@add $name:ident $source:tt $stats:ident) => {};
    ($($rows:tt)*) => { counters!(@rows [] [] [] $($rows)*); };
}

counters! {
    /// Connections open now, with or without a place of `max_connections`; connections being refused are not counted.
    connections: gauge,
    /// Sessions listed now, with and without a connection.
    sessions: gauge,
    /// Sessions listed now without a connection.
    detached_sessions: gauge,
    /// Topics that exist now.
    topics: gauge,
    /// Bytes taken now by messages, queues, sessions, connections and topics, by the server's own account.
    memory_used: gauge,
    /// The setting `memory_budget_bytes`, the limit of `memory_used`; 0 without a budget.
    memory_budget: gauge,
    /// Connections accepted and served: with a place of `max_connections`, as a request that was passed on, or as a
    /// publisher that found the server full.
    connections_accepted: counter,
    /// Clients refused because `max_connections` were connected, or because memory was nearly used up; refusals by
    /// `Janus::serve` included.
    connections_refused: counter,
    /// Clients refused because memory was nearly used up; also counted in `connections_refused`.
    connections_refused_for_memory: counter,
    /// Clients cut off because they did not keep up: the sum of the next three.
    slow_consumers: sum(slow_consumers_queue_full, slow_consumers_stalled, slow_consumers_out_of_memory),
    /// Slow consumers cut off because their queue was full.
    slow_consumers_queue_full: counter,
    /// Slow consumers cut off because they took nothing from their queue for `write_timeout`, or `stall_timeout`.
    slow_consumers_stalled: counter,
    /// Slow consumers cut off because their queue was among the largest when `memory_budget_bytes` was nearly used up.
    slow_consumers_out_of_memory: counter,
    /// Messages that a subscriber under the policy `drop_oldest` did not get.
    messages_dropped_oldest: counter,
    /// Messages that a subscriber under the policy `drop_newest` did not get.
    messages_dropped_newest: counter,
    /// Messages that a subscriber under the policy `conflate` did not get, because a later message took their place.
    messages_conflated: counter,
    /// Messages that topics forgot before their time, because memory was short.
    messages_trimmed: counter,
    /// Sessions without a connection that ended before their time, because memory was short.
    sessions_ended_for_memory: counter,
    /// Connections closed because memory was short and the client held some without having asked for anything: frames,
    /// heads and messages under way beyond `input_share`, and clients that connected and did no more.
    connections_closed_for_memory: counter,
    /// Frames of clients answered with an error for their content; messages refused by their topic are not counted.
    frames_refused: counter,
    /// Clients closed because a frame stayed unfinished for `frame_timeout`.
    frames_timed_out: counter,
    /// Clients closed because a ping stayed unanswered for `pong_timeout`.
    pings_unanswered: counter,
    /// Clients closed because their token expired, and no new token came within `token_grace`.
    tokens_expired: counter,
    /// TLS handshakes completed.
    tls_handshakes: counter,
    /// TLS handshakes that failed: no TLS, an old version, a refused certificate of a client, a connection lost, not
    /// completed within `frame_timeout`, or cut to make room.
    tls_handshakes_failed: counter,
    /// Reloads of certificates with an error, after which earlier certificates stay in use.
    certificates_refused: counter,
    /// Pauses of accepting because the process or the system ran out of descriptors.
    accept_pauses: counter,
    /// Events that observers among the hooks were not told of, because their queue was full (`hook_queue`).
    hook_news_lost: reading,
    /// Connections that ended with something still queued for them, except slow consumers.
    cut_off: internal,
}

impl Counters {
    /// Connections that ended with something still queued for them, slow consumers included.
    pub(crate) fn all_cut_off(&self) -> u64 {
        self.cut_off.load(Ordering::Relaxed) + self.stats(&Readings::default()).slow_consumers
    }
}

/// A figure of [`Stats`], as data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Metric {
    /// The name of the field of [`Stats`].
    pub name: &'static str,
    /// Whether the figure can fall.
    pub kind: MetricKind,
    /// The meaning, as in the documentation of the field; plain text in one line.
    pub text: &'static str,
    /// The figure.
    pub value: u64,
}

/// The kind of a [`Metric`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MetricKind {
    /// A state of this moment, which rises and falls.
    Gauge,
    /// A count since the start of the instance, which only rises.
    Counter,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_figure_of_the_stats_is_a_metric_of_the_same_name_and_value() {
        let counters = Counters::default();
        counters.slow_consumers_queue_full.fetch_add(2, Ordering::Relaxed);
        counters.slow_consumers_stalled.fetch_add(3, Ordering::Relaxed);
        counters.cut_off.fetch_add(10, Ordering::Relaxed);
        let stats = counters.stats(&Readings { topics: 7, hook_news_lost: 9, ..Readings::default() });
        assert_eq!((stats.slow_consumers, stats.topics, stats.hook_news_lost), (5, 7, 9));
        assert_eq!(counters.all_cut_off(), 15);

        let serde_json::Value::Object(fields) = serde_json::to_value(stats).unwrap() else { panic!("an object") };
        let metrics: Vec<_> = stats.metrics().collect();
        assert_eq!(metrics.len(), fields.len());
        for Metric { name, text, value, .. } in &metrics {
            assert_eq!(fields[*name], *value, "{name}");
            assert!(text.ends_with('.') && !text.contains("  ") && !text.contains('\n'), "{name}: {text:?}");
        }
    }

    #[test]
    fn gauges_come_first_and_are_the_figures_of_the_present() {
        let metrics: Vec<_> = Counters::default().stats(&Readings::default()).metrics().collect();
        assert!(metrics.is_sorted_by_key(|metric| metric.kind == MetricKind::Counter));
        let gauges = metrics.iter().filter(|metric| metric.kind == MetricKind::Gauge).map(|metric| metric.name);
        let expected = ["connections", "sessions", "detached_sessions", "topics", "memory_used", "memory_budget"];
        assert!(gauges.eq(expected));
        assert_eq!(metrics[0].text.split(',').next(), Some("Connections open now"));
    }
}
