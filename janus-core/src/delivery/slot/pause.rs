//! The pause of a client with too many untaken answers, and the last attempt to write before a full queue cuts a
//! client off.
//!
//! A program may publish thousands of messages before reading the first receipt. The answers wait in the queue, and
//! from a limit on the Transport stops reading: TCP slows the client down, and nothing is lost. A client that never
//! takes its answers is ended like any stalled client.

use std::sync::atomic::Ordering;

use super::{Messages, Out, Slot};
use crate::delivery::queue::{Entry, Flushed};

impl Slot {
    /// Whether the client is not read because too many answers wait for it. The Transport is woken when the pause is
    /// over.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }

    /// Brings [`is_paused`](Self::is_paused) up to date with the queued answers. Called after each change of their
    /// number.
    pub(super) fn mirror_pause(&self, out: &Out) {
        let paused = out.queue.as_ref().is_some_and(|queue| queue.holds_many_answers());
        if self.paused.swap(paused, Ordering::AcqRel) && !paused {
            self.transport.wake();
        }
    }

    /// Queues messages behind others. Before a full queue cuts the client off, the socket is offered the queue: a
    /// client that reads all the time has made room since the Transport's last turn.
    pub(super) fn queue_messages(&self, out: &mut Out, messages: Messages) {
        if let Out { link: Some(link), queue: Some(queue), .. } = &mut *out
            && queue.overflows_with(&messages)
        {
            match queue.write_to(link) {
                Ok(Flushed::All | Flushed::Turn) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    let end = queue.end_for_error(&error);
                    return self.end_locked(out, end);
                }
            }
            self.mirror_pause(out);
        }
        self.wait(out, |queue| queue.admit(Entry::Messages(messages)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::Poll;

    use bytes::Bytes;
    use tokio::io::AsyncReadExt;

    use crate::config::SlowConsumer;
    use crate::delivery::batch::tests::batch_of;
    use crate::delivery::codecs::CLASSIC;
    use crate::delivery::stream::Stream;
    use crate::delivery::{End, Link, Slot, Subscription, Terms};
    use crate::ground::clock::Tick;
    use crate::wire::Peer;

    const MAX_BYTES: usize = 4 * 1024;

    fn slot(link: impl Into<Link>) -> Arc<Slot> {
        let terms = Terms::in_tests(usize::MAX, MAX_BYTES);
        Arc::new(Slot::new(1, None, link, CLASSIC, Arc::default(), &terms))
    }

    #[tokio::test]
    async fn a_frame_is_not_late_while_its_client_is_not_read() {
        let (mut client, server) = tokio::io::duplex(64);
        let slot = slot(Stream::new(Box::pin(server), Peer::Local));
        slot.set_unfinished(true, false, Tick::new(5));
        let mut answers = 0;
        while !slot.is_paused() {
            slot.send(Bytes::from_static(b"ACK\x01"));
            answers += 1;
        }
        assert_eq!(slot.unfinished_for(Tick::new(100)), None);
        let mut taken = vec![0; 4 * answers];
        let flushing = std::future::poll_fn(|cx| {
            slot.poll_attention(cx.waker());
            slot.flush(cx);
            if slot.is_flushed() { Poll::Ready(()) } else { Poll::Pending }
        });
        tokio::join!(flushing, async { client.read_exact(&mut taken).await.unwrap() });
        assert!(!slot.is_paused());
        assert_eq!(slot.unfinished_for(Tick::new(103)), Some(3), "counted from when it was last seen paused");
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn before_a_client_is_cut_off_its_socket_is_offered_the_queue() {
        let (server, client) = tokio::net::UnixStream::pair().unwrap();
        socket2::SockRef::from(&server).set_send_buffer_size(4 * 1024).unwrap();
        let slot = slot(server);
        let subscription = Arc::new(Subscription::of_connection(Arc::clone(&slot), SlowConsumer::Disconnect));
        subscription.begin(1);
        let message = "x".repeat(500);
        let mut seq = 0;
        let mut deliver = || {
            seq += 1;
            slot.deliver(&subscription, &Arc::new(batch_of(&[&message], seq + 1)), Tick::new(1));
        };
        let waits = || slot.queued().map_or(0, |(bytes, _)| bytes);
        // No Transport writes the queue out.
        while waits() + 2 * message.len() <= MAX_BYTES {
            deliver();
        }
        let full = waits();
        client.readable().await.unwrap();
        while client.try_read(&mut [0; 64 * 1024]).is_ok() {}
        deliver();
        deliver();
        assert!(waits() < full, "{} bytes wait", waits());
        assert_eq!(slot.take_end(), None);
        // Unless the client reads no more.
        while waits() > 0 {
            deliver();
        }
        assert!(matches!(slot.take_end(), Some(End::SlowConsumer { .. })));
    }
}
