//! The admin port of the real binary: health through load, drains and hangs, behind a real load balancer, and the
//! command that asks.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::addresses::proxies::HaProxy;
use crate::api::http_address;
use crate::cli_run::{PATIENCE, Running, assert_exit, by_classic, janus, text};
use crate::support::own_address;

const KEY: &str = "correct-horse-battery";

/// The classic port, the HTTP port and the admin port of a server of its own.
struct Ports {
    server: Running,
    classic: SocketAddr,
    http: SocketAddr,
    admin: SocketAddr,
}

fn start(more: &[&str]) -> Ports {
    let ports = ["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let server = Running::start(&[&ports, more].concat());
    let classic = address(&server.error_line("listening on "));
    let http = http_address(&server);
    let admin = address(&server.error_line("admin port on "));
    Ports { server, classic, http, admin }
}

pub(crate) fn address(line: &str) -> SocketAddr {
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// The status, the head and the body of the answer to a GET request on a connection of its own.
pub(crate) fn get(addr: SocketAddr, path: &str, headers: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_ascii_lowercase(), body.to_owned())
}

fn status(addr: SocketAddr, path: &str) -> u16 {
    get(addr, path, "").0
}

/// Asks until the status is this one, and returns the body.
#[track_caller]
pub(crate) fn until_status(addr: SocketAddr, path: &str, expected: u16) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (status, _, body) = get(addr, path, "");
        if status == expected {
            return body;
        }
        assert!(Instant::now() < deadline, "{path} still answers {status}: {body}");
    }
}

const HEALTH: [&str; 5] = ["/livez", "/readyz", "/healthz", "/health/live", "/health/ready"];

#[test]
fn health_is_answered_on_the_admin_port_alone() {
    let Ports { server: _server, http, admin, .. } = start(&[]);
    for path in HEALTH {
        let (status, head, body) = get(admin, path, "");
        assert_eq!(status, 200, "{path}: {body}");
        assert!(head.contains("\r\ncache-control: no-store"), "{head}");
        let (status, _, body) = get(http, path, "");
        assert!(status == 404 && body.contains("admin_listen"), "{path}: {body}");
    }
    assert!(get(admin, "/", "").2.contains("GET, HEAD /api/stats\n"));
    assert_eq!([status(admin, "/api/topics"), status(http, "/api/topics")], [200, 200]);
}

#[test]
fn every_address_of_the_setting_is_served_and_none_if_the_list_is_empty() {
    let two = ["--admin-listen", "127.0.0.1:0", "--admin-listen", "[::1]:0"];
    let server = Running::start(&[&["--listen", "127.0.0.1:0"][..], &two].concat());
    for _ in 0..2 {
        assert_eq!(status(address(&server.error_line("admin port on ")), "/readyz"), 200);
    }
    let server = Running::start(&["--listen", "127.0.0.1:0", "--admin-listen", ""]);
    server.error_line("listening on ");
    server.signal("TERM");
    assert!(!server.rest_of_errors().contains("admin port"));
}

#[test]
fn an_admin_address_in_use_ends_the_start_with_the_setting_and_advice() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = janus(&["--listen", "127.0.0.1:0", "--admin-listen", &address]).output().unwrap();
    assert_exit(&output, 1);
    let errors = text(&output.stderr);
    assert!(errors.contains(&format!("cannot listen on {address} for admin_listen")), "{errors}");
    assert!(errors.contains("--admin-listen") && !errors.contains("listening on"), "{errors}");
}

#[test]
fn off_loopback_without_a_key_only_health_is_answered() {
    let ports = ["--listen", "127.0.0.1:0", "--admin-listen", "0.0.0.0:0"];
    let server = Running::start(&ports);
    let admin = SocketAddr::from(([127, 0, 0, 1], address(&server.error_line("admin port on ")).port()));
    server.error_line("where without a key only health is answered; set api_key");
    for path in HEALTH {
        assert_eq!(status(admin, path), 200, "{path}");
    }
    for path in ["/api/stats", "/api/tree", "/api/slow", "/api/topics", "/api/events", "/api/subscribe?topic=news"] {
        assert_eq!(status(admin, path), 403, "{path}");
    }
}

#[test]
fn with_a_key_everything_but_health_needs_the_key() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "api_key = \"{KEY}\"").unwrap();
    let Ports { server: _server, admin, .. } = start(&["--config", file.path().to_str().unwrap()]);
    for path in ["/api/stats", "/api/tree", "/api/slow", "/api/topics"] {
        assert_eq!(status(admin, path), 401, "{path}");
        assert_eq!(get(admin, path, &format!("Authorization: Bearer {KEY}\r\n")).0, 200, "{path}");
    }
    for path in HEALTH {
        assert_eq!(status(admin, path), 200, "{path}");
    }
}

/// A request whose body never comes.
fn hold_a_place(addr: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(addr).unwrap();
    let head =
        "POST /api/broadcast HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n";
    stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
    stream
}

#[test]
fn health_is_answered_while_the_places_of_the_api_are_taken_on_both_ports() {
    let Ports { server: _server, http, admin, .. } = start(&["--max-api-connections", "1", "--frame-timeout", "1 h"]);
    let _holder = hold_a_place(http);
    until_status(http, "/api/topics", 503);
    assert_eq!(status(admin, "/api/topics"), 200, "the admin port has places of its own");
    let mut holders = Vec::new();
    while status(admin, "/api/topics") == 200 {
        holders.push(hold_a_place(admin));
        assert!(holders.len() < 1_000, "the places of the admin port end");
    }
    // Idle and slow connections fill the rest of the port.
    let crowd: Vec<TcpStream> = (0..200)
        .map(|number| {
            let mut stream = TcpStream::connect(admin).unwrap();
            if number % 2 == 0 {
                stream.write_all(b"GET /livez HTTP/1.1\r\nHost: loc").unwrap();
            }
            stream
        })
        .collect();
    for path in HEALTH {
        assert_eq!(status(admin, path), 200, "{path}");
    }
    drop((crowd, holders));
}

#[test]
fn health_is_answered_under_load() {
    let Ports { server: _server, classic, admin, .. } = start(&[]);
    let to = classic.to_string();
    let load = ["bench", "--clients", "300", "--messages", "2000", "--window", "50", "--to", &to];
    let mut bench = Running::start(&load);
    let mut answers = 0;
    while !bench.has_ended() {
        assert_eq!(status(admin, "/livez"), 200);
        assert_eq!(status(admin, "/readyz"), 200);
        answers += 1;
    }
    assert!(answers > 5, "only {answers} answers during the load");
    assert_eq!(bench.wait().code(), Some(0));
}

#[test]
fn a_server_that_is_told_to_stop_is_not_ready_but_serves_new_clients_for_the_delay() {
    let Ports { server, classic, admin, .. } = start(&["--drain-delay", "2 s"]);
    let command = ["--server", &admin.to_string()];
    let ask = |more: &[&str]| janus(&[&["health"], &command[..], more].concat()).output().unwrap();
    assert_exit(&ask(&["--ready"]), 0);
    server.signal("TERM");
    server.error_line("SIGTERM: not ready from now on, and still serving for 2 s (drain_delay)");
    let body = until_status(admin, "/readyz", 503);
    let body: Value = serde_json::from_str(&body).unwrap();
    assert!(body["checks"]["draining"].as_str().unwrap().starts_with("the server was told to stop"), "{body}");
    assert_eq!(status(admin, "/livez"), 200);
    let not_ready = ask(&["--ready"]);
    assert_exit(&not_ready, 1);
    let reason = text(&not_ready.stderr);
    assert!(reason.contains("not ready: draining: the server was told to stop"), "{reason}");
    let alive = ask(&[]);
    assert_exit(&alive, 0);
    assert_eq!(text(&alive.stdout), "live\n");
    assert_exit(&janus(&["publish", "news", "1", "--server", &by_classic(classic)]).output().unwrap(), 0);
    server.error_line("draining over");
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_second_signal_ends_the_delay_and_the_server_at_once() {
    let Ports { server, admin, .. } = start(&["--drain-delay", "1 h"]);
    let begun = Instant::now();
    server.signal("TERM");
    server.error_line("not ready from now on");
    server.signal("INT");
    server.error_line("already draining");
    assert_eq!(status(admin, "/livez"), 200);
    assert_eq!(server.signal_until_it_ends("INT").code(), Some(1));
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[test]
fn a_server_that_drains_is_alive_and_not_ready_to_the_end() {
    let Ports { server, classic, admin, .. } =
        start(&["--drain-timeout", "1 h", "--write-timeout", "1 h", "--max-queue-bytes", "16 MiB"]);
    // A client that does not read holds the drain up.
    let mut slow = TcpStream::connect(classic).unwrap();
    slow.write_all(b"{\"action\":\"subscribe\",\"data\":\"t\"}\0").unwrap();
    let mut greeting = [0; 1024];
    let mut length = 0;
    while !greeting[..length].ends_with(b"ACK\x01") {
        length += slow.read(&mut greeting[length..]).unwrap();
    }
    let message = format!("\"{}\"\n", "x".repeat(60_000));
    let publish = ["publish", "t", "-", "--server", &by_classic(classic)];
    assert_exit(&janus(&publish).write_stdin(message.repeat(60)).output().unwrap(), 0);
    server.signal("TERM");
    server.error_line("draining");
    until_status(admin, "/readyz", 503);
    assert_eq!(status(admin, "/livez"), 200);
    let slow_clients: Value = serde_json::from_str(&get(admin, "/api/slow", "").2).unwrap();
    assert_eq!(slow_clients["clients"][0]["transport"], json!("classic"), "{slow_clients}");
    slow.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(server.wait().code(), Some(0));
}

#[cfg(feature = "fault-injection")]
#[test]
fn a_server_whose_actors_hang_answers_until_it_ends_itself() {
    let ports = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let server = Running::spawn(crate::cli_run::binary(&ports).env("HANG_THE_ACTORS", "1"));
    let admin = address(&server.error_line("admin port on "));
    assert_eq!(status(admin, "/livez"), 200);
    let body = until_status(admin, "/readyz", 503);
    assert!(body.contains("\"arbiter\":\"the thread of the actors has been silent for "), "{body}");
    // The service manager restarts a server that ends itself, no later than for a check of liveness.
    assert_eq!(server.wait().code(), Some(1));
}

#[test]
fn the_command_finds_the_admin_port_by_the_settings_of_the_server() {
    let addr = SocketAddr::new(own_address().ip(), 18_082);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "listen = \"127.0.0.1:0\"\nadmin_listen = \"{addr}\"").unwrap();
    let config = ["--config", file.path().to_str().unwrap()];
    let health = |arguments: &[&str]| {
        let mut command = janus(arguments);
        command.env_remove("JANUS_ADMIN_LISTEN");
        command
    };
    let output = health(&[&["health"], &config[..]].concat()).output().unwrap();
    assert_exit(&output, 1);
    let errors = text(&output.stderr);
    assert!(errors.contains(&format!("cannot connect to {addr}")) && errors.contains("running"), "{errors}");

    let server = Running::spawn(crate::cli_run::binary(&config).env_remove("JANUS_ADMIN_LISTEN"));
    server.error_line("admin port on ");
    for arguments in [[&["health"][..], &config].concat(), [&config[..], &["health", "--ready"]].concat()] {
        assert_exit(&health(&arguments).output().unwrap(), 0);
    }
    assert_exit(&health(&["health"]).env("JANUS_CONFIG", config[1]).output().unwrap(), 0);
    assert_exit(&health(&["health"]).env("JANUS_ADMIN_LISTEN", addr.to_string()).output().unwrap(), 0);
    assert_exit(&health(&["health"]).env("JANUS_SERVER", addr.to_string()).output().unwrap(), 0);

    let none = health(&["health"]).env("JANUS_ADMIN_LISTEN", "").output().unwrap();
    assert_exit(&none, 2);
    assert!(text(&none.stderr).contains("admin_listen is empty"), "{}", text(&none.stderr));
}

#[test]
fn the_command_gives_up_on_a_server_that_does_not_answer() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let admin = silent.local_addr().unwrap().to_string();
    let output = janus(&["health", "--server", &admin, "--timeout", "200 ms"]).output().unwrap();
    assert_exit(&output, 1);
    assert!(text(&output.stderr).contains("no answer from the server within 200 ms"), "{}", text(&output.stderr));
}

#[test]
fn descriptors_are_kept_for_the_admin_port() {
    let ports = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let clients = |ports: &[&str]| -> u32 {
        let line = Running::start_with_descriptors(ports, 1_000).error_line("1000 descriptors allow ");
        line.split("allow ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap()
    };
    // A sixteenth of the descriptors, because 64 would be more; one of them would have been kept for refusals.
    assert_eq!((clients(&ports[..2]), clients(&ports)), (913, 852));
}

const HAPROXY: &str = include_str!("proxies/haproxy-health.cfg");

/// The server that answers a request through the load balancer; `None` if the load balancer has none.
fn answered_by(proxy: SocketAddr) -> Option<String> {
    let (status, head, _) = get(proxy, "/api/openapi.json", "");
    let server = head.split("\r\nx-server: ").nth(1)?.split("\r\n").next()?.to_owned();
    (status == 200).then_some(server)
}

#[test]
fn a_load_balancer_sends_no_client_to_a_server_that_is_told_to_stop() {
    let more = ["--drain-delay", "5 s", "--trusted-proxies", "127.0.0.0/8"];
    let (one, two) = (start(&more), start(&more));
    let proxy = SocketAddr::new(own_address().ip(), 18_080);
    let mut configuration = HAPROXY.to_owned();
    for (documented, here) in [
        ("bind :80\n", format!("bind {proxy}\n    http-response set-header x-server %s\n")),
        ("leastconn", "roundrobin".to_owned()),
        ("inter 1s", "inter 50ms".to_owned()),
        (" check port 8082", " check".to_owned()),
        ("10.0.0.11:8080", format!("{} port {}", one.http, one.admin.port())),
        ("10.0.0.12:8080", format!("{} port {}", two.http, two.admin.port())),
    ] {
        assert!(configuration.contains(documented), "{documented} is in the documented configuration");
        configuration = configuration.replace(documented, &here);
    }
    let _haproxy = HaProxy::run(&configuration, vec![proxy]);
    let both = || [answered_by(proxy), answered_by(proxy)];
    let deadline = Instant::now() + PATIENCE;
    let is_complete =
        |answers: [Option<String>; 2]| ["one", "two"].iter().all(|name| answers.contains(&Some((*name).to_owned())));
    while !is_complete(both()) {
        assert!(Instant::now() < deadline, "the load balancer uses both servers");
    }

    let mut client = subscribe(proxy, "one");
    one.server.signal("TERM");
    until_status(one.admin, "/readyz", 503);
    let mut of_two = 0;
    // Every request is answered; a row of answers without the first server shows that the load balancer has noticed.
    while of_two < 20 {
        match answered_by(proxy).expect("a request through the load balancer is answered").as_str() {
            "two" => of_two += 1,
            _ => of_two = 0,
        }
        assert!(Instant::now() < deadline, "the load balancer still uses the server that is told to stop");
    }
    assert_eq!(status(one.http, "/api/openapi.json"), 200, "the server still serves");
    // The client that is connected stays to the drain, which tells the client to come back.
    let mut rest = String::new();
    client.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("event: bye"), "{rest}");
    while TcpStream::connect(one.http).is_ok() {
        assert_eq!(answered_by(proxy).as_deref(), Some("two"));
    }
    assert_eq!(one.server.wait().code(), Some(0));
    assert_eq!(answered_by(proxy).as_deref(), Some("two"));
}

#[test]
fn event_streams_end_with_the_drain_and_do_not_hold_it_up() {
    let Ports { server, admin, .. } = start(&[]);
    let mut streams = ["/api/events?view=stats", "/api/subscribe?topic=news"].map(|path| {
        let mut stream = TcpStream::connect(admin).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut begin = Vec::new();
        while !begin.ends_with(b"event: s") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            begin.extend(byte);
        }
        stream
    });
    server.signal("TERM");
    for stream in &mut streams {
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert!(rest.contains("event: bye\n") && rest.contains("\"server_draining\""), "{rest}");
        assert!(rest.ends_with("\r\n0\r\n\r\n"), "the stream is complete: {rest}");
    }
    assert_eq!(server.wait().code(), Some(0));
}

/// An event stream through the load balancer from this server.
fn subscribe(proxy: SocketAddr, server: &str) -> TcpStream {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut stream = TcpStream::connect(proxy).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"GET /events?topic=news HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.extend(byte);
        }
        if String::from_utf8(head).unwrap().contains(&format!("x-server: {server}\r\n")) {
            return stream;
        }
        assert!(Instant::now() < deadline, "no stream from the server {server}");
    }
}

#[test]
fn the_examples_of_the_document_are_right() {
    let document = include_str!("../docs/OPERATIONS.md");
    let block = format!("```haproxy\n{HAPROXY}```\n");
    assert!(document.contains(&block), "docs/OPERATIONS.md must contain:\n\n{block}");

    let pod = include_str!("../docs/kubernetes/janus.yaml");
    let after = |key: &str| -> Vec<&str> {
        pod.lines().filter_map(|line| line.trim().strip_prefix(key)).map(str::trim).collect()
    };
    let (_, settings) = pod.split_once("janus.toml: |\n").unwrap();
    let settings: Vec<&str> = settings.lines().map_while(|line| line.strip_prefix("    ")).collect();
    for text in [settings.join("\n").as_str(), include_str!("../packaging/container.toml")] {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let path = file.path().to_str().unwrap();
        let output = janus(&["config", "show", "--config", path, "--listen", "127.0.0.1:0"]).output().unwrap();
        assert_exit(&output, 0);
        assert!(text.contains("admin_listen = [\"0.0.0.0:8082\"]"), "{text}");
    }
    assert!(after("- name: JANUS_").iter().all(|name| *name == "API_KEY"), "a variable hides a setting of the file");
    let Ports { server: _server, admin, .. } = start(&[]);
    assert_eq!(after("path:").len(), 2);
    for path in after("path:") {
        assert_eq!(status(admin, path), 200, "{path}");
    }
}
