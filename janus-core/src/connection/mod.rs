//! Connections: from an accepted byte stream to the end of the stream.
//!
//! | file | kind | owns |
//! |---|---|---|
//! | `acceptor.rs` | actor | a listener; decides whether there is room for another client |
//! | `crowd.rs` | table | connections by network address, and which one makes room first |
//! | `foreknown.rs` | pure | what the program says of a client before its connection is served |
//! | `guests.rs` | table | connections without a place of `max_connections`, and their order of making room |
//! | `heartbeat.rs` | task | the tick: pings, unfinished frames, stalled clients |
//! | `linger.rs` | task | the end of a refused connection without a Transport |
//! | `list.rs` | pure | the list of connections as the operator sees it |
//! | `listener.rs` | trait | the sources of byte streams |
//! | `moving.rs` | pure | the move of a connection to its home arbiter |
//! | `port.rs` | pure | the sockets of a port, and the options of their connections |
//! | `proxied.rs` | futures | connections of load balancers, until their PROXY header has been read |
//! | `rates.rs` | pure | the rates of each client |
//! | `returning.rs` | pure | the way back of a stream that was passed on |
//! | `shared.rs` | table | the shared part of this floor |
//! | `slow_clients.rs` | pure | clients that do not keep up, for the operator and the log |
//! | `socket_options.rs` | pure | the options of each client's socket |
//! | `table.rs` | table | the slots of all connections, and the limits on their number |
//! | `tls/` | table and threads | certificates, and the handshakes of TLS listeners |
//! | `transport.rs`, `transport/` | actor | a connection: reads, decodes, carries out, closes |
//! | `turn.rs` | table | turns for lengthy work of connections |
//! | `users.rs` | table | the connections of each user |

pub(crate) mod acceptor;
mod crowd;
pub(crate) mod foreknown;
pub(crate) mod guests;
pub(crate) mod heartbeat;
mod linger;
pub(crate) mod list;
pub(crate) mod listener;
pub(crate) mod moving;
pub(crate) mod port;
mod proxied;
pub(crate) mod rates;
pub(crate) mod returning;
mod shared;
pub(crate) mod slow_clients;
pub(crate) mod socket_options;
pub(crate) mod table;
pub(crate) mod tls;
pub(crate) mod transport;
pub(crate) mod turn;
pub(crate) mod users;

pub(crate) use shared::{CONNECTION_BYTES, Connections};
