//! The messages to the service manager, in order.

use std::io::Write as _;
use std::net::TcpStream;

use super::Manager;
use crate::cli_run::{Running, by_classic, janus};

const LISTEN: [&str; 2] = ["--listen", "127.0.0.1:0"];

fn address(server: &Running) -> String {
    let line = server.error_line("listening on ");
    line.rsplit(' ').next().unwrap().to_owned()
}

#[test]
fn a_life_is_told_from_ready_to_stopping() {
    let manager = Manager::new();
    let server = manager.start(&LISTEN, &[]);
    assert_eq!(manager.receive(), "READY=1\nSTATUS=0 clients, 0 topics");
    let address = address(&server);
    let mut client = TcpStream::connect(&address).expect("a server that is ready listens");
    client.write_all(b"{\"action\":\"subscribe\",\"data\":\"news\"}\0").unwrap();
    assert_eq!(manager.receive(), "STATUS=1 clients, 1 topics");

    server.signal("HUP");
    let reloading = manager.receive();
    let micros = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect(&reloading);
    assert!(micros.parse::<u64>().is_ok_and(|micros| micros > 0), "{reloading}");
    assert_eq!(manager.receive(), "READY=1", "even if there is nothing to read again");

    server.signal("TERM");
    let stopping = manager.receive();
    assert!(stopping.starts_with("STOPPING=1\n") && stopping.contains("\nEXTEND_TIMEOUT_USEC="), "{stopping}");
    server.error_line("drained");
    assert_eq!(server.wait().code(), Some(0));
    assert!(TcpStream::connect(&address).is_err());
}

#[test]
fn a_long_drain_asks_for_more_time() {
    let manager = Manager::new();
    let drain = ["--drain-period", "1 h", "--drain-timeout", "2 h"];
    let server = manager.start(&[&LISTEN[..], &drain].concat(), &[]);
    let address = address(&server);
    // Of two clients one is closed at the beginning of the period.
    let _clients = [(); 2].map(|()| TcpStream::connect(&address).unwrap());
    manager.receive_with("STATUS=2 clients");
    server.signal("TERM");
    assert!(manager.receive_with("STOPPING=1").contains("EXTEND_TIMEOUT_USEC"));
    for _ in 0..2 {
        let more = manager.receive();
        assert!(more.starts_with("EXTEND_TIMEOUT_USEC=15000000\nSTATUS=draining, "), "{more}");
    }
    server.signal("HUP");
    let more = manager.receive();
    assert!(more.starts_with("EXTEND_TIMEOUT_USEC="), "a reload during the drain is not told: {more}");
}

#[cfg(feature = "fault-injection")]
#[test]
fn a_watchdog_is_fed_until_the_home_arbiter_hangs() {
    use std::time::{Duration, Instant};

    use crate::cli_run::PATIENCE;

    let manager = Manager::new();
    let variables = [("WATCHDOG_USEC", "400000"), ("HANG_AT_THE_FIRST_MESSAGE", "1")];
    let mut server = manager.start(&LISTEN, &variables);
    let address = address(&server);
    for _ in 0..3 {
        manager.receive_with("WATCHDOG=1");
    }
    let mut client = TcpStream::connect(&address).unwrap();
    client.write_all(b"{\"action\":\"subscribe\",\"data\":\"news\"}\0").unwrap();
    manager.receive_with("STATUS=1 clients, 1 topics");
    client.write_all(b"{\"action\":\"publish\",\"data\":{\"topic\":\"news\",\"data\":1}}\0").unwrap();
    server.error_line("has not returned for");
    let mut last = Instant::now();
    manager.socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let begun = Instant::now();
    while !server.has_ended() {
        assert!(begun.elapsed() < PATIENCE, "the instance ends itself after five seconds");
        let mut bytes = [0; 1_024];
        if let Ok(length) = manager.socket.recv(&mut bytes)
            && bytes[..length].starts_with(b"WATCHDOG=1")
        {
            last = Instant::now();
        }
    }
    assert!(last.elapsed() > Duration::from_secs(1), "fed {:?} before the end", last.elapsed());
    assert_eq!(server.wait().code(), Some(1));
}

#[test]
fn a_watchdog_of_another_process_is_not_fed() {
    let manager = Manager::new();
    let server = manager.start(&LISTEN, &[("WATCHDOG_USEC", "20000"), ("WATCHDOG_PID", "1")]);
    assert!(manager.receive().starts_with("READY=1\nSTATUS=0 clients"));
    let _client = TcpStream::connect(address(&server)).unwrap();
    assert_eq!(manager.receive(), "STATUS=1 clients, 0 topics", "five seconds later");
}

#[test]
fn a_service_manager_that_reads_nothing_or_goes_away_ends_and_blocks_nothing() {
    let manager = Manager::new();
    let other = std::os::unix::net::UnixDatagram::unbound().unwrap();
    other.set_nonblocking(true).unwrap();
    while other.send_to(b"x", &manager.address).is_ok() {}
    let server = manager.start(&LISTEN, &[("WATCHDOG_USEC", "20000")]);
    let address = address(&server);
    assert!(janus(&["publish", "t", "1", "--server", &by_classic(&address)]).output().unwrap().status.success());
    for _ in 0..3 {
        server.signal("HUP");
        server.error_line("SIGHUP");
    }
    // No message about the state is lost, and the first comes first.
    assert!(manager.receive_with("READY=1").starts_with("READY=1\nSTATUS=0 clients"));
    drop(manager);
    server.signal("HUP");
    server.error_line("SIGHUP");
    assert!(janus(&["publish", "t", "1", "--server", &by_classic(&address)]).output().unwrap().status.success());
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
}
