// | file or folder | kind | owns |
// |---|---|---|
// | `settings.rs` | tables | the settings of this crate |
// | `tokens/` | hooks | tokens of the operator's own issuer |
// | `ask/` | hooks | questions to the backend about clients |
// | `webhooks/` | hooks | news for the backend |
// | `backend/` | HTTP client | requests to the operator's own servers |
// | `figures.rs` | macro | the tables of figures |
// | `signature.rs` | pure | signatures of requests |
// | `summed.rs` | counter | log lines about failures that come in floods |
// | `testing.rs` | tests | a backend for tests |

//! Who may do what on a Janus server, decided by tokens or by servers of the operator's own.
//!
//! [`tokens::TokenHooks`] are hooks that verify tokens (JWT), and leave the rest to further hooks. [`Ask`] are hooks that
//! ask a backend over HTTP. [`Webhooks`] wrap any hooks, and tell a backend of clients and topics. All are made from
//! [`AccessSettings`], which `janus-server` reads from its configuration, and a program that embeds Janus fills in.

#![forbid(unsafe_code)]

// First, because macros are known from their declaration on.
#[macro_use]
mod figures;

mod ask;
mod backend;
mod settings;
mod signature;
mod summed;
#[cfg(test)]
mod testing;
pub mod tokens;
mod webhooks;

pub use ask::{Ask, AskStats};
pub use backend::{Backend, BackendError, Url, UrlError};
pub use settings::{AccessNamespace, AccessSettings, DefaultGrant, Secrets, TokenEnd};
pub use webhooks::{Reporter, WebhookStats, Webhooks};
