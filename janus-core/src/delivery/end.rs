//! The reasons for which the server ends a connection.

use std::io;

/// Why a connection ends before its client asks for the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The client did not take its queue, which was this large.
    SlowConsumer { why: SlowReason, frames: u32, bytes: u32 },
    /// The peer is gone: a send was refused by the kernel.
    Broken(io::ErrorKind),
    /// Nothing can be sent, and for a while nothing has come that would tell whether the peer is gone.
    GivenUp,
    /// The codec has panicked, so the client would miss a message without a word.
    CodecPanicked,
    /// The client left a frame unfinished for too long, or did not say what the connection is for.
    FrameTimeout,
    /// The client has sent no further request over a kept connection.
    Idle,
    /// The connection has no place of `max_connections`, and another connection needs the room.
    Crowded,
    /// The client did not answer a heartbeat in time, unless the answer has arrived and is not read yet.
    PingTimeout,
    /// The client would have missed messages of a topic that had to start afresh, without being told.
    MessagesLost,
    /// Another connection has taken over the session.
    SessionTaken,
    /// The client has sent more than a rate allows for too long.
    RateLimited(Exceeded),
    /// A newer connection of the same user has taken the place of this connection.
    Replaced,
    /// Memory is short, and the client holds some without having asked for anything.
    Overloaded,
    /// The operator wants the client to go.
    Disconnected {
        /// Whether the client may come back.
        reconnect: bool,
    },
    /// The client's identity has ended, and no other has come in time.
    TokenExpired,
    /// The operator has withdrawn the client's right to be served.
    Revoked,
    /// The instance drains, and this connection's turn to be closed has come.
    Draining,
    /// The instance has ended; for a subscriber in this process, which no Transport could tell.
    ShutDown,
}

/// How a client was too slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlowReason {
    /// Its queue was full.
    QueueFull,
    /// The client has taken nothing for too long.
    Stalled,
    /// The memory of the instance was nearly used up, and this client's queue was among the largest.
    Memory,
}

/// The rate that a client has exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exceeded {
    Publishes,
    Bytes,
    Subscribes,
}

impl End {
    /// Whether the Transport may find that the reason is gone, and keep the connection. Such an end must not stand in the
    /// way of an end that holds, such as a revocation.
    pub(crate) fn may_lapse(self) -> bool {
        matches!(self, Self::PingTimeout | Self::FrameTimeout | Self::Idle | Self::Crowded | Self::TokenExpired)
    }

    /// Whether nothing more can be sent, and the close of the socket is a reset.
    pub(crate) fn resets(self) -> bool {
        matches!(self, Self::SlowConsumer { .. } | Self::Broken(_) | Self::GivenUp | Self::CodecPanicked)
    }
}
