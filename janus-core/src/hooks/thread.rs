//! The thread of hooks for an embedder without a runtime.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// How long the thread may take to end. A waiting hook does not delay the end; a blocking hook does.
const END: Duration = Duration::from_millis(500);

/// A thread with a runtime. Not an [`Arbiter`](crate::supervision::Arbiter), which runs only actors and tasks given to
/// the arbiter: hooks are spawned from any thread.
#[derive(Debug)]
pub(crate) struct HookThread {
    /// Dropping the sender is the signal to stop.
    running: oneshot::Sender<()>,
    /// Never receives a value. The channel is disconnected at the end of the thread's work.
    end: mpsc::Receiver<()>,
    thread: JoinHandle<()>,
}

impl HookThread {
    /// Starts the thread, and waits for its runtime.
    ///
    /// # Errors
    ///
    /// The operating system refused a thread, or the descriptors for a runtime.
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
            // Not `drop`: a drop would wait for blocking jobs, which may never return.
            runtime.shutdown_background();
        })?;
        let handle = start
            .recv()
            .unwrap_or_else(|_| Err(io::Error::other("the thread of the hooks ended before its runtime started")))?;
        Ok((Self { running, end, thread }, handle))
    }

    /// Ends the thread, and waits up to half a second for the end; a hook that blocks is left behind. Blocks.
    pub(crate) fn stop(self) {
        drop(self.running);
        match self.end.recv_timeout(END) {
            Err(RecvTimeoutError::Disconnected) | Ok(()) => {
                // A hook's panic is caught by its task.
                let _ = self.thread.join();
            }
            Err(RecvTimeoutError::Timeout) => {
                log::error!("janus-hooks: a hook still blocks the thread, which ends when the hook returns");
            }
        }
    }
}
