//! Chaos: attackers on several threads crash, stop, kill and restart the children of a tree at random.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use actix::prelude::*;
use janus_supervision::{
    ActorRef, Arbiter, CallError, ChildSpec, DynamicSupervisor, Exit, ExitReason, Restart, Shutdown, State, Strategy,
    Supervisor, SupervisorRef,
};
use tokio::time::timeout;

use crate::support::{DEADLINE, Echo, MILLI, PLANNED, block_on, until};

/// Counts everything the chaos does, so that nothing can go missing.
#[derive(Default)]
struct Counts {
    made: AtomicI64,
    dropped: AtomicI64,
    answered: AtomicU64,
    refused: AtomicU64,
}

struct Victim(Arc<Counts>);

impl Victim {
    fn new(counts: &Arc<Counts>) -> Self {
        counts.made.fetch_add(1, Ordering::SeqCst);
        Self(counts.clone())
    }
}

impl Actor for Victim {
    type Context = Context<Self>;
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.0.dropped.fetch_add(1, Ordering::SeqCst);
    }
}

#[derive(Message)]
#[rtype(result = "()")]
enum Attack {
    Panic,
    Exit,
}

impl Handler<Attack> for Victim {
    type Result = ();

    fn handle(&mut self, attack: Attack, ctx: &mut Context<Self>) {
        match attack {
            Attack::Panic => panic!("{PLANNED} chaos"),
            Attack::Exit => ctx.exit(ExitReason::Error("chaos".into())),
        }
    }
}

impl Handler<Echo> for Victim {
    type Result = u32;

    fn handle(&mut self, echo: Echo, _: &mut Context<Self>) -> u32 {
        echo.0
    }
}

/// A small random generator, so that a run can be repeated from the seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

#[test]
fn chaos_from_several_sides_hangs_loses_and_leaks_nothing() {
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64 | 1;
    eprintln!("seed {seed}");
    for (n, strategy) in [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne].into_iter().enumerate() {
        block_on(chaos(strategy, seed.wrapping_add(n as u64 * 1_000_003)));
    }
}

async fn chaos(strategy: Strategy, seed: u64) {
    let control = Arbiter::start("control").unwrap();
    let homes = ["one", "two"].map(|name| Arbiter::start(name).unwrap());
    let counts = Arc::new(Counts::default());
    let victims: Vec<ActorRef<Victim>> = (0..10).map(|n| ActorRef::new(format!("victim {n}"))).collect();
    let pool = DynamicSupervisor::new("pool").child_intensity(u32::MAX, 1000 * MILLI);
    let root = Supervisor::new("root", strategy).intensity(u32::MAX, 1000 * MILLI);
    let root = victims.iter().enumerate().fold(root, |root, (n, victim)| {
        let counts = counts.clone();
        let spec = ChildSpec::actor(victim, move |_| Ok(Victim::new(&counts)));
        root.child(spec.place(homes[n % 2].place()).shutdown(Shutdown::Timeout(1000 * MILLI)))
    });
    let tree = root.child(ChildSpec::dynamic(&pool)).start(&control.place()).await.unwrap();

    let over = Arc::new(AtomicBool::new(false));
    let attackers: Vec<_> = (0..4u64)
        .map(|side| {
            let random = Random(seed ^ (side + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let attack = attack(victims.clone(), tree.clone(), pool.clone(), counts.clone(), over.clone(), random);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            std::thread::spawn(move || runtime.block_on(async { timeout(DEADLINE, attack).await }))
        })
        .collect();
    tokio::time::sleep(500 * MILLI).await;
    over.store(true, Ordering::SeqCst);
    for attacker in attackers {
        let ended = attacker.join().unwrap();
        assert!(ended.is_ok(), "an attacker hangs in a call or a command:\n{}", tree.tree());
    }

    // Nothing is lost: every child comes back and answers, except terminated children.
    for victim in &victims {
        let _ = tree.restart_child(victim.name()).await;
    }
    for victim in &victims {
        until("every victim answers", || victim.is_running()).await;
        while victim.call(Echo(1)).await != Ok(1) {
            victim.when_up(None).await;
        }
    }
    let states: HashMap<_, _> = tree.which_children().await.unwrap().into_iter().map(|c| (c.name, c.state)).collect();
    assert!(states.values().all(|state| *state == State::Running), "{states:?}");
    tree.stop().await;
    assert_eq!(tree.wait().await, ExitReason::Shutdown);

    // Nothing is leaked: every actor has been dropped.
    let (made, dropped) = (counts.made.load(Ordering::SeqCst), counts.dropped.load(Ordering::SeqCst));
    assert_eq!(made, dropped);
    eprintln!(
        "{strategy:?}: {made} incarnations, {} calls answered, {} not",
        counts.answered.load(Ordering::SeqCst),
        counts.refused.load(Ordering::SeqCst)
    );
    assert!(made > 100, "there was some chaos");
    homes.into_iter().for_each(Arbiter::stop);
    control.stop();
}

async fn attack(
    victims: Vec<ActorRef<Victim>>,
    tree: SupervisorRef,
    pool: DynamicSupervisor,
    counts: Arc<Counts>,
    over: Arc<AtomicBool>,
    mut random: Random,
) {
    while !over.load(Ordering::SeqCst) {
        let victim = &victims[random.below(10) as usize];
        match random.below(12) {
            0 | 1 => drop(victim.cast(Attack::Panic)),
            2 | 3 => drop(victim.cast(Attack::Exit)),
            4 | 5 => victim.kill(),
            6 => victim.stop(),
            7 => {
                victim.stop();
                victim.kill();
                let _ = victim.cast(Attack::Panic);
            }
            8 => {
                let _ = tree.terminate_child(victim.name()).await;
                let _ = tree.restart_child(victim.name()).await;
            }
            9 => {
                let actor = ActorRef::new(format!("pooled {}", random.below(3)));
                let made = counts.clone();
                let spec = ChildSpec::actor(&actor, move |_| Ok(Victim::new(&made))).restart(Restart::Transient);
                if pool.start_child(spec).await.is_ok() {
                    let _ = actor.cast(Attack::Panic);
                    let _ = pool.terminate_child(actor.name().clone()).await;
                }
            }
            _ => match victim.call(Echo(1)).await {
                Ok(_) => drop(counts.answered.fetch_add(1, Ordering::SeqCst)),
                Err(CallError::Timeout) => panic!("a call hung"),
                Err(_) => drop(counts.refused.fetch_add(1, Ordering::SeqCst)),
            },
        }
        if random.below(50) == 0 {
            let _ = tree.tree();
            tokio::task::yield_now().await;
        }
    }
}
