//! New certificates under open connections, and certificates by name.

use janus_core::Config;
use tokio_rustls::rustls::pki_types::CertificateDer;

use super::certificates::Pair;
use super::{Server, Stream, logged_address};
use crate::cli_run::Running;
use crate::support::subscribers;

/// The certificate that a new client is served with.
async fn served(server: &Server, name: &str) -> CertificateDer<'static> {
    let stream = Stream::connect(&server.authority.connector(None), server.https, name).await.unwrap();
    stream.io.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

fn new_pair(server: &Server) -> Pair {
    server.authority.server(&["localhost"])
}

#[tokio::test]
async fn a_reload_serves_the_new_pair_and_closes_no_connection() {
    const CLIENTS: usize = 1_000;
    let server = Server::start(|config, _| config).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(server.subscriber("news").await);
    }
    let first = served(&server, "localhost").await;
    let pair = new_pair(&server);
    server.files.write_pair("server", &pair);
    server.janus.reload_certificates().unwrap();
    assert_ne!(first, pair.der);
    assert_eq!(served(&server, "localhost").await, pair.der);
    assert_eq!(subscribers(&server.janus, "news"), Some(CLIENTS));
    server.janus.publish("news", "after the reload").await.unwrap();
    for client in &mut clients {
        assert!(client.frame().await.contains("after the reload"));
    }
    server.janus.shutdown().await;
}

#[tokio::test]
async fn a_pair_that_does_not_fit_leaves_the_earlier_pair_in_use() {
    let server = Server::start(|config, _| config).await;
    let first = served(&server, "localhost").await;
    let pair = new_pair(&server);
    server.files.write("server.pem", &pair.pem);
    let error = server.janus.reload_certificates().unwrap_err().to_string();
    assert!(error.contains("server.key is not the key of the first certificate in"), "{error}");
    assert_eq!(served(&server, "localhost").await, first);
    assert_eq!(server.janus.stats().certificates_refused, 1);
    std::fs::remove_file(server.files.path("server.pem")).unwrap();
    let error = server.janus.reload_certificates().unwrap_err().to_string();
    assert!(error.starts_with("tls_cert: cannot read ") && error.contains("server.pem: "), "{error}");
    assert_eq!(served(&server, "localhost").await, first);
    server.janus.shutdown().await;
}

#[tokio::test]
async fn the_certificate_is_chosen_by_the_name_of_the_server() {
    let mut second = None;
    let authority = super::Authority::new();
    let server = Server::start(|config, files| {
        let pair = authority.server(&["b.example", "*.c.example"]);
        let (certificate, key) = files.write_pair("second", &pair);
        second = Some(pair.der);
        let (mut tls_cert, mut tls_key) = (config.tls_cert, config.tls_key);
        tls_cert.push(certificate);
        tls_key.push(key);
        Config { tls_cert, tls_key, ..config }
    })
    .await;
    let connector = authority.connector(None);
    for name in ["b.example", "www.c.example"] {
        let stream = Stream::connect(&connector, server.tls, name).await.unwrap();
        assert_eq!(stream.io.get_ref().1.peer_certificates().unwrap()[0], *second.as_ref().unwrap(), "{name}");
    }
    assert_ne!(served(&server, "localhost").await, *second.as_ref().unwrap());
    // Any other name gets the first pair, which this client does not accept for the name.
    assert!(Stream::connect(&server.authority.connector(None), server.tls, "d.example").await.is_err());
    server.janus.shutdown().await;
}

#[tokio::test]
async fn sighup_reloads_the_certificates_of_the_binary() {
    let (authority, files) = (super::Authority::new(), super::Files::new());
    let (certificate, key) = files.write_pair("server", &authority.server(&["localhost"]));
    let server = Running::start(&[
        "--listen",
        "127.0.0.1:0",
        "--tls-listen",
        "127.0.0.1:0",
        "--https-listen",
        "127.0.0.1:0",
        "--tls-cert",
        certificate.to_str().unwrap(),
        "--tls-key",
        key.to_str().unwrap(),
    ]);
    let tls = logged_address(&server.error_line(" (TLS)"));
    let https = logged_address(&server.error_line("serving HTTP on "));
    let connector = authority.connector(None);
    let mut client = Stream::connect(&connector, tls, "localhost").await.unwrap();
    client.frame().await;

    let pair = authority.server(&["localhost"]);
    files.write("server.pem", &pair.pem);
    server.signal("HUP");
    server.error_line("reload: the key in ");
    server.error_line("reload: nothing has changed");
    files.write_pair("server", &pair);
    server.signal("HUP");
    server.error_line("reload: no setting has changed; the files of certificates and keys have been read again");
    // A client with a ticket of the earlier connection would not be shown a certificate.
    let mut api = Stream::connect(&authority.connector(None), https, "localhost").await.unwrap();
    assert_eq!(api.io.get_ref().1.peer_certificates().unwrap()[0], pair.der);
    // The client from before is served as ever, and the API sees its connection.
    client.send(&crate::support::subscribe_frame("news")).await;
    assert_eq!(client.frame().await, "ACK");
    api.send(b"GET /api/connections HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
    let answer = String::from_utf8(api.read_to_the_end().await.unwrap()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"transport\":\"classic\""), "{answer}");
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
}
