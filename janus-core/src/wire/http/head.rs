//! The head of a request: its bytes are collected, and checked.

use std::mem;

use super::{HttpError, body};
use crate::wire::http_request::trim_ows;
use crate::wire::origins::host_and_port;
use crate::wire::proxy_header::ProxyHeader;
use crate::wire::{ErrorCode, HttpRequest};

/// The largest head of a request, in bytes, whatever `max_frame_bytes` says: a browser's cookies know nothing of that
/// limit.
pub(in crate::wire) const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The largest number of headers in a request.
const MAX_HEADERS: usize = 64;

/// The head of a request.
#[derive(Debug)]
pub(in crate::wire) struct Head {
    pub(in crate::wire) request: HttpRequest,
    /// The bytes of the head, as received.
    pub(in crate::wire) received: Vec<u8>,
}

/// Collects the head of a request, however its bytes are split between reads.
#[derive(Debug, Default)]
pub(in crate::wire) struct HeadReader {
    kept: Vec<u8>,
    /// Whether the current line has had nothing but a carriage return so far.
    line_is_empty: bool,
    /// Whether the last byte is a carriage return.
    after_cr: bool,
    /// Empty lines before the head are ignored, but count against its length.
    skipped: usize,
    over: bool,
}

impl HeadReader {
    /// Takes bytes up to the end of the head. No byte is searched twice. Bytes that cannot belong to a head are refused
    /// at once: a client with another protocol need not wait for a timeout.
    pub(in crate::wire) fn read(&mut self, input: &mut &[u8]) -> Option<Result<Head, HttpError>> {
        if self.over {
            *input = &[];
            return None;
        }
        while self.kept.is_empty() && matches!(input.first(), Some(b'\r' | b'\n')) {
            *input = &input[1..];
            self.skipped += 1;
        }
        let read = self.take_head(input)?;
        self.over = true;
        Some(read.and_then(|()| parse(mem::take(&mut self.kept))))
    }

    fn take_head(&mut self, input: &mut &[u8]) -> Option<Result<(), HttpError>> {
        let room = MAX_HEAD_BYTES.saturating_sub(self.kept.len() + self.skipped);
        for (at, &byte) in input.iter().enumerate() {
            if at == room {
                let message = format!("request head longer than the limit of {MAX_HEAD_BYTES} bytes");
                return Some(Err(HttpError::new(431, ErrorCode::FrameTooLarge.as_str(), message)));
            }
            // Where servers disagree about the end of a line, they disagree about the end of a head.
            if mem::replace(&mut self.after_cr, byte == b'\r') != (byte == b'\n') {
                return Some(Err(bad_head("a line must end with CR and LF")));
            }
            match byte {
                b'\n' if self.line_is_empty => {
                    self.kept.extend_from_slice(&input[..=at]);
                    *input = &input[at + 1..];
                    return Some(Ok(()));
                }
                b'\n' => self.line_is_empty = true,
                b'\r' => {}
                // The rest of the first line of such a header looks like empty lines.
                0 if self.kept.is_empty() && ProxyHeader::continues(&input[at + 1..]) => {
                    return Some(Err(bad_head(ProxyHeader::UNEXPECTED)));
                }
                0..0x20 | 0x7f if byte != b'\t' => {
                    let message = "this port speaks HTTP, and these bytes are not HTTP: check the port; TLS must end at a proxy \
                                   in front of the server";
                    return Some(Err(HttpError::new(400, ErrorCode::BadFrame.as_str(), message)));
                }
                _ => self.line_is_empty = false,
            }
        }
        if room == 0 && self.kept.is_empty() && self.skipped > 0 {
            return Some(Err(bad_head("too many empty lines before the request")));
        }
        self.kept.extend_from_slice(input);
        *input = &[];
        None
    }

    pub(in crate::wire) fn is_mid_head(&self) -> bool {
        !self.over && (!self.kept.is_empty() || self.skipped > 0)
    }

    pub(in crate::wire) fn buffered(&self) -> usize {
        self.kept.len()
    }

    pub(in crate::wire) fn memory(&self) -> usize {
        self.kept.capacity()
    }
}

fn parse(received: Vec<u8>) -> Result<Head, HttpError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    match head.parse(&received) {
        Ok(httparse::Status::Complete(length)) if length == received.len() => {}
        Ok(_) => return Err(bad_head("malformed end of a line")),
        Err(httparse::Error::TooManyHeaders) => {
            let message = format!("request with more than {MAX_HEADERS} headers");
            return Err(HttpError::new(431, ErrorCode::FrameTooLarge.as_str(), message));
        }
        Err(_) if ProxyHeader::begins(&received) => return Err(bad_head(ProxyHeader::UNEXPECTED)),
        Err(error) => return Err(bad_head(&error.to_string())),
    }
    let (Some(method), Some(target), Some(minor_version)) = (head.method, head.path, head.version) else {
        return Err(bad_head("the request line is incomplete"));
    };
    let headers: Vec<(String, String)> = head
        .headers
        .iter()
        .map(|header| (header.name.to_ascii_lowercase(), trim_ows(&String::from_utf8_lossy(header.value)).to_owned()))
        .collect();
    let (method, target) = (method.to_owned(), target.to_owned());
    let request = HttpRequest { method, target, headers, is_http_1_0: minor_version == 0 };
    let is_absolute = !request.target.starts_with('/') && request.target.contains("://");
    let hosts: Vec<&str> = request.headers_named("host").collect();
    match hosts[..] {
        // If the target has no host of its own, an empty `Host` names no host at all (RFC 9110, 4.2.1).
        [host] if host.is_empty() && is_absolute || host_and_port(host, None).is_some() => {}
        [_] => return Err(bad_head("Host must be a host with an optional port")),
        [] if minor_version == 0 => {}
        _ => return Err(bad_head("exactly one Host header is required")),
    }
    let request = request.into_origin_form();
    if is_absolute && request.header("host").is_none_or(|host| host_and_port(host, None).is_none()) {
        return Err(bad_head("the target names no host"));
    }
    Ok(Head { request, received })
}

pub(super) fn bad_head(why: &str) -> HttpError {
    HttpError::new(400, ErrorCode::BadFrame.as_str(), format!("not an HTTP request: {why}"))
}

/// Refuses heads that the HTTP server behind the port would refuse without an explanation in the body.
pub(super) fn check_passed_on(request: &HttpRequest) -> Result<(), HttpError> {
    let target = request.target.split('#').next().unwrap_or_default();
    let is_known = target.starts_with('/') || target == "*" || request.method == "CONNECT";
    if !is_known || target.contains(['"', '<', '>']) || request.path().contains('`') {
        return Err(bad_head("the target must be a path with special characters escaped"));
    }
    let mut lengths = request.headers_named("content-length");
    let length = lengths.next();
    let is_number = |length: &str| {
        length.bytes().all(|byte| byte.is_ascii_digit()) && length.parse().is_ok_and(|length: u64| length >> 63 == 0)
    };
    // A server in front may go by the one or by the other of two equal lengths, and by neither of two unequal ones.
    if !length.is_none_or(is_number) || lengths.next().is_some() {
        return Err(bad_head("Content-Length must be a single number"));
    }
    if let Some(coding) = request.headers_named("transfer-encoding").last() {
        if length.is_some() {
            return Err(bad_head(body::TWO_LENGTHS));
        }
        if request.is_http_1_0 {
            return Err(bad_head("HTTP/1.0 has no Transfer-Encoding"));
        }
        let last = trim_ows(coding.rsplit(',').next().unwrap_or_default());
        if !last.eq_ignore_ascii_case("chunked") {
            return Err(bad_head("the last Transfer-Encoding must be chunked"));
        }
    }
    Ok(())
}
