//! Event streams and publications over HTTP/2, in axum.

use axum::body::Body;
use axum::http::{Request, Response};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use janus_core::{Config, Janus};
use tokio::net::TcpStream;

use super::{Site, axum_alone, in_time};

async fn connect(site: &Site) -> SendRequest<Body> {
    let stream = TcpStream::connect(site.addr).await.unwrap();
    let (client, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Reads up to a text.
async fn read_until(response: &mut Response<Incoming>, end: &str) -> String {
    let mut received = String::new();
    in_time(async {
        while !received.contains(end) {
            let frame = response.body_mut().frame().await.expect("the stream goes on").unwrap();
            received.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
        }
    })
    .await;
    received
}

fn get(site: &Site, target: &str, origin: &str) -> Request<Body> {
    let request = Request::get(format!("http://{}{target}", site.addr)).header("origin", origin);
    request.body(Body::new(Empty::<Bytes>::new())).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_and_publications_share_a_connection() {
    let config = Config { listen: Vec::new(), ..Config::default() };
    let site = axum_alone(Janus::builder().config(config).start().await.unwrap()).await;
    let own = format!("http://{}", site.addr);
    let mut client = connect(&site).await;
    let mut streams = Vec::new();
    for topic in ["news", "quotes"] {
        let mut response =
            in_time(client.send_request(get(&site, &format!("/events?topic={topic}"), &own))).await.unwrap();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["content-type"]),
            (200, &"text/event-stream; charset=utf-8".parse().unwrap())
        );
        read_until(&mut response, "event: subscribed").await;
        streams.push(response);
    }
    let message = Full::new(Bytes::from_static(br#"{"topic":"quotes","data":"1.07"}"#));
    let request = Request::post(format!("{own}/api/publish")).header("content-type", "application/json");
    let published = in_time(client.send_request(request.body(Body::new(message)).unwrap())).await.unwrap();
    assert_eq!(published.status(), 200);
    read_until(&mut streams[1], "\"data\":\"1.07\"}").await;
    // The authority of a request is its host, and a page of another origin is refused as ever.
    let refused = in_time(client.send_request(get(&site, "/events?topic=news", "http://evil.example"))).await.unwrap();
    assert_eq!(refused.status(), 403);
    let refused = in_time(client.send_request(get(&site, "/ws", &own))).await.unwrap();
    assert_eq!(refused.status(), 426);
    // A stream that the client gives up does not wait for the end of the connection.
    drop(streams);
    super::until_all_have_left(&site.janus).await;
    site.stop().await;
}
