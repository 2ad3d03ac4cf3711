//! The embedder's own actors in the tree: supervised like ours, on a thread of their own.
//!
//! They are children of the supervisor `application`, which starts before the acceptors and stops after them, while
//! publishing is still possible. Their thread is not the home arbiter's, because code that is not ours may block.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use super::builder::Builder;
use super::janus::WeakJanus;
use crate::supervision::{Arbiter, ChildSpec, Place, Shutdown, Strategy, Supervisor};

/// The name of the supervisor in the tree.
pub(crate) const NAME: &str = "application";

/// How long its thread may take to show that it is not stuck, once everything on it has been stopped.
const SIGN_OF_LIFE: Duration = Duration::from_millis(500);

impl Builder {
    /// Adds a child to the instance's tree: an actor, a task or a supervisor of the embedder's own.
    ///
    /// Children start in the order in which they were added, before anything is listened on, and stop in the reverse order
    /// after the listeners were closed and before a drain refuses messages: a child that is stopped can still publish. They
    /// stand in [`Janus::tree`](crate::Janus::tree) below `application`.
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
    /// - **Restarts**: `application` allows 5 in 60 s for all its children together. One more and it is restarted itself with
    ///   all of them, at most 5 times in 60 s with whatever else of the tree is restarted; after that the instance ends, and
    ///   [`Janus::wait`](crate::Janus::wait) tells why. A child that may fail for longer, because what it needs is away,
    ///   wants a [`backoff`](ChildSpec::backoff), or a supervisor of its own.
    /// - **The thread**: children that name no [`place`](ChildSpec::place) share one thread, `janus-application`, which runs
    ///   nothing else. One that blocks holds up the others on it, is named in the log after 1 s and again after 5 s, and does
    ///   not hurt the instance. It is killed at the shutdown; its thread ends when the code returns.
    /// - **The stop**: each child has its [`shutdown`](ChildSpec::shutdown), and all together half of
    ///   [`drain_timeout`](crate::Config::drain_timeout); then they are killed.
    ///
    /// # Errors
    ///
    /// None here; [`start`](Self::start) fails with [`StartError::Tree`](crate::StartError::Tree) if two children have the
    /// same name, or if one does not start.
    #[must_use]
    pub fn child(self, spec: ChildSpec) -> Self {
        self.child_with(move |_| spec.clone())
    }

    /// The same as [`child`](Self::child), for one that wants to use the instance that it is part of.
    ///
    /// It gets a [`WeakJanus`], because a handle in the tree would keep the instance running after everybody else has dropped
    /// theirs. The closure is called once for each start of an instance, before anything runs; what the spec's factory does
    /// happens later, and can upgrade.
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

/// The embedder's children, of which each instance makes its own.
#[derive(Clone, Default)]
pub(crate) struct Children(Vec<Arc<MakeChild>>);

impl Children {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Their supervisor, as a child of the root. Its own loop runs where the root's does, so that none of them holds it up.
    pub(crate) fn spec(&self, janus: &WeakJanus, place: &Place, drain_timeout: Duration) -> ChildSpec {
        let supervisor = Supervisor::new(NAME, Strategy::OneForOne).intensity(5, Duration::from_secs(60));
        let supervisor = self
            .0
            .iter()
            .fold(supervisor, |supervisor, make| supervisor.child(make(janus.clone()).default_place(place.clone())));
        // Not for ever, as other supervisors: a drain has a limit, and clients are to have their part of it.
        ChildSpec::supervisor(supervisor).shutdown(Shutdown::Timeout(drain_timeout / 2))
    }
}

impl fmt::Debug for Children {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Children").field(&self.0.len()).finish()
    }
}

/// Ends the thread of the embedder's children, and waits for that unless one of them holds it up. Blocks.
pub(crate) fn stop(arbiter: Arbiter) {
    let (alive, sign) = mpsc::sync_channel(1);
    // A place that is down ends by itself.
    let asked = arbiter.place().run(move || {
        let _ = alive.send(());
    });
    if asked.is_err() || sign.recv_timeout(SIGN_OF_LIFE).is_ok() {
        return arbiter.stop();
    }
    log::error!("{}: an actor has not returned; the thread ends when it does", arbiter.place().name());
    drop(arbiter);
}
