//! WebSockets with an independent client: `tokio-tungstenite`, which keeps to the standard by itself.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use janus_core::Config;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::serve;
use crate::support::DEADLINE;

type Library = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn connect(addr: SocketAddr, headers: &[(&'static str, &str)]) -> Result<Library, Error> {
    let mut request = format!("ws://{addr}/ws").into_client_request()?;
    for (name, value) in headers {
        request.headers_mut().insert(*name, HeaderValue::from_str(value).expect("a header's value"));
    }
    let (socket, response) = timeout(DEADLINE, connect_async(request)).await.expect("connects in time")?;
    assert_eq!(response.status(), 101);
    Ok(socket)
}

/// Opens a WebSocket whose client is served.
async fn open(addr: SocketAddr) -> Library {
    let origin = format!("http://{addr}");
    let headers = [("sec-websocket-protocol", "janus.v1.json"), ("origin", &origin)];
    let mut socket = connect(addr, &headers).await.expect("it is let in");
    assert_eq!(ask(&mut socket, json!({"type": "hello"})).await["type"], "welcome");
    socket
}

async fn next(socket: &mut Library) -> Option<Result<Message, Error>> {
    timeout(DEADLINE, socket.next()).await.expect("something comes")
}

async fn hear(socket: &mut Library) -> Value {
    match next(socket).await {
        Some(Ok(Message::Text(text))) => serde_json::from_str(&text).expect("it is JSON"),
        other => panic!("{other:?}"),
    }
}

async fn ask(socket: &mut Library, json: Value) -> Value {
    socket.send(Message::text(json.to_string())).await.expect("sent");
    hear(socket).await
}

#[tokio::test]
async fn a_library_holds_a_conversation() {
    let (janus, addr) = serve(Config::default()).await;
    let mut socket = open(addr).await;
    let subscribed = ask(&mut socket, json!({"type": "subscribe", "id": 1, "topic": "news"})).await;
    assert_eq!((&subscribed["id"], &subscribed["seq"]), (&json!(1), &json!(0)));
    janus.publish("news", "from the program").await.expect("published");
    assert_eq!(hear(&mut socket).await["data"], "from the program");
    let heard = ask(&mut socket, json!({"type": "publish", "topic": "news", "data": {"price": 1.5}})).await;
    assert_eq!((&heard["seq"], &heard["data"]["price"]), (&json!(2), &json!(1.5)));
    let error = ask(&mut socket, json!({"type": "subscribe", "id": 2, "topic": ""})).await;
    assert_eq!((&error["id"], &error["error"]), (&json!(2), &json!("bad_topic")));
    socket.send(Message::Ping("are you there?".into())).await.expect("sent");
    assert_eq!(next(&mut socket).await.expect("a frame").expect("a pong"), Message::Pong("are you there?".into()));
    let unsubscribed = ask(&mut socket, json!({"type": "unsubscribe", "id": 3, "topic": "news"})).await;
    assert_eq!(unsubscribed, json!({"type": "unsubscribed", "id": 3, "topic": "news"}));

    let frame = CloseFrame { code: CloseCode::Normal, reason: "that was all".into() };
    socket.close(Some(frame)).await.expect("sent");
    let Some(Ok(Message::Close(Some(answer)))) = next(&mut socket).await else { panic!("no close") };
    assert_eq!(answer.code, CloseCode::Normal);
    // The handshake is complete, and the server has closed the stream.
    assert!(next(&mut socket).await.is_none());
}

#[tokio::test]
async fn a_library_that_names_no_subprotocol_and_no_origin_is_served() {
    let (_janus, addr) = serve(Config::default()).await;
    let mut socket = connect(addr, &[]).await.expect("it is let in");
    assert_eq!(ask(&mut socket, json!({"type": "hello"})).await["type"], "welcome");
}

#[tokio::test]
async fn a_library_understands_the_status_of_a_refusal() {
    let (_janus, addr) = serve(Config::default()).await;
    for (header, status) in [(("origin", "https://evil.test"), 403), (("sec-websocket-protocol", "mqtt"), 400)] {
        let Err(Error::Http(response)) = connect(addr, &[header]).await else { panic!("{header:?} is let in") };
        assert_eq!(response.status(), status, "{header:?}");
        let body: Value = serde_json::from_slice(response.body().as_deref().expect("a body")).expect("it is JSON");
        assert!(body["error"]["code"].is_string(), "{body}");
    }
}

#[tokio::test]
async fn a_library_sends_and_reads_messages_of_the_longest_length() {
    let (_janus, addr) = serve(Config { max_frame_bytes: 1 << 20, ..Config::default() }).await;
    let mut socket = open(addr).await;
    ask(&mut socket, json!({"type": "subscribe", "topic": "news"})).await;
    for length in [100, 125, 126, 127, 60_000, 65_535, 65_536, 900_000] {
        let data = "ö".repeat(length / 2);
        let whole = ask(&mut socket, json!({"type": "publish", "topic": "news", "data": data})).await;
        assert_eq!(whole["data"], data, "{length} bytes");
        // And in fragments, cut within characters.
        let publish = json!({"type": "publish", "topic": "news", "data": data}).to_string().into_bytes();
        let pieces = publish.chunks(9_999.min(publish.len() / 3)).collect::<Vec<_>>();
        for (at, piece) in pieces.iter().enumerate() {
            let opcode = if at == 0 { Data::Text } else { Data::Continue };
            let frame = Frame::message(piece.to_vec(), OpCode::Data(opcode), at + 1 == pieces.len());
            socket.send(Message::Frame(frame)).await.expect("sent");
        }
        assert_eq!(hear(&mut socket).await["data"], data, "{length} bytes in {} fragments", pieces.len());
    }
}

#[tokio::test]
async fn a_library_is_told_why_the_server_closes() {
    let (janus, addr) = serve(Config { max_frame_bytes: 1_000, ..Config::default() }).await;
    let mut socket = open(addr).await;
    socket.send(Message::binary(vec![1, 2, 3])).await.expect("sent");
    let Some(Ok(Message::Close(Some(close)))) = next(&mut socket).await else { panic!("no close") };
    assert_eq!(close.code, CloseCode::Unsupported);
    assert!(next(&mut socket).await.is_none());

    let mut socket = open(addr).await;
    socket.send(Message::text("x".repeat(2_000))).await.expect("sent");
    let Some(Ok(Message::Close(Some(close)))) = next(&mut socket).await else { panic!("no close") };
    assert_eq!(close.code, CloseCode::Size);

    let mut socket = open(addr).await;
    let shutdown = tokio::spawn(async move { janus.shutdown().await });
    let bye = hear(&mut socket).await;
    assert_eq!((&bye["type"], &bye["code"]), (&json!("bye"), &json!(4002)));
    let Some(Ok(Message::Close(Some(close)))) = next(&mut socket).await else { panic!("no close") };
    assert_eq!((close.code, close.reason.as_str()), (CloseCode::Library(4002), "server_draining"));
    assert!(next(&mut socket).await.is_none());
    shutdown.await.expect("the shutdown comes to its end");
}
