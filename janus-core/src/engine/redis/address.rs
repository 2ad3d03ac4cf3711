//! The address of a server, as a URL.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use percent_encoding::percent_decode_str;

/// The address of a Redis or Valkey server, with the secrets to enter.
///
/// | form | server |
/// |---|---|
/// | `redis://[[user]:password@]host[:port][/db]` | over TCP; the port is 6379, and the database 0, unless given |
/// | `rediss://…` | over TLS (feature `tls`) |
/// | `unix://[[user]:password@]/path[?db=N]`, or `redis+unix://…` | at a Unix socket |
/// | `redis+sentinel://[[user]:password@]host[:port][,host[:port]…]/name[/db]` | the master of this name, as Redis Sentinel knows; the port of a Sentinel is 26379 unless given |
/// | `redis+cluster://[[user]:password@]host[:port][,host[:port]…]` | the masters of a Redis Cluster, found through these servers |
/// | `rediss+sentinel://…`, `rediss+cluster://…` | as before, over TLS |
///
/// Special characters of the user, the password and the path are written with percent signs. The text of an address
/// (`Display` and `Debug`) does not have the password.
///
/// ```
/// use janus_core::engine::redis::Address;
///
/// let address: Address = "redis://janus:secret@10.0.0.7/2".parse()?;
/// assert_eq!(address.to_string(), "redis://janus:***@10.0.0.7:6379/2");
/// assert!("redis://10.0.0.7:port".parse::<Address>().is_err());
/// # Ok::<_, janus_core::engine::redis::AddressError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    pub(super) place: Place,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) db: u32,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Tcp { host: String, port: u16, tls: bool },
    Unix { path: PathBuf },
    Sentinel { sentinels: Vec<(String, u16)>, master: String, tls: bool },
    Cluster { seeds: Vec<(String, u16)>, tls: bool },
}

impl Place {
    /// Whether the address asks for TLS.
    #[cfg(feature = "tls")]
    pub(super) const fn has_tls(&self) -> bool {
        matches!(self, Self::Tcp { tls: true, .. } | Self::Sentinel { tls: true, .. } | Self::Cluster { tls: true, .. })
    }
}

/// The text is no [`Address`]. The error names the part of the text, and never has the password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The text does not begin with one of the schemes.
    #[error("the address must begin with redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://")]
    Scheme,
    /// `rediss://`, and the feature `tls` is missing.
    #[error("rediss:// needs TLS, and this program was built without it")]
    NoTls,
    /// The user or the password.
    #[error("the {0} in the address is not UTF-8 with percent signs; write @ as %40, : as %3A and / as %2F")]
    Secret(&'static str),
    /// The host is missing, or has characters of no host.
    #[error("the host \"{0}\" in the address is not one; an IPv6 address stands in brackets")]
    Host(String),
    /// The port. The error does not show the text: after a forgotten host, the password is in this place.
    #[error("the port in the address is not a number from 1 to 65535")]
    Port,
    /// The number of the database; a Redis Cluster has database 0 only.
    #[error("the database \"{0}\" in the address is not a number, or not in a Redis Cluster")]
    Database(String),
    /// The path of a Unix socket is not absolute.
    #[error("the path \"{0}\" of the Unix socket in the address must begin with /")]
    Path(String),
    /// The name of the master behind the Sentinels.
    #[error("the address of Sentinels must end with the name of the master, as in redis+sentinel://host/name")]
    Master,
    /// Anything behind the question mark.
    #[error("the address does not take \"{0}\" behind the question mark")]
    Query(String),
}

const DEFAULT_PORT: u16 = 6379;
const DEFAULT_SENTINEL_PORT: u16 = 26379;

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (scheme, rest) = text.split_once("://").ok_or(AddressError::Scheme)?;
        let tls = scheme.starts_with("rediss");
        if tls && !cfg!(feature = "tls") {
            return Err(AddressError::NoTls);
        }
        // A password may have special characters without percent signs; the rest of the address has no @.
        let (secrets, place) = rest.rsplit_once('@').map_or((None, rest), |(secrets, place)| (Some(secrets), place));
        let (place, query) = place.split_once('?').map_or((place, None), |(place, query)| (place, Some(query)));
        let (user, password) = secrets.map(secrets_of).transpose()?.unwrap_or_default();
        let (place, db) = match scheme {
            _ if !scheme.ends_with("unix")
                && let Some(query) = query =>
            {
                return Err(query_error(query));
            }
            "redis" | "rediss" => {
                let (host, db) = place.split_once('/').unwrap_or((place, ""));
                let (host, port) = host_of(host, DEFAULT_PORT)?;
                (Place::Tcp { host, port, tls }, database(db)?)
            }
            "redis+sentinel" | "rediss+sentinel" => {
                let (hosts, rest) = place.split_once('/').unwrap_or((place, ""));
                let (master, db) = rest.split_once('/').unwrap_or((rest, ""));
                let sentinels = hosts_of(hosts, DEFAULT_SENTINEL_PORT)?;
                let master = percent_decode_str(master).decode_utf8().map_err(|_| AddressError::Master)?.into_owned();
                if master.is_empty() {
                    return Err(AddressError::Master);
                }
                (Place::Sentinel { sentinels, master, tls }, database(db)?)
            }
            "redis+cluster" | "rediss+cluster" => {
                let (hosts, db) = place.split_once('/').unwrap_or((place, ""));
                if !db.is_empty() {
                    return Err(AddressError::Database(db.to_owned()));
                }
                (Place::Cluster { seeds: hosts_of(hosts, DEFAULT_PORT)?, tls }, 0)
            }
            "unix" | "redis+unix" => {
                let db = query.map(|query| query.strip_prefix("db=").ok_or_else(|| query_error(query)));
                (unix(place)?, database(db.transpose()?.unwrap_or_default())?)
            }
            _ => return Err(AddressError::Scheme),
        };
        Ok(Self { place, user, password, db })
    }
}

/// Without the value, which could be a secret.
fn query_error(query: &str) -> AddressError {
    AddressError::Query(query.split('=').next().unwrap_or_default().to_owned())
}

fn secrets_of(text: &str) -> Result<(Option<String>, Option<String>), AddressError> {
    let (user, password) = text.split_once(':').map_or((text, None), |(user, password)| (user, Some(password)));
    let decode = |part: &str, name| {
        let text = percent_decode_str(part).decode_utf8().map_err(|_| AddressError::Secret(name))?;
        Ok((!text.is_empty()).then(|| text.into_owned()))
    };
    Ok((decode(user, "user")?, password.map_or(Ok(None), |password| decode(password, "password"))?))
}

/// Hosts and ports between commas.
fn hosts_of(text: &str, default_port: u16) -> Result<Vec<(String, u16)>, AddressError> {
    text.split(',').map(|host| host_of(host, default_port)).collect()
}

/// A host and a port.
fn host_of(text: &str, default_port: u16) -> Result<(String, u16), AddressError> {
    let error = || AddressError::Host(text.split(':').next().unwrap_or_default().to_owned());
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, behind) = rest.split_once(']').ok_or_else(error)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| error())?;
            let port = if behind.is_empty() { None } else { Some(behind.strip_prefix(':').ok_or_else(error)?) };
            (host, port)
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    if host.is_empty() || !host.bytes().all(is_host) {
        return Err(error());
    }
    let port_of = |text: &str| {
        let port = text.parse().ok().filter(|port| *port > 0 && !text.starts_with('+'));
        port.ok_or(AddressError::Port)
    };
    Ok((host.to_owned(), port.map_or(Ok(default_port), port_of)?))
}

fn unix(text: &str) -> Result<Place, AddressError> {
    let error = || AddressError::Path(text.to_owned());
    let path = percent_decode_str(text).decode_utf8().map_err(|_| error())?;
    if path.starts_with('/') { Ok(Place::Unix { path: PathBuf::from(&*path) }) } else { Err(error()) }
}

fn database(text: &str) -> Result<u32, AddressError> {
    match text {
        "" => Ok(0),
        _ if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            text.parse().map_err(|_| AddressError::Database(text.to_owned()))
        }
        _ => Err(AddressError::Database(text.to_owned())),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secrets = match (&self.user, &self.password) {
            (None, None) => String::new(),
            (user, None) => format!("{}@", user.as_deref().unwrap_or_default()),
            (user, Some(_)) => format!("{}:***@", user.as_deref().unwrap_or_default()),
        };
        match &self.place {
            Place::Tcp { host, port, tls } => {
                write!(f, "{}://{secrets}{}", scheme(*tls), shown(host, *port))?;
                if self.db > 0 { write!(f, "/{}", self.db) } else { Ok(()) }
            }
            Place::Unix { path } => {
                write!(f, "unix://{secrets}{}", path.display())?;
                if self.db > 0 { write!(f, "?db={}", self.db) } else { Ok(()) }
            }
            Place::Sentinel { sentinels, master, tls } => {
                write!(f, "{}+sentinel://{secrets}{}/{master}", scheme(*tls), list(sentinels))?;
                if self.db > 0 { write!(f, "/{}", self.db) } else { Ok(()) }
            }
            Place::Cluster { seeds, tls } => write!(f, "{}+cluster://{secrets}{}", scheme(*tls), list(seeds)),
        }
    }
}

const fn scheme(tls: bool) -> &'static str {
    if tls { "rediss" } else { "redis" }
}

fn list(hosts: &[(String, u16)]) -> String {
    hosts.iter().map(|(host, port)| shown(host, *port)).collect::<Vec<_>>().join(",")
}

fn shown(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Without the password.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Address, AddressError> {
        text.parse()
    }

    fn host(name: &str, port: u16) -> Place {
        Place::Tcp { host: name.to_owned(), port, tls: false }
    }

    #[test]
    fn an_address_has_a_place_secrets_and_a_database() {
        let address = |place, user: Option<&str>, password: Option<&str>, db| {
            Ok(Address { place, user: user.map(str::to_owned), password: password.map(str::to_owned), db })
        };
        let plain = address(host("localhost", 6379), None, None, 0);
        assert_eq!(read("redis://localhost"), plain);
        assert_eq!(read("redis://localhost/"), plain);
        assert_eq!(read("redis://h.example:7000/12"), address(host("h.example", 7000), None, None, 12));
        assert_eq!(read("redis://:pw@h"), address(host("h", 6379), None, Some("pw"), 0));
        assert_eq!(read("redis://u:p%40%3A%2Fé@h"), address(host("h", 6379), Some("u"), Some("p@:/é"), 0));
        assert_eq!(read("redis://u:p@ss@h"), address(host("h", 6379), Some("u"), Some("p@ss"), 0));
        assert_eq!(read("redis://[::1]"), address(host("::1", 6379), None, None, 0));
        assert_eq!(read("redis://[::1]:7000/1"), address(host("::1", 7000), None, None, 1));
        let socket = Place::Unix { path: "/run/redis.sock".into() };
        assert_eq!(read("unix:///run/redis.sock?db=3"), address(socket.clone(), None, None, 3));
        assert_eq!(read("redis+unix://:pw@/run/redis.sock"), address(socket, None, Some("pw"), 0));
    }

    #[test]
    fn an_address_of_sentinels_has_hosts_and_the_name_of_a_master() {
        let address = read("redis+sentinel://u:pw@a,b:7000,[::1]/my%20master/2").unwrap();
        let hosts = [("a", 26379), ("b", 7000), ("::1", 26379)];
        let sentinels = hosts.map(|(host, port)| (host.to_owned(), port)).to_vec();
        assert_eq!(address.place, Place::Sentinel { sentinels, master: "my master".to_owned(), tls: false });
        assert_eq!((address.db, address.user.as_deref()), (2, Some("u")));
        assert_eq!(address.to_string(), "redis+sentinel://u:***@a:26379,b:7000,[::1]:26379/my master/2");
        for text in ["redis+sentinel://a", "redis+sentinel://a/", "redis+sentinel://a//2"] {
            assert_eq!(read(text), Err(AddressError::Master));
        }
        assert_eq!(read("redis+sentinel://a,/m"), Err(AddressError::Host(String::new())));
        assert_eq!(read("redis+sentinel://a/m/x"), Err(AddressError::Database("x".to_owned())));
    }

    #[test]
    fn an_address_of_a_cluster_has_hosts_and_no_database() {
        let address = read("redis+cluster://:pw@a,b:7000").unwrap();
        let seeds = [("a", 6379), ("b", 7000)].map(|(host, port)| (host.to_owned(), port)).to_vec();
        assert_eq!(address.place, Place::Cluster { seeds, tls: false });
        assert_eq!(address.to_string(), "redis+cluster://:***@a:6379,b:7000");
        assert_eq!(read("redis+cluster://a/1"), Err(AddressError::Database("1".to_owned())));
        assert_eq!(read("redis+cluster://a?x=1"), Err(AddressError::Query("x".to_owned())));
    }

    #[test]
    #[cfg(feature = "tls")]
    fn rediss_means_tls() {
        assert_eq!(read("rediss://h").unwrap().place, Place::Tcp { host: "h".to_owned(), port: 6379, tls: true });
    }

    #[test]
    #[cfg(not(feature = "tls"))]
    fn rediss_is_refused_where_there_is_no_tls() {
        assert_eq!(read("rediss://h"), Err(AddressError::NoTls));
    }

    #[test]
    fn an_error_names_the_part() {
        assert_eq!(read("localhost:6379"), Err(AddressError::Scheme));
        assert_eq!(read("http://localhost"), Err(AddressError::Scheme));
        assert_eq!(read("redis://"), Err(AddressError::Host(String::new())));
        assert_eq!(read("redis://a b"), Err(AddressError::Host("a b".to_owned())));
        assert_eq!(read("redis://::1"), Err(AddressError::Host(String::new())));
        assert_eq!(read("redis://[::1"), Err(AddressError::Host("[".to_owned())));
        assert_eq!(read("redis://[h]"), Err(AddressError::Host("[h]".to_owned())));
        for port in ["", "0", "65536", "+1", "x", "6379x"] {
            assert_eq!(read(&format!("redis://h:{port}")), Err(AddressError::Port));
        }
        assert_eq!(read("redis://h/x"), Err(AddressError::Database("x".to_owned())));
        assert_eq!(read("redis://h/1/2"), Err(AddressError::Database("1/2".to_owned())));
        assert_eq!(read("redis://h?db=1"), Err(AddressError::Query("db".to_owned())));
        assert_eq!(read("unix://run/x"), Err(AddressError::Path("run/x".to_owned())));
        assert_eq!(read("unix:///x?d=1"), Err(AddressError::Query("d".to_owned())));
        assert_eq!(read("redis://%ff:x@h"), Err(AddressError::Secret("user")));
        assert_eq!(read("redis://u:%ff@h"), Err(AddressError::Secret("password")));
    }

    #[test]
    fn the_password_is_never_shown() {
        for text in ["redis://u:secret@h:1/2", "redis://:secret@h", "unix://u:secret@/run/x?db=1"] {
            let address = read(text).unwrap();
            let shown = format!("{address} {address:?}");
            assert!(!shown.contains("secret") && shown.contains("***"), "{shown}");
        }
        for bad in [
            "redis://u:secret",
            "redis://:secret",
            "redis://u:?secret@",
            "redis://h?password=secret",
            "redis://u:secret@h:x",
            "redis://u:secret@",
            "redis://u:secret@h/x",
            "redis://u:secret@h?q",
            "x://u:secret@h",
        ] {
            let error = read(bad).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        assert_eq!(read("redis://u:secret@[::1]/2").unwrap().to_string(), "redis://u:***@[::1]:6379/2");
        assert_eq!(read("redis://u@h").unwrap().to_string(), "redis://u@h:6379");
    }
}
