//! The embedder's own actors in the tree: supervised like ours, on a thread of their own.
//!
//! They are children of the supervisor `application`. It starts before the acceptors and stops after the acceptors,
//! while publishing is still possible. Their thread is not the home arbiter's, because an embedder's code may block.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use super::builder::Builder;
use super::janus::WeakJanus;
use crate::supervision::{Arbiter, ChildSpec, Place, Shutdown, Strategy, Supervisor};

/// The name of the supervisor in the tree.
pub(crate) const NAME: &str = "application";

/// How long the thread may take to show a sign of life, once everything on it has been stopped.
const SIGN_OF_LIFE: Duration = Duration::from_millis(500);

impl Builder {
    /// Adds a child to the instance's tree: an actor, a task or a supervisor of the embedder's own.
    ///
    /// Children start in the order of these calls, before the listeners, and stop in the reverse order after the
    /// listeners were closed and before a drain refuses messages: a stopping child can still publish.
    /// [`Janus::tree`](crate::Janus::tree) has all children below `application`.
    ///
    /// ```
    /// use actix::prelude::*;
    /// use janus_core::supervision::{ActorRef, ChildSpec};
    /// use janus_core::{Config, Janus};
    ///
    /// struct Desk;
    /// impl Actor for Desk {
    ///     type Context = Context<Self>;
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() };
    /// let desk = ActorRef::new("desk");
    /// let janus = Janus::builder().config(config).child(ChildSpec::actor(&desk, |_ctx| Ok(Desk))).start().await?;
    /// assert!(desk.is_running() && janus.tree().find("desk").is_some());
    /// # janus.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Limits
    ///
    /// - **Restarts**: `application` allows 5 in 60 s for all its children together. With the next, `application`
    ///   restarts itself and all children, at most 5 times in 60 s together with other restarts of the tree; after that
    ///   the instance ends, and [`Janus::wait`](crate::Janus::wait) tells why. A child that may fail for longer,
    ///   because a service is away, wants a [`backoff`](ChildSpec::backoff), or a supervisor of its own.
    /// - **The thread**: children without a [`place`](ChildSpec::place) share one thread, `janus-application`, and
    ///   nothing else runs there. A blocking child holds up the others, is named in the log after 1 s and again after 5
    ///   s, and does not hurt the instance. The child is killed at the shutdown; its thread ends when the code returns.
    /// - **The stop**: each child has a [`shutdown`](ChildSpec::shutdown), and all together half of
    ///   [`drain_timeout`](crate::Config::drain_timeout); then the rest is killed.
    ///
    /// # Errors
    ///
    /// None here; [`start`](Self::start) fails with [`StartupError::Tree`](crate::StartupError::Tree) if two children
    /// have the same name, or if a child does not start.
    #[must_use]
    pub fn child(self, spec: ChildSpec) -> Self {
        self.child_with(move |_| spec.clone())
    }

    /// Adds a child that uses the instance; otherwise like [`child`](Self::child).
    ///
    /// The closure gets a [`WeakJanus`], because a handle in the tree would keep the instance running after the program
    /// has dropped its own. It is called once for each start of an instance, before anything runs; the spec's factory
    /// runs later, and can upgrade.
    ///
    /// ```
    /// use std::time::Duration;
    /// use janus_core::supervision::{BoxError, ChildSpec};
    /// use janus_core::{Config, Janus, WeakJanus};
    ///
    /// async fn tick(janus: WeakJanus) -> Result<(), BoxError> {
    ///     let mut seconds = tokio::time::interval(Duration::from_secs(1));
    ///     loop {
    ///         seconds.tick().await;
    ///         let Some(janus) = janus.upgrade() else { return Ok(()) };
    ///         janus.publish("clock", "tick").await?;
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() };
    /// let janus = Janus::builder()
    ///     .config(config)
    ///     .child_with(|janus| ChildSpec::task("clock", move || tick(janus.clone())))
    ///     .start()
    ///     .await?;
    /// # janus.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn child_with(mut self, make: impl Fn(WeakJanus) -> ChildSpec + Send + Sync + 'static) -> Self {
        self.children.0.push(Arc::new(make));
        self
    }
}

type MakeChild = dyn Fn(WeakJanus) -> ChildSpec + Send + Sync;

/// The embedder's children; each instance makes its own.
#[derive(Clone, Default)]
pub(crate) struct Children(Vec<Arc<MakeChild>>);

impl Children {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The supervisor of the children, as a child of the root. The supervisor's loop runs on the root's thread, so no
    /// child holds the loop up.
    pub(crate) fn spec(&self, janus: &WeakJanus, place: &Place, drain_timeout: Duration) -> ChildSpec {
        let supervisor = Supervisor::new(NAME, Strategy::OneForOne).intensity(5, Duration::from_secs(60));
        let supervisor = self
            .0
            .iter()
            .fold(supervisor, |supervisor, make| supervisor.child(make(janus.clone()).default_place(place.clone())));
        // Unlike other supervisors, with a limit: the time of a drain is limited, and clients are to have a part of it.
        ChildSpec::supervisor(supervisor).shutdown(Shutdown::Timeout(drain_timeout / 2))
    }
}

impl fmt::Debug for Children {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Children").field(&self.0.len()).finish()
    }
}

/// Ends the thread of the embedder's children, and waits for the end unless a child hangs. The call blocks.
pub(crate) fn stop(arbiter: Arbiter) {
    let (alive, sign) = mpsc::sync_channel(1);
    // A thread whose place is down ends by itself.
    let asked = arbiter.place().run(move || {
        let _ = alive.send(());
    });
    if asked.is_err() || sign.recv_timeout(SIGN_OF_LIFE).is_ok() {
        return arbiter.stop();
    }
    log::error!(
        "{}: an actor still runs after its stop; the thread ends when the actor returns",
        arbiter.place().name()
    );
    drop(arbiter);
}
