//! The connection as one of its user's, of whom `max_connections_per_user` limits the number.

use std::sync::atomic::Ordering;

use super::Transport;
use crate::connection::users::Full;
use crate::delivery::End;
use crate::ground::log_lines::counted;
use crate::session::SessionToken;

/// For a client whose user has as many connections as allowed.
pub(super) const USER_FULL: &str = "this user has as many connections as allowed; close one of them";

impl Transport {
    /// Counts the connection for its user, and ends another connection of the user if need be. A connection that is
    /// about to take over the session of another connection takes that connection's place.
    pub(super) fn count_for_user(&mut self, user: &str, session: Option<&str>) -> Result<(), Full> {
        let most = self.shared.config().max_connections_per_user;
        if most == 0 || user.is_empty() {
            return Ok(());
        }
        let token = session.and_then(SessionToken::from_hex);
        let holder = token.and_then(|token| self.shared.sessions.table.holder(&token, user, &self.slot));
        match self.shared.users.enter(user, &self.slot, holder, most, self.shared.config().user_limit) {
            Ok(oldest) => {
                self.counts_for_user = true;
                if let Some(oldest) = oldest {
                    oldest.end(End::Replaced);
                }
                Ok(())
            }
            Err(Full) => {
                self.note_refused_for_user(most);
                Err(Full)
            }
        }
    }

    fn note_refused_for_user(&self, most: usize) {
        let counters = &self.shared.counters;
        let refused = counters.connections_refused_for_user.fetch_add(1, Ordering::Relaxed) + 1;
        // A few lines for a burst of refusals, not a line for each.
        if refused.is_power_of_two() {
            log::warn!(
                conn = self.slot.id, peer:% = self.session.peer(), setting = "max_connections_per_user", refused;
                "{}: refused, its user has as many connections as max_connections_per_user ({most}) allows ({} so \
                 far)",
                self.session.peer(),
                counted(refused, "such refusal")
            );
        }
    }

    /// Ends the count, once the connection begins to close.
    pub(super) fn leave_user(&mut self) {
        if self.counts_for_user {
            self.stop_counting(self.slot.id);
            self.counts_for_user = false;
        }
    }

    /// Ends the count of a connection of the same user whose end is certain: the user may need the place before.
    pub(super) fn stop_counting(&self, connection: u64) {
        if let (true, Some(identity)) = (self.counts_for_user, self.session.identity()) {
            self.shared.users.leave(&identity.user, connection);
        }
    }
}
