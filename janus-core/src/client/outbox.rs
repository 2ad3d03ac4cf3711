//! Frames to be sent. Frames wait here and not at the socket, so that a request whose call has ended is not sent, and takes
//! no memory.

use std::collections::VecDeque;

use super::ClientError;

#[derive(Default)]
pub(super) struct Outbox {
    /// In the order of sending, which is the order of the ids.
    frames: VecDeque<Frame>,
    last_id: u64,
    /// Requests up to this id were taken by the socket; the server can have answered none of the others.
    sent_id: u64,
}

pub(super) struct Frame {
    /// Of a request with an answer.
    pub(super) id: Option<u64>,
    pub(super) text: String,
}

impl Outbox {
    /// Queues a frame without an answer.
    pub(super) fn push(&mut self, text: String) {
        self.frames.push_back(Frame { id: None, text });
    }

    /// Queues a request with an id of its own, which is returned.
    pub(super) fn request(&mut self, max_bytes: usize, text: impl FnOnce(u64) -> String) -> Result<u64, ClientError> {
        let id = self.last_id + 1;
        let text = text(id);
        if text.len() > max_bytes {
            // The server would close the connection.
            return Err(ClientError::TooLarge { bytes: text.len(), max: max_bytes });
        }
        self.last_id = id;
        self.frames.push_back(Frame { id: Some(id), text });
        Ok(id)
    }

    /// Takes the next frame for the socket.
    pub(super) fn pop(&mut self) -> Option<Frame> {
        let frame = self.frames.pop_front()?;
        self.sent_id = frame.id.unwrap_or(self.sent_id);
        Some(frame)
    }

    /// Whether the socket has taken the request.
    pub(super) fn is_sent(&self, id: u64) -> bool {
        id <= self.sent_id
    }

    /// Removes a request, unless the socket has taken the request already. Returns whether the request was removed.
    pub(super) fn take_back(&mut self, id: u64) -> bool {
        if self.is_sent(id) {
            return false;
        }
        // Most requests that are taken back are young.
        let place = self.frames.iter().rposition(|frame| frame.id == Some(id));
        place.and_then(|place| self.frames.remove(place)).is_some()
    }

    /// Removes all requests but these.
    pub(super) fn retain(&mut self, mut keeps: impl FnMut(u64) -> bool) {
        self.frames.retain(|frame| frame.id.is_none_or(&mut keeps));
    }

    pub(super) fn clear(&mut self) {
        self.frames.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.frames.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_can_be_taken_back_until_the_socket_has_it() {
        let mut outbox = Outbox::default();
        let ids = [1, 2, 3].map(|_| outbox.request(10, |id| id.to_string()).unwrap());
        assert_eq!(ids, [1, 2, 3]);
        outbox.push("end".to_owned());
        assert_eq!(outbox.pop().unwrap().text, "1");
        assert!(outbox.is_sent(1) && !outbox.is_sent(2));
        assert!(!outbox.take_back(1) && outbox.take_back(2) && !outbox.take_back(2));
        outbox.retain(|id| id != 3);
        assert_eq!((outbox.len(), outbox.pop().unwrap().text.as_str()), (1, "end"));
        assert!(matches!(outbox.request(1, |_| "long".to_owned()), Err(ClientError::TooLarge { bytes: 4, max: 1 })));
    }
}
