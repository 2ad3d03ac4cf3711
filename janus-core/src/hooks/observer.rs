//! The observers' side of hooks: the queue of events, and the task that calls the observers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Client, Disconnect, DropReason, HookRunner, Occupancy, SlowClient};
use crate::supervision::{BoxError, stop_requested};
use crate::wire::TopicName;

/// An event for the observers.
#[derive(Clone, Debug)]
pub(crate) enum News {
    Connected(Arc<Client>),
    Disconnected(Arc<Client>, Disconnect),
    Slow(Arc<Client>, SlowClient),
    Dropped {
        topic: TopicName,
        messages: u64,
        why: DropReason,
    },
    /// The topic may have its first subscriber, or none any more.
    Occupancy(Arc<Occupancy>),
}

/// Events waiting for the observers. The queue outlives the task that calls the observers.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// Of each of the two.
    limit: AtomicUsize,
    arrived: Notify,
}

/// Events of clients and of topics. Apart, so that a client that goes from topic to topic does not push out the news of
/// other clients.
#[derive(Debug, Default)]
struct Waiting {
    clients: VecDeque<News>,
    topics: VecDeque<Arc<Occupancy>>,
    /// Whether the next event is one of a topic. The two take turns.
    topic_is_next: bool,
}

impl Queue {
    /// Events beyond a lower limit stay.
    pub(super) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Returns `false` if the queue is full.
    pub(super) fn push(&self, news: News) -> bool {
        {
            let mut waiting = self.waiting.lock();
            let length = match &news {
                News::Occupancy(_) => waiting.topics.len(),
                _ => waiting.clients.len(),
            };
            if length >= self.limit.load(Ordering::Relaxed) {
                return false;
            }
            match news {
                News::Occupancy(occupancy) => waiting.topics.push_back(occupancy),
                news => waiting.clients.push_back(news),
            }
        }
        self.arrived.notify_one();
        true
    }

    fn pop(&self) -> Option<News> {
        let mut waiting = self.waiting.lock();
        waiting.topic_is_next = !waiting.topic_is_next;
        if waiting.topic_is_next && !waiting.topics.is_empty() || waiting.clients.is_empty() {
            return waiting.topics.pop_front().map(News::Occupancy);
        }
        waiting.clients.pop_front()
    }

    /// Waits for the next event. Cancel safe, for a single waiting task.
    async fn next(&self) -> News {
        loop {
            if let Some(news) = self.pop() {
                return news;
            }
            self.arrived.notified().await;
        }
    }
}

/// Calls the observers for each event, in order. After a request to stop, the task handles the
/// remaining events and ends.
pub(crate) async fn observe(runner: Arc<HookRunner>) -> Result<(), BoxError> {
    let mut stop = std::pin::pin!(stop_requested());
    loop {
        tokio::select! {
            biased;
            news = runner.queue.next() => tell(&runner, news).await,
            () = &mut stop => return Ok(()),
        }
    }
}

async fn tell(runner: &HookRunner, news: News) {
    let hooks = Arc::clone(&runner.hooks);
    match news {
        News::Connected(client) => {
            runner.notify("connected", async move { hooks.connected(&client).await }).await;
        }
        News::Disconnected(client, why) => {
            runner.notify("disconnected", async move { hooks.disconnected(&client, why).await }).await;
        }
        News::Slow(client, lag) => {
            runner.notify("slow", async move { hooks.slow(&client, &lag).await }).await;
        }
        News::Dropped { topic, messages, why } => {
            runner.notify("dropped", async move { hooks.dropped(&topic, messages, why).await }).await;
        }
        News::Occupancy(occupancy) => match occupancy.take() {
            Some((topic, true)) => {
                runner.notify("topic_occupied", async move { hooks.topic_occupied(&topic).await }).await;
            }
            Some((topic, false)) => {
                runner.notify("topic_vacated", async move { hooks.topic_vacated(&topic).await }).await;
            }
            None => {}
        },
    }
}
