//! The task of the engine: keeps the links, sends requests, and hands answers and records to topics.
//!
//! The task holds no truth. Positions and submissions under way are in the topics, so after a crash the successor makes new
//! links and opens all topics again, as after a cut. A lost link is ordinary life and never ends the task: the root's
//! restart intensity is for crashes.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use fastrand::Rng;
use futures_util::future::join_all;
use tokio::task::yield_now;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until, timeout};

use super::control::{BEAT, Speaking};
use super::opening::Opening;
use super::submitting::{Append, Requests};
use super::{Cluster, Shard};
use crate::engine::{Answer, Link, LinkError, Request};
use crate::ground::tasks;
use crate::topic::{TopicState, Topics};

/// Answers handed on, topics with requests, and topics in the round of reports, before other tasks get their turn.
const PORTION: usize = 64;

/// The longest time for each of these. An answer may have the whole log of a topic, and a request many messages.
const SPAN: Duration = Duration::from_micros(500);

/// Requests to open a topic without an answer. After a cut all topics are opened again, and the answers must not come
/// faster than the home arbiter takes them.
const OPENING: usize = 1_024;

/// The shortest and the longest pause before the next attempt to make a link.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Keeps all links, and answers publishers that have waited for too long. For ever; without an engine there is nothing to do.
pub(crate) async fn run(shared: Arc<Topics>) {
    let Some(cluster) = shared.cluster.clone() else { return };
    let links = join_all((0..cluster.shards.len()).map(|shard| keep_link(&shared, &cluster, shard)));
    let watch = async {
        loop {
            cluster.watch.next().await.give_up_waiting(&cluster, &shared);
        }
    };
    futures_util::future::join(links, watch).await;
}

async fn keep_link(shared: &Topics, cluster: &Cluster, index: usize) {
    let shard = &cluster.shards[index];
    let mut down = Some(Instant::now());
    let mut pause = PAUSES.0;
    // For the log: the server, and why there has been no link since the last one. Each reason is told once.
    let server = cluster.engine.server(index);
    let mut told: Vec<&'static str> = Vec::new();
    // From the id of the node, so that a simulation can be repeated.
    let mut random = Rng::with_seed(cluster.node.number() ^ index as u64);
    // A predecessor of the task may have crashed.
    shard.link.store(0, Ordering::Release);
    loop {
        let limit = shared.config().engine_timeout;
        let connecting = timeout(limit, cluster.engine.connect(index, cluster.node));
        let outcome = connecting
            .await
            .unwrap_or_else(|_| Err(LinkError::new("timeout", "the engine has not answered within engine_timeout")));
        let error = match outcome {
            Ok(link) => {
                log::info!("the link to the engine {server} is up");
                down = None;
                told.clear();
                let begun = Instant::now();
                let (mut link, error) = serve(link, shared, cluster, index).await;
                shard.link.store(0, Ordering::Release);
                shard.state.lock().down(error.clone());
                cluster.figures.ended(error.reason);
                while link.let_go() {
                    yield_now().await;
                }
                drop(link);
                // A server that ends each link at once is not asked again at once.
                if begun.elapsed() > PAUSES.1 {
                    pause = PAUSES.0;
                }
                tell_waiting(shared).await;
                error
            }
            Err(error) => error,
        };
        let is_told = told.contains(&error.reason);
        if down.is_none() {
            log::warn!("the link to the engine {server} is down, subscribers stay: {error}");
        } else if is_told {
            log::debug!("no link to the engine {server}, trying again: {error}");
        } else {
            log::warn!("no link to the engine {server}, trying again: {error}");
        }
        if !is_told {
            told.push(error.reason);
        }
        shard.state.lock().down(error);
        let since = *down.get_or_insert_with(Instant::now);
        let jitter = pause.mul_f64(0.5 + random.f64() / 2.0);
        wait(shared, cluster, index, since + limit, Instant::now() + jitter).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

/// Waits until `end`. At `lost` the link counts as lost, and publishers and subscribers stop waiting.
async fn wait(shared: &Topics, cluster: &Cluster, index: usize, lost: Instant, end: Instant) {
    let shard = &cluster.shards[index];
    if lost <= end && !shard.is_lost.load(Ordering::Relaxed) {
        sleep_until(lost).await;
        shard.is_lost.store(true, Ordering::Relaxed);
        tell_waiting(shared).await;
    }
    sleep_until(end).await;
}

/// Wakes the tasks that wait for topics, because a link has been lost: known topics are served from their
/// rings, and other tasks are refused if the link stays away.
async fn tell_waiting(shared: &Topics) {
    let mut last = 0;
    while let Some(topics) = portion(shared, &mut last) {
        topics.iter().for_each(|topic| topic.wake_waiting());
        yield_now().await;
    }
}

/// The next topics in the order of their numbers.
fn portion(shared: &Topics, last: &mut u64) -> Option<Vec<Arc<TopicState>>> {
    let topics = shared.table.portion(*last, PORTION);
    *last = topics.last()?.number;
    Some(topics)
}

/// What a turn does before other tasks get theirs: at least one thing, and at most [`PORTION`] within [`SPAN`].
struct Portion {
    done: usize,
    end: Instant,
}

impl Portion {
    fn new() -> Self {
        Self { done: 0, end: Instant::now() + SPAN }
    }

    /// Whether one thing more may be done.
    fn has_room(&mut self) -> bool {
        let has_room = self.done == 0 || self.done < PORTION && Instant::now() < self.end;
        self.done += 1;
        has_room
    }
}

/// Serves a link to the end, and gives the link back.
async fn serve(link: Box<dyn Link>, shared: &Topics, cluster: &Cluster, index: usize) -> (Box<dyn Link>, LinkError) {
    let shard = &cluster.shards[index];
    let number = shard.links.fetch_add(1, Ordering::Relaxed) + 1;
    // Each topic repeats the unanswered requests of the last link.
    shard.link.store(number, Ordering::Release);
    shard.is_lost.store(false, Ordering::Relaxed);
    shard.state.lock().up();
    let report = Report::new();
    let beat = (index == 0).then(|| (Box::pin(tokio::time::sleep(BEAT)), Speaking::default()));
    let mut serving = Serving { link, number, shard, cluster, shared, opening: 0, reopened: Some(0), report, beat };
    let error = poll_fn(|cx| serving.poll(cx)).await;
    (serving.link, error)
}

/// A link that is up.
struct Serving<'a> {
    link: Box<dyn Link>,
    number: u64,
    shard: &'a Shard,
    cluster: &'a Cluster,
    shared: &'a Topics,
    /// Requests to open a topic without an answer.
    opening: usize,
    /// The number of the last topic that has been looked at since the link is up; `None` once all have been.
    reopened: Option<u64>,
    report: Report,
    /// The next sign of life, and the messages to other nodes; over the first link alone.
    beat: Option<(std::pin::Pin<Box<tokio::time::Sleep>>, Speaking)>,
}

/// The round through all topics, once a second: changed numbers of subscribers are reported, and each topic in use once in
/// `engine_report_interval`.
struct Report {
    tick: Interval,
    /// The number of the last topic that has been looked at.
    last: u64,
    /// How many topics of the present part are still to be looked at.
    topics: usize,
    /// How many more reports the part may have.
    reports: usize,
}

/// Parts of a round.
const STEPS: u32 = 16;

/// Reports of a part. The round takes longer if more are due: an engine has other work, too.
const REPORTS: usize = 1_000;

impl Report {
    fn new() -> Self {
        let mut tick = interval(Duration::from_secs(1) / STEPS);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { tick, last: 0, topics: 0, reports: 0 }
    }
}

impl Serving<'_> {
    /// Ready with the end of the link.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<LinkError> {
        self.shard.task.begin_turn();
        let mut has_more = true;
        let mut portion = Portion::new();
        while portion.has_room() {
            match self.link.poll(cx) {
                Poll::Ready(Ok(answer)) => self.hand_on(answer),
                Poll::Ready(Err(error)) => return Poll::Ready(error),
                Poll::Pending => {
                    has_more = false;
                    break;
                }
            }
        }
        let mut asked = self.ask();
        asked = asked.and(self.present());
        asked.any |= self.speak(cx);
        asked = asked.and(self.report(cx));
        // Written at once. An answer at hand comes in the next turn.
        if asked.any && !has_more {
            match self.link.poll(cx) {
                Poll::Ready(Ok(answer)) => {
                    self.hand_on(answer);
                    has_more = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(error),
                Poll::Pending => {}
            }
        }
        if self.shard.task.end_turn(cx.waker()) || has_more || asked.more {
            return tasks::yield_now(cx);
        }
        Poll::Pending
    }

    /// Makes the requests of topics, as far as the link has room.
    fn ask(&mut self) -> Asked {
        let mut asked = Asked { any: false, more: self.reopen() };
        let limit = self.shared.config().engine_buffer_bytes;
        let mut portion = Portion::new();
        while portion.has_room() {
            if self.link.backlog() > limit {
                // Written bytes wake the task.
                return asked;
            }
            let Some(topic) = self.shard.ready.lock().pop_front() else { return asked };
            asked.any = true;
            let requests = topic.take_requests(self.number, self.cluster, self.shared);
            self.request(&topic, &requests);
        }
        asked.more = true;
        asked
    }

    /// Makes the requests about members, as far as the link has room.
    fn present(&mut self) -> Asked {
        let mut asked = Asked::default();
        let limit = self.shared.config().engine_buffer_bytes;
        let mut portion = Portion::new();
        while portion.has_room() {
            if self.link.backlog() > limit || !self.shard.present_next(&mut *self.link, self.cluster, self.shared) {
                return asked;
            }
            asked.any = true;
        }
        asked.more = true;
        asked
    }

    fn request(&mut self, topic: &TopicState, Requests { opening, append, close }: &Requests) {
        let name = &topic.name;
        match *opening {
            Some(Opening::Open { ask, keep, known, from }) => {
                self.opening += 1;
                self.link.request(Request::Open { topic: name, ask, keep, known, from });
            }
            Some(Opening::Read { ask, from }) => self.link.request(Request::Read { topic: name, ask, from }),
            None => {}
        }
        if let Some(Append { keep, create, submission, count, payload, key }) = append {
            let (keep, create, submission, count) = (*keep, *create, *submission, *count);
            let key = key.as_ref().map(|(key, ttl)| (key.as_str(), *ttl));
            self.link.request(Request::Append { topic: name, keep, create, submission, count, payload, key });
        }
        // Another topic may have the name by now, and may have been opened.
        let is_wanted = || self.shared.table.find(name.as_str()).is_some_and(|topic| topic.has_records(self.number));
        if *close && !is_wanted() {
            self.link.request(Request::Close { topic: name });
        }
    }

    /// Has the topics of the server look whether they want anything of a new link, a portion at a time. Returns whether there
    /// are more.
    fn reopen(&mut self) -> bool {
        let Some(last) = &mut self.reopened else { return false };
        if self.opening >= OPENING {
            return false;
        }
        let Some(topics) = portion(self.shared, last) else {
            self.reopened = None;
            return false;
        };
        for topic in topics.iter().filter(|topic| std::ptr::eq(self.cluster.shard(topic), self.shard)) {
            topic.follow_link(self.number, self.cluster);
            if let Some(presence) = &topic.presence {
                presence.call(topic, true, self.shared);
            }
        }
        true
    }

    fn hand_on(&mut self, answer: Answer) {
        let (cluster, shared) = (self.cluster, self.shared);
        shared.faults.with_an_answer();
        // On behalf of the topic's actor, so that a panic is the topic's, whose supervisor restarts it.
        let on = |name: &str, act: &mut dyn FnMut(&Arc<TopicState>)| {
            if let Some(topic) = shared.table.find(name)
                && topic.actor.on_behalf(|| act(&topic)).is_err()
            {
                topic.miss();
            }
        };
        match answer {
            Answer::Record { topic, record } => on(topic.as_str(), &mut |topic| topic.apply(&record, cluster, shared)),
            Answer::Appended { topic, submission, outcome } => {
                // Without the actor: nothing is numbered, and the outcome comes once.
                if let Some(topic) = shared.table.find(topic.as_str()) {
                    topic.appended(submission, outcome, cluster, shared);
                }
            }
            Answer::Opened { topic, ask, position, mut records } => {
                self.opening = self.opening.saturating_sub(1);
                on(topic.as_str(), &mut |topic| {
                    topic.opened((ask, position), std::mem::take(&mut records), cluster, shared);
                });
            }
            Answer::Records { topic, ask, records } => {
                on(topic.as_str(), &mut |topic| topic.read(ask, &records, cluster, shared));
            }
            Answer::Failed { topic, ask, message } => {
                self.opening = self.opening.saturating_sub(usize::from(ask.is_some()));
                log::error!(topic:%; "topic {topic}: the engine cannot serve it: {message}");
                on(topic.as_str(), &mut |topic| topic.fail(cluster, shared));
            }
            Answer::Reported { topic, position, subscribers } => {
                on(topic.as_str(), &mut |topic| topic.reported(position, subscribers, cluster, shared));
            }
            Answer::Presence { topic, ask, version, is_whole, is_changed, nodes } => {
                if is_changed {
                    cluster.members_changed(&topic);
                }
                cluster.presented((&topic, ask), (version, is_whole), nodes, shared);
            }
            Answer::Nodes { nodes, .. } => cluster.exchange.heard_nodes(nodes),
            Answer::Control { from, message } => {
                cluster.exchange.hear(from, &message);
                self.shard.task.call();
            }
        }
    }

    /// Sends the messages to other nodes. Returns whether there was anything.
    fn speak(&mut self, cx: &mut Context<'_>) -> bool {
        let Some((beat, speaking)) = &mut self.beat else { return false };
        let is_due = beat.as_mut().poll(cx).is_ready();
        if is_due {
            beat.as_mut().reset(Instant::now() + BEAT);
            // Polled again to register the next wake-up.
            let _ = beat.as_mut().poll(cx);
        }
        let limit = self.shared.config().engine_buffer_bytes;
        speaking.speak(&mut *self.link, self.cluster, is_due, limit)
    }

    /// Reports topics of the present part of the round.
    fn report(&mut self, cx: &mut Context<'_>) -> Asked {
        let (shared, report) = (self.shared, &mut self.report);
        while report.tick.poll_tick(cx).is_ready() {
            // A rest of the part before belongs to this part.
            (report.topics, report.reports) = (shared.table.len().div_ceil(STEPS as usize), REPORTS);
        }
        let mut asked = Asked::default();
        if report.topics == 0 {
            return asked;
        }
        let topics = shared.table.portion(report.last, report.topics.min(PORTION));
        if topics.is_empty() {
            // The next part begins from the start.
            (report.last, report.topics) = (0, 0);
            return asked;
        }
        let every = shared.config().engine_report_interval;
        let mut portion = Portion::new();
        for topic in topics {
            if !portion.has_room() {
                break;
            }
            report.last = topic.number;
            report.topics -= 1;
            if !std::ptr::eq(self.cluster.shard(&topic), self.shard) {
                continue;
            }
            let Some(subscribers) = topic.to_report(self.number, every, self.cluster) else { continue };
            self.link.request(Request::Report { topic: &topic.name, subscribers, valid: every * 3 });
            asked.any = true;
            report.reports -= 1;
            if report.reports == 0 {
                report.topics = 0;
                break;
            }
        }
        asked.more = report.topics > 0;
        asked
    }
}

/// The requests of a turn.
#[derive(Default)]
struct Asked {
    any: bool,
    /// Whether topics still wait for their turn.
    more: bool,
}

impl Asked {
    /// The requests of both.
    fn and(self, other: Self) -> Self {
        Self { any: self.any || other.any, more: self.more || other.more }
    }
}
