//! Tells a backend of clients and topics.
//!
//! | file | content |
//! |---|---|
//! | `mod.rs` | [`Webhooks`]: hooks around other hooks, and [`Reporter`]: the figures and the end |
//! | `event.rs` | pure: events as JSON |
//! | `outbox.rs` | the events that wait, with their limits |
//! | `post.rs` | the task that sends |
//! | `tests.rs` | tests with backends that take, refuse and vanish |

mod event;
mod outbox;
mod post;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use janus_core::SlowClient;
use janus_core::hooks::{Client, ConnectRequest, Denied, Disconnect, DropReason, Hooks, Identity};
use janus_core::wire::{Publication, TopicName};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use crate::backend::{Backend, Url};
use crate::settings::AccessSettings;
use crate::summed::{Summed, counted};
use event::Event;
use outbox::Outbox;

/// Hooks that tell `webhook_url` of clients and topics, and leave each decision to other hooks.
///
/// ```
/// use janus_access::{AccessSettings, Ask, Backend, Webhooks};
/// use janus_core::Janus;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let webhook_url = Some("http://127.0.0.1:8000/news".parse()?);
/// let settings = AccessSettings { webhook_url, ..AccessSettings::default() };
/// let backend = Backend::new(&settings)?;
/// let webhooks = Webhooks::new(&backend, &settings, Ask::new(&backend, &settings));
/// let reporter = webhooks.reporter();
/// let builder = Janus::builder().hooks(webhooks);
/// // After `Janus::shutdown`: `reporter.flush(Duration::from_secs(5)).await`
/// assert_eq!(reporter.stats().delivered, 0);
/// # Ok(())
/// # }
/// ```
///
/// Events are sent in their order, up to 100 in a request, at most 100 ms after the first of them. A request without a
/// status from 200 to 299 is sent again, after pauses that grow from half a second to 30 s, until the events are five
/// minutes old. So an event may arrive twice, with the same `id`. At most `webhook_queue` events wait, in memory alone;
/// further events are left out and counted, and events of topics get half of the queue.
///
/// Observers of the inner hooks are called as well. Without a `webhook_url` nothing is sent.
#[derive(Clone, Debug)]
pub struct Webhooks<H> {
    inner: H,
    reporter: Reporter,
}

impl<H: Hooks> Webhooks<H> {
    /// Tells the `webhook_url` of the settings what `inner` decides about.
    #[must_use]
    pub fn new(backend: &Backend, settings: &AccessSettings, inner: H) -> Self {
        let shared = Target::of(backend, settings).map(|target| {
            Arc::new(Shared {
                target: ArcSwap::from_pointee(target),
                outbox: Mutex::default(),
                arrived: Notify::new(),
                sent: Notify::new(),
                ending: watch::Sender::new(false),
                task: Mutex::default(),
                counters: Counters::default(),
                failures: Summed::default(),
                losses: Summed::default(),
            })
        });
        Self { inner, reporter: Reporter { shared } }
    }

    /// Continues the reports of earlier hooks, with the events that wait: see [`Reporter::follow`].
    #[must_use]
    pub fn continuing(reporter: Reporter, inner: H) -> Self {
        Self { inner, reporter }
    }

    /// The figures, and the end of the reports.
    #[must_use]
    pub fn reporter(&self) -> Reporter {
        self.reporter.clone()
    }
}

/// The reports of [`Webhooks`]. Clones are the same.
#[derive(Clone, Debug)]
pub struct Reporter {
    /// `None` without a `webhook_url`.
    shared: Option<Arc<Shared>>,
}

figures! {
    /// The events since the start.
    pub struct WebhookStats {
        webhook_events = "Events for webhook_url, by what became of them.";

        /// Events that the backend has taken.
        delivered: u64 = counter as webhook_events { result = "delivered" },
        /// Events left out because the queue was full.
        lost: u64 = counter as webhook_events { result = "lost" },
        /// Events given up because the backend has not taken them for five minutes.
        given_up: u64 = counter as webhook_events { result = "given_up" },
        /// Requests to webhook_url that have failed, whether repeated with success or not.
        failed_requests: u64 = counter as webhook_requests_failed,
        /// Events waiting now.
        waiting: usize = gauge as webhook_events_waiting,
    }
}

#[derive(Debug, Default)]
struct Counters {
    delivered: AtomicU64,
    lost: AtomicU64,
    given_up: AtomicU64,
    failed_requests: AtomicU64,
}

/// What a reload replaces. Events that wait go to the new address.
#[derive(Debug)]
struct Target {
    url: Url,
    backend: Backend,
    linger: Duration,
    limit: usize,
}

impl Target {
    /// `None` without an address.
    fn of(backend: &Backend, settings: &AccessSettings) -> Option<Self> {
        Some(Self {
            url: settings.webhook_url.clone()?,
            backend: backend.clone(),
            linger: settings.webhook_linger,
            limit: settings.webhook_queue,
        })
    }
}

#[derive(Debug)]
struct Shared {
    target: ArcSwap<Target>,
    outbox: Mutex<Outbox>,
    /// An event has come.
    arrived: Notify,
    /// Events have left the outbox.
    sent: Notify,
    /// Whether all events are to be sent now.
    ending: watch::Sender<bool>,
    /// The task that sends, on the runtime of the hooks.
    task: Mutex<Option<JoinHandle<()>>>,
    counters: Counters,
    failures: Summed,
    losses: Summed,
}

impl Reporter {
    /// The events since the start.
    #[must_use]
    pub fn stats(&self) -> WebhookStats {
        let Some(shared) = &self.shared else { return WebhookStats::default() };
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters { delivered, lost, given_up, failed_requests } = &shared.counters;
        WebhookStats {
            delivered: read(delivered),
            lost: read(lost),
            given_up: read(given_up),
            failed_requests: read(failed_requests),
            waiting: shared.outbox.lock().len(),
        }
    }

    /// Takes over other settings, for events from then on and for events that wait. Returns `false` if the settings have
    /// no `webhook_url`, or if there was none before: then new [`Webhooks`] are needed.
    #[must_use]
    pub fn follow(&self, backend: &Backend, settings: &AccessSettings) -> bool {
        let (Some(shared), Some(target)) = (&self.shared, Target::of(backend, settings)) else { return false };
        shared.target.store(Arc::new(target));
        true
    }

    /// Sends what waits, without further delay, and returns when the backend has taken everything, or after `within`.
    /// To be called on the runtime of the hooks, after [`Janus::shutdown`](janus_core::Janus::shutdown): all later
    /// events are sent at once, too. Returns the number of events that were not sent in this time; these are lost with
    /// the process.
    ///
    /// Cancel safe.
    pub async fn flush(&self, within: Duration) -> usize {
        let Some(shared) = &self.shared else { return 0 };
        let deadline = Instant::now() + within;
        shared.ending.send_replace(true);
        shared.arrive();
        loop {
            let sent = shared.sent.notified();
            if shared.outbox.lock().is_empty() || timeout_at(deadline, sent).await.is_err() {
                return shared.outbox.lock().len();
            }
        }
    }

    /// Queues an event, unless the inner hooks are all there is.
    fn tell<'a>(&self, event: impl FnOnce(&Backend) -> Event<'a>) {
        if let Some(shared) = &self.shared {
            shared.push(&event(&shared.target.load().backend));
            shared.arrive();
        }
    }
}

impl Shared {
    fn push(&self, event: &Event<'_>) {
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let time_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let target = self.target.load();
        let text = |number| event::text(target.backend.instance(), number, time_ms, event);
        let is_queued = self.outbox.lock().push(event.is_of_a_topic(), target.limit, Instant::now(), text);
        if !is_queued {
            self.counters.lost.fetch_add(1, Ordering::Relaxed);
            if let Some(lost) = self.losses.count(1) {
                let (url, events) = (&target.url, counted(lost, "event"));
                log::warn!(url:%, lost; "{url}: {events} left out, because webhook_queue is full");
            }
        }
    }

    fn vacated(&self, topic: &TopicName) {
        let (linger, limit) = {
            let target = self.target.load();
            (target.linger, target.limit)
        };
        let lingers = !linger.is_zero() && {
            let until = Instant::now() + linger;
            self.outbox.lock().linger(topic, until, limit)
        };
        // Without room for waiting topics the news is better early than lost.
        if !lingers {
            self.push(&Event::topic_vacated(topic));
        }
    }

    /// Wakes the task that sends, or starts the task: at the first event, and after the end of its runtime.
    fn arrive(self: &Arc<Self>) {
        let mut task = self.task.lock();
        if task.as_ref().is_none_or(JoinHandle::is_finished) {
            *task = Some(tokio::spawn(post::send_all(Arc::clone(self))));
        }
        drop(task);
        self.arrived.notify_one();
    }
}

impl<H: Hooks> Hooks for Webhooks<H> {
    async fn authenticate(&self, request: ConnectRequest) -> Result<Identity, Denied> {
        self.inner.authenticate(request).await
    }

    async fn refresh(&self, client: &Client, auth: String) -> Result<Identity, Denied> {
        self.inner.refresh(client, auth).await
    }

    async fn authorize_subscribe(&self, client: &Client, topic: &TopicName) -> Result<(), Denied> {
        self.inner.authorize_subscribe(client, topic).await
    }

    async fn authorize_publish(
        &self,
        client: &Client,
        topic: &TopicName,
        publication: &Publication,
    ) -> Result<(), Denied> {
        self.inner.authorize_publish(client, topic, publication).await
    }

    async fn connected(&self, client: &Client) {
        self.reporter.tell(|backend| Event::connected(backend, client));
        self.inner.connected(client).await;
    }

    async fn disconnected(&self, client: &Client, why: Disconnect) {
        self.reporter.tell(|backend| Event::disconnected(backend, client, why));
        self.inner.disconnected(client, why).await;
    }

    async fn slow(&self, client: &Client, lag: &SlowClient) {
        self.reporter.tell(|backend| Event::slow(backend, client, lag));
        self.inner.slow(client, lag).await;
    }

    async fn dropped(&self, topic: &TopicName, messages: u64, why: DropReason) {
        self.inner.dropped(topic, messages, why).await;
    }

    async fn topic_occupied(&self, topic: &TopicName) {
        if let Some(shared) = &self.reporter.shared
            && !shared.outbox.lock().stop_lingering(topic)
        {
            self.reporter.tell(|_| Event::topic_occupied(topic));
        }
        self.inner.topic_occupied(topic).await;
    }

    async fn topic_vacated(&self, topic: &TopicName) {
        if let Some(shared) = &self.reporter.shared {
            shared.vacated(topic);
            shared.arrive();
        }
        self.inner.topic_vacated(topic).await;
    }
}
