//! Subscribing by `janus.v1.json` over a WebSocket.

use std::collections::HashSet;

use futures_util::stream::{BoxStream, FuturesUnordered, SelectAll};
use futures_util::{FutureExt as _, StreamExt as _};
use janus_core::client::{
    Assigned, Begun, Client, ClientError as Failure, Gap, Item, Message, State, Subscription, WhenFull,
};
use janus_core::supervision::in_words as time_in_words;
use janus_core::{Position, Since};

use super::super::ClientError;
use super::super::http::runtime;
use super::super::modern::{builder, in_words};
use super::super::output::{Payload, message_json, print_json, say};
use super::super::server::Target;
use super::{FIRST_PAUSE, LONGEST_PAUSE};
use crate::cli::Subscribe;

/// Messages of a topic that are read and not printed. A command whose output is not read leaves the rest to the server.
const UNREAD_MAX: usize = 16;

/// Topics of the token that wait to be looked at.
const ASSIGNED_MAX: usize = 1_000;

/// An item, or the end of a topic.
type Told = (String, Result<Item, Failure>);

struct Printer<'a> {
    command: &'a Subscribe,
    target: &'a Target,
    topics: SelectAll<BoxStream<'static, Told>>,
    /// Topics whose first gap tells of a `--since` that is no longer kept.
    begun_with_a_gap: HashSet<String>,
    has_subscribed: bool,
    printed: u64,
}

pub(super) fn run(command: &Subscribe, target: &Target) -> Result<(), ClientError> {
    runtime()?.block_on(async {
        let builder = builder(target).reconnect(command.reconnect).back_off(FIRST_PAUSE, LONGEST_PAUSE);
        let builder = builder.max_unread(UNREAD_MAX).when_full(WhenFull::Wait);
        let connected = builder.connect_with_assigned(ASSIGNED_MAX).await;
        let (client, mut assigned) = connected.map_err(|failure| target.explain(in_words(target, failure)))?;
        let mut printer = Printer {
            command,
            target,
            topics: SelectAll::new(),
            begun_with_a_gap: HashSet::new(),
            has_subscribed: false,
            printed: 0,
        };
        let ended = printer.print(&client, &mut assigned).await;
        // A server that was the right one before is so still.
        ended.map_err(|error| if printer.has_subscribed { error } else { target.explain(error) })
    })
}

impl Printer<'_> {
    async fn print(
        &mut self,
        client: &Client,
        assigned: &mut janus_core::client::AssignedTopics,
    ) -> Result<(), ClientError> {
        let since = self.command.since;
        let subscribe = |topic: &String| {
            let subscribe = client.subscribe(topic);
            let subscribe = if let Some(since) = since { subscribe.since(since) } else { subscribe };
            subscribe.into_future()
        };
        // All at once, and messages of the first topics are printed while others wait for their answers.
        let mut subscribing: FuturesUnordered<_> = self.command.topics.iter().map(subscribe).collect();
        let mut state = client.state();
        let target = self.target;
        while self.command.count.is_none_or(|count| self.printed < count) {
            tokio::select! {
                Some(subscribed) = subscribing.next() => {
                    self.begun(subscribed.map_err(|failure| in_words(target, failure))?);
                    if subscribing.is_empty() {
                        self.has_subscribed = true;
                        say(&format!("subscribed at {}", self.target.address));
                    }
                }
                Some((topic, item)) = self.topics.next() => self.told(&topic, item, client)?,
                Some(Assigned { topic, subscription, .. }) = assigned.next() => match subscription {
                    Ok(subscription) => self.begun(subscription),
                    Err(failure) => self.has_none(&topic, &failure),
                },
                changed = state.changed() => {
                    let now = state.borrow_and_update().clone();
                    match now {
                        State::Waiting { error, .. } if !self.has_subscribed => return Err(in_words(target, error)),
                        State::Waiting { error, retry_in } => {
                            let error = in_words(target, error);
                            say(&format!("{error}; reconnecting in {}", time_in_words(retry_in)));
                        }
                        // What has come before the end is printed first.
                        State::Closed { error } => return self.rest(error),
                        _ if changed.is_err() => return Err(ClientError::Closed),
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }

    /// Prints what has come before the end of the client.
    fn rest(&mut self, error: Option<Failure>) -> Result<(), ClientError> {
        while self.command.count.is_none_or(|count| self.printed < count)
            && let Some(Some((topic, item))) = self.topics.next().now_or_never()
        {
            // An error is the end of the client, once for each topic.
            if let Ok(item) = item {
                self.print_item(&topic, item)?;
            }
        }
        if self.command.count.is_some_and(|count| self.printed >= count) {
            return Ok(());
        }
        Err(error.map_or(ClientError::Closed, |error| in_words(self.target, error)))
    }

    fn is_asked_for(&self, topic: &str) -> bool {
        self.command.topics.iter().any(|asked| asked == topic)
    }

    /// The token's own topics are nothing that the user has asked for, so the command continues without.
    fn has_none(&self, topic: &str, failure: &Failure) {
        let reason = match failure {
            Failure::Refused { message, .. } => message.clone(),
            other => other.to_string(),
        };
        say(&format!("no messages of {topic}: {reason}"));
    }

    /// A topic is delivered from now on.
    fn begun(&mut self, subscription: Subscription) {
        let topic = subscription.topic().to_owned();
        let Begun { missed, .. } = subscription.begun();
        if self.command.since.and_then(Since::position).is_some() && self.is_asked_for(&topic) {
            match missed {
                Some(missed) => self.missed("subscribed at", &topic, missed),
                None => drop(self.begun_with_a_gap.insert(topic.clone())),
            }
        }
        self.topics.push(subscription.map(move |item| (topic.clone(), item)).boxed());
    }

    fn missed(&self, begin: &str, topic: &str, missed: u64) {
        let address = &self.target.address;
        let messages = if missed == 1 { "message" } else { "messages" };
        say(&format!("{begin} {address}: {missed} missed {messages} of {topic}"));
    }

    fn told(&mut self, topic: &str, item: Result<Item, Failure>, client: &Client) -> Result<(), ClientError> {
        match item {
            Ok(item) => self.print_item(topic, item),
            Err(failure) if matches!(&*client.state().borrow(), State::Closed { .. }) => self.rest(Some(failure)),
            Err(failure) if !self.is_asked_for(topic) => {
                self.has_none(topic, &failure);
                Ok(())
            }
            Err(failure) => Err(in_words(self.target, failure)),
        }
    }

    fn print_item(&mut self, topic: &str, item: Item) -> Result<(), ClientError> {
        match item {
            Item::Message(message) => {
                print_json(&json(&message))?;
                self.printed += 1;
            }
            Item::Gap(Gap::Numbers { from, to }) => say(&format!("messages {from} to {to} of {topic} are lost")),
            Item::Gap(_) => {
                let at_first = self.begun_with_a_gap.remove(topic);
                let begin = if at_first { "subscribed at" } else { "reconnected to" };
                say(&format!("{begin} {}: messages of {topic} in between are lost", self.target.address));
            }
            Item::Resumed { missed } => self.missed("reconnected to", topic, missed),
            _ => {}
        }
        Ok(())
    }
}

fn json(message: &Message) -> String {
    let payload = Payload::of(message.data(), message.base64());
    let Position { seq, .. } = message.position();
    let texts = [message.event(), message.message_id()];
    message_json(message.topic(), seq, message.time().as_millis(), texts, payload)
}
