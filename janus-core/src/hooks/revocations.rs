//! Users and tokens whose right to be served was withdrawn before its end.
//!
//! A table with a limit, in memory alone: a restart forgets all revocations. An entry leaves when its time is over.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use parking_lot::Mutex;

use super::Identity;

/// A user, or a single token, to be served no longer: see [`Janus::revoke`](crate::Janus::revoke).
///
/// ```
/// use janus_core::hooks::Revocation;
///
/// let (user, token) = (Revocation::user("alice"), Revocation::token("f81d4fae"));
/// assert_ne!(user, token);
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revocation(Kind);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Kind {
    User(Arc<str>),
    Token(Arc<str>),
}

impl Revocation {
    /// The largest size of a name or an identifier, so that a full table has a limit in bytes, too.
    pub const MAX_BYTES: usize = 1_024;

    /// All clients of a user, by [`Identity::user`].
    #[must_use]
    pub fn user(name: impl AsRef<str>) -> Self {
        Self(Kind::User(name.as_ref().into()))
    }

    /// All clients of a token, by [`Identity::token_id`].
    #[must_use]
    pub fn token(id: impl AsRef<str>) -> Self {
        Self(Kind::Token(id.as_ref().into()))
    }

    /// Whether this is about the client of the identity.
    pub(crate) fn covers(&self, identity: &Identity) -> bool {
        match &self.0 {
            Kind::User(name) => identity.user == **name,
            Kind::Token(id) => identity.token_id.as_deref() == Some(&**id),
        }
    }

    /// The name of the user; `None` for a token.
    pub(crate) fn of_user(&self) -> Option<&str> {
        match &self.0 {
            Kind::User(name) => Some(name),
            Kind::Token(_) => None,
        }
    }

    /// The identifier of the token; `None` for a user.
    pub(crate) fn of_token(&self) -> Option<&str> {
        match &self.0 {
            Kind::User(_) => None,
            Kind::Token(id) => Some(id),
        }
    }

    fn text(&self) -> &str {
        match &self.0 {
            Kind::User(text) | Kind::Token(text) => text,
        }
    }
}

/// Hides the identifier of a token.
impl fmt::Debug for Revocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::User(name) => write!(f, "Revocation::user({name:?})"),
            Kind::Token(_) => f.write_str("Revocation::token(…)"),
        }
    }
}

/// Why a revocation is not carried out. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RevokeError {
    /// The name or the identifier is empty, or longer than [`Revocation::MAX_BYTES`].
    #[error("the user or token must have 1 to {max} bytes", max = Revocation::MAX_BYTES)]
    BadText,
    /// The revocation would be over already.
    #[error("the time of a revocation must be in the future: name the end of the last token")]
    Over,
    /// As many revocations are in force as [`Config::max_revocations`](crate::Config::max_revocations) allows.
    #[error("the limit of {max} revocations in force is reached: raise max_revocations, or change the keys of tokens")]
    TooMany {
        /// The limit.
        max: usize,
    },
}

/// The revocations in force.
#[derive(Debug)]
pub(crate) struct Revocations {
    max: AtomicUsize,
    /// Mirrors the number of entries: mostly there are none, and each client that connects looks.
    count: AtomicUsize,
    table: Mutex<Table>,
}

/// Invariant: both parts hold the same entries.
#[derive(Debug, Default)]
struct Table {
    entries: HashMap<Revocation, SystemTime>,
    by_end: BTreeSet<(SystemTime, Revocation)>,
}

impl Revocations {
    pub(crate) fn new(max: usize) -> Self {
        Self { max: AtomicUsize::new(max), count: AtomicUsize::new(0), table: Mutex::default() }
    }

    /// Takes over another limit. Revocations in force beyond a lower limit stay.
    pub(crate) fn follow(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// Enters a revocation. A repetition moves the end of an earlier one, but never to an earlier time.
    pub(crate) fn enter(&self, revocation: Revocation, until: SystemTime, now: SystemTime) -> Result<(), RevokeError> {
        if !(1..=Revocation::MAX_BYTES).contains(&revocation.text().len()) {
            return Err(RevokeError::BadText);
        }
        if until <= now {
            return Err(RevokeError::Over);
        }
        self.expire(now);
        let mut table = self.table.lock();
        let table = &mut *table;
        let earlier = table.entries.get(&revocation).copied();
        let max = self.max.load(Ordering::Relaxed);
        match earlier {
            Some(end) if end >= until => return Ok(()),
            Some(end) => {
                table.by_end.remove(&(end, revocation.clone()));
            }
            None if table.entries.len() >= max => return Err(RevokeError::TooMany { max }),
            None => {}
        }
        table.by_end.insert((until, revocation.clone()));
        table.entries.insert(revocation, until);
        self.count.store(table.entries.len(), Ordering::Relaxed);
        Ok(())
    }

    /// Whether a client of this identity may not be served.
    pub(crate) fn cover(&self, identity: &Identity, now: SystemTime) -> bool {
        if self.len() == 0 {
            return false;
        }
        let table = self.table.lock();
        let is_revoked = |revocation| table.entries.get(&revocation).is_some_and(|end| *end > now);
        (!identity.is_anonymous() && is_revoked(Revocation::user(&identity.user)))
            || identity.token_id.as_ref().is_some_and(|id| is_revoked(Revocation::token(id)))
    }

    /// Drops the entries whose time is over.
    pub(crate) fn expire(&self, now: SystemTime) {
        if self.len() == 0 {
            return;
        }
        let mut table = self.table.lock();
        while let Some((end, _)) = table.by_end.first()
            && *end <= now
            && let Some((_, revocation)) = table.by_end.pop_first()
        {
            table.entries.remove(&revocation);
        }
        self.count.store(table.entries.len(), Ordering::Relaxed);
    }

    /// The number of revocations in force.
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A moment in seconds.
    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    #[test]
    fn a_revocation_covers_its_user_or_token_until_its_end() {
        let revocations = Revocations::new(10);
        let alice = Identity::user("alice").token_id("1");
        assert!(!revocations.cover(&alice, at(0)));
        revocations.enter(Revocation::user("alice"), at(10), at(0)).unwrap();
        assert!(revocations.cover(&alice, at(9)) && !revocations.cover(&alice, at(10)));
        for other in [Identity::user("bob").token_id("alice"), Identity::anonymous()] {
            assert!(!revocations.cover(&other, at(1)));
        }
        revocations.enter(Revocation::token("1"), at(20), at(0)).unwrap();
        assert!(revocations.cover(&Identity::anonymous().token_id("1"), at(19)));
        assert!(!revocations.cover(&Identity::user("1"), at(1)));
    }

    #[test]
    fn entries_whose_time_is_over_leave_and_make_room() {
        let revocations = Revocations::new(2);
        let enter = |name: &str, until, now| revocations.enter(Revocation::user(name), at(until), at(now));
        for (name, until) in [("a", 10), ("b", 20)] {
            enter(name, until, 0).unwrap();
        }
        assert_eq!(enter("c", 30, 9), Err(RevokeError::TooMany { max: 2 }));
        assert_eq!(enter("a", 15, 9), Ok(()), "an entry needs no second place");
        assert_eq!(enter("a", 12, 9), Ok(()));
        revocations.expire(at(14));
        assert!(revocations.cover(&Identity::user("a"), at(14)), "a repetition takes nothing back");
        assert_eq!(enter("c", 30, 15), Ok(()));
        revocations.expire(at(30));
        assert_eq!(revocations.len(), 0);
    }

    #[test]
    fn a_revocation_without_a_name_or_a_future_is_refused() {
        let revocations = Revocations::new(2);
        for name in ["", &"x".repeat(1_025)] {
            assert_eq!(revocations.enter(Revocation::user(name), at(2), at(1)), Err(RevokeError::BadText));
        }
        assert_eq!(revocations.enter(Revocation::user("a"), at(1), at(1)), Err(RevokeError::Over));
        assert_eq!(revocations.enter(Revocation::user("x".repeat(1_024)), at(2), at(1)), Ok(()));
    }

    #[test]
    fn a_log_shows_no_identifier_of_a_token() {
        assert_eq!(format!("{:?}", Revocation::token("1")), "Revocation::token(…)");
    }
}
