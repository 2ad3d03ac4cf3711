//! The protocol `janus.v1.json` for the commands, by the client of janus-core: settings, and errors in the words of a command.

use std::io;
use std::sync::Arc;

use janus_core::client::{Client, ClientBuilder, ClientError as Failure};

use super::ClientError;
use super::server::Target;

/// The client of a command, which ends with its connection unless told otherwise.
pub(super) fn builder(target: &Target) -> ClientBuilder {
    let scheme = if target.address.is_tls { "wss" } else { "ws" };
    let mut builder = Client::builder(format!("{scheme}://{}/ws", target.address.to))
        .timeout(target.timeout)
        // To be sent, and then to be answered.
        .request_timeout(target.timeout.saturating_mul(2))
        .reconnect(false);
    if let Some(tls) = &target.tls {
        builder = builder.tls(Arc::clone(tls));
    }
    if let Some(token) = &target.token {
        builder = builder.token(token);
    }
    builder
}

/// The error of the client, with advice for the user.
pub(super) fn in_words(target: &Target, failure: Failure) -> ClientError {
    let address = || target.address.to.clone();
    match failure {
        Failure::Refused { error, message, reconnect_after, .. } => {
            ClientError::refused(&error, &message).again_after(reconnect_after).advised(|code| advice(target, code))
        }
        Failure::Status { code, message, .. } if !code.is_empty() => ClientError::refused(&code, &message),
        Failure::Status { .. } => ClientError::NotJanus { to: address(), what: "the answer is not one of the API" },
        Failure::Connect { to, source } => ClientError::Connect { to, source: owned(source) },
        Failure::Handshake { to, source } => ClientError::Handshake { to, source: owned(source) },
        Failure::Lost { source: Some(source) } => ClientError::Lost(owned(source)),
        Failure::Lost { source: None } | Failure::Closed => ClientError::Closed,
        Failure::Ended { source } => in_words(target, Arc::unwrap_or_clone(source)),
        Failure::Late { awaited, time } | Failure::NotSent { awaited, time, .. } => {
            ClientError::Late { awaited, timeout: time }
        }
        Failure::BadUrl { reason, .. } => {
            ClientError::BadAddress { to: address(), source: io::Error::new(io::ErrorKind::InvalidInput, reason) }
        }
        Failure::TooLarge { .. } => ClientError::refused("frame_too_large", &failure.to_string()),
        Failure::AlreadySubscribed(_) => ClientError::refused("already_subscribed", &failure.to_string()),
        other => ClientError::Lost(io::Error::other(other)),
    }
}

/// The error itself, whose kind and cause the advice goes by. The client keeps no other copy of a first failure.
fn owned(source: Arc<io::Error>) -> io::Error {
    Arc::try_unwrap(source).unwrap_or_else(|shared| io::Error::new(shared.kind(), shared.to_string()))
}

/// What the user can do about a refusal with this code, on a WebSocket or on the classic protocol.
pub(super) fn advice(target: &Target, code: &str) -> &'static str {
    match (code, target.token.is_some()) {
        ("unauthorized", false) => " (set the variable JANUS_TOKEN to a token of a user)",
        ("unauthorized" | "token_expired", true) => {
            " (the token came from JANUS_TOKEN; `janus-server token show -` says what is wrong with it)"
        }
        ("forbidden", false) => " (set the variable JANUS_TOKEN to a token that grants this topic)",
        ("forbidden", true) => {
            " (the token in JANUS_TOKEN does not grant this; `janus-server token show -` lists its topics)"
        }
        ("publish_not_allowed", _) => {
            " (or publish over HTTP with the api_key in JANUS_API_KEY, or with a token that grants the topic in JANUS_TOKEN)"
        }
        _ => "",
    }
}
