//! Values from the text of variables and flags, from TOML, and back to TOML.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::time::Duration;

use janus_core::IpNet;
use janus_core::settings::{GIB, HIDDEN, KIB, Kind, MIB, Value};
use toml::de::DeValue;

/// Reads the text of a variable or of a flag; only a list has several texts.
pub(super) fn parse(kind: &Kind, texts: &[String]) -> Option<Value> {
    // In a variable or a flag, an empty text is an empty list.
    let texts = if texts == [""] { &[] } else { texts };
    let text = texts.last().map_or("", |text| text.trim());
    Some(match kind {
        Kind::Origins { .. } | Kind::Paths | Kind::Texts { .. } => Value::Texts(texts.to_vec()),
        Kind::Addresses => {
            let addresses: Option<Vec<Vec<SocketAddr>>> = texts.iter().map(|text| addresses(text)).collect();
            Value::Addresses(addresses?.concat())
        }
        Kind::Networks { .. } => Value::Networks(texts.iter().map(|text| network(text.trim())).collect::<Option<_>>()?),
        Kind::Count(_) | Kind::PerCent(_) => Value::Number(whole_number(text)?),
        Kind::Bytes(_) => Value::Number(size(text)?),
        Kind::Duration(_) => Value::Duration(duration(text)?),
        Kind::Boolean => Value::Boolean(text.parse().ok()?),
        Kind::OneOf { .. } | Kind::Path | Kind::Text { .. } | Kind::Secret { .. } => Value::Text(text.to_owned()),
    })
}

/// Reads a value of the file, where types must fit: a number is not written as a string there.
pub(super) fn parse_toml(kind: &Kind, value: &DeValue<'_>) -> Option<Value> {
    match (kind, value) {
        (
            Kind::Addresses | Kind::Networks { .. } | Kind::Origins { .. } | Kind::Paths | Kind::Texts { .. },
            DeValue::Array(items),
        ) => {
            let texts: Option<Vec<String>> =
                items.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect();
            parse(kind, &texts?)
        }
        // The parts of a secret have commas between them.
        (Kind::Secret { .. }, DeValue::Array(items)) => {
            let texts: Option<Vec<&str>> = items.iter().map(|item| item.get_ref().as_str()).collect();
            parse(kind, &[texts?.join(",")])
        }
        (Kind::Count(_) | Kind::PerCent(_) | Kind::Bytes(_), DeValue::Integer(number)) => {
            usize::from_str_radix(number.as_str(), number.radix()).ok().map(Value::Number)
        }
        (Kind::Boolean, DeValue::Boolean(value)) => Some(Value::Boolean(*value)),
        (
            Kind::Addresses
            | Kind::Networks { .. }
            | Kind::Origins { .. }
            | Kind::Path
            | Kind::Paths
            | Kind::Text { .. }
            | Kind::Texts { .. }
            | Kind::Secret { .. }
            | Kind::Bytes(_)
            | Kind::Duration(_)
            | Kind::OneOf { .. },
            DeValue::String(text),
        ) => parse(kind, &[text.as_ref().to_owned()]),
        _ => None,
    }
}

/// A value as in a file.
pub(super) fn toml(kind: &Kind, value: &Value) -> String {
    match value {
        Value::Text(text) if matches!(kind, Kind::Secret { .. }) => {
            if text.is_empty() { "\"\"" } else { HIDDEN }.to_owned()
        }
        Value::Text(text) => quoted(text),
        Value::Texts(texts) => quoted_list(texts),
        Value::Addresses(addresses) => quoted_list(addresses),
        Value::Networks(networks) => quoted_list(networks),
        Value::Number(bytes) if matches!(kind, Kind::Bytes(_)) => {
            match UNITS.iter().find(|(_, factor)| *factor > 1 && bytes.is_multiple_of(*factor)) {
                Some((unit, factor)) if *bytes > 0 => format!("\"{} {unit}\"", bytes / factor),
                _ => bytes.to_string(),
            }
        }
        Value::Number(number) => number.to_string(),
        Value::Duration(time) if time.subsec_nanos() == 0 => format!("\"{} s\"", time.as_secs()),
        Value::Duration(time) => format!("\"{} ms\"", time.as_millis()),
        Value::Boolean(value) => value.to_string(),
    }
}

fn quoted_list(items: &[impl ToString]) -> String {
    let quoted: Vec<String> = items.iter().map(|item| quoted(&item.to_string())).collect();
    format!("[{}]", quoted.join(", "))
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            _ if character.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(character));
            }
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

/// The first address with an earlier entry in the list. Port 0 may be repeated, as the system chooses a new port each
/// time.
pub(super) fn duplicate(addresses: &[SocketAddr]) -> Option<SocketAddr> {
    let mut entries = addresses.iter().enumerate();
    entries
        .find(|(index, address)| address.port() != 0 && addresses[..*index].contains(address))
        .map(|(_, duplicate)| *duplicate)
}

/// An address and a port, or all addresses of a host name.
fn addresses(text: &str) -> Option<Vec<SocketAddr>> {
    if let Ok(address) = text.parse() {
        return Some(vec![address]);
    }
    let found: Vec<SocketAddr> = text.to_socket_addrs().ok()?.collect();
    (!found.is_empty()).then_some(found)
}

/// A network, or the network of a single address.
fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

fn whole_number(text: &str) -> Option<usize> {
    if text.starts_with(['_', '+']) {
        return None;
    }
    text.replace('_', "").parse().ok()
}

/// A size in bytes, with or without a binary unit.
fn size(text: &str) -> Option<usize> {
    let (number, unit) = split_unit(text);
    let factor = match unit {
        "" => 1,
        unit => UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1,
    };
    whole_number(number)?.checked_mul(factor)
}

/// A duration, always with its unit: the unit of a bare number would be a guess.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split_unit(text);
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    u64::try_from(whole_number(number)?).ok()?.checked_mul(milliseconds).map(Duration::from_millis)
}

fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

const UNITS: &[(&str, usize)] = &[("GiB", GIB), ("MiB", MIB), ("KiB", KIB), ("B", 1)];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_written_as_a_string_of_toml() {
        for path in ["/etc/janus/cert.pem", "C:\\keys\\\"mine\".pem", "a\u{7}\tb", "schlüssel.pem"] {
            let text = format!("path = {}", toml(&Kind::path(), &Value::Text(path.to_owned())));
            let table = toml::de::DeTable::parse(&text).unwrap().into_inner();
            assert_eq!(table["path"].get_ref().as_str(), Some(path), "{text}");
        }
    }

    #[test]
    fn sizes_and_durations_are_read_with_their_units() {
        assert_eq!(size("64 KiB"), Some(65_536));
        assert_eq!(size("1MiB"), Some(1 << 20));
        assert_eq!(size("1_000"), Some(1_000));
        assert_eq!(size("64 KB"), None);
        assert_eq!(size("-1"), None);
        assert_eq!(size("99999999999 GiB"), None);
        assert_eq!(duration("10 s"), Some(Duration::from_secs(10)));
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Some(Duration::from_secs(120)));
        assert_eq!(duration("10"), None);
        assert_eq!(duration("s"), None);
        assert_eq!(duration("1.5 s"), None);
    }
}
