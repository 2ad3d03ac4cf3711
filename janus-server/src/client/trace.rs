//! `janus-server trace`: prints messages between the actors of a server, each as a line of JSON.
//!
//! The lines come from the server's HTTP API. The server's key is read from the variable `JANUS_API_KEY`, not from a
//! flag: all users of a machine can read command lines.

use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::time::Duration;

use serde_json::Value;

use super::tls::Stream;
use super::{ClientError, open_stream};
use crate::cli::Trace;

/// Maximum bytes of the head of an answer, of a refusal, and of a line.
const HEAD_BYTES_MAX: u64 = 16 * 1024;
const REFUSAL_BYTES_MAX: u64 = 64 * 1024;
const LINE_BYTES_MAX: u64 = 1 << 20;

pub(crate) fn run(command: &Trace) -> Result<(), ClientError> {
    let stream = open_stream(&command.from, command.timeout, command.tls.client_config()?.as_ref())?;
    stream.socket().set_read_timeout(Some(command.timeout)).map_err(ClientError::Lost)?;
    let mut answer = BufReader::new(stream);
    answer.get_mut().write_all(request(command).as_bytes()).map_err(ClientError::Lost)?;
    let (status, is_chunked) = read_head(&mut answer, command.timeout)?;
    if status != 200 || !is_chunked {
        let mut body = Vec::new();
        let _ = answer.take(REFUSAL_BYTES_MAX).read_to_end(&mut body);
        return Err(refusal(status, &body));
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

fn request(command: &Trace) -> String {
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
    let authorization = if is_key { format!("Authorization: Bearer {key}\r\n") } else { String::new() };
    let (query, host) = (query.finish(), &command.from);
    format!("GET /api/trace?{query} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{authorization}\r\n")
}

/// The status, and whether the body comes in chunks.
fn read_head(answer: &mut BufReader<Stream>, timeout: Duration) -> Result<(u16, bool), ClientError> {
    let mut head = Vec::new();
    let mut reader = answer.take(HEAD_BYTES_MAX);
    while !head.ends_with(b"\r\n\r\n") {
        match reader.read_until(b'\n', &mut head) {
            Ok(0) => return Err(ClientError::Closed),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(ClientError::Late { awaited: "answer", timeout });
            }
            Err(error) => return Err(ClientError::Lost(error)),
        }
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let status = head.strip_prefix("http/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    Ok((status.unwrap_or_default(), head.contains("\r\ntransfer-encoding: chunked\r\n")))
}

/// The server's reason, from the body of the answer.
fn refusal(status: u16, body: &[u8]) -> ClientError {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |key: &str| body["error"][key].as_str().map(str::to_owned);
    let code = text("code").unwrap_or_else(|| format!("status {status}"));
    let message =
        text("message").unwrap_or_else(|| "this is not the HTTP port of a Janus server with tracing".to_owned());
    ClientError::Refused { code, message }
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
