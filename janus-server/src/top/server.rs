//! The requests to the server: no other file of the view knows the client.

use hyper::Method;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::answers::{Clients, Readiness, Slow, Stats, Topics, Tree};
use super::query::{ListQuery, Query, SLOW_MAX, slow_target};
use crate::client::ClientError;
use crate::client::http::Http;
use crate::client::server::{Need, ServerFlags, Target};
use crate::failure::with_causes;

/// A server that can be asked.
pub(super) struct Server {
    target: Target,
    http: Http,
}

/// The answers to a [`Query`].
#[derive(Clone, Debug)]
pub(super) struct Answers {
    pub(super) stats: Stats,
    pub(super) readiness: Readiness,
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
    /// Finds the address and the key. No connection is opened before the first request.
    pub(super) fn of(flags: &ServerFlags) -> Result<Self, ClientError> {
        let target = flags.target("top", Need::Admin)?;
        Ok(Self { http: Http::new(target.clone())?, target })
    }

    /// The same server over a connection of its own, so that two threads do not wait for each other.
    pub(super) fn again(&self) -> Result<Self, ClientError> {
        Ok(Self { http: Http::new(self.target.clone())?, target: self.target.clone() })
    }

    /// The address as a URL.
    pub(super) fn address(&self) -> String {
        self.target.address().to_string()
    }

    /// The JSON at a route.
    pub(super) fn get<T: DeserializeOwned>(&mut self, route: &str) -> Result<T, ClientError> {
        let answer = self.http.ask(&Method::GET, route, None)?;
        answer.content().ok_or_else(|| self.http.refusal(&answer))
    }

    /// Whether the server is ready. The answer of a server that is not has another status, and the same shape.
    pub(super) fn readiness(&mut self) -> Result<Readiness, ClientError> {
        let answer = self.http.ask(&Method::GET, "/readyz", None)?;
        Ok(serde_json::from_slice(&answer.body).unwrap_or_default())
    }

    /// All answers for the screen.
    pub(super) fn ask(&mut self, query: &Query) -> Result<Answers, ClientError> {
        let stats = self.get(&format!("/api/stats?samples={}", query.samples))?;
        let readiness = self.readiness()?;
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
        Ok(Answers { stats, readiness, slow, list })
    }

    /// Closes a connection.
    pub(super) fn close(&mut self, connection: u64, may_return: bool) -> Result<(), ClientError> {
        let body = json!({"connection": connection, "reconnect": may_return}).to_string();
        let answer = self.http.ask(&Method::POST, "/api/disconnect", Some(body))?;
        if answer.status == 200 { Ok(()) } else { Err(self.http.refusal(&answer)) }
    }
}
