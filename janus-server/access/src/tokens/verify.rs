//! The checks of a token. Pure: a token, keys and a time in, an identity out.
//!
//! The order matters. The size comes before any decoding. Everything that costs a stranger nothing to get wrong (form,
//! times, `iss`, `aud`) comes before the signature, and before a question to the server with the keys. The claim `janus`,
//! the longest part, comes after the signature.

use std::time::{Duration, SystemTime};

use data_encoding::BASE64URL_NOPAD;
use janus_core::hooks::{Denied, Grant, Identity, Patterns};
use janus_core::wire::TopicName;
use serde_json::Value;

use super::claims::{Claims, Rights, time};
use super::json;
use super::key::Algorithm;
use super::keys::Keys;

/// Bytes of a token, as sent. A session cookie or a header could not carry more either.
pub const MAX_TOKEN_BYTES: usize = 8 << 10;

/// How far the clocks of an issuer and of this server may differ, for `nbf` and `iat`. The end, `exp`, is exact: a client
/// that is connected has [`Config::token_grace`](janus_core::Config::token_grace) for a new token.
pub const LEEWAY: Duration = Duration::from_secs(30);

/// Topics of the claim `janus.topics`.
pub const MAX_TOPICS: usize = 100;

/// What a good token must say, and what the token means where it says nothing.
///
/// ```
/// use janus_access::tokens::Rules;
/// use janus_core::hooks::Grant;
///
/// let rules = Rules::default();
/// assert!(rules.requires_end && rules.subscribe == Grant::None && rules.publish == Grant::None);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Rules {
    /// The name of this server, which the claim `aud` must have; not looked at if `None`.
    pub audience: Option<String>,
    /// The issuer, which the claim `iss` must be; not looked at if `None`.
    pub issuer: Option<String>,
    /// Whether a token must have an end (`exp`). A token without an end is good until its key goes.
    pub requires_end: bool,
    /// The meaning of a token without `janus.subscribe`.
    pub subscribe: Grant,
    /// The meaning of a token without `janus.publish`.
    pub publish: Grant,
}

impl Default for Rules {
    fn default() -> Self {
        Self { audience: None, issuer: None, requires_end: true, subscribe: Grant::None, publish: Grant::None }
    }
}

/// Why a token is not good. The texts have nothing of the token, so that they may be logged and sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The token is longer than [`MAX_TOKEN_BYTES`].
    #[error("the token has more than 8 KiB: put less into its claims")]
    TooLong,
    /// The text is no token.
    #[error("not a token (JWT): {0}")]
    Malformed(&'static str),
    /// One object has two equal keys, and other readers would take another of the two.
    #[error("duplicate key in the token: name each claim once")]
    DuplicateKey,
    /// The header has `crit`: the token must not be accepted without its extensions, and this server has none.
    #[error("the token requires extensions (\"crit\"), and this server has none")]
    Critical,
    /// The header's `alg` is `none`, or is unknown.
    #[error("the token's algorithm is none of HS256, RS256, ES256 and EdDSA")]
    Algorithm,
    /// A claim has a wrong value.
    #[error("the token's claim {claim:?} is wrong: expected {expected}")]
    Claim {
        /// The name of the claim.
        claim: &'static str,
        /// The accepted values.
        expected: &'static str,
    },
    /// Patterns or topics of the claim `janus` are wrong.
    #[error("the token's claim {claim:?} is wrong: {reason}")]
    Rights {
        /// The name of the claim.
        claim: &'static str,
        /// What is wrong. Names an item by its number.
        reason: String,
    },
    /// The token has no `exp`, which the [`Rules`] require.
    #[error("the token has no end: the claim \"exp\" is required")]
    NoEnd,
    /// The token has ended.
    #[error("the token has expired")]
    Expired,
    /// The token begins later.
    #[error("the token is not valid yet (\"nbf\")")]
    NotYet,
    /// The token was issued in the future.
    #[error("the token was issued in the future (\"iat\"): compare the clocks of the issuer and of this server")]
    FromTheFuture,
    /// The token is for another server.
    #[error("the token is for another server: its \"aud\" does not name this one")]
    Audience,
    /// The token comes from an issuer that is not accepted.
    #[error("the token's issuer (\"iss\") is not accepted")]
    Issuer,
    /// No key has the algorithm and the id of the token.
    #[error("no key of this server has the token's \"alg\" and \"kid\"")]
    UnknownKey,
    /// The signature is not that of a key of this server, or the content was changed.
    #[error("the token's signature is wrong")]
    Signature,
    /// The keys of the URL could not be fetched since the start.
    #[error("the server has no keys for tokens yet; try again later")]
    NoKeys(Duration),
    /// The token may have a new key. The keys were fetched a short time ago, and are fetched again then.
    #[error("the token's key is not known yet; try again later")]
    KeyNotKnownYet(Duration),
}

impl TokenError {
    /// The time after which the same token may be good; `None` if the token stays bad.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::NoKeys(after) | Self::KeyNotKnownYet(after) => Some(*after),
            _ => None,
        }
    }
}

/// The answer for a client with such a token.
impl From<TokenError> for Denied {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Expired => Self::expired(error.to_string()),
            TokenError::NoKeys(after) | TokenError::KeyNotKnownYet(after) => Self::for_now(error.to_string(), after),
            _ => Self::new(error.to_string()),
        }
    }
}

/// A token with a good form and good claims, and a signature yet to be verified.
pub(super) struct Unverified<'a> {
    algorithm: Algorithm,
    kid: Option<String>,
    /// Header and claims, as signed.
    message: &'a str,
    signature: Vec<u8>,
    claims: Claims,
}

impl Rules {
    /// Reads a token up to its signature.
    pub(super) fn read<'a>(&self, token: &'a str, now: SystemTime) -> Result<Unverified<'a>, TokenError> {
        let (header, claims, signature) = parts(token)?;
        let message = &token[..header.len() + 1 + claims.len()];
        let (algorithm, kid) = read_header(header)?;
        let signature = decode(signature)?;
        let claims = Claims::read(object(claims)?)?;
        claims.user()?;
        self.check_times(&claims, now)?;
        if self.issuer.is_some() && claims.issuer != self.issuer {
            return Err(TokenError::Issuer);
        }
        if let Some(audience) = &self.audience
            && !claims.audiences.as_ref().is_some_and(|audiences| audiences.contains(audience))
        {
            return Err(TokenError::Audience);
        }
        Ok(Unverified { algorithm, kid, message, signature, claims })
    }

    fn check_times(&self, claims: &Claims, now: SystemTime) -> Result<(), TokenError> {
        let begins_by_now = |begin: Option<u64>| begin.is_none_or(|begin| time(begin) <= now + LEEWAY);
        match claims.end() {
            None if self.requires_end => Err(TokenError::NoEnd),
            Some(end) if end <= now => Err(TokenError::Expired),
            _ if !begins_by_now(claims.not_before) => Err(TokenError::NotYet),
            _ if !begins_by_now(claims.issued_at) => Err(TokenError::FromTheFuture),
            _ => Ok(()),
        }
    }

    /// The identity of a token with a good signature.
    pub(super) fn identity(&self, token: Unverified<'_>) -> Result<Identity, TokenError> {
        let mut claims = token.claims;
        let rights = claims.janus.take().map(Rights::read).transpose()?.unwrap_or_default();
        let mut identity = Identity::user(claims.user()?)
            .subscribe(grant(rights.subscribe, "janus.subscribe", &self.subscribe)?)
            .publish(grant(rights.publish, "janus.publish", &self.publish)?)
            .topics(topics(&rights.topics)?)
            .claims(rights.claims)
            .info(rights.info);
        if let Some(end) = claims.end() {
            identity = identity.expires(end);
        }
        if let Some(id) = claims.id {
            identity = identity.token_id(id);
        }
        Ok(identity)
    }
}

/// No key has signed the token.
#[derive(Debug)]
pub(super) struct Unsigned {
    pub(super) error: TokenError,
    /// Whether a newer set of keys may have the token's key. Not if the set has a key of the token's `kid`.
    pub(super) may_be_newer: bool,
}

impl Unverified<'_> {
    /// Tries the keys that fit.
    pub(super) fn is_signed_by(&self, sets: &[&Keys]) -> Result<(), Unsigned> {
        let (mut tried, mut named) = (false, false);
        for key in sets.iter().flat_map(|set| set.for_token(self.algorithm, self.kid.as_deref())) {
            if key.verifies(self.message.as_bytes(), &self.signature) {
                return Ok(());
            }
            tried = true;
            named |= key.id().is_some() && self.kid.is_some();
        }
        let error = if named || tried && self.kid.is_none() { TokenError::Signature } else { TokenError::UnknownKey };
        Err(Unsigned { error, may_be_newer: !named })
    }
}

/// The header and the claims of a token, neither verified nor checked: for showing a token to its issuer.
///
/// ```
/// let token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl";
/// let (header, claims) = janus_access::tokens::unverified(token)?;
/// assert_eq!((&header["alg"], &claims["sub"]), (&"HS256".into(), &"alice".into()));
/// # Ok::<(), janus_access::tokens::TokenError>(())
/// ```
///
/// # Errors
///
/// The text is no token.
pub fn unverified(token: &str) -> Result<(Value, Value), TokenError> {
    let (header, claims, _) = parts(token)?;
    Ok((object(header)?, object(claims)?))
}

/// The three parts of a token that is not too long.
fn parts(token: &str) -> Result<(&str, &str, &str), TokenError> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(TokenError::TooLong);
    }
    let mut parts = token.split('.');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(header), Some(claims), Some(signature), None) => Ok((header, claims, signature)),
        _ => Err(TokenError::Malformed("expected three parts with dots between them")),
    }
}

/// The algorithm and the key's id.
fn read_header(header: &str) -> Result<(Algorithm, Option<String>), TokenError> {
    let Value::Object(mut header) = object(header)? else {
        return Err(TokenError::Malformed("the header is no object"));
    };
    // RFC 7515, 4.1.11: an unknown extension makes the token invalid, and here all are unknown.
    if header.contains_key("crit") {
        return Err(TokenError::Critical);
    }
    let algorithm = header.get("alg").and_then(Value::as_str).and_then(Algorithm::from_name);
    let algorithm = algorithm.ok_or(TokenError::Algorithm)?;
    match header.remove("kid") {
        None => Ok((algorithm, None)),
        Some(Value::String(kid)) => Ok((algorithm, Some(kid))),
        Some(_) => Err(TokenError::Malformed("\"kid\" is not a string")),
    }
}

fn object(part: &str) -> Result<Value, TokenError> {
    json::read(&decode(part)?).map_err(|refused| match refused {
        json::Refused::Duplicate => TokenError::DuplicateKey,
        json::Refused::NotJson => TokenError::Malformed("the header or the claims are not JSON"),
    })
}

/// Strict: no padding, no blanks, no bits beyond the last byte. So a token has one spelling.
fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    let decoded = BASE64URL_NOPAD.decode(part.as_bytes());
    decoded.map_err(|_| TokenError::Malformed("a part is not base64url without padding"))
}

fn grant(patterns: Option<Vec<String>>, claim: &'static str, absent: &Grant) -> Result<Grant, TokenError> {
    match patterns {
        None => Ok(absent.clone()),
        Some(patterns) if patterns.is_empty() => Ok(Grant::None),
        Some(patterns) => match Patterns::new(patterns) {
            Ok(patterns) => Ok(Grant::from(patterns)),
            Err(error) => Err(TokenError::Rights { claim, reason: error.to_string() }),
        },
    }
}

fn topics(names: &[String]) -> Result<Vec<TopicName>, TokenError> {
    let wrong = |reason| TokenError::Rights { claim: "janus.topics", reason };
    if names.len() > MAX_TOPICS {
        return Err(wrong(format!("more than {MAX_TOPICS} topics")));
    }
    let topic = |(index, name): (usize, &String)| {
        TopicName::new(name, Patterns::MAX_BYTES).map_err(|error| wrong(format!("topic number {}: {error}", index + 1)))
    };
    names.iter().enumerate().map(topic).collect()
}
