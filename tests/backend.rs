//! The backend of OPERATIONS, asked and told by the real binary.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use janus_core::wire::classic::client::{auth, subscribe};
use serde_json::Value;

use crate::cli_run::{PATIENCE, Running, binary, janus, text};
use crate::support::own_address;

/// The program in the documents, on an address of its own.
fn program(address: IpAddr) -> String {
    let document = include_str!("../docs/OPERATIONS.md");
    let mut programs = document.split("```python\n").skip(1).filter_map(|rest| rest.split("```").next());
    let program = programs.find(|program| program.contains("class Backend"));
    let program = program.expect("OPERATIONS has the program of a backend");
    let own = program.replace("127.0.0.1", &address.to_string());
    assert!(own != program && program.contains("SECRET = b\"correct-horse-battery\""), "{program}");
    own
}

/// A line-by-line client of the classic protocol.
struct Classic(TcpStream);

impl Classic {
    fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    fn send(&mut self, frame: &[u8]) {
        self.0.write_all(frame).unwrap();
    }

    fn frame(&mut self) -> String {
        let mut frame = Vec::new();
        loop {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap_or_else(|error| panic!("{error} after {}", text(&frame)));
            if byte[0] == 1 {
                return text(&frame);
            }
            frame.push(byte[0]);
        }
    }
}

#[test]
fn the_backend_in_the_documents_decides_and_is_told() {
    let host = own_address().ip();
    let mut python = Command::new("python3");
    let backend = Running::spawn(python.args(["-u", "-c", &program(host)]));
    assert_eq!(backend.line(), "ready");

    let url = format!("http://{host}:8000/");
    let mut command = binary(&["--listen", "127.0.0.1:0", "--webhook-linger", "0s", "--drain-period", "0s"]);
    for name in ["JANUS_ASK_CONNECT", "JANUS_ASK_SUBSCRIBE", "JANUS_WEBHOOK_URL"] {
        command.env(name, &url);
    }
    // While keys are replaced, a request has signatures of both.
    command.env("JANUS_BACKEND_SECRET", "the-key-of-tomorrow,correct-horse-battery");
    let server = Running::spawn(&mut command);
    let line = server.error_line("listening on ");
    let address = line.rsplit(' ').next().unwrap();

    let mut alice = Classic::connect(address);
    alice.send(&auth("key of alice"));
    assert!(alice.frame().contains("token"));
    alice.send(&subscribe("user:bob"));
    let refused: Value = serde_json::from_str(&alice.frame()).unwrap();
    assert_eq!(refused["error"]["code"], "forbidden", "{refused}");
    alice.send(&subscribe("user:alice"));
    assert_eq!(alice.frame(), "ACK");
    let told = [backend.line(), backend.line()];
    assert_eq!(told, ["connected alice ", "topic_occupied  user:alice"]);

    let mut stranger = Classic::connect(address);
    stranger.send(&auth("a guess"));
    assert!(stranger.frame().contains("unauthorized"));

    server.signal("TERM");
    server.error_line("drained");
    assert_eq!(server.wait().code(), Some(0));
    // What has happened in the drain is told before the end of the process, in any order.
    let told = backend.line();
    let told = if told.starts_with("topic_vacated") { backend.line() } else { told };
    assert_eq!(told, "disconnected alice ");
}

#[test]
fn a_backend_knows_its_server_by_the_signature() {
    let host = own_address().ip();
    let mut python = Command::new("python3");
    let backend = Running::spawn(python.args(["-u", "-c", &program(host)]));
    assert_eq!(backend.line(), "ready");
    let mut stream = TcpStream::connect(SocketAddr::new(host, 8000)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let forged = "POST / HTTP/1.1\r\ncontent-length: 2\r\njanus-signature: t=1800000000,v1=00\r\n\r\n{}";
    stream.write_all(forged.as_bytes()).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(text(&answer), "HTTP/1.1 403");
}

#[test]
fn an_address_that_is_none_is_named() {
    let output = janus(&["config", "check", "--ask-connect", "app.example/janus"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let errors = text(&output.stderr);
    assert!(errors.contains("--ask-connect: ask_connect = app.example/janus: expected an address such as"), "{errors}");
}
