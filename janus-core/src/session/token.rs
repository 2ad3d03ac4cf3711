//! The token of a session.

use std::fmt;

/// The name of a session. A client with the token may take the session over, so at most the beginning is ever logged.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionToken(u128);

impl SessionToken {
    /// 128 bits from the operating system.
    pub(crate) fn random() -> Self {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the system has a source of random numbers");
        Self(u128::from_ne_bytes(bytes))
    }

    /// The token as clients see it: 32 lower-case hexadecimal digits.
    #[must_use]
    pub fn to_hex(self) -> String {
        uuid::Uuid::from_u128(self.0).simple().to_string()
    }

    /// The part for logs and traces: six digits tell sessions apart and leave 104 bits to guess.
    pub(crate) fn beginning(self) -> String {
        format!("{}…", &self.to_hex()[..6])
    }

    /// Reads a token as [`to_hex`](Self::to_hex) writes it.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let token = uuid::Uuid::try_parse(text).ok()?;
        (text.len() == 32).then(|| Self(token.as_u128()))
    }
}

/// Hides the token.
impl fmt::Debug for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionToken(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_text_form_and_hides_in_logs() {
        let token = SessionToken::random();
        assert_eq!(token.to_hex().len(), 32);
        assert_eq!(SessionToken::from_hex(&token.to_hex()), Some(token));
        assert_eq!(SessionToken::from_hex("not a token"), None);
        assert_eq!(format!("{token:?}"), "SessionToken(…)");
    }
}
