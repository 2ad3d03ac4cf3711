//! `janus-server trace`: prints messages between the actors of a server, each as a line of JSON.
//!
//! The lines come from the server's HTTP API. The server's key is read from the variable `JANUS_API_KEY`, not from a
//! flag: all users of a machine can read command lines.

use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::time::Duration;

use serde_json::Value;

use super::http::{BODY_BYTES_MAX, HEAD_BYTES_MAX, Head, Request, refusal};
use super::tls::Stream;
use super::{ClientError, open_stream};
use crate::cli::Trace;

/// Maximum bytes of a line.
const LINE_BYTES_MAX: u64 = 1 << 20;

pub(crate) fn run(command: &Trace) -> Result<(), ClientError> {
    let stream = open_stream(&command.from, command.timeout, command.tls.client_config()?.as_ref())?;
    stream.socket().set_read_timeout(Some(command.timeout)).map_err(ClientError::Lost)?;
    let mut answer = BufReader::new(stream);
    answer.get_mut().write_all(&request(command)).map_err(ClientError::Lost)?;
    let Head { status, is_chunked } = Head::read(&mut answer).map_err(|error| match error {
        ClientError::Lost(error) if error.kind() == io::ErrorKind::WouldBlock => {
            ClientError::Late { awaited: "answer", timeout: command.timeout }
        }
        other => other,
    })?;
    if status != 200 || !is_chunked {
        let mut body = Vec::new();
        let _ = answer.take(BODY_BYTES_MAX).read_to_end(&mut body);
        return Err(refusal(status, &body, "this is not the HTTP port of a Janus server with tracing"));
    }
    // The server ends the answer in time; the timeout covers the delivery of the last line.
    let patience = Duration::from_secs(command.seconds) + command.timeout;
    answer.get_ref().socket().set_read_timeout(Some(patience)).map_err(ClientError::Lost)?;
    print(BufReader::new(Chunks { stream: answer, left: 0, is_over: false }))
}

fn print(mut lines: BufReader<Chunks>) -> Result<(), ClientError> {
    let mut line = Vec::new();
    loop {
        line.clear();
        lines.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line).map_err(ClientError::Lost)?;
        if line.is_empty() {
            return Err(ClientError::Closed);
        }
        let last: Option<Value> = line.starts_with(b"{\"end\":").then(|| serde_json::from_slice(&line).ok()).flatten();
        let Some(last) = last else {
            io::stdout().lock().write_all(&line).map_err(ClientError::Output)?;
            continue;
        };
        let end = last["end"].as_str().unwrap_or_default();
        // A closed standard error is no reason to fail.
        let _ = writeln!(io::stderr(), "{} lines, {} lost; ended by {end}", last["lines"], last["lost"]);
        return if end == "server" { Err(ClientError::Closed) } else { Ok(()) };
    }
}

fn request(command: &Trace) -> Vec<u8> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    if !command.kinds.is_empty() {
        let kinds: Vec<&str> = command.kinds.iter().map(|kind| kind.as_str()).collect();
        query.append_pair("kinds", &kinds.join(","));
    }
    for name in &command.names {
        query.append_pair("name", name);
    }
    query.append_pair("seconds", &command.seconds.to_string());
    query.append_pair("count", &command.count.to_string());
    // The variable may be the server's own, with several keys.
    let keys = std::env::var("JANUS_API_KEY").unwrap_or_default();
    let key = keys.split(',').next().unwrap_or_default().trim();
    // No key has line breaks, so a variable with a line break is not sent.
    let is_key = !key.is_empty() && !key.contains(|letter: char| letter.is_control());
    let target = format!("/api/trace?{}", query.finish());
    let key = is_key.then_some(key);
    Request { method: "GET", target: &target, host: &command.from, key, body: None }.to_bytes()
}

/// Reads a chunked body (RFC 9112, 7.1).
struct Chunks {
    stream: BufReader<Stream>,
    /// Bytes of the current chunk that are still to come.
    left: usize,
    is_over: bool,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && !self.is_over {
            let mut line = String::new();
            // Each chunk is followed by a line end, which reads as a blank line.
            while line.trim().is_empty() {
                line.clear();
                if self.stream.by_ref().take(HEAD_BYTES_MAX).read_line(&mut line)? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            self.left = usize::from_str_radix(line.trim(), 16).map_err(|_| io::ErrorKind::InvalidData)?;
            self.is_over = self.left == 0;
        }
        let length = buffer.len().min(self.left);
        let read = self.stream.read(&mut buffer[..length])?;
        self.left -= read;
        Ok(read)
    }
}
