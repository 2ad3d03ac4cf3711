//! Helpers of the tests: an actor that follows orders, a log, and a single thread with a paused clock.

use std::future::Future;
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use actix::prelude::*;
use janus_supervision::{ActorRef, ChildSpec, Exit, ExitReason, Place, State, Strategy, Supervisor, SupervisorRef};
use parking_lot::Mutex;
use tokio::runtime::{Builder, LocalOptions};
use tokio::time::timeout;

/// Begins the message of every planned panic.
pub(crate) const PLANNED: &str = "planned:";

pub(crate) const MILLI: Duration = Duration::from_millis(1);
pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// Longer than any step of a test takes. A test which reaches this deadline has found a hang.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// Keeps planned panics out of the output. All other panics are printed as usual.
pub(crate) fn quiet_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let planned = info.payload_as_str().is_some_and(|message| message.starts_with(PLANNED));
            if !planned {
                print(info);
            }
        }));
    });
}

/// Runs a test on a single thread. The clock moves only while all tasks wait.
pub(crate) fn virtual_time<F: Future<Output = ()>>(test: impl FnOnce(Place) -> F) {
    quiet_panics();
    let mut builder = Builder::new_current_thread();
    let runtime = builder.enable_all().start_paused(true).build_local(LocalOptions::default()).unwrap();
    runtime.block_on(async { test(Place::here()).await });
}

pub(crate) fn block_on<F: Future<Output = ()>>(test: F) {
    quiet_panics();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { timeout(DEADLINE * 2, test).await.expect("nothing hangs") });
}

/// Runs a test on another thread, for tests which would block their thread on failure.
pub(crate) fn in_time(test: impl FnOnce() + Send + 'static) {
    let (over, wait) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        test();
        let _ = over.send(());
    });
    let timed_out = wait.recv_timeout(Duration::from_secs(10)) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
    assert!(!timed_out, "the test is blocked");
    thread.join().unwrap();
}

/// Lets every ready task run. Ten rounds are several times the length of the longest chain of tasks here.
pub(crate) async fn settle() {
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_nanos(1)).await;
    }
}

/// Waits for a condition by polling every millisecond.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "{what}");
        tokio::time::sleep(MILLI).await;
    }
}

/// A log of events, in order.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(crate) fn say(&self, what: impl Into<String>) {
        self.0.lock().push(what.into());
    }

    /// All events since the last call, in a line.
    pub(crate) fn take(&self) -> String {
        std::mem::take(&mut *self.0.lock()).join(" ")
    }
}

/// An actor that logs its start, and logs a stop by another party.
pub(crate) struct Puppet {
    name: Arc<str>,
    log: Log,
    by_itself: bool,
    /// How long the actor takes to stop; zero stops at once.
    linger: Duration,
    lingering: bool,
}

impl Puppet {
    pub(crate) fn new(name: impl Into<Arc<str>>, log: &Log) -> Self {
        Self { name: name.into(), log: log.clone(), by_itself: false, linger: Duration::ZERO, lingering: false }
    }

    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    pub(crate) fn lingering(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }
}

impl Actor for Puppet {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Context<Self>) {
        self.log.say(format!("start:{}", self.name));
    }

    fn stopping(&mut self, ctx: &mut Context<Self>) -> Running {
        if self.linger.is_zero() || self.lingering {
            return Running::Stop;
        }
        self.lingering = true;
        ctx.run_later(self.linger, |_, ctx| ctx.stop());
        Running::Continue
    }

    fn stopped(&mut self, _: &mut Context<Self>) {
        if !self.by_itself {
            self.log.say(format!("term:{}", self.name));
        }
    }
}

#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Panic;

impl Handler<Panic> for Puppet {
    type Result = ();

    fn handle(&mut self, _: Panic, _: &mut Context<Self>) {
        panic!("{PLANNED} {}", self.name);
    }
}

#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Leave(pub(crate) ExitReason);

impl Handler<Leave> for Puppet {
    type Result = ();

    fn handle(&mut self, leave: Leave, ctx: &mut Context<Self>) {
        self.by_itself = true;
        ctx.exit(leave.0);
    }
}

#[derive(Message)]
#[rtype(result = "u32")]
pub(crate) struct Echo(pub(crate) u32);

impl Handler<Echo> for Puppet {
    type Result = u32;

    fn handle(&mut self, echo: Echo, _: &mut Context<Self>) -> u32 {
        echo.0
    }
}

/// A puppet and its child spec.
pub(crate) fn puppet(name: &'static str, log: &Log) -> (ActorRef<Puppet>, ChildSpec) {
    let actor = ActorRef::new(name);
    let log = log.clone();
    let spec = ChildSpec::actor(&actor, move |_| Ok(Puppet::new(name, &log)));
    (actor, spec)
}

/// Ends the current incarnation with `how`, waits for the end, and returns the reason.
pub(crate) async fn end<A: Actor<Context = Context<A>>>(
    actor: &ActorRef<A>,
    how: impl FnOnce(&ActorRef<A>),
) -> ExitReason {
    let (tell, told) = tokio::sync::oneshot::channel();
    let monitor = actor.monitor(move |down| {
        let _ = tell.send(down.reason);
    });
    how(actor);
    let reason = told.await.expect("a monitor is told in the end");
    drop(monitor);
    reason
}

pub(crate) fn one_for_one() -> Supervisor {
    Supervisor::new("root", Strategy::OneForOne).intensity(1000, SECOND)
}

pub(crate) async fn crash(actor: &ActorRef<Puppet>) {
    end(actor, |actor| actor.cast(Panic).unwrap()).await;
    settle().await;
}

pub(crate) fn state_of(tree: &SupervisorRef, name: &str) -> Option<State> {
    tree.tree().find(name).map(|node| node.state)
}

pub(crate) struct Slow {
    init: Duration,
    outcome: Result<(), String>,
    log: Log,
}

impl Actor for Slow {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        let (guard, outcome, log) = (ctx.defer_init(), self.outcome.clone(), self.log.clone());
        ctx.run_later(self.init, move |_, _| {
            log.say("ready");
            guard.done(outcome);
        });
    }
}

pub(crate) fn slow(init: Duration, outcome: Result<(), String>, log: &Log) -> ChildSpec {
    let log = log.clone();
    ChildSpec::actor(&ActorRef::new("slow"), move |_| Ok(Slow { init, outcome: outcome.clone(), log: log.clone() }))
}
