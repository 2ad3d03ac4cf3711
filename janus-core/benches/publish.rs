//! The price of a client's right to publish: none asked for, all topics, patterns, and a question to a hook for each
//! message.
//!
//! A client sends a thousand messages in one write, and the last asks for a receipt. So a question's way to the hook's
//! thread and back cannot hide behind the way over the socket. The same with one message at a time shows the time of a
//! single publisher. The topic has no subscriber, so nothing is delivered.

mod client;
mod interleaved;

use std::error::Error;
use std::io;
use std::time::{Duration, Instant};

use client::Client;
use interleaved::{Comparison, rounds};
use janus_core::hooks::{ConnectRequest, Denied, Grant, Hooks, Identity, Patterns};
use janus_core::wire::classic::client::{ServerFrame, publish, publish_with_ack};
use janus_core::{Config, Janus};
use parking_lot::Mutex;

const TOPIC: &str = "chat:lobby";
const MESSAGES: usize = 1_000;
const TRIPS: usize = 300;

/// Gives every client this grant. Questions are answered at once.
struct Granting(Grant);

impl Hooks for Granting {
    async fn authenticate(&self, _: ConnectRequest) -> Result<Identity, Denied> {
        Ok(Identity::user("alice").publish(self.0.clone()))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build()?;
    // The topic is found last.
    let many = (1..Patterns::MAX).map(|number| format!("a{number}:*")).chain(["chat:*".to_owned()]);
    let few = Grant::from(Patterns::new(["chat:*", "news"])?);
    let start = |hooks: Option<Grant>| {
        let config = Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() };
        let builder = Janus::builder().config(config);
        let builder = match hooks {
            Some(grant) => builder.hooks(Granting(grant)),
            None => builder,
        };
        let janus = runtime.block_on(builder.start())?;
        let client = Client::connect(janus.local_addrs()[0])?;
        Ok::<_, Box<dyn Error>>((janus, Mutex::new(client)))
    };
    let servers = [
        ("no hooks", start(None)?),
        ("all topics", start(Some(Grant::All))?),
        ("2 patterns", start(Some(few))?),
        ("100 patterns", start(Some(Grant::from(Patterns::new(many)?)))?),
        ("a question", start(Some(Grant::Ask))?),
    ];
    let works = "every message is published";
    let mut run = Comparison::new("per message of 1,000 in one write", MESSAGES as u32);
    for (name, (_, client)) in &servers {
        let base = (*name != "no hooks").then_some("no hooks");
        run = run.contender(name, base, || together(&mut client.lock()).expect(works));
    }
    run.run(rounds(60));
    let mut run = Comparison::new("per message with its receipt, one after the other", TRIPS as u32);
    for (name, (_, client)) in &servers {
        let base = (*name != "no hooks").then_some("no hooks");
        run = run.contender(name, base, || one_by_one(&mut client.lock()).expect(works));
    }
    run.run(rounds(30));
    for (_, (janus, _)) in &servers {
        runtime.block_on(janus.shutdown());
    }
    Ok(())
}

fn is_receipt(frame: &ServerFrame<'_>) -> bool {
    assert!(!matches!(frame, ServerFrame::Error { .. }), "{frame:?}");
    matches!(frame, ServerFrame::Published { .. })
}

fn together(client: &mut Client) -> io::Result<Duration> {
    let mut frames = publish(TOPIC, "\"\"", "\"\"", "\"hello\"").repeat(MESSAGES - 1);
    frames.extend(publish_with_ack(TOPIC, "\"\"", "\"\"", "\"hello\""));
    let start = Instant::now();
    client.send(&frames)?;
    client.read_until(is_receipt)?;
    Ok(start.elapsed())
}

fn one_by_one(client: &mut Client) -> io::Result<Duration> {
    let frame = publish_with_ack(TOPIC, "\"\"", "\"\"", "\"hello\"");
    let start = Instant::now();
    for _ in 0..TRIPS {
        client.send(&frame)?;
        client.read_until(is_receipt)?;
    }
    Ok(start.elapsed())
}
