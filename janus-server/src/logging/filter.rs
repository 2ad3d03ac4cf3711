//! The setting `log`: a level, and other levels for single targets.
//!
//! Pure. A target is the beginning of the name of a part of the program: `janus_core::connection` covers
//! `janus_core::connection::acceptor`, too.

use std::fmt;
use std::str::FromStr;

use log::LevelFilter;

/// Targets with levels of their own. Each record of an enabled level is compared with all of them.
pub(crate) const MAX_TARGETS: usize = 16;

/// Bytes of a target.
pub(crate) const MAX_TARGET_BYTES: usize = 128;

/// The names of all levels, quietest first.
pub(crate) const LEVELS: &str = "off, error, warn, info, debug or trace";

/// The configured levels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogFilter {
    /// The level of all targets without a level of their own.
    pub(super) level: LevelFilter,
    pub(super) targets: Vec<(String, LevelFilter)>,
}

/// A text that is no filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no level of the log: expected {}", LogFilter::EXPECTED)]
pub(crate) struct BadFilter {
    text: String,
}

impl LogFilter {
    /// The accepted texts.
    pub(crate) const EXPECTED: &str = "\"off\", \"error\", \"warn\", \"info\", \"debug\" or \"trace\", and then, if wanted, levels of \
                                       up to 16 targets, as in \"info,janus_core::connection=debug\"";

    pub(crate) fn level(level: LevelFilter) -> Self {
        Self { level, targets: Vec::new() }
    }

    /// Whether lines of `info` are logged, of targets without a level of their own.
    pub(crate) fn has_info(&self) -> bool {
        self.level >= LevelFilter::Info
    }

    pub(crate) fn accepts(text: &str) -> bool {
        text.parse::<Self>().is_ok()
    }

    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(',').map(str::trim);
        let mut filter = Self::level(parts.next()?.parse().ok()?);
        for part in parts {
            let (target, level) = part.split_once('=')?;
            let (target, level) = (target.trim(), level.trim().parse().ok()?);
            if !is_target(target) || filter.targets.iter().any(|(known, _)| known == target) {
                return None;
            }
            filter.targets.push((target.to_owned(), level));
        }
        (filter.targets.len() <= MAX_TARGETS).then_some(filter)
    }
}

/// Whether a text may be a target: the path of a part of a program.
pub(crate) fn is_target(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':';
    (1..=MAX_TARGET_BYTES).contains(&text.len()) && text.bytes().all(allowed)
}

impl FromStr for LogFilter {
    type Err = BadFilter;

    fn from_str(text: &str) -> Result<Self, BadFilter> {
        Self::parse(text).ok_or_else(|| BadFilter { text: text.to_owned() })
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&lower(self.level))?;
        self.targets.iter().try_for_each(|(target, level)| write!(f, ",{target}={}", lower(*level)))
    }
}

/// The name of a level as in a file of settings.
pub(crate) fn lower(level: LevelFilter) -> String {
    level.as_str().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_level_with_levels_of_targets() {
        for (text, shown) in [
            ("info", "info"),
            ("OFF", "off"),
            (
                "warn, janus_core::connection = Debug ,janus_server=trace",
                "warn,janus_core::connection=debug,janus_server=trace",
            ),
        ] {
            let filter: LogFilter = text.parse().unwrap();
            assert_eq!(filter.to_string(), shown);
            assert_eq!(shown.parse(), Ok(filter));
        }
    }

    #[test]
    fn a_mistyped_filter_is_refused() {
        let many: String = (0..17).map(|number| format!(",t{number}=info")).collect();
        for text in [
            "",
            "debgu",
            "janus_core=debug",
            "info,debug",
            "info,a=",
            "info,=debug",
            "info,a=b",
            "info,a b=info",
            "info,",
            "info,a=info,a=warn",
            &format!("info{many}"),
        ] {
            let error = text.parse::<LogFilter>().unwrap_err().to_string();
            assert!(error.ends_with("as in \"info,janus_core::connection=debug\""), "{error}");
        }
    }
}
