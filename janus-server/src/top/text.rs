//! Text for a terminal: strangers' names made harmless, and figures in a form for people.
//!
//! A topic's name may hold escape sequences, characters that turn the direction of writing, or characters without a
//! width. Each of them is shown as `\u{…}`: the screen shows the whole name, and no stranger commands the terminal.

use std::time::Duration;

use unicode_width::UnicodeWidthChar as _;

/// Combining marks shown after one character. More of them climb over the neighbouring lines.
const MARKS_MAX: usize = 2;

/// The text with visible escapes for all characters that a terminal would obey, hide or measure differently.
pub(super) fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut marks = MARKS_MAX;
    for character in text.chars() {
        let is_mark = character.width() == Some(0);
        marks = if is_mark { marks + 1 } else { 0 };
        // A backslash is escaped as well, so that no name looks like the escape of another.
        if is_hidden(character) || character == '\\' || marks > MARKS_MAX {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Whether a character is a command to the terminal, has no form of its own, or is measured differently by terminals.
fn is_hidden(character: char) -> bool {
    if character.is_ascii() {
        return character.is_ascii_control();
    }
    // The standard library escapes characters without a form. After a letter, marks have one.
    let after_a_letter = String::from_iter(['a', character]);
    after_a_letter.escape_debug().count() > 2
        || character.width().is_none()
        || matches!(character,
            // Blanks and selectors, counted by the standard library as marks or as letters.
            '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{200c}'
            | '\u{200d}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{e0100}'..='\u{e01ef}'
            // Colours of skin: some terminals show the colour apart from the picture before.
            | '\u{1f3fb}'..='\u{1f3ff}')
}

/// JSON in which strings hide nothing from a terminal: hidden characters become escapes of JSON.
pub(super) fn harmless_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for character in json.chars() {
        // Line breaks and blanks between the values are no part of a string, in which JSON escapes them.
        if character.is_ascii_whitespace() || !is_hidden(character) {
            shown.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                shown.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    shown
}

/// The columns taken by a text.
pub(super) fn width(text: &str) -> usize {
    text.chars().map(|character| character.width().unwrap_or(0)).sum()
}

/// The text cut to at most this many columns; an ellipsis marks the cut.
pub(super) fn fit(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let (mut fitting, mut taken) = (String::new(), 1);
    for character in text.chars() {
        taken += character.width().unwrap_or(0);
        if taken > columns {
            break;
        }
        fitting.push(character);
    }
    if columns > 0 {
        fitting.push('…');
    }
    fitting
}

/// A count with a comma after each group of three digits.
pub(super) fn number(count: u64) -> String {
    let digits = count.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A number of events per second. A dash while the server has no sample yet.
pub(super) fn rate(per_second: Option<f64>) -> String {
    match per_second {
        None => "–".to_owned(),
        Some(rate) if rate < 0.05 => "0".to_owned(),
        Some(rate) if rate < 9.95 => format!("{rate:.1}"),
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rate is positive and far from 2^64"
        )]
        Some(rate) => number(rate.round() as u64),
    }
}

/// Bytes in the largest unit with at least 1.
pub(super) fn bytes(count: u64) -> String {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
    let in_unit =
        units.into_iter().find(|(_, size)| count >= *size).map(|(unit, size)| (count as f64 / size as f64, unit));
    match in_unit {
        None => format!("{count} B"),
        Some((count, unit)) if count < 99.95 => format!("{count:.1} {unit}"),
        Some((count, unit)) => format!("{count:.0} {unit}"),
    }
}

/// A time in its two largest units.
pub(super) fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match () {
        () if days > 0 => format!("{} d {} h", number(days), hours % 24),
        () if hours > 0 => format!("{hours} h {} m", minutes % 60),
        () if minutes > 0 => format!("{minutes} m {} s", seconds % 60),
        () if seconds > 0 || time.is_zero() => format!("{seconds} s"),
        () => format!("{} ms", time.as_millis()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_or_hide_is_shown_as_an_escape() {
        for (name, shown) in [
            ("news", "news"),
            ("a\u{1b}[2Jb", "a\\u{1b}[2Jb"),
            ("\u{9b}31mred\u{7f}", "\\u{9b}31mred\\u{7f}"),
            ("line\nbreak\ttab", "line\\nbreak\\ttab"),
            ("evil\u{202e}txt", "evil\\u{202e}txt"),
            ("a\u{200b}b\u{200d}c\u{feff}", "a\\u{200b}b\\u{200d}c\\u{feff}"),
            ("blank\u{2800}\u{3164}", "blank\\u{2800}\\u{3164}"),
            ("a\u{fe0f}", "a\\u{fe0f}"),
            ("\\u{1b}", "\\\\u{1b}"),
            ("it's \"quoted\"", "it's \"quoted\""),
        ] {
            assert_eq!(harmless(name), shown);
        }
    }

    #[test]
    fn letters_of_all_languages_stay_and_a_tower_of_marks_does_not() {
        for name in ["größe", "e\u{301}", "новости", "新聞", "ข่าวที่", "🎉"] {
            assert_eq!(harmless(name), name);
        }
        assert_eq!(harmless("e\u{301}\u{301}\u{301}"), "e\u{301}\u{301}\\u{301}");
        assert_eq!(harmless("\u{301}e"), "\\u{301}e", "a mark at the beginning would join the column before");
    }

    #[test]
    fn hidden_characters_are_escapes_in_json_as_well() {
        let json = serde_json::to_string("a\u{9b}b\u{202e}c\u{e0041}d\u{7f}é").unwrap();
        let shown = harmless_json(&json);
        assert_eq!(shown, r#""a\u009bb\u202ec\udb40\udc41d\u007fé""#);
        assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), "a\u{9b}b\u{202e}c\u{e0041}d\u{7f}é");
    }

    #[test]
    fn a_text_is_cut_by_its_columns_and_not_by_its_characters() {
        assert_eq!(fit("news", 4), "news");
        assert_eq!(fit("newspaper", 5), "news…");
        assert_eq!(fit("新聞新聞", 8), "新聞新聞");
        assert_eq!(fit("新聞新聞", 6), "新聞…");
        assert_eq!(fit("新聞", 1), "…");
        assert_eq!(fit("news", 0), "");
    }

    #[test]
    fn figures_are_short() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(number), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [None, Some(0.0), Some(0.94), Some(12.6), Some(12_345.6)].map(rate),
            ["–", "0", "0.9", "13", "12,346"]
        );
        assert_eq!(
            [0, 1_023, 1_536, 100 << 20, 5 << 30].map(bytes),
            ["0 B", "1023 B", "1.5 KiB", "100 MiB", "5.0 GiB"]
        );
        assert_eq!(
            [0, 40, 12_000, 185_000, 7_380_000, 356_400_000].map(|ms| duration(Duration::from_millis(ms))),
            ["0 s", "40 ms", "12 s", "3 m 5 s", "2 h 3 m", "4 d 3 h"]
        );
    }
}
