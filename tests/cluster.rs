//! Servers as nodes of a cluster: real processes on a real Redis.

mod behind_nginx;
mod cut;
mod moving;
mod operating;
mod presence;
pub(crate) mod redis_server;
mod slow;
mod soak;

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::admin::{address, get, until_status};
use crate::api::{ask, http_address};
use crate::cli_run::{Running, binary};
use crate::support::{DEADLINE, own_address};
use redis_server::RedisServer;

/// A server of the cluster. Killed on drop.
struct Node {
    server: Running,
    classic: SocketAddr,
    http: SocketAddr,
    admin: SocketAddr,
}

impl Node {
    fn start(redis: &RedisServer, name: &str) -> Self {
        Self::with(&[("JANUS_ENGINE", &redis.url()), ("JANUS_NODE_NAME", name)])
    }

    /// With settings as variables. The times are those of a test.
    fn with(variables: &[(&str, &str)]) -> Self {
        Self::at(own_address(), variables, |command| command)
    }

    /// With the HTTP port at this address, and run by the command that is made of the server's.
    fn at(http: SocketAddr, variables: &[(&str, &str)], run_by: impl FnOnce(Command) -> Command) -> Self {
        let mut addr = http;
        addr.set_port(0);
        let (addr, http) = (addr.to_string(), http.to_string());
        let mut command = binary(&["--listen", &addr, "--http-listen", &http, "--admin-listen", &addr]);
        command.env("JANUS_ENGINE_TIMEOUT", "500 ms").env("JANUS_ENGINE_GRACE", "500 ms");
        // A node that starts under load takes its time.
        command.env("JANUS_RESUME_MESSAGES", "60000").env("JANUS_RESUME_BYTES", "64 MiB");
        command.env("JANUS_DRAIN_PERIOD", "100 ms").env("JANUS_API_KEY", KEY);
        command.envs(variables.iter().copied());
        let server = Running::spawn(&mut run_by(command));
        let classic = address(&server.error_line("listening on "));
        let http = http_address(&server);
        let admin = address(&server.error_line("admin port on "));
        Self { server, classic, http, admin }
    }

    fn ready(self) -> Self {
        until_status(self.admin, "/readyz", 200);
        self
    }

    async fn ask(&self, method: &str, target: &str, body: Option<Value>) -> (u16, Value) {
        ask_with_key(self.admin, method, target, body).await
    }

    /// The names of the nodes, and whether each is ready, as this node sees them.
    async fn nodes(&self) -> Vec<(String, bool)> {
        let (status, answer) = self.ask("GET", "/api/nodes", None).await;
        assert_eq!(status, 200, "{answer}");
        let name = |node: &Value| (node["name"].as_str().unwrap().to_owned(), node["ready"].as_bool().unwrap());
        let mut names: Vec<_> = answer["nodes"].as_array().unwrap().iter().map(name).collect();
        names.sort_unstable();
        names
    }

    /// Waits until this node lists nodes with these names, all ready.
    async fn until_nodes(&self, names: &[&str]) {
        let expected: Vec<_> = names.iter().map(|name| ((*name).to_owned(), true)).collect();
        let end = tokio::time::Instant::now() + DEADLINE;
        let mut looks = tokio::time::interval(Duration::from_millis(20));
        loop {
            looks.tick().await;
            let nodes = self.nodes().await;
            if nodes == expected {
                return;
            }
            assert!(tokio::time::Instant::now() < end, "{nodes:?} instead of {expected:?}");
        }
    }

    async fn publish(&self, topic: &str, data: u64) -> (u16, Value) {
        publish(self.admin, topic, data).await
    }

    /// The value of a series, as in the text of the figures.
    fn figure(&self, series: &str) -> Option<f64> {
        let (status, _, text) = get(self.admin, "/metrics", &format!("Authorization: Bearer {KEY}\r\n"));
        assert_eq!(status, 200, "{text}");
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }
}

async fn ask_with_key(admin: SocketAddr, method: &str, target: &str, body: Option<Value>) -> (u16, Value) {
    ask(admin, method, target, &format!("Authorization: Bearer {KEY}\r\n"), body).await
}

async fn publish(admin: SocketAddr, topic: &str, data: u64) -> (u16, Value) {
    ask_with_key(admin, "POST", "/api/publish", Some(json!({"topic": topic, "data": data}))).await
}

const KEY: &str = "correct-horse-battery";
