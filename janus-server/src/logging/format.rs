//! The formats of lines: text for people, JSON for programs, and the journal of systemd.
//!
//! A name chosen by a stranger may be part of a message. In every format, a line break or another control character in
//! a message cannot begin a line of its own, end a string, or reach a terminal.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;

use env_logger::fmt::Formatter;
use log::kv::{self, Key, Value, VisitSource, VisitValue};
use log::{Level, LevelFilter, Record};

use super::{Line, MAX_LINE_BYTES};

/// Maximum bytes for the key-values of a line of JSON, so that a long value leaves room for the message.
const MAX_PAIRS_BYTES: usize = 4 * 1024;

/// Bytes of a line of JSON apart from its message and its key-values: the time, the level, and a target of up to 128
/// bytes.
const FRAME_BYTES: usize = 256;

/// Maximum bytes of a target in a line of JSON.
const MAX_TARGET_BYTES: usize = 128;

/// A format of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// A time, a level, a target and a message.
    Text,
    /// An object for each line, with the key-values of the line.
    Json,
    /// A priority instead of a time and a level, because the journal adds a time of its own.
    Journald,
}

impl Format {
    /// Journald if standard error is a stream of the journal, otherwise text.
    pub(crate) fn of_stderr() -> Self {
        let stream = std::env::var("JOURNAL_STREAM").ok();
        if stream.is_some_and(|stream| stderr_is(&stream)) { Self::Journald } else { Self::Text }
    }

    /// A logger that formats records of every level, and leaves the lines in the thread's own [`Line`].
    pub(super) fn formatter(self) -> env_logger::Logger {
        let mut builder = env_logger::Builder::new();
        // Levels are checked before a record is formatted, and panics are logged even with the log off.
        builder.filter_level(LevelFilter::Trace).target(env_logger::Target::Pipe(Box::new(Line)));
        let colored = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let style = match self {
            Self::Text if colored => env_logger::WriteStyle::Always,
            _ => env_logger::WriteStyle::Never,
        };
        builder.write_style(style);
        match self {
            // A message names everything already; key-values repeat parts of it for programs.
            Self::Text => builder.format_timestamp_millis().format_key_values(env_logger::fmt::hidden_kv_format),
            Self::Json => builder.format(json),
            Self::Journald => builder.format(journald),
        };
        builder.build()
    }

    /// Logs a record to a [formatter](Self::formatter) of this format.
    pub(super) fn log(self, record: &Record<'_>, formatter: &env_logger::Logger) {
        use log::Log as _;

        match self {
            Self::Text => {
                // The formatter indents further lines of a message.
                let message = Limited::of(record.args(), MAX_LINE_BYTES + 1, printable_lines);
                formatter.log(&record.to_builder().args(format_args!("{}", message.text)).build());
            }
            Self::Json | Self::Journald => formatter.log(record),
        }
    }
}

/// Whether a value of JOURNAL_STREAM names standard error, by the numbers of its device and its inode. A program
/// started with its standard error elsewhere has inherited the variable, and does not write to the journal.
fn stderr_is(stream: &str) -> bool {
    let numbers = stream.split_once(':').and_then(|(device, inode)| Some((device.parse().ok()?, inode.parse().ok()?)));
    let file = io::stderr().as_fd().try_clone_to_owned().and_then(|stderr| File::from(stderr).metadata());
    file.is_ok_and(|file| numbers == Some((file.dev(), file.ino())))
}

/// Writes a record as an object on a line. A message or a value that is too long is cut off, and the object says so.
fn json(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let mut pairs = Pairs { text: String::new(), is_cut: false };
    // The visitor has no errors of its own.
    let _ = record.key_values().visit(&mut pairs);
    let target = Limited::of(record.target(), MAX_TARGET_BYTES, json_string);
    let room = MAX_LINE_BYTES - FRAME_BYTES - pairs.text.len();
    let message = Limited::of(record.args(), room, json_string);
    let level = record.level().as_str().to_ascii_lowercase();
    let cut = if pairs.is_cut || target.is_cut || message.is_cut { ",\"cut\":true" } else { "" };
    writeln!(
        out,
        "{{\"ts\":\"{}\",\"level\":\"{level}\",\"target\":\"{}\",\"msg\":\"{}\"{}{cut}}}",
        out.timestamp_millis(),
        target.text,
        message.text,
        pairs.text
    )
}

/// The keys of every line of JSON, which no key-value may repeat.
const OWN_KEYS: [&str; 5] = ["ts", "level", "target", "msg", "cut"];

/// Key-values as the rest of an object in JSON.
struct Pairs {
    text: String,
    is_cut: bool,
}

impl<'kvs> VisitSource<'kvs> for Pairs {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        let begin = self.text.len();
        let name = Limited::of(key.as_str(), MAX_TARGET_BYTES, json_string);
        let underscore = if OWN_KEYS.contains(&key.as_str()) { "_" } else { "" };
        let _ = write!(self.text, ",\"{}{underscore}\":", name.text);
        // Room for the quotes of a value, or for a number.
        let room = MAX_PAIRS_BYTES.checked_sub(self.text.len() + 64);
        match room {
            Some(room) => value.visit(JsonValue { pairs: self, begin, room })?,
            None => {
                self.text.truncate(begin);
                self.is_cut = true;
            }
        }
        Ok(())
    }
}

/// Writes one value: numbers and booleans as such, everything else as a string. Without a value there is no key.
struct JsonValue<'a> {
    pairs: &'a mut Pairs,
    /// Where the key begins.
    begin: usize,
    room: usize,
}

impl JsonValue<'_> {
    fn write(&mut self, value: impl fmt::Display) -> Result<(), kv::Error> {
        let _ = write!(self.pairs.text, "{value}");
        Ok(())
    }
}

impl VisitValue<'_> for JsonValue<'_> {
    fn visit_any(&mut self, value: Value<'_>) -> Result<(), kv::Error> {
        let value = Limited::of(value, self.room, json_string);
        self.pairs.is_cut |= value.is_cut;
        self.write(format_args!("\"{}\"", value.text))
    }

    fn visit_null(&mut self) -> Result<(), kv::Error> {
        self.pairs.text.truncate(self.begin);
        Ok(())
    }

    fn visit_u64(&mut self, value: u64) -> Result<(), kv::Error> {
        self.write(value)
    }

    fn visit_i64(&mut self, value: i64) -> Result<(), kv::Error> {
        self.write(value)
    }

    fn visit_bool(&mut self, value: bool) -> Result<(), kv::Error> {
        self.write(value)
    }
}

/// Writes a record as lines for the journal. Each line of a message has the priority, and all but the first are
/// indented, so that a line break in a name begins no message of its own.
fn journald(out: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    let priority = match record.level() {
        Level::Error => "<3>",
        Level::Warn => "<4>",
        Level::Info => "<6>",
        Level::Debug | Level::Trace => "<7>",
    };
    let target = Limited::of(record.target(), MAX_TARGET_BYTES, json_string);
    let message = Limited::of(record.args(), MAX_LINE_BYTES - FRAME_BYTES, |character, text| {
        if character == '\n' {
            let _ = write!(text, "\n{priority}    ");
        } else {
            printable_lines(character, text);
        }
    });
    let cut = if message.is_cut { CUT_OFF } else { "" };
    writeln!(out, "{priority}{}: {}{cut}", target.text, message.text)
}

/// Marks the end of a message that was cut off.
pub(super) const CUT_OFF: &str = " (cut off)";

/// A text of at most `limit` bytes, in which a rule has replaced some characters.
struct Limited<R> {
    text: String,
    limit: usize,
    rule: R,
    /// Whether the limit was reached.
    is_cut: bool,
}

impl<R: Fn(char, &mut String)> Limited<R> {
    /// The text of a value. The rule appends a character, or the replacement of the character.
    fn of(value: impl fmt::Display, limit: usize, rule: R) -> Self {
        let mut limited = Self { text: String::new(), limit, rule, is_cut: false };
        // The error of a value that cannot be displayed: the text ends there.
        let _ = write!(limited, "{value}");
        limited
    }
}

impl<R: Fn(char, &mut String)> fmt::Write for Limited<R> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if self.is_cut {
                break;
            }
            let length = self.text.len();
            (self.rule)(character, &mut self.text);
            if self.text.len() > self.limit {
                self.text.truncate(length);
                self.is_cut = true;
            }
        }
        Ok(())
    }
}

/// Replaces control characters apart from line breaks and tabs, which would reach a terminal or end a line of the
/// journal (NUL), by their escapes in Rust.
fn printable_lines(character: char, text: &mut String) {
    match character {
        '\n' | '\t' => text.push(character),
        '\u{2028}' | '\u{2029}' => text.extend(character.escape_unicode()),
        _ if character.is_control() => text.extend(character.escape_default()),
        _ => text.push(character),
    }
}

/// Replaces what a string in JSON must not contain, and all other characters that some programs take for line breaks.
fn json_string(character: char, text: &mut String) {
    match character {
        '"' | '\\' => text.extend(['\\', character]),
        '\n' => text.push_str("\\n"),
        '\t' => text.push_str("\\t"),
        '\u{2028}' | '\u{2029}' => {
            let _ = write!(text, "\\u{:04x}", u32::from(character));
        }
        _ if character.is_control() => {
            let _ = write!(text, "\\u{:04x}", u32::from(character));
        }
        _ => text.push(character),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_of_the_journal_is_known_by_device_and_inode() {
        let file = File::from(io::stderr().as_fd().try_clone_to_owned().unwrap()).metadata().unwrap();
        let (device, inode) = (file.dev(), file.ino());
        assert!(stderr_is(&format!("{device}:{inode}")));
        for other in [format!("{device}:{}", inode + 1), format!("{}:{inode}", device + 1), inode.to_string()] {
            assert!(!stderr_is(&other), "{other}");
        }
        assert!(!stderr_is("") && !stderr_is(":") && !stderr_is("a:b"));
    }
}
