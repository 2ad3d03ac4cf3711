//! The server of a client command: the flags, and what follows from them, the variables and the settings.
//!
//! Keys and tokens come from variables and files and never from flags, because all users of a machine can read command
//! lines.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use hyper::Uri;
use rustls::ClientConfig;

use super::{ClientError, tls};
use crate::limits::Memory;
use crate::settings::{ApiKey, Flags, Loaded, Settings};

/// The variable with the address of the server.
pub(crate) const SERVER_VARIABLE: &str = "JANUS_SERVER";

/// The variable with the token of a user.
pub(crate) const TOKEN_VARIABLE: &str = "JANUS_TOKEN";

/// The flags of every client command.
#[derive(Debug, Args)]
pub(crate) struct ServerFlags {
    /// The server, such as `http://127.0.0.1:8080` or `https://push.example` [default: the address in the settings].
    ///
    /// The protocol is http or https, with the same meaning as ws and wss, and http if left out. `publish` and `subscribe`
    /// also accept classic and, for TLS, classics. Without the flag the variable JANUS_SERVER counts, and without the
    /// variable the settings: http_listen or https_listen, and for `health`, `log`, `reload` and `top` admin_listen.
    #[arg(long, value_name = "URL", help_heading = HEADING)]
    server: Option<String>,
    /// PEM file with the only authorities that may issue the server's certificate [default: those of the system].
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    ca: Option<PathBuf>,
    /// Longest time for connecting, and for each answer [default: 10 s, and 3 s at the admin port].
    #[arg(long, value_name = "DURATION", value_parser = crate::cli::duration, help_heading = HEADING)]
    timeout: Option<Duration>,
    /// TOML file with the server's settings, by which its addresses and its key are found [variable: JANUS_CONFIG].
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    pub(crate) config: Option<PathBuf>,
}

const HEADING: &str = "The server";

/// What a command needs of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// The HTTP API, on the HTTP port or on the admin port.
    Api,
    /// WebSockets, on the HTTP port alone, or the classic protocol.
    Messages,
    /// The HTTP API to publish, WebSockets to publish with a token, or the classic protocol.
    Publishing,
    /// Routes of the admin port alone.
    Admin,
}

impl Need {
    pub(super) fn accepts_classic(self) -> bool {
        matches!(self, Self::Messages | Self::Publishing)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http,
    Classic,
}

/// The address of a server, which prints itself as a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(super) protocol: Protocol,
    pub(super) is_tls: bool,
    /// HOST:PORT.
    pub(super) to: String,
}

/// A server that can be asked.
#[derive(Clone)]
pub(crate) struct Target {
    /// The name of the command, for errors.
    pub(super) command: &'static str,
    pub(super) need: Need,
    pub(super) address: Address,
    /// For TLS alone.
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) ca: Option<PathBuf>,
    /// The keys of the settings, the first first. The server may not know a new key yet.
    pub(super) keys: Vec<String>,
    /// The token of a user.
    pub(super) token: Option<String>,
    pub(super) timeout: Duration,
    /// The settings, if free of mistakes.
    pub(super) settings: Option<Arc<Settings>>,
}

impl ServerFlags {
    /// Adds a file from before the name of the command.
    pub(crate) fn after(&mut self, config: Option<PathBuf>) {
        self.config = self.config.take().or(config);
    }

    /// Finds the address by the flag, the variable or the settings, and the key by the variable or the settings.
    pub(crate) fn target(&self, command: &'static str, need: Need) -> Result<Target, ClientError> {
        let flags = Flags { file: self.config.clone(), ..Flags::default() };
        let loaded = Loaded::read(&flags, std::env::vars_os(), Memory::of_this_process());
        let named = self.server.clone().or_else(|| variable(SERVER_VARIABLE));
        let (address, settings) = match (named, loaded) {
            // Mistakes in a file of JANUS_CONFIG are forgiven. A file named with --config is there for its key.
            (Some(named), loaded) if loaded.is_ok() || self.config.is_none() => {
                (Address::parse(&named)?, loaded.ok().map(|loaded| loaded.settings))
            }
            (_, loaded) => {
                let settings = loaded.map_err(ClientError::Settings)?.settings;
                (of_settings(&settings, need)?, Some(settings))
            }
        };
        if address.protocol == Protocol::Classic && !need.accepts_classic() {
            return Err(ClientError::NeedsHttp { command });
        }
        // A mistake in the settings is no reason not to use the key of the variable.
        let by_variable = || ApiKey::new(&variable("JANUS_API_KEY").unwrap_or_default());
        let keys = settings.as_ref().map_or_else(by_variable, |settings| settings.api_key.clone());
        let usual = Duration::from_secs(if need == Need::Admin { 3 } else { 10 });
        Ok(Target {
            command,
            need,
            tls: if address.is_tls { Some(tls::client_config(self.ca.as_deref())?) } else { None },
            ca: self.ca.clone(),
            address,
            // A key with other characters would break the request, and cannot be right.
            keys: keys
                .reveal()
                .filter(|key| key.bytes().all(|byte| byte.is_ascii_graphic()))
                .map(str::to_owned)
                .collect(),
            token: variable(TOKEN_VARIABLE),
            timeout: self.timeout.unwrap_or(usual),
            settings: settings.map(Arc::new),
        })
    }
}

/// A variable that is set and not empty. Bytes that are not UTF-8 make a value that is refused, and not a missing one.
fn variable(name: &str) -> Option<String> {
    let value = std::env::var_os(name)?.to_string_lossy().trim().to_owned();
    (!value.is_empty()).then_some(value)
}

impl Target {
    #[cfg(feature = "top")]
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }
}

impl Address {
    /// Reads a URL, or HOST:PORT for HTTP.
    fn parse(text: &str) -> Result<Self, ClientError> {
        let text = text.trim();
        // A password is not repeated: error messages end in logs.
        let shown = text.rsplit_once('@').map_or_else(|| text.to_owned(), |(_, host)| format!("…@{host}"));
        let bad = |reason: &str| ClientError::BadAddress {
            to: shown.clone(),
            source: io::Error::new(io::ErrorKind::InvalidInput, reason),
        };
        let (scheme, rest) = text.split_once("://").map_or((None, text), |(scheme, rest)| (Some(scheme), rest));
        let scheme_in_force = scheme.unwrap_or("http").to_ascii_lowercase();
        let (protocol, is_tls) = match &*scheme_in_force {
            "http" | "ws" => (Protocol::Http, false),
            "https" | "wss" => (Protocol::Http, true),
            "classic" => (Protocol::Classic, false),
            "classics" => (Protocol::Classic, true),
            other => return Err(ClientError::BadScheme { scheme: other.to_owned() }),
        };
        let host_and_port = rest.strip_suffix('/').unwrap_or(rest);
        if host_and_port.contains(['/', '?', '@']) {
            return Err(bad("a path or a user has no meaning here"));
        }
        let uri: Uri = host_and_port.parse().map_err(|error: hyper::http::uri::InvalidUri| bad(&error.to_string()))?;
        let authority = uri.authority().ok_or_else(|| bad("the host is missing"))?;
        let to = match (authority.port_u16(), scheme.is_some(), protocol, is_tls) {
            (Some(1..), ..) => authority.to_string(),
            // Anything else behind a colon is a mistake, and never the usual port of the scheme.
            _ if authority.as_str() != authority.host() => return Err(bad("a port is a number from 1 to 65535")),
            // As in a browser, so that the address of a proxy can be left as it is.
            (None, true, Protocol::Http, false) => format!("{}:80", authority.host()),
            (None, true, Protocol::Http, true) => format!("{}:443", authority.host()),
            _ => return Err(bad("the port is missing")),
        };
        Ok(Self { protocol, is_tls, to })
    }

    fn http(to: SocketAddr, is_tls: bool) -> Self {
        Self { protocol: Protocol::Http, is_tls, to: to.to_string() }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match (self.protocol, self.is_tls) {
            (Protocol::Http, false) => "http",
            (Protocol::Http, true) => "https",
            (Protocol::Classic, false) => "classic",
            (Protocol::Classic, true) => "classics",
        };
        write!(f, "{scheme}://{}", self.to)
    }
}

/// The first address of the settings that has what the command needs.
pub(super) fn of_settings(settings: &Settings, need: Need) -> Result<Address, ClientError> {
    let core = &settings.core;
    let lists = match need {
        Need::Admin => vec![("admin_listen", &settings.admin_listen, false)],
        _ => vec![("http_listen", &core.http_listen, false), ("https_listen", &core.https_listen, true)],
    };
    let mut failure = None;
    for (setting, addresses, is_tls) in lists {
        match reachable(setting, addresses) {
            Ok(address) => return Ok(Address::http(address, is_tls)),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    Err(failure.expect("every need has a setting"))
}

/// The first address, if a client can connect to it. A wildcard address is reached on loopback.
fn reachable(setting: &'static str, addresses: &[SocketAddr]) -> Result<SocketAddr, ClientError> {
    let no_address = |why| ClientError::NoAddress { setting, why };
    let address = *addresses.first().ok_or_else(|| no_address("is empty"))?;
    if address.port() == 0 {
        return Err(no_address("has port 0, so the system chooses the port at each start"));
    }
    Ok(on_loopback(address))
}

/// An address that can be connected to.
pub(super) fn on_loopback(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

#[cfg(test)]
mod tests {
    use janus_core::Config;

    use super::*;

    fn settings(http: &[&str], https: &[&str], admin: &[&str]) -> Settings {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let core = Config { http_listen: parse(http), https_listen: parse(https), ..Config::default() };
        Settings { core, admin_listen: parse(admin), ..Settings::default() }
    }

    #[test]
    fn an_address_reads_as_a_url_or_as_a_host_and_port() {
        for (text, expected) in [
            ("127.0.0.1:8080", "http://127.0.0.1:8080"),
            (" 127.0.0.1:8080\n", "http://127.0.0.1:8080"),
            ("localhost:8080", "http://localhost:8080"),
            ("http://push.example", "http://push.example:80"),
            ("HTTPS://push.example/", "https://push.example:443"),
            ("ws://[::1]:8080", "http://[::1]:8080"),
            ("wss://[::1]", "https://[::1]:443"),
            ("classic://push.example:8081", "classic://push.example:8081"),
            ("classics://push.example:8083/", "classics://push.example:8083"),
        ] {
            assert_eq!(Address::parse(text).unwrap().to_string(), expected, "{text}");
        }
        let without_address =
            ["localhost", "classic://localhost", "http://", "", "http://a b:1", "http://u:secret@h:1", "h:1/path"];
        let without_port = ["http://h:", "https://h:80800", "http://h:-1", "h:0", "ws://[::1]:x"];
        for text in without_address.into_iter().chain(without_port) {
            let error = Address::parse(text).unwrap_err();
            assert!(error.is_usage() && error.to_string().contains("is not an address"), "{text}: {error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        assert!(Address::parse("ftp://h:1").unwrap_err().to_string().contains("expected http, https"));
    }

    #[test]
    fn the_settings_give_the_first_address_that_can_be_reached() {
        let found = |settings: Settings, need| of_settings(&settings, need).map(|address| address.to_string());
        let all = || settings(&["0.0.0.0:8080"], &["[::]:8443"], &["10.0.0.1:8082"]);
        assert_eq!(found(all(), Need::Api).unwrap(), "http://127.0.0.1:8080");
        assert_eq!(found(all(), Need::Admin).unwrap(), "http://10.0.0.1:8082");
        assert_eq!(found(settings(&[], &["[::]:8443"], &[]), Need::Messages).unwrap(), "https://[::1]:8443");
        for (settings, need, expected) in [
            (settings(&[], &[], &[]), Need::Api, "http_listen is empty"),
            (settings(&["127.0.0.1:0"], &[], &[]), Need::Publishing, "http_listen has port 0"),
            (settings(&[], &[], &[]), Need::Admin, "admin_listen is empty"),
        ] {
            let error = found(settings, need).unwrap_err();
            assert!(error.is_usage() && error.to_string().contains(expected), "{error}");
        }
    }
}
