//! The requests of an instance as commands.

use std::time::Duration;

use bytes::BytesMut;

use super::super::{Keep, LAST_NUMBER, NodeId, Payload};
use super::keys::Keys;
use super::resp::{put_number, put_part, put_part_of};
use crate::wire::{Epoch, Position};

/// A script; the server knows a script by the digest of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Script {
    Append,
    Open,
    Report,
    Nodes,
    Presence,
}

impl Script {
    pub(super) const ALL: [Self; 5] = [Self::Append, Self::Open, Self::Report, Self::Nodes, Self::Presence];

    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Append => concat!(include_str!("scripts/prelude.lua"), include_str!("scripts/append.lua")),
            Self::Open => concat!(include_str!("scripts/prelude.lua"), include_str!("scripts/open.lua")),
            Self::Report => include_str!("scripts/report.lua"),
            Self::Nodes => include_str!("scripts/nodes.lua"),
            Self::Presence => include_str!("scripts/presence.lua"),
        }
    }
}

/// The commands for the channels of topics.
#[derive(Debug)]
pub(super) struct Channels {
    pub(super) publish: &'static [u8],
    pub(super) subscribe: &'static [u8],
    pub(super) unsubscribe: &'static [u8],
}

pub(super) const PLAIN: Channels =
    Channels { publish: b"PUBLISH", subscribe: b"SUBSCRIBE", unsubscribe: b"UNSUBSCRIBE" };

/// In a Redis Cluster, where each plain message goes to every server.
pub(super) const SHARDED: Channels =
    Channels { publish: b"SPUBLISH", subscribe: b"SSUBSCRIBE", unsubscribe: b"SUNSUBSCRIBE" };

/// What the commands of a link have in common.
#[derive(Debug)]
pub(super) struct Commands {
    pub(super) node: NodeId,
    pub(super) keys: Keys,
    pub(super) channels: &'static Channels,
    /// The digests of the scripts, in the order of [`Script::ALL`].
    pub(super) digests: [String; Script::ALL.len()],
}

/// An append without what the link keeps to itself.
#[derive(Debug)]
pub(super) struct Append<'a> {
    pub(super) keep: Keep,
    pub(super) create: bool,
    pub(super) submission: u64,
    pub(super) count: u64,
    pub(super) payload: &'a Payload,
    pub(super) key: Option<(&'a str, Duration)>,
}

impl Commands {
    /// The parts of a call before the keys: 3.
    fn put_call(&self, out: &mut BytesMut, script: Script, keys: u64) {
        put_part(out, b"EVALSHA");
        put_part(out, self.digests[script as usize].as_bytes());
        put_number(out, keys);
    }

    /// The arguments that `append` and `open` begin with: 7.
    fn put_common(&self, out: &mut BytesMut, keep: Keep) {
        put_hex(out, fresh_epoch().number());
        let has_log = keep.messages > 0 && keep.bytes > 0 && !keep.age.is_zero();
        put_number(out, if has_log { keep.messages.min(LAST_NUMBER) } else { 0 });
        put_number(out, keep.bytes.min(LAST_NUMBER));
        put_number(out, millis(keep.age));
        put_number(out, millis(keep.state));
        put_part(out, self.channels.publish);
        put_hex(out, self.node.number());
    }

    pub(super) const fn append_parts(key: bool) -> usize {
        if key { 3 + 4 + 7 + 5 } else { 3 + 3 + 7 + 4 }
    }

    pub(super) fn put_append(&self, out: &mut BytesMut, topic: &str, append: &Append<'_>) {
        let keys = self.keys.of(topic);
        self.put_call(out, Script::Append, if append.key.is_some() { 4 } else { 3 });
        keys.put_state(out);
        keys.put_log(out);
        keys.put_channel(out);
        if let Some((key, _)) = append.key {
            keys.put_result(out, key);
        }
        self.put_common(out, append.keep);
        put_part(out, if append.create { b"1" } else { b"0" });
        put_number(out, append.submission);
        put_number(out, append.count);
        put_part(out, append.payload.bytes());
        if let Some((_, life)) = append.key {
            put_number(out, millis(life).max(1));
        }
    }

    pub(super) const OPEN_PARTS: usize = 3 + 3 + 7 + 2;

    pub(super) fn put_open(&self, out: &mut BytesMut, topic: &str, keep: Keep, known: Option<Position>) {
        let keys = self.keys.of(topic);
        self.put_call(out, Script::Open, 3);
        keys.put_state(out);
        keys.put_log(out);
        keys.put_channel(out);
        self.put_common(out, keep);
        match known {
            Some(position) => {
                put_hex(out, position.epoch.number());
                put_number(out, position.seq);
            }
            None => [b"", b""].iter().for_each(|none| put_part(out, *none)),
        }
    }

    pub(super) const READ_PARTS: usize = 4;

    /// The log from the message `from` on, to the end or through the last message of an entry.
    pub(super) fn put_read(&self, out: &mut BytesMut, topic: &str, from: u64, through: Option<u64>) {
        put_part(out, b"XRANGE");
        self.keys.of(topic).put_log(out);
        put_number(out, from);
        match through {
            Some(through) => put_number(out, through),
            None => put_part(out, b"+"),
        }
    }

    pub(super) const REPORT_PARTS: usize = 3 + 2 + 4;

    /// `state` is how long the state of the topic is kept from now on, if the node has the topic open.
    pub(super) fn put_report(
        &self,
        out: &mut BytesMut,
        topic: &str,
        subscribers: u64,
        valid: Duration,
        state: Option<Duration>,
    ) {
        let keys = self.keys.of(topic);
        self.put_call(out, Script::Report, 2);
        keys.put_state(out);
        keys.put_present(out);
        put_hex(out, self.node.number());
        put_number(out, subscribers);
        put_valid(out, valid);
        put_number(out, state.map_or(0, |state| millis(state.saturating_add(PROLONG.min(state / 8)))));
    }

    pub(super) const PRESENCE_PARTS: usize = 3 + 1 + 5;

    pub(super) fn put_presence(
        &self,
        out: &mut BytesMut,
        topic: &str,
        (members, valid): (Option<&[u8]>, Duration),
        (known, most): (u64, usize),
    ) {
        self.put_call(out, Script::Presence, 1);
        self.keys.of(topic).put_members(out);
        put_hex(out, self.node.number());
        put_number(out, known.min(LAST_NUMBER));
        match members {
            Some(members) => {
                put_valid(out, valid);
                put_part(out, members);
            }
            None => [b"0", &b""[..]].iter().for_each(|part| put_part(out, part)),
        }
        put_number(out, u64::try_from(most).unwrap_or(u64::MAX).min(LAST_NUMBER));
    }

    pub(super) const BEAT_PARTS: usize = 3 + 1 + 3;

    pub(super) fn put_beat(&self, out: &mut BytesMut, about: &str, valid: Duration) {
        self.put_call(out, Script::Nodes, 1);
        put_part(out, &self.keys.nodes());
        put_hex(out, self.node.number());
        put_part(out, about.as_bytes());
        put_valid(out, valid);
    }

    pub(super) const NODES_PARTS: usize = 3 + 1;

    pub(super) fn put_nodes(&self, out: &mut BytesMut) {
        self.put_call(out, Script::Nodes, 1);
        put_part(out, &self.keys.nodes());
    }

    pub(super) const CONTROL_PARTS: usize = 3;

    pub(super) fn put_control(&self, out: &mut BytesMut, to: Option<NodeId>, message: &[u8]) {
        put_part(out, b"PUBLISH");
        put_part(out, &to.map_or_else(|| self.keys.control(), |node| self.keys.control_of(node)));
        put_part_of(out, &[CONTROL_HEAD, &hex(self.node.number()), b"\n", message]);
    }
}

/// Behind the version of the form: the sender, a line feed, and the message.
const CONTROL_HEAD: &[u8] = b"1 ";

/// As much longer than asked for the scripts keep a state, at most.
const PROLONG: Duration = Duration::from_secs(5);

/// Ten thousand days, of which Redis can add some to the time without an overflow.
const MAX_MILLIS: u64 = 10_000 * 24 * 3600 * 1000;

/// The sender of a control message, and where the message begins.
pub(super) fn control_of(text: &[u8]) -> Option<(NodeId, usize)> {
    let head = text.strip_prefix(CONTROL_HEAD)?;
    let node = str::from_utf8(head.get(..16)?).ok()?.parse().ok()?;
    (head.get(16) == Some(&b'\n')).then_some((node, CONTROL_HEAD.len() + 17))
}

fn millis(age: Duration) -> u64 {
    u64::try_from(age.as_millis()).unwrap_or(u64::MAX).min(MAX_MILLIS)
}

fn put_valid(out: &mut BytesMut, valid: Duration) {
    put_number(out, millis(valid).max(1));
}

fn put_hex(out: &mut BytesMut, number: u64) {
    put_part(out, &hex(number));
}

fn hex(number: u64) -> [u8; 16] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    std::array::from_fn(|index| DIGITS[(number >> (60 - 4 * index)) as usize & 15])
}

/// An epoch that no topic has had.
fn fresh_epoch() -> Epoch {
    let number = getrandom::u64().expect("the system has a source of random numbers");
    Epoch::new(number.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_message_has_its_sender() {
        let text = [CONTROL_HEAD, &hex(0xab), b"\n{}\n"].concat();
        let (node, start) = control_of(&text).unwrap();
        assert_eq!((node, &text[start..]), (NodeId::new(0xab), b"{}\n" as &[u8]));
        for other in [&b""[..], b"1 ", b"2 00000000000000ab\nx", b"1 00000000000000ab x", b"1 0000000000000xab\n"] {
            assert_eq!(control_of(other), None, "{other:?}");
        }
    }

    #[test]
    fn hexadecimal_digits_are_those_of_an_epoch() {
        for number in [0, 1, 0xab, u64::MAX] {
            assert_eq!(str::from_utf8(&hex(number)), Ok(&*Epoch::new(number).to_string()));
        }
    }
}
