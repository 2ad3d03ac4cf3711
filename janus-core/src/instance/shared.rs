//! The shared state of the actors of an instance: the sum of the parts of all floors.
//!
//! Each floor has a part of its own and knows nothing of the floors above: [`Ground`], [`Deliveries`] (delivery),
//! [`Topics`], [`Sessions`], [`Connections`]. A part dereferences to the part below, so a field of a lower floor has
//! the same name on every floor. Nothing here is global; two instances in one process do not see each other.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::routes::Router;
use super::tree;
use crate::config::Config;
use crate::connection::Connections;
use crate::connection::acceptor::Endpoint;
use crate::connection::tls::Tls;
use crate::delivery::{Codecs, Deliveries, Sending};
use crate::ground::Ground;
use crate::hooks::HookRunner;
use crate::session::Sessions;
use crate::supervision::{ExitReason, Place};
use crate::topic::cluster::Cluster;
use crate::topic::{Handover, Topics};
use crate::wire::{Codec, HttpPort};

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) connections: Arc<Connections>,
    /// Why the instance was ended from outside its tree.
    pub(crate) verdict: Mutex<Option<ExitReason>>,
    /// The ends of all topics, after a drain.
    pub(crate) handover: OnceLock<Handover>,
    /// The codec of the HTTP ports, whose rules a reload changes.
    pub(crate) http_port: Arc<HttpPort>,
    /// The codecs of requests that another HTTP server has read, once there is such a server.
    pub(crate) mounted_streams: OnceLock<[Arc<dyn Codec>; 2]>,
    /// The routes of the program, if there are any.
    pub(crate) router: OnceLock<Arc<Router>>,
    /// Held by a reload, so that the parts of two reloads do not mix.
    pub(crate) reloading: Mutex<()>,
}

impl Shared {
    pub(crate) fn new(
        config: Config,
        homes: Vec<Place>,
        (codecs, sending): (Arc<Codecs>, Sending),
        (endpoints, http_port): (Vec<Arc<Endpoint>>, Arc<HttpPort>),
        hooks: Option<Arc<HookRunner>>,
        tls: Option<Arc<Tls>>,
        cluster: Option<Arc<Cluster>>,
    ) -> Arc<Self> {
        let (topic_supervisor, transport_supervisor) =
            (tree::topic_supervisor(&config), tree::transport_supervisor(&config));
        // Only hooks ask for dropped messages by topic.
        let deliveries = Deliveries::new(Ground::new(config, homes), codecs, sending, hooks.is_some());
        let sessions = Sessions::new(Topics::new(deliveries, topic_supervisor, hooks.clone(), cluster));
        let connections = Connections::new(Arc::new(sessions), endpoints, transport_supervisor, hooks, tls);
        Arc::new(Self {
            connections: Arc::new(connections),
            verdict: Mutex::default(),
            handover: OnceLock::new(),
            http_port,
            mounted_streams: OnceLock::new(),
            router: OnceLock::new(),
            reloading: Mutex::default(),
        })
    }

    /// For an instance without HTTP ports.
    #[cfg(all(test, feature = "fault-injection"))]
    pub(crate) fn no_http_port() -> Arc<HttpPort> {
        Arc::new(HttpPort::new(crate::wire::AllowedOrigins::default(), std::time::Duration::from_secs(2)))
    }

    /// The work left when the tree has ended, in whatever way: nothing may wait for the instance any more.
    pub(crate) fn close(&self) {
        self.draining.begin();
        self.endpoints.iter().for_each(|endpoint| endpoint.close());
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            tls.handshakes.close();
        }
        self.topics.table.close().iter().for_each(|topic| topic.shut_down(&self.senders));
        self.tracer.close();
    }
}

impl Deref for Shared {
    type Target = Connections;

    fn deref(&self) -> &Connections {
        &self.connections
    }
}
