// | file or folder | kind | owns |
// |---|---|---|
// | `settings.rs` | tables | the settings of this crate |
// | `tokens/` | hooks | tokens of the operator's own issuer |
// | `backend/` | HTTP client | requests to the operator's own servers |

//! Who may do what on a Janus server, decided by servers of the operator's own.

pub(crate) mod backend;
mod settings;
pub mod tokens;

pub use backend::{BackendError, Url, UrlError};
pub use settings::{AccessNamespace, AccessSettings, DefaultGrant, Secrets, TokenEnd};
