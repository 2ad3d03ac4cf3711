//! The listening sockets of TCP ports, and the options of their connections.
//!
//! With several home arbiters a port has a socket for each home (`SO_REUSEPORT`), and the kernel divides the connections
//! among the sockets. A socket that other code has bound is a single one; its connections are given to the homes in turn.
//! So are those of every port where the kernel is not Linux: the others give all connections to one of the sockets.

use std::io;
use std::net::SocketAddr;
use std::task::{self, Poll};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::config::{Config, MAX_TCP_KEEPALIVE};
use crate::connection::listener::{Incoming, Listener};
use crate::connection::socket_options::{self, Options, Told};
use crate::delivery::Link;
use crate::wire::Peer;

/// A listening socket of TCP.
pub(crate) struct TcpPort {
    socket: TcpSocket,
    /// Whether each connection has the options of this socket from the start.
    inherits: bool,
}

enum TcpSocket {
    /// Not yet registered with a runtime.
    Bound(Option<std::net::TcpListener>),
    Listening(TcpListener),
}

impl TcpPort {
    /// A socket for each home, or a single one for all; the kernel divides the connections to the port among the sockets.
    /// Options that the kernel lacks are named in the log, unless `told` has named them already.
    pub(crate) fn bind(addr: SocketAddr, homes: usize, config: &Config, told: &Told) -> io::Result<Vec<Self>> {
        let homes = if cfg!(target_os = "linux") { homes } else { 1 };
        let first = bind(addr, config, told)?;
        // Not before the bind: the port must belong to no other process, not even of the same user.
        let shares = homes > 1;
        first.set_reuse_port(shares)?;
        let addr = first.local_addr()?.as_socket().unwrap_or(addr);
        let others = (1..homes).map(|_| bind_shared(addr, config, told));
        let sockets = std::iter::once(Ok(first)).chain(others).collect::<io::Result<Vec<_>>>()?;
        let listen = |socket: Socket| {
            socket.listen(i32::try_from(config.backlog).unwrap_or(i32::MAX))?;
            socket.set_nonblocking(true)?;
            Ok(Self { socket: TcpSocket::Bound(Some(socket.into())), inherits: cfg!(target_os = "linux") })
        };
        sockets.into_iter().map(listen).collect()
    }

    /// A socket that listens already, with the options of the server's own sockets from now on. Another process may
    /// listen on the same socket, so the socket is never shut down, only closed.
    pub(crate) fn adopt(socket: std::net::TcpListener, config: &Config, told: &Told) -> io::Result<Self> {
        // An address, and not a socket of another kind.
        socket.local_addr()?;
        let options = SockRef::from(&socket);
        if !options.is_listener()? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the socket does not listen"));
        }
        told.warn(&socket_options::set(&options, config));
        options.set_nonblocking(true)?;
        // Connections may wait in the backlog already, without the options.
        Ok(Self { socket: TcpSocket::Bound(Some(socket)), inherits: false })
    }
}

impl Listener for TcpPort {
    /// Read back, because port 0 lets the system choose.
    fn local_addr(&self) -> Option<SocketAddr> {
        match &self.socket {
            TcpSocket::Bound(socket) => socket.as_ref()?.local_addr().ok(),
            TcpSocket::Listening(socket) => socket.local_addr().ok(),
        }
    }

    fn start(&mut self) -> io::Result<()> {
        if let TcpSocket::Bound(socket) = &mut self.socket
            && let Some(socket) = socket.take()
        {
            self.socket = TcpSocket::Listening(TcpListener::from_std(socket)?);
        }
        Ok(())
    }

    fn poll_accept(&mut self, cx: &mut task::Context<'_>) -> Poll<io::Result<Incoming>> {
        let inherits = self.inherits;
        match &self.socket {
            TcpSocket::Bound(_) => Poll::Pending,
            TcpSocket::Listening(socket) => socket.poll_accept(cx).map_ok(|(stream, peer)| {
                // A socket from elsewhere may take connections of IPv4 for connections of IPv6.
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                Incoming { inherits, ..Incoming::tcp(stream, peer) }
            }),
        }
    }
}

/// Opens a socket with all options for its connections to inherit, at a port of its own.
fn bind(addr: SocketAddr, config: &Config, told: &Told) -> io::Result<Socket> {
    let socket = open(addr, config, told)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

/// Opens a further socket at the port of such a socket.
fn bind_shared(addr: SocketAddr, config: &Config, told: &Told) -> io::Result<Socket> {
    let socket = open(addr, config, told)?;
    socket.set_reuse_port(true)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

fn open(addr: SocketAddr, config: &Config, told: &Told) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // A restarted server must not wait for the old one's connections to leave TIME_WAIT.
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    told.warn(&socket_options::set(&socket, config));
    Ok(socket)
}

/// Gives a socket the options that it has not inherited, even a socket that other code has accepted: all limits count
/// on these options. `bound` has the options of the sockets that the server has bound, which are those of the start;
/// connections of other sockets inherit nothing for sure.
pub(crate) fn prepare(incoming: &Incoming, config: &Config, bound: Option<Options>) {
    let Incoming { link, peer, inherits, .. } = incoming;
    let has_inherited = *inherits && bound == Some(Options::of(config));
    match link {
        Link::Tcp(stream) if !has_inherited => {
            for missing in socket_options::set(&SockRef::from(stream), config) {
                log::debug!(peer:%; "{peer}: {missing}");
            }
        }
        // By default the buffer would hold three times as much, and the client would read stale messages.
        #[cfg(unix)]
        Link::Unix(stream) => {
            if let Err(error) = SockRef::from(&**stream).set_send_buffer_size(config.send_buffer_bytes) {
                log::debug!(peer:%; "{peer}: {error}");
            }
        }
        _ => {}
    }
    if let (Some(stream), Peer::Addr(addr)) = (link.tcp(), peer) {
        spread_probes(stream, *addr, config.tcp_keepalive);
    }
}

/// Sets the time after which the kernel probes an idle connection: from three to five quarters of `tcp_keepalive`,
/// different for each connection.
///
/// Thousands of clients that connect together and stay idle would all be probed in the same moment, again and again.
/// That many answers at once do not fit through the queue of a network device, and a client whose answers are lost is
/// taken for dead.
fn spread_probes(stream: &TcpStream, peer: SocketAddr, keepalive: Duration) {
    // Ports of one client follow each other; multiplied by a fraction near the golden ratio, they are spread evenly.
    let part = f64::from(peer.port().wrapping_mul(40_503)) / f64::from(u16::MAX);
    let time = keepalive.mul_f64(0.75 + part / 2.0).clamp(Duration::from_secs(1), MAX_TCP_KEEPALIVE);
    // On failure the connection keeps the time of its listener: only less well spread.
    let _ = rustix::net::sockopt::set_tcp_keepidle(stream, time);
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::net::{self, Ipv4Addr};

    use super::*;

    #[tokio::test]
    async fn a_connection_from_before_the_adoption_of_its_socket_gets_the_options() {
        let config = Config { send_buffer_bytes: 12_345, ..Config::default() };
        let bound = Some(Options::of(&config));
        let socket = net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addr = socket.local_addr().unwrap();
        let _early = net::TcpStream::connect(addr).unwrap();
        let mut port = TcpPort::adopt(socket, &config, &Told::default()).unwrap();
        let _late = net::TcpStream::connect(addr).unwrap();
        port.start().unwrap();
        for which in ["early", "late"] {
            let incoming = poll_fn(|cx| port.poll_accept(cx)).await.unwrap();
            prepare(&incoming, &config, bound);
            let socket = SockRef::from(incoming.link.tcp().unwrap());
            assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap(), "{which}");
            // The kernel doubles the number for its own use.
            assert!((12_345..=2 * 12_345).contains(&socket.send_buffer_size().unwrap()), "{which}");
        }
    }

    /// Waits for a connection at any of the sockets; returns the socket's place.
    async fn accept(sockets: &mut [TcpPort]) -> usize {
        poll_fn(|cx| {
            let ready = |(place, socket): (usize, &mut TcpPort)| socket.poll_accept(cx).is_ready().then_some(place);
            sockets.iter_mut().enumerate().find_map(ready).map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_connections_of_a_port_are_divided_among_the_sockets_of_the_homes() {
        let config = Config::default();
        let mut sockets = TcpPort::bind(([127, 0, 0, 1], 0).into(), 3, &config, &Told::default()).unwrap();
        let addrs: Vec<_> = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
        assert!(addrs.len() == 3 && addrs.iter().all(|addr| *addr == addrs[0]));
        sockets.iter_mut().for_each(|socket| socket.start().unwrap());
        let mut accepted = [0; 3];
        // The kernel chooses by a hash of the client's port: 300 times the same socket is no chance.
        let clients: Vec<_> = (0..300).map(|_| net::TcpStream::connect(addrs[0]).unwrap()).collect();
        for _ in &clients {
            accepted[accept(&mut sockets).await] += 1;
        }
        assert!(accepted.iter().all(|&count| count > 50), "{accepted:?}");
    }

    #[tokio::test]
    async fn a_port_of_several_sockets_is_free_at_once_for_the_next_server_in_both_families() {
        let config = Config::default();
        let mut v4 = SocketAddr::from(([0, 0, 0, 0], 0));
        for round in 0..2 {
            let mut sockets = TcpPort::bind(v4, 3, &config, &Told::default()).unwrap();
            v4.set_port(sockets[0].local_addr().unwrap().port());
            // Where the machine has no IPv6, there is nothing to be in the way.
            let v6 = SocketAddr::new(net::Ipv6Addr::UNSPECIFIED.into(), v4.port());
            match TcpPort::bind(v6, 3, &config, &Told::default()) {
                Ok(sockets) => assert_eq!(sockets[2].local_addr(), Some(v6)),
                Err(error) => assert_ne!(error.kind(), io::ErrorKind::AddrInUse, "round {round}"),
            }
            sockets.iter_mut().for_each(|socket| socket.start().unwrap());
            let client = net::TcpStream::connect((Ipv4Addr::LOCALHOST, v4.port())).unwrap();
            let accepted = poll_fn(|cx| {
                let accepted = sockets.iter_mut().find_map(|socket| match socket.poll_accept(cx) {
                    Poll::Ready(accepted) => Some(accepted.unwrap()),
                    Poll::Pending => None,
                });
                accepted.map_or(Poll::Pending, Poll::Ready)
            });
            // The server closes first, and its side of the connection stays in TIME_WAIT.
            drop((accepted.await, client));
        }
    }

    #[tokio::test]
    async fn a_port_of_several_sockets_belongs_to_one_server() {
        let config = Config::default();
        let bind = |addr, homes| TcpPort::bind(addr, homes, &config, &Told::default());
        let sockets = bind(([127, 0, 0, 1], 0).into(), 2).unwrap();
        let addr = sockets[0].local_addr().unwrap();
        for homes in [1, 2] {
            let Err(error) = bind(addr, homes) else { panic!("a second server has the port, with {homes} homes") };
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        }
    }
}
