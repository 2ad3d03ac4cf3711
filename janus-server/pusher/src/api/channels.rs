//! Questions about channels and their users, and the end of a user's connections.
//!
//! In a cluster the members are those of all nodes, and the counts of subscriptions those of the node that is asked.

use std::collections::BTreeMap;

use janus_core::PresenceError;
use janus_core::wire::ErrorCode;
use serde::Serialize;

use super::{Answer, Asked, Refusal, ok};
use crate::channel::{Channel, Kind, NAMESPACES, of_topic};

/// Topics of one look at the table.
const PORTION: usize = 1_000;

/// The most channels of an answer.
const MAX_CHANNELS: usize = 100_000;

/// What an answer says about a channel.
#[derive(Debug, Default, Serialize)]
pub(super) struct Info {
    #[serde(skip_serializing_if = "Option::is_none")]
    occupied: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_count: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscription_count: Option<usize>,
}

/// What a question wants to know about channels.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted {
    user_count: bool,
    subscription_count: bool,
}

impl Wanted {
    /// Reads a list with commas.
    pub(super) fn parse(info: Option<&str>) -> Result<Self, Refusal> {
        let mut wanted = Self::default();
        for name in info.unwrap_or_default().split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match name {
                "user_count" => wanted.user_count = true,
                "subscription_count" => wanted.subscription_count = true,
                _ => return Err(Refusal::bad("\"info\" has user_count and subscription_count alone")),
            }
        }
        Ok(wanted)
    }

    pub(super) fn is_any(&self) -> bool {
        self.user_count || self.subscription_count
    }

    /// Checks that the server knows all of this about the channel.
    pub(super) fn check(&self, channel: Channel<'_>) -> Result<(), Refusal> {
        if self.user_count && channel.kind != Kind::Presence {
            return Err(Refusal::bad("user_count is known of presence channels alone"));
        }
        Ok(())
    }
}

impl Asked<'_> {
    pub(super) async fn channels(&self) -> Answer {
        let prefix = self.parameter("filter_by_prefix").unwrap_or_default();
        let wanted = Wanted::parse(self.parameter("info"))?;
        if wanted.user_count && !prefix.starts_with("presence-") {
            return Err(Refusal::bad("user_count needs filter_by_prefix to begin with presence-"));
        }
        let mut channels = BTreeMap::new();
        for space in NAMESPACES {
            let begin = [&self.app.prefix, space.ending, ":"].concat();
            let mut after = String::new();
            loop {
                let page = self.janus.topics_with_prefix(&[&begin, prefix].concat(), &after, PORTION);
                for topic in page.iter().filter(|topic| topic.subscribers > 0) {
                    let name = of_topic(topic.name.as_str()).to_owned();
                    let subscription_count = wanted.subscription_count.then_some(topic.subscribers);
                    channels.insert(name, Info { subscription_count, ..Info::default() });
                }
                if channels.len() > MAX_CHANNELS {
                    return Err(Refusal::new(
                        413,
                        "too_many_channels",
                        "too many channels for an answer: use filter_by_prefix",
                    ));
                }
                match page.last() {
                    Some(last) => last.name.as_str().clone_into(&mut after),
                    None => break,
                }
                // A scan of many topics must not keep the connections of this thread waiting.
                tokio::task::yield_now().await;
            }
        }
        if wanted.user_count {
            for (name, info) in &mut channels {
                let channel = Channel::new(name).map_err(Refusal::bad)?;
                info.user_count = Some(self.members(channel).await?.0);
            }
        }
        ok(&BTreeMap::from([("channels", channels)]))
    }

    pub(super) async fn channel(&self, name: &str) -> Answer {
        let name = decode(name)?;
        let channel = Channel::new(&name).map_err(Refusal::bad)?;
        let wanted = Wanted::parse(self.parameter("info"))?;
        let info = self.info(channel, wanted).await?;
        ok(&Info { occupied: Some(self.subscribers(channel) > 0), ..info })
    }

    pub(super) async fn users(&self, name: &str) -> Answer {
        #[derive(Serialize)]
        struct User {
            id: String,
        }
        let name = decode(name)?;
        let channel = Channel::new(&name).map_err(Refusal::bad)?;
        if channel.kind != Kind::Presence {
            return Err(Refusal::bad("users are known of presence channels alone"));
        }
        let (_, ids) = self.members(channel).await?;
        let users: Vec<_> = ids.into_iter().map(|id| User { id }).collect();
        ok(&BTreeMap::from([("users", users)]))
    }

    pub(super) async fn terminate(&self, user: &str) -> Answer {
        let user = self.app.user(&decode(user)?);
        // The user does not come back: with Pusher the clients are told 4009.
        if self.janus.cluster().is_some() {
            self.janus.disconnect_user_everywhere(&user, false).await;
        } else {
            self.janus.disconnect_user(&user, false);
        }
        ok(&serde_json::json!({}))
    }

    /// What is wanted about one channel.
    pub(super) async fn info(&self, channel: Channel<'_>, wanted: Wanted) -> Result<Info, Refusal> {
        wanted.check(channel)?;
        let user_count = match wanted.user_count {
            true => Some(self.members(channel).await?.0),
            false => None,
        };
        let subscription_count = wanted.subscription_count.then(|| self.subscribers(channel));
        Ok(Info { occupied: None, user_count, subscription_count })
    }

    fn subscribers(&self, channel: Channel<'_>) -> usize {
        self.janus.topic_info(&channel.topic(&self.app.prefix)).map_or(0, |topic| topic.subscribers)
    }

    /// The number of users of a presence channel, and their ids as far as the channel is listed.
    async fn members(&self, channel: Channel<'_>) -> Result<(usize, Vec<String>), Refusal> {
        match self.janus.presence(&channel.topic(&self.app.prefix)).await {
            Ok(presence) => {
                let ids = presence.members.unwrap_or_default();
                Ok((presence.count, ids.iter().map(|member| member.user.to_string()).collect()))
            }
            Err(PresenceError::Invalid(text)) => Err(Refusal::bad(text)),
            Err(error @ PresenceError::Off) => {
                Err(Refusal::new(404, ErrorCode::NoPresence.as_str(), error.to_string()))
            }
            Err(error) => Err(Refusal::new(503, ErrorCode::EngineUnavailable.as_str(), error.to_string())),
        }
    }
}

/// Undoes the escapes of a part of a path.
fn decode(part: &str) -> Result<String, Refusal> {
    let text = percent_encoding::percent_decode_str(part).decode_utf8();
    text.map(Into::into).map_err(|_| Refusal::bad("the path is not UTF-8"))
}
