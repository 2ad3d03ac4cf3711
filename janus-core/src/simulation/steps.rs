//! The steps of a run: what clients, publishers, crashes and time may do next.
//!
//! [`World::take_step`] picks a step by chance. Each step changes the world, and leaves the checks of each frame to the
//! clients and of the whole to [`settling`](super::settling).

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::classic;
use super::client::{Client, Session};
use super::listener::Listener;
use super::model::{Id, Model, TOPICS, topic_name};
use super::modern::Modern;
use super::{CLIENTS, Chance, Fault, LISTENERS, Message, TOPIC_CRASHES, World};

impl World {
    pub(super) async fn take_step(&mut self) {
        if self.chance.one_in(self.crash_rate) {
            self.crash();
        }
        match self.chance.below(1000) {
            0..60 => self.connect(),
            60..90 => self.attach(),
            90..220 => self.subscribe(),
            220..250 => self.unsubscribe(),
            250..430 => self.publish(1),
            430..460 => {
                let burst = 2 + self.chance.below(20);
                self.publish(burst);
            }
            460..480 => self.try_publish(),
            480..580 => self.publish_by_client(),
            580..600 => self.publish_classic(),
            600..620 => self.with_client(|client, _, _| client.line_mut().stalled = true),
            620..660 => self.with_client(|client, _, _| client.line_mut().stalled = false),
            660..670 => self.with_client(|client, _, chance| client.finish(chance)),
            670..685 => self.vanish(),
            685..689 => self.with_client(|client, _, _| client.leave_unfinished()),
            689..699 => self.listen(),
            699..705 => self.stop_listening(),
            705..713 => self.with_listener(|listener| listener.stalled ^= true),
            713..790 => self.pass_time(20).await,
            790..810 => self.pass_time(2_000).await,
            810..812 => self.pass_time(70_000).await,
            812..825 => {
                let full = self.chance.one_in(3);
                self.settle(full).await;
            }
            825 if self.chance.one_in(3) => {
                self.drain().await;
                self.restart().await;
            }
            _ => {
                self.pump(1, usize::MAX);
            }
        }
        self.chance.pause().await;
        self.pump(4, 300);
        self.chance.pause().await;
    }

    /// A random topic. The first topic comes most often, and has many subscribers.
    fn topic(&self) -> usize {
        if self.chance.one_in(2) { 0 } else { self.chance.below(TOPICS) }
    }

    fn padding(&self) -> usize {
        match self.chance.below(10) {
            0 => self.chance.below(300),
            _ => self.chance.below(40),
        }
    }

    fn with_client(&mut self, act: impl FnOnce(&mut dyn Client, &mut Model, &Chance)) {
        if self.clients.is_empty() {
            return;
        }
        let number = self.chance.below(self.clients.len());
        let client = &mut *self.clients[number];
        if client.is_at_leisure() {
            act(client, &mut self.model, &self.chance);
        }
    }

    fn connect(&mut self) {
        if self.clients.len() >= CLIENTS {
            return;
        }
        if self.chance.below(10) < self.modern {
            let line = self.accept(Arc::clone(&self.websocket));
            self.clients.push(Box::new(Modern::new(line, None, &self.model, &self.chance)));
        } else {
            let classic = self.connect_classic();
            self.clients.push(Box::new(classic));
        }
    }

    /// Takes over a session, whether or not the older connection has ended.
    fn attach(&mut self) {
        if self.clients.len() >= CLIENTS {
            return;
        }
        let session = if self.chance.one_in(4) && !self.clients.is_empty() {
            let older = self.chance.below(self.clients.len());
            let older = &mut self.clients[older];
            let session = older.session(self.limits.instance);
            older.line_mut().reason.taken = true;
            self.trace.note("taken", older.line().number, self.next_client + 1, 0);
            session
        } else if self.lost.is_empty() {
            None
        } else {
            let latest = self.lost.len() - 1 - self.chance.below(self.lost.len().min(4));
            Some(self.lost.swap_remove(latest))
        };
        match session {
            Some(Session::Classic(session)) if self.chance.one_in(3) => self.attach_twice(*session),
            Some(Session::Classic(session)) => {
                let mut client = self.connect_classic();
                client.attach(*session, &self.model, &self.chance);
                self.clients.push(Box::new(client));
            }
            Some(Session::Modern(session)) => {
                let line = self.accept(Arc::clone(&self.websocket));
                self.clients.push(Box::new(Modern::new(line, Some(*session), &self.model, &self.chance)));
            }
            None => {}
        }
    }

    /// Attaches on one connection, gives up before the answer, and attaches on a second connection. Both claims may be
    /// under way together, and the later connection must get the session.
    fn attach_twice(&mut self, session: classic::Session) {
        let mut older = self.connect_classic();
        let mut newer = self.connect_classic();
        older.attach(session, &self.model, &self.chance);
        if let Some(Session::Classic(session)) = older.session(self.limits.instance) {
            newer.attach(*session, &self.model, &self.chance);
        }
        older.line_mut().reason.taken = true;
        self.trace.note("given up", older.line().number, newer.line().number, 0);
        self.clients.push(Box::new(newer));
        if self.chance.one_in(2) {
            older.pump(usize::MAX, &mut self.model, &mut self.trace, &self.limits);
            older.line().vanish(&self.chance);
        } else {
            self.clients.push(Box::new(older));
        }
    }

    /// Subscribes in this process, perhaps after the position of an earlier listener.
    fn listen(&mut self) {
        if self.listeners.len() >= LISTENERS {
            return;
        }
        let (topic, since) = if self.chance.one_in(2) && !self.places.is_empty() {
            let place = self.chance.below(self.places.len());
            let (topic, since) = self.places.swap_remove(place);
            (topic, Some(since))
        } else {
            (self.topic(), None)
        };
        self.next_client += 1;
        let number = self.next_client;
        self.trace.note("listen", number, topic, 0);
        self.look_for_crashes();
        self.listeners.extend(Listener::new(number, topic, since, &self.janus, &self.chance, &self.limits));
    }

    fn with_listener(&mut self, act: impl FnOnce(&mut Listener)) {
        if !self.listeners.is_empty() {
            let listener = self.chance.below(self.listeners.len());
            act(&mut self.listeners[listener]);
        }
    }

    fn stop_listening(&mut self) {
        if !self.listeners.is_empty() {
            let listener = self.listeners.swap_remove(self.chance.below(self.listeners.len()));
            self.places.push((listener.topic, listener.position()));
        }
    }

    fn subscribe(&mut self) {
        let topic = self.topic();
        self.with_client(|client, model, chance| client.subscribe(topic, model, chance));
    }

    fn unsubscribe(&mut self) {
        let topic = self.topic();
        self.with_client(|client, _, _| {
            if client.wants(topic) {
                client.unsubscribe(topic);
            }
        });
    }

    fn publish(&mut self, count: usize) {
        let topic = self.topic();
        for _ in 0..count {
            let id = self.model.publish(topic, self.padding());
            self.publish_here(id);
        }
    }

    fn message(&self, id: Id) -> Message {
        let message = &self.model.messages[id];
        Message::new(&topic_name(message.topic), &id).expect("a number can be published").event(&message.event())
    }

    /// Publishes in this process.
    pub(super) fn publish_here(&mut self, id: Id) {
        self.trace.note("publish", 0, id, 0);
        self.unanswered += 1;
        let (janus, receipts, message) = (self.janus.clone(), Rc::clone(&self.receipts), self.message(id));
        tokio::task::spawn_local(async move {
            let outcome = janus.publish_message(message).await;
            drop(janus);
            receipts.borrow_mut().push_back((id, outcome));
        });
    }

    fn try_publish(&mut self) {
        let id = self.model.publish(self.topic(), self.padding());
        match self.janus.try_publish(self.message(id)) {
            Ok(receipt) => {
                self.unanswered += 1;
                let receipts = Rc::clone(&self.receipts);
                tokio::task::spawn_local(async move {
                    let outcome = receipt.await;
                    receipts.borrow_mut().push_back((id, outcome));
                });
            }
            Err(error) => self.model.refused(id, &error),
        }
    }

    fn publish_by_client(&mut self) {
        let (topic, padding) = (self.topic(), self.padding());
        self.with_client(|client, model, _| {
            let id = model.publish(client.publishes_to(model).unwrap_or(topic), padding);
            client.publish(id, model);
        });
    }

    fn publish_classic(&mut self) {
        let (topic, padding) = (self.topic(), self.padding());
        let goes_away = self.chance.one_in(3);
        // A separate client: an error could overtake the receipts of other messages, and does not name its message.
        if self.clients.len() >= CLIENTS {
            return;
        }
        let mut client = self.connect_classic();
        let id = self.model.publish(topic, padding);
        client.publish_and_finish(id, &self.model);
        if goes_away {
            client.pump(usize::MAX, &mut self.model, &mut self.trace, &self.limits);
            client.line().vanish(&self.chance);
        } else {
            self.clients.push(Box::new(client));
        }
    }

    fn vanish(&mut self) {
        if !self.clients.is_empty() {
            let mut client = self.clients.swap_remove(self.chance.below(self.clients.len()));
            client.line_mut().note_cut();
            self.lost.extend(client.session(self.limits.instance));
            self.trace.note("vanish", client.line().number, 0, 0);
            client.line().vanish(&self.chance);
        }
    }

    /// Makes an actor panic, or arms a fault for later. Stays below the restart intensity of the root, at which the
    /// instance would end.
    fn crash(&mut self) {
        let soon = 1 + self.chance.below(30) as u32;
        let topic = topic_name(self.topic());
        let kind = self.chance.below(24);
        let fault = match kind {
            0 => Fault::TopicManager,
            1 => Fault::ProxyMapper,
            2 => Fault::TopicListed,
            3 => Fault::TopicStarts(1 + soon % 2),
            4..7 => Fault::Topic(topic),
            7..11 => Fault::TopicSend(soon),
            11..14 => Fault::TopicCommit(1 + soon / 4),
            14..18 => Fault::SenderSend(soon),
            22.. => Fault::TopicEncode(1 + soon / 4),
            20..22 => Fault::Errand(1 + soon / 4),
            _ => {
                if self.clients.is_empty() {
                    return;
                }
                let number = self.chance.below(self.clients.len());
                let line = self.clients[number].line_mut();
                line.reason.crash = true;
                Fault::Transport(line.addr)
            }
        };
        self.trace.note("crash", kind, soon as usize, 0);
        let now = Instant::now();
        let (window, most) = match fault {
            Fault::TopicManager | Fault::ProxyMapper | Fault::TopicListed => (&mut self.root_crashes, 4),
            Fault::Errand(_) => (&mut self.errand_crashes, 4),
            Fault::SenderSend(_) => (&mut self.sender_crashes, 18),
            _ => return self.janus.inject(fault),
        };
        while window.pop_front_if(|crash| now - *crash > Duration::from_secs(61)).is_some() {}
        if window.len() < most {
            window.push_back(now);
            self.janus.inject(fault);
        }
    }

    /// Notes the times at which a topic may have started afresh.
    pub(super) fn look_for_crashes(&mut self) {
        let recent = |within: u64| {
            TOPIC_CRASHES.with_borrow(|crashes| {
                crashes.iter().rev().take_while(|crash| crash.elapsed() <= Duration::from_secs(within)).count()
            })
        };
        self.limits.crashed |= recent(61) > 0;
        // Six in a minute, and a quarter of a minute of rest.
        self.limits.quarantine = recent(77) >= 6;
        if recent(61) >= 3 || self.limits.quarantine {
            self.limits.last_cold = Some(Instant::now());
        }
    }

    /// Lets up to `at_most` milliseconds pass. Clients without a stall keep reading.
    async fn pass_time(&mut self, at_most: usize) {
        let mut left = 1 + self.chance.below(at_most);
        while left > 0 {
            let portion = left.min(500);
            sleep(Duration::from_millis(portion as u64)).await;
            left -= portion;
            self.run_until_idle().await;
        }
    }

    /// Lets one client in `one_in` write and read. Returns whether anything moved.
    pub(super) fn pump(&mut self, one_in: usize, at_most: usize) -> bool {
        self.look_for_crashes();
        let mut moved = self.collect_receipts();
        for place in 0..self.clients.len() {
            if one_in == 1 || self.chance.one_in(one_in) {
                let at_most = if at_most == usize::MAX { at_most } else { 1 + self.chance.below(at_most) };
                moved |= self.clients[place].pump(at_most, &mut self.model, &mut self.trace, &self.limits);
            }
        }
        for listener in &mut self.listeners {
            if one_in == 1 || self.chance.one_in(one_in) {
                moved |= listener.pump(at_most, &mut self.model, &mut self.trace, &self.limits);
            }
        }
        for listener in self.listeners.extract_if(.., |listener| listener.closed) {
            self.places.push((listener.topic, listener.position()));
        }
        let instance = self.limits.instance;
        for client in self.clients.extract_if(.., |client| client.line().ended.is_some()) {
            self.lost.extend(client.session(instance));
        }
        moved
    }

    /// Shows the model the answers to publishers in this process. Returns whether there were any.
    pub(super) fn collect_receipts(&mut self) -> bool {
        let receipts = std::mem::take(&mut *self.receipts.borrow_mut());
        for (id, outcome) in &receipts {
            self.unanswered -= 1;
            match outcome {
                Ok(receipt) => {
                    self.trace.note("receipt", 0, *id, receipt.seq as usize);
                    self.model.receipt(*id, receipt.epoch, receipt.seq);
                    if receipt.seq == 0 {
                        let topic = self.model.messages[*id].topic;
                        let client = self.clients.iter().find(|client| client.must_get(topic, *id));
                        assert!(
                            client.is_none(),
                            "message {id} got no number, but its topic has a subscriber: {client:?}"
                        );
                    }
                }
                Err(error) => {
                    self.trace.note("refusal", 0, *id, 0);
                    self.model.refused(*id, error);
                }
            }
        }
        !receipts.is_empty()
    }

    pub(super) async fn run_until_idle(&mut self) {
        self.run_until_quiet_for(2).await;
    }

    /// Waits until no client moves any more, even a client that waits for room under one of its rates.
    pub(super) async fn run_until_settled(&mut self) {
        let publish_rate = self.config.default_namespace.client_publish_rate;
        let longest_wait = match (self.config.client_bytes_rate, publish_rate + self.config.client_subscribe_rate) {
            // A frame of 512 bytes waits for all of its bytes.
            (1.., _) => 200,
            (0, 1..) => 55,
            (0, 0) => 2,
        };
        self.run_until_quiet_for(longest_wait).await;
    }

    /// Waits until no client has moved for this many milliseconds.
    async fn run_until_quiet_for(&mut self, time: usize) {
        let mut quiet = 0;
        let mut rounds = 0;
        while quiet < time {
            // Under virtual time, this sleep ends when all tasks wait.
            sleep(Duration::from_millis(1)).await;
            quiet = if self.pump(1, usize::MAX) { 0 } else { quiet + 1 };
            rounds += 1;
            assert!(rounds < 20_000, "the server does not come to rest: clients still move after {rounds} rounds");
        }
    }
}
