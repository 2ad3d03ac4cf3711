//! Janus in an actix-web app, in one line: [`routes`].
//!
//! ```
//! use actix_web::App;
//! use janus_core::{Config, Janus};
//!
//! # #[actix_web::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let janus = Janus::builder().config(Config { listen: vec![], ..Config::default() }).start().await?;
//! let app = App::new().configure(janus_actix_web::routes(&janus));
//! # drop(app);
//! # janus.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Who the client is
//!
//! A middleware of the program that knows the client puts an [`Identity`] into the extensions of the request, and the hooks
//! of the instance are not asked who the client is. The grants of the identity hold, and Janus closes the client at the identity's end.
//!
//! ```
//! use actix_web::body::MessageBody;
//! use actix_web::dev::{ServiceRequest, ServiceResponse};
//! use actix_web::middleware::{Next, from_fn};
//! use actix_web::{Error, HttpMessage as _, error, web};
//! use janus_core::hooks::{Identity, Patterns};
//! # use actix_web::App;
//! # use janus_core::{Config, Janus};
//!
//! async fn sign_in(
//!     request: ServiceRequest,
//!     next: Next<impl MessageBody>,
//! ) -> Result<ServiceResponse<impl MessageBody>, Error> {
//!     let user = user_of(&request).ok_or_else(|| error::ErrorUnauthorized("sign in first"))?;
//!     let own = Patterns::new(["news".to_owned(), format!("{user}:*")]).map_err(error::ErrorForbidden)?;
//!     request.extensions_mut().insert(Identity::user(user).subscribe(own).publish(false));
//!     next.call(request).await
//! }
//!
//! /// The user of a session or a token, by the means of the program.
//! fn user_of(request: &ServiceRequest) -> Option<String> {
//! #   let _ = request;
//!     None
//! }
//!
//! # #[actix_web::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let config = Config { listen: vec![], ..Config::default() };
//! # let janus = Janus::builder().config(config).start().await?;
//! let app =
//!     App::new().service(web::scope("").wrap(from_fn(sign_in)).configure(janus_actix_web::routes(&janus)));
//! # drop(app);
//! # janus.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! Without such a middleware the hooks decide, as on Janus's own port; without hooks, every client may subscribe.
//!
//! # Shutting down
//!
//! Streams and WebSockets last as long as Janus: shut Janus down first ([`Janus::shutdown`] says goodbye to each client), and then the
//! server.

#![forbid(unsafe_code)]

use actix_web::body::BodyStream;
use actix_web::http::{StatusCode, Version};
use actix_web::web::{self, Payload, ServiceConfig};
use actix_web::{HttpMessage as _, HttpRequest, HttpResponse, rt};
use futures_util::StreamExt as _;
use janus_core::Janus;
use janus_core::hooks::Identity;
use janus_core::mount::{Answer, Input, Mount};
use janus_core::wire::{self, HttpError, Peer};

/// The routes `/ws`, `/events` and `/api/publish` of an instance, for the `configure` of an app or of a scope. A middleware around the scope comes
/// before Janus.
///
/// The address of the client is that of the connection; over a Unix socket the client counts as local. A middleware may name another
/// [`Peer`] in the extensions of the request.
///
/// The routes keep the instance running, like any other handle. Clients are refused as [`Mount::websocket`],
/// [`Mount::events`] and [`Mount::publish`] say.
pub fn routes(janus: &Janus) -> impl FnOnce(&mut ServiceConfig) + Clone + use<> {
    let mount = Mount::new(janus);
    move |config| {
        let (for_events, for_publish) = (mount.clone(), mount.clone());
        let websocket = move |request: HttpRequest, payload: Payload| websocket(mount.clone(), request, payload);
        let events = move |request: HttpRequest| events(for_events.clone(), request);
        let publish = move |request: HttpRequest, payload: Payload| publish(for_publish.clone(), request, payload);
        config
            .service(web::resource("/ws").to(websocket))
            .service(web::resource("/events").to(events))
            .service(web::resource("/api/publish").to(publish));
    }
}

async fn websocket(mount: Mount, request: HttpRequest, payload: Payload) -> HttpResponse {
    let (head, peer, identity) = asked(&request);
    let accepted = match mount.websocket(head, peer, identity).await {
        Ok(accepted) => accepted,
        Err(answer) => return response(answer),
    };
    let mut response = HttpResponse::SwitchingProtocols();
    for (name, value) in accepted.headers() {
        response.insert_header((*name, &**value));
    }
    match accepted.serve_bytes() {
        Ok((input, body)) => {
            rt::spawn(pass_on(payload, input));
            response.upgrade("websocket").body(BodyStream::new(body))
        }
        Err(answer) => self::response(answer),
    }
}

/// Hands the client's bytes over. From the upgrade on they are the body of the request.
async fn pass_on(mut payload: Payload, mut input: Input) {
    while let Some(bytes) = payload.next().await {
        let Ok(bytes) = bytes else { return };
        if input.write(&bytes).await.is_err() {
            return;
        }
    }
    // If actix-web does not notice that the client has gone, the next heartbeat does.
    input.finish();
}

async fn events(mount: Mount, request: HttpRequest) -> HttpResponse {
    let (head, peer, identity) = asked(&request);
    response(mount.events(head, peer, identity).await)
}

async fn publish(mount: Mount, request: HttpRequest, payload: Payload) -> HttpResponse {
    let (head, peer, identity) = asked(&request);
    let config = mount.janus().config();
    let body = payload.to_bytes_limited(config.max_frame_bytes);
    let error = match rt::time::timeout(config.frame_timeout, body).await {
        Ok(Ok(Ok(body))) => return response(mount.publish(head, &body, peer, identity).await),
        Ok(Ok(Err(error))) => return HttpResponse::from_error(error),
        Ok(Err(_)) => HttpError::new(413, "frame_too_large", "the body is longer than max_frame_bytes"),
        Err(_) => HttpError::new(408, "frame_timeout", "the body did not come within frame_timeout"),
    };
    let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    HttpResponse::build(status).content_type("application/json").body(error.body())
}

fn asked(request: &HttpRequest) -> (wire::HttpRequest, Peer, Option<Identity>) {
    let headers = request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let head = wire::HttpRequest::new(request.method().as_str(), request.uri().to_string(), headers);
    let head = wire::HttpRequest { is_http_1_0: request.version() == Version::HTTP_10, ..head };
    let extensions = request.extensions();
    let peer = extensions.get::<Peer>().copied();
    let peer = peer.unwrap_or_else(|| request.peer_addr().map_or(Peer::Local, Peer::Addr));
    (head, peer, extensions.get::<Identity>().cloned())
}

fn response(answer: Answer) -> HttpResponse {
    let Answer { status, headers, body, .. } = answer;
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = HttpResponse::build(status);
    for (name, value) in headers {
        response.append_header((name, value));
    }
    match body.as_whole() {
        Some(whole) => response.body(whole.clone()),
        None => response.body(BodyStream::new(body)),
    }
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
