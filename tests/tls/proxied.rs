//! TLS ports behind load balancers, and the limits of an address there: both come before the handshake.

use std::net::{IpAddr, SocketAddr};

use janus_core::Config;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::rustls::pki_types::ServerName;

use super::{Server, Stream};
use crate::addresses::proxies::HaProxy;
use crate::support::{DEADLINE, until};

const PROXY: [u8; 4] = [127, 0, 0, 2];

async fn connect_from(from: [u8; 4], addr: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((from, 0))).unwrap();
    timeout(DEADLINE, socket.connect(addr)).await.unwrap().unwrap()
}

fn peers(server: &Server) -> Vec<String> {
    server.janus.connections(0, 100).iter().map(|client| client.peer.to_string()).collect()
}

/// A handshake on a connected socket.
async fn handshake(server: &Server, socket: TcpStream) -> std::io::Result<Stream> {
    let name = ServerName::try_from("localhost").unwrap();
    let io = timeout(DEADLINE, server.authority.connector(None).connect(name, socket)).await.expect("an answer")?;
    Ok(Stream { io, received: Vec::new() })
}

#[tokio::test]
async fn the_header_comes_before_the_handshake() {
    let server = Server::start(|config, _| Config { proxy_protocol: vec![IpAddr::from(PROXY).into()], ..config }).await;
    let mut socket = connect_from(PROXY, server.tls).await;
    socket.write_all(b"PROXY TCP4 203.0.113.9 192.0.2.1 4242 443\r\n").await.unwrap();
    let mut classic = handshake(&server, socket).await.unwrap();
    assert!(classic.frame().await.contains("\"token\""));
    assert_eq!(peers(&server), ["203.0.113.9:4242"]);

    let mut socket = connect_from(PROXY, server.https).await;
    let header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\0\x71\x0a\xc0\0\x02\x01\x10\x92\x01\xbb";
    socket.write_all(header).await.unwrap();
    let mut events = handshake(&server, socket).await.unwrap();
    events.send(b"GET /events?topic=news HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    events.up_to(b"subscribed").await;
    assert_eq!(peers(&server), ["203.0.113.9:4242", "203.0.113.10:4242"]);

    // Without a header from the proxy, and with a header from elsewhere, there is no handshake.
    assert!(handshake(&server, connect_from(PROXY, server.tls).await).await.is_err());
    let mut socket = connect_from([127, 0, 0, 3], server.tls).await;
    socket.write_all(b"PROXY TCP4 203.0.113.9 192.0.2.1 4242 443\r\n").await.unwrap();
    assert!(handshake(&server, socket).await.is_err());
    assert_eq!(server.janus.stats().proxy_headers_refused, 1);
}

#[tokio::test]
async fn a_connection_beyond_the_limit_of_its_address_gets_no_handshake() {
    let limited = |config| Config { max_connections_per_ip: 1, unlimited_networks: Vec::new(), ..config };
    let server = Server::start(|config, _| limited(config)).await;
    let first = connect_from(PROXY, server.tls).await;
    // The handshake counts as well: the first client has sent nothing yet.
    let mut second = connect_from(PROXY, server.tls).await;
    let mut alert = Vec::new();
    let _ = timeout(DEADLINE, second.read_to_end(&mut alert)).await.expect("an end");
    assert_eq!(alert, [21, 3, 3, 0, 2, 2, 49], "access denied");
    let mut first = handshake(&server, first).await.unwrap();
    first.frame().await;
    assert_eq!(server.janus.stats().connections_refused_for_address, 1);
    assert_eq!(server.janus.stats().tls_handshakes, 1);
    drop(first);
    until("there is room", || server.janus.stats().connections == 0).await;
    handshake(&server, connect_from(PROXY, server.tls).await).await.unwrap().frame().await;
}

#[tokio::test]
async fn haproxy_passes_tls_through_with_the_clients_address() {
    let server = Server::start(|config, _| Config { proxy_protocol: vec![IpAddr::from(PROXY).into()], ..config }).await;
    let haproxy = HaProxy::start(&[("tcp", server.tls, "send-proxy"), ("tcp", server.https, "send-proxy-v2")]);
    for addr in haproxy.addresses() {
        let socket = connect_from([127, 0, 0, 77], addr).await;
        let client = socket.local_addr().unwrap().to_string();
        let mut stream = handshake(&server, socket).await.unwrap();
        if addr == haproxy.addresses()[1] {
            stream.send(b"GET /events?topic=news HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
            stream.up_to(b"subscribed").await;
        } else {
            stream.frame().await;
        }
        assert!(peers(&server).contains(&client), "{client}: {:?}", peers(&server));
    }
}
