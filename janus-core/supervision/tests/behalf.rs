//! Work of an actor on another thread: [`ActorRef::on_behalf`].

use std::sync::Arc;
use std::sync::mpsc;

use actix::prelude::*;
use janus_supervision::{ActorRef, Arbiter, ChildSpec, ExitReason, Hang, NotRunning, Watchdog, current};
use parking_lot::Mutex;

use crate::support::{
    Echo, Log, MILLI, PLANNED, Puppet, block_on, end, one_for_one, puppet, settle, until, virtual_time,
};

#[test]
fn work_on_behalf_of_an_actor_runs_as_that_actor() {
    virtual_time(async |here| {
        let (a, spec) = puppet("a", &Log::default());
        assert_eq!(a.on_behalf(|| panic!("nothing runs")), Err::<(), _>(NotRunning));
        let tree = one_for_one().child(spec).start(&here).await.unwrap();
        let id = a.id();
        assert_eq!(a.on_behalf(current), Ok(id));
        assert!(current() != id, "over with the work");
        assert_eq!(a.call(Echo(7)).await, Ok(7));
        tree.stop().await;
        assert_eq!(a.on_behalf(|| ()), Err(NotRunning));
    });
}

#[test]
fn a_panic_on_behalf_of_an_actor_ends_the_actor_and_its_supervisor_restarts_it() {
    virtual_time(async |here| {
        let (a, spec) = puppet("a", &Log::default());
        let tree = one_for_one().child(spec).start(&here).await.unwrap();
        let first = a.id();
        let reason = end(&a, |a| {
            assert_eq!(a.on_behalf(|| panic!("{PLANNED} elsewhere")), Err::<(), _>(NotRunning));
            assert_eq!(a.on_behalf(|| ()), Err(NotRunning), "the actor ends as soon as its thread is free");
        })
        .await;
        assert_eq!(reason, ExitReason::Panicked(format!("{PLANNED} elsewhere").into()));
        let second = a.when_up(first).await;
        assert_eq!((Some(second) != first, a.on_behalf(|| 7)), (true, Ok(7)));
        tree.stop().await;
    });
}

#[test]
fn a_panic_on_behalf_of_an_incarnation_that_has_ended_harms_no_successor() {
    virtual_time(async |here| {
        let (a, spec) = puppet("a", &Log::default());
        let tree = one_for_one().child(spec).start(&here).await.unwrap();
        let first = a.id();
        // The work lasts until the successor is up.
        let other = a.clone();
        let (go_on, wait) = mpsc::channel::<()>();
        let (entered, is_in) = mpsc::channel::<()>();
        let work = std::thread::spawn(move || {
            other.on_behalf(|| {
                let _ = entered.send(());
                let _ = wait.recv();
                panic!("{PLANNED} late");
            })
        });
        is_in.recv().unwrap();
        end(&a, ActorRef::kill).await;
        let second = a.when_up(first).await;
        drop(go_on);
        assert_eq!(work.join().unwrap(), Err::<(), _>(NotRunning));
        settle().await;
        assert_eq!(a.id(), Some(second));
        tree.stop().await;
    });
}

#[test]
fn nothing_runs_on_behalf_of_an_actor_that_is_not_up_or_about_to_end() {
    virtual_time(async |here| {
        let (a, spec) = puppet("a", &Log::default());
        let tree = one_for_one().child(spec).start(&here).await.unwrap();
        a.kill();
        // The thread of the actor is this one, so the kill has not taken effect.
        assert_eq!((a.is_running(), a.on_behalf(|| ())), (true, Err(NotRunning)));
        settle().await;
        assert_eq!(a.on_behalf(|| ()), Ok(()));
        tree.stop().await;
    });
}

/// Runs the work on behalf of the other actor, from inside of its own handler.
#[derive(Message)]
#[rtype(result = "(bool, bool, bool)")]
struct Nested(ActorRef<Puppet>);

struct Outer;

impl Actor for Outer {
    type Context = Context<Self>;
}

impl Handler<Nested> for Outer {
    type Result = MessageResult<Nested>;

    fn handle(&mut self, Nested(inner): Nested, _: &mut Context<Self>) -> Self::Result {
        let before = current();
        let inside = inner.on_behalf(current);
        let failed = inner.on_behalf(|| panic!("{PLANNED} nested")) == Err::<(), _>(NotRunning);
        MessageResult((inside == Ok(inner.id()), failed, current() == before && before.is_some()))
    }
}

#[test]
fn work_on_behalf_of_an_actor_inside_of_another_actor_ends_only_the_former() {
    virtual_time(async |here| {
        let (inner, spec) = puppet("inner", &Log::default());
        let outer = ActorRef::<Outer>::new("outer");
        let outer_spec = ChildSpec::actor(&outer, |_| Ok(Outer));
        let tree = one_for_one().child(spec).child(outer_spec).start(&here).await.unwrap();
        let ids = (inner.id(), outer.id());
        assert_eq!(outer.call(Nested(inner.clone())).await, Ok((true, true, true)));
        settle().await;
        assert_eq!(outer.id(), ids.1);
        assert!(inner.id().is_some() && inner.id() != ids.0);
        tree.stop().await;
    });
}

#[test]
fn a_watchdog_names_the_actor_on_whose_behalf_a_thread_hangs() {
    block_on(async {
        let [control, home, other] = ["control", "home", "other"].map(|name| Arbiter::start(name).unwrap());
        let (a, spec) = puppet("a", &Log::default());
        let root = one_for_one().child(spec.place(home.place()));
        let hangs: Arc<Mutex<Vec<Hang>>> = Arc::default();
        let seen = hangs.clone();
        let watchdog = Watchdog::new(5 * MILLI).level(20 * MILLI).watch(&home.place()).watch(&other.place());
        let watchdog = watchdog.names_from(&root.handle()).on_hang(move |hang| seen.lock().push(hang.clone()));
        let root = root.child(ChildSpec::task("watchdog", move || watchdog.clone().run()));
        let tree = root.start(&control.place()).await.unwrap();
        let (release, released) = mpsc::channel::<()>();
        let actor = a.clone();
        other
            .place()
            .run(move || {
                let _ = actor.on_behalf(|| released.recv());
            })
            .unwrap();
        until("the hang is reported", || !hangs.lock().is_empty()).await;
        assert_eq!(a.call(Echo(7)).await, Ok(7), "the actor's own thread is free");
        drop(release);
        let hang = hangs.lock()[0].clone();
        assert_eq!((&*hang.arbiter, Some(hang.actor), hang.name.as_deref()), ("other", a.id(), Some("a")));
        tree.stop().await;
        [control, home, other].into_iter().for_each(Arbiter::stop);
    });
}
