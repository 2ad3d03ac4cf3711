//! Janus inside an actix-web app: WebSockets and server-sent events on the app's own port, behind the app's own
//! middleware.
//!
//! `cargo run --example actix_web`, then open two terminals:
//!
//! ```sh
//! curl -N 'http://127.0.0.1:3000/events?topic=news' -H 'authorization: Bearer sesame'
//! curl 'http://127.0.0.1:3000/say?text=hello' -H 'authorization: Bearer sesame'
//! ```
//!
//! A WebSocket client speaks `janus.v1.json` at `/ws`. Without the key the app's middleware answers, and the request
//! never reaches Janus.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_web::body::{BodyStream, BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use actix_web::http::{StatusCode, Version};
use actix_web::middleware::{Next, from_fn};
use actix_web::{App, Error, HttpRequest, HttpResponse, HttpServer, error, rt, web};
use futures_util::StreamExt;
use janus_core::wire::{self, AllowedOrigins, Codec, HttpError, Sse, WebSocket};
use janus_core::{Config, Incoming, Janus};
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;

/// State of the handlers. The codecs are created once and serve every connection.
#[derive(Clone)]
pub struct Shared {
    janus: Janus,
    websocket: Arc<dyn Codec>,
    sse: Arc<Sse>,
    origins: AllowedOrigins,
    events: Arc<dyn Codec>,
}

impl Shared {
    /// Shares a running instance.
    pub fn new(janus: Janus) -> Self {
        let sse = Arc::new(Sse::body(Duration::from_secs(2)));
        Self {
            janus,
            websocket: Arc::new(WebSocket::v1()),
            events: sse.clone(),
            sse,
            origins: AllowedOrigins::default(),
        }
    }
}

#[derive(serde::Deserialize)]
struct Say {
    text: String,
}

/// The routes of the app before Janus, and two more.
pub fn routes(config: &mut web::ServiceConfig) {
    let scope = web::scope("").wrap(from_fn(only_with_the_key));
    config.service(
        scope
            .route("/say", web::get().to(say))
            .route("/ws", web::get().to(websocket))
            .route("/events", web::get().to(events)),
    );
}

async fn only_with_the_key(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    match request.headers().get(AUTHORIZATION) {
        Some(key) if key == "Bearer sesame" => next.call(request).await,
        _ => Err(error::ErrorUnauthorized("show the key")),
    }
}

async fn say(shared: web::Data<Shared>, say: web::Query<Say>) -> Result<HttpResponse, Error> {
    let receipt = shared.janus.publish("news", &say.text).await.map_err(error::ErrorServiceUnavailable)?;
    Ok(HttpResponse::Ok().json(receipt.subscribers))
}

/// Answers the upgrade. From then on the body of the request carries the client's frames, and the body of the response
/// the server's frames. A pipe connects both to Janus.
async fn websocket(shared: web::Data<Shared>, request: HttpRequest, mut payload: web::Payload) -> HttpResponse {
    let head = head_of(&request);
    // If the key is a cookie, a page of any site could otherwise connect in the name of its visitor.
    if let Err(error) = shared.origins.check(&head) {
        return refused(&error);
    }
    let headers = match WebSocket::v1().accept_headers(&head) {
        Ok(headers) => headers,
        Err(error) => return refused(&error.into()),
    };
    let (client, stream) = tokio::io::duplex(16 * 1024);
    let incoming = Incoming::stream_from(stream, peer_of(&request));
    if let Err(error) = shared.janus.serve(incoming, &shared.websocket, Some(WebSocket::v1().decoder_for(head))) {
        return refused(&HttpError::from(&error.refusal()));
    }
    let (to_client, mut from_client) = tokio::io::split(client);
    rt::spawn(async move {
        while let Some(Ok(bytes)) = payload.next().await {
            if from_client.write_all(&bytes).await.is_err() {
                return;
            }
        }
        // The client has gone. If actix-web does not notice, the next heartbeat does.
        let _ = from_client.shutdown().await;
    });
    let mut response = HttpResponse::SwitchingProtocols();
    for (name, value) in headers {
        response.insert_header((name, value));
    }
    response.upgrade("websocket").body(BodyStream::new(ReaderStream::new(to_client)))
}

/// Answers with a body written by Janus through a pipe.
///
/// actix-web notices that a client has gone at the next write: a message, or Janus's heartbeat.
async fn events(shared: web::Data<Shared>, request: HttpRequest) -> HttpResponse {
    let head = head_of(&request);
    if let Err(error) = shared.origins.check(&head) {
        return refused(&error);
    }
    let comes_back = head.accepts("text/event-stream");
    let decoder = match shared.sse.decoder_for(head, &shared.janus.limits()) {
        Ok(decoder) => decoder,
        Err(error) => return refused(&error),
    };
    let (body, stream) = tokio::io::duplex(16 * 1024);
    let incoming = Incoming::stream_from(stream, peer_of(&request));
    match shared.janus.serve(incoming, &shared.events, Some(decoder)) {
        Ok(()) => event_stream(BodyStream::new(ReaderStream::new(body)).boxed()),
        // A browser would take an error status for final, and not come back.
        Err(error) if comes_back => event_stream(Sse::farewell(&error.refusal()).boxed()),
        Err(error) => refused(&HttpError::from(&error.refusal())),
    }
}

fn event_stream(body: BoxBody) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "text/event-stream"))
        .insert_header((CACHE_CONTROL, "no-store"))
        // For nginx, which would buffer messages.
        .insert_header(("x-accel-buffering", "no"))
        .body(body)
}

fn head_of(request: &HttpRequest) -> wire::HttpRequest {
    let headers = request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let head = wire::HttpRequest::new(request.method().as_str(), request.uri().to_string(), headers);
    wire::HttpRequest { is_http_1_0: request.version() == Version::HTTP_10, ..head }
}

fn peer_of(request: &HttpRequest) -> wire::Peer {
    request.peer_addr().map_or(wire::Peer::Local, wire::Peer::Addr)
}

/// The refusal with all headers of its status, such as `Retry-After`.
fn refused(error: &HttpError) -> HttpResponse {
    let status = StatusCode::from_u16(error.status).expect("a status from Janus is one");
    let mut response = HttpResponse::build(status);
    response.insert_header((CONTENT_TYPE, "application/json"));
    for (name, value) in error.headers() {
        response.insert_header((name, value));
    }
    response.body(error.body())
}

/// Starts an instance without ports.
pub async fn start() -> Result<Janus, janus_core::StartupError> {
    Janus::builder().config(Config { listen: Vec::new(), ..Config::default() }).start().await
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let janus = start().await?;
    let shared = web::Data::new(Shared::new(janus.clone()));
    let addr = SocketAddr::from(([127, 0, 0, 1], 3000));
    println!("listening on http://{addr}");
    let app = move || App::new().app_data(shared.clone()).configure(routes);
    let server = HttpServer::new(app).disable_signals().bind(addr)?.run();
    let handle = server.handle();
    rt::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        // Janus first: the streams are requests for which actix-web waits, and only Janus ends them.
        janus.shutdown().await;
        handle.stop(true).await;
    });
    server.await?;
    Ok(())
}
