//! docs/METRICS.md: every exported figure; and tests of the file, the rules and the dashboard against the figures.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use janus_core::{Config, Janus, MetricFamily, MetricKind};

use super::{Requests, Sources};

/// With this variable the test writes the document.
const REFRESH: &str = "UPDATE_DOCS=1 cargo test -p janus-server --all-features --bin janus-server metrics_md";

/// The parts of the document, by the beginnings of names; the last takes the rest.
const PARTS: &[(&str, &[&str])] = &[
    ("The server", &["janus_build", "janus_start", "janus_ready", "janus_actor", "janus_arbiter"]),
    ("Access", &["janus_token", "janus_ask", "janus_webhook", "janus_hook"]),
    ("HTTP API and TLS", &["janus_http", "janus_tls", "janus_certificates"]),
    ("The cluster", &["janus_engine", "janus_nodes"]),
    ("The process", &["process_"]),
    ("Clients and messages", &[""]),
];

/// Every family of a server, with its full name.
async fn families() -> Vec<(String, MetricFamily)> {
    let config = Config { listen: Vec::new(), ..Config::default() };
    let janus = Janus::builder().config(config).start().await.unwrap();
    let requests = Arc::new(Requests::new(["/metrics"]));
    let sources = Sources { janus, health: None, access: None, requests, started: SystemTime::now() };
    let families = sources.families().into_iter().map(|(name, family)| (name.into_owned(), family)).collect();
    sources.janus.shutdown().await;
    families
}

fn kind(family: &MetricFamily) -> &'static str {
    match family.kind {
        MetricKind::Counter => "counter",
        MetricKind::Histogram => "histogram",
        _ => "gauge",
    }
}

/// The name in a query; a histogram has `_bucket`, `_count` and `_sum` behind it.
fn query_name(name: &str, family: &MetricFamily) -> String {
    let total = if family.kind == MetricKind::Counter { "_total" } else { "" };
    format!("{name}{total}")
}

fn document(families: &[(String, MetricFamily)]) -> String {
    let mut text = format!(
        "# Figures of `janus-server`\n\n\
         <!-- Made from the tables of figures in the code; do not edit. To refresh: {REFRESH} -->\n\n\
         All figures at `/metrics` of the admin port, by the names for queries; a histogram `NAME` has `NAME_bucket`, `NAME_count` and\n\
         `NAME_sum`. A label has a closed set of values: the name of a topic, user or client is never among them. A series of\n\
         `janus_published_total`, `janus_hook_seconds`, `janus_http_requests_total`, `janus_http_request_seconds` and\n\
         `janus_engine_reconnects_total` begins with the first event; all others are there from the start, as far as the settings have\n\
         a use for them.\n\
         [OPERATIONS](OPERATIONS.md#metrics) says which figures to watch, and what to do;\n\
         [CLUSTER](CLUSTER.md#reasons) has the words of `reason` of `janus_engine_reconnects_total`.\n"
    );
    let part_of = |name: &str| {
        PARTS
            .iter()
            .position(|(_, starts)| starts.iter().any(|start| name.starts_with(start)))
            .expect("the last takes all")
    };
    let last = PARTS.len() - 1;
    for part in std::iter::once(last).chain(0..last) {
        let _ = write!(text, "\n## {}\n\n| name | type | labels | meaning |\n|---|---|---|---|\n", PARTS[part].0);
        for (name, family) in families.iter().filter(|(name, _)| part_of(name) == part) {
            let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
            let cells =
                [format!("`{}`", query_name(name, family)), kind(family).into(), labels.join(", "), family.text.into()];
            assert!(cells.iter().all(|cell| !cell.contains('|')), "a bar ends a cell: {name}");
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        }
    }
    text
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(path)).unwrap_or_default()
}

#[tokio::test]
async fn metrics_md_lists_exactly_the_figures_of_a_server() {
    let document = document(&families().await);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/METRICS.md"), &document).unwrap();
    }
    assert!(read("METRICS.md") == document, "docs/METRICS.md is out of date; refresh the file with\n\n    {REFRESH}\n");
}

#[tokio::test]
async fn names_have_their_unit_and_no_suffix_of_their_kind() {
    let families = families().await;
    let mut names = BTreeSet::new();
    for (name, family) in &families {
        assert!(names.insert(name), "{name} is a duplicate");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'), "{name}");
        for suffix in ["_total", "_count", "_sum", "_bucket", "_created"] {
            assert!(!name.ends_with(suffix), "{name}");
        }
        assert!(family.kind != MetricKind::Histogram || name.ends_with("_seconds"), "{name}");
        assert!(family.text.ends_with('.') && !family.text.contains(['\n', '\\']), "{name}: {}", family.text);
        for series in &family.series {
            assert!(series.labels.iter().map(|(label, _)| *label).eq(family.labels.iter().copied()), "{name}");
        }
    }
    assert!(names.len() > 60, "{} names", names.len());
}

/// The words of a text in the form of names of figures.
fn mentioned(text: &str) -> BTreeSet<&str> {
    let words = text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
    words.filter(|word| word.starts_with("janus_") || word.starts_with("process_")).collect()
}

#[tokio::test]
async fn rules_dashboard_and_manual_name_only_figures_that_exist() {
    let families = families().await;
    let mut names: BTreeSet<String> = BTreeSet::new();
    for (name, family) in &families {
        names.insert(query_name(name, family));
        if family.kind == MetricKind::Histogram {
            names.extend(["_bucket", "_count", "_sum"].map(|suffix| format!("{name}{suffix}")));
        }
    }
    // Other words with this beginning: names of crates, and labels of the example.
    let others = ["janus_core", "janus_server", "janus_access", "janus_supervision"];
    for file in ["monitoring/rules.yml", "monitoring/grafana.json", "OPERATIONS.md"] {
        let text = read(file);
        let mentioned = mentioned(&text);
        assert!(mentioned.len() > 5, "{file} mentions figures");
        for name in mentioned {
            let known = names.contains(name) || others.contains(&name);
            assert!(known, "{file} mentions {name}, which no server exports");
        }
    }
}
