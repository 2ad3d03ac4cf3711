//! The client in JavaScript, and the chat of `examples/web`, in a real browser against the real server.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;

use janus_core::hooks::Identity;
use janus_core::{Config, Janus};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use crate::access::{Tokens, alice, topic};
use crate::browser_run::{Page, Proxy, Site};
use crate::cli_run::{Running, assert_exit, by_classic, janus};
use crate::support::until;

/// A server on two separate ports: for the command line, and for browsers.
struct Server {
    running: Running,
    classic: String,
    http: SocketAddr,
}

impl Server {
    fn start(site: &Site) -> Self {
        Self::start_on(site, "127.0.0.1:0")
    }

    fn start_on(site: &Site, http: &str) -> Self {
        Self::start_with(site, http, &[])
    }

    fn start_with(site: &Site, http: &str, more: &[&str]) -> Self {
        let origin = site.origin();
        let arguments = ["--listen", "127.0.0.1:0", "--http-listen", http, "--allowed-origins", &origin];
        let running = Running::start(&[&arguments[..], &["--drain-period", "100 ms"], more].concat());
        let address = |line: &str| running.error_line(line).rsplit(' ').next().unwrap().to_owned();
        let (classic, http) = (address("listening on "), address("serving HTTP on ").parse().unwrap());
        Self { running, classic, http }
    }

    /// Replaces the server by a new server without memory of the old.
    fn restart(self, site: &Site) -> Self {
        let http = self.http.to_string();
        drop(self);
        Self::start_on(site, &http)
    }

    fn publish(&self, numbers: Range<u64>) {
        let lines: String = numbers.map(|number| format!("{number}\n")).collect();
        let output = janus(&["publish", "news", "-", "--server", &by_classic(&self.classic)])
            .write_stdin(lines)
            .output()
            .unwrap();
        assert_exit(&output, 0);
    }
}

/// The data of the next messages. A gap or an error in between fails the test.
#[track_caller]
fn messages(page: &Page<'_>, count: usize) -> Vec<u64> {
    (0..count).map(|_| page.report_of("message", &["gap"])[1].as_u64().unwrap()).collect()
}

#[track_caller]
fn assert_subscribed(page: &Page<'_>, resumed: bool) {
    assert_eq!(page.report_of("subscribed", &["message", "gap"])[1], resumed);
}

fn numbers(range: Range<u64>) -> Vec<u64> {
    range.collect()
}

#[test]
fn a_page_gets_every_message_in_order() {
    let site = Site::start();
    let server = Server::start(&site);
    let page = site.open("subscriber", &[("server", &format!("ws://{}/ws", server.http))]);
    assert_subscribed(&page, false);
    server.publish(0..200);
    assert_eq!(messages(&page, 200), numbers(0..200));
}

#[test]
fn a_page_cut_off_between_messages_gets_each_message_once() {
    let site = Site::start();
    let server = Server::start(&site);
    let proxy = Proxy::to(server.http);
    let page = site.open("subscriber", &[("server", &proxy.url())]);
    assert_subscribed(&page, false);
    for round in (0..300).step_by(60) {
        server.publish(round..round + 20);
        // Some of the first twenty may be on their way.
        proxy.refuse(true);
        proxy.cut();
        server.publish(round + 20..round + 40);
        proxy.refuse(false);
        // These messages arrive during the page's return.
        server.publish(round + 40..round + 60);
        assert_eq!(messages(&page, 60), numbers(round..round + 60));
    }
}

#[test]
fn a_page_notices_a_dead_connection_and_catches_up() {
    let site = Site::start();
    let server = Server::start(&site);
    let proxy = Proxy::to(server.http);
    let patience = [("heartbeat_ms", "300"), ("timeout_ms", "2000")];
    let page = site.open("subscriber", &[&[("server", &*proxy.url())][..], &patience].concat());
    assert_subscribed(&page, false);
    server.publish(0..5);
    assert_eq!(messages(&page, 5), numbers(0..5));
    proxy.stall();
    server.publish(5..10);
    assert_eq!(page.report_of("state", &["message", "gap"]), json!(["state", "waiting", "connection_lost"]));
    assert_subscribed(&page, true);
    assert_eq!(messages(&page, 5), numbers(5..10));
}

#[test]
fn a_page_whose_network_stalls_in_a_frame_comes_back_and_catches_up() {
    let site = Site::start();
    let server = Server::start_with(&site, "127.0.0.1:0", &["--frame-timeout", "1 s"]);
    let proxy = Proxy::to(server.http);
    let patience = [("heartbeat_ms", "300"), ("timeout_ms", "60000")];
    let page = site.open("subscriber", &[&[("server", &*proxy.url())][..], &patience].concat());
    assert_subscribed(&page, false);
    // The next ping is longer.
    proxy.stall_clients_after(3);
    while page.report_of("state", &["gap"]) != json!(["state", "waiting", "frame_timeout"]) {}
    server.publish(0..5);
    assert_subscribed(&page, true);
    assert_eq!(messages(&page, 5), numbers(0..5));
}

#[test]
fn a_page_learns_that_a_restarted_server_cannot_resume_and_continues() {
    let site = Site::start();
    let server = Server::start(&site);
    let page = site.open("subscriber", &[("server", &format!("ws://{}/ws", server.http))]);
    assert_subscribed(&page, false);
    server.publish(0..5);
    assert_eq!(messages(&page, 5), numbers(0..5));
    let server = server.restart(&site);
    let gap = json!({"topic": "news", "from": null, "to": null, "unknown": true});
    assert_eq!(page.report_of("gap", &["message", "subscribed"]), json!(["gap", gap]));
    assert_subscribed(&page, false);
    server.publish(5..10);
    assert_eq!(messages(&page, 5), numbers(5..10));
}

#[test]
fn a_page_sent_away_by_a_shutdown_comes_back_to_the_next_server() {
    let site = Site::start();
    let server = Server::start(&site);
    let page = site.open("subscriber", &[("server", &format!("ws://{}/ws", server.http))]);
    assert_subscribed(&page, false);
    server.running.signal("TERM");
    assert_eq!(page.report_of("state", &["gap"]), json!(["state", "waiting", "server_draining"]));
    let http = server.http.to_string();
    assert_eq!(server.running.wait().code(), Some(0));
    let server = Server::start_on(&site, &http);
    page.report_of("gap", &["message"]);
    assert_subscribed(&page, false);
    server.publish(0..5);
    assert_eq!(messages(&page, 5), numbers(0..5));
}

#[test]
fn a_page_publishes_and_learns_the_outcome() {
    let site = Site::start();
    let server = Server::start(&site);
    let page = site.open("publisher", &[("server", &format!("ws://{}/ws", server.http))]);
    for expected in [
        json!(["refused", "not_connected", null]),
        json!(["published", "nobody", 16, 0, 0]),
        json!(["published", "news", 16, 1, 1]),
        json!(["message", 1, "quote", 7, {"price": 1.5}]),
        json!(["published", "bytes", 16, 1, 1]),
        json!(["bytes", true, true, 256]),
        json!(["refused", "bad_topic", 4407]),
        json!(["refused", "frame_too_large", 4402]),
        json!(["refused", "not_connected", null]),
    ] {
        assert_eq!(page.report(), expected);
    }
}

#[test]
fn the_client_library_passes_its_own_tests() {
    let site = Site::start();
    for script in ["client", "fallback"] {
        let page = site.open(script, &[]);
        let mut tests = Vec::new();
        let end = loop {
            let report = page.report();
            if report[0] == "end" {
                break report;
            }
            tests.push(report);
        };
        let failed: Vec<&Value> = tests.iter().filter(|report| report[0] != "passed").collect();
        assert!(failed.is_empty(), "{failed:#?}");
        assert_eq!(end[1], tests.len());
        assert!(tests.len() > 10, "{tests:?}");
    }
}

#[test]
fn a_page_without_websockets_reads_event_streams_and_misses_nothing() {
    let site = Site::start();
    let server = Server::start(&site);
    let proxy = Proxy::to(server.http);
    let page = site.open("switching", &[("server", &proxy.url())]);
    let transport = |expected: &str| assert_eq!(page.report_of("connected", &["message", "gap"])[1], expected);
    transport("websocket");
    assert_subscribed(&page, false);
    server.publish(0..5);
    assert_eq!(messages(&page, 5), numbers(0..5));

    // The page comes into a network that blocks WebSockets.
    proxy.refuse_websockets(true);
    proxy.cut();
    server.publish(5..10);
    transport("events");
    assert_subscribed(&page, true);
    server.publish(10..15);
    assert_eq!(messages(&page, 10), numbers(5..15));
    assert_eq!(page.report(), json!(["refused", "needs_websocket"]));
    proxy.cut();
    server.publish(15..20);
    transport("events");
    assert_subscribed(&page, true);
    assert_eq!(messages(&page, 5), numbers(15..20));

    // And back into a network without a block: the browser tells of another network.
    proxy.refuse_websockets(false);
    server.publish(20..21);
    transport("websocket");
    server.publish(21..25);
    assert_subscribed(&page, true);
    assert_eq!(messages(&page, 4), numbers(21..25));
}

#[test]
#[ignore = "needs the packed client in JANUS_TEST_CLIENT, as in tests/run.sh"]
fn a_page_with_the_packed_script_needs_no_module() {
    let site = Site::start();
    let server = Server::start(&site);
    let page = site.open("script", &[("server", &format!("ws://{}/ws", server.http))]);
    assert_eq!(page.report(), json!(["received", "over a script", "news", true]));
}

/// A server in this process with tokens 1, 2 and 3, and a page that uses them one after the other.
fn renewing<'site>(site: &'site Site, tokens: &Tokens, grace: Duration) -> (Runtime, Janus, Page<'site>) {
    // The hooks run on this runtime.
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let config = Config { allowed_origins: vec![site.origin()], token_grace: grace, ..Config::default() };
    let (janus, _, http) = runtime.block_on(tokens.serve(config));
    let page = site.open("renewing", &[("server", &format!("ws://{http}/ws"))]);
    assert_eq!(page.report(), json!(["token", 1]));
    assert_eq!(page.report(), json!(["state", "connected", null]));
    assert_subscribed(&page, false);
    (runtime, janus, page)
}

#[test]
fn a_page_renews_its_token_and_stays_connected() {
    let site = Site::start();
    let inbox = || alice().topics([topic("inbox")]);
    let tokens = Tokens::new([("1", inbox()), ("2", inbox())]).lasting("1", Duration::from_secs(4));
    let (runtime, janus, page) = renewing(&site, &tokens, Duration::from_secs(60));
    assert_eq!(page.report(), json!(["token", 2]));
    let refreshed = || tokens.refreshes.load(Ordering::Relaxed) == 1;
    runtime.block_on(until("the new token is accepted", refreshed));
    for topic in ["news", "inbox"] {
        runtime.block_on(janus.publish(topic, topic)).unwrap();
    }
    assert_eq!(page.report(), json!(["message", "news"]));
    assert_eq!(page.report(), json!(["assigned", "inbox", "inbox"]));
}

#[test]
fn a_page_whose_token_has_expired_comes_back_with_another() {
    let site = Site::start();
    // The second token is of another user, so that the first is not renewed.
    let tokens = Tokens::new([("1", alice()), ("2", Identity::user("bob").may_subscribe(true)), ("3", alice())]);
    let tokens = tokens.lasting("1", Duration::from_millis(1_200));
    let (runtime, janus, page) = renewing(&site, &tokens, Duration::ZERO);
    assert_eq!(page.report_of("state", &["gap"]), json!(["state", "waiting", "token_expired"]));
    runtime.block_on(janus.publish("news", "missed")).unwrap();
    assert_subscribed(&page, true);
    assert_eq!(page.report_of("message", &["gap"]), json!(["message", "missed"]));
}

#[test]
fn two_people_chat_and_learn_when_messages_may_be_missing() {
    let site = Site::start();
    let server = Server::start(&site);
    let page = site.open("chat", &[("server", &format!("ws://{}/ws", server.http))]);
    let hostile =
        "<script>parent.broken = true</script><img src=\"x\" onerror=\"parent.broken = true\"> &amp; <b>bold</b>";
    let talk = page.report();
    let (ann, bob) = ("Ann", "<i>Bob</i>");
    let ann_sees = json!([
        ["message own", hostile, format!("{ann} (you)")],
        ["message", "Good morning", bob],
        ["message follows", "Ann", bob],
    ]);
    let bob_sees = json!([
        ["message", hostile, ann],
        ["message own", "Good morning", format!("{bob} (you)")],
        ["message own follows", "Ann", format!("{bob} (you)")],
    ]);
    // Text that looks like elements has created no element, and has run nothing.
    assert_eq!(talk, json!(["talk", ann_sees, bob_sees, 0, false]));

    let http = server.http.to_string();
    drop(server);
    assert_eq!(page.report(), json!(["unsent", "Not sent: there is no connection.", "Are you there?"]));
    let _server = Server::start_on(&site, &http);
    let after = json!([["notice", "Messages may be missing here.", null], ["message", "Are you there?", ann]]);
    assert_eq!(page.report(), json!(["after", after, "", ""]));
}
