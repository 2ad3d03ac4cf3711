//! Every transport of this project, and the transport of `examples/lines.rs`, keeps the contract. Codecs with planted
//! faults are found out.

mod faulty;
mod lengths;
mod lines;
mod prefixed;
#[cfg(unix)]
mod unix;

use std::time::Duration;

use janus_core::conformance::{self, CborClient, Check, ClassicClient, Report, SseClient, WebSocketClient};
use janus_core::wire::classic::Classic;
use janus_core::wire::{AllowedOrigins, HttpPort};

/// Asserts that the report has no failure, and skips only the expected checks.
#[track_caller]
pub(crate) fn assert_skips_only(report: &Report, expected: &[Check]) {
    eprintln!("{report}");
    report.assert_passed();
    for result in report.skipped() {
        assert!(expected.contains(&result.check), "{} was skipped: {:?}", result.check, result.outcome);
    }
}

#[tokio::test]
async fn the_classic_transport_conforms() {
    let report = conformance::run(Classic, ClassicClient).await;
    assert_skips_only(&report, &[Check::Gaps]);
}

/// The codec of an HTTP port, which becomes another codec at the first request.
pub(crate) fn http_port() -> HttpPort {
    HttpPort::new(AllowedOrigins::default(), Duration::from_secs(2))
}

#[tokio::test]
async fn the_websocket_transport_conforms() {
    let report = conformance::run(http_port(), WebSocketClient).await;
    assert_skips_only(&report, &[]);
}

#[tokio::test]
async fn the_binary_protocol_over_websocket_conforms() {
    let report = conformance::run(http_port(), CborClient).await;
    assert_skips_only(&report, &[]);
}

#[tokio::test]
async fn the_transport_of_server_sent_events_conforms() {
    let report = conformance::run(http_port(), SseClient).await;
    assert_skips_only(&report, &[Check::Unsubscribe, Check::TopicLimit, Check::Unfinished, Check::Declared]);
}
