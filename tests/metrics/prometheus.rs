//! A real Prometheus, and its `promtool`, with the files of docs/monitoring.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::scrape::get;
use super::start;
use crate::cli_run::text;
use crate::support::{own_address, until};

const RULES: &str = "docs/monitoring/rules.yml";

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Runs `promtool`, with this text as its input.
fn promtool(arguments: &[&str], input: &str) -> Output {
    let mut promtool = Command::new("promtool")
        .args(arguments)
        .current_dir(root())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this test needs prometheus: run tests/run.sh, which installs it");
    promtool.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    promtool.wait_with_output().unwrap()
}

#[track_caller]
fn assert_passes(output: &Output) {
    let (out, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && errors.is_empty(), "{}\n{out}\n{errors}", output.status);
}

#[test]
fn promtool_accepts_the_rules_and_the_figures() {
    let rules = promtool(&["check", "rules", RULES], "");
    assert!(rules.status.success(), "{}{}", text(&rules.stdout), text(&rules.stderr));
    let server = start(&[]);
    let answer = get(&server.admin, "/metrics", &[("Accept", "text/plain")]);
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_passes(&promtool(&["check", "metrics"], &answer.body));
}

#[test]
fn each_alert_says_what_to_do_and_fires_when_it_should() {
    let rules = fs::read_to_string(root().join(RULES)).unwrap();
    let alerts = rules.matches("- alert: ").count();
    assert!(alerts >= 8, "{alerts} alerts");
    for part in ["summary: ", "description: ", "severity: "] {
        assert_eq!(rules.matches(part).count(), alerts, "each alert has a {part}");
    }
    let folder = tempfile::tempdir().unwrap();
    let cases = fs::read_to_string(root().join("tests/metrics/alerts.yml")).unwrap();
    let file = folder.path().join("alerts.yml");
    let rules = root().join(RULES).canonicalize().unwrap();
    fs::write(&file, cases.replace("RULES", &rules.display().to_string())).unwrap();
    let tested = promtool(&["test", "rules", &file.display().to_string()], "");
    assert!(tested.status.success(), "{}{}", text(&tested.stdout), text(&tested.stderr));
    for line in rules_of(&fs::read_to_string(root().join(RULES)).unwrap()) {
        assert!(cases.contains(&format!("{{alertname=\"{line}\"}}")), "no case for {line}");
    }
}

/// Each query of the dashboard, with the variables of Grafana replaced.
fn queries() -> Vec<String> {
    let dashboard = fs::read_to_string(root().join("docs/monitoring/grafana.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    let queries = targets.map(|target| target["expr"].as_str().unwrap());
    let variables = [("$__rate_interval", "5m"), ("$job", "janus"), ("$instance", ".*")];
    let replace = |query: &str| variables.iter().fold(query.to_owned(), |query, (from, to)| query.replace(from, to));
    queries.map(replace).collect()
}

#[test]
fn each_query_of_the_dashboard_is_one_that_prometheus_understands() {
    let queries = queries();
    assert!(queries.len() > 30 && queries.iter().all(|query| !query.contains('$')), "{queries:?}");
    // As rules, because promtool checks rules without a server.
    let rule = |(number, query)| serde_json::json!({"record": format!("query:{number}"), "expr": query});
    let rules: Vec<Value> = queries.iter().enumerate().map(rule).collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("queries.yml");
    fs::write(&file, serde_json::json!({"groups": [{"name": "dashboard", "rules": rules}]}).to_string()).unwrap();
    let checked = promtool(&["check", "rules", &file.display().to_string()], "");
    assert!(checked.status.success(), "{}{}", text(&checked.stdout), text(&checked.stderr));
}

/// The names of the alerts.
fn rules_of(rules: &str) -> Vec<&str> {
    rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect()
}

/// Prometheus, ended by the drop.
struct Prometheus {
    child: Child,
    addr: SocketAddr,
    _folder: TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    /// Starts with the configuration of docs/monitoring, changed to scrape this server once a second.
    fn start(server: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let configuration = fs::read_to_string(root().join("docs/monitoring/prometheus.yml")).unwrap();
        assert!(configuration.contains("127.0.0.1:8082") && configuration.contains("15s"));
        let configuration = configuration.replace("127.0.0.1:8082", server).replace("15s", "1s");
        fs::write(folder.path().join("prometheus.yml"), configuration).unwrap();
        fs::copy(root().join(RULES), folder.path().join("rules.yml")).unwrap();
        let addr = SocketAddr::new(own_address().ip(), 19_090);
        let path = |name: &str| folder.path().join(name).display().to_string();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", path("prometheus.yml")))
            .arg(format!("--storage.tsdb.path={}", path("data")))
            .arg(format!("--web.listen-address={addr}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("this test needs prometheus: run tests/run.sh, which installs it");
        Self { child, addr, _folder: folder }
    }

    /// The data of an answer of the API; `None` while Prometheus does not listen.
    fn ask(&self, path: &str) -> Option<Value> {
        std::net::TcpStream::connect(self.addr).ok()?;
        let answer = get(&self.addr.to_string(), &format!("/api/v1/{path}"), &[]);
        let answer: Value = serde_json::from_str(&answer.body).ok()?;
        (answer["status"] == "success").then(|| answer["data"].clone())
    }
}

#[tokio::test]
async fn a_prometheus_scrapes_the_server_and_evaluates_the_rules() {
    let server = start(&["--max-connections", "100"]);
    let prometheus = Prometheus::start(&server.admin);
    until("the target is up", || {
        prometheus.ask("targets").is_some_and(|data| data["activeTargets"][0]["health"] == "up")
    })
    .await;
    let targets = prometheus.ask("targets").unwrap();
    assert_eq!(targets["activeTargets"][0]["lastError"], "", "{targets}");

    let metadata = prometheus.ask("metadata?metric=janus_deliveries").unwrap();
    assert_eq!(metadata["janus_deliveries"][0]["type"], "counter", "{metadata}");
    assert!(metadata["janus_deliveries"][0]["help"].as_str().unwrap().starts_with("Messages handed"), "{metadata}");
    for (query, expected) in [("janus_connections_limit", "100"), ("up", "1"), ("janus_topics", "0")] {
        until(query, || {
            let data = prometheus.ask(&format!("query?query={query}"));
            data.is_some_and(|data| data["result"][0]["value"][1] == expected)
        })
        .await;
    }

    until("all rules have been evaluated", || {
        let Some(data) = prometheus.ask("rules") else { return false };
        let groups = data["groups"].as_array().unwrap();
        let mut rules = groups.iter().flat_map(|group| group["rules"].as_array().unwrap());
        assert!(rules.clone().count() >= 8 && rules.clone().all(|rule| rule["health"] != "err"), "{data}");
        rules.all(|rule| rule["health"] == "ok")
    })
    .await;
    let alerts = prometheus.ask("alerts").unwrap();
    let firing = alerts["alerts"].as_array().unwrap().iter().filter(|alert| alert["state"] == "firing").count();
    assert_eq!(firing, 0, "a quiet server alerts no one: {alerts}");
}
