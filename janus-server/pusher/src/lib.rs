// | file or folder | kind | owns |
// |---|---|---|
// | `api/` | routes | the HTTP API: publications, and questions about channels and users |
// | `app.rs` | shared object | the application: key, secrets, names of topics, and the identities of its clients |
// | `channel.rs` | pure | names of channels, and the topics behind them |
// | `data.rs` | pure | the data of a message, as text of Pusher and as JSON of Janus |
// | `decoder.rs` | decoder | the requests of one connection |
// | `frames.rs` | pure | the messages that the decoder and the encoder write |
// | `numbers.rs` | table | the numbers of Pusher for every error code |
// | `protocol.rs` | protocol | events of the server as messages of Pusher |
// | `settings.rs` | table | the settings of this crate |
// | `signature.rs` | pure | signatures of channels, of users and of requests |
// | `socket.rs` | pure | the socket ids of connections |

//! The clients and publishers of Pusher Channels, unchanged, on a Janus server: the WebSocket protocol 7 at `/app/KEY`, and
//! the signed HTTP API at `/apps/ID/…`.
//!
//! A channel is a topic: the channel `news` is the topic `pusher:news`, so that any publisher of Janus reaches the clients
//! of Pusher, and the other way round. The application's backend decides with its signatures who may subscribe to private
//! and presence channels, as with Pusher; the hooks and tokens of other clients have no say, and clients of other protocols
//! need a grant for these topics (see [`Gate`](janus_core::hooks::Gate)).
//!
//! ```
//! use janus_core::{Config, Janus};
//! use janus_pusher::{Pusher, PusherSettings};
//!
//! let settings = PusherSettings {
//!     pusher_app_id: Some("1".to_owned()),
//!     pusher_key: Some("278d425bdf160c739803".to_owned()),
//!     ..PusherSettings::default()
//! };
//! let pusher = Pusher::with_secrets(&settings, ["7ad3773142a6692b25b8"])?;
//! let mut config = Config::default();
//! settings.prepare(&mut config);
//! let builder = pusher.add_to(Janus::builder().config(config));
//! # drop(builder);
//! # Ok::<_, janus_pusher::SetupError>(())
//! ```
//!
//! There is no resume: the protocol has no positions, and a client that was away gets messages from then on. `docs/PUSHER.md`
//! in the repository says what else there is, and what not.

#![forbid(unsafe_code)]

mod api;
mod app;
mod channel;
mod data;
mod decoder;
mod frames;
mod numbers;
mod protocol;
mod settings;
mod signature;
mod socket;

use std::fmt;
use std::sync::Arc;

use janus_core::wire::{PathPattern, WebSocket};
use janus_core::{Builder, HttpRoute};

use app::App;
pub use app::SetupError;
pub use numbers::{Number, number};
use protocol::Protocol;
pub use settings::PusherSettings;

/// An application of Pusher, to be served by an instance.
#[derive(Clone, Debug)]
pub struct Pusher {
    app: Arc<App>,
}

impl Pusher {
    /// The application of these settings, with the secrets of `pusher_secret_file`; `None` if the settings name no
    /// application. Reads the file.
    ///
    /// # Errors
    ///
    /// The file cannot be read or has no secret, or a setting cannot work.
    pub fn from_settings(settings: &PusherSettings) -> Result<Option<Self>, SetupError> {
        App::from_settings(settings).map(|app| app.map(|app| Self { app: Arc::new(app) }))
    }

    /// The application of these settings with these secrets, whatever `pusher_secret_file` says. The signatures of each
    /// secret are good.
    ///
    /// # Errors
    ///
    /// There is no secret, or a setting cannot work.
    pub fn with_secrets<'s>(
        settings: &PusherSettings,
        secrets: impl IntoIterator<Item = &'s str>,
    ) -> Result<Self, SetupError> {
        App::new(settings, secrets).map(|app| Self { app: Arc::new(app) })
    }

    /// Serves the application on the HTTP ports of an instance: WebSockets at `/app/*`, and the HTTP API at `/apps/*`.
    #[must_use]
    pub fn add_to(&self, builder: Builder) -> Builder {
        let (app, paths) = (Arc::clone(&self.app), |text: &str| -> PathPattern { text.parse().expect("a path") });
        let route = |method: &str| {
            let app = Arc::clone(&app);
            let signer = Arc::clone(&app);
            let answer = move |request| api::answer(Arc::clone(&app), request);
            HttpRoute::new(method, paths("/apps/*"), answer)
                .check(move |head, _| api::check(&signer, head).map(|_| ()))
                .max_body_bytes(app_body_bytes(&self.app))
        };
        builder
            .websocket(paths("/app/*"), WebSocket::new(Protocol::new(Arc::clone(&self.app))))
            .gate(app::gate(&self.app))
            .route(route("POST"))
            .route(route("GET"))
    }
}

/// For a log: the id, the namespace of the channels and the number of secrets, and no secret.
///
/// ```
/// # use janus_pusher::{Pusher, PusherSettings};
/// # let settings = PusherSettings {
/// #     pusher_app_id: Some("1".to_owned()),
/// #     pusher_key: Some("278d425bdf160c739803".to_owned()),
/// #     ..PusherSettings::default()
/// # };
/// let pusher = Pusher::with_secrets(&settings, ["7ad3773142a6692b25b8"])?;
/// assert_eq!(pusher.to_string(), "application 1 of Pusher, channels as topics pusher:CHANNEL, 1 secret");
/// # Ok::<_, janus_pusher::SetupError>(())
/// ```
impl fmt::Display for Pusher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let App { id, prefix, keys, .. } = &*self.app;
        let secrets = if keys.count() == 1 { "1 secret".to_owned() } else { format!("{} secrets", keys.count()) };
        write!(f, "application {id} of Pusher, channels as topics {prefix}:CHANNEL, {secrets}")
    }
}

/// The largest body of a request: a whole batch whose strings are escaped throughout. The escape of a byte, as in
/// `\u0001`, has six bytes; data that is JSON itself counts with its own escapes, and only the backslash is escaped again.
fn app_body_bytes(app: &App) -> usize {
    api::MAX_BATCH * (6 * app.event_bytes + 16 * 1024)
}
