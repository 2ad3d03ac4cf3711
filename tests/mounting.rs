//! Janus behind another web server: the examples for axum and actix-web, with clients of other libraries.

#![expect(clippy::unwrap_used, reason = "a test that meets what it does not expect has failed, wherever it stands")]

#[path = "../examples/actix_web.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "it is a program of its own, and frameworks differ in what their macros make of its main function"
)]
mod actix_example;
#[path = "mounting/alone.rs"]
mod alone;
#[path = "../examples/axum.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "it is a program of its own, and frameworks differ in what their macros make of its main function"
)]
mod axum_example;
#[path = "mounting/http2.rs"]
mod http2;
#[path = "mounting/own.rs"]
mod own;

use std::net::SocketAddr;
use std::time::Duration;

use actix_web::web::ServiceConfig;
use actix_web::{App, HttpServer};
use axum::Router;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, SinkExt, StreamExt};
use janus_core::Janus;
use janus_core::testing::Connect;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// Longer than any step takes, for a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    timeout(DEADLINE, future).await.expect("it takes no longer than the deadline")
}

/// An app with Janus inside, until stopped.
struct Site {
    janus: Janus,
    addr: SocketAddr,
    stop: Box<dyn FnOnce() + Send>,
}

impl Site {
    async fn stop(self) {
        // Janus first: a web server waits for its responses, and some of these have no end.
        in_time(self.janus.shutdown()).await;
        (self.stop)();
    }
}

async fn axum() -> Site {
    let janus = axum_example::start().await.unwrap();
    let app = axum_example::app(janus.clone());
    serve_axum(janus, app).await
}

async fn serve_axum(janus: Janus, app: Router) -> Site {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    Site { janus, addr, stop: Box::new(move || server.abort()) }
}

async fn actix() -> Site {
    let janus = actix_example::start().await.unwrap();
    let inside = janus.clone();
    serve_actix(janus, move |config| actix_example::routes(inside)(config)).await
}

async fn serve_actix(janus: Janus, routes: impl FnOnce(&mut ServiceConfig) + Clone + Send + 'static) -> Site {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let (handle, started) = tokio::sync::oneshot::channel();
    // actix-web has its own kind of runtime.
    let thread = std::thread::spawn(move || {
        actix_web::rt::System::new().block_on(async move {
            let app = move || App::new().configure(routes.clone());
            let server = HttpServer::new(app).workers(1).disable_signals().shutdown_timeout(1).listen(listener);
            let server = server.unwrap().run();
            let _ = handle.send(server.handle());
            server.await.unwrap();
        });
    });
    let handle = started.await.unwrap();
    let stop = move || {
        // The result of `stop` comes over a channel; the end of the thread is the awaited event.
        drop(handle.stop(false));
        thread.join().unwrap();
    };
    Site { janus, addr, stop: Box::new(stop) }
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn open(site: &Site, key: &str) -> Result<Socket, Error> {
    let mut request = format!("ws://{}/ws", site.addr).into_client_request()?;
    request.headers_mut().insert("authorization", HeaderValue::from_str(key).unwrap());
    request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("janus.v1.json"));
    let (socket, response) = in_time(connect_async(request)).await?;
    assert_eq!(response.headers()["sec-websocket-protocol"], "janus.v1.json");
    Ok(socket)
}

async fn send(socket: &mut Socket, text: &str) {
    socket.send(Message::text(text)).await.unwrap();
}

async fn frame(socket: &mut Socket) -> Value {
    match in_time(socket.next()).await.unwrap().unwrap() {
        Message::Text(text) => serde_json::from_str(text.as_str()).unwrap(),
        other => panic!("{other:?} is no text"),
    }
}

/// Sends a request, and reads up to this end or to the end of the stream.
async fn get(stream: &mut TcpStream, target: &str, headers: &str, end: &str) -> String {
    let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    read_until(stream, end).await
}

async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut received = Vec::new();
    in_time(async {
        while !String::from_utf8_lossy(&received).contains(end) {
            assert!(stream.read_buf(&mut received).await.unwrap() > 0, "{}", String::from_utf8_lossy(&received));
        }
    })
    .await;
    String::from_utf8(received).unwrap()
}

async fn ask(site: &Site, target: &str, headers: &str, end: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(site.addr).await.unwrap();
    let received = get(&mut stream, target, headers, end).await;
    (stream, received)
}

const KEY: &str = "authorization: Bearer sesame\r\n";

async fn say(site: &Site, text: &str) {
    let (_, answer) = ask(site, &format!("/say?text={text}"), KEY, "\r\n\r\n1").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

async fn until_all_have_left(janus: &Janus) {
    in_time(async {
        while janus.stats().connections > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn a_websocket_gets_the_apps_messages(site: Site) {
    let mut socket = open(&site, "Bearer sesame").await.unwrap();
    send(&mut socket, r#"{"type":"hello"}"#).await;
    send(&mut socket, r#"{"type":"subscribe","id":1,"topic":"news"}"#).await;
    assert_eq!(frame(&mut socket).await["type"], "welcome");
    assert_eq!(frame(&mut socket).await["type"], "subscribed");
    for number in 0..20 {
        let text = format!("{number}{}", "x".repeat(3_000));
        say(&site, &text).await;
        assert_eq!(frame(&mut socket).await["data"], *text);
    }
    assert_eq!(site.janus.sessions().await.len(), 1);
    socket.close(None).await.unwrap();
    until_all_have_left(&site.janus).await;
    site.stop().await;
}

async fn an_event_stream_gets_the_apps_messages_and_resumes(site: Site) {
    let (stream, head) = ask(&site, "/events?topic=news", KEY, "\nid: ").await;
    assert!(head.to_lowercase().contains("content-type: text/event-stream"), "{head}");
    let mut stream = stream;
    say(&site, "one").await;
    let received = read_until(&mut stream, "\"data\":\"one\"}").await;
    let id = received.lines().rfind(|line| line.starts_with("id: ")).unwrap()["id: ".len()..].to_owned();
    // The server need not notice at once: actix-web notices at the next write.
    drop(stream);
    site.janus.publish("news", "while nobody listened").await.unwrap();
    let (_, received) =
        ask(&site, "/events?topic=news", &format!("{KEY}last-event-id: {id}\r\n"), "nobody listened\"}").await;
    assert!(!received.contains("event: gap") && !received.contains("\"one\""), "{received}");
    site.stop().await;
}

async fn the_middleware_says_who_the_client_is_and_what_the_client_may_do(site: Site) {
    let mut client = Connect::to(site.addr).header("authorization", "Bearer sesame").connect().await;
    client.subscribe("news").await;
    let users: Vec<_> = site.janus.connections(0, 10).into_iter().map(|connection| connection.user).collect();
    assert_eq!(users, ["ali-baba"]);
    // On loopback everyone may publish, unless the identity says otherwise.
    assert_eq!(client.try_publish("news", "me, too").await.unwrap_err().error, "forbidden");
    assert_eq!(site.janus.disconnect_user("ali-baba", true), 1);
    assert_eq!(client.closed().await.error, "disconnected");
    site.stop().await;
}

async fn nothing_passes_the_middleware_of_the_app(site: Site) {
    let Err(Error::Http(response)) = open(&site, "Bearer guess").await else { panic!("it was let in") };
    assert_eq!(response.status(), 401);
    let (_, answer) = ask(&site, "/events?topic=news", "", "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    // The page of another site is refused, even with the cookies of the browser.
    let (_, answer) =
        ask(&site, "/events?topic=news", &format!("{KEY}origin: http://evil.example\r\n"), "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert_eq!(site.janus.stats().connections_accepted, 0);
    // A senseless request that passes the middleware is answered by Janus's rules.
    let (_, answer) = ask(&site, "/events", KEY, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    let (_, answer) = ask(&site, "/ws", KEY, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 426"), "{answer}");
    site.stop().await;
}

const UPGRADE: &str = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                       sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

async fn a_refusal_has_the_headers_of_its_status_and_a_reason(site: Site) {
    let (_, answer) = ask(&site, "/ws", KEY, "\"}}").await;
    let answer = answer.to_lowercase();
    assert!(answer.starts_with("http/1.1 426 "), "{answer}");
    for part in
        ["\r\nupgrade: websocket\r\n", "\r\nsec-websocket-version: 13\r\n", "application/json", "upgrade_required"]
    {
        assert!(answer.contains(part), "no {part:?} in {answer}");
    }
    // A server that takes no more clients says when to come back: by a status, or to a browser in a stream.
    in_time(site.janus.shutdown()).await;
    let (_, answer) = ask(&site, "/events?topic=news", KEY, "\"}}").await;
    let answer = answer.to_lowercase();
    assert!(answer.starts_with("http/1.1 503 ") && answer.contains("\r\nretry-after: "), "{answer}");
    let accepts = format!("{KEY}accept: text/event-stream\r\n");
    let (_, answer) = ask(&site, "/events?topic=news", &accepts, "server_draining").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("event: bye\nretry: "), "{answer}");
    site.stop().await;
}

async fn a_request_dangerous_only_behind_an_app_is_refused(site: Site) {
    let refused = async |request: String, status: &str| {
        let mut stream = TcpStream::connect(site.addr).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = read_until(&mut stream, "\r\n\r\n").await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) || answer.starts_with("HTTP/1.0 400 "), "{answer}");
    };
    for (target, headers) in [("/ws", UPGRADE), ("/events?topic=news", "")] {
        let first = format!("GET {target} HTTP/1.1\r\nhost: localhost\r\n{KEY}{headers}");
        refused(format!("{first}content-length: 5\r\n\r\nhello"), "400").await;
        // A page of any site can make its browser send this, with the user's cookies and without an origin.
        refused(format!("{first}sec-fetch-site: cross-site\r\n\r\n"), "403").await;
    }
    refused(format!("GET /ws HTTP/1.0\r\nhost: localhost\r\n{KEY}{UPGRADE}\r\n"), "400").await;
    assert_eq!(site.janus.stats().connections_accepted, 0);
    // A proxy may name the whole address.
    let (_, answer) = ask(&site, &format!("http://{}/events?topic=news", site.addr), KEY, "\nid: ").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    site.stop().await;
}

async fn a_shutdown_says_goodbye(site: Site) {
    let mut socket = open(&site, "Bearer sesame").await.unwrap();
    send(&mut socket, r#"{"type":"hello"}"#).await;
    assert_eq!(frame(&mut socket).await["type"], "welcome");
    let (mut stream, _) = ask(&site, "/events?topic=news", KEY, "\nid: ").await;
    let janus = site.janus.clone();
    let shutdown = tokio::spawn(async move { janus.shutdown().await });
    assert_eq!(frame(&mut socket).await["type"], "bye");
    let Message::Close(Some(close)) = in_time(socket.next()).await.unwrap().unwrap() else { panic!("no close") };
    assert_eq!(close.code, CloseCode::Library(4002));
    read_until(&mut stream, "event: bye").await;
    drop((socket, stream));
    in_time(shutdown).await.unwrap();
    site.stop().await;
}

/// Starts a site with the routes of Janus and nothing else.
type Start = fn(Janus) -> BoxFuture<'static, Site>;

fn axum_alone(janus: Janus) -> BoxFuture<'static, Site> {
    let app = Router::new().merge(janus_axum::routes(&janus));
    serve_axum(janus, app).boxed()
}

fn actix_alone(janus: Janus) -> BoxFuture<'static, Site> {
    let routes = janus_actix_web::routes(&janus);
    serve_actix(janus, routes).boxed()
}

macro_rules! in_both {
    ($($behaviour:ident),+ $(,)? ; $($alone:ident),+ $(,)? ; $($own:ident),+ $(,)?) => {
        mod in_axum {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $behaviour() {
                super::$behaviour(super::axum().await).await;
            })+
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $alone() {
                super::alone::$alone(super::axum_alone).await;
            })+
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $own() {
                super::own::$own(super::own::axum_with_api).await;
            })+
        }

        mod in_actix_web {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $behaviour() {
                super::$behaviour(super::actix().await).await;
            })+
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $alone() {
                super::alone::$alone(super::actix_alone).await;
            })+
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $own() {
                super::own::$own(super::own::actix_with_api).await;
            })+
        }
    };
}

in_both!(
    a_websocket_gets_the_apps_messages,
    an_event_stream_gets_the_apps_messages_and_resumes,
    the_middleware_says_who_the_client_is_and_what_the_client_may_do,
    nothing_passes_the_middleware_of_the_app,
    a_refusal_has_the_headers_of_its_status_and_a_reason,
    a_request_dangerous_only_behind_an_app_is_refused,
    a_shutdown_says_goodbye;
    a_hook_refuses_a_client_before_a_stream_begins,
    a_client_may_prove_its_identity_in_the_hello,
    a_hook_that_refuses_only_for_now_says_when_to_come_back,
    a_full_server_and_a_crowded_address_refuse_before_a_stream_begins,
    a_client_behind_a_trusted_proxy_has_its_own_address,
    bytes_sent_ahead_of_the_upgrade_are_not_lost,
    a_client_that_reads_nothing_is_cut_off_and_delays_no_other,
    the_end_of_an_identity_ends_the_client,
    a_page_of_an_allowed_origin_may_ask_in_advance_and_read_the_answer,
    a_client_that_goes_away_is_gone_for_janus,
    a_request_publishes_by_the_right_of_its_client;
    the_programs_own_paths_are_served,
    a_refused_body_is_told_in_the_form_of_all_answers,
    a_page_of_an_allowed_origin_may_publish_and_read_the_receipt,
    operators_have_the_api_and_strangers_have_not,
    the_check_of_a_route_decides_before_the_body_comes,
    a_path_of_the_program_is_compared_as_sent,
    an_answer_that_is_late_is_told_as_such,
);
