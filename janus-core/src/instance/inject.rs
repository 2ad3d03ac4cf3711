//! Faults for tests of a running instance.

use super::janus::Janus;
use crate::ground::fault::{Crash, Fault};
use crate::wire::Peer;

impl Janus {
    /// Makes a part of the tree fail, now or at the next chance.
    pub fn inject(&self, fault: Fault) {
        let shared = &self.inner.shared;
        shared.faults.arm(&fault);
        let crash = Crash { hang: None };
        // An actor that is not running has crashed already.
        let _ = match fault {
            Fault::TopicManager => shared.topic_manager.cast(crash),
            Fault::Hang(time) => shared.topic_manager.cast(Crash { hang: Some(time) }),
            Fault::ProxyMapper => shared.proxy_mapper.cast(crash),
            Fault::Acceptor => {
                shared.endpoints.iter().try_for_each(|endpoint| endpoint.acceptor.cast(Crash { hang: None }))
            }
            Fault::Topic(name) => shared.topics.table.find(&name).map_or(Ok(()), |topic| topic.actor.cast(crash)),
            Fault::Transport(peer) => {
                shared.connections.table.visit(0..usize::MAX, |slot| {
                    if slot.peer == Some(Peer::Addr(peer)) {
                        slot.crash_transport();
                    }
                });
                Ok(())
            }
            Fault::TopicSend(_)
            | Fault::TopicEncode(_)
            | Fault::TopicCommit(_)
            | Fault::TopicStarts(_)
            | Fault::TopicListed
            | Fault::Errand(_)
            | Fault::EngineAnswer(_)
            | Fault::MemoryTaken(_)
            | Fault::TopicHang(_)
            | Fault::TlsHandshake(_)
            | Fault::HelperSend(_)
            | Fault::SenderSend(_) => Ok(()),
        };
    }
}
