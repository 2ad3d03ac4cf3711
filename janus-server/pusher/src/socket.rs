//! The socket ids of connections: what a backend signs for a client, and what a publisher leaves out by `socket_id`.
//!
//! A connection's public name in Janus is a node and a number that counts up. A client could foresee the names of connections
//! to come, have the application sign them while the client has the right, and use the signatures after the right has ended.
//! So the socket id ends in digits that only this process can make: `NODE.NUMBER` and 15 digits of a keyed hash of both.

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use janus_core::ClientId;

/// The secret digits at the end of a socket id.
const DIGITS: usize = 15;

/// One more than the largest value of the secret digits: some 49 bits.
const VALUES: u64 = 1_000_000_000_000_000;

/// Makes and reads socket ids. The key is random and is never stored: connections do not outlive the process either.
pub(crate) struct SocketIds(hmac::Key);

impl SocketIds {
    pub(crate) fn new() -> Self {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        Self(key.expect("the system gives random bytes"))
    }

    /// The same socket ids in each run.
    #[cfg(test)]
    pub(crate) fn of_tests() -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, b"tests"))
    }

    /// The socket id of a connection.
    pub(crate) fn name(&self, client: ClientId) -> String {
        format!("{client}{:0DIGITS$}", self.secret(client))
    }

    /// The connection with this socket id. Only the process that has made a socket id can check the secret digits, so ids of
    /// other nodes of a cluster are taken as they are.
    pub(crate) fn read(&self, socket: &str, own_node: u64) -> Option<ClientId> {
        let (client, digits) = socket.split_at_checked(socket.len().checked_sub(DIGITS)?)?;
        let client: ClientId = client.parse().ok()?;
        let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
        let is_good = client.node() != own_node || digits.parse() == Ok(self.secret(client));
        (is_number && is_good).then_some(client)
    }

    fn secret(&self, client: ClientId) -> u64 {
        let tag = hmac::sign(&self.0, client.to_string().as_bytes());
        let first = tag.as_ref().first_chunk().expect("a hash of 32 bytes");
        u64::from_be_bytes(*first) % VALUES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_id_is_two_numbers_and_leads_back_to_its_connection() {
        let ids = SocketIds::new();
        for client in [ClientId::new(0, 0), ClientId::new(7, 1_234), ClientId::new(u64::MAX, u64::MAX)] {
            let socket = ids.name(client);
            let (node, rest) = socket.split_once('.').unwrap();
            assert!([node, rest].iter().all(|part| part.bytes().all(|byte| byte.is_ascii_digit())), "{socket}");
            assert_eq!(rest.len(), client.connection().to_string().len() + DIGITS, "{socket}");
            assert_eq!(ids.read(&socket, client.node()), Some(client));
        }
    }

    #[test]
    fn socket_ids_of_later_connections_cannot_be_foreseen() {
        let (ids, others, client) = (SocketIds::new(), SocketIds::new(), ClientId::new(7, 17));
        assert_ne!(ids.name(client), others.name(client), "another process has another key");
        let next = ids.name(ClientId::new(7, 18));
        assert_ne!(&ids.name(client)[4..], &next[4..], "the digits belong to one connection");
        assert_eq!(ids.read(&others.name(client), 7), None);
        assert_eq!(ids.read(&others.name(client), 8), Some(client), "of another node");
        for text in [
            "",
            "7.17",
            ".",
            "7.000000000000000",
            "7.17+00000000000001",
            "7.17\u{e9}0000000000000",
            "017.17000000000000000",
        ] {
            assert_eq!(ids.read(text, 1), None, "{text}");
        }
    }
}
