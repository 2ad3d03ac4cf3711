//! The topics of an instance as figures: all of them, a page, or one.

use super::janus::Janus;
use crate::topic::TopicInfo;

/// Topics looked up before the table is free for other callers.
const TOPICS_PORTION: usize = 1_024;

impl Janus {
    /// The existing topics in the order of their names: the first `limit` after `after`.
    ///
    /// To see all, begin with an empty name and continue after the last name of each page until a page is empty. A
    /// topic made or ended in between may be listed or not, and no topic is listed twice. The cost of a call depends on
    /// the length of its page, not on the number of topics.
    ///
    /// ```
    /// # use janus_core::{Config, Janus};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = Config { listen: vec!["127.0.0.1:0".parse()?], http_listen: vec![], ..Config::default() };
    /// # let janus = Janus::builder().config(config).start().await?;
    /// let _subscribers = ["news", "quotes:ACME", "quotes:INITECH"].map(|topic| janus.subscribe(topic));
    /// let mut names = Vec::new();
    /// let mut page = janus.topics_after("", 2);
    /// while let Some(last) = page.last() {
    ///     let after = last.name.clone();
    ///     names.extend(page.iter().map(|topic| topic.name.to_string()));
    ///     page = janus.topics_after(after.as_str(), 2);
    /// }
    /// assert_eq!(names, ["news", "quotes:ACME", "quotes:INITECH"]);
    /// # janus.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn topics_after(&self, after: &str, limit: usize) -> Vec<TopicInfo> {
        self.topics_with_prefix("", after, limit)
    }

    /// The existing topics whose names begin with `prefix`, in the order of their names: the first `limit` after
    /// `after`. Otherwise like [`topics_after`](Self::topics_after).
    ///
    /// ```
    /// # use janus_core::{Config, Janus};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = Config { listen: vec!["127.0.0.1:0".parse()?], http_listen: vec![], ..Config::default() };
    /// # let janus = Janus::builder().config(config).start().await?;
    /// let _subscribers = ["news", "quotes:ACME", "quotes:INITECH"].map(|topic| janus.subscribe(topic));
    /// let quotes = janus.topics_with_prefix("quotes:", "", 10);
    /// assert_eq!(quotes.iter().map(|topic| topic.name.as_str()).collect::<Vec<_>>(), ["quotes:ACME", "quotes:INITECH"]);
    /// # janus.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn topics_with_prefix(&self, prefix: &str, after: &str, limit: usize) -> Vec<TopicInfo> {
        let table = &self.inner.shared.topics.table;
        let mut page: Vec<TopicInfo> = Vec::new();
        loop {
            let count = (limit - page.len()).min(TOPICS_PORTION);
            let last = page.last().map_or(after, |topic| topic.name.as_str());
            let portion = table.page(prefix, last, count);
            // Their state without the table's lock, or no publisher could reach another topic in the meantime.
            page.extend(portion.iter().map(|topic| topic.info()));
            if count == 0 || portion.len() < count {
                return page;
            }
        }
    }

    /// For each of the `limit` topics with the lowest [numbers](TopicInfo::number) above `after`: the topic's number, and
    /// the number of its latest message. In the order of the topics' numbers.
    ///
    /// The cheapest look at many topics, for rates: sixteen bytes a topic, and no name.
    ///
    /// ```
    /// # use janus_core::{Config, Janus};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = Config { listen: vec!["127.0.0.1:0".parse()?], http_listen: vec![], ..Config::default() };
    /// # let janus = Janus::builder().config(config).start().await?;
    /// let _subscriber = janus.subscribe("news")?;
    /// let before = janus.topic_counts(0, 1_000);
    /// janus.publish("news", "hello").await?;
    /// let after = janus.topic_counts(0, 1_000);
    /// assert_eq!((after[0].0 == before[0].0, after[0].1 - before[0].1), (true, 1));
    /// # janus.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn topic_counts(&self, after: u64, limit: usize) -> Vec<(u64, u64)> {
        let table = &self.inner.shared.topics.table;
        let mut counts: Vec<(u64, u64)> = Vec::new();
        loop {
            let count = (limit - counts.len()).min(TOPICS_PORTION);
            let portion = table.portion(counts.last().map_or(after, |last| last.0), count);
            counts.extend(portion.iter().map(|topic| topic.counted()));
            if count == 0 || portion.len() < count {
                return counts;
            }
        }
    }

    /// The existing topics, in no order. For thousands of topics, [`topics_after`](Self::topics_after) has pages.
    #[must_use]
    pub fn topics(&self) -> Vec<TopicInfo> {
        self.inner.shared.topics.table.all().iter().map(|topic| topic.info()).collect()
    }

    /// The state of one topic; `None` if it does not exist. To publish and subscribe, see [`topic`](Self::topic).
    #[must_use]
    pub fn topic_info(&self, name: &str) -> Option<TopicInfo> {
        self.inner.shared.topics.table.find(name).map(|topic| topic.info())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Config;

    #[tokio::test]
    async fn a_page_of_topics_touches_no_topic_beyond_it() {
        let config = Config { listen: Vec::new(), http_listen: Vec::new(), ..Config::default() };
        let janus = Janus::builder().config(config).start().await.unwrap();
        let names: Vec<String> = (0..TOPICS_PORTION * 2 + 10).map(|number| format!("{number:05}")).collect();
        let subscribers: Vec<_> = names.iter().rev().map(|name| janus.subscribe(name).unwrap()).collect();
        let page = |after: &str, limit| -> Vec<String> {
            janus.topics_after(after, limit).iter().map(|topic| topic.name.to_string()).collect()
        };
        assert_eq!(page("", usize::MAX), names);
        assert_eq!(page("", TOPICS_PORTION + 1), names[..=TOPICS_PORTION]);
        assert_eq!(page("00002", 2), names[3..5]);
        assert_eq!(page("00002x", 1), names[3..4]);
        assert_eq!((page("", 0), page("9", 5)), (vec![], vec![]));

        let beyond = janus.inner.shared.topics.table.find("00002").unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        let looked_at = beyond.while_locked(|| {
            let janus = janus.clone();
            std::thread::spawn(move || sender.send(janus.topics_after("", 2).len()));
            receiver.recv_timeout(Duration::from_secs(4))
        });
        assert_eq!(looked_at, Ok(2));
        drop(subscribers);
        janus.shutdown().await;
    }
}
