//! Clients behind real proxies: HAProxy and nginx, with the configurations of docs/PROXIES.md where there is one.

use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use janus_core::Config;
use tempfile::TempDir;

use super::{PROXY, Raw, Server, network, request};
use crate::cli_run::PATIENCE;
use crate::support::{own_address, subscribe_frame};

const HAPROXY: &str = include_str!("../proxies/haproxy.cfg");
const NGINX_STREAM: &str = include_str!("../proxies/nginx-stream.conf");

/// The client of the proxy.
const CLIENT: [u8; 4] = [127, 0, 0, 77];

/// A proxy, ended by the drop.
struct Process {
    child: Child,
    _folder: TempDir,
}

impl Drop for Process {
    fn drop(&mut self) {
        // SIGKILL would leave the worker processes of nginx.
        let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}

impl Process {
    /// Starts a program with a configuration, and waits until it listens on all addresses.
    fn start(
        program: &str,
        configuration: &str,
        listen: &[SocketAddr],
        arguments: impl Fn(&str) -> Vec<String>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display().to_string();
        let file = format!("{path}/configuration");
        fs::write(&file, configuration.replace("FOLDER", &path)).unwrap();
        let child = Command::new(program)
            .args(arguments(&file))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("this test needs {program}: run tests/run.sh, which installs it ({error})"));
        let mut process = Self { child, _folder: folder };
        let deadline = Instant::now() + PATIENCE;
        // A channel without messages: a pause with an end.
        let (_sender, nothing) = channel::<()>();
        while !listen.iter().all(|addr| is_listening(*addr)) {
            assert!(Instant::now() < deadline, "{program} does not listen");
            assert!(process.child.try_wait().unwrap().is_none(), "{program} has ended:\n{configuration}");
            let _ = nothing.recv_timeout(Duration::from_millis(20));
        }
        process
    }
}

/// Whether a socket listens on the address; a connection would be passed on to the server.
fn is_listening(addr: SocketAddr) -> bool {
    let (table, ip) = match addr.ip() {
        IpAddr::V4(ip) => ("/proc/net/tcp", format!("{:08X}", u32::from_ne_bytes(ip.octets()))),
        IpAddr::V6(ip) => {
            let words = ip.octets();
            let words = words.chunks(4).map(|word| format!("{:08X}", u32::from_ne_bytes(word.try_into().unwrap())));
            ("/proc/net/tcp6", words.collect())
        }
    };
    let start = format!(" {ip}:{:04X} ", addr.port());
    fs::read_to_string(table).unwrap().lines().any(|line| line.contains(&start) && line.contains(" 0A "))
}

/// HAProxy with a frontend for each backend.
pub(crate) struct HaProxy {
    _process: Process,
    addresses: Vec<SocketAddr>,
}

impl HaProxy {
    /// `backends` are the mode, the server and the options of the connection to the server.
    pub(crate) fn start(backends: &[(&str, SocketAddr, &str)]) -> Self {
        Self::at(own_address().ip(), backends)
    }

    fn at(ip: IpAddr, backends: &[(&str, SocketAddr, &str)]) -> Self {
        let mut configuration =
            "defaults\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n".to_owned();
        let mut addresses = Vec::new();
        for (number, (mode, server, options)) in backends.iter().enumerate() {
            let address = SocketAddr::new(ip, 18_081 + number as u16);
            configuration.push_str(&format!(
                "frontend f{number}\n  mode {mode}\n  bind {address}\n  default_backend b{number}\n\
                 backend b{number}\n  mode {mode}\n  server s {server} source {} {options}\n",
                IpAddr::from(PROXY)
            ));
            addresses.push(address);
        }
        Self::run(&configuration, addresses)
    }

    pub(crate) fn run(configuration: &str, addresses: Vec<SocketAddr>) -> Self {
        let process =
            Process::start("haproxy", configuration, &addresses, |file| ["-db", "-f", file].map(str::to_owned).into());
        Self { _process: process, addresses }
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.addresses.clone()
    }
}

fn behind_a_load_balancer() -> Config {
    Config { proxy_protocol: network(PROXY), ..Config::default() }
}

/// A classic client from [`CLIENT`], which the server must know by its own address.
async fn assert_classic_client_is_known(server: &Server, addr: SocketAddr) {
    let mut client = Raw::send(CLIENT, addr, subscribe_frame("news")).await;
    client.frame().await;
    assert_eq!(client.frame().await, "ACK");
    let own = client.stream.local_addr().unwrap().to_string();
    assert!(server.peers().contains(&own), "{own}: {:?}", server.peers());
}

/// An event stream from [`CLIENT`], with these header lines, which the server must know by this address.
async fn assert_stream_is_known(server: &Server, addr: SocketAddr, headers: &str, address: &str) {
    let mut client = Raw::send(CLIENT, addr, request("/events?topic=news", headers)).await;
    client.up_to("subscribed").await;
    assert!(server.peers().iter().any(|peer| peer.starts_with(address)), "{address}: {:?}", server.peers());
}

#[tokio::test]
async fn haproxy_names_classic_and_http_clients_by_proxy_headers() {
    let server = Server::start(behind_a_load_balancer()).await;
    let (classic, http) = (server.classic, server.http);
    let backends = [
        ("tcp", classic, "send-proxy"),
        ("tcp", classic, "send-proxy-v2"),
        ("tcp", http, "send-proxy"),
        ("tcp", http, "send-proxy-v2 proxy-v2-options unique-id"),
        // Health checks connect on the proxy's own behalf.
        ("tcp", classic, "send-proxy-v2 check inter 100ms"),
    ];
    let haproxy = HaProxy::start(&backends);
    for addr in [haproxy.addresses[0], haproxy.addresses[1], haproxy.addresses[4]] {
        assert_classic_client_is_known(&server, addr).await;
    }
    for addr in &haproxy.addresses[2..4] {
        assert_stream_is_known(&server, *addr, "x-forwarded-for: 203.0.113.9\r\n", "127.0.0.77:").await;
    }
    assert_eq!(server.janus.stats().proxy_headers_refused, 0);
}

#[tokio::test]
async fn haproxy_names_clients_over_ipv6() {
    let server = Server::start(behind_a_load_balancer()).await;
    let backends = [("tcp", server.classic, "send-proxy"), ("tcp", server.classic, "send-proxy-v2")];
    let haproxy = HaProxy::at(Ipv6Addr::LOCALHOST.into(), &backends);
    for addr in haproxy.addresses() {
        let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
        let own = stream.local_addr().unwrap().to_string();
        let mut client = Raw { stream, received: Vec::new() };
        client.frame().await;
        assert!(own.starts_with("[::1]:") && server.peers().contains(&own), "{own}: {:?}", server.peers());
    }
}

#[tokio::test]
async fn a_forged_header_does_not_pass_through_haproxy() {
    // HAProxy notices that a client of a stream is gone with the next heartbeat.
    let heartbeat_interval = Duration::from_secs(1);
    let config = Config { trusted_proxies: network(PROXY), heartbeat_interval, ..Config::default() };
    let server = Server::start(config).await;
    let ip = own_address().ip();
    let configuration = format!(
        "defaults\n  mode http\n  option forwardfor\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
         listen f\n  bind {ip}:18081\n  server s {} source 127.0.0.2\n",
        server.http
    );
    let haproxy = HaProxy::run(&configuration, vec![SocketAddr::new(ip, 18_081)]);
    for forged in ["", "x-forwarded-for: 203.0.113.9\r\n", "forwarded: for=203.0.113.9\r\nx-forwarded-for: \"\r\n"] {
        assert_stream_is_known(&server, haproxy.addresses[0], forged, "127.0.0.77").await;
        crate::support::until("the client is gone", || server.peers().is_empty()).await;
    }
}

#[tokio::test]
async fn haproxy_as_documented_names_its_clients() {
    let config = Config { trusted_proxies: vec![IpAddr::from([127, 0, 0, 1]).into()], ..behind_a_load_balancer() };
    let server = Server::start(config).await;
    let ip = own_address().ip();
    let mut configuration = HAPROXY.to_owned();
    for (documented, here) in [
        ("bind :443\n", format!("bind {ip}:18443\n")),
        ("bind :8081\n", format!("bind {ip}:18081\n")),
        ("bind :80\n", format!("bind {ip}:18080\n")),
        // The TLS of Janus is in another test; HAProxy sees only bytes.
        ("127.0.0.1:8443 ", format!("{} source 127.0.0.2 ", server.http)),
        ("127.0.0.1:8083 ", format!("{} source 127.0.0.2 ", server.classic)),
        ("127.0.0.1:8080\n", format!("{} source 127.0.0.1\n", server.http)),
    ] {
        assert!(configuration.contains(documented), "{documented} is in the documented configuration");
        configuration = configuration.replace(documented, &here);
    }
    let [https, classic, http] = [18_443, 18_081, 18_080].map(|port| SocketAddr::new(ip, port));
    let _haproxy = HaProxy::run(&configuration, vec![https, classic, http]);
    assert_classic_client_is_known(&server, classic).await;
    assert_stream_is_known(&server, https, "", "127.0.0.77:").await;
    assert_stream_is_known(&server, http, "x-forwarded-for: 203.0.113.9\r\n", "127.0.0.77").await;
}

/// nginx with this configuration beside its `http` block, and with these lines in the block.
fn nginx(stream: &str, http: &str, listen: &[SocketAddr]) -> Process {
    let temporary =
        ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| format!("{kind}_temp_path FOLDER/{kind};"));
    let configuration = format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\ndaemon off; pid FOLDER/pid; error_log FOLDER/errors;\n\
         events {{ worker_connections 256; }}\n{stream}\nhttp {{ access_log off; {}\n{http} }}\n",
        temporary.concat()
    );
    Process::start("nginx", &configuration, listen, |file| ["-c", file, "-e", "/dev/null"].map(str::to_owned).into())
}

#[tokio::test]
async fn nginx_as_documented_names_its_clients_by_proxy_headers() {
    let server = Server::start(behind_a_load_balancer()).await;
    let ip = own_address().ip();
    let mut stream = NGINX_STREAM.to_owned();
    for (documented, here) in [
        ("listen 443;", format!("listen {ip}:18443; proxy_bind 127.0.0.2;")),
        ("listen 8081;", format!("listen {ip}:18081; proxy_bind 127.0.0.2;")),
        ("127.0.0.1:8443;", format!("{};", server.http)),
        ("127.0.0.1:8083;", format!("{};", server.classic)),
    ] {
        assert!(stream.contains(documented), "{documented} is in the documented configuration");
        stream = stream.replace(documented, &here);
    }
    let [https, classic] = [18_443, 18_081].map(|port| SocketAddr::new(ip, port));
    let _nginx = nginx(&stream, "", &[https, classic]);
    assert_classic_client_is_known(&server, classic).await;
    assert_stream_is_known(&server, https, "", "127.0.0.77:").await;
}

#[tokio::test]
async fn a_forged_header_does_not_pass_through_nginx() {
    let server = Server::start(Config { trusted_proxies: network(PROXY), ..Config::default() }).await;
    let ip = own_address().ip();
    let [appends, replaces] = [18_080, 18_090].map(|port| SocketAddr::new(ip, port));
    let block = |listen: SocketAddr, value: &str| {
        format!(
            "server {{ listen {listen}; location / {{ proxy_pass http://{}; proxy_bind 127.0.0.2; proxy_http_version 1.1; \
             proxy_buffering off; proxy_set_header X-Forwarded-For {value}; }} }}\n",
            server.http
        )
    };
    let blocks = [block(appends, "$proxy_add_x_forwarded_for"), block(replaces, "$remote_addr")].concat();
    let _nginx = nginx("", &blocks, &[appends, replaces]);
    for addr in [appends, replaces] {
        for forged in
            ["", "x-forwarded-for: 203.0.113.9\r\n", "x-forwarded-for: 127.0.0.2, unknown\r\nforwarded: for=\"\r\n"]
        {
            assert_stream_is_known(&server, addr, forged, "127.0.0.77").await;
            crate::support::until("the client is gone", || server.peers().is_empty()).await;
        }
    }
}

#[test]
fn the_document_has_the_tested_configurations_of_load_balancers() {
    let document = include_str!("../../docs/PROXIES.md");
    for (language, configuration) in [("haproxy", HAPROXY), ("nginx", NGINX_STREAM)] {
        let block = format!("```{language}\n{configuration}```\n");
        assert!(document.contains(&block), "docs/PROXIES.md must contain:\n\n{block}");
    }
}
