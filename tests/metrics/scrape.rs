//! A scrape over HTTP, and a strict reader of OpenMetrics.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::cli_run::PATIENCE;
use crate::support::take_chunks;

pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let headers = self.head.lines().filter_map(|line| line.split_once(": "));
        headers.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }
}

pub(crate) fn get(addr: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let mut body = answer.split_off(end + 4);
    let head = String::from_utf8(answer).unwrap();
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        body = take_chunks(&mut body).0;
    }
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head, body: String::from_utf8(body).unwrap() }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// The name of a sample with its labels, and the kind of the family.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Series {
    pub(crate) kind: Kind,
    name: String,
    labels: BTreeMap<String, String>,
}

/// A scrape that is right in every way.
pub(crate) struct Scrape {
    pub(crate) families: BTreeMap<String, Kind>,
    pub(crate) series: BTreeMap<Series, f64>,
}

impl Scrape {
    #[track_caller]
    pub(crate) fn parse(text: &str) -> Self {
        let body = text.strip_suffix("# EOF\n").expect("the end is marked");
        let mut scrape = Self { families: BTreeMap::new(), series: BTreeMap::new() };
        let mut family: Option<(String, Kind)> = None;
        let mut lines = body.lines();
        while let Some(line) = lines.next() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, text) = help.split_once(' ').unwrap();
                assert!(is_name(name) && text.ends_with('.') && text.len() > 10, "{line}");
                let kind = lines.next().unwrap().strip_prefix(&format!("# TYPE {name} ")).expect("a type follows");
                let kind = match kind {
                    "counter" => Kind::Counter,
                    "gauge" => Kind::Gauge,
                    "histogram" => Kind::Histogram,
                    other => panic!("{name} is a {other}"),
                };
                assert_eq!(scrape.families.insert(name.to_owned(), kind), None, "{name} comes twice");
                family = Some((name.to_owned(), kind));
            } else {
                let (name, kind) = family.as_ref().expect("a family comes first");
                scrape.take_sample(line, name, *kind);
            }
        }
        scrape.check_histograms();
        scrape
    }

    fn take_sample(&mut self, line: &str, family: &str, kind: Kind) {
        let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("no sample: {line:?}"));
        let (name, rest) = line.split_at(end);
        let suffix = name.strip_prefix(family).unwrap_or_else(|| panic!("{line} stands under {family}"));
        match kind {
            Kind::Counter => assert_eq!(suffix, "_total", "{line}"),
            Kind::Gauge => assert_eq!(suffix, "", "{line}"),
            Kind::Histogram => assert!(["_bucket", "_count", "_sum"].contains(&suffix), "{line}"),
        }
        let (labels, value) = labels(rest).unwrap_or_else(|| panic!("no labels: {line:?}"));
        let value: f64 = value.strip_prefix(' ').unwrap().parse().unwrap_or_else(|_| panic!("no number: {line:?}"));
        assert!(value.is_finite() && value >= 0.0, "{line}");
        let series = Series { kind, name: name.to_owned(), labels };
        assert_eq!(self.series.insert(series, value), None, "{line} comes twice");
    }

    /// Buckets never fall with a rising bound, and the last holds everything.
    fn check_histograms(&self) {
        for (series, count) in self.series.iter().filter(|(series, _)| series.name.ends_with("_bucket")) {
            let mut labels = series.labels.clone();
            let bound = labels.remove("le").unwrap();
            let family = series.name.trim_end_matches("_bucket");
            let all = Series { name: format!("{family}_count"), labels: labels.clone(), ..series.clone() };
            assert!(*count <= self.series[&all], "{series:?}");
            if bound == "+Inf" {
                assert_eq!(*count, self.series[&all], "{series:?}");
            }
            let bound: f64 = bound.replace("+Inf", "inf").parse().unwrap();
            let others = self.series.iter().filter(|(other, _)| {
                let mut rest = other.labels.clone();
                rest.remove("le");
                other.name == series.name && rest == labels
            });
            for (other, lower) in others {
                let other: f64 = other.labels["le"].replace("+Inf", "inf").parse().unwrap();
                assert!(other >= bound || lower <= count, "{series:?}");
            }
        }
    }

    /// The value of a counter or gauge.
    #[track_caller]
    pub(crate) fn value(&self, family: &str, labels: &[(&str, &str)]) -> f64 {
        let kind = *self.families.get(family).unwrap_or_else(|| panic!("no family {family}"));
        let name = if kind == Kind::Counter { format!("{family}_total") } else { family.to_owned() };
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let series = Series { kind, name, labels };
        *self.series.get(&series).unwrap_or_else(|| panic!("no series {series:?}"))
    }

    /// The number of records of a histogram without labels.
    #[track_caller]
    pub(super) fn count(&self, family: &str) -> f64 {
        assert_eq!(self.families.get(family), Some(&Kind::Histogram), "{family}");
        let name = format!("{family}_count");
        self.series[&Series { kind: Kind::Histogram, name, labels: BTreeMap::new() }]
    }

    /// All values of the label.
    pub(crate) fn values_of(&self, label: &str) -> BTreeSet<String> {
        self.series.keys().filter_map(|series| series.labels.get(label).cloned()).collect()
    }
}

fn is_name(name: &str) -> bool {
    let mut characters = name.chars();
    characters.next().is_some_and(|first| first.is_ascii_lowercase())
        && characters.all(|character| character.is_ascii_lowercase() || character.is_ascii_digit() || character == '_')
}

/// The labels in front of the value, and the rest of the line.
fn labels(rest: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    let Some(mut rest) = rest.strip_prefix('{') else { return Some((labels, rest)) };
    loop {
        let (name, after) = rest.split_once("=\"")?;
        assert!(is_name(name), "{name}");
        let (mut value, mut end, mut escaped) = (String::new(), None, false);
        for (at, character) in after.char_indices() {
            match character {
                _ if escaped => {
                    value.push(if character == 'n' { '\n' } else { character });
                    escaped = false;
                }
                '\\' => escaped = true,
                '"' => {
                    end = Some(at);
                    break;
                }
                _ => value.push(character),
            }
        }
        assert_eq!(labels.insert(name.to_owned(), value), None, "{name} comes twice");
        rest = &after[end? + 1..];
        match rest.split_at_checked(1)? {
            (",", further) => rest = further,
            ("}", further) => return Some((labels, further)),
            _ => return None,
        }
    }
}

#[test]
fn the_reader_refuses_what_is_not_strict() {
    let head = "# HELP a_b The text of it.\n# TYPE a_b counter\n";
    let good = format!("{head}a_b_total{{c=\"d\\\"\\\\,}}\"}} 1\n# EOF\n");
    assert_eq!(Scrape::parse(&good).value("a_b", &[("c", "d\"\\,}")]), 1.0);
    let sample = "a_b_total 1\n";
    for bad in [
        format!("{head}{sample}"),
        format!("{sample}# EOF\n"),
        format!("{head}{sample}{sample}# EOF\n"),
        format!("{head}{sample}{head}# EOF\n"),
        format!("{head}a_b 1\n# EOF\n"),
        format!("{head}a_b_total one\n# EOF\n"),
        format!("{head}a_b_total{{c=d}} 1\n# EOF\n"),
        format!("{head}a_b_total{{c=\"d\"}}1\n# EOF\n"),
        "# TYPE a_b counter\na_b_total 1\n# EOF\n".to_owned(),
    ] {
        assert!(std::panic::catch_unwind(|| Scrape::parse(&bad)).is_err(), "{bad}");
    }
}
