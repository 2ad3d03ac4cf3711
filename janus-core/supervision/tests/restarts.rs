//! Restarts: strategies, restart intensity, back-off, and supervisors which end with their children.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use janus_supervision::{
    ActorRef, AutoShutdown, ChildSpec, DynamicSupervisor, ExitReason, Restart, State, Strategy, Supervisor,
};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::support::{
    Leave, Log, PLANNED, Panic, Puppet, SECOND, crash, end, one_for_one, puppet, settle, state_of, virtual_time,
};

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

#[test]
fn each_restart_in_the_tree_is_told_with_the_supervisor() {
    virtual_time(async |here| {
        let (log, told) = (Log::default(), Arc::new(Mutex::new(Vec::new())));
        let ((a, a_spec), (_b, b_spec), (c, c_spec)) = (puppet("a", &log), puppet("b", &log), puppet("c", &log));
        let inner = Supervisor::new("inner", Strategy::OneForAll).intensity(9, SECOND).child(a_spec).child(b_spec);
        let pool = DynamicSupervisor::new("pool").restart(Restart::Permanent).intensity(9, SECOND);
        let listed = Arc::clone(&told);
        let root = Supervisor::new("root", Strategy::OneForOne)
            .child(ChildSpec::supervisor(inner))
            .child(ChildSpec::dynamic(&pool))
            .on_restart(move |supervisor, child| {
                listed.lock().push(format!("{supervisor}/{child}"));
                panic!("{PLANNED}: a panic of the callback is logged");
            });
        let tree = root.start(&here).await.unwrap();
        pool.start_child(c_spec).await.unwrap();
        assert!(told.lock().is_empty(), "a first start is none");
        crash(&a).await;
        crash(&c).await;
        settle().await;
        assert_eq!(*told.lock(), ["inner/a", "inner/b", "pool/c"]);
        assert!(a.is_running() && c.is_running());
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
fn a_parent_restarts_a_supervisor_that_gave_up_until_it_gives_up_too() {
    virtual_time(async |here| {
        let log = Log::default();
        let (a, spec) = puppet("a", &log);
        let inner = Supervisor::new("inner", Strategy::OneForOne).intensity(1, 60 * SECOND).child(spec);
        // Giving up is abnormal: a transient supervisor is restarted, unlike in OTP.
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
fn a_back_off_doubles_up_to_its_limit_without_holding_up_siblings() {
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
fn siblings_in_a_restart_are_stopped_before_the_back_off() {
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
fn an_endless_back_off_does_not_keep_the_supervisor_from_stopping() {
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
fn commands_are_served_while_a_child_crashes_in_a_loop() {
    virtual_time(async |here| {
        let log = Log::default();
        let tree = one_for_one().intensity(u32::MAX, SECOND).child(puppet("a", &log).1).start(&here).await.unwrap();
        // This task is up and done in the same poll, so its end is always queued before the supervisor looks.
        let crash_loop = ChildSpec::task("loop", || async { Ok(()) });
        tree.start_child(crash_loop).await.unwrap();
        // The tasks here are never all idle, so the clock stands still.
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
fn a_supervisor_ends_with_any_or_all_of_its_significant_children() {
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
