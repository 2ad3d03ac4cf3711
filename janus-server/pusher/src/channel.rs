//! The names of channels, and the topics behind them.
//!
//! The topic of a channel is its name behind a namespace of Janus, which says what the channel needs: `pusher:news`,
//! `pusher-presence:presence-room`, `pusher-cache:cache-rate`. So a public channel pays neither for members nor for a kept
//! message. No name of a channel has a colon except that of a user's own channel, and the first colon ends the namespace:
//! no client can name a topic outside.

use janus_core::hooks::Patterns;

/// The longest name of a channel, in characters, as with Pusher.
pub(crate) const MAX_BYTES: usize = 200;

/// What the channel of a signed-in user begins with.
const OWN: &str = "#server-to-user-";

/// The namespaces behind a prefix: their endings, and whether they have presence and keep a message.
pub(crate) const NAMESPACES: [Space; 4] = [
    Space { ending: "", presence: false, cache: false },
    Space { ending: "-presence", presence: true, cache: false },
    Space { ending: "-cache", presence: false, cache: true },
    Space { ending: "-presence-cache", presence: true, cache: true },
];

/// A namespace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Space {
    pub(crate) ending: &'static str,
    pub(crate) presence: bool,
    pub(crate) cache: bool,
}

/// Who may subscribe to a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Every client.
    Public,
    /// Clients with a signature.
    Private,
    /// Clients with a signature; the messages are encrypted by their publisher, and clients cannot publish.
    Encrypted,
    /// Clients with a signature that names the user.
    Presence,
    /// The user of this name.
    Own,
}

/// A checked name of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Channel<'a> {
    pub(crate) name: &'a str,
    pub(crate) kind: Kind,
}

impl<'a> Channel<'a> {
    /// Checks a name.
    pub(crate) fn new(name: &'a str) -> Result<Self, &'static str> {
        let kind = match name {
            _ if name.starts_with(OWN) => Kind::Own,
            _ if name.starts_with("private-encrypted-") => Kind::Encrypted,
            _ if name.starts_with("private-") => Kind::Private,
            _ if name.starts_with("presence-") => Kind::Presence,
            _ => Kind::Public,
        };
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-=@,.;".contains(&byte);
        if name.is_empty() || name.len() > MAX_BYTES {
            return Err("a channel's name has 1 to 200 characters");
        }
        let is_sound = match kind {
            Kind::Own => name.len() > OWN.len() && !name.chars().any(char::is_control),
            _ => name.bytes().all(allowed),
        };
        if !is_sound {
            return Err("a channel's name has letters, digits and characters of _-=@,.; alone");
        }
        Ok(Self { name, kind })
    }

    /// The user to whom the channel belongs.
    pub(crate) fn owner(&self) -> Option<&'a str> {
        self.name.strip_prefix(OWN)
    }

    /// Whether a client that subscribes gets the last message.
    pub(crate) fn is_cache(&self) -> bool {
        let rest = match self.kind {
            Kind::Public => Some(self.name),
            Kind::Private => self.name.strip_prefix("private-"),
            Kind::Encrypted => self.name.strip_prefix("private-encrypted-"),
            Kind::Presence => self.name.strip_prefix("presence-"),
            Kind::Own => None,
        };
        rest.is_some_and(|rest| rest.starts_with("cache-"))
    }

    /// The text of the topic's name under this prefix.
    pub(crate) fn topic(&self, prefix: &str) -> String {
        let (presence, cache) = (self.kind == Kind::Presence, self.is_cache());
        let space = NAMESPACES.iter().find(|space| (space.presence, space.cache) == (presence, cache));
        [prefix, space.map_or("", |space| space.ending), ":", self.name].concat()
    }
}

/// The channel of a topic of one of the namespaces.
pub(crate) fn of_topic(topic: &str) -> &str {
    topic.split_once(':').map_or(topic, |(_, channel)| channel)
}

/// All topics under this prefix.
pub(crate) fn topics(prefix: &str) -> Patterns {
    let pattern = |space: Space| [prefix, space.ending, ":**"].concat();
    Patterns::new(NAMESPACES.map(pattern)).expect("a checked prefix makes patterns")
}

/// Whether a text can be the beginning of all namespaces.
pub(crate) fn is_prefix(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=32).contains(&text.len()) && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_a_topic_of_the_namespace_that_it_needs() {
        for (name, topic) in [
            ("news", "pusher:news"),
            ("private-a", "pusher:private-a"),
            ("private-encrypted-a", "pusher:private-encrypted-a"),
            ("presence-a", "pusher-presence:presence-a"),
            ("cache-a", "pusher-cache:cache-a"),
            ("private-cache-a", "pusher-cache:private-cache-a"),
            ("private-encrypted-cache-a", "pusher-cache:private-encrypted-cache-a"),
            ("presence-cache-a", "pusher-presence-cache:presence-cache-a"),
            ("#server-to-user-a:b", "pusher:#server-to-user-a:b"),
        ] {
            let channel = Channel::new(name).unwrap();
            assert_eq!((channel.topic("pusher").as_str(), of_topic(topic)), (topic, name));
            assert!(topics("pusher").matches(topic), "{topic}");
        }
    }

    #[test]
    fn no_name_of_a_channel_leaves_the_prefix() {
        for name in ["", "a:b", "a b", "a\u{e9}", "a/b", "*", "#news", "#server-to-user-", "#server-to-user-\n"] {
            assert!(Channel::new(name).is_err(), "{name:?}");
        }
        assert!(Channel::new(&"a".repeat(200)).is_ok() && Channel::new(&"a".repeat(201)).is_err());
        assert!(!topics("pusher").matches("news") && !topics("pusher").matches("pusher2:news"));
    }
}
