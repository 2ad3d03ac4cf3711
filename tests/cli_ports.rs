//! Client commands at the wrong port of a server: the error names the port and the right one.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};

use crate::api::http_address;
use crate::cli_run::{Running, assert_exit, janus, text};

/// A server with its plain ports, and a file with the settings.
struct Server {
    _running: Running,
    classic: SocketAddr,
    http: SocketAddr,
    admin: SocketAddr,
    config: tempfile::NamedTempFile,
}

impl Server {
    fn start() -> Self {
        let ports = ["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
        let running = Running::start(&ports);
        let address = |line: String| line.rsplit(' ').next().unwrap().parse().unwrap();
        let classic = address(running.error_line("listening on "));
        let http = http_address(&running);
        let admin = address(running.error_line("admin port on "));
        let mut config = tempfile::NamedTempFile::new().unwrap();
        writeln!(config, "listen = \"{classic}\"\nhttp_listen = \"{http}\"\nadmin_listen = \"{admin}\"").unwrap();
        Self { _running: running, classic, http, admin, config }
    }
}

/// The error of a command at an address, without the settings of the server or with.
fn error(command: &[&str], at: &str, config: Option<&tempfile::NamedTempFile>) -> String {
    let mut command = janus(&[command, &["--server", at]].concat());
    if let Some(file) = config {
        command.env_remove("JANUS_HTTP_LISTEN").env_remove("JANUS_ADMIN_LISTEN").env("JANUS_CONFIG", file.path());
    }
    let output = command.output().unwrap();
    assert_exit(&output, 2);
    assert_eq!(text(&output.stdout), "");
    text(&output.stderr)
}

#[test]
fn every_command_at_a_wrong_port_names_the_port_and_the_setting_of_the_right_one() {
    let server = Server::start();
    let Server { classic, http, admin, .. } = &server;
    let at_classic = format!("{classic} is the port of the classic protocol (listen) of a Janus server");
    let at_http = format!("{http} is the HTTP port (http_listen) of a Janus server");
    let at_admin = format!("{admin} is the admin port (admin_listen) of a Janus server");
    for (command, at, here, advice) in [
        (
            &["publish", "news", "1"][..],
            format!("http://{classic}"),
            &at_classic,
            format!("--server classic://{classic}, or the HTTP port (http_listen)"),
        ),
        (
            &["subscribe", "news"],
            format!("ws://{classic}"),
            &at_classic,
            format!("--server classic://{classic}, or the HTTP port (http_listen)"),
        ),
        (&["topics"], classic.to_string(), &at_classic, "topics needs the HTTP port (http_listen)".to_owned()),
        (&["health"], classic.to_string(), &at_classic, "health needs the admin port (admin_listen)".to_owned()),
        (&["health", "--ready"], http.to_string(), &at_http, "health needs the admin port (admin_listen)".to_owned()),
        (&["log"], http.to_string(), &at_http, "log needs the admin port (admin_listen)".to_owned()),
        (&["reload"], http.to_string(), &at_http, "reload needs the admin port (admin_listen)".to_owned()),
        (
            &["subscribe", "news"],
            admin.to_string(),
            &at_admin,
            "subscribe needs the HTTP port (http_listen)".to_owned(),
        ),
        (&["publish", "news", "1"], format!("classic://{http}"), &at_http, format!("use --server http://{http}")),
        (&["subscribe", "news"], format!("classic://{http}"), &at_http, format!("use --server http://{http}")),
        (&["publish", "news", "1"], format!("classic://{admin}"), &at_admin, format!("use --server http://{admin}")),
        (
            &["subscribe", "news"],
            format!("classic://{admin}"),
            &at_admin,
            "subscribe needs the HTTP port (http_listen)".to_owned(),
        ),
        (&["topics"], format!("https://{http}"), &at_http, format!("use --server http://{http}")),
        (&["health"], format!("https://{admin}"), &at_admin, format!("use --server http://{admin}")),
        (
            &["history", "news"],
            format!("https://{classic}"),
            &at_classic,
            "history needs the HTTP port (http_listen)".to_owned(),
        ),
    ] {
        let error = error(command, &at, None);
        assert!(error.contains(here) && error.contains(&advice), "{command:?} at {at}: {error}");
    }
}

#[test]
fn the_settings_of_the_server_tell_the_right_address() {
    let server = Server::start();
    let Server { classic, http, admin, config, .. } = &server;
    for (command, at, expected) in [
        (&["topics"][..], classic, format!("the HTTP port (http_listen): --server http://{http}")),
        (&["health"], http, format!("the admin port (admin_listen): --server http://{admin}")),
        (&["subscribe", "news"], admin, format!("the HTTP port (http_listen): --server http://{http}")),
        (&["publish", "news", "1"], classic, format!("or the HTTP port (http_listen), --server http://{http}")),
    ] {
        let told = error(command, &at.to_string(), Some(config));
        assert!(told.contains(&expected), "{command:?} at {at}: {told}");
    }
    // Settings that are not those of the server at the address tell nothing about it.
    let other = Server::start();
    let told = error(&["health"], &http.to_string(), Some(&other.config));
    assert!(told.contains("usually port 8082") && !told.contains(&other.admin.to_string()), "{told}");
}

#[test]
fn a_port_that_is_none_of_janus_is_no_wrong_port_of_it() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.unwrap().write_all(b"SSH-2.0-OpenSSH_9.2\r\n");
        }
    });
    for command in [&["topics"][..], &["health"], &["subscribe", "news"], &["publish", "news", "1"]] {
        let output = janus(&[command, &["--server", &address]].concat()).output().unwrap();
        assert_exit(&output, 1);
        let error = text(&output.stderr);
        assert!(!error.contains("_listen)") && !error.contains("use --server"), "{command:?}: {error}");
    }
}
