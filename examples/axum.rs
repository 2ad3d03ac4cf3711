//! Janus inside an axum app: WebSockets and server-sent events on the app's own port, behind the app's own middleware.
//!
//! `cargo run --example axum`, then open two terminals:
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

use axum::body::Body;
use axum::extract::{ConnectInfo, Query, Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{Response, StatusCode, Version};
use axum::middleware::{self, Next};
use axum::routing::get;
use axum::{Json, Router};
use hyper_util::rt::TokioIo;
use janus_core::wire::{AllowedOrigins, Codec, HttpError, HttpRequest, Sse, WebSocket};
use janus_core::{Config, Incoming, Janus};
use tokio_util::io::ReaderStream;

/// State of the handlers. The codecs are created once and serve every connection.
#[derive(Clone)]
pub struct App {
    janus: Janus,
    websocket: Arc<dyn Codec>,
    sse: Arc<Sse>,
    origins: AllowedOrigins,
    events: Arc<dyn Codec>,
}

#[derive(serde::Deserialize)]
struct Say {
    text: String,
}

/// The app before Janus, and two more routes.
pub fn app(janus: Janus) -> Router {
    let sse = Arc::new(Sse::body(Duration::from_secs(2)));
    let app = App {
        janus,
        websocket: Arc::new(WebSocket::v1()),
        events: sse.clone(),
        sse,
        origins: AllowedOrigins::default(),
    };
    Router::new()
        .route("/say", get(say))
        .route("/ws", get(websocket))
        .route("/events", get(events))
        .layer(middleware::from_fn(only_with_the_key))
        .with_state(app)
}

async fn only_with_the_key(request: Request, next: Next) -> Result<Response<Body>, StatusCode> {
    match request.headers().get(AUTHORIZATION) {
        Some(key) if key == "Bearer sesame" => Ok(next.run(request).await),
        _ => Err(StatusCode::UNAUTHORIZED),
    }
}

async fn say(State(app): State<App>, Query(say): Query<Say>) -> Result<Json<usize>, (StatusCode, String)> {
    let receipt = app.janus.publish("news", &say.text).await;
    let receipt = receipt.map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
    Ok(Json(receipt.subscribers))
}

/// Answers the upgrade, and hands the connection to Janus after hyper has released the stream.
async fn websocket(
    State(app): State<App>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    mut request: Request,
) -> Response<Body> {
    let head = head_of(&request);
    // If the key is a cookie, a page of any site could otherwise connect in the name of its visitor.
    if let Err(error) = app.origins.check(&head) {
        return refused(&error);
    }
    let headers = match WebSocket::v1().accept_headers(&head) {
        Ok(headers) => headers,
        Err(error) => return refused(&error.into()),
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        // A client that has gone before the upgrade needs nothing.
        let Ok(stream) = upgrade.await else { return };
        let incoming = Incoming::stream_from(TokioIo::new(stream), peer.into());
        // After a refusal the stream is dropped, which closes the connection.
        let _ = app.janus.serve(incoming, &app.websocket, Some(WebSocket::v1().decoder_for(head)));
    });
    let mut response = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    response.body(Body::empty()).expect("these are headers")
}

/// Answers with a body written by Janus through a pipe.
async fn events(
    State(app): State<App>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response<Body> {
    let head = head_of(&request);
    if let Err(error) = app.origins.check(&head) {
        return refused(&error);
    }
    let comes_back = head.accepts("text/event-stream");
    let decoder = match app.sse.decoder_for(head, &app.janus.limits()) {
        Ok(decoder) => decoder,
        Err(error) => return refused(&error),
    };
    let (body, stream) = tokio::io::duplex(16 * 1024);
    match app.janus.serve(Incoming::stream_from(stream, peer.into()), &app.events, Some(decoder)) {
        Ok(()) => event_stream(Body::from_stream(ReaderStream::new(body))),
        // A browser would take an error status for final, and not come back.
        Err(error) if comes_back => event_stream(Body::from(Sse::farewell(&error.refusal()))),
        Err(error) => refused(&HttpError::from(&error.refusal())),
    }
}

fn event_stream(body: Body) -> Response<Body> {
    Response::builder()
        .header(CONTENT_TYPE, "text/event-stream")
        .header(CACHE_CONTROL, "no-store")
        // For nginx, which would buffer messages.
        .header("x-accel-buffering", "no")
        .body(body)
        .expect("these are headers")
}

fn head_of(request: &Request) -> HttpRequest {
    let headers = request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let head = HttpRequest::new(request.method().as_str(), request.uri().to_string(), headers);
    HttpRequest { is_http_1_0: request.version() == Version::HTTP_10, ..head }
}

/// The refusal with all headers of its status, such as `Retry-After`.
fn refused(error: &HttpError) -> Response<Body> {
    let mut response = Response::builder().status(error.status).header(CONTENT_TYPE, "application/json");
    for (name, value) in error.headers() {
        response = response.header(name, value);
    }
    response.body(Body::from(error.body())).expect("a status and headers from Janus are some")
}

/// Starts an instance without ports.
pub async fn start() -> Result<Janus, janus_core::StartupError> {
    Janus::builder().config(Config { listen: Vec::new(), ..Config::default() }).start().await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let janus = start().await?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on http://{}", listener.local_addr()?);
    let app = app(janus.clone()).into_make_service_with_connect_info::<SocketAddr>();
    let stop = async move {
        let _ = tokio::signal::ctrl_c().await;
        // Janus first: the streams are requests for which axum waits, and only Janus ends them.
        janus.shutdown().await;
    };
    axum::serve(listener, app).with_graceful_shutdown(stop).await?;
    Ok(())
}
