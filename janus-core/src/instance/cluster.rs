//! The instance as a node of a cluster: the state of its engine, the other nodes, and what all nodes do at once.
//!
//! Nodes talk by small JSON messages (`Words`). A message of an unknown kind is of a later release: it is ignored and
//! counted. A message reaches a node at most once, so whoever asks counts the answers.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::janus::{Inner, Janus, on};
use crate::engine::{LinkError, NodeId};
use crate::hooks::{Revocation, RevokeError};
use crate::topic::cluster::{Cluster, LinkState, News, Voice};
use crate::wire::TopicName;

/// The engine of an instance, and the links to it: see [`Janus::cluster`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterState {
    /// The id of this node, another one after each start.
    pub node: NodeId,
    /// The name of this node for people: see [`Builder::node_name`](crate::Builder::node_name).
    pub name: String,
    /// The name of the engine, such as `redis`.
    pub engine: &'static str,
    /// The links to the servers of the engine, in their order.
    pub links: Vec<EngineLink>,
}

/// A link to a server of the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineLink {
    /// The name of the server, such as its address, without secrets: see [`Engine::server`](crate::engine::Engine::server).
    pub server: String,
    /// Whether the link is up.
    pub is_up: bool,
    /// For how long the link has been up or down.
    pub lasted: Duration,
    /// Whether the link has ever been up.
    pub has_been_up: bool,
    /// Why the last link has ended, or the last attempt has failed.
    pub last_error: Option<LinkError>,
}

impl ClusterState {
    /// Whether all links are up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.links.iter().all(|link| link.is_up)
    }
}

/// What a node of the cluster says of itself, as of some seconds ago.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct NodeInfo {
    /// The id of the node, as 16 hexadecimal digits. A restarted instance is another node.
    pub id: String,
    /// The name of the node for people. Two nodes may have the same.
    pub name: String,
    /// The release of Janus.
    pub version: String,
    /// The addresses on which the node listens for clients, as the node itself sees them.
    pub addresses: Vec<SocketAddr>,
    /// Seconds since the start of the node.
    pub uptime: u64,
    /// Open connections.
    pub connections: usize,
    /// Existing topics.
    pub topics: usize,
    /// Whether the node takes further clients.
    pub ready: bool,
}

/// What has become of a request to all nodes of a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Everywhere {
    /// Connections closed on all nodes that have answered.
    pub closed: usize,
    /// Nodes that were alive, this one included: 1 without an engine.
    pub nodes: usize,
    /// Nodes that have carried out the request and said so in time, this one included.
    pub answered: usize,
}

/// How long the answers of other nodes are waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// The release of the messages. A message of another release is ignored.
const RELEASE: u32 = 1;

/// Requests to all nodes at once. A further one is carried out on this node alone.
const MOST_ASKED: usize = 256;

/// A message to other nodes.
#[derive(Debug, Serialize, Deserialize)]
struct Words {
    v: u32,
    /// The number of the request, for its answers.
    #[serde(default)]
    id: u64,
    #[serde(flatten)]
    what: What,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum What {
    /// A node has come.
    Hello,
    /// A node takes no further clients.
    Leave,
    /// Close the connections of a user.
    Disconnect { user: String, reconnect: bool },
    /// Serve a user or a token no longer.
    Revoke {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token: Option<String>,
        /// Seconds since 1970.
        until: u64,
    },
    /// The members of these topics have changed on the sender.
    Members { topics: Vec<String> },
    /// The answer to a request: so many connections have been closed.
    Closed { count: usize },
}

impl Words {
    fn message(id: u64, what: What) -> Bytes {
        serde_json::to_vec(&Self { v: RELEASE, id, what }).expect("a message has strings as keys").into()
    }
}

/// What a node says of itself, as it travels. Fields of later releases are ignored.
#[derive(Debug, Serialize, Deserialize)]
struct About {
    name: String,
    version: String,
    addresses: Vec<SocketAddr>,
    uptime: u64,
    connections: usize,
    topics: usize,
    ready: bool,
}

impl About {
    fn info(self, id: NodeId) -> NodeInfo {
        let Self { name, version, addresses, uptime, connections, topics, ready } = self;
        NodeInfo { id: id.to_string(), name, version, addresses, uptime, connections, topics, ready }
    }
}

/// This instance as a node: speaks to the others, and does what they ask for.
#[derive(Debug)]
pub(super) struct Node {
    inner: Weak<Inner>,
    pub(super) name: String,
    started: Instant,
    /// Whether the program says that the node takes further clients.
    is_ready: AtomicBool,
    /// Requests that wait for answers, by their numbers.
    asked: Mutex<HashMap<u64, Arc<Asked>>>,
    last_id: AtomicU64,
    acquainted: Mutex<Acquainted>,
}

/// The other nodes that the log knows of, with their names, and the looks at the list in which a node was missing.
#[derive(Debug, Default)]
struct Acquainted(BTreeMap<NodeId, (String, u32)>);

/// Looks at the list in which a node has to be missing until it counts as gone. After a restart of the engine the first
/// list has only the nodes that were quick.
const MISSED_LOOKS: u32 = 2;

impl Acquainted {
    /// Takes a list of the other nodes; returns the lines for the log.
    fn look(&mut self, nodes: &[(NodeId, String)]) -> Vec<String> {
        let mut lines = Vec::new();
        for (id, name) in nodes {
            if self.0.insert(*id, (name.clone(), 0)).is_none() {
                lines.push(format!("node {name} ({id}) is in the cluster"));
            }
        }
        self.0.retain(|id, (name, missed)| {
            if nodes.iter().all(|(present, _)| present != id) {
                *missed += 1;
            }
            let is_gone = *missed >= MISSED_LOOKS;
            if is_gone {
                lines.push(format!("node {name} ({id}) gives no sign of life, and is no longer in the cluster"));
            }
            !is_gone
        });
        lines
    }

    /// Takes the goodbye of a node; returns the line for the log.
    fn leave(&mut self, id: NodeId) -> Option<String> {
        let (name, _) = self.0.remove(&id)?;
        Some(format!("node {name} ({id}) takes no further clients, and leaves the cluster"))
    }
}

/// A request that waits for answers.
#[derive(Debug, Default)]
struct Asked {
    sum: Mutex<Sum>,
    answered: Notify,
}

#[derive(Debug, Default)]
struct Sum {
    closed: usize,
    nodes: Vec<NodeId>,
}

impl Node {
    pub(super) fn new(inner: Weak<Inner>, name: &str) -> Arc<Self> {
        Arc::new(Self {
            inner,
            name: name.to_owned(),
            started: Instant::now(),
            is_ready: AtomicBool::new(true),
            asked: Mutex::default(),
            last_id: AtomicU64::new(0),
            acquainted: Mutex::default(),
        })
    }

    fn janus(&self) -> Option<Janus> {
        Some(Janus { inner: self.inner.upgrade()? })
    }

    /// Tells the log of nodes that have come or gone since the last look.
    fn tell_of_others(&self, janus: &Janus) {
        let Some(cluster) = &janus.tables().topics.cluster else { return };
        // Without a fresh list nothing is known of others.
        let Some(nodes) = cluster.exchange.nodes() else { return };
        let named = |(id, text): (NodeId, String)| {
            let name = serde_json::from_str::<About>(&text)
                .map_or_else(|_| "of another release".to_owned(), |about| about.name);
            (id, name)
        };
        let others: Vec<_> = nodes.into_iter().filter(|(id, _)| *id != cluster.node()).map(named).collect();
        for line in self.acquainted.lock().look(&others) {
            log::info!("{line}");
        }
    }

    fn describe(&self, janus: &Janus) -> About {
        let shared = janus.tables();
        About {
            name: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            addresses: janus.local_addrs(),
            uptime: self.started.elapsed().as_secs(),
            connections: shared.table.len(),
            topics: shared.topics.table.len(),
            ready: self.is_ready.load(Ordering::Relaxed) && !shared.is_draining(),
        }
    }

    /// Carries out a request of another node; returns the number of closed connections.
    fn carry_out(&self, from: NodeId, what: What) -> Option<usize> {
        let janus = self.janus()?;
        match what {
            What::Disconnect { user, reconnect } => {
                let closed = janus.disconnect_user(&user, reconnect);
                log::info!(user = &*user, closed; "closed the connections of user {user:?} at the request of node {from}: {closed}");
                Some(closed)
            }
            What::Revoke { user, token, until } => {
                let revocation = match (user, token) {
                    (Some(user), None) => Revocation::user(user),
                    (None, Some(token)) => Revocation::token(token),
                    _ => return None,
                };
                let until = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(until))?;
                let refused = |error: RevokeError| log::warn!("a revocation of another node is refused: {error}");
                janus.revoke(revocation, until).map_err(refused).ok()
            }
            What::Hello | What::Leave | What::Members { .. } | What::Closed { .. } => None,
        }
    }

    /// Sends a request to all other nodes, and sums up the answers.
    async fn ask(&self, cluster: &Cluster, what: What, here: usize) -> Everywhere {
        let others = cluster.exchange.nodes().unwrap_or_default();
        let others: Vec<NodeId> = others.into_iter().map(|(id, _)| id).filter(|id| *id != cluster.node()).collect();
        let mut everywhere = Everywhere { closed: here, nodes: 1 + others.len(), answered: 1 };
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let asked = Arc::new(Asked::default());
        {
            let mut all = self.asked.lock();
            if all.len() >= MOST_ASKED {
                return everywhere;
            }
            all.insert(id, Arc::clone(&asked));
        }
        // Taken out again also if the caller goes away.
        let _entry = Entry { node: self, id };
        if !cluster.send(None, Words::message(id, what)) {
            return everywhere;
        }
        let all = async {
            loop {
                let notified = asked.answered.notified();
                if asked.sum.lock().nodes.len() >= others.len() {
                    return;
                }
                notified.await;
            }
        };
        let _ = timeout(PATIENCE, all).await;
        let sum = asked.sum.lock();
        // Also a node that has come in the meantime may have answered.
        everywhere.nodes = everywhere.nodes.max(1 + sum.nodes.len());
        everywhere.closed += sum.closed;
        everywhere.answered += sum.nodes.len();
        everywhere
    }

    fn note_answer(&self, id: u64, from: NodeId, count: usize) {
        let Some(asked) = self.asked.lock().get(&id).cloned() else { return };
        {
            let mut sum = asked.sum.lock();
            if sum.nodes.contains(&from) {
                return;
            }
            sum.nodes.push(from);
            sum.closed += count;
        }
        asked.answered.notify_one();
    }
}

struct Entry<'a> {
    node: &'a Node,
    id: u64,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.node.asked.lock().remove(&self.id);
    }
}

impl Voice for Node {
    /// Asked for at each sign of life, which is also the time for a look at the others.
    fn about(&self) -> String {
        let janus = self.janus();
        if let Some(janus) = &janus {
            self.tell_of_others(janus);
        }
        let about = janus.map(|janus| self.describe(&janus));
        about.and_then(|about| serde_json::to_string(&about).ok()).unwrap_or_else(|| "{}".to_owned())
    }

    fn hello(&self) -> Bytes {
        Words::message(0, What::Hello)
    }

    fn members_changed(&self, topics: &[TopicName]) -> Bytes {
        Words::message(0, What::Members { topics: topics.iter().map(ToString::to_string).collect() })
    }

    fn hear(&self, from: NodeId, message: &[u8]) -> News {
        let words = serde_json::from_slice(message).ok().filter(|words: &Words| words.v == RELEASE);
        let Some(Words { id, what, .. }) = words else {
            if let Some(janus) = self.janus() {
                janus.tables().counters.engine_messages_ignored.fetch_add(1, Ordering::Relaxed);
            }
            return News::None;
        };
        match what {
            What::Hello => return News::Came,
            What::Leave => {
                if let Some(line) = self.acquainted.lock().leave(from) {
                    log::info!("{line}");
                }
                return News::Left;
            }
            What::Members { topics } => {
                if let Some(janus) = self.janus() {
                    topics.iter().for_each(|topic| janus.tables().topics.members_have_changed(topic));
                }
            }
            What::Closed { count } => self.note_answer(id, from, count),
            what @ (What::Disconnect { .. } | What::Revoke { .. }) => {
                let cluster = self.janus().and_then(|janus| janus.tables().topics.cluster.clone());
                if let (Some(count), Some(cluster)) = (self.carry_out(from, what), cluster) {
                    // A lost answer is a node that has not answered.
                    cluster.send(Some(from), Words::message(id, What::Closed { count }));
                }
            }
        }
        News::None
    }
}

/// Whether another node takes further clients, as far as this node knows: a killed node is listed for 15 s more.
pub(super) fn has_ready_others(cluster: &Cluster) -> bool {
    let others = cluster.exchange.nodes().unwrap_or_default().into_iter().filter(|(id, _)| *id != cluster.node());
    others.filter_map(|(_, text)| serde_json::from_str::<About>(&text).ok()).any(|about| about.ready)
}

/// The last word of a node that drains.
pub(super) fn leave(cluster: &Cluster) {
    cluster.leave(Words::message(0, What::Leave));
}

impl Janus {
    /// The engine of the instance and the links to it; `None` without an engine.
    ///
    /// A link that is down is no reason to end the instance: subscribers stay, and publishers are told
    /// ([`PublishError::EngineUnavailable`](crate::PublishError::EngineUnavailable)). The instance makes a new link by itself.
    ///
    /// ```
    /// use janus_core::engine::memory::Memory;
    /// use janus_core::{Config, Janus};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() };
    /// let janus = Janus::builder().config(config).engine(Memory::default()).node_name("left").start().await?;
    /// let state = janus.cluster().expect("there is an engine");
    /// assert_eq!((state.name.as_str(), state.links.len()), ("left", 1));
    /// # janus.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn cluster(&self) -> Option<ClusterState> {
        let cluster = self.tables().topics.cluster.as_ref()?;
        let link = |(index, LinkState { is_up, since, has_been_up, last_error })| EngineLink {
            server: cluster.server_name(index),
            is_up,
            lasted: since.elapsed(),
            has_been_up,
            last_error,
        };
        Some(ClusterState {
            node: cluster.node(),
            name: self.inner.node.as_ref()?.name.clone(),
            engine: cluster.engine_name(),
            links: cluster.links().enumerate().map(link).collect(),
        })
    }

    /// The nodes of the cluster that are alive, in the order of their ids: this one as it is now, the others as of at most
    /// ten seconds ago. A node that has ended without a word is listed for 15 s more. While the link to the engine is down,
    /// this node alone; without an engine, none.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeInfo> {
        let Some((cluster, node)) = self.node() else { return Vec::new() };
        let others = cluster.exchange.nodes().unwrap_or_default().into_iter();
        // Texts of a later release may not be understood.
        let others = others.filter(|(id, _)| *id != cluster.node());
        let others = others.filter_map(|(id, text)| Some(serde_json::from_str::<About>(&text).ok()?.info(id)));
        let mut nodes: Vec<_> = others.chain([node.describe(self).info(cluster.node())]).collect();
        nodes.sort_unstable_by(|one, other| one.id.cmp(&other.id));
        nodes
    }

    /// Tells the other nodes whether this node takes further clients, for [`nodes`](Self::nodes): a program may know of
    /// more reasons than the instance, which tells of its drain by itself. Without an engine this has no effect.
    pub fn set_ready(&self, is_ready: bool) {
        if let Some((_, node)) = self.node() {
            node.is_ready.store(is_ready, Ordering::Relaxed);
        }
    }

    /// Closes all connections of a user on all nodes of the cluster; otherwise like
    /// [`disconnect_user`](Self::disconnect_user). Waits at most a second for the other nodes.
    ///
    /// A node that has not answered may have closed connections, or may yet.
    ///
    /// # Cancel safety
    ///
    /// A future dropped before its end has closed the connections of this node, and may have closed others.
    pub async fn disconnect_user_everywhere(&self, user: &str, reconnect: bool) -> Everywhere {
        let here = self.disconnect_user(user, reconnect);
        self.ask_everywhere(What::Disconnect { user: user.to_owned(), reconnect }, here).await
    }

    /// Serves a user, or the clients of a token, no longer on all nodes of the cluster; otherwise like
    /// [`revoke`](Self::revoke). Waits at most a second for the other nodes.
    ///
    /// A node that has not answered may serve the user further, and so does a node that starts later.
    ///
    /// # Errors
    ///
    /// This node refuses the revocation, and no other node is asked.
    ///
    /// # Cancel safety
    ///
    /// A future dropped before its end has carried out the revocation on this node, and may have on others.
    pub async fn revoke_everywhere(
        &self,
        revocation: Revocation,
        until: SystemTime,
    ) -> Result<Everywhere, RevokeError> {
        let here = self.revoke(revocation.clone(), until)?;
        let seconds = until.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // Rounded up, so that no node serves the client before the time.
        let until = seconds.as_secs() + u64::from(seconds.subsec_nanos() > 0);
        let (user, token) = (revocation.of_user().map(str::to_owned), revocation.of_token().map(str::to_owned));
        Ok(self.ask_everywhere(What::Revoke { user, token, until }, here).await)
    }

    async fn ask_everywhere(&self, what: What, here: usize) -> Everywhere {
        let alone = Everywhere { closed: here, nodes: 1, answered: 1 };
        let Some((cluster, node)) = self.node() else { return alone };
        let (cluster, node) = (Arc::clone(cluster), Arc::clone(node));
        on(&self.inner.control, async move { node.ask(&cluster, what, here).await }).await.unwrap_or(alone)
    }

    fn node(&self) -> Option<(&Arc<Cluster>, &Arc<Node>)> {
        Some((self.tables().topics.cluster.as_ref()?, self.inner.node.as_ref()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_comes_or_goes_is_one_line_in_the_log() {
        let [one, two] = [1, 2].map(NodeId::new);
        let both = [(one, "left".to_owned()), (two, "right".to_owned())];
        let mut acquainted = Acquainted::default();
        assert_eq!(
            acquainted.look(&both),
            ["node left (0000000000000001) is in the cluster", "node right (0000000000000002) is in the cluster"]
        );
        assert!(acquainted.look(&both).is_empty());
        assert!(acquainted.look(&both[1..]).is_empty(), "one look is not enough");
        assert!(acquainted.look(&both).is_empty(), "the node was late");
        assert!(acquainted.look(&both[1..]).is_empty());
        let gone = acquainted.look(&both[1..]);
        assert!(
            gone.len() == 1 && gone[0].starts_with("node left (0000000000000001) gives no sign of life"),
            "{gone:?}"
        );
        assert!(acquainted.look(&both[1..]).is_empty());
        let left = acquainted.leave(two);
        assert!(left.is_some_and(|line| line.starts_with("node right (0000000000000002) takes no further clients")));
        assert_eq!((acquainted.leave(two), acquainted.look(&[]).len()), (None, 0));
    }

    #[test]
    fn messages_are_plain_json_and_later_ones_are_told_apart() {
        let text = Words::message(7, What::Disconnect { user: "al".to_owned(), reconnect: true });
        assert_eq!(text, r#"{"v":1,"id":7,"kind":"disconnect","user":"al","reconnect":true}"#);
        let revoke = What::Revoke { user: None, token: Some("t".to_owned()), until: 9 };
        assert_eq!(Words::message(8, revoke), r#"{"v":1,"id":8,"kind":"revoke","token":"t","until":9}"#);
        let read = |text: &str| serde_json::from_str::<Words>(text).map(|words| words.what);
        assert!(
            matches!(read(r#"{"v":1,"kind":"hello","mood":"good"}"#), Ok(What::Hello)),
            "a field of a later release"
        );
        assert!(read(r#"{"v":1,"kind":"dance"}"#).is_err(), "a kind of a later release");
    }
}
