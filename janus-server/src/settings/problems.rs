//! Where values come from, and the messages about wrong values and names.

use std::fmt;
use std::path::PathBuf;

use super::table::PREFIX;
use crate::limits::Memory;

/// The place of a value.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    Default,
    File {
        path: PathBuf,
        line: usize,
    },
    Variable(String),
    Flag(String),
    /// Derived from the available memory.
    Memory(Memory),
    /// Derived from `heartbeat_interval`.
    Heartbeat,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "file {}:{line}", path.display()),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Flag(name) => write!(f, "flag --{name}"),
            Self::Memory(memory) => memory.fmt(f),
            Self::Heartbeat => f.write_str("five times heartbeat_interval"),
        }
    }
}

/// A reason why the settings cannot be used: the place, the value, and the accepted values.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Problem {
    #[error("{origin}{} is not a setting{}", in_file(origin, name), did_you_mean(nearest.as_deref()))]
    Unknown { origin: Origin, name: String, nearest: Option<String> },
    #[error(
        "{origin}: [{name}] is not a setting: tables are called [namespace.NAME], and all other settings belong at the top \
         level of the file"
    )]
    UnknownTable { origin: Origin, name: String },
    #[error("{origin}: {name} is not a setting of a namespace: {key} belongs at the top level, above the first table")]
    Misplaced { origin: Origin, name: String, key: &'static str },
    #[error("{origin}: {name} = {value}: expected {expected}")]
    BadValue { origin: Origin, name: String, value: String, expected: String },
    #[error("{}:{line}: {message}", path.display())]
    NotToml { path: PathBuf, line: usize, message: String },
    /// `named_by` is the flag or the variable with the path.
    #[error("{named_by}: cannot read {}: {source}", path.display())]
    Unreadable { named_by: Origin, path: PathBuf, source: std::io::Error },
}

/// All mistakes in the settings, reported together.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n"))]
pub(crate) struct Problems(pub(crate) Vec<Problem>);

/// The name, except for a variable, where the origin has the name already.
fn in_file(origin: &Origin, name: &str) -> String {
    if let Origin::Variable(_) = origin { String::new() } else { format!(": {name}") }
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |nearest| format!("; did you mean {nearest}?"))
}

/// The known name nearest to a mistyped name, with at most a third of the characters mistyped. The prefix of variables
/// does not count, because every variable here has it.
pub(super) fn nearest(name: &str, known: impl Iterator<Item = String>) -> Option<String> {
    let bare = |name: &str| name.strip_prefix(PREFIX).unwrap_or(name).to_ascii_lowercase();
    let name = bare(name);
    known
        .map(|candidate| (strsim::damerau_levenshtein(&name, &bare(&candidate)), candidate))
        .filter(|(distance, _)| distance * 3 <= name.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// A key as in a file, quoted if necessary.
pub(super) fn toml_key(name: &str) -> String {
    if !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') {
        return name.to_owned();
    }
    format!("\"{}\"", one_line(&name.replace('\\', "\\\\").replace('"', "\\\"")))
}

/// Keeps a quoted value or a path on its line, in a message as in a comment.
pub(super) fn one_line(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}
