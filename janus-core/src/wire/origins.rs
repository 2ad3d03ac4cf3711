//! The origins whose pages may connect: the protection of a browser's user from pages of other sites.

use std::sync::Arc;

use super::{ErrorCode, HttpError, HttpRequest};

/// The origins, in addition to its own host, whose pages may connect to a server.
///
/// A browser sends the origin of a page with the page's request, and the page cannot make the browser lie. For a
/// request whose answer the page cannot read (`mode: "no-cors"`, an image) the browser sends no origin; over TLS, and
/// to the browser's own machine, `Sec-Fetch-Site` then says whether the page is of the same site. A client other than a
/// browser can send anything, so this protects the users of browsers and not the server.
///
/// ```
/// use janus_core::wire::{AllowedOrigins, HttpRequest};
///
/// let from = |origin: &str| HttpRequest {
///     headers: vec![("host".into(), "push.example:8080".into()), ("origin".into(), origin.into())],
///     ..HttpRequest::default()
/// };
/// let origins = AllowedOrigins::new(["https://example"]);
/// assert!(origins.check(&from("https://example")).is_ok());
/// assert!(origins.check(&from("http://push.example:8080")).is_ok());
/// assert!(origins.check(&from("http://example")).is_err());
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedOrigins {
    any: bool,
    listed: Arc<[Origin]>,
}

impl AllowedOrigins {
    /// Allows these origins, each as `scheme://host` or `scheme://host:port`. `https://*.example.com` covers every host
    /// below `example.com`, `null` sandboxed frames and files, `file://` some web views, and `*` every origin. A text
    /// that [is not an origin](Self::is_origin) is ignored.
    #[must_use]
    pub fn new<'a>(origins: impl IntoIterator<Item = &'a str>) -> Self {
        let mut any = false;
        let listed = origins.into_iter().filter_map(|origin| {
            any |= origin == "*";
            Origin::parse_listed(origin)
        });
        let listed = listed.collect();
        Self { any, listed }
    }

    /// Whether a text can be listed.
    #[must_use]
    pub fn is_origin(text: &str) -> bool {
        text == "*" || Origin::parse_listed(text).is_some()
    }

    /// Whether a request may be served: its origin is the origin of its own `Host`, or an allowed origin, or is absent
    /// while the browser does not report a page of another site or origin.
    ///
    /// # Errors
    ///
    /// The refusal for the sender, with status 403.
    pub fn check(&self, request: &HttpRequest) -> Result<(), HttpError> {
        let is_allowed = match request.header("origin") {
            Some(text) => {
                let host = request.header("host").unwrap_or_default();
                Origin::parse(text).is_some_and(|origin| origin.is_of_host(host) || self.lists(&origin))
            }
            None => !request.headers_named("sec-fetch-site").any(|site| matches!(site, "cross-site" | "same-site")),
        };
        if is_allowed || self.any {
            return Ok(());
        }
        let message = "pages of this origin may not connect; ask the operator to list the origin in allowed_origins";
        Err(HttpError::new(403, ErrorCode::Forbidden.as_str(), message))
    }

    fn lists(&self, origin: &Origin) -> bool {
        self.listed.iter().any(|listed| listed.covers(origin))
    }

    /// Whether an origin of this `Host` is allowed.
    pub(super) fn has_host(&self, host: &str) -> bool {
        let is_listed = |listed: &Origin| {
            host_and_port(host, default_port(&listed.scheme))
                .is_some_and(|(host, port)| port == listed.port && listed.covers_host(&host))
        };
        self.any || self.listed.iter().any(is_listed)
    }

    /// The header lines that let a page of the request's origin read the response; empty for an origin allowed only as
    /// the server's own host.
    #[must_use]
    pub fn cors(&self, request: &HttpRequest) -> String {
        let Some(text) = request.header("origin") else { return String::new() };
        match Origin::parse(text) {
            // A text that parses as an origin has no byte that could end the line.
            Some(origin) if self.lists(&origin) => format!(
                "access-control-allow-origin: {}\r\naccess-control-allow-credentials: true\r\nvary: origin\r\n",
                text.trim()
            ),
            _ if self.any => "access-control-allow-origin: *\r\n".to_owned(),
            _ => String::new(),
        }
    }
}

/// An origin such as `https://example:444`; without a port, the default port of the scheme.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
    /// Whether a listed origin stands for every host below `host`, and not for `host` itself.
    subdomains: bool,
}

impl Origin {
    /// Parses an origin listed by an operator.
    fn parse_listed(text: &str) -> Option<Self> {
        match text.trim().split_once("://*.") {
            // A wildcard for a whole top-level domain is a mistake.
            Some((scheme, domain)) if domain.contains('.') => {
                Some(Self { subdomains: true, ..Self::parse(&format!("{scheme}://{domain}"))? })
            }
            _ => Self::parse(text),
        }
    }

    fn covers(&self, origin: &Self) -> bool {
        (&self.scheme, self.port) == (&origin.scheme, origin.port) && self.covers_host(&origin.host)
    }

    fn covers_host(&self, host: &str) -> bool {
        if !self.subdomains {
            return self.host == host;
        }
        host.strip_suffix(&*self.host).and_then(|below| below.strip_suffix('.')).is_some_and(|below| !below.is_empty())
    }

    fn parse(text: &str) -> Option<Self> {
        let opaque = |scheme: &str| Self { scheme: scheme.into(), host: String::new(), port: None, subdomains: false };
        match text.trim() {
            "null" => return Some(opaque("null")),
            "file://" => return Some(opaque("file")),
            _ => {}
        }
        let (scheme, authority) = text.trim().split_once("://")?;
        let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        if !is_scheme {
            return None;
        }
        let scheme = scheme.to_ascii_lowercase();
        let (host, port) = host_and_port(authority, default_port(&scheme))?;
        Some(Self { scheme, host, port, subdomains: false })
    }

    /// Whether a page of this origin talks to the host it came from. The scheme of `Host` is assumed to be the page's
    /// own: a proxy that ends TLS does not report the scheme in `Host`.
    fn is_of_host(&self, host: &str) -> bool {
        host_and_port(host, default_port(&self.scheme)).is_some_and(|other| other == (self.host.clone(), self.port))
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    }
}

/// Host and port of an authority without a user (RFC 3986, 3.2.2 and 3.2.3); an empty port is the default.
pub(super) fn host_and_port(authority: &str, default: Option<u16>) -> Option<(String, Option<u16>)> {
    let authority = authority.trim();
    let (host, port) = match authority.rsplit_once(':') {
        // The last colon of an IPv6 address without a port is inside the brackets.
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (authority, ""),
    };
    let port = match port {
        "" => default,
        _ if port.bytes().all(|byte| byte.is_ascii_digit()) => Some(port.parse().ok()?),
        _ => return None,
    };
    let is_host = match host.strip_prefix('[') {
        Some(address) => address.strip_suffix(']')?.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_name(host),
    };
    is_host.then(|| (host.to_ascii_lowercase(), port))
}

/// Whether a text can be the name of a host. RFC 3986 also allows `!$&'()*+,;=`: no name server knows such a name, and
/// two hosts joined by a comma would pass for one.
fn is_name(host: &str) -> bool {
    let mut pieces = host.split('%');
    let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte));
    let is_escaped = |text: &str| {
        text.get(..2).is_some_and(|escape| escape.bytes().all(|byte| byte.is_ascii_hexdigit())) && is_plain(&text[2..])
    };
    !host.is_empty() && pieces.next().is_some_and(is_plain) && pieces.all(is_escaped)
}

/// Whether the address of a host comes from a name server of the internet: not an address, and not a name of this
/// machine.
pub(super) fn is_site(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let is_own = name == "localhost" || name.ends_with(".localhost");
    !is_own && !name.starts_with('[') && name.parse::<std::net::Ipv4Addr>().is_err()
}
