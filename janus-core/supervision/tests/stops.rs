//! How children and supervisors stop: in order, within their timeouts, and at once.

use std::time::Duration;

use actix::fut::wrap_future;
use actix::prelude::*;
use janus_supervision::{
    ActorRef, ChildSpec, ExitReason, Restart, Shutdown, State, Strategy, Supervisor, SupervisorRef,
};
use tokio::time::Instant;

use crate::support::{Echo, Log, Puppet, SECOND, end, one_for_one, puppet, settle, slow, state_of, virtual_time};

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

/// Sends a message to itself and is asked to stop, between the look at its mailbox and the look at the stop.
struct Late(ActorRef<Self>, Log);

impl Actor for Late {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        let itself = self.0.clone();
        ctx.spawn(wrap_future(async move {
            itself.cast(Echo(1)).unwrap();
            itself.stop();
        }));
    }

    fn stopping(&mut self, _: &mut Context<Self>) -> Running {
        self.1.say("stopping");
        Running::Stop
    }
}

impl Handler<Echo> for Late {
    type Result = u32;

    fn handle(&mut self, Echo(number): Echo, _: &mut Context<Self>) -> u32 {
        self.1.say("message");
        number
    }
}

#[test]
fn a_message_from_just_before_a_stop_is_handled_before_the_stop() {
    virtual_time(async |here| {
        let (log, actor) = (Log::default(), ActorRef::new("late"));
        let (itself, late_log) = (actor.clone(), log.clone());
        let spec = ChildSpec::actor(&actor, move |_| Ok(Late(itself.clone(), late_log.clone())));
        let tree = one_for_one().child(spec.restart(Restart::Temporary)).start(&here).await.unwrap();
        settle().await;
        assert_eq!((log.take(), actor.is_running()), ("message stopping".to_owned(), false));
        tree.stop().await;
    });
}

#[test]
fn a_brutal_kill_runs_no_code_of_the_actor() {
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
fn a_stop_does_not_wait_for_a_start_in_progress() {
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
fn every_caller_of_wait_learns_the_reason_even_after_the_end() {
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

fn stop_beside(tree: &SupervisorRef) {
    let tree = tree.clone();
    tokio::task::spawn_local(async move { tree.stop().await });
}
