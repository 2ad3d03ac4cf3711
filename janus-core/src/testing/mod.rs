//! For tests of programs that embed Janus: a server on a port of its own, a client of `janus.v1.json` over WebSocket, and time
//! that a test moves. A feature, `testing`, for `[dev-dependencies]`.
//!
//! ```toml
//! [dev-dependencies]
//! janus-core = { version = "0.1", features = ["testing"] }
//! ```
//!
//! Each wait has a limit ([`TestClient::patience`]), and a test that waits in vain panics with what the client has seen
//! instead.
//!
//! ```
//! use janus_core::testing::TestServer;
//!
//! #[tokio::main(flavor = "current_thread")] // in a program: #[tokio::test]
//! async fn main() {
//!     let server = TestServer::start().await;
//!     let mut client = server.client().await;
//!     client.subscribe("news").await;
//!
//!     server.janus().publish("news", &"hello").await.unwrap();
//!
//!     assert_eq!(client.next_message().await.data::<String>(), "hello");
//!     client.expect_no_message().await;
//! }
//! ```
//!
//! An hour passes in about a second, on a server whose time stands still otherwise:
//!
//! ```
//! use std::time::{Duration, SystemTime};
//!
//! use janus_core::Janus;
//! use janus_core::hooks::{ConnectRequest, Denied, Hooks, Identity};
//! use janus_core::testing::TestServer;
//!
//! struct AnHour;
//!
//! impl Hooks for AnHour {
//!     async fn authenticate(&self, _: ConnectRequest) -> Result<Identity, Denied> {
//!         Ok(Identity::user("alice").expires(SystemTime::now() + Duration::from_secs(3600)))
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let server = TestServer::with_stopped_time(Janus::builder().hooks(AnHour)).await;
//! let mut client = server.client().await;
//! server.advance(Duration::from_secs(3500)).await;
//! client.expect_no_message().await; // and still connected
//! server.advance(Duration::from_secs(200)).await;
//! assert_eq!(client.closed().await.error, "token_expired");
//! # }
//! ```
//!
//! A client of an HTTP server of your own, in which Janus is [mounted](crate::mount), is made with [`Connect`]:
//! `Connect::to(addr).header("cookie", "session=1").connect().await`.
//!
//! | file | what it is | what it owns |
//! |---|---|---|
//! | `client.rs` | client | [`TestClient`], and how it [connects](Connect) |
//! | `server.rs` | server | [`TestServer`] |

mod client;
mod server;

pub use client::{Connect, Refused, TestClient, TestClosed, TestEvent, TestMessage};
pub use server::TestServer;
