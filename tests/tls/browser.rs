//! Pages of a real browser, over `wss` and `https` straight to the server. The browser knows the authority of the
//! certificates, and accepts no other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::ops::Range;

use serde_json::{Value, json};

use super::certificates::{Authority, Files};
use super::logged_address;
use crate::browser_run::{Page, Proxy, Site};
use crate::cli_run::{Running, assert_exit, by_classic, janus};
use crate::support::own_address;

/// The authority that the browser knows, and a site whose pages are served over TLS.
struct World {
    authority: Authority,
    site: Site,
}

impl World {
    fn new() -> Self {
        let authority = Authority::new();
        let site = Site::start_over_tls(authority.server_config(&["localhost"]), authority.pem());
        Self { authority, site }
    }

    /// Opens a page with event streams and WebSockets to the server.
    fn open(&self, server: &str) -> Connections<'_> {
        let (streams, sockets) = (STREAMS.to_string(), SOCKETS.to_string());
        let parameters = [("server", server), ("streams", &streams), ("sockets", &sockets), ("hurried", "yes")];
        Connections { page: self.site.open("returns", &parameters), waiting: BTreeMap::new() }
    }
}

struct Server {
    running: Running,
    classic: String,
    https: SocketAddr,
    _files: Files,
}

impl Server {
    /// Starts a server with a certificate of the authority for `localhost` and for the address.
    fn start(site: &Site, authority: &Authority, https: SocketAddr) -> Self {
        let files = Files::new();
        let pair = authority.server(&["localhost", &https.ip().to_string()]);
        let (certificate, key) = files.write_pair("server", &pair);
        let (origin, https) = (site.origin(), https.to_string());
        let tls = ["--tls-cert", certificate.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
        let times = ["--sse-retry", "300 ms", "--drain-timeout", "1 s", "--restart-time", "500 ms"];
        let listen = ["--listen", "127.0.0.1:0", "--https-listen", &https, "--allowed-origins", &origin];
        let running = Running::start(&[&listen[..], &tls, &times].concat());
        let classic = running.error_line("listening on ").rsplit(' ').next().unwrap().to_owned();
        let https = logged_address(&running.error_line("serving HTTP on "));
        Self { running, classic, https, _files: files }
    }

    fn publish(&self, numbers: Range<u64>) {
        let lines: String = numbers.map(|number| format!("{number}\n")).collect();
        let output = janus(&["publish", "news", "-", "--server", &by_classic(&self.classic)])
            .write_stdin(lines)
            .output()
            .unwrap();
        assert_exit(&output, 0);
    }
}

const STREAMS: usize = 2;
const SOCKETS: usize = 2;

/// The connections of a page, with the reports of each in order.
struct Connections<'site> {
    page: Page<'site>,
    /// Reports received while another connection was looked at.
    waiting: BTreeMap<Name, VecDeque<Value>>,
}

/// Such as `stream` and 0.
type Name = (String, u64);

impl Connections<'_> {
    /// The next report of a connection. The test fails if the connection is lost for good.
    #[track_caller]
    fn next(&mut self, name: &Name) -> Value {
        loop {
            if let Some(report) = self.waiting.get_mut(name).and_then(VecDeque::pop_front) {
                assert_ne!(report[2], "final", "{report}");
                return report;
            }
            let report = self.page.report();
            let owner = (report[0].as_str().unwrap().to_owned(), report[1].as_u64().unwrap());
            self.waiting.entry(owner).or_default().push_back(report);
        }
    }

    /// Waits until each connection has reported `what`, with this value, and nothing but the kinds in `before`.
    #[track_caller]
    fn each(&mut self, what: &str, value: &Value, before: &[&str]) {
        let streams = (0..STREAMS).map(|number| ("stream".to_owned(), number as u64));
        let sockets = (0..SOCKETS).map(|number| ("socket".to_owned(), number as u64));
        for name in streams.chain(sockets) {
            let report = loop {
                let report = self.next(&name);
                if !before.iter().any(|kind| report[2] == *kind) {
                    break report;
                }
            };
            assert_eq!((&report[2], &report[4]), (&json!(what), value), "{report}");
        }
    }

    #[track_caller]
    fn each_has(&mut self, numbers: Range<u64>) {
        for number in numbers {
            self.each("message", &json!(number), &[]);
        }
    }
}

/// The reports of a connection on its way back.
const RETURNING: [&str; 3] = ["lost", "bye", "open"];

#[test]
fn pages_over_https_resume_lost_connections_without_a_hole() {
    let world = World::new();
    let server = Server::start(&world.site, &world.authority, own_address());
    let proxy = Proxy::to(server.https);
    let mut page = world.open(&format!("https://localhost:{}", proxy.port()));
    page.each("subscribed", &json!(false), &["open"]);
    server.publish(0..20);
    page.each_has(0..20);
    for round in [20, 60] {
        proxy.refuse(true);
        proxy.cut();
        server.publish(round..round + 20);
        proxy.refuse(false);
        page.each("subscribed", &json!(true), &RETURNING);
        server.publish(round + 20..round + 40);
        page.each_has(round..round + 40);
    }
}

#[test]
fn pages_over_https_come_back_to_a_restarted_server() {
    let world = World::new();
    let mut server = Server::start(&world.site, &world.authority, own_address());
    let mut page = world.open(&format!("https://{}", server.https));
    page.each("subscribed", &json!(false), &["open"]);
    for signal in ["TERM", "KILL"] {
        server.running.signal(signal);
        let Server { running, https, .. } = server;
        running.wait();
        // With another certificate, and without the tickets of the earlier server.
        server = Server::start(&world.site, &world.authority, https);
        page.each("gap", &Value::Null, &RETURNING);
        page.each("subscribed", &json!(false), &RETURNING);
        server.publish(0..5);
        page.each_has(0..5);
    }
}

#[test]
fn a_page_refuses_a_certificate_of_an_unknown_authority() {
    let world = World::new();
    let server = Server::start(&world.site, &Authority::new(), own_address());
    let connections = world.open(&format!("https://{}", server.https));
    let mut refused = BTreeSet::new();
    while refused.len() < STREAMS + SOCKETS {
        let report = connections.page.report();
        assert!(report[2] == "lost" || report[2] == "final", "{report}");
        refused.insert(format!("{} {}", report[0], report[1]));
    }
}
