//! Protocols that decide about their own clients, and the topics that such a protocol has for itself.

use std::fmt;
use std::sync::Arc;

use super::runner::Refused;
use super::{ConnectRequest, Denied, Identity, Patterns};
use crate::wire::TopicName;

/// Who the clients of a protocol are, where the protocol itself has the proofs: its decoder checks signatures, and lets
/// through what the client may ask for.
///
/// For the clients of this protocol the function takes the place of the questions [`authenticate`](super::Hooks::authenticate)
/// and [`refresh`](super::Hooks::refresh): the hooks, and so the tokens of other clients, have no say. Observers hear of
/// these clients like of any other. A [`Command::Authenticate`](crate::wire::Command::Authenticate) of the decoder asks the
/// function again, with [`ConnectRequest::auth`]. A client that is anonymous until then may become any user, and a named
/// user remains the same user.
///
/// The [reserved](Self::reserve) topics belong to the protocol: a client of another protocol may subscribe or publish there
/// only if its identity names the topic, with a pattern of [`Grant::Only`](super::Grant::Only) that does not begin with a
/// wildcard, or among [`Identity::topics`](super::Identity::topics). A client without an identity may not. Neither may a client
/// with a grant of all topics, `**` or [`Grant::All`](super::Grant::All), which clients have that nothing is known about, nor a
/// client about whose topics a hook decides, because most hooks allow what they do not know. Publishers in this process, and those with the right of a
/// [`PublishRoute`](crate::wire::PublishRoute), may always publish.
///
/// The function is called on a home arbiter: it must not block, and should not panic.
///
/// ```
/// use std::sync::Arc;
///
/// use janus_core::Janus;
/// use janus_core::hooks::{Gate, Identity, Patterns};
///
/// let words = Patterns::new(["words:**"])?;
/// let identity = Arc::new(Identity::anonymous().subscribe(words.clone()).publish(words.clone()));
/// let gate = Gate::new("words", move |_| Ok(Arc::clone(&identity))).reserve(words);
/// let builder = Janus::builder().gate(gate);
/// # drop(builder);
/// # Ok::<_, janus_core::hooks::PatternError>(())
/// ```
#[derive(Clone)]
pub struct Gate {
    protocol: &'static str,
    identify: Arc<Identify>,
    reserved: Patterns,
}

type Identify = dyn Fn(ConnectRequest) -> Result<Arc<Identity>, Denied> + Send + Sync;

impl Gate {
    /// The gate of the protocol with this [name](crate::wire::Codec::name).
    #[must_use]
    pub fn new(
        protocol: &'static str,
        identify: impl Fn(ConnectRequest) -> Result<Arc<Identity>, Denied> + Send + Sync + 'static,
    ) -> Self {
        Self { protocol, identify: Arc::new(identify), reserved: Patterns::default() }
    }

    /// Sets the topics that clients of other protocols reach only by a grant that names them. By default none.
    #[must_use]
    pub fn reserve(self, topics: Patterns) -> Self {
        Self { reserved: topics, ..self }
    }

    pub(crate) fn identify(&self, request: ConnectRequest) -> Result<Arc<Identity>, Refused> {
        (self.identify)(request).map_err(Refused::connection)
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, reserved, .. } = self;
        f.debug_struct("Gate").field("protocol", protocol).field("reserved", reserved).finish_non_exhaustive()
    }
}

/// All gates of an instance; most have none.
#[derive(Debug, Default)]
pub(crate) struct Gates(Box<[Gate]>);

/// Why a client may not use a topic of another protocol.
pub(crate) const RESERVED: &str = "the topic belongs to another protocol, and this client has no grant that names it";

impl Gates {
    pub(crate) fn new(gates: Vec<Gate>) -> Self {
        Self(gates.into())
    }

    /// The gate of a protocol.
    pub(crate) fn of(&self, protocol: &str) -> Option<&Gate> {
        self.0.iter().find(|gate| gate.protocol == protocol)
    }

    /// Whether the topic belongs to a protocol.
    pub(crate) fn reserve(&self, topic: &TopicName) -> bool {
        self.0.iter().any(|gate| gate.reserved.matches(topic.as_str()))
    }
}
