//! The rates of the settings, ready for use: what a client may send in a second, and at once.

use std::collections::{BTreeMap, BTreeSet};
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
}

/// The rates of messages, by namespace.
#[derive(Debug)]
pub(crate) struct PublishRates {
    listed: BTreeMap<String, (BucketNumber, Option<Rate>)>,
    others: Option<Rate>,
}

/// The number of a namespace: each client has a bucket for each namespace.
pub(crate) type BucketNumber = u16;

/// The bucket for the topics outside of listed namespaces.
const OTHERS: BucketNumber = 0;

impl Rates {
    /// With the rates `before` a reload, namespaces keep their numbers.
    pub(crate) fn new(config: &Config, before: Option<&Self>) -> Self {
        let Config { client_bytes_rate, client_subscribe_rate, max_frame_bytes, max_topics_per_client, .. } = *config;
        let rate = |per_second: usize, at_once: usize| {
            (per_second > 0).then(|| Rate::new(per_second, per_second.max(at_once)))
        };
        Self {
            publishes: PublishRates::new(config, before.and_then(|before| before.publishes.as_deref())).map(Box::new),
            bytes: rate(client_bytes_rate, max_frame_bytes),
            subscribes: rate(client_subscribe_rate, 2 * max_topics_per_client),
            patience: config.rate_patience,
        }
    }
}

impl PublishRates {
    fn new(config: &Config, before: Option<&Self>) -> Option<Self> {
        let rate = |namespace: &Namespace| {
            let per_second = namespace.client_publish_rate;
            (per_second > 0).then(|| Rate::new(per_second, per_second))
        };
        let others = rate(&config.default_namespace);
        // A client's buckets are known by these numbers, and are not emptied by a reload.
        let number_before = |name: &String| Some(before?.listed.get(name)?.0);
        let taken: BTreeSet<_> = config.namespaces.keys().filter_map(number_before).collect();
        let mut free = (OTHERS + 1..).filter(|number| !taken.contains(number));
        let listed: BTreeMap<_, _> = config
            .namespaces
            .iter()
            .filter_map(|(name, namespace)| {
                let number = number_before(name).or_else(|| free.next())?;
                Some((name.clone(), (number, rate(namespace))))
            })
            .collect();
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
        assert_eq!(numbers, [1, 2, 3], "each has one of its own, and those that are free again are used");
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
