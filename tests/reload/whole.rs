//! A reload as a whole: all or nothing, asked for by a signal, a request or a command, under a crowd.

use std::time::Duration;

use serde_json::json;
use tokio::time::timeout;

use super::binary::{Server, pipe};
use crate::cli_run::{assert_exit, janus, text};
use crate::metrics::scrape::{Scrape, get};
use crate::support::{Client, own_address, publish};
use crate::tls::certificates::{Authority, Files};

#[tokio::test]
async fn a_wrong_file_changes_nothing_and_every_mistake_is_told() {
    let mut server = Server::start("max_topics = 5");
    server.write_all("max_topics = 7\nallow_publsh = true\nframe_timeout = 10\n[namespace.quotes]\nhistry = true");
    let (status, answer) = server.ask_for_reload().await;
    assert_eq!((status, &answer["error"]["code"]), (422, &json!("bad_settings")), "{answer}");
    let message = answer["error"]["message"].as_str().unwrap();
    let expected = [
        "janus.toml:5: allow_publsh is not a setting; did you mean allow_publish?",
        "janus.toml:6: frame_timeout = 10: expected 10 ms to 7 days",
        "janus.toml:8: namespace.quotes.histry is not a setting; did you mean history?",
    ];
    for (line, expected) in message.lines().zip(expected) {
        assert!(line.contains(expected), "{message}");
    }
    assert_eq!(message.lines().count(), expected.len(), "{message}");
    for expected in expected {
        server.process.error_line(expected);
    }
    server.process.error_line("nothing has changed");

    // The same settings without the mistakes are news still: none was taken over.
    server.write_all("max_topics = 7");
    assert_eq!(server.ask_for_reload().await.1["applied"], json!(["max_topics"]));
}

#[tokio::test]
async fn a_wrong_file_of_keys_holds_up_every_other_setting() {
    let mut server = Server::start("");
    std::fs::write(server.folder.path().join("keys"), "HS256 c2hvcnQ=").unwrap();
    server.write("token_keys", &server.path("keys"));
    server.write("max_topics", "7");
    let (status, answer) = server.ask_for_reload().await;
    assert_eq!(status, 422);
    assert!(answer["error"]["message"].as_str().unwrap().contains("key 1: a secret of 5 bytes"), "{answer}");
    let _without_a_token = server.client().await;
    server.write("token_keys", "\"\"");
    assert_eq!(server.ask_for_reload().await.1["applied"], json!(["max_topics"]));
}

#[tokio::test]
async fn a_certificate_without_its_key_holds_up_every_other_setting() {
    let (authority, files) = (Authority::new(), Files::new());
    let (certificate, key) = files.write_pair("server", &authority.server(&["localhost"]));
    let lines = format!("https_listen = \"{}\"\ntls_cert = {certificate:?}\ntls_key = {key:?}", own_address());
    let mut server = Server::start(&lines);
    let pair = authority.server(&["localhost"]);
    files.write("server.pem", &pair.pem);
    server.write("max_topics", "7");
    let (status, answer) = server.ask_for_reload().await;
    assert_eq!(status, 422);
    assert!(answer["error"]["message"].as_str().unwrap().contains("the key in "), "{answer}");
    files.write_pair("server", &pair);
    assert_eq!(server.ask_for_reload().await.1["applied"], json!(["max_topics"]));
}

#[tokio::test]
async fn a_setting_for_the_next_start_is_named_until_then() {
    let mut server = Server::start("");
    server.write("threads", "200");
    for _ in 0..2 {
        let (status, changes) = server.ask_for_reload().await;
        assert_eq!((status, &changes["needs_restart"]), (200, &json!(["threads"])), "{changes}");
    }
    server.process.error_line("reload: threads = 200 (file ");
}

#[tokio::test]
async fn a_change_that_a_flag_hides_is_named_with_the_flag() {
    let mut server = Server::start_in(tempfile::tempdir().unwrap(), "max_topics = 5", &["--max-topics", "9"]);
    server.write("max_topics", "7");
    let (_, changes) = server.ask_for_reload().await;
    let hidden = json!([{"setting": "max_topics", "by": "flag --max-topics"}]);
    assert_eq!((&changes["applied"], &changes["hidden"]), (&json!([]), &hidden));
    server.process.error_line("max_topics: the change of the file is hidden by flag --max-topics");
}

#[tokio::test]
async fn namespaces_come_and_go() {
    let mut server = Server::start("");
    let history = async |server: &Server, topic: &str| {
        let body = Some(json!({"topic": topic}));
        crate::api::ask(server.http, "POST", "/api/history", "", body).await.0
    };
    server.client().await.subscribe("quotes:a").await;
    assert_eq!(history(&server, "quotes:a").await, 404);
    server.write_all("[namespace.quotes]\nhistory = true");
    let (_, changes) = server.ask_for_reload().await;
    assert_eq!(changes["applied"], json!(["namespace.quotes.history"]));
    assert_eq!(history(&server, "quotes:a").await, 200);
    server.write_all("");
    let (_, changes) = server.ask_for_reload().await;
    assert_eq!(changes["applied"], json!(["namespace.quotes.history"]));
    assert_eq!(history(&server, "quotes:a").await, 404);
}

#[tokio::test]
async fn messages_count_for_the_namespaces_of_the_file_as_it_is_now() {
    let mut server = Server::start("[namespace.news]");
    let published = |server: &Server, namespace: &str| {
        let scrape = Scrape::parse(&get(&server.admin.to_string(), "/metrics", &[]).body);
        let series = [("namespace", namespace), ("via", "classic")];
        if scrape.values_of("namespace").contains(namespace) { scrape.value("janus_published", &series) } else { 0.0 }
    };
    // A topic from before the reloads, with a message for each file.
    let mut subscriber = server.client().await;
    subscriber.subscribe("quotes:a").await;
    let mut counts = Vec::new();
    for file in ["[namespace.news]", "[namespace.quotes]", "[namespace.news]", "[namespace.quotes]"] {
        server.write_all(file);
        assert_eq!(server.ask_for_reload().await.0, 200);
        publish(server.classic, "quotes:a", "1").await;
        publish(server.classic, "news:none", "1").await;
        subscriber.json().await;
        counts.push((published(&server, "quotes"), published(&server, "news")));
    }
    assert_eq!(counts, [(0.0, 1.0), (1.0, 1.0), (1.0, 2.0), (2.0, 2.0)]);
    assert_eq!(published(&server, "default"), 4.0);
}

#[tokio::test]
async fn sighup_under_a_thousand_clients_closes_none() {
    let mut server = Server::start("max_topics = 5");
    let mut clients = Vec::new();
    for _ in 0..1_000 {
        let mut client = Client::connect(server.classic).await.reset_on_drop();
        client.subscribe("news").await;
        clients.push(client);
    }
    server.write("max_topics", "7");
    server.process.signal("HUP");
    server.process.error_line("SIGHUP: reading the settings again");
    server.process.error_line("reload: max_topics = 7 (file ");
    publish(server.classic, "news", "1").await;
    for client in &mut clients {
        assert!(client.frame().await.contains("\"data\":1"));
    }
}

#[tokio::test]
async fn the_command_shows_what_has_changed_and_fails_with_every_mistake() {
    let mut server = Server::start("");
    let file = server.folder.path().join("janus.toml");
    let admin = server.admin.to_string();
    let reload = || janus(&["reload", "--config", file.to_str().unwrap(), "--server", &admin]).output().unwrap();
    server.write("max_topics", "7");
    server.write("backlog", "1024");
    let output = reload();
    assert_exit(&output, 0);
    let read = format!("the server has read {}\n", file.display());
    assert_eq!(text(&output.stdout), format!("{read}max_topics: applied\nbacklog: needs a restart\n"));
    let output = reload();
    assert_eq!(text(&output.stdout), format!("{read}backlog: needs a restart\n"));
    server.write("max_topics", "0");
    let output = reload();
    assert_ne!(output.status.code(), Some(0));
    assert!(text(&output.stderr).contains("max_topics = 0: expected"), "{}", text(&output.stderr));
}

#[tokio::test]
async fn a_file_that_does_not_answer_holds_up_no_client_and_further_signals_are_one_reload() {
    let mut server = Server::start("");
    let keys = pipe(&server, "keys");
    server.write("token_keys", &format!("{keys:?}"));
    server.process.signal("HUP");
    server.process.error_line("SIGHUP: reading the settings again");
    let mut subscriber = server.client().await;
    subscriber.subscribe("news").await;
    for _ in 0..3 {
        server.process.signal("HUP");
        server.process.error_line("SIGHUP: reading the settings again");
    }
    publish(server.classic, "news", "1").await;
    assert!(subscriber.frame().await.contains("\"data\":1"), "clients are served");
    server.write("token_keys", "\"\"");
    // The end of the file, for the reload that waits for it.
    tokio::task::spawn_blocking(move || std::fs::write(keys, "")).await.unwrap().unwrap();
    server.process.error_line("reload: nothing has changed");
    server.process.error_line("reload: no setting has changed");
    assert!(timeout(Duration::from_millis(300), server.ask_for_reload()).await.is_ok(), "no further reload waits");
}

#[tokio::test]
async fn an_address_that_waits_for_a_restart_closes_no_port() {
    let mut server = Server::start("");
    server.write("http_listen", "\"0.0.0.0:1\"");
    server.write("admin_listen", "\"0.0.0.0:2\"");
    for _ in 0..2 {
        let (status, changes) = server.ask_for_reload().await;
        assert_eq!((status, &changes["needs_restart"]), (200, &json!(["http_listen", "admin_listen"])));
    }
    let topics = crate::api::ask(server.http, "GET", "/api/topics", "", None).await;
    assert_eq!(topics.0, 200, "without a key, as the port is still on loopback");
}

#[tokio::test]
async fn a_file_that_does_not_answer_does_not_keep_a_stopped_server() {
    let mut server = Server::start("drain_period = \"0 s\"");
    let keys = pipe(&server, "keys");
    server.write("token_keys", &format!("{keys:?}"));
    server.process.signal("HUP");
    server.process.error_line("SIGHUP: reading the settings again");
    // The reload waits for the other end of the pipe by now, or will.
    server.process.signal("TERM");
    server.process.error_line("drained 0 connections");
    assert_eq!(server.process.wait().code(), Some(0));
}
