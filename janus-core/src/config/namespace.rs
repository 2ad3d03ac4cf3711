//! The settings with a value for each namespace: history, resuming, the policy for slow consumers, and a rate of
//! publishing.

use std::time::Duration;

use super::settings::{GIB, KIB, MIB, days, millis, secs};

settings! {
    /// The settings of the topics of one namespace.
    ///
    /// ```
    /// use janus_core::{Config, Namespace, SlowConsumer};
    ///
    /// let quotes = Namespace { slow_consumer: SlowConsumer::Conflate, ..Namespace::default() };
    /// let config = Config { namespaces: [("quotes".to_owned(), quotes)].into(), ..Config::default() };
    /// assert_eq!(config.namespace("quotes:ACME").slow_consumer, SlowConsumer::Conflate);
    /// assert_eq!(config.namespace("news").slow_consumer, SlowConsumer::Disconnect);
    /// ```
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Namespace {
        "Cluster" {
            /// Whether an engine numbers the messages of the topics, for all servers of the cluster. Otherwise each server has
            /// topics of its own under these names, without the engine's latency. A change holds for topics made after it.
            /// Without an engine this has no effect.
            clustered: bool = true, boolean, reload(new_connections);
        }

        "History and slow consumers" {
            /// Whether a topic keeps its messages for every client with the right to subscribe, within
            /// `history_messages`, `history_bytes` and `history_age`. Without history these three have no effect, and a
            /// topic keeps only the messages for resuming clients (`resume_messages`).
            history: bool = false, boolean, reload(at_once);

            /// Messages in the history of one topic. A further message replaces the oldest.
            history_messages: usize = 100, count(1..=1_000_000), reload(at_once);

            /// Bytes in the history of one topic. Beyond the limit the oldest messages are dropped.
            history_bytes: usize = MIB, bytes(KIB..=GIB), reload(at_once);

            /// How long a message stays in the history.
            history_age: Duration = secs(60), duration(millis(10)..=days(7)), reload(at_once);

            /// Which clients may resume, and so receive messages from before their subscription, regardless of
            /// `history`: clients with a position or a session (`position`), only clients with the token of their
            /// session (`session`), or none (`off`). Any other client is told so, and receives new messages only.
            ///
            /// Clients may read the history of a topic (without a subscription) under `position` alone.
            ///
            /// Subscribers in the same process may always resume.
            resume: Resume = Resume::Position, one_of(Resume::NAMES), reload(at_once);

            /// What happens when the queue of a client is full: the client is closed (`disconnect`), loses the oldest
            /// (`drop_oldest`) or the newest (`drop_newest`) messages of the topic, or keeps only the latest message
            /// (`conflate`).
            slow_consumer: SlowConsumer = SlowConsumer::Disconnect, one_of(SlowConsumer::NAMES),
                reload(new_connections);
        }

        "Presence" {
            // A list costs each client that watches a frame for each change, so it is a decision of the operator.
            /// Whether clients may ask who is subscribed to a topic: not at all (`off`), for the number alone (`count`), or
            /// for the users and what their tokens say to others (`members`). A change holds for topics made after it.
            presence: Presence = Presence::Off, one_of(Presence::NAMES), reload(new_connections);
        }

        "Limits by client" {
            /// Messages per second that a client may publish, also for a namespace. A second's worth may come at once.
            /// A client that publishes more is read no faster than this, and after `rate_patience` closed
            /// (`rate_limited`). The messages to the topics of each listed namespace are counted on their own, and all
            /// other messages of the client together.
            ///
            /// Publishers in the same process have no such limit.
            client_publish_rate: usize = 0, count_or_zero("no limit", 1..=1_000_000), reload(at_once);
        }

        "Public topics" {
            /// Whether the topics are public: every client that is served may subscribe, even a client without a token,
            /// and a client whose token names other topics. Publishing is not affected. Without tokens and hooks every
            /// topic is public anyway.
            ///
            /// No hook is asked for such a topic; see [`Identity::subscribe`](crate::hooks::Identity::subscribe).
            anonymous_subscribe: bool = false, boolean, reload(at_once);
        }
    }
}

/// Which clients of a topic may resume from an earlier position. Any other client is told so, and receives only
/// messages published after its subscription.
///
/// With [`Position`](Self::Position), every client with the right to subscribe can read the messages that a topic
/// keeps. Even without history these are the last [`Config::resume_messages`](super::Config::resume_messages).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Resume {
    /// Clients with a position, and sessions. Any client can make up a position.
    #[default]
    Position,
    /// A client with the token of its session, from the session's subscription on: a newcomer receives nothing from
    /// before. Streams of server-sent events have no token, and never resume.
    Session,
    /// No client. The topic keeps nothing for resuming clients.
    Off,
}

/// What clients may learn about the subscribers of a topic.
///
/// A member is a user, whose identity has a [name](crate::hooks::Identity::user), with any number of connections.
/// Each connection without a user counts on its own, and is never listed. Subscribers in the same process do not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Presence {
    /// Nothing. The topic keeps no members.
    #[default]
    Off,
    /// The number of members.
    Count,
    /// The number of members, and the users among them with their [info](crate::hooks::Identity::info).
    Members,
}

/// What happens to a message of a topic when the queue of a client is full.
///
/// On the classic protocol the two drop policies act as [`Disconnect`](Self::Disconnect), because a classic client
/// cannot be told which messages are lost; [`Conflate`](Self::Conflate) works there too. A protocol of the program's may have
/// each policy act as [`Disconnect`](Self::Disconnect) ([`Codec::conflates`](crate::wire::Codec::conflates)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SlowConsumer {
    /// Closes the client. The client may resume with a new connection.
    #[default]
    Disconnect,
    /// Drops the oldest waiting messages of the topic until there is room, and tells the client which messages are
    /// lost.
    DropOldest,
    /// Drops new messages of the topic while there is no room, and tells the client which messages are lost.
    DropNewest,
    /// Keeps only the latest waiting message of the topic.
    Conflate,
}

names!(Resume as "resume": Position = "position", Session = "session", Off = "off");

names!(Presence as "presence": Off = "off", Count = "count", Members = "members");

names!(SlowConsumer as "slow_consumer":
    Disconnect = "disconnect",
    DropOldest = "drop_oldest",
    DropNewest = "drop_newest",
    Conflate = "conflate",
);

impl serde::Serialize for SlowConsumer {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_policy_reads_back_as_the_policy() {
        assert_eq!((SlowConsumer::NAMES.len(), Resume::NAMES.len(), Presence::NAMES.len()), (4, 3, 3));
        for name in SlowConsumer::NAMES {
            assert_eq!(name.parse::<SlowConsumer>().unwrap().to_string(), *name);
        }
        for name in Resume::NAMES {
            assert_eq!(name.parse::<Resume>().unwrap().to_string(), *name);
        }
        for name in Presence::NAMES {
            assert_eq!(name.parse::<Presence>().unwrap().to_string(), *name);
        }
        let error = "Conflate".parse::<SlowConsumer>().unwrap_err();
        assert!(error.to_string().starts_with("slow_consumer = \"Conflate\": expected \"disconnect\""), "{error}");
    }
}
