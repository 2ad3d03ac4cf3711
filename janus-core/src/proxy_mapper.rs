//! From tokens to sessions: the original's `proxy_mapper`.
//!
//! The actor answers who a token belongs to and ends detached sessions when their time is over. It holds no truth of
//! its own: the sessions are in the [`SessionTable`](crate::client_proxy::SessionTable), where Transports enter and leave
//! theirs directly, so that no crash of this actor can lose one.

use std::sync::Arc;

use actix::prelude::*;

use crate::client_proxy::{SessionInfo, SessionToken};
use crate::shared::Shared;

/// Asks for the session of a token.
#[derive(Message)]
#[rtype(result = "Option<SessionInfo>")]
pub(crate) struct Locate(pub(crate) SessionToken);

/// Asks for all sessions.
#[derive(Message)]
#[rtype(result = "Vec<SessionInfo>")]
pub(crate) struct ListSessions;

#[derive(Debug)]
pub(crate) struct ProxyMapper {
    shared: Arc<Shared>,
}

impl ProxyMapper {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

impl Actor for ProxyMapper {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.run_interval(self.shared.clock.period, |mapper, _| {
            let ended = mapper.shared.sessions.expire(mapper.shared.clock.tick());
            if ended > 0 {
                log::debug!("{ended} detached sessions have ended");
            }
        });
    }
}

impl Handler<Locate> for ProxyMapper {
    type Result = Option<SessionInfo>;

    fn handle(&mut self, Locate(token): Locate, _: &mut Context<Self>) -> Self::Result {
        self.shared.sessions.locate(&token)
    }
}

impl Handler<ListSessions> for ProxyMapper {
    type Result = MessageResult<ListSessions>;

    fn handle(&mut self, _: ListSessions, _: &mut Context<Self>) -> Self::Result {
        MessageResult(self.shared.sessions.list())
    }
}

#[cfg(feature = "fault-injection")]
impl Handler<crate::fault::Crash> for ProxyMapper {
    type Result = ();

    fn handle(&mut self, crash: crate::fault::Crash, _: &mut Context<Self>) {
        crash.now("the ProxyMapper");
    }
}
