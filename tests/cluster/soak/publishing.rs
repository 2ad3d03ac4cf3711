//! Publishers over HTTP. A message is sent again, with the same key and to any node, until there is a receipt.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::ledger::{Place, show};
use super::{KEY, World, name_of};

/// Publishes to a topic up to the last part of the run. The data of a message begin with the publisher's number.
pub(super) async fn publish(world: Arc<World>, topic: usize, publisher: u64, mut rng: Rng) {
    let mut connection = None;
    let mut last: Option<Place> = None;
    for count in 1.. {
        if world.publishers_stop() {
            return;
        }
        let data = publisher << 32 | count;
        let Some(place) = until_receipt(&world, &mut connection, topic, data, &mut rng).await else { return };
        if let Some(last) = last.filter(|last| place.1 > 0 && last.0 == place.0 && last.1 >= place.1) {
            let (last, place) = (show(last), show(place));
            world.ledger.breach(format!("publisher {publisher:x} has the receipt {place} after {last}"));
        }
        last = Some(place);
        tokio::time::sleep(Duration::from_millis(rng.u64(50..600))).await;
    }
}

/// Publishes a message until there is a receipt; `None` if the run ends before.
pub(super) async fn until_receipt(
    world: &World,
    connection: &mut Option<(SocketAddr, TcpStream)>,
    topic: usize,
    data: u64,
    rng: &mut Rng,
) -> Option<Place> {
    loop {
        if world.is_over() {
            world.ledger.breach(format!("{data:x} has no receipt at the end"));
            return None;
        }
        let node = world.any_node(rng);
        if connection.is_none() || rng.u8(..8) == 0 {
            *connection = match node {
                Some(node) => connect(node).await.map(|stream| (node, stream)),
                None => None,
            };
        }
        let why = match connection.as_mut() {
            None => "no connection".to_owned(),
            Some((node, stream)) => {
                let patience = Duration::from_millis(rng.u64(700..5_000));
                match timeout(patience, ask(stream, *node, topic, data)).await {
                    Ok(Some((200, receipt))) => return Some(receipt_of(world, topic, data, &receipt)),
                    Ok(Some((status, answer))) => {
                        let code = answer["error"]["code"].as_str().unwrap_or("?").to_owned();
                        if status < 500 {
                            world.ledger.breach(format!("{data:x} was refused: {status} {answer}"));
                        }
                        code
                    }
                    Ok(None) => "connection lost".to_owned(),
                    Err(_) => "no answer".to_owned(),
                }
            }
        };
        // A late answer to this request could be taken for an answer to the next.
        *connection = None;
        world.ledger.count(format!("publications repeated: {why}"));
        tokio::time::sleep(Duration::from_millis(rng.u64(20..300))).await;
    }
}

fn receipt_of(world: &World, topic: usize, data: u64, receipt: &Value) -> Place {
    let epoch = receipt["epoch"].as_str().and_then(|text| u64::from_str_radix(text, 16).ok());
    let place = epoch.zip(receipt["seq"].as_u64()).unwrap_or_else(|| panic!("no receipt: {receipt}"));
    if receipt["again"] == true {
        world.ledger.count("receipts of repeated publications (again)");
    }
    world.ledger.receipt(topic, data, place);
    place
}

async fn connect(node: SocketAddr) -> Option<TcpStream> {
    timeout(Duration::from_secs(1), TcpStream::connect(node)).await.ok()?.ok()
}

/// The status and the body; `None` if the connection ended before.
async fn ask(stream: &mut TcpStream, node: SocketAddr, topic: usize, data: u64) -> Option<(u16, Value)> {
    let body = json!({"topic": name_of(topic), "data": data}).to_string();
    let head = format!("POST /api/publish HTTP/1.1\r\nHost: {node}\r\nAuthorization: Bearer {KEY}\r\n");
    let kind = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    let request = format!("{head}{kind}Idempotency-Key: soak-{data:x}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut received = Vec::new();
    loop {
        if let Some(answer) = whole(&received) {
            return Some(answer);
        }
        if stream.read_buf(&mut received).await.ok()? == 0 {
            return None;
        }
    }
}

/// The status and the body of a complete answer.
fn whole(received: &[u8]) -> Option<(u16, Value)> {
    let text = str::from_utf8(received).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let lines = || head.lines().map(str::to_ascii_lowercase);
    let length = lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    let status = head.split(' ').nth(1)?.parse().expect("a status");
    let length = length.unwrap_or_else(|| panic!("an answer without a length: {text}"));
    (body.len() >= length).then(|| (status, serde_json::from_str(&body[..length]).expect("an answer is JSON")))
}
