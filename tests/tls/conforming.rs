//! The contract of a transport, kept over TLS ports.

use janus_core::Janus;
use janus_core::conformance::{
    Carrier, Check, ClassicClient, ClientFormat, Connecting, SseClient, Suite, WebSocketClient,
};
use janus_core::wire::Codec;
use janus_core::wire::classic::Classic;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};

use super::certificates::Authority;
use crate::conformance::{assert_skips_only, http_port};
use crate::support::own_address;

async fn connect(
    connector: TlsConnector,
    janus: Janus,
) -> std::io::Result<std::pin::Pin<Box<dyn janus_core::ByteStream>>> {
    let stream = TcpStream::connect(janus.local_addrs()[0]).await?;
    stream.set_nodelay(true)?;
    // Thousands of clients come and go: none may leave a port behind in TIME_WAIT.
    socket2::SockRef::from(&stream).set_linger(Some(std::time::Duration::ZERO))?;
    let name = ServerName::try_from("localhost").unwrap();
    Ok(Box::pin(connector.connect(name, stream).await?))
}

/// Clients over a TLS port.
fn carrier() -> Carrier {
    let authority = Authority::new();
    let pair = authority.server(&["localhost"]);
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pair.key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![pair.der], key)
        .unwrap();
    let (config, connector) = (Arc::new(config), authority.connector(None));
    Carrier::own("tls", move |builder, codec| {
        let builder = builder.tls(Arc::clone(&config)).listen_tls(own_address(), codec);
        let connector = connector.clone();
        let connected = move |janus: &Janus| -> Connecting { Box::pin(connect(connector.clone(), janus.clone())) };
        (builder, Box::new(connected))
    })
}

async fn assert_conforms(codec: impl Codec, client: impl ClientFormat, skipped: &[Check]) {
    let report = Suite::new(codec, client).carrier(carrier()).run().await;
    // The suite crashes a connection by the client's address, and knows no address here.
    assert_skips_only(&report, &[skipped, &[Check::ConnectionCrash]].concat());
}

#[tokio::test]
async fn the_classic_transport_conforms_over_tls() {
    assert_conforms(Classic, ClassicClient, &[Check::Gaps]).await;
}

#[tokio::test]
async fn the_websocket_transport_conforms_over_tls() {
    assert_conforms(http_port(), WebSocketClient, &[]).await;
}

#[tokio::test]
async fn the_transport_of_server_sent_events_conforms_over_tls() {
    assert_conforms(http_port(), SseClient, &[Check::Unsubscribe, Check::TopicLimit]).await;
}
