//! Keys of tokens, as in files and as from a URL: JWK Sets, PEM, and lines with secrets.
//!
//! Pure: text in, keys out. A file of the operator is read strictly, and an error names the key. The set of a URL belongs
//! to a service with further uses, so keys of other kinds are left out (RFC 7517, 5).

use std::sync::Arc;

use data_encoding::{BASE64, BASE64_NOPAD, BASE64URL, BASE64URL_NOPAD};
use rustls::pki_types::pem::{PemObject as _, SectionKind};
use serde_json::{Map, Value};

use super::json;
use super::key::{Algorithm, Key, KeyError};

/// Keys that verify tokens. Several keys at once are for rotation: tokens of the earlier and of the later key are good.
///
/// ```
/// use janus_access::tokens::Keys;
///
/// let keys = Keys::parse(b"# the secret of the shop\nHS256 YSByYW5kb20gc2VjcmV0IG9mIDMyIGJ5dGVzIG9yIHNv")?;
/// assert_eq!(keys.len(), 1);
/// assert!(Keys::parse(b"HS256 c2VjcmV0").is_err(), "a short secret can be guessed");
/// # Ok::<(), janus_access::tokens::KeyError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Keys(Vec<Arc<Key>>);

/// Keys tried for one token. Each costs some 60 µs, and a stranger's token may ask for all.
const MOST_TRIED: usize = 8;

const NOT_JSON: KeyError = KeyError::Malformed("neither a JWK Set, nor PEM, nor lines such as \"HS256 c2VjcmV0…\"");

impl Keys {
    /// Keys of one set. A longer list is a mistake: rotation needs two.
    pub const MAX: usize = 100;

    /// Bytes of a file with keys.
    pub const MAX_BYTES: usize = 256 << 10;

    /// Reads a file: a JWK Set (or a single JWK), blocks `PUBLIC KEY` of PEM, or lines with the name `HS256`, a secret in
    /// base64 and, if wanted, the key's id. Empty lines, and lines that begin with `#`, have no meaning.
    ///
    /// # Errors
    ///
    /// The first key that is malformed, weak, private, or of an unknown kind; or no key at all.
    pub fn parse(text: &[u8]) -> Result<Self, KeyError> {
        let is_space = |byte: &u8| byte.is_ascii_whitespace();
        let keys = if text.iter().find(|byte| !is_space(byte)) == Some(&b'{') {
            of_set(text, key_of_file)?
        } else if text.windows(PEM.len()).any(|window| window == PEM) {
            of_pem(text)?
        } else {
            of_lines(text)?
        };
        Self::new(keys)
    }

    /// Reads the JWK Set of a URL. Left out are keys of other uses and of unknown kinds, weak keys, and secrets: what a
    /// URL gives to this server, the URL gives to others as well.
    ///
    /// # Errors
    ///
    /// The text is no JWK Set, has more than [`MAX`](Self::MAX) keys, or has no key left.
    pub fn of_url(text: &[u8]) -> Result<Self, KeyError> {
        Self::new(of_set(text, |jwk| Ok(key_of_url(jwk)))?)
    }

    /// A set of these keys.
    ///
    /// # Errors
    ///
    /// There is no key, or there are more than [`MAX`](Self::MAX).
    pub fn new(keys: impl IntoIterator<Item = Key>) -> Result<Self, KeyError> {
        let keys: Vec<Arc<Key>> = keys.into_iter().map(Arc::new).collect();
        match keys.len() {
            0 => Err(KeyError::Malformed("no key for signatures of tokens")),
            count if count > Self::MAX => Err(KeyError::TooMany(count)),
            _ => Ok(Self(keys)),
        }
    }

    /// The number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no key; then no token is good.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.0.iter().map(|key| &**key)
    }

    /// The keys to try for a token: of its algorithm, and of its `kid` or without an id; at most [`MOST_TRIED`].
    pub(super) fn for_token(&self, algorithm: Algorithm, kid: Option<&str>) -> impl Iterator<Item = &Key> {
        let fits =
            move |key: &&Key| key.algorithm() == algorithm && (kid.is_none() || key.id().is_none() || key.id() == kid);
        self.iter().filter(fits).take(MOST_TRIED)
    }
}

/// The beginning of a block of PEM.
const PEM: &[u8] = b"-----BEGIN ";

fn of_pem(text: &[u8]) -> Result<Vec<Key>, KeyError> {
    let mut keys = Vec::new();
    for (index, block) in <(SectionKind, Vec<u8>)>::pem_slice_iter(text).enumerate() {
        let at = |error| KeyError::At { number: index + 1, error: Box::new(error) };
        let key = match block {
            Ok((SectionKind::PublicKey, der)) => Key::from_der(&der),
            Ok((SectionKind::RsaPrivateKey | SectionKind::PrivateKey | SectionKind::EcPrivateKey, _)) => {
                Err(KeyError::Private)
            }
            Ok((SectionKind::Certificate, _)) => {
                Err(KeyError::Malformed("a certificate: give its key, as `openssl x509 -pubkey -noout` prints the key"))
            }
            Ok(_) => Err(KeyError::Malformed("a block of PEM other than PUBLIC KEY")),
            Err(_) => Err(KeyError::Malformed("broken PEM")),
        };
        keys.push(key.map_err(at)?);
        check_number(keys.len())?;
    }
    if keys.is_empty() {
        return Err(KeyError::Malformed("no block PUBLIC KEY in the PEM"));
    }
    Ok(keys)
}

fn of_lines(text: &[u8]) -> Result<Vec<Key>, KeyError> {
    let text = std::str::from_utf8(text).map_err(|_| NOT_JSON)?;
    let mut keys = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let at = |error| KeyError::At { number: index + 1, error: Box::new(error) };
        keys.push(key_of_line(line).map_err(at)?);
        check_number(keys.len())?;
    }
    Ok(keys)
}

/// A line such as `HS256 c2VjcmV0… 2026`.
fn key_of_line(line: &str) -> Result<Key, KeyError> {
    let mut words = line.split_ascii_whitespace();
    let (Some("HS256"), Some(secret)) = (words.next(), words.next()) else { return Err(NOT_JSON) };
    let secret = secret_of(secret).ok_or(KeyError::Malformed("the secret is not base64"))?;
    let key = Key::hs256(&secret)?;
    match (words.next(), words.next()) {
        (None, _) => Ok(key),
        (Some(id), None) => Ok(key.with_id(id)),
        _ => Err(KeyError::Malformed("expected HS256, the secret and the id of the key")),
    }
}

/// Base64 in either alphabet, with or without padding.
pub(super) fn secret_of(text: &str) -> Option<Vec<u8>> {
    [BASE64, BASE64_NOPAD, BASE64URL, BASE64URL_NOPAD].iter().find_map(|form| form.decode(text.as_bytes()).ok())
}

/// The keys of a JWK Set, or of a single JWK. `read` gives no key for a key to be left out.
fn of_set(
    text: &[u8],
    mut read: impl FnMut(&Map<String, Value>) -> Result<Option<Key>, KeyError>,
) -> Result<Vec<Key>, KeyError> {
    let set = match json::read(text) {
        Ok(Value::Object(set)) => set,
        Err(json::Refused::Duplicate) => return Err(KeyError::Malformed("a duplicate key in an object of JSON")),
        Ok(_) | Err(json::Refused::NotJson) => return Err(KeyError::Malformed("no JWK Set: expected {\"keys\":[…]}")),
    };
    let single = [Value::Object(set.clone())];
    let list = match set.get("keys") {
        Some(Value::Array(list)) => list.as_slice(),
        None if set.contains_key("kty") => &single,
        _ => return Err(KeyError::Malformed("no JWK Set: expected {\"keys\":[…]}")),
    };
    check_number(list.len())?;
    let mut keys = Vec::new();
    for (index, jwk) in list.iter().enumerate() {
        let at = |error| KeyError::At { number: index + 1, error: Box::new(error) };
        let jwk = jwk.as_object().ok_or_else(|| at(KeyError::Malformed("a JWK is an object")))?;
        keys.extend(read(jwk).map_err(at)?);
    }
    Ok(keys)
}

fn check_number(count: usize) -> Result<(), KeyError> {
    if count > Keys::MAX { Err(KeyError::TooMany(count)) } else { Ok(()) }
}

/// A key of the operator's own file. A key for other purposes is left out, and a mistake is reported.
fn key_of_file(jwk: &Map<String, Value>) -> Result<Option<Key>, KeyError> {
    if !is_for_signatures(jwk) {
        return Ok(None);
    }
    if text(jwk, "kty") != Some("oct") && jwk.contains_key("d") {
        return Err(KeyError::Private);
    }
    let (algorithm, key) = key_of(jwk)?;
    match text(jwk, "alg").map(Algorithm::from_name) {
        Some(named) if named != Some(algorithm) => {
            Err(KeyError::Malformed("\"alg\" is none of HS256, RS256, ES256 and EdDSA, or does not belong to \"kty\""))
        }
        _ => Ok(Some(key)),
    }
}

/// A key of a URL, if this server can use the key.
fn key_of_url(jwk: &Map<String, Value>) -> Option<Key> {
    if !is_for_signatures(jwk) || text(jwk, "kty") == Some("oct") {
        return None;
    }
    let (algorithm, key) = key_of(jwk).ok()?;
    text(jwk, "alg").is_none_or(|name| Algorithm::from_name(name) == Some(algorithm)).then_some(key)
}

fn is_for_signatures(jwk: &Map<String, Value>) -> bool {
    let used = jwk.get("use").is_none_or(|used| used == "sig");
    let operations = jwk.get("key_ops").is_none_or(|listed| {
        listed.as_array().is_some_and(|listed| listed.iter().any(|operation| operation == "verify"))
    });
    used && operations
}

/// The key by its type (RFC 7518, 6 and RFC 8037, 2), with its id.
fn key_of(jwk: &Map<String, Value>) -> Result<(Algorithm, Key), KeyError> {
    let key = match (text(jwk, "kty"), text(jwk, "crv")) {
        (Some("oct"), _) => Key::hs256(&bytes(jwk, "k")?),
        (Some("RSA"), _) => Key::rs256(&bytes(jwk, "n")?, &bytes(jwk, "e")?),
        (Some("EC"), Some("P-256")) => Key::es256(&bytes(jwk, "x")?, &bytes(jwk, "y")?),
        (Some("OKP"), Some("Ed25519")) => Key::eddsa(&bytes(jwk, "x")?),
        _ => Err(KeyError::Malformed("\"kty\" and \"crv\" are none of oct, RSA, EC with P-256, and OKP with Ed25519")),
    }?;
    let key = match jwk.get("kid") {
        None => key,
        Some(Value::String(id)) => key.with_id(id.as_str()),
        Some(_) => return Err(KeyError::Malformed("\"kid\" is not a string")),
    };
    Ok((key.algorithm(), key))
}

fn text<'a>(jwk: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    jwk.get(name)?.as_str()
}

fn bytes(jwk: &Map<String, Value>, name: &'static str) -> Result<Vec<u8>, KeyError> {
    let bytes = text(jwk, name).and_then(|text| BASE64URL_NOPAD.decode(text.as_bytes()).ok());
    bytes.ok_or(KeyError::Malformed(match name {
        "k" => "\"k\" is not base64url without padding",
        "n" => "\"n\" is not base64url without padding",
        "e" => "\"e\" is not base64url without padding",
        "x" => "\"x\" is not base64url without padding",
        _ => "\"y\" is not base64url without padding",
    }))
}
