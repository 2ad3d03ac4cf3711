//! Who is subscribed to a topic.

use std::sync::Arc;

use super::janus::{Janus, on};
use crate::topic::presence::Look;
use crate::topic::{PresenceError, PresenceInfo};
use crate::wire::TopicName;

impl Janus {
    /// Who is subscribed to a topic, on all nodes of the cluster if an [engine](crate::engine) numbers the topic. A topic
    /// without clients has no members.
    ///
    /// A member is a user, however many connections the user has, or a connection without a user; see
    /// [`Presence`](crate::Presence). A user whose last subscription has ended stays for `presence_linger`. Subscribers in
    /// this process do not count.
    ///
    /// ```
    /// use janus_core::{Config, Janus, Namespace, Presence, PresenceError};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let chat = Namespace { presence: Presence::Members, ..Namespace::default() };
    /// let config = Config { namespaces: [("chat".to_owned(), chat)].into(), ..Config::default() };
    /// # let config = Config { listen: vec!["127.0.0.1:0".parse()?], ..config };
    /// let janus = Janus::builder().config(config).start().await?;
    /// let presence = janus.presence("chat:lobby").await?;
    /// assert_eq!((presence.count, presence.members), (0, Some(vec![])));
    /// assert_eq!(janus.presence("news").await, Err(PresenceError::Off));
    /// # janus.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// See [`PresenceError`].
    ///
    /// # Cancel safety
    ///
    /// Cancel safe. Without an engine the answer is there at once; in a cluster the engine may have to be asked, for at most
    /// `engine_timeout`.
    pub async fn presence(&self, topic: &str) -> Result<PresenceInfo, PresenceError> {
        let shared = &self.tables().topics;
        let name = TopicName::new(topic, shared.config().max_topic_bytes)
            .map_err(|error| PresenceError::Invalid(error.to_string()))?;
        match shared.look_at_presence(&name)? {
            Look::Known(info) => Ok(info),
            Look::Ask(mode, topic) => {
                let shared = Arc::clone(shared);
                let asked = on(&self.inner.control, async move { shared.ask_for_presence(&name, mode, topic).await });
                asked.await.unwrap_or(Err(PresenceError::EngineUnavailable))
            }
        }
    }
}
