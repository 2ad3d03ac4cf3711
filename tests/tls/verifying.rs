//! Certificates of clients: off, optional, required.

use janus_core::hooks::{ConnectRequest, Denied, Hooks, Identity};
use janus_core::{ClientCertificates, Config};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;

use super::certificates::{Authority, Files, Pair};
use super::{Server, Stream};

/// Reports the result of each client's handshake.
struct Reports(mpsc::Sender<(Option<Vec<u8>>, Option<String>)>);

impl Hooks for Reports {
    async fn authenticate(&self, request: ConnectRequest) -> Result<Identity, Denied> {
        let tls = request.tls.expect("the client is connected over TLS");
        self.0.send((tls.certificate, tls.server_name)).await.unwrap();
        Ok(Identity::anonymous())
    }
}

/// The first byte of a greeting, or the error in its place. In TLS 1.3 a client learns of a refused certificate with its
/// first read.
async fn greeted(server: &Server, connector: &TlsConnector) -> std::io::Result<()> {
    let mut stream = Stream::connect(connector, server.tls, "localhost").await?;
    let mut byte = [0];
    let read = tokio::io::AsyncReadExt::read_exact(&mut stream.io, &mut byte);
    tokio::time::timeout(super::DEADLINE, read).await.expect("a greeting or an alert").map(drop)
}

/// Whether a client gets a greeting.
async fn is_served(server: &Server, own: Option<&Pair>) -> bool {
    is_served_by(server, &server.authority.connector(own)).await
}

async fn is_served_by(server: &Server, connector: &TlsConnector) -> bool {
    greeted(server, connector).await.is_ok()
}

async fn start(
    clients: &Authority,
    tls_client: ClientCertificates,
) -> (Server, mpsc::Receiver<(Option<Vec<u8>>, Option<String>)>) {
    let (reports, received) = mpsc::channel(16);
    let change = |config, files: &Files| {
        let tls_client_ca = Some(files.write("clients.pem", &clients.pem()));
        Config { tls_client, tls_client_ca, ..config }
    };
    (Server::start_with(change, |builder| builder.hooks(Reports(reports))).await, received)
}

#[tokio::test]
async fn a_certificate_decides_about_the_client_as_configured() {
    let (clients, others) = (Authority::new(), Authority::new());
    let (good, expired, unknown) = (clients.client(), clients.expired_client(), others.client());
    for (tls_client, without, with_bad) in [
        (ClientCertificates::Off, true, true),
        (ClientCertificates::Optional, true, false),
        (ClientCertificates::Required, false, false),
    ] {
        let (server, _reports) = start(&clients, tls_client).await;
        for (own, expected) in
            [(None, without), (Some(&good), true), (Some(&expired), with_bad), (Some(&unknown), with_bad)]
        {
            assert_eq!(is_served(&server, own).await, expected, "{tls_client}");
        }
        server.janus.shutdown().await;
    }
}

#[tokio::test]
async fn a_refused_certificate_is_answered_with_the_alert_for_its_fault() {
    let (clients, others) = (Authority::new(), Authority::new());
    let (server, _reports) = start(&clients, ClientCertificates::Required).await;
    for (own, alert) in [
        (None, "CertificateRequired"),
        (Some(clients.expired_client()), "CertificateExpired"),
        (Some(others.client()), "UnknownCA"),
        // A server's certificate is not for clients.
        (Some(clients.server(&["localhost"])), "served"),
    ] {
        match greeted(&server, &server.authority.connector(own.as_ref())).await {
            Ok(()) => assert_eq!(alert, "served"),
            Err(error) => assert!(error.to_string().contains(alert), "{error} in place of {alert}"),
        }
    }
    server.janus.shutdown().await;
}

#[tokio::test]
async fn a_hook_sees_the_verified_certificate_and_the_name_of_the_server() {
    let clients = Authority::new();
    let good = clients.client();
    let (server, mut reports) = start(&clients, ClientCertificates::Optional).await;
    for (own, expected) in [(Some(&good), Some(good.der.to_vec())), (None, None)] {
        assert!(is_served(&server, own).await);
        assert_eq!(reports.recv().await.unwrap(), (expected, Some("localhost".to_owned())));
    }
    server.janus.shutdown().await;
}

#[tokio::test]
async fn a_new_authority_refuses_the_tickets_of_the_earlier_authority() {
    let (earlier, new) = (Authority::new(), Authority::new());
    let (old_client, new_client) = (earlier.client(), new.client());
    let (server, mut reports) = start(&earlier, ClientCertificates::Required).await;
    let connector = server.authority.connector(Some(&old_client));
    for _ in 0..2 {
        assert!(is_served_by(&server, &connector).await);
        // The second handshake resumes the first, and the certificate is known all the same.
        assert_eq!(reports.recv().await.unwrap().0, Some(old_client.der.to_vec()));
    }
    server.files.write("clients.pem", &new.pem());
    server.janus.reload_certificates().unwrap();
    assert!(!is_served_by(&server, &connector).await);
    assert!(is_served(&server, Some(&new_client)).await);
    server.janus.shutdown().await;
}
