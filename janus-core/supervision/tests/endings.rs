//! Every way in which an actor can end, and the reason. Each test also shows that the thread and other actors live on.

use std::cell::Cell;
use std::time::Duration;

use actix::prelude::*;
use janus_supervision::{ActorRef, ChildSpec, Exit, ExitReason, Place, Restart, Strategy, Supervisor, exit};
use tokio::sync::oneshot;

use crate::support::{Echo, Log, PLANNED, puppet, settle, virtual_time};

/// Where the actor of these tests panics.
#[derive(Clone, Copy, Default)]
struct Faults {
    started: bool,
    stopping: bool,
    stopped: bool,
    drop: bool,
}

struct Actress {
    faults: Faults,
}

impl Actress {
    fn fail_if(fails: bool, place: &str) {
        if fails {
            panic!("{PLANNED} {place}");
        }
    }
}

impl Actor for Actress {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Context<Self>) {
        Self::fail_if(self.faults.started, "started");
    }

    fn stopping(&mut self, _: &mut Context<Self>) -> Running {
        Self::fail_if(self.faults.stopping, "stopping");
        Running::Stop
    }

    fn stopped(&mut self, _: &mut Context<Self>) {
        Self::fail_if(self.faults.stopped, "stopped");
    }
}

impl Drop for Actress {
    fn drop(&mut self) {
        Self::fail_if(self.faults.drop, "drop");
    }
}

type Deed = Box<dyn FnOnce(&mut Actress, &mut Context<Actress>) + Send>;

#[derive(Message)]
#[rtype(result = "()")]
struct Do(Deed);

impl Handler<Do> for Actress {
    type Result = ();

    fn handle(&mut self, deed: Do, ctx: &mut Context<Self>) {
        deed.0(self, ctx);
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct DoLater(Duration);

impl Handler<DoLater> for Actress {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, after: DoLater, _: &mut Context<Self>) -> Self::Result {
        Box::pin(tokio::time::sleep(after.0).into_actor(self).map(|(), _, _| panic!("{PLANNED} async handler")))
    }
}

/// Starts an actress, lets `act` end her, and returns the reason her monitor was told.
fn ending(faults: Faults, act: impl AsyncFnOnce(&ActorRef<Actress>)) -> ExitReason {
    let mut ended = None;
    let end = &mut ended;
    virtual_time(async move |here: Place| {
        let actress = ActorRef::new("actress");
        let spec = ChildSpec::actor(&actress, move |_| Ok(Actress { faults })).restart(Restart::Temporary);
        let (bystander, beside) = puppet("bystander", &Log::default());
        let root = Supervisor::new("root", Strategy::OneForOne).child(beside).child(spec);
        let tree = root.start(&here).await.unwrap();
        let (tell, told) = oneshot::channel();
        actress.monitor(move |down| drop(tell.send(down.reason))).detach();
        act(&actress).await;
        *end = Some(told.await.unwrap());
        settle().await;
        assert_eq!(bystander.call(Echo(1)).await, Ok(1));
        assert!(!actress.is_running());
        tree.stop().await;
        assert_eq!(tree.wait().await, ExitReason::Shutdown);
    });
    ended.unwrap()
}

fn panicked(place: &str) -> ExitReason {
    ExitReason::Panicked(format!("{PLANNED} {place}").into())
}

async fn tell(actress: &ActorRef<Actress>, deed: impl FnOnce(&mut Actress, &mut Context<Actress>) + Send + 'static) {
    actress.cast(Do(Box::new(deed))).unwrap();
}

const NONE: Faults = Faults { started: false, stopping: false, stopped: false, drop: false };

#[test]
fn a_panic_in_a_handler_ends_the_actor() {
    assert_eq!(ending(NONE, async |a| tell(a, |_, _| panic!("{PLANNED} handler")).await), panicked("handler"));
}

#[test]
fn a_panic_in_an_async_handler_ends_the_actor() {
    assert_eq!(ending(NONE, async |a| a.cast(DoLater(Duration::from_secs(1))).unwrap()), panicked("async handler"));
}

#[test]
fn a_panic_in_a_timer_ends_the_actor() {
    let timer = |_: &mut Actress, ctx: &mut Context<Actress>| {
        ctx.run_later(Duration::from_secs(1), |_, _| panic!("{PLANNED} timer"));
    };
    assert_eq!(ending(NONE, async |a| tell(a, timer).await), panicked("timer"));
}

#[test]
fn a_panic_in_stopping_replaces_the_reason_of_the_stop() {
    assert_eq!(ending(Faults { stopping: true, ..NONE }, async |a| a.stop()), panicked("stopping"));
}

#[test]
fn a_panic_in_stopped_replaces_the_reason_of_the_stop() {
    assert_eq!(ending(Faults { stopped: true, ..NONE }, async |a| a.stop()), panicked("stopped"));
}

#[test]
fn a_panic_in_drop_replaces_the_reason_of_the_stop() {
    assert_eq!(ending(Faults { drop: true, ..NONE }, async |a| a.stop()), panicked("drop"));
}

#[test]
fn of_several_causes_the_first_is_the_reason() {
    let everywhere = Faults { stopping: true, stopped: true, drop: true, ..NONE };
    assert_eq!(ending(everywhere, async |a| tell(a, |_, _| panic!("{PLANNED} handler")).await), panicked("handler"));
    assert_eq!(ending(everywhere, async |a| a.stop()), panicked("stopping"));
    assert_eq!(ending(everywhere, async |a| a.kill()), ExitReason::Killed);
}

#[test]
fn a_panic_without_text_is_reported_as_such() {
    let reason = ending(NONE, async |a| tell(a, |_, _| std::panic::resume_unwind(Box::new(7_u8))).await);
    assert_eq!(reason, ExitReason::Panicked("a panic whose payload is not text".into()));
}

#[test]
fn a_payload_that_panics_in_its_drop_is_survived() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            std::panic::resume_unwind(Box::new(Self));
        }
    }
    let reason = ending(NONE, async |a| tell(a, |_, _| std::panic::resume_unwind(Box::new(Bomb))).await);
    assert!(matches!(reason, ExitReason::Panicked(_)));
}

#[test]
fn a_queued_message_that_panics_in_its_drop_is_survived() {
    struct Bomb(Cell<bool>);
    impl Drop for Bomb {
        fn drop(&mut self) {
            if self.0.get() {
                panic!("{PLANNED} message");
            }
        }
    }
    let reason = ending(NONE, async |a| {
        tell(a, |_, _| panic!("{PLANNED} handler")).await;
        let bomb = Bomb(Cell::new(true));
        tell(a, move |_, _| bomb.0.set(false)).await;
    });
    assert_eq!(reason, panicked("handler"));
}

#[test]
fn an_actor_that_stops_itself_ends_normally() {
    assert_eq!(ending(NONE, async |a| tell(a, |_, ctx| ctx.stop()).await), ExitReason::Normal);
}

#[test]
fn an_actor_may_exit_with_a_reason_of_its_own() {
    let error = ExitReason::Error("disk full".into());
    let given = error.clone();
    assert_eq!(ending(NONE, async |a| tell(a, move |_, ctx| ctx.exit(given)).await), error);
}

#[test]
fn an_exit_unwinds_from_any_depth_with_its_reason() {
    fn deep(levels: u32) {
        if levels == 0 {
            exit(ExitReason::Error("deep".into()));
        }
        deep(levels - 1);
    }
    let reason = ending(NONE, async |a| tell(a, |_, _| deep(10)).await);
    assert_eq!(reason, ExitReason::Error("deep".into()));
}

#[test]
fn a_stop_from_outside_ends_with_shutdown() {
    assert_eq!(ending(NONE, async |a| a.stop()), ExitReason::Shutdown);
}

#[test]
fn a_kill_from_outside_ends_with_killed() {
    assert_eq!(ending(NONE, async |a| a.kill()), ExitReason::Killed);
}

#[test]
fn a_kill_overrides_an_earlier_stop() {
    let reason = ending(NONE, async |a| {
        a.stop();
        a.kill();
    });
    assert_eq!(reason, ExitReason::Killed);
}

#[test]
fn a_stop_does_not_hide_the_reason_of_an_earlier_exit() {
    let reason = ending(NONE, async |a| {
        tell(a, |_, ctx| ctx.exit(ExitReason::Error("first".into()))).await;
        a.stop();
    });
    // The stop is requested before the actor handles the message; the actor's own reason is still more telling.
    assert_eq!(reason, ExitReason::Error("first".into()));
}

#[test]
fn dropping_the_last_address_does_not_end_the_actor() {
    let reason = ending(NONE, async |a| {
        drop(a.addr());
        settle().await;
        assert!(a.is_running());
        a.stop();
    });
    assert_eq!(reason, ExitReason::Shutdown);
}

fn start_failure(
    faults: Faults,
    factory: impl Fn() -> Result<(), Box<dyn std::error::Error + Send + Sync>> + Send + Sync + 'static,
) -> String {
    let mut message = String::new();
    let text = &mut message;
    virtual_time(async move |here: Place| {
        let spec = ChildSpec::actor(&ActorRef::new("actress"), move |_| factory().map(|()| Actress { faults }));
        let error = Supervisor::new("root", Strategy::OneForOne).child(spec).start(&here).await.unwrap_err();
        *text = error.to_string();
    });
    message.trim_start_matches("root: start failed: actress: ").to_owned()
}

#[test]
fn a_panic_in_started_is_a_failed_start() {
    let message = start_failure(Faults { started: true, ..NONE }, || Ok(()));
    assert_eq!(message, "start failed: panicked: planned: started");
}

#[test]
fn a_panic_in_started_and_in_later_callbacks_is_a_failed_start() {
    let message = start_failure(Faults { started: true, stopping: true, stopped: true, drop: true }, || Ok(()));
    assert_eq!(message, "start failed: panicked: planned: started");
}

#[test]
fn an_error_of_a_factory_is_a_failed_start() {
    assert_eq!(start_failure(NONE, || Err("no port".into())), "start failed: no port");
}

#[test]
fn a_panic_in_a_factory_is_a_failed_start() {
    assert_eq!(start_failure(NONE, || panic!("{PLANNED} factory")), "start failed: panicked: planned: factory");
}

#[test]
fn an_exit_in_a_factory_is_a_failed_start() {
    assert_eq!(start_failure(NONE, || exit(ExitReason::Error("no licence".into()))), "start failed: no licence");
}

#[test]
fn an_actor_that_stops_in_started_has_not_started() {
    struct Quitter;
    impl Actor for Quitter {
        type Context = Context<Self>;
        fn started(&mut self, ctx: &mut Context<Self>) {
            ctx.stop();
        }
    }
    virtual_time(async |here| {
        let spec = ChildSpec::actor(&ActorRef::new("quitter"), |_| Ok(Quitter));
        let error = Supervisor::new("root", Strategy::OneForOne).child(spec).start(&here).await.unwrap_err();
        assert!(error.to_string().ends_with("quitter: start failed: stopped before it was up"), "{error}");
    });
}

#[test]
fn each_reason_has_its_text_and_says_whether_it_is_abnormal() {
    let gave_up = ExitReason::MaxRestarts { child: "a".into(), last: Box::new(ExitReason::Killed) };
    let texts = [
        (ExitReason::Normal, "normal", false),
        (ExitReason::Shutdown, "shutdown", false),
        (ExitReason::Killed, "killed", true),
        (ExitReason::Panicked("oh".into()), "panicked: oh", true),
        (ExitReason::Error("oh".into()), "error: oh", true),
        (ExitReason::StartFailed("oh".into()), "start failed: oh", true),
        (gave_up, "gave up on a: killed", true),
        (ExitReason::ArbiterDown, "arbiter down", true),
    ];
    for (reason, text, abnormal) in texts {
        assert_eq!((reason.to_string().as_str(), reason.is_abnormal()), (text, abnormal));
    }
}
