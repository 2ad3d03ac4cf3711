//! Who may do what: the hooks of the binary, by the settings of `janus_access`.
//!
//! Without these settings there are no hooks, and a connection, a subscription or a message costs no question.

use janus_access::tokens::{SetupError, TokenHooks, Tokens};
use janus_core::Builder;

use crate::settings::Settings;

/// The parts of the access rules that run beside the tree.
#[derive(Debug)]
pub(crate) struct Access {
    /// `None` without keys.
    pub(crate) tokens: Option<Tokens>,
}

impl Access {
    /// Reads the keys.
    pub(crate) fn new(settings: &Settings) -> Result<Self, SetupError> {
        Ok(Self { tokens: Tokens::from_settings(&settings.access)? })
    }

    /// Adds the hooks to an instance.
    pub(crate) fn hooks(&self, builder: Builder, settings: &Settings) -> Builder {
        let origins = settings.core.allowed_origins.iter().map(String::as_str);
        match &self.tokens {
            Some(tokens) => builder.hooks(TokenHooks::new(tokens.clone()).settings(&settings.access, origins)),
            None => builder,
        }
    }

    /// Keeps the keys fresh. Never ends.
    pub(crate) async fn run(&self) {
        match &self.tokens {
            Some(tokens) => tokens.run().await,
            None => std::future::pending().await,
        }
    }
}
