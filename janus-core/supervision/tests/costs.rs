//! What a child takes: the allocations that are there once the child rests, and their bytes, as the documentation of the
//! crate says.
//!
//! One test, alone in its binary, because the allocator counts for the whole process.
#![cfg(target_pointer_width = "64")]

use std::alloc::System;
use std::task::{self, Poll};

use actix::prelude::*;
use janus_supervision::{ChildSpec, Dormant, DynamicSupervisor, Place, Strategy, Supervisor};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::runtime::LocalRuntime;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Enough for the steps in which tables grow to make no difference.
const CHILDREN: usize = 10_000;

struct Idle;

impl Actor for Idle {
    type Context = Context<Self>;
}

impl Dormant for Idle {
    fn poll_work(&mut self, _: &mut task::Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

/// Waits until each task that is ready has run.
async fn rest() {
    for _ in 0..CHILDREN {
        tokio::task::yield_now().await;
    }
}

/// Allocations that are there, and their bytes, for each of the children that `start` starts. The handles are not counted
/// as long as a handle has no memory of its own.
async fn taken<C>(mut start: impl FnMut() -> C) -> (f64, f64) {
    let mut kept = Vec::with_capacity(CHILDREN);
    let before = ALLOCATOR.stats();
    (0..CHILDREN).for_each(|_| kept.push(start()));
    rest().await;
    let change = ALLOCATOR.stats() - before;
    let there = change.allocations as f64 - change.deallocations as f64;
    let bytes = change.bytes_allocated as f64 - change.bytes_deallocated as f64;
    drop(kept);
    rest().await;
    (there / CHILDREN as f64, bytes / CHILDREN as f64)
}

#[test]
fn a_dormant_child_takes_less_than_a_third_of_another_until_it_wakes_up() {
    LocalRuntime::new().unwrap().block_on(async {
        let pool = DynamicSupervisor::new("pool");
        let root = Supervisor::new("root", Strategy::OneForOne).child(ChildSpec::dynamic(&pool));
        let tree = root.start(&Place::here()).await.unwrap();
        let bare = taken(|| Idle.start()).await;
        let awake = taken(|| pool.start_here(|_| Idle).unwrap()).await;
        let dormant = taken(|| pool.start_dormant_here(|| Idle).unwrap()).await;
        let woken = taken(|| {
            let child = pool.start_dormant_here(|| Idle).unwrap();
            assert!(child.addr().is_some());
            child
        });
        let woken = woken.await;
        println!("allocations and bytes: bare {bare:?}, awake {awake:?}, dormant {dormant:?}, woken {woken:?}");
        let most = [(bare, (6.1, 750.0)), (awake, (7.3, 840.0)), (dormant, (2.3, 240.0)), (woken, (10.3, 980.0))];
        for ((allocations, bytes), (most_allocations, most_bytes)) in most {
            assert!(allocations <= most_allocations && bytes <= most_bytes, "{allocations} {bytes}");
        }
        tree.stop().await;
    });
}
