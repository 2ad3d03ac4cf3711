//! A reader's terminals: a folder, the programs of the pages on the path, ports of the test's own, and running programs.
//!
//! `janus-server`, `cargo run` and `target/release/janus-server` are the binary of this build. Where the page leaves the
//! addresses to the defaults, small scripts in front of the binary name the ports of the test.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

use parking_lot::Mutex;
use regex::{Captures, Regex};
use tempfile::{TempDir, tempdir};

use super::page::root;
use crate::cli_run::PATIENCE;

/// The ports of the pages: the defaults of the settings, the port of the classic protocol over TLS, https, and a program
/// of the reader.
const PORTS: [u16; 6] = [8080, 8081, 8082, 8083, 8443, 8000];

/// In front of the binary: the ports of the test, wherever the command leaves an address to the defaults.
const JANUS: &str = r#"#!/bin/sh
file=$JANUS_CONFIG previous=
for argument; do
    [ "$previous" = --config ] && file=$argument
    previous=$argument
done
default() { # The setting, its variable and its address.
    [ -n "$file" ] && grep -q "^$1 *=" "$file" && return
    eval "[ -n \"\${$2+set}\" ]" || export "$2=$3"
}
default http_listen JANUS_HTTP_LISTEN 127.0.0.1:8080
default listen JANUS_LISTEN 127.0.0.1:8081
default admin_listen JANUS_ADMIN_LISTEN 127.0.0.1:8082
if [ "$1" = bench ]; then # No variable stands for its flags.
    shift
    case " $* " in *" --to "*) ;; *) set -- --to 127.0.0.1:8081 "$@" ;; esac
    case " $* " in *" --http "*) ;; *) set -- --http 127.0.0.1:8080 "$@" ;; esac
    set -- bench "$@"
fi
exec "BINARY" "$@"
"#;

/// In front of cargo, which would build the release.
const CARGO: &str = r#"#!/bin/sh
[ "$1 $2" = "run --release" ] || { echo "the test has no cargo $*"; exit 1; }
shift 2
[ "$1" = -p ] && shift 2
[ "$1" = -- ] && shift
exec janus-server "$@"
"#;

/// Before each command: the variables that the page has exported.
const BEFORE: &str = ". ./.variables 2>/dev/null; ";

pub(crate) struct Terminal {
    folder: TempDir,
    ports: Vec<(u16, u16)>,
    words: Regex,
}

impl Terminal {
    pub(crate) fn new() -> Self {
        let ports: Vec<_> = PORTS.iter().map(|&port| (port, free_port())).collect();
        let numbers = PORTS.map(|port| port.to_string()).join("|");
        let words = Regex::new(&format!(r"\b(?:{numbers})\b|/etc/janus")).expect("a pattern of numbers");
        let terminal = Self { folder: tempdir().unwrap(), ports, words };
        let path = |name: &str| terminal.path().join(name);
        for folder in ["bin", "etc", "target/release"] {
            fs::create_dir_all(path(folder)).unwrap();
        }
        let janus = terminal.adapt(JANUS).replace("BINARY", env!("CARGO_BIN_EXE_janus-server"));
        for (name, script) in [("bin/janus-server", &*janus), ("bin/cargo", CARGO)] {
            fs::write(path(name), script).unwrap();
            fs::set_permissions(path(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        symlink(path("bin/janus-server"), path("target/release/janus-server")).unwrap();
        for name in ["docs", "examples"] {
            symlink(root().join(name), path(name)).unwrap();
        }
        // The progress of a transfer is for a terminal, and curl sees none.
        fs::write(path(".curlrc"), "no-progress-meter\n").unwrap();
        terminal
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A text of the page with the ports and the folders of the test.
    pub(crate) fn adapt(&self, text: &str) -> String {
        let own = |found: &Captures<'_>| match &found[0] {
            "/etc/janus" => self.path().join("etc/janus").display().to_string(),
            port => self.ports.iter().find(|(page, _)| page.to_string() == port).map_or(0, |(_, own)| *own).to_string(),
        };
        self.words.replace_all(text, own).into_owned()
    }

    /// Writes a file that the page shows. A file of other programs of the machine, such as certbot, is not written.
    pub(crate) fn write(&self, name: &str, content: &str) {
        let path = self.path().join(self.adapt(name));
        if !path.starts_with(self.path()) {
            return;
        }
        fs::create_dir_all(path.parent().expect("a file is in a folder")).unwrap();
        fs::write(path, self.adapt(content)).unwrap();
    }

    /// Opens terminals without the variables of the page so far.
    pub(crate) fn forget_variables(&self) {
        let _ = fs::remove_file(self.path().join(".variables"));
    }

    /// Runs a command of bash.
    pub(crate) fn run(&self, command: &str) -> Program {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut bash = Command::new("bash");
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("JANUS_")) {
            bash.env_remove(name);
        }
        for name in ["NOTIFY_SOCKET", "JOURNAL_STREAM"] {
            bash.env_remove(name);
        }
        let path = std::env::var("PATH").unwrap_or_default();
        bash.env("PATH", format!("{}/bin:{path}:/usr/sbin", self.path().display()));
        bash.env("CURL_HOME", self.path()).env("PYTHONUNBUFFERED", "1");
        let keep = if command.starts_with("export ") { "; export -p > .variables" } else { "" };
        bash.arg("-c").arg(format!("{BEFORE}{command}{keep}")).current_dir(self.path());
        bash.stdin(Stdio::null()).stdout(writer.try_clone().unwrap()).stderr(writer).process_group(0);
        let child = bash.spawn().expect("bash is installed");
        // The test's own ends of the pipe are closed with `bash`.
        drop(bash);
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(reader).split(b'\n').map_while(Result::ok);
            for line in lines {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    break;
                }
            }
        });
        Program { child, lines, seen: Vec::new(), ended: false, deadline: Instant::now() + PATIENCE }
    }
}

/// A port that no other page and no server of the machine has, below the ports that the kernel gives to clients.
fn free_port() -> u16 {
    static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut ports = std::iter::repeat_with(|| fastrand::u16(10_000..32_000));
    let is_free = |port: &u16| TcpListener::bind(("0.0.0.0", *port)).is_ok() && TAKEN.lock().insert(*port);
    ports.by_ref().take(1_000).find(is_free).expect("one of a thousand ports is free")
}

/// A program and everything started by the program. Killed on drop.
pub(crate) struct Program {
    child: Child,
    lines: Receiver<String>,
    pub(crate) seen: Vec<String>,
    pub(crate) ended: bool,
    deadline: Instant,
}

impl Program {
    /// Takes the next line of the output; false if none comes any more, or none in time.
    pub(crate) fn read(&mut self) -> bool {
        match self.lines.recv_timeout(self.deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => self.seen.push(line),
            Err(RecvTimeoutError::Disconnected) => self.ended = true,
            Err(RecvTimeoutError::Timeout) => return false,
        }
        !self.ended
    }

    /// A new deadline for what the program is to say next.
    pub(crate) fn wait_anew(&mut self) {
        self.deadline = Instant::now() + PATIENCE;
    }

    /// The exit status of a program whose output has ended.
    pub(crate) fn status(&mut self) -> ExitStatus {
        crate::cli_run::wait(&mut self.child)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // The group: of a pipeline, and of a shell with children, every program.
        let _ =
            Command::new("kill").args(["-KILL", "--", &format!("-{}", self.child.id())]).stderr(Stdio::null()).status();
        let _ = self.child.wait();
    }
}
