//! A key that verifies tokens, and the algorithm that belongs to the key.
//!
//! The algorithm is a property of the key. The name in a token's header only selects among keys, so that a token cannot
//! have an RSA key's public text taken for the secret of an HMAC, and cannot ask for no algorithm at all.

use std::fmt;

use aws_lc_rs::hmac;
use aws_lc_rs::rsa::PublicEncryptingKey;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
};

/// An algorithm of signatures (RFC 7518, 3.1 and RFC 8037).
///
/// ```
/// use janus_access::tokens::Algorithm;
///
/// assert_eq!(Algorithm::from_name("ES256"), Some(Algorithm::Es256));
/// assert_eq!(Algorithm::from_name("none"), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Algorithm {
    /// A secret, shared between the issuer and the server (HMAC with SHA-256).
    Hs256,
    /// An RSA key of 2,048 to 8,192 bits (PKCS #1 v1.5 with SHA-256).
    Rs256,
    /// A key of the curve P-256 (ECDSA with SHA-256).
    Es256,
    /// A key of the curve Ed25519.
    EdDsa,
}

impl Algorithm {
    /// All algorithms.
    pub const ALL: [Self; 4] = [Self::Hs256, Self::Rs256, Self::Es256, Self::EdDsa];

    /// The name in the header of a token.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    /// The algorithm of this name, in the spelling of the standards.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        // RFC 9864 calls EdDSA on this curve Ed25519.
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
            .or_else(|| (name == "Ed25519").then_some(Self::EdDsa))
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Why a key is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The secret could be guessed: with a single token, an attacker tries secrets without asking the server.
    #[error("a secret of {0} bytes: HS256 requires 32 random bytes or more")]
    ShortSecret(usize),
    /// The key could be computed from its public part.
    #[error("an RSA key of {0} bits: RS256 requires 2,048 to 8,192 bits")]
    RsaSize(usize),
    /// The server verifies tokens, and must not be able to make tokens.
    #[error("a private key: give the server the public key alone")]
    Private,
    /// The text is no key of a known algorithm.
    #[error("{0}")]
    Malformed(&'static str),
    /// More keys than a server needs.
    #[error("{0} keys: at most {max} are accepted", max = super::Keys::MAX)]
    TooMany(usize),
    /// A key of a file is refused.
    #[error("key {number}: {error}")]
    At {
        /// The place in the file, counted from 1.
        number: usize,
        /// Why the key is refused.
        error: Box<Self>,
    },
}

/// A key that verifies tokens. `Debug` shows the algorithm and the id alone.
///
/// ```
/// use janus_access::tokens::{Algorithm, Key};
///
/// let key = Key::hs256(&[7; 32])?.with_id("2026");
/// assert_eq!((key.algorithm(), key.id()), (Algorithm::Hs256, Some("2026")));
/// # Ok::<(), janus_access::tokens::KeyError>(())
/// ```
pub struct Key {
    id: Option<String>,
    material: Material,
}

enum Material {
    Secret(Box<hmac::Key>),
    /// Parsed once, so that a token does not pay for the key's own checks.
    Public(Algorithm, ParsedPublicKey),
}

/// The shortest secret (RFC 7518, 3.2).
const LEAST_SECRET_BYTES: usize = 32;

const RSA_BITS: std::ops::RangeInclusive<usize> = 2_048..=8_192;

impl Key {
    /// A secret of 32 bytes or more, for HS256.
    ///
    /// # Errors
    ///
    /// The secret is shorter.
    pub fn hs256(secret: &[u8]) -> Result<Self, KeyError> {
        if secret.len() < LEAST_SECRET_BYTES {
            return Err(KeyError::ShortSecret(secret.len()));
        }
        Ok(Material::Secret(Box::new(hmac::Key::new(hmac::HMAC_SHA256, secret))).into())
    }

    /// A public key in DER (RFC 5280, `SubjectPublicKeyInfo`), the content of a PEM block `PUBLIC KEY`. The algorithm
    /// follows from the key.
    ///
    /// # Errors
    ///
    /// The key is neither RSA of 2,048 bits or more, nor of the curves P-256 and Ed25519.
    pub fn from_der(der: &[u8]) -> Result<Self, KeyError> {
        if let Ok(rsa) = PublicEncryptingKey::from_der(der) {
            check_size(rsa.key_size_bits())?;
            let key = ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, der);
            return key.map(|key| Material::Public(Algorithm::Rs256, key).into()).map_err(|_| UNKNOWN);
        }
        if der.windows(RSA.len()).any(|window| window == RSA) {
            return Err(KeyError::Malformed("an RSA key of less than 2,048 bits, or a broken RSA key"));
        }
        // The parsers below accept raw points as well, and no raw point is this long and begins like a sequence of DER.
        if der.first() != Some(&0x30) || der.len() < 40 {
            return Err(UNKNOWN);
        }
        let es256 = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, der);
        if let Ok(key) = es256 {
            return Ok(Material::Public(Algorithm::Es256, key).into());
        }
        let eddsa = ParsedPublicKey::new(&ED25519, der);
        eddsa.map(|key| Material::Public(Algorithm::EdDsa, key).into()).map_err(|_| UNKNOWN)
    }

    /// An RSA key by its parts, big-endian.
    pub(super) fn rs256(modulus: &[u8], exponent: &[u8]) -> Result<Self, KeyError> {
        let (n, e) = (without_zeros(modulus), without_zeros(exponent));
        check_size((n.len() * 8).saturating_sub(n.first().map_or(0, |first| first.leading_zeros() as usize)))?;
        let key = RsaPublicKeyComponents { n, e }.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256);
        let key = key.map_err(|_| KeyError::Malformed("\"n\" and \"e\" are no RSA key"))?;
        Ok(Material::Public(Algorithm::Rs256, key).into())
    }

    /// A point of the curve P-256.
    pub(super) fn es256(x: &[u8], y: &[u8]) -> Result<Self, KeyError> {
        if (x.len(), y.len()) != (32, 32) {
            return Err(KeyError::Malformed("\"x\" and \"y\" of the curve P-256 have 32 bytes each"));
        }
        let point = [&[4][..], x, y].concat();
        let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
        let key = key.map_err(|_| KeyError::Malformed("\"x\" and \"y\" are no point of the curve P-256"))?;
        Ok(Material::Public(Algorithm::Es256, key).into())
    }

    /// A key of the curve Ed25519.
    pub(super) fn eddsa(x: &[u8]) -> Result<Self, KeyError> {
        const EXPECTED: KeyError = KeyError::Malformed("\"x\" of the curve Ed25519 has 32 bytes");
        if x.len() != 32 {
            return Err(EXPECTED);
        }
        let key = ParsedPublicKey::new(&ED25519, x).map_err(|_| EXPECTED)?;
        Ok(Material::Public(Algorithm::EdDsa, key).into())
    }

    /// Names the key. A token with a `kid` is verified with keys of this id, and with keys without an id.
    #[must_use]
    pub fn with_id(self, id: impl Into<String>) -> Self {
        Self { id: Some(id.into()), ..self }
    }

    /// The name of the key, as in the `kid` of tokens.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The only algorithm for which the key is used.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        match &self.material {
            Material::Secret(_) => Algorithm::Hs256,
            Material::Public(algorithm, _) => *algorithm,
        }
    }

    /// Whether the key's owner has signed the message.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            // Compares in constant time.
            Material::Secret(key) => hmac::verify(key, message, signature).is_ok(),
            Material::Public(_, key) => key.verify_sig(message, signature).is_ok(),
        }
    }
}

/// The name of RSA keys in DER (`rsaEncryption`, RFC 8017).
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

const UNKNOWN: KeyError =
    KeyError::Malformed("no public key of a known kind: expected RSA, or the curves P-256 or Ed25519");

fn check_size(bits: usize) -> Result<(), KeyError> {
    if RSA_BITS.contains(&bits) { Ok(()) } else { Err(KeyError::RsaSize(bits)) }
}

fn without_zeros(number: &[u8]) -> &[u8] {
    &number[number.iter().take_while(|&&byte| byte == 0).count()..]
}

impl From<Material> for Key {
    fn from(material: Material) -> Self {
        Self { id: None, material }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).field("algorithm", &self.algorithm()).finish_non_exhaustive()
    }
}
