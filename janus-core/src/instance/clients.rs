//! The clients from an operator's view: connections in pages, sessions, slow clients, and the means to close a
//! connection.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::janus::{Janus, on};
use crate::connection::list::{self, ConnectionInfo, ConnectionQuery, FoundConnections};
use crate::connection::slow_clients::slow_clients;
use crate::connection::transport::CONTROL_TIMEOUT;
use crate::delivery::End;
use crate::ground::clock::now;
use crate::ground::log_lines::counted;
use crate::hooks::{Revocation, RevokeError, SlowClient};
use crate::session::proxy_mapper::{ListSessions, Locate, ProxyMapper};
use crate::session::{SessionInfo, SessionToken};
use crate::supervision::in_words;
use crate::wire::ClientId;

impl Janus {
    /// Whether a further client would find a place among [`Config::max_connections`](crate::Config::max_connections),
    /// for a check of readiness. A client may still be refused for another reason, such as a limit of its address.
    ///
    /// ```
    /// # use janus_core::{Config, Janus};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() };
    /// # let janus = Janus::builder().config(config).start().await?;
    /// assert!(janus.has_place());
    /// # janus.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn has_place(&self) -> bool {
        let shared = self.tables();
        shared.table.has_place(shared.config().max_connections)
    }

    /// The connected clients in the order of their numbers: the first `limit` above `after`.
    ///
    /// To see all, begin with 0 and continue after the last number of each page until a page is empty. A client that
    /// comes or goes in between may be listed or not, and no client is listed twice. Each call looks at every
    /// connection, a portion at a time.
    ///
    /// ```
    /// # use janus_core::{Config, Janus};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() };
    /// # let janus = Janus::builder().config(config).start().await?;
    /// let mut after = 0;
    /// loop {
    ///     let page = janus.connections(after, 1_000);
    ///     let Some(last) = page.last() else { break };
    ///     after = last.connection;
    ///     for client in page {
    ///         println!("{} from {} has {} topics", client.connection, client.peer, client.topics.len());
    ///     }
    /// }
    /// # janus.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn connections(&self, after: u64, limit: usize) -> Vec<ConnectionInfo> {
        self.find_connections(&ConnectionQuery::default().after(after).limit(limit)).connections
    }

    /// The connected clients that a query asks for, and their number.
    ///
    /// Each call looks at every connection, a portion at a time, and describes only the connections of the answer.
    ///
    /// ```
    /// # use janus_core::{Config, ConnectionOrder, ConnectionQuery, Janus};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() };
    /// # let janus = Janus::builder().config(config).start().await?;
    /// let query = ConnectionQuery::default().topic("news").order(ConnectionOrder::QueuedBytes).limit(10);
    /// let found = janus.find_connections(&query);
    /// println!("{} clients of news, and these have the largest queues:", found.total);
    /// for client in found.connections {
    ///     println!("{} from {}: {} bytes", client.connection, client.peer, client.queued_bytes);
    /// }
    /// # janus.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn find_connections(&self, query: &ConnectionQuery) -> FoundConnections {
        list::find(self.tables(), query)
    }

    /// Closes a connection; returns false if the connection has closed already.
    ///
    /// The client gets its queued messages and then the code `disconnected`, if it may come back, or `banned`, and then
    /// its session ends as well. Only [`authenticate`](crate::hooks::Hooks::authenticate) can keep the client from
    /// connecting again all the same.
    pub fn disconnect(&self, connection: u64, reconnect: bool) -> bool {
        let mut found = None;
        list::for_all(self.tables(), |slot, _| {
            if slot.id == connection {
                found = Some(Arc::clone(slot));
            }
        });
        // Not under the lock of the table.
        if let Some(slot) = &found {
            slot.end(End::Disconnected { reconnect });
        }
        found.is_some()
    }

    /// The public name of the connection with this number, whether there is such a connection or not: a program that publishes
    /// in the name of a client keeps the message from the client with [`Message::exclude`](crate::Message::exclude). The number
    /// is that of [`Client::connection`](crate::hooks::Client::connection) and [`ConnectionInfo`].
    #[must_use]
    pub fn client_id(&self, connection: u64) -> ClientId {
        ClientId::new(self.tables().terms.node(), connection)
    }

    /// Closes all connections of a user like [`disconnect`](Self::disconnect). Returns their number.
    ///
    /// An empty name belongs to no user, and closes no connection.
    pub fn disconnect_user(&self, user: &str, reconnect: bool) -> usize {
        let mut found = Vec::new();
        list::for_all(self.tables(), |slot, session| {
            if !user.is_empty() && session.is_some_and(|session| session.is_of(user)) {
                found.push(Arc::clone(slot));
            }
        });
        found.iter().for_each(|slot| slot.end(End::Disconnected { reconnect }));
        found.len()
    }

    /// Serves a user, or the clients of a token, no longer: closes the connections (`unauthorized`), ends their sessions,
    /// and refuses new connections and refreshes until the time given. Returns the number of closed connections.
    ///
    /// `until` should be the end of the last token that is affected, because no token is good after its end. The
    /// revocation is in memory alone: a restart forgets it. A repetition may move the time, but never to an earlier one.
    /// Only clients with an [identity](crate::hooks::Identity) of hooks are affected.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    ///
    /// use janus_core::hooks::Revocation;
    /// # use janus_core::{Config, Janus};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let config = Config { listen: vec!["127.0.0.1:0".parse()?], ..Config::default() };
    /// # let janus = Janus::builder().config(config).start().await?;
    /// let closed = janus.revoke(Revocation::user("alice"), SystemTime::now() + Duration::from_secs(3_600))?;
    /// assert_eq!(closed, 0);
    /// # janus.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The name or identifier is not accepted, the time is over already, or as many revocations are in force as
    /// [`Config::max_revocations`](crate::Config::max_revocations) allows.
    pub fn revoke(&self, revocation: Revocation, until: SystemTime) -> Result<usize, RevokeError> {
        let shared = self.tables();
        shared.revocations.enter(revocation.clone(), until, now())?;
        // After the entry: a client that this walk does not find yet looks at the table once more.
        let mut found = Vec::new();
        list::for_all(shared, |slot, session| {
            if session.and_then(|session| session.identity()).is_some_and(|identity| revocation.covers(&identity)) {
                found.push(Arc::clone(slot));
            }
        });
        found.iter().for_each(|slot| slot.end(End::Revoked));
        let closed = found.len();
        let time = Duration::from_secs(until.duration_since(now()).unwrap_or_default().as_secs());
        let user = revocation.of_user();
        // The identifier of a token is not for the log.
        let whose = user.map_or_else(|| "a token".to_owned(), |user| format!("user {user:?}"));
        let connections = counted(closed as u64, "connection");
        log::info!(user, closed; "revoked {whose} for {}: {connections} closed", in_words(time));
        Ok(closed)
    }

    /// The listed sessions, with and without a connection. Empty once the instance has ended.
    pub async fn sessions(&self) -> Vec<SessionInfo> {
        self.ask_proxy_mapper(|| ListSessions).await.unwrap_or_default()
    }

    /// The session of a token, which its client got in the greeting; `None` if no such session is listed, or once the
    /// instance has ended.
    pub async fn session(&self, token: SessionToken) -> Option<SessionInfo> {
        self.ask_proxy_mapper(move || Locate(token)).await.flatten()
    }

    /// Calls the ProxyMapper, or the successor after a crash; `None` if neither answers in time.
    async fn ask_proxy_mapper<M>(&self, request: impl Fn() -> M + Send + 'static) -> Option<M::Result>
    where
        ProxyMapper: actix::Handler<M>,
        M: actix::Message + Send + 'static,
        M::Result: Send,
    {
        let mapper = self.inner.shared.proxy_mapper.clone();
        let ask = async move {
            loop {
                match mapper.call(request()).await {
                    Ok(answer) => return answer,
                    Err(_) => mapper.when_up(None).await,
                };
            }
        };
        on(&self.inner.control, async move { tokio::time::timeout(CONTROL_TIMEOUT, ask).await.ok() }).await.flatten()
    }

    /// The clients that lag the most, largest queue first, at most `count` of them.
    ///
    /// Empty while all clients keep up. The call looks at every connection; call it every few seconds, not for every
    /// message.
    #[must_use]
    pub fn slow_clients(&self, count: usize) -> Vec<SlowClient> {
        slow_clients(&self.inner.shared, count)
    }
}
