//! `janus-server presence`: who is subscribed to a topic.

use form_urlencoded::Serializer;
use hyper::Method;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::ClientError;
use super::http::Http;
use super::output::{Side, Table, print, print_json, say};
use super::server::Need;
use crate::cli::Presence;

const COLUMNS: &[(&str, Side)] = &[("USER", Side::Left), ("INFO", Side::Left)];

#[derive(Deserialize)]
struct Answer {
    count: usize,
    members: Option<Vec<Member>>,
}

#[derive(Deserialize)]
struct Member {
    user: String,
    info: Option<Box<RawValue>>,
}

pub(crate) fn run(command: &Presence) -> Result<(), ClientError> {
    let Presence { topic, json, server } = command;
    let mut http = Http::new(server.target("presence", Need::Api)?)?;
    let query = Serializer::new(String::new()).append_pair("topic", topic).finish();
    let answer = http.ask(&Method::GET, &format!("/api/presence?{query}"), None)?;
    if *json {
        let text: Box<RawValue> = answer.content().ok_or_else(|| http.refusal(&answer))?;
        return print_json(text.get());
    }
    let Answer { count, members } = answer.content().ok_or_else(|| http.refusal(&answer))?;
    let listed = members.as_ref().map(Vec::len);
    let info = |info: Option<Box<RawValue>>| info.map_or_else(String::new, |info| info.get().to_owned());
    let rows: Vec<Vec<String>> =
        members.into_iter().flatten().map(|member| vec![member.user, info(member.info)]).collect();
    if !rows.is_empty() {
        print(&Table::new(COLUMNS).lines(&rows))?;
    }
    match listed {
        Some(listed) if listed == count => say(&format!("members: {count}")),
        Some(listed) => say(&format!("members: {count}, of which {} have no name", count - listed)),
        None => say(&format!("members: {count}, not listed")),
    }
    Ok(())
}
