//! What the server knows of itself, for operators: its figures, its supervision tree, and the clients that lag.

use std::sync::Arc;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use janus_core::supervision::Tree;
use janus_core::wire::HttpError;
use janus_core::{MetricKind, Stats};
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use super::routes::{MAX_ANSWER_BYTES, bad_request, digits, json, to_json};
use super::{Api, busy, with_type};

/// Children listed below each supervisor: by default, and at most. Only topics are ever that many.
pub(super) const DEFAULT_CHILDREN: usize = 1_000;
pub(super) const MAX_CHILDREN: usize = 10_000;

/// Slow clients in an answer: by default, and at most.
pub(super) const DEFAULT_SLOW: usize = 20;
pub(super) const MAX_SLOW: usize = 1_000;

impl Api {
    pub(super) fn stats(&self) -> Response<Full<Bytes>> {
        json(&StatsJson { stats: Figures(self.janus.stats()) })
    }

    pub(super) fn slow(&self, request: &Request<Incoming>) -> Result<Response<Full<Bytes>>, HttpError> {
        let Query { limit, .. } = Query::of(request, &["limit"], MAX_SLOW)?;
        let clients = self.janus.slow_clients(limit.unwrap_or(DEFAULT_SLOW));
        let clients = clients.iter().map(|client| SlowJson {
            connection: client.client,
            peer: client.peer.map(|peer| peer.to_string()),
            transport: client.transport,
            queued_frames: client.queued_frames,
            queued_bytes: client.queued_bytes,
            lagging_for_ms: u64::try_from(client.lagging_for.as_millis()).unwrap_or(u64::MAX),
        });
        Ok(json(&SlowClients { clients: clients.collect() }))
    }

    /// The tree has an entry for each topic, so a thread of its own copies the tree, and one tree is copied at a time.
    pub(super) async fn tree(&self, request: &Request<Incoming>) -> Result<Response<Full<Bytes>>, HttpError> {
        let Query { limit, as_text } = Query::of(request, &["limit", "format"], MAX_CHILDREN)?;
        let permit = Arc::clone(&self.trees).try_acquire_owned();
        let permit = permit.map_err(|_| busy("another tree is being copied; try again later"))?;
        let janus = self.janus.clone();
        let copy = tokio::task::spawn_blocking(move || {
            let mut tree = janus.tree();
            let (mut unlisted, mut bytes) = (0, 0);
            cut(&mut tree, limit.unwrap_or(DEFAULT_CHILDREN), &mut bytes, &mut unlisted);
            drop(permit);
            if as_text { to_text(&tree, unlisted) } else { to_json(&TreeJson { tree, unlisted }) }
        });
        let copy = copy.await.map_err(|_| busy("the server is ending"))?;
        let kind = if as_text { "text/plain; charset=utf-8" } else { "application/json" };
        Ok(with_type(self.large(copy)?, kind))
    }
}

/// Leaves at most `limit` children of each node, and names of at most [`MAX_ANSWER_BYTES`] altogether.
fn cut(tree: &mut Tree, limit: usize, bytes: &mut usize, unlisted: &mut usize) {
    let fitting = tree.children.iter().take(limit).take_while(|child| {
        *bytes += child.name.len();
        *bytes <= MAX_ANSWER_BYTES
    });
    let listed = fitting.count();
    *unlisted += tree.children.len() - listed;
    tree.children.truncate(listed);
    for child in &mut tree.children {
        cut(child, limit, bytes, unlisted);
    }
}

fn to_text(tree: &Tree, unlisted: usize) -> Vec<u8> {
    match unlisted {
        0 => format!("{tree}\n"),
        _ => format!(
            "{tree}\n\n{unlisted} further nodes are not listed; limit=N lists up to {MAX_CHILDREN} of each supervisor\n"
        ),
    }
    .into_bytes()
}

/// The parameters of a request.
struct Query {
    limit: Option<usize>,
    as_text: bool,
}

impl Query {
    fn of(request: &Request<Incoming>, accepted: &[&str], max: usize) -> Result<Self, HttpError> {
        let (mut limit, mut format) = (None, None);
        for (name, value) in form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()) {
            if !accepted.contains(&&*name) {
                return Err(bad_request(format!("the query: expected only {}", accepted.join(" and "))));
            }
            let is_first = if name == "limit" {
                let number = digits(&value).and_then(|number| usize::try_from(number).ok());
                let number = number.filter(|number| (1..=max).contains(number));
                let number =
                    number.ok_or_else(|| bad_request(format!("limit: expected a whole number from 1 to {max}")))?;
                limit.replace(number).is_none()
            } else {
                let as_text = match &*value {
                    "json" => false,
                    "text" => true,
                    _ => return Err(bad_request("format: expected json or text")),
                };
                format.replace(as_text).is_none()
            };
            if !is_first {
                return Err(bad_request(format!("the query: duplicate parameter {name}")));
            }
        }
        Ok(Self { limit, as_text: format.unwrap_or(false) })
    }
}

#[derive(Serialize)]
struct StatsJson {
    stats: Figures,
}

/// All figures, each under its name.
struct Figures(Stats);

impl Serialize for Figures {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for metric in self.0.metrics() {
            map.serialize_entry(metric.name, &Figure { value: metric.value, kind: metric.kind, text: metric.text })?;
        }
        map.end()
    }
}

#[derive(Serialize)]
struct Figure {
    value: u64,
    kind: MetricKind,
    text: &'static str,
}

#[derive(Serialize)]
struct TreeJson {
    tree: Tree,
    unlisted: usize,
}

#[derive(Serialize)]
struct SlowClients {
    clients: Vec<SlowJson>,
}

#[derive(Serialize)]
struct SlowJson {
    connection: u64,
    peer: Option<String>,
    transport: &'static str,
    queued_frames: usize,
    queued_bytes: usize,
    lagging_for_ms: u64,
}
