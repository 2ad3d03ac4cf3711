//! A supervised counter that crashes and is restarted.
//!
//! `cargo run --example counter`. Shows supervision without the rest of Janus: a name that outlives the crash, a caller
//! told why there is no answer, and the tree afterwards.

use std::time::Duration;

use actix::prelude::*;
use janus_supervision::{
    ActorRef, Arbiter, CallError, ChildSpec, ExitReason, Shutdown, StartInfo, State, Strategy, Supervisor,
};

struct Counter {
    count: u32,
}

impl Actor for Counter {
    type Context = Context<Self>;
}

#[derive(Message)]
#[rtype(result = "u32")]
struct Increment;

impl Handler<Increment> for Counter {
    type Result = u32;

    fn handle(&mut self, _: Increment, _: &mut Context<Self>) -> u32 {
        self.count += 1;
        assert!(self.count < 3, "{PLANNED}");
        self.count
    }
}

const PLANNED: &str = "this counter cannot count to three";

/// Prints a short line for the planned crash, and any other panic as usual.
fn expect_the_planned_crash() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| match panic.payload_as_str() {
        Some(PLANNED) => println!("  the planned crash: {PLANNED}"),
        _ => usual(panic),
    }));
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    expect_the_planned_crash();

    // The name exists before the actor, and is shared by all callers.
    let counter = ActorRef::<Counter>::new("counter");
    let arbiter = Arbiter::start("counters")?;

    let spec = ChildSpec::actor_with(&counter, |_ctx, start: &StartInfo| {
        println!("  starting, after {} restarts; last end: {:?}", start.restarts, start.last_reason);
        Ok(Counter { count: 0 })
    });
    let tree = Supervisor::new("root", Strategy::OneForOne)
        .intensity(5, Duration::from_secs(60))
        .child(spec.shutdown(Shutdown::Timeout(Duration::from_secs(2))))
        .start(&arbiter.place())
        .await?;

    for _ in 0..4 {
        let before = counter.id();
        match counter.call(Increment).await {
            Ok(count) => println!("{counter:?} counts {count}"),
            Err(CallError::Died(ExitReason::Panicked(why))) => {
                let successor = counter.when_up(before).await;
                println!("{before:?} has crashed: {why}; {successor:?} has taken its place");
            }
            Err(error) => return Err(error.into()),
        }
    }

    // The new counter answers slightly before the supervisor has noted the start.
    while tree.tree().find("counter").is_none_or(|node| node.state != State::Running) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!("{}", tree.tree());
    tree.stop().await;
    println!("the tree has ended: {}", tree.wait().await);
    arbiter.stop();
    Ok(())
}
