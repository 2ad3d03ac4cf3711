//! The checks with misbehaving clients, and with crashes of parts of the server.
//!
//! A bystander is connected in each check and must not notice the other clients. The variant of the same name in
//! [`Check`](super::Check) states the demand of a check.

use std::panic::{AssertUnwindSafe, catch_unwind};

use fastrand::Rng;

use super::connection::Connection;
use super::stage::{Server, Stage, Stop, failed, feed, skipped};
use crate::config::Config;
use crate::wire::Limits;

/// The seed of the constant input: this part of the random input is the same in every run.
const FIXED_SEED: u64 = 0x6a61_6e75_7331_3030;

pub(super) async fn garbage(stage: &Stage<'_>) -> Result<(), Stop> {
    let garbage = stage.client.garbage();
    if garbage.is_empty() {
        return Err(skipped("ClientFormat::garbage returns no input"));
    }
    let server = stage.start(Config::default()).await?;
    let mut bystander = server.bystander().await?;
    for bytes in garbage {
        let what = format!("the garbage {}", bytes[..bytes.len().min(80)].escape_ascii());
        let mut connection = server.connect().await?;
        connection.send(&bytes).await?;
        connection.refused(&what).await?;
        bystander.notices_nothing(&server).await?;
    }
    Ok(())
}

pub(super) async fn random_input(stage: &Stage<'_>) -> Result<(), Stop> {
    const DECODED: usize = 3_000;
    const CONNECTIONS: usize = 250;
    let limits = Limits { max_frame_bytes: 4_096, max_topic_bytes: 255, max_topics: 128 };
    let server = stage.start(Config { max_frame_bytes: limits.max_frame_bytes, ..Config::default() }).await?;
    let mut bystander = server.bystander().await?;
    for seed in [FIXED_SEED, stage.seed] {
        let mut rng = Rng::with_seed(seed);
        for _ in 0..DECODED {
            let input = damaged(stage, &mut rng);
            let cut = rng.usize(..=input.len());
            let (head, tail) = input.split_at(cut);
            let decoded = catch_unwind(AssertUnwindSafe(|| stage.decode(&[head, tail], &limits)));
            if decoded.is_err() {
                return Err(failed(format!("the decoder panicked on {} (seed {seed})", input.escape_ascii())));
            }
        }
        for count in 0..CONNECTIONS {
            let input = damaged(stage, &mut rng);
            let mut connection = server.connect().await?;
            let left = leave_after(&mut connection, &input).await;
            left.map_err(|stop| stop.context(format_args!("seed {seed}, after {}", input.escape_ascii())))?;
            if count % 10 == 0 {
                bystander.notices_nothing(&server).await?;
            }
        }
    }
    bystander.notices_nothing(&server).await?;
    gone(&server).await
}

/// Random bytes, with or without a valid opening, or a conversation with random changes.
fn damaged(stage: &Stage<'_>, rng: &mut Rng) -> Vec<u8> {
    let noise = |rng: &mut Rng| (0..rng.usize(1..2_000)).map(|_| rng.u8(..)).collect::<Vec<u8>>();
    let mut input = match rng.u8(..4) {
        0 => return noise(rng),
        1 => {
            let opened = stage.client.open();
            return [opened, noise(rng)].concat();
        }
        _ => stage.conversation("hostile"),
    };
    for _ in 0..rng.usize(1..6) {
        let at = rng.usize(..input.len());
        match rng.u8(..5) {
            0 => input[at] = rng.u8(..),
            1 => input[at] ^= 1 << rng.u8(..8),
            2 if input.len() > 1 => drop(input.remove(at)),
            3 => input.insert(at, rng.u8(..)),
            _ => {
                let end = input.len().min(at + rng.usize(1..40));
                let twice = input[at..end].to_vec();
                input.splice(at..at, twice);
            }
        }
    }
    input
}

/// Sends `input`, ends the client's side of the stream, and waits for the server to end the other side.
async fn leave_after(connection: &mut Connection, input: &[u8]) -> Result<(), Stop> {
    connection.read_anything();
    connection.send(input).await?;
    connection.half_close().await;
    connection.end("the client's own end").await.map(drop)
}

/// Waits until only the bystander is connected.
async fn gone(server: &Server<'_>) -> Result<(), Stop> {
    server.until("the connections of clients that left to end", || server.janus.stats().connections == 1).await
}

pub(super) async fn truncated(stage: &Stage<'_>) -> Result<(), Stop> {
    let conversation = stage.conversation("truncated");
    let server = stage.start(Config::default()).await?;
    let mut bystander = server.bystander().await?;
    for length in 0..conversation.len() {
        let mut connection = server.connect().await?;
        let left = leave_after(&mut connection, &conversation[..length]).await;
        left.map_err(|stop| stop.context(format_args!("after {length} bytes")))?;
        if length % 10 == 0 {
            bystander.notices_nothing(&server).await?;
        }
    }
    gone(&server).await?;
    // The topic hears of the end after the connection has ended.
    server.until("the subscriptions of clients that left to end", || server.subscribers("truncated") == 0).await?;
    bystander.notices_nothing(&server).await
}

/// The bytes announced by the beginning of a frame. Beyond 32 MiB the allocators of the common C libraries take each piece
/// from the system, and give it back.
const ANNOUNCED: usize = 40 << 20;

/// What a decoder may hold of such a frame, buffers of a constant size included.
const HELD: usize = 1 << 20;

pub(super) async fn declared(stage: &Stage<'_>) -> Result<(), Stop> {
    const DECODERS: usize = 8;
    let limits = Limits { max_frame_bytes: 2 * ANNOUNCED, max_topic_bytes: 255, max_topics: 128 };
    // Before all the bytes of a frame that the format may not have.
    stage.publishing("declared", "1")?;
    let frame = stage.publishing("declared", &format!("\"{}\"", "x".repeat(ANNOUNCED)))?;
    if frame.len() < ANNOUNCED {
        return Err(skipped("the format shortens what it carries, and so announces other lengths"));
    }
    let head = frame[..1_024].to_vec();
    drop(frame);
    let (mut decoders, mut grown) = (Vec::new(), 0);
    for _ in 0..DECODERS {
        let (mut decoder, mut decoded) = (stage.codec.decoder(), Vec::new());
        if feed(&mut decoder, &stage.client.open(), &limits, &mut decoded) {
            return Err(failed(format!("the opening ends the connection: {decoded:?}")));
        }
        let before = address_space();
        feed(&mut decoder, &head, &limits, &mut decoded);
        let after = address_space();
        let memory = decoder.memory();
        if memory > HELD {
            let head = head.len();
            return Err(failed(format!(
                "the decoder holds {memory} bytes for a frame of which {head} bytes have come"
            )));
        }
        grown += usize::from(after.saturating_sub(before) > ANNOUNCED / 2);
        // At the end, so that each decoder takes memory of its own.
        decoders.push(decoder);
    }
    // Another thread may take as much at the same moment, or give as much back, but not at many of these moments.
    if grown >= DECODERS * 3 / 4 {
        return Err(failed(format!(
            "the decoder reserves memory for a frame of which {} bytes have come; take room for bytes that are there",
            head.len()
        )));
    }
    Ok(())
}

/// The size of the address space of this process, in bytes; 0 if the system does not tell. A reservation shows here before
/// its memory is used.
fn address_space() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")?.trim().strip_suffix(" kB")?.parse().ok());
    size.map_or(0, |kib: usize| kib * 1_024)
}

#[cfg(not(feature = "fault-injection"))]
pub(super) async fn connection_crash(_: &Stage<'_>) -> Result<(), Stop> {
    Err(skipped("built without the feature fault-injection"))
}

#[cfg(not(feature = "fault-injection"))]
pub(super) async fn topic_crash(_: &Stage<'_>) -> Result<(), Stop> {
    Err(skipped("built without the feature fault-injection"))
}

#[cfg(feature = "fault-injection")]
pub(super) async fn connection_crash(stage: &Stage<'_>) -> Result<(), Stop> {
    let server = stage.start(Config::default()).await?;
    let mut bystander = server.bystander().await?;
    let mut victim = server.subscriber("victim").await?;
    let Some(addr) = victim.addr else {
        return Err(skipped("the carrier does not know the addresses of its clients"));
    };
    server.janus.inject(crate::ground::fault::Fault::Transport(addr));
    victim.end("a crash of its actor").await?;
    gone(&server).await?;
    server.until("the subscription to end", || server.subscribers("victim") == 0).await?;
    bystander.notices_nothing(&server).await?;
    let mut next = server.subscriber("victim").await?;
    server.publish("victim", "1").await?;
    next.message("victim").await.map(drop)
}

#[cfg(feature = "fault-injection")]
pub(super) async fn topic_crash(stage: &Stage<'_>) -> Result<(), Stop> {
    use crate::ground::fault::Fault;
    use crate::supervision::State;
    const CLIENTS: usize = 10;
    let server = stage.start(Config { inline_subscribers: 64, ..Config::default() }).await?;
    let clients = (0..CLIENTS).map(|_| server.subscriber("crash"));
    let mut clients = futures_util::future::try_join_all(clients).await?;
    let restarts = || {
        let tree = server.janus.tree();
        let topics = tree.find("topic_supervisor").map(|node| node.children.clone()).unwrap_or_default();
        topics.iter().filter(|topic| topic.state == State::Running).map(|topic| topic.restarts).sum::<u64>()
    };
    let mut number = 0;
    // After the first two crashes the topic restarts warm.
    for crash in 1..=2 {
        server.janus.inject(Fault::TopicSend(4));
        for _ in 0..5 {
            number += 1;
            server.publish("crash", &number.to_string()).await?;
        }
        server.until("the topic to be restarted", || restarts() == crash).await?;
        number += 1;
        server.publish("crash", &number.to_string()).await?;
    }
    for client in &mut clients {
        for expected in 1..=number {
            let data = client.message("crash").await?;
            if data.trim() != expected.to_string() {
                return Err(client.stop(format!("{data} came instead of message {expected}")));
            }
        }
    }
    Ok(())
}
