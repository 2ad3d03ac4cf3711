//! `janus_core::client` in a program: `client_program URL OPTION…`, for passes.py.
//!
//! Options, commands and reports are those of program.py.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use data_encoding::BASE64;
use janus_core::client::{
    Client, ClientError, Gap, HistoryQuery, Item, Message, Position, Presence, PresenceChange, Publish, Since,
    TokenError,
};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader, stdin};
use tokio::sync::oneshot;

/// Questions for a token without an answer.
type Asked = Arc<Mutex<Vec<oneshot::Sender<String>>>>;

fn report(values: &Value) {
    println!("{values}");
}

async fn get_token(asked: Asked) -> Result<String, TokenError> {
    report(&json!(["token"]));
    let (sender, answer) = oneshot::channel();
    asked.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
    let token = answer.await?;
    report(&json!(["given"]));
    Ok(token)
}

fn reason(error: &ClientError) -> String {
    match error {
        ClientError::Refused { error, .. } => error.clone(),
        other => other.to_string(),
    }
}

/// A word, a position, or nothing.
fn since_of(value: &Value) -> Option<Since> {
    let position = || serde_json::from_value::<Position>(value.clone()).ok().map(Since::from);
    value.as_str().and_then(Since::of_word).or_else(position)
}

/// The names of the users.
fn names(presence: &Presence) -> BTreeSet<String> {
    presence.members.iter().flatten().map(|member| member.user.to_string()).collect()
}

/// A payload of bytes as base64.
fn data(message: &Message) -> String {
    message.base64().map_or_else(|| message.data().to_owned(), |base64| format!("\"{}\"", base64.as_str()))
}

async fn follow(client: &Client, topic: &str, since: &Value, presence: bool) -> Result<(), ClientError> {
    let mut subscribe = client.subscribe(topic);
    if let Some(since) = since_of(since) {
        subscribe = subscribe.since(since);
    }
    if presence {
        subscribe = subscribe.presence();
    }
    let (mut subscription, mut users) = (subscribe.await?, BTreeSet::new());
    report(&json!(["subscribed", topic]));
    while let Some(item) = subscription.next().await {
        match item? {
            Item::Message(message) => {
                println!("[\"message\",{},{},{}]", Value::from(topic), message.seq(), data(&message));
            }
            Item::Gap(Gap::Numbers { from, to }) => report(&json!(["gap", topic, from, to])),
            Item::Gap(_) => report(&json!(["gap", topic, null, null])),
            Item::Presence(presence) => {
                let told = names(&presence);
                let kind = match presence.change {
                    PresenceChange::All => {
                        users = told;
                        "presence"
                    }
                    PresenceChange::Joined => {
                        users.extend(told);
                        "joined"
                    }
                    PresenceChange::Left => {
                        users.retain(|user| !told.contains(user));
                        "left"
                    }
                };
                report(&json!(["presence", topic, kind, presence.count, users]));
            }
            Item::Resumed { .. } => report(&json!(["subscribed", topic])),
            _ => {}
        }
    }
    Ok(())
}

async fn members(client: &Client, topic: &str) -> Result<(), ClientError> {
    let presence = client.presence(topic).await?;
    report(&json!(["members", topic, presence.count, names(&presence)]));
    Ok(())
}

async fn history(client: &Client, topic: &str, command: &Value) -> Result<(), ClientError> {
    let mut query = HistoryQuery::latest(usize::try_from(command[3].as_u64().unwrap_or(100)).unwrap_or(100));
    if let Some(since) = since_of(&command[2]) {
        query = query.since(since);
    }
    if command[4].as_bool().unwrap_or_default() {
        query = query.reversed();
    }
    let page = client.history(topic, query).await?;
    let messages = page.messages.iter().map(|message| format!("[{},{}]", message.seq(), data(message)));
    let messages = messages.collect::<Vec<_>>().join(",");
    println!("[\"history\",{},{},{},[{messages}]]", json!(page.position), page.complete, page.more);
    Ok(())
}

async fn publish(number: Value, publish: Publish<'_>) {
    match publish.await {
        Ok(receipt) => report(&json!(["published", number, receipt.seq()])),
        Err(error) => report(&json!(["refused", number, reason(&error)])),
    }
}

/// Carries out a command about a topic.
async fn carry_out(client: Client, topic: String, command: Value) {
    let done = match command[0].as_str() {
        Some("subscribe") => follow(&client, &topic, &command[2], command[3].as_bool().unwrap_or_default()).await,
        Some("members") => members(&client, &topic).await,
        Some("history") => history(&client, &topic, &command).await,
        _ => {
            report(&json!(["failed", topic, "unknown command"]));
            Ok(())
        }
    };
    if let Err(error) = done {
        report(&json!(["failed", topic, reason(&error)]));
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().ok_or("the first argument is a URL")?;
    let words: Vec<String> = arguments.collect();
    let asked = Asked::default();
    // Short waits, which still grow.
    let mut builder = Client::builder(url).back_off(Duration::from_millis(50), Duration::from_millis(1_500));
    builder = if words.iter().any(|word| word == "impatient") {
        builder.heartbeat(Duration::from_millis(300)).timeout(Duration::from_secs(2))
    } else {
        builder.timeout(Duration::from_secs(60))
    };
    if words.iter().any(|word| word == "token") {
        let asked = Arc::clone(&asked);
        builder = builder.get_token(move || get_token(Arc::clone(&asked)));
    }
    let client = builder.request_timeout(Duration::from_secs(60)).start()?;
    let mut lines = BufReader::new(stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let mut command: Value = serde_json::from_str(&line)?;
        let client = client.clone();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        match command[0].as_str() {
            Some(kind @ ("publish" | "bytes")) => {
                let topic = text(&command[2]).ok_or("a topic is a text")?;
                let bytes = match (kind, &command[3]) {
                    ("bytes", Value::String(text)) => Some(BASE64.decode(text.as_bytes())?),
                    _ => None,
                };
                let (number, data) = (command[1].take(), command[3].take());
                tokio::spawn(async move {
                    match bytes {
                        Some(bytes) => publish(number, client.publish_bytes(topic, bytes)).await,
                        None => publish(number, client.publish(topic, &data)).await,
                    }
                });
            }
            Some("token") => {
                for sender in std::mem::take(&mut *asked.lock().unwrap_or_else(PoisonError::into_inner)) {
                    // The client has given up the question.
                    let _ = sender.send(text(&command[1]).ok_or("a token is a text")?);
                }
            }
            _ => {
                let topic = text(&command[1]).ok_or("a topic is a text")?;
                tokio::spawn(carry_out(client, topic, command));
            }
        }
    }
    client.close().await;
    Ok(())
}
