//! Answers for another HTTP server to send, made from the responses of Janus's own port.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use serde::Serialize;

use super::pipe::Body;
use crate::instance::routes::answer::OWN;
use crate::instance::routes::{RouteResponse, internal};
use crate::wire::{ErrorCode, HttpError};

/// Bytes of the head of a response; Janus's own have a few hundred.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Headers of a response.
const MAX_HEADERS: usize = 32;

/// A response for the other server to send.
#[derive(Debug)]
#[non_exhaustive]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers, with names in lower case. Headers about the connection and the length of the body are not among them:
    /// the server that sends the answer knows both. The exception is `connection: upgrade` with the status 426.
    pub headers: Vec<(String, String)>,
    /// The body: [whole](Body::as_whole) for an error, a stream of events otherwise.
    pub body: Body,
}

impl Answer {
    /// A value in JSON, with the status 200.
    pub(super) fn of_json(value: &impl Serialize) -> Self {
        let headers = [("content-type", "application/json"), ("cache-control", "no-store")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let body = serde_json::to_vec(value).expect("the value has no key but text");
        Self { status: 200, headers, body: Body::whole(body.into()) }
    }

    /// The same answer with another value of a header.
    pub(super) fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(other, _)| other != name);
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same answer with these header lines.
    pub(super) fn with_lines(mut self, lines: &str) -> Self {
        let headers = lines.split("\r\n").filter_map(|line| line.split_once(": "));
        self.headers.extend(headers.map(|(name, value)| (name.to_owned(), value.to_owned())));
        self
    }

    /// The answer in a whole response.
    pub(super) fn of(response: &Bytes) -> Self {
        match Head::parse(response) {
            Some(Head { status, headers, length }) => {
                Self { status, headers, body: Body::whole(response.slice(length..)) }
            }
            None => Self::failed(),
        }
    }

    /// The answer whose response comes through a pipe: waits for the head, and for the body of an error.
    pub(super) async fn read(mut body: Body) -> Self {
        let mut received = BytesMut::new();
        let Head { status, headers, length } = loop {
            match Head::parse(&received) {
                Some(head) => break head,
                None if received.len() > MAX_HEAD_BYTES => return Self::failed(),
                None => {}
            }
            match body.next().await {
                Some(Ok(bytes)) => received.extend_from_slice(&bytes),
                Some(Err(_)) | None => return Self::failed(),
            }
        };
        if status != 200 {
            // The connection ends behind an error.
            while let Some(Ok(bytes)) = body.next().await {
                received.extend_from_slice(&bytes);
            }
            return Self { status, headers, body: Body::whole(received.freeze().slice(length..)) };
        }
        body.put_back(received.freeze().slice(length..));
        Self { status, headers, body }
    }

    /// For a connection that has ended without a word, after a crash or to make room for another.
    fn failed() -> Self {
        let message = "the connection ended before the answer; try again later";
        let error = HttpError::new(503, ErrorCode::ConnectionClosed.as_str(), message);
        let error = HttpError { retry_after: Some(Duration::from_secs(1)), ..error };
        Self::from(RouteResponse::from(&error))
    }
}

impl From<RouteResponse> for Answer {
    fn from(mut response: RouteResponse) -> Self {
        if !response.is_sound() {
            log::error!("a route has answered with a header or a status that HTTP does not have");
            response = RouteResponse::from(&internal());
        }
        let RouteResponse { status, headers, body } = response;
        let headers = headers.into_iter().filter(|(name, _)| !OWN.iter().any(|own| own.eq_ignore_ascii_case(name)));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.into_owned())).collect();
        Self { status, headers, body: Body::whole(body) }
    }
}

/// The head of a response.
struct Head {
    status: u16,
    headers: Vec<(String, String)>,
    /// Bytes of the head.
    length: usize,
}

impl Head {
    /// `None` if the head is incomplete.
    fn parse(received: &[u8]) -> Option<Self> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut head = httparse::Response::new(&mut headers);
        let Ok(httparse::Status::Complete(length)) = head.parse(received) else { return None };
        let status = head.code?;
        let kept = |header: &httparse::Header<'_>| {
            let (name, value) = (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).into_owned());
            match &*name {
                "transfer-encoding" | "content-length" | "date" => None,
                "connection" => (status == 426).then(|| (name, "upgrade".to_owned())),
                _ => Some((name, value)),
            }
        };
        let headers = head.headers.iter().filter_map(kept).collect();
        Some(Self { status, headers, length })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::super::pipe::one_way;
    use super::*;

    #[test]
    fn an_answer_has_no_header_about_the_connection_except_for_an_upgrade() {
        let response = HttpError::new(403, "forbidden", "no").response();
        let answer = Answer::of(&response);
        let names: Vec<_> = answer.headers.iter().map(|(name, _)| &**name).collect();
        assert_eq!((answer.status, names), (403, vec!["content-type", "cache-control"]));
        assert_eq!(answer.body.as_whole().unwrap(), r#"{"error":{"code":"forbidden","message":"no"}}"#);
        let answer = Answer::of(&HttpError::new(426, "upgrade_required", "no").response());
        for (name, value) in [("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13")] {
            assert!(answer.headers.contains(&(name.to_owned(), value.to_owned())), "{:?}", answer.headers);
        }
    }

    #[tokio::test]
    async fn a_stream_is_answered_with_its_head_and_continues_with_its_body() {
        let (mut inside, body) = one_way();
        inside.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-st").await.unwrap();
        let reading = tokio::spawn(Answer::read(body));
        inside.write_all(b"ream\r\nconnection: close\r\n\r\ndata: 1\n\n").await.unwrap();
        let mut answer = reading.await.unwrap();
        assert_eq!(answer.headers, [("content-type".to_owned(), "text/event-stream".to_owned())]);
        assert!(answer.body.as_whole().is_none());
        inside.write_all(b"data: 2\n\n").await.unwrap();
        inside.shutdown().await.unwrap();
        let mut received = Vec::new();
        while let Some(bytes) = answer.body.next().await {
            received.extend_from_slice(&bytes.unwrap());
        }
        assert_eq!(received, b"data: 1\n\ndata: 2\n\n");
    }

    #[tokio::test]
    async fn a_connection_that_ends_without_a_word_is_a_503_with_a_time() {
        let (inside, body) = one_way();
        drop(inside);
        let answer = Answer::read(body).await;
        assert_eq!(answer.status, 503);
        assert!(answer.headers.iter().any(|(name, _)| name == "retry-after"), "{:?}", answer.headers);
    }
}
