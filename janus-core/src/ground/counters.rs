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
///
/// Behind the kind may stand the family of an export, if the family has another name than the figure: `as family`, or
/// `as family { label = "value" }` for one series of several. A family of several series needs another row without a
/// label, whose text is the text of the family: the figure that is the sum of the series.
macro_rules! counters {
    // A row goes to the lists of the things made of it: atomics, readings, public figures.
    (@rows [$($atomic:tt)*] [$($reading:tt)*] [$($figure:tt)*] $(#[doc = $text:literal])+ $name:ident: counter $(as $family:ident $({ $label:ident = $value:literal })?)?, $($rows:tt)*) => {
        counters!(@rows [$($atomic)* { $name [$($text)+] }] [$($reading)*]
            [$($figure)* { $name [$($text)+] u64 Counter (atomic) [$($family $({ $label = $value })?)?] }] $($rows)*);
    };
    (@rows [$($atomic:tt)*] [$($reading:tt)*] [$($figure:tt)*] $(#[doc = $text:literal])+ $name:ident: sum($($part:ident),+) $(as $family:ident $({ $label:ident = $value:literal })?)?, $($rows:tt)*) => {
        counters!(@rows [$($atomic)*] [$($reading)*]
            [$($figure)* { $name [$($text)+] u64 Counter (sum $($part)+) [$($family $({ $label = $value })?)?] }] $($rows)*);
    };
    (@rows [$($atomic:tt)*] [$($reading:tt)*] [$($figure:tt)*] $(#[doc = $text:literal])+ $name:ident: gauge $(as $family:ident $({ $label:ident = $value:literal })?)?, $($rows:tt)*) => {
        counters!(@rows [$($atomic)*] [$($reading)* { $name usize }]
            [$($figure)* { $name [$($text)+] usize Gauge (reading) [$($family $({ $label = $value })?)?] }] $($rows)*);
    };
    (@rows [$($atomic:tt)*] [$($reading:tt)*] [$($figure:tt)*] $(#[doc = $text:literal])+ $name:ident: reading $(as $family:ident $({ $label:ident = $value:literal })?)?, $($rows:tt)*) => {
        counters!(@rows [$($atomic)*] [$($reading)* { $name u64 }]
            [$($figure)* { $name [$($text)+] u64 Counter (reading) [$($family $({ $label = $value })?)?] }] $($rows)*);
    };
    (@rows [$($atomic:tt)*] [$($reading:tt)*] [$($figure:tt)*] $(#[doc = $text:literal])+ $name:ident: internal, $($rows:tt)*) => {
        counters!(@rows [$($atomic)* { $name [$($text)+] }] [$($reading)*] [$($figure)*] $($rows)*);
    };
    (@rows
        [$({ $atomic:ident [$($atomic_text:literal)+] })*]
        [$({ $reading:ident $reading_type:ident })*]
        [$({ $name:ident [$($text:literal)+] $type:ident $kind:ident $source:tt $export:tt })*]
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
                    family: counters!(@family $name $export),
                    label: counters!(@label $export),
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
    (@family $name:ident []) => { stringify!($name) };
    (@family $name:ident [$family:ident $($label:tt)?]) => { stringify!($family) };
    (@label [$family:ident { $label:ident = $value:literal }]) => { Some((stringify!($label), $value)) };
    (@label $any:tt) => { None };
    ($($rows:tt)*) => { counters!(@rows [] [] [] $($rows)*); };
}

counters! {
    /// Connections open now, with or without a place of `max_connections`; connections being refused are not counted.
    connections: gauge,
    /// Places of `max_connections` taken now. Connections with requests to the HTTP API alone have no place, nor have
    /// publishers that found the server full.
    places_taken: gauge,
    /// The setting `max_connections`, the limit of `places_taken`.
    connections_limit: gauge,
    /// Sessions listed now, with and without a connection.
    sessions: gauge,
    /// Sessions listed now with a connection.
    attached_sessions: gauge as sessions { state = "attached" },
    /// Sessions listed now without a connection.
    detached_sessions: gauge as sessions { state = "detached" },
    /// Topics that exist now.
    topics: gauge,
    /// Subscriptions now, of clients and of the program: a client counts once for each of its topics.
    subscriptions: gauge,
    /// Clients that lag now: whose messages wait for two seconds or more. Counted once a second, with the subscribers of
    /// the program.
    slow_clients: gauge,
    /// Bytes that wait now in the queues of clients that lag, without the messages, which many queues share.
    queue_bytes: gauge,
    /// Bytes of messages kept now, in topics and in queues: a message counts once, however many queues hold the message.
    message_bytes: gauge,
    /// Bytes taken now by messages, queues, sessions, connections and topics, by the server's own account.
    memory_used: gauge as memory_used_bytes,
    /// The setting `memory_budget_bytes`, the limit of `memory_used`; 0 without a budget.
    memory_budget: gauge as memory_budget_bytes,
    /// How hard topics are pressed to keep fewer messages, because memory is short; 0 while there is room.
    memory_pressure: gauge,
    /// 1 from the beginning of a drain on, and 0 before.
    draining: gauge,
    /// 1 if many sends of a delivery share a system call (the setting `io_uring`), and 0 if each send is a system call.
    io_uring: gauge,
    /// Nodes of the cluster that are alive, this server included, as of some seconds ago; 0 without an engine.
    nodes: gauge,
    /// Threads that have given io_uring up since the start, because the system gave them no ring, or the ring failed.
    io_uring_given_up: reading,
    /// Connections accepted and served: with a place of `max_connections`, as a request that was passed on, or as a
    /// publisher that found the server full.
    connections_accepted: counter,
    /// Clients refused because `max_connections` were connected, because their address or their user had too many
    /// connections, or because memory was nearly used up; refusals by `Janus::serve` included.
    connections_refused: sum(
        connections_refused_full, connections_refused_for_memory, connections_refused_for_address,
        connections_refused_for_user
    ),
    /// Clients refused because `max_connections` were connected; also counted in `connections_refused`.
    connections_refused_full: counter as connections_refused { reason = "full" },
    /// Clients refused because memory was nearly used up; also counted in `connections_refused`.
    connections_refused_for_memory: counter as connections_refused { reason = "memory" },
    /// Clients refused for `max_connections_per_ip` or `connect_rate_per_ip`; also counted in `connections_refused`.
    connections_refused_for_address: counter as connections_refused { reason = "address" },
    /// Clients refused because their user had `max_connections_per_user` connections; also counted in
    /// `connections_refused`.
    connections_refused_for_user: counter as connections_refused { reason = "user" },
    /// Connections from networks of `proxy_protocol` closed for a missing, malformed or late PROXY header.
    proxy_headers_refused: counter,
    /// Clients cut off because they did not keep up, for one of three reasons.
    slow_consumers: sum(slow_consumers_queue_full, slow_consumers_stalled, slow_consumers_out_of_memory),
    /// Slow consumers cut off because their queue was full.
    slow_consumers_queue_full: counter as slow_consumers { reason = "queue_full" },
    /// Slow consumers cut off because they took nothing from their queue for `write_timeout`, or `stall_timeout`.
    slow_consumers_stalled: counter as slow_consumers { reason = "stalled" },
    /// Slow consumers cut off because their queue was among the largest when `memory_budget_bytes` was nearly used up.
    slow_consumers_out_of_memory: counter as slow_consumers { reason = "memory" },
    /// Messages that a subscriber did not get, because it lagged and the policy of the topic says so.
    messages_dropped: sum(messages_dropped_oldest, messages_dropped_newest, messages_conflated),
    /// Messages that a subscriber under the policy `drop_oldest` did not get.
    messages_dropped_oldest: counter as messages_dropped { policy = "drop_oldest" },
    /// Messages that a subscriber under the policy `drop_newest` did not get.
    messages_dropped_newest: counter as messages_dropped { policy = "drop_newest" },
    /// Messages that a subscriber under the policy `conflate` did not get, because a later message took their place.
    messages_conflated: counter as messages_dropped { policy = "conflate" },
    /// Messages that topics forgot before their time, because memory was short.
    messages_trimmed: counter,
    /// Messages accepted from clients, from the HTTP API and from the program.
    published: reading,
    /// Messages handed to subscribers, sent at once or queued: a message counts once for each subscriber. Replayed
    /// messages are not counted.
    deliveries: reading,
    /// Bytes of these messages, each in the wire format of its subscriber.
    delivered_bytes: reading,
    /// Messages sent again to subscribers that had missed them: a message counts once for each subscriber.
    messages_replayed: counter,
    /// Subscriptions of returning clients that wanted to continue after an earlier message, with and
    /// without success.
    resumes: sum(resumes_resumed, resumes_not_resumed),
    /// Subscriptions continued after the earlier message.
    resumes_resumed: counter as resumes { result = "resumed" },
    /// Subscriptions that began with the next message, because the earlier message was not known or no longer kept.
    resumes_not_resumed: counter as resumes { result = "not_resumed" },
    /// Losses of the engine that topics were told of, or have found: their subscribers got a gap.
    engine_losses: counter,
    /// Submissions of messages that the engine has refused: its memory is full, or the node may not write.
    engine_refusals: counter,
    /// Topics opened again at the engine because messages had not come.
    engine_holes: counter,
    /// Topics opened again at the engine, after a lost link or because messages had not come.
    engine_resynced_topics: counter,
    /// Messages of other nodes about the cluster that this server does not understand: those of a later release.
    engine_messages_ignored: counter,
    /// Frames about presence sent to clients that watch a topic, without answers to questions.
    presence_frames: counter,
    /// Times that a client lagged too much for a frame about presence; the client is told the state of the topic later.
    presence_deferred: counter,
    /// Gaps told to returning clients, because messages were given up during their replay.
    resume_gaps: counter,
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
    /// Waits of clients that published more than `client_publish_rate` allows.
    publish_rate_waits: counter,
    /// Waits of clients that sent more bytes than `client_bytes_rate` allows.
    bytes_rate_waits: counter,
    /// Waits of clients that subscribed and unsubscribed more often than `client_subscribe_rate` allows.
    subscribe_rate_waits: counter,
    /// Clients closed because they sent more than their rates allow for `rate_patience`.
    rate_limited: counter,
    /// Connections closed because their user had more than `max_connections_per_user` connections.
    connections_replaced: counter,
    /// TLS handshakes, completed and failed.
    tls_handshakes_ended: sum(tls_handshakes, tls_handshakes_failed) as tls_handshakes,
    /// TLS handshakes completed.
    tls_handshakes: counter as tls_handshakes { result = "completed" },
    /// TLS handshakes that failed: no TLS, an old version, a refused certificate of a client, a connection lost, not
    /// completed within `frame_timeout`, or cut to make room.
    tls_handshakes_failed: counter as tls_handshakes { result = "failed" },
    /// Reloads of certificates with an error, after which earlier certificates stay in use.
    certificates_refused: counter,
    /// Pauses of accepting because the process or the system ran out of descriptors.
    accept_pauses: counter,
    /// Restarts of actors after a crash.
    actor_restarts: reading,
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
    /// The family of series in an export to which the figure belongs, see [`Janus::metrics`](crate::Janus::metrics).
    pub family: &'static str,
    /// The name and the value of the label that sets the figure apart from others of the family. `None` for the only
    /// figure of the family, and for the sum of the others.
    pub label: Option<(&'static str, &'static str)>,
    /// The figure.
    pub value: u64,
}

impl Metric {
    /// A figure of a program, for [`MetricFamily::of`](crate::MetricFamily::of): the only figure of the family of this
    /// name.
    #[must_use]
    pub const fn new(name: &'static str, kind: MetricKind, text: &'static str, value: u64) -> Self {
        Self { name, kind, text, family: name, label: None, value }
    }

    /// The same figure as one of several of a family. The family needs a figure without a label, whose text is the text
    /// of the family.
    #[must_use]
    pub const fn labelled(self, family: &'static str, label: &'static str, value: &'static str) -> Self {
        Self { family, label: Some((label, value)), ..self }
    }
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
    /// Durations counted in buckets since the start of the instance.
    Histogram,
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

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
        let expected = [
            "connections",
            "places_taken",
            "connections_limit",
            "sessions",
            "attached_sessions",
            "detached_sessions",
            "topics",
            "subscriptions",
            "slow_clients",
            "queue_bytes",
            "message_bytes",
            "memory_used",
            "memory_budget",
            "memory_pressure",
            "draining",
            "io_uring",
            "nodes",
        ];
        assert!(gauges.eq(expected));
        assert_eq!(metrics[0].text.split(',').next(), Some("Connections open now"));
    }

    #[test]
    fn a_family_of_several_series_has_a_text_and_one_label_with_different_values() {
        let metrics: Vec<_> = Counters::default().stats(&Readings::default()).metrics().collect();
        let families: HashSet<_> = metrics.iter().map(|metric| metric.family).collect();
        for family in families {
            let (heads, series): (Vec<Metric>, Vec<Metric>) = metrics
                .iter()
                .copied()
                .filter(|metric| metric.family == family)
                .partition(|metric| metric.label.is_none());
            assert_eq!(heads.len(), 1, "{family}");
            let labels: HashSet<_> = series.iter().filter_map(|metric| metric.label).collect();
            assert_eq!(labels.len(), series.len(), "{family}");
            assert!(series.iter().all(|metric| metric.kind == heads[0].kind), "{family}");
            let names: HashSet<_> = labels.iter().map(|(name, _)| name).collect();
            assert!(names.len() <= 1 && series.len() != 1, "{family}: {names:?}");
        }
    }
}
