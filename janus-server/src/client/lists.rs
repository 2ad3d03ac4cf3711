//! `janus-server topics` and `connections`: what the server lists, page by page.

use form_urlencoded::Serializer;
use hyper::Method;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::ClientError;
use super::http::Http;
use super::output::{Side, Table, print, print_json, say};
use super::server::{Need, ServerFlags};
use crate::cli::{Connections, Extent, Topics};

/// The most entries of an answer.
const PAGE: usize = 10_000;

/// A list of the API.
struct List<'a> {
    command: &'static str,
    path: &'static str,
    /// The columns of the table, each with the entry's key and its text.
    columns: &'a [Column],
    /// The parameters of every request.
    query: Vec<(&'static str, &'a str)>,
}

struct Column {
    title: &'static str,
    side: Side,
    key: &'static str,
    text: fn(&Value) -> String,
}

impl Column {
    const fn right(title: &'static str, key: &'static str, text: fn(&Value) -> String) -> Self {
        Self { title, side: Side::Right, key, text }
    }

    const fn left(title: &'static str, key: &'static str, text: fn(&Value) -> String) -> Self {
        Self { title, side: Side::Left, key, text }
    }
}

/// The last column has texts of any length.
const TOPICS: &[Column] = &[
    Column::right("SUBSCRIBERS", "subscribers", plain),
    Column::right("MESSAGES/S", "messages_per_second", rate),
    Column::right("IN FLIGHT", "in_flight", plain),
    Column::right("MEMBERS", "members", members),
    Column::left("STATE", "available", |available| {
        if *available == Value::Bool(false) { "unavailable" } else { "available" }.to_owned()
    }),
    Column::left("TOPIC", "topic", plain),
];

const CONNECTIONS: &[Column] = &[
    Column::right("CONNECTION", "connection", plain),
    Column::left("TRANSPORT", "transport", plain),
    Column::right("TOPICS", "topics", plain),
    Column::right("QUEUED BYTES", "queued_bytes", plain),
    Column::right("LAG", "lagging_for_ms", lag),
    Column::left("PEER", "peer", plain),
    Column::left("USER", "user", plain),
];

pub(crate) fn topics(command: &Topics) -> Result<(), ClientError> {
    let Topics { prefix, sort, extent, server } = command;
    let query = [("prefix", prefix), ("sort", sort)];
    let list = List { command: "topics", path: "/api/topics", columns: TOPICS, query: given(&query) };
    list.print(server, extent)
}

pub(crate) fn connections(command: &Connections) -> Result<(), ClientError> {
    let Connections { sort, user, peer, topic, transport, extent, server } = command;
    let query = [("sort", sort), ("user", user), ("peer", peer), ("topic", topic), ("transport", transport)];
    let list = List { command: "connections", path: "/api/connections", columns: CONNECTIONS, query: given(&query) };
    list.print(server, extent)
}

/// The parameters with a value. The others are not sent.
fn given<'a>(query: &[(&'static str, &'a Option<String>)]) -> Vec<(&'static str, &'a str)> {
    query.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))).collect()
}

/// An answer.
#[derive(Deserialize)]
struct Page {
    #[serde(alias = "topics", alias = "connections")]
    entries: Vec<Box<RawValue>>,
    /// Where the next page begins, if there is one.
    next: Option<String>,
    /// Entries of a sorted list, on this page or not.
    total: Option<usize>,
}

impl List<'_> {
    fn print(&self, server: &ServerFlags, extent: &Extent) -> Result<(), ClientError> {
        let mut http = Http::new(server.target(self.command, Need::Api)?)?;
        let titles: Vec<(&str, Side)> = self.columns.iter().map(|column| (column.title, column.side)).collect();
        let mut table = Table::new(&titles);
        let wanted = if extent.all { usize::MAX } else { extent.limit };
        let (mut printed, mut after) = (0, None);
        loop {
            let answer = http.ask(&Method::GET, &self.target(wanted - printed, after.as_deref()), None)?;
            let page: Page = answer.content().ok_or_else(|| http.refusal(&answer))?;
            if extent.json {
                page.entries.iter().try_for_each(|entry| print_json(entry.get()))?;
            } else {
                let rows: Vec<Vec<String>> = page.entries.iter().map(|entry| self.row(entry)).collect();
                print(&table.lines(&rows))?;
            }
            printed += page.entries.len();
            match (page.next, page.total) {
                (Some(next), _) if printed < wanted => after = Some(next),
                (Some(_), _) => {
                    say(&format!("… and more {0}: --all lists all {0}, --limit N the first N", self.command));
                    return Ok(());
                }
                (None, Some(total)) if total > printed => {
                    let (more, what) = (total - printed, self.command);
                    match printed < wanted {
                        true => say(&format!("… and {more} more {what}: a sorted list has the first {printed}")),
                        false => say(&format!("… and {more} more {what}: --limit N lists the first N")),
                    }
                    return Ok(());
                }
                _ => break,
            }
        }
        if printed == 0 {
            say(&format!("no {}", self.command));
        }
        Ok(())
    }

    fn target(&self, wanted: usize, after: Option<&str>) -> String {
        let mut query = Serializer::new(String::new());
        query.append_pair("limit", &wanted.min(PAGE).to_string());
        query.extend_pairs(after.map(|after| ("after", after)));
        query.extend_pairs(&self.query);
        format!("{}?{}", self.path, query.finish())
    }

    fn row(&self, entry: &RawValue) -> Vec<String> {
        let entry: Value = serde_json::from_str(entry.get()).unwrap_or_default();
        self.columns.iter().map(|column| (column.text)(&entry[column.key])).collect()
    }
}

/// Texts as they are, missing values as nothing, and anything else as JSON.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Only topics with presence have members.
fn members(value: &Value) -> String {
    if value.is_null() { "-".to_owned() } else { plain(value) }
}

fn rate(value: &Value) -> String {
    value.as_f64().map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}"))
}

fn lag(value: &Value) -> String {
    match value.as_u64() {
        None => String::new(),
        Some(0) => "-".to_owned(),
        Some(milliseconds @ 1..1_000) => format!("{milliseconds} ms"),
        Some(milliseconds) => format!("{} s", milliseconds / 1_000),
    }
}
