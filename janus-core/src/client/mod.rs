//! An asynchronous client of `janus.v1.json`, for programs with tokio (feature `client`).
//!
//! The client connects over WebSocket, comes back by itself after a lost connection, and continues each topic after the last
//! message: each message comes once and in order, or a [`Gap`] in its place. A program that runs the server itself needs no
//! client: [`Janus::subscribe`](crate::Janus::subscribe) is in process.
//!
//! ```
//! use janus_core::client::{Client, Item};
//! # use janus_core::{Config, Janus};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let listen = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
//! # let config = Config { listen: vec![], http_listen: vec![listen], ..Config::default() };
//! # let janus = Janus::builder().config(config).start().await?;
//! # let url = format!("ws://{listen}");
//! # let _ = r##"
//! let url = "ws://localhost:8080";
//! # "##;
//! let client = Client::builder(url).connect().await?;
//! let mut news = client.subscribe("news").await?;
//!
//! let receipt = client.publish("news", "it works").await?;
//! println!("number {} for {} subscriber", receipt.seq(), receipt.subscribers);
//!
//! while let Some(item) = news.next().await {
//!     match item? {
//!         Item::Message(message) => println!("{}", message.data()),
//!         Item::Gap(_) => println!("messages are missing: load the state anew"),
//!         _ => {}
//!     }
//! #   break;
//! }
//! client.close().await;
//! # janus.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Errors
//!
//! An error with a code of 4400 or more is [final](ClientError::is_final), except `token_expired` with
//! [`get_token`](ClientBuilder::get_token): a final error of a topic ends its [`Subscription`], a final error of the
//! connection ends the client. After all other errors the client comes back, after a random time of up to 1, 2, 4 … 30 s or
//! the time that the server names. Each lost connection is a warning in the log, and a [`State`].
//!
//! # Limits
//!
//! Each call ends within [`request_timeout`](ClientBuilder::request_timeout), each attempt to connect within
//! [`timeout`](ClientBuilder::timeout). Requests in flight ([`max_pending`](ClientBuilder::max_pending)) and messages not yet
//! taken ([`max_unread`](ClientBuilder::max_unread)) are bounded, and a server's frame has at most 32 MiB. A client is one task,
//! which ends with the last handle; only a look-up of a host's name, on a thread of the runtime, may take longer.
//!
//! # Inside: the files
//!
//! | file | what it is | what it owns |
//! |---|---|---|
//! | `builder.rs` | the API | settings, defaults, the birth of a client |
//! | `handle.rs` | the API | [`Client`] and its calls |
//! | `subscription.rs` | the API, a queue | [`Subscription`], and the queue between task and program |
//! | `item.rs` | values | messages, gaps, presence, receipts, pages of history |
//! | `error.rs` | values | [`ClientError`], and what is final |
//! | `task.rs` | the task | the socket, the clock, the return after a loss |
//! | `desk.rs` | pure | topics, positions, requests: what a frame means, and what is to be sent |
//! | `outbox.rs` | a queue | frames to be sent, and the ids of requests |
//! | `request.rs` | requests | publications, the way of an answer, and whether a call was sent |
//! | `socket.rs` | a connection | a WebSocket, from the connection to the frames |
//! | `tls.rs` | pure | the accepted authorities |
//! | `tokens.rs` | the token in force | the question for the next token |
//! | `address.rs` | pure | the URL |
//! | `back_off.rs` | pure | random waits |

mod address;
mod back_off;
mod builder;
mod desk;
mod error;
mod handle;
mod item;
mod outbox;
mod request;
mod socket;
mod subscription;
mod task;
mod tls;
mod tokens;

pub use builder::ClientBuilder;
pub use desk::Assigned;
pub use error::{ClientError, TokenError, TokenFailure};
pub use handle::{AssignedTopics, Client, Publish, State, Subscribe};
pub use item::{Begun, Gap, HistoryPage, Item, Message, Presence, Published};
pub use subscription::{Subscription, WhenFull};

pub use crate::wire::v1::client::PresenceChange;
pub use crate::wire::{ClientId, HistoryQuery, IdempotencyKey, Member, Position, Since};
