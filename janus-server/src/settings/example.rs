//! A configuration file with every setting as a comment: the output of `config example`, and `/etc/janus.toml` of the
//! Debian package.

use std::fmt::Write as _;

use super::table::{Row, TABLE};

/// Columns of the file.
const WIDTH: usize = 100;

const HEAD: &str = "\
# Settings of janus-server, the Janus message server.
#
# Every setting is listed with its default, as a comment: to change a setting, remove the # before
# its name and edit the value. Check the file, and put it in force:
#
#     janus-server config check --config FILE
#     janus-server reload --config FILE        (or systemctl reload janus)
#
# A flag wins over a variable, and a variable over this file. `janus-server config show` prints the
# settings in force, each with its origin. Sizes are bytes, or have a unit: B, KiB, MiB, GiB.
# Durations have a unit: ms, s, m, h, d. A default in words depends on the machine or on another
# setting; write a value in place of …
";

const NAMESPACES: &str = "
# For all topics. A table at the end of the file sets other values for the topics of one namespace:
# those whose names begin with NAME and a colon.
#
#     [namespace.NAME]
#     history = true
";

/// The file.
pub(crate) fn example() -> String {
    let mut text = HEAD.to_owned();
    let mut group = "";
    for row in TABLE.iter() {
        if group != row.setting.group {
            group = row.setting.group;
            let line = "-".repeat(WIDTH - 4 - group.chars().count());
            let note = if row.is_of_a_namespace() { NAMESPACES } else { "" };
            let _ = write!(text, "\n\n# {group} {line}\n{note}");
        }
        let _ = writeln!(text, "\n{}", comment(&row.setting.text()));
        let _ = writeln!(text, "{}", comment(&facts(row)));
        let value = if row.default_in_words().is_some() { "…".to_owned() } else { row.default_text() };
        let _ = writeln!(text, "#{} = {value}", row.setting.name);
    }
    text
}

/// What is accepted, and when a change takes effect.
fn facts(row: &Row) -> String {
    let default = row.default_in_words().map(|words| format!("Default: {words}. ")).unwrap_or_default();
    format!("{default}Accepted: {}. Takes effect: {}.", row.setting.kind.expected(), row.setting.reload)
}

/// The words as lines of a comment.
fn comment(text: &str) -> String {
    let mut lines = String::new();
    let mut column = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column == 0 || column + 1 + length > WIDTH {
            lines.push_str(if column == 0 { "#" } else { "\n#" });
            column = 1;
        }
        lines.push(' ');
        lines.push_str(word);
        column += 1 + length;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_of_the_example_is_too_wide_for_a_terminal() {
        let text = example();
        let too_wide = |line: &&str| line.starts_with("# ") && line.chars().count() > WIDTH;
        assert_eq!(text.lines().find(too_wide), None);
    }

    #[test]
    fn words_are_wrapped_and_never_lost() {
        let text = "word ".repeat(100);
        let comment = comment(&text);
        assert!(comment.lines().count() > 1 && comment.lines().all(|line| line.starts_with("# word")), "{comment}");
        assert_eq!(comment.matches("word").count(), 100);
    }
}
