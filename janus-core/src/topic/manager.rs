//! TopicManager, from names to topics: the original's `topman`.
//!
//! The actor makes topics, ends unused topics, and lets topics forget old messages. The actor holds no state: topics
//! are listed in the [`TopicTable`](crate::topic::table::TopicTable), where subscribers and publishers find existing
//! topics without the actor, and topics are children of the topic supervisor. A crash of the actor goes unnoticed: a
//! subscriber that waits for a new topic asks the successor again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::prelude::*;
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::accounts::Account;
use crate::config::Config;
use crate::ground::rounds::Rounds;
use crate::ground::trace::{self, Said, TraceKind};
use crate::supervision::{ChildSpec, Restart, RestartIntensity, RestartWindow, StartError};
use crate::topic::{Topic, TopicError, TopicState, Topics};
use crate::wire::TopicName;

/// Finds or makes the topic of this name. Idempotent.
#[derive(Message)]
#[rtype(result = "Result<Arc<TopicState>, TopicError>")]
pub(crate) struct Create {
    pub(crate) name: TopicName,
    /// The account of the asking address.
    pub(crate) by: Option<Arc<Account>>,
}

/// Listed topics to be started, made by the program in this process.
///
/// A message to the actor for each topic would not do. The actor would read all of these messages before doing anything
/// else, so a program on another thread that keeps making topics would have the arbiter for itself. The limit is
/// `max_topics`: a topic comes in when it is made.
#[derive(Debug, Default)]
pub(crate) struct Unstarted {
    topics: Mutex<VecDeque<Arc<TopicState>>>,
    added: Notify,
}

impl Unstarted {
    pub(crate) fn add(&self, topic: Arc<TopicState>) {
        self.topics.lock().push_back(topic);
        self.added.notify_one();
    }

    async fn next(&self) -> Arc<TopicState> {
        loop {
            if let Some(topic) = self.topics.lock().pop_front() {
                return topic;
            }
            self.added.notified().await;
        }
    }
}

/// Topics started at the same time.
const STARTING: usize = 16;

#[derive(Debug)]
pub(crate) struct TopicManager {
    shared: Arc<Topics>,
}

impl TopicManager {
    pub(crate) fn new(shared: Arc<Topics>) -> Self {
        Self { shared }
    }
}

impl Actor for TopicManager {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        // A predecessor that crashed between listing and starting a topic left the topic without an actor.
        for topic in self.shared.table.all() {
            if !topic.actor.is_running() {
                self.shared.unstarted.add(topic);
            }
        }
        ctx.spawn(start_listed(Arc::clone(&self.shared)).into_actor(self));
        ctx.spawn(terminate_ended(Arc::clone(&self.shared)).into_actor(self));
        ctx.spawn(end_unused(Arc::clone(&self.shared)).into_actor(self));
        ctx.spawn(forget_old(Arc::clone(&self.shared)).into_actor(self));
    }
}

/// Starts listed topics, for ever.
async fn start_listed(shared: Arc<Topics>) {
    let listed = stream::unfold(&shared.unstarted, async |unstarted| Some((unstarted.next().await, unstarted)));
    let start = async |topic: Arc<TopicState>| {
        // The topic may have been unused for so long that it has ended before its start.
        if !topic.has_ended() {
            drop(start(&shared, topic).await);
        }
    };
    listed.for_each_concurrent(STARTING, start).await;
}

/// The shortest interval between two rounds through all topics, however short their times are: a round through 95,000
/// topics takes 15 to 25 ms.
const MIN_ROUND: Duration = Duration::from_millis(250);

/// A quarter of the idle time, which is exact enough.
fn end_interval(config: &Config) -> Duration {
    (config.topic_idle / 4).max(MIN_ROUND)
}

/// Ends the actors of topics that have ended, for ever.
async fn terminate_ended(shared: Arc<Topics>) {
    loop {
        let (topic, place) = shared.table.ending.next().await;
        let supervisor = shared.topic_supervisor.clone();
        // Not in the context of the manager, whose crash would leave an unknown actor behind.
        tokio::task::spawn_local(async move {
            // The actor may never have started.
            let _ = supervisor.terminate_child(topic.actor.name().clone()).await;
            drop(place);
        });
    }
}

/// Topics looked at before other tasks get their turn.
const PORTION: usize = 64;

/// Ends topics that have been unused for `topic_idle`, for ever.
async fn end_unused(shared: Arc<Topics>) {
    let mut rounds = Rounds::new(&shared);
    loop {
        rounds.next(&shared, end_interval).await;
        let idle = shared.clock.ticks(shared.config().topic_idle);
        let mut last = 0;
        loop {
            let portion = shared.table.portion(last, PORTION);
            let Some(topic) = portion.last() else { break };
            last = topic.number;
            let mut place = None;
            for topic in &portion {
                let free = match place.take() {
                    Some(free) => free,
                    None => shared.table.ending.place().await,
                };
                place = shared.table.look_after(topic, idle, &shared, free);
            }
            tokio::task::yield_now().await;
        }
        let mut after = Some(String::new());
        while let Some(name) = after {
            after =
                shared.table.forget_forsaken(&name, PORTION, idle, shared.clock.tick()).map(|name| name.to_string());
            tokio::task::yield_now().await;
        }
    }
}

/// A message of an unused topic is kept longer than its age by at most this time and two ticks.
const MAX_FORGET_INTERVAL: Duration = Duration::from_secs(5);

/// Lets topics forget old messages, for ever. A topic itself looks only when it is used.
async fn forget_old(shared: Arc<Topics>) {
    let mut rounds = Rounds::new(&shared);
    loop {
        rounds.next(&shared, forget_interval).await;
        trim_topics(&shared, shared.pressure()).await;
    }
}

/// Topics trimmed before other tasks get their turn.
pub(crate) const TRIM_PORTION: usize = 64;

/// Lets all topics forget old messages, and messages beyond the limits under `pressure`.
pub(crate) async fn trim_topics(shared: &Topics, pressure: u32) {
    let mut last = 0;
    loop {
        let portion = shared.table.portion(last, TRIM_PORTION);
        let Some(topic) = portion.last() else { return };
        last = topic.number;
        let trimmed: usize = portion.iter().map(|topic| topic.trim(pressure, shared)).sum();
        shared.counters.messages_trimmed.fetch_add(trimmed as u64, Ordering::Relaxed);
        // Topics may end while the next portion waits.
        drop(portion);
        tokio::task::yield_now().await;
    }
}

/// A quarter of the shortest age, but not so short that rounds through 100,000 topics would be noticed.
fn forget_interval(config: &Config) -> Duration {
    let namespaces = config.namespaces.values().chain([&config.default_namespace]);
    let ages = namespaces.filter(|namespace| namespace.history).map(|namespace| namespace.history_age);
    let shortest = ages.fold(config.resume_age, Duration::min);
    (shortest / 4).clamp(MIN_ROUND, MAX_FORGET_INTERVAL)
}

impl Handler<Create> for TopicManager {
    type Result = ResponseActFuture<Self, Result<Arc<TopicState>, TopicError>>;

    fn handle(&mut self, create: Create, _: &mut Context<Self>) -> Self::Result {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move { make(&shared, create).await }.into_actor(self))
    }
}

async fn make(shared: &Arc<Topics>, Create { name, by }: Create) -> Result<Arc<TopicState>, TopicError> {
    // Even while there is room for topics: a client must not leave topics faster than they end.
    let place = shared.table.ending.place().await;
    // Listed before the start: a second request finds this topic, and messages wait in the inbox.
    let (topic, is_new) = shared.table.find_or_insert(&name, by.as_ref(), Some(place), shared)?;
    if !is_new {
        return Ok(topic);
    }
    shared.faults.topic_listed();
    start(shared, topic).await
}

/// The restarts that a topic is allowed. One more puts the topic out of service for `topic_quarantine`.
pub(crate) const TOPIC_INTENSITY: RestartIntensity =
    RestartIntensity { max_restarts: 5, period: Duration::from_secs(60) };

/// Starts the actor of a listed topic. A failed first start is tried again as often as a failed restart would be. The
/// supervisor keeps no child whose first start failed, so the retries happen here.
async fn start(shared: &Arc<Topics>, topic: Arc<TopicState>) -> Result<Arc<TopicState>, TopicError> {
    shared.tracer.tell(TraceKind::Create, || Said {
        from: "topic_manager".to_owned(),
        to: trace::topic(&topic.name),
        about: String::new(),
    });
    let mut failures = RestartWindow::new(TOPIC_INTENSITY);
    loop {
        let spec = {
            let (topic, shared) = (Arc::clone(&topic), Arc::clone(shared));
            let home = shared.homes.get(shared.homes.of_topic(topic.number)).place.clone();
            ChildSpec::actor_with(&topic.actor.clone(), move |_, start| Ok(Topic::start(&topic, &shared, start)))
                .restart(Restart::Permanent)
                .place(home)
        };
        match shared.topic_supervisor.start_child(spec).await {
            // No two topics share an actor name, so a present child is this very topic, restarting or in quarantine.
            Ok(()) | Err(StartError::AlreadyPresent(_) | StartError::AlreadyStarted(_)) => return Ok(topic),
            Err(error @ StartError::Failed { .. }) if failures.add(Instant::now()) => {
                log::warn!(topic:% = topic.name; "topic {}: could not be started, trying again: {error}", topic.name);
                tokio::task::yield_now().await;
            }
            Err(error) => {
                log::error!(topic:% = topic.name; "topic {}: cannot be started: {error}", topic.name);
                shared.table.remove(&topic);
                topic.abandon(&shared.senders);
                return Err(TopicError::Unavailable);
            }
        }
    }
}

#[cfg(feature = "fault-injection")]
impl Handler<crate::ground::fault::Crash> for TopicManager {
    type Result = ();

    fn handle(&mut self, crash: crate::ground::fault::Crash, _: &mut Context<Self>) {
        crash.now("the TopicManager");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_through_all_topics_are_at_least_250_ms_apart() {
        let short = Duration::from_millis(10);
        let config = Config { topic_idle: short, resume_age: short, ..Config::default() };
        assert_eq!(config.validate(), Ok(()));
        assert_eq!([end_interval(&config), forget_interval(&config)], [Duration::from_millis(250); 2]);
        let config = Config::default();
        assert_eq!(
            [end_interval(&config), forget_interval(&config)],
            [Duration::from_secs(15), Duration::from_secs(5)]
        );
    }
}
