//! The number of a command, with the kind of its reply.
//!
//! An answer of Janus does not name the kind of its request: the members of a topic may be wanted as a list or as two numbers. The
//! number of a request is echoed, though, and has twice the bits of a number of Centrifugo's: the upper half has the kind.

use janus_core::wire::RequestId;

/// What kind of reply a command wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Connect,
    Subscribe,
    /// As [`Subscribe`](Self::Subscribe), with an error in place of a subscription that does not recover.
    SubscribeOrFail,
    /// As [`Subscribe`](Self::Subscribe), with a token of the subscription's own.
    SubscribeWithToken,
    Unsubscribe,
    Publish,
    Presence,
    PresenceStats,
    History,
    Refresh,
}

const KINDS: [Kind; 10] = [
    Kind::Connect,
    Kind::Subscribe,
    Kind::SubscribeOrFail,
    Kind::SubscribeWithToken,
    Kind::Unsubscribe,
    Kind::Publish,
    Kind::Presence,
    Kind::PresenceStats,
    Kind::History,
    Kind::Refresh,
];

/// The request of a command with this number.
pub(crate) fn request_id(kind: Kind, number: u32) -> RequestId {
    Some((kind as u64) << 32 | u64::from(number))
}

/// The kind and the number of a command; `None` for a request that no command has made.
pub(crate) fn of(id: RequestId) -> Option<(Kind, u32)> {
    let id = id?;
    Some((*KINDS.get((id >> 32) as usize)?, (id & u64::from(u32::MAX)) as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_keeps_its_kind_and_its_number() {
        for kind in KINDS {
            for number in [1, u32::MAX] {
                assert_eq!(of(request_id(kind, number)), Some((kind, number)));
            }
        }
        assert_eq!((of(None), of(Some(u64::MAX))), (None, None));
    }
}
