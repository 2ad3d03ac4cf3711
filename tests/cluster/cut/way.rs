//! A way between a node and its engine that can be cut, so that neither end is told: no FIN, no reset, nothing comes.
//!
//! The way is a network of the node's own where this process may make one (as root, with `ip` of iproute2). Elsewhere a
//! proxy in this process stops forwarding, and closes nothing.

use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::super::{Node, RedisServer};
use crate::cli_run::under;
use crate::support::own_address;

/// A Redis, and a way to this Redis that can be cut.
pub(super) struct Cut {
    // Dropped first: the servers end before their networks.
    pub(super) redis: RedisServer,
    way: Way,
}

enum Way {
    Network(Network),
    Proxy { port: u16, is_open: watch::Sender<bool> },
}

impl Cut {
    /// With a network, or with a proxy where this process may not make networks.
    pub(super) async fn of_a_network() -> Self {
        match Network::new() {
            Ok(network) => {
                let engine = network.engine().to_string();
                let bind = ["--protected-mode", "no", "--bind", "127.0.0.1", &engine];
                Self { redis: RedisServer::with(&bind), way: Way::Network(network) }
            }
            Err(refused) => {
                println!("no network for this test, a proxy instead: {refused}");
                Self::of_a_proxy().await
            }
        }
    }

    /// With a proxy.
    pub(super) async fn of_a_proxy() -> Self {
        let redis = RedisServer::start();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (is_open, gate) = watch::channel(true);
        tokio::spawn(forward(listener, redis.port(), gate));
        Self { redis, way: Way::Proxy { port, is_open } }
    }

    /// A node at the far end of the way. Its clients do not go by this way.
    pub(super) fn node(&self, variables: &[(&str, &str)]) -> Node {
        match &self.way {
            Way::Network(network) => {
                let url = format!("redis://{}:{}", network.engine(), self.redis.port());
                let variables = [&[("JANUS_ENGINE", &*url)], variables].concat();
                let inside = ["ip", "netns", "exec", &network.inside];
                Node::at((network.clients(), 0).into(), &variables, |command| under(&inside, &command))
            }
            Way::Proxy { port, .. } => {
                let url = format!("redis://127.0.0.1:{port}");
                Node::at(own_address(), &[&[("JANUS_ENGINE", &*url)], variables].concat(), |command| command)
            }
        }
    }

    /// Cuts the way.
    pub(super) fn take_down(&self) {
        self.set(false);
    }

    /// Mends the way. What was under way may come late.
    pub(super) fn bring_up(&self) {
        self.set(true);
    }

    fn set(&self, open: bool) {
        match &self.way {
            Way::Network(network) => network.set(if open { "up" } else { "down" }),
            Way::Proxy { is_open, .. } => drop(is_open.send_replace(open)),
        }
    }
}

/// A namespace with the node, and one with a switch between the node and the engine. The node's clients have a cable past
/// the switch.
///
/// ```text
/// engine, other node ── switch ──╳── node
///            clients ─────────────── node
/// ```
///
/// The cut is at the switch, so that the engine's machine does not even see its own cable go dead.
struct Network {
    /// The namespace of the node.
    inside: String,
    /// The namespace of the switch.
    switch: String,
    /// The host's ends of the two cables: for the engine, and for clients.
    ends: [String; 2],
    /// The first of 16 addresses.
    first: u32,
}

impl Network {
    /// A network with names and addresses that no other test has.
    ///
    /// # Errors
    ///
    /// This process may not make networks.
    fn new() -> Result<Self, String> {
        static NETWORKS: AtomicU32 = AtomicU32::new(0);
        let (process, network) = (std::process::id(), NETWORKS.fetch_add(1, Ordering::Relaxed));
        // 198.18.0.0/15 is for tests of networks (RFC 2544), so no machine is hidden by these addresses.
        let place = process.wrapping_mul(61).wrapping_add(network) % (1 << 13);
        let made = Self {
            inside: format!("janus-{process}-{network}-node"),
            switch: format!("janus-{process}-{network}-switch"),
            // A name of an interface has at most 15 bytes.
            ends: ["e", "c"].map(|end| format!("j{process:x}{end}{network}")),
            first: Ipv4Addr::new(198, 18, 0, 0).to_bits() + place * 16,
        };
        try_ip(&format!("netns add {}", made.switch))?;
        try_ip(&format!("-n {} link add name switch type bridge", made.switch))?;
        made.build();
        Ok(made)
    }

    fn build(&self) {
        let Self { inside, switch, ends: [engine, clients], .. } = self;
        ip(&format!("netns add {inside}"));
        ip(&format!("link add {engine} type veth peer name host netns {switch}"));
        ip(&format!("-n {switch} link add node type veth peer name engine netns {inside}"));
        ip(&format!("link add {clients} type veth peer name clients netns {inside}"));
        ip(&format!("-n {switch} link set switch up"));
        for port in ["host", "node"] {
            ip(&format!("-n {switch} link set {port} up master switch"));
        }
        for (end, address) in [(engine, 1), (clients, 9)] {
            ip(&format!("address add {}/29 dev {end}", self.address(address)));
            ip(&format!("link set {end} up"));
        }
        for (end, address) in [("engine", 2), ("clients", 10)] {
            ip(&format!("-n {inside} address add {}/29 dev {end}", self.address(address)));
            ip(&format!("-n {inside} link set {end} up"));
        }
        ip(&format!("-n {inside} link set lo up"));
    }

    fn address(&self, place: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first + place)
    }

    /// The address of the engine.
    fn engine(&self) -> Ipv4Addr {
        self.address(1)
    }

    /// The address of the node for its clients.
    fn clients(&self) -> Ipv4Addr {
        self.address(10)
    }

    fn set(&self, state: &str) {
        ip(&format!("-n {} link set node {state}", self.switch));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The namespace of a node lives until its last socket is gone, so the cables go first.
        for end in &self.ends {
            let _ = try_ip(&format!("link delete {end}"));
        }
        for namespace in [&self.switch, &self.inside] {
            let _ = try_ip(&format!("netns delete {namespace}"));
        }
    }
}

#[track_caller]
fn ip(arguments: &str) {
    try_ip(arguments).unwrap_or_else(|error| panic!("{error}"));
}

fn try_ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.map_err(|error| format!("ip (Debian: apt install iproute2): {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// Accepts connections and forwards their bytes to this port while the gate is open.
async fn forward(listener: TcpListener, port: u16, gate: watch::Receiver<bool>) {
    while let Ok((near, _)) = listener.accept().await {
        let mut gate = gate.clone();
        tokio::spawn(async move {
            if gate.wait_for(|is_open| *is_open).await.is_err() {
                return;
            }
            let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await else { return };
            let (mut from_near, mut to_near) = near.into_split();
            let (mut from_far, mut to_far) = far.into_split();
            tokio::join!(
                pump(&mut from_near, &mut to_far, gate.clone()),
                pump(&mut from_far, &mut to_near, gate.clone())
            );
        });
    }
}

/// Forwards bytes, and then the end, while the gate is open.
async fn pump(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    mut gate: watch::Receiver<bool>,
) {
    let mut piece = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut piece).await.unwrap_or(0);
        // After the test there is no gate.
        if gate.wait_for(|is_open| *is_open).await.is_err() {
            return;
        }
        if length == 0 {
            let _ = to.shutdown().await;
            return;
        }
        if to.write_all(&piece[..length]).await.is_err() {
            return;
        }
    }
}
