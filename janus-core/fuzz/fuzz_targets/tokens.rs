//! Any text is a token or an error, any file is a set of keys or an error, and a signed token is good only if its claims
//! say so.

#![no_main]

use std::sync::LazyLock;

use arbitrary::Arbitrary;
use aws_lc_rs::hmac;
use data_encoding::BASE64URL_NOPAD;
use futures_executor::block_on;
use janus_access::tokens::{Algorithm, Keys, MAX_TOKEN_BYTES, Rules, SigningKey, Tokens, unverified};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    Token(&'a str),
    /// Header and claims, signed with the server's secret.
    Signed(&'a str, &'a str),
    /// Claims below a good header, with one byte for each of [`WORDS`].
    Claims(&'a [u8]),
    File(&'a [u8]),
    Url(&'a [u8]),
}

/// Words too unlikely to arise by chance, for the bytes from 1 on.
const WORDS: [&str; 16] = [
    "{\"sub\":\"alice\",\"exp\":4000000000",
    ",\"janus\":{",
    "\"subscribe\":[",
    "\"publish\":[",
    "\"topics\":[",
    "\"claims\":",
    "\"chat:*\",",
    "\"user:**\"]",
    "]}",
    "}",
    ",\"aud\":",
    ",\"nbf\":",
    ",\"sub\":",
    "\\u0073",
    "1e400",
    "\"exp\"",
];

const SECRET: &[u8] = b"a secret of thirty-two bytes, ok";

static TOKENS: LazyLock<Tokens> = LazyLock::new(|| {
    let line = format!("HS256 {}", data_encoding::BASE64.encode(SECRET));
    let ec = SigningKey::generate(Algorithm::Es256).unwrap();
    let ec = Keys::parse(ec.public_text().as_bytes()).unwrap();
    assert_eq!(ec.len(), 1);
    Tokens::new(Rules::default(), Keys::parse(line.as_bytes()).unwrap())
});

fn sign(header: &str, claims: &str) -> String {
    let encode = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
    let message = format!("{}.{}", encode(header), encode(claims));
    let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), message.as_bytes());
    format!("{message}.{}", BASE64URL_NOPAD.encode(signature.as_ref()))
}

fn check(token: &str) {
    let verified = block_on(TOKENS.verify(token));
    if let Err(error) = &verified {
        assert!(error.retry_after().is_none(), "without a URL no token can become good: {error}");
    }
    let Ok(identity) = verified else { return };
    assert!(token.len() <= MAX_TOKEN_BYTES);
    let (header, claims) = unverified(token).expect("a good token has a header and claims");
    assert_eq!(header["alg"], "HS256");
    assert_eq!(claims["sub"], Value::from(identity.user.as_str()));
    assert!(!identity.user.is_empty() && !identity.user.chars().any(char::is_control));
    assert!(identity.expires.is_some());
    assert!(identity.topics.len() <= 100);
}

fuzz_target!(|input: Input<'_>| match input {
    Input::Token(token) => check(token),
    Input::Signed(header, claims) => check(&sign(header, claims)),
    Input::Claims(bytes) => {
        let mut claims = String::new();
        for &byte in bytes {
            match WORDS.get(usize::from(byte).wrapping_sub(1)) {
                Some(word) => claims.push_str(word),
                None => claims.push(char::from(byte)),
            }
        }
        check(&sign("{\"alg\":\"HS256\"}", &claims));
    }
    Input::File(text) => {
        if let Ok(keys) = Keys::parse(text) {
            assert!((1..=Keys::MAX).contains(&keys.len()));
        }
    }
    Input::Url(text) => {
        if let Ok(keys) = Keys::of_url(text) {
            assert!(keys.iter().all(|key| key.algorithm() != Algorithm::Hs256), "a secret of a URL is no secret");
        }
    }
});
