//! What the commands print: lines of JSON, and tables for people.

use std::borrow::Cow;
use std::fmt::{self, Display, Write as _};
use std::io::{self, Write as _};

use janus_core::wire::Base64;
use serde_json::Value;
use unicode_width::UnicodeWidthStr as _;

use super::ClientError;

/// Reports progress to the user, with names and reasons of strangers made visible. A closed standard error is no reason
/// to end.
pub(super) fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{}", visible(text));
}

/// Prints text that ends with a line end.
pub(super) fn print(text: &str) -> Result<(), ClientError> {
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes()).and_then(|()| output.flush()).map_err(ClientError::Output)
}

/// Prints lines that have a server's words in them.
pub(super) fn print_visible(lines: &str) -> Result<(), ClientError> {
    print(&lines.lines().fold(String::new(), |shown, line| shown + &visible(line) + "\n"))
}

/// A message as `subscribe` and `history` print messages: one object, with the publisher's JSON as it is.
pub(super) fn message_json(
    topic: &str,
    seq: u64,
    time: impl Display,
    [event, id]: [&str; 2],
    payload: Payload<'_>,
) -> String {
    let topic = Value::from(topic);
    format!("{{\"topic\":{topic},\"seq\":{seq},\"time\":{time},\"event\":{event},\"message_id\":{id},{payload}}}")
}

/// The payload of a message, as a member of an object: `data`, or `data_base64` for bytes.
#[derive(Clone, Copy)]
pub(super) enum Payload<'a> {
    Json(&'a str),
    Base64(&'a str),
}

impl<'a> Payload<'a> {
    pub(super) fn of(data: &'a str, base64: Option<Base64<'a>>) -> Self {
        base64.map_or(Self::Json(data), |base64| Self::Base64(base64.as_str()))
    }
}

impl Display for Payload<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json(data) => write!(f, "\"data\":{data}"),
            Self::Base64(text) => write!(f, "\"data_base64\":{}", Value::from(*text)),
        }
    }
}

/// Prints JSON as one line. Line ends occur only between JSON tokens, where a space means the same.
pub(super) fn print_json(json: &str) -> Result<(), ClientError> {
    print(&(json.trim_end().replace(['\n', '\r'], " ") + "\n"))
}

/// A stranger's text with every invisible character escaped: control characters, which a terminal would obey, and
/// characters that hide or reorder others.
pub(super) fn visible(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_invisible) {
        return text.into();
    }
    let mut visible = String::new();
    for letter in text.chars() {
        if is_invisible(letter) { visible.extend(letter.escape_unicode()) } else { visible.push(letter) }
    }
    visible.into()
}

fn is_invisible(letter: char) -> bool {
    letter.is_control()
        || matches!(
            letter,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
                | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}'
        )
}

/// The side on which the texts of a column are aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

/// A table that is printed page by page. A column keeps its width, unless a later page needs more.
pub(super) struct Table<'a> {
    columns: &'a [(&'a str, Side)],
    widths: Vec<usize>,
    is_begun: bool,
}

impl<'a> Table<'a> {
    pub(super) fn new(columns: &'a [(&'a str, Side)]) -> Self {
        let widths = columns.iter().map(|(title, _)| title.width()).collect();
        Self { columns, widths, is_begun: false }
    }

    /// The rows as lines, below the titles if these are the first rows. Each row has a text for each column.
    pub(super) fn lines(&mut self, rows: &[Vec<String>]) -> String {
        let rows: Vec<Vec<Cow<'_, str>>> =
            rows.iter().map(|row| row.iter().map(|text| visible(text)).collect()).collect();
        for row in &rows {
            for (width, text) in self.widths.iter_mut().zip(row) {
                *width = text.width().max(*width);
            }
        }
        let mut lines = String::new();
        if !self.is_begun && !rows.is_empty() {
            self.is_begun = true;
            let titles: Vec<Cow<'_, str>> = self.columns.iter().map(|(title, _)| (*title).into()).collect();
            self.line(&titles, &mut lines);
        }
        for row in &rows {
            self.line(row, &mut lines);
        }
        lines
    }

    fn line(&self, row: &[Cow<'_, str>], lines: &mut String) {
        let mut line = String::new();
        for ((text, width), (_, side)) in row.iter().zip(&self.widths).zip(self.columns) {
            let blanks = " ".repeat(width - text.width());
            let (before, after) = if *side == Side::Right { (&*blanks, "") } else { ("", &*blanks) };
            let _ = write!(line, "{before}{text}{after}  ");
        }
        lines.push_str(line.trim_end());
        lines.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(texts: [&str; 2]) -> Vec<String> {
        texts.map(str::to_owned).to_vec()
    }

    #[test]
    fn a_table_is_aligned_by_the_width_on_the_screen_and_has_its_titles_once() {
        let mut table = Table::new(&[("NAME", Side::Left), ("N", Side::Right)]);
        assert_eq!(table.lines(&[]), "");
        let first = table.lines(&[row(["天気", "7"]), row(["b", "100"])]);
        assert_eq!(first, "NAME    N\n天気    7\nb     100\n");
        assert_eq!(table.lines(&[row(["longer", "1"])]), "longer    1\n");
    }

    #[test]
    fn no_character_of_a_stranger_acts_on_the_terminal() {
        let mut table = Table::new(&[("NAME", Side::Left), ("N", Side::Right)]);
        let lines = table.lines(&[row(["a\u{1b}[2J\n\u{9b}1m", "\u{202e}x\u{200b}"])]);
        assert!(lines.ends_with("a\\u{1b}[2J\\u{a}\\u{9b}1m  \\u{202e}x\\u{200b}\n"), "{lines}");
        assert_eq!(visible("Grüße, 天気 🦀"), "Grüße, 天気 🦀");
    }
}
