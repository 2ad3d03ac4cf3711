//! The shared part of the session floor: the sessions.

use std::ops::Deref;
use std::sync::Arc;

use super::SessionTable;
use super::proxy_mapper::ProxyMapper;
use crate::supervision::ActorRef;
use crate::topic::Topics;

/// See the module's documentation. Dereferences to the [`Topics`] below.
#[derive(Debug)]
pub(crate) struct Sessions {
    pub(crate) topics: Arc<Topics>,
    pub(crate) table: SessionTable,
    pub(crate) proxy_mapper: ActorRef<ProxyMapper>,
}

impl Sessions {
    pub(crate) fn new(topics: Arc<Topics>) -> Self {
        Self { topics, table: SessionTable::default(), proxy_mapper: ActorRef::new("proxy_mapper") }
    }
}

impl Deref for Sessions {
    type Target = Topics;

    fn deref(&self) -> &Topics {
        &self.topics
    }
}
