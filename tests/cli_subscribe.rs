//! `janus-server subscribe` by the classic protocol: one line for each message, and an honest end.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};

use crate::cli_fake_server::{FakeServer, Fault};
use crate::cli_run::{Running, assert_exit, by_classic, janus, text};

#[track_caller]
fn publish(server: &FakeServer, topic: &str, data: &str) {
    assert_exit(&janus(&["publish", topic, data, "--server", &by_classic(&server.address)]).output().unwrap(), 0);
}

#[test]
fn messages_of_every_topic_are_printed_until_the_count_is_reached() {
    let server = FakeServer::start(Fault::None);
    let subscriber = Running::start(&["subscribe", "a", "b", "--server", &by_classic(&server.address), "--count", "2"]);
    subscriber.error_line("subscribed");
    publish(&server, "a", "1");
    publish(&server, "b", "2");
    assert!(subscriber.line().contains("\"topic\":\"a\""));
    assert!(subscriber.line().contains("\"topic\":\"b\""));
    assert_eq!(subscriber.wait().code(), Some(0));
}

#[test]
fn a_message_with_line_breaks_between_tokens_is_printed_as_one_line() {
    let server = FakeServer::start(Fault::None);
    let subscriber = Running::start(&["subscribe", "a", "--server", &by_classic(&server.address)]);
    subscriber.error_line("subscribed");
    publish(&server, "a", "{\n\"x\":\r\n\"\\n\"}");
    assert!(subscriber.line().ends_with("\"data\":{ \"x\":  \"\\n\"}}"));
}

#[test]
fn a_server_that_hangs_up_is_a_failure() {
    let server = FakeServer::start(Fault::HangsUp);
    let output = janus(&["subscribe", "a", "--server", &by_classic(&server.address)]).output().unwrap();
    assert_exit(&output, 1);
    assert!(text(&output.stderr).contains("the server closed the connection"));
}

#[test]
fn a_server_that_does_not_acknowledge_is_a_failure() {
    let server = FakeServer::start(Fault::SaysNothing);
    let output =
        janus(&["subscribe", "a", "--server", &by_classic(&server.address), "--timeout", "200ms"]).output().unwrap();
    assert_exit(&output, 1);
    assert!(text(&output.stderr).contains("no acknowledgement from the server within 200 ms"));
}

#[test]
fn a_reader_that_closes_the_pipe_ends_the_command_with_success() {
    let server = FakeServer::start(Fault::None);
    let mut subscriber = Running::start(&["subscribe", "a", "--server", &by_classic(&server.address)]);
    subscriber.error_line("subscribed");
    subscriber.stop_reading();
    // The test's reading thread closes the pipe after one more line, so that the third write meets the closed pipe.
    let ended = (0..100).any(|_| {
        publish(&server, "a", "1");
        subscriber.has_ended()
    });
    assert!(ended);
    assert_eq!(subscriber.wait().code(), Some(0));
}

/// Plays the server for one connection: reads `expected`, then writes `answer` and closes.
fn converse(listener: &TcpListener, expected: &str, answer: &str) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut received = vec![0; expected.len()];
    stream.read_exact(&mut received).unwrap();
    assert_eq!(text(&received), expected);
    stream.write_all(answer.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    // Reads until the client has closed; otherwise a reset could destroy the unread answer.
    let _ = stream.read_to_end(&mut received);
}

#[test]
fn with_reconnect_it_resumes_its_session_and_reports_losses() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let subscriber =
        Running::start(&["subscribe", "a", "b", "--server", &by_classic(&address), "--reconnect", "--count", "4"]);
    let message = |topic: &str, data: u32| {
        format!("{{\"timestamp\":[1,2,3],\"topic\":\"{topic}\",\"event\":1,\"message_id\":2,\"data\":{data}}}\x01")
    };
    let attached = |a: &str, b: &str, token: &str| {
        format!("{{\"timestamp\":[1,2,3],\"attached\":{{\"a\":{a},\"b\":{b}}},\"token\":\"{token}\"}}\x01")
    };
    let (preamble, resumed, lost) = ("<regular-socket/>\0", "{\"resumed\":true,\"missed\":1}", "{\"resumed\":false}");
    let attach = |token: &str, a: u32, b: u32| {
        let received = format!("{{\"a\":{a},\"b\":{b}}}");
        format!("{preamble}{{\"action\":\"attach\",\"data\":{{\"token\":\"{token}\",\"received\":{received}}}}}\0")
    };
    let subscribe = "{\"action\":\"subscribe\",\"data\":\"a\"}\0{\"action\":\"subscribe\",\"data\":\"b\"}\0";
    // A message may come between two ACKs.
    let greeting = "{\"timestamp\":[1,2,3],\"token\":\"first\"}\x01";
    let answer = format!("{greeting}ACK\x01{}ACK\x01{}", message("a", 1), message("a", 2));
    converse(&listener, &format!("{preamble}{subscribe}"), &answer);
    subscriber.error_line("subscribed");
    subscriber.error_line("the server closed the connection; reconnecting");
    // A temporary failure is no reason to give up: a full server, a stalled network.
    for passing in ["too_many_connections", "server_overloaded", "frame_timeout"] {
        let error = format!("{{\"timestamp\":[1,2,3],\"error\":{{\"code\":\"{passing}\",\"message\":\"later\"}}}}\x01");
        converse(&listener, &attach("first", 2, 0), &error);
        subscriber.error_line(passing);
    }
    converse(&listener, &attach("first", 2, 0), &(attached(resumed, lost, "second") + &message("a", 3)));
    subscriber.error_line("1 missed message of a");
    subscriber.error_line("messages of b in between are lost");
    converse(&listener, &attach("second", 3, 0), &(attached(lost, resumed, "second") + &message("b", 4)));
    assert_eq!(subscriber.wait().code(), Some(0));
}

#[test]
fn with_reconnect_it_continues_after_a_real_server_cut_it_off() {
    let server = Running::start(&["--listen", "127.0.0.1:0"]);
    let line = server.error_line("listening on ");
    let address = line.rsplit(' ').next().unwrap();
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let by_proxy = proxy.local_addr().unwrap().to_string();
    let subscriber =
        Running::start(&["subscribe", "a", "--server", &by_classic(&by_proxy), "--reconnect", "--count", "3"]);
    let publish = |data: &str| {
        assert_exit(&janus(&["publish", "a", data, "--server", &by_classic(address)]).output().unwrap(), 0)
    };
    let join = || {
        let (client, _) = proxy.accept().unwrap();
        let server = TcpStream::connect(address).unwrap();
        for (mut from, mut to) in
            [(&client, &server), (&server, &client)].map(|(a, b)| (a.try_clone().unwrap(), b.try_clone().unwrap()))
        {
            std::thread::spawn(move || std::io::copy(&mut from, &mut to));
        }
        [client, server]
    };
    let connection = join();
    subscriber.error_line("subscribed");
    publish("1");
    assert!(subscriber.line().ends_with("\"data\":1}"));
    for end in connection {
        end.shutdown(Shutdown::Both).unwrap();
    }
    subscriber.error_line("reconnecting");
    publish("2");
    let _connection = join();
    subscriber.error_line("1 missed message of a");
    publish("3");
    assert!(subscriber.line().ends_with("\"data\":2}"));
    assert!(subscriber.line().ends_with("\"data\":3}"));
    assert_eq!(subscriber.wait().code(), Some(0));
}
