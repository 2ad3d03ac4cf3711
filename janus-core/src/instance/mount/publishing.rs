//! A request that publishes, by the right of its client.

use std::sync::Arc;

use super::answer::Answer;
use super::{Mount, error_of};
use crate::connection::foreknown::Known;
use crate::connection::transport::client_of;
use crate::hooks::{Client, Grant, Identity, RESERVED, Refused, granted_publish};
use crate::instance::serve::Ticket;
use crate::topic::publish::PublishError;
use crate::wire::{ErrorCode, HttpError, HttpRequest, Peer, Publication, TopicName};

/// The name of the transport for hooks.
const TRANSPORT: &str = "http";

impl Mount {
    /// Publishes the message of a request, a `POST` as on a [`PublishRoute`](crate::wire::PublishRoute): with the header
    /// `Content-Type: application/json`, the body `{"topic":T,"event":E,"message_id":I,"data":D}`, and an `Idempotency-Key` if
    /// the publisher may repeat the message.
    ///
    /// The right to publish is that of a client of [`websocket`](Self::websocket): the identity or the hooks decide; without
    /// either, clients on this machine may publish, and others under
    /// [`Config::allow_publish`](crate::Config::allow_publish). While it lasts, the request counts as a connection of its
    /// client, for the limits of an address and for [`Config::max_connections`](crate::Config::max_connections). The rates of
    /// a client's messages do not apply, because each request is a client of its own: `connect_rate_per_ip` does.
    ///
    /// A token must be in a header or a cookie, because the query is for the parts of a message of bytes. A page of one of
    /// [`Config::allowed_origins`](crate::Config::allowed_origins) may publish, and read the answer: the preflight of its
    /// browser, which shows no proof of an identity, is answered here.
    ///
    /// The answer is the receipt, with the status 200, or a refusal: 400, 405, 413 or 415 if the request cannot be carried out;
    /// 401 without an identity where hooks ask for one; 403 without the right, and for a page of another origin; 429 and 503 as
    /// by [`websocket`](Self::websocket). While the topic has no room, the request waits.
    ///
    /// Cancel safe: a future that is dropped while it waits for room publishes nothing.
    pub async fn publish(&self, request: HttpRequest, body: &[u8], peer: Peer, identity: Option<Identity>) -> Answer {
        let port = &self.janus.inner.shared.http_port;
        let refused = |error: &HttpError| Answer::of(&port.refusal(error, &request));
        if request.method == "OPTIONS" {
            return Answer::of(&port.preflight_of_publication(&request));
        }
        if request.method != "POST" {
            let answer = refused(&HttpError::new(405, "method_not_allowed", "this path accepts POST"));
            return answer.with_header("allow", "POST");
        }
        let (topic, publication) = match port.submitted(&request, body, &self.janus.limits()) {
            Ok(submitted) => submitted,
            Err(response) => return Answer::of(&response),
        };
        let (client, is_foreign) = client_of(&self.janus.tables().config(), peer, &request);
        let mut ticket = match self.janus.admit(client) {
            Ok(ticket) => ticket,
            Err(error) => return refused(&HttpError::from(&error.refusal())),
        };
        let may_publish = peer.is_local() && !is_foreign || self.janus.tables().config().allow_publish;
        let permission = self.permission(&mut ticket, &request, identity, (&topic, &publication), may_publish).await;
        if let Err(error) = permission {
            return refused(&error_of(&error));
        }
        let account = self.janus.tables().accounts.of(client);
        match self.janus.publish_parts(topic, publication, Some(&account)).await {
            Ok(receipt) => Answer::of_json(&receipt).with_lines(&port.cors(&request)),
            Err(error) => refused(&unpublished(&error)),
        }
    }

    async fn permission(
        &self,
        ticket: &mut Ticket,
        request: &HttpRequest,
        identity: Option<Identity>,
        (topic, publication): (&TopicName, &Publication),
        may_publish: bool,
    ) -> Result<(), Refused> {
        let not_allowed = || Refused::new(ErrorCode::PublishNotAllowed, PublishError::NotAllowed.to_string());
        let shared = self.janus.tables();
        let known = self.identify((ticket, TRANSPORT), request, identity).await?;
        let names = |known: &Known| {
            let (Known::Final(identity) | Known::OfRequest(identity)) = known;
            identity.publish.names(topic)
        };
        if shared.is_reserved(topic) && !known.as_ref().is_some_and(names) {
            return Err(Refused::new(ErrorCode::Forbidden, RESERVED));
        }
        let identity = match known {
            Some(Known::Final(identity) | Known::OfRequest(identity)) => identity,
            None if shared.hooks().is_some() => {
                return Err(Refused::new(
                    ErrorCode::Unauthorized,
                    "publishing needs a proof of identity in the request",
                ));
            }
            None if may_publish => return Ok(()),
            None => return Err(not_allowed()),
        };
        match shared.installed_hooks() {
            Some(hooks) if may_publish || !matches!(identity.publish, Grant::Ask) => {
                let client = Arc::new(Client::new(ticket.number(), TRANSPORT, ticket.peer, identity));
                match hooks.authorize_publish(&client, topic, publication)? {
                    Some(answer) => answer.await,
                    None => Ok(()),
                }
            }
            None if granted_publish(&identity, topic)? || may_publish => Ok(()),
            _ => Err(not_allowed()),
        }
    }
}

fn unpublished(error: &PublishError) -> HttpError {
    let code = error.code();
    let mut refusal = HttpError::new(code.http_status(), code.as_str(), error.to_string());
    refusal.retry_after = (refusal.status == 503).then_some(std::time::Duration::from_secs(1));
    refusal
}
