//! Patterns of topic names: the topics of a [`Grant`](super::Grant).
//!
//! Pure. No regular expressions: a pattern is held against a topic segment by segment, without going back, so that no
//! pattern and no topic can make a check slow.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::wire::{TopicName, TopicNameError};

/// Between two segments of a topic's name.
const SEPARATOR: char = ':';
/// Stands for one segment.
const ONE: &str = "*";
/// Stands for one or more segments, at the end of a pattern.
const REST: &str = "**";

/// A set of patterns of topic names.
///
/// A topic's name has segments, with a `:` between two of them; a segment may be empty. A pattern has segments, too:
///
/// | segment | matches |
/// |---|---|
/// | `*` | any one segment |
/// | `**`, at the end alone | one or more segments |
/// | any other text | this segment; case and blanks matter |
///
/// So `chat:*` matches `chat:lobby`, but neither `chat` nor `chat:lobby:2`; `user:alice:**` matches `user:alice:inbox`
/// and `user:alice:a:b`, but not `user:alice`; `**` matches every topic. A `*` has no escape: text from a stranger must
/// be checked for `*` and `:` before it becomes a part of a pattern. A `*` next to other text in its segment is an
/// error, and so cannot stand for anything by mistake.
///
/// At most [`MAX`](Self::MAX) patterns, each of at most [`MAX_BYTES`](Self::MAX_BYTES). Duplicates count once.
///
/// ```
/// use janus_core::hooks::Patterns;
///
/// let patterns = Patterns::new(["news", "chat:*", "user:alice:**"])?;
/// assert!(patterns.matches("news") && patterns.matches("chat:lobby") && patterns.matches("user:alice:a:b"));
/// assert!(!patterns.matches("news:sport") && !patterns.matches("chat:lobby:2") && !patterns.matches("user:alice"));
/// assert!(Patterns::new(["chat:lob*"]).is_err());
/// # Ok::<_, janus_core::hooks::PatternError>(())
/// ```
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Patterns {
    /// First the patterns without a wildcard, then all others; each part sorted and without duplicates.
    patterns: Box<[Box<str>]>,
    /// How many patterns have no wildcard.
    plain: usize,
}

/// Why a text is no pattern. The author of the pattern is to blame. Names the pattern by its number, counted from 1: a
/// pattern may come from a token, whose content belongs into no log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// There are more than [`Patterns::MAX`] patterns.
    #[error("more than {max} patterns: use wildcards, as in \"chat:*\"", max = Patterns::MAX)]
    TooMany,
    /// No topic can have a name like this.
    #[error("pattern number {number}: {error}")]
    NotATopic {
        /// The number of the pattern.
        number: usize,
        /// The rule for names of topics that the pattern breaks.
        error: TopicNameError,
    },
    /// A `*` is a part of a longer segment.
    #[error("pattern number {number}: \"*\" must be a whole segment, as in \"chat:*\"")]
    PartOfASegment {
        /// The number of the pattern.
        number: usize,
    },
    /// A `**` is followed by a further segment.
    #[error("pattern number {number}: \"**\" must be the last segment, as in \"user:alice:**\"")]
    NotAtTheEnd {
        /// The number of the pattern.
        number: usize,
    },
}

impl Patterns {
    /// The largest number of patterns. Each check of a topic may look at every pattern.
    pub const MAX: usize = 100;

    /// The largest size of a pattern: the largest size of a topic's name that a server can be set to.
    pub const MAX_BYTES: usize = 4_096;

    /// Reads patterns. Takes no more than [`MAX`](Self::MAX) and one from the iterator.
    ///
    /// # Errors
    ///
    /// The first pattern that is none, or too many patterns.
    pub fn new(patterns: impl IntoIterator<Item = impl AsRef<str>>) -> Result<Self, PatternError> {
        let (mut plain, mut wild) = (Vec::new(), Vec::new());
        for (index, pattern) in patterns.into_iter().enumerate() {
            if index == Self::MAX {
                return Err(PatternError::TooMany);
            }
            let pattern = pattern.as_ref();
            let is_wild = check(index + 1, pattern)?;
            let list: &mut Vec<Box<str>> = if is_wild { &mut wild } else { &mut plain };
            list.push(pattern.into());
        }
        for list in [&mut plain, &mut wild] {
            list.sort_unstable();
            list.dedup();
        }
        let count = plain.len();
        plain.append(&mut wild);
        Ok(Self { patterns: plain.into(), plain: count })
    }

    /// Whether one of the patterns matches the name of a topic.
    #[must_use]
    pub fn matches(&self, topic: &str) -> bool {
        let (plain, wild) = self.patterns.split_at(self.plain);
        plain.binary_search_by(|pattern| (**pattern).cmp(topic)).is_ok()
            || wild.iter().any(|pattern| matches(pattern, topic))
    }

    /// Whether one of the patterns matches the name of a topic, and names the first segment. A pattern that begins with a
    /// wildcard is meant for topics that the author of the pattern knows of, and says nothing about others.
    pub(crate) fn names(&self, topic: &str) -> bool {
        let is_literal = |pattern: &str| !matches!(pattern.split(SEPARATOR).next(), Some(ONE | REST));
        self.patterns.iter().any(|pattern| is_literal(pattern) && matches(pattern, topic))
    }

    /// Whether there is no pattern, and so no topic that matches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// The patterns: first those without a wildcard, then all others, each part in the order of the text.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.patterns.iter().map(|pattern| &**pattern)
    }
}

/// Checks a pattern; returns whether it has a wildcard.
fn check(number: usize, pattern: &str) -> Result<bool, PatternError> {
    TopicName::check(pattern, Patterns::MAX_BYTES).map_err(|error| PatternError::NotATopic { number, error })?;
    let mut segments = pattern.split(SEPARATOR).peekable();
    let mut is_wild = false;
    while let Some(segment) = segments.next() {
        match segment {
            ONE => is_wild = true,
            REST if segments.peek().is_some() => return Err(PatternError::NotAtTheEnd { number }),
            REST => is_wild = true,
            text if text.contains('*') => return Err(PatternError::PartOfASegment { number }),
            _ => {}
        }
    }
    Ok(is_wild)
}

/// Whether a checked pattern matches a topic.
fn matches(pattern: &str, topic: &str) -> bool {
    let mut segments = topic.split(SEPARATOR);
    for expected in pattern.split(SEPARATOR) {
        match (expected, segments.next()) {
            // Only at the end.
            (REST, Some(_)) => return true,
            (ONE, Some(_)) => {}
            (expected, Some(segment)) if expected == segment => {}
            _ => return false,
        }
    }
    segments.next().is_none()
}

/// Hides the patterns, which may come from a token.
impl fmt::Debug for Patterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Patterns({} of …)", self.patterns.len())
    }
}

/// An array of texts.
impl Serialize for Patterns {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn patterns(patterns: &[&str]) -> Patterns {
        Patterns::new(patterns).unwrap()
    }

    #[test]
    fn a_pattern_that_begins_with_a_wildcard_names_no_topic() {
        for pattern in ["**", "*", "*:*", "*:**", "*:b"] {
            assert!(!patterns(&[pattern]).names("a:b") && !patterns(&[pattern]).names("a"), "{pattern}");
        }
        for pattern in ["a:b", "a:*", "a:**"] {
            assert!(patterns(&["**", pattern]).names("a:b") && !patterns(&["**", pattern]).names("c:b"), "{pattern}");
        }
    }

    /// The rules in the words of the documentation, by recursion over lists of segments.
    fn naive(pattern: &[&str], topic: &[&str]) -> bool {
        match (pattern, topic) {
            ([], []) => true,
            (["**"], [_, ..]) => true,
            (["*", pattern @ ..], [_, topic @ ..]) => naive(pattern, topic),
            ([text, pattern @ ..], [segment, topic @ ..]) => text == segment && naive(pattern, topic),
            _ => false,
        }
    }

    #[test]
    fn the_wildcards_stand_for_whole_segments() {
        for (pattern, good, bad) in [
            ("news", &["news"][..], &["", "new", "news:", ":news", "news:a", "News", "news "][..]),
            ("chat:*", &["chat:a", "chat:", "chat:*"], &["chat", "chat:a:b", "chat::", "chats:a", ":chat:a"]),
            ("*:inbox", &["alice:inbox", ":inbox"], &["inbox", "a:b:inbox", "alice:inbox:"]),
            ("a:*:c", &["a:b:c", "a::c"], &["a:c", "a:b:b:c"]),
            ("user:alice:**", &["user:alice:a", "user:alice:a:b", "user:alice:"], &["user:alice", "user:alice2:a"]),
            ("*", &["news", " "], &["news:a", ":", "a:"]),
            ("**", &["news", "a:b:c", ":", "::"], &[]),
            ("*:**", &["a:b", "a:b:c", ":"], &["a"]),
            (":", &[":"], &["a:", ":a", "::", "a"]),
            ("::", &["::"], &[":", "a::"]),
        ] {
            let patterns = patterns(&[pattern]);
            for topic in good {
                assert!(patterns.matches(topic), "{pattern} and {topic:?}");
            }
            for topic in bad {
                assert!(!patterns.matches(topic), "{pattern} and {topic:?}");
            }
        }
    }

    #[test]
    fn any_of_the_patterns_is_enough_and_none_matches_nothing() {
        let some = patterns(&["b", "a", "c:*", "d:**", "a"]);
        for topic in ["a", "b", "c:x", "d:x:y"] {
            assert!(some.matches(topic), "{topic}");
        }
        assert!(!some.matches("c") && !some.matches("e"));
        assert_eq!(some.iter().collect::<Vec<_>>(), ["a", "b", "c:*", "d:**"], "a duplicate counts once");
        let none = Patterns::new([""; 0]).unwrap();
        assert!(none.is_empty() && !none.matches("a") && !none.matches(""));
    }

    #[test]
    fn a_text_that_is_no_pattern_is_named_by_its_number() {
        let error = |pattern: &str| Patterns::new(["a", pattern]).unwrap_err();
        for pattern in ["a*", "*a", "***", "a:b*:c", "**a", "a:**b", "\\*"] {
            assert_eq!(error(pattern), PatternError::PartOfASegment { number: 2 }, "{pattern}");
        }
        for pattern in ["**:a", "a:**:b", "**:", "**:**", "**:*"] {
            assert_eq!(error(pattern), PatternError::NotAtTheEnd { number: 2 }, "{pattern}");
        }
        for (pattern, rule) in [("", TopicNameError::Empty), ("a\n", TopicNameError::ControlCharacter)] {
            assert_eq!(error(pattern), PatternError::NotATopic { number: 2, error: rule }, "{pattern:?}");
        }
    }

    #[test]
    fn number_and_size_of_patterns_have_limits() {
        let many = |count: usize| Patterns::new((0..count).map(|number| number.to_string()));
        assert!(many(100).is_ok());
        assert_eq!(many(101), Err(PatternError::TooMany));
        let long = |bytes: usize| Patterns::new(["x".repeat(bytes)]);
        assert!(long(4_096).is_ok());
        let error = TopicNameError::TooLong { max_bytes: 4_096 };
        assert_eq!(long(4_097), Err(PatternError::NotATopic { number: 1, error }));
    }

    #[test]
    fn a_log_never_shows_a_pattern() {
        assert_eq!(format!("{:?}", patterns(&["secret", "x:*"])), "Patterns(2 of …)");
    }

    fn segment() -> impl Strategy<Value = &'static str> {
        prop_oneof![Just(""), Just("a"), Just("b"), Just("ab"), Just("é")]
    }

    fn pattern() -> impl Strategy<Value = Vec<&'static str>> {
        let inner = prop::collection::vec(prop_oneof![3 => segment(), 1 => Just("*")], 0..4);
        let last = prop_oneof![2 => segment(), 1 => Just("*"), 2 => Just("**")];
        (inner, last).prop_map(|(mut segments, last)| {
            segments.push(last);
            segments
        })
    }

    proptest! {
        #[test]
        fn patterns_agree_with_the_naive_rules(
            written in prop::collection::vec(pattern(), 0..8),
            topics in prop::collection::vec(prop::collection::vec(segment(), 1..5), 1..20),
        ) {
            let written: Vec<_> = written.into_iter().filter(|segments| segments != &[""]).collect();
            let patterns = Patterns::new(written.iter().map(|segments| segments.join(":"))).unwrap();
            for topic in topics {
                let expected = written.iter().any(|pattern| naive(pattern, &topic));
                prop_assert_eq!(patterns.matches(&topic.join(":")), expected, "{:?} {:?}", &written, &topic);
            }
        }

        #[test]
        fn any_text_is_a_pattern_or_an_error(text in "[a*:]{0,8}", topic in "[a:]{1,8}") {
            let segments: Vec<_> = text.split(':').collect();
            match Patterns::new([&text]) {
                Ok(patterns) => {
                    let topic_segments: Vec<_> = topic.split(':').collect();
                    prop_assert_eq!(patterns.matches(&topic), naive(&segments, &topic_segments));
                }
                Err(_) => {
                    let last = segments.len() - 1;
                    let is_bad = |(index, segment): (usize, &&str)| match *segment {
                        "*" => false,
                        "**" => index < last,
                        segment => segment.contains('*'),
                    };
                    prop_assert!(text.is_empty() || segments.iter().enumerate().any(is_bad));
                }
            }
        }
    }
}
