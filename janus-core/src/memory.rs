//! What gives memory back that is no longer needed.

use tokio::task::yield_now;

use crate::shared::Shared;

/// Topics whose rings are trimmed before others get their turn.
const TOPICS: usize = 64;

/// Has all topics let go of what is too old, and of what is more than `pressure` allows.
pub(crate) async fn trim_topics(shared: &Shared, pressure: u32) {
    let mut last = 0;
    loop {
        let portion = shared.topics.portion(last, TOPICS);
        let Some(topic) = portion.last() else { return };
        last = topic.number;
        let tick = shared.clock.tick();
        for topic in &portion {
            topic.trim(tick, pressure);
        }
        // Not kept from ending meanwhile.
        drop(portion);
        yield_now().await;
    }
}
