//! HTTP for the client commands: one request, and the answer on a blocking socket.

use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::ClientError;
use super::tls::Stream;

/// Maximum bytes of the head of an answer, and of a body that is read whole: the API's longest answers have 8 MiB of
/// names, and more of JSON around them.
pub(super) const HEAD_BYTES_MAX: u64 = 16 * 1024;
pub(super) const BODY_BYTES_MAX: u64 = 32 << 20;

/// A request without its connection.
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    /// The path with its query.
    pub(super) target: &'a str,
    /// The address as the user wrote it.
    pub(super) host: &'a str,
    /// The server's key, if there is one.
    pub(super) key: Option<&'a str>,
    /// JSON; only for methods with a body.
    pub(super) body: Option<&'a str>,
}

/// The status and the body of an answer that was read whole.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

impl Request<'_> {
    /// The bytes of the request, after which the server closes the connection.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let Self { method, target, host, key, body } = self;
        let authorization = key.map_or_else(String::new, |key| format!("Authorization: Bearer {key}\r\n"));
        let (content, body) = match body {
            Some(body) => {
                (format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()), body.to_owned())
            }
            None => Default::default(),
        };
        format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{authorization}{content}\r\n{body}")
            .into_bytes()
    }

    /// Sends the request, and reads the whole answer within the time.
    pub(super) fn send(&self, mut stream: Stream, timeout: Duration) -> Result<Answer, ClientError> {
        let deadline = Instant::now() + timeout;
        stream.write_all(&self.to_bytes()).map_err(ClientError::Lost)?;
        let mut answer = BufReader::new(Until { stream, deadline });
        let late = |error: ClientError| match error {
            ClientError::Lost(error) if error.kind() == io::ErrorKind::WouldBlock => {
                ClientError::Late { awaited: "answer", timeout }
            }
            other => other,
        };
        let head = Head::read(&mut answer).map_err(late)?;
        let mut body = Vec::new();
        let read = answer.take(BODY_BYTES_MAX).read_to_end(&mut body);
        read.map_err(|error| late(ClientError::Lost(error)))?;
        Ok(Answer { status: head.status, body })
    }
}

/// The head of an answer, as far as the commands look at it.
pub(super) struct Head {
    /// 0 for an answer that is not HTTP.
    pub(super) status: u16,
    pub(super) is_chunked: bool,
}

impl Head {
    pub(super) fn read(answer: &mut impl io::BufRead) -> Result<Self, ClientError> {
        let mut head = Vec::new();
        let mut reader = answer.take(HEAD_BYTES_MAX);
        while !head.ends_with(b"\r\n\r\n") {
            match reader.read_until(b'\n', &mut head) {
                Ok(0) => return Err(ClientError::Closed),
                Ok(_) => {}
                Err(error) => return Err(ClientError::Lost(error)),
            }
        }
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let status = head.strip_prefix("http/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let is_chunked = head.contains("\r\ntransfer-encoding: chunked\r\n");
        Ok(Self { status: status.unwrap_or_default(), is_chunked })
    }
}

/// The reason of a refusal, from the body of the answer; `otherwise` if the body has none.
pub(super) fn refusal(status: u16, body: &[u8], otherwise: &str) -> ClientError {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |key: &str| body["error"][key].as_str().map(str::to_owned);
    let code = text("code").unwrap_or_else(|| format!("status {status}"));
    ClientError::Refused { code, message: text("message").unwrap_or_else(|| otherwise.to_owned()) }
}

/// A stream whose reads all end at the deadline.
struct Until {
    stream: Stream,
    deadline: Instant,
}

impl Read for Until {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.stream.socket().set_read_timeout(Some(left))?;
        self.stream.read(buffer)
    }
}
