//! An instance: start, handle, end.
//!
//! | file | kind | owns |
//! |---|---|---|
//! | `application.rs` | supervisor | the embedder's own actors and their thread |
//! | `builder.rs` | API | settings and listeners until the instance starts |
//! | `clients.rs` | API | the list of connections, and closing one of them |
//! | `drain.rs` | task | the end of an instance, spread over time |
//! | `janus.rs` | API | the handle of a running instance |
//! | `memory.rs`, `memory/strangers.rs` | task | what is given up when memory runs short |
//! | `shared.rs` | table | the sum of what the floors share |
//! | `stats.rs` | API | the figures of an instance |
//! | `tree.rs` | pure | the supervision tree |

pub(crate) mod application;
pub(crate) mod builder;
pub(crate) mod clients;
pub(crate) mod drain;
pub(crate) mod janus;
pub(crate) mod memory;
pub(crate) mod shared;
pub(crate) mod stats;
mod tree;
