//! Dormant actors: like any other to their supervisor and to watchers, with a context once somebody writes to them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{self, Poll};
use std::time::Duration;

use actix::prelude::*;
use futures_util::task::AtomicWaker;
use janus_supervision::{
    Child, ChildSpec, Dormant, DynamicSupervisor, Exit, ExitReason, Place, Shutdown, StartError, Strategy, Supervisor,
    SupervisorRef, current, exit,
};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::support::{Echo, Log, PLANNED, SECOND, settle, virtual_time};

/// Orders to a sleeper from outside, by a way of its own.
#[derive(Default)]
struct Bell {
    order: AtomicU32,
    waker: AtomicWaker,
}

const DONE: u32 = 1;
const CRASH: u32 = 2;
const GIVE_UP: u32 = 3;
const WORK: u32 = 4;
const OVER: u32 = 5;

impl Bell {
    fn ring(&self, order: u32) {
        self.order.store(order, Ordering::Relaxed);
        self.waker.wake();
    }
}

struct Sleeper {
    bell: Arc<Bell>,
    log: Log,
    /// Whether a request to stop waits for the bell.
    lingers: bool,
    /// Called by the work, once.
    errand: Arc<Mutex<Option<Errand>>>,
}

type Errand = Box<dyn FnOnce() + Send>;

impl Actor for Sleeper {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Context<Self>) {
        self.log.say("awake");
    }

    fn stopping(&mut self, _: &mut Context<Self>) -> Running {
        self.stopping_dormant()
    }

    fn stopped(&mut self, _: &mut Context<Self>) {
        self.log.say("stopped");
    }
}

impl Dormant for Sleeper {
    fn poll_work(&mut self, cx: &mut task::Context<'_>) -> Poll<()> {
        assert!(current().is_some(), "it knows its id");
        self.bell.waker.register(cx.waker());
        let errand = self.errand.lock().take();
        if let Some(errand) = errand {
            errand();
        }
        match self.bell.order.swap(0, Ordering::Relaxed) {
            DONE => {
                self.lingers = false;
                return Poll::Ready(());
            }
            CRASH => panic!("{PLANNED} sleeper"),
            GIVE_UP => exit(ExitReason::Error("enough".into())),
            OVER => return Poll::Ready(()),
            WORK => self.log.say("works"),
            _ => {}
        }
        Poll::Pending
    }

    fn stopping_dormant(&mut self) -> Running {
        self.log.say("asked");
        if self.lingers { Running::Continue } else { Running::Stop }
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.log.say("gone");
    }
}

impl Handler<Echo> for Sleeper {
    type Result = u32;

    fn handle(&mut self, Echo(number): Echo, ctx: &mut Context<Self>) -> u32 {
        self.log.say("message");
        if number == 0 {
            ctx.exit(ExitReason::Error("told to".into()));
        }
        number
    }
}

/// A supervisor in its tree, and what its sleepers say.
struct World {
    pool: DynamicSupervisor,
    tree: SupervisorRef,
    log: Log,
}

impl World {
    async fn new(here: &Place) -> Self {
        let pool = DynamicSupervisor::new("pool").shutdown(Shutdown::Timeout(3 * SECOND));
        let tree = Supervisor::new("root", Strategy::OneForOne).child(ChildSpec::dynamic(&pool)).start(here).await;
        Self { pool, tree: tree.unwrap(), log: Log::default() }
    }

    async fn sleeper(&self, lingers: bool) -> (Child<Sleeper>, Arc<Bell>) {
        let (bell, log) = (Arc::new(Bell::default()), self.log.clone());
        let sleeper = Sleeper { bell: Arc::clone(&bell), log, lingers, errand: Arc::default() };
        let child = self.pool.start_dormant_here(|| sleeper).unwrap();
        settle().await;
        (child, bell)
    }

    /// A sleeper that calls `errand` in its first work, on its own thread, with a handle to itself.
    async fn busy_sleeper(&self, errand: impl FnOnce(Child<Sleeper>) + Send + 'static) -> Child<Sleeper> {
        let (bell, log, place) = (Arc::default(), self.log.clone(), Arc::<Mutex<Option<Errand>>>::default());
        let sleeper = Sleeper { bell, log, lingers: false, errand: Arc::clone(&place) };
        let child = self.pool.start_dormant_here(|| sleeper).unwrap();
        let itself = child.clone();
        *place.lock() = Some(Box::new(move || errand(itself)));
        settle().await;
        child
    }
}

#[test]
fn a_dormant_actor_works_when_woken_and_ends_like_any_other() {
    virtual_time(async |here| {
        let world = World::new(&here).await;
        let (done, bell) = world.sleeper(false).await;
        assert_eq!(world.pool.count(), 1);
        assert_eq!(world.tree.name_of(done.id()).as_deref(), Some("pool"));
        for _ in 0..2 {
            bell.ring(WORK);
            settle().await;
        }
        bell.ring(DONE);
        settle().await;
        assert_eq!((done.reason(), world.pool.count()), (Some(ExitReason::Normal), 0));
        let (crashed, bell) = world.sleeper(false).await;
        let (tell, told) = oneshot::channel();
        crashed.monitor(move |down| drop(tell.send(down))).detach();
        bell.ring(CRASH);
        assert_eq!(told.await.unwrap().reason, ExitReason::Panicked(format!("{PLANNED} sleeper").into()));
        let (gave_up, bell) = world.sleeper(false).await;
        bell.ring(GIVE_UP);
        settle().await;
        assert_eq!(gave_up.reason(), Some(ExitReason::Error("enough".into())));
        let (killed, _bell) = world.sleeper(true).await;
        killed.kill();
        settle().await;
        assert_eq!(killed.reason(), Some(ExitReason::Killed));
        assert_eq!(world.log.take(), "works works gone gone gone gone");
        world.tree.stop().await;
    });
}

#[test]
fn a_dormant_actor_decides_how_it_stops_within_its_time() {
    virtual_time(async |here| {
        let world = World::new(&here).await;
        let (at_once, _bell) = world.sleeper(false).await;
        at_once.stop();
        settle().await;
        assert_eq!(at_once.reason(), Some(ExitReason::Shutdown));
        let (later, bell) = world.sleeper(true).await;
        later.stop();
        settle().await;
        assert_eq!(later.reason(), None);
        bell.ring(DONE);
        settle().await;
        assert_eq!(later.reason(), Some(ExitReason::Shutdown));
        assert_eq!(world.log.take(), "asked gone asked gone");
        let (never, _bell) = world.sleeper(true).await;
        let before = tokio::time::Instant::now();
        world.tree.stop().await;
        assert_eq!((before.elapsed(), never.reason()), (Duration::from_secs(3), Some(ExitReason::Killed)));
    });
}

#[test]
fn the_first_address_wakes_a_dormant_actor_and_its_messages_are_handled() {
    virtual_time(async |here| {
        let world = World::new(&here).await;
        let (child, bell) = world.sleeper(false).await;
        let (first, second) = (child.addr().unwrap(), child.clone().addr().unwrap());
        assert_eq!(world.log.take(), "", "it wakes in its own time");
        assert_eq!(first, second);
        assert_eq!(first.send(Echo(4)).await.unwrap(), 4);
        bell.ring(WORK);
        settle().await;
        assert_eq!(child.addr().unwrap().send(Echo(5)).await.unwrap(), 5);
        drop((first, second));
        settle().await;
        assert_eq!(child.reason(), None, "it does not end with the last address");
        child.stop();
        settle().await;
        assert_eq!(child.reason(), Some(ExitReason::Shutdown));
        assert!(child.addr().is_none());
        assert_eq!(world.log.take(), "awake message works message asked stopped gone");
        world.tree.stop().await;
    });
}

#[test]
fn an_awake_actor_ends_by_itself_by_a_message_by_a_kill_and_by_a_panic() {
    virtual_time(async |here| {
        let world = World::new(&here).await;
        let awake = async |lingers| {
            let (child, bell) = world.sleeper(lingers).await;
            child.addr().unwrap().send(Echo(1)).await.unwrap();
            (child, bell)
        };
        let (done, bell) = awake(false).await;
        bell.ring(DONE);
        let (told, _bell) = awake(false).await;
        told.addr().unwrap().do_send(Echo(0));
        let (killed, _bell) = awake(true).await;
        killed.kill();
        let (crashed, bell) = awake(true).await;
        bell.ring(CRASH);
        settle().await;
        let reasons = [done, told, killed, crashed].map(|child| child.reason().unwrap());
        let [normal, error] = [ExitReason::Normal, ExitReason::Error("told to".into())];
        assert_eq!(
            reasons,
            [normal, error, ExitReason::Killed, ExitReason::Panicked(format!("{PLANNED} sleeper").into())]
        );
        world.tree.stop().await;
    });
}

#[test]
fn a_message_from_before_a_stop_is_handled_however_late_both_are_seen() {
    virtual_time(async |here| {
        let world = World::new(&here).await;
        // Between the look at the mailbox and the look at the stop, as another thread may at any time.
        let child = world
            .busy_sleeper(|itself| {
                itself.addr().unwrap().do_send(Echo(1));
                itself.stop();
            })
            .await;
        assert_eq!(child.reason(), Some(ExitReason::Shutdown));
        assert_eq!(world.log.take(), "awake message asked stopped gone");
        world.tree.stop().await;
    });
}

#[test]
fn an_address_that_is_dropped_at_once_is_as_good_as_any() {
    virtual_time(async |here| {
        let world = World::new(&here).await;
        let (child, _bell) = world.sleeper(false).await;
        child.addr().unwrap().do_send(Echo(1));
        drop(child.addr().unwrap());
        child.addr().unwrap().do_send(Echo(2));
        settle().await;
        assert_eq!(child.addr().unwrap().send(Echo(3)).await.unwrap(), 3);
        assert_eq!((world.log.take(), child.reason()), ("awake message message message".to_owned(), None));
        world.tree.stop().await;
    });
}

#[test]
fn addresses_may_be_asked_for_on_several_threads_at_once() {
    virtual_time(async |here| {
        let world = World::new(&here).await;
        let (child, _bell) = world.sleeper(false).await;
        let asks = || child.addr().unwrap().do_send(Echo(1));
        std::thread::scope(|threads| (0..4).for_each(|_| drop(threads.spawn(asks))));
        settle().await;
        assert_eq!(world.log.take(), "awake message message message message");
        world.tree.stop().await;
    });
}

#[test]
fn an_actor_whose_work_is_over_ends_although_it_would_not_stop_for_another() {
    virtual_time(async |here| {
        let world = World::new(&here).await;
        for wakes in [false, true] {
            let (child, bell) = world.sleeper(true).await;
            if wakes {
                child.addr().unwrap();
                settle().await;
            }
            bell.ring(OVER);
            settle().await;
            assert_eq!(child.reason(), Some(ExitReason::Normal), "awake: {wakes}");
        }
        assert_eq!(world.log.take(), "gone awake stopped gone", "nobody is asked");
        world.tree.stop().await;
    });
}

#[test]
fn messages_to_a_dormant_actor_that_ends_first_are_answered_with_an_error() {
    virtual_time(async |here| {
        let world = World::new(&here).await;
        let (child, _bell) = world.sleeper(false).await;
        child.kill();
        let answer = child.addr().unwrap().send(Echo(1));
        settle().await;
        assert_eq!(child.reason(), Some(ExitReason::Killed));
        assert!(answer.await.is_err() && child.addr().is_none());
        assert_eq!(world.log.take(), "gone", "it never woke up");
        world.tree.stop().await;
    });
}

#[test]
fn a_dormant_actor_that_cannot_be_made_leaves_no_trace() {
    virtual_time(async |here| {
        let world = World::new(&here).await;
        let panics = world.pool.start_dormant_here(|| -> Sleeper { panic!("{PLANNED} make") });
        assert!(matches!(panics.unwrap_err(), StartError::Failed { .. }));
        assert_eq!(world.pool.count(), 0);
        world.tree.stop().await;
        let refused = world.pool.start_dormant_here(|| -> Sleeper { unreachable!("the supervisor does not run") });
        assert_eq!(refused.unwrap_err(), StartError::NotRunning);
    });
}
