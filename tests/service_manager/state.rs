//! The state of topics, from one server to the next.

use std::net::TcpListener;
use std::path::Path;

use serde_json::Value;

use crate::cli_run::{Running, assert_exit, by_classic, janus, text};

/// A server whose topics exist without subscribers.
fn start(state: &Path) -> (Running, String) {
    let history = ["--listen", "127.0.0.1:0", "--history"];
    let server = Running::start(&[&history[..], &["--state-file", state.to_str().unwrap()]].concat());
    let line = server.error_line("listening on ");
    (server, line.rsplit(' ').next().unwrap().to_owned())
}

/// The epoch and the number of another message.
fn publish(address: &str) -> (String, u64) {
    let output = janus(&["publish", "news", "1", "--server", &by_classic(address)]).output().unwrap();
    assert_exit(&output, 0);
    let receipt: Value = serde_json::from_str(&text(&output.stdout)).unwrap();
    (receipt["epoch"].as_str().unwrap().to_owned(), receipt["seq"].as_u64().unwrap())
}

#[test]
fn numbers_continue_after_a_drain_and_begin_afresh_after_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let (first, address) = start(&state);
    let (epoch, _) = publish(&address);
    first.signal("TERM");
    first.error_line("left the state of 1 topics");
    assert_eq!(first.wait().code(), Some(0));

    // A server that cannot start leaves the state for the next attempt.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let in_use = taken.local_addr().unwrap().to_string();
    let failed = janus(&["--listen", &in_use, "--state-file", state.to_str().unwrap()]).output().unwrap();
    assert_exit(&failed, 1);

    let (second, address) = start(&state);
    assert_eq!(publish(&address), (epoch.clone(), 2));
    second.signal("KILL");
    second.wait();
    let (third, address) = start(&state);
    let (afresh, seq) = publish(&address);
    assert!(afresh != epoch && seq == 1, "{afresh}.{seq}");
    drop(third);
}

#[test]
fn a_state_file_that_cannot_be_written_is_told_at_the_start() {
    let server = Running::start(&["--listen", "127.0.0.1:0", "--state-file", "/dev/null/state"]);
    server
        .error_line("state_file /dev/null/state cannot be written, so the next restart loses the place of each client");
    server.signal("TERM");
    server.error_line("cannot write state_file /dev/null/state");
    assert_eq!(server.wait().code(), Some(0));
}
