//! Making keys and tokens: for trying a server, and for tests. The issuer of a real application has the private key.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use aws_lc_rs::{hmac, rsa};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use rustls::pki_types::pem::{PemObject as _, SectionKind};
use serde_json::{Map, Value, json};

use super::key::{Algorithm, KeyError};
use super::keys::secret_of;

/// A key that signs tokens. `Debug` shows the algorithm alone.
///
/// ```
/// use std::time::Duration;
/// use janus_access::tokens::{Algorithm, Keys, NewToken, Rules, SigningKey, Tokens};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let key = SigningKey::generate(Algorithm::Es256)?;
/// let token = NewToken::new("alice").subscribe(["news", "user:alice:**"]).good_for(Duration::from_secs(600));
/// let token = key.sign(&token)?;
///
/// let tokens = Tokens::new(Rules::default(), Keys::parse(key.public_text().as_bytes())?);
/// assert_eq!(tokens.verify(&token).await?.user, "alice");
/// # Ok(())
/// # }
/// ```
pub struct SigningKey {
    algorithm: Algorithm,
    pair: Pair,
    /// What [`private_text`](Self::private_text) gives.
    private: String,
    /// What [`public_text`](Self::public_text) gives.
    public: String,
    id: Option<String>,
}

enum Pair {
    Secret(Box<hmac::Key>),
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

/// The claims of a token to be signed.
///
/// ```
/// use std::time::Duration;
/// use janus_access::tokens::NewToken;
///
/// let token = NewToken::new("alice").subscribe(["news"]).publish(["chat:*"]).good_for(Duration::from_secs(3_600));
/// ```
#[derive(Clone)]
pub struct NewToken(Map<String, Value>);

/// Bytes of a new secret: as many as the hash has.
const SECRET_BYTES: usize = 32;

const FAILED: KeyError = KeyError::Malformed("the key cannot be made, or cannot sign");

impl SigningKey {
    /// A new random key.
    ///
    /// # Errors
    ///
    /// The system has no random numbers.
    pub fn generate(algorithm: Algorithm) -> Result<Self, KeyError> {
        match algorithm {
            Algorithm::Hs256 => {
                let mut secret = [0; SECRET_BYTES];
                aws_lc_rs::rand::fill(&mut secret).map_err(|_| FAILED)?;
                Self::secret(&secret)
            }
            Algorithm::Rs256 => {
                let pair = RsaKeyPair::generate(KeySize::Rsa2048).map_err(|_| FAILED)?;
                Self::rsa(pair)
            }
            Algorithm::Es256 => {
                let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
                Self::of_der(document.map_err(|_| FAILED)?.as_ref())
            }
            Algorithm::EdDsa => {
                let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
                Self::of_der(document.map_err(|_| FAILED)?.as_ref())
            }
        }
    }

    /// Reads a private key in PEM (`PRIVATE KEY`, `RSA PRIVATE KEY`, `EC PRIVATE KEY`), or the first line such as
    /// `HS256 c2VjcmV0…`.
    ///
    /// # Errors
    ///
    /// There is no such key.
    pub fn parse(text: &[u8]) -> Result<Self, KeyError> {
        for block in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
            match block {
                Ok((SectionKind::PrivateKey | SectionKind::EcPrivateKey | SectionKind::RsaPrivateKey, der)) => {
                    return Self::of_der(&der);
                }
                Ok((SectionKind::PublicKey, _)) => return Err(NOT_PRIVATE),
                _ => {}
            }
        }
        let lines = std::str::from_utf8(text).map_err(|_| NOT_PRIVATE)?.lines().map(str::trim);
        let line = lines.into_iter().find(|line| line.starts_with("HS256 ")).ok_or(NOT_PRIVATE)?;
        let mut words = line.split_ascii_whitespace().skip(1);
        let secret = words.next().and_then(secret_of).ok_or(KeyError::Malformed("the secret is not base64"))?;
        Ok(Self { id: words.next().map(str::to_owned), ..Self::secret(&secret)? })
    }

    fn secret(secret: &[u8]) -> Result<Self, KeyError> {
        super::Key::hs256(secret)?;
        let line = format!("HS256 {}\n", BASE64.encode(secret));
        let pair = Pair::Secret(Box::new(hmac::Key::new(hmac::HMAC_SHA256, secret)));
        Ok(Self { algorithm: Algorithm::Hs256, pair, private: line.clone(), public: line, id: None })
    }

    fn rsa(pair: RsaKeyPair) -> Result<Self, KeyError> {
        let private = pair.as_der().map_err(|_| FAILED)?;
        let public: rsa::PublicKey = pair.public_key().clone();
        let public = public.as_der().map_err(|_| FAILED)?;
        let (private, public) = (pem("PRIVATE KEY", private.as_ref()), pem("PUBLIC KEY", public.as_ref()));
        Ok(Self { algorithm: Algorithm::Rs256, pair: Pair::Rsa(pair), private, public, id: None })
    }

    fn of_der(der: &[u8]) -> Result<Self, KeyError> {
        if let Ok(pair) = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, der)
            .or_else(|_| EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der))
        {
            let private = pair.to_pkcs8v1().map_err(|_| FAILED)?;
            let public = pair.public_key().as_der().map_err(|_| FAILED)?;
            let (private, public) = (pem("PRIVATE KEY", private.as_ref()), pem("PUBLIC KEY", public.as_ref()));
            return Ok(Self { algorithm: Algorithm::Es256, pair: Pair::Ec(pair), private, public, id: None });
        }
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8(der) {
            // Version 1 is what OpenSSL and most libraries read.
            let private = pair.to_pkcs8v1().map_err(|_| FAILED)?;
            let public = pair.public_key().as_der().map_err(|_| FAILED)?;
            let (private, public) = (pem("PRIVATE KEY", private.as_ref()), pem("PUBLIC KEY", public.as_ref()));
            return Ok(Self { algorithm: Algorithm::EdDsa, pair: Pair::Ed(pair), private, public, id: None });
        }
        let pair = RsaKeyPair::from_pkcs8(der).or_else(|_| RsaKeyPair::from_der(der));
        pair.map_err(|_| NOT_PRIVATE).and_then(Self::rsa)
    }

    /// Names the key in the `kid` of its tokens.
    #[must_use]
    pub fn with_id(self, id: impl Into<String>) -> Self {
        Self { id: Some(id.into()), ..self }
    }

    /// The algorithm of the key.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The private key as the content of a file for the issuer: PEM, or a line with the secret.
    #[must_use]
    pub fn private_text(&self) -> &str {
        &self.private
    }

    /// The key as the content of a file for the server (`token_keys`): PEM, or the line with the secret, which HS256
    /// has in common with the issuer.
    #[must_use]
    pub fn public_text(&self) -> &str {
        &self.public
    }

    /// A signed token.
    ///
    /// # Errors
    ///
    /// The system has no random numbers.
    pub fn sign(&self, token: &NewToken) -> Result<String, KeyError> {
        let mut header = json!({"alg": self.algorithm.name(), "typ": "JWT"});
        if let Some(id) = &self.id {
            header["kid"] = id.as_str().into();
        }
        let part = |value: &Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
        let message = format!("{}.{}", part(&header), part(&Value::Object(token.0.clone())));
        let signature = self.pair.sign(message.as_bytes())?;
        Ok(format!("{message}.{}", BASE64URL_NOPAD.encode(&signature)))
    }

    #[cfg(test)]
    pub(super) fn sign_message(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.pair.sign(message)
    }
}

const NOT_PRIVATE: KeyError =
    KeyError::Malformed("no private key: expected a block PRIVATE KEY of PEM, or a line such as \"HS256 c2VjcmV0…\"");

impl Pair {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let random = SystemRandom::new();
        Ok(match self {
            Self::Secret(key) => hmac::sign(key, message).as_ref().to_vec(),
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).map_err(|_| FAILED)?;
                signature
            }
            Self::Ec(pair) => pair.sign(&random, message).map_err(|_| FAILED)?.as_ref().to_vec(),
            Self::Ed(pair) => pair.sign(message).as_ref().to_vec(),
        })
    }
}

impl NewToken {
    /// A token of this user, issued now, without rights and without an end.
    #[must_use]
    pub fn new(user: impl Into<String>) -> Self {
        Self(Map::new()).claim("sub", user.into()).claim("iat", now())
    }

    /// Grants subscribing to the topics of these patterns.
    #[must_use]
    pub fn subscribe(self, patterns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.right("subscribe", patterns)
    }

    /// Grants publishing to the topics of these patterns.
    #[must_use]
    pub fn publish(self, patterns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.right("publish", patterns)
    }

    /// Subscribes the client to these topics from the start.
    #[must_use]
    pub fn topics(self, topics: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.right("topics", topics)
    }

    /// Ends the token after this time from now.
    #[must_use]
    pub fn good_for(self, time: Duration) -> Self {
        let end = now().saturating_add(time.as_secs());
        self.claim("exp", end)
    }

    /// Sets any claim.
    #[must_use]
    pub fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    fn right(mut self, name: &str, list: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let list: Vec<Value> = list.into_iter().map(|item| Value::String(item.into())).collect();
        let rights = self.0.entry("janus").or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(rights) = rights {
            rights.insert(name.to_owned(), list.into());
        }
        self
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// A block of PEM, with lines of 64 characters (RFC 7468).
fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let mut block = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        block.extend(line.iter().map(|&byte| char::from(byte)));
        block.push('\n');
    }
    block + &format!("-----END {label}-----\n")
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

impl fmt::Debug for NewToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NewToken(…)")
    }
}
