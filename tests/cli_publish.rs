//! `janus-server publish`: the message at the subscriber, and the reports of failures.

use std::net::TcpListener;

use crate::cli_fake_server::{FakeServer, Fault};
use crate::cli_run::{Running, assert_exit, janus, text};

fn subscriber(server: &FakeServer, topic: &str) -> Running {
    let subscriber = Running::start(&["subscribe", topic, "--from", &server.address]);
    subscriber.error_line("subscribed");
    subscriber
}

#[test]
fn a_message_keeps_its_event_and_id_and_the_receipt_is_printed() {
    let server = FakeServer::start(Fault::None);
    let subscriber = subscriber(&server, "news");
    let output = janus(&["publish", "news", "{\"n\": 1.50}", "--event", "e", "--id", "7", "--to", &server.address])
        .output()
        .unwrap();
    assert_exit(&output, 0);
    assert_eq!(text(&output.stdout), "{\"epoch\":\"e\",\"seq\":1,\"subscribers\":1,\"topic\":\"news\"}\n");
    assert_eq!(
        subscriber.line(),
        "{\"timestamp\":[1,2,3],\"topic\":\"news\",\"event\":\"e\",\"message_id\":\"7\",\"data\":{\"n\": 1.50}}"
    );
}

#[test]
fn text_that_is_not_json_arrives_as_a_string() {
    let server = FakeServer::start(Fault::None);
    let subscriber = subscriber(&server, "news");
    assert_exit(&janus(&["publish", "--to", &server.address, "--", "news", "-5 °\""]).output().unwrap(), 0);
    assert!(subscriber.line().ends_with(",\"data\":\"-5 °\\\"\"}"));
}

#[test]
fn a_negative_number_is_data_and_a_mistyped_flag_is_not() {
    let server = FakeServer::start(Fault::None);
    let subscriber = subscriber(&server, "news");
    assert_exit(&janus(&["publish", "news", "-5", "--to", &server.address]).output().unwrap(), 0);
    assert!(subscriber.line().ends_with(",\"data\":-5}"));
    assert_exit(&janus(&["publish", "news", "--jsn", "--to", &server.address]).output().unwrap(), 2);
}

#[test]
fn each_nonblank_line_of_the_input_is_a_message() {
    let server = FakeServer::start(Fault::None);
    let subscriber = subscriber(&server, "news");
    let output = janus(&["publish", "news", "-", "--to", &server.address])
        .write_stdin("\n1\n \t\r\n{\"a\":2}\r\n\nthree, without an end")
        .output()
        .unwrap();
    assert_exit(&output, 0);
    assert_eq!(text(&output.stdout).lines().count(), 3);
    for end in [":1}", ":{\"a\":2}}", ":\"three, without an end\"}"] {
        let line = subscriber.line();
        assert!(line.ends_with(end), "{line}");
    }
}

#[test]
fn with_json_only_json_is_accepted() {
    let server = FakeServer::start(Fault::None);
    let output = janus(&["publish", "news", "hello", "--json", "--to", &server.address]).output().unwrap();
    assert_exit(&output, 2);
    let output = janus(&["publish", "news", "-", "--json", "--to", &server.address])
        .write_stdin("1\nhello\n3\n")
        .output()
        .unwrap();
    assert_exit(&output, 2);
    assert!(text(&output.stderr).contains("line 2 of the input failed: the message is not JSON"));
    assert_eq!(text(&output.stdout).lines().count(), 1);
}

#[test]
fn a_refusal_is_a_failure_with_the_servers_words() {
    let server = FakeServer::start(Fault::Refuses);
    let output = janus(&["publish", "news", "1", "--to", &server.address]).output().unwrap();
    assert_exit(&output, 1);
    assert!(text(&output.stderr).contains("publish_not_allowed: not here"));
}

#[test]
fn a_server_that_gives_no_receipt_is_a_failure() {
    let server = FakeServer::start(Fault::SaysNothing);
    let output = janus(&["publish", "news", "1", "--to", &server.address, "--timeout", "200ms"]).output().unwrap();
    assert_exit(&output, 1);
    assert!(text(&output.stderr).contains("no receipt from the server within 200 ms"));
}

#[test]
fn a_refused_connect_is_a_failure_that_names_the_address() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let output = janus(&["publish", "news", "1", "--to", &address]).output().unwrap();
    assert_exit(&output, 1);
    assert!(text(&output.stderr).contains(&format!("cannot connect to {address}")));
}

#[test]
fn an_address_without_a_port_is_a_usage_error() {
    let output = janus(&["publish", "news", "1", "--to", "localhost"]).output().unwrap();
    assert_exit(&output, 2);
    assert!(text(&output.stderr).contains("localhost is not an address: expected HOST:PORT"));
}
