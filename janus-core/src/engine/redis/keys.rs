//! The names of a topic's keys and channel.
//!
//! All keys of a topic have the same hash tag, and lie in one slot of Redis Cluster. The tag is a hash of the name and
//! not the name, because names may have braces.

use bytes::{Bytes, BytesMut};

use super::resp::put_part_of;

/// FNV-1a with 64 bits. Part of the names of the keys, and of the choice of a server, so the function must never
/// change.
pub(super) fn hash_of(topic: &str) -> u64 {
    topic.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The server of a hash among so many (jump consistent hash by Lamping and Veach): one more server beside `n` takes
/// one topic in `n + 1` from the old servers, and moves no topic between the old servers.
pub(super) fn server_of(mut hash: u64, servers: usize) -> usize {
    let (mut server, mut next) = (0, 0);
    while next < servers {
        server = next;
        hash = hash.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        let scale = (1_u64 << 31) as f64 / ((hash >> 33) + 1) as f64;
        next = ((server + 1) as f64 * scale) as usize;
    }
    server
}

/// The names of the keys below a prefix.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
}

/// The keys of one topic.
pub(super) struct TopicKeys<'a> {
    prefix: &'a [u8],
    tag: [u8; 22],
    topic: &'a [u8],
}

impl Keys {
    pub(super) const fn new(prefix: String) -> Self {
        Self { prefix }
    }

    pub(super) fn of<'a>(&'a self, topic: &'a str) -> TopicKeys<'a> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        // `:{16 digits}:k:`, with the kind of the key written by each use.
        let mut tag = *b":{0000000000000000}:_:";
        let hash = hash_of(topic);
        for (index, digit) in tag[2..18].iter_mut().enumerate() {
            *digit = DIGITS[(hash >> (60 - 4 * index)) as usize & 15];
        }
        TopicKeys { prefix: self.prefix.as_bytes(), tag, topic: topic.as_bytes() }
    }

    /// The topic of a channel; `None` if the channel is not a topic's.
    pub(super) fn topic_of<'a>(&self, channel: &'a [u8]) -> Option<&'a str> {
        let rest = channel.strip_prefix(self.prefix.as_bytes())?;
        let (tag, topic) = rest.split_at_checked(22)?;
        (tag.starts_with(b":{") && tag.ends_with(b"}:c:")).then(|| str::from_utf8(topic).ok()).flatten()
    }

    /// The channel of messages to all nodes.
    pub(super) fn control(&self) -> Bytes {
        format!("{}:control", self.prefix).into()
    }

    /// The channel of messages to one node.
    pub(super) fn control_of(&self, node: super::super::NodeId) -> Bytes {
        format!("{}:control:{node}", self.prefix).into()
    }

    /// The nodes that are alive.
    pub(super) fn nodes(&self) -> Bytes {
        format!("{}:nodes", self.prefix).into()
    }
}

impl TopicKeys<'_> {
    fn put(&self, out: &mut BytesMut, kind: u8, behind: &[&str]) {
        let mut tag = self.tag;
        tag[20] = kind;
        match behind {
            [first, second] => {
                put_part_of(out, &[self.prefix, &tag, self.topic, first.as_bytes(), second.as_bytes()]);
            }
            _ => put_part_of(out, &[self.prefix, &tag, self.topic]),
        }
    }

    pub(super) fn put_state(&self, out: &mut BytesMut) {
        self.put(out, b's', &[]);
    }

    pub(super) fn put_log(&self, out: &mut BytesMut) {
        self.put(out, b'l', &[]);
    }

    pub(super) fn put_channel(&self, out: &mut BytesMut) {
        self.put(out, b'c', &[]);
    }

    pub(super) fn put_present(&self, out: &mut BytesMut) {
        self.put(out, b'p', &[]);
    }

    pub(super) fn put_members(&self, out: &mut BytesMut) {
        self.put(out, b'm', &[]);
    }

    /// The result of a publisher's key against repetitions.
    pub(super) fn put_result(&self, out: &mut BytesMut, key: &str) {
        self.put(out, b'i', &[":", key]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_fnv_1a() {
        assert_eq!(hash_of(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash_of("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(hash_of("foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn the_keys_of_a_topic_share_a_hash_tag_without_its_name() {
        let keys = Keys::new("janus".to_owned());
        let topic = keys.of("a {b} é");
        let mut out = BytesMut::new();
        topic.put_state(&mut out);
        topic.put_result(&mut out, "order 7");
        let text = str::from_utf8(&out).unwrap();
        let hash = format!("{:016x}", hash_of("a {b} é"));
        let state = format!("janus:{{{hash}}}:s:a {{b}} é");
        assert_eq!(text, format!("${}\r\n{state}\r\n$43\r\njanus:{{{hash}}}:i:a {{b}} é:order 7\r\n", state.len()));
    }

    #[test]
    fn the_topic_of_a_channel_comes_back() {
        let keys = Keys::new("janus".to_owned());
        let mut out = BytesMut::new();
        keys.of("a:{}:c:é").put_channel(&mut out);
        let channel = out[..].split(|byte| *byte == b'\n').nth(1).unwrap().strip_suffix(b"\r").unwrap();
        assert_eq!(keys.topic_of(channel), Some("a:{}:c:é"));
        for other in ["janus:control", "janus", "janus:{0123456789abcdef}:s:a", "other:{0123456789abcdef}:c:a"] {
            assert_eq!(keys.topic_of(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn the_server_of_a_hash_is_the_published_one_and_one_more_server_moves_few_topics() {
        // From the reference implementation of the paper.
        for (hash, servers, server) in
            [(1, 1, 0), (42, 57, 43), (0xDEAD_10CC, 1, 0), (0xDEAD_10CC, 666, 361), (256, 1024, 520)]
        {
            assert_eq!(server_of(hash, servers), server, "{hash} among {servers}");
        }
        let moved = (0..10_000).filter(|n| {
            let hash = hash_of(&n.to_string());
            let (before, after) = (server_of(hash, 4), server_of(hash, 5));
            assert!(after == before || after == 4);
            after != before
        });
        let moved = moved.count();
        assert!((1_800..2_200).contains(&moved), "{moved} of 10,000 moved");
    }
}
