//! A connection over TLS that is kept after requests to the API: it goes from thread to thread and back with its keys.

use super::{Authority, Files, Stream, logged_address};
use crate::cli_run::Running;

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                       sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[tokio::test]
async fn a_connection_over_tls_publishes_asks_the_api_and_becomes_a_stream_or_a_websocket() {
    let (authority, files) = (Authority::new(), Files::new());
    let (certificate, key) = files.write_pair("server", &authority.server(&["localhost"]));
    let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
    let listen = ["--listen", "127.0.0.1:0", "--https-listen", "127.0.0.1:0"];
    let server = Running::start(&[&listen[..], &["--tls-cert", &certificate, "--tls-key", &key]].concat());
    let https = logged_address(&server.error_line("serving HTTP on "));
    let streams = "GET /events?topic=news HTTP/1.1\r\nhost: localhost\r\n\r\n";
    for (last, begins, then) in [(streams, "HTTP/1.1 200 ", "event: subscribed"), (UPGRADE, "HTTP/1.1 101 ", "")] {
        let mut kept = Stream::connect(&authority.connector(None), https, "localhost").await.unwrap();
        for _ in 0..3 {
            let body = r#"{"topic":"news","data":1}"#;
            let head = "POST /api/publish HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
            // Ahead: the second request waits behind the first, on whichever thread that is answered.
            let publish = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
            kept.send(format!("{publish}GET /api/topics HTTP/1.1\r\nhost: localhost\r\n\r\n{publish}").as_bytes())
                .await;
            for end in ["\"subscribers\":", "{\"topics\":[", "\"subscribers\":"] {
                let head = kept.up_to(b"\r\n\r\n").await;
                assert!(head.contains("HTTP/1.1 200 OK\r\n") && !head.contains("connection"), "{head}");
                kept.up_to(end.as_bytes()).await;
            }
        }
        kept.send(last.as_bytes()).await;
        let head = kept.up_to(b"\r\n\r\n").await;
        assert!(head.contains(begins), "{head}");
        if !then.is_empty() {
            kept.up_to(then.as_bytes()).await;
        }
    }
}
