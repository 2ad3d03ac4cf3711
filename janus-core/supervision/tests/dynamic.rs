//! Dynamic supervisors: numbered children, named children, and quarantine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use actix::prelude::*;
use janus_supervision::{
    ActorRef, ChildError, ChildSpec, DynamicSupervisor, EventKind, ExitReason, NodeKind, Place, Restart, Shutdown,
    StartError, StartInfo, State, Strategy, Supervisor, SupervisorRef, exit,
};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::support::{
    Echo, Leave, Log, PLANNED, Panic, Puppet, SECOND, crash, end, in_time, puppet, settle, virtual_time,
};

async fn run(dynamic: &DynamicSupervisor, here: &Place) -> SupervisorRef {
    Supervisor::new("root", Strategy::OneForOne).child(ChildSpec::dynamic(dynamic)).start(here).await.unwrap()
}

#[test]
fn a_numbered_child_runs_at_once_and_is_forgotten_when_it_ends() {
    virtual_time(async |here| {
        let pool = DynamicSupervisor::new("pool");
        let log = Log::default();
        assert_eq!(pool.start_here(|_| Puppet::new("early", &log)).unwrap_err(), StartError::NotRunning);
        let tree = run(&pool, &here).await;
        let child = pool.start_here(|_| Puppet::new("a", &log)).unwrap();
        assert_eq!(pool.count(), 1);
        assert_eq!(child.addr().unwrap().send(Echo(4)).await.unwrap(), 4);
        let mut ids = Vec::new();
        pool.for_each(|id| ids.push(id));
        assert_eq!(ids, [child.id()]);
        assert_eq!(tree.name_of(child.id()).as_deref(), Some("pool"));
        let (tell, told) = oneshot::channel();
        child.monitor(move |down| drop(tell.send(down))).detach();
        child.addr().unwrap().do_send(Panic);
        let down = told.await.unwrap();
        assert_eq!((down.id, &*down.name), (child.id(), "pool"));
        assert_eq!(down.reason, ExitReason::Panicked(format!("{PLANNED} a").into()));
        assert_eq!(child.reason(), Some(down.reason));
        assert!(child.addr().is_none());
        assert_eq!(pool.count(), 0);
        assert_eq!(log.take(), "start:a");
        tree.stop().await;
    });
}

#[test]
fn numbered_children_end_by_stop_kill_and_termination() {
    virtual_time(async |here| {
        let pool = DynamicSupervisor::new("pool");
        let tree = run(&pool, &here).await;
        let log = Log::default();
        let [a, b, c] = ["a", "b", "c"].map(|name| pool.start_here(|_| Puppet::new(name, &log)).unwrap());
        settle().await;
        a.stop();
        b.kill();
        pool.terminate_child(c.id()).await.unwrap();
        settle().await;
        assert_eq!(log.take(), "start:a start:b start:c term:a term:c");
        let reasons = [a, b, c].map(|child| child.reason().unwrap());
        assert_eq!(reasons, [ExitReason::Shutdown, ExitReason::Killed, ExitReason::Shutdown]);
        tree.stop().await;
    });
}

#[test]
fn a_child_that_cannot_be_made_is_an_error_and_leaves_no_trace() {
    virtual_time(async |here| {
        let pool = DynamicSupervisor::new("pool");
        let tree = run(&pool, &here).await;
        let panics = pool.start_here(|_: &mut Context<Puppet>| panic!("{PLANNED} make"));
        assert!(panics.unwrap_err().to_string().contains("planned: make"));
        let exits = pool.start_here(|_: &mut Context<Puppet>| exit(ExitReason::Error("no".into())));
        assert!(exits.unwrap_err().to_string().contains("no"));
        assert_eq!(pool.count(), 0);
        tree.stop().await;
    });
}

#[test]
fn children_of_both_sorts_count_against_the_limit() {
    virtual_time(async |here| {
        let pool = DynamicSupervisor::new("pool").max_children(2);
        let tree = run(&pool, &here).await;
        let log = Log::default();
        let numbered = pool.start_here(|_| Puppet::new("a", &log)).unwrap();
        pool.start_child(puppet("b", &log).1).await.unwrap();
        assert_eq!(pool.start_here(|_| Puppet::new("c", &log)).unwrap_err(), StartError::TooManyChildren(2));
        assert_eq!(pool.start_child(puppet("c", &log).1).await, Err(StartError::TooManyChildren(2)));
        pool.terminate_child(numbered.id()).await.unwrap();
        pool.start_child(puppet("c", &log).1).await.unwrap();
        pool.terminate_child("b").await.unwrap();
        assert_eq!(pool.count(), 1);
        tree.stop().await;
        assert_eq!(pool.count(), 0);
    });
}

#[test]
fn all_children_stop_at_the_same_time() {
    virtual_time(async |here| {
        let pool = DynamicSupervisor::new("pool").shutdown(Shutdown::Timeout(3 * SECOND));
        let tree = run(&pool, &here).await;
        let log = Log::default();
        let lingering = |seconds: u32| Puppet::new("n", &log).lingering(seconds * SECOND);
        let polite: Vec<_> = (0..10).map(|_| pool.start_here(|_| lingering(2)).unwrap()).collect();
        let before = Instant::now();
        pool.stop_all().await;
        assert_eq!((before.elapsed().as_secs(), pool.count()), (2, 0));
        assert!(polite.iter().all(|child| child.reason() == Some(ExitReason::Shutdown)));

        let stubborn = pool.start_here(|_| lingering(3600)).unwrap();
        let named = ActorRef::new("named");
        let spec = {
            let log = log.clone();
            ChildSpec::actor(&named, move |_| Ok(Puppet::new("named", &log).lingering(2 * SECOND)))
        };
        pool.start_child(spec).await.unwrap();
        let before = Instant::now();
        tree.stop().await;
        assert_eq!(before.elapsed().as_secs(), 3);
        assert_eq!(stubborn.reason(), Some(ExitReason::Killed));
        assert_eq!(pool.tree().children[0].last_reason, Some(ExitReason::Shutdown));
        assert_eq!(pool.start_here(|_| lingering(0)).unwrap_err(), StartError::NotRunning);
    });
}

#[test]
fn named_children_are_restarted_by_their_own_rule() {
    virtual_time(async |here| {
        let pool = DynamicSupervisor::new("pool").restart(Restart::Transient).intensity(100, SECOND);
        let tree = run(&pool, &here).await;
        let log = Log::default();
        let ((a, a_spec), (b, b_spec)) = (puppet("a", &log), puppet("b", &log));
        pool.start_child(a_spec.clone()).await.unwrap();
        pool.start_child(b_spec.restart(Restart::Permanent)).await.unwrap();
        assert_eq!(pool.start_child(a_spec.clone()).await, Err(StartError::AlreadyStarted("a".into())));
        for actor in [&a, &b] {
            let died = actor.id();
            end(actor, |actor| actor.cast(Panic).unwrap()).await;
            actor.when_up(died).await;
            end(actor, |actor| actor.cast(Leave(ExitReason::Normal)).unwrap()).await;
            settle().await;
        }
        assert!(!a.is_running() && b.is_running());
        assert_eq!(pool.count(), 1);
        pool.start_child(a_spec).await.unwrap();
        let node = pool.tree();
        assert_eq!((node.kind, node.children.len()), (NodeKind::Dynamic, 2));
        assert_eq!((&*node.children[1].name, node.children[1].restarts), ("b", 2));
        tree.stop().await;
    });
}

#[test]
fn named_children_share_the_supervisors_intensity_by_default() {
    virtual_time(async |here| {
        let pool = DynamicSupervisor::new("pool").intensity(1, SECOND);
        let tree = run(&pool, &here).await;
        let (a, spec) = puppet("a", &Log::default());
        pool.start_child(spec).await.unwrap();
        let id = pool.id();
        let (tell, told) = oneshot::channel();
        pool.monitor(move |down| drop(tell.send(down.reason))).detach();
        for _ in 0..2 {
            end(&a, ActorRef::kill).await;
            settle().await;
        }
        assert!(matches!(told.await.unwrap(), ExitReason::MaxRestarts { child, .. } if &*child == "a"));
        // The parent has restarted the pool, without the children added at run time.
        assert_ne!(pool.id(), id);
        assert_eq!(pool.count(), 0);
        tree.stop().await;
    });
}

#[test]
fn quarantine_of_a_child_costs_its_siblings_nothing() {
    virtual_time(async |here| {
        let told: Arc<Mutex<Vec<String>>> = Arc::default();
        let tell = told.clone();
        let pool = DynamicSupervisor::new("pool")
            .child_intensity(2, 10 * SECOND)
            .quarantine(60 * SECOND)
            .on_quarantine(move |name, reason| {
                tell.lock().push(format!("{name}: {reason}"));
                panic!("{PLANNED} in a callback");
            });
        let tree = run(&pool, &here).await;
        let mut events = pool.subscribe().unwrap();
        let infos: Arc<Mutex<Vec<StartInfo>>> = Arc::default();
        let (bad, seen) = (ActorRef::new("bad"), infos.clone());
        let bad_spec = ChildSpec::actor_with(&bad, move |_, info| {
            seen.lock().push(info.clone());
            Ok(Puppet::new("bad", &Log::default()))
        });
        let (good, good_spec) = puppet("good", &Log::default());
        pool.start_child(bad_spec).await.unwrap();
        pool.start_child(good_spec).await.unwrap();
        let (pool_id, good_id) = (pool.id(), good.id());
        for _ in 0..3 {
            end(&bad, |bad| bad.cast(Panic).unwrap()).await;
            settle().await;
        }
        assert!(pool.is_quarantined("bad") && !pool.is_quarantined("good"));
        assert_eq!(pool.tree().find("bad").unwrap().state, State::Quarantined);
        assert_eq!(*told.lock(), ["bad: panicked: planned: bad"]);
        let mut quarantined = 0;
        while let Ok(event) = events.try_recv() {
            quarantined += u32::from(event.what == EventKind::Quarantined(60 * SECOND));
        }
        assert_eq!(quarantined, 1);

        tokio::time::sleep(59 * SECOND).await;
        assert!(pool.is_quarantined("bad"));
        tokio::time::sleep(2 * SECOND).await;
        assert!(bad.is_running() && !pool.is_quarantined("bad"));
        let seen: Vec<_> = infos.lock().iter().map(|info| (info.restarts, info.after_quarantine)).collect();
        assert_eq!(seen, [(0, false), (1, false), (2, false), (0, true)]);
        end(&bad, |bad| bad.cast(Panic).unwrap()).await;
        settle().await;
        assert_eq!(infos.lock().last().map(|info| (info.restarts, info.after_quarantine)), Some((1, false)));
        assert_eq!((pool.id(), good.id()), (pool_id, good_id));
        tree.stop().await;
    });
}

#[test]
fn a_child_in_quarantine_can_be_terminated_and_started_anew() {
    virtual_time(async |here| {
        let pool = DynamicSupervisor::new("pool").child_intensity(0, SECOND).quarantine(60 * SECOND);
        let tree = run(&pool, &here).await;
        let log = Log::default();
        let (a, spec) = puppet("a", &log);
        pool.start_child(spec.clone()).await.unwrap();
        end(&a, ActorRef::kill).await;
        settle().await;
        assert_eq!(pool.start_child(spec.clone()).await, Err(StartError::AlreadyStarted("a".into())));
        pool.terminate_child("a").await.unwrap();
        assert_eq!(pool.terminate_child("a").await, Err(ChildError::NotFound));
        pool.start_child(spec).await.unwrap();
        let id = a.id();
        tokio::time::sleep(120 * SECOND).await;
        assert_eq!(a.id(), id, "the old quarantine has no say in the new child");
        assert_eq!(log.take(), "start:a start:a");
        tree.stop().await;
    });
}

#[test]
fn a_restart_that_fails_counts_against_the_child() {
    virtual_time(async |here| {
        let pool = DynamicSupervisor::new("pool").child_intensity(3, 10 * SECOND);
        let tree = run(&pool, &here).await;
        let (healthy, starts) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU32::new(0)));
        let actor = ActorRef::new("a");
        let spec = {
            let (healthy, starts) = (healthy.clone(), starts.clone());
            ChildSpec::actor(&actor, move |_| {
                starts.fetch_add(1, Ordering::Relaxed);
                if healthy.load(Ordering::Relaxed) { Ok(Puppet::new("a", &Log::default())) } else { Err("ill".into()) }
            })
        };
        pool.start_child(spec).await.unwrap();
        healthy.store(false, Ordering::Relaxed);
        end(&actor, ActorRef::kill).await;
        settle().await;
        assert!(pool.is_quarantined("a"));
        assert_eq!(starts.load(Ordering::Relaxed), 4);
        tree.stop().await;
    });
}

#[test]
fn a_first_start_that_fails_is_reported_and_forgotten() {
    virtual_time(async |here| {
        let pool = DynamicSupervisor::new("pool");
        let tree = run(&pool, &here).await;
        let spec = ChildSpec::actor(&ActorRef::<Puppet>::new("a"), |_| Err("ill".into()));
        let error = pool.start_child(spec).await.unwrap_err();
        assert_eq!(error.to_string(), "a: start failed: ill");
        assert_eq!(pool.count(), 0);
        tree.stop().await;
    });
}

#[test]
fn a_hanging_start_holds_up_no_sibling_and_can_be_terminated() {
    virtual_time(async |here| {
        let pool = DynamicSupervisor::new("pool");
        let tree = run(&pool, &here).await;
        let hangs = ChildSpec::task("hangs", || async {
            let _guard = janus_supervision::defer_init();
            std::future::pending().await
        });
        let (a, spec) = puppet("a", &Log::default());
        let before = Instant::now();
        let hanging = pool.start_child(hangs.start_timeout(600 * SECOND));
        let others = async {
            settle().await;
            pool.start_child(spec).await.unwrap();
            assert!(a.is_running());
            pool.terminate_child("hangs").await.unwrap();
        };
        let (hanging, ()) = tokio::join!(hanging, others);
        assert!(hanging.is_err());
        assert!(before.elapsed() < SECOND);
        assert_eq!(pool.count(), 1);
        tree.stop().await;
    });
}

#[test]
fn a_named_child_waits_out_its_back_off() {
    virtual_time(async |here| {
        let pool = DynamicSupervisor::new("pool").intensity(10, SECOND);
        let tree = run(&pool, &here).await;
        let (a, spec) = puppet("a", &Log::default());
        pool.start_child(spec.backoff(2 * SECOND, 8 * SECOND)).await.unwrap();
        let (before, died) = (Instant::now(), a.id());
        end(&a, ActorRef::kill).await;
        settle().await;
        assert_eq!(pool.tree().find("a").unwrap().state, State::Restarting);
        a.when_up(died).await;
        assert_eq!(before.elapsed().as_secs(), 2);
        tree.stop().await;
    });
}

#[test]
fn a_dynamic_supervisor_takes_its_children_along() {
    virtual_time(async |here| {
        let pool = DynamicSupervisor::new("pool");
        let tree = run(&pool, &here).await;
        let log = Log::default();
        let (_, spec) = puppet("named", &log);
        pool.start_child(spec.clone()).await.unwrap();
        let numbered = pool.start_here(|_| Puppet::new("numbered", &log)).unwrap();
        let id = pool.id();
        tree.terminate_child("pool").await.unwrap();
        assert_eq!(log.take(), "start:named start:numbered term:named term:numbered");
        assert_eq!(numbered.reason(), Some(ExitReason::Shutdown));
        tree.restart_child("pool").await.unwrap();
        assert_ne!(pool.id(), id);
        pool.start_child(spec).await.unwrap();
        let named = pool.tree().find("named").unwrap().id.unwrap();
        let (tell, told) = oneshot::channel();
        pool.monitor_child(named, move |down| drop(tell.send(down.reason))).unwrap().detach();
        tree.kill();
        assert_eq!(told.await.unwrap(), ExitReason::Killed);
    });
}

#[test]
fn a_tree_with_a_limit_lists_children_in_trouble_before_others() {
    virtual_time(async |here| {
        let pool = DynamicSupervisor::new("pool").child_intensity(1, SECOND).quarantine(60 * SECOND);
        let tree = run(&pool, &here).await;
        let log = Log::default();
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| puppet(name, &log));
        let actors = [&a, &b, &c, &d].map(|(actor, _)| actor.clone());
        for (_, spec) in [a, b, c, d] {
            pool.start_child(spec).await.unwrap();
        }
        crash(&actors[1]).await;
        crash(&actors[3]).await;
        crash(&actors[3]).await;
        let listed = |limit| {
            let tree = tree.tree_within(limit);
            let pool = tree.find("pool").unwrap();
            let names: Vec<_> = pool.children.iter().map(|child| child.name.to_string()).collect();
            (names.join(" "), pool.unlisted, tree.unlisted)
        };
        assert_eq!(listed(1), ("d".to_owned(), 3, 0));
        assert_eq!(listed(2), ("b d".to_owned(), 2, 0));
        assert_eq!(listed(3), ("a b d".to_owned(), 1, 0));
        assert_eq!(listed(4), ("a b c d".to_owned(), 0, 0));
        assert_eq!(tree.tree_within(4), tree.tree());
        // Waiting for the crashes has taken some of the time.
        let due_in = |name| tree.tree().find(name).unwrap().due_in.map(|rest| rest.as_secs_f64().round());
        assert_eq!((due_in("d"), due_in("b")), (Some(60.0), None));
        tokio::time::sleep(20 * SECOND).await;
        let json = serde_json::to_value(tree.tree_within(1)).unwrap();
        let pool = &json["children"][0];
        let due_in_ms = pool["children"][0]["due_in_ms"].as_u64().unwrap();
        assert!((39_500..=40_000).contains(&due_in_ms), "{due_in_ms}");
        assert_eq!(pool["unlisted"], 3);
        tree.stop().await;
    });
}

#[test]
fn a_quarantine_may_last_for_ever() {
    virtual_time(async |here| {
        let pool = DynamicSupervisor::new("pool").child_intensity(0, SECOND).quarantine(Duration::MAX);
        let tree = run(&pool, &here).await;
        let (a, spec) = puppet("a", &Log::default());
        pool.start_child(spec).await.unwrap();
        let id = pool.id();
        end(&a, ActorRef::kill).await;
        tokio::time::sleep(3600 * SECOND).await;
        assert!(pool.is_quarantined("a"));
        assert_eq!(pool.id(), id);
        tree.stop().await;
    });
}

#[test]
fn a_back_off_begins_anew_after_a_quarantine() {
    virtual_time(async |here| {
        let pool = DynamicSupervisor::new("pool").child_intensity(2, 60 * SECOND).quarantine(60 * SECOND);
        let tree = run(&pool, &here).await;
        let (a, spec) = puppet("a", &Log::default());
        pool.start_child(spec.backoff(SECOND, 100 * SECOND)).await.unwrap();
        for expected in [1, 2, 60, 1] {
            let (before, died) = (Instant::now(), a.id());
            end(&a, ActorRef::kill).await;
            a.when_up(died).await;
            assert_eq!(before.elapsed().as_secs(), expected);
        }
        tree.stop().await;
    });
}

#[test]
fn values_captured_by_a_factory_may_read_the_supervisor_in_their_drop() {
    struct Looks(DynamicSupervisor);
    impl Drop for Looks {
        fn drop(&mut self) {
            self.0.tree();
        }
    }
    in_time(|| {
        virtual_time(async |here| {
            let pool = DynamicSupervisor::new("pool");
            let tree = run(&pool, &here).await;
            let looks = Looks(pool.clone());
            let idle = ChildSpec::task("idle", move || {
                let _ = &looks;
                std::future::pending()
            });
            pool.start_child(idle).await.unwrap();
            tree.stop().await;
        });
    });
}
