//! Addresses of servers, as in the settings.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use hyper::Uri;

/// The address of the operator's own server: `http` or `https`, a host, and a path.
///
/// ```
/// use janus_access::Url;
///
/// let url: Url = "https://app.example/janus/connect".parse()?;
/// assert_eq!(url.to_string(), "https://app.example/janus/connect");
/// assert!("app.example/janus".parse::<Url>().is_err());
/// # Ok::<(), janus_access::UrlError>(())
/// ```
///
/// The printed form leaves out the query, which may have a key.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Url(Uri);

/// A text that is not the address of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {}", Url::EXPECTED)]
pub struct UrlError;

impl Url {
    /// The accepted texts, for operators.
    pub const EXPECTED: &'static str =
        "an address such as \"https://app.example/janus\", without a user and a password, or \"\" for none";

    /// Bytes of an address. Longer texts are mistakes.
    const MOST_BYTES: usize = 2_048;

    /// The query in place of a hidden query. No address may have this query, or a file with a printed address would
    /// send requests without their key.
    const HIDDEN_QUERY: &'static str = "***";

    /// The text of an address for people: a query, which may have a key, is hidden.
    #[must_use]
    pub fn without_query(text: &str) -> String {
        text.split_once('?').map_or_else(|| text.to_owned(), |(address, _)| format!("{address}?{}", Self::HIDDEN_QUERY))
    }

    /// Whether a setting may have this value: an address, or an empty text for none.
    pub(crate) fn accepts(text: &str) -> bool {
        text.is_empty() || text.parse::<Self>().is_ok()
    }

    /// Whether no other machine can read or change what is sent: by `https`, or because the host is this machine.
    pub(crate) fn is_protected(&self) -> bool {
        let host = self.0.host().unwrap_or_default();
        let address: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
        self.0.scheme_str() == Some("https")
            || address.is_some_and(|address| address.is_loopback())
            || host.eq_ignore_ascii_case("localhost")
    }

    pub(crate) fn uri(&self) -> &Uri {
        &self.0
    }
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        // The parser would drop a fragment without a word.
        if text.len() > Self::MOST_BYTES || text.contains('#') {
            return Err(UrlError);
        }
        let uri: Uri = text.parse().map_err(|_| UrlError)?;
        let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
        // A password in an address would be printed with the settings.
        let has_host = uri.authority().is_some_and(|authority| {
            let rest = authority.as_str().strip_prefix(authority.host()).unwrap_or(" ");
            let port = rest.strip_prefix(':').map_or(Ok(1), str::parse::<u16>);
            !authority.host().is_empty()
                && (rest.is_empty() || rest.starts_with(':'))
                && port.is_ok_and(|port| port > 0)
        });
        let is_hidden = uri.query() == Some(Self::HIDDEN_QUERY);
        if is_http && has_host && !is_hidden { Ok(Self(uri)) } else { Err(UrlError) }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = self.0.authority().map_or("", |authority| authority.as_str());
        write!(f, "{}://{authority}{}", self.0.scheme_str().unwrap_or_default(), self.0.path())
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_scheme_a_host_and_no_password() {
        for good in
            ["http://localhost:8000", "https://app.example/janus?key=1", "http://[::1]:80/x", "http://10.0.0.1/"]
        {
            assert!(good.parse::<Url>().is_ok(), "{good}");
        }
        for bad in [
            "app.example/x",
            "ftp://app.example/",
            "https:///path",
            "https://alice:secret@app.example/",
            "https://alice@app.example/",
            "https://app.example/#part",
            "https://app.example:0/",
            "https://app.example:99999/",
            "https://app.example:/",
            "https://app.example/?***",
            "https://app .example/",
            "/path",
            "",
        ] {
            assert_eq!(bad.parse::<Url>(), Err(UrlError), "{bad}");
        }
    }

    #[test]
    fn plain_http_is_protected_on_this_machine_alone() {
        let is_protected = |text: &str| text.parse::<Url>().unwrap().is_protected();
        for text in ["https://app.example/", "http://localhost:80/", "http://127.9.9.9/", "http://[::1]:80/"] {
            assert!(is_protected(text), "{text}");
        }
        for text in
            ["http://app.example/", "http://10.0.0.1/", "http://127.0.0.1.example/", "http://localhost.example/"]
        {
            assert!(!is_protected(text), "{text}");
        }
    }

    #[test]
    fn the_query_of_an_address_is_not_printed() {
        let url: Url = "https://app.example:8443/a/b?key=secret".parse().unwrap();
        assert_eq!((url.to_string(), format!("{url:?}")).0, "https://app.example:8443/a/b");
        assert!(!format!("{url:?}").contains("secret"));
        assert_eq!(Url::without_query("http://a/b?key=secret"), "http://a/b?***");
        assert_eq!(Url::without_query("http://a/b"), "http://a/b");
    }
}
