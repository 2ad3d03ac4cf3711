//! `janus-server top`, as a person sees it on a terminal and as a script reads it: the real binary on a
//! pseudo-terminal, in front of a real server.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};
use serde_json::{Value, json};

use crate::cli_run::{PATIENCE, Running, assert_exit, binary, janus, text, wait};

/// The classic port, the HTTP port and the admin port of a server of its own.
struct Server {
    running: Running,
    classic: SocketAddr,
    http: SocketAddr,
    admin: SocketAddr,
}

impl Server {
    fn start(more: &[&str]) -> Self {
        Self::of(&mut binary(&[&["--admin-listen", "127.0.0.1:0"][..], &Self::PORTS, more].concat()))
    }

    const PORTS: [&str; 4] = ["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"];

    fn of(command: &mut Command) -> Self {
        let running = Running::spawn(command);
        let address = |words| running.error_line(words).rsplit(' ').next().unwrap().parse().unwrap();
        let (classic, http, admin) = (address("listening on "), address("serving HTTP on "), address("admin port on "));
        Self { running, classic, http, admin }
    }

    fn url(&self) -> String {
        format!("http://{}", self.admin)
    }

    /// A client of the classic protocol, subscribed to a topic.
    fn subscribe(&self, topic: &str) -> TcpStream {
        let mut client = TcpStream::connect(self.classic).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let frame = json!({"action": "subscribe", "data": topic}).to_string() + "\0";
        client.write_all(frame.as_bytes()).unwrap();
        let mut received = Vec::new();
        while !received.ends_with(b"ACK\x01") {
            let mut piece = [0; 1024];
            let length = client.read(&mut piece).unwrap();
            assert!(length > 0, "the server closed the connection: {}", text(&received));
            received.extend_from_slice(&piece[..length]);
        }
        client
    }

    /// A client that does not read, with more in its queue than the kernel takes.
    fn slow_client(&self, topic: &str) -> TcpStream {
        let client = self.subscribe(topic);
        let url = format!("http://{}", self.http);
        let message = format!("\"{}\"\n", "x".repeat(60_000));
        let publish =
            janus(&["publish", topic, "-", "--server", &url]).write_stdin(message.repeat(150)).output().unwrap();
        assert_exit(&publish, 0);
        client
    }

    /// One look at the server as JSON.
    fn look(&self) -> Value {
        let output = janus(&["top", "--once", "--json", "--server", &self.url()]).output().unwrap();
        assert_exit(&output, 0);
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// Settings under which a client may lag for long.
const PATIENT: [&str; 4] = ["--write-timeout", "1 h", "--max-queue-bytes", "32 MiB"];

/// `janus-server top` on a terminal of its own.
struct Terminal {
    child: Child,
    keys: File,
    output: Receiver<Vec<u8>>,
    screen: vt100::Parser,
    /// The other end. Keeps the terminal open after the end of the program.
    line: OwnedFd,
    /// The modes of the terminal before the start of the program.
    before: Termios,
}

impl Terminal {
    fn start(arguments: &[&str], (columns, lines): (u16, u16)) -> Self {
        Self::spawn(&binary(&[&["top"], arguments].concat()), (columns, lines))
    }

    fn spawn(command: &Command, (columns, lines): (u16, u16)) -> Self {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&controller).unwrap();
        unlockpt(&controller).unwrap();
        let name = ptsname(&controller, Vec::new()).unwrap();
        let line = open(&*name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let size = Winsize { ws_row: lines, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&line, size).unwrap();
        let before = tcgetattr(&line).unwrap();
        // A session of its own with this controlling terminal; else the program would find the terminal of the developer.
        let mut session = Command::new("setsid");
        session.arg("--ctty").arg(command.get_program()).args(command.get_args()).env("TERM", "xterm-256color");
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => session.env(name, value),
                None => session.env_remove(name),
            };
        }
        let end = || Stdio::from(line.try_clone().unwrap());
        let child = session.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        let mut output = File::from(controller.try_clone().unwrap());
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let mut piece = vec![0; 64 * 1024];
            while let Ok(length) = output.read(&mut piece) {
                if length == 0 || sender.send(piece[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        let screen = vt100::Parser::new(lines, columns, 0);
        Self { child, keys: File::from(controller), output: receiver, screen, line, before }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    fn contents(&self) -> String {
        self.screen.screen().contents()
    }

    /// Waits until the screen is as expected.
    #[track_caller]
    fn until(&mut self, what: &str, expected: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let contents = self.contents();
            if expected(&contents) {
                return contents;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(piece) => self.screen.process(&piece),
                Err(_) => panic!("still waiting for {what} on:\n{contents}"),
            }
        }
    }

    #[track_caller]
    fn sees(&mut self, text: &str) -> String {
        self.until(text, |contents| contents.contains(text))
    }

    /// Waits for the end of the program, and returns its exit code. The terminal must be as before the start.
    #[track_caller]
    fn ends(&mut self) -> Option<i32> {
        let status = wait(&mut self.child);
        // The output of the program is in the terminal by now; a line of the test marks the end.
        File::from(self.line.try_clone().unwrap()).write_all(b"\r\nthat was all").unwrap();
        self.sees("that was all");
        let after = tcgetattr(&self.line).unwrap();
        assert_eq!(format!("{:?}", after.local_modes), format!("{:?}", self.before.local_modes));
        assert_eq!(format!("{:?}", after.input_modes), format!("{:?}", self.before.input_modes));
        assert!(!self.screen.screen().alternate_screen(), "the alternate screen is left");
        assert!(!self.screen.screen().hide_cursor(), "the cursor is shown");
        status.code()
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const DOWN: &str = "\u{1b}[B";
const SIZE: (u16, u16) = (80, 24);

#[test]
fn one_look_as_json_has_the_figures_topics_clients_and_the_tree() {
    let server = Server::start(&PATIENT);
    let _reader = server.subscribe("quiet");
    let _slow = server.slow_client("busy");
    // The server takes a look at lag every second.
    let deadline = Instant::now() + PATIENCE;
    let mut look = server.look();
    while look["connections"][0]["lagging_for_ms"] == 0 {
        assert!(Instant::now() < deadline, "the slow client never lags: {look}");
        look = server.look();
    }
    assert_eq!(look["version"], env!("CARGO_PKG_VERSION"));
    assert!(look["uptime_ms"].is_u64() && look["time"].is_u64(), "{look}");
    assert_eq!(look["stats"]["topics"]["value"], 2);
    let mut topics: Vec<_> = look["topics"].as_array().unwrap().iter().map(|topic| &topic["topic"]).collect();
    topics.sort_by_key(|topic| topic.to_string());
    assert_eq!(topics, ["busy", "quiet"]);
    assert_eq!(look["topics_total"], 2);
    assert_eq!(look["connections_total"], 2);
    // The slow client is first in the list by lag, and alone in the list of slow clients.
    let first = &look["connections"][0];
    assert!(first["queued_bytes"].as_u64().unwrap() > 0, "{first}");
    assert_eq!(look["slow"].as_array().unwrap().len(), 1);
    assert_eq!(look["slow"][0]["connection"], first["connection"]);
    assert_eq!(look["tree"]["state"], "running");
    assert!(look["tree"]["children"].to_string().contains("topic busy #"), "{look}");
}

#[test]
fn one_look_as_text_is_a_page_for_people() {
    let server = Server::start(&[]);
    let _reader = server.subscribe("news");
    let output = janus(&["top", "--once", "--server", &server.url()]).output().unwrap();
    assert_exit(&output, 0);
    let page = text(&output.stdout);
    for expected in [
        "connections   1 of ",
        "topics by rate",
        "TOPIC ",
        "news ",
        "clients by lag",
        "classic ",
        "topic_supervisor",
        "running",
    ] {
        assert!(page.contains(expected), "no {expected:?} in:\n{page}");
    }
    assert!(!page.contains('\u{1b}'), "a page of plain text");
}

#[test]
fn limit_bounds_each_list_of_one_look() {
    let server = Server::start(&[]);
    let _clients: Vec<_> = (0..5).map(|n| server.subscribe(&format!("topic{n}"))).collect();
    let output = janus(&["top", "--once", "--json", "--limit", "2", "--server", &server.url()]).output().unwrap();
    assert_exit(&output, 0);
    let look: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((look["topics"].as_array().unwrap().len(), &look["topics_total"]), (2, &json!(5)));
    assert_eq!((look["connections"].as_array().unwrap().len(), &look["connections_total"]), (2, &json!(5)));
    assert!(look["tree_unlisted"].as_u64().unwrap() >= 3, "{look}");
}

#[test]
fn k_closes_the_selected_client_after_a_confirmation() {
    let server = Server::start(&PATIENT);
    let mut slow = server.slow_client("busy");
    let mut top = Terminal::start(&["--server", &server.url()], SIZE);
    top.sees("slow 1");
    top.press("2");
    let peer = slow.local_addr().unwrap().to_string();
    top.sees(&peer);
    top.press(DOWN);
    top.sees("topics busy");
    top.press("k");
    top.sees("Close a client?");
    assert_eq!(server.look()["connections_total"], 1, "no client is closed before the confirmation");
    top.press("y");
    top.sees("closing connection ");
    top.sees("no client");
    // The bytes taken by the kernel, and then the end.
    slow.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut piece = vec![0; 1 << 20];
    while slow.read(&mut piece).is_ok_and(|length| length > 0) {}
    top.press("q");
    assert_eq!(top.ends(), Some(0));
}

#[test]
fn the_terminal_is_given_back_after_keys_and_signals() {
    let server = Server::start(&[]);
    for keys in ["q", "\u{3}"] {
        let mut top = Terminal::start(&["--server", &server.url()], SIZE);
        top.sees("1 Topics");
        top.press(keys);
        assert_eq!(top.ends(), Some(0), "{keys:?}");
    }
    for signal in ["TERM", "INT", "HUP", "QUIT"] {
        let mut top = Terminal::start(&["--server", &server.url()], SIZE);
        top.sees("1 Topics");
        top.signal(signal);
        assert_eq!(top.ends(), Some(0), "{signal}");
    }
}

#[test]
fn a_server_that_dies_leaves_data_with_an_age_and_its_successor_is_found() {
    let Server { running, admin, .. } = Server::start(&[]);
    let url = format!("http://{admin}");
    let mut top = Terminal::start(&["--server", &url, "--interval", "200ms"], SIZE);
    top.sees("1 Topics");
    drop(running);
    let screen = top.sees("data from ");
    assert!(screen.contains("cannot connect to ") || screen.contains("connection"), "{screen}");
    top.sees("trying again");
    let admin = admin.to_string();
    let successor = Server::of(&mut binary(&[&["--admin-listen", &*admin], &Server::PORTS[..]].concat()));
    top.until("the data of the successor", |contents| !contents.contains("data from "));
    drop(successor);
}

#[test]
fn a_server_that_hangs_is_late_and_not_forgotten() {
    let server = Server::start(&[]);
    let mut top = Terminal::start(&["--server", &server.url(), "--interval", "200ms", "--timeout", "5 s"], SIZE);
    top.sees("1 Topics");
    server.running.signal("STOP");
    top.sees("waiting for an answer of the server");
    top.sees("no answer from the server within 5 s");
    server.running.signal("CONT");
    top.until("new data", |contents| !contents.contains("data from "));
}

#[test]
fn names_of_strangers_are_shown_and_not_obeyed() {
    let server = Server::start(&[]);
    let _reader = server.subscribe("evil\u{202e}txt\u{200b}新聞");
    let mut top = Terminal::start(&["--server", &server.url()], SIZE);
    let screen = top.sees("txt\\u{200b}新聞");
    let line = screen.lines().find(|line| line.contains("新聞")).unwrap();
    assert!(line.contains("evil\\u{202e}txt"), "{line}");
    // The figures stand below their titles, so the wide characters are measured right.
    let column = |line: &str, text: &str| line[..line.find(text).unwrap()].chars().count();
    let titles = screen.lines().find(|line| line.contains("SUBSCRIBERS")).unwrap();
    let wide = 2;
    assert_eq!(column(line, " 1 ") + wide, column(titles, "S    MSGS/S") - 1, "{screen}");
}

#[test]
fn a_server_that_is_not_to_be_trusted_cannot_command_the_terminal() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let _ = answer_with_escapes(&mut stream);
        }
    });
    let output = janus(&["top", "--once", "--json", "--server", &url]).output().unwrap();
    assert_exit(&output, 0);
    let output = [output.stdout, janus(&["top", "--once", "--server", &url]).output().unwrap().stdout].concat();
    assert!(output.iter().all(|byte| *byte != 0x1b) && text(&output).contains("\\u{1b}[2J"), "{}", text(&output));
    assert!(!text(&output).contains('\u{9b}'), "{}", text(&output));
    let mut top = Terminal::start(&["--server", &url], SIZE);
    top.sees("topic\\u{1b}[2J\\u{9b}31m");
}

/// Answers one request with names that are commands to a terminal.
#[test]
fn a_port_that_answers_with_other_json_is_no_server() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut head = [0; 1024];
            let _ = stream.read(&mut head);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\n[1,2,3]");
        }
    });
    for arguments in [&["--json"][..], &[]] {
        let output = janus(&[&["top", "--once", "--server", &url], arguments].concat()).output().unwrap();
        assert_exit(&output, 1);
        assert!(text(&output.stderr).contains("is not a port of a Janus server"), "{}", text(&output.stderr));
    }
}

fn answer_with_escapes(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let escape = "\u{1b}[2J\u{9b}31m";
    let body = json!({
        "version": format!("1{escape}"), "time": 1, "uptime_ms": 1, "stats": {},
        "topics": [{"topic": format!("topic{escape}"), "subscribers": 1, "in_flight": 0, "available": true}],
        "connections": [{"connection": 1, "user": escape, "peer": escape, "transport": escape}],
        "clients": [],
        "tree": {"name": escape, "state": escape, "restarts": 0, "last_reason": escape, "children": []}, "unlisted": 0,
    })
    .to_string();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

#[test]
fn without_colours_no_sequence_for_a_colour_is_sent() {
    let server = Server::start(&[]);
    for (no_color, expected) in [("1", false), ("", true)] {
        let mut command = binary(&["top", "--server", &server.url()]);
        let mut top = Terminal::spawn(command.env("NO_COLOR", no_color), SIZE);
        top.sees("1 Topics");
        let has_colours = {
            let screen = top.screen.screen();
            let cells = (0..SIZE.1).flat_map(|line| (0..SIZE.0).map(move |column| (line, column)));
            cells
                .filter_map(|(line, column)| screen.cell(line, column))
                .any(|cell| cell.fgcolor() != vt100::Color::Default)
        };
        assert_eq!(has_colours, expected, "NO_COLOR={no_color:?}");
    }
}

#[test]
fn a_new_size_of_the_terminal_is_followed() {
    let server = Server::start(&[]);
    let mut top = Terminal::start(&["--server", &server.url()], SIZE);
    top.sees("1 Topics");
    top.screen.screen_mut().set_size(15, 60);
    tcsetwinsize(&top.line, Winsize { ws_row: 15, ws_col: 60, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    // On a low screen the bars are left out.
    top.until("a low screen", |contents| contents.contains("1 Topics") && !contents.contains("deliveries"));
}

#[test]
fn without_a_terminal_the_error_recommends_once() {
    let server = Server::start(&[]);
    let output = janus(&["top", "--server", &server.url()]).output().unwrap();
    assert_exit(&output, 2);
    assert!(text(&output.stderr).contains("--once"), "{}", text(&output.stderr));
}

#[test]
fn a_wrong_port_and_a_missing_key_are_errors_in_plain_text() {
    let server = Server::start(&[]);
    let http = format!("http://{}", server.http);
    let mut top = Terminal::start(&["--server", &http], SIZE);
    top.sees("admin_listen");
    assert_eq!(top.ends(), Some(2));
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "api_key = \"correct-horse-battery\"").unwrap();
    let config = ["--config", file.path().to_str().unwrap()];
    let server = Server::start(&config);
    let mut top = Terminal::start(&["--server", &server.url()], SIZE);
    top.sees("unauthorized");
    assert_eq!(top.ends(), Some(1));
    let mut top = Terminal::start(&[&["--server", &server.url()][..], &config].concat(), SIZE);
    top.sees("1 Topics");
}

#[cfg(feature = "fault-injection")]
#[test]
fn a_topic_that_crashes_stands_out_in_the_tree() {
    let server = Server::of(
        binary(&[&["--admin-listen", "127.0.0.1:0"], &Server::PORTS[..]].concat()).env("CRASH_THE_TOPIC", "crashing"),
    );
    let _clients: Vec<_> = (0..30).map(|n| server.subscribe(&format!("topic{n}"))).collect();
    let _crashing = server.subscribe("crashing");
    let mut top = Terminal::start(&["--server", &server.url(), "--interval", "200ms"], SIZE);
    top.sees("1 Topics");
    top.press("3");
    let screen = top.until("the topic in trouble", |contents| contents.contains("topic crashing"));
    assert!(screen.contains("more (Enter)"), "the others are folded:\n{screen}");
}

#[test]
fn an_interval_out_of_range_is_refused() {
    for interval in ["10ms", "2 h", "0 s"] {
        let output = janus(&["top", "--interval", interval]).output().unwrap();
        assert_exit(&output, 2);
        let errors = text(&output.stderr);
        assert!(errors.contains("100 ms to 1 h"), "{errors}");
    }
}
