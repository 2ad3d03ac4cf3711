//! Connections.

pub(crate) mod acceptor;
pub(crate) mod guests;
pub(crate) mod heartbeat;
pub(crate) mod list;
pub(crate) mod listener;
pub(crate) mod slow_clients;
pub(crate) mod socket_options;
pub(crate) mod transport;
pub(crate) mod turn;
