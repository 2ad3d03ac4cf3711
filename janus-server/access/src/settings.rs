//! The settings of this crate, as tables like those of janus-core: `janus-server` makes its flags, variables, keys of
//! the file and documents from the rows, and a program that embeds Janus fills in the structs.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use hyper::header::HeaderName;
use janus_core::ConfigError;
use janus_core::hooks::Grant;
use janus_core::settings::{HIDDEN, Stored, Table as _, Text, Value, millis, secs};

use crate::backend::Url;

janus_core::settings! {
    /// Who may do what.
    ///
    /// ```
    /// use janus_access::AccessSettings;
    ///
    /// let ask_connect = Some("https://app.example/janus/connect".parse()?);
    /// let settings = AccessSettings { ask_connect, ..AccessSettings::default() };
    /// assert!(settings.validate().is_ok());
    /// # Ok::<(), janus_access::UrlError>(())
    /// ```
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct AccessSettings {
        "Tokens" {
            /// File with the keys that verify tokens: a JWK Set, public keys in PEM, or lines such as
            /// `HS256 c2VjcmV0…` with a secret in base64. With several keys the token of each is good, so that keys can be
            /// replaced. The file is read again on SIGHUP, and within 60 s after a change. With keys every client needs a
            /// token, unless `anonymous` says otherwise.
            token_keys: Option<PathBuf> = None, path, reload(at_once);

            /// Address of a JWK Set with further keys, such as the `jwks_uri` of an identity provider. Until the keys have
            /// been fetched, clients with a token are told to come back later. If a later fetch fails, the earlier keys
            /// stay. A token with an unknown `kid` causes a fetch at once, but at most one in 30 s.
            token_jwks_url: Option<Url> = None, text(Url::accepts, Url::EXPECTED), reload(at_once);

            // Providers publish a key for hours before its first use; the bound keeps a withdrawn key from lasting.
            /// From one regular fetch of `token_jwks_url` to the next, and up to a tenth more. A `Cache-Control` of the
            /// answer can shorten the time to one minute.
            token_jwks_interval: Duration = secs(300), duration(secs(60)..=secs(86_400)), reload(at_once);

            /// Whether a token must have an end (`exp`): `required`, or `optional` for tokens that are good for ever.
            token_exp: TokenEnd = TokenEnd::Required, one_of(TokenEnd::NAMES), reload(new_connections);

            /// The name of this server in the `aud` of tokens. A token without this name is refused. Without a name `aud`
            /// is not looked at, and tokens of the same issuer for other servers are good here, too.
            token_aud: Option<String> = None, text(is_claim, CLAIM), reload(new_connections);

            /// The `iss` of tokens. A token of another issuer is refused. Without a text `iss` is not looked at.
            token_iss: Option<String> = None, text(is_claim, CLAIM), reload(new_connections);

            /// The topics to which a token without `janus.subscribe` lets its user subscribe: no topic (`none`), every
            /// topic (`all`), or what `ask_subscribe` says (`ask`).
            token_default_subscribe: DefaultGrant = DefaultGrant::None, one_of(DefaultGrant::NAMES),
                reload(new_connections);

            /// The topics to which a token without `janus.publish` lets its user publish: no topic (`none`), every topic
            /// (`all`), or what `ask_publish` says (`ask`).
            token_default_publish: DefaultGrant = DefaultGrant::None, one_of(DefaultGrant::NAMES),
                reload(new_connections);

            /// Name of a cookie with the token, for pages of the server's own host and of `allowed_origins`. For any other
            /// page, and for `*` in `allowed_origins`, the cookie has no meaning: a page could use the cookie of its
            /// visitors.
            token_cookie: Option<String> = None, text(is_cookie, "the name of a cookie, such as \"token\", or \"\" for none"),
                reload(new_connections);

            /// Whether a token may come as `?access_token=` in the address. Proxies write addresses to their logs, and with
            /// them the tokens.
            token_in_query: bool = false, boolean, reload(new_connections);

            /// Whether a client without a token is served. Such a client may subscribe to the topics of namespaces with
            /// `anonymous_subscribe`, and may publish nothing. Without keys, tokens have no meaning, and every client is
            /// anonymous. With `ask_connect` the backend decides about clients without a token.
            anonymous: bool = false, boolean, reload(new_connections);
        }

        "Asking the backend" {
            /// Address that is asked who a client is and what the client may do, once for each connection. Without an
            /// address, clients are anonymous.
            ask_connect: Option<Url> = None, text(Url::accepts, Url::EXPECTED), reload(new_connections);

            /// How long the backend may take for an answer. Without an answer by then the client is told to try again
            /// later (`authorization_failed`).
            ask_timeout: Duration = secs(1), duration(millis(10)..=secs(60)), reload(at_once);

            // With more, a storm of clients would reach the backend; with fewer, the backend would wait for the
            // network.
            /// Questions at the backend at once. A further question is answered at once with `authorization_failed`,
            /// and a connection is told when to come back, later for each client, so that clients spread themselves.
            /// The clients of one address get at most three quarters, and leave room for other addresses.
            ask_concurrency: usize = 256, count(1..=65_536), reload(at_once);

            /// Headers of a client's HTTP request that the backend is told with `ask_connect`. At most 32 names.
            ask_headers: Vec<String> = vec!["cookie".to_owned(), "authorization".to_owned()], texts(
                32,
                is_header,
                "names of HTTP headers, such as \"cookie\""
            ), reload(new_connections);

            /// Answers about topics kept for the time that the backend has named (`cache_seconds`). A further answer
            /// replaces an older one. 0 keeps none.
            ask_cache: usize = 10_000, count(0..=1_000_000), reload(at_once);

            /// Key of the signatures in the header `Janus-Signature`, by which the backend knows this server. Two keys
            /// with a comma between them sign each request twice, so that the key can be replaced without an
            /// interruption. Never printed, and without a flag, because every user of a machine can read its command
            /// lines.
            backend_secret: Secrets = Secrets::default(), secret(
                Secrets::accepts,
                "one key or two with a comma between them, of 16 to 256 letters, digits and characters of -._~+/= each, \
                 or \"\" for none"
            ), reload(at_once);

            /// PEM file with the authorities that may issue the certificates of `https` addresses in the settings,
            /// instead of the authorities that the system trusts.
            backend_ca: Option<PathBuf> = None, path, reload(at_once);
        }

        "Webhooks" {
            /// Address that is told of clients and topics: `connected`, `disconnected`, `topic_occupied`,
            /// `topic_vacated` and `slow`. Without an address, nobody is told.
            webhook_url: Option<Url> = None, text(Url::accepts, Url::EXPECTED), reload(at_once);

            // Shorter than the wait of a client that reconnects, every lost connection would be told.
            /// How long a topic may be without subscribers before `topic_vacated` is told. If a subscriber comes in
            /// this time, nobody is told.
            webhook_linger: Duration = secs(3), duration(secs(0)..=secs(3_600)), reload(at_once);

            /// Events waiting for `webhook_url`. Further events are left out and counted. Events of topics take at most
            /// half of the queue. Waiting events are lost if the process is killed.
            webhook_queue: usize = 10_000, count(100..=1_000_000), reload(at_once);
        }

        nested {
            /// The settings of topics outside of `namespaces`.
            default_namespace: AccessNamespace = AccessNamespace::default();

            /// Namespaces by name, as in [`Config::namespaces`](janus_core::Config::namespaces). Topics without a
            /// namespace, or of a namespace that is not listed, follow `default_namespace`.
            namespaces: BTreeMap<String, AccessNamespace> = BTreeMap::new();
        }
    }
}

janus_core::settings! {
    /// Who may do what with the topics of one namespace.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct AccessNamespace {
        "Asking the backend about topics" {
            /// Address that is asked whether a client may subscribe to a topic, unless the client's identity says so
            /// already.
            ask_subscribe: Option<Url> = None, text(Url::accepts, Url::EXPECTED), reload(at_once);

            /// Address that is asked for each message whether a client may publish to a topic, unless the client's
            /// identity says so already. Asked only where `allow_publish` lets clients publish.
            ask_publish: Option<Url> = None, text(Url::accepts, Url::EXPECTED), reload(at_once);
        }
    }
}

impl AccessSettings {
    /// The settings for a topic: the settings of its namespace, if listed, or else the default settings.
    #[must_use]
    pub fn namespace(&self, topic: &str) -> &AccessNamespace {
        let name = topic.split_once(':').map(|(name, _)| name);
        name.and_then(|name| self.namespaces.get(name)).unwrap_or(&self.default_namespace)
    }

    /// Checks every setting.
    ///
    /// # Errors
    ///
    /// The first setting whose value cannot work, with the accepted values.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.check_each()?;
        self.check_tokens()?;
        self.default_namespace.check_each()?;
        self.namespaces.values().try_for_each(AccessNamespace::check_each)
    }
}

impl AccessSettings {
    /// Whether there are keys for tokens.
    #[must_use]
    pub fn has_keys(&self) -> bool {
        self.token_keys.is_some() || self.token_jwks_url.is_some()
    }

    /// The rules across settings of tokens. A rule that needs keys is a mistake without keys: every client would be
    /// served.
    fn check_tokens(&self) -> Result<(), ConfigError> {
        let refuse = |key: &'static str, value: String, expected: &'static str| {
            Err(ConfigError { key: key.into(), value, expected: expected.into() })
        };
        let ask_subscribe = self.asks(|namespace| namespace.ask_subscribe.is_some());
        if self.token_default_subscribe == DefaultGrant::Ask && !ask_subscribe {
            return refuse("token_default_subscribe", "\"ask\"".to_owned(), "an address in ask_subscribe as well");
        }
        let ask_publish = self.asks(|namespace| namespace.ask_publish.is_some());
        if self.token_default_publish == DefaultGrant::Ask && !ask_publish {
            return refuse("token_default_publish", "\"ask\"".to_owned(), "an address in ask_publish as well");
        }
        if self.has_keys() {
            return Ok(());
        }
        let texts =
            [("token_aud", &self.token_aud), ("token_iss", &self.token_iss), ("token_cookie", &self.token_cookie)];
        match texts.into_iter().find_map(|(key, text)| Some((key, text.as_ref()?))) {
            Some((key, text)) => refuse(key, format!("{text:?}"), "keys in token_keys or token_jwks_url as well"),
            None => Ok(()),
        }
    }

    fn asks(&self, has_address: impl Fn(&AccessNamespace) -> bool) -> bool {
        has_address(&self.default_namespace) || self.namespaces.values().any(has_address)
    }
}

const CLAIM: &str = "a text of 1 to 1,024 bytes without control characters, or \"\" for none";

fn is_claim(text: &str) -> bool {
    text.len() <= 1_024 && !text.chars().any(char::is_control)
}

/// A token of RFC 9110, 5.6.2, as the name of a cookie is.
fn is_cookie(text: &str) -> bool {
    text.len() <= 256 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// Whether a token must have an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenEnd {
    /// A token without `exp` is refused.
    Required,
    /// A token without `exp` is good until its key goes.
    Optional,
}

/// The meaning of a token that says nothing about subscribing, or publishing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultGrant {
    /// No topic.
    None,
    /// Every topic.
    All,
    /// What the inner hooks say.
    Ask,
}

impl From<DefaultGrant> for Grant {
    fn from(grant: DefaultGrant) -> Self {
        match grant {
            DefaultGrant::None => Self::None,
            DefaultGrant::All => Self::All,
            DefaultGrant::Ask => Self::Ask,
        }
    }
}

/// The names of an enum's variants in a configuration, in both directions.
macro_rules! names {
    ($type:ident: $($variant:ident = $name:literal),+) => {
        impl $type {
            const NAMES: &[&str] = &[$($name),+];
        }

        impl Stored for $type {
            fn to_value(&self) -> Value {
                Value::Text(match self { $(Self::$variant => $name),+ }.to_owned())
            }

            fn from_value(value: Value) -> Option<Self> {
                match String::from_value(value)?.as_str() {
                    $($name => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

names!(TokenEnd: Required = "required", Optional = "optional");
names!(DefaultGrant: None = "none", All = "all", Ask = "ask");

fn is_header(text: &str) -> bool {
    HeaderName::from_bytes(text.as_bytes()).is_ok()
}

impl Text for Url {
    fn to_text(&self) -> String {
        self.uri().to_string()
    }

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

/// Keys of signatures: none, one, or two while one replaces the other. Never printed.
///
/// ```
/// use janus_access::Secrets;
///
/// assert_eq!(format!("{:?}", Secrets::new("correct-horse-battery")), "\"***\"");
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets(String);

impl Secrets {
    /// One key, or two with a comma between them. [`AccessSettings::validate`] refuses a text that is no key.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The keys in the order of the setting.
    pub(crate) fn reveal(&self) -> impl Iterator<Item = &str> {
        self.0.split(',').map(str::trim).filter(|key| !key.is_empty())
    }

    /// The characters of `api_key`; a shorter key can be guessed.
    fn accepts(text: &str) -> bool {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
        let is_key = |key: &str| (16..=256).contains(&key.len()) && key.bytes().all(allowed);
        text.is_empty() || text.split(',').count() <= 2 && text.split(',').map(str::trim).all(is_key)
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "none" } else { HIDDEN })
    }
}

impl Stored for Secrets {
    fn to_value(&self) -> Value {
        Value::Text(self.0.clone())
    }

    fn from_value(value: Value) -> Option<Self> {
        String::from_value(value).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_follows_the_addresses_of_its_namespace() {
        let chat = AccessNamespace { ask_subscribe: "http://chat.example/".parse().ok(), ..AccessNamespace::default() };
        let namespaces = [("chat".to_owned(), chat.clone())].into();
        let settings = AccessSettings { namespaces, ..AccessSettings::default() };
        assert_eq!(settings.namespace("chat:lobby"), &chat);
        assert_eq!(settings.namespace("chat"), &settings.default_namespace);
        assert_eq!(settings.namespace("news:chat:x"), &settings.default_namespace);
    }

    #[test]
    fn secrets_are_one_key_or_two_and_never_printed() {
        let (old, new) = ("x".repeat(16), "y".repeat(256));
        for good in ["", &old, &format!("{old}, {new}")] {
            assert!(Secrets::accepts(good), "{good}");
        }
        for bad in
            ["short", &format!("{old},"), &format!("{old},{new},{old}"), "a key with blanks inside", &"x".repeat(257)]
        {
            assert!(!Secrets::accepts(bad), "{bad}");
        }
        let settings = AccessSettings { backend_secret: Secrets::new(format!("{old}, {new}")), ..Default::default() };
        assert_eq!(settings.backend_secret.reveal().collect::<Vec<_>>(), [&old, &new]);
        assert!(!format!("{settings:?}").contains(&old));
        let error =
            AccessSettings { backend_secret: Secrets::new("short"), ..Default::default() }.validate().unwrap_err();
        assert!(error.to_string().starts_with("backend_secret = \"***\": expected one key"), "{error}");
    }

    #[test]
    fn rules_for_tokens_without_keys_are_a_mistake() {
        let keys = || Some(PathBuf::from("keys"));
        let good = AccessSettings { token_keys: keys(), token_aud: Some("push".into()), ..Default::default() };
        assert_eq!(good.validate(), Ok(()));
        let error = AccessSettings { token_aud: Some("push".into()), ..Default::default() }.validate().unwrap_err();
        assert_eq!(error.to_string(), "token_aud = \"push\": expected keys in token_keys or token_jwks_url as well");
        let ask =
            AccessSettings { token_default_subscribe: DefaultGrant::Ask, token_keys: keys(), ..Default::default() };
        let error = ask.validate().unwrap_err();
        assert_eq!(
            error.to_string(),
            "token_default_subscribe = \"ask\": expected an address in ask_subscribe as well"
        );
        let chat = AccessNamespace { ask_subscribe: "http://chat.example/".parse().ok(), ..AccessNamespace::default() };
        let namespaces = [("chat".to_owned(), chat)].into();
        assert_eq!(AccessSettings { namespaces, ..ask }.validate(), Ok(()));
        for name in ["a b", "a;b", "a=b", "ü"] {
            assert!(!is_cookie(name), "{name}");
        }
    }

    #[test]
    fn a_header_that_no_request_can_have_is_named() {
        let error = AccessSettings { ask_headers: vec!["co okie".to_owned()], ..Default::default() }.validate();
        assert!(
            error.unwrap_err().to_string().starts_with("ask_headers = \"co okie\": expected names of HTTP headers")
        );
    }
}
