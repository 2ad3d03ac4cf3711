//! Publications: one event to up to 100 channels, or a batch of up to 10 events to a channel each.
//!
//! Everything is checked before the first message is published. A fault of the server in the middle leaves some of the
//! messages published; the publisher is told, and does not know which, as with Pusher.

use std::collections::BTreeMap;

use futures_util::future::try_join_all;
use janus_core::wire::ErrorCode;
use janus_core::{Message, PublishError};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::channels::{Info, Wanted};
use super::{Answer, Asked, Refusal, ok};
use crate::channel::{Channel, Kind};
use crate::data;
use crate::decoder::MAX_EVENT_BYTES;
use crate::protocol::is_of_the_server;

/// The most channels of an event, as with Pusher.
const MAX_CHANNELS: usize = 100;

/// The most events of a batch, as with Pusher.
pub(crate) const MAX_BATCH: usize = 10;

#[derive(Deserialize)]
struct Event<'b> {
    name: String,
    #[serde(borrow)]
    data: &'b RawValue,
    #[serde(default)]
    channel: Option<String>,
    #[serde(default)]
    channels: Option<Vec<String>>,
    #[serde(default)]
    socket_id: Option<String>,
    #[serde(default)]
    info: Option<String>,
}

#[derive(Deserialize)]
struct Batch<'b> {
    #[serde(borrow)]
    batch: Vec<Event<'b>>,
}

/// A checked event for one channel.
struct Checked<'e> {
    channel: Channel<'e>,
    message: Message,
}

impl Asked<'_> {
    pub(super) async fn publish(&self, body: &[u8]) -> Answer {
        let event: Event<'_> = read(body)?;
        let names = match (&event.channel, &event.channels) {
            (_, Some(channels)) => channels.clone(),
            (Some(channel), None) => vec![channel.clone()],
            (None, None) => return Err(Refusal::bad("\"channels\" must be an array of names")),
        };
        if !(1..=MAX_CHANNELS).contains(&names.len()) {
            return Err(Refusal::bad("an event goes to 1 to 100 channels"));
        }
        let wanted = Wanted::parse(event.info.as_deref().or_else(|| self.parameter("info")))?;
        let checked = names.iter().map(|name| self.check(&event, name, wanted)).collect::<Result<Vec<_>, _>>()?;
        if checked.len() > 1 && checked.iter().any(|event| event.channel.kind == Kind::Encrypted) {
            return Err(Refusal::bad("an event to an encrypted channel goes to this channel alone"));
        }
        self.send(&checked).await?;
        let mut infos = BTreeMap::new();
        if wanted.is_any() {
            for name in &names {
                infos.insert(
                    name.as_str(),
                    self.info_of_published(Channel::new(name).map_err(Refusal::bad)?, wanted).await,
                );
            }
        }
        #[derive(Serialize)]
        struct Published<'p> {
            #[serde(skip_serializing_if = "BTreeMap::is_empty")]
            channels: BTreeMap<&'p str, Info>,
        }
        ok(&Published { channels: infos })
    }

    pub(super) async fn publish_batch(&self, body: &[u8]) -> Answer {
        let Batch { batch } = read(body)?;
        if !(1..=MAX_BATCH).contains(&batch.len()) {
            return Err(Refusal::bad("a batch has 1 to 10 events"));
        }
        let (mut checked, mut wanted) = (Vec::new(), Vec::new());
        for event in &batch {
            let name = event.channel.as_deref().ok_or_else(|| Refusal::bad("each event needs a \"channel\""))?;
            let of_event = Wanted::parse(event.info.as_deref())?;
            checked.push(self.check(event, name, of_event)?);
            wanted.push(of_event);
        }
        // One after the other, because events to the same channel have an order.
        for event in &checked {
            self.send(std::slice::from_ref(event)).await?;
        }
        #[derive(Serialize)]
        struct Published {
            #[serde(skip_serializing_if = "Vec::is_empty")]
            batch: Vec<Info>,
        }
        let mut infos = Vec::new();
        if wanted.iter().any(Wanted::is_any) {
            for (event, wanted) in checked.iter().zip(wanted) {
                infos.push(self.info_of_published(event.channel, wanted).await);
            }
        }
        ok(&Published { batch: infos })
    }

    /// What is known about a channel to which the event has gone. A refusal would have the publisher send the event again.
    async fn info_of_published(&self, channel: Channel<'_>, wanted: Wanted) -> Info {
        self.info(channel, wanted).await.unwrap_or_default()
    }

    fn check<'e>(&self, event: &Event<'_>, name: &'e str, wanted: Wanted) -> Result<Checked<'e>, Refusal> {
        let channel = Channel::new(name).map_err(Refusal::bad)?;
        wanted.check(channel)?;
        if event.name.is_empty() || event.name.len() > MAX_EVENT_BYTES {
            return Err(Refusal::bad("the name of an event has 1 to 200 bytes"));
        }
        if is_of_the_server(&event.name) {
            return Err(Refusal::bad(
                "names of events that begin with pusher: or pusher_internal: are the server's own",
            ));
        }
        let data = data::kept_value(event.data);
        // As the publisher counts: the string, and not its form in JSON.
        if data.len() > self.app.event_bytes && length(event.data) > self.app.event_bytes {
            let text = format!("the data of an event has at most {} bytes (pusher_event_bytes)", self.app.event_bytes);
            return Err(Refusal::new(413, ErrorCode::FrameTooLarge.as_str(), text));
        }
        let data: &RawValue = serde_json::from_str(&data).map_err(|_| Refusal::bad("\"data\" must be a string"))?;
        let message = Message::new(&channel.topic(&self.app.prefix), data).map_err(refused)?.event(&event.name);
        let message = match event.socket_id.as_deref() {
            None => message,
            Some(socket) => {
                let client = self.app.sockets.read(socket, self.janus.client_id(0).node());
                message.exclude(client.ok_or_else(|| Refusal::bad("\"socket_id\" must be that of a connection"))?)
            }
        };
        Ok(Checked { channel, message })
    }

    async fn send(&self, events: &[Checked<'_>]) -> Result<(), Refusal> {
        let messages = events.iter().map(|event| self.janus.publish_message(event.message.clone()));
        try_join_all(messages).await.map(|_| ()).map_err(refused)
    }
}

/// The bytes of a string, or of any other value as it is.
fn length(data: &RawValue) -> usize {
    serde_json::from_str::<String>(data.get()).map_or_else(|_| data.get().len(), |text| text.len())
}

fn read<'b, T: Deserialize<'b>>(body: &'b [u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| Refusal::bad(format!("the body is not such an event: {error}")))
}

fn refused(error: PublishError) -> Refusal {
    let status = match error {
        PublishError::Invalid(_) => 400,
        _ => error.code().http_status(),
    };
    Refusal::new(status, error.code().as_str(), error.to_string())
}
