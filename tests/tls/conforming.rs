//! The contract of a transport, kept over TLS ports, and over TLS streams of a program that embeds Janus.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use janus_core::conformance::{
    Carrier, Check, ClassicClient, ClientFormat, Connecting, SseClient, Suite, WebSocketClient,
};
use janus_core::wire::Codec;
use janus_core::wire::classic::Classic;
use janus_core::{ByteStream, Incoming, Janus};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::certificates::Authority;
use crate::conformance::{assert_skips_only, http_port};
use crate::support::own_address;

async fn connect(connector: TlsConnector, to: std::net::SocketAddr) -> io::Result<Pin<Box<dyn ByteStream>>> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    // Thousands of clients come and go: none may leave a port behind in TIME_WAIT.
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    let name = ServerName::try_from("localhost").unwrap();
    Ok(Box::pin(connector.connect(name, stream).await?))
}

/// Clients over a TLS port.
fn port() -> Carrier {
    let authority = Authority::new();
    let (config, connector) = (authority.server_config(&["localhost"]), authority.connector(None));
    Carrier::own("port", move |builder, codec| {
        let builder = builder.tls(Arc::clone(&config)).listen_tls(own_address(), codec);
        let connector = connector.clone();
        let connected =
            move |janus: &Janus| -> Connecting { Box::pin(connect(connector.clone(), janus.local_addrs()[0])) };
        (builder, Box::new(connected))
    })
}

/// Clients whose handshake is done by the program, with the TLS of tokio.
fn streams() -> Carrier {
    let authority = Authority::new();
    let (config, connector) = (authority.server_config(&["localhost"]), authority.connector(None));
    let acceptor = TlsAcceptor::from(config);
    Carrier::own("stream", move |builder, codec| {
        let (acceptor, connector) = (acceptor.clone(), connector.clone());
        let connected = move |janus: &Janus| -> Connecting {
            Box::pin(serve(janus.clone(), acceptor.clone(), connector.clone(), Arc::clone(&codec)))
        };
        (builder, Box::new(connected))
    })
}

async fn serve(
    janus: Janus,
    acceptor: TlsAcceptor,
    connector: TlsConnector,
    codec: Arc<dyn Codec>,
) -> io::Result<Pin<Box<dyn ByteStream>>> {
    let listener = TcpListener::bind(own_address()).await?;
    let accept = async {
        let (stream, _) = listener.accept().await?;
        acceptor.accept(stream).await
    };
    let (client, accepted) = tokio::try_join!(connect(connector, listener.local_addr()?), accept)?;
    janus.serve(Incoming::stream(accepted), &codec, None).map_err(io::Error::other)?;
    Ok(client)
}

async fn assert_conforms(codec: impl Codec, client: impl ClientFormat, skipped: &[Check]) {
    let report = Suite::new(codec, client).carrier(port()).carrier(streams()).run().await;
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
    assert_conforms(
        http_port(),
        SseClient,
        &[Check::Unsubscribe, Check::TopicLimit, Check::Unfinished, Check::Declared],
    )
    .await;
}
