//! The example of an order-tracking service, with clients over real sockets.

#![expect(clippy::unwrap_used, reason = "a test that meets what it does not expect has failed, wherever it stands")]

#[path = "../examples/orders/main.rs"]
#[allow(dead_code, unreachable_pub, reason = "it is a program of its own")]
mod orders;

use std::net::SocketAddr;

use janus_core::testing::{Connect, TestMessage};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use orders::Order;

async fn serve() -> SocketAddr {
    let (_janus, app) = orders::start().await.unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, app).await });
    addr
}

/// The status and the body of an answer.
async fn ask(addr: SocketAddr, method: &str, target: &str, token: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!(
        "{method} {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

async fn login(addr: SocketAddr, user: &str) -> String {
    let (status, token) = ask(addr, "GET", &format!("/login?user={user}"), "").await;
    assert_eq!(status, 200, "{token}");
    token
}

#[tokio::test]
async fn a_customer_follows_the_own_orders_and_no_others() {
    let addr = serve().await;
    let (alice, shop) = (login(addr, "alice").await, login(addr, "shop").await);
    let mut page = Connect::to(addr).auth(&alice).connect().await;
    page.subscribe("orders:alice").await;
    assert_eq!(page.try_subscribe("orders:bob", None).await.unwrap_err().error, "forbidden");
    assert_eq!(page.try_publish("orders:alice", &1).await.unwrap_err().error, "forbidden");

    assert_eq!(ask(addr, "POST", "/orders/alice/17?state=baked", &shop).await.0, 200);
    assert_eq!(ask(addr, "POST", "/orders/bob/18?state=baked", &shop).await.0, 200);
    let order: Order = page.next_message().await.data();
    assert_eq!(order, Order { id: 17, state: "baked".to_owned() });
    page.expect_no_message().await;

    let (status, orders) = ask(addr, "GET", "/orders", &alice).await;
    assert_eq!((status, &*orders), (200, r#"[{"id":17,"state":"baked"}]"#));
}

#[tokio::test]
async fn a_courier_tells_the_own_position_and_the_shop_a_notice_to_all() {
    let addr = serve().await;
    let (alice, courier, shop) =
        (login(addr, "alice").await, login(addr, "courier-7").await, login(addr, "shop").await);
    let mut page = Connect::to(addr).header("authorization", &format!("Bearer {alice}")).connect().await;
    page.subscribe("couriers").await;
    page.subscribe("notices").await;
    let mut bicycle = Connect::to(addr).auth(&courier).connect().await;
    bicycle.publish("couriers", &serde_json::json!({"name": "courier-7", "at": "Elm Street"})).await;
    assert_eq!(page.next_message().await.json, r#"{"at":"Elm Street","name":"courier-7"}"#);
    assert_eq!(ask(addr, "POST", "/notices?text=closed", &shop).await.0, 200);
    let TestMessage { topic, json, .. } = page.next_message().await;
    assert_eq!((&*topic, &*json), ("notices", r#"{"text":"closed"}"#));
}

#[tokio::test]
async fn without_a_token_nothing_is_done() {
    let addr = serve().await;
    let alice = login(addr, "alice").await;
    assert_eq!(ask(addr, "GET", "/orders", "").await.0, 401);
    assert_eq!(ask(addr, "GET", "/orders", &format!("{alice}x")).await.0, 401);
    assert_eq!(ask(addr, "POST", "/orders/alice/17?state=paid", &alice).await.0, 403);
    assert_eq!(ask(addr, "GET", "/events?topic=notices", "").await.0, 401);
    let refused = Connect::to(addr).auth(format!("{alice}x")).refused().await;
    assert_eq!(refused.error, "unauthorized");
}
