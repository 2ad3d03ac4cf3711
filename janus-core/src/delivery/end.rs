//! Why a connection ends before its client asks for the end.

use std::io;

/// Why a connection ends before its client asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It did not take what waited for it, which was so much.
    SlowConsumer { why: SlowReason, frames: u32, bytes: u32 },
    /// The peer is gone: a send was refused by the kernel.
    Broken(io::ErrorKind),
    /// Nothing can be sent, and nothing has come for a while that would tell that the peer is gone.
    GivenUp,
    /// Its codec has panicked, so that it would miss something without a word.
    CodecPanicked,
    /// It let a frame stay unfinished for too long, or did not say what it is for.
    FrameTimeout,
    /// It has no place of `max_connections`, and another connection needs the room.
    Crowded,
    /// It did not answer a heartbeat in time, unless the answer is there and has not been read.
    PingTimeout,
    /// It would have missed messages of a topic that had to start afresh, without being told.
    MessagesLost,
    /// Another connection has taken over its session.
    SessionTaken,
    /// Memory is short, and the client holds some without having asked for anything.
    Overloaded,
    /// The operator wants the client to go.
    Disconnected {
        /// Whether it may come back.
        reconnect: bool,
    },
    /// The instance ends, and it is this connection's turn to be closed.
    Draining,
    /// The instance has ended; for a subscriber in this process, which has no Transport to tell it.
    ShutDown,
}

/// What made a client too slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlowReason {
    /// Its queue took no more.
    QueueFull,
    /// It has taken nothing for too long.
    Stalled,
    /// The memory of the instance was nearly used up, and its queue was among the largest.
    Memory,
}

impl End {
    /// Whether the socket is done for, and its close is a reset.
    pub(crate) fn resets(self) -> bool {
        matches!(self, Self::SlowConsumer { .. } | Self::Broken(_) | Self::GivenUp | Self::CodecPanicked)
    }
}
