//! Injected crashes: the choice of the next fault, and the pace.

use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use janus_core::Fault;
use janus_core::supervision::Tree;
use tokio::time::{Instant, sleep};

use super::{Random, World};

/// A function to pick the next fault, if any.
pub(super) type Choice = fn(&World, &mut Random) -> Option<Fault>;

/// Makes one part after the other crash, with a random pause in milliseconds in between.
pub(super) async fn crash(world: Rc<World>, pause: Range<u64>, mut random: Random, next: Choice) {
    loop {
        let until = Instant::now() + Duration::from_millis(pause.start + random.below(pause.end - pause.start));
        while Instant::now() < until {
            if world.visitors_leave.get() {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
        let Some(fault) = next(&world, &mut random) else { continue };
        let name = match &fault {
            Fault::TopicManager => "TopicManager",
            Fault::ProxyMapper => "ProxyMapper",
            Fault::Acceptor => "Acceptor",
            Fault::Topic(_) => "Topic",
            Fault::TopicSend(_) => "TopicSend",
            Fault::TopicCommit(_) => "TopicCommit",
            Fault::SenderSend(_) => "SenderSend",
            Fault::HelperSend(_) => "HelperSend",
            Fault::Transport(_) => "Transport",
            fault => panic!("{fault:?} has no name here"),
        };
        *world.injected.borrow_mut().entry(name).or_default() += 1;
        world.janus.inject(fault);
    }
}

impl World {
    pub(super) fn injected(&self, name: &str) -> u64 {
        self.injected.borrow().get(name).copied().unwrap_or(0)
    }

    /// The number of restarts of all children whose name begins with `name`.
    pub(super) fn restarts(&self, name: &str) -> u64 {
        fn sum(tree: &Tree, name: &str) -> u64 {
            let own = if tree.name.starts_with(name) { tree.restarts } else { 0 };
            own + tree.children.iter().map(|child| sum(child, name)).sum::<u64>()
        }
        sum(&self.janus.tree(), name)
    }

    /// Crashes of the root's children, far fewer than the five in a minute that would end the instance.
    pub(super) fn root_fault(&self, random: &mut Random) -> Option<Fault> {
        Some(match random.below(3) {
            0 => Fault::TopicManager,
            1 => Fault::ProxyMapper,
            _ => Fault::Acceptor,
        })
    }

    /// Crashes of topics, at most two in a minute: a third would restart the topic cold, which closes subscribers.
    pub(super) fn topic_fault(&self, random: &mut Random) -> Option<Fault> {
        let nth = 1 + random.below(5_000) as u32;
        Some(match random.below(3) {
            0 => Fault::Topic(self.topics[random.below(self.topics.len() as u64) as usize].name.clone()),
            1 => Fault::TopicSend(nth),
            _ => Fault::TopicCommit(1 + nth % 100),
        })
    }

    pub(super) fn sender_fault(&self, random: &mut Random) -> Option<Fault> {
        Some(Fault::SenderSend(1 + random.below(5_000) as u32))
    }

    pub(super) fn transport_fault(&self, random: &mut Random) -> Option<Fault> {
        let churning = self.churning.borrow();
        let victim = *churning.iter().nth(random.below(churning.len().max(1) as u64) as usize)?;
        self.condemned.borrow_mut().insert(victim);
        Some(Fault::Transport(victim))
    }
}
