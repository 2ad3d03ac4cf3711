//! The settings of this crate, as a table like those of janus-core.

use std::path::PathBuf;
use std::time::Duration;

use janus_core::settings::{Table as _, secs};
use janus_core::{Config, ConfigError, Namespace, Presence, Resume, SlowConsumer};

use crate::channel::{self, NAMESPACES, Space};

/// 1,024 bytes.
const KIB: usize = 1 << 10;

janus_core::settings! {
    /// An application of Pusher Channels.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct PusherSettings {
        "Pusher" {
            /// Id of the application in the paths of the HTTP API, `/apps/ID/…`. With an id the server serves clients and
            /// publishers of Pusher Channels on its HTTP ports; docs/PUSHER.md says how, and what is different. Pages of
            /// other hosts must stand in `allowed_origins`.
            pusher_app_id: Option<String> = None, text(is_name, NAME);

            /// Key of the application, which its clients name in the path of the WebSocket, `/app/KEY`. No secret.
            pusher_key: Option<String> = None, text(is_name, NAME);

            /// File with the secret of the application, by which its backend signs. A second line may have another secret
            /// whose signatures are good as well, so that a secret can be replaced. Read at the start alone.
            pusher_secret_file: Option<PathBuf> = None, path;

            /// The namespace of the channels: the channel `news` is the topic `pusher:news`. Presence channels are in
            /// `pusher-presence`, cache channels in `pusher-cache` and `pusher-presence-cache`. Clients of other protocols
            /// reach these topics only if a token names them.
            pusher_prefix: String = "pusher".to_owned(), text(
                channel::is_prefix,
                "1 to 32 letters, digits and characters of -_."
            );

            /// Whether clients may publish events that begin with `client-`, to the private and presence channels to which
            /// they are subscribed.
            pusher_client_events: bool = false, boolean;

            /// Client events per second of one connection. A second's worth may come at once. A further event is refused
            /// with 4301, and the connection continues.
            pusher_client_event_rate: usize = 10, count(1..=10_000);

            /// Bytes of the data of one event. A larger event is refused with status 413, and a larger client event with
            /// 4301.
            pusher_event_bytes: usize = 10 * KIB, bytes(64..=1024 * KIB);

            // A browser's tab in the background runs its timers once a minute.
            /// How long a client waits without a sign of the server until the client sends a ping, and 30 s later gives the
            /// connection up. Clients are told when they connect.
            pusher_activity_timeout: Duration = secs(120), duration(secs(5)..=secs(3_600));
        }
    }
}

const NAME: &str = "1 to 64 letters, digits and characters of -_, or \"\" for none";

/// Whether a text can stand in a path as it is.
fn is_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    text.len() <= 64 && text.bytes().all(allowed)
}

impl PusherSettings {
    /// Checks every setting.
    ///
    /// # Errors
    ///
    /// The first setting whose value cannot work, with the accepted values.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.check_each()?;
        let refuse = |key: &'static str, expected: &'static str| {
            Err(ConfigError { key: key.into(), value: "\"\"".to_owned(), expected: expected.into() })
        };
        match (&self.pusher_app_id, &self.pusher_key, &self.pusher_secret_file) {
            (Some(_), None, _) => refuse("pusher_key", "the key of the application, because pusher_app_id is set"),
            (Some(_), _, None) => refuse("pusher_secret_file", "a file with the secret, because pusher_app_id is set"),
            // Without an id nothing would be served, and nothing would say so.
            (None, Some(_), _) => refuse("pusher_app_id", "the id of the application, because pusher_key is set"),
            (None, None, Some(_)) => {
                refuse("pusher_app_id", "the id of the application, because pusher_secret_file is set")
            }
            _ => Ok(()),
        }
    }

    /// Gives the namespaces of the channels what the channels need, if there is an application: members to presence
    /// channels, the last message to cache channels, and nothing kept for resuming clients to all others. A slow client is
    /// closed in all of them, whatever the default namespace says. A namespace that the settings of the core list stays as
    /// it is.
    pub fn prepare(&self, config: &mut Config) {
        if self.pusher_app_id.is_none() {
            return;
        }
        for Space { ending, presence, cache } in NAMESPACES {
            let name = [&self.pusher_prefix, ending].concat();
            let default = &config.default_namespace;
            let namespace = Namespace {
                presence: if presence { Presence::Members } else { Presence::Off },
                history: cache,
                history_messages: 1,
                history_age: CACHED,
                resume: if cache { Resume::Position } else { Resume::Off },
                // The protocol cannot tell a client of messages left out.
                slow_consumer: SlowConsumer::Disconnect,
                ..default.clone()
            };
            config.namespaces.entry(name).or_insert(namespace);
        }
    }

    /// Checks the namespaces of presence channels, which an operator or a program may have set otherwise than
    /// [`prepare`](Self::prepare) does: without members every subscription to a presence channel fails.
    ///
    /// # Errors
    ///
    /// A namespace of presence channels does not list members.
    pub fn check_namespaces(&self, config: &Config) -> Result<(), ConfigError> {
        if self.pusher_app_id.is_none() {
            return Ok(());
        }
        for Space { ending, .. } in NAMESPACES.into_iter().filter(|space| space.presence) {
            let name = [&self.pusher_prefix, ending].concat();
            let presence = config.namespace(&[&name, ":"].concat()).presence;
            if presence != Presence::Members {
                return Err(ConfigError {
                    key: format!("namespaces.{name}.presence").into(),
                    value: if presence == Presence::Off { "\"off\"" } else { "\"count\"" }.to_owned(),
                    expected: "\"members\", because the namespace has the presence channels of Pusher".into(),
                });
            }
        }
        Ok(())
    }
}

/// How long a cache channel keeps its last message, as with Pusher.
const CACHED: Duration = secs(30 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> PusherSettings {
        PusherSettings {
            pusher_app_id: Some("1".to_owned()),
            pusher_key: Some("key".to_owned()),
            pusher_secret_file: Some("secret".into()),
            ..PusherSettings::default()
        }
    }

    #[test]
    fn an_application_needs_a_key_and_a_secret() {
        assert_eq!(PusherSettings::default().validate(), Ok(()));
        assert_eq!(settings().validate(), Ok(()));
        let error = PusherSettings { pusher_key: None, ..settings() }.validate().unwrap_err();
        assert_eq!(error.key, "pusher_key");
        let error = PusherSettings { pusher_secret_file: None, ..settings() }.validate().unwrap_err();
        assert_eq!(error.key, "pusher_secret_file");
        for (key, file) in [(true, true), (true, false), (false, true)] {
            let PusherSettings { pusher_key, pusher_secret_file, .. } = settings();
            let (pusher_key, pusher_secret_file) = (pusher_key.filter(|_| key), pusher_secret_file.filter(|_| file));
            let without_id = PusherSettings { pusher_key, pusher_secret_file, ..PusherSettings::default() };
            assert_eq!(without_id.validate().unwrap_err().key, "pusher_app_id", "{key} {file}");
        }
        assert!(PusherSettings { pusher_key: Some("a/b".to_owned()), ..settings() }.validate().is_err());
        assert!(PusherSettings { pusher_prefix: "a:b".to_owned(), ..settings() }.validate().is_err());
    }

    #[test]
    fn a_namespace_of_presence_channels_lists_members() {
        let check = |name: &str, presence| {
            let own = Namespace { presence, ..Namespace::default() };
            let mut config = Config { namespaces: [(name.to_owned(), own)].into(), ..Config::default() };
            settings().prepare(&mut config);
            settings().check_namespaces(&config).map_err(|error| error.to_string())
        };
        for name in ["pusher-presence", "pusher-presence-cache"] {
            for (presence, word) in [(Presence::Off, "off"), (Presence::Count, "count")] {
                let error = check(name, presence).unwrap_err();
                let expected = format!("namespaces.{name}.presence = \"{word}\": expected \"members\"");
                assert!(error.starts_with(&expected), "{error}");
            }
            assert_eq!(check(name, Presence::Members), Ok(()));
        }
        assert_eq!(check("pusher", Presence::Off), Ok(()), "no presence channels");
        assert_eq!(PusherSettings::default().check_namespaces(&Config::default()), Ok(()), "no application");
        assert!(settings().check_namespaces(&Config::default()).is_err(), "not prepared");
    }

    #[test]
    fn namespaces_have_what_their_channels_need_unless_the_operator_decides() {
        let mut config = Config::default();
        config.default_namespace.slow_consumer = SlowConsumer::Conflate;
        PusherSettings::default().prepare(&mut config);
        assert!(config.namespaces.is_empty());
        let own = Namespace { history: true, ..Namespace::default() };
        config.namespaces.insert("pusher".to_owned(), own.clone());
        settings().prepare(&mut config);
        assert_eq!(config.namespace("pusher:news"), &own);
        assert_eq!(config.namespace("pusher-presence:presence-a").presence, Presence::Members);
        assert!(config.namespaces.values().all(|namespace| namespace.slow_consumer == SlowConsumer::Disconnect));
        let cache = config.namespace("pusher-cache:cache-a");
        assert_eq!((cache.history, cache.history_messages, cache.presence), (true, 1, Presence::Off));
        assert!(config.validate().is_ok());
    }
}
