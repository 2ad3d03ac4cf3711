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
//! # The API of operators
//!
//! [`api`] has the routes that publish, list, read and disconnect without asking whose message or client it is. **Each
//! request has all rights**, so the routes are apart from those of clients, and refuse every request that no middleware of the
//! program has marked with an [`Operator`]:
//!
//! ```
//! use actix_web::body::MessageBody;
//! use actix_web::dev::{ServiceRequest, ServiceResponse};
//! use actix_web::middleware::{Next, from_fn};
//! use actix_web::web::{self, ServiceConfig};
//! use actix_web::{Error, HttpMessage as _, error};
//! use janus_actix_web::Operator;
//!
//! async fn only_operators(
//!     request: ServiceRequest,
//!     next: Next<impl MessageBody>,
//! ) -> Result<ServiceResponse<impl MessageBody>, Error> {
//!     if !is_operator(&request) {
//!         return Err(error::ErrorUnauthorized("this path is for operators"));
//!     }
//!     request.extensions_mut().insert(Operator);
//!     next.call(request).await
//! }
//!
//! /// Whether a session, a key or a certificate is that of an operator, by the means of the program.
//! fn is_operator(request: &ServiceRequest) -> bool {
//! #   let _ = request;
//!     false
//! }
//!
//! fn app(janus: &janus_core::Janus) -> impl FnOnce(&mut ServiceConfig) + use<> {
//!     let (clients, operators) = (janus_actix_web::routes(janus), janus_actix_web::api(janus));
//!     move |config| {
//!         // /admin/api/topics, and so on.
//!         config.service(web::scope("/admin").wrap(from_fn(only_operators)).configure(operators));
//!         clients(config);
//!     }
//! }
//! ```
//!
//! # Shutting down
//!
//! Streams and WebSockets last as long as Janus: shut Janus down first ([`Janus::shutdown`] says goodbye to each client), and then the
//! server.

#![forbid(unsafe_code)]

use actix_web::body::BodyStream;
use actix_web::dev::Url;
use actix_web::http::{StatusCode, Version};
use actix_web::web::{self, Payload, ServiceConfig};
use actix_web::{HttpMessage as _, HttpRequest, HttpResponse, rt};
use futures_util::StreamExt as _;
use janus_api::ROUTES;
pub use janus_api::{Api, Operator};
use janus_core::hooks::Identity;
use janus_core::mount::{Answer, BodyError, Input, Mount};
use janus_core::wire::{self, HttpError, Peer};
use janus_core::{Janus, RouteResponse};

/// The routes `/ws`, `/events` and `/api/publish` of an instance, and the paths of its [`Builder::websocket`] and
/// [`Builder::route`], for the `configure` of an app or of a scope. A middleware around the scope comes before Janus. Where a
/// path of [`Builder::route`] is one of the three, the three come first.
///
/// All routes of [`Builder::route`] are open to the public of this server, those of [`janus_api::routes`] among them. Their
/// [`HttpRoute::check`](janus_core::HttpRoute::check) decides about each request before the body is read, and
/// [`RouteRequest::is_local`](janus_core::RouteRequest::is_local) is never true here.
///
/// A page of another origin may use `/events` and `/api/publish` under
/// [`Config::allowed_origins`](janus_core::Config::allowed_origins), and the preflights of its browser are answered here, if the
/// middlewares let `OPTIONS` through.
///
/// [`Builder::websocket`]: janus_core::Builder::websocket
/// [`Builder::route`]: janus_core::Builder::route
///
/// The address of the client is that of the connection; over a Unix socket the client counts as local. A middleware may name another
/// [`Peer`] in the extensions of the request.
///
/// The routes keep the instance running, like any other handle. Clients are refused as [`Mount::websocket`],
/// [`Mount::events`] and [`Mount::publish`] say.
pub fn routes(janus: &Janus) -> impl FnOnce(&mut ServiceConfig) + Clone + use<> {
    let mount = Mount::new(janus);
    move |config| {
        let (for_websocket, for_events, for_publish) = (mount.clone(), mount.clone(), mount.clone());
        let websocket = move |request: HttpRequest, payload: Payload| {
            let asked = asked(&request, "/ws");
            websocket(for_websocket.clone(), asked, payload)
        };
        let events = move |request: HttpRequest| events(for_events.clone(), request);
        let publish = move |request: HttpRequest, payload: Payload| publish(for_publish.clone(), request, payload);
        config
            .service(web::resource("/ws").to(websocket))
            .service(web::resource("/events").to(events))
            .service(web::resource("/api/publish").to(publish));
        for pattern in mount.paths() {
            let (mount, text) = (mount.clone(), pattern.to_string());
            let resource = web::resource(in_words_of_actix(&text));
            let slashes = text.matches('/').count();
            let of_program = move |request: HttpRequest, payload: Payload| {
                let asked = asked(&request, &below_scope(&request, slashes));
                of_program(mount.clone(), asked, payload)
            };
            config.service(resource.to(of_program));
        }
    }
}

/// The routes of [`janus_api::ROUTES`], for operators: see the [crate's documentation](crate#the-api-of-operators). **Without
/// an [`Operator`] in the extensions, each request is refused with status 403.**
///
/// `/api/publish` is among the paths: in one scope with [`routes`], the path belongs to what is configured first.
pub fn api(janus: &Janus) -> impl FnOnce(&mut ServiceConfig) + Clone + use<> {
    api_of(&Api::new(janus))
}

/// As [`api`], with limits of the program's choice.
pub fn api_of(api: &Api) -> impl FnOnce(&mut ServiceConfig) + Clone + use<> {
    let api = api.clone();
    move |config| {
        for (path, ..) in ROUTES {
            let api = api.clone();
            let operate = move |request: HttpRequest, payload: Payload| operate(api.clone(), path, request, payload);
            config.service(web::resource(path).to(operate));
        }
    }
}

/// The name of the part of a path behind the common beginning. A scope around the routes may have names, too, and the values of
/// equal names replace each other.
const REST: &str = "janus_rest_of_path";

/// A pattern as actix-web writes patterns. actix-web compares paths after undoing escapes, so the pattern is without escapes as well;
/// [`Mount::route`] then compares the path as sent.
fn in_words_of_actix(pattern: &str) -> String {
    let mut words = String::new();
    for (at, character) in without_escapes(pattern.trim_end_matches('*')).char_indices() {
        match character {
            // Braces are literal inside of expressions alone.
            '{' => words.push_str(&format!("{{janus_brace_{at}:\\x7B}}")),
            '}' => words.push_str(&format!("{{janus_brace_{at}:\\x7D}}")),
            _ => words.push(character),
        }
    }
    if pattern.ends_with('*') {
        words.push_str(&format!("{{{REST}:.*}}"));
    }
    words
}

/// The text as actix-web would see a path.
fn without_escapes(path: &str) -> String {
    match path.parse() {
        Ok(uri) => Url::new(uri).path().to_owned(),
        // No request has such a path.
        Err(_) => path.to_owned(),
    }
}

/// The path of a request as sent, without the scopes around. `slashes` are those of the pattern.
fn below_scope(request: &HttpRequest, slashes: usize) -> String {
    // actix-web undoes escapes, except those of slashes.
    let slashes = slashes + request.match_info().get(REST).unwrap_or_default().matches('/').count();
    let path = request.uri().path();
    let begins = path.rmatch_indices('/').nth(slashes.saturating_sub(1)).map_or(0, |(at, _)| at);
    path[begins..].to_owned()
}

/// The head of a request, the peer, and the identity from the program.
type Asked = (wire::HttpRequest, Peer, Option<Identity>);

/// A request to a path of the program's own.
async fn of_program(mount: Mount, asked: Asked, payload: Payload) -> HttpResponse {
    if mount.is_websocket(asked.0.path()) {
        return websocket(mount, asked, payload).await;
    }
    let (head, peer, _) = asked;
    let routed = match mount.route(head.clone(), peer) {
        Ok(routed) => routed,
        Err(answer) => return response(answer),
    };
    match body_of(payload, mount.janus(), routed.max_body_bytes()).await {
        Ok(body) => response(routed.answer(body).await),
        Err(error) => response(mount.refusal(&HttpError::from(&error), &head)),
    }
}

/// A request to the API of operators.
async fn operate(api: Api, path: &'static str, request: HttpRequest, payload: Payload) -> HttpResponse {
    let operator = request.extensions().get::<Operator>().copied();
    let (head, ..) = asked(&request, path);
    let admitted = match api.admit(path, head, operator) {
        Ok(admitted) => admitted,
        Err(refusal) => return response(refusal.into()),
    };
    let body = match admitted.has_body() {
        true => body_of(payload, api.janus(), api.janus().config().max_frame_bytes).await,
        false => Ok(web::Bytes::new()),
    };
    response(match body {
        Ok(body) => admitted.answer(body).await.into(),
        Err(error) => RouteResponse::from(&HttpError::from(&error)).into(),
    })
}

async fn websocket(mount: Mount, (head, peer, identity): Asked, payload: Payload) -> HttpResponse {
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
    let (head, peer, identity) = asked(&request, "/events");
    response(mount.events(head, peer, identity).await)
}

async fn publish(mount: Mount, request: HttpRequest, payload: Payload) -> HttpResponse {
    let (head, peer, identity) = asked(&request, "/api/publish");
    match body_of(payload, mount.janus(), mount.janus().config().max_frame_bytes).await {
        Ok(body) => response(mount.publish(head, &body, peer, identity).await),
        Err(error) => response(mount.refusal(&HttpError::from(&error), &head)),
    }
}

async fn body_of(payload: Payload, janus: &Janus, max: usize) -> Result<web::Bytes, BodyError> {
    match rt::time::timeout(janus.config().frame_timeout, payload.to_bytes_limited(max)).await {
        Ok(Ok(Ok(body))) => Ok(body),
        Ok(Ok(Err(error))) => Err(BodyError::Broken(error.to_string())),
        Ok(Err(_)) => Err(BodyError::TooLarge(max)),
        Err(_) => Err(BodyError::TooSlow),
    }
}

/// What is asked at a path, which is that of the request without the scopes around.
fn asked(request: &HttpRequest, path: &str) -> Asked {
    let headers = request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let head = wire::HttpRequest::new(request.method().as_str(), request.uri().to_string(), headers);
    let target = match head.query() {
        "" => path.to_owned(),
        query => format!("{path}?{query}"),
    };
    let head = wire::HttpRequest { target, is_http_1_0: request.version() == Version::HTTP_10, ..head };
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
