//! Why a command did not do what it was asked, and the exit code that says so.
//!
//! 1 is for what happened while it ran, 2 for what it was told. A reader that closed its end of our standard output
//! has seen what it wanted: that is a success.

use std::error::Error as _;
use std::io;
use std::process::ExitCode;

use crate::{bench, client, logging, serve, settings};

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
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
}

impl Failure {
    /// Tells the user, and says what the process ends with.
    pub(crate) fn report(&self) -> ExitCode {
        let output = match self {
            Self::Output(source) | Self::Client(client::ClientError::Output(source)) => Some(source),
            Self::Bench(bench::BenchError::Output(source)) => Some(source),
            _ => None,
        };
        if output.is_some_and(|source| source.kind() == io::ErrorKind::BrokenPipe) {
            return ExitCode::SUCCESS;
        }
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
        logging::last_words(text.lines().map(|line| format!("error: {line}\n")).collect());
        ExitCode::from(if self.is_usage() { 2 } else { 1 })
    }

    fn is_usage(&self) -> bool {
        match self {
            Self::Settings(_) => true,
            Self::Client(error) => error.is_usage(),
            Self::Bench(error) => error.is_usage(),
            Self::Serve(error) => error.is_usage(),
            Self::Output(_) => false,
        }
    }
}
