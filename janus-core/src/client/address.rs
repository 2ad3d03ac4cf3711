//! The address of a server: a URL, taken apart once.

use tokio_tungstenite::tungstenite::http::Uri;

use super::ClientError;

/// Where the server is, and what is requested there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) is_tls: bool,
    /// Without the brackets of an IPv6 address.
    pub(super) host: String,
    /// HOST:PORT, as a resolver and a `Host` have it. Shown in errors and logs.
    pub(super) to: String,
    /// The path, with the query if there is one.
    pub(super) path: String,
}

impl Address {
    /// Reads `ws`, `wss`, `http` and `https`. Without a path the path is `/ws`, the one of a server of Janus.
    pub(super) fn parse(text: &str) -> Result<Self, ClientError> {
        let bad = |reason: &str| {
            // A user and a query can have secrets, and errors end in logs.
            let shown = text.split('?').next().unwrap_or_default();
            let shown = shown.rsplit_once('@').map_or_else(|| shown.to_owned(), |(_, host)| format!("…@{host}"));
            ClientError::BadUrl { url: shown, reason: reason.to_owned() }
        };
        let uri: Uri = text.trim().parse().map_err(|_| bad("not a URL"))?;
        let is_tls = match uri.scheme_str() {
            Some("ws" | "http") => false,
            Some("wss" | "https") => true,
            _ => return Err(bad("the scheme is none of ws, wss, http and https")),
        };
        let authority = uri.authority().ok_or_else(|| bad("the host is missing"))?;
        if authority.as_str().contains('@') {
            return Err(bad("a user has no meaning here; a token is set by token()"));
        }
        let has_port = authority.as_str() != authority.host();
        let port = match authority.port_u16() {
            Some(port) => port,
            None if has_port => return Err(bad("the port is not a number from 1 to 65535")),
            None if is_tls => 443,
            None => 80,
        };
        let host = authority.host();
        let path = if matches!(uri.path(), "" | "/") { "/ws" } else { uri.path() };
        let path = uri.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { is_tls, to: format!("{host}:{port}"), host: bare, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_without_port_or_path_has_those_of_a_server() {
        for (text, is_tls, host, to, path) in [
            ("ws://localhost:8080/ws", false, "localhost", "localhost:8080", "/ws"),
            ("wss://push.example", true, "push.example", "push.example:443", "/ws"),
            ("http://push.example/", false, "push.example", "push.example:80", "/ws"),
            ("ws://localhost:8080?a=b", false, "localhost", "localhost:8080", "/ws?a=b"),
            ("ws://localhost:8080/?a=b", false, "localhost", "localhost:8080", "/ws?a=b"),
            ("HTTPS://[::1]:8443/a?b=c", true, "::1", "[::1]:8443", "/a?b=c"),
        ] {
            let expected = Address { is_tls, host: host.to_owned(), to: to.to_owned(), path: path.to_owned() };
            assert_eq!(Address::parse(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn a_bad_url_is_refused_without_its_secrets() {
        for text in
            ["", "localhost:8080", "ftp://h/", "ws://", "ws://h:99999/", "ws://u:secret@h/?token=secret", "ws://h:x"]
        {
            let error = Address::parse(text).unwrap_err().to_string();
            assert!(error.contains("expected ws://HOST:PORT/ws") && !error.contains("secret"), "{text}: {error}");
        }
    }
}
