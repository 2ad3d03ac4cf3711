//! `janus-server top`: a running server on a terminal, live, or one look at the server as text or JSON.
//!
//! The command is a client of the routes of the admin port, and sees no more than other clients of these routes.
//! Answers and keys change a state, which is a plain value; the screen is a function of the state. So everything but
//! the terminal and the network is tested without either.
//!
//! | file | what it is | what it owns |
//! |---|---|---|
//! | `mod.rs` | the command `top` | the choice between the live view and one look, errors |
//! | `live.rs` | a loop and threads | events, when the server is asked |
//! | `terminal.rs` | a guard and threads | taking the terminal and giving it back, keys, signals |
//! | `state.rs` | pure | what is on the screen, the meaning of keys |
//! | `cursor.rs` | pure | the reader's place in a list that changes |
//! | `tree.rs` | pure | the supervision tree as rows, folded |
//! | `history.rs` | pure | the last minutes of two counters |
//! | `draw.rs` | pure | the frame of the screen: figures, tabs, messages, boxes |
//! | `lists.rs` | pure | the list in sight, and the words if there is none |
//! | `columns.rs` | pure | the columns of the lists |
//! | `look.rs` | pure | styles, with and without colours |
//! | `text.rs` | pure | strangers' names made harmless, figures for people |
//! | `query.rs` | pure | the requests: orders, filters, limits |
//! | `answers.rs` | pure | the answers of the server |
//! | `server.rs` | blocking requests | the use of the client for the admin port |
//! | `once.rs` | printing | one look as text or JSON |
//! | `tests.rs` | tests | screens and keys |

mod answers;
mod columns;
mod cursor;
mod draw;
mod history;
mod lists;
mod live;
mod look;
mod once;
mod query;
mod server;
mod state;
mod terminal;
#[cfg(test)]
mod tests;
mod text;
mod tree;

use std::io::{self, IsTerminal as _};

use crate::cli::Top;
use crate::client::ClientError;
use server::Server;

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TopError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("standard output is no terminal: print one look at the server with --once, or with --once --json")]
    NoTerminal,
    #[error("the terminal cannot be used")]
    Terminal(#[source] io::Error),
}

impl TopError {
    pub(crate) fn is_usage(&self) -> bool {
        match self {
            Self::Client(error) => error.is_usage(),
            Self::NoTerminal => true,
            Self::Terminal(_) => false,
        }
    }
}

pub(crate) fn run(command: &Top) -> Result<(), TopError> {
    let mut server = Server::of(&command.server)?;
    if command.once {
        return Ok(once::print(&mut server, command.limit, command.json)?);
    }
    if !io::stdout().is_terminal() {
        return Err(TopError::NoTerminal);
    }
    live::run(server, command.interval)
}
