//! The client commands over TLS.

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

/// A URL by the name in the certificate.
fn url(scheme: &str, address: SocketAddr) -> String {
    format!("{scheme}://localhost:{}", address.port())
}

#[test]
fn commands_over_tls_publish_subscribe_and_trace() {
    let server = Server::start();
    let (classics, https, wss) = (url("classics", server.tls), url("https", server.https), url("wss", server.https));
    let publish = |to: &str| {
        let output = janus(&["publish", "news", "1", "--server", to, "--ca", server.ca()]).output().unwrap();
        assert_exit(&output, 0);
        text(&output.stdout)
    };
    let by_classics = Running::start(&["subscribe", "news", "--server", &classics, "--ca", server.ca()]);
    by_classics.error_line("subscribed");
    let by_wss = Running::start(&["subscribe", "news", "--server", &wss, "--ca", server.ca()]);
    by_wss.error_line(&format!("subscribed at {https}"));
    assert!(publish(&classics).contains("\"seq\":1,\"subscribers\":2"));
    assert!(publish(&https).contains("\"seq\":2,\"subscribers\":2"));
    for expected in ["\"data\":1}", "\"data\":1}"] {
        assert!(by_classics.line().ends_with(expected));
        assert!(by_wss.line().ends_with(expected));
    }

    let arguments = ["trace", "--server", &https, "--ca", server.ca(), "--kind", "publish", "--count", "1"];
    let mut trace = Running::start(&[&arguments[..], &["--seconds", "60"]].concat());
    while !trace.has_ended() {
        publish(&https);
    }
    assert!(trace.line().contains("\"topic news\""));
    assert_eq!(trace.wait().code(), Some(0));
}

#[test]
fn a_subscriber_over_tls_comes_back_to_its_session() {
    let server = Server::start();
    for (scheme, address) in [("classics", server.tls), ("https", server.https)] {
        let proxy = Proxy::to(address);
        let at_proxy = format!("{scheme}://localhost:{}", proxy.port());
        let subscriber =
            Running::start(&["subscribe", "news", "--server", &at_proxy, "--ca", server.ca(), "--reconnect"]);
        subscriber.error_line("subscribed");
        proxy.cut();
        subscriber.error_line("reconnecting in");
        subscriber.error_line(": 0 missed messages of news");
    }
}

#[test]
fn the_authorities_of_the_system_are_accepted_without_a_file() {
    let server = Server::start();
    let other = server.files.write("other.pem", &Authority::new().pem());
    for address in [url("classics", server.tls), url("https", server.https)] {
        // A system's list may be replaced by this variable.
        let publish = |authority: &PathBuf| {
            let mut command = binary(&["publish", "news", "1", "--server", &address]);
            command.env("SSL_CERT_FILE", authority).output().unwrap()
        };
        assert_exit(&publish(&server.ca), 0);
        assert_exit(&publish(&other), 1);
    }
}

#[test]
fn a_command_with_the_wrong_protocol_on_a_port_says_which_is_right() {
    let server = Server::start();
    let other = server.files.write("other.pem", &Authority::new().pem());
    let (other, key) = (other.to_str().unwrap(), server.files.path("server.key"));
    let (at_tls, at_https) = (server.tls.port(), server.https.port());
    let plain: SocketAddr = server.plain.parse().unwrap();
    for (scheme, address, ca, code, expected) in [
        (
            "classic",
            server.tls,
            server.ca(),
            2,
            format!("(tls_listen) of a Janus server: use --server classics://localhost:{at_tls}"),
        ),
        (
            "http",
            server.tls,
            server.ca(),
            2,
            format!("(tls_listen) of a Janus server: use --server classics://localhost:{at_tls}"),
        ),
        (
            "http",
            server.https,
            server.ca(),
            2,
            format!("(https_listen) of a Janus server: use --server https://localhost:{at_https}"),
        ),
        ("classics", server.https, server.ca(), 2, format!("use --server https://localhost:{at_https}")),
        (
            "classics",
            plain,
            server.ca(),
            2,
            format!("(listen) of a Janus server: use --server classic://localhost:{}", plain.port()),
        ),
        ("https", plain, server.ca(), 2, format!("use --server classic://localhost:{}", plain.port())),
        // Without the authority no more is known than that the port speaks TLS.
        (
            "http",
            server.https,
            other,
            2,
            format!(
                "a port with TLS (https_listen or tls_listen) of a Janus server: use --server https://localhost:{at_https}, with --ca FILE"
            ),
        ),
        ("https", server.https, other, 1, "(--ca FILE names the authority of the server's certificate)".to_owned()),
        ("classics", server.tls, "missing.pem", 2, "cannot use missing.pem as the authorities of servers: ".to_owned()),
        ("https", server.https, key.to_str().unwrap(), 2, "no certificate in PEM".to_owned()),
    ] {
        let output = janus(&["publish", "news", "1", "--server", &url(scheme, address), "--ca", ca]).output().unwrap();
        assert_exit(&output, code);
        assert!(text(&output.stderr).contains(&expected), "{scheme} {address}: {}", text(&output.stderr));
    }
    for (scheme, address) in [("classics", server.tls), ("https", server.https)] {
        let unnamed = format!("{scheme}://{address}");
        let output = janus(&["publish", "news", "1", "--server", &unnamed, "--ca", server.ca()]).output().unwrap();
        assert_exit(&output, 1);
        assert!(text(&output.stderr).contains("--server must have a name of the server's certificate"));
    }
}
