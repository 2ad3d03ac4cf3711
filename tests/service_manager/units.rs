//! The units in docs/systemd.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use crate::cli_run::{assert_exit, janus, text};

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/systemd"))
}

/// All units by name.
fn units() -> BTreeMap<String, String> {
    let files = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let read = |path: PathBuf| {
        (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read_to_string(path).unwrap())
    };
    files.map(read).collect()
}

/// The values of a unit by section and key.
fn values(unit: &str) -> BTreeMap<(String, String), Vec<String>> {
    let mut values: BTreeMap<_, Vec<String>> = BTreeMap::new();
    let mut section = String::new();
    for line in unit.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            name.clone_into(&mut section);
            continue;
        }
        let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("neither a section nor a key: {line}"));
        let is_key = key.starts_with(|first: char| first.is_ascii_uppercase());
        assert!(is_key && key.bytes().all(|byte| byte.is_ascii_alphabetic()), "{line}");
        assert!(!section.is_empty() && value.trim() == value, "{line}");
        values.entry((section.clone(), key.to_owned())).or_default().push(value.to_owned());
    }
    values
}

fn value<'a>(unit: &'a BTreeMap<(String, String), Vec<String>>, section: &str, key: &str) -> &'a str {
    let values = unit.get(&(section.to_owned(), key.to_owned()));
    values.and_then(|values| values.last()).unwrap_or_else(|| panic!("no {key} in [{section}]"))
}

#[test]
fn each_port_has_a_socket_unit_of_its_name() {
    let units = units();
    let sockets: Vec<&str> = units.keys().filter_map(|name| name.strip_suffix(".socket")).collect();
    assert_eq!(sockets, ["janus-admin", "janus-classic", "janus-http", "janus-https", "janus-tls"]);
    for name in sockets {
        let unit = values(&units[&format!("{name}.socket")]);
        assert_eq!(value(&unit, "Socket", "FileDescriptorName"), name.strip_prefix("janus-").unwrap());
        assert_eq!(value(&unit, "Socket", "Service"), "janus.service");
        let address = value(&unit, "Socket", "ListenStream");
        assert!(address.parse::<std::net::SocketAddr>().is_ok(), "{name}: {address}");
        assert_eq!(value(&unit, "Install", "WantedBy"), "sockets.target");
    }
}

#[test]
fn the_service_starts_the_server_with_flags_that_it_has() {
    let unit = values(&units()["janus.service"]);
    assert_eq!(unit[&("Service".to_owned(), "Type".to_owned())], ["notify", "notify-reload"]);
    let mut words = value(&unit, "Service", "ExecStart").split(' ');
    assert_eq!(words.next(), Some("/usr/local/bin/janus-server"));
    let words: Vec<_> = words.map(|word| word.replace("/etc/janus.toml", "/dev/null").replace("%t", "/tmp")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    assert_exit(&janus(&[&["config", "check"][..], &words].concat()).output().unwrap(), 0);
    let state = value(&unit, "Service", "ExecStart").split("--state-file %t/").nth(1).unwrap();
    assert_eq!(state.split('/').next(), Some(value(&unit, "Service", "RuntimeDirectory")));
    assert_eq!(value(&unit, "Service", "RuntimeDirectoryPreserve"), "yes");
}

/// Where systemd is installed. A version before 253 does not know `Type=notify-reload`, and says so.
#[test]
fn systemd_accepts_the_units() {
    let folder = tempfile::tempdir().unwrap();
    let mut paths = Vec::new();
    for (name, unit) in units() {
        let path = folder.path().join(name);
        std::fs::write(&path, unit.replace("/usr/local/bin/janus-server", env!("CARGO_BIN_EXE_janus-server"))).unwrap();
        paths.push(path);
    }
    let Ok(output) = Command::new("systemd-analyze").arg("verify").arg("--man=no").args(&paths).output() else {
        return;
    };
    let errors = text(&output.stderr);
    let ours = |line: &&str| line.contains("janus") && !line.contains("ignoring: notify-reload");
    assert_eq!(errors.lines().find(ours), None, "{errors}");
}
