//! The identity of the client: given by the hooks when the client connects, refreshed in band, and ended by time or by the
//! operator.

use super::Transport;

/// For a client whose user or token was revoked.
pub(super) const REVOKED_WORDS: &str = "the right of this user or token was revoked";

impl Transport {
    /// Whether the client's identity has ended. A refresh may have come after the decision to end the connection.
    pub(super) fn has_expired(&self) -> bool {
        self.slot.expires.is_over(self.shared.clock.moment())
    }
}
