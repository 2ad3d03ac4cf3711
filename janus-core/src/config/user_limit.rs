//! The values of the setting `user_limit`.

/// What happens with a connection beyond
/// [`Config::max_connections_per_user`](super::Config::max_connections_per_user).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum UserLimit {
    /// The connection is refused. Clients already connected stay.
    #[default]
    Refuse,
    /// The connection is served, and the oldest connection of the user is closed.
    CloseOldest,
}

names!(UserLimit as "user_limit": Refuse = "refuse", CloseOldest = "close_oldest");
