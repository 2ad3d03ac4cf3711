//! A made-up protocol over WebSocket, with words in place of JSON, and a route beside it.
//!
//! `cargo run --example words`, and in the console of two browsers on http://127.0.0.1:7002/:
//! `s = new WebSocket("ws://127.0.0.1:7002/words"); s.onmessage = (m) => console.log(m.data)`, then `s.send("sub news")` in the
//! one and `s.send("pub news hello")` in the other. A client does not get its own messages.

use std::net::SocketAddr;

use janus_core::wire::websocket::{ClientMessage, MessageDecoder, MessageProtocol, MessageWriter, Reading};
use janus_core::wire::{
    Command, ErrorCode, FrameError, HttpRequest, Opens, Publication, ServerEvent, Timestamp, WebSocket,
};
use janus_core::{ClientId, Config, HttpRoute, Janus, RouteResponse};

/// The protocol.
#[derive(Debug)]
pub struct Words;

impl MessageProtocol for Words {
    type Decoder = WordsDecoder;

    fn name(&self) -> &'static str {
        "words"
    }

    fn decoder(&self, _: Option<&HttpRequest>) -> WordsDecoder {
        WordsDecoder::default()
    }

    fn opens(&self) -> Opens {
        Opens::AtOnce
    }

    fn encode(&self, event: &ServerEvent<'_>, _: &Timestamp, out: &mut MessageWriter<'_>) {
        match event {
            ServerEvent::Opened { client, .. } => out.text(&format!("hello {client}")),
            ServerEvent::Subscribed { topic, .. } => out.text(&format!("ok {topic}")),
            ServerEvent::Message(message) => {
                let text: String = serde_json::from_str(message.data).unwrap_or_else(|_| message.data.to_owned());
                out.text(&format!("{}: {text}", message.topic));
            }
            ServerEvent::Gap { topic, .. } => out.text(&format!("lost {topic}")),
            ServerEvent::Error { message, .. } => out.text(&format!("sorry, {message}")),
            ServerEvent::Bye(why) | ServerEvent::Refused(why) => out.text(&format!("bye, {}", why.message)),
            _ => {}
        }
    }
}

/// Knows the name of its client.
#[derive(Debug, Default)]
pub struct WordsDecoder(Option<ClientId>);

impl MessageDecoder for WordsDecoder {
    type Scratch = ();

    fn opened(&mut self, _session: &str, client: ClientId) {
        self.0 = Some(client);
    }

    fn decode(
        &mut self,
        message: &mut ClientMessage<'_>,
        reading: &mut Reading<'_>,
    ) -> Option<Result<Command, FrameError>> {
        let (limits, own) = (reading.limits, self.0);
        let words: Vec<&str> = message.text().splitn(3, ' ').collect();
        Some(match words[..] {
            ["sub", topic] => limits.topic(topic).map(Command::subscribe),
            ["unsub", topic] => limits.topic(topic).map(|topic| Command::Unsubscribe { topic, id: None }),
            ["pub", topic, text] => limits.topic(topic).and_then(|topic| {
                let publication = Publication::new(&topic, "\"\"", "\"\"", &serde_json::Value::from(text).to_string())?;
                let publication = match own {
                    Some(own) => publication.excluding(own),
                    None => publication,
                };
                Ok(Command::Publish { topic, publication, ack: false, id: None })
            }),
            _ => Err(FrameError::new(ErrorCode::UnknownAction, "say: sub TOPIC, unsub TOPIC, or pub TOPIC TEXT")),
        })
    }
}

/// Starts an instance with the protocol at `/words`, and with a page at `/`.
pub async fn start(addr: SocketAddr) -> Result<Janus, Box<dyn std::error::Error>> {
    let config = Config { listen: Vec::new(), http_listen: vec![addr], ..Config::default() };
    let page = |_| async { Ok(RouteResponse::new(200, "text/plain", "WebSockets are at /words\n")) };
    let builder = Janus::builder().config(config).websocket("/words".parse()?, WebSocket::new(Words));
    Ok(builder.route(HttpRoute::new("GET", "/".parse()?, page)).start().await?)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let janus = start(SocketAddr::from(([127, 0, 0, 1], 7002))).await?;
    println!("ws://{}/words", janus.local_addrs()[0]);
    janus.wait().await;
    Ok(())
}
