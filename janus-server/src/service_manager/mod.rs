//! The service manager: its messages and sockets, by the protocols of systemd, and the state left by a server to the next
//! server.
//!
//! | file | what it is | what it owns |
//! |---|---|---|
//! | `mod.rs` | – | the names of this folder |
//! | `handover.rs` | a file | the numbers of topics, from the end of a server to the start of the next |
//! | `notify.rs` | a datagram socket | the state of the server, told to the service manager, and its watchdog |
//! | `sockets.rs` | listening sockets | the sockets opened by the service manager, and their protocols |

pub(crate) mod handover;
pub(crate) mod notify;
pub(crate) mod sockets;
