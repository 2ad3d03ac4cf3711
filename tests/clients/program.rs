//! `janus_core::client` in a program: `client_program URL OPTION…`, for passes.py.
//!
//! Options, commands and reports are those of program.py.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use janus_core::Since;
use janus_core::client::{Client, ClientError, Gap, Item, TokenError};
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

async fn follow(client: &Client, topic: &str, since: Option<&str>) -> Result<(), ClientError> {
    let mut subscribe = client.subscribe(topic);
    if let Some(since) = since.and_then(Since::of_word) {
        subscribe = subscribe.since(since);
    }
    let mut subscription = subscribe.await?;
    report(&json!(["subscribed", topic]));
    while let Some(item) = subscription.next().await {
        match item? {
            Item::Message(message) => {
                let topic = Value::from(topic);
                println!("[\"message\",{topic},{},{}]", message.seq(), message.data());
            }
            Item::Gap(Gap::Numbers { from, to }) => report(&json!(["gap", topic, from, to])),
            Item::Gap(_) => report(&json!(["gap", topic, null, null])),
            _ => {}
        }
    }
    Ok(())
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
            Some("subscribe") => {
                let (topic, since) = (text(&command[1]).ok_or("a topic is a text")?, text(&command[2]));
                tokio::spawn(async move {
                    if let Err(error) = follow(&client, &topic, since.as_deref()).await {
                        report(&json!(["failed", topic, reason(&error)]));
                    }
                });
            }
            Some("publish") => {
                let (number, topic, data) =
                    (command[1].take(), text(&command[2]).ok_or("a topic is a text")?, command[3].take());
                tokio::spawn(async move {
                    match client.publish(topic, &data).await {
                        Ok(receipt) => report(&json!(["published", number, receipt.seq()])),
                        Err(error) => report(&json!(["refused", number, reason(&error)])),
                    }
                });
            }
            Some("token") => {
                for sender in std::mem::take(&mut *asked.lock().unwrap_or_else(PoisonError::into_inner)) {
                    // The client has given up the question.
                    let _ = sender.send(text(&command[1]).ok_or("a token is a text")?);
                }
            }
            _ => return Err(format!("unknown command: {line}").into()),
        }
    }
    client.close().await;
    Ok(())
}
