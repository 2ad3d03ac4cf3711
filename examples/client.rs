//! A client of a server elsewhere: subscribes to a topic, publishes a line of the input for each line, and prints what comes.
//!
//! `janus-server` in one terminal, and in two others `cargo run -p janus-core --features client --example client`. The
//! arguments are a URL and a topic: `ws://localhost:8080` and `news` if left out.

use janus_core::Since;
use janus_core::client::{Client, Item, State};
use tokio::io::{AsyncBufReadExt as _, BufReader, stdin};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or_else(|| "ws://localhost:8080".to_owned());
    let topic = arguments.next().unwrap_or_else(|| "news".to_owned());

    let client = Client::builder(url).connect().await?;
    let mut messages = client.subscribe(&topic).since(Since::Last).await?;
    let mut state = client.state();
    let mut lines = BufReader::new(stdin()).lines();
    loop {
        tokio::select! {
            item = messages.next() => match item.transpose()? {
                Some(Item::Message(message)) => println!("{:>4}  {}", message.seq(), message.data()),
                Some(Item::Gap(gap)) => println!("messages are missing: {gap:?}"),
                Some(_) => {}
                None => break,
            },
            line = lines.next_line() => match line? {
                Some(line) => match client.publish(&topic, &line).await {
                    Ok(receipt) => println!("published number {} to {} subscribers", receipt.seq(), receipt.subscribers),
                    Err(error) => println!("not published: {error}"),
                },
                None => break,
            },
            Ok(()) = state.changed() => if let State::Waiting { error, retry_in } = &*state.borrow_and_update() {
                println!("{error}; next attempt in {retry_in:.1?}");
            },
        }
    }
    client.close().await;
    Ok(())
}
