//! `janus-server subscribe`: one line for each message, and an honest end.

use crate::cli_fake_server::{FakeServer, Fault};
use crate::cli_run::{Running, assert_exit, janus, text};

#[track_caller]
fn publish(server: &FakeServer, topic: &str, data: &str) {
    assert_exit(&janus(&["publish", topic, data, "--to", &server.address]).output().unwrap(), 0);
}

#[test]
fn messages_of_every_topic_are_printed_until_the_count_is_reached() {
    let server = FakeServer::start(Fault::None);
    let subscriber = Running::start(&["subscribe", "a", "b", "--from", &server.address, "--count", "2"]);
    subscriber.error_line("subscribed");
    publish(&server, "a", "1");
    publish(&server, "b", "2");
    assert!(subscriber.line().contains("\"topic\":\"a\""));
    assert!(subscriber.line().contains("\"topic\":\"b\""));
    assert_eq!(subscriber.wait().code(), Some(0));
}

#[test]
fn a_message_with_line_ends_between_its_parts_is_one_line() {
    let server = FakeServer::start(Fault::None);
    let subscriber = Running::start(&["subscribe", "a", "--from", &server.address]);
    subscriber.error_line("subscribed");
    publish(&server, "a", "{\n\"x\":\r\n\"\\n\"}");
    assert!(subscriber.line().ends_with("\"data\":{ \"x\":  \"\\n\"}}"));
}

#[test]
fn a_server_that_hangs_up_is_a_failure() {
    let server = FakeServer::start(Fault::HangsUp);
    let output = janus(&["subscribe", "a", "--from", &server.address]).output().unwrap();
    assert_exit(&output, 1);
    assert!(text(&output.stderr).contains("the server closed the connection"));
}

#[test]
fn a_server_that_does_not_acknowledge_is_a_failure() {
    let server = FakeServer::start(Fault::SaysNothing);
    let output = janus(&["subscribe", "a", "--from", &server.address, "--timeout", "200ms"]).output().unwrap();
    assert_exit(&output, 1);
    assert!(text(&output.stderr).contains("no acknowledgement from the server within 200ms"));
}

#[test]
fn a_reader_that_has_seen_enough_ends_it_with_success() {
    let server = FakeServer::start(Fault::None);
    let mut subscriber = Running::start(&["subscribe", "a", "--from", &server.address]);
    subscriber.error_line("subscribed");
    subscriber.stop_reading();
    // The thread that reads for the test closes the pipe after one more line, so that the third write meets its end.
    let ended = (0..100).any(|_| {
        publish(&server, "a", "1");
        subscriber.has_ended()
    });
    assert!(ended);
    assert_eq!(subscriber.wait().code(), Some(0));
}
