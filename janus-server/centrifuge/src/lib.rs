//! Clients of Centrifugo on a Janus server: the client protocol (JSON, over WebSocket) and the server API.
//!
//! Channels are topics, positions are positions, and publications have the order of the topic. The crate is a
//! [`MessageProtocol`](janus_core::wire::websocket::MessageProtocol) and a few routes of HTTP on the public API of `janus-core`.
//! `docs/CENTRIFUGE.md` in the repository says what works, and what does not and why.
//!
//! ```
//! use janus_centrifuge::{Centrifuge, ServerApi};
//! use janus_core::{Config, Janus};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let config = Config { listen: vec![], http_listen: vec!["127.0.0.1:0".parse()?], ..Config::default() };
//! let api = ServerApi::with_key("a key of the backend");
//! let builder = Janus::builder().config(config);
//! let builder = builder.websocket("/connection/websocket".parse()?, Centrifuge::websocket());
//! let janus = builder.route(api.route("/centrifuge/api")?).start().await?;
//! # janus.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! | file | what it is | what it owns |
//! |---|---|---|
//! | `protocol.rs` | pure: a protocol | [`Centrifuge`], and what clients are told |
//! | `decoder.rs` | pure: a decoder | [`CentrifugeDecoder`], the commands of one client |
//! | `command.rs` | pure: values | commands as clients write them |
//! | `request_id.rs` | pure: a value | the number of a command, with the kind of its reply |
//! | `codes.rs` | pure: a table | the codes of errors and closes for each code of Janus |
//! | `json.rs` | pure: a writer | JSON objects, member by member |
//! | `api/` | routes | [`ServerApi`], the methods for backends |

#![forbid(unsafe_code)]

mod api;
pub mod codes;
mod command;
mod decoder;
mod json;
mod protocol;
mod request_id;

pub use api::ServerApi;
pub use decoder::CentrifugeDecoder;
pub use protocol::Centrifuge;
