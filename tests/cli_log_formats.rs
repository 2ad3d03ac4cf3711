//! The formats of the log of `janus-server serve`: what strangers send breaks no line of them.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

use serde_json::{Value, json};

use crate::cli_log::{Log, connect, flood};
use crate::cli_run::{PATIENCE, assert_exit, janus, text};

/// Good names of topics, hostile to programs that read logs.
const TOPICS: [&str; 8] = [
    "quote\" back\\slash",
    "\",\"level\":\"error\",\"msg\":\"forged",
    "}\u{2028}{\u{2029}",
    "\u{202e}right to left",
    "${jndi:ldap://a} %s {} {0}",
    "<0>forged",
    "𝄞 \u{fffd} é",
    "[2026-01-01T00:00:00.000Z ERROR forged] x",
];

/// Frames that are refused, with line breaks, escapes for terminals and bytes that are no UTF-8.
const REFUSED: [&[u8]; 5] = [
    b"{\"action\":\"subscribe\",\"data\":\"a\\nb\"}",
    b"{\"action\":\"a\\u001b[2J\\n<0>forged\",\"data\":\"\\u0085\"}",
    b"{\"a\n[2026-01-01T00:00:00.000Z ERROR forged] x",
    b"\xff\xfe\x1b]0;title\x07",
    b"{\"action\":\"publish\",\"data\":{\"topic\":\"\\u2028\",\"event\":\"\\u0000\"}}",
];

/// A line of JSON as an object with the keys of every line.
#[track_caller]
fn object(line: &str) -> Value {
    let object: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let is_text = |key: &str| object[key].is_string();
    assert!(["ts", "level", "target", "msg"].into_iter().all(is_text), "{line}");
    let ends_lines = |character: char| character.is_control() || "\u{2028}\u{2029}".contains(character);
    assert!(!line.contains(ends_lines), "{line:?}");
    object
}

/// Sends frames, and waits until the server has answered all and closed.
fn send(address: &str, frames: &[u8]) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(frames).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
}

fn post(address: &str, path: &str, headers: &str, body: &Value) -> String {
    let body = body.to_string();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nConnection: close\r\n");
    stream.write_all(format!("{head}{headers}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Sends everything hostile at a server, and returns all lines of its log.
fn lines_of_a_hostile_day(format: &str) -> Vec<String> {
    let mut log = Log::new();
    let arguments = ["--log", "debug", "--log-format", format, "--http-listen", "127.0.0.1:0"];
    let (mut server, address) = log.start(&arguments);
    let http = log.address("serving HTTP on ");
    // Read along, because a full pipe would lose lines.
    let lines = std::thread::spawn(move || log.rest());
    for topic in TOPICS {
        let subscribe = json!({"action": "subscribe", "data": topic}).to_string() + "\0";
        send(&address, subscribe.as_bytes());
    }
    for frame in REFUSED {
        send(&address, &[frame, b"\0"].concat());
    }
    flood(&mut connect(&address), 5_000);
    let user = "a\n<0>forged\u{1b}[2J\0\"}\u{2028}";
    let answer = post(&http, "/api/revoke", "", &json!({"user": user, "until": 4_000_000_000_u64}));
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let traceparent = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";
    let answer = post(&http, "/api/publish", traceparent, &json!({"topic": TOPICS[0], "data": 1}));
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    server.signal("TERM");
    assert_eq!(server.end().code(), Some(0));
    lines.join().unwrap()
}

#[test]
fn every_line_of_a_json_log_is_an_object_whatever_strangers_send() {
    let lines: Vec<Value> = lines_of_a_hostile_day("json").iter().map(|line| object(line)).collect();
    let with = |words: &'static str| {
        lines.iter().filter(move |line| line["msg"].as_str().is_some_and(|message| message.contains(words)))
    };
    let subscribed: BTreeSet<&str> = with("): subscribed to ").map(|line| line["topic"].as_str().unwrap()).collect();
    assert_eq!(subscribed, BTreeSet::from(TOPICS));
    for line in with("): subscribed to ") {
        let (client, peer, topic) = (&line["conn"], line["peer"].as_str().unwrap(), line["topic"].as_str().unwrap());
        assert_eq!(line["msg"], format!("client {client} ({peer}): subscribed to {topic}"));
        assert!(
            client.is_u64() && line["level"] == "debug" && line["target"].as_str().unwrap().starts_with("janus_core")
        );
    }
    let refused = lines.iter().filter(|line| line["code"] == "bad_topic").count() as u64;
    let summed: u64 = with("more lines from closing.rs:").map(|line| line["lines"].as_u64().unwrap()).sum();
    assert!(refused + summed >= 5_000 && summed > 0, "{refused} and {summed}");
    let revoked = with("revoked user ").next().unwrap();
    assert_eq!((&revoked["user"], &revoked["closed"]), (&json!("a\n<0>forged\u{1b}[2J\0\"}\u{2028}"), &json!(0)));
    let traced = with("a publication with traceparent ").next().unwrap();
    assert_eq!(traced["traceparent"], "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    assert_eq!(traced["topic"], TOPICS[0]);
    assert_eq!(with("drained ").count(), 1);
}

#[test]
fn every_line_for_the_journal_has_a_priority_whatever_strangers_send() {
    for line in lines_of_a_hostile_day("journald") {
        let rest = ["<3>", "<4>", "<6>", "<7>"].iter().find_map(|priority| line.strip_prefix(priority));
        let rest = rest.unwrap_or_else(|| panic!("{line:?}"));
        assert!(rest.starts_with("janus_") && !rest.contains(char::is_control), "{line:?}");
    }
}

#[test]
fn text_keeps_strangers_to_lines_of_their_own() {
    for line in lines_of_a_hostile_day("text") {
        assert!(line.starts_with("[2") && line.contains("Z ") && line.contains("] "), "{line:?}");
        assert!(!line.starts_with("[2026-01-01T") && !line.contains(char::is_control), "{line:?}");
        assert!(!line.contains("conn=") && !line.contains("topic="), "{line:?}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn lines_lost_without_a_reader_are_counted_in_json() {
    let mut log = Log::new();
    let (_server, address) = log.start(&["--log", "debug", "--log-queue", "64", "--log-format", "json"]);
    log.fill();
    flood(&mut connect(&address), 1_000);
    let lost = object(
        log.line("log lines were lost, because standard error was not read").trim_start_matches('\n').trim_end(),
    );
    assert!(lost["lines"].as_u64().unwrap() > 0 && lost["level"] == "warn", "{lost}");
    object(log.line("more lines from closing.rs:").trim_end());
}

#[test]
fn a_stream_of_the_journal_gets_lines_for_the_journal() {
    let start = |arguments: &[&str], variable: &dyn Fn(u64, u64) -> String| {
        let mut log = Log::new();
        let (device, inode) = log.stream();
        let (mut server, _) = log.start_with(arguments, &[("JOURNAL_STREAM", &variable(device, inode))]);
        server.signal("TERM");
        server.end();
        log.line("drained ")
    };
    let same = |device, inode| format!("{device}:{inode}");
    let drained = start(&[], &same);
    assert_eq!(drained, "<6>janus_server::serve: drained 0 connections\n");
    // A child of the service with a standard error of its own has inherited the variable.
    for variable in [&|device, inode| format!("{device}:{}", inode + 1), &|_, inode| format!(":{inode}")]
        as [&dyn Fn(u64, u64) -> String; 2]
    {
        assert!(start(&[], variable).starts_with("[2"));
    }
    assert!(start(&["--log-format", "text"], &same).starts_with("[2"), "the setting wins");
    assert!(start(&["--log-format", "json"], &same).starts_with("{\"ts\":"), "the setting wins");
}

#[cfg(feature = "fault-injection")]
#[test]
fn a_server_that_gives_up_says_why_in_the_format_of_its_log() {
    for format in ["json", "journald"] {
        let mut command = janus(&["--listen", "127.0.0.1:0", "--log-format", format]);
        let output = command.env("CRASH_THE_TOPIC_MANAGER", "1").env("RUST_BACKTRACE", "1").output().unwrap();
        assert_exit(&output, 1);
        let errors = text(&output.stderr);
        let last = errors.lines().next_back().unwrap();
        assert!(last.contains("the server gave up: "), "{last}");
        if format == "json" {
            let lines: Vec<Value> = errors.lines().map(object).collect();
            assert_eq!(lines.last().unwrap()["level"], "error");
            let panics = lines.iter().filter(|line| line["target"] == "panic");
            assert!(panics.into_iter().any(|line| line["msg"].as_str().unwrap().contains("\n   0: ")), "{errors}");
            assert!(lines.iter().any(|line| line["child"] == "topic_manager"), "{errors}");
        } else {
            assert!(last.starts_with("<3>janus_server"), "{last}");
            assert!(errors.lines().all(|line| line.starts_with('<')), "{errors}");
            assert!(errors.lines().any(|line| line.starts_with("<3>       0: ")), "a line of the backtrace: {errors}");
        }
    }
}

#[test]
fn without_a_server_the_reason_is_told_in_words() {
    let output = janus(&["--log-format", "json", "--threads", "0"]).output().unwrap();
    assert_exit(&output, 2);
    assert!(text(&output.stderr).starts_with("error: flag --threads"), "{}", text(&output.stderr));
}
