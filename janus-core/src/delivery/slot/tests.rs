//! A slot over a real socket, over a stream with a queue, and as a subscriber of this process.

use std::mem::{offset_of, size_of};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;

use super::{Slot, Subscription, Taken};
use crate::accounts::Account;
use crate::config::SlowConsumer;
use crate::delivery::batch::tests::{batch_of, topic};
use crate::delivery::codecs::CLASSIC;
use crate::delivery::stream::Stream;
use crate::delivery::{Batch, End, Link, OpenBatch, SlowReason, Terms};
use crate::ground::clock::Tick;
use crate::wire::classic::Classic;
use crate::wire::{ClientId, Codec, Decoder, Epoch, Heartbeat, Peer, ServerEvent, Timestamp};

fn tick(number: u32) -> Tick {
    Tick::new(number)
}

/// A slot with room for 8 messages, and the account of its address.
pub(super) fn slot(link: impl Into<Link>) -> (Arc<Slot>, Arc<Account>) {
    let account = Arc::<Account>::default();
    let slot = Slot::new(1, None, link, CLASSIC, Arc::clone(&account), &Terms::in_tests(8, 64 * 1024));
    (Arc::new(slot), account)
}

/// A slot whose socket takes everything at once, and the client's end.
fn socket() -> (Arc<Slot>, tokio::net::UnixStream) {
    let (server, client) = tokio::net::UnixStream::pair().unwrap();
    (slot(server).0, client)
}

/// A slot over a stream: everything is queued until a flush.
fn queued() -> (Arc<Slot>, tokio::io::DuplexStream) {
    let (client, server) = tokio::io::duplex(64 * 1024);
    (slot(Stream::new(Box::pin(server), Peer::Local)).0, client)
}

pub(super) fn subscribed(slot: &Arc<Slot>, policy: SlowConsumer) -> Arc<Subscription> {
    let subscription = Subscription::of_connection(Arc::clone(slot), policy);
    assert!(subscription.begin(1));
    Arc::new(subscription)
}

fn batch(frames: &[&str], first_seq: u64) -> Arc<Batch> {
    Arc::new(batch_of(frames, first_seq + frames.len() as u64))
}

fn flush(slot: &Slot) {
    slot.flush(&mut Context::from_waker(Waker::noop()));
}

async fn received(client: &mut (impl tokio::io::AsyncRead + Unpin), length: usize) -> String {
    let mut bytes = vec![0; length];
    client.read_exact(&mut bytes).await.unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn the_fields_of_a_delivery_lie_at_the_start_of_a_slot() {
    assert_eq!(offset_of!(Slot, id), 0);
    // With the counts of an `Arc` it is a block of 192 bytes for an allocator.
    assert!(size_of::<Slot>() <= 176 || cfg!(feature = "fault-injection"), "{} bytes", size_of::<Slot>());
    assert!(offset_of!(Slot, quiet_since) + size_of::<u32>() <= 3 * 64, "at {}", offset_of!(Slot, quiet_since));
}

#[cfg(unix)]
#[tokio::test]
async fn a_batch_served_twice_is_sent_once() {
    let (slot, mut client) = socket();
    let subscription = subscribed(&slot, SlowConsumer::Disconnect);
    let (first, second) = (batch(&["one", "two"], 1), batch(&["three"], 3));
    for batch in [&first, &first, &second, &first, &second] {
        slot.deliver(&subscription, batch, tick(1));
    }
    assert_eq!((subscription.next_seq(), slot.is_flushed()), (4, true));
    assert!(slot.close());
    let mut all = String::new();
    client.read_to_string(&mut all).await.unwrap();
    assert_eq!(all, "onetwothree");
}

#[cfg(unix)]
#[tokio::test]
async fn a_subscriber_from_the_middle_of_a_batch_gets_the_rest() {
    let (slot, mut client) = socket();
    let subscription = subscribed(&slot, SlowConsumer::Disconnect);
    assert!(subscription.begin(2));
    slot.deliver(&subscription, &batch(&["one", "two", "three"], 1), tick(1));
    assert_eq!(received(&mut client, 8).await, "twothree");
    subscription.end();
    slot.deliver(&subscription, &batch(&["four"], 4), tick(1));
    slot.send(Bytes::from_static(b"end"));
    assert_eq!(received(&mut client, 3).await, "end", "nothing comes after an unsubscribe");
}

#[tokio::test]
async fn no_frame_overtakes_the_queue() {
    let (slot, mut client) = queued();
    let subscription = subscribed(&slot, SlowConsumer::Disconnect);
    slot.send(Bytes::from_static(b"first "));
    slot.deliver(&subscription, &batch(&["second ", "third "], 1), tick(1));
    slot.send(Bytes::from_static(b"last"));
    assert!(slot.needs_attention() && slot.lag().is_some_and(|lag| lag.frames == 4));
    flush(&slot);
    assert_eq!(received(&mut client, 23).await, "first second third last");
    assert!(!slot.needs_attention() && slot.lag().is_none());
}

#[tokio::test]
async fn frames_behind_a_cork_follow_its_first_bytes() {
    let (slot, mut client) = queued();
    slot.cork();
    slot.send(Bytes::from_static(b"after"));
    flush(&slot);
    assert!(!slot.is_flushed() && slot.queued().is_none(), "a corked client does not lag");
    slot.uncork(Bytes::from_static(b"before "));
    flush(&slot);
    assert_eq!(received(&mut client, 12).await, "before after");

    slot.cork();
    slot.send(Bytes::from_static(b"never"));
    slot.uncork_empty();
    slot.send(Bytes::from_static(b"instead"));
    flush(&slot);
    assert_eq!(received(&mut client, 7).await, "instead");
}

#[tokio::test]
async fn a_stream_that_breaks_off_does_not_look_complete() {
    let (slot, _client) = queued();
    assert!(slot.shut_down());
    let (slot, _client) = queued();
    slot.send(Bytes::from_static(b"unsent"));
    assert!(!slot.shut_down());
    assert!(slot.take_link().is_none(), "nothing can be sent any more");
}

#[tokio::test]
async fn an_end_that_may_lapse_gives_way_to_an_end_that_holds() {
    let (slot, _client) = queued();
    slot.end(End::PingTimeout);
    slot.end(End::Revoked);
    slot.end(End::PingTimeout);
    assert_eq!((slot.take_end(), slot.take_end()), (Some(End::Revoked), None));
}

#[tokio::test]
async fn an_end_that_resets_replaces_an_orderly_end() {
    let (slot, _client) = queued();
    slot.end(End::Draining);
    slot.end(End::SessionTaken);
    slot.end(End::CodecPanicked);
    slot.end(End::Draining);
    assert_eq!((slot.take_end(), slot.take_end()), (Some(End::CodecPanicked), None));
    // A client whose sends fail may still write to us, and be closed for the memory of its input.
    slot.end(End::Draining);
    assert_eq!(slot.take_end(), None);
    slot.end(End::Overloaded);
    assert_eq!(slot.take_end(), Some(End::Overloaded));
}

#[tokio::test]
async fn a_full_queue_ends_a_client_and_empties_the_queue() {
    let (slot, _client) = queued();
    let subscription = subscribed(&slot, SlowConsumer::Disconnect);
    for seq in 1..=9 {
        assert_eq!(slot.lag().map_or(0, |lag| lag.frames) as u64, seq - 1);
        slot.deliver(&subscription, &batch(&["message"], seq), tick(1));
    }
    let end = slot.take_end();
    assert!(matches!(end, Some(End::SlowConsumer { why: SlowReason::QueueFull, frames: 8, .. })), "{end:?}");
    assert!(slot.lag().is_none());
}

#[tokio::test]
async fn a_client_is_settled_when_all_its_messages_are_answered() {
    let (slot, _client) = queued();
    assert!(slot.is_settled());
    slot.expect_answer();
    slot.expect_answer();
    assert!(!slot.is_settled());
    slot.answered();
    assert!(!slot.is_settled());
    slot.answered();
    assert!(slot.is_settled());
}

#[tokio::test]
async fn a_frame_is_late_by_the_ticks_since_its_first_bytes() {
    let (slot, _client) = queued();
    slot.set_unfinished(true, false, tick(5));
    slot.set_unfinished(true, false, tick(7));
    assert_eq!(slot.unfinished_for(tick(9)), Some(4));
    slot.set_unfinished(true, true, tick(9));
    assert_eq!(slot.unfinished_for(tick(10)), Some(1), "a new frame after a complete one");
    slot.set_unfinished(false, true, tick(10));
    assert_eq!(slot.unfinished_for(tick(11)), None);
}

#[tokio::test]
async fn a_ping_is_due_after_an_interval_of_silence() {
    let (slot, _client) = queued();
    assert!(!slot.take_ping_due(tick(100), 10), "not before the first message");
    slot.expect_silence(tick(100));
    assert!(!slot.take_ping_due(tick(109), 10));
    assert!(slot.take_ping_due(tick(110), 10) && !slot.take_ping_due(tick(111), 10));
    slot.deliver(&subscribed(&slot, SlowConsumer::Disconnect), &batch(&["message"], 1), tick(115));
    assert!(!slot.take_ping_due(tick(124), 10) && slot.take_ping_due(tick(125), 10));
    slot.fall_silent();
    assert!(!slot.take_ping_due(tick(1_000), 10));
}

/// A format that announces its heartbeats, and whose clients must not miss a message.
#[derive(Debug)]
struct Promising;

impl Codec for Promising {
    fn name(&self) -> &'static str {
        "promising"
    }

    fn decoder(&self) -> Box<dyn Decoder> {
        Classic.decoder()
    }

    fn encode(&self, event: &ServerEvent<'_>, at: &Timestamp, out: &mut BytesMut) {
        Classic.encode(event, at, out);
    }

    fn tells_gaps(&self) -> bool {
        false
    }

    fn conflates(&self) -> bool {
        false
    }

    fn heartbeat(&self) -> Heartbeat {
        Heartbeat::Regularly(Bytes::from_static(b"beat"))
    }
}

fn promising(number: u64) -> Arc<Slot> {
    let terms = Terms::in_tests(8, 64 * 1024);
    let codec = terms.codecs.register(&(Arc::new(Promising) as Arc<dyn Codec>)).unwrap();
    let stream = Stream::new(Box::pin(tokio::io::duplex(64).1), Peer::Local);
    Arc::new(Slot::new(number, None, stream, codec, Arc::default(), &terms))
}

#[test]
fn a_promised_ping_comes_once_in_each_interval_whatever_is_sent() {
    for number in 0..10 {
        let slot = promising(number);
        assert!(slot.beats_regularly() && !slot.is_beat_due(tick(0), tick(10), 10), "not before the opening");
        slot.expect_silence(tick(100));
        let mut due = Vec::new();
        // Looks come late, and not at the moments of the PINGs.
        let looks = [100, 103, 106, 107, 113, 119, 122, 125, 126, 127, 130];
        for &[earlier, now] in looks.array_windows() {
            assert!(slot.offer(&Bytes::from_static(b"message")));
            if slot.is_beat_due(tick(earlier), tick(now), 10) {
                due.push(now);
            }
        }
        assert_eq!(due.len(), 3, "{number}: {due:?}");
        slot.fall_silent();
        assert!(!slot.is_beat_due(tick(130), tick(140), 10));
    }
}

#[test]
fn a_client_that_must_not_miss_a_message_is_closed_under_each_policy() {
    for policy in [SlowConsumer::DropOldest, SlowConsumer::DropNewest, SlowConsumer::Conflate] {
        assert_eq!(Subscription::of_connection(promising(1), policy).policy(), SlowConsumer::Disconnect, "{policy}");
    }
}

#[tokio::test]
async fn a_slot_counts_on_the_account_of_its_address_while_it_lives() {
    let (_client, server) = tokio::io::duplex(64);
    let (slot, account) = slot(Stream::new(Box::pin(server), Peer::Local));
    assert_eq!(account.connections.get(), 1);
    drop(slot);
    assert_eq!(account.connections.get(), 0);
}

#[test]
fn a_local_subscriber_takes_messages_gaps_and_then_its_end() {
    let slot = Arc::new(Slot::local(1, &Terms::in_tests(8, 64 * 1024)));
    let subscription = Arc::new(Subscription::local(Arc::clone(&slot), SlowConsumer::Disconnect));
    assert!(subscription.begin(1));
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(slot.poll_take(cx).is_pending());
    slot.deliver(&subscription, &batch(&["message"], 1), tick(1));
    slot.skip_to(&subscription, &topic(), Epoch::new(7), 5);
    slot.end(End::ShutDown);
    assert!(matches!(slot.poll_take(cx), Poll::Ready(Ok(Taken::Message { seq: 1, .. }))));
    let Poll::Ready(Ok(Taken::Gap { seqs: gap, .. })) = slot.poll_take(cx) else { panic!("2 to 4 are left out") };
    assert_eq!(gap, 2..5);
    assert!(matches!(slot.poll_take(cx), Poll::Ready(Err(End::ShutDown))));
}

/// A batch of `abcd`, whose `b` and `d` are not for the client of [`slot`].
fn with_exclusions() -> Arc<Batch> {
    let mut open = OpenBatch::default();
    for (frame, is_excluded) in [(b"a", false), (b"b", true), (b"c", false), (b"d", true)] {
        if is_excluded {
            open.exclude(ClientId::new(0, 1));
        }
        open.buffer().extend_from_slice(frame);
        open.commit(Instant::now());
    }
    Arc::new(open.seal(&topic(), 5, Epoch::new(7), tick(1), &Arc::default()))
}

#[tokio::test]
async fn a_client_gets_the_messages_that_are_for_it_sent_or_queued() {
    let (slot, mut client) = socket();
    let subscription = subscribed(&slot, SlowConsumer::Disconnect);
    let delivered = slot.deliver(&subscription, &with_exclusions(), tick(1));
    assert_eq!((delivered.messages, delivered.bytes, subscription.next_seq()), (2, 2, 5));
    assert!(subscription.is_lossy(), "a classic client counts messages");
    slot.deliver(&subscription, &with_exclusions(), tick(1));
    slot.deliver(&subscription, &batch(&["e"], 5), tick(1));
    assert_eq!(received(&mut client, 3).await, "ace", "each once");

    let (slot, mut client) = queued();
    let subscription = subscribed(&slot, SlowConsumer::Disconnect);
    slot.deliver(&subscription, &with_exclusions(), tick(1));
    slot.deliver(&subscription, &batch(&["e"], 5), tick(1));
    flush(&slot);
    assert_eq!(received(&mut client, 3).await, "ace");
}
