//! The link to a Redis Cluster: a link to each master, and the topics by their slots.
//!
//! Where slots move between the servers, or a master fails, the whole link ends, and the instance connects to the
//! masters of that time.

use std::task::{Context, Poll};

use super::super::{Answer, Link, LinkError, Request};
use super::keys::hash_of;
use super::link::RedisLink;

/// The slots of a Redis Cluster.
pub(super) const SLOTS: usize = 16_384;

#[derive(Debug)]
pub(super) struct ClusterLink {
    parts: Vec<RedisLink>,
    /// The part of each slot.
    slots: Vec<usize>,
    /// The part of the list of nodes.
    nodes: usize,
    /// The part whose turn is next to be polled.
    turn: usize,
}

impl ClusterLink {
    /// A link over these parts, of which the first hears control messages. `slots` has a part for each slot.
    pub(super) fn new(parts: Vec<RedisLink>, slots: Vec<usize>, prefix: &str) -> Self {
        let nodes = slots[slot_of(format!("{prefix}:nodes").as_bytes())];
        Self { parts, slots, nodes, turn: 0 }
    }
}

impl Link for ClusterLink {
    fn request(&mut self, request: Request<'_>) {
        let part = match &request {
            Request::Open { topic, .. }
            | Request::Read { topic, .. }
            | Request::Close { topic }
            | Request::Append { topic, .. }
            | Request::Report { topic, .. }
            | Request::Presence { topic, .. } => self.slots[slot_of_topic(topic.as_str())],
            Request::Beat { .. } | Request::Nodes { .. } => self.nodes,
            // Published on any server, heard on all.
            Request::Control { .. } => 0,
        };
        self.parts[part].request(request);
    }

    fn backlog(&self) -> usize {
        self.parts.iter().map(RedisLink::backlog).sum()
    }

    fn let_go(&mut self) -> bool {
        self.parts.iter_mut().map(Link::let_go).filter(|more| *more).count() > 0
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, LinkError>> {
        for _ in 0..self.parts.len() {
            let part = self.turn;
            self.turn = (part + 1) % self.parts.len();
            if let Poll::Ready(answer) = self.parts[part].poll(cx) {
                return Poll::Ready(answer);
            }
        }
        Poll::Pending
    }
}

/// The slot of all keys of a topic, which have the hash of the name as their tag.
fn slot_of_topic(topic: &str) -> usize {
    slot_of(format!("{:016x}", hash_of(topic)).as_bytes())
}

/// The slot of a tag, or of a key without a tag.
fn slot_of(key: &[u8]) -> usize {
    usize::from(crc16(key)) % SLOTS
}

/// CRC-16 with the polynomial of XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    let step = |crc: u16, _| if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
    bytes.iter().fold(0, |crc, byte| (0..8).fold(crc ^ (u16::from(*byte) << 8), step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_redis() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        // By CLUSTER KEYSLOT.
        assert_eq!((slot_of(b"foo"), slot_of(b"")), (12_182, 0));
        assert_eq!(slot_of_topic("a"), slot_of(b"af63dc4c8601ec8c"));
    }
}
