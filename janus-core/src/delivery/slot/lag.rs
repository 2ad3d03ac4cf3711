//! How far a client lags, and for how long: the end of a stalled client, and of a client with too large a queue.

use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Out, Reads, Slot};
use crate::delivery::queue::Flushed;
use crate::delivery::{End, Link, SlowReason};
use crate::ground::clock::{Clock, Tick};
use crate::wire::Peer;

impl Slot {
    /// Ends a client that has taken nothing for `timeout` ticks, or for `patience` ticks if a topic's policy grants
    /// more time. Also ends a client that cannot be sent anything and sends nothing either. Called once a tick.
    pub(crate) fn end_if_stalled(&self, tick: Tick, timeout: u32, patience: u32) {
        let mut out = self.out.lock();
        match out.reads {
            Reads::Unknown => {}
            Reads::Ending => out.reads = Reads::Idle,
            Reads::Idle => {
                out.end = Some(End::GivenUp);
                self.transport.wake();
            }
        }
        let limit = if self.patient.load(Ordering::Relaxed) > 0 { patience } else { timeout };
        let Out { link, queue: Some(queue), corked: false, .. } = &mut *out else { return };
        // The kernel calls a socket writable when a third of its buffer is free, and a slow, steady reader may never
        // get there. If a send takes something, the client reads.
        let flushed = link.as_ref().map_or(Ok(Flushed::Turn), |link| queue.write_to(link));
        let end = match flushed {
            Ok(Flushed::All) => {
                out.queue = None;
                self.mirror_attention(&out);
                self.mirror_pause(&out);
                // The Transport may wait for an empty queue.
                return self.transport.wake();
            }
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => queue.end_for_error(&error),
            Ok(Flushed::Turn) | Err(_) if queue.watch(tick) < limit => return self.mirror_pause(&out),
            Ok(Flushed::Turn) | Err(_) => queue.overflow(SlowReason::Stalled),
        };
        self.end_locked(&mut out, end);
    }

    /// Cuts off a client whose queue is among the largest, because memory runs out.
    pub(crate) fn end_for_memory(&self) {
        let mut out = self.out.lock();
        let Some(queue) = &out.queue else { return };
        let end = queue.overflow(SlowReason::Memory);
        self.end_locked(&mut out, end);
    }

    /// Grants the client the time of a policy that drops messages.
    pub(super) fn bear_with(&self) {
        if self.patient.fetch_add(1, Ordering::Relaxed) == 0
            && let Some(link) = &self.out.lock().link
        {
            // Or the kernel would end the connection after `tcp_user_timeout`, although the policy keeps it. The option
            // stays set: the heartbeat comes first in any case.
            link.set_user_timeout(self.terms.patience());
        }
    }

    /// Bytes queued for this client, and the tick at which the lag was first seen.
    pub(crate) fn queued(&self) -> Option<(usize, Option<Tick>)> {
        let out = self.out.lock();
        let queue = out.queue.as_ref().filter(|_| !out.corked)?;
        Some((queue.size().1 + out.unsent(), queue.since()))
    }

    /// The queue of this client as figures; `None` if the client keeps up.
    pub(crate) fn lag(&self) -> Option<Lag> {
        let out = self.out.lock();
        let queue = out.queue.as_ref().filter(|_| !out.corked)?;
        let (frames, bytes) = queue.size();
        let bytes = bytes + out.unsent();
        Some(Lag { frames, bytes, since: queue.since(), peer: out.link.as_ref().and_then(Link::peer) })
    }
}

/// The queue of a client, as figures.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lag {
    pub(crate) frames: usize,
    pub(crate) bytes: usize,
    /// The tick at which the lag was first seen.
    pub(crate) since: Option<Tick>,
    pub(crate) peer: Option<Peer>,
}

impl Lag {
    /// The time since the lag was first seen; nothing before the first look.
    pub(crate) fn lagging_for(&self, tick: Tick) -> Duration {
        Clock::time(self.since.map_or(0, |since| tick.since(since)))
    }
}
