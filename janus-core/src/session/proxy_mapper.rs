//! From tokens to sessions: the original's `proxy_mapper`.
//!
//! The actor answers questions about sessions, and ends detached sessions when their time is over. The actor holds no
//! truth of its own: the sessions are in the [`SessionTable`](crate::session::SessionTable), where Transports enter and
//! detach theirs directly. So no crash of this actor can lose a session.

use std::sync::Arc;

use actix::prelude::*;

use super::Sessions;
use crate::ground::rounds::Rounds;
use crate::ground::trace::{Said, TraceKind};
use crate::session::{SessionInfo, SessionToken};

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
    shared: Arc<Sessions>,
}

impl ProxyMapper {
    pub(crate) fn new(shared: Arc<Sessions>) -> Self {
        Self { shared }
    }

    fn tell_asked(&self, about: &str) {
        self.shared.tracer.tell(TraceKind::Locate, || Said {
            from: "program".to_owned(),
            to: "proxy_mapper".to_owned(),
            about: about.to_owned(),
        });
    }
}

impl Actor for ProxyMapper {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.spawn(expire(Arc::clone(&self.shared)).into_actor(self));
    }
}

/// Sessions that end before other tasks get their turn: thousands may have lost their connections in the same moment.
const PORTION: usize = 64;

/// Ends detached sessions whose time is over, for ever.
async fn expire(shared: Arc<Sessions>) {
    let mut rounds = Rounds::new(&shared);
    loop {
        rounds.next(&shared, |_| shared.clock.period()).await;
        let mut ended = 0;
        loop {
            let portion = shared.table.expire(shared.clock.tick(), PORTION);
            ended += portion;
            if portion < PORTION {
                break;
            }
            tokio::task::yield_now().await;
        }
        if ended > 0 {
            let (noun, verb) = if ended == 1 { ("session", "has") } else { ("sessions", "have") };
            log::debug!(sessions = ended; "{ended} detached {noun} {verb} expired");
        }
    }
}

impl Handler<Locate> for ProxyMapper {
    type Result = Option<SessionInfo>;

    fn handle(&mut self, Locate(token): Locate, _: &mut Context<Self>) -> Self::Result {
        self.tell_asked("for one session");
        self.shared.table.locate(&token)
    }
}

impl Handler<ListSessions> for ProxyMapper {
    type Result = MessageResult<ListSessions>;

    fn handle(&mut self, _: ListSessions, _: &mut Context<Self>) -> Self::Result {
        self.tell_asked("for all sessions");
        MessageResult(self.shared.table.list())
    }
}

#[cfg(feature = "fault-injection")]
impl Handler<crate::ground::fault::Crash> for ProxyMapper {
    type Result = ();

    fn handle(&mut self, crash: crate::ground::fault::Crash, _: &mut Context<Self>) {
        crash.now("the ProxyMapper");
    }
}
