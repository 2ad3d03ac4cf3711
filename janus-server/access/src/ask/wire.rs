//! Questions and answers as JSON.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use janus_core::hooks::{Denied, Grant, Identity, Patterns};
use janus_core::wire::{HttpRequest, Peer, TopicName};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Bytes of a user's name. Names are in memory for each connection, and in the log.
const MOST_USER_BYTES: usize = 1_024;

/// Characters of a reason: the reason is a line for a person.
const MOST_REASON_CHARS: usize = 256;

/// The longest time that an answer is kept. An answer that holds for longer belongs into the identity.
const LONGEST_KEPT: Duration = Duration::from_secs(3_600);

/// The longest time that the backend can send a client away.
const LONGEST_AWAY: Duration = Duration::from_secs(3_600);

/// A question for the backend.
#[derive(Debug, Serialize)]
pub(super) struct Question<'a> {
    pub(super) version: u32,
    /// `connect`, `refresh`, `subscribe` or `publish`.
    pub(super) question: &'static str,
    /// The name of this instance, a slash, and the number of the connection.
    pub(super) connection: String,
    pub(super) transport: &'static str,
    pub(super) peer: Peer,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) auth: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) headers: BTreeMap<&'a str, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) claims: Option<&'a serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) topic: Option<&'a str>,
    /// The message that a client wants to publish.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) data: Option<&'a RawValue>,
    /// In place of `data`, if the payload is bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) data_base64: Option<&'a str>,
}

/// The headers of these names, given in lower case. Several of one name are joined as HTTP joins them.
pub(super) fn headers<'a>(request: Option<&HttpRequest>, names: &'a [String]) -> BTreeMap<&'a str, String> {
    let mut headers = BTreeMap::<&str, String>::new();
    for (name, value) in request.map(|request| &*request.headers).unwrap_or_default() {
        let Some(name) = names.iter().find(|allowed| *allowed == name) else { continue };
        let joint = if name == "cookie" { "; " } else { ", " };
        headers
            .entry(name)
            .and_modify(|first| {
                first.push_str(joint);
                first.push_str(value.trim());
            })
            .or_insert_with(|| value.trim().to_owned());
    }
    headers
}

/// An answer of the backend. Unknown fields are for later versions.
#[derive(Deserialize)]
pub(super) struct Said {
    allow: bool,
    user: Option<String>,
    #[serde(default)]
    claims: serde_json::Value,
    #[serde(default)]
    info: serde_json::Value,
    subscribe: Option<Vec<String>>,
    publish: Option<Vec<String>>,
    #[serde(default)]
    topics: Vec<String>,
    /// Seconds since 1970.
    expires: Option<u64>,
    reason: Option<String>,
    retry_after_ms: Option<u64>,
    cache_seconds: Option<u64>,
}

impl Said {
    /// Reads an answer. The error never has a value of the answer.
    pub(super) fn read(body: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(body).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            format!("the answer is not as expected, at line {line}, column {column}: expected {{\"allow\": true, …}}")
        })
    }

    /// For how long the answer about a topic may be kept.
    pub(super) fn kept(&self) -> Option<Duration> {
        self.cache_seconds.filter(|&seconds| seconds > 0).map(Duration::from_secs).map(|time| time.min(LONGEST_KEPT))
    }

    /// The answer without its details.
    pub(super) fn verdict(&self) -> Result<(), Denied> {
        if self.allow {
            return Ok(());
        }
        let reason = self.reason.as_deref().map_or_else(|| NOT_ALLOWED.to_owned(), shortened);
        Err(match self.retry_after_ms {
            Some(time) => Denied::for_now(reason, Duration::from_millis(time).min(LONGEST_AWAY)),
            None => Denied::new(reason),
        })
    }

    /// The identity of a client that may connect, or why the answer describes none.
    pub(super) fn identity(self) -> Result<Identity, &'static str> {
        let user = self.user.unwrap_or_default();
        if user.len() > MOST_USER_BYTES || user.contains(char::is_control) {
            return Err("user: expected at most 1,024 bytes without control characters");
        }
        let topics: Result<Vec<_>, _> =
            self.topics.iter().map(|topic| TopicName::new(topic, Patterns::MAX_BYTES)).collect();
        let topics = topics.map_err(|_| "topics: expected names of topics")?;
        let mut identity = Identity::user(user)
            .claims(self.claims)
            .info(self.info)
            .topics(topics)
            .subscribe(grant(self.subscribe.as_deref()).ok_or("subscribe: expected at most 100 patterns of topics")?)
            .publish(grant(self.publish.as_deref()).ok_or("publish: expected at most 100 patterns of topics")?);
        if let Some(seconds) = self.expires {
            let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
            identity = identity.expires(at.ok_or("expires: expected seconds since 1970")?);
        }
        Ok(identity)
    }
}

/// The text for clients whom the backend refuses without a reason.
pub(super) const NOT_ALLOWED: &str = "not allowed";

/// Without a list, the backend is asked for each topic.
fn grant(patterns: Option<&[String]>) -> Option<Grant> {
    match patterns {
        None => Some(Grant::Ask),
        Some([]) => Some(Grant::None),
        Some(patterns) => Patterns::new(patterns).ok().map(Grant::from),
    }
}

fn shortened(reason: &str) -> String {
    reason.chars().filter(|character| !character.is_control()).take(MOST_REASON_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Said {
        Said::read(text.as_bytes()).unwrap()
    }

    #[test]
    fn an_answer_becomes_an_identity() {
        let identity = said(
            r#"{"allow":true,"user":"alice","claims":{"team":7},"info":{"name":"Alice"},"subscribe":["chat:*"],"publish":[],"topics":["user:alice"],
               "expires":1800000000,"later":[]}"#,
        )
        .identity()
        .unwrap();
        assert_eq!((&*identity.user, identity.claims["team"].as_u64()), ("alice", Some(7)));
        assert_eq!(identity.info, serde_json::json!({"name": "Alice"}));
        let topic = |name| TopicName::new(name, 255).unwrap();
        assert_eq!(identity.subscribe.decide(&topic("chat:lobby")), Some(true));
        assert_eq!(identity.subscribe.decide(&topic("news")), Some(false));
        assert_eq!((identity.publish, identity.topics), (Grant::None, vec![topic("user:alice")]));
        assert_eq!(identity.expires, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)));
        let identity = said(r#"{"allow":true}"#).identity().unwrap();
        assert_eq!(identity, Identity::anonymous());
    }

    #[test]
    fn an_answer_that_describes_nobody_is_an_error_without_its_values() {
        let long = format!(r#"{{"allow":true,"user":"{}"}}"#, "x".repeat(1_025));
        for (bad, field) in [
            (r#"{"allow":true,"user":"a\nb"}"#, "user"),
            (&*long, "user"),
            (r#"{"allow":true,"subscribe":["chat:lob*"]}"#, "subscribe"),
            (r#"{"allow":true,"publish":[""]}"#, "publish"),
            (r#"{"allow":true,"topics":[""]}"#, "topics"),
            (r#"{"allow":true,"expires":18446744073709551615}"#, "expires"),
        ] {
            assert!(said(bad).identity().unwrap_err().starts_with(field), "{bad}");
        }
        for bad in ["", "[]", "{}", r#"{"allow":"secret"}"#, r#"{"allow":true,"claims":{}"#, "<html>secret</html>"] {
            let error = Said::read(bad.as_bytes()).err().unwrap();
            assert!(error.starts_with("the answer is not as expected") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_refusal_is_final_unless_it_has_a_time() {
        let verdict = |text| said(text).verdict().unwrap_err();
        assert_eq!(verdict(r#"{"allow":false}"#), Denied::new("not allowed"));
        assert_eq!(verdict(r#"{"allow":false,"reason":"no\u0007!"}"#), Denied::new("no!"));
        let later = Denied::for_now("full", Duration::from_secs(5));
        assert_eq!(verdict(r#"{"allow":false,"reason":"full","retry_after_ms":5000}"#), later);
        let long =
            verdict(&format!(r#"{{"allow":false,"reason":"{}","retry_after_ms":99999999999}}"#, "x".repeat(999)));
        assert_eq!((long.reason.len(), long.retry_after), (256, Some(LONGEST_AWAY)));
        assert_eq!(said(r#"{"allow":true,"cache_seconds":99999}"#).kept(), Some(LONGEST_KEPT));
        assert_eq!(said(r#"{"allow":true,"cache_seconds":0}"#).kept(), None);
    }

    #[test]
    fn only_allowed_headers_are_passed_on() {
        let sent: [(&str, &[u8]); 4] =
            [("Cookie", b"a=1"), ("X-Secret", b"no"), ("cookie", b"b=2"), ("Authorization", b"Bearer x")];
        let request = HttpRequest::new("GET", "/ws", sent);
        let names = ["cookie", "authorization", "origin"].map(str::to_owned);
        let passed = headers(Some(&request), &names);
        assert_eq!(
            passed.into_iter().collect::<Vec<_>>(),
            [("authorization", "Bearer x".to_owned()), ("cookie", "a=1; b=2".to_owned())]
        );
        assert!(headers(None, &names).is_empty());
    }
}
