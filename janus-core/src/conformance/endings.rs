//! The checks of the last words: what a client is told when the connection ends, or does not begin.
//!
//! The variant of the same name in [`Check`](super::Check) states the demand of a check.

use super::Seen;
use super::connection::Connection;
use super::stage::{Stage, Stop, failed, skipped};
use crate::config::Config;
use crate::hooks::{ConnectRequest, Denied, Hooks, Identity};
use crate::wire::Opens;

fn must_hear_farewells(stage: &Stage<'_>) -> Result<(), Stop> {
    if stage.client.hears_farewells() { Ok(()) } else { Err(skipped("the format has no farewells")) }
}

/// Serves no client.
struct Nobody;

impl Hooks for Nobody {
    async fn authenticate(&self, _: ConnectRequest) -> Result<Identity, Denied> {
        Err(Denied::new("no client is served here"))
    }
}

/// Waits for an error or a farewell; the end of the connection alone is a failure.
async fn told(connection: &mut Connection, what: &str) -> Result<(), Stop> {
    let words = connection.until("an error or a farewell", |seen| match seen {
        Seen::Error { .. } | Seen::Bye { .. } => Some(()),
        _ => None,
    });
    words.await.map_err(|stop| stop.context(format_args!("{what} was not told why")))
}

pub(super) async fn farewell(stage: &Stage<'_>) -> Result<(), Stop> {
    must_hear_farewells(stage)?;
    let server = stage.start(Config::default()).await?;
    let mut connection = server.subscriber("closed").await?;
    let [served] = &server.janus.connections(0, 2)[..] else {
        return Err(failed("one client is connected, and the list of connections has another number of clients"));
    };
    if !server.janus.disconnect(served.connection, false) {
        return Err(connection.stop("the connection ended by itself"));
    }
    told(&mut connection, "a client whose connection the server closed").await?;
    connection.end("a disconnect by the server").await?;

    let server = stage.start_with(Config::default(), |builder| builder.hooks(Nobody)).await?;
    let mut connection = server.connect().await?;
    // The server may refuse the client before the client has said anything.
    connection.send(&stage.subscribing("refused")).await?;
    told(&mut connection, "a client that is not served").await?;
    connection.end("a refusal by the server").await.map(drop)
}

pub(super) async fn unfinished(stage: &Stage<'_>) -> Result<(), Stop> {
    must_hear_farewells(stage)?;
    if stage.client.open().is_empty() && stage.codec.opens() == Opens::WhenAsked {
        return Err(skipped("the only frame of a client is the opening"));
    }
    let server = stage.start(Config::default()).await?;
    let mut bystander = server.bystander().await?;
    let mut conversation = stage.subscribing("unfinished");
    conversation.pop();
    let mut connection = server.connect().await?;
    connection.send(&conversation).await?;
    connection.half_close().await;
    let answer = connection.until("an error, a farewell or the answer to the frame", |seen| match seen {
        Seen::Error { .. } | Seen::Bye { .. } | Seen::Subscribed { .. } => Some(()),
        _ => None,
    });
    answer
        .await
        .map_err(|stop| stop.context("a client ended its side in the middle of a frame, and was told nothing"))?;
    connection.end("the client's own end").await?;
    server.until("the client to be gone", || server.subscribers("unfinished") == 0).await?;
    bystander.notices_nothing(&server).await
}
