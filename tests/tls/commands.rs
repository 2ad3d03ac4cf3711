//! `janus-server publish`, `subscribe` and `trace` over TLS.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::certificates::{Authority, Files};
use super::logged_address;
use crate::browser_run::Proxy;
use crate::cli_run::{Running, assert_exit, binary, janus, text};

/// The binary with its ports over TLS, and a plain classic port.
struct Server {
    _running: Running,
    plain: String,
    tls: SocketAddr,
    https: SocketAddr,
    files: Files,
    ca: PathBuf,
}

impl Server {
    fn start() -> Self {
        let (authority, files) = (Authority::new(), Files::new());
        let (certificate, key) = files.write_pair("server", &authority.server(&["localhost"]));
        let ca = files.write("authority.pem", &authority.pem());
        let listen = ["--listen", "127.0.0.1:0", "--tls-listen", "127.0.0.1:0", "--https-listen", "127.0.0.1:0"];
        let pair = ["--tls-cert", certificate.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
        let running = Running::start(&[&listen[..], &pair].concat());
        let plain = running.error_line("listening on ").rsplit(' ').next().unwrap().to_owned();
        let tls = logged_address(&running.error_line("listening on "));
        let https = logged_address(&running.error_line("serving HTTP on "));
        Self { _running: running, plain, tls, https, files, ca }
    }

    fn ca(&self) -> &str {
        self.ca.to_str().unwrap()
    }
}

/// The address by the name in the certificate.
fn named(address: SocketAddr) -> String {
    format!("localhost:{}", address.port())
}

#[test]
fn commands_over_tls_publish_subscribe_and_trace() {
    let server = Server::start();
    let (tls, https) = (named(server.tls), named(server.https));
    let publish = || {
        let output = janus(&["publish", "news", "1", "--to", &tls, "--ca", server.ca()]).output().unwrap();
        assert_exit(&output, 0);
        text(&output.stdout)
    };
    let subscriber = Running::start(&["subscribe", "news", "--from", &tls, "--ca", server.ca()]);
    subscriber.error_line("subscribed");
    assert!(publish().contains("\"seq\":1,\"subscribers\":1"));
    assert!(subscriber.line().ends_with("\"data\":1}"));

    let arguments = ["trace", "--from", &https, "--ca", server.ca(), "--kind", "publish", "--count", "1"];
    let mut trace = Running::start(&[&arguments[..], &["--seconds", "60"]].concat());
    while !trace.has_ended() {
        publish();
    }
    assert!(trace.line().contains("\"topic news\""));
    assert_eq!(trace.wait().code(), Some(0));
}

#[test]
fn a_subscriber_over_tls_comes_back_to_its_session() {
    let server = Server::start();
    let proxy = Proxy::to(server.tls);
    let at_proxy = format!("localhost:{}", proxy.port());
    let subscriber = Running::start(&["subscribe", "news", "--from", &at_proxy, "--ca", server.ca(), "--reconnect"]);
    subscriber.error_line("subscribed");
    proxy.cut();
    subscriber.error_line("the connection was lost");
    subscriber.error_line(": 0 missed messages of news");
}

#[test]
fn the_authorities_of_the_system_are_accepted_with_the_flag_tls() {
    let server = Server::start();
    let mut command = binary(&["publish", "news", "1", "--to", &named(server.tls), "--tls"]);
    // A system's list may be replaced by this variable.
    let output = command.env("SSL_CERT_FILE", &server.ca).output().unwrap();
    assert_exit(&output, 0);
    let output =
        command.env("SSL_CERT_FILE", server.files.write("other.pem", &Authority::new().pem())).output().unwrap();
    assert_exit(&output, 1);
}

#[test]
fn a_command_without_tls_on_either_side_says_what_to_do() {
    let server = Server::start();
    let (tls, unnamed) = (named(server.tls), server.tls.to_string());
    let other = server.files.write("other.pem", &Authority::new().pem());
    let (other, key) = (other.to_str().unwrap(), server.files.path("server.key"));
    for (arguments, code, expected) in [
        (&["--to", &tls][..], 1, "the server speaks TLS on this port: add --tls, or --ca FILE"),
        (&["--to", &server.plain, "--ca", server.ca()], 1, "(is this a port with TLS? the settings are tls_listen"),
        (&["--to", &tls, "--ca", other], 1, "(--ca FILE names the authority of the server's certificate)"),
        (&["--to", &unnamed, "--ca", server.ca()], 1, "not valid for name"),
        (&["--to", &tls, "--ca", "missing.pem"], 2, "cannot use missing.pem as the authorities of servers: "),
        (&["--to", &tls, "--ca", key.to_str().unwrap()], 2, "no certificate in PEM"),
    ] {
        let output = janus(&[&["publish", "news", "1"], arguments].concat()).output().unwrap();
        assert_exit(&output, code);
        assert!(text(&output.stderr).contains(expected), "{arguments:?}: {}", text(&output.stderr));
    }
}
