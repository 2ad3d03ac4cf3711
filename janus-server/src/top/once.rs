//! One look at the server: text for people, or a JSON object for scripts.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::answers::{Clients, Node, Readiness, Slow, Stats, Topics, Tree};
use super::columns::{self, Column};
use super::look::Look;
use super::query::{CHILDREN, ClientQuery, TopicQuery, slow_target, tree_target};
use super::server::Server;
use super::text::{bytes, duration, harmless, harmless_json, number, rate};
use super::tree::{Choice, Trouble, worst};
use crate::client::ClientError;

/// The width of the page, whatever the terminal: the output is often a file.
const COLUMNS: u16 = 100;

/// Prints one look, with at most `limit` entries of each list.
pub(super) fn print(server: &mut Server, limit: usize, as_json: bool) -> Result<(), ClientError> {
    let look = Snapshot::take(server, limit)?;
    let text = if as_json { look.into_json(limit) } else { look.to_text(&server.address()) };
    io::stdout().lock().write_all(text.as_bytes()).map_err(ClientError::Output)
}

/// The answers of the server, unchanged.
struct Snapshot {
    stats: Value,
    readiness: Readiness,
    topics: Value,
    connections: Value,
    slow: Value,
    tree: Value,
}

impl Snapshot {
    fn take(server: &mut Server, limit: usize) -> Result<Self, ClientError> {
        let readiness = server.readiness()?;
        // Every answer is an object, whatever its keys.
        let mut get = |route: &str| server.get::<Map<String, Value>>(route).map(Value::Object);
        Ok(Self {
            stats: get("/api/stats")?,
            readiness,
            topics: get(&TopicQuery::default().target(limit))?,
            connections: get(&ClientQuery::default().target(limit))?,
            slow: get(&slow_target(limit))?,
            tree: get(&tree_target(CHILDREN))?,
        })
    }

    /// The shape documented in OPERATIONS: the entries of the routes.
    fn into_json(mut self, limit: usize) -> String {
        let cut = cut(&mut self.tree["tree"], limit);
        let Self { stats, readiness, topics, connections, slow, tree } = self;
        let object = json!({
            "version": stats["version"], "time": stats["time"], "uptime_ms": stats["uptime_ms"],
            "stats": stats["stats"], "ready": readiness.ready, "checks": readiness.checks,
            "topics": topics["topics"], "topics_total": topics["total"],
            "connections": connections["connections"], "connections_total": connections["total"],
            "slow": slow["clients"],
            "tree": tree["tree"], "tree_unlisted": tree["unlisted"].as_u64().unwrap_or(0).saturating_add(cut),
        });
        harmless_json(&object.to_string()) + "\n"
    }

    fn to_text(&self, address: &str) -> String {
        let stats: Stats = typed(&self.stats);
        let mut page = head(&stats, &self.readiness, address, &typed(&self.slow));
        let topics: Topics = typed(&self.topics);
        list(&mut page, "topics by rate", topics.total, &columns::topics(COLUMNS), &topics.topics);
        let clients: Clients = typed(&self.connections);
        list(&mut page, "clients by lag", clients.total, &columns::clients(COLUMNS), &clients.connections);
        let tree: Tree = typed(&self.tree);
        let rows = Choice::default().rows(&tree.tree);
        list(&mut page, "supervision tree", None, &columns::tree(COLUMNS), &rows);
        if tree.unlisted > 0 {
            let _ = writeln!(page, "{} further nodes are not listed by the server", number(tree.unlisted));
        }
        page
    }
}

/// An answer as far as the page shows the answer. Malformed answers are empty.
fn typed<T: DeserializeOwned + Default>(answer: &Value) -> T {
    T::deserialize(answer).unwrap_or_default()
}

/// Leaves at most `limit` children of each node, and all children with trouble at or below the child. Returns how many children are left out.
fn cut(node: &mut Value, limit: usize) -> u64 {
    let Some(children) = node.get_mut("children").and_then(Value::as_array_mut) else { return 0 };
    let (before, mut place) = (children.len(), 0);
    children.retain(|child| {
        place += 1;
        place <= limit || worst(&typed::<Node>(child)) > Trouble::None
    });
    let left_out = u64::try_from(before - children.len()).unwrap_or(u64::MAX);
    children.iter_mut().fold(left_out, |left_out, child| left_out.saturating_add(cut(child, limit)))
}

fn head(stats: &Stats, readiness: &Readiness, address: &str, slow: &Slow) -> String {
    let value = |name: &str| stats.value(name);
    let state = match (value("draining"), readiness.ready) {
        (0, true) => "",
        (0, false) => ", not ready",
        _ => ", draining",
    };
    let version = harmless(&stats.version);
    let up = duration(Duration::from_millis(stats.uptime_ms));
    let mut head = format!("Janus {version} at {}, up {up}{state}\n", harmless(address));
    let mut checks = readiness.checks.clone();
    // Without an engine there is no node.
    if value("nodes") > 0 {
        let engine = checks.remove("engine").unwrap_or_else(|| "up".to_owned());
        let nodes = value("nodes");
        let _ = writeln!(
            head,
            "{:<13} {}; {} node{}",
            "engine",
            harmless(&engine),
            nodes,
            if nodes == 1 { "" } else { "s" }
        );
    }
    for (check, reason) in checks {
        let _ = writeln!(head, "{:<13} {}", harmless(&check), harmless(&reason));
    }
    let memory = match (value("memory_used"), value("memory_budget")) {
        (used, 0) => format!("{} (no budget)", bytes(used)),
        (used, budget) => {
            let per_cent = used.saturating_mul(100) / budget;
            let pressure = value("memory_pressure");
            format!("{} of {} ({per_cent} %), pressure {pressure}", bytes(used), bytes(budget))
        }
    };
    let per_second = |name: &str| format!("{}/s", rate(stats.rate(name, "10s")));
    for (name, words) in [
        ("connections", format!("{} of {}", number(value("places_taken")), number(value("connections_limit")))),
        ("topics", format!("{}, subscriptions {}", number(value("topics")), number(value("subscriptions")))),
        ("deliveries", per_second("deliveries")),
        ("publications", per_second("published")),
        ("memory", memory),
        ("slow clients", format!("{} listed", slow.clients.len())),
    ] {
        let _ = writeln!(head, "{name:<13} {words}");
    }
    head
}

fn list<E>(page: &mut String, name: &str, total: Option<u64>, columns: &[Column<E>], entries: &[E]) {
    let shown = u64::try_from(entries.len()).unwrap_or(u64::MAX);
    let part = match total {
        Some(total) if total > shown => format!(": {} of {}", number(shown), number(total)),
        _ if shown == 0 => ": none".to_owned(),
        _ => String::new(),
    };
    let _ = writeln!(page, "\n{name}{part}");
    if entries.is_empty() {
        return;
    }
    let look = Look { has_colours: false };
    let lines = entries.iter().map(|entry| columns::entry(columns, entry, look));
    for line in std::iter::once(columns::titles(columns)).chain(lines) {
        let _ = writeln!(page, "{}", line.to_string().trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_leaves_out_children_but_none_in_trouble() {
        let child = |name: &str, state: &str| json!({"name": name, "state": state, "restarts": 0});
        let children = [child("a", "running"), child("b", "running"), child("c", "quarantined"), child("d", "running")];
        let mut tree = json!({"name": "root", "state": "running", "children": children});
        assert_eq!(cut(&mut tree, 1), 2);
        assert_eq!(tree["children"], json!([child("a", "running"), child("c", "quarantined")]));
        let mut above = json!({"name": "top", "state": "running", "children": [child("e", "running"), tree]});
        assert_eq!(cut(&mut above, 1), 0, "a supervisor of a child in trouble stays");
        assert_eq!(above["children"].as_array().unwrap().len(), 2);
        assert_eq!(cut(&mut json!(null), 1), 0);
    }
}
