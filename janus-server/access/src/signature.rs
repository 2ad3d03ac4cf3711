//! Signatures of requests, by which a backend knows its server.
//!
//! `Janus-Signature: t=1800000000,v1=HEX` is the HMAC-SHA256 of the time, a dot and the body. While one key replaces
//! another, the header has a signature of each key, and the backend may know either.

use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::hmac;
use data_encoding::HEXLOWER;
use hyper::header::HeaderValue;

use crate::settings::Secrets;

/// The name of the header, in lower case as on the wire of HTTP/2.
pub(crate) const HEADER: &str = "janus-signature";

/// The keys of an instance. `Debug` shows their number.
#[derive(Clone)]
pub(crate) struct Signer(Arc<[hmac::Key]>);

impl Signer {
    pub(crate) fn new(secrets: &Secrets) -> Self {
        Self(secrets.reveal().map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes())).collect())
    }

    pub(crate) fn has_keys(&self) -> bool {
        !self.0.is_empty()
    }

    /// The header of a request that is sent at this time; `None` without a key.
    pub(crate) fn sign(&self, at: SystemTime, body: &[u8]) -> Option<HeaderValue> {
        if self.0.is_empty() {
            return None;
        }
        let seconds = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut header = format!("t={seconds}");
        for key in &*self.0 {
            let mut signed = hmac::Context::with_key(key);
            signed.update(seconds.to_string().as_bytes());
            signed.update(b".");
            signed.update(body);
            let _ = write!(header, ",v1={}", HEXLOWER.encode(signed.sign().as_ref()));
        }
        Some(HeaderValue::from_str(&header).expect("digits, letters and signs"))
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({} keys)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_request_is_signed_with_each_key() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let sign =
            |secrets: &str| Some(Signer::new(&Secrets::new(secrets)).sign(at, b"{}")?.to_str().unwrap().to_owned());
        assert_eq!(sign(""), None);
        // printf '1800000000.{}' | openssl dgst -sha256 -hmac correct-horse-battery
        let one = "v1=123e48a9094374826acdf4ab5bbd70c44e4404bd21de0cfdc4802f5e87bbc28e";
        assert_eq!(sign("correct-horse-battery"), Some(format!("t=1800000000,{one}")));
        let two = sign("correct-horse-battery,correct-horse-battery").unwrap();
        assert_eq!(two, format!("t=1800000000,{one},{one}"));
    }
}
