//! The client commands.
//!
//! | file or folder | what it is | what it owns |
//! |---|---|---|
//! | `mod.rs` | names | what the other folders use of this one |
//! | `server.rs` | flags | the address, the key and the token, by flags, variables and settings |
//! | `ports.rs` | a look at a port | telling the ports of a server apart, for a command at the wrong port |
//! | `stream.rs` | connections | resolving, connecting, TLS, blocking or asynchronous |
//! | `tls.rs` | pure | the accepted authorities, failed handshakes in words |
//! | `http.rs` | a kept connection | requests to the HTTP API, trying each key |
//! | `modern.rs` | errors in words | the protocol `janus.v1.json`, by the client of janus-core |
//! | `classic.rs` | a connection | reading frames of the classic protocol |
//! | `output.rs` | printing | lines of JSON, tables, strangers' text made visible |
//! | `error.rs` | errors | error messages, and which of them are mistakes of the user |
//! | `publish.rs` | the command `publish` | reading messages from the command line or standard input, printing receipts |
//! | `subscribe/` | the command `subscribe` | printing messages, coming back after a lost connection |
//! | `history.rs` | the command `history` | kept messages, page by page |
//! | `presence.rs` | the command `presence` | who is subscribed to a topic |
//! | `lists.rs` | the commands `topics` and `connections` | lists, page by page |
//! | `disconnect.rs` | the command `disconnect` | closing connections |
//! | `trace.rs` | the command `trace` | printing the lines of a trace |
//! | `health.rs` | the command `health` | the exit code by the server's health |
//! | `log.rs` | the command `log` | showing and changing the levels of a server's log |
//! | `reload.rs` | the command `reload` | showing what a reload of a server's settings has changed |

mod classic;
pub(crate) mod disconnect;
mod error;
pub(crate) mod health;
pub(crate) mod history;
pub(crate) mod http;
pub(crate) mod lists;
pub(crate) mod log;
mod modern;
mod output;
mod ports;
pub(crate) mod presence;
pub(crate) mod publish;
pub(crate) mod reload;
pub(crate) mod server;
mod stream;
pub(crate) mod subscribe;
mod tls;
pub(crate) mod trace;

pub(crate) use classic::Connection;
pub(crate) use error::{ClientError, advice};
pub(crate) use stream::{open_socket, resolve};
pub(crate) use tls::engine_tls;
