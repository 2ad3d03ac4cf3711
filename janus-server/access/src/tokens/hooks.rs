//! [`TokenHooks`]: tokens decide about clients, and further hooks about what tokens leave open.

use std::fmt;

use janus_core::SlowClient;
use janus_core::hooks::{Client, ConnectRequest, Denied, Disconnect, DropReason, Grant, Hooks, Identity};
use janus_core::wire::{AllowedOrigins, Publication, TopicName};

use super::Tokens;
use super::source::Sources;
use crate::settings::AccessSettings;

/// What happens to a client without a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WithoutToken {
    /// The client is refused.
    #[default]
    Refused,
    /// The client is served, and may subscribe to the topics of namespaces with
    /// [`anonymous_subscribe`](janus_core::Namespace::anonymous_subscribe), and to nothing else.
    Anonymous,
    /// The inner hooks are asked, as if there were no tokens.
    Ask,
}

/// Hooks that serve clients with a good token.
///
/// `H` are further hooks. They are asked where a token says nothing, if the rules of the [`Tokens`] say
/// [`Grant::Ask`]; where a client has no token, if [`without_token`](Self::without_token) says so; and they observe all
/// clients.
///
/// ```
/// use janus_access::tokens::{Keys, Rules, SigningKey, TokenHooks, Tokens};
/// use janus_core::{Config, Janus};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let tokens = Tokens::new(Rules::default(), Keys::parse(&std::fs::read("tokens.keys")
/// #     .or_else(|_| Ok::<_, std::io::Error>(b"HS256 YSByYW5kb20gc2VjcmV0IG9mIDMyIGJ5dGVzIG9yIHNv".to_vec()))?)?);
/// # let config = Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() };
/// let janus = Janus::builder().config(config).hooks(TokenHooks::new(tokens)).start().await?;
/// # janus.shutdown().await;
/// # Ok(())
/// # }
/// ```
pub struct TokenHooks<H = Deny> {
    tokens: Tokens,
    pub(super) sources: Sources,
    without_token: WithoutToken,
    inner: H,
}

/// The inner hooks of a server where tokens decide everything: the answer to each question is no.
#[derive(Clone, Copy, Debug, Default)]
pub struct Deny;

impl Hooks for Deny {
    async fn authenticate(&self, _: ConnectRequest) -> Result<Identity, Denied> {
        Err(Denied::no_credentials(NO_TOKEN))
    }

    async fn authorize_subscribe(&self, _: &Client, _: &TopicName) -> Result<(), Denied> {
        Err(Denied::new("the token does not grant the topic"))
    }

    async fn authorize_publish(&self, _: &Client, _: &TopicName, _: &Publication) -> Result<(), Denied> {
        Err(Denied::new("the token does not grant the topic"))
    }
}

const NO_TOKEN: &str = "this server requires a token";

impl TokenHooks {
    /// Hooks by which tokens alone decide. Clients without a token are refused.
    #[must_use]
    pub fn new(tokens: Tokens) -> Self {
        Self::with_inner(tokens, Deny)
    }
}

impl<H: Hooks> TokenHooks<H> {
    /// As [`new`](TokenHooks::new), with further hooks for what tokens leave open.
    #[must_use]
    pub fn with_inner(tokens: Tokens, inner: H) -> Self {
        Self { tokens, sources: Sources::default(), without_token: WithoutToken::default(), inner }
    }

    /// Decides about clients without a token.
    #[must_use]
    pub fn without_token(self, without_token: WithoutToken) -> Self {
        Self { without_token, ..self }
    }

    /// Takes tokens from this cookie as well, from pages of the server's own host and of these `origins`. `*` has no
    /// meaning here: with `*`, every page could use the cookie of its visitors.
    #[must_use]
    pub fn cookie<'a>(mut self, name: impl Into<String>, origins: impl IntoIterator<Item = &'a str>) -> Self {
        self.sources.cookie = Some(name.into());
        self.sources.origins = AllowedOrigins::new(origins.into_iter().filter(|origin| *origin != "*"));
        self
    }

    /// Takes tokens from `?access_token=` as well. Proxies write queries to their logs, and with them the tokens.
    #[must_use]
    pub fn query(mut self, allowed: bool) -> Self {
        self.sources.query = allowed;
        self
    }

    /// Follows the settings (`token_cookie`, `token_in_query`, `anonymous`). A client without a token is for the inner
    /// hooks if they decide about connections (`ask_connect`). `allowed_origins` are those of the instance.
    #[must_use]
    pub fn settings<'a>(self, settings: &AccessSettings, allowed_origins: impl IntoIterator<Item = &'a str>) -> Self {
        let without_token = match settings {
            AccessSettings { ask_connect: Some(_), .. } => WithoutToken::Ask,
            AccessSettings { anonymous: true, .. } => WithoutToken::Anonymous,
            _ => WithoutToken::Refused,
        };
        let hooks = self.without_token(without_token).query(settings.token_in_query);
        match &settings.token_cookie {
            Some(name) => hooks.cookie(name, allowed_origins),
            None => hooks,
        }
    }

    async fn identity(&self, token: &str) -> Result<Identity, Denied> {
        self.tokens.verify(token).await.map_err(Denied::from)
    }

    /// Whether a text is for the inner hooks: some clients have a key of the backend in place of a token. Whatever the
    /// answer, a client has to prove its identity.
    fn is_for_inner(&self, auth: &str) -> bool {
        self.without_token == WithoutToken::Ask && !has_form_of_token(auth)
    }
}

/// Three parts, and the first begins with `{"` in base64url.
fn has_form_of_token(text: &str) -> bool {
    text.starts_with("ey") && text.bytes().filter(|&byte| byte == b'.').count() == 2
}

impl<H: Hooks> Hooks for TokenHooks<H> {
    async fn authenticate(&self, mut request: ConnectRequest) -> Result<Identity, Denied> {
        match self.sources.find(&mut request) {
            Some(auth) if self.is_for_inner(&auth) => {
                request.auth = Some(auth);
                self.inner.authenticate(request).await
            }
            Some(token) => self.identity(&token).await,
            None => match self.without_token {
                WithoutToken::Refused => Err(Denied::no_credentials(NO_TOKEN)),
                WithoutToken::Anonymous => Ok(Identity::anonymous().subscribe(Grant::None).publish(Grant::None)),
                WithoutToken::Ask => self.inner.authenticate(request).await,
            },
        }
    }

    async fn refresh(&self, client: &Client, auth: String) -> Result<Identity, Denied> {
        if self.is_for_inner(&auth) {
            return self.inner.refresh(client, auth).await;
        }
        let identity = self.identity(&auth).await?;
        if identity.user == client.identity.user {
            Ok(identity)
        } else {
            Err(Denied::new("the token is another user's: open a new connection for another user"))
        }
    }

    async fn authorize_subscribe(&self, client: &Client, topic: &TopicName) -> Result<(), Denied> {
        self.inner.authorize_subscribe(client, topic).await
    }

    async fn authorize_publish(
        &self,
        client: &Client,
        topic: &TopicName,
        publication: &Publication,
    ) -> Result<(), Denied> {
        self.inner.authorize_publish(client, topic, publication).await
    }

    async fn connected(&self, client: &Client) {
        self.inner.connected(client).await;
    }

    async fn disconnected(&self, client: &Client, why: Disconnect) {
        self.inner.disconnected(client, why).await;
    }

    async fn slow(&self, client: &Client, lag: &SlowClient) {
        self.inner.slow(client, lag).await;
    }

    async fn dropped(&self, topic: &TopicName, messages: u64, why: DropReason) {
        self.inner.dropped(topic, messages, why).await;
    }

    async fn topic_occupied(&self, topic: &TopicName) {
        self.inner.topic_occupied(topic).await;
    }

    async fn topic_vacated(&self, topic: &TopicName) {
        self.inner.topic_vacated(topic).await;
    }
}

impl<H> fmt::Debug for TokenHooks<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenHooks")
            .field("tokens", &self.tokens)
            .field("without_token", &self.without_token)
            .finish_non_exhaustive()
    }
}
