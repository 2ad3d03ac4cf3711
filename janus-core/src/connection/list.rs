//! The connected clients, as the operator sees them: a page of a list, in an order and with a filter of the operator's
//! choice.
//!
//! Every connection is looked at, and only the entries of the page are described: the names of topics, and what waits in
//! a queue, are read for no other client than the filter or the order asks for.

use std::collections::BinaryHeap;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Serialize, Serializer};

use super::Connections;
use crate::delivery::Slot;
use crate::ground::clock::Tick;
use crate::session::Session;
use crate::wire::{Peer, TopicName};

/// Connections looked at before other connections may enter or leave the table.
const PORTION: usize = 1_024;

/// A served client.
///
/// Serde writes the entry of the HTTP API's list of connections: the number of `topics` instead of their names, which may
/// be many, and whole milliseconds in `lagging_for_ms`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use janus_core::{Config, Janus};
/// # use tokio::io::{AsyncBufReadExt, BufReader};
/// # let config = Config { listen: vec!["127.0.0.1:0".parse()?], http_listen: Vec::new(), ..Config::default() };
/// # let janus = Janus::builder().config(config).start().await?;
/// # let stream = tokio::net::TcpStream::connect(janus.local_addrs()[0]).await?;
/// # let peer = stream.local_addr()?;
/// # // The welcome comes when the client is served.
/// # let mut client = BufReader::new(stream);
/// # client.read_until(b'}', &mut Vec::new()).await?;
/// # let janus = &janus;
/// # let number = janus.connections(0, 1)[0].connection;
/// let entry = serde_json::to_string(&janus.connections(0, 1)[0])?;
/// # assert_eq!(entry, format!(
/// #     r#"{{"connection":{number},"peer":"{peer}","transport":"classic","user":"","topics":0,"queued_frames":0,"queued_bytes":0,"lagging_for_ms":0}}"#
/// # ));
/// // {"connection":7,"peer":"127.0.0.1:50412","transport":"classic","user":"","topics":0,
/// //  "queued_frames":0,"queued_bytes":0,"lagging_for_ms":0}
/// # janus.shutdown().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// The number of the connection, as in the log; never used again in the instance.
    pub connection: u64,
    /// The address of the client.
    pub peer: Peer,
    /// The protocol of the connection, such as `classic`.
    pub transport: &'static str,
    /// The user's name from the [hook](crate::hooks::Hooks::authenticate); empty for an unknown user.
    pub user: String,
    /// The topics of the client, in no order.
    #[serde(serialize_with = "number")]
    pub topics: Vec<TopicName>,
    /// Frames in the client's queue; 0 while the client keeps up.
    pub queued_frames: usize,
    /// Bytes in the client's queue, with 64 more for each entry.
    pub queued_bytes: usize,
    /// For how long the queue has not been empty, to within two ticks (of a second by default).
    #[serde(rename = "lagging_for_ms", serialize_with = "milliseconds")]
    pub lagging_for: Duration,
}

fn number<S: Serializer>(topics: &[TopicName], serializer: S) -> Result<S::Ok, S::Error> {
    topics.len().serialize(serializer)
}

fn milliseconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).serialize(serializer)
}

/// Which connections to list, and in which order: by default the first 100 of all, by number.
///
/// ```
/// use janus_core::{ConnectionOrder, ConnectionQuery};
///
/// let query = ConnectionQuery::default().user("alice").peer("10.0.0.0/8".parse()?).order(ConnectionOrder::Lag).limit(20);
/// # let _ = query;
/// # Ok::<_, janus_core::UnknownPeer>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionQuery {
    user: Option<String>,
    peer: Option<PeerFilter>,
    transport: Option<String>,
    topic: Option<String>,
    order: ConnectionOrder,
    after: u64,
    limit: usize,
}

impl Default for ConnectionQuery {
    fn default() -> Self {
        let (user, peer, transport, topic) = (None, None, None, None);
        Self { user, peer, transport, topic, order: ConnectionOrder::Number, after: 0, limit: 100 }
    }
}

impl ConnectionQuery {
    /// Only the connections of this user. The name of unknown users is empty.
    #[must_use]
    pub fn user(self, user: impl Into<String>) -> Self {
        Self { user: Some(user.into()), ..self }
    }

    /// Only connections from these addresses.
    #[must_use]
    pub fn peer(self, peer: PeerFilter) -> Self {
        Self { peer: Some(peer), ..self }
    }

    /// Only connections of this protocol, by the name of the codec.
    #[must_use]
    pub fn transport(self, transport: impl Into<String>) -> Self {
        Self { transport: Some(transport.into()), ..self }
    }

    /// Only connections with this topic.
    #[must_use]
    pub fn topic(self, topic: impl Into<String>) -> Self {
        Self { topic: Some(topic.into()), ..self }
    }

    /// The order of the list.
    #[must_use]
    pub fn order(self, order: ConnectionOrder) -> Self {
        Self { order, ..self }
    }

    /// Only connections with a number above this, whatever the order.
    #[must_use]
    pub fn after(self, connection: u64) -> Self {
        Self { after: connection, ..self }
    }

    /// The number of connections to list at most.
    #[must_use]
    pub fn limit(self, limit: usize) -> Self {
        Self { limit, ..self }
    }

    fn matches(&self, shared: &Connections, slot: &Slot, session: &Session) -> bool {
        let Self { user, peer, transport, topic, after, .. } = self;
        slot.id > *after
            && peer.is_none_or(|peer| peer.matches(session.peer()))
            && transport.as_ref().is_none_or(|name| shared.codecs().name(slot.codec()) == name)
            && user.as_ref().is_none_or(|user| session.is_of(user))
            && topic.as_ref().is_none_or(|topic| session.has_topic(topic))
    }
}

/// The order of a list of connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionOrder {
    /// The oldest connection first.
    #[default]
    Number,
    /// The largest queue first.
    QueuedBytes,
    /// The longest lag first, and the larger of two queues that lag equally long.
    Lag,
}

impl ConnectionOrder {
    /// The place of a connection in the order: the lowest key comes first.
    fn key(self, slot: &Slot, tick: Tick) -> Key {
        // Most clients keep up, and their locks need not be taken.
        let lag = || slot.needs_attention().then(|| slot.lag()).flatten();
        let (first, second) = match self {
            Self::Number => (0, 0),
            Self::QueuedBytes => (lag().map_or(0, |lag| lag.bytes as u64), 0),
            Self::Lag => lag().map_or((0, 0), |lag| {
                let since = lag.since.map_or(0, |since| tick.since(since));
                (u64::from(since) + 1, lag.bytes as u64)
            }),
        };
        Key(u64::MAX - first, u64::MAX - second, slot.id)
    }
}

/// The addresses of clients: a network, an address with its port, or clients without an address.
///
/// ```
/// use janus_core::PeerFilter;
///
/// for text in ["10.0.0.0/8", "2001:db8::/32", "192.0.2.7", "::1", "192.0.2.7:41234", "[::1]:41234", "local"] {
///     text.parse::<PeerFilter>()?;
/// }
/// assert!("example.com".parse::<PeerFilter>().is_err());
/// # Ok::<_, janus_core::UnknownPeer>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PeerFilter {
    /// Any port of these addresses.
    Network(IpNet),
    /// This address and port.
    Addr(SocketAddr),
    /// Streams without an address: Unix sockets, and streams of an embedder.
    Local,
}

impl PeerFilter {
    fn matches(self, peer: Peer) -> bool {
        match (self, peer) {
            (Self::Network(network), Peer::Addr(addr)) => {
                network.contains(&addr.ip().to_canonical()) || network.contains(&addr.ip())
            }
            (Self::Addr(wanted), Peer::Addr(addr)) => {
                wanted.port() == addr.port() && wanted.ip().to_canonical() == addr.ip().to_canonical()
            }
            (Self::Local, Peer::Local) => true,
            (Self::Network(_) | Self::Addr(_), Peer::Local) | (Self::Local, Peer::Addr(_)) => false,
        }
    }
}

/// A text that is no [`PeerFilter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected an address with or without a port, as in 192.0.2.7:41234, a network as in 10.0.0.0/8, or local")]
pub struct UnknownPeer;

impl FromStr for PeerFilter {
    type Err = UnknownPeer;

    fn from_str(text: &str) -> Result<Self, UnknownPeer> {
        if text == "local" {
            return Ok(Self::Local);
        }
        let network = text.parse().map(Self::Network);
        let network = network.or_else(|_| text.parse().map(|addr: IpAddr| Self::Network(addr.to_canonical().into())));
        network.or_else(|_| text.parse().map(Self::Addr)).map_err(|_| UnknownPeer)
    }
}

/// A part of a list of connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FoundConnections {
    /// The first of the connections, as many as were asked for at most.
    pub connections: Vec<ConnectionInfo>,
    /// How many connections there are that the query asks for.
    pub total: usize,
}

/// The first connections in the order of the query, of those that the query asks for.
pub(crate) fn find(shared: &Connections, query: &ConnectionQuery) -> FoundConnections {
    let tick = shared.clock.tick();
    let mut page: BinaryHeap<Entry> = BinaryHeap::new();
    let mut total = 0;
    for_all_unlocked(shared, |slot, session| {
        if !query.matches(shared, slot, session) {
            return;
        }
        total += 1;
        let key = query.order.key(slot, tick);
        if page.len() < query.limit || page.peek().is_some_and(|last| key < last.key) {
            page.push(Entry { key, slot: Arc::clone(slot), session: Arc::clone(session) });
            // At most a single entry above the limit: a page costs no more memory than the caller asked for.
            if page.len() > query.limit {
                page.pop();
            }
        }
    });
    let page = page.into_sorted_vec();
    let connections = page.iter().map(|Entry { slot, session, .. }| describe(shared, slot, session, tick)).collect();
    FoundConnections { connections, total }
}

/// Calls `visit` with every connection, and with the session of a served client.
pub(crate) fn for_all(shared: &Connections, mut visit: impl FnMut(&Arc<Slot>, Option<&Arc<Session>>)) {
    let mut portion = 0..PORTION;
    while shared.table.visit_with_session(portion.clone(), &mut visit) {
        portion = portion.end..portion.end + PORTION;
    }
}

/// Calls `visit` with every served client, without the lock of the table.
fn for_all_unlocked(shared: &Connections, mut visit: impl FnMut(&Arc<Slot>, &Arc<Session>)) {
    let mut served = Vec::with_capacity(PORTION);
    let mut portion = 0..PORTION;
    loop {
        let more = shared.table.visit_with_session(portion.clone(), |slot, session| {
            served.extend(session.map(|session| (Arc::clone(slot), Arc::clone(session))));
        });
        for (slot, session) in served.drain(..) {
            visit(&slot, &session);
        }
        if !more {
            return;
        }
        portion = portion.end..portion.end + PORTION;
    }
}

fn describe(shared: &Connections, slot: &Slot, session: &Session, tick: Tick) -> ConnectionInfo {
    let lag = slot.lag();
    ConnectionInfo {
        connection: slot.id,
        transport: shared.codecs().name(slot.codec()),
        peer: session.peer(),
        user: session.identity().map(|identity| identity.user.clone()).unwrap_or_default(),
        topics: session.info().topics,
        queued_frames: lag.map_or(0, |lag| lag.frames),
        queued_bytes: lag.map_or(0, |lag| lag.bytes),
        lagging_for: lag.map_or(Duration::ZERO, |lag| lag.lagging_for(tick)),
    }
}

/// The last part is the connection's number, so that no two connections have the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key(u64, u64, u64);

/// Ordered by the key.
struct Entry {
    key: Key,
    slot: Arc<Slot>,
    session: Arc<Session>,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key.cmp(&other.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_of_addresses_takes_networks_addresses_and_ports() {
        let peer = |text: &str| Peer::Addr(text.parse().unwrap());
        let matches = |filter: &str, with: Peer| filter.parse::<PeerFilter>().unwrap().matches(with);
        for filter in ["10.0.0.0/8", "10.1.2.3", "10.1.2.3:40000", "::ffff:10.1.2.3"] {
            assert!(matches(filter, peer("10.1.2.3:40000")), "{filter}");
            assert!(matches(filter, peer("[::ffff:10.1.2.3]:40000")), "{filter}");
            assert!(!matches(filter, Peer::Local), "{filter}");
            assert!(!matches(filter, peer("11.1.2.3:40000")), "{filter}");
        }
        assert!(!matches("10.1.2.3:40001", peer("10.1.2.3:40000")));
        assert!(
            matches("[2001:db8::1]:7", peer("[2001:db8::1]:7")) && matches("2001:db8::/32", peer("[2001:db8::1]:7"))
        );
        assert!(matches("local", Peer::Local) && !matches("local", peer("127.0.0.1:1")));
        for bad in ["", "localhost", "10.0.0.0/33", "10.0.0", "*"] {
            assert!(bad.parse::<PeerFilter>().is_err(), "{bad}");
        }
    }
}
