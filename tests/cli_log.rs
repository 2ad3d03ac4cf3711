//! The log of `janus-server serve` while standard error or the system is faulty: the only cost is lost lines of the
//! log.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, ErrorKind, PipeReader, PipeWriter, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::cli_run::{PATIENCE, Running, assert_exit, binary, by_classic, janus, text, wait};

/// The log of a server, through a pipe to the test.
pub(crate) struct Log {
    reader: BufReader<PipeReader>,
    writer: PipeWriter,
}

impl Log {
    pub(crate) fn new() -> Self {
        let (reader, writer) = std::io::pipe().unwrap();
        Self { reader: BufReader::new(reader), writer }
    }

    /// Starts a server with the pipe as its log. Returns the server and the listening address.
    pub(crate) fn start(&mut self, arguments: &[&str]) -> (Server, String) {
        let stderr = self.writer.try_clone().unwrap();
        self.start_on(stderr, arguments)
    }

    /// Starts a server with another end of the pipe as standard error.
    fn start_on(&mut self, stderr: impl Into<Stdio>, arguments: &[&str]) -> (Server, String) {
        let arguments = [&["--listen", "127.0.0.1:0"], arguments].concat();
        let server = Server(binary(&arguments).stderr(stderr).spawn().unwrap());
        (server, self.address("listening on "))
    }

    /// Starts a server with other variables.
    pub(crate) fn start_with(&mut self, arguments: &[&str], variables: &[(&str, &str)]) -> (Server, String) {
        let arguments = [&["--listen", "127.0.0.1:0"], arguments].concat();
        let stderr = self.writer.try_clone().unwrap();
        let mut command = binary(&arguments);
        let server = command.envs(variables.iter().copied()).stderr(stderr).spawn().unwrap();
        (Server(server), self.address("listening on "))
    }

    /// The address after these words in the next line with them, in any format.
    pub(crate) fn address(&mut self, words: &str) -> String {
        let line = self.line(words);
        let after = line.split(words).nth(1).unwrap();
        after.split(['"', ' ', '\n']).next().unwrap().to_owned()
    }

    /// The lines not read yet, up to the end of the server.
    pub(crate) fn rest(self) -> Vec<String> {
        drop(self.writer);
        self.reader.lines().map(Result::unwrap).collect()
    }

    /// The numbers of the pipe's device and inode.
    pub(crate) fn stream(&self) -> (u64, u64) {
        use std::os::unix::fs::MetadataExt as _;

        let file = File::from(OwnedFd::from(self.writer.try_clone().unwrap())).metadata().unwrap();
        (file.dev(), file.ino())
    }

    /// The next line that contains the text.
    pub(crate) fn line(&mut self, containing: &str) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.reader.read_line(&mut line).unwrap(), 0);
            if line.contains(containing) {
                return line;
            }
        }
    }

    /// An end of the pipe whose writes fail instead of waiting. The end is opened anew, so that the server's end still
    /// waits.
    #[cfg(target_os = "linux")]
    fn impatient(&self) -> File {
        use std::os::fd::AsRawFd as _;
        use std::os::unix::fs::OpenOptionsExt as _;

        const O_NONBLOCK: i32 = 0o4000;
        let path = format!("/proc/self/fd/{}", self.writer.as_raw_fd());
        OpenOptions::new().write(true).custom_flags(O_NONBLOCK).open(path).unwrap()
    }

    /// Fills the pipe, so that the next byte has to wait.
    #[cfg(target_os = "linux")]
    pub(crate) fn fill(&self) {
        let mut writer = self.impatient();
        for size in [4_096, 1] {
            while writer.write_all(&[b'\n'].repeat(size)).is_ok() {}
        }
    }
}

/// A server process, killed on drop.
pub(crate) struct Server(Child);

impl Server {
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.0.id().to_string()).status().unwrap();
        assert!(status.success());
    }

    #[track_caller]
    pub(crate) fn end(&mut self) -> ExitStatus {
        wait(&mut self.0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn connect(address: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    frames(&mut stream, 1);
    stream
}

/// Reads `count` frames.
pub(crate) fn frames(stream: &mut TcpStream, mut count: usize) {
    let mut bytes = [0; 4_096];
    while count > 0 {
        match stream.read(&mut bytes) {
            Ok(0) => panic!("the connection has ended"),
            Ok(length) => count -= bytes[..length].iter().filter(|&&byte| byte == 1).count(),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Interrupted),
        }
    }
}

/// Makes the server log `count` lines of one kind, and waits until all are logged and answered.
pub(crate) fn flood(stream: &mut TcpStream, count: usize) {
    let answers = std::thread::spawn({
        let mut stream = stream.try_clone().unwrap();
        move || frames(&mut stream, count)
    });
    stream.write_all(&b"{\"action\":\"subscribe\",\"data\":\"\"}\0".repeat(count)).unwrap();
    answers.join().unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn a_server_whose_log_is_not_read_serves_and_drains() {
    let mut log = Log::new();
    let (mut server, address) = log.start(&["--log", "debug", "--log-queue", "64"]);
    log.fill();
    let mut client = connect(&address);
    // More lines than the queue of the log holds, each from the home arbiter.
    flood(&mut client, 1_000);
    let output = janus(&["publish", "t", "1", "--server", &by_classic(&address)]).output().unwrap();
    assert_exit(&output, 0);
    server.signal("TERM");
    assert_eq!(server.end().code(), Some(0));
}

#[cfg(target_os = "linux")]
#[test]
fn lines_lost_without_a_reader_are_counted_when_the_reader_is_back() {
    let mut log = Log::new();
    let (_server, address) = log.start(&["--log", "debug", "--log-queue", "64"]);
    log.fill();
    flood(&mut connect(&address), 1_000);
    log.line("log lines were lost, because standard error was not read");
    log.line("more lines from closing.rs:");
}

#[cfg(target_os = "linux")]
#[test]
fn a_nonblocking_standard_error_is_written_as_room_appears() {
    let mut log = Log::new();
    let impatient = log.impatient();
    let (_server, address) = log.start_on(impatient, &["--log", "debug", "--log-queue", "64"]);
    log.fill();
    flood(&mut connect(&address), 1_000);
    log.line("log lines were lost, because standard error was not read");
}

#[cfg(all(target_os = "linux", feature = "fault-injection"))]
#[test]
fn a_server_that_gives_up_exits_with_1_even_if_its_log_is_not_read() {
    let log = Log::new();
    log.fill();
    let mut command = binary(&["--listen", "127.0.0.1:0"]);
    command.env("CRASH_THE_TOPIC_MANAGER", "1").stderr(log.writer.try_clone().unwrap());
    assert_eq!(Server(command.spawn().unwrap()).end().code(), Some(1));
}

#[test]
fn a_flood_of_one_kind_of_line_is_summed_up_without_loss() {
    let mut log = Log::new();
    let (_server, address) = log.start(&["--log", "debug"]);
    flood(&mut connect(&address), 5_000);
    let mut told = 0;
    while told < 5_000 {
        let line = log.line("");
        if line.contains("bad_topic") {
            told += 1;
        } else if line.contains("more lines from closing.rs:") {
            told += line.split("] ").nth(1).unwrap().split(' ').next().unwrap().parse::<usize>().unwrap();
        }
        assert!(told <= 5_000 && !line.contains("lost"), "{line}");
    }
}

/// Reads the greeting of a client, and its token.
fn token(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut greeting = Vec::new();
    while greeting.last() != Some(&1) {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        greeting.push(byte[0]);
    }
    let greeting: serde_json::Value = serde_json::from_slice(&greeting[..greeting.len() - 1]).unwrap();
    greeting["token"].as_str().unwrap().to_owned()
}

#[test]
fn at_debug_the_log_has_each_clients_life_and_no_token() {
    let mut log = Log::new();
    let http = ["--log", "debug", "--http-listen", "127.0.0.1:0"];
    let (_server, address) = log.start(&http);
    let http = log.line("serving HTTP on ").trim_end().rsplit(' ').next().unwrap().to_owned();
    let expect = |log: &mut Log, client: u64, peer: &TcpStream, rest: &str| {
        let words = format!("client {client} ({}): ", peer.local_addr().unwrap());
        let line = log.line(&words);
        assert!(line.contains(" DEBUG janus_core") && line.trim_end().ends_with(&format!("{words}{rest}")), "{line}");
    };
    let mut client = TcpStream::connect(&address).unwrap();
    let first = token(&mut client);
    client
        .write_all(b"{\"action\":\"subscribe\",\"data\":\"news\"}\0{\"action\":\"subscribe\",\"data\":\"a\"}\0")
        .unwrap();
    client.write_all(b"{\"action\":\"unsubscribe\",\"data\":\"a\"}\0").unwrap();
    let beginning = &first[..6];
    expect(&mut log, 1, &client, "connected, classic");
    expect(&mut log, 1, &client, &format!("opened, classic, session {beginning}…"));
    expect(&mut log, 1, &client, "subscribed to news");
    expect(&mut log, 1, &client, "subscribed to a");
    expect(&mut log, 1, &client, "unsubscribed from a");
    client.shutdown(std::net::Shutdown::Write).unwrap();
    expect(&mut log, 1, &client, &format!("left 1 topic, session {beginning}… is kept for 120 s"));
    expect(&mut log, 1, &client, "closed: its stream has ended");

    let mut client = TcpStream::connect(&address).unwrap();
    let second = token(&mut client);
    let received = [("news", 0)];
    client.write_all(&janus_core::wire::classic::client::attach(&first, received)).unwrap();
    client.write_all(&[b'x'; 70_000]).unwrap();
    expect(&mut log, 2, &client, "connected, classic");
    expect(&mut log, 2, &client, &format!("opened, classic, session {}…", &second[..6]));
    expect(&mut log, 2, &client, &format!("took over session {beginning}…"));
    expect(&mut log, 2, &client, "resumed news, 0 missed");
    expect(
        &mut log,
        2,
        &client,
        "frame_too_large: frame longer than the limit of 65536 bytes; end each frame with a NUL byte",
    );
    expect(&mut log, 2, &client, &format!("left 1 topic, session {beginning}… is kept for 120 s"));
    expect(&mut log, 2, &client, "closed: frame_too_large");

    let mut client = TcpStream::connect(&http).unwrap();
    client.write_all(b"GET /events?topic=news HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    expect(&mut log, 3, &client, "connected, http");
    assert!(log.line("client 3 ").contains(": opened, sse, session "));
    expect(&mut log, 3, &client, "subscribed to news");
    let mut client = TcpStream::connect(&http).unwrap();
    client.write_all(b"GET /api/topics HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    expect(&mut log, 4, &client, "connected, http");
    expect(&mut log, 4, &client, "closed: passed on");
}

/// A standard error without a reader, and a full standard error.
fn broken_outputs() -> [Stdio; 2] {
    let (_, gone) = std::io::pipe().unwrap();
    let full = File::options().write(true).open("/dev/full").unwrap();
    [gone.into(), full.into()]
}

#[cfg(target_os = "linux")]
#[test]
fn a_blocked_standard_error_changes_no_exit_code() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let cases: [(&[&str], i32); 4] = [
        (&["--threads", "0"], 2),
        (&["--no-such-flag"], 2),
        (&["--listen", &taken], 1),
        (&["subscribe", "t", "--server", "127.0.0.1:1"], 1),
    ];
    for (arguments, code) in cases {
        for errors in broken_outputs() {
            let mut ended = Server(binary(arguments).stderr(errors).spawn().unwrap());
            assert_eq!(ended.end().code(), Some(code), "{arguments:?}");
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_server_and_a_subscriber_work_without_standard_error() {
    let mut log = Log::new();
    let (mut server, address) = log.start(&[]);
    // From now on the log has no reader.
    drop(log);
    for errors in broken_outputs() {
        let arguments = ["subscribe", "t", "--server", &by_classic(&address), "--count", "1"];
        let mut subscriber = Server(binary(&arguments).stdout(Stdio::piped()).stderr(errors).spawn().unwrap());
        let mut lines = BufReader::new(subscriber.0.stdout.take().unwrap()).lines();
        let published = std::thread::spawn({
            let address = address.clone();
            // Until the subscriber is subscribed, which it cannot report.
            move || loop {
                let output = janus(&["publish", "t", "1", "--server", &by_classic(&address)]).output().unwrap();
                if text(&output.stdout).contains("\"subscribers\":1") {
                    break;
                }
            }
        });
        assert!(lines.next().unwrap().unwrap().contains("\"data\":1"));
        assert_eq!(subscriber.end().code(), Some(0));
        published.join().unwrap();
    }
    server.signal("TERM");
    assert_eq!(server.end().code(), Some(0));
}

#[cfg(feature = "fault-injection")]
#[test]
fn a_panic_is_one_line_of_the_log_even_if_the_log_is_off() {
    let mut command = janus(&["--listen", "127.0.0.1:0", "--log", "off"]);
    let output = command.env("CRASH_THE_TOPIC_MANAGER", "1").env_remove("RUST_BACKTRACE").output().unwrap();
    assert_exit(&output, 1);
    let errors = text(&output.stderr);
    let panics: Vec<_> = errors.lines().filter(|line| line.contains(" ERROR panic] thread janus")).collect();
    assert!(panics.iter().any(|line| line.contains(" panicked at ") && line.contains("TopicManager")), "{errors}");
    assert_eq!(errors.lines().count(), panics.len() + 1, "{errors}");
}

/// Makes `setsockopt` answer like a kernel that lacks the TCP option with the number `LACKS`.
#[cfg(target_os = "linux")]
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
int setsockopt(int fd, int level, int name, const void *value, socklen_t size) {
    int (*real)(int, int, int, const void *, socklen_t) = dlsym(RTLD_NEXT, "setsockopt");
    if (level == IPPROTO_TCP && name == atoi(getenv("LACKS"))) { errno = ENOPROTOOPT; return -1; }
    return real(fd, level, name, value, size);
}
"#;

#[cfg(target_os = "linux")]
#[test]
fn a_kernel_that_lacks_an_option_of_tcp_is_worth_one_warning() {
    let folder = tempfile::tempdir().unwrap();
    let (source, shim) = (folder.path().join("shim.c"), folder.path().join("shim.so"));
    std::fs::write(&source, SHIM).unwrap();
    // The linker of this test.
    let status = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&shim, &source]).arg("-ldl").status();
    assert!(status.unwrap().success());
    for (number, name) in
        [("1", "TCP_NODELAY"), ("4", "TCP_KEEPIDLE"), ("5", "TCP_KEEPINTVL"), ("18", "TCP_USER_TIMEOUT")]
    {
        let mut command = binary(&["--listen", "127.0.0.1:0", "--listen", "127.0.0.1:0"]);
        let server = Running::spawn(command.env("LD_PRELOAD", &shim).env("LACKS", number));
        server.error_line(&format!(
            "WARN  janus_core::connection::socket_options] this system has no {name} for its sockets"
        ));
        let about_io_uring = server.error_line("");
        assert!(about_io_uring.contains("io_uring"), "{about_io_uring}");
        let next = server.error_line("");
        assert!(next.contains("listening on "), "{next}");
        connect(next.rsplit(' ').next().unwrap());
    }
}
