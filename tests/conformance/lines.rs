//! The transport of `examples/lines.rs`, whose promised length is tested here.

use janus_core::conformance::{self, Check, ClientFormat, Reader, ResumePoint, Seen};
use janus_core::wire::Delimited;

use super::assert_skips_only;

#[expect(dead_code, unreachable_pub, reason = "it is a program of its own")]
#[path = "../../examples/lines.rs"]
mod example;

pub(super) use example::{Lines, request};

pub(super) struct LinesClient;

impl ClientFormat for LinesClient {
    fn subscribe(&self, topic: &str) -> Vec<u8> {
        format!("sub {topic}\n").into()
    }

    fn unsubscribe(&self, topic: &str) -> Option<Vec<u8>> {
        Some(format!("unsub {topic}\n").into())
    }

    fn publish(&self, topic: &str, data: &str) -> Option<Vec<u8>> {
        Some(format!("pub {topic} {data}\n").into())
    }

    fn resume(&self, place: &ResumePoint) -> Option<Vec<u8>> {
        Some(format!("sub {} {}\n", place.topic, place.position?).into())
    }

    fn reader(&self) -> Box<dyn Reader> {
        let mut lines = Delimited::new(b'\n');
        Box::new(move |mut input: &[u8], seen: &mut Vec<Seen>| {
            while let Some(Ok(line)) = lines.next(&mut input, 1 << 20) {
                let line = String::from_utf8_lossy(&line);
                seen.push(read(&line).unwrap_or_else(|| Seen::Unknown(line.into_owned())));
            }
        })
    }

    fn garbage(&self) -> Vec<Vec<u8>> {
        let lines = [
            "\n",
            "sub\n",
            "dance news\n",
            "pub news\n",
            "pub news {\n",
            "sub news 7\n",
            "sub news x y\n",
            "SUB news\n",
        ];
        let mut garbage = lines.map(Vec::from).to_vec();
        garbage.push(b"sub \xff\n".to_vec());
        garbage
    }

    fn carries_topic(&self, name: &str) -> bool {
        !name.contains(' ')
    }
}

/// The event of a line from the server; `None` for an unknown line.
pub(super) fn read(line: &str) -> Option<Seen> {
    let words: Vec<&str> = line.splitn(4, ' ').collect();
    Some(match (words[0], words.len()) {
        ("msg", 4) => Seen::message(words[1], Some(words[2].parse().ok()?), words[3]),
        ("ok", 3) => Seen::subscribed().at(words[2].parse().ok()?).resumed(false),
        ("resumed", 3) => Seen::subscribed().at(words[2].parse().ok()?).resumed(true),
        ("left", 2) => Seen::Other,
        ("gap", 4) => Seen::Gap { from: words[2].parse().ok()?, to: words[3].parse().ok()? },
        ("error", 2..) => Seen::Error { code: words[1].to_owned() },
        ("bye", 2..) => Seen::Bye { code: words[1].to_owned() },
        _ => return None,
    })
}

#[tokio::test]
async fn the_example_transport_conforms() {
    let report = conformance::run(Lines, LinesClient).await;
    assert_skips_only(&report, &[Check::Blanks]);
}

#[test]
fn the_example_transport_has_less_than_fifty_lines_of_code() {
    let source = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/lines.rs")).unwrap();
    let is_code = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with("//");
    let lines = source.lines().filter(is_code).count();
    assert!(lines < 50, "{lines} lines");
}
