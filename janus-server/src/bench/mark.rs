//! The mark in each message, by which a client recognises the message: run, number and send time.
//!
//! The data is a JSON string of the requested size. The mark is the end of the string.

/// The shortest possible data: a mark in quotes.
pub(crate) const MARK_BYTES: u32 = 40;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// Distinguishes the messages of this run from all other messages on the server.
    pub(super) run: u32,
    pub(super) number: u32,
    /// When the message was written, or with a rate was due: nanoseconds of the bench's clock.
    pub(super) sent: u64,
}

impl Mark {
    /// Appends the data, `size` bytes of JSON.
    pub(super) fn write(&self, size: u32, out: &mut Vec<u8>) {
        out.push(b'"');
        out.resize(out.len() + size.saturating_sub(MARK_BYTES) as usize, b'.');
        out.extend_from_slice(format!("{:08x}{:010}{:020}\"", self.run, self.number, self.sent).as_bytes());
    }

    /// Reads the mark from a message's data; `None` if the data does not come from a bench with messages of this size.
    pub(super) fn read(data: &[u8], size: u32) -> Option<Self> {
        if data.len() != size as usize {
            return None;
        }
        let text = data.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
        let (_, mark) = text.split_at_checked(text.len().checked_sub(MARK_BYTES as usize - 2)?)?;
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
    fn a_mark_is_found_at_the_end_of_the_data() {
        let mark = Mark { run: 0xdead_beef, number: 1_234_567, sent: 1_700_000_000_123_456_789 };
        for size in [MARK_BYTES, 41, 100, 5_000] {
            let mut data = Vec::new();
            mark.write(size, &mut data);
            assert_eq!(data.len(), size as usize);
            assert_eq!(Mark::read(&data, size), Some(mark));
            assert_eq!(Mark::read(&data, size + 1), None);
            assert_eq!(Mark::read(&data[..data.len() - 1], size), None);
            assert_eq!(Mark::read(&data[..data.len() - 1], size - 1), None);
        }
        assert_eq!(Mark::read(b"\"\"", MARK_BYTES), None);
    }
}
