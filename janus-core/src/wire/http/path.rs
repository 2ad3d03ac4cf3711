//! The paths of a route.

use std::fmt;
use std::str::FromStr;

/// The paths of a route: a single path, as in `/connection/websocket`, or all paths that begin alike, written with a star at
/// the end, as in `/app/*`.
///
/// A path is compared as sent, without its query; escapes are not undone, and letters keep their case.
///
/// ```
/// use janus_core::wire::PathPattern;
///
/// let pattern: PathPattern = "/app/*".parse()?;
/// assert!(pattern.fits("/app/278d425bdf160c739803") && pattern.fits("/app/") && !pattern.fits("/app"));
/// assert_eq!(pattern.rest("/app/278d425bdf160c739803"), Some("278d425bdf160c739803"));
/// assert!("app".parse::<PathPattern>().is_err() && "/a*b".parse::<PathPattern>().is_err());
/// # Ok::<_, janus_core::wire::PathPatternError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathPattern {
    /// The path, or the common beginning.
    text: Box<str>,
    is_prefix: bool,
}

/// The text is not a [`PathPattern`]; its author is to blame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a path: expected a path as in /connection/websocket, or a beginning and a star as in /app/*")]
pub struct PathPatternError;

impl PathPattern {
    /// This path and no other.
    pub(crate) fn exact(path: &str) -> Self {
        Self { text: path.into(), is_prefix: false }
    }

    /// Whether a path is one of these.
    #[must_use]
    pub fn fits(&self, path: &str) -> bool {
        self.rest(path).is_some()
    }

    /// The part of a path behind the common beginning, empty for a single path; `None` if the path is not one of these.
    #[must_use]
    pub fn rest<'p>(&self, path: &'p str) -> Option<&'p str> {
        path.strip_prefix(&*self.text).filter(|rest| self.is_prefix || rest.is_empty())
    }

    /// Whether some path is one of both.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        let holds = |one: &Self, other: &Self| one.fits(&other.text) && (one.is_prefix || !other.is_prefix);
        holds(self, other) || holds(other, self)
    }
}

impl FromStr for PathPattern {
    type Err = PathPatternError;

    fn from_str(text: &str) -> Result<Self, PathPatternError> {
        let (path, is_prefix) = match text.strip_suffix('*') {
            Some(beginning) => (beginning, true),
            None => (text, false),
        };
        let is_path =
            path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic() && !b"*?#".contains(&byte));
        if is_path { Ok(Self { text: path.into(), is_prefix }) } else { Err(PathPatternError) }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.text, if self.is_prefix { "*" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> PathPattern {
        text.parse().unwrap()
    }

    #[test]
    fn a_pattern_reads_back_from_its_text_and_from_no_other_text() {
        for text in ["/", "/ws", "/app/*", "/*", "/apps/1/events"] {
            assert_eq!(pattern(text).to_string(), text);
        }
        for text in ["", "*", "ws", "/a*b", "/a?b", "/a#b", "/a b", "/a\u{e9}", "/a**"] {
            assert_eq!(text.parse::<PathPattern>(), Err(PathPatternError), "{text}");
        }
    }

    #[test]
    fn two_patterns_meet_where_a_path_fits_both() {
        let meet = |one: &str, other: &str| {
            let (one, other) = (pattern(one), pattern(other));
            assert_eq!(one.meets(&other), other.meets(&one));
            one.meets(&other)
        };
        assert!(meet("/ws", "/ws") && meet("/ws", "/w*") && meet("/a*", "/ab*") && meet("/*", "/app/*"));
        assert!(!meet("/ws", "/wss") && !meet("/app/*", "/apps/*") && !meet("/app/*", "/app"));
    }
}
