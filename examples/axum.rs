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

use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{Response, StatusCode};
use axum::middleware::{self, Next};
use axum::routing::get;
use axum::{Json, Router};
use janus_core::hooks::Identity;
use janus_core::{Config, Janus};

#[derive(serde::Deserialize)]
struct Say {
    text: String,
}

/// The app before Janus, and Janus.
pub fn app(janus: Janus) -> Router {
    let routes = janus_axum::routes(&janus);
    Router::new().route("/say", get(say)).with_state(janus).merge(routes).layer(middleware::from_fn(only_with_the_key))
}

/// Lets requests with the key through, and says who the client is.
async fn only_with_the_key(mut request: Request, next: Next) -> Result<Response<Body>, StatusCode> {
    match request.headers().get(AUTHORIZATION) {
        Some(key) if key == "Bearer sesame" => {
            request.extensions_mut().insert(Identity::user("ali-baba").publish(false));
            Ok(next.run(request).await)
        }
        _ => Err(StatusCode::UNAUTHORIZED),
    }
}

async fn say(State(janus): State<Janus>, Query(say): Query<Say>) -> Result<Json<usize>, (StatusCode, String)> {
    let receipt = janus.publish("news", &say.text).await;
    let receipt = receipt.map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
    Ok(Json(receipt.subscribers))
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
