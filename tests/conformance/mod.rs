//! Every transport of this project, and the one of `examples/lines.rs`, keeps the contract; and codecs with a fault of
//! each kind are found out.

mod faulty;
mod lines;

use janus_core::conformance::{self, Check, ClassicClient, Report};
use janus_core::wire::classic::Classic;

/// Passed, with nothing skipped but these.
#[track_caller]
fn assert_skips_only(report: &Report, expected: &[Check]) {
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
