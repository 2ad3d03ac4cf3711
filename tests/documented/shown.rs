//! The output that a page shows, compared with the output that comes.
//!
//! `…` alone on a line stands for any lines, and within a line for any text. Times, epochs and the like differ from run to
//! run: [`VARIES`] lists them. An epoch or a number of a connection that is one value in the page must be one value in the
//! output, and later commands of the page use the value that has come.

use std::collections::BTreeMap;

use regex::{Regex, escape};

/// What differs from run to run, as a pattern for both the page and the output.
const VARIES: [&str; 16] = [
    // Moments.
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z",
    r"\b[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT",
    r#""(?:time|time_ms|until|uptime_ms|reconnect_after_ms)":\s?\d+"#,
    r"\[\d+,\d+,\d+\]",
    // Durations.
    r"\b\d+(?:\.\d+)? (?:ns|µs|ms|s|min)\b",
    r#""(?:seconds_left|lagging_for_ms)":\s?\d+"#,
    r"\bretry: \d+",
    // Peers have ports of the kernel's choice.
    r"127\.0\.0\.1:\d{5}\b",
    r"\b(?:client|subscriber) \d+\b",
    // Counts of a server with a life of its own.
    r"_(?:count|total|bytes)(?:\{[^}]*\})? \d+",
    r#""messages_per_second":(?:null|[\d.]+)"#,
    r#""per_second":\{[^}]*\}"#,
    // Sessions and traces.
    r"\b[0-9a-f]{32}\b",
    r"\b\d+ lines?\b",
    // One value in the page is one value in the output: see `is_bound`.
    r"\b[0-9a-f]{16}\b",
    r#""connection":\s?\d+"#,
];

/// Whether a value that varies must be the same wherever the page has the same value.
fn is_bound(token: &str) -> bool {
    (token.len() == 16 && token.chars().all(|digit| digit.is_ascii_hexdigit())) || token.starts_with("\"connection\"")
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Same,
    /// The output so far is the beginning of what the page shows.
    NotYet,
    Different,
}

/// The values that have come for values of the page.
pub(crate) struct Shown {
    varies: Vec<Regex>,
    any: Regex,
    values: BTreeMap<String, String>,
}

/// One line of a page. `None` stands for any lines.
type Pattern = Option<(Regex, Vec<String>)>;

impl Shown {
    pub(crate) fn new() -> Self {
        let varies = VARIES.iter().map(|pattern| Regex::new(pattern).expect("a pattern")).collect();
        let any = Regex::new(&VARIES.join("|")).expect("a pattern of patterns");
        Self { varies, any, values: BTreeMap::new() }
    }

    /// The text of a command with the values that have come.
    pub(crate) fn with_values(&self, text: &str) -> String {
        self.values.iter().fold(text.to_owned(), |text, (page, own)| text.replace(page, own))
    }

    /// Compares the lines of a page with those that have come; of a program that has `ended`, no further lines come.
    /// `adapt` makes the test's text from the page's, such as its ports.
    pub(crate) fn compare(
        &mut self,
        page: &[String],
        got: &[String],
        ended: bool,
        adapt: impl Fn(&str) -> String,
    ) -> Verdict {
        let patterns: Vec<Pattern> = page.iter().map(|line| self.pattern(line, &adapt)).collect();
        let got: Vec<&str> = got.iter().map(|line| line.trim_end()).filter(|line| !line.is_empty()).collect();
        let mut values = BTreeMap::new();
        if follows(&patterns, &got, ended, &mut values) {
            self.values.append(&mut values);
            return Verdict::Same;
        }
        // Without an ellipsis the beginning of the output is decided.
        let decided = patterns.iter().zip(&got).take_while(|(pattern, _)| pattern.is_some());
        let differs = decided.map(|(pattern, line)| takes(pattern, line, &mut BTreeMap::new())).any(|takes| !takes);
        if ended || differs { Verdict::Different } else { Verdict::NotYet }
    }

    fn pattern(&self, line: &str, adapt: impl Fn(&str) -> String) -> Pattern {
        let line = line.trim_end();
        if line == "…" {
            return None;
        }
        let literal = |text: &str| text.split('…').map(|part| escape(&adapt(part))).collect::<Vec<_>>().join(".*");
        let (mut pattern, mut end, mut bound) = (String::from("^"), 0, Vec::new());
        for token in self.any.find_iter(line) {
            pattern += &literal(&line[end..token.start()]);
            end = token.end();
            let token = token.as_str();
            let class = self.varies.iter().find(|class| class.find(token).is_some_and(|found| found.as_str() == token));
            let class = class.expect("one of the patterns has found it");
            match self.values.get(token) {
                Some(own) => pattern += &escape(own),
                // An epoch of zeros is the receipt of a topic that does not exist.
                None if token.chars().all(|digit| digit == '0') => pattern += token,
                None if is_bound(token) => {
                    pattern += &format!("({class})");
                    bound.push(token.to_owned());
                }
                None => pattern += &format!("(?:{class})"),
            }
        }
        pattern += &literal(&line[end..]);
        Some((Regex::new(&(pattern + "$")).expect("an escaped line"), bound))
    }
}

/// Whether the lines follow the patterns: all of them if the program has `ended`, otherwise the first.
fn follows(patterns: &[Pattern], got: &[&str], ended: bool, values: &mut BTreeMap<String, String>) -> bool {
    match patterns.split_first() {
        None => !ended || got.is_empty(),
        Some((None, rest)) => (0..=got.len()).any(|skipped| {
            let mut own = values.clone();
            let follows = follows(rest, &got[skipped..], ended, &mut own);
            if follows {
                *values = own;
            }
            follows
        }),
        Some((first, rest)) => got
            .split_first()
            .is_some_and(|(line, lines)| takes(first, line, values) && follows(rest, lines, ended, values)),
    }
}

fn takes(pattern: &Pattern, line: &str, values: &mut BTreeMap<String, String>) -> bool {
    let Some((regex, bound)) = pattern else { return true };
    let Some(found) = regex.captures(line) else { return false };
    bound.iter().zip(found.iter().skip(1).flatten()).all(|(page, own)| {
        let earlier = values.entry(page.clone()).or_insert_with(|| own.as_str().to_owned());
        earlier == own.as_str()
    })
}

#[test]
fn what_varies_may_differ_and_all_else_may_not() {
    let mut shown = Shown::new();
    let mut compare = |page: &[&str], got: &[&str], ended| {
        let own = |lines: &[&str]| lines.iter().map(|&line| line.to_owned()).collect::<Vec<_>>();
        shown.compare(&own(page), &own(got), ended, |text| text.replace("8080", "4711"))
    };
    let page = ["{\"epoch\":\"da88ffd15c2442e4\",\"seq\":1}", "took 5.63 ms at :8080"];
    let good = ["{\"epoch\":\"0123456789abcdef\",\"seq\":1}", "took 812 µs at :4711", ""];
    assert_eq!(compare(&page, &good[..1], false), Verdict::NotYet);
    assert_eq!(compare(&page, &good[..1], true), Verdict::Different);
    assert_eq!(compare(&page, &good, true), Verdict::Same);
    // The page has one epoch, so the output has one.
    assert_eq!(compare(&page[..1], &good[..1], true), Verdict::Same);
    assert_eq!(compare(&page[..1], &["{\"epoch\":\"1111111111111111\",\"seq\":1}"], true), Verdict::Different);
    assert_eq!(compare(&page[..1], &["{\"epoch\":\"0123456789abcdef\",\"seq\":2}"], false), Verdict::Different);

    assert_eq!(compare(&["…", "end"], &["a", "b"], false), Verdict::NotYet);
    assert_eq!(compare(&["…", "end"], &["a", "b", "end"], true), Verdict::Same);
    assert_eq!(compare(&["a", "…"], &["a", "b"], true), Verdict::Same);
    assert_eq!(compare(&["a … c"], &["a b c"], true), Verdict::Same);
    assert_eq!(compare(&["a"], &["a", "b"], true), Verdict::Different);
    assert_eq!(compare(&["a"], &["a", "b"], false), Verdict::Same);
    assert_eq!(shown.with_values("since da88ffd15c2442e4"), "since 0123456789abcdef");
}
