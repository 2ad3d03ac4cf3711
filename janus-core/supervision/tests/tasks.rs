//! Tasks as children: outcomes, stop requests, deferred initialisation.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use janus_supervision::{ChildSpec, ExitReason, Restart, State, defer_init, stop_requested};

use crate::support::{Log, PLANNED, SECOND, one_for_one, puppet, settle, state_of, virtual_time};

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
fn a_stop_drops_a_task_unless_the_task_waits_for_stop_requests() {
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
fn a_task_that_fails_while_stopping_ends_with_its_error() {
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
fn a_task_that_fails_in_deferred_initialisation_reports_its_error() {
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
