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

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::AUTHORIZATION;
use actix_web::middleware::{Next, from_fn};
use actix_web::{App, Error, HttpMessage, HttpResponse, HttpServer, error, rt, web};
use janus_core::hooks::Identity;
use janus_core::{Config, Janus};

#[derive(serde::Deserialize)]
struct Say {
    text: String,
}

/// The routes of the app before Janus, and Janus.
pub fn routes(janus: Janus) -> impl FnOnce(&mut web::ServiceConfig) {
    move |config| {
        let scope = web::scope("").wrap(from_fn(only_with_the_key)).configure(janus_actix_web::routes(&janus));
        config.service(scope.app_data(web::Data::new(janus)).route("/say", web::get().to(say)));
    }
}

/// Lets requests with the key through, and says who the client is.
async fn only_with_the_key(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    match request.headers().get(AUTHORIZATION) {
        Some(key) if key == "Bearer sesame" => {
            request.extensions_mut().insert(Identity::user("ali-baba").publish(false));
            next.call(request).await
        }
        _ => Err(error::ErrorUnauthorized("show the key")),
    }
}

async fn say(janus: web::Data<Janus>, say: web::Query<Say>) -> Result<HttpResponse, Error> {
    let receipt = janus.publish("news", &say.text).await.map_err(error::ErrorServiceUnavailable)?;
    Ok(HttpResponse::Ok().json(receipt.subscribers))
}

/// Starts an instance without ports.
pub async fn start() -> Result<Janus, janus_core::StartupError> {
    Janus::builder().config(Config { listen: Vec::new(), ..Config::default() }).start().await
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let janus = start().await?;
    let addr = SocketAddr::from(([127, 0, 0, 1], 3000));
    println!("listening on http://{addr}");
    let inside = janus.clone();
    let app = move || App::new().configure(routes(inside.clone()));
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
