//! What the topic floor shares: the topics, and the subscribers in this process.

use std::collections::BTreeMap;
use std::ops::{Bound, Deref};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::task::yield_now;

use super::cluster::Cluster;
use super::errands::Errands;
use super::manager::{TopicManager, Unstarted};
use super::presence::Presences;
use super::table::{LookUp, TopicTable};
use super::{TopicError, TopicState};
use crate::accounts::Account;
use crate::delivery::{Deliveries, Slot, Subscription};
use crate::ground::homes::HomeId;
use crate::ground::trace::{self, Said, TraceKind};
use crate::hooks::HookRunner;
use crate::supervision::in_words;
use crate::supervision::{ActorRef, DynamicSupervisor};
use crate::wire::TopicName;

/// See the module's documentation. Dereferences to the [`Deliveries`] below.
///
/// No actor owns a table. Each table plays the part of an ETS table with an heir: after a crash the successor of an
/// actor finds the table as it was.
#[derive(Debug)]
pub(crate) struct Topics {
    deliveries: Deliveries,
    pub(crate) table: TopicTable,
    /// For each home arbiter, in their order.
    errands: Box<[Errands]>,
    pub(crate) unstarted: Unstarted,
    /// The topics whose presence has something to do.
    pub(super) presences: Presences,
    /// The hooks that are told which topics have subscribers.
    pub(super) observers: Option<Arc<HookRunner>>,
    /// The slots of the subscribers in this process, by their number. The program decides how many there are.
    pub(crate) locals: Mutex<BTreeMap<u64, Arc<Slot>>>,
    /// The engine that numbers the messages of topics, if the instance belongs to a cluster.
    pub(crate) cluster: Option<Arc<Cluster>>,
    /// See [`pressure`](Self::pressure); set by the memory keeper.
    pub(crate) pressure: AtomicU32,
    pub(crate) topic_manager: ActorRef<TopicManager>,
    pub(crate) topic_supervisor: DynamicSupervisor,
}

impl Topics {
    pub(crate) fn new(
        deliveries: Deliveries,
        supervisor: DynamicSupervisor,
        observers: Option<Arc<HookRunner>>,
        cluster: Option<Arc<Cluster>>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|topics: &Weak<Self>| {
            let topics = topics.clone();
            let topic_supervisor = supervisor.on_quarantine(move |name, _| {
                if let Some(topics) = topics.upgrade() {
                    topics.quarantine(name);
                }
            });
            if cluster.is_some() {
                // A client may come back to another node with a horizon of this one, which must not be taken for one of that
                // node: other nodes number their passes from elsewhere.
                let start = getrandom::u64().expect("the system has a source of random numbers") >> 12;
                deliveries.pass_numbers.begin_apart(start);
            }
            Self {
                errands: deliveries.homes.iter().map(|_| Errands::default()).collect(),
                deliveries,
                table: TopicTable::default(),
                unstarted: Unstarted::default(),
                presences: Presences::default(),
                observers,
                cluster,
                locals: Mutex::default(),
                pressure: AtomicU32::new(0),
                topic_manager: ActorRef::new("topic_manager"),
                topic_supervisor,
            }
        })
    }

    /// The topics that a home has from other homes, or for other homes.
    pub(crate) fn errands(&self, home: HomeId) -> &Errands {
        &self.errands[home.index()]
    }

    /// Finds or makes the topic of this name, for a client of the address with this account. The topic's actor may
    /// still be on its way up; messages and requests wait for the actor.
    pub(crate) fn open_topic(
        &self,
        name: &TopicName,
        by: Option<&Arc<Account>>,
    ) -> Result<Arc<TopicState>, TopicError> {
        let (topic, is_new) = self.table.find_or_insert(name, by, self.table.ending.try_place(), self)?;
        if is_new {
            self.unstarted.add(Arc::clone(&topic));
        }
        Ok(topic)
    }

    /// Finds the topic of this name, and wakes the topic if it is asleep.
    pub(crate) fn find_or_wake(&self, name: &TopicName, by: Option<&Arc<Account>>) -> Option<Arc<TopicState>> {
        match self.table.look_up(name) {
            LookUp::Found(topic) => Some(topic),
            LookUp::Asleep => self.open_topic(name, by).ok(),
            LookUp::None => None,
        }
    }

    /// Why a topic was not ready in time.
    pub(crate) fn late(&self, name: &TopicName) -> TopicError {
        match self.table.find(name.as_str()) {
            Some(topic) if topic.waits_for_engine() => TopicError::NoEngine,
            _ => TopicError::Unavailable,
        }
    }

    pub(crate) fn local_slots(&self) -> Vec<Arc<Slot>> {
        self.locals.lock().values().cloned().collect()
    }

    /// The next `count` subscribers in this process behind the number `after`.
    pub(super) fn local_portion(&self, after: u64, count: usize) -> Vec<Arc<Slot>> {
        let locals = self.locals.lock();
        let rest = locals.range((Bound::Excluded(after), Bound::Unbounded));
        rest.take(count).map(|(_, slot)| Arc::clone(slot)).collect()
    }

    /// Calls `see` with each subscriber in this process that does not keep up. A portion at a time, so that other tasks have
    /// their turn.
    pub(crate) async fn visit_slow_locals(&self, mut see: impl FnMut(Arc<Slot>)) {
        const PORTION: usize = 256;
        let mut last = 0;
        loop {
            let portion = self.local_portion(last, PORTION);
            let Some(slot) = portion.last() else { return };
            last = slot.id;
            portion.into_iter().filter(|slot| slot.needs_attention()).for_each(&mut see);
            yield_now().await;
        }
    }

    /// By how much topics must keep less than their limits allow, in powers of two.
    pub(crate) fn pressure(&self) -> u32 {
        self.pressure.load(Ordering::Relaxed)
    }

    /// Takes the topic whose actor has this name out of service until its quarantine is over.
    fn quarantine(&self, actor: &str) {
        if let Some(topic) = trace::topic_of(actor).and_then(|name| self.table.find(name)) {
            let time = in_words(self.config().topic_quarantine);
            log::error!(topic:% = topic.name; "topic {}: keeps crashing, out of service for {time}", topic.name);
            topic.quarantine(&self.senders);
        }
    }

    /// Writes to the traces, if there are any: a subscriber has joined a topic.
    pub(crate) fn trace_joined(&self, subscription: &Subscription, topic: &TopicName, after: u64) {
        self.tracer.tell(TraceKind::Subscribe, || Said {
            from: subscription.trace_name(),
            to: trace::topic(topic),
            about: format!("from number {} on", after + 1),
        });
    }
}

impl Deref for Topics {
    type Target = Deliveries;

    fn deref(&self) -> &Deliveries {
        &self.deliveries
    }
}

#[cfg(test)]
pub(super) mod tests {
    use tokio::task::LocalSet;

    use super::*;
    use crate::config::Config;
    use crate::ground::Ground;
    use crate::supervision::{ChildSpec, Place, Strategy, Supervisor};

    /// Calls `test` with topics whose actors are never started.
    pub(in crate::topic) fn with_topics(config: Config, test: impl FnOnce(&Arc<Topics>)) {
        with_homes_and(config, 1, test);
    }

    /// The same with several homes, which are all of this thread.
    pub(in crate::topic) fn with_homes(homes: usize, test: impl FnOnce(&Arc<Topics>)) {
        with_homes_and(Config::default(), homes, test);
    }

    pub(in crate::topic) fn with_homes_and(config: Config, homes: usize, test: impl FnOnce(&Arc<Topics>)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        LocalSet::new().block_on(&runtime, async { test(&topics(config, homes)) });
    }

    /// The same with a TopicManager, and with topics whose actors run.
    pub(in crate::topic) async fn with_running_topics(homes: usize, test: impl AsyncFnOnce(Arc<Topics>)) {
        LocalSet::new()
            .run_until(async {
                let topics = topics(Config::default(), homes);
                let shared = Arc::clone(&topics);
                let manager =
                    ChildSpec::actor(&topics.topic_manager, move |_| Ok(TopicManager::new(Arc::clone(&shared))));
                let root = Supervisor::new("root", Strategy::OneForOne);
                let root = root.child(ChildSpec::dynamic(&topics.topic_supervisor)).child(manager);
                let tree = root.start(&Place::here()).await.unwrap();
                test(topics).await;
                tree.stop().await;
            })
            .await;
    }

    fn topics(config: Config, homes: usize) -> Arc<Topics> {
        let deliveries =
            Deliveries::new(Ground::new(config, vec![Place::here(); homes]), Arc::default(), Default::default(), false);
        Topics::new(deliveries, DynamicSupervisor::new("topic_supervisor"), None, None)
    }
}
