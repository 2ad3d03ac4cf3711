//! The subscribers of a topic.
//!
//! A pass shares the list, which must not change under the pass. So the list changes only between passes, and is copied
//! only if a sender still holds the list of the last pass: a subscriber that joins or leaves during a pass is noted, and
//! the note is applied after the pass. An unsubscribe stops
//! delivery at once all the same (see [`Subscription::end`]). The roster has no lock, and sends nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::config::SlowConsumer;
use crate::delivery::Subscription;
use crate::delivery::codecs::CodecSet;
use crate::delivery::terms::QueueLimits;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Roster {
    /// The `index` of each subscription is its place in this list.
    subscribers: Arc<Vec<Arc<Subscription>>>,
    /// The codecs of `subscribers`, and perhaps of subscribers that have left.
    codecs: CodecSet,
    /// The smallest of the queues with limits of their own where a full queue ends the subscriber; otherwise as `codecs`.
    least_queue: QueueLimits,
    /// Subscribers to be added after the pass under way.
    joining: Vec<Arc<Subscription>>,
    /// Subscribers to be removed after the pass under way.
    leaving: Vec<Arc<Subscription>>,
    /// Whether an unsubscribe may have been lost with a crashed actor, and the list must be searched for ended
    /// subscriptions.
    sweep: bool,
}

impl Roster {
    /// The number of subscribers, changes after the pass under way included.
    pub(super) fn len(&self) -> usize {
        (self.subscribers.len() + self.joining.len()).saturating_sub(self.leaving.len())
    }

    /// The list, for a pass.
    pub(super) fn list(&self) -> &Arc<Vec<Arc<Subscription>>> {
        &self.subscribers
    }

    pub(super) fn codecs(&self) -> CodecSet {
        self.codecs
    }

    /// The limits of the smallest queue, without those of the instance.
    pub(super) fn least_queue(&self) -> QueueLimits {
        self.least_queue
    }

    /// All subscribers, and the subscribers to be added after the pass under way.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Subscription>> {
        self.subscribers.iter().chain(&self.joining)
    }

    /// Adds a subscriber, now or after the pass under way.
    pub(super) fn add(&mut self, subscription: Arc<Subscription>, in_pass: bool) {
        if in_pass {
            self.joining.push(subscription);
        } else {
            self.add_now(subscription);
        }
    }

    /// Removes a subscriber, now or after the pass under way.
    pub(super) fn remove(&mut self, subscription: Arc<Subscription>, in_pass: bool) {
        if in_pass {
            self.leaving.push(subscription);
        } else {
            self.remove_now(&subscription);
        }
    }

    /// Searches the list for ended subscriptions, now or after the pass under way.
    pub(super) fn sweep(&mut self, in_pass: bool) {
        self.sweep = true;
        if !in_pass {
            self.apply_changes();
        }
    }

    /// Applies the changes noted during a pass. Returns whether there were any.
    pub(super) fn apply_changes(&mut self) -> bool {
        if self.joining.is_empty() && self.leaving.is_empty() && !self.sweep {
            return false;
        }
        for subscription in std::mem::take(&mut self.joining) {
            self.add_now(subscription);
        }
        for subscription in std::mem::take(&mut self.leaving) {
            self.remove_now(&subscription);
        }
        if std::mem::take(&mut self.sweep) {
            let subscribers = Arc::make_mut(&mut self.subscribers);
            subscribers.retain(|subscription| !subscription.has_ended());
            for (index, subscription) in (0..).zip(subscribers.iter()) {
                subscription.index.store(index, Ordering::Relaxed);
            }
        }
        true
    }

    /// Takes all subscribers out.
    pub(super) fn take(&mut self) -> Arc<Vec<Arc<Subscription>>> {
        self.apply_changes();
        std::mem::take(&mut self.subscribers)
    }

    /// Whether the index of each subscription is its place in the list. A successor requires this of a crashed topic.
    pub(super) fn check(&self) -> bool {
        self.subscribers.iter().enumerate().all(|(index, subscription)| place_of(subscription) == index)
    }

    fn add_now(&mut self, subscription: Arc<Subscription>) {
        // The last pass is over. A sender may still hold the list for a moment; only then is the list copied.
        let subscribers = Arc::make_mut(&mut self.subscribers);
        set_place(&subscription, subscribers.len());
        self.codecs.insert(subscription.codec());
        if subscription.is_local() && subscription.policy() == SlowConsumer::Disconnect {
            self.least_queue = self.least_queue.min(subscription.slot.queue_limits());
        }
        subscribers.push(subscription);
    }

    fn remove_now(&mut self, subscription: &Arc<Subscription>) {
        let index = place_of(subscription);
        if !self.subscribers.get(index).is_some_and(|other| Arc::ptr_eq(other, subscription)) {
            return;
        }
        let subscribers = Arc::make_mut(&mut self.subscribers);
        subscribers.swap_remove(index);
        if let Some(moved) = subscribers.get(index) {
            set_place(moved, index);
        }
        if subscribers.is_empty() {
            (self.codecs, self.least_queue) = (CodecSet::default(), QueueLimits::default());
        }
        if subscribers.is_empty() || subscribers.len() < subscribers.capacity() / 4 {
            subscribers.shrink_to(subscribers.len() * 2);
        }
    }
}

fn place_of(subscription: &Subscription) -> usize {
    subscription.index.load(Ordering::Relaxed) as usize
}

fn set_place(subscription: &Subscription, index: usize) {
    subscription.index.store(u32::try_from(index).expect("fewer clients than 2^32"), Ordering::Relaxed);
}

#[cfg(test)]
pub(super) mod tests {

    use proptest::prelude::*;

    use super::*;
    use crate::delivery::codecs::CLASSIC;
    use crate::delivery::{Slot, Terms};

    pub(in crate::topic) fn subscription() -> Arc<Subscription> {
        subscription_with(100, SlowConsumer::Disconnect)
    }

    /// A subscriber of this process that may let this many messages wait.
    pub(in crate::topic) fn subscription_with(frames: usize, policy: SlowConsumer) -> Arc<Subscription> {
        Arc::new(Subscription::local(Arc::new(Slot::local(1, &Terms::in_tests(frames, 1 << 20))), policy))
    }

    fn ids<'a>(subscribers: impl IntoIterator<Item = &'a Arc<Subscription>>) -> Vec<*const Subscription> {
        let mut ids: Vec<_> = subscribers.into_iter().map(Arc::as_ptr).collect();
        ids.sort_unstable();
        ids
    }

    #[test]
    fn the_smallest_queue_counts_where_a_full_queue_ends_the_subscriber() {
        let mut roster = Roster::default();
        let [large, small] = [50, 10].map(|frames| subscription_with(frames, SlowConsumer::Disconnect));
        for subscription in [&subscription_with(1, SlowConsumer::DropOldest), &large, &small] {
            roster.add(Arc::clone(subscription), false);
        }
        assert_eq!(roster.least_queue().frames, 10);
        roster.iter().cloned().collect::<Vec<_>>().into_iter().for_each(|left| roster.remove(left, false));
        assert_eq!(roster.least_queue(), QueueLimits::default());
    }

    #[test]
    fn a_list_in_use_by_a_pass_does_not_change() {
        let mut roster = Roster::default();
        let [first, second] = [(); 2].map(|()| subscription());
        roster.add(Arc::clone(&first), false);
        let pass = Arc::clone(roster.list());
        roster.add(Arc::clone(&second), true);
        roster.remove(Arc::clone(&first), true);
        assert!(Arc::ptr_eq(&pass, roster.list()), "not copied");
        assert_eq!((pass.len(), roster.len()), (1, 1));
        drop(pass);
        roster.apply_changes();
        assert_eq!(ids(&**roster.list()), ids([&second]));
    }

    #[test]
    fn a_sweep_finds_the_subscriptions_whose_unsubscribe_was_lost() {
        let mut roster = Roster::default();
        let subscriptions: Vec<_> = std::iter::repeat_with(subscription).take(5).collect();
        subscriptions.iter().for_each(|subscription| roster.add(Arc::clone(subscription), false));
        subscriptions[1].end();
        subscriptions[4].end();
        roster.sweep(true);
        assert_eq!(roster.len(), 5, "a pass is under way");
        roster.sweep(false);
        assert_eq!(ids(roster.iter()), ids([0, 2, 3].map(|index| &subscriptions[index])));
        assert!(roster.check());
    }

    #[test]
    fn codecs_are_forgotten_with_the_last_subscriber() {
        let mut roster = Roster::default();
        let subscription = subscription();
        roster.add(Arc::clone(&subscription), false);
        assert_eq!(roster.codecs().iter().collect::<Vec<_>>(), [CLASSIC]);
        roster.remove(subscription, false);
        assert_eq!(roster.codecs().iter().count(), 0);
    }

    #[test]
    fn a_subscription_in_another_place_is_found() {
        let mut roster = Roster::default();
        for _ in 0..3 {
            roster.add(subscription(), false);
        }
        assert!(roster.check());
        set_place(&roster.list()[1], 2);
        assert!(!roster.check());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Join,
        /// The subscriber at this place leaves; the actor may never hear of it.
        Leave(prop::sample::Index, bool),
        BeginPass,
        EndPass,
        Crash,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => Just(Step::Join),
            3 => any::<(prop::sample::Index, bool)>().prop_map(|(index, lost)| Step::Leave(index, lost)),
            2 => Just(Step::BeginPass),
            2 => Just(Step::EndPass),
            1 => Just(Step::Crash),
        ]
    }

    proptest! {
        #[test]
        fn each_subscriber_is_listed_once(steps in prop::collection::vec(step(), 0..120)) {
            let mut roster = Roster::default();
            let (mut present, mut lost): (Vec<Arc<Subscription>>, usize) = Default::default();
            let mut pass: Option<(Arc<Vec<Arc<Subscription>>>, Vec<_>)> = None;
            for step in steps.into_iter().chain([Step::EndPass, Step::Crash]) {
                match step {
                    Step::Join => {
                        present.push(subscription());
                        roster.add(Arc::clone(present.last().unwrap()), pass.is_some());
                    }
                    Step::Leave(index, is_lost) if !present.is_empty() => {
                        let left = present.swap_remove(index.index(present.len()));
                        left.end();
                        lost += usize::from(is_lost);
                        if !is_lost {
                            roster.remove(left, pass.is_some());
                        }
                    }
                    Step::Leave(..) => {}
                    Step::BeginPass => {
                        pass.get_or_insert_with(|| (Arc::clone(roster.list()), ids(&**roster.list())));
                    }
                    Step::EndPass => if let Some((list, before)) = pass.take() {
                        prop_assert_eq!(ids(&*list), before, "the list of a pass does not change");
                        drop(list);
                        roster.apply_changes();
                    },
                    Step::Crash => {
                        roster.sweep(pass.is_some());
                        lost = if pass.is_some() { lost } else { 0 };
                    }
                }
                prop_assert!(roster.check());
                if pass.is_none() {
                    let listed = ids(&**roster.list());
                    prop_assert!(listed.windows(2).all(|pair| pair[0] != pair[1]), "listed twice");
                    prop_assert!(ids(&present).iter().all(|id| listed.contains(id)));
                    prop_assert!(listed.len() <= present.len() + lost);
                }
            }
            prop_assert_eq!(ids(&**roster.list()), ids(&present));
        }
    }
}
