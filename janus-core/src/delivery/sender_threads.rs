//! The sender threads as children of the tree: a task for each starts the thread and ends with it.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::SenderPool;
use super::senders::StopSender;
use crate::supervision::{BoxError, ChildSpec, Shutdown, Strategy, Supervisor};

/// The senders: threads beyond the home arbiters.
///
/// A crashed sender has lost nothing, because other threads finish the piece, so the budget is generous.
pub(crate) fn supervisor(pool: &Arc<SenderPool>, senders: usize) -> Supervisor {
    (1..=senders).fold(
        Supervisor::new("senders", Strategy::OneForOne).intensity(20, Duration::from_secs(60)),
        |senders, number| {
            let pool = Arc::clone(pool);
            senders.child(
                ChildSpec::task(format!("sender {number}"), move || run(Arc::clone(&pool), number))
                    .shutdown(Shutdown::BrutalKill),
            )
        },
    )
}

async fn run(pool: Arc<SenderPool>, number: usize) -> Result<(), BoxError> {
    let stop = Arc::new(StopSender::default());
    // Even if this task is killed: the thread must not run on without the supervisor's knowledge.
    let _stop_at_the_end = StopAtTheEnd { pool: Arc::clone(&pool), stop: Arc::clone(&stop) };
    let (ended, end) = oneshot::channel();
    let thread = std::thread::Builder::new().name(format!("janus-sender-{number}")).spawn({
        let pool = Arc::clone(&pool);
        move || {
            let _ = ended.send(catch_unwind(AssertUnwindSafe(|| pool.serve(number, &stop))));
        }
    })?;
    pool.keep(thread);
    match end.await {
        Ok(Ok(())) => Ok(()),
        // The supervisor is to see the thread's panic as the panic of a child.
        Ok(Err(panic)) => resume_unwind(panic),
        Err(_) => Err("the thread vanished".into()),
    }
}

struct StopAtTheEnd {
    pool: Arc<SenderPool>,
    stop: Arc<StopSender>,
}

impl Drop for StopAtTheEnd {
    fn drop(&mut self) {
        self.pool.stop(&self.stop);
    }
}
