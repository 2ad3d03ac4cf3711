//! Warnings about certificates, as an operator of the binary sees them.

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime};

use super::certificates::{Authority, Files};
use crate::cli_run::{Running, assert_exit, janus, text};

/// Two pairs: the first has expired and a key for everybody, the second has a name of the first and ends in a week.
fn settings(authority: &Authority, files: &Files) -> Vec<String> {
    const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);
    let now = SystemTime::now();
    let first = files.write_pair("first", &authority.server_until(&["a.example", "b.example"], now - WEEK));
    let second = files.write_pair("second", &authority.server_until(&["b.example", "c.example"], now + WEEK));
    std::fs::set_permissions(&first.1, std::fs::Permissions::from_mode(0o644)).unwrap();
    let [cert, key] =
        [[&first.0, &second.0], [&first.1, &second.1]].map(|files| files.map(|file| file.display().to_string()));
    let mut settings = vec!["--tls-listen".to_owned(), "127.0.0.1:0".to_owned()];
    for (flag, files) in [("--tls-cert", cert), ("--tls-key", key)] {
        settings.extend(files.into_iter().flat_map(|file| [flag.to_owned(), file]));
    }
    settings
}

const EXPECTED: [&str; 4] = [
    "first.pem: the certificate expired on ",
    "first.key: every user of this machine can read the private key",
    "second.pem: the certificate expires on ",
    "second.pem is not served for b.example, because ",
];

#[test]
fn a_start_and_a_reload_warn_of_certificates() {
    let (authority, files) = (Authority::new(), Files::new());
    let settings = settings(&authority, &files);
    let server = Running::start(&settings.iter().map(String::as_str).collect::<Vec<_>>());
    for expected in EXPECTED {
        assert!(server.error_line(expected).contains("WARN"), "{expected}");
    }
    server.error_line("listening on ");
    server.signal("HUP");
    EXPECTED.iter().for_each(|expected| drop(server.error_line(expected)));
}

#[test]
fn config_check_reads_the_certificates_as_well() {
    let (authority, files) = (Authority::new(), Files::new());
    let settings = settings(&authority, &files);
    let arguments = [&["config", "check"][..], &settings.iter().map(String::as_str).collect::<Vec<_>>()].concat();
    let output = janus(&arguments).output().unwrap();
    assert_exit(&output, 0);
    let errors = text(&output.stderr);
    for expected in EXPECTED {
        assert!(errors.lines().any(|line| line.starts_with("warning: ") && line.contains(expected)), "{errors}");
    }

    std::fs::copy(files.path("first.key"), files.path("second.key")).unwrap();
    let output = janus(&arguments).output().unwrap();
    assert_exit(&output, 1);
    let errors = text(&output.stderr);
    assert!(errors.contains("second.key is not the key of the first certificate in"), "{errors}");
    std::fs::remove_file(files.path("first.pem")).unwrap();
    let output = janus(&arguments).output().unwrap();
    assert_exit(&output, 1);
    assert!(text(&output.stderr).contains("tls_cert: cannot read "), "{}", text(&output.stderr));
}
