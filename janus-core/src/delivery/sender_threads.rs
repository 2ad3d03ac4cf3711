//! The sender threads as children of the tree: one task each, which starts a thread and lives and dies with it.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::delivery::senders::StopSender;
use crate::instance::shared::Shared;
use crate::supervision::{BoxError, ChildSpec, Shutdown, Strategy, Supervisor};

/// One sender per thread beyond the home arbiter.
///
/// A sender that crashes has lost nothing, so the budget is generous: what it was doing is finished by the others.
pub(crate) fn supervisor(shared: &Arc<Shared>) -> Supervisor {
    (1..shared.config.threads).fold(
        Supervisor::new("senders", Strategy::OneForOne).intensity(20, Duration::from_secs(60)),
        |senders, number| {
            let shared = Arc::clone(shared);
            let name = format!("sender {number}");
            senders.child(
                ChildSpec::task(name.clone(), move || run(Arc::clone(&shared), name.clone()))
                    .shutdown(Shutdown::BrutalKill),
            )
        },
    )
}

async fn run(shared: Arc<Shared>, name: String) -> Result<(), BoxError> {
    let stop = Arc::new(StopSender::default());
    // Also when this task is killed: the thread must not outlive its supervisor's knowledge of it.
    let _stop_at_the_end = StopAtTheEnd { shared: Arc::clone(&shared), stop: Arc::clone(&stop) };
    let (ended, end) = oneshot::channel();
    let thread = std::thread::Builder::new().name(format!("janus-{}", name.replace(' ', "-"))).spawn({
        let shared = Arc::clone(&shared);
        move || {
            let _ = ended.send(catch_unwind(AssertUnwindSafe(|| shared.senders.serve(&stop))));
        }
    })?;
    shared.senders.keep(thread);
    match end.await {
        Ok(Ok(())) => Ok(()),
        // The supervisor is to see the thread's panic as that of its child.
        Ok(Err(panic)) => resume_unwind(panic),
        Err(_) => Err("the thread vanished".into()),
    }
}

struct StopAtTheEnd {
    shared: Arc<Shared>,
    stop: Arc<StopSender>,
}

impl Drop for StopAtTheEnd {
    fn drop(&mut self) {
        self.shared.senders.stop(&self.stop);
    }
}
