// | file | kind | owns |
// |---|---|---|
// | `mod.rs` | handle | `Tokens`: keys in use, counts |
// | `hooks.rs` | hooks | `TokenHooks` |
// | `source.rs` | pure | where a request carries its token |
// | `verify.rs` | pure | the checks of a token |
// | `claims.rs` | pure | the claims of a token |
// | `keys.rs`, `key.rs` | pure | keys: formats, algorithms, signatures |
// | `json.rs` | pure | JSON without duplicate keys |
// | `file.rs` | file | the file of `token_keys` |
// | `remote.rs` | task | keys from a URL |
// | `signing.rs` | pure | new keys and tokens |
// | `tests/` | tests | tokens in all their ways to be wrong |

//! Who may do what, by tokens: JSON Web Tokens (RFC 7519) of the operator's own issuer.
//!
//! A client shows a token when it connects. The token names the user, its end, and the topics of the user. The server
//! needs the issuer's public key and asks nobody.
//!
//! ```json
//! { "sub": "alice", "exp": 1800000000, "aud": "push.example", "iss": "https://app.example", "jti": "7f…",
//!   "janus": { "subscribe": ["news", "chat:*", "user:alice:**"], "publish": ["chat:lobby"],
//!              "topics": ["user:alice:inbox"], "claims": {"team": 7} } }
//! ```
//!
//! [`Tokens`] verifies, [`TokenHooks`] connects tokens to an instance of Janus:
//!
//! ```
//! use std::time::Duration;
//! use janus_access::tokens::{Algorithm, Keys, NewToken, Rules, SigningKey, TokenHooks, Tokens};
//! use janus_core::{Config, Janus};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // Of a real issuer, the program knows the public key alone.
//! let issuer = SigningKey::generate(Algorithm::Es256)?;
//!
//! let tokens = Tokens::new(Rules::default(), Keys::parse(issuer.public_text().as_bytes())?);
//! # let config = Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() };
//! let janus = Janus::builder().config(config).hooks(TokenHooks::new(tokens.clone())).start().await?;
//!
//! let alice = NewToken::new("alice").subscribe(["news", "user:alice:**"]).good_for(Duration::from_secs(3_600));
//! println!("alice connects with {}", issuer.sign(&alice)?);
//! # janus.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Keys
//!
//! The algorithm belongs to the key: HS256, RS256, ES256, EdDSA. The name in a token's header selects among the keys of
//! this algorithm, and can do nothing else. Several keys at once are for rotation. A program replaces its keys with
//! [`Tokens::replace_keys`], reads a file again with [`Tokens::reload`], and has the keys of a URL fetched by
//! [`Tokens::run`].
//!
//! # Limits
//!
//! A token has at most [`MAX_TOKEN_BYTES`], [`Patterns::MAX`](janus_core::hooks::Patterns::MAX) patterns for each right,
//! and [`MAX_TOPICS`] topics. At most eight keys are tried for a token. Verifying happens on the runtime of the hooks, at
//! most [`max_hook_questions`](janus_core::Config::max_hook_questions) at once.

mod claims;
mod file;
mod hooks;
mod json;
mod key;
mod keys;
mod remote;
mod signing;
mod source;
#[cfg(test)]
mod tests;
mod verify;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use hyper::header::{CACHE_CONTROL, HeaderMap, HeaderName};
use janus_core::hooks::{Grant, Identity};
use tokio::sync::watch;

pub use file::KeyFileError;
pub use hooks::{Deny, TokenHooks, WithoutToken};
pub use key::{Algorithm, Key, KeyError};
pub use keys::Keys;
pub use signing::{NewToken, SigningKey};
pub use verify::{LEEWAY, MAX_TOKEN_BYTES, MAX_TOPICS, Rules, TokenError, unverified};

use crate::backend::{BackendError, Client, Limits, Url};
use crate::settings::{AccessSettings, TokenEnd};
use file::KeyFile;
use remote::{Fetch, Fetched, Remote};
use verify::Unverified;

/// Verifies tokens. A handle: clones share keys and counts.
///
/// ```
/// use janus_access::tokens::{Keys, Rules, TokenError, Tokens};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let tokens = Tokens::new(Rules::default(), Keys::parse(b"HS256 YSByYW5kb20gc2VjcmV0IG9mIDMyIGJ5dGVzIG9yIHNv")?);
/// assert!(matches!(tokens.verify("not a token").await, Err(TokenError::Malformed(_))));
/// assert_eq!(tokens.stats().refused, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Tokens(Arc<Inner>);

struct Inner {
    state: ArcSwap<State>,
    /// Tells of changes of the settings.
    changed: watch::Sender<()>,
    counts: Counts,
}

/// What a reload replaces.
#[derive(Clone)]
struct State {
    rules: Arc<Rules>,
    /// The keys of the file, or of the program. Empty if all keys come from a URL.
    keys: Arc<Keys>,
    file: Option<Arc<KeyFile>>,
    remote: Option<(Arc<Remote>, RemoteSettings)>,
    /// Whether tokens have a meaning.
    in_use: bool,
}

/// The settings of keys of a URL. With the same settings, the keys that were fetched stay in use.
#[derive(Clone, PartialEq, Eq)]
struct RemoteSettings {
    url: Url,
    interval: Duration,
    authorities: Option<PathBuf>,
}

/// Keys and rules of other settings, read and not in use yet: see [`Tokens::prepare`].
#[must_use = "the keys are put in use by `Tokens::follow`"]
pub struct PreparedTokens(State);

impl fmt::Debug for PreparedTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreparedTokens").field("keys", &self.0.keys.len()).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Counts {
    verified: AtomicU64,
    expired: AtomicU64,
    unsigned: AtomicU64,
    refused: AtomicU64,
    put_off: AtomicU64,
}

figures! {
    /// What has happened to tokens since the start.
    pub struct TokenStats {
        tokens = "Tokens of clients, by what became of them.";
        token_key_fetches = "Fetches of keys from token_jwks_url, with and without success.";

        /// Good tokens.
        verified: u64 = counter as tokens { result = "verified" },
        /// Tokens refused because they have expired.
        expired: u64 = counter as tokens { result = "expired" },
        /// Tokens refused because of their signature, or because no key has their `kid` and algorithm.
        unsigned: u64 = counter as tokens { result = "unsigned" },
        /// Tokens refused for another reason.
        refused: u64 = counter as tokens { result = "refused" },
        /// Tokens with an unknown key, whose clients were told to come back later.
        put_off: u64 = counter as tokens { result = "put_off" },
        /// Keys for tokens in use.
        keys: usize = gauge as token_keys,
        /// Fetches of the keys of the URL that have brought keys.
        fetches: u64 = counter as token_key_fetches { result = "fetched" },
        /// Fetches that have failed; the earlier keys stayed.
        fetches_failed: u64 = counter as token_key_fetches { result = "failed" },
        /// Fetches of keys begun because of a token with an unknown key, at most one in 30 s.
        fetches_for_unknown_keys: u64 = counter as token_key_fetches_for_unknown_keys,
    }
}

/// Why the settings give no keys.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// The file with the keys.
    #[error(transparent)]
    Keys(#[from] KeyFileError),
    /// The client that fetches the keys.
    #[error(transparent)]
    Client(#[from] BackendError),
}

impl Tokens {
    /// Verifies with these keys.
    #[must_use]
    pub fn new(rules: Rules, keys: Keys) -> Self {
        let (rules, keys) = (Arc::new(rules), Arc::new(keys));
        Self::with(State { rules, keys, file: None, remote: None, in_use: true })
    }

    /// Verifies with the keys of the settings; `None` if the settings have none (`token_keys`, `token_jwks_url`). Reads
    /// files, and fetches nothing yet: see [`run`](Self::run).
    ///
    /// # Errors
    ///
    /// A file that cannot be used.
    pub fn from_settings(settings: &AccessSettings) -> Result<Option<Self>, SetupError> {
        let tokens = Self::that_follow(settings)?;
        Ok(tokens.is_in_use().then_some(tokens))
    }

    /// As [`from_settings`](Self::from_settings), for a program whose settings may change: without keys, the handle is
    /// not [in use](Self::is_in_use) until other settings bring some.
    ///
    /// # Errors
    ///
    /// A file that cannot be used.
    pub fn that_follow(settings: &AccessSettings) -> Result<Self, SetupError> {
        Ok(Self::with(State::read(settings, None)?))
    }

    fn with(state: State) -> Self {
        let (state, changed) = (ArcSwap::from_pointee(state), watch::Sender::new(()));
        Self(Arc::new(Inner { state, changed, counts: Counts::default() }))
    }

    /// Reads the keys of other settings. Keys that were fetched from a URL stay in use if the URL stays. Reads files, and
    /// changes nothing.
    ///
    /// # Errors
    ///
    /// A file that cannot be used.
    pub fn prepare(&self, settings: &AccessSettings) -> Result<PreparedTokens, SetupError> {
        State::read(settings, Some(&self.0.state.load())).map(PreparedTokens)
    }

    /// Puts the keys and rules of other settings in use, for all clones. Clients that are connected stay until the end of
    /// their token.
    pub fn follow(&self, PreparedTokens(state): PreparedTokens) {
        self.0.state.store(Arc::new(state));
        self.0.changed.send_replace(());
    }

    /// Whether the settings name keys. Without keys, tokens have no meaning.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.0.state.load().in_use
    }

    /// The identity of the client with this token.
    ///
    /// Waits only for a token with an unknown key, and only if keys come from a URL: for a fetch, up to 2 s. Cancel safe.
    ///
    /// # Errors
    ///
    /// The token is not good, or not yet: [`TokenError::retry_after`].
    pub async fn verify(&self, token: &str) -> Result<Identity, TokenError> {
        let verified = self.verify_at(token, SystemTime::now()).await;
        let counts = &self.0.counts;
        let count = match &verified {
            Ok(_) => &counts.verified,
            Err(TokenError::Expired) => &counts.expired,
            Err(TokenError::Signature | TokenError::UnknownKey) => &counts.unsigned,
            Err(error) if error.retry_after().is_some() => &counts.put_off,
            Err(_) => &counts.refused,
        };
        count.fetch_add(1, Ordering::Relaxed);
        verified
    }

    async fn verify_at(&self, token: &str, now: SystemTime) -> Result<Identity, TokenError> {
        let state = self.0.state.load_full();
        let token = state.rules.read(token, now)?;
        state.check_signature(&token).await?;
        state.rules.identity(token)
    }

    /// Replaces the keys of the program or of the file. Clients that are connected stay until the end of their token.
    pub fn replace_keys(&self, keys: Keys) {
        let keys = Arc::new(keys);
        self.0.state.rcu(|state| State { keys: Arc::clone(&keys), ..State::clone(state) });
    }

    /// The file with the keys, if the settings have one.
    #[must_use]
    pub fn file(&self) -> Option<PathBuf> {
        self.0.state.load().file.as_ref().map(|file| file.path().to_owned())
    }

    /// Reads the file of keys again, and returns the number of its keys. Blocks on the file system.
    ///
    /// # Errors
    ///
    /// The file cannot be used; the earlier keys stay.
    pub fn reload(&self) -> Result<usize, KeyFileError> {
        let state = self.0.state.load_full();
        let Some(file) = &state.file else { return Ok(state.keys.len()) };
        let keys = file.read()?;
        let count = keys.len();
        self.replace_keys(keys);
        Ok(count)
    }

    /// Fetches the keys of the URL, now and again, and writes counts of refused tokens to the log, at most a line a
    /// minute. Never ends; for a task of the program.
    ///
    /// ```no_run
    /// # use janus_access::{AccessSettings, tokens::Tokens};
    /// # async fn start(settings: AccessSettings) -> Result<(), Box<dyn std::error::Error>> {
    /// if let Some(tokens) = Tokens::from_settings(&settings)? {
    ///     tokio::spawn(async move { tokens.run().await });
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn run(&self) {
        let fetching = async {
            let mut changed = self.0.changed.subscribe();
            loop {
                let remote = self.0.state.load().remote.as_ref().map(|(remote, _)| Arc::clone(remote));
                let fetching = async {
                    match &remote {
                        Some(remote) => remote.run().await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = fetching => {}
                    // The sender lives as long as `self`.
                    _ = changed.changed() => {}
                }
            }
        };
        tokio::join!(fetching, self.log_refusals());
    }

    async fn log_refusals(&self) {
        let mut known = TokenStats::default();
        loop {
            tokio::time::sleep(LOG_EVERY).await;
            let stats = self.stats();
            let bad = |stats: TokenStats| stats.expired + stats.unsigned + stats.refused + stats.put_off;
            if bad(stats) > bad(known) {
                log::info!(
                    verified = stats.verified - known.verified,
                    expired = stats.expired - known.expired,
                    unsigned = stats.unsigned - known.unsigned,
                    put_off = stats.put_off - known.put_off,
                    refused = stats.refused - known.refused;
                    "tokens within {LOG_EVERY:?}: {} good, {} expired, {} with a wrong signature or key, {} put off, {} \
                     refused for another reason",
                    stats.verified - known.verified,
                    stats.expired - known.expired,
                    stats.unsigned - known.unsigned,
                    stats.put_off - known.put_off,
                    stats.refused - known.refused,
                );
            }
            known = stats;
        }
    }

    /// Whether there are keys. Keys of a URL come some time after the start, or later if the fetch fails.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.stats().keys > 0
    }

    /// What has happened to tokens since the start.
    #[must_use]
    pub fn stats(&self) -> TokenStats {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (counts, state) = (&self.0.counts, self.0.state.load());
        let stats = TokenStats {
            verified: read(&counts.verified),
            expired: read(&counts.expired),
            unsigned: read(&counts.unsigned),
            refused: read(&counts.refused),
            put_off: read(&counts.put_off),
            keys: state.keys.len(),
            ..TokenStats::default()
        };
        let Some((remote, _)) = &state.remote else { return stats };
        TokenStats {
            keys: stats.keys + remote.keys().1.map_or(0, |keys| keys.len()),
            fetches: read(&remote.counts.fetched),
            fetches_failed: read(&remote.counts.failed),
            fetches_for_unknown_keys: read(&remote.counts.for_unknown_keys),
            ..stats
        }
    }
}

impl State {
    /// The keys of the settings, with the keys fetched `before` if these come from the same place.
    fn read(settings: &AccessSettings, before: Option<&Self>) -> Result<Self, SetupError> {
        let file = settings.token_keys.as_deref().map(|path| Arc::new(KeyFile::new(path)));
        let keys = file.as_ref().map(|file| file.read()).transpose()?;
        let remote = settings.token_jwks_url.as_ref().map(|url| RemoteSettings {
            url: url.clone(),
            interval: settings.token_jwks_interval,
            authorities: settings.backend_ca.clone(),
        });
        let remote = match (remote, before.and_then(|before| before.remote.as_ref())) {
            (Some(remote), Some((fetched, same))) if *same == remote => Some((Arc::clone(fetched), remote)),
            (Some(remote), _) => {
                warn_of(&remote.url, settings);
                let client = Client::new(remote.authorities.as_deref(), 1)?;
                Some((Arc::new(Remote::new(fetch(client, remote.url.clone()), remote.interval)), remote))
            }
            (None, _) => None,
        };
        Ok(Self {
            rules: Arc::new(Rules::from(settings)),
            in_use: keys.is_some() || remote.is_some(),
            keys: Arc::new(keys.unwrap_or_default()),
            file,
            remote,
        })
    }

    async fn check_signature(&self, token: &Unverified<'_>) -> Result<(), TokenError> {
        let own = &self.keys;
        let Some((remote, _)) = &self.remote else {
            return token.is_signed_by(&[own]).map_err(|unsigned| unsigned.error);
        };
        let (seen, fetched) = remote.keys();
        let check = |fetched: Option<&Keys>| match fetched {
            Some(fetched) => token.is_signed_by(&[own, fetched]),
            None => token.is_signed_by(&[own]),
        };
        match check(fetched.as_deref()) {
            Err(unsigned) if unsigned.may_be_newer => remote.look_again(seen).await?,
            known => return known.map_err(|unsigned| unsigned.error),
        }
        check(remote.keys().1.as_deref()).map_err(|unsigned| unsigned.error)
    }
}

/// Settings that work, and that may let in more clients than the operator expects.
fn warn_of(url: &Url, settings: &AccessSettings) {
    if !url.is_protected() {
        log::warn!(
            "token_jwks_url: keys that come over plain http can be replaced on the way, and tokens made with them; use \
             https"
        );
    }
    if settings.token_aud.is_none() {
        log::warn!(
            "token_jwks_url without token_aud: tokens for other servers of the issuer are accepted; set token_aud"
        );
    }
}

/// From one line about refused tokens to the next.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// Shows no key and no claim.
impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("rules", &self.0.state.load().rules)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl From<&AccessSettings> for Rules {
    fn from(settings: &AccessSettings) -> Self {
        let subscribe: Grant = settings.token_default_subscribe.into();
        let publish: Grant = settings.token_default_publish.into();
        Self {
            audience: settings.token_aud.clone(),
            issuer: settings.token_iss.clone(),
            requires_end: settings.token_exp == TokenEnd::Required,
            subscribe,
            publish,
        }
    }
}

/// The limits of a fetch. A set of keys has some 500 bytes for each key.
const FETCH: Limits = Limits { time: Duration::from_secs(10), body: Keys::MAX_BYTES };

fn fetch(client: Client, url: Url) -> Fetch {
    Arc::new(move || {
        let (client, url) = (client.clone(), url.clone());
        Box::pin(async move {
            let answer = client.get(&url, HeaderMap::<_>::default(), FETCH).await.map_err(|error| error.to_string())?;
            if answer.status != hyper::StatusCode::OK {
                return Err(format!("status {} in place of 200", answer.status.as_u16()));
            }
            let keys = Keys::of_url(&answer.body).map_err(|error| error.to_string())?;
            Ok(Fetched { keys, fresh_for: fresh_for(&answer.headers, &CACHE_CONTROL) })
        })
    })
}

/// How long an answer may be kept (RFC 9111, 5.2.2); `None` without a word about it.
fn fresh_for(headers: &HeaderMap, name: &HeaderName) -> Option<Duration> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let directives = values.flat_map(|value| value.split(',')).map(str::trim);
    let times = directives.filter_map(|directive| {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        if ["no-store", "no-cache"].iter().any(|other| name.eq_ignore_ascii_case(other)) {
            return Some(0);
        }
        let seconds = value.trim_matches('"').parse().ok();
        seconds.filter(|_| name.eq_ignore_ascii_case("max-age"))
    });
    times.min().map(Duration::from_secs)
}
