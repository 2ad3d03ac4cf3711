//! Failures of commands, and their exit codes.
//!
//! Exit code 1 means a failure during the run, 2 a mistake in the command line, the settings or the input. A closed
//! standard output is a success: the reader has seen enough.

use std::error::Error;
use std::io;
use std::process::ExitCode;

#[cfg(feature = "top")]
use crate::top;
use crate::{bench, client, logging, manual, serve, settings, token};

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Settings(#[from] settings::Problems),
    #[error(transparent)]
    Serve(#[from] serve::ServeError),
    #[error(transparent)]
    Client(#[from] client::ClientError),
    #[error(transparent)]
    Bench(#[from] bench::BenchError),
    #[error(transparent)]
    Token(#[from] token::TokenCommandError),
    #[error(transparent)]
    Manual(#[from] manual::ManualError),
    #[cfg(feature = "top")]
    #[error(transparent)]
    Top(#[from] top::TopError),
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
}

impl Failure {
    /// Reports the failure on standard error, and returns the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        let output = match self {
            Self::Output(source) | Self::Client(client::ClientError::Output(source)) => Some(source),
            Self::Bench(bench::BenchError::Output(source)) => Some(source),
            Self::Token(token::TokenCommandError::Output(source)) => Some(source),
            #[cfg(feature = "top")]
            Self::Top(top::TopError::Client(client::ClientError::Output(source))) => Some(source),
            #[cfg(feature = "top")]
            Self::Top(_) => None,
            Self::Settings(_)
            | Self::Serve(_)
            | Self::Client(_)
            | Self::Bench(_)
            | Self::Token(_)
            | Self::Manual(_) => None,
        };
        if output.is_some_and(|source| source.kind() == io::ErrorKind::BrokenPipe) {
            return ExitCode::SUCCESS;
        }
        logging::last_words("error", &with_causes(self));
        ExitCode::from(if self.is_usage() { 2 } else { 1 })
    }

    fn is_usage(&self) -> bool {
        match self {
            Self::Settings(_) => true,
            Self::Client(error) => error.is_usage(),
            Self::Bench(error) => error.is_usage(),
            Self::Serve(error) => error.is_usage(),
            Self::Token(error) => error.is_usage(),
            #[cfg(feature = "top")]
            Self::Top(error) => error.is_usage(),
            Self::Manual(_) | Self::Output(_) => false,
        }
    }
}

/// The text of an error, and the texts of its causes.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let told = error.to_string();
        // Errors of the library that also go to the log have their cause in their own text.
        if !text.ends_with(&told) {
            text.push_str(&format!(": {told}"));
        }
        cause = error.source();
    }
    text
}
