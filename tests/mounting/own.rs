//! The program's own paths, the API of operators, and the refusals of both adapters.

use actix_web::HttpMessage as _;
use actix_web::dev::Service as _;
use actix_web::web;
use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use futures_util::FutureExt as _;
use janus_core::testing::Connect;
use janus_core::wire::{HttpError, WebSocket};
use janus_core::{Builder, Config, HttpRoute, Janus, RouteRequest, RouteResponse};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Site, Start, ask, in_time, serve_actix, serve_axum};

fn builder() -> Builder {
    let allowed_origins = vec!["https://app.example".to_owned()];
    Janus::builder().config(Config { listen: Vec::new(), allowed_origins, ..Config::default() })
}

/// Sends a request, and reads the answer to the end of the connection.
async fn say(site: &Site, method: &str, target: &str, headers: &str, body: &str) -> String {
    let length = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    let request =
        format!("{method} {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{length}{headers}\r\n{body}");
    read_all(site, request.as_bytes()).await
}

async fn read_all(site: &Site, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(site.addr).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let _ = in_time(stream.read_to_end(&mut answer)).await;
    String::from_utf8(answer).unwrap().to_lowercase()
}

/// Reads the answer to a head whose body never comes.
async fn say_head(site: &Site, target: &str, headers: &str) -> String {
    let head = format!("POST {target} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n{headers}\r\n");
    let mut stream = TcpStream::connect(site.addr).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    super::read_until(&mut stream, "\"}}").await.to_lowercase()
}

fn unauthorized() -> HttpError {
    HttpError::new(401, "unauthorized", "send the key")
}

async fn is_local(request: RouteRequest) -> Result<RouteResponse, HttpError> {
    Ok(RouteResponse::json(200, &request.is_local))
}

async fn never(_: RouteRequest) -> Result<RouteResponse, HttpError> {
    std::future::pending().await
}

pub(super) async fn the_check_of_a_route_decides_before_the_body_comes(start: Start) {
    let check = |head: &janus_core::wire::HttpRequest, is_local: bool| match head.header("x-fault") {
        Some(_) => panic!("a planted fault"),
        None if is_local || head.header("authorization") == Some("Bearer operator") => Ok(()),
        None => Err(unauthorized()),
    };
    let route = HttpRoute::new("POST", "/jobs/*".parse().unwrap(), is_local).max_requests(1).check(check);
    let site = start(builder().route(route).start().await.unwrap()).await;
    let strangers = [(); 3].map(|()| say_head(&site, "/jobs/1", ""));
    for refused in futures_util::future::join_all(strangers).await {
        assert!(refused.starts_with("http/1.1 401 "), "{refused}");
    }
    let fault = say_head(&site, "/jobs/1", "x-fault: 1\r\n").await;
    assert!(fault.starts_with("http/1.1 500 "), "{fault}");
    let served = say(&site, "POST", "/jobs/1", KEY, "123456789").await;
    assert!(served.starts_with("http/1.1 200 ") && served.ends_with("false"), "local for the check alone: {served}");
    site.stop().await;
}

pub(super) async fn a_path_of_the_program_is_compared_as_sent(start: Start) {
    let route = |path: &str| HttpRoute::new("GET", path.parse().unwrap(), echo);
    let routes = ["/a%20b", "/status", "/x%2Fy/c", "/f%6Fo/*"].map(route);
    let site = start(routes.into_iter().fold(builder(), Builder::route).start().await.unwrap()).await;
    for (target, status) in [
        ("/a%20b", 202),
        ("/status", 202),
        ("/x%2Fy/c", 202),
        ("/f%6Fo/1%20/2", 202),
        ("/%73tatus", 404),
        ("/x%2fy/c", 404),
        ("/%61%20b", 404),
        ("/foo/1", 404),
    ] {
        let answer = say(&site, "GET", target, "", "").await;
        assert!(answer.starts_with(&format!("http/1.1 {status} ")), "{target}: {answer}");
    }
    site.stop().await;
}

pub(super) async fn an_answer_that_is_late_is_told_as_such(start: Start) {
    let route = HttpRoute::new("GET", "/never".parse().unwrap(), never).timeout(std::time::Duration::from_millis(10));
    let site = start(builder().route(route).start().await.unwrap()).await;
    let late = say(&site, "GET", "/never", "", "").await;
    assert!(late.starts_with("http/1.1 504 ") && late.contains("outcome_unknown"), "{late}");
    assert!(late.contains("has not answered in time"), "{late}");
    site.stop().await;
}

async fn echo(request: RouteRequest) -> Result<RouteResponse, HttpError> {
    if request.rest == "refused" {
        return Err(HttpError::new(409, "conflict", "not now"));
    }
    let body = format!("{} {} {}", request.rest, request.head.query(), String::from_utf8_lossy(&request.body));
    Ok(RouteResponse::new(202, "text/plain", body).header("x-own", "1"))
}

pub(super) async fn the_programs_own_paths_are_served(start: Start) {
    let route = HttpRoute::new("POST", "/apps/*".parse().unwrap(), echo).max_body_bytes(100);
    let single = HttpRoute::new("GET", "/status".parse().unwrap(), echo);
    let builder = builder().websocket("/live/*".parse().unwrap(), WebSocket::v1()).route(route).route(single);
    let site = start(builder.start().await.unwrap()).await;
    let answer = say(&site, "POST", "/apps/a%2Fb/c?x=1", "", "hello").await;
    assert!(answer.starts_with("http/1.1 202 ") && answer.ends_with("\r\n\r\na%2fb/c x=1 hello"), "{answer}");
    assert!(answer.contains("\r\nx-own: 1\r\n"), "{answer}");
    for (method, target, body, status) in [
        ("POST", "/apps/", "", "202"),
        ("GET", "/status", "", "202"),
        ("POST", "/apps/refused", "", "409"),
        ("GET", "/apps/a", "", "405"),
        ("POST", "/apps/a", &*"x".repeat(101), "413"),
        ("GET", "/nothing", "", "404"),
    ] {
        let answer = say(&site, method, target, "", body).await;
        assert!(answer.starts_with(&format!("http/1.1 {status} ")), "{method} {target}: {answer}");
    }
    let mut client = Connect::to(site.addr).path("/live/one").connect().await;
    client.subscribe("news").await;
    site.janus.publish("news", &7).await.unwrap();
    assert_eq!(client.next_message().await.data::<u32>(), 7);
    drop(client);
    site.stop().await;
}

pub(super) async fn a_refused_body_is_told_in_the_form_of_all_answers(start: Start) {
    const JSON: &str = "content-type: application/json\r\n";
    let site = start(builder().start().await.unwrap()).await;
    let broken =
        format!("POST /api/publish HTTP/1.1\r\nhost: localhost\r\n{JSON}transfer-encoding: chunked\r\n\r\nxyz\r\n");
    let broken = read_all(&site, broken.as_bytes()).await;
    assert!(broken.starts_with("http/1.1 400 "), "{broken}");
    let large = format!(r#"{{"topic":"news","data":"{}"}}"#, "x".repeat(70_000));
    let large = say(&site, "POST", "/api/publish", &format!("{JSON}origin: https://app.example\r\n"), &large).await;
    assert!(large.starts_with("http/1.1 413 ") && large.contains("frame_too_large"), "{large}");
    for part in ["\r\ncache-control: no-store\r\n", "\r\naccess-control-allow-origin: https://app.example\r\n"] {
        assert!(large.contains(part), "no {part:?} in {large}");
    }
    site.stop().await;
}

pub(super) async fn a_page_of_an_allowed_origin_may_publish_and_read_the_receipt(start: Start) {
    let site = start(builder().start().await.unwrap()).await;
    let origin = "origin: https://app.example\r\n";
    let preflight = say(&site, "OPTIONS", "/api/publish", origin, "").await;
    assert!(preflight.starts_with("http/1.1 204 "), "{preflight}");
    for part in ["access-control-allow-methods: post\r\n", "idempotency-key", "allow-origin: https://app.example\r\n"] {
        assert!(preflight.contains(part), "no {part:?} in {preflight}");
    }
    let json = format!("{origin}content-type: application/json\r\n");
    let published = say(&site, "POST", "/api/publish", &json, r#"{"topic":"news","data":1}"#).await;
    assert!(published.starts_with("http/1.1 200 "), "{published}");
    assert!(published.contains("\r\naccess-control-allow-origin: https://app.example\r\n"), "{published}");
    let foreign = say(&site, "OPTIONS", "/api/publish", "origin: https://evil.example\r\n", "").await;
    assert!(foreign.starts_with("http/1.1 403 ") && !foreign.contains("access-control-allow"), "{foreign}");
    site.stop().await;
}

const KEY: &str = "authorization: Bearer operator\r\n";

/// The paths of clients at the root, and those of operators below `/admin`, for requests with the key.
pub(super) fn axum_with_api(janus: Janus) -> futures_util::future::BoxFuture<'static, Site> {
    async fn operators(mut request: Request, next: Next) -> axum::response::Response {
        if request.headers().get("authorization").is_some_and(|key| key == "Bearer operator") {
            request.extensions_mut().insert(janus_axum::Operator);
        }
        next.run(request).await
    }
    let admin = janus_axum::api(&janus).layer(middleware::from_fn(operators));
    let app = Router::new().merge(janus_axum::routes(&janus)).nest("/admin", admin);
    serve_axum(janus, app).boxed()
}

pub(super) fn actix_with_api(janus: Janus) -> futures_util::future::BoxFuture<'static, Site> {
    let (clients, operators) = (janus_actix_web::routes(&janus), janus_actix_web::api(&janus));
    let routes = move |config: &mut web::ServiceConfig| {
        let admin = web::scope("/admin").wrap_fn(|request, service| {
            if request.headers().get("authorization").is_some_and(|key| key == "Bearer operator") {
                request.extensions_mut().insert(janus_actix_web::Operator);
            }
            service.call(request)
        });
        config.service(admin.configure(operators));
        clients(config);
    };
    serve_actix(janus, routes).boxed()
}

pub(super) async fn operators_have_the_api_and_strangers_have_not(start: Start) {
    const JSON: &str = "content-type: application/json\r\n";
    let site = start(builder().start().await.unwrap()).await;
    let mut reader = Connect::to(site.addr).connect().await;
    reader.subscribe("news").await;
    let message = r#"{"topics":["news"],"data":{"price":1.50}}"#;
    for (method, target, body) in [
        ("POST", "/admin/api/broadcast", message),
        ("GET", "/admin/api/topics", ""),
        ("GET", "/admin/api/connections", ""),
        ("POST", "/admin/api/disconnect", r#"{"user":"alice","reconnect":false}"#),
        ("GET", "/admin/api/stats", ""),
    ] {
        let refused = say(&site, method, target, JSON, body).await;
        assert!(refused.starts_with("http/1.1 403 ") && refused.contains("\"forbidden\""), "{target}: {refused}");
        assert!(refused.contains("\r\ncache-control: no-store\r\n"), "{refused}");
        let answer = say(&site, method, target, &format!("{KEY}{JSON}"), body).await;
        assert!(answer.starts_with("http/1.1 200 "), "{target}: {answer}");
    }
    assert_eq!(reader.next_message().await.json, r#"{"price":1.50}"#);
    reader.expect_no_message().await;
    let topics = say(&site, "GET", "/admin/api/topics?prefix=ne&limit=1", KEY, "").await;
    assert!(topics.contains(r#"{"topics":[{"topic":"news","subscribers":1,"#), "{topics}");
    let foreign = format!("{KEY}{JSON}origin: https://evil.example\r\n");
    let refused = say(&site, "POST", "/admin/api/broadcast", &foreign, message).await;
    assert!(refused.starts_with("http/1.1 403 "), "{refused}");
    let absent = say(&site, "GET", "/api/topics", KEY, "").await;
    assert!(absent.starts_with("http/1.1 404 "), "the API is not among the paths of clients: {absent}");
    drop(reader);
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_serves_the_api_on_its_own_http_port() {
    let allowed = |head: &janus_core::wire::HttpRequest, _: bool| match head.header("authorization") {
        Some("Bearer operator") => Ok(()),
        _ => Err(unauthorized()),
    };
    let http = vec!["127.0.0.1:0".parse().unwrap()];
    let config = Config { listen: Vec::new(), http_listen: http, ..Config::default() };
    let builder = janus_api::routes(allowed).into_iter().fold(Janus::builder().config(config), Builder::route);
    let janus = builder.start().await.unwrap();
    let site = Site { addr: janus.local_addrs()[0], janus, stop: Box::new(|| {}) };
    let body = r#"{"topic":"news","data":1}"#;
    let json = "content-type: application/json\r\n";
    assert!(say(&site, "POST", "/api/publish", json, body).await.starts_with("http/1.1 401 "));
    // As many strangers as there are places, each with a body that never comes.
    let mut strangers = Vec::new();
    for _ in 0..janus_api::MAX_REQUESTS {
        let mut stream = TcpStream::connect(site.addr).await.unwrap();
        let head = format!("POST /api/publish HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n{json}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let refused = super::read_until(&mut stream, "\"}}").await;
        assert!(refused.starts_with("HTTP/1.1 401 "), "{refused}");
        strangers.push(stream);
    }
    let published = say(&site, "POST", "/api/publish", &format!("{KEY}{json}"), body).await;
    assert!(published.starts_with("http/1.1 200 "), "{published}");
    drop(strangers);
    let (_stream, listed) = ask(&site, "/api/topics", KEY, "]}").await;
    assert!(listed.starts_with("HTTP/1.1 200 "), "{listed}");
    // The routes hold no handle that would keep the instance running.
    let janus = site.janus.downgrade();
    drop(site);
    in_time(async {
        while janus.upgrade().is_some() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn below_a_path_of_the_app_the_own_paths_are_the_same() {
    let own = || builder().route(HttpRoute::new("POST", "/apps/*".parse().unwrap(), echo));
    let janus = own().start().await.unwrap();
    let app = Router::new().nest("/a/b", janus_axum::routes(&janus));
    let axum = serve_axum(janus, app).await;
    let janus = own().start().await.unwrap();
    let routes = janus_actix_web::routes(&janus);
    let scoped = move |config: &mut web::ServiceConfig| {
        config.service(web::scope("/{tenant}/{rest}").configure(routes));
    };
    let actix = serve_actix(janus, scoped).await;
    for site in [axum, actix] {
        let answer = say(&site, "POST", "/a/b/apps/x%20y/z?q", "", "1").await;
        assert!(answer.ends_with("\r\n\r\nx%20y/z q 1"), "{answer}");
        site.stop().await;
    }
}
