//! `janus-server publish` and `subscribe` on the HTTP port of the real binary: over HTTP with and without a key, over
//! WebSockets with and without a token.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::api::http_address;
use crate::browser_run::Proxy;
use crate::cli_run::{PATIENCE, Running, assert_exit, binary, janus, text, wait};

const KEY: &str = "correct-horse-battery";

/// A server with an HTTP port alone, and the port's URL.
fn start(more: &[&str]) -> (Running, String) {
    start_with(binary(&[&["--listen", "", "--http-listen", "127.0.0.1:0"], more].concat()))
}

fn start_with(mut command: Command) -> (Running, String) {
    let server = Running::spawn(&mut command);
    let url = format!("http://{}", http_address(&server));
    (server, url)
}

fn subscribe(url: &str, more: &[&str]) -> Running {
    let subscriber = Running::start(&[&["subscribe", "news", "--server", url], more].concat());
    subscriber.error_line(&format!("subscribed at {url}"));
    subscriber
}

#[track_caller]
fn publish(url: &str, data: &str) -> Value {
    let output = janus(&["publish", "news", data, "--server", url]).output().unwrap();
    assert_exit(&output, 0);
    serde_json::from_str(&text(&output.stdout)).unwrap()
}

/// The error of a command that fails.
#[track_caller]
fn error_of(mut command: assert_cmd::Command, code: i32) -> String {
    let output = command.output().unwrap();
    assert_exit(&output, code);
    text(&output.stderr)
}

#[test]
fn a_message_comes_as_the_protocol_has_it_and_the_receipt_has_its_number() {
    let (_server, url) = start(&[]);
    let subscriber = subscribe(&url, &["--count", "1"]);
    let command = ["publish", "news", "{\"n\": 1.50}", "--event", "e", "--id", "7"];
    let output = janus(&command).env("JANUS_SERVER", &url).output().unwrap();
    assert_exit(&output, 0);
    let receipt: Value = serde_json::from_str(&text(&output.stdout)).unwrap();
    assert_eq!((&receipt["topic"], &receipt["seq"], &receipt["subscribers"]), (&"news".into(), &1.into(), &1.into()));
    let line = subscriber.line();
    assert!(line.starts_with("{\"topic\":\"news\",\"seq\":1,\"time\":"), "{line}");
    assert!(line.ends_with(",\"event\":\"e\",\"message_id\":\"7\",\"data\":{\"n\": 1.50}}"), "{line}");
    assert_eq!(subscriber.wait().code(), Some(0));
}

#[test]
fn the_settings_of_the_server_lead_to_its_port_and_key() {
    let (_server, url) = start_with({
        let mut command = binary(&["--listen", "", "--http-listen", "127.0.0.1:0"]);
        command.env("JANUS_API_KEY", KEY);
        command
    });
    let to = url.strip_prefix("http://").unwrap();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    // The server does not know the first of the keys yet.
    writeln!(file, "http_listen = \"{to}\"\napi_key = \"a-new-key-of-the-server,{KEY}\"").unwrap();
    let config = ["--config", file.path().to_str().unwrap()];
    for arguments in
        [[&["publish", "news", "-"][..], &config].concat(), [&config[..], &["publish", "news", "-"]].concat()]
    {
        let mut command = janus(&arguments);
        let output = command.env_remove("JANUS_HTTP_LISTEN").write_stdin("1\n2\n").output().unwrap();
        assert_exit(&output, 0);
        assert_eq!(text(&output.stdout).lines().count(), 2);
    }
    let error = error_of(janus(&["publish", "news", "1"]), 2);
    assert!(error.contains("http_listen is empty") && error.contains("--server URL"), "{error}");
    let mut with_flags = janus(&["--http-listen", to, "publish", "news", "1"]);
    with_flags.env_remove("JANUS_HTTP_LISTEN");
    assert!(error_of(with_flags, 2).contains("commands for a running server accept --config alone"));
}

#[test]
fn a_refusal_says_which_variable_to_set() {
    let (_server, url) = start_with({
        let mut command = binary(&["--listen", "", "--http-listen", "127.0.0.1:0"]);
        command.env("JANUS_API_KEY", KEY);
        command
    });
    let error = error_of(janus(&["publish", "news", "1", "--server", &url]), 1);
    assert!(error.contains("unauthorized") && error.contains("set the variable JANUS_API_KEY"), "{error}");
    let mut wrong = janus(&["topics", "--server", &url]);
    wrong.env("JANUS_API_KEY", "the-wrong-key-of-another-server");
    let error = error_of(wrong, 1);
    assert!(error.contains("the key came from JANUS_API_KEY") && !error.contains("the-wrong"), "{error}");
    let mut lines = janus(&["publish", "news", "-", "--server", &url]);
    lines.write_stdin("\n1\n");
    assert!(error_of(lines, 1).contains("line 2 of the input failed: the server refused: unauthorized"));
}

#[test]
fn a_user_publishes_and_subscribes_with_a_token_of_the_variable() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    std::fs::write(&keys, text(&janus(&["token", "key", "HS256"]).output().unwrap().stdout)).unwrap();
    let keys = keys.to_str().unwrap();
    let token = |more: &[&str]| {
        let output =
            janus(&[&["token", "make", "--keys", keys, "--sub", "alice"][..], more].concat()).output().unwrap();
        assert_exit(&output, 0);
        text(&output.stdout).trim().to_owned()
    };
    let (server, url) = start(&["--token-keys", keys]);
    let refused = Running::start(&["subscribe", "news", "--server", &url]);
    refused.error_line("unauthorized");
    let error = error_of(janus(&["subscribe", "news", "--server", &url]), 1);
    assert!(error.contains("set the variable JANUS_TOKEN"), "{error}");

    let grants = ["--subscribe", "news", "--publish", "news", "--topic", "user:alice", "--subscribe", "user:alice"];
    let alice = token(&grants);
    let with = |arguments: &[&str], token: &str| {
        let mut command = binary(&[arguments, &["--server", &url]].concat());
        command.env("JANUS_TOKEN", token);
        command
    };
    let subscriber = Running::spawn(&mut with(&["subscribe", "news"], &alice));
    subscriber.error_line("subscribed");
    let mut publisher = with(&["publish", "news", "-"], &alice);
    publisher.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut publisher = publisher.spawn().unwrap();
    publisher.stdin.take().unwrap().write_all(b"1\n\n2\n").unwrap();
    for data in [1, 2] {
        assert!(subscriber.line().ends_with(&format!("\"data\":{data}}}")));
    }
    assert_eq!(wait(&mut publisher).code(), Some(0));
    // A topic of the token, to which nobody has subscribed by name; the API needs no token.
    let output = janus(&["publish", "user:alice", "3", "--server", &url]).output().unwrap();
    assert_exit(&output, 0);
    assert!(subscriber.line().starts_with("{\"topic\":\"user:alice\","));

    let without = with(&["publish", "sports", "1"], &alice).output().unwrap();
    assert_exit(&without, 1);
    let error = text(&without.stderr);
    assert!(error.contains("forbidden") && error.contains("the token in JANUS_TOKEN does not grant this"), "{error}");
    let nonsense = with(&["publish", "news", "1"], "nonsense").output().unwrap();
    assert_exit(&nonsense, 1);
    assert!(text(&nonsense.stderr).contains("the token came from JANUS_TOKEN"), "{}", text(&nonsense.stderr));
    drop(server);
}

#[test]
fn a_publisher_with_a_token_answers_pings_while_its_input_is_silent() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    std::fs::write(&keys, text(&janus(&["token", "key", "HS256"]).output().unwrap().stdout)).unwrap();
    let keys = keys.to_str().unwrap();
    let output = janus(&["token", "make", "--keys", keys, "--sub", "a", "--publish", "news"]).output().unwrap();
    let token = text(&output.stdout).trim().to_owned();
    let times = ["--heartbeat-interval", "1 s", "--pong-timeout", "200 ms"];
    let (server, url) = start(&[&times[..], &["--token-keys", keys]].concat());
    let mut publisher = binary(&["publish", "news", "-", "--server", &url]);
    let mut publisher =
        publisher.env("JANUS_TOKEN", &token).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = publisher.stdin.take().unwrap();
    // A client that answers no ping is cut off meanwhile: its end shows that time enough has passed.
    let mute = mute_client(&url, Some(&token));
    let ended = std::io::copy(&mut &mute, &mut std::io::sink());
    assert!(ended.is_ok());
    input.write_all(b"1\n").unwrap();
    drop(input);
    assert_eq!(wait(&mut publisher).code(), Some(0));
    drop(server);
}

#[test]
fn a_publisher_whose_input_pauses_longer_than_the_server_keeps_connections_fails_at_no_line() {
    let (_server, url) = start(&["--api-idle-timeout", "200 ms"]);
    let mut publisher = binary(&["publish", "news", "-", "--server", &url]);
    let mut publisher = publisher.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = publisher.stdin.take().unwrap();
    let mut receipts = BufReader::new(publisher.stdout.take().unwrap()).lines();
    for line in ["1\n", "2\n", "3\n"] {
        input.write_all(line.as_bytes()).unwrap();
        assert!(receipts.next().unwrap().unwrap().contains("\"topic\":\"news\""));
        // A connection that became idle later has been closed: so the publisher's was before.
        let mut idle = std::net::TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
        idle.set_read_timeout(Some(PATIENCE)).unwrap();
        idle.write_all(b"GET / HTTP/1.1\r\nhost: janus\r\n\r\n").unwrap();
        std::io::copy(&mut idle, &mut std::io::sink()).unwrap();
    }
    drop(input);
    assert_eq!(wait(&mut publisher).code(), Some(0));
}

/// A WebSocket that says hello and then nothing, not even in answer to pings.
fn mute_client(url: &str, token: Option<&str>) -> std::net::TcpStream {
    let address = url.strip_prefix("http://").unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut request = janus_core::wire::websocket::client::upgrade(address, "/ws", "dGhlIHNhbXBsZSBub25jZQ==");
    let hello = janus_core::wire::v1::client::hello(None, token);
    request.extend(janus_core::wire::websocket::client::text(&hello, [0; 4]));
    stream.write_all(&request).unwrap();
    stream
}

#[test]
fn a_subscriber_of_a_quiet_topic_stays_while_the_server_pings() {
    let (_server, url) = start(&["--heartbeat-interval", "1 s", "--pong-timeout", "3 s"]);
    // A server that is silent for 3 s is taken for lost: twice its interval, and the time of the command.
    let subscriber = subscribe(&url, &["--timeout", "1 s", "--count", "1"]);
    // A client that answers no ping is cut off meanwhile: its end shows that more than 3 s have passed.
    let mute = mute_client(&url, None);
    std::io::copy(&mut &mute, &mut std::io::sink()).unwrap();
    publish(&url, "1");
    assert!(subscriber.line().ends_with("\"data\":1}"));
    assert_eq!(subscriber.wait().code(), Some(0));
}

#[test]
fn a_file_named_with_config_must_be_readable_and_a_file_of_the_variable_need_not() {
    let (_server, url) = start(&[]);
    let missing = "/nonexistent/janus.toml";
    let error = error_of(janus(&["topics", "--server", &url, "--config", missing]), 2);
    assert!(error.contains(missing), "{error}");
    let output = janus(&["topics", "--server", &url]).env("JANUS_CONFIG", missing).output().unwrap();
    assert_exit(&output, 0);
}

#[test]
fn with_reconnect_missed_messages_come_and_losses_are_reported() {
    let (_server, url) = start(&[]);
    let address: SocketAddr = url.strip_prefix("http://").unwrap().parse().unwrap();
    let proxy = Proxy::to(address);
    let by_proxy = format!("http://127.0.0.1:{}", proxy.port());
    let subscriber = subscribe(&by_proxy, &["--reconnect", "--count", "3"]);
    publish(&url, "1");
    assert!(subscriber.line().ends_with("\"data\":1}"));
    proxy.refuse(true);
    proxy.cut();
    subscriber.error_line("reconnecting in");
    publish(&url, "2");
    proxy.refuse(false);
    subscriber.error_line(&format!("reconnected to {by_proxy}: 1 missed message of news"));
    assert!(subscriber.line().ends_with("\"data\":2}"));
    publish(&url, "3");
    assert!(subscriber.line().ends_with("\"data\":3}"));
    assert_eq!(subscriber.wait().code(), Some(0));
}

#[test]
fn a_subscriber_begins_after_a_position_and_is_told_if_it_is_gone() {
    let (_server, url) = start(&["--history"]);
    let first = subscribe(&url, &[]);
    let epoch = publish(&url, "1")["epoch"].as_str().unwrap().to_owned();
    publish(&url, "2");
    drop(first);
    let later =
        Running::start(&["subscribe", "news", "--server", &url, "--since", &format!("{epoch}:1"), "--count", "1"]);
    later.error_line("1 missed message of news");
    assert!(later.line().contains("\"seq\":2,"));
    let lost = Running::start(&["subscribe", "news", "--server", &url, "--since", "00000000000000ab.7"]);
    lost.error_line("messages of news in between are lost");
    let error = error_of(janus(&["subscribe", "a", "b", "--server", &url, "--since", "00000000000000ab.7"]), 2);
    assert!(error.contains("subscribe to one topic"), "{error}");
}

#[test]
fn a_client_that_does_not_keep_up_is_told_of_the_gap() {
    let (_server, url) = start(&["--slow-consumer", "drop_oldest", "--max-queue-bytes", "64 KiB"]);
    let mut command = binary(&["subscribe", "news", "--server", &url]);
    let mut subscriber = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (sender, errors) = std::sync::mpsc::channel();
    let stderr = BufReader::new(subscriber.stderr.take().unwrap());
    std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    assert!(errors.recv_timeout(PATIENCE).unwrap().starts_with("subscribed at"));
    // The output is not read yet, so the command reads no messages.
    let message = format!("\"{}\"\n", "x".repeat(30_000));
    let publish = ["publish", "news", "-", "--server", &url];
    assert_exit(&janus(&publish).write_stdin(message.repeat(800)).output().unwrap(), 0);
    let mut output = subscriber.stdout.take().unwrap();
    let reader = std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
    let line = errors.recv_timeout(PATIENCE).unwrap();
    assert!(line.starts_with("messages ") && line.ends_with(" of news are lost"), "{line}");
    subscriber.kill().unwrap();
    subscriber.wait().unwrap();
    reader.join().unwrap().unwrap();
}

#[test]
fn a_reader_that_closes_the_pipe_ends_the_commands_with_success() {
    let (_server, url) = start(&[]);
    let mut subscriber = subscribe(&url, &[]);
    subscriber.stop_reading();
    let ended = (0..100).any(|_| {
        publish(&url, "1");
        subscriber.has_ended()
    });
    assert!(ended);
    assert_eq!(subscriber.wait().code(), Some(0));
}

#[test]
fn a_lost_server_is_a_failure() {
    let (server, url) = start(&[]);
    let subscriber = subscribe(&url, &[]);
    server.signal("TERM");
    subscriber.error_line("server_draining");
    assert_eq!(subscriber.wait().code(), Some(1));
}
