//! The task that sends events: one request at a time, so that events arrive in their order.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use tokio::time::{Instant, sleep, sleep_until};

use super::Shared;
use super::event::{self, Event};
use super::outbox::{OLDEST, Outbox};
use crate::backend::{ANSWER_BYTES, CallError, Limits};
use crate::signature;
use crate::summed::counted;

/// How long the first event of a batch waits for others.
const GATHERING: Duration = Duration::from_millis(100);

/// How long the backend may take for a batch.
const REQUEST_TIME: Duration = Duration::from_secs(10);

/// The first pause after a failure. Each further pause is twice as long, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// See [`FIRST_PAUSE`].
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The pauses at the end of the server, whose time is short.
const LAST_PAUSES: Duration = Duration::from_millis(250);

/// Sends events as they come, for ever.
pub(super) async fn send_all(shared: Arc<Shared>) {
    let mut failures = 0;
    loop {
        let (count, body) = shared.next_batch().await;
        let outcome = shared.post(body).await;
        match outcome {
            Ok(()) => {
                failures = 0;
                shared.outbox.lock().take(count);
                shared.counters.delivered.fetch_add(count as u64, Ordering::Relaxed);
                shared.sent.notify_waiters();
            }
            Err(error) => {
                shared.note_failure(&error);
                shared.pause(failures).await;
                failures = (failures + 1).min(16);
            }
        }
    }
}

impl Shared {
    /// The number of events and the body of the next request, as soon as the request is due.
    async fn next_batch(&self) -> (usize, Bytes) {
        loop {
            let arrived = self.arrived.notified();
            let ending = *self.ending.borrow();
            self.take_vacated(ending);
            let due = match self.look(ending) {
                Ok(batch) => return batch,
                Err(due) => due,
            };
            tokio::select! {
                () = arrived => {}
                () = sleep_until(due) => {}
                () = self.end(), if !ending => {}
            }
        }
    }

    /// The next request, or when to look again.
    fn look(&self, ending: bool) -> Result<(usize, Bytes), Instant> {
        let outbox = self.outbox.lock();
        let now = Instant::now();
        // An hour is as good as for ever.
        let vacated = outbox.next_vacated().unwrap_or(now + Duration::from_secs(3_600));
        match outbox.first() {
            Some((since, is_whole)) if is_whole || ending || now >= since + GATHERING => Ok(self.batch(&outbox)),
            Some((since, _)) => Err(vacated.min(since + GATHERING)),
            None => Err(vacated),
        }
    }

    fn batch(&self, outbox: &Outbox) -> (usize, Bytes) {
        let batch = outbox.batch();
        (batch.len(), event::body(self.target.load().backend.instance(), batch).into())
    }

    /// Queues the news of topics whose time without a subscriber is over.
    fn take_vacated(&self, ending: bool) {
        let now = (!ending).then(Instant::now);
        loop {
            let Some(topic) = self.outbox.lock().take_vacated(now) else { return };
            self.push(&Event::topic_vacated(&topic));
        }
    }

    async fn post(&self, body: Bytes) -> Result<(), CallError> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // With the time of this attempt, so that a backend can refuse old signatures.
        let target = self.target.load_full();
        if let Some(signature) = target.backend.signer.sign(SystemTime::now(), &body) {
            headers.insert(HeaderName::from_static(signature::HEADER), signature);
        }
        let limits = Limits { time: REQUEST_TIME, body: ANSWER_BYTES };
        let answer = target.backend.client.post(&target.url, headers, body, limits).await?;
        if answer.status.is_success() { Ok(()) } else { Err(CallError::Failed(format!("status {}", answer.status))) }
    }

    fn note_failure(&self, error: &CallError) {
        self.counters.failed_requests.fetch_add(1, Ordering::Relaxed);
        if let Some(failures) = self.failures.count(1) {
            let waiting = self.outbox.lock().len();
            let (url, requests, events) =
                (self.target.load().url.clone(), counted(failures, "request"), counted(waiting as u64, "event"));
            log::warn!(
                url:%, failures, waiting;
                "{url}: {requests} failed, {events} waiting; the last: {error}"
            );
        }
        let given_up = self.outbox.lock().give_up_old(Instant::now()) as u64;
        if given_up > 0 {
            self.counters.given_up.fetch_add(given_up, Ordering::Relaxed);
            let (url, events) = (self.target.load().url.clone(), counted(given_up, "event"));
            log::error!(url:%, lost = given_up; "{url}: {events} given up after {OLDEST:?} without success");
            self.sent.notify_waiters();
        }
    }

    /// Waits before the next attempt, with a part at random: several servers must not come back in step.
    async fn pause(&self, failures: u32) {
        let pause = FIRST_PAUSE.saturating_mul(1 << failures).min(LONGEST_PAUSE).mul_f64(0.5 + fastrand::f64());
        tokio::select! {
            () = sleep(pause) => {}
            () = self.end() => sleep(LAST_PAUSES.min(pause)).await,
        }
    }

    /// Waits until all events are to be sent at once.
    async fn end(&self) {
        let mut ending = self.ending.subscribe();
        // Cannot fail, because the sender is a field.
        drop(ending.wait_for(|ending| *ending).await);
    }
}
