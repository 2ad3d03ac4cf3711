//! What operators see of a cluster: readiness, figures, the list of nodes, and requests to all nodes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use janus_access::tokens::{Algorithm, SigningKey};

use super::behind_nginx::block;
use super::redis_server::free_port;
use super::*;
use crate::cli_run::{assert_exit, janus, text};
use crate::tls::certificates::{Authority, Files};
use crate::tokens::{Socket, token};

#[test]
fn a_lost_engine_makes_a_server_not_ready_and_leaves_it_alive() {
    let mut redis = RedisServer::start();
    let node = Node::start(&redis, "only").ready();
    assert_eq!(node.figure("janus_engine_up{server=\"0\"}"), Some(1.0));
    redis.kill();
    node.server.error_line(&format!("the link to the engine {} is down, subscribers stay: ", redis.url()));
    let body = until_status(node.admin, "/readyz", 503);
    assert!(body.contains(&format!("\"engine\":\"the engine {} has not been reached for ", redis.url())), "{body}");
    let url = format!("http://{}", node.admin);
    let output = janus(&["top", "--once", "--server", &url]).env("JANUS_API_KEY", KEY).output().unwrap();
    let look = text(&output.stdout);
    assert!(look.lines().next().is_some_and(|line| line.ends_with(", not ready")), "{look}");
    assert!(look.contains("\nengine        the engine redis://") && look.contains("; 1 node\n"), "{look}");
    assert_eq!(get(node.admin, "/livez", "").0, 200);
    assert_eq!(node.figure("janus_engine_up{server=\"0\"}"), Some(0.0));
    redis.restart();
    until_status(node.admin, "/readyz", 200);
    node.server.error_line(&format!("the link to the engine {} is up", redis.url()));
    let (_, _, figures) = get(node.admin, "/metrics", &format!("Authorization: Bearer {KEY}\r\n"));
    let reconnects = figures.lines().find(|line| line.starts_with("janus_engine_reconnects_total{reason="));
    assert!(reconnects.is_some_and(|line| line.ends_with(" 1")), "{figures}");
}

#[tokio::test]
async fn a_server_starts_before_its_engine_and_is_ready_with_it() {
    let mut redis = RedisServer::start();
    redis.kill();
    let node = Node::start(&redis, "early");
    let server = redis.url();
    node.server.error_line(&format!(
        "started without the engine {server}, which could not be reached within 500 ms (engine_grace); not ready until"
    ));
    let body = until_status(node.admin, "/readyz", 503);
    assert!(body.contains("\"engine\"") && body.contains(&redis.url()), "{body}");
    let (status, answer) = node.publish("news", 1).await;
    assert_eq!((status, &answer["error"]["code"]), (503, &json!("engine_unavailable")), "{answer}");
    redis.restart();
    until_status(node.admin, "/readyz", 200);
    assert_eq!(node.publish("news", 1).await.0, 200);
}

#[tokio::test]
async fn a_node_with_some_of_its_servers_is_ready_and_says_what_is_missing() {
    let (mut one, mut two) = (RedisServer::start(), RedisServer::start());
    let node = Node::with(&[("JANUS_ENGINE", &format!("{},{}", one.url(), two.url()))]).ready();
    one.kill();
    let end = tokio::time::Instant::now() + DEADLINE;
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    // The other server may not have a link at once.
    let words = format!("{{\"engine\":\"degraded: no link to 1 of 2 servers; the engine {} has not", one.url());
    loop {
        looks.tick().await;
        let (status, _, body) = get(node.admin, "/readyz", "");
        assert_eq!(status, 200, "{body}");
        if body.contains(&words) {
            break;
        }
        assert!(tokio::time::Instant::now() < end, "{body}");
    }
    let ups = [0, 1].map(|server| node.figure(&format!("janus_engine_up{{server=\"{server}\"}}")));
    assert_eq!(ups, [Some(0.0), Some(1.0)]);
    assert_eq!(node.figure("janus_ready{check=\"engine\"}"), Some(1.0));
    let mut outcomes = std::collections::BTreeSet::new();
    for topic in 0..16 {
        outcomes.insert(node.publish(&format!("t{topic}"), 1).await.0);
    }
    assert_eq!(outcomes.into_iter().collect::<Vec<_>>(), [200, 503], "the topics of the other server are served");
    let url = format!("http://{}", node.admin);
    let output = janus(&["health", "--ready", "--server", &url]).output().unwrap();
    assert_exit(&output, 0);
    assert!(text(&output.stdout).starts_with("ready\nengine: degraded: "), "{}", text(&output.stdout));
    two.kill();
    let body = until_status(node.admin, "/readyz", 503);
    assert!(body.contains("no link to any of 2 servers; "), "{body}");
    two.restart();
    until_status(node.admin, "/readyz", 200);
}

#[tokio::test]
async fn a_node_that_comes_and_leaves_is_told_in_the_log_of_the_others() {
    let redis = RedisServer::start();
    let stays = Node::start(&redis, "stays").ready();
    let leaves = Node::start(&redis, "leaves").ready();
    stays.server.error_line("node leaves (");
    leaves.server.signal("TERM");
    let line = stays.server.error_line("takes no further clients, and leaves the cluster");
    assert!(line.contains("node leaves ("), "{line}");
}

#[test]
fn a_password_that_no_longer_counts_is_told_in_the_log() {
    let redis = RedisServer::with(&["--requirepass", "the-old-one"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("engine");
    let address = |password: &str| redis.url().replace("redis://", &format!("redis://:{password}@"));
    std::fs::write(&file, address("the-old-one")).unwrap();
    let node = Node::with(&[("JANUS_ENGINE_FILE", file.to_str().unwrap())]).ready();
    let reload = || {
        let url = format!("http://{}", node.admin);
        let output = janus(&["reload", "--server", &url]).env("JANUS_API_KEY", KEY).output().unwrap();
        assert_exit(&output, 0);
        text(&output.stdout)
    };
    assert!(reload().ends_with("no setting has changed\n"));
    redis.run(&["CONFIG", "SET", "requirepass", "the-new-one"]);
    std::fs::write(&file, address("the-new-one")).unwrap();
    assert!(reload().ends_with("engine_file: needs a restart\n"));
    node.server.error_line("engine_file: the file has changed, and is read at the start alone: needs a restart");
    let mut stream = std::os::unix::net::UnixStream::connect(redis.socket()).unwrap();
    let kill = "AUTH the-new-one\r\nCLIENT KILL TYPE pubsub\r\nCLIENT KILL TYPE normal SKIPME yes\r\n";
    std::io::Write::write_all(&mut stream, kill.as_bytes()).unwrap();
    node.server.error_line(" is down, subscribers stay: the server closed the connection");
    let line = node.server.error_line("trying again: the server does not know this user and password");
    assert!(!line.contains("the-old-one") && !line.contains("the-new-one"), "{line}");
}

#[test]
fn an_engine_that_may_evict_topics_is_told_in_the_log() {
    let mut redis = RedisServer::with(&["--maxmemory-policy", "allkeys-lru"]);
    redis.kill();
    let node = Node::start(&redis, "only");
    // From now on the lines of the log are read for this one.
    redis.restart();
    let line = node.server.error_line("may evict topics when the memory is full (maxmemory-policy allkeys-lru)");
    assert!(line.contains("WARN") && line.contains("set the policy to noeviction"), "{line}");
}

#[test]
fn a_wrong_password_is_told_and_not_shown() {
    let redis = RedisServer::with(&["--requirepass", "the-right-one"]);
    let url = redis.url().replace("redis://", "redis://:the-wrong-one@");
    let node = Node::with(&[("JANUS_ENGINE", &url), ("JANUS_LOG", "debug")]);
    let body = until_status(node.admin, "/readyz", 503);
    let deadline = std::time::Instant::now() + DEADLINE;
    while !get(node.admin, "/readyz", "").2.contains("the server does not know this user and password") {
        assert!(std::time::Instant::now() < deadline, "{body}");
    }
    node.server.signal("TERM");
    let log = node.server.rest_of_errors();
    assert!(log.contains("drained") && !log.contains("the-wrong-one"), "{log}");
}

#[test]
fn the_address_may_come_from_a_file_with_the_password() {
    let redis = RedisServer::with(&["--requirepass", "the-right-one"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("engine");
    std::fs::write(&file, redis.url().replace("redis://", "redis://:the-right-one@")).unwrap();
    let file = file.to_str().unwrap();
    let node = Node::with(&[("JANUS_ENGINE_FILE", file)]).ready();
    assert_eq!(node.figure("janus_engine_up{server=\"0\"}"), Some(1.0));
    let check = |file: &str| janus(&["config", "check", "--engine-file", file]).output().unwrap();
    assert_exit(&check(file), 0);
    std::fs::write(file, "redis://:the-right-one@10.0.0.7:0").unwrap();
    let output = check(file);
    assert_exit(&output, 2);
    let errors = text(&output.stderr);
    assert!(errors.contains("engine_file: ") && errors.contains("not a number from 1 to 65535"), "{errors}");
    assert!(!errors.contains("the-right-one"), "{errors}");
}

#[test]
fn a_link_over_tls_trusts_the_authorities_of_the_system() {
    let (authority, files, port) = (Authority::new(), Files::new(), free_port().to_string());
    let (certificate, key) = files.write_pair("redis", &authority.server(&["localhost"]));
    let trusted = files.write("authority.pem", &authority.pem());
    let [certificate, key, trusted] = [&certificate, &key, &trusted].map(|path| path.to_str().unwrap());
    let settings = ["--tls-port", &port, "--tls-auth-clients", "no", "--tls-ca-cert-file", trusted];
    let pair = ["--tls-cert-file", certificate, "--tls-key-file", key];
    let _redis = RedisServer::with(&[&settings[..], &pair].concat());
    let url = format!("rediss://localhost:{port}");
    Node::with(&[("JANUS_ENGINE", &url), ("SSL_CERT_FILE", trusted)]).ready();
    let stranger = files.write("stranger.pem", &Authority::new().pem());
    let node = Node::with(&[("JANUS_ENGINE", &url), ("SSL_CERT_FILE", stranger.to_str().unwrap())]);
    node.server.error_line("started without the engine");
    let body = until_status(node.admin, "/readyz", 503);
    assert!(body.contains("TLS: ") && body.contains("certificate"), "{body}");
}

#[tokio::test]
async fn three_nodes_list_each_other_and_a_draining_node_leaves_at_once() {
    let redis = RedisServer::start();
    let [one, two, three] = ["one", "two", "three"].map(|name| Node::start(&redis, name).ready());
    for node in [&one, &two, &three] {
        node.until_nodes(&["one", "three", "two"]).await;
    }
    assert_eq!(one.figure("janus_nodes"), Some(3.0));
    two.server.signal("TERM");
    one.until_nodes(&["one", "three"]).await;
    assert!(two.server.wait().success());
}

/// A node with a key for tokens.
fn with_tokens(redis: &RedisServer, name: &str, keys: &str) -> Node {
    let engine = redis.url();
    Node::with(&[("JANUS_ENGINE", &engine), ("JANUS_NODE_NAME", name), ("JANUS_TOKEN_KEYS", keys)]).ready()
}

#[tokio::test]
async fn a_user_is_disconnected_and_revoked_on_all_nodes() {
    let redis = RedisServer::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.pem");
    let key = SigningKey::generate(Algorithm::Es256).unwrap();
    std::fs::write(&file, key.public_text()).unwrap();
    let file = file.to_str().unwrap();
    let (one, two) = (with_tokens(&redis, "one", file), with_tokens(&redis, "two", file));
    one.until_nodes(&["one", "two"]).await;
    two.until_nodes(&["one", "two"]).await;
    let (alice, bob) = (token(&key, "alice", &["news"]), token(&key, "bob", &["news"]));
    let mut sockets = Vec::new();
    for node in [&one, &two] {
        for token in [&alice, &bob] {
            let (socket, welcome) = Socket::hello(node.http, Some(token)).await;
            assert_eq!(welcome["type"], "welcome", "{welcome}");
            sockets.push(socket);
        }
    }
    let request = json!({"user": "alice", "reconnect": true});
    let (status, answer) = one.ask("POST", "/api/disconnect", Some(request)).await;
    assert_eq!((status, answer), (200, json!({"closed": 2, "nodes": 2, "answered": 2})));
    for alice in [0, 2] {
        let bye = sockets[alice].hear().await;
        assert_eq!((&bye["type"], &bye["error"]), (&json!("bye"), &json!("disconnected")), "{bye}");
    }
    let until = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(600);
    let request = json!({"user": "bob", "until": until.as_secs()});
    let (status, answer) = two.ask("POST", "/api/revoke", Some(request)).await;
    assert_eq!((status, answer), (200, json!({"closed": 2, "nodes": 2, "answered": 2})));
    for (node, bob_here) in [(&one, 1), (&two, 3)] {
        let bye = sockets[bob_here].hear().await;
        assert_eq!((&bye["type"], &bye["error"]), (&json!("bye"), &json!("unauthorized")), "{bye}");
        assert_eq!(Socket::hello(node.http, Some(&bob)).await.1["error"], "unauthorized");
        assert_eq!(Socket::hello(node.http, Some(&alice)).await.1["type"], "welcome", "told to come back");
    }
}

/// The documented rights, in front of a Redis that knows no others.
#[tokio::test]
async fn nodes_with_the_documented_rights_can_do_everything() {
    let redis = RedisServer::start();
    let user = block("text").trim().strip_prefix("user ").expect("a user");
    redis.run(&[&["ACL", "SETUSER"], &user.split(' ').collect::<Vec<_>>()[..]].concat());
    let engine = redis.url().replace("redis://", "redis://janus:PASSWORD@");
    let variables = |name| [("JANUS_ENGINE", &*engine), ("JANUS_NODE_NAME", name), ("JANUS_HISTORY", "true")];
    let (one, two) = (Node::with(&variables("one")).ready(), Node::with(&variables("two")).ready());
    one.until_nodes(&["one", "two"]).await;
    let mut stream = crate::http::Http::events(one.http, "topic=news", "").await;
    stream.id().await;
    let end = tokio::time::Instant::now() + DEADLINE;
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    for number in 1.. {
        looks.tick().await;
        let (status, receipt) = two.publish("news", number).await;
        assert_eq!((status, &receipt["seq"]), (200, &json!(number)), "{receipt}");
        assert_eq!(stream.block().await.data.unwrap()["data"], number);
        if receipt["subscribers"] == 1 {
            break;
        }
        assert!(tokio::time::Instant::now() < end, "the report of the other node: {receipt}");
    }
    let request = json!({"topic": "news"});
    let (status, history) = two.ask("POST", "/api/history", Some(request)).await;
    assert_eq!((status, &history["messages"][0]["data"]), (200, &json!(1)), "{history}");
    let request = json!({"user": "alice", "reconnect": true});
    let (status, answer) = one.ask("POST", "/api/disconnect", Some(request)).await;
    assert_eq!((status, answer), (200, json!({"closed": 0, "nodes": 2, "answered": 2})));
    assert_eq!(one.figure("janus_engine_reconnects_total{reason=\"permission\"}"), None);
    redis.run(&["ACL", "SETUSER", "janus", "-info"]);
    redis.run(&["CLIENT", "KILL", "USER", "janus"]);
    let line = one.server.error_line("trying again: ");
    assert!(line.contains("+info"), "{line}");
}

/// A line of the input is repeated with its key until the engine is back, and published once.
#[test]
fn a_publisher_that_tries_again_publishes_each_line_once() {
    let mut redis = RedisServer::start();
    let node = Node::with(&[("JANUS_ENGINE", &*redis.url()), ("JANUS_HISTORY", "true")]).ready();
    let url = format!("http://{}", node.http);
    let publish = |arguments: &[&str], input: &str| {
        let mut command = janus(&[&["publish", "news"], arguments, &["--server", &url]].concat());
        command.env("JANUS_API_KEY", KEY).write_stdin(input).output().unwrap()
    };
    redis.kill();
    until_status(node.admin, "/readyz", 503);
    let output = publish(&["-"], "1\n");
    assert_exit(&output, 1);
    assert!(text(&output.stderr).contains("engine_unavailable"), "{}", text(&output.stderr));
    let output = std::thread::scope(|scope| {
        let publishing = scope.spawn(|| publish(&["-", "--retry", "30s"], "1\n2\n"));
        redis.restart();
        publishing.join().unwrap()
    });
    assert_exit(&output, 0);
    assert_eq!(text(&output.stdout).lines().count(), 2, "{}", text(&output.stdout));
    let keyed = |text: &str| publish(&[text, "--idempotency-key", "order-17"], "");
    let (first, second) = (keyed("3"), keyed("3"));
    assert_exit(&second, 0);
    let receipt = |output: &std::process::Output| serde_json::from_slice::<Value>(&output.stdout).unwrap();
    let mut expected = receipt(&first);
    expected["again"] = json!(true);
    assert_eq!(receipt(&second), expected);
    let output = publish(&["-", "--idempotency-key", "order-17"], "1\n");
    assert_exit(&output, 2);
    assert!(text(&output.stderr).contains("--retry"), "{}", text(&output.stderr));
    let classic = crate::cli_run::by_classic(node.classic);
    let output = janus(&["publish", "news", "1", "--retry", "1s", "--server", &classic]).output().unwrap();
    assert_exit(&output, 2);
}
