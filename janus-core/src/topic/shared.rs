//! What the topic floor shares: the topics, and the subscribers in this process.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::manager::{TopicManager, Unstarted};
use super::table::TopicTable;
use super::{TopicError, TopicState};
use crate::accounts::Account;
use crate::delivery::{Engine, Slot, Subscription};
use crate::ground::trace::{self, Said, TraceKind};
use crate::hooks::HookRunner;
use crate::supervision::in_words;
use crate::supervision::{ActorRef, DynamicSupervisor};
use crate::wire::TopicName;

/// See the module's documentation. Dereferences to the [`Engine`] below.
///
/// No actor owns a table. Each table plays the part of an ETS table with an heir: after a crash the successor of an
/// actor finds the table as it was.
#[derive(Debug)]
pub(crate) struct Topics {
    engine: Engine,
    pub(crate) table: TopicTable,
    pub(crate) unstarted: Unstarted,
    /// The hooks that are told which topics have subscribers.
    pub(super) observers: Option<Arc<HookRunner>>,
    /// The slots of the subscribers in this process, by their number. The program decides how many there are.
    pub(crate) locals: Mutex<HashMap<u64, Arc<Slot>>>,
    /// See [`pressure`](Self::pressure); set by the memory keeper.
    pub(crate) pressure: AtomicU32,
    pub(crate) topic_manager: ActorRef<TopicManager>,
    pub(crate) topic_supervisor: DynamicSupervisor,
}

impl Topics {
    pub(crate) fn new(engine: Engine, supervisor: DynamicSupervisor, observers: Option<Arc<HookRunner>>) -> Arc<Self> {
        Arc::new_cyclic(|topics: &Weak<Self>| {
            let topics = topics.clone();
            let topic_supervisor = supervisor.on_quarantine(move |name, _| {
                if let Some(topics) = topics.upgrade() {
                    topics.quarantine(name);
                }
            });
            Self {
                engine,
                table: TopicTable::default(),
                unstarted: Unstarted::default(),
                observers,
                locals: Mutex::default(),
                pressure: AtomicU32::new(0),
                topic_manager: ActorRef::new("topic_manager"),
                topic_supervisor,
            }
        })
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
        let found = self.table.find(name.as_str());
        found.or_else(|| self.table.is_asleep(name).then(|| self.open_topic(name, by).ok())?)
    }

    pub(crate) fn local_slots(&self) -> Vec<Arc<Slot>> {
        self.locals.lock().values().cloned().collect()
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
    type Target = Engine;

    fn deref(&self) -> &Engine {
        &self.engine
    }
}

#[cfg(test)]
pub(super) mod tests {
    use tokio::task::LocalSet;

    use super::*;
    use crate::config::Config;
    use crate::ground::Ground;
    use crate::supervision::Place;

    /// Calls `test` with topics whose actors are never started.
    pub(in crate::topic) fn with_topics(config: Config, test: impl FnOnce(&Arc<Topics>)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let engine = Engine::new(Ground::new(config, Place::here()), Arc::default(), false);
            test(&Topics::new(engine, DynamicSupervisor::new("topic_supervisor"), None));
        });
    }
}
