//! The engine of a cluster, by the settings: where the servers are, and how they are reached.
//!
//! Nothing is connected here: the instance makes the links, and starts all the same if the engine cannot be reached.

use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use janus_core::Config;
use janus_core::engine::redis::{Address, AddressError, Options, OptionsError, Redis};
use janus_core::settings::{HIDDEN, Stored, Value};

use crate::client::{ClientError, engine_tls};
use crate::settings::Settings;

/// The most servers of an engine. Each node has two connections to each.
const MOST: usize = 64;

/// The largest file with addresses.
const MOST_BYTES: u64 = 64 * 1024;

/// The addresses of the engine's servers, with commas between them; empty without an engine. Never printed.
#[derive(Clone, Default)]
pub(crate) struct EngineAddresses(String);

/// An address that is none. Without the secrets.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadAddress {
    #[error("{error}{}", place(*index, *count))]
    Address { index: usize, count: usize, error: AddressError },
    #[error("at most {MOST} addresses")]
    TooMany,
}

/// Which of several addresses is wrong.
fn place(index: usize, count: usize) -> String {
    if count > 1 { format!(" (address {index} of {count})") } else { String::new() }
}

/// Why the engine of the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    #[error("engine_file: cannot read {}{}: {source}", file.display(), counted_from(file))]
    Unreadable { file: PathBuf, source: io::Error },
    #[error("engine_file: line {line} of {}: {error}", file.display())]
    Line { file: PathBuf, line: usize, error: AddressError },
    #[error("engine_file: {} has {what}", file.display())]
    NotAddresses { file: PathBuf, what: String },
    #[error("engine: {0}")]
    Authorities(#[source] ClientError),
    #[error("engine: {0}")]
    Options(#[source] OptionsError),
}

/// Where a relative path begins.
fn counted_from(file: &Path) -> String {
    match std::env::current_dir() {
        Ok(folder) if file.is_relative() => format!(" (a relative path, counted from {})", folder.display()),
        _ => String::new(),
    }
}

impl EngineAddresses {
    pub(crate) const EXPECTED: &str = "the address of a Redis or Valkey server, such as \"redis://:PASSWORD@10.0.0.7:6379\" \
                                       or \"rediss://…\", several of them with commas between them, or \"\" for none";

    /// Whether there is no address.
    pub(crate) fn is_none(&self) -> bool {
        self.0.trim().is_empty()
    }

    /// The addresses in their order.
    pub(crate) fn addresses(&self) -> Result<Vec<Address>, BadAddress> {
        if self.is_none() { Ok(Vec::new()) } else { addresses_of(split(&self.0)) }
    }
}

/// The texts between commas. An address may have commas itself, between the hosts of Sentinels: a new address begins with
/// its scheme.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let begins = |at: &usize| text[at + 1..].split(',').next().is_some_and(|part| part.contains("://"));
        let comma = text.match_indices(',').map(|(at, _)| at).find(begins);
        rest = comma.map(|at| &text[at + 1..]);
        Some(comma.map_or(text, |at| &text[..at]))
    })
}

fn addresses_of<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Vec<Address>, BadAddress> {
    let texts: Vec<_> = texts.map(str::trim).collect();
    if texts.len() > MOST {
        return Err(BadAddress::TooMany);
    }
    let count = texts.len();
    let address =
        |(text, index): (&&str, usize)| text.parse().map_err(|error| BadAddress::Address { index, count, error });
    texts.iter().zip(1..).map(address).collect()
}

impl fmt::Debug for EngineAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_none() { "none" } else { HIDDEN })
    }
}

impl Stored for EngineAddresses {
    fn to_value(&self) -> Value {
        Value::Text(self.0.clone())
    }

    fn from_value(value: Value) -> Option<Self> {
        String::from_value(value).map(Self)
    }
}

/// Whether a text can be the beginning of all names at the engine.
pub(crate) fn is_prefix(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
}

/// Whether a text can be the name of a node; an empty text stands for the name of the host.
pub(crate) fn is_node_name(text: &str) -> bool {
    text.trim() == text && text.chars().count() <= 64 && !text.chars().any(char::is_control)
}

/// The name of this server among the nodes of a cluster.
pub(crate) fn node_name(settings: &Settings) -> String {
    let host = || {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::env::var("HOSTNAME"));
        name.map(|name| name.trim().to_owned()).ok().filter(|name| !name.is_empty() && is_node_name(name))
    };
    settings.node_name.clone().or_else(host).unwrap_or_else(|| "janus".to_owned())
}

/// The engine of the settings, if there is one. Reads `engine_file` and, for `rediss://`, the authorities of the system.
pub(crate) fn of(settings: &Settings) -> Result<Option<Redis>, EngineError> {
    let addresses = match &settings.engine_file {
        Some(file) => read(file)?,
        // Checked with all settings.
        None => settings.engine.addresses().unwrap_or_default(),
    };
    if addresses.is_empty() {
        return Ok(None);
    }
    let is_over_tls = addresses.iter().any(|address| address.to_string().starts_with("rediss"));
    let tls = if is_over_tls { Some(engine_tls().map_err(EngineError::Authorities)?) } else { None };
    let core = &settings.core;
    let defaults = Options::new(addresses);
    let options = Options {
        prefix: settings.engine_prefix.clone(),
        // A little before the instance gives up, so that the log has what the engine was waiting for.
        timeout: core.engine_timeout / 10 * 9,
        max_reply_bytes: defaults.max_reply_bytes.max(longest_log(core).saturating_mul(2)),
        max_backlog_bytes: defaults.max_backlog_bytes.max(core.engine_buffer_bytes.saturating_mul(2)),
        tls,
        ..defaults
    };
    Redis::new(options).map(Some).map_err(EngineError::Options)
}

/// The most bytes that the engine keeps of a topic: a reply may have all of them. The engine keeps somewhat more, and
/// each message takes some bytes of its own.
fn longest_log(core: &Config) -> usize {
    let namespaces = core.namespaces.values().chain([&core.default_namespace]);
    let histories = namespaces.filter(|namespace| namespace.history).map(|namespace| namespace.history_bytes);
    histories.chain([core.resume_bytes]).max().unwrap_or_default()
}

/// The addresses of a file, one on each line; empty lines and lines that begin with `#` do not count.
fn read(file: &Path) -> Result<Vec<Address>, EngineError> {
    let unreadable = |source| EngineError::Unreadable { file: file.into(), source };
    let not_addresses = |what: String| Err(EngineError::NotAddresses { file: file.into(), what });
    if std::fs::metadata(file).map_err(unreadable)?.len() > MOST_BYTES {
        return not_addresses(format!("more than {MOST_BYTES} bytes"));
    }
    let text = std::fs::read_to_string(file).map_err(unreadable)?;
    let lines = text.lines().map(str::trim).zip(1..);
    let lines = lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#'));
    let address_of = |(text, line): (&str, usize)| {
        text.parse().map_err(|error| EngineError::Line { file: file.into(), line, error })
    };
    let addresses: Vec<_> = lines.map(address_of).collect::<Result<_, _>>()?;
    match addresses.len() {
        0 => not_addresses("no address".to_owned()),
        1..=MOST => Ok(addresses),
        more => not_addresses(format!("{more} addresses, and an engine takes at most {MOST}")),
    }
}

/// A number for the content of `engine_file`, which is read at the start alone: another number later means that the file has
/// changed. `None` without a file that can be read.
pub(crate) fn fingerprint(settings: &Settings) -> Option<u64> {
    let mut text = String::new();
    let file = std::fs::File::open(settings.engine_file.as_ref()?).ok()?;
    file.take(MOST_BYTES).read_to_string(&mut text).ok()?;
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    Some(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_node_is_that_of_the_host_unless_set() {
        let named = Settings { node_name: Some("left".to_owned()), ..Settings::default() };
        assert_eq!(node_name(&named), "left");
        assert!(!node_name(&Settings::default()).is_empty());
        for bad in [" a", "a\n", &"x".repeat(65)] {
            assert!(!is_node_name(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_comma_separates_addresses_only_in_front_of_a_scheme() {
        let parts = |text| split(text).collect::<Vec<_>>();
        assert_eq!(parts("redis://a,redis://b, unix:///c"), ["redis://a", "redis://b", " unix:///c"]);
        assert_eq!(
            parts("redis+sentinel://:p,w@a,b:7000/m,redis://c"),
            ["redis+sentinel://:p,w@a,b:7000/m", "redis://c"]
        );
        assert_eq!(parts("a,b"), ["a,b"]);
    }

    #[test]
    fn a_file_has_an_address_on_each_line_and_is_told_without_its_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("engine");
        let settings = Settings { engine_file: Some(file.clone()), ..Settings::default() };
        assert!(matches!(of(&settings), Err(EngineError::Unreadable { .. })));
        let relative = Settings { engine_file: Some("no such file".into()), ..Settings::default() };
        let error = of(&relative).unwrap_err().to_string();
        assert!(error.contains("no such file (a relative path, counted from /"), "{error}");
        std::fs::write(&file, "# the servers\nredis://:sec,ret@10.0.0.7\n\n redis://10.0.0.8:6380/2 \n").unwrap();
        let texts: Vec<_> = read(&file).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["redis://:***@10.0.0.7:6379", "redis://10.0.0.8:6380/2"]);
        assert!(of(&settings).unwrap().is_some());
        let before = fingerprint(&settings);
        assert!(before.is_some() && before == fingerprint(&settings) && fingerprint(&relative).is_none());
        std::fs::write(&file, "redis://10.0.0.9").unwrap();
        assert_ne!(before, fingerprint(&settings));
        for (text, reason) in [
            ("# none\n", "engine has no address"),
            ("redis://:secret@10.0.0.7:x", "the port in the address is not a number from 1 to 65535"),
            ("redis://a\n\nhttp://:secret@b\n", "engine_file: line 3 of "),
        ] {
            std::fs::write(&file, text).unwrap();
            let error = of(&settings).unwrap_err().to_string();
            assert!(
                error.contains(reason) && error.starts_with("engine_file: ") && !error.contains("secret"),
                "{error}"
            );
        }
    }
}
