//! Settings of the binary itself, and the harness for all settings that are changed in a file.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::api::ask;
use crate::cli_run::Running;
use crate::http::Http;
use crate::support::{Client, own_address};

/// The real binary with a file of settings.
pub(super) struct Server {
    pub(super) process: Running,
    pub(super) classic: SocketAddr,
    pub(super) http: SocketAddr,
    pub(super) admin: SocketAddr,
    file: PathBuf,
    /// The lines of the file, without tables.
    lines: Vec<String>,
    pub(super) folder: TempDir,
    /// The header with the key for the API.
    key: String,
}

impl Server {
    /// Starts the binary with these lines in its file; a relative path is one of the file's folder.
    pub(super) fn start(lines: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), lines, &[])
    }

    pub(super) fn start_in(folder: TempDir, lines: &str, flags: &[&str]) -> Self {
        let file = folder.path().join("janus.toml");
        let address = own_address();
        let listeners = ["listen", "http_listen", "admin_listen"].map(|name| format!("{name} = \"{address}\""));
        let lines: Vec<String> = listeners.into_iter().chain(lines.lines().map(str::to_owned)).collect();
        std::fs::write(&file, lines.join("\n")).unwrap();
        let mut command = crate::cli_run::binary(&[&["--config", file.to_str().unwrap()], flags].concat());
        command.env_remove("JANUS_HTTP_LISTEN").env_remove("JANUS_ADMIN_LISTEN");
        let process = Running::spawn(&mut command);
        let addr = |words: &str| process.error_line(words).rsplit(' ').next().unwrap().parse().unwrap();
        let (classic, http, admin) = (addr("listening on "), addr("serving HTTP on "), addr("admin port on "));
        Self { process, classic, http, admin, file, lines, folder, key: String::new() }
    }

    /// Replaces a setting in the file.
    pub(super) fn write(&mut self, setting: &str, value: &str) {
        self.lines.retain(|line| !line.starts_with(&format!("{setting} = ")));
        self.lines.push(format!("{setting} = {value}"));
        std::fs::write(&self.file, self.lines.join("\n")).unwrap();
    }

    /// Replaces the whole file but the listeners.
    pub(super) fn write_all(&mut self, text: &str) {
        self.lines.truncate(3);
        self.lines.extend(text.lines().map(str::to_owned));
        std::fs::write(&self.file, self.lines.join("\n")).unwrap();
    }

    pub(super) async fn ask_for_reload(&self) -> (u16, Value) {
        ask(self.admin, "POST", "/api/reload", &format!("{}Connection: close\r\n", self.key), None).await
    }

    /// Replaces a setting in the file, and has the server read the file again.
    pub(super) async fn reload(&mut self, setting: &str, value: &str) -> Value {
        self.write(setting, value);
        let (status, changes) = self.ask_for_reload().await;
        let names = |key: &str| changes[key].as_array().into_iter().flatten().any(|name| name == setting);
        assert!(status == 200 && (names("applied") || names("new_connections")), "{setting}: {status} {changes}");
        changes
    }

    pub(super) async fn client(&self) -> Client {
        Client::connect(self.classic).await
    }

    /// A path in the folder of the file, as a value of the file.
    pub(super) fn path(&self, name: &str) -> String {
        format!("{:?}", self.folder.path().join(name))
    }
}

const KEY: &str = "correct-horse-battery";

pub(super) async fn api_key() {
    let mut server = Server::start("");
    assert_eq!(ask(server.http, "GET", "/api/topics", "", None).await.0, 200);
    server.reload("api_key", &format!("{KEY:?}")).await;
    assert_eq!(ask(server.http, "GET", "/api/topics", "", None).await.0, 401);
    let header = format!("Authorization: Bearer {KEY}\r\n");
    assert_eq!(ask(server.http, "GET", "/api/topics", &header, None).await.0, 200);
    assert_eq!(server.ask_for_reload().await.0, 401, "the admin port follows as well");
}

pub(super) async fn max_api_connections() {
    let mut server = Server::start("");
    let head = format!("GET /api/trace?seconds=60 HTTP/1.1\r\nHost: {}\r\n\r\n", server.http);
    let mut trace = Http::send(server.http, head).await;
    trace.up_to("\r\n\r\n").await;
    assert_eq!(ask(server.http, "GET", "/api/topics", "", None).await.0, 200);
    server.reload("max_api_connections", "1").await;
    assert_eq!(ask(server.http, "GET", "/api/topics", "", None).await.0, 503, "the trace has the only place");
}

pub(super) async fn api_idle_timeout() {
    let mut server = Server::start("api_idle_timeout = \"1 d\"");
    let mut kept = Http::send(server.http, format!("GET /api/topics HTTP/1.1\r\nHost: {}\r\n\r\n", server.http)).await;
    kept.up_to("[]}").await;
    server.reload("api_idle_timeout", "\"10 ms\"").await;
    assert_eq!(kept.read_to_end().await, "");
}

pub(super) async fn drain_delay() {
    let mut server = Server::start("");
    server.reload("drain_delay", "\"1 h\"").await;
    server.process.signal("TERM");
    server.process.error_line("still serving for 3600 s");
    let (status, ready) = ask(server.admin, "GET", "/readyz", "Connection: close\r\n", None).await;
    assert_eq!((status, &ready["ready"]), (503, &json!(false)));
}

pub(super) async fn log() {
    let mut server = Server::start("");
    server.client().await;
    server.reload("log", "\"debug\"").await;
    server.client().await;
    server.process.error_line("connected, classic");
}

/// A file system that does not answer, as far as a test can make one: a pipe without a writer.
pub(super) fn pipe(server: &Server, name: &str) -> PathBuf {
    let path = server.folder.path().join(name);
    assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}
