//! The supervision tree as rows of a list.
//!
//! A supervisor with many children is folded: only children in trouble have a row, the worst first, and one row
//! counts the rest. So 5,000 topics do not hide a single one that crashes.

use std::cmp::Reverse;
use std::collections::HashSet;

use super::answers::Node;
use super::text::number;

/// A supervisor with more children is folded until the reader unfolds it.
const CHILDREN_MAX: usize = 20;
/// Children in trouble shown of a folded supervisor.
const TROUBLED_MAX: usize = 100;

/// How a node is doing; the worst is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trouble {
    None,
    /// The node runs, and has crashed before.
    Restarted,
    /// The node starts, stops, or waits for its restart.
    Changing,
    /// The node does not run.
    Down,
}

impl Trouble {
    pub(super) fn of(node: &Node) -> Self {
        match &*node.state {
            "running" if node.restarts == 0 => Self::None,
            "running" => Self::Restarted,
            // A task that has done its work, or was asked to end, is in no trouble.
            "stopped" if matches!(node.last_reason.as_deref(), None | Some("normal" | "shutdown")) => Self::None,
            "stopped" | "quarantined" => Self::Down,
            _ => Self::Changing,
        }
    }
}

/// The order of the children of each supervisor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Order {
    /// The worst first.
    #[default]
    Trouble,
    /// As the server lists them: in the order of their starts, topics by name.
    Start,
}

impl Order {
    pub(super) fn next(self) -> Self {
        match self {
            Self::Trouble => Self::Start,
            Self::Start => Self::Trouble,
        }
    }

    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Trouble => "trouble",
            Self::Start => "start",
        }
    }
}

/// A row: a node, or the rest of the children of a folded supervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// The names from the root to the node, because several nodes may have the same name.
    pub(super) path: Vec<String>,
    /// The lines from the supervisor to the node.
    pub(super) branch: String,
    pub(super) text: String,
    pub(super) state: String,
    pub(super) restarts: u64,
    pub(super) last_reason: Option<String>,
    pub(super) due_in_ms: Option<u64>,
    pub(super) trouble: Trouble,
}

/// The part of the tree chosen by the reader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) order: Order,
    /// Only nodes whose names contain this text, with their supervisors.
    pub(super) filter: String,
    /// Supervisors folded or unfolded by the reader, against the rule.
    pub(super) toggled: HashSet<Vec<String>>,
}

impl Choice {
    /// The rows of a tree.
    pub(super) fn rows(&self, root: &Node) -> Vec<Row> {
        let mut rows = Vec::new();
        if self.shows(root) {
            self.add(root, &[], "", "", &mut rows);
        }
        rows
    }

    /// Folds a supervisor, or unfolds it.
    pub(super) fn toggle(&mut self, path: &[String]) {
        if !self.toggled.remove(path) {
            self.toggled.insert(path.to_vec());
        }
    }

    fn is_folded(&self, node: &Node, path: &[String]) -> bool {
        self.filter.is_empty() && (node.children.len() > CHILDREN_MAX) != self.toggled.contains(path)
    }

    /// Whether the filter leaves a node, or a node below.
    fn shows(&self, node: &Node) -> bool {
        node.name.contains(&self.filter) || node.children.iter().any(|child| self.shows(child))
    }

    fn add(&self, node: &Node, above: &[String], branch: &str, indent: &str, rows: &mut Vec<Row>) {
        let path = [above, std::slice::from_ref(&node.name)].concat();
        rows.push(Row {
            path: path.clone(),
            branch: branch.to_owned(),
            text: described(node),
            state: node.state.clone(),
            restarts: node.restarts,
            last_reason: node.last_reason.clone(),
            due_in_ms: node.due_in_ms,
            trouble: Trouble::of(node),
        });
        let is_folded = self.is_folded(node, &path);
        let mut children: Vec<&Node> = node.children.iter().filter(|child| self.shows(child)).collect();
        if is_folded {
            children.retain(|child| worst(child) > Trouble::None);
        }
        if is_folded || self.order == Order::Trouble {
            // A stable order: nodes without trouble stay where the server lists them.
            children.sort_by_key(|child| Reverse((worst(child), child.restarts)));
        }
        if is_folded {
            children.truncate(TROUBLED_MAX);
        }
        let rest = if is_folded { node.children.len() - children.len() } else { 0 };
        for (place, child) in children.iter().enumerate() {
            let is_last = place + 1 == children.len() && rest == 0;
            let (branch, below) = if is_last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            self.add(child, &path, &format!("{indent}{branch}"), &format!("{indent}{below}"), rows);
        }
        if rest > 0 {
            rows.push(Row::rest(path, format!("{indent}└─ "), rest, children.len()));
        }
    }
}

impl Row {
    /// The row of the children without a row.
    fn rest(mut path: Vec<String>, branch: String, rest: usize, shown: usize) -> Self {
        // No node has an empty name below a node of this name.
        path.push(String::new());
        let count = u64::try_from(rest).unwrap_or(u64::MAX);
        let further = if shown > 0 { " more" } else { "" };
        let text = format!("… {}{further} (Enter)", number(count));
        Self {
            path,
            branch,
            text,
            state: String::new(),
            restarts: 0,
            last_reason: None,
            due_in_ms: None,
            trouble: Trouble::None,
        }
    }

    /// The supervisor folded or unfolded by Enter on this row.
    pub(super) fn supervisor(&self) -> &[String] {
        match self.path.split_last() {
            Some((last, above)) if last.is_empty() => above,
            _ => &self.path,
        }
    }
}

/// The name of a node, and the number of children if not all are in sight. Numbered children have no rows.
fn described(node: &Node) -> String {
    let name = super::text::harmless(&node.name);
    let children = u64::try_from(node.children.len()).unwrap_or(u64::MAX);
    if node.numbered == 0 && node.children.len() <= CHILDREN_MAX {
        return name;
    }
    format!("{name} ({})", number(children.saturating_add(node.numbered)))
}

/// The worst trouble of a node and of all nodes below.
pub(super) fn worst(node: &Node) -> Trouble {
    node.children.iter().map(worst).fold(Trouble::of(node), Ord::max)
}

/// The number of nodes that do not run, or not yet again.
pub(super) fn in_trouble(node: &Node) -> usize {
    usize::from(Trouble::of(node) >= Trouble::Changing) + node.children.iter().map(in_trouble).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, state: &str, restarts: u64, children: Vec<Node>) -> Node {
        Node { name: name.into(), state: state.into(), restarts, children, ..Node::default() }
    }

    fn running(name: &str, children: Vec<Node>) -> Node {
        node(name, "running", 0, children)
    }

    /// A root with two supervisors: a small one, and one with 5,000 topics, of which two have crashed.
    fn crowd() -> Node {
        let mut topics: Vec<Node> = (0..5_000).map(|n| running(&format!("topic {n:04}"), Vec::new())).collect();
        topics[1_000].restarts = 3;
        topics[4_000].state = "quarantined".into();
        let small = running("acceptors", vec![running("a", Vec::new()), node("b", "running", 1, Vec::new())]);
        running("janus", vec![running("topics", topics), small])
    }

    fn drawn(choice: &Choice, root: &Node) -> Vec<String> {
        choice.rows(root).iter().map(|row| format!("{}{}", row.branch, row.text)).collect()
    }

    #[test]
    fn many_children_are_folded_except_those_in_trouble() {
        assert_eq!(
            drawn(&Choice::default(), &crowd()),
            [
                "janus",
                "├─ topics (5,000)",
                "│  ├─ topic 4000",
                "│  ├─ topic 1000",
                "│  └─ … 4,998 more (Enter)",
                "└─ acceptors",
                "   ├─ b",
                "   └─ a",
            ]
        );
    }

    #[test]
    fn the_order_of_starts_is_the_order_of_the_server() {
        let choice = Choice { order: Order::Start, ..Choice::default() };
        let drawn = drawn(&choice, &crowd());
        assert_eq!(drawn[6..], ["   ├─ a", "   └─ b"]);
    }

    #[test]
    fn enter_on_a_supervisor_or_on_its_rest_unfolds_and_folds_again() {
        let (mut choice, root) = (Choice::default(), crowd());
        let rest = choice.rows(&root)[4].clone();
        choice.toggle(rest.supervisor());
        let rows = choice.rows(&root);
        assert_eq!(rows.len(), 5_005);
        assert_eq!(rows[1].supervisor(), ["janus", "topics"]);
        choice.toggle(rows[1].supervisor());
        assert_eq!(choice, Choice::default());
        choice.toggle(&["janus".into(), "acceptors".into()]);
        assert_eq!(drawn(&choice, &root)[5..], ["└─ acceptors", "   ├─ b", "   └─ … 1 more (Enter)"]);
    }

    #[test]
    fn the_filter_leaves_nodes_by_their_names_with_their_supervisors() {
        let choice = Choice { filter: "c 0042".into(), ..Choice::default() };
        assert_eq!(drawn(&choice, &crowd()), ["janus", "└─ topics (5,000)", "   └─ topic 0042"]);
        let choice = Choice { filter: "unknown".into(), ..Choice::default() };
        assert!(choice.rows(&crowd()).is_empty());
    }

    #[test]
    fn trouble_is_what_does_not_run_and_did_not_end_by_itself() {
        let ended = |state: &str, reason: &str| {
            Trouble::of(&Node { last_reason: Some(reason.into()), ..node("n", state, 0, Vec::new()) })
        };
        assert_eq!(ended("stopped", "normal"), Trouble::None);
        assert_eq!(ended("stopped", "panicked: x"), Trouble::Down);
        assert_eq!(ended("quarantined", "panicked: x"), Trouble::Down);
        assert_eq!(ended("restarting", "panicked: x"), Trouble::Changing);
        assert_eq!(Trouble::of(&node("n", "running", 2, Vec::new())), Trouble::Restarted);
        assert_eq!(in_trouble(&crowd()), 1);
    }
}
