//! The application: what all its connections and requests share.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use janus_core::ConfigError;
use janus_core::hooks::{Denied, Gate, Identity, Patterns};
use janus_core::wire::{FrameError, Limits, TopicName};

use crate::channel::{self, Channel};
use crate::protocol;
use crate::settings::PusherSettings;
use crate::signature::Keys;
use crate::socket::SocketIds;

/// The largest file with secrets.
const MAX_FILE_BYTES: u64 = 4_096;

/// The most secrets: one, and another that replaces it.
const MAX_SECRETS: usize = 2;

/// Why an application cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// A setting cannot work.
    #[error(transparent)]
    Setting(#[from] ConfigError),
    /// The file with the secret cannot be read.
    #[error("pusher_secret_file: cannot read {}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// There is no secret, or there are too many.
    #[error("pusher_secret_file: expected one secret, or two on a line each, with 8 to 256 visible characters each")]
    Secrets,
    /// The settings name no application.
    #[error("pusher_app_id and pusher_key: expected the id and the key of the application")]
    NoApp,
}

/// See the module's documentation.
pub(crate) struct App {
    pub(crate) id: String,
    pub(crate) key: String,
    pub(crate) keys: Keys,
    pub(crate) sockets: SocketIds,
    pub(crate) prefix: String,
    pub(crate) client_events: bool,
    /// Client events per second.
    pub(crate) event_rate: u32,
    pub(crate) event_bytes: usize,
    pub(crate) activity_timeout: Duration,
    topics: Patterns,
    /// Of all clients that are not signed in.
    anonymous: Arc<Identity>,
}

impl App {
    pub(crate) fn from_settings(settings: &PusherSettings) -> Result<Option<Self>, SetupError> {
        settings.validate()?;
        let Some(file) = settings.pusher_app_id.as_ref().and(settings.pusher_secret_file.as_deref()) else {
            return Ok(None);
        };
        let text = read(file).map_err(|source| SetupError::Unreadable { file: file.to_owned(), source })?;
        Self::new(settings, text.lines().map(str::trim).filter(|line| !line.is_empty())).map(Some)
    }

    pub(crate) fn new<'s>(
        settings: &PusherSettings,
        secrets: impl IntoIterator<Item = &'s str>,
    ) -> Result<Self, SetupError> {
        let secrets: Vec<&str> = secrets.into_iter().collect();
        let is_secret =
            |text: &&str| (8..=256).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if !(1..=MAX_SECRETS).contains(&secrets.len()) || !secrets.iter().all(is_secret) {
            return Err(SetupError::Secrets);
        }
        let (Some(id), Some(key)) = (settings.pusher_app_id.clone(), settings.pusher_key.clone()) else {
            return Err(SetupError::NoApp);
        };
        let topics = channel::topics(&settings.pusher_prefix);
        Ok(Self {
            id,
            key,
            keys: Keys::new(secrets),
            sockets: SocketIds::new(),
            prefix: settings.pusher_prefix.clone(),
            client_events: settings.pusher_client_events,
            event_rate: u32::try_from(settings.pusher_client_event_rate).unwrap_or(u32::MAX),
            event_bytes: settings.pusher_event_bytes,
            activity_timeout: settings.pusher_activity_timeout,
            anonymous: Arc::new(Identity::anonymous().subscribe(topics.clone()).publish(topics.clone())),
            topics,
        })
    }

    /// The topic of a channel.
    pub(crate) fn topic(&self, channel: Channel<'_>, limits: &Limits) -> Result<TopicName, FrameError> {
        limits.topic(&channel.topic(&self.prefix))
    }

    /// The name of a user among the users of the instance: clients of other protocols may have users of the same name.
    pub(crate) fn user(&self, id: &str) -> String {
        [&self.prefix, ":", id].concat()
    }

    /// The identity of a client that is not signed in, or of a user. The decoder has checked the user's signature.
    fn identity(&self, user: Option<&str>) -> Arc<Identity> {
        match user {
            None => Arc::clone(&self.anonymous),
            Some(id) => {
                let identity = Identity::user(self.user(id));
                Arc::new(identity.subscribe(self.topics.clone()).publish(self.topics.clone()))
            }
        }
    }
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App").field("id", &self.id).field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// The decoder decides about channels, and the identities keep its clients to the topics of the application.
pub(crate) fn gate(app: &Arc<App>) -> Gate {
    let reserved = app.topics.clone();
    let app = Arc::clone(app);
    Gate::new(protocol::NAME, move |request| Ok::<_, Denied>(app.identity(request.auth.as_deref()))).reserve(reserved)
}

fn read(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(file)?.take(MAX_FILE_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The application of Pusher's documents, with the same socket ids in each run.
    pub(crate) fn app(change: impl FnOnce(&mut PusherSettings)) -> Arc<App> {
        let mut settings = PusherSettings {
            pusher_app_id: Some("3".to_owned()),
            pusher_key: Some("278d425bdf160c739803".to_owned()),
            ..PusherSettings::default()
        };
        change(&mut settings);
        let app = App::new(&settings, ["7ad3773142a6692b25b8"]).unwrap();
        Arc::new(App { sockets: SocketIds::of_tests(), ..app })
    }

    #[test]
    fn the_secret_stands_in_a_file_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        let settings = PusherSettings {
            pusher_app_id: Some("3".to_owned()),
            pusher_key: Some("key".to_owned()),
            pusher_secret_file: Some(file.clone()),
            ..PusherSettings::default()
        };
        assert!(matches!(App::from_settings(&settings), Err(SetupError::Unreadable { .. })));
        for (text, is_good) in [
            ("7ad3773142a6692b25b8\n", true),
            ("7ad3773142a6692b25b8\nanother-secret\n", true),
            ("\n", false),
            ("short", false),
            ("7ad3773142a6692b25b8\nanother-secret\na-third-secret", false),
        ] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(App::from_settings(&settings).is_ok(), is_good, "{text:?}");
        }
        std::fs::write(&file, "7ad3773142a6692b25b8\nanother-secret\n").unwrap();
        let pusher = crate::Pusher::from_settings(&settings).unwrap().unwrap();
        assert_eq!(pusher.to_string(), "application 3 of Pusher, channels as topics pusher:CHANNEL, 2 secrets");
        assert!(App::from_settings(&PusherSettings::default()).unwrap().is_none());
        assert!(!format!("{:?}", app(|_| {})).contains("7ad3"));
    }
}
