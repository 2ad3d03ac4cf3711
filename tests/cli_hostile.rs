//! The commands against servers that mean harm: words that would act on a terminal, more than was asked for, a peer that
//! does not read. And against input that no server would take.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread::{self, JoinHandle};

use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::cli_run::{PATIENCE, assert_exit, janus, text};

/// A server for one connection, and its URL.
fn server<T: Send + 'static>(serve: impl FnOnce(TcpStream) -> T + Send + 'static) -> (JoinHandle<T>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (thread::spawn(move || serve(listener.accept().unwrap().0)), url)
}

/// The head of a request.
fn head(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    text(&head)
}

/// A server that answers one request, whatever it is.
fn answering(status: &'static str, body: &'static str) -> (JoinHandle<()>, String) {
    server(move |mut stream| {
        head(&mut stream);
        let length = body.len();
        write!(stream, "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}").unwrap();
    })
}

#[test]
fn a_servers_words_do_not_act_on_the_terminal() {
    let levels = r#"{"configured":"\u001b[31minfo","changes":[{"target":"\u009b5m","level":"warn","seconds_left":1}]}"#;
    let changes = r#"{"file":"/etc/\u001b]0;x\u0007","applied":["\u001b[2J"]}"#;
    let health = r#"{"live":false,"checks":{"tree":"\u001b[31mgone\nerror: and more"}}"#;
    let refusal = r#"{"error":{"code":"no\u001b[2J","message":"\u202eback"}}"#;
    for (command, status, body, code, expected) in [
        ("log", "200 OK", levels, 0, "configured: \\u{1b}[31minfo\n\\u{9b}5m: warn"),
        ("reload", "200 OK", changes, 0, "/etc/\\u{1b}]0;x\\u{7}\n\\u{1b}[2J: applied"),
        ("health", "503 Service Unavailable", health, 1, "tree: \\u{1b}[31mgone\\u{a}error: and more"),
        ("topics", "403 Forbidden", refusal, 1, "no\\u{1b}[2J: \\u{202e}back"),
        ("trace", "200 OK", "\u{1b}[31mno JSON\n", 1, "a line is not JSON"),
    ] {
        let (served, url) = answering(status, body);
        let output = janus(&[command, "--server", &url, "--timeout", "10 s"]).output().unwrap();
        assert_exit(&output, code);
        let shown = text(&output.stdout) + &text(&output.stderr);
        assert!(shown.contains(expected) && !shown.contains(['\u{1b}', '\u{9b}', '\u{7}']), "{command}: {shown:?}");
        served.join().unwrap();
    }
}

#[test]
fn more_messages_than_asked_for_are_no_reason_to_fail() {
    let body = r#"{"epoch":"00000000000000ab","seq":2,"complete":true,"more":false,"messages":[
        {"seq":1,"time":1,"event":"","message_id":"","data":1},{"seq":2,"time":1,"event":"","message_id":"","data":2}]}"#;
    let (served, url) = answering("200 OK", body);
    let output = janus(&["history", "news", "--limit", "1", "--json", "--server", &url]).output().unwrap();
    assert_exit(&output, 0);
    assert_eq!(text(&output.stdout).lines().count(), 2);
    served.join().unwrap();
}

#[test]
fn a_server_that_does_not_read_is_given_up() {
    let (served, url) = server(|mut stream| {
        let head = head(&mut stream);
        let key = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("sec-websocket-key").then(|| value.to_owned())
        });
        let accept = derive_accept_key(key.unwrap().as_bytes());
        // With a lower limit the client would refuse the message and send nothing.
        let welcome = br#"{"type":"welcome","session":"00","resumed":false,"limits":{"max_frame_bytes":67108864,"max_topic_bytes":255,"max_topics":128},"heartbeat_ms":30000}"#;
        write!(
            stream,
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-protocol: janus.v1.json\r\nsec-websocket-accept: {accept}\r\n\r\n"
        )
        .unwrap();
        stream.write_all(&[0x81, 126, 0, u8::try_from(welcome.len()).unwrap()]).unwrap();
        stream.write_all(welcome).unwrap();
        stream
    });
    // Far more than the kernel's buffers hold.
    let message = format!("\"{}\"\n", "x".repeat(30 << 20));
    let mut publish = janus(&["publish", "news", "-", "--server", &url, "--timeout", "2 s"]);
    let output = publish.env("JANUS_TOKEN", "token").write_stdin(message).output().unwrap();
    assert_exit(&output, 1);
    assert!(text(&output.stderr).contains("the server does not read"), "{}", text(&output.stderr));
    drop(served.join().unwrap());
}

#[test]
fn a_line_of_input_without_end_is_refused_before_it_fills_the_memory() {
    let input = "x".repeat(33 << 20);
    let output = janus(&["publish", "news", "-", "--server", "127.0.0.1:1"]).write_stdin(input).output().unwrap();
    assert_exit(&output, 2);
    assert!(text(&output.stderr).contains("line 1 of the input failed"), "{}", text(&output.stderr));
}
