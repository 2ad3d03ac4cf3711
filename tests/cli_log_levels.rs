//! Levels of the log that are changed for a while: `janus-server log`, over the admin port of a running server.

use std::net::TcpStream;

use crate::cli_run::{Running, assert_exit, janus, text};

/// A server with an admin port.
struct Server {
    running: Running,
    address: String,
    admin: String,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let arguments = [&["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"], arguments].concat();
        let running = Running::start(&arguments);
        let last = |words| running.error_line(words).rsplit(' ').next().unwrap().to_owned();
        let (address, admin) = (last("listening on "), last("admin port on "));
        Self { running, address, admin }
    }

    /// Runs `janus-server log`, and returns the printed levels.
    #[track_caller]
    fn log(&self, arguments: &[&str]) -> Vec<String> {
        let output = janus(&[&["log", "--admin", &self.admin], arguments].concat()).output().unwrap();
        assert_exit(&output, 0);
        text(&output.stdout).lines().map(str::to_owned).collect()
    }

    /// The error of `janus-server log`.
    #[track_caller]
    fn refusal(&self, arguments: &[&str], code: i32) -> String {
        let output = janus(&[&["log", "--admin", &self.admin], arguments].concat()).output().unwrap();
        assert_exit(&output, code);
        text(&output.stderr)
    }

    /// Connects a client, whose line at `debug` has the target `janus_core::connection::acceptor`.
    fn connect(&self) {
        TcpStream::connect(&self.address).unwrap();
    }
}

#[test]
fn a_target_is_logged_at_debug_for_a_while_and_no_longer() {
    let server = Server::start(&[]);
    assert_eq!(server.log(&[]), ["configured: info"]);
    let target = ["--target", "janus_core::connection::acceptor"];
    let levels = server.log(&[&["debug", "--for", "1h"], &target[..]].concat());
    assert!(levels.len() == 2 && levels[1].starts_with("janus_core::connection::acceptor: debug, 35"), "{levels:?}");
    server.running.error_line("level debug of the log of janus_core::connection::acceptor: in force for 3600 s");
    server.connect();
    let line = server.running.error_line("connected, classic");
    assert!(line.contains(" DEBUG janus_core::connection::acceptor]"), "{line}");

    assert_eq!(server.log(&[&["--reset"], &target[..]].concat()), ["configured: info"]);
    server.running.error_line("taken back");
    server.connect();
    server.log(&["warn", "--for", "1m"]);
    let next = server.running.error_line("");
    assert!(next.contains("level warn of the log: in force for 60 s"), "no line about the client: {next}");
}

#[test]
fn a_change_ends_by_itself_and_the_log_says_so() {
    let server = Server::start(&["--log", "warn,janus_server=info"]);
    let levels = server.log(&["trace", "--for", "200ms"]);
    assert_eq!(levels, ["configured: warn,janus_server=info", "all targets: trace, 0 s left"]);
    server.running.error_line("level trace of the log: over; the configured level is in force again");
    assert_eq!(server.log(&[]).len(), 1);
}

#[test]
fn even_a_log_that_is_off_says_that_it_has_been_changed() {
    let arguments =
        ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--log", "info,janus_server::logging=off"];
    let running = Running::start(&arguments);
    let admin = running.error_line("admin port on ").rsplit(' ').next().unwrap().to_owned();
    assert_exit(&janus(&["log", "--admin", &admin, "off"]).output().unwrap(), 0);
    running.error_line("level off of the log: in force for 600 s");
}

#[test]
fn a_change_that_is_not_accepted_says_what_is_expected() {
    let server = Server::start(&[]);
    let refused = server.refusal(&["debug", "--for", "25h"], 1);
    assert!(refused.contains("for: expected at most 24 h"), "{refused}");
    let refused = server.refusal(&["debug", "--target", "a b"], 1);
    assert!(refused.contains("target: expected the beginning of a line's target"), "{refused}");
    let refused = server.refusal(&["loud"], 2);
    assert!(refused.contains("invalid value 'loud'"), "{refused}");
    for number in 0..16 {
        server.log(&["info", "--target", &format!("t{number}")]);
    }
    let refused = server.refusal(&["info", "--target", "t16"], 1);
    assert!(refused.contains("too_many_changes: 16 changes of the log are in force: take one back"), "{refused}");
    assert_eq!(server.log(&["--reset"]).len(), 1);
}
