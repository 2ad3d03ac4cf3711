//! The trace of a publication in other systems: the header `traceparent` of the publisher, in the log at `debug`.
//!
//! Janus makes no spans. With the line in the log, an operator finds the topic and the time of a publication by the
//! identifier of its trace. The target of the lines is this module, so the lines can be turned on alone.

use janus_core::wire::HttpRequest;
use log::Level;

/// The name of the header (W3C Trace Context).
const HEADER: &str = "traceparent";

/// The header, if it is valid and the log wants such lines.
pub(super) fn in_head(request: &HttpRequest) -> Option<&str> {
    request.header(HEADER).filter(|value| log::log_enabled!(Level::Debug) && is_valid(value))
}

/// Logs a publication that is part of a trace.
pub(super) fn note(traceparent: Option<&str>, topic: &str) {
    if let Some(traceparent) = traceparent {
        log::debug!(topic, traceparent; "topic {topic}: a publication with traceparent {traceparent}");
    }
}

/// Whether a header has the form of version 00: `00-TRACE-PARENT-FLAGS` with 32, 16 and 2 hexadecimal digits. Later
/// versions begin with the same 55 characters, and those with more are not logged.
fn is_valid(value: &str) -> bool {
    let is_hex = |part: &str, length| {
        part.len() == length && part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let is_id = |part: &str, length| is_hex(part, length) && part.bytes().any(|byte| byte != b'0');
    match value.split('-').collect::<Vec<_>>()[..] {
        [version, trace, parent, flags] => {
            is_hex(version, 2) && version != "ff" && is_id(trace, 32) && is_id(parent, 16) && is_hex(flags, 2)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_valid_traceparent_is_logged() {
        let (trace, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        assert!(is_valid(&format!("00-{trace}-{parent}-01")) && is_valid(&format!("cc-{trace}-{parent}-00")));
        for bad in [
            String::new(),
            format!("00-{trace}-{parent}"),
            format!("ff-{trace}-{parent}-01"),
            format!("00-{}-{parent}-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
            format!("00-{}-{parent}-01", trace.to_uppercase()),
            format!("00-{trace}-{parent}-01-more"),
            format!("00-{trace}-{parent}-0\n"),
        ] {
            assert!(!is_valid(&bad), "{bad:?}");
        }
    }
}
