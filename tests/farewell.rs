//! The ends of connections, and the limits on connections that never begin, as a WebSocket sees both.

use std::net::SocketAddr;
use std::time::Duration;

use janus_core::hooks::{Client, Denied, Hooks};
use janus_core::wire::websocket::client::{self, ServerDecoder, ServerFrame};
use janus_core::wire::{Publication, TopicName, v1};
use janus_core::{Builder, Config, Janus};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use crate::support::{DEADLINE, own_address};

const MASK: [u8; 4] = [1, 2, 3, 4];

async fn start(config: Config, set: impl FnOnce(Builder) -> Builder) -> (Janus, SocketAddr) {
    let config =
        Config { listen: Vec::new(), http_listen: vec![own_address()], drain_period: Duration::ZERO, ..config };
    let janus = set(Janus::builder().config(config)).start().await.unwrap();
    let addr = janus.local_addrs()[0];
    (janus, addr)
}

/// An upgraded WebSocket before its first frame.
async fn upgraded(addr: SocketAddr) -> TcpStream {
    let mut stream = timeout(DEADLINE, TcpStream::connect(addr)).await.unwrap().unwrap();
    stream.write_all(&client::upgrade(&addr.to_string(), "/ws", "dGhlIHNhbXBsZSBub25jZQ==")).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = timeout(DEADLINE, stream.read_u8()).await.unwrap().unwrap();
        head.push(byte);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    stream
}

fn said(frames: &[String]) -> Vec<u8> {
    frames.iter().flat_map(|frame| client::text(frame, MASK)).collect()
}

/// Reads to the server's end of the stream. Returns the types of the texts with their ids, and the closes.
async fn to_the_end(mut stream: TcpStream) -> Vec<String> {
    let mut bytes = Vec::new();
    timeout(DEADLINE, stream.read_to_end(&mut bytes)).await.expect("an end").expect("a FIN");
    let (mut decoder, mut input, mut got) = (ServerDecoder::new(), &bytes[..], Vec::new());
    while let Some(frame) = decoder.decode(&mut input) {
        match frame {
            ServerFrame::Text(text) => {
                let frame: Value = serde_json::from_str(text).unwrap();
                let id = frame["id"].as_u64().map_or(String::new(), |id| format!(" {id}"));
                got.push(format!("{}{id}", frame["type"].as_str().unwrap()));
            }
            ServerFrame::Close { code, .. } => got.push(format!("close {}", code.unwrap_or(0))),
            ServerFrame::Pong(_) => {}
            other => panic!("{other:?}"),
        }
    }
    got
}

#[tokio::test]
async fn a_client_that_closes_gets_its_receipts_before_the_answer_to_its_close() {
    let (janus, addr) = start(Config::default(), |builder| builder).await;
    let _subscriber = janus.subscribe("news").unwrap();
    let mut stream = upgraded(addr).await;
    let publish = |id| v1::client::publish(Some(id), "news", "\"\"", "\"\"", "1");
    let mut bytes = said(&[v1::client::hello(None, None), publish(1), publish(2)]);
    bytes.extend(client::close(1000, MASK));
    stream.write_all(&bytes).await.unwrap();
    assert_eq!(to_the_end(stream).await, ["welcome", "published 1", "published 2", "close 1000"]);
    janus.shutdown().await;
}

/// Never decides about a publish, and reports each question.
struct Undecided(mpsc::Sender<()>);

impl Hooks for Undecided {
    async fn authorize_publish(&self, _: &Client, _: &TopicName, _: &Publication) -> Result<(), Denied> {
        let _ = self.0.send(()).await;
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_client_sent_away_gets_its_receipt_before_the_bye() {
    let (asked, mut is_asked) = mpsc::channel(1);
    let (janus, addr) = start(Config::default(), |builder| builder.hooks(Undecided(asked))).await;
    let mut stream = upgraded(addr).await;
    let publish = v1::client::publish(Some(7), "news", "\"\"", "\"\"", "1");
    stream.write_all(&said(&[v1::client::hello(None, None), publish])).await.unwrap();
    timeout(DEADLINE, is_asked.recv()).await.expect("the hook is asked");
    let connection = janus.connections(0, 1)[0].connection;
    assert!(janus.disconnect(connection, true));
    assert_eq!(to_the_end(stream).await, ["welcome", "error 7", "bye", "close 4007"]);
    janus.shutdown().await;
}

#[tokio::test]
async fn pings_do_not_extend_the_time_before_a_hello() {
    let config = Config { frame_timeout: Duration::from_millis(300), ..Config::default() };
    let (janus, addr) = start(config, |builder| builder).await;
    let mut stream = upgraded(addr).await;
    let begun = Instant::now();
    let mut piece = [0; 1024];
    // Ping after ping, until the server closes the connection.
    while stream.write_all(&client::ping(b"", MASK)).await.is_ok() {
        assert!(begun.elapsed() < DEADLINE, "it is still there");
        if !matches!(timeout(DEADLINE, stream.read(&mut piece)).await.expect("a pong or an end"), Ok(1..)) {
            break;
        }
    }
    assert_eq!(janus.stats().frames_timed_out, 1);
    janus.shutdown().await;
}
