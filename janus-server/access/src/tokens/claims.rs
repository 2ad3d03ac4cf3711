//! The claims of a token, read and checked; the text of an error has none of the claims' values.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use janus_core::hooks::Revocation;
use serde_json::{Map, Value};

use super::verify::TokenError;

/// The claims that have a meaning here. No `Debug`: claims are never logged.
pub(super) struct Claims {
    pub(super) subject: Option<String>,
    pub(super) expires: Option<u64>,
    pub(super) not_before: Option<u64>,
    pub(super) issued_at: Option<u64>,
    pub(super) issuer: Option<String>,
    /// A single name and a list mean the same.
    pub(super) audiences: Option<Vec<String>>,
    pub(super) id: Option<String>,
    /// The claim `janus`, read after the signature is known to be good.
    pub(super) janus: Option<Value>,
}

/// The content of the claim `janus`.
#[derive(Default)]
pub(super) struct Rights {
    pub(super) subscribe: Option<Vec<String>>,
    pub(super) publish: Option<Vec<String>>,
    pub(super) topics: Vec<String>,
    pub(super) claims: Value,
    /// For other clients, in presence.
    pub(super) info: Value,
}

/// The last second of the year 9999. A later time is a mistake, most often milliseconds in place of seconds, and such a
/// token would be good for ever.
const LAST_SECOND: u64 = 253_402_300_799;

/// Bytes of a user's name. The name is kept for each connection and each session.
const MOST_USER_BYTES: usize = 1_024;

impl Claims {
    pub(super) fn read(value: Value) -> Result<Self, TokenError> {
        let Value::Object(mut claims) = value else { return Err(TokenError::Malformed("the claims are no object")) };
        Ok(Self {
            subject: text(&mut claims, "sub", "sub")?,
            expires: seconds(&claims, "exp")?,
            not_before: seconds(&claims, "nbf")?,
            issued_at: seconds(&claims, "iat")?,
            issuer: text(&mut claims, "iss", "iss")?,
            audiences: audiences(&mut claims)?,
            id: id(&mut claims)?,
            janus: claims.remove("janus"),
        })
    }

    /// The user's name.
    pub(super) fn user(&self) -> Result<&str, TokenError> {
        const EXPECTED: TokenError = TokenError::Claim {
            claim: "sub",
            expected: "the user's name: 1 to 1,024 bytes without control characters",
        };
        let user = self.subject.as_deref().ok_or(EXPECTED)?;
        // An empty name would be an unknown user, and others would share the name.
        let is_name = (1..=MOST_USER_BYTES).contains(&user.len()) && !user.chars().any(char::is_control);
        if is_name { Ok(user) } else { Err(EXPECTED) }
    }

    /// The time at which the token ends.
    pub(super) fn end(&self) -> Option<SystemTime> {
        self.expires.map(time)
    }
}

/// The token's identifier. A longer identifier could not be revoked.
fn id(claims: &mut Map<String, Value>) -> Result<Option<String>, TokenError> {
    let id = text(claims, "jti", "jti")?;
    match &id {
        Some(id) if !(1..=Revocation::MAX_BYTES).contains(&id.len()) => {
            Err(TokenError::Claim { claim: "jti", expected: "1 to 1,024 bytes" })
        }
        _ => Ok(id),
    }
}

impl Rights {
    /// Reads the claim `janus`. An unknown key is refused: a mistyped `subscribe` would mean the default.
    pub(super) fn read(value: Value) -> Result<Self, TokenError> {
        const EXPECTED: TokenError = TokenError::Claim {
            claim: "janus",
            expected: "an object with the keys subscribe, publish, topics, claims and info, each of them optional",
        };
        let Value::Object(mut entries) = value else { return Err(EXPECTED) };
        let rights = Self {
            subscribe: list(&mut entries, "subscribe", "janus.subscribe")?,
            publish: list(&mut entries, "publish", "janus.publish")?,
            topics: list(&mut entries, "topics", "janus.topics")?.unwrap_or_default(),
            claims: entries.remove("claims").unwrap_or_default(),
            info: entries.remove("info").unwrap_or_default(),
        };
        if entries.is_empty() { Ok(rights) } else { Err(EXPECTED) }
    }
}

/// The time of a number of seconds, at most [`LAST_SECOND`].
pub(super) fn time(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn text(claims: &mut Map<String, Value>, name: &str, claim: &'static str) -> Result<Option<String>, TokenError> {
    match claims.remove(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(TokenError::Claim { claim, expected: "a string" }),
    }
}

/// Seconds since 1970 (RFC 7519, `NumericDate`); a fraction is cut off.
fn seconds(claims: &Map<String, Value>, claim: &'static str) -> Result<Option<u64>, TokenError> {
    let Some(value) = claims.get(claim) else { return Ok(None) };
    // `as` saturates, so that numbers out of range stay out of range.
    let number = value.as_u64().or_else(|| value.as_f64().filter(|number| *number >= 0.0).map(|number| number as u64));
    match number {
        Some(number) if number <= LAST_SECOND => Ok(Some(number)),
        _ => Err(TokenError::Claim { claim, expected: "seconds since 1970, up to the year 9999; not milliseconds" }),
    }
}

fn audiences(claims: &mut Map<String, Value>) -> Result<Option<Vec<String>>, TokenError> {
    match claims.get("aud") {
        Some(Value::String(name)) => Ok(Some(vec![name.clone()])),
        _ => list(claims, "aud", "aud"),
    }
}

fn list(claims: &mut Map<String, Value>, name: &str, claim: &'static str) -> Result<Option<Vec<String>>, TokenError> {
    const EXPECTED: &str = "a list of strings";
    let items = match claims.remove(name) {
        None => return Ok(None),
        Some(Value::Array(items)) => items,
        Some(_) => return Err(TokenError::Claim { claim, expected: EXPECTED }),
    };
    let texts = items.into_iter().map(|item| if let Value::String(text) = item { Some(text) } else { None });
    texts.collect::<Option<_>>().map(Some).ok_or(TokenError::Claim { claim, expected: EXPECTED })
}
