//! A subscription and its queue: the client's task fills, the program takes.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use futures_util::Stream;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::ClientError;
use super::item::{Begun, Gap, Item};

/// What happens when the queue of a subscription is full: the program takes more slowly than messages come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WhenFull {
    /// The client leaves the topic, and comes back after the last queued message once half of the queue is taken. The
    /// messages that the server still keeps for this client then follow without a hole; otherwise a [`Gap`] says so. Under
    /// `resume = "session"` there is always a gap. Other topics and receipts do not wait.
    #[default]
    Leave,
    /// The client reads nothing more, of any topic, until half of the queue is taken. The server then decides by its
    /// `slow_consumer`, as for any client that does not read. Receipts and answers wait as well.
    Wait,
}

/// Limits of a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) items: usize,
    pub(super) bytes: usize,
    pub(super) when_full: WhenFull,
}

/// The queue between the client's task and a [`Subscription`].
pub(super) struct Feed {
    room: Room,
    queue: Mutex<Queue>,
    /// Wakes the client's task: half of a full queue is taken, or the program has dropped the subscription.
    changed: Arc<Notify>,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    /// The memory of the messages.
    bytes: usize,
    /// Set when an item finds no room, and reset when half of the queue is taken.
    is_full: bool,
    /// The program takes no more.
    is_dropped: bool,
    end: Option<Option<ClientError>>,
    waker: Option<Waker>,
}

impl Queue {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// What became of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// Queued, and less than half of the room is taken.
    Plenty,
    /// Queued, and half of the room is taken: the program should have its turn.
    Half,
    /// Queued, and nothing more should be read.
    Last,
    /// Not queued: the topic is to be left.
    Refused,
}

impl Feed {
    pub(super) fn new(room: Room, changed: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self { room, queue: Mutex::default(), changed })
    }

    /// Queues a message, a numbered gap or presence, if there is room. An empty queue takes an item of any size.
    pub(super) fn push(&self, item: Item) -> Pushed {
        let mut queue = self.queue.lock();
        let size = size_of(&item);
        let room = self.room;
        let has_room = match room.when_full {
            WhenFull::Leave => {
                queue.items.is_empty() || queue.items.len() < room.items && queue.bytes + size <= room.bytes
            }
            WhenFull::Wait => !queue.is_full,
        };
        if !has_room {
            queue.is_full = true;
            return Pushed::Refused;
        }
        queue.bytes += size;
        queue.items.push_back(item);
        queue.wake();
        if room.when_full == WhenFull::Wait && (queue.items.len() >= room.items || queue.bytes >= room.bytes) {
            queue.is_full = true;
            return Pushed::Last;
        }
        if queue.items.len() > room.items / 2 { Pushed::Half } else { Pushed::Plenty }
    }

    /// Queues a mark of the client itself: a return with or without loss. Needs no room, because two marks in a row become
    /// one.
    pub(super) fn mark(&self, mark: Item) {
        let mut queue = self.queue.lock();
        let merged = match (queue.items.back(), &mark) {
            // The later number has the messages of the earlier, because none has come in between.
            (Some(Item::Resumed { .. }), Item::Resumed { missed }) => Some(Item::Resumed { missed: *missed }),
            // Messages follow where the later return has begun.
            (Some(Item::Resumed { .. } | Item::Gap(Gap::Unknown { .. })), Item::Gap(gap @ Gap::Unknown { .. })) => {
                Some(Item::Gap(*gap))
            }
            (Some(Item::Gap(gap @ Gap::Unknown { .. })), Item::Resumed { .. }) => Some(Item::Gap(*gap)),
            _ => None,
        };
        match (merged, queue.items.back_mut()) {
            (Some(merged), Some(last)) => *last = merged,
            _ => queue.items.push_back(mark),
        }
        queue.wake();
    }

    /// Whether the queue was full, and half of it is not taken yet.
    pub(super) fn is_full(&self) -> bool {
        self.queue.lock().is_full
    }

    /// Whether the program takes no more.
    pub(super) fn is_dropped(&self) -> bool {
        self.queue.lock().is_dropped
    }

    /// Ends the stream after the queued items, with an error or without. The first end counts.
    pub(super) fn end(&self, error: Option<ClientError>) {
        let mut queue = self.queue.lock();
        queue.end.get_or_insert(error);
        queue.wake();
    }

    /// Ends the stream at once.
    pub(super) fn discard(&self) {
        let mut queue = self.queue.lock();
        queue.items.clear();
        (queue.bytes, queue.is_full) = (0, false);
        queue.end.get_or_insert(None);
        queue.wake();
    }

    fn poll_take(&self, context: &Context<'_>) -> Poll<Option<Result<Item, ClientError>>> {
        let mut queue = self.queue.lock();
        let Some(item) = queue.items.pop_front() else {
            return match &mut queue.end {
                Some(error) => Poll::Ready(error.take().map(Err)),
                None => {
                    queue.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            };
        };
        queue.bytes -= size_of(&item);
        let Room { items, bytes, .. } = self.room;
        if queue.is_full && queue.items.len() <= items / 2 && queue.bytes <= bytes / 2 {
            queue.is_full = false;
            self.changed.notify_one();
        }
        Poll::Ready(Some(Ok(item)))
    }
}

fn size_of(item: &Item) -> usize {
    match item {
        Item::Message(message) => message.size(),
        Item::Presence(presence) => presence.members.as_ref().map_or(0, |members| {
            members.iter().map(|member| member.user.len() + member.info.as_ref().map_or(0, |info| info.len())).sum()
        }),
        Item::Gap(_) | Item::Resumed { .. } => 0,
    }
}

/// The messages of a topic, as a [`Stream`] of `Result<Item, ClientError>`. Made by
/// [`Client::subscribe`](super::Client::subscribe), which has an example.
///
/// Each message comes once and in order, or a [`Gap`] in its place, however often the connection is lost. The stream ends
/// when the client is closed or dropped; after a final error, such as `forbidden` for a topic that is granted no longer, the
/// error is the last item. A dropped subscription unsubscribes.
///
/// Items wait in a queue of [`max_unread`](super::ClientBuilder::max_unread) messages until the program takes them;
/// [`WhenFull`] says what happens then.
pub struct Subscription {
    topic: Arc<str>,
    feed: Arc<Feed>,
    begun: Begun,
}

impl Subscription {
    pub(super) fn new(topic: Arc<str>, feed: Arc<Feed>) -> Self {
        Self { topic, feed, begun: Begun::NOWHERE }
    }

    pub(super) fn set_begun(&mut self, begun: Begun) {
        self.begun = begun;
    }

    /// The name of the topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Where the subscription began, and how many earlier messages followed. A later [`Gap::Unknown`] has its own position.
    #[must_use]
    pub fn begun(&self) -> Begun {
        self.begun
    }

    /// The next item; `None` at the end. Cancel safe: no item is lost if the future is dropped.
    ///
    /// # Errors
    ///
    /// The final error of the topic or of the client; `None` follows.
    pub async fn next(&mut self) -> Option<Result<Item, ClientError>> {
        std::future::poll_fn(|context| self.feed.poll_take(context)).await
    }
}

impl Stream for Subscription {
    type Item = Result<Item, ClientError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.feed.poll_take(context)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut queue = self.feed.queue.lock();
        queue.is_dropped = true;
        queue.items.clear();
        drop(queue);
        self.feed.changed.notify_one();
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("topic", &self.topic).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Context;

    use futures_util::task::noop_waker_ref;

    use super::*;
    use crate::wire::Position;

    fn feed(items: usize, when_full: WhenFull) -> (Arc<Feed>, Subscription) {
        let feed = Feed::new(Room { items, bytes: 1000, when_full }, Arc::new(Notify::new()));
        (Arc::clone(&feed), Subscription::new("t".into(), feed))
    }

    fn gap(number: u64) -> Item {
        Item::Gap(Gap::Numbers { from: number, to: number })
    }

    fn take(subscription: &mut Subscription) -> Poll<Option<Result<Item, ClientError>>> {
        Pin::new(subscription).poll_next(&mut Context::from_waker(noop_waker_ref()))
    }

    #[test]
    fn a_full_queue_refuses_until_half_is_taken() {
        let (feed, mut subscription) = feed(4, WhenFull::Leave);
        assert_eq!(
            [1, 2, 3, 4].map(|number| feed.push(gap(number))),
            [Pushed::Plenty, Pushed::Plenty, Pushed::Half, Pushed::Half]
        );
        assert_eq!((feed.push(gap(5)), feed.is_full()), (Pushed::Refused, true));
        assert!(take(&mut subscription).is_ready() && feed.is_full());
        assert!(take(&mut subscription).is_ready() && !feed.is_full());
    }

    #[test]
    fn a_waiting_queue_takes_its_last_item_and_stops_the_reader() {
        let (feed, mut subscription) = feed(1, WhenFull::Wait);
        assert_eq!((feed.push(gap(1)), feed.is_full()), (Pushed::Last, true));
        assert_eq!(feed.push(gap(2)), Pushed::Refused, "on whichever connection");
        assert!(take(&mut subscription).is_ready() && !feed.is_full());
        feed.push(gap(3));
        feed.discard();
        assert!(!feed.is_full());
    }

    #[test]
    fn returns_without_a_message_between_them_are_one_mark() {
        let (feed, mut subscription) = feed(1, WhenFull::Leave);
        for missed in [1, 2] {
            feed.mark(Item::Resumed { missed });
        }
        assert!(matches!(take(&mut subscription), Poll::Ready(Some(Ok(Item::Resumed { missed: 2 })))));
        let gap = |seq| Item::Gap(Gap::Unknown { position: Position { seq, ..Begun::NOWHERE.position } });
        for mark in [Item::Resumed { missed: 1 }, gap(5), gap(7), Item::Resumed { missed: 0 }] {
            feed.mark(mark);
        }
        assert!(matches!(take(&mut subscription), Poll::Ready(Some(Ok(item))) if item == gap(7)));
        assert!(take(&mut subscription).is_pending());
    }

    #[test]
    fn an_end_comes_after_the_queued_items_and_its_error_once() {
        let (feed, mut subscription) = feed(2, WhenFull::Leave);
        feed.push(gap(1));
        feed.end(Some(ClientError::Closed));
        feed.end(None);
        assert!(matches!(take(&mut subscription), Poll::Ready(Some(Ok(_)))));
        assert!(matches!(take(&mut subscription), Poll::Ready(Some(Err(ClientError::Closed)))));
        assert!(matches!(take(&mut subscription), Poll::Ready(None)));
        drop(subscription);
        assert!(feed.is_dropped());
    }
}
