//! `janus-server serve`, seen from outside: what it logs, what ends it, and with which exit code.

use std::net::{TcpListener, TcpStream};

use crate::cli_run::{Running, assert_exit, janus, text};

/// The address at the end of the next line that says where it listens.
fn address(server: &Running) -> String {
    let line = server.error_line("listening on ");
    line.rsplit(' ').next().unwrap().to_owned()
}

#[test]
fn the_real_address_is_logged_and_can_be_connected_to() {
    let server = Running::start(&["--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0"]);
    let (first, second) = (address(&server), address(&server));
    assert_ne!(first, second);
    TcpStream::connect(first).unwrap();
    TcpStream::connect(second).unwrap();
}

#[test]
fn sigterm_and_sigint_end_it_with_success() {
    for signal in ["TERM", "INT"] {
        let server = Running::start(&["serve", "--listen", "127.0.0.1:0"]);
        address(&server);
        server.signal(signal);
        server.error_line(&format!("SIG{signal}: draining"));
        server.error_line("drained");
        assert_eq!(server.wait().code(), Some(0));
    }
}

#[test]
fn an_address_in_use_ends_it_with_the_address_and_what_to_do() {
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
fn the_log_level_decides_what_is_logged() {
    let server = Running::start(&["--listen", "127.0.0.1:0", "--log", "warn", "--max-connections", "10000000"]);
    let first = server.error_line("");
    assert!(first.contains("max_connections is lowered"), "{first}");
}
