//! What a service manager and the server tell each other, and what a server leaves to its successor: `systemd`'s
//! protocols, without its library.
//!
//! | file | what it is | what it owns |
//! |---|---|---|
//! | `mod.rs` | – | the names of this folder |
//! | `handover.rs` | a file | the numbers of topics, from the end of a server to the start of the next |
//! | `notify.rs` | a datagram socket | the state of the server, told to the service manager, and its watchdog |
//! | `sockets.rs` | listening sockets | sockets that the service manager has opened, and their protocols |

pub(crate) mod handover;
pub(crate) mod notify;
pub(crate) mod sockets;
