//! The place of a token in a client's request.

use janus_core::hooks::ConnectRequest;
use janus_core::wire::{AllowedOrigins, HttpRequest};

/// Where to look for a token, in addition to the `auth` of the protocol and the header `Authorization`.
#[derive(Clone, Debug, Default)]
pub(super) struct Sources {
    /// The name of the cookie, if cookies are looked at.
    pub(super) cookie: Option<String>,
    /// The origins whose pages may use their visitor's cookie. Without `*`: a page of any site could then act for every
    /// visitor who has the cookie.
    pub(super) origins: AllowedOrigins,
    /// Whether `access_token` in the query is looked at.
    pub(super) query: bool,
}

impl Sources {
    /// The first token: of the protocol (`auth`), of `Authorization: Bearer`, of the cookie, of the query.
    pub(super) fn find(&self, request: &mut ConnectRequest) -> Option<String> {
        self.find_in(request.auth.take(), request.request.as_deref())
    }

    pub(super) fn find_in(&self, auth: Option<String>, head: Option<&HttpRequest>) -> Option<String> {
        // An empty text is how some clients write that they have no token.
        auth.filter(|auth| !auth.is_empty()).or_else(|| self.find_in_head(head?))
    }

    fn find_in_head(&self, head: &HttpRequest) -> Option<String> {
        let bearer = head.header("authorization").and_then(bearer).map(str::to_owned);
        let cookie = || {
            let name = self.cookie.as_deref().filter(|_| self.is_own_page(head))?;
            cookie(head, name).map(str::to_owned)
        };
        let query = || self.query.then(|| head.query_parameter("access_token")).flatten().map(Into::into);
        bearer.or_else(cookie).or_else(query).filter(|token| !token.is_empty())
    }

    /// Whether the browser says that a page with the right to the cookie has sent the request. For a WebSocket each
    /// browser sends the origin. For an event stream of the page's own site there is no origin, and newer browsers say
    /// `same-origin` in place of it (over TLS, and to their own machine).
    fn is_own_page(&self, head: &HttpRequest) -> bool {
        match head.header("origin") {
            Some(_) => self.origins.check(head).is_ok(),
            None => head.header("sec-fetch-site") == Some("same-origin"),
        }
    }
}

/// The token after `Bearer`.
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The first cookie of this name (RFC 6265, 5.4).
fn cookie<'a>(head: &'a HttpRequest, name: &str) -> Option<&'a str> {
    let headers = head.headers.iter().filter(|(header, _)| header == "cookie");
    headers.flat_map(|(_, value)| value.split(';')).find_map(|pair| {
        let (found, value) = pair.split_once('=')?;
        (found.trim() == name).then(|| value.trim().trim_matches('"'))
    })
}
