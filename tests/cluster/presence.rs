//! Presence over the nodes of a cluster on a real Redis.

use janus_access::tokens::{Algorithm, SigningKey};

use super::*;
use crate::cli_run::{assert_exit, janus, text};
use crate::tokens::{Socket, token};

/// Nodes whose topics list their users, and the key of the users' tokens.
struct Cluster {
    redis: RedisServer,
    key: SigningKey,
    _folder: tempfile::TempDir,
    keys: String,
}

impl Cluster {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = SigningKey::generate(Algorithm::Es256).unwrap();
        let keys = folder.path().join("keys.pem");
        std::fs::write(&keys, key.public_text()).unwrap();
        let keys = keys.to_str().unwrap().to_owned();
        Self { redis: RedisServer::start(), key, _folder: folder, keys }
    }

    fn node(&self, name: &str, linger: &str) -> Node {
        let variables = [
            ("JANUS_ENGINE", &*self.redis.url()),
            ("JANUS_NODE_NAME", name),
            ("JANUS_TOKEN_KEYS", &self.keys),
            ("JANUS_PRESENCE", "members"),
            ("JANUS_PRESENCE_LINGER", linger),
            // The words of a dead node end after 2.5 times this.
            ("JANUS_ENGINE_REPORT_INTERVAL", "1 s"),
        ];
        Node::with(&variables).ready()
    }

    /// A client that is subscribed.
    async fn client(&self, node: &Node, user: &str, presence: bool) -> Socket {
        let token = token(&self.key, user, &["news"]);
        let (mut socket, welcome) = Socket::hello(node.http, Some(&token)).await;
        assert_eq!(welcome["type"], "welcome", "{welcome}");
        let answer = socket.ask(json!({"type": "subscribe", "topic": "news", "presence": presence})).await;
        assert_eq!(answer["type"], "subscribed", "{answer}");
        socket
    }
}

fn names(members: &Value) -> Vec<&str> {
    members.as_array().unwrap().iter().map(|member| member["user"].as_str().unwrap()).collect()
}

/// The next frame about presence; gaps may come before.
async fn next(watcher: &mut Socket) -> Value {
    loop {
        let frame = watcher.hear().await;
        if frame["type"] != "gap" {
            return frame;
        }
    }
}

/// Reads frames until one of this type has this user.
async fn until_told(watcher: &mut Socket, kind: &str, user: &str) {
    loop {
        let frame = next(watcher).await;
        if frame["type"] == kind && names(&frame["members"]).contains(&user) {
            return;
        }
        assert_ne!((&frame["type"], names(&frame["members"])), (&json!("left"), vec!["alice"]), "alice is there");
    }
}

/// Waits until a node knows these users.
async fn until_present(node: &Node, users: &[&str]) {
    let end = tokio::time::Instant::now() + DEADLINE;
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    loop {
        looks.tick().await;
        let (status, answer) = node.ask("GET", "/api/presence?topic=news", None).await;
        if status == 200 && names(&answer["members"]) == users {
            assert_eq!(answer["count"], users.len());
            return;
        }
        assert!(tokio::time::Instant::now() < end, "{answer} instead of {users:?}");
    }
}

#[tokio::test]
async fn members_of_one_node_are_seen_on_all_and_leave_with_their_node() {
    let cluster = Cluster::start();
    let [one, two, three] = ["one", "two", "three"].map(|name| cluster.node(name, "100 ms"));
    let mut watcher = cluster.client(&one, "alice", true).await;
    assert_eq!(names(&next(&mut watcher).await["members"]), ["alice"]);
    let _bob = cluster.client(&two, "bob", false).await;
    until_told(&mut watcher, "joined", "bob").await;
    // The same user on another node is no other member.
    let tab = cluster.client(&two, "alice", false).await;
    for node in [&one, &two, &three] {
        until_present(node, &["alice", "bob"]).await;
    }
    let server = format!("http://{}", one.http);
    let output = janus(&["presence", "news", "--server", &server]).env("JANUS_API_KEY", KEY).output().unwrap();
    assert_exit(&output, 0);
    let lines: Vec<_> = text(&output.stdout).lines().map(|line| line.trim_end().to_owned()).collect();
    assert_eq!(lines, ["USER   INFO", "alice", "bob"]);
    assert!(text(&output.stderr).contains("members: 2"), "{}", text(&output.stderr));
    let output =
        janus(&["presence", "news", "--json", "--server", &server]).env("JANUS_API_KEY", KEY).output().unwrap();
    let answer: Value = serde_json::from_str(&text(&output.stdout)).unwrap();
    assert_eq!((&answer["topic"], &answer["count"]), (&json!("news"), &json!(2)));
    drop(tab);
    let carol = cluster.client(&two, "carol", false).await;
    until_told(&mut watcher, "joined", "carol").await;
    drop(carol);
    until_told(&mut watcher, "left", "carol").await;
    drop(two);
    until_told(&mut watcher, "left", "bob").await;
    for node in [&one, &three] {
        until_present(node, &["alice"]).await;
    }
}

#[tokio::test]
async fn members_come_back_after_a_restart_of_the_engine_without_having_left() {
    let mut cluster = Cluster::start();
    let [one, two] = ["one", "two"].map(|name| cluster.node(name, "30 s"));
    let mut watcher = cluster.client(&one, "alice", true).await;
    next(&mut watcher).await;
    let bob = cluster.client(&two, "bob", false).await;
    until_told(&mut watcher, "joined", "bob").await;
    cluster.redis.kill();
    until_status(one.admin, "/readyz", 503);
    cluster.redis.restart();
    for node in [&one, &two] {
        until_status(node.admin, "/readyz", 200);
        until_present(node, &["alice", "bob"]).await;
    }
    // A user that goes to another node within the linger is no news, and the next frame is about carol.
    drop(bob);
    let _bob = cluster.client(&one, "bob", false).await;
    let _carol = cluster.client(&two, "carol", false).await;
    let frame = next(&mut watcher).await;
    assert_eq!((&frame["type"], names(&frame["members"])), (&json!("joined"), vec!["carol"]), "{frame}");
}
