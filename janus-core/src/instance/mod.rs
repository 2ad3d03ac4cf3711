//! An instance: start, handle, end.
//!
//! | file | kind | owns |
//! |---|---|---|
//! | `application.rs` | supervisor | the embedder's own actors and their thread |
//! | `builder.rs` | API | settings and listeners until the instance starts |
//! | `certificates.rs` | API | new certificates for TLS listeners (a feature) |
//! | `clients.rs` | API | connections, sessions and slow clients; closing a connection |
//! | `cluster.rs` | API | the instance as a node: its engine, the other nodes, requests to all nodes |
//! | `drain.rs` | task | the end of an instance, spread over time |
//! | `inject.rs` | tests | faults put into a running instance |
//! | `janus.rs` | API | the handle of a running instance |
//! | `memory.rs`, `memory/strangers.rs` | task | what is given up when memory runs short |
//! | `metrics.rs` | API | all figures as families of series |
//! | `mount.rs`, `mount/answer.rs`, `mount/pipe.rs`, `mount/publishing.rs`, `mount/routing.rs` | API | requests of another HTTP server as clients; the answers; bytes without a socket; requests that publish; the program's own paths |
//! | `presence.rs` | API | who is subscribed to a topic |
//! | `reload.rs` | API | other settings for a running instance |
//! | `routes/` | API and tasks | requests of the HTTP port that the program answers |
//! | `serve.rs` | API | streams of another server as clients |
//! | `shared.rs` | table | the sum of what the floors share |
//! | `startup.rs` | values | why an instance did not start |
//! | `stats.rs` | API | the figures of an instance |
//! | `stopped_time.rs` | tests | an instance whose time stands still (a feature) |
//! | `topics.rs` | API | the topics in pages, and one by name |
//! | `tree.rs` | pure | the supervision tree |

pub(crate) mod application;
pub(crate) mod builder;
#[cfg(feature = "tls")]
mod certificates;
pub(crate) mod clients;
pub(crate) mod cluster;
pub(crate) mod drain;
#[cfg(feature = "fault-injection")]
mod inject;
pub(crate) mod janus;
pub(crate) mod memory;
mod metrics;
pub(crate) mod mount;
mod presence;
pub(crate) mod reload;
pub(crate) mod routes;
pub(crate) mod serve;
pub(crate) mod shared;
pub(crate) mod startup;
pub(crate) mod stats;
#[cfg(feature = "testing")]
pub(crate) mod stopped_time;
mod topics;
mod tree;
