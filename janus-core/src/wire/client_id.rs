//! The public name of a connection.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The public name of a connection: a number for the instance, and the number of the connection in the instance, which is
/// also its number in the log and the lists. No other connection, of this instance or another, has the same name.
///
/// The name is no secret and gives no right, in contrast to the token of a session: a program may show it to other clients.
/// A publisher names with it the one client that is not to get a message. The text is two decimal numbers and a dot.
///
/// ```
/// use janus_core::ClientId;
///
/// let client: ClientId = "718281828459045235.17".parse()?;
/// assert_eq!((client.connection(), &*client.to_string()), (17, "718281828459045235.17"));
/// # Ok::<_, janus_core::wire::ClientIdError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId {
    node: u64,
    connection: u64,
}

impl ClientId {
    /// The connection with this number, in the instance with that number.
    #[must_use]
    pub const fn new(node: u64, connection: u64) -> Self {
        Self { node, connection }
    }

    /// The number of the instance.
    #[must_use]
    pub const fn node(self) -> u64 {
        self.node
    }

    /// The number of the connection in the instance.
    #[must_use]
    pub const fn connection(self) -> u64 {
        self.connection
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.node, self.connection)
    }
}

impl FromStr for ClientId {
    type Err = ClientIdError;

    fn from_str(text: &str) -> Result<Self, ClientIdError> {
        // A second text for the same name would be another name to a client that compares texts.
        let number = |text: &str| {
            let is_number = text == "0" || text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
            is_number.then(|| text.parse().ok()).flatten()
        };
        let (node, connection) = text.split_once('.').ok_or(ClientIdError)?;
        number(node).zip(number(connection)).map(|(node, connection)| Self { node, connection }).ok_or(ClientIdError)
    }
}

/// As text.
impl Serialize for ClientId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// From text.
impl<'de> Deserialize<'de> for ClientId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// The text is not a [`ClientId`]; its author is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a connection: expected two numbers and a dot, as in 718281828459045235.17")]
pub struct ClientIdError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_back_from_its_text_and_from_no_other_text() {
        for client in
            [ClientId::new(0, 0), ClientId::new(718_281_828_459_045_235, 17), ClientId::new(u64::MAX, u64::MAX)]
        {
            let text = client.to_string();
            assert_eq!(text.parse(), Ok(client));
            let json = serde_json::to_string(&client).unwrap();
            assert_eq!((&*json, serde_json::from_str(&json).ok()), (&*format!("\"{text}\""), Some(client)));
        }
        for text in
            ["", ".", "1", "1.", ".1", "1.2.3", "+1.2", "01.2", "1.02", "1.-2", "1. 2", "18446744073709551616.1", "a.b"]
        {
            assert_eq!(text.parse::<ClientId>(), Err(ClientIdError), "{text}");
        }
    }
}
