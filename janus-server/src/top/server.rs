//! The requests to the server: the only place of the view that knows the client.

use serde::de::DeserializeOwned;
use serde_json::json;

use super::answers::{Clients, Slow, Stats, Topics, Tree};
use super::query::{ListQuery, Query, SLOW_MAX, slow_target};
use crate::client::ClientError;
use crate::client::admin::{AdminPort, Asker};
use crate::failure::with_causes;

/// A server that can be asked.
pub(super) struct Server {
    asker: Asker,
}

/// The answers to a [`Query`].
#[derive(Clone, Debug)]
pub(super) struct Answers {
    pub(super) stats: Stats,
    pub(super) slow: Slow,
    /// The list, or why the server refused it: a filter may have a mistake.
    pub(super) list: Result<List, String>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum List {
    Topics(Topics),
    Clients(Clients),
    Tree(Tree),
}

impl Server {
    pub(super) fn of(port: &AdminPort) -> Result<Self, ClientError> {
        Ok(Self { asker: port.asker()? })
    }

    /// The address, as the user wrote it.
    pub(super) fn address(&self) -> &str {
        self.asker.address()
    }

    /// The JSON at a route.
    pub(super) fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T, ClientError> {
        let (status, body) = self.asker.ask("GET", target, None)?;
        let answer = serde_json::from_slice(&body).ok().filter(|_| status == 200);
        answer.ok_or_else(|| Asker::refusal(status, &body))
    }

    /// Everything on the screen.
    pub(super) fn ask(&self, query: &Query) -> Result<Answers, ClientError> {
        let stats = self.get(&format!("/api/stats?samples={}", query.samples))?;
        let slow = self.get(&slow_target(SLOW_MAX))?;
        let target = query.list.target();
        let list = match query.list {
            ListQuery::Topics(_) => self.get(&target).map(List::Topics),
            ListQuery::Clients(_) => self.get(&target).map(List::Clients),
            ListQuery::Tree => self.get(&target).map(List::Tree),
        };
        let list = match list {
            Err(error @ ClientError::Refused { .. }) => Err(with_causes(&error)),
            other => Ok(other?),
        };
        Ok(Answers { stats, slow, list })
    }

    /// Closes a connection.
    pub(super) fn close(&self, connection: u64, may_return: bool) -> Result<(), ClientError> {
        let body = json!({"connection": connection, "reconnect": may_return}).to_string();
        let (status, body) = self.asker.ask("POST", "/api/disconnect", Some(&body))?;
        if status == 200 { Ok(()) } else { Err(Asker::refusal(status, &body)) }
    }
}
