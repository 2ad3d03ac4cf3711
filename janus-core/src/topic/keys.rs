//! The keys of a topic's publishers against repetitions, where no engine keeps them.
//!
//! A key is kept for `idempotency_ttl`, and a topic keeps at most `max_idempotency_keys`: a further key takes the place of
//! the oldest. The table takes no memory until a publisher gives a key.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::wire::{IdempotencyKey, Position};

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Keys(Option<Box<Table>>);

#[derive(Debug, Default)]
struct Table {
    positions: HashMap<IdempotencyKey, Position>,
    /// The same keys in the order of their coming, which is the order of their ends.
    in_order: VecDeque<(Instant, IdempotencyKey)>,
}

impl Keys {
    /// The position of the message with this key, if it is still known.
    pub(super) fn find(&mut self, key: &IdempotencyKey, ttl: Duration) -> Option<Position> {
        self.forget_old(ttl);
        self.0.as_ref()?.positions.get(key).copied()
    }

    /// Notes the position of a message with a new key.
    pub(super) fn note(&mut self, key: &IdempotencyKey, position: Position, most: usize) {
        let table = self.0.get_or_insert_default();
        while table.in_order.len() >= most.max(1) {
            table.forget_first();
        }
        table.positions.insert(key.clone(), position);
        table.in_order.push_back((Instant::now(), key.clone()));
    }

    /// Whether a repetition may still come.
    pub(super) fn are_kept(&mut self, ttl: Duration) -> bool {
        self.forget_old(ttl);
        self.0.is_some()
    }

    fn forget_old(&mut self, ttl: Duration) {
        let Some(table) = &mut self.0 else { return };
        while table.in_order.front().is_some_and(|(since, _)| since.elapsed() >= ttl) {
            table.forget_first();
        }
        if table.in_order.is_empty() {
            self.0 = None;
        }
    }
}

impl Table {
    fn forget_first(&mut self) {
        if let Some((_, key)) = self.in_order.pop_front() {
            self.positions.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Epoch;

    const TTL: Duration = Duration::from_secs(300);

    fn key(text: &str) -> IdempotencyKey {
        text.parse().unwrap()
    }

    fn position(seq: u64) -> Position {
        Position { epoch: Epoch::new(7), seq }
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_known_for_its_time() {
        let mut keys = Keys::default();
        assert_eq!((keys.find(&key("a"), TTL), keys.are_kept(TTL)), (None, false));
        keys.note(&key("a"), position(1), 10);
        tokio::time::advance(TTL / 2).await;
        keys.note(&key("b"), position(2), 10);
        tokio::time::advance(TTL / 2 - Duration::from_millis(1)).await;
        assert_eq!(["a", "b"].map(|text| keys.find(&key(text), TTL)), [Some(position(1)), Some(position(2))]);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(["a", "b"].map(|text| keys.find(&key(text), TTL)), [None, Some(position(2))]);
        tokio::time::advance(TTL).await;
        assert!(!keys.are_kept(TTL));
    }

    #[tokio::test]
    async fn a_further_key_takes_the_place_of_the_oldest() {
        let mut keys = Keys::default();
        for (text, seq) in ["a", "b", "c"].into_iter().zip(1..) {
            keys.note(&key(text), position(seq), 2);
        }
        assert_eq!(["a", "b", "c"].map(|text| keys.find(&key(text), TTL).is_some()), [false, true, true]);
    }
}
