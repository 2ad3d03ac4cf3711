//! A record as text: an entry of the log, and a message on the channel.
//!
//! | record | text |
//! |---|---|
//! | messages | `FORM msg EPOCH FIRST COUNT SECONDS MICROSECONDS NODE SUBMISSION`, a line feed, and the payload |
//! | loss mark | `1 loss EPOCH FIRST COUNT SECONDS MICROSECONDS EPOCH_BEFORE LAST_BEFORE`, and a line feed |
//!
//! The digit is the version of the form, for releases with different forms at one engine. Messages have the
//! [form](Payload::form) of their payload, so a release without messages of bytes reads all other messages, and says of
//! these that they are of a newer release.

use std::time::Duration;

use bytes::{Buf, Bytes};

use super::super::{Payload, Record, What};
use crate::wire::{Position, Timestamp};

/// The latest form, which this release reads as well as all before. Each record is written in the earliest form that can
/// express the record.
const LATEST: u64 = 2;

/// Why a text is not a record to this release.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RecordError {
    #[error(
        "the log has records of form {0}, written by a newer release of Janus, and this release reads forms up \
         to {LATEST}: upgrade this node"
    )]
    Version(u64),
    #[error("the log has an entry that is no record; is the prefix also used by another program?")]
    Malformed,
}

/// Reads the text of a record.
pub(super) fn record_of(mut text: Bytes) -> Result<Record, RecordError> {
    let end = text.iter().take(MAX_HEAD).position(|byte| *byte == b'\n');
    let head = &text[..end.unwrap_or_else(|| text.len().min(MAX_HEAD))];
    let head = str::from_utf8(head).map_err(|_| RecordError::Malformed)?;
    let (version, head) = head.split_once(' ').ok_or(RecordError::Malformed)?;
    let form = decimal(version).filter(|form| *form > 0).ok_or(RecordError::Malformed)?;
    if form > LATEST {
        return Err(RecordError::Version(form));
    }
    let (mut record, behind) = head_of(head).zip(end).ok_or(RecordError::Malformed)?;
    text.advance(behind + 1);
    match &mut record.what {
        What::Messages { payload, .. } => *payload = Payload::from_bytes(text),
        What::Lost { .. } if text.is_empty() && form == 1 => {}
        What::Lost { .. } => return Err(RecordError::Malformed),
    }
    Ok(record)
}

/// More than the longest head has.
const MAX_HEAD: usize = 256;

/// The record of a line, without a payload.
fn head_of(head: &str) -> Option<Record> {
    let mut words = head.split(' ');
    let kind = words.next()?;
    let epoch = words.next()?.parse().ok()?;
    let mut number = || words.next().and_then(decimal);
    let (first, count, seconds, micros) = (number()?, number()?, number()?, number()?);
    let (name, last) = (words.next()?, words.next().and_then(decimal)?);
    let what = match kind {
        "msg" => {
            What::Messages { node: name.parse().ok()?, submission: last, payload: Payload::from_bytes(Bytes::new()) }
        }
        "loss" => What::Lost { after: Position { epoch: name.parse().ok()?, seq: last } },
        _ => return None,
    };
    let time = Timestamp::from_unix(Duration::from_secs(seconds).checked_add(Duration::from_micros(micros))?);
    let makes_sense = words.next().is_none() && count > 0 && first > 0 && first.checked_add(count).is_some();
    makes_sense.then_some(Record { epoch, first, count, time, what })
}

/// A number in digits alone.
pub(super) fn decimal(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::NodeId;
    use crate::wire::Epoch;

    fn read(text: &'static str) -> Result<Record, RecordError> {
        record_of(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn records_are_read() {
        let (epoch, time) = (Epoch::new(0xab), Timestamp { mega: 1_258, sec: 870_801, micro: 42 });
        let payload = Payload::from_bytes(Bytes::from_static(b"1 1 1\n123"));
        let messages = What::Messages { node: NodeId::new(0xcd), submission: 9, payload };
        assert_eq!(
            read("1 msg 00000000000000ab 41 2 1258870801 42 00000000000000cd 9\n1 1 1\n123"),
            Ok(Record { epoch, first: 41, count: 2, time, what: messages })
        );
        let payload = Payload::from_bytes(Bytes::from_static(b"2\n1 1 1 bytes\n123"));
        let messages = What::Messages { node: NodeId::new(0xcd), submission: 9, payload };
        assert_eq!(
            read("2 msg 00000000000000ab 41 1 1258870801 42 00000000000000cd 9\n2\n1 1 1 bytes\n123"),
            Ok(Record { epoch, first: 41, count: 1, time, what: messages })
        );
        let what = What::Lost { after: Position { epoch: Epoch::new(0xef), seq: 40 } };
        assert_eq!(
            read("1 loss 00000000000000ab 41 1 1258870801 42 00000000000000ef 40\n"),
            Ok(Record { epoch, first: 41, count: 1, time, what })
        );
    }

    #[test]
    fn a_newer_form_is_named_and_not_guessed() {
        assert_eq!(read("3 msg 00000000000000ab"), Err(RecordError::Version(3)));
        assert_eq!(read("12 anything\nat all"), Err(RecordError::Version(12)));
        assert!(RecordError::Version(3).to_string().contains("upgrade this node"));
    }

    #[test]
    fn other_texts_are_refused() {
        let bad = [
            "",
            "1",
            "x",
            "x y",
            "msg 1 2",
            "1 msg 00000000000000ab 41 2 1258870801 42 00000000000000cd 9",
            "1 msg 00000000000000ab 41 0 1258870801 42 00000000000000cd 9\n",
            "1 msg 00000000000000ab 0 1 1258870801 42 00000000000000cd 9\n",
            "1 msg 00000000000000ab +1 1 1258870801 42 00000000000000cd 9\n",
            "1 msg 00000000000000ab 18446744073709551615 1 1258870801 42 00000000000000cd 9\n",
            "1 msg 00000000000000ab 1 1 18446744073709551615 18446744073709551615 00000000000000cd 9\n",
            "1 msg 00000000000000ab 1 1 1258870801 42 cd 9\n",
            "1 msg 00000000000000ab 1 1 1258870801 42 00000000000000cd 9 9\n",
            "1 gone 00000000000000ab 1 1 1258870801 42 00000000000000cd 9\n",
            "1 loss 00000000000000ab 1 1 1258870801 42 00000000000000cd 9\nmore",
            "2 loss 00000000000000ab 1 1 1258870801 42 00000000000000cd 9\n",
            "0 msg 00000000000000ab 1 1 1258870801 42 00000000000000cd 9\n",
            "+1 msg 00000000000000ab 1 1 1258870801 42 00000000000000cd 9\n",
            "1 \u{e9}",
        ];
        for text in bad {
            assert_eq!(read(text), Err(RecordError::Malformed), "{text:?}");
        }
        let cut = Bytes::from(["1 ", &"é".repeat(200)].concat());
        assert_eq!(record_of(cut), Err(RecordError::Malformed));
    }
}
