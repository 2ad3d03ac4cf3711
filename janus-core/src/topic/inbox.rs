//! Accepted messages without a number, and the room taken by messages until the end of their pass.
//!
//! The inbox admits a message if there is room, hands messages out in the order of arrival to be numbered, and keeps
//! the accounts: of the room for publishers, and of the bytes for the instance's [`Ledger`]. The inbox has no lock and
//! wakes no task; wakers go to the caller, to be woken without the topic's lock. Numbers are the business of the
//! [`Sequence`](super::sequence::Sequence).

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use super::publish::Pending;
use super::room::{Caller, InFlight, Room, Waiting};
use crate::delivery::Ledger;
use crate::ground::line::Ticket;
use crate::wire::Publication;

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Inbox {
    /// Messages without a number, in the order of arrival.
    messages: VecDeque<Pending>,
    /// All messages under way in the topic: those in `messages`, and numbered messages until the end of their pass. A
    /// message counts with the length of its publication, and with the length of its frame once numbered.
    in_flight: InFlight,
    room: Room,
    waiting: Waiting,
    /// The topic's bytes in the ledger's account of waiting messages: those of `messages`, and `numbered`.
    accounted: usize,
    /// Bytes that have left `messages` and are accounted for as frames once their batch is sealed.
    numbered: usize,
    /// Whether the actor will look into the inbox without another wake-up: the wake-up is on its way, or the actor is
    /// at work.
    notified: bool,
    ledger: Arc<Ledger>,
}

impl Inbox {
    pub(super) fn new(room: Room, ledger: Arc<Ledger>) -> Self {
        Self {
            messages: VecDeque::new(),
            in_flight: InFlight::default(),
            room,
            waiting: Waiting::default(),
            accounted: 0,
            numbered: 0,
            notified: false,
            ledger,
        }
    }

    /// Takes a message in. Without room the message comes back, and the caller waits.
    #[inline]
    pub(super) fn admit(&mut self, pending: Pending, caller: Option<Caller<'_>>) -> Result<(), Pending> {
        let bytes = pending.publication.len();
        if !self.waiting.admit(self.room, bytes, self.in_flight, caller) {
            return Err(pending);
        }
        self.in_flight.frames += 1;
        self.in_flight.bytes += bytes;
        self.accounted += pending.accounted_bytes();
        self.ledger.add_waiting(pending.accounted_bytes());
        self.messages.push_back(pending);
        Ok(())
    }

    /// There is work for the actor. Returns whether the actor has to be woken.
    #[inline]
    pub(super) fn notify(&mut self) -> bool {
        !std::mem::replace(&mut self.notified, true)
    }

    /// Takes over another limit. Messages under way beyond a lower limit stay.
    pub(super) fn follow(&mut self, room: Room) {
        self.room = room;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Messages under way, in the inbox or numbered.
    pub(super) fn frames_in_flight(&self) -> usize {
        self.in_flight.frames
    }

    /// Bytes of the messages without a number, with the price of each.
    #[inline]
    pub(super) fn unnumbered_bytes(&self) -> usize {
        self.accounted - self.numbered
    }

    /// Messages without a number.
    #[inline]
    pub(super) fn unnumbered_frames(&self) -> usize {
        self.messages.len()
    }

    /// Takes the first message out, to be numbered.
    #[inline]
    pub(super) fn take(&mut self) -> Option<Pending> {
        let pending = self.messages.pop_front()?;
        self.numbered += pending.accounted_bytes();
        Some(pending)
    }

    /// How many of the first messages have at most this number and these bytes, but at least one message.
    pub(super) fn portion(&self, messages: usize, bytes: usize) -> usize {
        // A key is good for a submission of its own.
        if self.messages.front().is_some_and(|pending| pending.publication.key().is_some()) {
            return 1;
        }
        let mut room = bytes;
        let fits = |pending: &&Pending| {
            if pending.publication.key().is_some() {
                return false;
            }
            let length = pending.publication.len();
            let fits = length <= room || room == bytes;
            room = room.saturating_sub(length);
            fits
        };
        self.messages.iter().take(messages).take_while(fits).count()
    }

    /// The first messages.
    pub(super) fn publications(&self, messages: usize) -> impl Iterator<Item = &Publication> {
        self.messages.iter().take(messages).map(|pending| &pending.publication)
    }

    /// Takes the first message out, which gets no number here. Its room is free.
    pub(super) fn take_back(&mut self) -> Option<Pending> {
        let pending = self.messages.pop_front()?;
        self.in_flight.frames -= 1;
        self.in_flight.bytes -= pending.publication.len();
        self.accounted -= pending.accounted_bytes();
        self.ledger.remove_waiting(pending.accounted_bytes());
        Some(pending)
    }

    /// A message of another node has been numbered. Takes the length of its frame, which waits for a batch.
    pub(super) fn account_foreign(&mut self, length: usize) {
        self.accounted += length;
        self.numbered += length;
        self.ledger.add_waiting(length);
    }

    /// A message taken out gets no number, because it is a repetition.
    pub(super) fn note_left_out(&mut self, publication: &Publication) {
        let accounted = publication.len() + size_of::<Pending>();
        self.in_flight.frames -= 1;
        self.in_flight.bytes -= publication.len();
        self.accounted -= accounted;
        self.numbered -= accounted;
        self.ledger.remove_waiting(accounted);
    }

    /// A message taken out has been numbered. Takes the lengths of the publication and of the frame.
    #[inline]
    pub(super) fn note_numbered(&mut self, publication: usize, frame: usize) {
        self.in_flight.bytes = self.in_flight.bytes + frame - publication;
    }

    /// The numbered messages are in a sealed batch now, and are accounted for by the batch.
    pub(super) fn note_sealed(&mut self) {
        let numbered = std::mem::take(&mut self.numbered);
        self.accounted -= numbered;
        self.ledger.remove_waiting(numbered);
    }

    /// Each subscriber has been served with these messages. Returns the publishers for which there is room now.
    pub(super) fn note_handed_out(&mut self, InFlight { frames, bytes }: InFlight) -> Vec<Waker> {
        self.in_flight.frames -= frames;
        self.in_flight.bytes -= bytes;
        self.call()
    }

    /// Calls waiting publishers, as far as there is room.
    pub(super) fn call(&mut self) -> Vec<Waker> {
        self.waiting.call(self.room, self.in_flight)
    }

    /// Removes a publisher from the line. Returns the publishers called in its place.
    pub(super) fn leave_line(&mut self, ticket: Ticket) -> Vec<Waker> {
        if self.waiting.leave(ticket) { self.call() } else { Vec::new() }
    }

    /// The actor is about to rest: the next message wakes the actor again. Returns whether the inbox is empty;
    /// otherwise the actor must not rest.
    pub(super) fn rest(&mut self) -> bool {
        self.notified = false;
        self.messages.is_empty()
    }

    /// Takes everything out, to be refused: the messages, and the publishers that wait. For `open_bytes` see
    /// [`recount`](Self::recount).
    pub(super) fn refuse_all(&mut self, open_bytes: usize) -> (VecDeque<Pending>, Vec<Waker>) {
        self.in_flight.frames -= self.messages.len();
        self.in_flight.bytes -= self.messages.iter().map(|pending| pending.publication.len()).sum::<usize>();
        let messages = std::mem::take(&mut self.messages);
        self.account_afresh(open_bytes);
        (messages, self.waiting.call_all())
    }

    /// Makes the accounts true again after a crash, which may have come between two changes: a message in hand at the
    /// crash is in neither place, and must not cost the topic room for ever. `numbered` are the numbered messages not
    /// handed out, and `open_bytes` their bytes without a sealed batch. Returns the publishers for which
    /// there is room now.
    pub(super) fn recount(&mut self, numbered: InFlight, open_bytes: usize) -> Vec<Waker> {
        self.notified = false;
        self.in_flight.frames = self.messages.len() + numbered.frames;
        self.in_flight.bytes =
            self.messages.iter().map(|pending| pending.publication.len()).sum::<usize>() + numbered.bytes;
        self.account_afresh(open_bytes);
        self.call()
    }

    fn account_afresh(&mut self, open_bytes: usize) {
        let before = self.accounted;
        self.numbered = open_bytes;
        self.accounted = self.numbered + self.messages.iter().map(Pending::accounted_bytes).sum::<usize>();
        self.ledger.add_waiting(self.accounted);
        self.ledger.remove_waiting(before);
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.ledger.remove_waiting(self.accounted);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ground::figures::Via;
    use crate::topic::publish::Reply;
    use crate::wire::TopicName;

    const ROOM: Room = Room { frames: 6, bytes: 1_000 };

    fn pending(length: usize) -> Pending {
        let name = TopicName::new("t", 255).unwrap();
        let data = "1".repeat(length);
        Pending { publication: Publication::of_checked(&name, "1", "2", &data), reply: Reply::promise(Via::API).0 }
    }

    fn inbox() -> (Inbox, Arc<Ledger>) {
        let ledger = Arc::new(Ledger::default());
        (Inbox::new(ROOM, Arc::clone(&ledger)), ledger)
    }

    #[test]
    fn only_the_first_message_after_a_rest_wakes_the_actor() {
        let (mut inbox, _) = inbox();
        let wakes = [(); 2].map(|()| inbox.admit(pending(1), None).map(|()| inbox.notify()).unwrap());
        assert_eq!(wakes, [true, false]);
        assert!(!inbox.rest(), "two messages wait");
        while inbox.take().is_some() {}
        assert!(inbox.rest());
        inbox.admit(pending(1), None).unwrap();
        assert!(inbox.notify());
    }

    #[test]
    fn a_message_in_hand_at_a_crash_leaves_its_room() {
        let (mut inbox, ledger) = inbox();
        let (mut ticket, waker) = (None, Waker::noop());
        for _ in 0..ROOM.frames {
            inbox.admit(pending(1), None).unwrap();
        }
        let caller = Some(Caller { waker, ticket: &mut ticket });
        assert!(inbox.admit(pending(1), caller).is_err() && ticket.is_some());
        drop(inbox.take());
        assert_eq!(inbox.call().len(), 0, "the message may still be numbered");
        assert_eq!(inbox.recount(InFlight::default(), 0).len(), 1);
        assert_eq!(inbox.frames_in_flight(), ROOM.frames - 1);
        drop(inbox);
        assert_eq!(ledger.bytes(), 0);
    }

    #[test]
    fn refused_messages_leave_no_account_behind() {
        let (mut inbox, ledger) = inbox();
        let messages = [1, 2, 3].map(|length| inbox.admit(pending(length), None));
        assert!(messages.iter().all(Result::is_ok) && ledger.bytes() > 0);
        let (refused, called) = inbox.refuse_all(0);
        assert_eq!((refused.len(), called.len()), (3, 0));
        assert_eq!((inbox.frames_in_flight(), ledger.bytes()), (0, 0));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Offer(usize),
        Number(usize),
        Seal,
        HandOut,
        /// The actor dies, perhaps with a message in hand.
        Crash(bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1_usize..400).prop_map(Step::Offer),
            3 => (1_usize..500).prop_map(Step::Number),
            2 => Just(Step::Seal),
            2 => Just(Step::HandOut),
            1 => any::<bool>().prop_map(Step::Crash),
        ]
    }

    /// Numbered messages by the lengths of their frames: in the open batch, and in sealed batches.
    #[derive(Default)]
    struct Numbered {
        open: Vec<usize>,
        sealed: Vec<usize>,
    }

    impl Numbered {
        fn in_flight(&self) -> InFlight {
            let frames = self.open.iter().chain(&self.sealed);
            InFlight { frames: frames.clone().count(), bytes: frames.sum() }
        }
    }

    proptest! {
        #[test]
        fn the_accounts_hold_whatever_happens(steps in prop::collection::vec(step(), 0..120)) {
            let (mut inbox, ledger) = inbox();
            let mut waiting: VecDeque<usize> = VecDeque::new();
            let mut numbered = Numbered::default();
            for step in steps {
                match step {
                    Step::Offer(length) => {
                        let message = pending(length);
                        let bytes = message.publication.len();
                        let before = numbered.in_flight();
                        let (frames, all) = (before.frames + waiting.len(), before.bytes + waiting.iter().sum::<usize>());
                        let fits = frames < ROOM.frames && (frames == 0 || all + bytes <= ROOM.bytes);
                        prop_assert_eq!(inbox.admit(message, None).is_ok(), fits);
                        if fits {
                            waiting.push_back(bytes);
                        }
                    }
                    Step::Number(frame) => {
                        let taken = inbox.take().map(|pending| pending.publication.len());
                        prop_assert_eq!(taken, waiting.pop_front(), "first come, first served");
                        if let Some(bytes) = taken {
                            inbox.note_numbered(bytes, frame);
                            numbered.open.push(frame);
                        }
                    }
                    Step::Seal => {
                        inbox.note_sealed();
                        numbered.sealed.append(&mut numbered.open);
                        let unnumbered = inbox.messages.iter().map(Pending::accounted_bytes).sum::<usize>();
                        prop_assert_eq!(inbox.accounted, unnumbered);
                    }
                    Step::HandOut => {
                        let frames = std::mem::take(&mut numbered.sealed);
                        inbox.note_handed_out(InFlight { frames: frames.len(), bytes: frames.iter().sum() });
                    }
                    Step::Crash(in_hand) => {
                        if in_hand {
                            drop(inbox.take());
                            waiting.pop_front();
                        }
                        inbox.recount(numbered.in_flight(), numbered.open.iter().sum());
                    }
                }
                let InFlight { frames, bytes } = numbered.in_flight();
                let expected = InFlight {
                    frames: frames + waiting.len(),
                    bytes: bytes + waiting.iter().sum::<usize>(),
                };
                prop_assert_eq!(inbox.in_flight, expected);
                prop_assert_eq!(ledger.bytes(), inbox.accounted);
            }
            drop(inbox);
            prop_assert_eq!(ledger.bytes(), 0);
        }
    }
}
