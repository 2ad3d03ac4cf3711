//! The start of an instance: settings, listeners, threads, tree.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use tokio::runtime::Handle;

use super::application::Children;
use super::janus::{Inner, Janus, Threads, WeakJanus, on};
use super::shared::Shared;
use super::tree::tree;
#[cfg(feature = "tls")]
use crate::config::no_certificate;
use crate::config::{Config, ConfigError};
use crate::connection::acceptor::{Endpoint, TcpPort};
use crate::connection::listener::{Listener, Origin, PassOn, PassedOn};
use crate::connection::socket_options::Told;
#[cfg(feature = "tls")]
use crate::connection::tls::certificates::{CertificateError, Certificates};
use crate::connection::tls::{Tls, TlsPort};
use crate::delivery::codecs::TooManyCodecs;
use crate::delivery::{Codecs, sender_threads};
use crate::hooks::{HookSettings, Hooks};
use crate::supervision::{Arbiter, Place, Supervisor};
use crate::wire::{AllowedOrigins, Codec, HttpPort, Peer};

/// Collects the settings and parts of an instance, and starts it.
#[derive(Default)]
pub struct Builder {
    config: Config,
    pub(super) children: Children,
    hooks: HookSettings,
    ports: Vec<Port>,
    listeners: Vec<(Box<dyn Listener>, Arc<dyn Codec>)>,
    pass_on: Option<PassOn>,
    #[cfg(feature = "tls")]
    tls: Option<Arc<rustls::ServerConfig>>,
}

/// A port of the embedder's.
struct Port {
    addr: SocketAddr,
    codec: Arc<dyn Codec>,
    tls: Option<TlsPort>,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let codecs = |codecs: &[Arc<dyn Codec>]| codecs.iter().map(|codec| codec.name()).collect::<Vec<_>>();
        let ports = self.ports.iter().map(|port| (port.addr, port.codec.name())).collect::<Vec<_>>();
        let listeners = self.listeners.iter().map(|(_, codec)| Arc::clone(codec)).collect::<Vec<_>>();
        f.debug_struct("Builder")
            .field("config", &self.config)
            .field("ports", &ports)
            .field("listeners", &codecs(&listeners))
            .finish_non_exhaustive()
    }
}

/// Why an instance did not start. Nothing is left running.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartupError {
    /// A setting cannot work; the author of the configuration is to blame.
    #[error("bad setting")]
    Config(#[from] ConfigError),
    /// An address cannot be listened on: the port is in use, or the address is not this machine's, or needs privileges.
    #[error("cannot listen on {addr}")]
    Bind {
        /// The address, as configured.
        addr: SocketAddr,
        /// The error of the system.
        source: io::Error,
    },
    /// A certificate or key cannot be used. No port has been bound.
    #[cfg(feature = "tls")]
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The system gives no more threads.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// An actor of the tree did not start.
    #[error("cannot start the supervision tree: {0}")]
    Tree(String),
    /// The listeners speak too many wire formats.
    #[error("too many codecs")]
    Codecs(#[from] TooManyCodecs),
}

impl Builder {
    /// Sets all settings at once.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Listens on another TCP port, for clients that speak this codec.
    ///
    /// Connections take the direct path: delivery writes to their sockets, as with the classic protocol. The codec is
    /// made once; several ports may share it.
    #[must_use]
    pub fn listen(mut self, addr: SocketAddr, codec: Arc<dyn Codec>) -> Self {
        self.ports.push(Port { addr, codec, tls: None });
        self
    }

    /// Listens on another TCP port for TLS, with the certificates of the settings or of [`tls`](Self::tls); otherwise as
    /// [`listen`](Self::listen). No protocol is negotiated by ALPN.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn listen_tls(mut self, addr: SocketAddr, codec: Arc<dyn Codec>) -> Self {
        self.ports.push(Port { addr, codec, tls: Some(TlsPort::Classic) });
        self
    }

    /// Serves the byte streams of the embedder's own listener, for clients that speak this codec.
    ///
    /// The streams count as local: their clients may publish, unless the HTTP request shows the signs of a proxy
    /// ([`HttpRequest::is_forwarded`](crate::wire::HttpRequest::is_forwarded)). See [`Janus::serve`] for single
    /// streams.
    #[must_use]
    pub fn listener(mut self, listener: impl Listener, codec: Arc<dyn Codec>) -> Self {
        self.listeners.push((Box::new(listener), codec));
        self
    }

    /// Takes the streams that a codec does not want, such as requests on the HTTP port for neither WebSocket nor
    /// server-sent events. The function is called on the home arbiter and must not block. Without a function such
    /// streams are refused.
    #[must_use]
    pub fn pass_on(mut self, take: impl Fn(PassedOn) + Send + Sync + 'static) -> Self {
        self.pass_on = Some(Arc::new(take));
        self
    }

    /// Serves the TLS listeners ([`Config::tls_listen`], [`Config::https_listen`]) with a configuration of the
    /// embedder's own, in place of the files in [`Config::tls_cert`] and [`Config::tls_key`]: for certificates that come
    /// from elsewhere, such as an ACME client. The other settings of TLS have no effect then, except
    /// [`Config::tls_handshake_threads`].
    ///
    /// Janus sets one session ticket for each handshake, and no early data. The certificates change when the
    /// configuration's own [`cert_resolver`](rustls::ServerConfig::cert_resolver) says so. Protocols for ALPN apply to
    /// `https_listen` alone; without any, `http/1.1` is negotiated.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use janus_core::{Config, Janus};
    /// use rustls::ServerConfig;
    /// use rustls::crypto::aws_lc_rs;
    /// use rustls::server::ResolvesServerCert;
    ///
    /// # #[derive(Debug)]
    /// # struct NoCertificate;
    /// # impl ResolvesServerCert for NoCertificate {
    /// #     fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<rustls::sign::CertifiedKey>> { None }
    /// # }
    /// # fn of_the_acme_client() -> Arc<dyn ResolvesServerCert> { Arc::new(NoCertificate) }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let tls = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
    ///     .with_safe_default_protocol_versions()?
    ///     .with_no_client_auth()
    ///     .with_cert_resolver(of_the_acme_client());
    /// let config = Config { https_listen: vec!["127.0.0.1:0".parse()?], ..Config::default() };
    /// # let config = Config { listen: Vec::new(), ..config };
    /// let janus = Janus::builder().config(config).tls(Arc::new(tls)).start().await?;
    /// # janus.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, config: Arc<rustls::ServerConfig>) -> Self {
        self.tls = Some(config);
        self
    }

    /// Sets the hooks to decide about clients and to observe clients; the [module](crate::hooks) has an example.
    #[must_use]
    pub fn hooks(mut self, hooks: impl Hooks) -> Self {
        self.hooks.set(hooks);
        self
    }

    /// Sets the runtime of the hooks. By default hooks run on the runtime in which [`start`](Self::start) is called, or
    /// on a thread of their own if there is none. The runtime must live for as long as the instance.
    #[must_use]
    pub fn hook_runtime(mut self, runtime: Handle) -> Self {
        self.hooks.runtime = Some(runtime);
        self
    }

    /// Binds the listeners and starts the tree. May be called from any async runtime.
    ///
    /// # Errors
    ///
    /// See [`StartupError`].
    pub async fn start(self) -> Result<Janus, StartupError> {
        let config = self.config;
        // A configuration of the embedder's stands in for the files.
        #[cfg(feature = "tls")]
        let (tls, brings_tls) = (self.tls.clone(), self.tls.is_some());
        #[cfg(not(feature = "tls"))]
        let (tls, brings_tls) = (None, false);
        config.validate_with(brings_tls)?;
        let tls = tls_listeners(&config, &self.ports, tls)?;
        let codecs = Arc::new(Codecs::new());
        let endpoints = endpoints(&config, &codecs, self.ports, self.listeners, self.pass_on)?;
        let (hooks, hook_thread) = self.hooks.start(&config).map_err(StartupError::Thread)?;
        let threads = Threads {
            control: Arbiter::start("janus-control").map_err(StartupError::Thread)?,
            home: Arbiter::start("janus-home").map_err(StartupError::Thread)?,
            application: match self.children.is_empty() {
                true => None,
                false => Some(Arbiter::start("janus-application").map_err(StartupError::Thread)?),
            },
            hooks: hook_thread,
        };
        let shared = Shared::new(config, threads.home.place(), codecs, endpoints, hooks, tls);
        let senders = sender_threads::supervisor(&shared.senders, shared.config().threads);
        let control = threads.control.place();
        start(shared, senders, control, Some(threads), &self.children).await
    }
}

/// What TLS listeners share, if there are any: read before any port is bound.
#[cfg(feature = "tls")]
fn tls_listeners(
    config: &Config,
    ports: &[Port],
    own: Option<Arc<rustls::ServerConfig>>,
) -> Result<Option<Arc<Tls>>, StartupError> {
    if !config.has_tls() && ports.iter().all(|port| port.tls.is_none()) {
        return Ok(None);
    }
    let certificates = match own {
        Some(own) => Certificates::of_embedder(&own),
        None if config.tls_cert.is_empty() => return Err(no_certificate().into()),
        None => Certificates::load(config)?,
    };
    certificates.warn();
    Ok(Some(Arc::new(Tls::new(certificates))))
}

#[cfg(not(feature = "tls"))]
fn tls_listeners(_: &Config, _: &[Port], none: Option<Arc<Tls>>) -> Result<Option<Arc<Tls>>, StartupError> {
    Ok(none)
}

/// Binds all listeners of the instance: the ports of `listen`, `tls_listen`, `http_listen` and `https_listen`, then the
/// embedder's ports, then the embedder's listeners.
fn endpoints(
    config: &Config,
    codecs: &Arc<Codecs>,
    ports: Vec<Port>,
    listeners: Vec<(Box<dyn Listener>, Arc<dyn Codec>)>,
    pass_on: Option<PassOn>,
) -> Result<(Vec<Arc<Endpoint>>, Arc<HttpPort>), StartupError> {
    let told = Told::default();
    let bind = |addr| match TcpPort::bind(addr, config, &told) {
        Ok(port) => Ok(Box::new(port)),
        Err(source) => Err(StartupError::Bind { addr, source }),
    };
    let is_local = |addr: SocketAddr| Peer::from(addr).is_local();
    let mut endpoints = Vec::new();
    let classic = config.listen.iter().map(|addr| (addr, None));
    let classic_tls = config.tls_listen.iter().map(|addr| (addr, Some(TlsPort::Classic)));
    for (&addr, tls) in classic.chain(classic_tls) {
        let origin = Origin::classic(codecs, is_local(addr), tls);
        endpoints.push(Arc::new(Endpoint::new(bind(addr)?, origin, endpoints.len())));
    }
    let http = config.http_listen.iter().map(|addr| (addr, None));
    let https = config.https_listen.iter().map(|addr| (addr, Some(TlsPort::Http)));
    let http_ports = http.chain(https).map(|(&addr, tls)| Ok((addr, bind(addr)?, tls)));
    let http_ports = http_ports.collect::<Result<Vec<_>, StartupError>>()?;
    let loopback_ports = ports_of_loopback_alone(http_ports.iter().filter_map(|(_, port, _)| port.local_addr()));
    let origins = AllowedOrigins::new(config.allowed_origins.iter().map(String::as_str));
    let http_port = Arc::new(HttpPort::new(origins, config.sse_retry).for_this_machine(loopback_ports));
    let http: Arc<dyn Codec> = Arc::clone(&http_port) as _;

    let mut bound: Vec<Bound> = Vec::new();
    for (addr, port, tls) in http_ports {
        bound.push(Bound { listener: port, codec: Arc::clone(&http), is_local: is_local(addr), tls });
    }
    for Port { addr, codec, tls } in ports {
        bound.push(Bound { listener: bind(addr)?, codec, is_local: is_local(addr), tls });
    }
    for (listener, codec) in listeners {
        // A listener of the embedder without an address is no port of a network.
        let is_local = listener.local_addr().is_none_or(is_local);
        bound.push(Bound { listener, codec, is_local, tls: None });
    }
    for Bound { listener, codec, is_local, tls } in bound {
        let (codec_id, pass_on) = (codecs.register(&codec)?, pass_on.clone());
        let origin = Arc::new(Origin { codec, codec_id, is_local, pass_on, tls });
        endpoints.push(Arc::new(Endpoint::new(listener, origin, endpoints.len())));
    }
    Ok((endpoints, http_port))
}

/// A listener with its codec.
struct Bound {
    listener: Box<dyn Listener>,
    codec: Arc<dyn Codec>,
    /// Whether only clients of this machine can connect.
    is_local: bool,
    tls: Option<TlsPort>,
}

/// The ports that only programs of this machine can reach.
fn ports_of_loopback_alone(addrs: impl Iterator<Item = SocketAddr>) -> impl Iterator<Item = u16> {
    let mut ports = BTreeMap::new();
    for addr in addrs {
        *ports.entry(addr.port()).or_insert(true) &= Peer::from(addr).is_local();
    }
    ports.into_iter().filter_map(|(port, is_alone)| is_alone.then_some(port))
}

/// Starts the tree: supervisors on `control`, actors on the home of `shared`.
pub(crate) async fn start(
    shared: Arc<Shared>,
    senders: Supervisor,
    control: Place,
    threads: Option<Threads>,
    children: &Children,
) -> Result<Janus, StartupError> {
    let mut root = None;
    // The handle comes before the tree, because the embedder's children are given one.
    let inner = Arc::new_cyclic(|inner: &Weak<Inner>| {
        let place = threads.as_ref().and_then(|threads| threads.application.as_ref()).map(Arbiter::place);
        let application = place.as_ref().map(|place| {
            let janus = WeakJanus { inner: inner.clone() };
            (children.spec(&janus, place, shared.config().drain_timeout), place)
        });
        let supervisor = tree(&shared, senders, application);
        let handle = supervisor.handle();
        root = Some(supervisor);
        Inner {
            shared,
            root: handle,
            control: control.clone(),
            drained: Arc::default(),
            threads: tokio::sync::Mutex::new(threads),
        }
    });
    let Some(root) = root else { unreachable!("the tree has just been made") };
    let started = on(&control, {
        let control = control.clone();
        async move { root.start(&control).await }
    });
    let root = match started.await {
        Some(Ok(root)) => root,
        Some(Err(error)) => return Err(StartupError::Tree(error.to_string())),
        None => return Err(StartupError::Tree("the control thread ended".to_owned())),
    };
    let ended = Arc::clone(&inner.shared);
    root.monitor(move |_| ended.close()).detach();
    Ok(Janus { inner })
}
