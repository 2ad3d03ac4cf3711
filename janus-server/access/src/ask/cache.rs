//! Answers about topics, kept for as long as the backend allows.
//!
//! A key is a hash of everything that the question says about the user and the topic, so that an entry has the same
//! size whatever a client sends. The users are divided between shards: a user who asks about topic after topic replaces
//! only the answers of a shard.

use std::collections::hash_map::{Entry, RandomState};
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher as _;

use aws_lc_rs::digest::{Context, SHA256};
use parking_lot::Mutex;
use tokio::time::Instant;

/// The number of shards.
const SHARDS: usize = 64;

/// Smaller shards would hold too few answers of too few users.
const LEAST_IN_A_SHARD: usize = 16;

#[derive(Debug)]
pub(super) struct Cache {
    shards: Box<[Mutex<Shard>]>,
    /// Answers of one shard.
    limit: usize,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct Shard {
    kept: HashMap<[u8; 32], Kept>,
    /// The keys of `kept`, the oldest first.
    order: VecDeque<[u8; 32]>,
}

#[derive(Debug)]
struct Kept {
    until: Instant,
    verdict: Verdict,
}

/// A final answer: allowed, or the reason why not.
pub(super) type Verdict = Result<(), String>;

/// The place of an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    hash: [u8; 32],
    shard: usize,
}

impl Cache {
    pub(super) fn new(limit: usize) -> Self {
        let shards = (limit / LEAST_IN_A_SHARD).clamp(1, SHARDS);
        let limit = limit / shards;
        Self { shards: (0..shards).map(|_| Mutex::default()).collect(), limit, hasher: RandomState::new() }
    }

    /// The place of the answer to a question of this kind; `None` if nothing is kept.
    pub(super) fn key(&self, kind: &str, user: &str, claims: &serde_json::Value, topic: &str) -> Option<Key> {
        if self.limit == 0 {
            return None;
        }
        let mut hash = Context::new(&SHA256);
        let claims = claims.to_string();
        for part in [kind, user, &claims, topic] {
            // With its length, or one part could look like the end of another.
            hash.update(&part.len().to_be_bytes());
            hash.update(part.as_bytes());
        }
        let hash = hash.finish().as_ref().try_into().expect("SHA-256 has 32 bytes");
        let shard = usize::try_from(self.hasher.hash_one(user) % self.shards.len() as u64).expect("an index");
        Some(Key { hash, shard })
    }

    pub(super) fn find(&self, key: Key, now: Instant) -> Option<Verdict> {
        let shard = self.shards[key.shard].lock();
        shard.kept.get(&key.hash).filter(|kept| now < kept.until).map(|kept| kept.verdict.clone())
    }

    pub(super) fn keep(&self, key: Key, until: Instant, verdict: Verdict) {
        let mut shard = self.shards[key.shard].lock();
        let shard = &mut *shard;
        match shard.kept.entry(key.hash) {
            Entry::Occupied(mut entry) => drop(entry.insert(Kept { until, verdict })),
            Entry::Vacant(entry) => {
                entry.insert(Kept { until, verdict });
                shard.order.push_back(key.hash);
                if shard.order.len() > self.limit
                    && let Some(oldest) = shard.order.pop_front()
                {
                    shard.kept.remove(&oldest);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    const NONE: serde_json::Value = serde_json::Value::Null;

    #[test]
    fn an_answer_is_kept_for_its_user_topic_and_time() {
        let (cache, now) = (Cache::new(1_000), Instant::now());
        let key = |user, claims, topic| cache.key("subscribe", user, claims, topic).unwrap();
        cache.keep(key("alice", &NONE, "chat"), now + Duration::from_secs(5), Err("no".to_owned()));
        assert_eq!(cache.find(key("alice", &NONE, "chat"), now), Some(Err("no".to_owned())));
        let team = json!({"team": 7});
        for other in [key("bob", &NONE, "chat"), key("alice", &team, "chat"), key("alice", &NONE, "news")] {
            assert_eq!(cache.find(other, now), None);
        }
        assert_eq!(cache.find(cache.key("publish", "alice", &NONE, "chat").unwrap(), now), None);
        assert_eq!(cache.find(key("alicec", &NONE, "hat"), now), None);
        assert_eq!(cache.find(key("alice", &NONE, "chat"), now + Duration::from_secs(5)), None);
        assert!(Cache::new(0).key("subscribe", "alice", &NONE, "chat").is_none());
    }

    #[test]
    fn a_user_of_many_topics_replaces_few_answers_of_others() {
        let (cache, now) = (Cache::new(10_000), Instant::now());
        let until = now + Duration::from_secs(60);
        let key = |user: &str, topic: &str| cache.key("subscribe", user, &NONE, topic).unwrap();
        let users: Vec<String> = (0..1_000).map(|user| user.to_string()).collect();
        users.iter().for_each(|user| cache.keep(key(user, "inbox"), until, Ok(())));
        for topic in 0..100_000 {
            cache.keep(key("mallory", &topic.to_string()), until, Ok(()));
        }
        let left = users.iter().filter(|user| cache.find(key(user, "inbox"), now).is_some()).count();
        assert!(left > 900, "{left}");
        let kept: usize = cache.shards.iter().map(|shard| shard.lock().kept.len()).sum();
        let listed: usize = cache.shards.iter().map(|shard| shard.lock().order.len()).sum();
        assert!(kept <= 10_000 && kept == listed, "{kept} {listed}");
    }
}
