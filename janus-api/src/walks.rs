//! Turns for the looks at all topics or connections, which block.

use std::sync::Arc;

use janus_core::wire::HttpError;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::room::busy;
use crate::view::View;

/// The lines in which looks wait: a look takes a thread for as long as it lasts, and looks side by side would take the
/// cores from the clients.
#[derive(Clone, Debug)]
pub struct Walks {
    /// The copy of the supervision tree, which has an entry for each topic.
    trees: Arc<Semaphore>,
    /// The walk through all topics or connections.
    walks: Arc<Semaphore>,
}

impl Default for Walks {
    fn default() -> Self {
        Self { trees: Arc::new(Semaphore::new(1)), walks: Arc::new(Semaphore::new(1)) }
    }
}

impl Walks {
    /// The same with a line of its own for the lists: requests that fill another port hold up no operator.
    #[must_use]
    pub fn with_own_line(&self) -> Self {
        Self { walks: Arc::new(Semaphore::new(1)), ..self.clone() }
    }

    /// Runs a look that blocks, once its turn in the line of this view has come. Must be called in a tokio runtime.
    ///
    /// # Errors
    ///
    /// The program is ending: status 503.
    pub async fn take(
        &self,
        view: &View,
        look: impl FnOnce() -> Vec<u8> + Send + 'static,
    ) -> Result<Vec<u8>, HttpError> {
        let line = if matches!(view, View::Tree(_)) { &self.trees } else { &self.walks };
        self.in_line(line, look).await
    }

    /// Runs another look that blocks, in the line of the lists.
    ///
    /// # Errors
    ///
    /// As [`take`](Self::take).
    pub async fn take_other(&self, look: impl FnOnce() -> Vec<u8> + Send + 'static) -> Result<Vec<u8>, HttpError> {
        self.in_line(&self.walks, look).await
    }

    async fn in_line(
        &self,
        line: &Arc<Semaphore>,
        look: impl FnOnce() -> Vec<u8> + Send + 'static,
    ) -> Result<Vec<u8>, HttpError> {
        let turn = Arc::clone(line).acquire_owned().await.map_err(|_| ending())?;
        let look = spawn_blocking(move || {
            let answer = look();
            drop(turn);
            answer
        });
        look.await.map_err(|_| ending())
    }

    /// Holds the line of the lists, for tests.
    #[doc(hidden)]
    pub async fn hold(&self) -> tokio::sync::OwnedSemaphorePermit {
        Arc::clone(&self.walks).acquire_owned().await.expect("the line is never closed")
    }
}

fn ending() -> HttpError {
    busy("the server is ending")
}
