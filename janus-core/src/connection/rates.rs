//! The rates of the settings, ready for use: what a client may send in a second, and at once.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::{Config, Namespace};
use crate::ground::bucket::Rate;

/// The rates of each client. `None` is no limit.
#[derive(Debug)]
pub(crate) struct Rates {
    /// Of messages; `None` if no namespace has a limit.
    pub(crate) publishes: Option<Box<PublishRates>>,
    /// Of bytes of any kind.
    pub(crate) bytes: Option<Rate>,
    /// Of subscribes and unsubscribes.
    pub(crate) subscribes: Option<Rate>,
    /// How long a client may send more than its rates allow.
    pub(crate) patience: Duration,
    numbers: Numbers,
}

/// The rates of messages, by namespace.
#[derive(Debug)]
pub(crate) struct PublishRates {
    listed: BTreeMap<String, (BucketNumber, Option<Rate>)>,
    others: Option<Rate>,
}

/// The numbers of the namespaces listed in the settings, with or without a limit.
///
/// Clients know their buckets by these numbers, and a reload leaves the buckets as they are. So a namespace keeps its
/// number while no namespace has a limit, and the number of a removed namespace is not given away: a client would find
/// the bucket of another namespace. Settings of a whole life list fewer namespaces than there are numbers; otherwise
/// further namespaces share the last bucket of each client.
#[derive(Debug)]
struct Numbers {
    listed: BTreeMap<String, BucketNumber>,
    /// The last number given to a namespace.
    last: BucketNumber,
}

/// The number of a namespace: each client has a bucket for each namespace.
pub(crate) type BucketNumber = u32;

/// The bucket for the topics outside of listed namespaces.
const OTHERS: BucketNumber = 0;

impl Rates {
    /// With the rates `before` a reload, namespaces keep their numbers.
    pub(crate) fn new(config: &Config, before: Option<&Self>) -> Self {
        let Config { client_bytes_rate, client_subscribe_rate, max_frame_bytes, max_topics_per_client, .. } = *config;
        let rate = |per_second: usize, at_once: usize| {
            (per_second > 0).then(|| Rate::new(per_second, per_second.max(at_once)))
        };
        let numbers = Numbers::new(config, before.map(|before| &before.numbers));
        Self {
            publishes: PublishRates::new(config, &numbers).map(Box::new),
            bytes: rate(client_bytes_rate, max_frame_bytes),
            subscribes: rate(client_subscribe_rate, 2 * max_topics_per_client),
            patience: config.rate_patience,
            numbers,
        }
    }
}

impl Numbers {
    fn new(config: &Config, before: Option<&Self>) -> Self {
        let mut last = before.map_or(OTHERS, |before| before.last);
        let mut number = |name: &String| {
            before.and_then(|before| before.listed.get(name).copied()).unwrap_or_else(|| {
                last = last.saturating_add(1);
                last
            })
        };
        let listed = config.namespaces.keys().map(|name| (name.clone(), number(name))).collect();
        Self { listed, last }
    }
}

impl PublishRates {
    fn new(config: &Config, numbers: &Numbers) -> Option<Self> {
        let rate = |namespace: &Namespace| {
            let per_second = namespace.client_publish_rate;
            (per_second > 0).then(|| Rate::new(per_second, per_second))
        };
        let others = rate(&config.default_namespace);
        let listed = config.namespaces.iter().filter_map(|(name, namespace)| {
            let number = *numbers.listed.get(name)?;
            Some((name.clone(), (number, rate(namespace))))
        });
        let listed: BTreeMap<_, _> = listed.collect();
        let is_limited = others.is_some() || listed.values().any(|(_, rate)| rate.is_some());
        is_limited.then_some(Self { listed, others })
    }

    /// The bucket and the rate of a topic; `None` without a limit.
    pub(crate) fn of(&self, topic: &str) -> Option<(BucketNumber, Rate)> {
        let name = topic.split_once(':').map(|(name, _)| name);
        let (number, rate) = name.and_then(|name| self.listed.get(name)).copied().unwrap_or((OTHERS, self.others));
        Some((number, rate?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publishing(client_publish_rate: usize) -> Namespace {
        Namespace { client_publish_rate, ..Namespace::default() }
    }

    #[test]
    fn each_listed_namespace_has_a_bucket_and_a_rate_of_its_own() {
        let namespaces = [("fast", 1_000), ("free", 0), ("slow", 1)];
        let config = Config {
            default_namespace: publishing(5),
            namespaces: namespaces.map(|(name, rate)| (name.to_owned(), publishing(rate))).into(),
            ..Config::default()
        };
        let rates = Rates::new(&config, None).publishes.unwrap();
        assert_eq!(rates.of("slow:a"), rates.of("slow:b"));
        assert_eq!(rates.of("slow:a").unwrap().1, Rate::new(1, 1));
        assert_eq!(rates.of("fast:a").unwrap().1, Rate::new(1_000, 1_000));
        assert_ne!(rates.of("slow:a").unwrap().0, rates.of("fast:a").unwrap().0);
        assert_eq!(rates.of("free:a"), None);
        for topic in ["news", "slow", "other:slow:a"] {
            assert_eq!(rates.of(topic), Some((OTHERS, Rate::new(5, 5))), "{topic}");
        }
    }

    #[test]
    fn a_namespace_keeps_its_bucket_when_others_come_and_go() {
        let with = |names: &[&str]| Config {
            namespaces: names.iter().map(|name| ((*name).to_owned(), publishing(1))).collect(),
            ..Config::default()
        };
        let number = |rates: &Rates, topic| rates.publishes.as_ref().unwrap().of(topic).unwrap().0;
        let before = Rates::new(&with(&["b", "d"]), None);
        let after = Rates::new(&with(&["a", "c", "d"]), Some(&before));
        assert_eq!(number(&after, "d:x"), number(&before, "d:x"));
        let mut numbers = ["a:", "c:", "d:"].map(|topic| number(&after, topic));
        numbers.sort_unstable();
        assert_eq!(numbers, [2, 3, 4], "each has one of its own, which is not that of an earlier namespace");
    }

    #[test]
    fn a_namespace_keeps_its_bucket_while_no_namespace_has_a_limit() {
        let with = |names: &[&str], rate| Config {
            namespaces: names.iter().map(|name| ((*name).to_owned(), publishing(rate))).collect(),
            ..Config::default()
        };
        let number = |rates: &Rates, topic| rates.publishes.as_ref().unwrap().of(topic).unwrap().0;
        let limited = Rates::new(&with(&["a", "b"], 1), None);
        let unlimited = Rates::new(&with(&["b"], 0), Some(&limited));
        assert!(unlimited.publishes.is_none());
        let again = Rates::new(&with(&["b", "c"], 1), Some(&unlimited));
        assert_eq!(number(&again, "b:x"), number(&limited, "b:x"));
        assert_eq!(number(&again, "c:x"), 3, "a number that no client knows");
    }

    #[test]
    fn namespaces_without_a_number_left_share_a_bucket() {
        let with = |names: &[&str]| Config {
            namespaces: names.iter().map(|name| ((*name).to_owned(), publishing(1))).collect(),
            ..Config::default()
        };
        let last = Numbers { listed: BTreeMap::new(), last: BucketNumber::MAX - 1 };
        let numbers = Numbers::new(&with(&["a", "b"]), Some(&last));
        assert_eq!((numbers.listed["a"], numbers.listed["b"]), (BucketNumber::MAX, BucketNumber::MAX));
        assert!(PublishRates::new(&with(&["a", "b"]), &numbers).unwrap().of("b:x").is_some(), "with its own rate");
    }

    #[test]
    fn without_limits_there_are_no_rates_to_look_up() {
        let rates = Rates::new(&Config { client_subscribe_rate: 0, ..Config::default() }, None);
        assert!(rates.publishes.is_none() && rates.bytes.is_none() && rates.subscribes.is_none());
    }

    #[test]
    fn a_burst_is_large_enough_for_the_largest_request() {
        let config = Config { client_bytes_rate: 1_024, client_subscribe_rate: 1, ..Config::default() };
        let rates = Rates::new(&config, None);
        assert_eq!(rates.bytes, Some(Rate::new(1_024, config.max_frame_bytes)));
        assert_eq!(rates.subscribes, Some(Rate::new(1, 2 * config.max_topics_per_client)));
        let config = Config { client_bytes_rate: 1 << 20, client_subscribe_rate: 1_000, ..Config::default() };
        let rates = Rates::new(&config, None);
        assert_eq!(rates.bytes, Some(Rate::new(1 << 20, 1 << 20)));
        assert_eq!(rates.subscribes, Some(Rate::new(1_000, 1_000)));
    }
}
