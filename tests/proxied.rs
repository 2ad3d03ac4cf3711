//! Janus behind nginx with the configuration of docs/PROXIES.md: TLS and HTTP/2 in front, a real browser, and restarts.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::browser_run::{Page, Site};
use crate::cli_run::{PATIENCE, Running, assert_exit, by_classic, janus};
use crate::support::own_address;

const NGINX: &str = include_str!("proxies/nginx.conf");
const CADDY: &str = include_str!("proxies/Caddyfile");

/// The server behind the proxy, with short times.
struct Server {
    running: Running,
    classic: String,
    http: SocketAddr,
}

impl Server {
    fn start(http: SocketAddr) -> Self {
        let times = ["--sse-retry", "300 ms", "--drain-timeout", "1 s", "--restart-time", "500 ms"];
        let listen = ["--listen", "127.0.0.1:0", "--http-listen", &http.to_string()];
        let running = Running::start(&[&listen[..], &times].concat());
        let address = |line: &str| running.error_line(line).rsplit(' ').next().unwrap().to_owned();
        let (classic, http) = (address("listening on "), address("serving HTTP on ").parse().unwrap());
        Self { running, classic, http }
    }

    /// Ends the server; the next server has to listen on the address returned.
    fn end(self, signal: &str) -> SocketAddr {
        self.running.signal(signal);
        self.running.wait();
        self.http
    }

    fn publish(&self, text: &str) {
        let output = janus(&["publish", "news", text, "--server", &by_classic(&self.classic)]).output().unwrap();
        assert_exit(&output, 0);
    }
}

/// nginx with a documented configuration, on an address of the test.
pub(crate) struct Nginx {
    child: Child,
    address: SocketAddr,
    folder: TempDir,
}

/// What a configuration has in a test, in front of the rest and at the beginning of its http block.
fn of_the_test(folder: &TempDir) -> [String; 2] {
    let path = |name: &str| folder.path().join(name).display().to_string();
    let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary = kinds.map(|kind| format!("{kind}_temp_path {};", path(kind))).concat();
    [
        format!("daemon off; pid {}; error_log {};", path("pid"), path("errors")),
        format!("access_log {}; {temporary}", path("requests")),
    ]
}

impl Nginx {
    /// With a whole configuration, which listens on this address.
    pub(crate) fn with(configuration: &str, address: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [main, http] = of_the_test(&folder);
        let configuration = configuration.replacen("http {", &format!("http {{ {http}"), 1);
        fs::write(folder.path().join("nginx.conf"), main + &configuration).unwrap();
        Self::run(folder, address)
    }

    /// With the file `nginx.conf` of the folder.
    fn run(folder: TempDir, address: SocketAddr) -> Self {
        let path = |name: &str| folder.path().join(name).display().to_string();
        let child = Command::new("nginx")
            .args(["-c", &path("nginx.conf"), "-e", &path("errors")])
            .stdin(Stdio::null())
            .spawn()
            .expect("this test needs nginx: run tests/run.sh, which installs it");
        let nginx = Self { child, address, folder };
        nginx.wait_until_it_listens();
        nginx
    }

    /// In front of a server and a site, with a certificate of the test.
    fn start(janus: SocketAddr, site: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let address = SocketAddr::new(own_address().ip(), 8443);
        make_certificate(&path("certificate"), &path("key"), address);
        let mut server = NGINX.to_owned();
        for (documented, here) in [
            ("listen 443 ", &*format!("listen {address} ")),
            ("server 127.0.0.1:8080;", &format!("server {janus};")),
            ("http://127.0.0.1:3000;", &format!("http://{site};")),
            ("/etc/ssl/push.example.pem", &path("certificate")),
            ("/etc/ssl/push.example.key", &path("key")),
        ] {
            assert!(server.contains(documented), "{documented} is in the documented configuration");
            server = server.replace(documented, here);
        }
        fs::write(path("server.conf"), server).unwrap();
        let [main, http] = of_the_test(&folder);
        let events = "events { worker_connections 1024; }";
        let whole = format!("{main} {events} http {{ {http} include {}; }}", path("server.conf"));
        fs::write(path("nginx.conf"), whole).unwrap();
        Self::run(folder, address)
    }

    fn wait_until_it_listens(&self) {
        let deadline = Instant::now() + PATIENCE;
        // A channel without messages: a pause with an end.
        let (_sender, nothing) = channel::<()>();
        while TcpStream::connect(self.address).is_err() {
            assert!(Instant::now() < deadline, "nginx does not listen:\n{}", self.log("errors"));
            let _ = nothing.recv_timeout(Duration::from_millis(20));
        }
    }

    fn origin(&self) -> String {
        format!("https://{}", self.address)
    }

    fn log(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // SIGKILL would leave the worker processes.
        let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}

fn make_certificate(certificate: &str, key: &str, address: SocketAddr) {
    let name = format!("subjectAltName=IP:{}", address.ip());
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=test", "-addext", &name, "-keyout", key, "-out", certificate])
        .output()
        .expect("this test needs openssl: run tests/run.sh, which installs it");
    assert_exit(&output, 0);
}

/// A status and a body, by HTTP/1.1 over the TLS of openssl.
fn get(nginx: &Nginx, path: &str, accept: &str) -> String {
    let host = nginx.address;
    exchange(nginx, &format!("GET {path} HTTP/1.1\r\nhost: {host}\r\naccept: {accept}\r\nconnection: close\r\n\r\n"))
}

/// The answers to these requests over one connection, of which the last closes the connection.
fn exchange(nginx: &Nginx, requests: &str) -> String {
    let mut child = Command::new("openssl")
        .args(["s_client", "-quiet", "-verify_quiet", "-connect", &nginx.address.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(requests.as_bytes()).unwrap();
    let mut answer = String::new();
    child.stdout.take().unwrap().read_to_string(&mut answer).unwrap();
    drop(input);
    child.wait().unwrap();
    answer
}

const STREAMS: u64 = 4;
const SOCKETS: u64 = 2;

/// Waits until each connection of these kinds has reported `what`. A connection lost for good fails the test.
#[track_caller]
fn all(page: &Page<'_>, what: &str, expected: &[(&str, u64)]) {
    let mut waiting: Vec<Value> =
        expected.iter().flat_map(|(kind, count)| (0..*count).map(move |number| json!([kind, number]))).collect();
    while !waiting.is_empty() {
        let report = page.report();
        assert_ne!(report[2], "final", "{report} instead of {what}");
        let told = match what {
            // The goodbye of nginx, not of a drain.
            "away" => report[2] == "bye" && report[4] == "the server is away for a moment",
            _ => report[2] == what,
        };
        if told {
            waiting.retain(|connection| *connection != json!([report[0], report[1]]));
        }
    }
}

#[test]
fn pages_behind_nginx_come_back_after_absences_of_any_length() {
    let site = Site::start();
    let mut server = Server::start(own_address());
    let nginx = Nginx::start(server.http, site.address());
    let (streams, sockets) = (STREAMS.to_string(), SOCKETS.to_string());
    let parameters = [("streams", &*streams), ("sockets", &sockets), ("hurried", "yes")];
    let page = site.open_at(&nginx.origin(), "returns", &parameters);
    let everybody = [("stream", STREAMS), ("socket", SOCKETS)];
    all(&page, "subscribed", &everybody);
    for (signal, soon) in [("TERM", true), ("TERM", false), ("KILL", true), ("KILL", false)] {
        let http = server.end(signal);
        if !soon {
            all(&page, "away", &[("stream", STREAMS)]);
        }
        server = Server::start(http);
        all(&page, "subscribed", &everybody);
        server.publish("\"are you there?\"");
        all(&page, "message", &everybody);
    }
    let requests = nginx.log("requests");
    assert!(
        requests.contains("GET /events?topic=news HTTP/2.0\" 200"),
        "streams are not carried by HTTP/2: {requests}"
    );
}

#[test]
fn nginx_answers_for_an_absent_server_in_the_clients_format() {
    let site = Site::start();
    let server = Server::start(own_address());
    let nginx = Nginx::start(server.http, site.address());
    server.end("KILL");
    let stream = get(&nginx, "/events?topic=news", "text/event-stream");
    let (head, body) = stream.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("\r\nContent-Type: text/event-stream\r\n"), "{head}");
    let lines: Vec<&str> = body.lines().collect();
    assert_eq!(lines[..2], ["event: bye", "retry: 2000"]);
    let data: Value = serde_json::from_str(lines[2].strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!((&data["code"], &data["reconnect_after_ms"]), (&json!(4002), &json!(2000)));
    assert_eq!(lines[3..], [""]);
    for accept in ["*/*", "application/json"] {
        let answer = get(&nginx, "/events?topic=news", accept);
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nRetry-After: 2\r\n"), "{answer}");
    }
}

/// How many connections with this local address are in each of these states, by the kernel's numbers. Other tests may
/// have used the same port of another address a moment before.
#[cfg(target_os = "linux")]
fn connections(addr: SocketAddr, states: [&str; 2]) -> [usize; 2] {
    let SocketAddr::V4(addr) = addr else { panic!("{addr} is in another table") };
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let local_addr = format!("{:08X}:{:04X}", u32::from_ne_bytes(addr.ip().octets()), addr.port());
    let of_addr = table.lines().filter_map(|line| {
        let mut columns = line.split_whitespace().skip(1);
        let (local, _, state) = (columns.next()?, columns.next()?, columns.next()?);
        (local == local_addr).then_some(state)
    });
    let of_addr: Vec<&str> = of_addr.collect();
    states.map(|state| of_addr.iter().filter(|of_line| **of_line == state).count())
}

#[cfg(target_os = "linux")]
#[test]
fn nginx_keeps_its_connections_to_the_server() {
    const ESTABLISHED: &str = "01";
    const TIME_WAIT: &str = "06";
    const KEY: &str = "correct-horse-battery";
    let site = Site::start();
    let http = own_address();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "api_key = \"{KEY}\"").unwrap();
    let listen =
        ["--config", file.path().to_str().unwrap(), "--listen", "127.0.0.1:0", "--http-listen", &http.to_string()]
            .map(str::to_owned);
    let running = Running::start(&listen.each_ref().map(|flag| &**flag));
    let http: SocketAddr = running.error_line("serving HTTP on ").rsplit(' ').next().unwrap().parse().unwrap();
    let nginx = Nginx::start(http, site.address());
    let body = r#"{"topic":"news","data":1}"#;
    let request = |last: bool| {
        let connection = if last { "connection: close\r\n" } else { "" };
        format!(
            "POST /api/publish HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {KEY}\r\n{connection}content-type: \
             application/json\r\ncontent-length: {}\r\n\r\n{body}",
            nginx.address,
            body.len()
        )
    };
    for _ in 0..3 {
        let answers = exchange(&nginx, &(request(false).repeat(49) + &request(true)));
        assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 50, "{answers}");
        let topics = format!(
            "GET /api/topics HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {KEY}\r\nconnection: close\r\n\r\n",
            nginx.address
        );
        assert!(exchange(&nginx, &topics).starts_with("HTTP/1.1 200 OK"));
    }
    let [open, waiting] = connections(http, [ESTABLISHED, TIME_WAIT]);
    assert!((1..=4).contains(&open) && waiting == 0, "{open} connections, {waiting} in TIME_WAIT");
}

#[test]
fn the_document_has_the_tested_configurations() {
    let document = include_str!("../docs/PROXIES.md");
    for (language, configuration) in [("nginx", NGINX), ("caddyfile", CADDY)] {
        let block = format!("```{language}\n{configuration}```\n");
        assert!(document.contains(&block), "docs/PROXIES.md must contain:\n\n{block}");
    }
}
