//! What the bench writes into each message so that a client knows it again: run, number and send time.
//!
//! The data is a JSON string of the size asked for, and the mark is its end. As `data` is the last key of a delivery,
//! the mark stands at a fixed distance from the end of the frame, and a client that gets tens of thousands of frames a
//! second need not parse them.

/// The shortest data there can be: a mark in quotes.
pub(crate) const MARK_BYTES: u32 = 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// Tells the messages of this run from any others on the server.
    pub(super) run: u32,
    pub(super) number: u32,
    /// When the message was written, or was due: nanoseconds of the bench's clock.
    pub(super) sent: u64,
}

impl Mark {
    /// Appends the data, `size` bytes of JSON.
    pub(super) fn write(&self, size: u32, out: &mut Vec<u8>) {
        out.push(b'"');
        out.resize(out.len() + size.saturating_sub(MARK_BYTES) as usize, b'.');
        out.extend_from_slice(format!("{:08x}{:010}{:020}\"", self.run, self.number, self.sent).as_bytes());
    }

    /// Reads the mark of a delivery, given without its terminator; `None` if it is not a message of `size` bytes of
    /// data of any run.
    pub(super) fn read(frame: &[u8], size: u32) -> Option<Self> {
        let before_data = frame.get(..frame.len().checked_sub(size as usize + 1)?)?;
        let mark = frame.get(frame.len().checked_sub(MARK_BYTES as usize)?..)?.strip_suffix(b"\"}")?;
        if !before_data.ends_with(b"\"data\":") {
            return None;
        }
        let (run, rest) = mark.split_at_checked(8)?;
        let (number, sent) = rest.split_at_checked(10)?;
        Some(Self {
            run: u32::from_str_radix(str::from_utf8(run).ok()?, 16).ok()?,
            number: decimal(number)?.try_into().ok()?,
            sent: decimal(sent)?,
        })
    }
}

fn decimal(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0_u64, |value, &digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        value.checked_mul(10)?.checked_add(digit.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_found_at_the_end_of_a_delivery() {
        let mark = Mark { run: 0xdead_beef, number: 1_234_567, sent: 1_700_000_000_123_456_789 };
        for size in [MARK_BYTES, 41, 100, 5_000] {
            let mut frame =
                b"{\"timestamp\":[1,2,3],\"topic\":\"t\",\"event\":\"bench\",\"message_id\":\"\",\"data\":".to_vec();
            let before = frame.len();
            mark.write(size, &mut frame);
            assert_eq!(frame.len() - before, size as usize);
            frame.push(b'}');
            assert_eq!(Mark::read(&frame, size), Some(mark));
            assert_eq!(Mark::read(&frame, size + 1), None);
            assert_eq!(Mark::read(&frame[..frame.len() - 1], size), None);
        }
        assert_eq!(Mark::read(b"ACK", MARK_BYTES), None);
    }
}
