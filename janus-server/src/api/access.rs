//! Access to the API: for clients with the key or, where no key is set, for this machine alone.
//!
//! Pure: [`Access`] is made from the settings and decides each request by its head.

use std::net::{IpAddr, SocketAddr};

use janus_core::wire::{AllowedOrigins, ErrorCode, HttpError, HttpRequest, Peer};
use subtle::{Choice, ConstantTimeEq as _};

use crate::settings::ApiKey;

/// The rule, which follows from the settings.
#[derive(Debug)]
pub(super) enum Access {
    /// Clients must show one of the keys.
    Key(ApiKey),
    /// Every client is allowed, because only programs on this machine can connect. Requests through a proxy are
    /// refused, unless a trusted proxy names a client on this machine: a proxy serves other machines.
    ThisMachine(AllowedOrigins),
    /// Every request is refused: no key is set, and other machines can connect.
    Closed,
}

impl Access {
    /// `addresses` are those of the HTTP port, with and without TLS.
    pub(super) fn new<'a>(
        api_key: &ApiKey,
        mut addresses: impl Iterator<Item = &'a SocketAddr>,
        origins: AllowedOrigins,
    ) -> Self {
        if !api_key.is_none() {
            Self::Key(api_key.clone())
        } else if addresses.all(|&addr| Peer::from(addr).is_local()) {
            Self::ThisMachine(origins)
        } else {
            Self::Closed
        }
    }

    /// Whether a request may be carried out. `is_local` says whether its client is on this machine.
    pub(super) fn check(&self, request: &HttpRequest, is_local: bool) -> Result<(), HttpError> {
        self.check_shown(request.header("authorization").and_then(bearer), request, is_local)
    }

    /// As [`check`](Self::check), for a key that stands elsewhere in the request.
    pub(super) fn check_shown(
        &self,
        shown: Option<&str>,
        request: &HttpRequest,
        is_local: bool,
    ) -> Result<(), HttpError> {
        match self {
            Self::Key(keys) => {
                // All keys are compared, so that the time does not tell which of them is almost right.
                let is_one_of = |shown: &str| {
                    keys.reveal().fold(Choice::from(0), |found, key| found | shown.as_bytes().ct_eq(key.as_bytes()))
                };
                if shown.is_some_and(|shown| is_one_of(shown).into()) {
                    return Ok(());
                }
                let message = match shown {
                    Some(_) => "the key is not the server's api_key",
                    None => "send the server's api_key in the header Authorization: Bearer KEY",
                };
                Err(HttpError::new(401, ErrorCode::Unauthorized.as_str(), message))
            }
            Self::ThisMachine(origins) => {
                if !is_local {
                    let message = "without an api_key the API serves this machine only, and the request came through a \
                                   proxy; set api_key (JANUS_API_KEY), or connect to the server directly";
                    return Err(HttpError::new(403, "api_key_required", message));
                }
                // DNS rebinding: to the browser, a page whose own name resolves to this machine is same-origin.
                if !request.header("host").is_none_or(names_no_site) {
                    let message = "without an api_key the API serves this machine only, and the Host header must be \
                                   localhost or an IP address; set api_key (JANUS_API_KEY) to serve other hosts";
                    return Err(HttpError::new(403, "api_key_required", message));
                }
                origins.check(request)
            }
            Self::Closed => {
                let message = "the API is closed, because other machines can reach its port and there is no api_key; set \
                               api_key (JANUS_API_KEY)";
                Err(HttpError::new(403, "api_key_required", message))
            }
        }
    }
}

/// The key after `Bearer`.
fn bearer(header: &str) -> Option<&str> {
    let (scheme, key) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

fn names_no_site(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    };
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "correct-horse-battery";

    fn access(key: &str, listen: &[&str]) -> Access {
        let listen: Vec<SocketAddr> = listen.iter().map(|addr| addr.parse().unwrap()).collect();
        Access::new(&ApiKey::new(key), listen.iter(), AllowedOrigins::new(["http://app.example"]))
    }

    fn status(access: &Access, headers: &[(&str, &str)]) -> u16 {
        let headers = headers.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        access
            .check(&HttpRequest { headers, ..HttpRequest::default() }, true)
            .map_or_else(|error| error.status, |()| 200)
    }

    #[test]
    fn without_a_key_the_api_is_closed_unless_all_listeners_are_loopback() {
        let host = [("host", "127.0.0.1:8080")];
        for listen in [&["127.0.0.1:8080"][..], &["[::1]:8080", "127.9.9.9:1"], &["[::ffff:127.0.0.1]:1"]] {
            assert_eq!(status(&access("", listen), &host), 200, "{listen:?}");
        }
        for listen in [&["0.0.0.0:8080"][..], &["[::]:8080"], &["127.0.0.1:8080", "10.0.0.1:8080"]] {
            assert_eq!(status(&access("", listen), &host), 403, "{listen:?}");
            let shown = [("authorization", &*format!("Bearer {KEY}"))];
            assert_eq!(status(&access("", listen), &shown), 403, "no key is accepted where none is set");
            assert_eq!(status(&access(KEY, listen), &shown), 200);
        }
    }

    #[test]
    fn even_on_loopback_the_whole_key_must_be_shown() {
        let access = access(KEY, &["127.0.0.1:8080"]);
        for header in [format!("Bearer {KEY}"), format!("bearer  {KEY} ")] {
            assert_eq!(status(&access, &[("authorization", &header)]), 200, "{header}");
        }
        let (shorter, longer) = (&KEY[..KEY.len() - 1], format!("{KEY}x"));
        for header in [
            "",
            "Bearer",
            "Bearer ",
            KEY,
            &format!("Basic {KEY}"),
            &format!("Bearer {shorter}"),
            &format!("Bearer {longer}"),
        ] {
            assert_eq!(status(&access, &[("authorization", header)]), 401, "{header}");
        }
        assert_eq!(status(&access, &[]), 401);
    }

    #[test]
    fn while_a_key_is_replaced_both_keys_are_good() {
        let access = access(&format!("{KEY}, another-good-key"), &["0.0.0.0:8080"]);
        for (key, expected) in [(KEY, 200), ("another-good-key", 200), ("a-third-key-1234", 401), (",", 401), ("", 401)]
        {
            assert_eq!(status(&access, &[("authorization", &format!("Bearer {key}"))]), expected, "{key}");
        }
        let both = format!("Bearer {KEY}, another-good-key");
        assert_eq!(status(&access, &[("authorization", &both)]), 401);
    }

    #[test]
    fn without_a_key_clients_of_other_machines_are_refused() {
        let request = HttpRequest::new("GET", "/api/topics", [("host", &b"localhost"[..])]);
        let open = access("", &["127.0.0.1:8080"]);
        assert_eq!(open.check(&request, true), Ok(()));
        assert_eq!(open.check(&request, false).unwrap_err().code, "api_key_required");
        let shown = format!("Bearer {KEY}");
        let request = HttpRequest::new("GET", "/api/topics", [("authorization", shown.as_bytes())]);
        assert_eq!(access(KEY, &["127.0.0.1:8080"]).check(&request, false), Ok(()));
    }

    #[test]
    fn without_a_key_pages_of_other_sites_are_refused() {
        let access = access("", &["127.0.0.1:8080"]);
        for host in ["localhost", "localhost:8080", "127.0.0.1:8080", "[::1]:8080", "[::1]"] {
            assert_eq!(status(&access, &[("host", host)]), 200, "{host}");
        }
        for host in ["evil.example:8080", "localhost.evil.example", "", "127.0.0.1.evil.example"] {
            assert_eq!(status(&access, &[("host", host)]), 403, "{host}");
        }
        let from = |origin| status(&access, &[("host", "localhost:8080"), ("origin", origin)]);
        assert_eq!([from("http://localhost:8080"), from("http://app.example")], [200, 200]);
        assert_eq!([from("http://evil.example"), from("null")], [403, 403]);
    }
}
