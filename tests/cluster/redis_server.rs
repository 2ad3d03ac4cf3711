//! A `redis-server` for one test; the server ends with the test.
//!
//! To be included by the tests of any crate: `#[path = "…/tests/cluster/redis_server.rs"] mod redis_server;`.

#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(unreachable_pub, reason = "the module is private to each test")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A server with nothing but memory, unless its settings say otherwise.
#[derive(Debug)]
pub struct RedisServer {
    child: Child,
    folder: TempDir,
    port: u16,
    settings: Vec<String>,
}

/// A reply of the server to a command of the test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Null,
    Number(i64),
    Text(String),
    Error(String),
    List(Vec<Self>),
}

impl Reply {
    /// The text of a string.
    #[track_caller]
    pub fn text(self) -> String {
        match self {
            Self::Text(text) => text,
            other => panic!("expected a text: {other:?}"),
        }
    }
}

/// How long a server may take to start, or to come to a state.
const PATIENCE: Duration = Duration::from_secs(20);

impl RedisServer {
    /// Starts a server.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Starts a server with more settings, as on its command line: `--requirepass secret`.
    pub fn with(settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the server");
        let settings: Vec<_> = settings.iter().map(|&setting| setting.to_owned()).collect();
        let port = free_port();
        let child = launch(&folder, port, &settings);
        let server = Self { child, folder, port, settings };
        server.wait_until_up();
        server
    }

    /// The address over TCP.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The address at the Unix socket.
    pub fn unix_url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The path of the Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    /// Carries out a command on a connection of its own, and returns the reply.
    #[track_caller]
    pub fn command(&self, parts: &[&str]) -> Reply {
        let mut stream = UnixStream::connect(self.socket()).expect("the server listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        if let Some(place) = self.settings.iter().position(|setting| setting == "--requirepass") {
            exchange(&mut stream, &["AUTH", &self.settings[place + 1]]).expect("the password");
        }
        exchange(&mut stream, parts).expect("a reply")
    }

    /// As [`command`](Self::command); the command must not fail.
    #[track_caller]
    pub fn run(&self, parts: &[&str]) -> Reply {
        match self.command(parts) {
            Reply::Error(error) => panic!("{parts:?}: {error}"),
            reply => reply,
        }
    }

    /// Gives the server another history, as a promotion does, with all its data.
    pub fn promote(&self) {
        self.run(&["REPLICAOF", "127.0.0.1", "1"]);
        self.run(&["REPLICAOF", "NO", "ONE"]);
    }

    /// Makes the server a replica of another, and waits until it has all data.
    pub fn follow(&self, master: &Self) {
        self.run(&["REPLICAOF", "127.0.0.1", &master.port.to_string()]);
        self.wait_for("the replica is in step", || self.info("replication", "master_link_status") == "up");
    }

    /// A line of `INFO`.
    pub fn info(&self, section: &str, name: &str) -> String {
        let text = self.run(&["INFO", section]).text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_default().trim().to_owned()
    }

    /// Waits until a condition holds.
    #[track_caller]
    pub fn wait_for(&self, what: &str, condition: impl Fn() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !condition() {
            assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
            thread::park_timeout(Duration::from_millis(2));
        }
    }

    /// Ends the server without a warning.
    pub fn kill(&mut self) {
        // Also a process that is paused ends.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts the server again, at the same place.
    pub fn restart(&mut self) {
        self.kill();
        self.child = launch(&self.folder, self.port, &self.settings);
        self.wait_until_up();
    }

    /// Stops the process, as a machine that hangs.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    /// Lets the process go on.
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let _ = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
    }

    #[track_caller]
    fn wait_until_up(&self) {
        let is_up = || {
            let mut stream = UnixStream::connect(self.socket()).ok()?;
            match exchange(&mut stream, &["PING"]).ok()? {
                Reply::Error(error) if error.starts_with("LOADING") => None,
                _ => Some(()),
            }
        };
        self.wait_for("redis-server is up", || is_up().is_some());
    }
}

/// Servers that share the slots of a Redis Cluster.
#[derive(Debug)]
pub struct RedisCluster {
    /// The servers; those behind the masters are without slots.
    pub servers: Vec<RedisServer>,
}

/// The slots of a Redis Cluster.
const SLOTS: usize = 16_384;

impl RedisCluster {
    /// Starts a cluster of so many masters, and so many servers without slots.
    pub fn start(masters: usize, more: usize) -> Self {
        let server = |_| {
            let bus = free_port().to_string();
            RedisServer::with(&["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", "500"])
        };
        let servers: Vec<_> = (0..masters + more).map(server).collect();
        let first = &servers[0];
        for (index, server) in servers.iter().enumerate() {
            if index < masters {
                let (from, to) = (index * SLOTS / masters, (index + 1) * SLOTS / masters - 1);
                server.run(&["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()]);
            }
            let bus = first.settings[3].clone();
            server.run(&["CLUSTER", "MEET", "127.0.0.1", &first.port.to_string(), &bus]);
        }
        let cluster = Self { servers };
        let all = cluster.servers.len().to_string();
        for server in &cluster.servers {
            server.wait_for("the cluster is up", || {
                let info = server.run(&["CLUSTER", "INFO"]).text();
                let has = |line: &str| info.lines().any(|other| other == line);
                has("cluster_state:ok") && has(&format!("cluster_known_nodes:{all}"))
            });
        }
        cluster
    }

    /// The address through some of the servers.
    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.servers.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
        format!("redis+cluster://{}", hosts.join(","))
    }

    /// The name of a server in the cluster.
    pub fn id(&self, server: usize) -> String {
        self.servers[server].run(&["CLUSTER", "MYID"]).text()
    }
}

/// A Sentinel of a master and the replicas, with the power to promote a replica.
#[derive(Debug)]
pub struct Sentinel {
    child: Child,
    // Sentinel writes to the settings in the folder.
    _folder: TempDir,
    port: u16,
}

impl Sentinel {
    /// Starts a Sentinel of a master with the name `tests`.
    pub fn start(master: &RedisServer) -> Self {
        Self::with_patience(master, Duration::from_millis(100))
    }

    /// The same; a master without an answer for so long is down.
    pub fn with_patience(master: &RedisServer, patience: Duration) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the Sentinel");
        let (port, settings) = (free_port(), folder.path().join("sentinel.conf"));
        let monitor = format!("sentinel monitor tests 127.0.0.1 {} 1\n", master.port);
        let patience = format!("sentinel down-after-milliseconds tests {}\n", patience.as_millis());
        let times = patience + "sentinel failover-timeout tests 2000\n";
        std::fs::write(&settings, format!("bind 127.0.0.1\nport {port}\n{monitor}{times}")).expect("settings");
        let mut command = Command::new("redis-server");
        command.arg(&settings).arg("--sentinel").stdin(Stdio::null()).stdout(Stdio::null());
        Self { child: command.spawn().expect("redis-server is on the path"), _folder: folder, port }
    }

    /// The port of the server that the Sentinel takes for the master.
    pub fn master(&self) -> Option<u16> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        match exchange(&mut stream, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "tests"]) {
            Ok(Reply::List(parts)) => parts.into_iter().nth(1)?.text().parse().ok(),
            _ => None,
        }
    }

    /// Whether the Sentinel has heard of a replica.
    pub fn knows_a_replica(&self) -> bool {
        // The Sentinel may still be starting.
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else { return false };
        matches!(exchange(&mut stream, &["SENTINEL", "REPLICAS", "tests"]), Ok(Reply::List(list)) if !list.is_empty())
    }

    /// The port of the Sentinel.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn launch(folder: &TempDir, port: u16, settings: &[String]) -> Child {
    let socket = folder.path().join("redis.sock");
    let _ = std::fs::remove_file(&socket);
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
    command.args(["--repl-diskless-sync-delay", "0", "--unixsocket"]).arg(&socket);
    command.arg("--dir").arg(folder.path()).args(settings);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.spawn().expect("redis-server is on the path (Debian: apt install redis-server)")
}

/// A free port.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

fn exchange(mut stream: impl Read + Write, parts: &[&str]) -> std::io::Result<Reply> {
    let mut text = format!("*{}\r\n", parts.len());
    for part in parts {
        text += &format!("${}\r\n{part}\r\n", part.len());
    }
    stream.write_all(text.as_bytes())?;
    read_reply(&mut BufReader::new(stream))
}

fn read_reply(stream: &mut impl BufRead) -> std::io::Result<Reply> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let (kind, rest) = line.trim_end().split_at(1);
    let number = || rest.parse::<i64>().expect("a number");
    Ok(match kind {
        "+" => Reply::Text(rest.to_owned()),
        "-" => Reply::Error(rest.to_owned()),
        ":" => Reply::Number(number()),
        "$" | "*" if number() < 0 => Reply::Null,
        "$" => {
            let mut bytes = vec![0; usize::try_from(number()).expect("a length") + 2];
            stream.read_exact(&mut bytes)?;
            bytes.truncate(bytes.len() - 2);
            Reply::Text(String::from_utf8_lossy(&bytes).into_owned())
        }
        "*" => Reply::List((0..number()).map(|_| read_reply(stream)).collect::<Result<_, _>>()?),
        other => panic!("no reply begins with {other:?}"),
    })
}
