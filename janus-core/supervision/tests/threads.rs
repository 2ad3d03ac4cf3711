//! Supervision across real threads, for which virtual time is not enough: hung threads and threads that are gone.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use actix::prelude::*;
use janus_supervision::{
    ActorRef, Arbiter, CallError, ChildSpec, DynamicSupervisor, EventKind, ExitReason, Hang, Shutdown, StartError,
    State, Strategy, Supervisor, Watchdog,
};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::support::{DEADLINE, Log, MILLI, PLANNED, Puppet, block_on, puppet, until, virtual_time};

fn one_for_one() -> Supervisor {
    Supervisor::new("root", Strategy::OneForOne).intensity(1000, 60 * 1000 * MILLI).kill_grace(50 * MILLI)
}

/// Blocks the thread until the other end of the channel is dropped.
struct Blocker {
    alive: Arc<AtomicI64>,
    stuck: Arc<AtomicBool>,
    release: Arc<Mutex<mpsc::Receiver<()>>>,
}

impl Actor for Blocker {
    type Context = Context<Self>;
}

impl Drop for Blocker {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Block;

impl Handler<Block> for Blocker {
    type Result = ();

    fn handle(&mut self, _: Block, _: &mut Context<Self>) {
        self.stuck.store(true, Ordering::SeqCst);
        let _ = self.release.lock().recv();
    }
}

struct Blocking {
    actor: ActorRef<Blocker>,
    alive: Arc<AtomicI64>,
    stuck: Arc<AtomicBool>,
    release: Option<mpsc::Sender<()>>,
    spec: ChildSpec,
}

impl Blocking {
    async fn block(&self) {
        self.actor.cast(Block).unwrap();
        until("it is in its handler", || self.stuck.load(Ordering::SeqCst)).await;
    }
}

fn blocking(home: &Arbiter) -> Blocking {
    let (sender, receiver) = mpsc::channel();
    let (actor, alive, release) =
        (ActorRef::new("blocker"), Arc::new(AtomicI64::new(0)), Arc::new(Mutex::new(receiver)));
    let stuck = Arc::new(AtomicBool::new(false));
    let (made, in_handler) = (alive.clone(), stuck.clone());
    let spec = ChildSpec::actor(&actor, move |_| {
        made.fetch_add(1, Ordering::SeqCst);
        Ok(Blocker { alive: made.clone(), stuck: in_handler.clone(), release: release.clone() })
    })
    .place(home.place());
    Blocking { actor, alive, stuck, release: Some(sender), spec }
}

#[test]
fn a_hung_handler_does_not_hang_its_supervisor() {
    block_on(async {
        let (control, home) = (Arbiter::start("control").unwrap(), Arbiter::start("home").unwrap());
        let mut blocking = blocking(&home);
        let spec = blocking.spec.clone().shutdown(Shutdown::Timeout(50 * MILLI)).start_timeout(50 * MILLI);
        let tree = one_for_one().child(spec).start(&control.place()).await.unwrap();
        let mut events = tree.subscribe().unwrap();
        let first = blocking.actor.id();
        let (tell, told) = oneshot::channel();
        blocking.actor.monitor(move |down| drop(tell.send(down.reason))).detach();
        blocking.block().await;
        let call = blocking.actor.call_timeout(Block, 300 * MILLI);
        tree.terminate_child("blocker").await.unwrap();
        assert_eq!(told.await.unwrap(), ExitReason::Killed);
        assert_eq!(call.await, Err(CallError::Died(ExitReason::Killed)));
        assert!(!blocking.actor.is_running());
        assert_eq!(blocking.alive.load(Ordering::SeqCst), 1, "it is still stuck in its handler");
        let mut seen = Vec::new();
        while let Ok(event) = events.try_recv() {
            seen.push(event.what);
        }
        assert!(seen.contains(&EventKind::Abandoned), "{seen:?}");
        // The place does not answer, so the successor cannot start. The result is an error, not a hang.
        let error = tree.restart_child("blocker").await.unwrap_err();
        assert!(error.to_string().contains("not up after 50 ms"), "{error}");

        drop(blocking.release.take());
        until("the old state is dropped once the handler returns", || blocking.alive.load(Ordering::SeqCst) == 0).await;
        tree.restart_child("blocker").await.unwrap();
        assert!(blocking.actor.id().is_some() && blocking.actor.id() != first);
        tree.stop().await;
        assert_eq!(blocking.alive.load(Ordering::SeqCst), 0);
        home.stop();
        control.stop();
    });
}

#[test]
fn a_hung_actor_does_not_harm_its_successor_on_another_thread() {
    block_on(async {
        let arbiters = ["control", "home", "refuge"].map(|name| Arbiter::start(name).unwrap());
        let [control, home, refuge] = &arbiters;
        let mut blocking = blocking(home);
        let spec = blocking.spec.clone().shutdown(Shutdown::BrutalKill);
        let tree = one_for_one().child(spec.clone()).start(&control.place()).await.unwrap();
        blocking.block().await;
        tree.terminate_child("blocker").await.unwrap();
        tree.delete_child("blocker").await.unwrap();
        tree.start_child(spec.place(refuge.place())).await.unwrap();
        let successor = blocking.actor.id();
        assert_eq!(blocking.alive.load(Ordering::SeqCst), 2);
        drop(blocking.release.take());
        until("the old one ends", || blocking.alive.load(Ordering::SeqCst) == 1).await;
        assert_eq!(blocking.actor.id(), successor);
        tree.stop().await;
        arbiters.into_iter().for_each(Arbiter::stop);
    });
}

#[test]
fn a_watchdog_reports_a_hung_actor_once_per_level() {
    block_on(async {
        let (control, home) = (Arbiter::start("control").unwrap(), Arbiter::start("home").unwrap());
        let mut blocking = blocking(&home);
        let root = one_for_one().child(blocking.spec.clone());
        let hangs: Arc<Mutex<Vec<Hang>>> = Arc::default();
        let seen = hangs.clone();
        let watchdog = Watchdog::new(5 * MILLI)
            .level(60 * MILLI)
            .level(20 * MILLI)
            .watch(&home.place())
            .names_from(&root.handle())
            .on_hang(move |hang| {
                seen.lock().push(hang.clone());
                panic!("{PLANNED} in a callback");
            });
        let root = root.child(ChildSpec::task("watchdog", move || watchdog.clone().run()));
        let tree = root.start(&control.place()).await.unwrap();
        let id = blocking.actor.id().unwrap();
        blocking.block().await;
        until("both levels are reported", || hangs.lock().len() == 2).await;
        drop(blocking.release.take());
        tree.stop().await;
        let hangs = hangs.lock();
        assert_eq!(hangs.len(), 2);
        for (level, (hang, least)) in hangs.iter().zip([20, 60]).enumerate() {
            assert_eq!(
                (&*hang.arbiter, hang.actor, hang.name.as_deref(), hang.level),
                ("home", id, Some("blocker"), level)
            );
            assert!(hang.lasted >= least * MILLI);
        }
        home.stop();
        control.stop();
    });
}

#[test]
fn actors_of_a_stopped_arbiter_end_and_cannot_start_there_again() {
    block_on(async {
        let (control, home) = (Arbiter::start("control").unwrap(), Arbiter::start("home").unwrap());
        let (a, spec) = puppet("a", &Log::default());
        let spec = spec.place(home.place()).backoff(5 * MILLI, 5 * MILLI);
        let root = Supervisor::new("root", Strategy::OneForOne).intensity(3, 60 * 1000 * MILLI).child(spec);
        let tree = root.start(&control.place()).await.unwrap();
        let (tell, told) = oneshot::channel();
        a.monitor(move |down| drop(tell.send(down.reason))).detach();
        let place = home.place();
        home.stop();
        assert_eq!(told.await.unwrap(), ExitReason::ArbiterDown);
        assert!(place.run(|| {}).is_err());
        let last = Box::new(ExitReason::ArbiterDown);
        assert_eq!(tree.wait().await, ExitReason::MaxRestarts { child: "a".into(), last });
        let error = one_for_one().start(&place).await.unwrap_err();
        assert_eq!(error, StartError::ArbiterDown);
        control.stop();
    });
}

#[test]
fn a_start_ends_when_its_arbiter_is_dropped_with_the_job() {
    block_on(async {
        let (control, home) = (Arbiter::start("control").unwrap(), Arbiter::start("home").unwrap());
        let (entered, is_in) = oneshot::channel();
        let (release, released) = mpsc::channel::<()>();
        home.place()
            .run(move || {
                let _ = entered.send(());
                let _ = released.recv();
            })
            .unwrap();
        is_in.await.unwrap();
        let tree = one_for_one().start(&control.place()).await.unwrap();
        let (_a, spec) = puppet("a", &Log::default());
        let start = tree.start_child(spec.place(home.place()).start_timeout(DEADLINE));
        let stop = async {
            until("the start is under way", || tree.tree().find("a").is_some_and(|a| a.state == State::Starting)).await;
            // Not `stop`, which would wait for the running job.
            drop(home);
            drop(release);
        };
        let (started, ()) = tokio::join!(start, stop);
        // The job was dropped with the queue or, at the latest, the actor was dropped with the thread.
        match started {
            Err(StartError::Failed { reason: ExitReason::ArbiterDown, .. }) | Ok(()) => {}
            other => panic!("{other:?}"),
        }
        tree.stop().await;
        control.stop();
    });
}

/// Keeps a thread busy until the returned sender is dropped.
async fn occupy(home: &Arbiter) -> mpsc::Sender<()> {
    let (entered, is_in) = oneshot::channel();
    let (release, released) = mpsc::channel::<()>();
    let busy = move || {
        let _ = entered.send(());
        let _ = released.recv();
    };
    home.place().run(busy).unwrap();
    is_in.await.unwrap();
    release
}

#[test]
fn a_supervisor_that_never_ran_refuses_commands_and_kills_its_children() {
    block_on(async {
        let (control, home) = (Arbiter::start("control").unwrap(), Arbiter::start("home").unwrap());
        let release = occupy(&home).await;
        let tree = one_for_one().start(&control.place()).await.unwrap();
        let (inner, pool) = (Supervisor::new("inner", Strategy::OneForOne), DynamicSupervisor::new("pool"));
        let handle = inner.handle();
        let late = |spec: ChildSpec| tree.start_child(spec.place(home.place()).start_timeout(50 * MILLI));
        let command = async {
            until("the start is under way", || handle.id().is_some()).await;
            handle.which_children().await
        };
        let (started, answer) = tokio::join!(late(ChildSpec::supervisor(inner)), timeout(DEADLINE, command));
        assert!(started.is_err());
        assert!(answer.expect("a command is refused when its supervisor has ended").is_err());

        let child = async {
            until("the start is under way", || pool.id().is_some()).await;
            let (tell, told) = oneshot::channel();
            let pool = pool.clone();
            let start = move || {
                let child = pool.start_here(|_| Puppet::new("n", &Log::default())).unwrap();
                child.monitor(move |down| drop(tell.send(down.reason))).detach();
            };
            control.place().run(start).unwrap();
            told.await.unwrap()
        };
        let (started, reason) = tokio::join!(late(ChildSpec::dynamic(&pool)), timeout(DEADLINE, child));
        assert!(started.is_err());
        assert_eq!(reason.expect("a child ends with its supervisor"), ExitReason::Killed);
        drop(release);
        tree.stop().await;
        home.stop();
        control.stop();
    });
}

#[test]
fn a_start_on_a_thread_that_does_not_answer_fails_within_its_timeout() {
    // The clock of this thread jumps during the wait for the other thread, which really hangs.
    virtual_time(async |here| {
        let home = Arbiter::start("home").unwrap();
        let release = occupy(&home).await;
        let tree = one_for_one().start(&here).await.unwrap();
        let inner = ChildSpec::supervisor(Supervisor::new("inner", Strategy::OneForOne));
        let before = tokio::time::Instant::now();
        let start = tree.start_child(inner.place(home.place()));
        let error = timeout(Duration::from_secs(60), start).await.expect("it gives up").unwrap_err();
        assert!(error.to_string().contains("home did not answer for 5 s"), "{error}");
        assert!(before.elapsed() < Duration::from_secs(6));
        drop(release);
        tree.stop().await;
        home.stop();
    });
}

#[test]
fn an_abandoned_supervisor_takes_its_children_along() {
    block_on(async {
        let arbiters = ["control", "home", "refuge"].map(|name| Arbiter::start(name).unwrap());
        let [control, home, refuge] = &arbiters;
        let ((a, a_spec), (b, b_spec)) = (puppet("a", &Log::default()), puppet("b", &Log::default()));
        let inner = Supervisor::new("inner", Strategy::OneForOne).child(a_spec.place(refuge.place()));
        let pool = DynamicSupervisor::new("pool");
        let hasty = |spec: ChildSpec| spec.place(home.place()).shutdown(Shutdown::Timeout(50 * MILLI));
        let root = one_for_one().child(hasty(ChildSpec::supervisor(inner))).child(hasty(ChildSpec::dynamic(&pool)));
        let tree = root.start(&control.place()).await.unwrap();
        pool.start_child(b_spec.place(refuge.place())).await.unwrap();
        let release = occupy(home).await;
        tree.terminate_child("inner").await.unwrap();
        tree.terminate_child("pool").await.unwrap();
        until("the children end", || !a.is_running() && !b.is_running()).await;
        drop(release);
        tree.stop().await;
        arbiters.into_iter().for_each(Arbiter::stop);
    });
}

#[test]
fn a_name_never_resolves_to_an_actor_abandoned_in_its_factory() {
    block_on(async {
        let (control, home) = (Arbiter::start("control").unwrap(), Arbiter::start("home").unwrap());
        let (release, released) = mpsc::channel::<()>();
        let released = Mutex::new(released);
        let actor = ActorRef::new("a");
        let spec = ChildSpec::actor(&actor, move |_| {
            let _ = released.lock().recv();
            Ok(Puppet::new("a", &Log::default()))
        });
        let tree = one_for_one().start(&control.place()).await.unwrap();
        let start = tree.start_child(spec.place(home.place()).start_timeout(20 * MILLI));
        assert!(start.await.unwrap_err().to_string().contains("not up after 20 ms"));
        let (tell, told) = oneshot::channel();
        let name = actor.clone();
        let look = move || {
            let _ = tell.send(name.is_running());
        };
        home.place().run(look).unwrap();
        drop(release);
        assert!(!told.await.unwrap());
        tree.stop().await;
        home.stop();
        control.stop();
    });
}

#[test]
fn a_start_that_waits_for_a_predecessor_ends_with_its_supervisor() {
    block_on(async {
        let (control, home) = (Arbiter::start("control").unwrap(), Arbiter::start("home").unwrap());
        let mut blocking = blocking(&home);
        let pool = DynamicSupervisor::new("pool").kill_grace(DEADLINE * 4);
        let brutal = ChildSpec::dynamic(&pool).shutdown(Shutdown::BrutalKill);
        let tree = one_for_one().child(brutal).start(&control.place()).await.unwrap();
        pool.start_child(blocking.spec.clone()).await.unwrap();
        blocking.block().await;
        // The child is killed along with the supervisor, but is stuck in a handler.
        tree.terminate_child("pool").await.unwrap();
        tree.delete_child("pool").await.unwrap();
        tree.start_child(ChildSpec::dynamic(&pool)).await.unwrap();
        let start = pool.start_child(blocking.spec.clone());
        let stop = async {
            until("the start is under way", || !pool.tree().children.is_empty()).await;
            let before = Instant::now();
            tree.terminate_child("pool").await.unwrap();
            before.elapsed()
        };
        let (started, took) = tokio::join!(start, stop);
        assert_eq!(started, Err(StartError::NotRunning));
        assert!(took < Duration::from_secs(2), "{took:?}");
        drop(blocking.release.take());
        tree.stop().await;
        home.stop();
        control.stop();
    });
}

#[test]
fn a_child_waits_for_a_predecessor_whose_supervisor_was_killed() {
    block_on(async {
        let arbiters = ["control", "home", "refuge"].map(|name| Arbiter::start(name).unwrap());
        let [control, home, refuge] = &arbiters;
        let mut blocking = blocking(home);
        let pool = DynamicSupervisor::new("pool").kill_grace(DEADLINE * 4);
        let tree = one_for_one().child(ChildSpec::dynamic(&pool)).start(&control.place()).await.unwrap();
        pool.start_child(blocking.spec.clone()).await.unwrap();
        blocking.block().await;
        let killed = pool.id();
        tree.kill();
        tree.wait().await;
        until("the pool ends too", || pool.id().is_none()).await;
        let tree = one_for_one().child(ChildSpec::dynamic(&pool)).start(&control.place()).await.unwrap();
        assert_ne!(pool.id(), killed);
        let start = pool.start_child(blocking.spec.clone().place(refuge.place()));
        let release = async {
            until("the start is under way", || !pool.tree().children.is_empty()).await;
            assert_eq!(blocking.alive.load(Ordering::SeqCst), 1);
            drop(blocking.release.take());
        };
        let (started, ()) = tokio::join!(start, release);
        started.unwrap();
        assert_eq!(blocking.alive.load(Ordering::SeqCst), 1);
        tree.stop().await;
        arbiters.into_iter().for_each(Arbiter::stop);
    });
}

#[test]
fn a_panic_in_a_job_leaves_the_arbiter_running() {
    block_on(async {
        let home = Arbiter::start("home").unwrap();
        let (tell, told) = oneshot::channel();
        home.place().run(|| panic!("{PLANNED} in a job")).unwrap();
        home.place().run(move || drop(tell.send(std::thread::current().name().map(str::to_owned)))).unwrap();
        assert_eq!(told.await.unwrap().as_deref(), Some("home"));
        home.stop();
    });
}

#[test]
fn a_task_runs_between_the_jobs_of_a_long_queue() {
    const JOBS: u64 = 1_000;
    block_on(async {
        let home = Arbiter::start("home").unwrap();
        let release = occupy(&home).await;
        let run = Arc::new(AtomicU64::new(0));
        let (seen, first_turn) = oneshot::channel();
        let counter = Arc::clone(&run);
        let spawn = move || {
            let look = async move { seen.send(counter.load(Ordering::SeqCst)) };
            drop(tokio::task::spawn_local(look));
        };
        home.place().run(spawn).unwrap();
        for _ in 0..JOBS {
            let run = Arc::clone(&run);
            home.place().run(move || _ = run.fetch_add(1, Ordering::SeqCst)).unwrap();
        }
        drop(release);
        let seen = first_turn.await.unwrap();
        assert!(seen < JOBS / 10, "{seen} jobs came before it");
        until("the others come as well", || run.load(Ordering::SeqCst) == JOBS).await;
        home.stop();
    });
}

#[test]
fn an_idle_arbiter_counts_pauses() {
    block_on(async {
        let home = Arbiter::start("home").unwrap();
        for _ in 0..3 {
            let before = home.place().pauses();
            home.place().run(|| {}).unwrap();
            until("the arbiter pauses", || home.place().pauses() != before).await;
        }
        home.stop();
    });
}

#[test]
fn a_busy_arbiter_counts_no_pause() {
    block_on(async {
        let home = Arbiter::start("home").unwrap();
        let place = home.place();
        let (tell, told) = oneshot::channel();
        home.place()
            .run(move || {
                tokio::task::spawn_local(async move {
                    let before = place.pauses();
                    for _ in 0..1_000 {
                        tokio::task::yield_now().await;
                    }
                    let _ = tell.send(place.pauses() - before);
                });
            })
            .unwrap();
        assert_eq!(told.await, Ok(0));
        home.stop();
    });
}

#[test]
fn an_arbiter_knows_how_long_it_has_worked_and_tells_before_each_pause() {
    block_on(async {
        let home = Arbiter::start("home").unwrap();
        let (place, longest) = (home.place(), Arc::new(AtomicU64::new(0)));
        let told = Arc::clone(&longest);
        let tell = move |worked: Duration| {
            told.fetch_max(worked.as_millis() as u64, Ordering::SeqCst);
        };
        assert!(place.on_pause(tell));
        assert!(!place.on_pause(|_| {}), "the first stays");
        let before = place.busy();
        let (release, released) = mpsc::channel::<()>();
        place
            .run(move || {
                let _ = released.recv();
            })
            .unwrap();
        // The work under way counts, too.
        until("it has worked for a while", || place.busy() >= before + 30 * MILLI).await;
        drop(release);
        until("the end of the work is told", || longest.load(Ordering::SeqCst) >= 30).await;
        until("it pauses", || {
            let busy = place.busy();
            place.busy() == busy
        })
        .await;
        home.stop();
    });
}

struct Native;

impl Actor for Native {
    type Context = Context<Self>;
}

#[derive(MessageResponse)]
struct OnThread(std::thread::ThreadId);

#[derive(Message)]
#[rtype(result = "OnThread")]
struct WhereAreYou;

impl Handler<WhereAreYou> for Native {
    type Result = OnThread;

    fn handle(&mut self, _: WhereAreYou, _: &mut Context<Self>) -> OnThread {
        OnThread(std::thread::current().id())
    }
}

#[test]
fn numbered_children_start_on_the_calling_thread() {
    block_on(async {
        let (control, home) = (Arbiter::start("control").unwrap(), Arbiter::start("home").unwrap());
        let pool = DynamicSupervisor::new("pool");
        let tree = one_for_one().child(ChildSpec::dynamic(&pool)).start(&control.place()).await.unwrap();
        let (tell, told) = oneshot::channel();
        let here = pool.clone();
        home.place()
            .run(move || {
                let child = here.start_here(|_| Native).unwrap();
                let _ = tell.send((child, std::thread::current().id()));
            })
            .unwrap();
        let (child, thread) = told.await.unwrap();
        assert_eq!(child.addr().unwrap().send(WhereAreYou).await.unwrap().0, thread);
        tree.stop().await;
        assert_eq!(child.reason(), Some(ExitReason::Shutdown));
        home.stop();
        control.stop();
    });
}
