//! The thread on which hooks run if the embedder has no runtime for them.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// How long the thread may take to end. Nothing that waits keeps it; a hook that blocks does.
const END: Duration = Duration::from_millis(500);

/// Not an [`Arbiter`](crate::supervision::Arbiter), on which only actors and what is given to it runs: hooks are spawned
/// from anywhere.
#[derive(Debug)]
pub(crate) struct HookThread {
    /// Dropping it is the signal to stop.
    running: oneshot::Sender<()>,
    /// Never receives anything; it is disconnected when the thread has done what it does.
    end: mpsc::Receiver<()>,
    thread: JoinHandle<()>,
}

impl HookThread {
    /// # Errors
    ///
    /// The operating system refused a thread, or the descriptors that a runtime needs.
    pub(crate) fn start() -> io::Result<(Self, Handle)> {
        let (started, start) = mpsc::sync_channel(1);
        let (running, stop) = oneshot::channel::<()>();
        let (alive, end) = mpsc::channel();
        let thread = thread::Builder::new().name("janus-hooks".to_owned()).spawn(move || {
            let _alive = alive;
            let runtime = match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => return drop(started.send(Err(error))),
            };
            let _ = started.send(Ok(runtime.handle().clone()));
            let _ = runtime.block_on(stop);
            // Not `drop`: that would wait for blocking jobs, which may never return.
            runtime.shutdown_background();
        })?;
        let handle = start.recv().unwrap_or_else(|_| Err(io::Error::other("the thread for hooks died at once")))?;
        Ok((Self { running, end, thread }, handle))
    }

    /// Ends the thread, and waits for that unless a hook holds it up. Blocks.
    pub(crate) fn stop(self) {
        drop(self.running);
        match self.end.recv_timeout(END) {
            Err(RecvTimeoutError::Disconnected) | Ok(()) => {
                // A hook's panic is caught by its task.
                let _ = self.thread.join();
            }
            Err(RecvTimeoutError::Timeout) => {
                log::error!("janus-hooks: a hook has not returned; the thread ends when it does");
            }
        }
    }
}
