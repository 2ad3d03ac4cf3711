//! How children start: the order, deferred initialisation, timeouts, and refused or abandoned starts.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use janus_supervision::{
    ActorRef, AutoShutdown, ChildSpec, ExitReason, Restart, StartError, StartInfo, Strategy, Supervisor, SupervisorRef,
};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::support::{
    Log, PLANNED, Puppet, SECOND, crash, end, in_time, one_for_one, puppet, settle, slow, virtual_time,
};

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
fn futures_that_started_waits_for_are_part_of_the_start() {
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
fn futures_that_the_factory_waits_for_are_part_of_the_start() {
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
            matches!(&error, StartError::Failed { reason: ExitReason::StartFailed(why), .. } if why.contains("3 s"))
        );
        assert_eq!(before.elapsed().as_secs(), 3);
        assert_eq!(log.take(), "start:first term:first");
    });
}

#[test]
fn a_supervisor_may_take_as_long_to_start_as_its_children() {
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
fn an_abandoned_start_kills_the_children_started_so_far() {
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
fn values_captured_by_a_factory_may_read_the_tree_in_their_drop() {
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
