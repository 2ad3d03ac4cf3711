//! The start of an instance: settings, listeners, threads, tree.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Weak};

use tokio::runtime::Handle;

use super::application::Children;
use super::cluster::Node;
use super::janus::{Inner, Janus, Threads, WeakJanus, on};
use super::metrics::Work;
use super::routes::{HttpRoute, Router};
use super::shared::Shared;
use super::startup::StartupError;
use super::tree::tree;
use crate::config::Config;
#[cfg(feature = "tls")]
use crate::config::no_certificate;
use crate::connection::acceptor::Endpoint;
use crate::connection::listener::{Listener, Origin, PassOn, PassedOn};
use crate::connection::port::TcpPort;
use crate::connection::socket_options::Told;
#[cfg(feature = "tls")]
use crate::connection::tls::certificates::Certificates;
use crate::connection::tls::{Tls, TlsPort};
use crate::delivery::codecs::TooManyCodecs;
use crate::delivery::{Codecs, Sending, sender_threads};
use crate::engine::{Engine, NodeId};
use crate::ground::homes::Home;
use crate::hooks::{Gate, Gates, HookSettings, Hooks, Started};
use crate::supervision::{Arbiter, Place, Supervisor};
use crate::topic::Handover;
use crate::topic::cluster::Cluster;
use crate::wire::websocket::Endpoint as WebSockets;
use crate::wire::{AllowedOrigins, Codec, HttpPort, PathPattern, Peer, PublishRoute};

/// Collects the settings and parts of an instance, and starts it.
#[derive(Default)]
pub struct Builder {
    config: Config,
    pub(super) children: Children,
    hooks: HookSettings,
    make_hooks: Option<Box<MakeHooks>>,
    ports: Vec<Port>,
    sockets: Vec<(TcpListener, Speaks)>,
    listeners: Vec<(Box<dyn Listener>, Arc<dyn Codec>)>,
    pass_on: Option<PassOn>,
    handover: Option<Handover>,
    engine: Option<Arc<dyn Engine>>,
    node_name: String,
    publish_routes: Vec<PublishRoute>,
    websockets: Vec<(PathPattern, WebSockets)>,
    routes: Vec<HttpRoute>,
    gates: Vec<Gate>,
    #[cfg(feature = "tls")]
    tls: Option<Arc<rustls::ServerConfig>>,
}

type MakeHooks = dyn FnOnce(WeakJanus, &mut HookSettings) + Send + Sync;

/// What the clients of a socket speak that has been given to [`Builder::listen_on`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Speaks {
    /// The classic protocol, as on the addresses of [`Config::listen`].
    Classic,
    /// HTTP, as on the addresses of [`Config::http_listen`].
    Http,
    /// The classic protocol over TLS, as on the addresses of [`Config::tls_listen`].
    #[cfg(feature = "tls")]
    ClassicTls,
    /// HTTP over TLS, as on the addresses of [`Config::https_listen`].
    #[cfg(feature = "tls")]
    Https,
    /// Another wire format, as on the addresses of [`Builder::listen`].
    Codec(Arc<dyn Codec>),
    /// Another wire format over TLS, as on the addresses of [`Builder::listen_tls`].
    #[cfg(feature = "tls")]
    CodecTls(Arc<dyn Codec>),
}

/// What the builder makes of [`Speaks`].
#[derive(Clone)]
enum Protocol {
    Classic,
    Http,
    Codec(Arc<dyn Codec>),
}

impl Speaks {
    fn parts(&self) -> (Protocol, Option<TlsPort>) {
        match self {
            Self::Classic => (Protocol::Classic, None),
            Self::Http => (Protocol::Http, None),
            Self::Codec(codec) => (Protocol::Codec(Arc::clone(codec)), None),
            #[cfg(feature = "tls")]
            Self::ClassicTls => (Protocol::Classic, Some(TlsPort::Classic)),
            #[cfg(feature = "tls")]
            Self::Https => (Protocol::Http, Some(TlsPort::Http)),
            #[cfg(feature = "tls")]
            Self::CodecTls(codec) => (Protocol::Codec(Arc::clone(codec)), Some(TlsPort::Classic)),
        }
    }
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
            .field("sockets", &self.sockets)
            .field("listeners", &codecs(&listeners))
            .finish_non_exhaustive()
    }
}

impl Builder {
    /// Sets all settings at once.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Changes some of the settings.
    #[cfg(feature = "testing")]
    pub(crate) fn adjust(mut self, adjust: impl FnOnce(&mut Config)) -> Self {
        adjust(&mut self.config);
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

    /// Serves the connections of a socket that listens already, in addition to the addresses of the settings: a socket of
    /// a service manager, or a socket that outlives this instance. [`Janus::local_addrs`] has its address behind the
    /// addresses of the settings for the same protocol.
    ///
    /// The instance gives the socket the options of its own sockets, and takes connections from its backlog. The end of
    /// the instance closes this handle of the socket and does not shut the socket down. While another handle is open,
    /// in this process or another, further connections wait in the backlog for the next instance, and none is refused.
    ///
    /// ```
    /// use std::net::{TcpListener, TcpStream};
    ///
    /// use janus_core::{Config, Janus, Speaks};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let socket = TcpListener::bind("127.0.0.1:0")?;
    /// let builder = |socket| {
    ///     let config = Config { listen: Vec::new(), ..Config::default() };
    ///     Janus::builder().config(config).listen_on(socket, Speaks::Classic)
    /// };
    /// let first = builder(socket.try_clone()?).start().await?;
    /// assert_eq!(first.local_addrs(), [socket.local_addr()?]);
    /// first.shutdown().await;
    /// // A client that connects now waits for the next instance.
    /// let client = TcpStream::connect(socket.local_addr()?)?;
    /// let second = builder(socket).start().await?;
    /// # drop(client);
    /// # second.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn listen_on(mut self, socket: TcpListener, speaks: Speaks) -> Self {
        self.sockets.push((socket, speaks));
        self
    }

    /// Continues the topics of an earlier instance that has ended: the numbers of each topic continue in the same epoch.
    /// So clients that have had everything resume where they were, and miss none of the messages published before they
    /// come back. Clients that miss messages of the earlier instance are told so.
    ///
    /// A topic that no client or publisher asks for within [`Config::topic_idle`] is forgotten, and begins afresh.
    /// At most [`Config::max_topics`] topics are continued. Sessions do not continue.
    ///
    /// ```
    /// use janus_core::{Config, Janus, SubscribeOptions};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = || Config { listen: Vec::new(), ..Config::default() };
    /// let first = Janus::builder().config(config()).start().await?;
    /// let position = first.subscribe("news")?.position();
    /// first.shutdown().await;
    ///
    /// let handover = first.handover().expect("the instance has been shut down");
    /// let second = Janus::builder().config(config()).continue_from(handover).start().await?;
    /// second.publish("news", "before the subscriber is back").await?;
    /// let mut subscriber = second.subscribe_with("news", SubscribeOptions::default().since(position))?;
    /// let resumption = subscriber.ready().await?;
    /// assert_eq!((resumption.resumed, resumption.missed), (true, 1));
    /// # second.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn continue_from(mut self, handover: Handover) -> Self {
        self.handover = Some(handover);
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

    /// Adds a path at which requests publish on [`Config::http_listen`] and [`Config::https_listen`]; see
    /// [`PublishRoute`]. Paths of the port itself, `/ws` and `/events`, come first.
    #[must_use]
    pub fn publish_route(mut self, route: PublishRoute) -> Self {
        self.publish_routes.push(route);
        self
    }

    /// Serves other protocols of WebSockets on [`Config::http_listen`] and [`Config::https_listen`], and in a
    /// [`Mount`](crate::mount::Mount), at these paths; see [`MessageProtocol`](crate::wire::websocket::MessageProtocol). The `Origin` of each request is checked as for `/ws`.
    ///
    /// The paths must have none in common with `/ws`, `/events`, a [`publish_route`](Self::publish_route), and the paths of
    /// other protocols: [`start`](Self::start) fails otherwise. They come before every [`route`](Self::route), whose paths
    /// must not be the same either.
    ///
    /// ```
    /// use janus_core::Janus;
    /// use janus_core::wire::WebSocket;
    ///
    /// let builder = Janus::builder().websocket("/connection/websocket".parse()?, WebSocket::v1());
    /// # drop(builder);
    /// # Ok::<_, janus_core::wire::PathPatternError>(())
    /// ```
    #[must_use]
    pub fn websocket(mut self, paths: PathPattern, protocols: impl Into<WebSockets>) -> Self {
        self.websockets.push((paths, protocols.into()));
        self
    }

    /// Answers requests on [`Config::http_listen`] and [`Config::https_listen`], and in a [`Mount`](crate::mount::Mount), with a
    /// function of the program; see [`HttpRoute`]. Several routes may share their paths, for different methods; of several routes that fit a request, the
    /// first counts. The routes come before [`pass_on`](Self::pass_on), and a path of no route is answered with 404 if there is
    /// no `pass_on`.
    ///
    /// The paths must have none in common with the port's own, `/ws` and `/events`, nor with those of a
    /// [`websocket`](Self::websocket): [`start`](Self::start) fails otherwise.
    #[must_use]
    pub fn route(mut self, route: HttpRoute) -> Self {
        self.routes.push(route);
        self
    }

    /// Lets a protocol decide about its own clients, in place of the hooks, and have topics of its own; see [`Gate`]. A second
    /// gate for the same protocol has no effect.
    #[must_use]
    pub fn gate(mut self, gate: Gate) -> Self {
        self.gates.push(gate);
        self
    }

    /// Takes the streams that a codec does not want, such as requests on the HTTP port for neither WebSocket nor
    /// server-sent events. The function is called on the home arbiter and must not block. Without a function such
    /// streams are refused. A stream may [come back](crate::WayBack) after its request was answered.
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

    /// Makes the instance a node of a cluster: this engine numbers the messages of topics for all nodes.
    ///
    /// ```
    /// use janus_core::engine::memory::Memory;
    /// use janus_core::{Config, Janus};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let engine = Memory::default();
    /// # let config = Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() };
    /// let one = Janus::builder().config(config.clone()).engine(engine.clone()).start().await?;
    /// let other = Janus::builder().config(config).engine(engine).start().await?;
    /// let mut subscriber = other.subscribe("news")?;
    /// subscriber.ready().await?;
    /// one.publish("news", "hello").await?;
    /// assert!(matches!(subscriber.next().await, Some(janus_core::Event::Message(_))));
    /// # one.shutdown().await;
    /// # other.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Without an engine, or for topics of a namespace with [`clustered`](crate::Namespace::clustered) off, the instance
    /// numbers by itself.
    #[must_use]
    pub fn engine(mut self, engine: impl Engine) -> Self {
        self.engine = Some(Arc::new(engine));
        self
    }

    /// Sets the name of the instance among the nodes of its cluster, for people: see [`Janus::nodes`]. Without a name the
    /// node has an id alone.
    #[must_use]
    pub fn node_name(mut self, name: impl Into<String>) -> Self {
        self.node_name = name.into();
        self
    }

    /// Sets the hooks to decide about clients and to observe clients; the [module](crate::hooks) has an example.
    #[must_use]
    pub fn hooks(mut self, hooks: impl Hooks) -> Self {
        self.hooks.set(hooks);
        self.make_hooks = None;
        self
    }

    /// Sets hooks that use the instance; otherwise like [`hooks`](Self::hooks), whose hooks are replaced.
    ///
    /// The closure gets a [`WeakJanus`], because a handle in the hooks would keep the instance running after the program has
    /// dropped its own. [`start`](Self::start) calls the closure once, before anything listens, and the handle cannot be
    /// upgraded yet. In each hook the handle can be upgraded, for as long as the program has a handle.
    ///
    /// ```
    /// use janus_core::hooks::{Client, Hooks};
    /// use janus_core::{Config, Janus, WeakJanus};
    ///
    /// struct Doorbell {
    ///     janus: WeakJanus,
    /// }
    ///
    /// impl Hooks for Doorbell {
    ///     async fn connected(&self, client: &Client) {
    ///         if let Some(janus) = self.janus.upgrade() {
    ///             let _ = janus.publish("door", &client.identity.user).await;
    ///         }
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() };
    /// let janus = Janus::builder().config(config).hooks_with(|janus| Doorbell { janus }).start().await?;
    /// # janus.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn hooks_with<H: Hooks>(mut self, make: impl FnOnce(WeakJanus) -> H + Send + Sync + 'static) -> Self {
        self.make_hooks = Some(Box::new(|janus, settings: &mut HookSettings| settings.set(make(janus))));
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
        if let Some(note) = note_on_memory(&config) {
            log::info!("{note}");
        }
        let has_tls = config.has_tls()
            || self.ports.iter().any(|port| port.tls.is_some())
            || self.sockets.iter().any(|(_, speaks)| speaks.parts().1.is_some());
        let tls = tls_listeners(&config, has_tls, tls)?;
        let sending = Sending::choose(config.io_uring)?;
        check_paths(&self.websockets, &self.publish_routes, &self.routes)?;
        let codecs = Arc::new(Codecs::new());
        let given = Given { ports: self.ports, sockets: self.sockets, listeners: self.listeners };
        let janus = WeakJanus::to_come();
        let mut hooks = self.hooks;
        if let Some(make) = self.make_hooks {
            make(janus.clone(), &mut hooks);
        }
        let started = hooks.start(&config, !self.routes.is_empty()).map_err(StartupError::Thread)?;
        let Started { hooks, runtime, thread: hook_thread } = started;
        let runtime = runtime.filter(|_| !self.routes.is_empty());
        let routes = (self.routes, self.pass_on.clone());
        let router = runtime.map(|runtime| Arc::new(Router::new(routes.0, routes.1, janus.clone(), runtime)));
        let pass_on = match router.clone() {
            Some(router) => Some(Arc::new(move |passed_on| router.take(passed_on)) as PassOn),
            None => self.pass_on,
        };
        let http = HttpParts { pass_on, publish_routes: self.publish_routes, websockets: self.websockets };
        let endpoints = endpoints(&config, &codecs, given, http)?;
        let threads = Threads {
            control: Arbiter::start("janus-control").map_err(StartupError::Thread)?,
            homes: start_homes(config.home_threads()).map_err(StartupError::Thread)?,
            application: match self.children.is_empty() {
                true => None,
                false => Some(Arbiter::start("janus-application").map_err(StartupError::Thread)?),
            },
            hooks: hook_thread,
        };
        let homes = threads.homes.iter().map(Arbiter::place).collect();
        let node = NodeId::new(getrandom::u64().expect("the system has a source of random numbers"));
        let cluster = self.engine.map(|engine| Arc::new(Cluster::new(engine, node).named(self.node_name)));
        let shared = Shared::new(config, homes, (codecs, sending), endpoints, hooks, tls, cluster);
        equip(&shared, router, self.gates);
        shared.sending().tell();
        shared.prepare_homes();
        if let Some(handover) = self.handover {
            handover.lay_asleep(&shared.topics);
        }
        let senders = sender_threads::supervisor(&shared.senders, shared.sender_threads());
        let control = threads.control.place();
        start(shared, senders, control, Some(threads), (&self.children, &janus)).await
    }
}

/// Gives the instance its routes and gates. Nothing has set any before.
fn equip(shared: &Shared, router: Option<Arc<Router>>, gates: Vec<Gate>) {
    if let Some(router) = router {
        let _ = shared.router.set(router);
    }
    if !gates.is_empty() {
        let _ = shared.gates.set(Gates::new(gates));
    }
}

/// For the log of a program that has not thought of the memory of its clients. The binary has a budget by default; a library
/// cannot know which part of its process's memory is meant for clients.
fn note_on_memory(config: &Config) -> Option<&'static str> {
    (config.memory_budget_bytes == 0).then_some(
        "no limit for the memory of all clients together: set memory_budget_bytes in a program that serves strangers",
    )
}

/// Starts the home arbiters.
fn start_homes(number: usize) -> io::Result<Vec<Arbiter>> {
    let name = |home| if number == 1 { "janus-home".to_owned() } else { format!("janus-home-{home}") };
    (1..=number).map(|home| Arbiter::start(&name(home))).collect()
}

/// The threads with actors, and their labels in figures.
fn busy_threads(shared: &Shared, control: &Place, application: Option<Place>) -> Vec<(String, Place)> {
    let several = shared.homes.are_several();
    let label = |home: &Home| if several { format!("home-{}", home.id) } else { "home".to_owned() };
    let homes = shared.homes.iter().map(|home| (label(home), home.place.clone()));
    let others = [Some(("control", control.clone())), application.map(|place| ("application", place))];
    homes.chain(others.into_iter().flatten().map(|(label, place)| (label.to_owned(), place))).collect()
}

/// What TLS listeners share, if there are any: read before any port is bound.
#[cfg(feature = "tls")]
fn tls_listeners(
    config: &Config,
    has_tls: bool,
    own: Option<Arc<rustls::ServerConfig>>,
) -> Result<Option<Arc<Tls>>, StartupError> {
    if !has_tls {
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
fn tls_listeners(_: &Config, _: bool, none: Option<Arc<Tls>>) -> Result<Option<Arc<Tls>>, StartupError> {
    Ok(none)
}

/// What the embedder adds to the HTTP port.
struct HttpParts {
    pass_on: Option<PassOn>,
    publish_routes: Vec<PublishRoute>,
    websockets: Vec<(PathPattern, WebSockets)>,
}

impl HttpParts {
    /// The codec of the HTTP ports at these addresses.
    fn codec(&mut self, config: &Config, addrs: impl Iterator<Item = SocketAddr>) -> Arc<HttpPort> {
        let origins = AllowedOrigins::new(config.allowed_origins.iter().map(String::as_str));
        let port = HttpPort::new(origins, config.sse_retry).for_this_machine(ports_of_loopback_alone(addrs));
        let port = self.publish_routes.drain(..).fold(port, HttpPort::publish_route);
        let websockets = self.websockets.drain(..);
        Arc::new(websockets.fold(port, |port, (paths, protocols)| port.websocket(paths, protocols)))
    }
}

/// Checks that each path of the HTTP port belongs to one part of the program.
fn check_paths(
    websockets: &[(PathPattern, WebSockets)],
    publish_routes: &[PublishRoute],
    routes: &[HttpRoute],
) -> Result<(), StartupError> {
    let own = ["/ws", "/events"].map(PathPattern::exact);
    let published: Vec<_> = publish_routes.iter().map(PublishRoute::path).collect();
    for (at, (paths, _)) in websockets.iter().enumerate() {
        apart(paths, own.iter().chain(&published).chain(websockets[..at].iter().map(|(paths, _)| paths)))?;
    }
    routes.iter().try_for_each(|route| apart(route.path(), own.iter().chain(websockets.iter().map(|(paths, _)| paths))))
}

fn apart<'a>(paths: &PathPattern, mut others: impl Iterator<Item = &'a PathPattern>) -> Result<(), StartupError> {
    match others.find(|other| other.meets(paths)) {
        Some(other) => Err(StartupError::Paths { one: other.clone(), other: paths.clone() }),
        None => Ok(()),
    }
}

/// The listeners of the embedder.
struct Given {
    ports: Vec<Port>,
    sockets: Vec<(TcpListener, Speaks)>,
    listeners: Vec<(Box<dyn Listener>, Arc<dyn Codec>)>,
}

impl Given {
    /// Takes the sockets of a protocol of Janus's own.
    fn take(&mut self, tls: Option<TlsPort>, is_wanted: impl Fn(&Protocol) -> bool) -> Vec<TcpListener> {
        let is_wanted = |(_, speaks): &mut (_, Speaks)| {
            let (protocol, its_tls) = speaks.parts();
            is_wanted(&protocol) && its_tls == tls
        };
        self.sockets.extract_if(.., is_wanted).map(|(socket, _)| socket).collect()
    }
}

/// Binds all listeners of the instance: the ports of `listen`, `tls_listen`, `http_listen` and `https_listen`, each
/// followed by the given sockets of the same protocol, then the embedder's ports and sockets of other codecs, then the
/// embedder's listeners.
fn endpoints(
    config: &Config,
    codecs: &Arc<Codecs>,
    mut given: Given,
    mut http_parts: HttpParts,
) -> Result<(Vec<Arc<Endpoint>>, Arc<HttpPort>), StartupError> {
    let (told, homes) = (Told::default(), config.home_threads());
    let bind = |addr| TcpPort::bind(addr, homes, config, &told).map_err(|source| StartupError::Bind { addr, source });
    let adopt = |socket| {
        let port = TcpPort::adopt(socket, config, &told).map_err(StartupError::Socket)?;
        Ok::<_, StartupError>(vec![port])
    };
    let addr_of = |port: &[TcpPort]| port.first()?.local_addr();
    let is_local = |port: &[TcpPort]| addr_of(port).is_some_and(|addr| Peer::from(addr).is_local());
    let all = |addrs: &[SocketAddr], sockets: Vec<TcpListener>| {
        let bound = addrs.iter().map(|&addr| bind(addr));
        bound.chain(sockets.into_iter().map(adopt)).collect::<Result<Vec<_>, StartupError>>()
    };
    let mut endpoints = Vec::new();
    for (addrs, tls) in [(&config.listen, None), (&config.tls_listen, Some(TlsPort::Classic))] {
        for port in all(addrs, given.take(tls, |protocol| matches!(protocol, Protocol::Classic)))? {
            let origin = Origin::classic(codecs, is_local(&port), tls);
            Endpoint::add_port(&mut endpoints, port, &origin);
        }
    }
    let mut http_ports = Vec::new();
    for (addrs, tls) in [(&config.http_listen, None), (&config.https_listen, Some(TlsPort::Http))] {
        let ports = all(addrs, given.take(tls, |protocol| matches!(protocol, Protocol::Http)))?;
        http_ports.extend(ports.into_iter().map(|port| (port, tls)));
    }
    let http_port = http_parts.codec(config, http_ports.iter().filter_map(|(port, _)| addr_of(port)));
    let http: Arc<dyn Codec> = Arc::clone(&http_port) as _;

    let mut bound: Vec<Bound> = Vec::new();
    let mut add = |port: Vec<TcpPort>, codec, tls| {
        let is_local = is_local(&port);
        bound.push(Bound { listens: Listens::Port(port), codec, is_local, tls });
    };
    for (port, tls) in http_ports {
        add(port, Arc::clone(&http), tls);
    }
    for Port { addr, codec, tls } in given.ports {
        add(bind(addr)?, codec, tls);
    }
    for (socket, speaks) in given.sockets {
        if let (Protocol::Codec(codec), tls) = speaks.parts() {
            add(adopt(socket)?, codec, tls);
        }
    }
    for (listener, codec) in given.listeners {
        // A listener of the embedder without an address is no port of a network.
        let is_local = listener.local_addr().is_none_or(|addr| Peer::from(addr).is_local());
        bound.push(Bound { listens: Listens::Embedder(listener), codec, is_local, tls: None });
    }
    for bound in bound {
        bound.add_to(&mut endpoints, codecs, http_parts.pass_on.clone())?;
    }
    Ok((endpoints, http_port))
}

/// A listener with its codec.
struct Bound {
    listens: Listens,
    codec: Arc<dyn Codec>,
    /// Whether only clients of this machine can connect.
    is_local: bool,
    tls: Option<TlsPort>,
}

impl Bound {
    fn add_to(
        self,
        endpoints: &mut Vec<Arc<Endpoint>>,
        codecs: &Codecs,
        pass_on: Option<PassOn>,
    ) -> Result<(), TooManyCodecs> {
        let Self { listens, codec, is_local, tls } = self;
        let codec_id = codecs.register(&codec)?;
        let origin = Arc::new(Origin { codec, codec_id, is_local, pass_on, tls });
        match listens {
            Listens::Port(port) => Endpoint::add_port(endpoints, port, &origin),
            Listens::Embedder(listener) => {
                endpoints.push(Arc::new(Endpoint::new(listener, origin, endpoints.len())));
            }
        }
        Ok(())
    }
}

/// What listens: the sockets of a port, or a listener of the embedder.
enum Listens {
    Port(Vec<TcpPort>),
    Embedder(Box<dyn Listener>),
}

/// The ports that only programs of this machine can reach.
fn ports_of_loopback_alone(addrs: impl Iterator<Item = SocketAddr>) -> impl Iterator<Item = u16> {
    let mut ports = BTreeMap::new();
    for addr in addrs {
        *ports.entry(addr.port()).or_insert(true) &= Peer::from(addr).is_local();
    }
    ports.into_iter().filter_map(|(port, is_alone)| is_alone.then_some(port))
}

/// Starts the tree: supervisors on `control`, actors on the home of `shared`. The embedder's parts use the handle given.
pub(crate) async fn start(
    shared: Arc<Shared>,
    senders: Supervisor,
    control: Place,
    threads: Option<Threads>,
    (children, janus): (&Children, &WeakJanus),
) -> Result<Janus, StartupError> {
    let mut root = None;
    // The handle comes before the tree, because the embedder's children are given one.
    let inner = Arc::new_cyclic(|inner: &Weak<Inner>| {
        janus.has_come(inner.clone());
        let place = threads.as_ref().and_then(|threads| threads.application.as_ref()).map(Arbiter::place);
        let application =
            place.as_ref().map(|place| (children.spec(janus, place, shared.config().drain_timeout), place));
        let supervisor = tree(&shared, senders, application);
        let handle = supervisor.handle();
        let busy = busy_threads(&shared, &control, place);
        root = Some(supervisor);
        let node = shared.topics.cluster.as_ref().map(|cluster| {
            let node = Node::new(inner.clone(), cluster.name());
            cluster.exchange.speak_with(Arc::clone(&node) as _);
            node
        });
        Inner {
            shared,
            node,
            root: handle,
            work: Work::new(busy),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_without_a_memory_budget_is_told_and_one_with_a_budget_is_not() {
        let note = note_on_memory(&Config::default()).unwrap();
        assert!(note.contains("memory_budget_bytes"), "{note}");
        assert_eq!(note_on_memory(&Config { memory_budget_bytes: 64 << 20, ..Config::default() }), None);
    }
}
