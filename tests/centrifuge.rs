//! The setting `centrifuge` of the binary: who may connect, and with which keys. `tests/centrifuge/` has the libraries.

use std::net::SocketAddr;

use crate::api::http_address;
use crate::cli_run::{Running, binary};
use crate::http::Http;

/// The status of a request whose connection is closed afterwards.
async fn status(address: SocketAddr, request: &str) -> String {
    let request = format!("{request}\r\nHost: {address}\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{}}");
    Http::send(address, request).await.up_to("\r\n").await.split(' ').nth(1).unwrap().to_owned()
}

/// The status of a request to each of the two paths.
async fn statuses(more: &[&str], header: &str) -> (String, String) {
    let mut command = binary(&[&["--listen", "", "--http-listen", "127.0.0.1:0"], more].concat());
    let server = Running::spawn(command.env("JANUS_API_KEY", "correct-horse-battery"));
    let address = http_address(&server);
    (
        status(address, "POST /connection/websocket HTTP/1.1").await,
        status(address, &format!("POST /centrifuge/api/info HTTP/1.1\r\n{header}")).await,
    )
}

#[tokio::test]
async fn the_setting_opens_both_paths_and_nothing_else_does() {
    let key = "X-API-Key: correct-horse-battery";
    // 405: a WebSocket requires GET.
    assert_eq!(statuses(&["--centrifuge"], key).await, ("405".to_owned(), "200".to_owned()));
    assert_eq!(statuses(&["--centrifuge"], "Authorization: apikey correct-horse-battery").await.1, "200");
    assert_eq!(statuses(&["--centrifuge"], "X-API-Key: battery").await.1, "401");
    // The paths of the HTTP API ask for the key first.
    assert_eq!(statuses(&[], key).await, ("404".to_owned(), "404".to_owned()));
}
