//! Order tracking: customers follow orders, couriers send positions, the shop tells notices to all. One axum app with Janus inside,
//! tokens (JWT) with the rights of each user, and the history of each customer's orders.
//!
//! `cargo run --example orders`, then open <http://127.0.0.1:3000> and, in a terminal:
//!
//! ```sh
//! shop=$(curl -s 'http://127.0.0.1:3000/login?user=shop')
//! curl -X POST 'http://127.0.0.1:3000/orders/alice/17?state=baked' -H "authorization: Bearer $shop"
//! curl -X POST 'http://127.0.0.1:3000/notices?text=closed+tomorrow' -H "authorization: Bearer $shop"
//! ```
//!
//! | topic | may publish | may subscribe |
//! |---|---|---|
//! | `orders:CUSTOMER`, with history | the shop | the customer, and the shop |
//! | `couriers` | couriers, over their WebSocket | all |
//! | `notices` | the shop | all |

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::response::Html;
use axum::routing::{get, post};
use axum::{Json, Router};
use janus_access::tokens::{Algorithm, Keys, NewToken, Rules, SigningKey, TokenHooks, Tokens};
use janus_core::hooks::Identity;
use janus_core::{Config, Janus, Namespace, PublishError};
use serde::{Deserialize, Serialize};

type Failure = (StatusCode, String);

/// State of the handlers.
#[derive(Clone)]
struct Shop {
    janus: Janus,
    tokens: Tokens,
    issuer: Arc<SigningKey>,
}

/// A message of `orders:CUSTOMER`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Order {
    /// The order.
    pub id: u64,
    /// The last news of the order.
    pub state: String,
}

/// Starts Janus, and makes the app.
pub async fn start() -> Result<(Janus, Router), Box<dyn std::error::Error>> {
    // A service in earnest has a key in a file, or only the public key of an identity provider.
    let issuer = SigningKey::generate(Algorithm::Es256)?;
    let tokens = Tokens::new(Rules::default(), Keys::parse(issuer.public_text().as_bytes())?);
    let config = Config {
        listen: Vec::new(),
        namespaces: [("orders".to_owned(), Namespace { history: true, ..Namespace::default() })].into(),
        memory_budget_bytes: 256 << 20,
        ..Config::default()
    };
    let hooks = TokenHooks::new(tokens.clone()).query(true);
    let janus = Janus::builder().config(config).hooks(hooks).start().await?;
    let app = Router::new()
        .route("/", get(async || Html(include_str!("page.html"))))
        .route("/login", get(login))
        .route("/orders", get(orders))
        .route("/orders/{customer}/{id}", post(change_order))
        .route("/notices", post(notice))
        .with_state(Shop { janus: janus.clone(), tokens, issuer: Arc::new(issuer) })
        .merge(janus_axum::routes(&janus));
    Ok((janus, app))
}

#[derive(Deserialize)]
struct Login {
    user: String,
}

/// Gives a token to every user; a service in earnest asks for a password.
async fn login(State(shop): State<Shop>, Query(Login { user }): Query<Login>) -> Result<String, Failure> {
    let token = NewToken::new(&user).good_for(Duration::from_secs(3_600));
    let token = match user.as_str() {
        "shop" => token.subscribe(["orders:*", "couriers", "notices"]),
        courier if courier.starts_with("courier-") => token.subscribe(["couriers", "notices"]).publish(["couriers"]),
        customer => token.subscribe([&format!("orders:{customer}"), "couriers", "notices"]),
    };
    shop.issuer.sign(&token).map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))
}

/// The user of a request, by the same tokens as the clients of Janus.
struct User(Identity);

impl FromRequestParts<Shop> for User {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, shop: &Shop) -> Result<Self, Failure> {
        let header = parts.headers.get(AUTHORIZATION).and_then(|header| header.to_str().ok());
        let token = header.and_then(|header| header.strip_prefix("Bearer ")).unwrap_or_default();
        let identity = shop.tokens.verify(token).await;
        identity.map(Self).map_err(|error| (StatusCode::UNAUTHORIZED, error.to_string()))
    }
}

impl User {
    fn must_be_the_shop(&self) -> Result<(), Failure> {
        if self.0.user == "shop" { Ok(()) } else { Err((StatusCode::FORBIDDEN, "only the shop may".to_owned())) }
    }
}

#[derive(Deserialize)]
struct Change {
    state: String,
}

async fn change_order(
    State(shop): State<Shop>,
    user: User,
    Path((customer, id)): Path<(String, u64)>,
    Query(Change { state }): Query<Change>,
) -> Result<(), Failure> {
    user.must_be_the_shop()?;
    let published = shop.janus.publish(&format!("orders:{customer}"), &Order { id, state }).await;
    published.map(drop).map_err(unpublished)
}

#[derive(Deserialize, Serialize)]
struct Notice {
    text: String,
}

async fn notice(State(shop): State<Shop>, user: User, Query(notice): Query<Notice>) -> Result<(), Failure> {
    user.must_be_the_shop()?;
    shop.janus.publish("notices", &notice).await.map(drop).map_err(unpublished)
}

fn unpublished(error: PublishError) -> Failure {
    (StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}

/// The last changes of the customer's own orders.
async fn orders(State(shop): State<Shop>, User(identity): User) -> Result<Json<Vec<Order>>, Failure> {
    let history = shop.janus.history(&format!("orders:{}", identity.user), None, 100).await;
    let history = history.map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
    Ok(Json(history.messages.iter().filter_map(|message| serde_json::from_str(message.data()).ok()).collect()))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (janus, app) = start().await?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("open http://{}", listener.local_addr()?);
    let stop = async move {
        let _ = tokio::signal::ctrl_c().await;
        janus.shutdown().await;
    };
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, app).with_graceful_shutdown(stop).await?;
    Ok(())
}
