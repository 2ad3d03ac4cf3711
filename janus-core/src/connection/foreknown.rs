//! What is known of a client before its connection is served.

use std::sync::Arc;

use crate::hooks::Identity;
use crate::wire::Bytes;

/// What the program says of a client whose connection it hands over: another server has read the request already.
#[derive(Debug, Default)]
pub(crate) struct Foreknown {
    pub(crate) identity: Option<Known>,
    /// Whether the peer is the client itself, as told by a request that is read already.
    pub(crate) knows_client: bool,
    /// Input of the client.
    pub(crate) received: Bytes,
}

impl Foreknown {
    /// In a box where anything is known.
    pub(crate) fn of(identity: Option<Arc<Identity>>) -> Option<Box<Self>> {
        identity.map(|identity| Box::new(Self { identity: Some(Known::Final(identity)), ..Self::default() }))
    }
}

/// An identity from before the connection.
#[derive(Debug)]
pub(crate) enum Known {
    /// The program vouches for the client. The hooks are not asked.
    Final(Arc<Identity>),
    /// The answer of the hooks to the request alone. A proof of identity in the opening frame is a new question.
    OfRequest(Arc<Identity>),
}
