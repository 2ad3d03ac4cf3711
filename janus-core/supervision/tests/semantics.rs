//! What a supervisor promises, one promise a test, on one thread in virtual time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use actix::dev;
use actix::prelude::*;
use janus_supervision::{
    ActorId, ActorRef, AutoShutdown, CallError, ChildError, ChildSpec, Down, EventKind, Exit, ExitReason, NodeKind,
    NotRunning, Restart, Shutdown, StartError, StartInfo, State, Strategy, Supervisor, SupervisorRef, current,
    defer_init, link, stop_requested,
};
use parking_lot::Mutex;
use tokio::sync::{broadcast, oneshot};
use tokio::time::Instant;

use crate::support::{Echo, Leave, Log, PLANNED, Panic, Puppet, end, in_time, puppet, settle, virtual_time};

const SECOND: Duration = Duration::from_secs(1);

fn one_for_one() -> Supervisor {
    Supervisor::new("root", Strategy::OneForOne).intensity(1000, SECOND)
}

async fn crash(actor: &ActorRef<Puppet>) {
    end(actor, |actor| actor.cast(Panic).unwrap()).await;
    settle().await;
}

fn stop_beside(tree: &SupervisorRef) {
    let tree = tree.clone();
    tokio::task::spawn_local(async move { tree.stop().await });
}

fn state_of(tree: &SupervisorRef, name: &str) -> Option<State> {
    tree.tree().find(name).map(|node| node.state)
}

#[test]
fn children_start_in_order_and_stop_in_reverse_order() {
    virtual_time(async |here| {
        let log = Log::default();
        let specs = ["a", "b", "c"].map(|name| puppet(name, &log).1);
        let tree = specs.into_iter().fold(one_for_one(), Supervisor::child).start(&here).await.unwrap();
        assert_eq!(log.take(), "start:a start:b start:c");
        tree.stop().await;
        assert_eq!(log.take(), "term:c term:b term:a");
        assert_eq!(tree.wait().await, ExitReason::Shutdown);
    });
}

#[test]
fn each_strategy_restarts_its_range_in_order() {
    for (strategy, expected) in [
        (Strategy::OneForOne, "start:b"),
        (Strategy::OneForAll, "term:c term:a start:a start:b start:c"),
        (Strategy::RestForOne, "term:c start:b start:c"),
    ] {
        virtual_time(async |here| {
            let log = Log::default();
            let ((_a, a), (b, b_spec), (_c, c)) = (puppet("a", &log), puppet("b", &log), puppet("c", &log));
            let root = Supervisor::new("root", strategy).child(a).child(b_spec).child(c);
            let tree = root.start(&here).await.unwrap();
            log.take();
            crash(&b).await;
            assert_eq!(log.take(), expected, "{strategy:?}");
            tree.stop().await;
        });
    }
}

struct Slow {
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

fn slow(init: Duration, outcome: Result<(), String>, log: &Log) -> ChildSpec {
    let log = log.clone();
    ChildSpec::actor(&ActorRef::new("slow"), move |_| Ok(Slow { init, outcome: outcome.clone(), log: log.clone() }))
}

#[test]
fn the_next_child_waits_for_a_deferred_initialisation() {
    virtual_time(async |here| {
        let log = Log::default();
        let before = Instant::now();
        let root = one_for_one().child(slow(3 * SECOND, Ok(()), &log)).child(puppet("next", &log).1);
        let tree = root.start(&here).await.unwrap();
        assert_eq!(log.take(), "ready start:next");
        assert_eq!(before.elapsed().as_secs(), 3);
        tree.stop().await;
    });
}

#[test]
fn a_deferred_initialisation_that_fails_is_a_failed_start() {
    virtual_time(async |here| {
        let log = Log::default();
        let root = one_for_one().child(puppet("first", &log).1).child(slow(SECOND, Err("no disk".into()), &log));
        let error = root.start(&here).await.unwrap_err();
        assert_eq!(error.to_string(), "root: start failed: slow: start failed: no disk");
        assert_eq!(log.take(), "start:first ready term:first");
    });
}

#[test]
fn what_started_waits_for_is_part_of_the_start() {
    struct Waits(Log);
    impl Actor for Waits {
        type Context = Context<Self>;
        fn started(&mut self, ctx: &mut Context<Self>) {
            let connect = async { tokio::time::sleep(2 * SECOND).await };
            ctx.wait(connect.into_actor(self).map(|(), act, _| act.0.say("connected")));
        }
    }
    virtual_time(async |here| {
        let log = Log::default();
        let waits = {
            let log = log.clone();
            ChildSpec::actor(&ActorRef::new("waits"), move |_| Ok(Waits(log.clone())))
        };
        let tree = one_for_one().child(waits).child(puppet("next", &log).1).start(&here).await.unwrap();
        assert_eq!(log.take(), "connected start:next");
        tree.stop().await;
    });
}

#[test]
fn what_the_factory_waits_for_is_part_of_the_start() {
    virtual_time(async |here| {
        let log = Log::default();
        let waits = {
            let log = log.clone();
            ChildSpec::actor(&ActorRef::new("waits"), move |ctx| {
                let connect = async { tokio::time::sleep(2 * SECOND).await };
                ctx.wait(fut::wrap_future::<_, Puppet>(connect).map(|(), act, _| act.log().say("connected")));
                Ok(Puppet::new("waits", &log))
            })
        };
        let tree = one_for_one().child(waits).child(puppet("next", &log).1).start(&here).await.unwrap();
        assert_eq!(log.take(), "start:waits connected start:next");
        tree.stop().await;
    });
}

#[test]
fn a_start_that_takes_too_long_fails_and_is_rolled_back() {
    virtual_time(async |here| {
        let log = Log::default();
        let before = Instant::now();
        let too_slow = slow(Duration::from_secs(600), Ok(()), &log).start_timeout(3 * SECOND);
        let error = one_for_one().child(puppet("first", &log).1).child(too_slow).start(&here).await.unwrap_err();
        assert!(
            matches!(&error, StartError::Failed { reason: ExitReason::StartFailed(why), .. } if why.contains("3s"))
        );
        assert_eq!(before.elapsed().as_secs(), 3);
        assert_eq!(log.take(), "start:first term:first");
    });
}

#[test]
fn a_supervisor_may_take_as_long_to_start_as_its_children_do() {
    virtual_time(async |here| {
        let (minute, log) = (60 * SECOND, Log::default());
        let inner = Supervisor::new("inner", Strategy::OneForOne);
        let inner = inner.child(slow(minute, Ok(()), &log).start_timeout(2 * minute));
        let tree = one_for_one().child(ChildSpec::supervisor(inner)).start(&here).await.unwrap();
        assert_eq!(log.take(), "ready");
        tree.stop().await;
    });
}

#[test]
fn five_restarts_in_sixty_seconds_are_allowed_and_the_sixth_escalates() {
    virtual_time(async |here| {
        let log = Log::default();
        let (a, spec) = puppet("a", &log);
        let root = Supervisor::new("root", Strategy::OneForOne).intensity(5, 60 * SECOND).child(spec);
        let tree = root.start(&here).await.unwrap();
        for _ in 0..5 {
            crash(&a).await;
        }
        // The five have left the window by then, so there is room for five more.
        tokio::time::sleep(61 * SECOND).await;
        for _ in 0..5 {
            crash(&a).await;
            assert!(a.is_running());
        }
        tokio::time::sleep(59 * SECOND).await;
        crash(&a).await;
        let last = Box::new(ExitReason::Panicked(format!("{PLANNED} a").into()));
        assert_eq!(tree.wait().await, ExitReason::MaxRestarts { child: "a".into(), last });
        assert!(!a.is_running());
    });
}

#[test]
fn a_supervisor_that_gives_up_is_restarted_by_its_parent_until_that_gives_up_too() {
    virtual_time(async |here| {
        let log = Log::default();
        let (a, spec) = puppet("a", &log);
        let inner = Supervisor::new("inner", Strategy::OneForOne).intensity(1, 60 * SECOND).child(spec);
        // Giving up is abnormal: a transient supervisor is restarted for it, where OTP's would not be.
        let inner = ChildSpec::supervisor(inner).restart(Restart::Transient);
        let (_, sibling) = puppet("sibling", &log);
        let root = Supervisor::new("root", Strategy::OneForAll).intensity(1, 60 * SECOND).child(sibling).child(inner);
        let tree = root.start(&here).await.unwrap();
        assert_eq!(log.take(), "start:sibling start:a");
        crash(&a).await;
        assert_eq!(log.take(), "start:a");
        crash(&a).await;
        assert_eq!(log.take(), "term:sibling start:sibling start:a");
        crash(&a).await;
        crash(&a).await;
        let ExitReason::MaxRestarts { child, last } = tree.wait().await else { panic!("the root lives on") };
        assert_eq!(&*child, "inner");
        assert!(matches!(&*last, ExitReason::MaxRestarts { child, .. } if &**child == "a"));
        assert_eq!(log.take(), "start:a term:sibling");
    });
}

#[test]
fn an_actor_may_finish_its_work_before_it_stops() {
    virtual_time(async |here| {
        let log = Log::default();
        let actor = ActorRef::new("a");
        let spec = {
            let log = log.clone();
            ChildSpec::actor(&actor, move |_| Ok(Puppet::new("a", &log).lingering(2 * SECOND)))
        };
        let tree = one_for_one().child(spec.shutdown(Shutdown::Timeout(3 * SECOND))).start(&here).await.unwrap();
        let before = Instant::now();
        let reason = end(&actor, |_| stop_beside(&tree)).await;
        assert_eq!(reason, ExitReason::Shutdown);
        assert_eq!(before.elapsed().as_secs(), 2);
        assert_eq!(log.take(), "start:a term:a");
    });
}

#[test]
fn an_actor_that_does_not_stop_in_time_is_killed() {
    virtual_time(async |here| {
        let log = Log::default();
        let actor = ActorRef::new("a");
        let spec = {
            let log = log.clone();
            ChildSpec::actor(&actor, move |_| Ok(Puppet::new("a", &log).lingering(Duration::from_secs(3600))))
        };
        let tree = one_for_one().child(spec.shutdown(Shutdown::Timeout(3 * SECOND))).start(&here).await.unwrap();
        let before = Instant::now();
        let reason = end(&actor, |_| stop_beside(&tree)).await;
        assert_eq!(reason, ExitReason::Killed);
        assert_eq!(before.elapsed().as_secs(), 3);
        assert_eq!(log.take(), "start:a");
    });
}

#[test]
fn brutal_kill_does_not_ask() {
    virtual_time(async |here| {
        let log = Log::default();
        let (_a, spec) = puppet("a", &log);
        let tree = one_for_one().child(spec.shutdown(Shutdown::BrutalKill)).start(&here).await.unwrap();
        tree.stop().await;
        assert_eq!(log.take(), "start:a");
        assert_eq!(tree.tree().find("a").unwrap().last_reason, Some(ExitReason::Killed));
    });
}

#[test]
fn a_thousand_calls_sent_before_a_stop_are_answered() {
    virtual_time(async |here| {
        let (a, spec) = puppet("a", &Log::default());
        let tree = one_for_one().child(spec.restart(Restart::Transient)).start(&here).await.unwrap();
        let calls: Vec<_> = (0..1000).map(|n| a.call(Echo(n))).collect();
        a.stop();
        for (n, call) in calls.into_iter().enumerate() {
            assert_eq!(call.await, Ok(n as u32));
        }
        settle().await;
        assert_eq!(state_of(&tree, "a"), Some(State::Stopped));
        tree.stop().await;
    });
}

#[test]
fn a_back_off_doubles_up_to_its_limit_and_holds_nobody_up() {
    virtual_time(async |here| {
        let started: Arc<Mutex<Vec<Instant>>> = Arc::default();
        let times = started.clone();
        let fails = move || {
            let times = times.clone();
            async move {
                times.lock().push(Instant::now());
                tokio::task::yield_now().await;
                Err("planned".into())
            }
        };
        let flaky = ChildSpec::task("flaky", fails).backoff(SECOND / 2, SECOND);
        let log = Log::default();
        let (bystander, spec) = puppet("bystander", &log);
        let tree = one_for_one().intensity(100, 60 * SECOND).child(flaky).child(spec).start(&here).await.unwrap();
        tokio::time::sleep(SECOND / 10).await;
        assert_eq!(state_of(&tree, "flaky"), Some(State::Restarting));
        let before = Instant::now();
        crash(&bystander).await;
        tree.which_children().await.unwrap();
        assert!(bystander.is_running());
        assert!(before.elapsed() < SECOND / 10, "the supervisor served others during the back-off");
        tokio::time::sleep(3 * SECOND).await;
        let waits: Vec<u128> = started.lock().windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
        assert_eq!(waits, [500, 1000, 1000]);
        let before = Instant::now();
        tree.stop().await;
        assert!(before.elapsed() < SECOND / 1000, "nor does it hold up a stop");
    });
}

#[test]
fn a_back_off_begins_anew_after_a_quiet_time() {
    virtual_time(async |here| {
        let (a, spec) = puppet("a", &Log::default());
        let tree = one_for_one().child(spec.backoff(SECOND, 8 * SECOND)).start(&here).await.unwrap();
        for expected in [1, 2, 4] {
            let before = Instant::now();
            let died = a.id();
            crash(&a).await;
            a.when_up(died).await;
            assert_eq!(before.elapsed().as_secs(), expected);
        }
        tokio::time::sleep(9 * SECOND).await;
        let (before, died) = (Instant::now(), a.id());
        crash(&a).await;
        a.when_up(died).await;
        assert_eq!(before.elapsed().as_secs(), 1);
        tree.stop().await;
    });
}

#[test]
fn siblings_that_share_the_fate_of_a_child_are_stopped_before_its_back_off() {
    virtual_time(async |here| {
        let log = Log::default();
        let ((_a, a), (b, b_spec)) = (puppet("a", &log), puppet("b", &log));
        let root = Supervisor::new("root", Strategy::OneForAll).child(a).child(b_spec.backoff(SECOND, SECOND));
        let tree = root.start(&here).await.unwrap();
        log.take();
        crash(&b).await;
        assert_eq!(log.take(), "term:a");
        tokio::time::sleep(SECOND).await;
        assert_eq!(log.take(), "start:a start:b");
        tree.stop().await;
    });
}

#[test]
fn siblings_started_during_a_back_off_are_stopped_before_the_restart() {
    virtual_time(async |here| {
        let log = Log::default();
        let ((a, a_spec), (b, b_spec), (c, c_spec)) = (puppet("a", &log), puppet("b", &log), puppet("c", &log));
        let root = Supervisor::new("root", Strategy::OneForAll).child(a_spec).child(b_spec.backoff(SECOND, SECOND));
        let tree = root.start(&here).await.unwrap();
        crash(&b).await;
        tree.restart_child("a").await.unwrap();
        tree.start_child(c_spec).await.unwrap();
        assert_eq!(log.take(), "start:a start:b term:a start:a start:c");
        tokio::time::sleep(SECOND).await;
        settle().await;
        assert_eq!(log.take(), "term:c term:a start:a start:b start:c");
        assert!(a.is_running() && b.is_running() && c.is_running());
        tree.stop().await;
        assert_eq!(log.take(), "term:c term:b term:a");
    });
}

#[test]
fn a_back_off_without_end_is_waited_out_like_any_other() {
    virtual_time(async |here| {
        let (a, spec) = puppet("a", &Log::default());
        let root = one_for_one().child(spec.backoff(Duration::MAX, Duration::MAX));
        let tree = root.start(&here).await.unwrap();
        crash(&a).await;
        assert_eq!(state_of(&tree, "a"), Some(State::Restarting));
        tree.stop().await;
        assert_eq!(tree.wait().await, ExitReason::Shutdown);
    });
}

#[test]
fn a_child_whose_restart_keeps_failing_can_be_terminated() {
    virtual_time(async |here| {
        let healthy = Arc::new(AtomicBool::new(true));
        let actor = ActorRef::<Puppet>::new("a");
        let spec = {
            let healthy = healthy.clone();
            ChildSpec::actor(&actor, move |_| {
                if healthy.load(Ordering::Relaxed) {
                    Ok(Puppet::new("a", &Log::default()))
                } else {
                    Err("broken".into())
                }
            })
        };
        let tree = one_for_one().intensity(u32::MAX, SECOND).child(spec).start(&here).await.unwrap();
        healthy.store(false, Ordering::Relaxed);
        end(&actor, |actor| actor.cast(Panic).unwrap()).await;
        tree.terminate_child("a").await.unwrap();
        assert_eq!(state_of(&tree, "a"), Some(State::Stopped));
        healthy.store(true, Ordering::Relaxed);
        tree.restart_child("a").await.unwrap();
        assert!(actor.is_running());
        tree.stop().await;
    });
}

#[test]
fn a_child_that_crashes_in_a_loop_keeps_no_command_waiting() {
    virtual_time(async |here| {
        let log = Log::default();
        let tree = one_for_one().intensity(u32::MAX, SECOND).child(puppet("a", &log).1).start(&here).await.unwrap();
        // Up and gone in the same poll, so that its end is always there before the supervisor looks.
        let crash_loop = ChildSpec::task("loop", || async { Ok(()) });
        tree.start_child(crash_loop).await.unwrap();
        // Nobody is ever idle here, so the clock stands still.
        while tree.tree().find("loop").unwrap().restarts < 10 {
            tokio::task::yield_now().await;
        }
        tree.terminate_child("a").await.unwrap();
        tree.terminate_child("loop").await.unwrap();
        assert_eq!(log.take(), "start:a term:a");
        tree.stop().await;
    });
}

#[test]
fn a_factory_learns_why_it_is_called() {
    virtual_time(async |here| {
        let infos: Arc<Mutex<Vec<StartInfo>>> = Arc::default();
        let actor = ActorRef::new("a");
        let spec = {
            let infos = infos.clone();
            ChildSpec::actor_with(&actor, move |_, info| {
                infos.lock().push(info.clone());
                Ok(Puppet::new("a", &Log::default()))
            })
        };
        let tree = one_for_one().intensity(9, 60 * SECOND).child(spec).start(&here).await.unwrap();
        crash(&actor).await;
        end(&actor, ActorRef::kill).await;
        settle().await;
        let seen: Vec<_> = infos.lock().iter().map(|info| (info.restarts, info.last_reason.clone())).collect();
        let panicked = ExitReason::Panicked(format!("{PLANNED} a").into());
        assert_eq!(seen, [(0, None), (1, Some(panicked)), (2, Some(ExitReason::Killed))]);
        tree.stop().await;
    });
}

#[test]
fn a_monitor_is_told_once_with_id_and_reason() {
    virtual_time(async |here| {
        let (a, spec) = puppet("a", &Log::default());
        let tree = one_for_one().child(spec).start(&here).await.unwrap();
        let downs: Arc<Mutex<Vec<Down>>> = Arc::default();
        let (id, seen) = (a.id().unwrap(), downs.clone());
        a.monitor(move |down| seen.lock().push(down)).detach();
        crash(&a).await;
        crash(&a).await;
        let downs = std::mem::take(&mut *downs.lock());
        assert_eq!(downs.len(), 1);
        assert_eq!((downs[0].id, &*downs[0].name), (id, "a"));
        assert_eq!(downs[0].reason, ExitReason::Panicked(format!("{PLANNED} a").into()));
        tree.stop().await;
    });
}

#[test]
fn a_monitor_of_nobody_is_told_at_once_and_a_dropped_one_never() {
    virtual_time(async |here| {
        let (a, spec) = puppet("a", &Log::default());
        let told = Arc::new(AtomicU32::new(0));
        let count = |by: u32| {
            let told = told.clone();
            move |down: Down| {
                assert!(by == 100 || (down.id, down.reason) == (ActorId::NONE, ExitReason::NotRunning));
                told.fetch_add(by, Ordering::Relaxed);
            }
        };
        a.monitor(count(1)).detach();
        assert_eq!(told.load(Ordering::Relaxed), 1);
        let tree = one_for_one().child(spec).start(&here).await.unwrap();
        drop(a.monitor(count(100)));
        crash(&a).await;
        assert_eq!(told.load(Ordering::Relaxed), 1);
        tree.stop().await;
    });
}

#[test]
fn a_panicking_monitor_hurts_nobody() {
    virtual_time(async |here| {
        let (a, spec) = puppet("a", &Log::default());
        let tree = one_for_one().child(spec).start(&here).await.unwrap();
        let (tell, told) = oneshot::channel();
        a.monitor(|_| panic!("{PLANNED} in a monitor")).detach();
        a.monitor(move |down| drop(tell.send(down.reason))).detach();
        crash(&a).await;
        assert!(told.await.is_ok());
        assert!(a.is_running());
        tree.stop().await;
    });
}

#[test]
fn linked_actors_end_together_unless_one_ends_normally() {
    virtual_time(async |here| {
        let log = Log::default();
        let ((a, a_spec), (b, b_spec), (c, c_spec)) = (puppet("a", &log), puppet("b", &log), puppet("c", &log));
        let root = one_for_one().child(a_spec.restart(Restart::Temporary)).child(b_spec.restart(Restart::Temporary));
        let tree = root.child(c_spec.restart(Restart::Temporary)).start(&here).await.unwrap();
        let link_ab = link(&a, &b).unwrap();
        let _link_bc = link(&b, &c).unwrap();
        end(&c, |c| c.cast(Leave(ExitReason::Normal)).unwrap()).await;
        settle().await;
        assert!(a.is_running() && b.is_running());
        let reason = end(&b, |_| a.cast(Panic).unwrap()).await;
        assert_eq!(reason, ExitReason::Panicked(format!("{PLANNED} a").into()));
        assert_eq!(link(&a, &b).unwrap_err(), NotRunning);
        drop(link_ab);
        tree.stop().await;
    });
}

#[test]
fn a_dropped_link_ties_nobody() {
    virtual_time(async |here| {
        let log = Log::default();
        let ((a, a_spec), (b, b_spec)) = (puppet("a", &log), puppet("b", &log));
        let tree = one_for_one().child(a_spec).child(b_spec).start(&here).await.unwrap();
        let id = b.id();
        drop(link(&a, &b).unwrap());
        crash(&a).await;
        assert_eq!(b.id(), id);
        tree.stop().await;
    });
}

#[test]
fn a_supervisor_can_end_with_any_or_with_all_of_its_significant_children() {
    for (auto, after_first) in [(AutoShutdown::AnySignificant, true), (AutoShutdown::AllSignificant, false)] {
        virtual_time(async |here| {
            let log = Log::default();
            let ((a, a_spec), (b, b_spec), (_c, c)) = (puppet("a", &log), puppet("b", &log), puppet("c", &log));
            let root = one_for_one()
                .auto_shutdown(auto)
                .child(a_spec.restart(Restart::Transient).significant(true))
                .child(b_spec.restart(Restart::Temporary).significant(true))
                .child(c);
            let tree = root.start(&here).await.unwrap();
            end(&a, |a| a.cast(Leave(ExitReason::Normal)).unwrap()).await;
            settle().await;
            assert_eq!(tree.id().is_none(), after_first);
            if !after_first {
                end(&b, ActorRef::kill).await;
            }
            assert_eq!(tree.wait().await, ExitReason::Shutdown);
        });
    }
}

#[test]
fn a_contradictory_spec_is_refused() {
    virtual_time(async |here| {
        let log = Log::default();
        let significant = || puppet("a", &log).1.significant(true);
        let refused = one_for_one().child(significant().restart(Restart::Transient)).start(&here).await;
        assert!(matches!(refused, Err(StartError::Invalid { .. })));
        let any = || one_for_one().auto_shutdown(AutoShutdown::AnySignificant);
        assert!(matches!(any().child(significant()).start(&here).await, Err(StartError::Invalid { .. })));
        let twice = one_for_one().child(puppet("a", &log).1).child(puppet("a", &log).1).start(&here).await;
        assert_eq!(twice.unwrap_err(), StartError::AlreadyPresent("a".into()));
        assert_eq!(log.take(), "");
    });
}

#[test]
fn a_name_runs_only_once_at_a_time() {
    virtual_time(async |here| {
        let log = Log::default();
        let (a, spec) = puppet("a", &log);
        let first = one_for_one().child(spec.clone()).start(&here).await.unwrap();
        let id = a.id();
        let other = one_for_one().child(spec);
        let twice = other.clone();
        let second = other.start(&here).await.unwrap_err();
        assert!(second.to_string().contains("a is already running"), "{second}");
        assert_eq!(a.id(), id);
        first.stop().await;
        let once = twice.clone().start(&here).await.unwrap();
        assert_eq!(twice.start(&here).await.unwrap_err(), StartError::AlreadyStarted("root".into()));
        once.stop().await;
    });
}

#[test]
fn children_can_be_added_terminated_restarted_and_deleted() {
    virtual_time(async |here| {
        let log = Log::default();
        let tree = one_for_one().child(puppet("a", &log).1).start(&here).await.unwrap();
        let (_b, b) = puppet("b", &log);
        tree.start_child(b.clone()).await.unwrap();
        assert_eq!(tree.start_child(b.clone()).await, Err(StartError::AlreadyStarted("b".into())));
        assert_eq!(tree.restart_child("b").await, Err(ChildError::Running));
        assert_eq!(tree.delete_child("b").await, Err(ChildError::Running));
        tree.terminate_child("b").await.unwrap();
        tree.terminate_child("b").await.unwrap();
        assert_eq!(tree.start_child(b.clone()).await, Err(StartError::AlreadyPresent("b".into())));
        tree.restart_child("b").await.unwrap();
        tree.terminate_child("b").await.unwrap();
        tree.delete_child("b").await.unwrap();
        assert_eq!(tree.terminate_child("b").await, Err(ChildError::NotFound));
        assert_eq!(log.take(), "start:a start:b term:b start:b term:b");
        tree.start_child(b.restart(Restart::Temporary)).await.unwrap();
        tree.terminate_child("b").await.unwrap();
        assert_eq!(tree.delete_child("b").await, Err(ChildError::NotFound));
        tree.stop().await;
        assert_eq!(tree.which_children().await.unwrap_err(), ChildError::NotRunning);
        assert_eq!(tree.start_child(puppet("c", &log).1).await, Err(StartError::NotRunning));
    });
}

#[test]
fn a_child_that_is_added_and_cannot_start_is_not_kept() {
    virtual_time(async |here| {
        let tree = one_for_one().start(&here).await.unwrap();
        let broken = ChildSpec::actor(&ActorRef::<Puppet>::new("broken"), |_| Err("broken".into()));
        let error = tree.start_child(broken).await.unwrap_err();
        let reason = ExitReason::StartFailed("broken".into());
        assert_eq!(error, StartError::Failed { child: "broken".into(), reason });
        assert!(tree.which_children().await.unwrap().is_empty());
        tree.stop().await;
    });
}

struct Silent(Option<oneshot::Sender<u32>>);

impl Actor for Silent {
    type Context = Context<Self>;
}

/// A request that the actor forgets, answers too late, or dies of.
#[derive(Message)]
#[rtype(result = "Forgotten")]
enum Request {
    Forget,
    Delay,
    Die,
}

struct Forgotten;

impl dev::MessageResponse<Silent, Request> for Forgotten {
    fn handle(self, _: &mut Context<Silent>, _: Option<dev::OneshotSender<Self>>) {}
}

impl Handler<Request> for Silent {
    type Result = Forgotten;

    fn handle(&mut self, request: Request, ctx: &mut Context<Self>) -> Forgotten {
        match request {
            Request::Forget => {}
            Request::Delay => ctx.wait(tokio::time::sleep(Duration::from_secs(3600)).into_actor(self)),
            Request::Die => janus_supervision::exit(ExitReason::Error("tired".into())),
        }
        drop(self.0.take());
        Forgotten
    }
}

#[test]
fn a_caller_learns_why_there_is_no_answer() {
    virtual_time(async |here| {
        let actor = ActorRef::<Silent>::new("silent");
        assert_eq!(actor.call(Request::Forget).await.err(), Some(CallError::NotRunning));
        let spec = ChildSpec::actor(&actor, |_| Ok(Silent(None)));
        let tree = one_for_one().child(spec).start(&here).await.unwrap();
        assert_eq!(actor.call(Request::Forget).await.err(), Some(CallError::NoReply));
        let died = Some(CallError::Died(ExitReason::Error("tired".into())));
        let (first, queued) = (actor.call(Request::Die), actor.call(Request::Forget));
        assert_eq!(first.await.err(), died);
        assert_eq!(queued.await.err(), died);
        actor.when_up(None).await;
        let before = Instant::now();
        actor.cast(Request::Delay).unwrap();
        assert_eq!(actor.call(Request::Forget).await.err(), Some(CallError::Timeout));
        assert_eq!(before.elapsed().as_secs(), 5);
        actor.kill();
        settle().await;
        tree.stop().await;
        assert_eq!(actor.cast(Request::Forget), Err(NotRunning));
    });
}

#[test]
fn a_reference_survives_restarts_and_shows_who_it_stands_for() {
    virtual_time(async |here| {
        let (a, spec) = puppet("a", &Log::default());
        assert!(a.id().is_none() && a.addr().is_none() && !a.is_running());
        let tree = one_for_one().child(spec.backoff(SECOND, SECOND)).start(&here).await.unwrap();
        let first = a.id().unwrap();
        let clone = a.clone();
        end(&a, ActorRef::kill).await;
        assert!(!clone.is_running());
        let second = clone.when_up(Some(first)).await;
        assert_ne!(first, second);
        assert_eq!(a.id(), Some(second));
        assert_eq!(a.call(Echo(7)).await, Ok(7));
        tree.stop().await;
    });
}

#[test]
fn the_tree_is_data() {
    virtual_time(async |here| {
        let log = Log::default();
        let (a, a_spec) = puppet("a", &log);
        let inner = Supervisor::new("inner", Strategy::RestForOne).child(puppet("b", &log).1);
        let root = one_for_one().child(a_spec).child(ChildSpec::supervisor(inner));
        let tree = root.start(&here).await.unwrap();
        crash(&a).await;
        let json = serde_json::to_value(tree.tree()).unwrap();
        let expected = serde_json::json!({
            "name": "root", "kind": "supervisor", "id": 1, "state": "running", "restarts": 0, "last_reason": null,
            "children": [
                {"name": "a", "kind": "worker", "id": 5, "state": "running", "restarts": 1,
                 "last_reason": "panicked: planned: a"},
                {"name": "inner", "kind": "supervisor", "id": 3, "state": "running", "restarts": 0, "last_reason": null,
                 "children": [{"name": "b", "kind": "worker", "id": 4, "state": "running", "restarts": 0, "last_reason": null}]},
            ],
        });
        assert_eq!(json, expected);
        assert_eq!(tree.name_of(tree.tree().find("b").unwrap().id.unwrap()).as_deref(), Some("b"));
        assert_eq!(tree.tree().find("inner").unwrap().kind, NodeKind::Supervisor);
        tree.stop().await;
        assert_eq!(state_of(&tree, "b"), Some(State::Stopped));
    });
}

#[test]
fn ids_count_from_one_in_each_tree_and_still_differ_between_trees() {
    virtual_time(async |here| {
        let ids = |tree: &SupervisorRef| tree.id().unwrap();
        let one = one_for_one().start(&here).await.unwrap();
        let other = one_for_one().start(&here).await.unwrap();
        assert_eq!((ids(&one).sequence(), ids(&other).sequence()), (1, 1));
        assert_ne!(ids(&one), ids(&other));
        one.stop().await;
        other.stop().await;
    });
}

#[test]
fn observers_see_what_happens_and_a_slow_one_is_told_what_it_missed() {
    virtual_time(async |here| {
        let (a, spec) = puppet("a", &Log::default());
        let tree = one_for_one().child(spec).start(&here).await.unwrap();
        let (mut fast, mut slow) = (tree.subscribe().unwrap(), tree.subscribe().unwrap());
        crash(&a).await;
        let (ended, started) = (fast.recv().await.unwrap(), fast.recv().await.unwrap());
        assert_eq!((&*ended.supervisor, &*ended.child), ("root", "a"));
        assert!(matches!(ended.what, EventKind::Ended(ExitReason::Panicked(_))));
        assert_eq!((started.what, started.id), (EventKind::Started, a.id()));
        for _ in 0..200 {
            crash(&a).await;
        }
        assert!(matches!(slow.recv().await, Err(broadcast::error::RecvError::Lagged(146))));
        tree.stop().await;
    });
}

#[test]
fn a_killed_supervisor_takes_its_children_along() {
    virtual_time(async |here| {
        let log = Log::default();
        let (a, spec) = puppet("a", &log);
        let inner = Supervisor::new("inner", Strategy::OneForOne).child(spec);
        let handle = inner.handle();
        let tree = one_for_one().child(ChildSpec::supervisor(inner)).start(&here).await.unwrap();
        let (first, first_inner) = (a.id(), handle.id());
        let reason = end(&a, |_| handle.kill()).await;
        assert_eq!(reason, ExitReason::Killed);
        a.when_up(first).await;
        assert_ne!(handle.id(), first_inner);
        assert_eq!(log.take(), "start:a start:a");
        tree.kill();
        assert_eq!(tree.wait().await, ExitReason::Killed);
        settle().await;
        assert!(!a.is_running());
    });
}

#[test]
fn whatever_was_started_is_killed_if_the_start_is_abandoned() {
    virtual_time(async |here| {
        let log = Log::default();
        let (a, spec) = puppet("a", &log);
        let start = one_for_one().child(spec).child(slow(4 * SECOND, Ok(()), &log));
        assert!(tokio::time::timeout(SECOND, start.start(&here)).await.is_err());
        settle().await;
        assert_eq!(log.take(), "start:a");
        assert!(!a.is_running());
    });
}

#[test]
fn a_stop_does_not_wait_for_a_start_that_is_under_way() {
    virtual_time(async |here| {
        let log = Log::default();
        let tree = one_for_one().child(puppet("a", &log).1).start(&here).await.unwrap();
        let before = Instant::now();
        let start = tree.start_child(slow(Duration::from_secs(600), Ok(()), &log).start_timeout(Duration::MAX));
        let stop = async {
            settle().await;
            tree.stop().await;
        };
        let (started, ()) = tokio::join!(start, stop);
        assert!(started.is_err());
        assert!(before.elapsed() < SECOND);
        assert_eq!(log.take(), "start:a term:a");
    });
}

#[test]
fn everybody_who_waits_for_the_end_is_told_also_afterwards() {
    virtual_time(async |here| {
        let tree = one_for_one().child(puppet("a", &Log::default()).1).start(&here).await.unwrap();
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let tree = tree.clone();
                tokio::task::spawn_local(async move { tree.wait().await })
            })
            .collect();
        settle().await;
        tokio::join!(tree.stop(), tree.stop());
        tree.stop().await;
        for waiter in waiters {
            assert_eq!(waiter.await.unwrap(), ExitReason::Shutdown);
        }
        assert_eq!(tree.wait().await, ExitReason::Shutdown);
    });
}

#[test]
fn a_task_is_restarted_by_its_outcome() {
    virtual_time(async |here| {
        let runs = Arc::new(AtomicU32::new(0));
        let count = runs.clone();
        let task = move || {
            let run = count.fetch_add(1, Ordering::Relaxed);
            async move {
                tokio::time::sleep(SECOND).await;
                match run {
                    0 => Err("planned".into()),
                    1 => panic!("{PLANNED} in a task"),
                    _ => Ok(()),
                }
            }
        };
        let root = one_for_one().child(ChildSpec::task("task", task).restart(Restart::Transient));
        let tree = root.start(&here).await.unwrap();
        for expected in
            [ExitReason::Error("planned".into()), ExitReason::Panicked(format!("{PLANNED} in a task").into())]
        {
            tokio::time::sleep(SECOND).await;
            settle().await;
            assert_eq!(tree.tree().find("task").unwrap().last_reason, Some(expected));
        }
        tokio::time::sleep(SECOND).await;
        settle().await;
        assert_eq!(state_of(&tree, "task"), Some(State::Stopped));
        assert_eq!(runs.load(Ordering::Relaxed), 3);
        tree.stop().await;
    });
}

#[test]
fn a_task_that_fails_at_once_has_not_started() {
    virtual_time(async |here| {
        let fails = ChildSpec::task("bind", || async { Err("address in use".into()) });
        let error = one_for_one().child(fails).start(&here).await.unwrap_err();
        assert_eq!(error.to_string(), "root: start failed: bind: start failed: address in use");
        let done = ChildSpec::task("done", || async { Ok(()) }).restart(Restart::Temporary);
        let tree = one_for_one().child(done).start(&here).await.unwrap();
        settle().await;
        assert!(tree.which_children().await.unwrap().is_empty());
        tree.stop().await;
    });
}

#[test]
fn a_task_is_dropped_at_a_stop_unless_it_has_asked_to_be_told() {
    virtual_time(async |here| {
        let log = Log::default();
        struct OnDrop(Log, &'static str);
        impl Drop for OnDrop {
            fn drop(&mut self) {
                self.0.say(self.1);
            }
        }
        let (simple, polite) = (log.clone(), log.clone());
        let simple = move || {
            let dropped = OnDrop(simple.clone(), "dropped");
            async move {
                std::future::pending::<()>().await;
                drop(dropped);
                Ok(())
            }
        };
        let polite = move || {
            let log = polite.clone();
            async move {
                stop_requested().await;
                tokio::time::sleep(SECOND).await;
                log.say("finished");
                Ok(())
            }
        };
        let root = one_for_one().child(ChildSpec::task("simple", simple)).child(ChildSpec::task("polite", polite));
        let tree = root.start(&here).await.unwrap();
        tree.stop().await;
        assert_eq!(log.take(), "finished dropped");
        for name in ["simple", "polite"] {
            assert_eq!(tree.tree().find(name).unwrap().last_reason, Some(ExitReason::Shutdown));
        }
    });
}

#[test]
fn a_task_can_defer_the_end_of_its_start() {
    virtual_time(async |here| {
        let log = Log::default();
        let says = log.clone();
        let task = move || {
            let log = says.clone();
            async move {
                let guard = defer_init();
                tokio::time::sleep(SECOND).await;
                log.say("listening");
                guard.done(Ok(()));
                std::future::pending().await
            }
        };
        let root = one_for_one().child(ChildSpec::task("listener", task)).child(puppet("next", &log).1);
        let tree = root.start(&here).await.unwrap();
        assert_eq!(log.take(), "listening start:next");
        tree.stop().await;
    });
}

#[test]
fn a_task_that_fails_while_it_stops_says_so() {
    virtual_time(async |here| {
        let fails = || async {
            stop_requested().await;
            Err("not flushed".into())
        };
        let tree = one_for_one().child(ChildSpec::task("writer", fails)).start(&here).await.unwrap();
        tree.stop().await;
        let last = tree.tree().find("writer").unwrap().last_reason.clone();
        assert_eq!(last, Some(ExitReason::Error("not flushed".into())));
    });
}

#[test]
fn a_task_that_fails_in_its_deferred_initialisation_says_why() {
    virtual_time(async |here| {
        let bind = || async {
            let _guard = defer_init();
            tokio::time::sleep(SECOND).await;
            Err("address in use".into())
        };
        let error = one_for_one().child(ChildSpec::task("listener", bind)).start(&here).await.unwrap_err();
        assert_eq!(error.to_string(), "root: start failed: listener: start failed: address in use");
    });
}

#[test]
fn what_a_factory_holds_may_look_at_the_tree_when_it_is_dropped() {
    struct Looks(SupervisorRef);
    impl Drop for Looks {
        fn drop(&mut self) {
            self.0.tree();
        }
    }
    in_time(|| {
        virtual_time(async |here| {
            let inner = Supervisor::new("inner", Strategy::OneForOne);
            let handle = inner.handle();
            let tree = one_for_one().child(ChildSpec::supervisor(inner)).start(&here).await.unwrap();
            let looks = Looks(handle.clone());
            let idle = ChildSpec::task("idle", move || {
                let _ = &looks;
                std::future::pending()
            });
            handle.start_child(idle).await.unwrap();
            let first = handle.id();
            handle.kill();
            settle().await;
            assert_ne!(handle.id(), first);
            tree.stop().await;
        });
    });
}

#[test]
fn code_knows_which_incarnation_it_is() {
    virtual_time(async |here| {
        assert_eq!(current(), None);
        let seen: Arc<Mutex<Vec<Option<ActorId>>>> = Arc::default();
        let record = seen.clone();
        let task = ChildSpec::task("task", move || {
            let record = record.clone();
            async move {
                record.lock().push(current());
                std::future::pending().await
            }
        });
        let tree = one_for_one().child(task).start(&here).await.unwrap();
        assert_eq!(*seen.lock(), [tree.tree().find("task").unwrap().id]);
        assert_eq!(current(), None);
        tree.stop().await;
    });
}
