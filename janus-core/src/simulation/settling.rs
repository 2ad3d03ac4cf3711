//! The checks between the steps: the world comes to rest, or the instance ends, and every client must have everything.
//!
//! At rest, each topic gets a last message, the probe, for every subscriber to receive.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::client::Client;
use super::model::{Id, Outcome, TOPICS, topic_name};
use super::{World, websocket};

impl World {
    /// Waits until nothing is left to do, and checks that every client has everything. If `full`, stalled clients read
    /// again first.
    pub(super) async fn settle(&mut self, full: bool) {
        self.trace.note("settle", self.clients.len(), usize::from(full), 0);
        if full {
            self.clients.iter_mut().for_each(|client| client.line_mut().stalled = false);
            self.listeners.iter_mut().for_each(|listener| listener.stalled = false);
        }
        self.run_until_settled().await;
        for client in &mut self.clients {
            let line = client.line_mut();
            // By now, a client closed for silence has got the bye.
            line.reason.silent &= line.stalled;
        }
        let mut probes: [Option<Id>; TOPICS] = std::array::from_fn(|topic| Some(self.model.publish(topic, 0)));
        for probe in probes.into_iter().flatten() {
            self.publish_here(probe);
        }
        self.run_until_settled().await;
        assert_eq!(self.unanswered, 0, "every publisher in this process is answered");
        for (topic, probe) in probes.iter_mut().enumerate() {
            // A topic in quarantine takes nothing, and the messages in its inbox wait.
            let rests = self.janus.topic_info(&topic_name(topic)).is_some_and(|info| !info.available);
            assert!(!rests || self.limits.quarantine, "topic {topic} is out of service without a reason");
            probe.take_if(|id| rests || self.model.messages[*id].outcome != Outcome::Accepted);
        }
        for client in &mut self.clients {
            client.check_settled(&probes, &self.model);
        }
        for listener in &self.listeners {
            listener.check_settled(probes[listener.topic], &self.model);
        }
        for (topic, probe) in probes.iter().enumerate() {
            // A topic in quarantine has not decided about its last messages.
            if probe.is_some() {
                self.check_handed_out(topic);
            }
        }
        self.check_tables(full);
    }

    /// Checks that every numbered message has reached a client, if the topic had clients.
    fn check_handed_out(&mut self, topic: usize) {
        for id in self.model.by_topic[topic].iter().copied().skip(self.settled[topic]) {
            let message = &self.model.messages[id];
            if message.outcome == Outcome::Accepted && !message.was_received() {
                let told = |client: &dyn Client| client.was_told_of(topic, message.seq);
                let client = self.clients.iter().find(|client| client.must_get(topic, id) && !told(&***client));
                assert!(client.is_none(), "message {id} has a number and reached no client; missing at {client:?}");
            }
        }
        self.settled[topic] = self.model.by_topic[topic].len();
    }

    /// Checks the tables of the server: the expected connections and subscribers, and nothing else.
    fn check_tables(&self, full: bool) {
        let stats = self.janus.stats();
        assert!(
            stats.connections >= self.clients.iter().filter(|client| client.line().is_served()).count(),
            "{stats:?}"
        );
        if full {
            assert_eq!(stats.connections, self.clients.len(), "every connected client reads: {stats:?}");
        }
        for topic in 0..TOPICS {
            let info = self.janus.topic_info(&topic_name(topic));
            let (sure, perhaps) = self.clients.iter().fold((0, 0), |(sure, perhaps), client| {
                let (is, may_be) = client.is_subscriber(topic);
                (sure + usize::from(is), perhaps + usize::from(may_be))
            });
            let listeners = self.listeners.iter().filter(|listener| listener.topic == topic);
            // A listener that has not caught up is not on the list.
            let (sure, perhaps) =
                (sure + listeners.clone().filter(|l| !l.stalled).count(), perhaps + listeners.count());
            let Some(info) = info else {
                assert_eq!(sure, 0, "topic {topic} does not exist");
                continue;
            };
            // Subscribers that leave during a quarantine are taken off the list later.
            let most = if info.available { perhaps } else { usize::MAX };
            assert!((sure..=most).contains(&info.subscribers), "{sure} to {most} subscribers, but {info:?}");
            assert!(info.in_flight == 0 || !info.available, "nothing is left to do, but {info:?}");
        }
    }

    /// Ends the instance. All accepted messages must reach the reading clients.
    pub(super) async fn drain(&mut self) {
        self.trace.note("drain", self.clients.len(), 0, 0);
        self.clients.iter_mut().for_each(|client| client.line_mut().reason.drain = true);
        self.limits.draining = true;
        let janus = self.janus.clone();
        let drained = tokio::task::spawn_local(async move { janus.shutdown().await });
        let mut ended = Vec::new();
        while !drained.is_finished() || !self.clients.is_empty() {
            sleep(Duration::from_millis(1)).await;
            self.collect_receipts();
            if drained.is_finished() {
                self.clients.iter_mut().for_each(|client| client.line_mut().stalled = false);
            }
            for mut client in std::mem::take(&mut self.clients) {
                client.pump(usize::MAX, &mut self.model, &mut self.trace, &self.limits);
                if client.line().ended.is_some() { ended.push(client) } else { self.clients.push(client) }
            }
        }
        sleep(Duration::from_millis(1)).await;
        self.listeners.iter_mut().for_each(|listener| listener.stalled = false);
        self.pump(1, usize::MAX);
        assert_eq!(self.listeners.len(), 0, "every subscriber in this process sees the end");
        assert_eq!(self.unanswered, 0, "every publisher in this process is answered");
        self.look_for_crashes();
        if !self.limits.quarantine {
            ended.iter().for_each(|client| client.check_drained(&self.model));
        }
        assert_eq!(self.janus.stats().connections, 0);
    }

    /// Starts a new instance after a drain.
    pub(super) async fn restart(&mut self) {
        let old = Arc::downgrade(self.janus.tables());
        let (janus, config) = Self::start(&self.chance, &self.place).await;
        self.websocket = websocket(&janus, self.model.is_binary);
        (self.janus, self.limits, self.config) = (janus, Self::limits(&config, self.limits.instance + 1), config);
        sleep(Duration::from_millis(1)).await;
        assert_eq!(old.strong_count(), 0, "nothing of the old instance is left");
        self.root_crashes.clear();
        self.sender_crashes.clear();
        self.errand_crashes.clear();
    }
}
