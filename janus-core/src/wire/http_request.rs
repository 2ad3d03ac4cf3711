//! The head of an HTTP request, for hooks and for the formats carried by HTTP.

use std::borrow::Cow;
use std::fmt;

/// The head of an HTTP request. `Debug` shows neither the query nor the values of headers, which may hold credentials.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct HttpRequest {
    /// The method, such as `GET`.
    pub method: String,
    /// The path with its query, as sent. For a target in absolute form, `http://host/path`, the part after the host.
    pub target: String,
    /// Names in lower case, and values, in the order received. Bytes outside UTF-8 are replaced. `host` is the host of
    /// a target in absolute form, whatever the header says (RFC 9112, 3.2.2).
    pub headers: Vec<(String, String)>,
    /// Whether the client, or a proxy on the way, speaks HTTP/1.0, which has no upgrades.
    pub is_http_1_0: bool,
}

/// The value without the white space of a header (RFC 9110, 5.6.3): spaces and tabs. Further white space of Unicode is part
/// of the value: to a server in front, `chunked` with a no-break space is another coding.
pub(super) fn trim_ows(value: &str) -> &str {
    value.trim_matches([' ', '\t'])
}

impl fmt::Debug for HttpRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| &**name).collect();
        f.debug_struct("HttpRequest")
            .field("method", &self.method)
            .field("path", &self.path())
            .field("headers", &names)
            .finish_non_exhaustive()
    }
}

impl HttpRequest {
    /// The head of a request read by another server: names in any case, values as sent, the target in any form. For a
    /// request of HTTP/1.0, set [`is_http_1_0`](Self::is_http_1_0).
    ///
    /// ```
    /// use janus_core::wire::HttpRequest;
    ///
    /// let request = HttpRequest::new("GET", "http://push.example/events?topic=news", [("Host", &b"proxy"[..])]);
    /// assert_eq!((request.path(), request.header("host")), ("/events", Some("push.example")));
    /// ```
    pub fn new<'a>(
        method: impl Into<String>,
        target: impl Into<String>,
        headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Self {
        let header =
            |(name, value): (&str, &[u8])| (name.to_ascii_lowercase(), String::from_utf8_lossy(value).into_owned());
        let headers = headers.into_iter().map(header).collect();
        Self { method: method.into(), target: target.into(), headers, is_http_1_0: false }.into_origin_form()
    }

    /// Reduces a target in absolute form to the path and the query.
    pub(super) fn into_origin_form(mut self) -> Self {
        let Some((scheme, rest)) = self.target.split_once("://") else { return self };
        if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
            return self;
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        self.headers.retain(|(name, _)| name != "host");
        self.headers.push(("host".to_owned(), authority.to_owned()));
        self.target = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        self
    }

    /// The path as sent, without the query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target.split_once('?').map_or(&*self.target, |(path, _)| path)
    }

    /// The query as sent; empty if there is none.
    #[must_use]
    pub fn query(&self) -> &str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }

    /// The first query parameter of this name, unescaped. A browser's `EventSource` cannot set headers, and may carry a
    /// token here.
    ///
    /// ```
    /// use janus_core::wire::HttpRequest;
    ///
    /// let request = HttpRequest::new("GET", "/events?topic=news&token=a%2Bb", []);
    /// assert_eq!(request.query_parameter("token").as_deref(), Some("a+b"));
    /// ```
    #[must_use]
    pub fn query_parameter(&self, name: &str) -> Option<Cow<'_, str>> {
        form_urlencoded::parse(self.query().as_bytes()).find(|(other, _)| other == name).map(|(_, value)| value)
    }

    /// The first header of this name, given in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers_named(name).next()
    }

    /// All headers of this name, given in lower case.
    pub(super) fn headers_named(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers.iter().filter(move |(other, _)| other == name).map(|(_, value)| trim_ows(value))
    }

    /// Whether the request shows signs of a proxy: a header as added by proxies (`X-Forwarded-For`, `X-Forwarded-Host`,
    /// `X-Forwarded-Proto` and the like, `Forwarded`, `Via`, `X-Real-IP`), or HTTP/1.0, which hardly any other client
    /// speaks.
    ///
    /// The peer is then the proxy, and says nothing about the client's address. A client can forge these signs, and a
    /// proxy may pass a request on without a sign: treat a forwarded request with less trust, and never with more.
    ///
    /// ```
    /// use janus_core::wire::HttpRequest;
    ///
    /// let request = |header| HttpRequest::new("GET", "/ws", [(header, &b"192.0.2.1"[..])]);
    /// assert!(request("X-Forwarded-For").is_forwarded());
    /// assert!(!request("X-Request-Id").is_forwarded());
    /// ```
    #[must_use]
    pub fn is_forwarded(&self) -> bool {
        let is_sign = |name: &str| {
            const PREFIX: &str = "x-forwarded";
            name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
                || ["forwarded", "via", "x-real-ip"].iter().any(|sign| name.eq_ignore_ascii_case(sign))
        };
        self.is_http_1_0 || self.headers.iter().any(|(name, _)| is_sign(name))
    }

    /// Whether a body follows the head.
    pub(super) fn has_body(&self) -> bool {
        // All values count: a proxy may go by the first length, or by another length that contradicts the first.
        self.headers_named("content-length").any(|length| length != "0")
            || self.headers_named("transfer-encoding").next().is_some()
    }

    /// Whether the client leaves the connection open for another request (RFC 9112, 9.3): by default over HTTP/1.1, and
    /// over HTTP/1.0 with `Connection: keep-alive`.
    ///
    /// ```
    /// use janus_core::wire::HttpRequest;
    ///
    /// let request = |value: &'static str| HttpRequest::new("GET", "/", [("Connection", value.as_bytes())]);
    /// assert!(request("keep-alive").keeps_connection() && !request("x, Close").keeps_connection());
    /// ```
    #[must_use]
    pub fn keeps_connection(&self) -> bool {
        let says = |word: &str| {
            let options = self.headers_named("connection").flat_map(|value| value.split(','));
            options.map(trim_ows).any(|option| option.eq_ignore_ascii_case(word))
        };
        !says("close") && (!self.is_http_1_0 || says("keep-alive"))
    }

    /// The memory of the request, including an allocator's overhead for small pieces.
    pub(crate) fn memory(&self) -> usize {
        let text = |text: &String| size_of::<String>() + text.capacity() + text.capacity() / 8 + 16;
        let headers: usize = self.headers.iter().map(|(name, value)| text(name) + text(value)).sum();
        size_of::<Self>() + text(&self.method) + text(&self.target) + headers
    }

    /// Whether `Accept` names this type, other than by a wildcard. Every browser's `EventSource` names
    /// `text/event-stream`.
    #[must_use]
    pub fn accepts(&self, media_type: &str) -> bool {
        let types = self.headers_named("accept").flat_map(|accept| accept.split(','));
        types
            .map(|accepted| accepted.split(';').next().unwrap_or_default().trim())
            .any(|accepted| accepted.eq_ignore_ascii_case(media_type))
    }
}
