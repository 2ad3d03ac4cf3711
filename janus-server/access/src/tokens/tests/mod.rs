//! Tokens in all their ways to be wrong.
//!
//! | file | content |
//! |---|---|
//! | `mod.rs` | keys and tokens for the tests, made at run time |
//! | `matrix.rs` | algorithms × mistakes |
//! | `formats.rs` | files of keys, and sets from a URL |
//! | `fetching.rs` | keys from a URL, with a paused clock |
//! | `places.rs` | where a request carries its token |

mod fetching;
mod formats;
mod matrix;
mod places;

use std::time::{SystemTime, UNIX_EPOCH};

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};

use super::*;

/// A time long after 2038, so that a 32-bit time would show.
const NOW: u64 = 5_000_000_000;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

fn keys(signing: &[&SigningKey]) -> Keys {
    Keys::new(signing.iter().map(|key| single(key))).unwrap()
}

/// The public half of a key.
fn single(key: &SigningKey) -> Key {
    let line = key.public_text().trim().strip_prefix("HS256 ").map(|secret| keys::secret_of(secret).unwrap());
    line.map_or_else(|| Key::from_der(&der(key.public_text())).unwrap(), |secret| Key::hs256(&secret).unwrap())
}

/// The content of a block of PEM.
fn der(pem: &str) -> Vec<u8> {
    let text: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    data_encoding::BASE64.decode(text.as_bytes()).unwrap()
}

/// A token of these claims.
fn token(key: &SigningKey, claims: &Value) -> String {
    let claims = claims.as_object().unwrap().clone();
    let token =
        claims.into_iter().fold(NewToken::new("").claim("iat", NOW), |token, (name, value)| token.claim(&name, value));
    key.sign(&token).unwrap()
}

/// A token of any header and claims, as text.
fn raw(key: &SigningKey, header: &str, claims: &str) -> String {
    let message =
        format!("{}.{}", BASE64URL_NOPAD.encode(header.as_bytes()), BASE64URL_NOPAD.encode(claims.as_bytes()));
    let signature = key.sign_message(message.as_bytes()).unwrap();
    format!("{message}.{}", BASE64URL_NOPAD.encode(&signature))
}

async fn verify(tokens: &Tokens, token: &str) -> Result<Identity, TokenError> {
    tokens.verify_at(token, now()).await
}

fn good_claims() -> Value {
    json!({"sub": "alice", "exp": NOW + 60, "janus": {"subscribe": ["news"]}})
}

/// The form of a JWK Set, with the ids of the keys.
fn jwks(keys: &[(&SigningKey, &str)]) -> String {
    let keys: Vec<Value> = keys.iter().map(|(key, id)| jwk(key, id)).collect();
    json!({"keys": keys}).to_string()
}

fn jwk(key: &SigningKey, id: &str) -> Value {
    let text = key.public_text();
    let encode = |bytes: &[u8]| BASE64URL_NOPAD.encode(bytes);
    let mut jwk = match key.algorithm() {
        Algorithm::Hs256 => {
            json!({"kty": "oct", "k": encode(&keys::secret_of(text.trim().strip_prefix("HS256 ").unwrap()).unwrap())})
        }
        // The point is the end of the DER: 4, x, y.
        Algorithm::Es256 => {
            let point = der(text).split_off(der(text).len() - 64);
            json!({"kty": "EC", "crv": "P-256", "x": encode(&point[..32]), "y": encode(&point[32..])})
        }
        Algorithm::EdDsa => json!({"kty": "OKP", "crv": "Ed25519", "x": encode(&der(text)[der(text).len() - 32..])}),
        // The end of the DER of 2,048 bits: n (with a zero before), 02 03, e.
        Algorithm::Rs256 => {
            let der = der(text);
            let (n, e) = (&der[der.len() - 5 - 256..der.len() - 5], &der[der.len() - 3..]);
            json!({"kty": "RSA", "n": encode(n), "e": encode(e)})
        }
    };
    jwk["kid"] = id.into();
    jwk["alg"] = key.algorithm().name().into();
    jwk["use"] = "sig".into();
    jwk
}
