//! Which port of a server an address is, for commands that meet the wrong port.
//!
//! A command that fails in a way in which it would also fail at another port looks at the port once more: a request for
//! `/livez` tells the ports apart. The classic port greets at once, a port with TLS answers by an alert, the HTTP port
//! does not know the path, and the admin port does.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::ClientError;
use super::server::{Address, Need, Protocol, Target, of_settings, on_loopback};
use super::stream::Stream;
use super::tls;

/// Longest time of the look at a port.
const PATIENCE: Duration = Duration::from_secs(2);

/// Bytes of an answer that are looked at.
const BYTES_MAX: usize = 16 * 1024;

/// The beginning of a TLS record with an alert, by which a server of TLS answers text without TLS (RFC 8446, 5.1).
const TLS_ALERT: [u8; 2] = [21, 3];

/// A port of a Janus server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    Classic,
    ClassicTls,
    Http,
    Https,
    Admin,
    /// TLS, and no more is known, because the certificate is not accepted.
    SomeTls,
}

impl Port {
    fn in_words(self) -> &'static str {
        match self {
            Self::Classic => "the port of the classic protocol (listen)",
            Self::ClassicTls => "the port of the classic protocol with TLS (tls_listen)",
            Self::Http => "the HTTP port (http_listen)",
            Self::Https => "the HTTP port with TLS (https_listen)",
            Self::Admin => "the admin port (admin_listen)",
            Self::SomeTls => "a port with TLS (https_listen or tls_listen)",
        }
    }

    /// The address by which a command uses the port at `to`; `None` if the port is of no use to the command.
    fn used_by(self, need: Need, to: &str) -> Option<Address> {
        let (protocol, is_tls) = match (self, need) {
            (Self::Classic, _) if need.accepts_classic() => (Protocol::Classic, false),
            (Self::ClassicTls, _) if need.accepts_classic() => (Protocol::Classic, true),
            (Self::Http, Need::Api | Need::Messages | Need::Publishing)
            | (Self::Admin, Need::Api | Need::Publishing | Need::Admin) => (Protocol::Http, false),
            (Self::Https, Need::Api | Need::Messages | Need::Publishing) => (Protocol::Http, true),
            // No command is at home at the admin port with TLS: the port has none.
            (Self::SomeTls, Need::Api | Need::Messages | Need::Publishing) => (Protocol::Http, true),
            _ => return None,
        };
        Some(Address { protocol, is_tls, to: to.to_owned() })
    }
}

impl Target {
    /// The reason of a failure: the wrong port, if the address turns out to be that of another port, and otherwise the
    /// error itself.
    pub(super) fn explain(&self, error: ClientError) -> ClientError {
        let may_be_the_port = match &error {
            ClientError::Closed
            | ClientError::Lost(_)
            | ClientError::Late { .. }
            | ClientError::NotJanus { .. }
            | ClientError::FrameTooLarge => true,
            ClientError::Handshake { source, .. } => tls::is_no_tls(source),
            ClientError::Connect { source, .. } => {
                matches!(source.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset)
            }
            ClientError::Refused { code, .. } => code == "unknown_path",
            _ => false,
        };
        let found = if may_be_the_port { self.look() } else { None };
        let Some(found) = found else { return error };
        let mut here = found.used_by(self.need, &self.address.to);
        if let (Port::SomeTls, Some(here)) = (found, &mut here) {
            here.protocol = self.address.protocol;
        }
        if here.as_ref() == Some(&self.address) {
            // The port is right, so the trouble is elsewhere.
            return error;
        }
        ClientError::WrongPort(self.advice(found, here))
    }

    /// The port in words, and the right address.
    fn advice(&self, found: Port, here: Option<Address>) -> String {
        let this = format!("{} is {} of a Janus server", self.address.to, found.in_words());
        let (wanted, usual_port) = match self.need {
            Need::Admin => ("the admin port (admin_listen)", 8082),
            Need::Api | Need::Messages | Need::Publishing => ("the HTTP port (http_listen)", 8080),
        };
        let right = self.described(found).and_then(|settings| of_settings(settings, self.need).ok());
        let right = right.map_or_else(|| format!("usually port {usual_port}"), |right| format!("--server {right}"));
        match here {
            Some(here) if found == Port::SomeTls => {
                format!("{this}: use --server {here}, with --ca FILE if the server has an authority of its own")
            }
            Some(here) if here.protocol == Protocol::Classic && self.address.protocol == Protocol::Http => {
                format!("{this}: use --server {here}, or {wanted}, {right}")
            }
            Some(here) => format!("{this}: use --server {here}"),
            None => format!("{this}; {} needs {wanted}: {right}", self.command),
        }
    }

    /// The settings of this command, if they are those of the server with the port.
    fn described(&self, found: Port) -> Option<&crate::settings::Settings> {
        let settings = self.settings.as_deref()?;
        let core = &settings.core;
        let addresses: &[SocketAddr] = match found {
            Port::Classic => &core.listen,
            Port::ClassicTls => &core.tls_listen,
            Port::Http => &core.http_listen,
            Port::Https => &core.https_listen,
            Port::Admin => &settings.admin_listen,
            Port::SomeTls => &[],
        };
        let to = super::stream::resolve(&self.address.to).ok()?;
        addresses.iter().any(|&address| to.contains(&on_loopback(address))).then_some(settings)
    }

    /// Looks at the port; `None` if it is not one of a Janus server, or nothing can be learned.
    fn look(&self) -> Option<Port> {
        let patience = self.timeout.min(PATIENCE);
        let answer = self.first_bytes(Stream::open(&self.address.to, patience, None).ok()?, patience);
        if !answer.starts_with(&TLS_ALERT) {
            return port_of(&answer, false);
        }
        let Some(config) = self.tls.clone().or_else(|| tls::client_config(self.ca.as_deref()).ok()) else {
            return Some(Port::SomeTls);
        };
        match Stream::open(&self.address.to, patience, Some(&config)) {
            Ok(stream) => port_of(&self.first_bytes(stream, patience), true),
            Err(_) => Some(Port::SomeTls),
        }
    }

    /// What the port answers to a request, up to its end or to the first bytes that are not HTTP.
    fn first_bytes(&self, mut stream: Stream, patience: Duration) -> Vec<u8> {
        let deadline = Instant::now() + patience;
        // The body ends a frame of the classic protocol: a server that waits for a token before its greeting answers, too.
        let head = "Connection: close\r\nContent-Length: 1\r\n\r\n\0";
        let request = format!("GET /livez HTTP/1.1\r\nHost: {}\r\n{head}", self.address.to);
        let mut answer = Vec::new();
        // A port that does not like the request may have closed already, and may have said why.
        let _ = stream.write_all(request.as_bytes());
        while answer.len() < BYTES_MAX && (answer.is_empty() || answer.starts_with(b"HTTP/")) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || stream.socket().set_read_timeout(Some(left)).is_err() {
                break;
            }
            let mut piece = [0; 4096];
            match stream.read(&mut piece) {
                Ok(0) | Err(_) => break,
                Ok(read) => answer.extend_from_slice(&piece[..read]),
            }
        }
        answer
    }
}

/// The port that gives this answer to a request for `/livez`.
fn port_of(answer: &[u8], is_tls: bool) -> Option<Port> {
    let text = String::from_utf8_lossy(answer);
    if text.starts_with("{\"timestamp\":") {
        return Some(if is_tls { Port::ClassicTls } else { Port::Classic });
    }
    let body = text.starts_with("HTTP/1.1 ").then(|| text.split_once("\r\n\r\n")).flatten()?.1;
    if body.starts_with("{\"live\":") {
        return Some(Port::Admin);
    }
    body.starts_with("{\"error\":{\"code\":").then_some(if is_tls { Port::Https } else { Port::Http })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_tells_the_port() {
        let livez = "HTTP/1.1 200 OK\r\ncontent-length: 28\r\n\r\n{\"live\":true,\"checks\":{}}";
        let unknown = "HTTP/1.1 404 Not Found\r\n\r\n{\"error\":{\"code\":\"unknown_path\",\"message\":\"\"}}";
        let greeting = "{\"timestamp\":[1,2,3],\"token\":\"00\"}\x01";
        for (answer, is_tls, expected) in [
            (livez, false, Some(Port::Admin)),
            (unknown, false, Some(Port::Http)),
            (unknown, true, Some(Port::Https)),
            (greeting, false, Some(Port::Classic)),
            (greeting, true, Some(Port::ClassicTls)),
            ("HTTP/1.1 404 Not Found\r\n\r\n<html>", false, None),
            ("SSH-2.0-OpenSSH_9.2\r\n", false, None),
            ("", false, None),
        ] {
            assert_eq!(port_of(answer.as_bytes(), is_tls), expected, "{answer}");
        }
    }

    #[test]
    fn every_command_is_told_by_which_address_it_could_use_the_port() {
        let used = |port: Port, need| port.used_by(need, "h:1").map(|address| address.to_string());
        for (port, need, expected) in [
            (Port::Classic, Need::Messages, Some("classic://h:1")),
            (Port::ClassicTls, Need::Publishing, Some("classics://h:1")),
            (Port::Classic, Need::Api, None),
            (Port::Http, Need::Admin, None),
            (Port::Https, Need::Messages, Some("https://h:1")),
            (Port::Admin, Need::Messages, None),
            (Port::Admin, Need::Publishing, Some("http://h:1")),
            (Port::SomeTls, Need::Admin, None),
        ] {
            assert_eq!(used(port, need).as_deref(), expected, "{port:?} {need:?}");
        }
    }
}
