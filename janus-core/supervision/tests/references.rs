//! References to actors: calls, monitors, links, and the identity of running code.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use actix::dev;
use actix::prelude::*;
use janus_supervision::{
    ActorId, ActorRef, CallError, ChildSpec, Down, ExitReason, NotRunning, Restart, current, link,
};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::support::{Echo, Leave, Log, PLANNED, Panic, SECOND, crash, end, one_for_one, puppet, settle, virtual_time};

struct Silent(Option<oneshot::Sender<u32>>);

impl Actor for Silent {
    type Context = Context<Self>;
}

/// A request which the actor forgets, answers too late, or does not survive.
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
fn a_reference_survives_restarts_and_shows_the_current_incarnation() {
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
fn a_monitor_of_a_stopped_actor_is_told_at_once_a_dropped_monitor_never() {
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
fn a_panic_in_a_monitor_harms_no_other_monitor() {
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
fn linked_actors_end_together_unless_the_first_ends_normally() {
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
fn a_dropped_link_has_no_effect() {
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
fn running_code_can_ask_for_its_own_incarnation() {
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
