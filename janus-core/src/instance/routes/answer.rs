//! Answers of routes, and their bytes.

use std::borrow::Cow;

use serde::Serialize;

use super::internal;
use crate::wire::{Bytes, HttpError, HttpRequest, http_date, reason_phrase};

/// The answer of an [`HttpRoute`](super::HttpRoute).
///
/// ```
/// use janus_core::RouteResponse;
///
/// let response = RouteResponse::new(200, "text/plain", "hello").header("cache-control", "no-store");
/// assert_eq!((response.status, &response.body[..]), (200, &b"hello"[..]));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteResponse {
    /// The status, from 200 to 599.
    pub status: u16,
    /// Names in lower case, and values. Length, date and connection are the port's to say, and left out here.
    pub headers: Vec<(Cow<'static, str>, Cow<'static, str>)>,
    /// The body.
    pub body: Bytes,
}

/// Headers that the port writes itself.
pub(in crate::instance) const OWN: [&str; 4] = ["content-length", "transfer-encoding", "connection", "date"];

impl RouteResponse {
    /// An answer with this status and body.
    #[must_use]
    pub fn new(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }.header("content-type", content_type)
    }

    /// An answer with this value as JSON; status 500 if the value cannot be serialized.
    #[must_use]
    pub fn json(status: u16, value: &(impl Serialize + ?Sized)) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => Self::new(status, "application/json", body).header("cache-control", "no-store"),
            Err(error) => {
                log::error!("the answer of a route cannot be serialized: {error}");
                Self::from(&internal())
            }
        }
    }

    /// The same answer with another header.
    #[must_use]
    pub fn header(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Cow<'static, str>>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Whether the answer can be written: a line break in a header would begin another answer.
    pub(in crate::instance) fn is_sound(&self) -> bool {
        let is_name = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
        let is_value = |value: &str| value.bytes().all(|byte| byte == b'\t' || byte >= b' ' && byte != 0x7f);
        (200..600).contains(&self.status) && self.headers.iter().all(|(name, value)| is_name(name) && is_value(value))
    }

    /// The bytes of the answer to this request; `keeps` says whether the connection is kept.
    pub(super) fn bytes(mut self, request: &HttpRequest, keeps: bool) -> Vec<u8> {
        if !self.is_sound() {
            log::error!("a route has answered {} with a header or a status that HTTP does not have", request.path());
            self = Self::from(&internal());
        }
        let Self { status, headers, body } = self;
        let mut head = format!("HTTP/1.1 {status} {}\r\ndate: {}\r\n", reason_phrase(status), http_date());
        for (name, value) in headers.iter().filter(|(name, _)| !OWN.iter().any(|own| own.eq_ignore_ascii_case(name))) {
            head.extend([&**name, ": ", value, "\r\n"]);
        }
        match (keeps, request.is_http_1_0) {
            (false, _) => head.push_str("connection: close\r\n"),
            (true, true) => head.push_str("connection: keep-alive\r\n"),
            (true, false) => {}
        }
        // Neither status has a body (RFC 9110, 8.6).
        let is_empty = matches!(status, 204 | 304);
        if !is_empty {
            head.extend(["content-length: ", &body.len().to_string(), "\r\n"]);
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        if !is_empty && request.method != "HEAD" {
            bytes.extend_from_slice(&body);
        }
        bytes
    }
}

impl From<&HttpError> for RouteResponse {
    fn from(error: &HttpError) -> Self {
        let response = Self::new(error.status, "application/json", error.body()).header("cache-control", "no-store");
        error.headers().into_iter().fold(response, |response, (name, value)| response.header(name, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(response: RouteResponse, method: &str, keeps: bool) -> String {
        let request = HttpRequest { method: method.into(), target: "/".into(), ..HttpRequest::default() };
        let text = String::from_utf8(response.bytes(&request, keeps)).unwrap();
        let (before, behind) = text.split_once("date: ").unwrap();
        format!("{before}{}", behind.split_once("\r\n").unwrap().1)
    }

    #[test]
    fn an_answer_has_its_length_and_says_what_becomes_of_the_connection() {
        let response = || RouteResponse::new(200, "text/plain", "hello").header("content-length", "7");
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n";
        assert_eq!(text(response(), "GET", true), format!("{head}content-length: 5\r\n\r\nhello"));
        assert_eq!(text(response(), "HEAD", false), format!("{head}connection: close\r\ncontent-length: 5\r\n\r\n"));
        let nothing = RouteResponse { status: 204, headers: Vec::new(), body: "ignored".into() };
        assert_eq!(text(nothing, "POST", true), "HTTP/1.1 204 No Content\r\n\r\n");
    }

    #[test]
    fn an_answer_that_would_begin_another_is_a_fault_of_the_server() {
        let split = RouteResponse::new(200, "text/plain", "").header("x", "1\r\n\r\nHTTP/1.1 200 OK");
        let switching = RouteResponse { status: 101, ..RouteResponse::new(200, "text/plain", "") };
        for response in [split, switching, RouteResponse::new(200, "text/plain", "").header("a:b", "1")] {
            assert!(text(response, "GET", true).starts_with("HTTP/1.1 500 "));
        }
    }
}
