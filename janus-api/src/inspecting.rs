//! What an instance knows of itself, for operators: its supervision tree, and the clients that lag.
//!
//! The functions that look at all clients or at the tree block, and run on a thread of their own.

use janus_core::supervision::Tree;
use janus_core::wire::{HttpError, Peer, TopicName};
use janus_core::{Janus, SlowClient, SlowConsumer};
use serde::Serialize;

use crate::MAX_ANSWER_BYTES;
use crate::body::to_json;
use crate::query::{Query, grouped};

/// Children listed below each supervisor: by default, and at most. Only topics are ever that many.
pub const DEFAULT_CHILDREN: usize = 1_000;
/// See [`DEFAULT_CHILDREN`].
pub const MAX_CHILDREN: usize = 10_000;

/// Slow clients in an answer: by default, and at most.
pub const DEFAULT_SLOW: usize = 20;
/// See [`DEFAULT_SLOW`].
pub const MAX_SLOW: usize = 1_000;

/// The slow clients with the largest queues.
#[derive(Clone, Copy, Debug)]
pub struct SlowView {
    limit: usize,
}

impl SlowView {
    pub(crate) fn of(query: &str) -> Result<Self, HttpError> {
        Ok(Self { limit: Query::of(query, &["limit"])?.number("limit", MAX_SLOW)?.unwrap_or(DEFAULT_SLOW) })
    }

    pub(crate) fn answer(self, janus: &Janus) -> Vec<u8> {
        let clients = janus.slow_clients(self.limit);
        let mut bytes = 0;
        let fitting = clients.iter().take_while(|client| {
            bytes += client.topics.iter().map(|topic| topic.as_str().len()).sum::<usize>();
            bytes <= MAX_ANSWER_BYTES
        });
        to_json(&SlowClients { clients: fitting.map(SlowJson::of).collect() })
    }
}

/// The supervision tree.
#[derive(Clone, Copy, Debug)]
pub struct TreeView {
    limit: usize,
    pub(crate) as_text: bool,
}

impl TreeView {
    pub(crate) fn of(query: &str) -> Result<Self, HttpError> {
        let query = Query::of(query, &["limit", "format"])?;
        let as_text = query.one_of("format", &[("json", false), ("text", true)])?.unwrap_or(false);
        Ok(Self { limit: query.number("limit", MAX_CHILDREN)?.unwrap_or(DEFAULT_CHILDREN), as_text })
    }

    pub(crate) fn answer(self, janus: &Janus) -> Vec<u8> {
        let mut tree = janus.tree_within(self.limit);
        let (mut unlisted, mut bytes) = (0, 0);
        cut(&mut tree, &mut bytes, &mut unlisted);
        if self.as_text { to_text(&tree, unlisted) } else { to_json(&TreeJson { tree, unlisted }) }
    }
}

/// Leaves names of at most [`MAX_ANSWER_BYTES`] altogether, and counts the children that are not listed.
fn cut(tree: &mut Tree, bytes: &mut usize, unlisted: &mut usize) {
    let fitting = tree.children.iter().take_while(|child| {
        *bytes += child.name.len() + child.last_reason.as_ref().map_or(0, |reason| reason.to_string().len());
        *bytes <= MAX_ANSWER_BYTES
    });
    let fitting = fitting.count();
    tree.unlisted += tree.children.len() - fitting;
    tree.children.truncate(fitting);
    *unlisted += tree.unlisted;
    for child in &mut tree.children {
        cut(child, bytes, unlisted);
    }
}

fn to_text(tree: &Tree, unlisted: usize) -> Vec<u8> {
    match unlisted {
        0 => format!("{tree}\n"),
        _ => format!(
            "{tree}\n\n{unlisted} further nodes are not listed; limit=N lists up to {} of each supervisor\n",
            grouped(MAX_CHILDREN)
        ),
    }
    .into_bytes()
}

pub(crate) fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[derive(Serialize)]
struct TreeJson {
    tree: Tree,
    unlisted: usize,
}

#[derive(Serialize)]
struct SlowClients<'a> {
    clients: Vec<SlowJson<'a>>,
}

#[derive(Serialize)]
struct SlowJson<'a> {
    connection: u64,
    peer: Option<Peer>,
    transport: &'static str,
    user: &'a str,
    topics: &'a [TopicName],
    topics_total: usize,
    policy: &'a [SlowConsumer],
    queued_frames: usize,
    queued_bytes: usize,
    lagging_for_ms: u64,
}

impl<'a> SlowJson<'a> {
    fn of(client: &'a SlowClient) -> Self {
        Self {
            connection: client.client,
            peer: client.peer,
            transport: client.transport,
            user: &client.user,
            topics: &client.topics,
            topics_total: client.topics_total,
            policy: &client.policies,
            queued_frames: client.queued_frames,
            queued_bytes: client.queued_bytes,
            lagging_for_ms: millis(client.lagging_for),
        }
    }
}
