//! The identity of a client: who it is, what it may do, and for how long.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

use super::Grant;
use crate::wire::TopicName;

/// A client's identity, as far as the embedder cares.
///
/// `Debug` shows neither the claims, nor the info, nor the identifier of the token: these belong into no log.
#[derive(Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Identity {
    /// The user's name; empty for an unknown user. Only a client of the same name can take over a session, and
    /// [`Janus::disconnect_user`](crate::Janus::disconnect_user) selects clients by this name.
    pub user: String,
    /// The topics to which the client may subscribe. With [`Grant::Ask`],
    /// [`authorize_subscribe`](super::Hooks::authorize_subscribe) is asked for each topic.
    ///
    /// Apart from the grant, a client may subscribe to its own [`topics`](Self::topics), and to every topic of a
    /// namespace with [`anonymous_subscribe`](crate::Namespace::anonymous_subscribe).
    pub subscribe: Grant,
    /// The topics to which the client may publish, even if [`Config::allow_publish`](crate::Config::allow_publish)
    /// forbids. With [`Grant::Ask`], [`authorize_publish`](super::Hooks::authorize_publish) is asked for each message,
    /// on listeners that allow publishing.
    pub publish: Grant,
    /// Topics to which the server subscribes the client when the client connects, without a request of the client.
    /// Topics beyond [`Config::max_topics_per_client`](crate::Config::max_topics_per_client) are refused.
    pub topics: Vec<TopicName>,
    /// The end of the identity. A client whose identity has ended is refused with `token_expired`, and a client that is
    /// connected then is closed after [`Config::token_grace`](crate::Config::token_grace), unless the client sends a
    /// `refresh` before. `None` for an identity without an end.
    ///
    /// The distance from now is measured when the hook has answered. A clock of the machine that jumps later changes
    /// nothing for clients that are connected.
    #[serde(serialize_with = "unix_seconds")]
    pub expires: Option<SystemTime>,
    /// The identifier of the client's token, for [`Janus::revoke`](crate::Janus::revoke).
    pub token_id: Option<String>,
    /// Further facts about the client for the later hooks, such as teams.
    pub claims: serde_json::Value,
    /// Facts about the user that **other clients may see**, such as a name to show: in the presence of each topic to which
    /// the client is subscribed, if the namespace lists [members](crate::Presence::Members). Nothing else of the identity
    /// but the [`user`](Self::user) is shown there. `Null` for none.
    #[serde(skip_serializing_if = "serde_json::Value::is_null")]
    pub info: serde_json::Value,
}

impl Identity {
    /// An unknown user.
    #[must_use]
    pub fn anonymous() -> Self {
        Self::default()
    }

    /// A user by name.
    #[must_use]
    pub fn user(name: impl Into<String>) -> Self {
        Self { user: name.into(), ..Self::default() }
    }

    /// Whether the user is unknown.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.user.is_empty()
    }

    /// Decides about the topics of the client's subscribes: a [`Grant`], [`Patterns`](super::Patterns), or a `bool`
    /// for all topics or none.
    #[must_use]
    pub fn subscribe(self, grant: impl Into<Grant>) -> Self {
        Self { subscribe: grant.into(), ..self }
    }

    /// Decides about the topics of the client's messages, as [`subscribe`](Self::subscribe) does.
    #[must_use]
    pub fn publish(self, grant: impl Into<Grant>) -> Self {
        Self { publish: grant.into(), ..self }
    }

    /// Decides about all topics of the client's subscribes.
    #[must_use]
    pub fn may_subscribe(self, may: bool) -> Self {
        self.subscribe(may)
    }

    /// Decides about all topics of the client's messages.
    #[must_use]
    pub fn may_publish(self, may: bool) -> Self {
        self.publish(may)
    }

    /// Sets the topics to which the client is subscribed from the start.
    #[must_use]
    pub fn topics(self, topics: impl IntoIterator<Item = TopicName>) -> Self {
        Self { topics: topics.into_iter().collect(), ..self }
    }

    /// Sets the end of the identity.
    #[must_use]
    pub fn expires(self, at: SystemTime) -> Self {
        Self { expires: Some(at), ..self }
    }

    /// Sets the identifier of the client's token.
    #[must_use]
    pub fn token_id(self, id: impl Into<String>) -> Self {
        Self { token_id: Some(id.into()), ..self }
    }

    /// Sets the facts for the later hooks.
    #[must_use]
    pub fn claims(self, claims: serde_json::Value) -> Self {
        Self { claims, ..self }
    }

    /// Sets the facts about the user that other clients may see.
    #[must_use]
    pub fn info(self, info: serde_json::Value) -> Self {
        Self { info, ..self }
    }

    /// Whether the client may subscribe to a topic by this identity alone; `None` if the hook decides.
    pub(crate) fn decides_subscribe(&self, topic: &TopicName) -> Option<bool> {
        if self.topics.contains(topic) { Some(true) } else { self.subscribe.decide(topic) }
    }

    /// Whether the identity names the topic for the client's subscriptions.
    pub(crate) fn names_subscribe(&self, topic: &TopicName) -> bool {
        self.topics.contains(topic) || self.subscribe.names(topic)
    }

    /// The time left at `now`, zero if the identity has ended; `None` without an end.
    pub(crate) fn time_left(&self, now: SystemTime) -> Option<Duration> {
        self.expires.map(|expires| expires.duration_since(now).unwrap_or_default())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("user", &self.user)
            .field("subscribe", &self.subscribe)
            .field("publish", &self.publish)
            .field("topics", &self.topics.len())
            .field("expires", &self.expires)
            .field("token_id", &self.token_id.as_ref().map(|_| "…"))
            .field("claims", &"…")
            .field("info", &"…")
            .finish()
    }
}

/// Seconds since 1970, as in a token.
#[expect(clippy::ref_option, reason = "serde gives a reference to the field")]
fn unix_seconds<S: Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    let since_1970 = |time: &SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    time.as_ref().map(since_1970).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hooks::Patterns;

    fn topic(name: &str) -> TopicName {
        TopicName::new(name, 255).unwrap()
    }

    #[test]
    fn a_log_shows_the_user_and_no_claim() {
        let identity = Identity::user("alice").token_id("jti-1").claims("secret".into()).topics([topic("hidden")]);
        let shown = format!("{identity:?}");
        assert!(shown.contains("alice"), "{shown}");
        for hidden in ["jti-1", "secret", "hidden"] {
            assert!(!shown.contains(hidden), "{shown}");
        }
    }

    #[test]
    fn an_identity_as_json_has_grants_and_seconds() {
        let identity = Identity::user("alice")
            .subscribe(Patterns::new(["news", "chat:*"]).unwrap())
            .publish(false)
            .expires(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        let json = serde_json::to_value(&identity).unwrap();
        assert_eq!(json["subscribe"], serde_json::json!(["news", "chat:*"]));
        assert_eq!((&json["publish"], &json["expires"]), (&"none".into(), &1_800_000_000.into()));
    }

    #[test]
    fn a_topic_of_the_start_needs_no_grant() {
        let identity = Identity::user("alice").subscribe(false).topics([topic("inbox")]);
        assert_eq!(identity.decides_subscribe(&topic("inbox")), Some(true));
        assert_eq!(identity.decides_subscribe(&topic("news")), Some(false));
        assert_eq!(Identity::anonymous().decides_subscribe(&topic("news")), None);
    }
}
