//! `janus-server history`: the messages that the server keeps of a topic.

use hyper::Method;
use janus_core::{Epoch, Position};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::ClientError;
use super::http::Http;
use super::output::{Payload, Side, Table, message_json, print, print_json, say};
use super::server::Need;
use crate::cli::History;

/// The most messages of an answer.
const PAGE: usize = 10_000;

const COLUMNS: &[(&str, Side)] =
    &[("SEQ", Side::Right), ("TIME", Side::Left), ("EVENT", Side::Left), ("ID", Side::Left), ("DATA", Side::Left)];

#[derive(Deserialize)]
struct Part {
    epoch: Epoch,
    seq: u64,
    /// Whether all messages since the position were there.
    complete: bool,
    more: bool,
    messages: Vec<Message>,
}

/// A message with the publisher's JSON.
#[derive(Deserialize)]
struct Message {
    seq: u64,
    /// Milliseconds since 1970.
    time: i64,
    event: Box<RawValue>,
    message_id: Box<RawValue>,
    #[serde(default)]
    data: Option<Box<RawValue>>,
    /// In place of `data`, for bytes.
    #[serde(default)]
    data_base64: Option<String>,
}

pub(crate) fn run(command: &History) -> Result<(), ClientError> {
    let mut http = Http::new(command.server.target("history", Need::Api)?)?;
    let mut since = command.since;
    if command.all && since.is_none() {
        let Part { epoch, .. } = ask(&mut http, &command.topic, None, 1)?;
        since = Some(Position { epoch, seq: 0 });
    }
    let mut table = Table::new(COLUMNS);
    let wanted = if command.all { usize::MAX } else { command.limit };
    let mut printed = 0;
    loop {
        let part = ask(&mut http, &command.topic, since, (wanted - printed).min(PAGE))?;
        // The first page of all messages begins with the oldest message, whichever that is. A later page may come too
        // late: messages leave the history while the command reads.
        if let (false, Some(asked)) = (part.complete, since.filter(|_| printed > 0 || command.since.is_some())) {
            say(&format!("messages after {asked} are gone"));
        }
        if command.json {
            part.messages.iter().try_for_each(|message| print_json(&message.json(&command.topic)))?;
        } else {
            let rows: Vec<Vec<String>> = part.messages.iter().map(Message::row).collect();
            print(&table.lines(&rows))?;
        }
        printed += part.messages.len();
        let position = Position { epoch: part.epoch, seq: part.seq };
        // Without a position the server means earlier messages, and none follow.
        let follow = part.more && since.is_some();
        if follow && printed < wanted && !part.messages.is_empty() {
            since = Some(position);
            continue;
        }
        let more = if follow { "more messages" } else { "later messages" };
        say(&format!("{more}: --since {position}"));
        return Ok(());
    }
}

fn ask(http: &mut Http, topic: &str, since: Option<Position>, limit: usize) -> Result<Part, ClientError> {
    let mut request = json!({"topic": topic, "limit": limit});
    if let Some(Position { epoch, seq }) = since {
        request["since"] = json!({"epoch": epoch, "seq": seq});
    }
    let answer = http.ask(&Method::POST, "/api/history", Some(request.to_string()))?;
    answer.content().ok_or_else(|| http.refusal(&answer))
}

impl Message {
    /// The message as `subscribe` prints messages.
    fn json(&self, topic: &str) -> String {
        let payload = match &self.data_base64 {
            Some(text) => Payload::Base64(text),
            None => Payload::Json(self.data()),
        };
        message_json(topic, self.seq, self.time, [self.event.get(), self.message_id.get()], payload)
    }

    /// The data as JSON text. To serde, `null` is no value.
    fn data(&self) -> &str {
        self.data.as_deref().map_or("null", RawValue::get)
    }

    fn row(&self) -> Vec<String> {
        let text = |json: &RawValue| serde_json::from_str(json.get()).unwrap_or_else(|_| json.get().to_owned());
        // Always three digits: a time with fewer would be narrower than the times above and below.
        let time =
            Timestamp::from_millisecond(self.time).map_or_else(|_| self.time.to_string(), |time| format!("{time:.3}"));
        // As a literal of Python and Rust would begin, and unlike any JSON.
        let payload = match &self.data_base64 {
            Some(base64) => format!("base64:{base64}"),
            None => self.data().to_owned(),
        };
        vec![self.seq.to_string(), time, text(&self.event), text(&self.message_id), payload]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_equally_wide_whatever_their_digits() {
        let row = |time: i64| {
            let message = json!({"seq": 1, "time": time, "event": "e", "message_id": "1", "data": {}}).to_string();
            serde_json::from_str::<Message>(&message).unwrap().row()[1].clone()
        };
        assert_eq!(row(1_700_000_000_345), "2023-11-14T22:13:20.345Z");
        assert_eq!(row(1_700_000_000_990), "2023-11-14T22:13:20.990Z");
        assert_eq!(row(1_700_000_000_000), "2023-11-14T22:13:20.000Z");
    }
}
