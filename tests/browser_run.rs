//! Runs pages in a real headless browser: the site of the pages, their reports, and a network that can fail.
//!
//! The browser is Chromium, or Firefox with `JANUS_TEST_BROWSER=firefox`. Pages use the sources of the client, or with
//! `JANUS_TEST_CLIENT` the files of the unpacked package in that folder.
//!
//! A page reports with `tests/browser/report.js`: JSON arrays, whose first element names the kind. No test waits longer
//! than [`PATIENCE`] for a report.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::cli_run::PATIENCE;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/web");
const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../janus-js/src");
const TESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/browser");

/// Serves the example and the tests' own pages, and receives the reports.
pub(crate) struct Site {
    listening: Listening,
    reports: Receiver<Value>,
    /// The only authority that the browser trusts, as PEM text, if the site is served over TLS.
    authority: Option<String>,
}

impl Site {
    pub(crate) fn start() -> Self {
        let (sender, reports) = channel();
        let listening = Listening::start(move |stream| {
            // A browser opens connections and leaves some unused.
            let _ = answer(stream, &sender);
        });
        Self { listening, reports, authority: None }
    }

    /// Serves the pages over TLS, as `localhost`. Without knowing the authority, the browser would refuse the pages.
    pub(crate) fn start_over_tls(config: Arc<ServerConfig>, authority: String) -> Self {
        let (sender, reports) = channel();
        let listening = Listening::start(move |stream| {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let _ = answer(StreamOwned::new(connection, stream), &sender);
        });
        Self { listening, reports, authority: Some(authority) }
    }

    pub(crate) fn origin(&self) -> String {
        match self.authority {
            None => format!("http://{}", self.listening.address),
            Some(_) => format!("https://localhost:{}", self.listening.address.port()),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listening.address
    }

    /// Runs a script of `tests/browser` in a new page, with the given parameters.
    pub(crate) fn open(&self, script: &str, parameters: &[(&str, &str)]) -> Page<'_> {
        self.open_at(&self.origin(), script, parameters)
    }

    /// Runs a script through a proxy that serves this site at another origin.
    pub(crate) fn open_at(&self, origin: &str, script: &str, parameters: &[(&str, &str)]) -> Page<'_> {
        let mut url = format!("{origin}/test.html?script={script}");
        for (name, value) in parameters {
            url = format!("{url}&{name}={value}");
        }
        Page { site: self, browser: Browser::start(&url, self.authority.as_deref()) }
    }
}

/// Answers a single request and closes.
fn answer(stream: impl Read + Write, reports: &Sender<Value>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let (mut request, mut length) = (String::new(), 0);
    stream.read_line(&mut request)?;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let mut parts = request.split(' ');
    let (method, target) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    let path = target.split('?').next().unwrap_or("");
    let (status, content) = match (method, path) {
        ("POST", "/report") => {
            for report in serde_json::from_slice::<Vec<Value>>(&body)? {
                // The test may have ended.
                let _ = reports.send(report);
            }
            ("204 No Content", Vec::new())
        }
        _ => match content(path) {
            Some(content) => ("200 OK", content),
            None => ("404 Not Found", Vec::new()),
        },
    };
    let kind = if path.ends_with(".js") { "text/javascript" } else { "text/html" };
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}; charset=utf-8\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        content.len()
    );
    stream.get_mut().write_all(head.as_bytes())?;
    stream.get_mut().write_all(&content)
}

fn content(path: &str) -> Option<Vec<u8>> {
    let name = path.strip_prefix('/')?;
    let packed = std::env::var_os("JANUS_TEST_CLIENT").map(|folder| Path::new(&folder).join("dist"));
    match (name.strip_prefix("janus-client/"), packed) {
        (Some("index.js"), Some(packed)) => return std::fs::read(packed.join("janus.js")).ok(),
        (Some(name), None) if !name.contains('/') => return std::fs::read(Path::new(CLIENT).join(name)).ok(),
        (None, Some(packed)) if name == "janus.global.js" => return std::fs::read(packed.join(name)).ok(),
        _ if name == "janus.js" => return Some(b"export * from \"./janus-client/index.js\";".to_vec()),
        _ => {}
    }
    let name = if name.is_empty() { "index.html" } else { name };
    if name.contains('/') {
        return None;
    }
    [EXAMPLE, TESTS].iter().find_map(|folder| std::fs::read(Path::new(folder).join(name)).ok())
}

/// A page in a browser. The browser ends when the page is dropped.
pub(crate) struct Page<'site> {
    site: &'site Site,
    browser: Browser,
}

impl Page<'_> {
    /// The next report. The test fails on a report of an error, or without a report.
    #[track_caller]
    pub(crate) fn report(&self) -> Value {
        match self.site.reports.recv_timeout(PATIENCE) {
            Ok(report) if report[0] == "error" => panic!("an error on the page: {report}"),
            Ok(report) => report,
            Err(_) => panic!("the page reports nothing more; the browser's log:\n{}", self.browser.log()),
        }
    }

    /// The next report of this kind. Reports of other kinds are skipped; a kind in `never` fails the test.
    #[track_caller]
    pub(crate) fn report_of(&self, kind: &str, never: &[&str]) -> Value {
        loop {
            let report = self.report();
            if report[0] == kind {
                return report;
            }
            assert!(!never.iter().any(|never| report[0] == *never), "{report} instead of {kind}");
        }
    }
}

/// A headless browser with a profile of its own. Ends when dropped.
pub(crate) struct Browser {
    child: Child,
    profile: TempDir,
}

impl Browser {
    /// Opens a page. Of certificates, the browser accepts those of the authority alone. Without an authority, Chromium accepts
    /// any.
    pub(crate) fn start(url: &str, authority: Option<&str>) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let is_firefox = std::env::var("JANUS_TEST_BROWSER").is_ok_and(|name| name == "firefox");
        // Debian's name first.
        let names: &[&str] =
            if is_firefox { &["firefox-esr", "firefox"] } else { &["chromium", "chromium-browser", "google-chrome"] };
        for name in names {
            let log = File::create(profile.path().join("log")).unwrap();
            let mut command = Command::new(name);
            if is_firefox {
                firefox(&mut command, profile.path(), authority);
            } else {
                chromium(&mut command, profile.path(), authority);
            }
            // With the authorities that the browser trusts.
            command.env("HOME", profile.path()).arg(url).stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
            match command.spawn() {
                Ok(child) => return Self { child, profile },
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => panic!("{name} does not start: {error}"),
            }
        }
        let name = names[0];
        panic!(
            "this test needs {name}: run tests/run.sh, which installs it, or \
             `apt-get install --no-install-recommends {name}`"
        );
    }

    /// The address of the browser's DevTools protocol, once the browser has told it.
    pub(crate) fn devtools(&self) -> String {
        let deadline = Instant::now() + PATIENCE;
        // A channel without messages: a pause with an end.
        let (_sender, nothing) = channel::<()>();
        loop {
            let log = self.log();
            // The line may be half written.
            let line =
                log.split_inclusive('\n').find_map(|line| line.trim_start().strip_prefix("DevTools listening on "));
            if let Some(address) = line.and_then(|line| line.strip_suffix('\n')) {
                return address.trim().to_owned();
            }
            assert!(Instant::now() < deadline, "the browser tells no address; its log:\n{log}");
            let _ = nothing.recv_timeout(Duration::from_millis(20));
        }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.profile.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Kills the process group: the processes of pages would otherwise write to the profile during its deletion.
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn chromium(command: &mut Command, profile: &Path, authority: Option<&str>) {
    match authority {
        // The certificate of a proxy, whose tests are about the proxy.
        None => drop(command.arg("--ignore-certificate-errors")),
        Some(authority) => make_known(authority, &profile.join(".pki/nssdb")),
    }
    command
        .arg("--headless")
        // All pages are ours, and in most containers the sandbox cannot start.
        .arg("--no-sandbox")
        // In containers /dev/shm is small.
        .arg("--disable-dev-shm-usage")
        .args(["--disable-gpu", "--no-first-run", "--mute-audio", "--enable-logging=stderr"])
        // The browser talks only to the test.
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .arg("--disable-extensions")
        .arg(format!("--user-data-dir={}", profile.join("profile").display()))
        // Without this flag a headless browser may end after loading the page.
        .arg("--remote-debugging-port=0");
}

fn firefox(command: &mut Command, profile: &Path, authority: Option<&str>) {
    let folder = profile.join("profile");
    std::fs::create_dir_all(&folder).unwrap();
    // The browser talks only to the test, and loads the page at once.
    let preferences: String = [
        "app.normandy.enabled",
        "browser.safebrowsing.downloads.remote.enabled",
        "browser.safebrowsing.malware.enabled",
        "browser.safebrowsing.phishing.enabled",
        "browser.shell.checkDefaultBrowser",
        "datareporting.healthreport.uploadEnabled",
        "datareporting.policy.dataSubmissionEnabled",
        "extensions.systemAddon.update.enabled",
        "extensions.update.enabled",
        "network.captive-portal-service.enabled",
        "network.connectivity-service.enabled",
        "services.settings.enabled",
        "toolkit.telemetry.enabled",
    ]
    .map(|name| format!("user_pref(\"{name}\", false);\n"))
    .concat();
    std::fs::write(folder.join("user.js"), preferences).unwrap();
    if let Some(authority) = authority {
        make_known(authority, &folder);
    }
    command.args(["--headless", "--no-remote", "--profile"]).arg(folder);
}

/// Makes an authority known to a browser with this database.
fn make_known(authority: &str, folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    let pem = folder.join("authority.pem");
    std::fs::write(&pem, authority).unwrap();
    let database = format!("sql:{}", folder.display());
    let pem = pem.to_str().unwrap();
    for arguments in [&["-N", "--empty-password"][..], &["-A", "-n", "authority", "-t", "C,,", "-i", pem]] {
        let status = Command::new("certutil").args(["-d", &database]).args(arguments).status();
        let status = status.expect("this test needs certutil: run tests/run.sh, which installs it");
        assert!(status.success(), "{arguments:?}");
    }
}

/// A network between page and server that fails on request.
pub(crate) struct Proxy {
    listening: Listening,
    network: Arc<Network>,
}

struct Network {
    target: SocketAddr,
    refuses: AtomicBool,
    refuses_websockets: AtomicBool,
    connections: Mutex<Vec<Carried>>,
}

/// Both ends of a connection, and the number of bytes that still get through from the client and from the server.
type Carried = (TcpStream, TcpStream, [Arc<AtomicUsize>; 2]);

impl Proxy {
    pub(crate) fn to(target: SocketAddr) -> Self {
        let [refuses, refuses_websockets] = [(); 2].map(|()| AtomicBool::new(false));
        let network = Network { target, refuses, refuses_websockets, connections: Mutex::default() };
        let network = Arc::new(network);
        let shared = Arc::clone(&network);
        let listening = Listening::start(move |stream| {
            // Failing connections are the purpose of the proxy.
            let _ = shared.carry(stream);
        });
        Self { listening, network }
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}/ws", self.listening.address)
    }

    pub(crate) fn port(&self) -> u16 {
        self.listening.address.port()
    }

    /// Ends all connections.
    pub(crate) fn cut(&self) {
        for (client, server, _) in self.network.connections.lock().unwrap().drain(..) {
            // The connection may have ended already.
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        }
    }

    /// Stalls the current connections, which stay open without letting anything through.
    pub(crate) fn stall(&self) {
        for (_, _, passing) in self.network.connections.lock().unwrap().iter() {
            passing.iter().for_each(|passing| passing.store(0, Ordering::SeqCst));
        }
    }

    /// Lets only `bytes` more bytes of the current clients through. The server's bytes all get through.
    pub(crate) fn stall_clients_after(&self, bytes: usize) {
        for (_, _, [up, _]) in self.network.connections.lock().unwrap().iter() {
            up.store(bytes, Ordering::SeqCst);
        }
    }

    /// Sets whether new connections are ended at once.
    pub(crate) fn refuse(&self, refuses: bool) {
        self.network.refuses.store(refuses, Ordering::SeqCst);
    }

    /// Sets whether new connections for WebSockets are ended at once, as by a company's firewall.
    pub(crate) fn refuse_websockets(&self, refuses: bool) {
        self.network.refuses_websockets.store(refuses, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.refuse(true);
        self.cut();
    }
}

impl Network {
    fn carry(&self, client: TcpStream) -> io::Result<()> {
        if self.refuses_websockets.load(Ordering::SeqCst) {
            let mut begin = [0; 8];
            let length = client.peek(&mut begin)?;
            if begin[..length].starts_with(b"GET /ws") {
                return Ok(());
            }
        }
        let server = TcpStream::connect(self.target)?;
        let passing = [(); 2].map(|()| Arc::new(AtomicUsize::new(usize::MAX)));
        {
            // Under the lock, so that a connection is either refused or present for a cut.
            let mut connections = self.connections.lock().unwrap();
            if self.refuses.load(Ordering::SeqCst) {
                return Ok(());
            }
            connections.push((client.try_clone()?, server.try_clone()?, passing.clone()));
        }
        std::thread::scope(|scope| {
            scope.spawn(|| pipe(&client, &server, &passing[0]));
            pipe(&server, &client, &passing[1]);
        });
        Ok(())
    }
}

fn pipe(mut from: &TcpStream, mut to: &TcpStream, passing: &AtomicUsize) {
    let mut piece = [0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        let left = passing.load(Ordering::SeqCst);
        let through = &piece[..length.min(left)];
        if !through.is_empty() && to.write_all(through).is_err() {
            break;
        }
        if left != usize::MAX {
            passing.store(left - through.len(), Ordering::SeqCst);
        }
    }
    if passing.load(Ordering::SeqCst) > 0 {
        let _ = to.shutdown(Shutdown::Write);
    }
}

/// Accepts connections until dropped, and gives each connection a thread.
struct Listening {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Listening {
    fn start(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (ended, serve) = (Arc::new(AtomicBool::new(false)), Arc::new(serve));
        let is_ended = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if is_ended.load(Ordering::SeqCst) {
                    break;
                }
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || serve(stream));
            }
        });
        Self { address, ended, thread: Some(thread) }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
