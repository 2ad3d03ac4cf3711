//! What happens in a cluster, step by step, and the checks at rest.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::listener::is_up;
use super::model::{Id, TOPICS, topic_name};
use super::{Listener, Stand, TOPIC_CRASHES, World};
use crate::engine::unreliable::Sent;
use crate::ground::simulated;
use crate::wire::TopicName;
use crate::{Fault, Message, SubscribeError};

const LISTENERS: usize = 10;

impl World {
    pub(super) async fn take_step(&mut self) {
        let kind = self.chance.below(100);
        match kind {
            0..24 => (0..1 + self.chance.below(3)).for_each(|_| self.publish()),
            24..30 => self.publish_again(),
            30..38 => self.listen(),
            38..42 => self.stop_listening(),
            42..46 => {
                self.stop_listening();
                self.listen();
            }
            46..50 => self.stall(),
            50 => self.die().await,
            51..54 => {
                let (at_most, flows) = (self.chance.pick(&[40, 400, 400, 7_000]), self.chance.one_in(2));
                self.pass_time(at_most, flows).await;
            }
            _ => {}
        }
        if self.crash_rate > 0 && self.chance.one_in(self.crash_rate) {
            self.crash();
        }
        self.chance.pause().await;
        for _ in 0..self.chance.below(5) {
            self.engine_step();
            self.chance.pause().await;
        }
        self.pump(3, 20);
    }

    fn engine_step(&mut self) {
        if self.fault_rate > 0 && self.chance.one_in(self.fault_rate) {
            let chance = self.chance.clone();
            self.engine.step(&mut |limit| chance.below(limit));
            return;
        }
        let node = self.nodes[self.chance.below(self.nodes.len())].id;
        match self.chance.below(60) {
            // Nothing is lost by a cut: what was sent may be carried out, or is sent again.
            0 => self.engine.cut(node, self.chance.pick(&[Sent::Lost, Sent::CarriedOut])),
            1 => self.engine.lose_record(node),
            2..5 => drop(self.engine.flow()),
            5..35 => drop(self.engine.serve(node, 1 + self.chance.below(3))),
            _ => drop(self.engine.deliver(node, 1 + self.chance.below(4))),
        }
    }

    fn node(&self) -> usize {
        self.chance.below(self.nodes.len())
    }

    fn publish(&mut self) {
        let topic = self.chance.below(TOPICS);
        let id = self.model.publish(topic, self.chance.one_in(4));
        self.publish_here(id, self.node());
    }

    /// Publishes a message with a key once more, on any node.
    fn publish_again(&mut self) {
        let latest = self.model.messages.len().saturating_sub(40);
        let mut repeated =
            (latest..self.model.messages.len()).filter(|id| self.model.messages[*id].is_to_be_repeated());
        if let Some(id) = repeated.next() {
            self.model.publish_again(id);
            self.publish_here(id, self.node());
        }
    }

    fn publish_here(&mut self, id: Id, node: usize) {
        self.trace.note("publish", self.nodes[node].number, id, 0);
        let told = &self.model.messages[id];
        let mut message = Message::new(&topic_name(told.topic), &id).expect("a number can be published");
        if told.has_key {
            message = message.idempotency_key(format!("key-{id}").parse().expect("it is a key"));
        }
        let (janus, receipts) = (self.nodes[node].janus.clone(), Rc::clone(&self.receipts));
        let task = tokio::task::spawn_local(async move {
            let outcome = janus.publish_message(message).await;
            drop(janus);
            receipts.borrow_mut().push_back((id, outcome));
        });
        self.nodes[node].publishers.push((id, task));
    }

    fn collect_receipts(&mut self) -> bool {
        let receipts = std::mem::take(&mut *self.receipts.borrow_mut());
        for (id, outcome) in &receipts {
            let seq = outcome.as_ref().map_or(0, |receipt| receipt.seq as usize);
            self.trace.note(if outcome.is_ok() { "receipt" } else { "refusal" }, 0, *id, seq);
            self.model.answered(*id, outcome);
        }
        if !receipts.is_empty() {
            for node in &mut self.nodes {
                node.publishers.retain(|(_, task)| !task.is_finished());
            }
        }
        !receipts.is_empty()
    }

    fn listen(&mut self) {
        if self.listeners.len() >= LISTENERS {
            return;
        }
        let (topic, since) = if self.chance.below(4) > 0 && !self.places.is_empty() {
            let place = self.places.len() - 1 - self.chance.below(self.places.len().min(5));
            let (topic, place) = self.places.swap_remove(place);
            (topic, Some(place))
        } else {
            (self.chance.below(TOPICS), None)
        };
        self.listen_to(topic, since);
    }

    fn listen_to(&mut self, topic: usize, since: Option<Stand>) {
        self.next_listener += 1;
        let (number, node) = (self.next_listener, self.node());
        let seq = since.map_or(0, |since| since.position.seq as usize);
        self.trace.note("listen", number, self.nodes[node].number, seq);
        let names = (number, self.nodes[node].number, topic);
        match Listener::new(names, since, &self.nodes[node].janus, &self.chance, self.is_calm()) {
            Ok(listener) => self.listeners.push(listener),
            Err(SubscribeError::TopicUnavailable) if self.has_crashed() => {}
            Err(error) => panic!("listener {number}: {error}"),
        }
    }

    fn has_crashed(&self) -> bool {
        TOPIC_CRASHES.with_borrow(|crashes| !crashes.is_empty())
    }

    fn stop_listening(&mut self) {
        if !self.listeners.is_empty() {
            let listener = self.listeners.swap_remove(self.chance.below(self.listeners.len()));
            self.keep_place(&listener);
        }
    }

    fn keep_place(&mut self, listener: &Listener) {
        self.trace.note("stop", listener.number, listener.topic, 0);
        self.places.extend(listener.place().map(|place| (listener.topic, place)));
    }

    fn stall(&mut self) {
        if !self.listeners.is_empty() {
            let listener = self.chance.below(self.listeners.len());
            self.listeners[listener].stalled ^= true;
        }
    }

    /// A node ends without a word, and another takes its place.
    async fn die(&mut self) {
        let node = self.node();
        self.trace.note("die", self.nodes[node].number, 0, 0);
        self.collect_receipts();
        let new = self.start().await;
        let old = std::mem::replace(&mut self.nodes[node], new);
        // Answers that came in the meantime.
        self.collect_receipts();
        for (id, task) in old.publishers {
            if !task.is_finished() {
                task.abort();
                self.model.publisher_gone(id);
            }
        }
        let (gone, left) = std::mem::take(&mut self.listeners).into_iter().partition(|l| l.node == old.number);
        self.listeners = left;
        let gone: Vec<Listener> = gone;
        gone.iter().for_each(|listener| self.keep_place(listener));
        drop(old.janus);
    }

    fn crash(&mut self) {
        let node = self.node();
        let soon = 1 + self.chance.below(10) as u32;
        let topic = topic_name(self.chance.below(TOPICS));
        let kind = self.chance.below(12);
        self.trace.note("crash", self.nodes[node].number, kind, soon as usize);
        let fault = match kind {
            0..3 => Fault::Topic(topic),
            3 => Fault::TopicSend(soon),
            4..6 => Fault::TopicCommit(soon),
            6..8 => Fault::TopicEncode(soon),
            8 => Fault::TopicStarts(1),
            _ => Fault::EngineAnswer(soon),
        };
        let (now, window) = (Instant::now(), &mut self.nodes[node].root_crashes);
        while window.pop_front_if(|crash| now - *crash > Duration::from_secs(61)).is_some() {}
        if matches!(fault, Fault::EngineAnswer(_)) {
            if window.len() >= 4 {
                return;
            }
            window.push_back(now);
        }
        self.nodes[node].janus.inject(fault);
    }

    /// Lets up to `at_most` milliseconds pass, with or without the engine at work.
    async fn pass_time(&mut self, at_most: usize, flows: bool) {
        let mut left = 1 + self.chance.below(at_most);
        while left > 0 {
            let portion = left.min(100);
            self.sleep(portion as u64).await;
            left -= portion;
            if flows {
                self.engine.flow();
            }
            self.pump(1, usize::MAX);
        }
    }

    async fn sleep(&mut self, milliseconds: u64) {
        sleep(Duration::from_millis(milliseconds)).await;
        let now = simulated::since_unix_epoch().expect("it is a simulation");
        self.engine.pass(now - self.time);
        self.time = now;
    }

    /// Lets one listener in `one_in` take events. Returns whether anything moved.
    fn pump(&mut self, one_in: usize, at_most: usize) -> bool {
        let mut moved = self.collect_receipts();
        let up: Vec<_> = self.nodes.iter().filter(|node| is_up(&node.janus)).map(|node| node.number).collect();
        for listener in &mut self.listeners {
            let is_up = up.contains(&listener.node);
            if one_in == 1 || self.chance.one_in(one_in) {
                moved |= listener.pump(at_most, is_up, &mut self.model, &mut self.trace);
            }
        }
        let closed: Vec<_> = self.listeners.extract_if(.., |listener| listener.closed.is_some()).collect();
        closed.iter().for_each(|listener| self.keep_place(listener));
        moved
    }

    /// Lets time pass with an engine that works.
    async fn rest(&mut self, milliseconds: u64) {
        for _ in 0..milliseconds / 50 {
            for _ in 0..4 {
                self.sleep(1).await;
                self.engine.flow();
            }
            self.sleep(46).await;
            while self.pump(1, usize::MAX) {}
        }
    }

    /// Ends the faults, waits until nothing is left to do, and checks that everybody has everything.
    pub(super) async fn settle(&mut self) {
        self.trace.note("settle", self.listeners.len(), 0, 0);
        self.engine.mend();
        self.listeners.iter_mut().for_each(|listener| listener.stalled = false);
        self.rest(25_000).await;
        let probes: Vec<Id> = (0..TOPICS)
            .map(|topic| {
                let probe = self.model.publish(topic, false);
                self.publish_here(probe, self.node());
                probe
            })
            .collect();
        self.rest(10_000).await;
        for node in &self.nodes {
            let waiting: Vec<Id> = node.publishers.iter().map(|(id, _)| *id).collect();
            assert!(waiting.is_empty(), "publishers on node {} have no answer: {waiting:?}", node.number);
        }
        let mut last = BTreeMap::new();
        for (topic, probe) in probes.into_iter().enumerate() {
            let position = self.model.messages[probe].position();
            last.insert(topic, position);
            let listeners = self.listeners.iter().filter(|listener| listener.topic == topic);
            for listener in listeners {
                let position = position.unwrap_or_else(|| panic!("the last message of topic {topic} has no number"));
                listener.check_settled(position);
            }
        }
        self.check_nodes(&last);
        self.model.check_histories();
    }

    fn check_nodes(&self, last: &BTreeMap<usize, Option<crate::Position>>) {
        for node in &self.nodes {
            for (&topic, &last) in last {
                let name = topic_name(topic);
                let Some(info) = node.janus.topic_info(&name) else { continue };
                assert!(info.in_flight == 0 && info.available, "nothing is left to do, but {info:?}");
                let name = TopicName::new(&name, 255).expect("it is a name");
                if info.subscribers > 0 {
                    let position = self.engine.master().position(&name);
                    assert!(last == Some(info.position) && position == last, "{info:?}, {position:?}, {last:?}");
                }
            }
            let cluster = node.janus.tables().topics.cluster.as_ref().expect("it has an engine");
            assert_eq!(cluster.figures.waiting(), 0, "messages wait on node {}", node.number);
        }
    }
}
