//! `janus-server serve`, seen from outside: the log, the reasons for an end, and the exit codes.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::cli_run::{PATIENCE, Running, assert_exit, by_classic, janus, text};

/// The address at the end of the next log line about listening.
fn address(server: &Running) -> String {
    let line = server.error_line("listening on ");
    line.rsplit(' ').next().unwrap().to_owned()
}

#[test]
fn the_real_address_is_logged_and_accepts_connections() {
    let server = Running::start(&["--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0"]);
    let (first, second) = (address(&server), address(&server));
    assert_ne!(first, second);
    TcpStream::connect(first).unwrap();
    TcpStream::connect(second).unwrap();
}

#[test]
fn sigterm_sigint_and_sigquit_end_the_server_with_success() {
    for signal in ["TERM", "INT", "QUIT"] {
        let server = Running::start(&["serve", "--listen", "127.0.0.1:0"]);
        address(&server);
        server.signal(signal);
        server.error_line(&format!("SIG{signal}: draining"));
        server.error_line("drained");
        assert_eq!(server.wait().code(), Some(0));
    }
}

#[test]
fn an_address_in_use_ends_the_server_with_the_address_and_advice() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = janus(&["--listen", &address]).output().unwrap();
    assert_exit(&output, 1);
    let errors = text(&output.stderr);
    assert!(errors.contains(&format!("cannot listen on {address}")), "{errors}");
    assert!(errors.contains("--listen"), "{errors}");
}

#[test]
fn more_connections_than_descriptors_are_lowered_with_a_warning() {
    let server = Running::start(&["--listen", "127.0.0.1:0", "--max-connections", "10000000"]);
    server.error_line("descriptors allow");
    server.error_line("max_connections is lowered from 10000000 to ");
}

#[test]
fn the_memory_budget_is_logged_with_its_origin() {
    let server = Running::start(&["--listen", "127.0.0.1:0", "--memory-budget-bytes", "64 MiB"]);
    server.error_line("memory_budget_bytes = \"64 MiB\" (flag --memory-budget-bytes)");
}

#[test]
fn a_default_limit_causes_no_warning() {
    for (arguments, warned) in [(&["--log", "info"][..], false), (&["--max-connections", "100000"], true)] {
        let server =
            Running::start_with_descriptors(&[&["--listen", "127.0.0.1:0", "--homes", "1"], arguments].concat(), 1_000);
        server.error_line("1000 descriptors allow 913 clients");
        assert_eq!(server.error_line("").contains("max_connections is lowered from 100000 to 913"), warned);
    }
}

#[test]
fn the_log_level_decides_what_is_logged() {
    let server = Running::start(&["--listen", "127.0.0.1:0", "--log", "warn", "--max-connections", "10000000"]);
    let first = server.error_line("");
    assert!(first.contains("max_connections is lowered"), "{first}");
}

#[test]
fn the_commands_of_the_binary_work_together() {
    let server = Running::start(&["--listen", "127.0.0.1:0"]);
    let address = address(&server);
    let subscriber = Running::start(&["subscribe", "news", "--server", &by_classic(&address), "--count", "1"]);
    subscriber.error_line("subscribed");
    let output =
        janus(&["publish", "news", "hello", "--event", "e", "--server", &by_classic(&address)]).output().unwrap();
    assert_exit(&output, 0);
    assert!(text(&output.stdout).contains("\"seq\":1,\"subscribers\":1"), "{}", text(&output.stdout));
    let line = subscriber.line();
    assert!(line.ends_with("\"topic\":\"news\",\"event\":\"e\",\"message_id\":\"\",\"data\":\"hello\"}"), "{line}");
    assert_eq!(subscriber.wait().code(), Some(0));

    let bench = ["bench", "--clients", "300", "--topics", "3", "--messages", "30", "--window", "10", "--to", &address];
    let output = janus(&bench).output().unwrap();
    assert_exit(&output, 0);
    assert!(text(&output.stdout).contains("3000 expected, 3000 good, 0 bad"), "{}", text(&output.stdout));
    let output = janus(&[&bench[..], &["--rate", "500", "--classic-publish"]].concat()).output().unwrap();
    assert_exit(&output, 0);
}

#[test]
fn a_drain_delivers_the_queues_and_ends_connections_with_a_fin() {
    let server = Running::start(&["--listen", "127.0.0.1:0", "--max-queue-bytes", "16 MiB"]);
    let address = address(&server);
    let (mut subscriber, queued) = slow_subscriber(&address);
    server.signal("TERM");
    server.error_line("draining");
    let mut received = Vec::new();
    subscriber.read_to_end(&mut received).expect("the end is a FIN, not a reset");
    assert_eq!(received.iter().filter(|&&byte| byte == 1).count(), queued);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn two_stops_within_moments_are_one_drain() {
    let server = Running::start(&["--listen", "127.0.0.1:0", "--max-queue-bytes", "16 MiB"]);
    let address = address(&server);
    let (mut subscriber, queued) = slow_subscriber(&address);
    server.signal("TERM");
    server.signal("INT");
    server.error_line("already draining");
    let mut received = Vec::new();
    subscriber.read_to_end(&mut received).expect("the end is a FIN, not a reset");
    assert_eq!(received.iter().filter(|&&byte| byte == 1).count(), queued);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_signal_two_seconds_after_the_first_ends_the_server_with_failure() {
    let arguments = ["--listen", "127.0.0.1:0", "--max-queue-bytes", "16 MiB", "--drain-timeout", "1 h"];
    let server = Running::start(&[&arguments[..], &["--write-timeout", "1 h"]].concat());
    let address = address(&server);
    let _subscriber = slow_subscriber(&address);
    let begun = Instant::now();
    server.signal("TERM");
    server.error_line("draining");
    assert_eq!(server.signal_until_it_ends("INT").code(), Some(1));
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[test]
fn a_habitual_signal_disconnects_no_client_and_is_logged() {
    let server = Running::start(&["--listen", "127.0.0.1:0"]);
    let address = address(&server);
    let subscriber = Running::start(&["subscribe", "t", "--server", &by_classic(&address), "--count", "1"]);
    subscriber.error_line("subscribed");
    server.signal("HUP");
    server.error_line("reload: no setting has changed");
    for signal in ["USR1", "USR2"] {
        server.signal(signal);
        server.error_line(&format!("SIG{signal} ignored"));
    }
    assert_exit(&janus(&["publish", "t", "1", "--server", &by_classic(&address)]).output().unwrap(), 0);
    assert!(subscriber.line().ends_with("\"data\":1}"));
    assert_eq!(subscriber.wait().code(), Some(0));
}

/// A subscriber that does not read, with more queued frames than sockets hold. Returns the number of frames.
fn slow_subscriber(address: &str) -> (TcpStream, usize) {
    let mut subscriber = TcpStream::connect(address).unwrap();
    subscriber.set_read_timeout(Some(PATIENCE)).unwrap();
    subscriber.write_all(b"{\"action\":\"subscribe\",\"data\":\"t\"}\0").unwrap();
    let mut received = [0; 1024];
    let mut length = 0;
    while !received[..length].ends_with(b"ACK\x01") {
        length += match subscriber.read(&mut received[length..]) {
            Ok(0) => panic!("no acknowledgement"),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => 0,
            Err(error) => panic!("no acknowledgement: {error}"),
        };
    }
    // More than the buffers of both sockets hold, and less than the queue.
    let message = format!("\"{}\"\n", "x".repeat(60_000));
    let messages = 60;
    let output = janus(&["publish", "t", "-", "--server", &by_classic(address)])
        .write_stdin(message.repeat(messages))
        .output()
        .unwrap();
    assert_exit(&output, 0);
    (subscriber, messages)
}

#[cfg(feature = "fault-injection")]
#[test]
fn when_the_tree_gives_up_the_reason_is_logged_and_the_exit_code_is_1() {
    let output = janus(&["--listen", "127.0.0.1:0"]).env("CRASH_THE_TOPIC_MANAGER", "1").output().unwrap();
    assert_exit(&output, 1);
    let errors = text(&output.stderr);
    let last = errors.lines().last().unwrap();
    assert!(last.contains("the server gave up") && last.contains("topic_manager"), "{errors}");
}

#[test]
fn accepting_pauses_without_descriptors_and_continues_with_some() {
    let server = Running::start(&["--listen", "127.0.0.1:0"]);
    let address = address(&server);
    server.limit_descriptors(40);
    let mut clients: Vec<_> = (0..60).map(|_| TcpStream::connect(&address).unwrap()).collect();
    server.error_line("cannot accept for now");
    server.limit_descriptors(1_000);
    for client in &mut clients {
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut greeting = [0; 1];
        client.read_exact(&mut greeting).unwrap();
    }
}

#[test]
fn no_token_is_ever_logged() {
    let server = Running::start(&["--listen", "127.0.0.1:0", "--log", "trace"]);
    let address = address(&server);
    let greet = || {
        let mut stream = TcpStream::connect(&address).unwrap();
        let mut greeting = Vec::new();
        while !greeting.ends_with(b"\x01") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            greeting.push(byte[0]);
        }
        let greeting = text(&greeting);
        let token = greeting.split('"').rev().nth(1).unwrap().to_owned();
        assert_eq!(token.len(), 32, "{greeting}");
        (stream, token)
    };
    let (mut first, token) = greet();
    first.write_all(b"{\"action\":\"subscribe\",\"data\":\"news\"}\0").unwrap();
    let (mut second, own) = greet();
    let attach = janus_core::wire::classic::client::attach(&token, [("news", 0)]);
    second.write_all(&attach).unwrap();
    let mut answers = Vec::new();
    // Closed, because the session has been taken.
    first.read_to_end(&mut answers).unwrap();
    assert!(text(&answers).contains("session_taken"));
    // Refused, because the attach is not the first frame.
    second.write_all(&attach).unwrap();
    server.signal("TERM");
    drop(second);
    let mut lines = String::new();
    loop {
        let line = server.error_line("");
        let is_last = line.contains("drained");
        lines += &line;
        if is_last {
            break;
        }
    }
    assert!(lines.contains("session"), "something is logged of it: {lines}");
    assert!(!lines.contains(&token) && !lines.contains(&own), "{lines}");
}
