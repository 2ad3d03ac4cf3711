//! Signatures by the application's secret: HMAC-SHA256, as lower-case hexadecimal text.
//!
//! | what | the signed text |
//! |---|---|
//! | a private channel | `SOCKET_ID:CHANNEL` |
//! | a presence channel | `SOCKET_ID:CHANNEL:CHANNEL_DATA` |
//! | a user | `SOCKET_ID::user::USER_DATA` |
//! | a request | method, path and parameters, with a line break between them |

use std::borrow::Cow;
use std::fmt;

use aws_lc_rs::hmac;
use data_encoding::HEXLOWER;
use md5::{Digest as _, Md5};

/// How far the time of a request may be from this machine's, in seconds, as with Pusher.
const WINDOW: u64 = 600;

/// The secrets of an application. `Debug` shows their number.
pub(crate) struct Keys(Box<[hmac::Key]>);

impl Keys {
    pub(crate) fn new<'s>(secrets: impl IntoIterator<Item = &'s str>) -> Self {
        Self(secrets.into_iter().map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes())).collect())
    }

    /// The number of secrets.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Whether the signature is that of the text by one of the secrets. Takes the same time for every wrong signature.
    pub(crate) fn verify(&self, text: &str, signature: &str) -> bool {
        let Ok(signature) = HEXLOWER.decode(signature.as_bytes()) else { return false };
        self.0.iter().any(|key| hmac::verify(key, text.as_bytes(), &signature).is_ok())
    }

    /// The signature of the text by the first secret.
    #[cfg(test)]
    pub(crate) fn sign(&self, text: &str) -> String {
        HEXLOWER.encode(hmac::sign(&self.0[0], text.as_bytes()).as_ref())
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.0.len())
    }
}

/// The text that the application signs for a subscription to a channel.
pub(crate) fn of_channel(socket: &str, channel: &str, channel_data: Option<&str>) -> String {
    match channel_data {
        Some(data) => [socket, ":", channel, ":", data].concat(),
        None => [socket, ":", channel].concat(),
    }
}

/// The text that the application signs for a user.
pub(crate) fn of_user(socket: &str, user_data: &str) -> String {
    [socket, "::user::", user_data].concat()
}

/// Why a request is refused; its sender is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadRequest {
    #[error("the query lacks auth_key, auth_timestamp, auth_version or auth_signature, or has one of them twice")]
    Incomplete,
    #[error("auth_version must be 1.0")]
    Version,
    #[error("unknown auth_key")]
    Key,
    #[error("auth_timestamp is more than 600 s from the time of this server")]
    Time,
    #[error("body_md5 is not the digest of the body")]
    Digest,
    #[error("auth_signature is not the signature of this request")]
    Signature,
}

/// The head of a request to be checked. The signature covers the digest of the body, so the sender is known before the body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signed<'r> {
    pub(crate) method: &'r str,
    pub(crate) path: &'r str,
    pub(crate) query: &'r str,
}

/// The parameters of a request.
pub(crate) type Parameters = Vec<(String, String)>;

impl Signed<'_> {
    /// Checks the request against the application's key, and returns the parameters. `now` is in seconds since 1970.
    pub(crate) fn check(&self, app_key: &str, keys: &Keys, now: u64) -> Result<Parameters, BadRequest> {
        let pair = |(name, value): (Cow<'_, str>, Cow<'_, str>)| (name.into_owned(), value.into_owned());
        let parameters: Vec<_> = form_urlencoded::parse(self.query.as_bytes()).map(pair).collect();
        let one = |name: &str| only(&parameters, name);
        let signed = (one("auth_key"), one("auth_timestamp"), one("auth_version"), one("auth_signature"));
        let (Some(key), Some(time), Some(version), Some(signature)) = signed else {
            return Err(BadRequest::Incomplete);
        };
        if version != "1.0" {
            return Err(BadRequest::Version);
        }
        if key != app_key {
            return Err(BadRequest::Key);
        }
        // The signature before the rest: a stranger learns nothing about the clock.
        let text = signed_text(self.method, self.path, &parameters);
        if !keys.verify(&text, signature) {
            return Err(BadRequest::Signature);
        }
        let is_now = time.parse::<u64>().is_ok_and(|time| time.abs_diff(now) <= WINDOW);
        if is_now { Ok(parameters) } else { Err(BadRequest::Time) }
    }
}

/// Checks that this is the body of the signed parameters.
pub(crate) fn check_body(parameters: &[(String, String)], body: &[u8]) -> Result<(), BadRequest> {
    match only(parameters, "body_md5") {
        Some(md5) if md5 == HEXLOWER.encode(&Md5::digest(body)) => Ok(()),
        None if body.is_empty() => Ok(()),
        _ => Err(BadRequest::Digest),
    }
}

/// The value of a parameter that comes once.
fn only<'p>(parameters: &'p [(String, String)], name: &str) -> Option<&'p str> {
    let mut values = parameters.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_str());
    values.next().filter(|_| values.next().is_none())
}

/// The parameters but the signature, by name, as they were before they were escaped.
fn signed_text(method: &str, path: &str, parameters: &[(String, String)]) -> String {
    let mut sorted: Vec<_> = parameters.iter().filter(|(name, _)| name != "auth_signature").collect();
    sorted.sort();
    let pairs: Vec<_> = sorted.iter().map(|(name, value)| [&name.to_ascii_lowercase(), "=", value].concat()).collect();
    [method, "\n", path, "\n", &pairs.join("&")].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "278d425bdf160c739803";

    /// The application of Pusher's documents.
    fn keys() -> Keys {
        Keys::new(["7ad3773142a6692b25b8"])
    }

    #[test]
    fn signatures_of_channels_are_those_of_the_documents_of_pusher() {
        let text = of_channel("1234.1234", "private-foobar", None);
        let signature = "58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4";
        assert!(keys().verify(&text, signature));
        let data = r#"{"user_id":10,"user_info":{"name":"Mr. Channels"}}"#;
        let text = of_channel("1234.1234", "presence-foobar", Some(data));
        assert!(keys().verify(&text, "31935e7d86dba64c2a90aed31fdc61869f9b22ba9d8863bba239c03ca481bc80"));
    }

    #[test]
    fn the_signature_of_a_user_is_that_of_the_documents_of_pusher() {
        let text = of_user("1234.1234", r#"{"id":"12345"}"#);
        assert!(keys().verify(&text, "4708d583dada6a56435fb8bc611c77c359a31eebde13337c16ab43aa6de336ba"));
    }

    const BODY: &[u8] = br#"{"name":"foo","channels":["project-3"],"data":"{\"some\":\"data\"}"}"#;
    const QUERY: &str = "auth_key=278d425bdf160c739803&auth_timestamp=1353088179&auth_version=1.0\
                         &body_md5=ec365a775a4cd0599faeb73354201b6f\
                         &auth_signature=da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c";
    const NOW: u64 = 1_353_088_179;

    fn check(query: &str, body: &[u8], now: u64) -> Result<(), BadRequest> {
        let signed = Signed { method: "POST", path: "/apps/3/events", query };
        check_body(&signed.check(KEY, &keys(), now)?, body)
    }

    #[test]
    fn the_signature_of_a_request_is_that_of_the_documents_of_pusher() {
        assert_eq!(check(QUERY, BODY, NOW), Ok(()));
        assert_eq!(check(QUERY, BODY, NOW + 600), Ok(()));
    }

    #[test]
    fn a_request_that_was_changed_is_refused() {
        assert_eq!(check(QUERY, BODY, NOW + 601), Err(BadRequest::Time));
        assert_eq!(check(QUERY, b"{}", NOW), Err(BadRequest::Digest));
        assert_eq!(check(&format!("{QUERY}&info=user_count"), BODY, NOW), Err(BadRequest::Signature));
        assert_eq!(check(&format!("{QUERY}&auth_timestamp=1"), BODY, NOW), Err(BadRequest::Incomplete));
        assert_eq!(check(&QUERY.replace("version=1.0", "version=2.0"), BODY, NOW), Err(BadRequest::Version));
        assert_eq!(check(&QUERY.replace("key=27", "key=28"), BODY, NOW), Err(BadRequest::Key));
        assert_eq!(check(&QUERY.replace("signature=da", "signature=DA"), BODY, NOW), Err(BadRequest::Signature));
        assert_eq!(check(&QUERY.replace("signature=da", "signature=da0"), BODY, NOW), Err(BadRequest::Signature));
        assert_eq!(check("", BODY, NOW), Err(BadRequest::Incomplete));
    }

    #[test]
    fn signatures_of_an_earlier_secret_are_good_while_the_file_has_both() {
        let old = keys().sign("text");
        let both = Keys::new(["another", "7ad3773142a6692b25b8"]);
        assert!(both.verify("text", &old) && both.verify("text", &both.sign("text")));
        assert!(!Keys::new(["another"]).verify("text", &old) && !both.verify("text2", &old));
    }
}
