//! The cost of a delivery to clients of `janus.v1.cbor`, against clients of `janus.v1.json`: of messages of JSON, and of
//! messages of bytes.
//!
//! A program publishes messages to a topic with a hundred WebSockets, and every client reads all of its bytes. So a time
//! contains everything between the program and the last client: numbering, one encoding of each batch, a hundred sends, and
//! the reading. The bytes are kept as base64, so a message of bytes is encoded once, and decoded once for the binary clients.

mod interleaved;

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use interleaved::{Comparison, rounds};
use janus_core::wire::websocket::client::{self, ServerDecoder, ServerFrame};
use janus_core::wire::{cbor, v1};
use janus_core::{Config, Janus, Message};
use parking_lot::Mutex;
use tokio::runtime::Runtime;

const CLIENTS: usize = 100;
const MESSAGES: usize = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build()?;
    let config = Config {
        listen: Vec::new(),
        http_listen: vec!["127.0.0.1:0".parse()?],
        max_queue_bytes: 64 << 20,
        ..Config::default()
    };
    let janus = runtime.block_on(Janus::builder().config(config).start())?;
    for size in [100, 1_024, 16 * 1_024] {
        compare(&janus, &runtime, size)?;
    }
    runtime.block_on(janus.shutdown());
    Ok(())
}

fn compare(janus: &Janus, runtime: &Runtime, size: usize) -> Result<(), Box<dyn Error>> {
    let addr = janus.local_addrs()[0];
    let crowd = |is_binary, kind: &str| Crowd::connect(addr, is_binary, &format!("{kind}:{is_binary}:{size}"));
    let text = "x".repeat(size - 2);
    // Bytes without a pattern, as of a picture.
    let bytes: Vec<u8> = (0..size as u32).map(|place| (place.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let crowds = [
        ("JSON in JSON", None, crowd(false, "text")?, Message::new("any", &text)?),
        ("JSON in CBOR", Some("JSON in JSON"), crowd(true, "text")?, Message::new("any", &text)?),
        ("bytes in JSON", Some("JSON in JSON"), crowd(false, "bytes")?, Message::bytes("any", &bytes)?),
        ("bytes in CBOR", Some("JSON in JSON"), crowd(true, "bytes")?, Message::bytes("any", &bytes)?),
    ];
    let title = format!("{MESSAGES} messages of {size} B to {CLIENTS} WebSockets, per delivery");
    let mut run = Comparison::new(title, (MESSAGES * CLIENTS) as u32);
    for (name, base, crowd, message) in &crowds {
        let message = message.for_topic(&crowd.topic)?;
        run = run.contender(name, *base, move || crowd.turn(janus, runtime, &message).expect("every message arrives"));
    }
    run.run(rounds(60));
    Ok(())
}

/// The clients of a topic.
struct Crowd {
    topic: String,
    streams: Mutex<Vec<TcpStream>>,
}

impl Crowd {
    fn connect(addr: SocketAddr, is_binary: bool, topic: &str) -> io::Result<Self> {
        const MASK: [u8; 4] = [1, 2, 3, 4];
        let message = |json: &str| match is_binary {
            true => client::binary(&cbor::client::frame(json), MASK),
            false => client::text(json, MASK),
        };
        let subprotocol = if is_binary { cbor::SUBPROTOCOL } else { "janus.v1.json" };
        let mut streams = Vec::new();
        for _ in 0..CLIENTS {
            let mut stream = TcpStream::connect(addr)?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(&client::upgrade_to("localhost", "/ws", "dGhlIHNhbXBsZSBub25jZQ==", subprotocol))?;
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte)?;
                head.extend(byte);
            }
            stream.write_all(&message(&v1::client::hello(None, None)))?;
            stream.write_all(&message(&v1::client::subscribe(None, topic, None)))?;
            // The welcome and the answer.
            read_messages(&mut stream, 2)?;
            streams.push(stream);
        }
        Ok(Self { topic: topic.to_owned(), streams: Mutex::new(streams) })
    }

    fn turn(&self, janus: &Janus, runtime: &Runtime, message: &Message) -> io::Result<Duration> {
        let mut streams = self.streams.lock();
        let start = Instant::now();
        runtime.block_on(async {
            for _ in 0..MESSAGES {
                janus.publish_message(message.clone()).await.expect("the topic has room");
            }
        });
        let mut length = 0;
        for (place, stream) in streams.iter_mut().enumerate() {
            // All clients get the same bytes.
            if place == 0 {
                length = read_messages(stream, MESSAGES)?;
            } else {
                io::copy(&mut stream.take(length), &mut io::sink())?;
            }
        }
        Ok(start.elapsed())
    }
}

/// Reads this many messages, and returns their bytes. Nothing follows these messages.
fn read_messages(stream: &mut TcpStream, count: usize) -> io::Result<u64> {
    let (mut decoder, mut messages, mut length) = (ServerDecoder::new(), 0, 0);
    let mut piece = vec![0; 64 * 1_024];
    while messages < count {
        let read = stream.read(&mut piece)?;
        length += read as u64;
        let mut input = &piece[..read];
        while let Some(frame) = decoder.decode(&mut input) {
            assert!(matches!(frame, ServerFrame::Text(_) | ServerFrame::Binary(_)), "{frame:?}");
            messages += 1;
        }
    }
    Ok(length)
}
